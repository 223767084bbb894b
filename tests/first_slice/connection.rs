//! Connecting, being silent, being replaced, and saying what is not allowed.

use std::time::{Duration, Instant};
use support::broker::Broker;
use support::mqtt::{Client, Connect, Lost, Prop, Publish, VERSIONS, Version};

#[test]
fn a_second_client_of_the_same_id_takes_over() {
    for version in VERSIONS {
        let broker = Broker::start();
        let mut first = broker.connect(Connect::new(version, "same"));
        let mut second = broker.connect(Connect::new(version, "same"));
        let reason = match version {
            Version::V311 => None,
            Version::V5 => Some(0x8E),
        };
        assert_eq!(first.expect_closed(), reason);
        second.ping();
    }
}

#[test]
fn takeover_keeps_a_durable_session() {
    for version in VERSIONS {
        let broker = Broker::start();
        let mut first = broker.connect(Connect::new(version, "same").durable());
        assert!(!first.connack.session_present);
        first.subscribe("a", 1);
        let mut second = broker.connect(Connect::new(version, "same").durable());
        assert!(second.connack.session_present);
        first.expect_closed();
        broker.publish(Publish::new("a", "1").qos(1));
        assert_eq!(second.take().text(), "1");
    }
}

#[test]
fn a_silent_client_is_closed_after_one_and_a_half_keep_alives() {
    for version in VERSIONS {
        let broker = Broker::start();
        let connected = Instant::now();
        let mut client = broker.connect(Connect::new(version, "silent").keep_alive_s(1));
        let mut talker = broker.connect(Connect::new(version, "talker").keep_alive_s(1));
        while connected.elapsed() < Duration::from_millis(1400) {
            let left = Duration::from_millis(200);
            assert_eq!(client.try_recv(left), Err(Lost::Silent), "closed too soon");
            talker.ping();
        }
        match client.expect_closed() {
            None | Some(0x8D) => {}
            Some(reason) => panic!("closed with {reason:#04x}"),
        }
        let elapsed = connected.elapsed();
        assert!(elapsed < Duration::from_millis(4000), "after {elapsed:?}");
        talker.ping();
    }
}

#[test]
fn keep_alive_zero_is_no_keep_alive() {
    let broker = Broker::start();
    let mut client = broker.connect(Connect::v311("a").keep_alive_s(0));
    assert_eq!(client.try_recv(Duration::from_millis(2500)), Err(Lost::Silent));
    client.ping();
}

#[test]
fn an_empty_client_id_needs_a_clean_session_in_3_1_1() {
    let broker = Broker::start();
    let first = broker.connect(Connect::v311(""));
    let mut second = broker.connect(Connect::v311(""));
    drop(first);
    second.ping();
    let mut refused = Client::connect(broker.mqtt(), &Connect::v311("").clean(false));
    assert_eq!(refused.connack.code, 2);
    refused.expect_closed();
}

#[test]
fn an_unknown_protocol_level_is_refused_by_its_code() {
    let broker = Broker::start();
    let mut client = Client::bare(broker.mqtt(), Version::V5);
    client.send(b"\x10\x0D\0\x04MQTT\x09\x02\0\x3C\0\x01a");
    // 0x01 is the refusal that every version reads, 0x84 that of 5.0; closing is enough, too.
    if let Ok(answer) = client.try_recv(support::PATIENCE) {
        let support::mqtt::Packet::ConnAck(connack) = answer else {
            panic!("CONNACK was due, came {answer:?}");
        };
        assert!(matches!(connack.code, 0x01 | 0x84), "{connack:?}");
        client.expect_closed();
    }
}

/// Bytes after CONNECT that a server must answer by closing the connection.
const VIOLATIONS: [(&str, &[u8]); 9] = [
    ("a second CONNECT", b"\x10\x0D\0\x04MQTT\x04\x02\0\x3C\0\x01a"),
    ("a reserved packet type", b"\x00\x00"),
    ("a CONNACK from a client", b"\x20\x02\0\0"),
    ("SUBSCRIBE with wrong flags", b"\x80\x06\0\x01\0\x01a\0"),
    ("PUBLISH at QoS 3", b"\x36\x06\0\x01a\0\x01x"),
    ("PUBLISH to a wildcard", b"\x30\x04\0\x01#x"),
    ("PUBREL with wrong flags", b"\x60\x02\0\x01"),
    ("a length of five bytes", b"\x30\xFF\xFF\xFF\xFF\x01"),
    ("an empty SUBSCRIBE", b"\x82\x02\0\x01"),
];

