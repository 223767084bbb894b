//! How fast a client may go. It waits, and nothing is lost.

use super::{metric, reached};
use std::time::{Duration, Instant};
use support::broker::Broker;
use support::mqtt::{AckKind, Client, Connect, Publish, VERSIONS, Version};
use support::prometheus::Scrape;

/// Publishes these as fast as they can be written, and takes their acknowledgements.
fn publish_all(client: &mut Client, version: Version, messages: &[Publish]) {
    let bytes: Vec<u8> = messages.iter().flat_map(|message| message.bytes(version)).collect();
    client.send(&bytes);
    for message in messages.iter().filter(|message| message.qos == 1) {
        assert_eq!(client.expect_ack(AckKind::PubAck, message.id), 0);
    }
}

fn numbered(count: u16) -> Vec<Publish> {
    (1..=count)
        .map(|n| Publish::new("t", n.to_string()).qos((n % 2) as u8).id(if n % 2 == 1 { n } else { 0 }))
        .collect()
}

#[test]
fn messages_come_at_the_rate_in_order_and_all_of_them() {
    let broker = Broker::with_config("[mqtt]\nmax_message_rate = 50\n");
    for version in VERSIONS {
        let mut watcher = broker.connect(Connect::new(version, "watcher"));
        watcher.subscribe("t", 1);
        let mut client = broker.connect(Connect::new(version, "fast").keep_alive_s(1));
        let began = Instant::now();
        // A second's worth at once, then two seconds' worth; the last is acknowledged when all were taken.
        publish_all(&mut client, version, &numbered(151));
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(2_000) && took < Duration::from_millis(4_000), "{took:?}");
        for n in 1..=151 {
            assert_eq!(watcher.take().text(), n.to_string());
        }
        client.ping();
    }
    broker.log_line(&["INFO", "client=fast", "limit=max_message_rate"]);
    let paused = Scrape::of(broker.admin()).value("millstream_mqtt_paused_seconds_total", &[]);
    assert!(paused.is_some_and(|seconds| (3.0..8.0).contains(&seconds)), "{paused:?}");
    metric(&broker, "millstream_mqtt_paused_clients", &[], 0.0);
}

#[test]
fn bytes_come_at_the_rate_and_packets_may_be_larger() {
    let broker = Broker::with_config("[mqtt]\nmax_byte_rate = 100000\nmax_packet_size = 150000\n");
    let mut watcher = broker.connect(Connect::v5("watcher"));
    watcher.subscribe("t", 1);
    let mut client = broker.connect(Connect::v5("fast").keep_alive_s(1));
    let began = Instant::now();
    let payload = vec![b'x'; 100_000];
    let messages: Vec<_> = (1..=4).map(|id| Publish::new("t", &payload).qos(1).id(id)).collect();
    publish_all(&mut client, Version::V5, &messages);
    let took = began.elapsed();
    // 150,000 bytes at once, 250,000 at the rate, but for the last read, which may be in advance.
    assert!(took >= Duration::from_millis(1_500) && took < Duration::from_millis(4_000), "{took:?}");
    for _ in 1..=4 {
        assert_eq!(watcher.take().payload, payload);
    }
    reached_at_least(&broker, "max_byte_rate", 1.0);
}

#[track_caller]
fn reached_at_least(broker: &Broker, limit: &str, times: f64) {
    let found = Scrape::of(broker.admin()).value("millstream_mqtt_limits_reached_total", &[("limit", limit)]);
    assert!(found.is_some_and(|found| found >= times), "{limit}: {found:?}");
}

#[test]
fn others_are_as_fast_as_ever_and_what_is_no_message_is_not_held_up() {
    let broker = Broker::with_config("shards = 1\n[mqtt]\nmax_message_rate = 1\n");
    let mut slow = broker.connect(Connect::v5("slow"));
    let began = Instant::now();
    slow.send(&numbered(4).iter().flat_map(|message| message.bytes(Version::V5)).collect::<Vec<_>>());
    // It waits behind its second message; meanwhile a hundred others say what they have.
    for n in 0..100 {
        let mut other = broker.connect(Connect::v5(&format!("other{n}")));
        assert_eq!(other.publish(Publish::new("t", "x").qos(1)), 0);
        for _ in 0..10 {
            other.ping();
        }
        other.disconnect();
    }
    assert!(began.elapsed() < Duration::from_millis(3_000), "{:?}", began.elapsed());
    assert_eq!(slow.expect_ack(AckKind::PubAck, 3), 0);
    assert!(began.elapsed() >= Duration::from_millis(1_900), "{:?}", began.elapsed());
}

#[test]
fn who_goes_while_it_waits_has_gone_with_all_it_said() {
    let broker = Broker::with_config("[mqtt]\nmax_message_rate = 5\n");
    let mut watcher = broker.connect(Connect::v5("watcher"));
    watcher.subscribe("#", 0);
    let mut client = broker.connect(Connect::v5("leaves").will(Publish::new("will", "lost")));
    let messages: Vec<u8> = (1..=10).flat_map(|n| Publish::new("t", n.to_string()).bytes(Version::V5)).collect();
    client.send(&messages);
    drop(client);
    let all: Vec<String> = (0..11).map(|_| watcher.take().text()).collect();
    assert_eq!(all, ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "lost"]);
    // A takeover and a stop do not wait for it.
    let mut client = broker.connect(Connect::v5("stays"));
    client.send(&messages);
    let second = broker.connect(Connect::v5("stays"));
    assert_eq!(client.expect_closed(), Some(0x8E));
    drop(second);
    let mut client = broker.connect(Connect::v5("last"));
    client.send(&messages);
    let mut broker = broker;
    let (status, took) = broker.sigterm_and_wait();
    assert!(status.success() && took < Duration::from_secs(5), "{status} {took:?}");
    assert_eq!(client.expect_closed(), Some(0x8B));
}

#[test]
fn nobody_is_paused_by_default() {
    let broker = Broker::start();
    let mut client = broker.connect(Connect::v5("a"));
    publish_all(&mut client, Version::V5, &numbered(2_001));
    reached(&broker, "max_message_rate", 0);
    reached(&broker, "max_byte_rate", 0);
    metric(&broker, "millstream_mqtt_paused_seconds_total", &[], 0.0);
}