#[test]
fn a_protocol_violation_closes_only_its_connection() {
    let broker = Broker::start();
    let mut bystander = broker.connect(Connect::v311("bystander"));
    for (what, bytes) in VIOLATIONS {
        let mut client = broker.connect(Connect::v311("violator"));
        client.send(bytes);
        let outcome = client.try_recv(support::PATIENCE);
        assert_eq!(outcome, Err(Lost::Closed), "{what}");
        bystander.ping();
    }
}

#[test]
fn a_v5_client_is_told_what_it_did_wrong() {
    let broker = Broker::start();
    let mut client = broker.connect(Connect::v5("a"));
    client.send(b"\x36\x07\0\x01a\0\x01\0x");
    assert_eq!(client.expect_closed(), Some(0x81));
    let mut client = broker.connect(Connect::v5("a"));
    client.send(b"\x10\x0E\0\x04MQTT\x05\x02\0\x3C\0\0\x01a");
    assert_eq!(client.expect_closed(), Some(0x82));
}

#[test]
fn whatever_comes_before_connect_is_refused() {
    let broker = Broker::start();
    for bytes in [&b"\xC0\0"[..], b"\x30\x04\0\x01ax", b"GET / HTTP/1.1\r\n\r\n"] {
        let mut client = Client::bare(broker.mqtt(), Version::V311);
        client.send(bytes);
        assert_eq!(client.expect_closed(), None);
    }
}

#[test]
fn maximum_packet_size_of_the_client_is_kept() {
    let broker = Broker::start();
    let mut small = broker.connect(Connect::v5("small").with(Prop::MaximumPacketBytes(100)));
    small.subscribe("t", 1);
    let mut from = broker.connect(Connect::v5("from"));
    from.publish(Publish::new("t", [b'x'; 200]).qos(1));
    from.publish(Publish::new("t", "end").qos(1));
    assert!(small.take_until("end").is_empty());
}

#[test]
fn one_client_more_than_may_be_is_refused_but_not_who_comes_back() {
    let broker = Broker::with_config("[mqtt]\nmax_connections = 2\n");
    let mut first = broker.connect(Connect::v5("first"));
    let mut second = broker.connect(Connect::v311("second"));
    // The other shard hears of them a turn later.
    support::eventually("both are counted", || {
        let metrics = support::http::get(broker.admin(), "/metrics").expect("metrics").body;
        metrics.contains("\nmillstream_mqtt_connections 2\n").then_some(())
    });
    for (version, code) in [(Version::V5, 0x97), (Version::V311, 3)] {
        assert_eq!(Client::connect(broker.mqtt(), &Connect::new(version, "third")).connack.code, code);
    }
    let mut again = broker.connect(Connect::v5("first"));
    assert_eq!(first.expect_closed(), Some(0x8E));
    second.ping();
    again.ping();
    second.disconnect();
    support::eventually("a place is free", || {
        let third = Client::connect(broker.mqtt(), &Connect::v5("third"));
        (third.connack.code == 0).then_some(())
    });
}

#[test]
fn the_server_may_set_the_keep_alive() {
    let broker = Broker::with_config("[mqtt]\nmax_keepalive_s = 1\n");
    for asked in [0, 60] {
        let connected = Instant::now();
        let mut client = broker.connect(Connect::v5("told").keep_alive_s(asked));
        assert!(client.connack.props.contains(&Prop::ServerKeepAliveS(1)), "{:?}", client.connack);
        assert_eq!(client.expect_closed(), Some(0x8D));
        assert!(connected.elapsed() >= Duration::from_millis(1500));
        let old = Client::connect(broker.mqtt(), &Connect::v311("old").keep_alive_s(asked));
        assert_eq!(old.connack.code, 2);
    }
    for version in VERSIONS {
        let client = broker.connect(Connect::new(version, "modest").keep_alive_s(1));
        assert!(!client.connack.props.iter().any(|prop| matches!(prop, Prop::ServerKeepAliveS(_))));
    }
}
