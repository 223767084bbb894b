//! Chapter 3.2: CONNACK.

use crate::script::{V5, V311, bare, broker, connect, field, fresh, join, join_as, packet, publish, refused_for};
use support::mqtt::{AckKind, Client, Connect, Lost, Packet, Prop, Publish, Version};

fn connack_comes_first(version: Version) {
    // A message waits for the session, and the client asks for more before it was let in.
    let id = fresh();
    let connect = Connect::new(version, &id).durable();
    join_as(&connect).subscribe(&id, 1);
    publish(&id, "waits");
    let head: &[u8] = match version {
        V5 => b"\0\x04MQTT\x05\0\0\x3C\x05\x11\0\0\x0E\x10",
        V311 => b"\0\x04MQTT\x04\0\0\x3C",
    };
    let mut client = bare(version);
    client.send(&[packet(0x10, &[head, &field(&id)]), b"\xC0\0".to_vec()].concat());
    let Packet::ConnAck(connack) = client.recv() else { panic!("CONNACK comes first") };
    assert!(connack.session_present && connack.code == 0, "{connack:?}");
    assert_eq!(client.take().text(), "waits");
}

#[test]
fn mqtt5_3_2_0_1() {
    connack_comes_first(V5);
}

#[test]
fn mqtt311_3_2_0_1() {
    connack_comes_first(V311);
}

#[test]
fn mqtt5_3_2_0_2() {
    let mut client = join(V5);
    // Neither for what it does nor for a second CONNECT.
    client.ping();
    client.send(&connect(V5, 0x02, &[]));
    assert_eq!(client.expect_closed(), Some(0x82));
}

#[test]
fn mqtt5_3_2_2_1() {
    let id = fresh();
    for (flags, acknowledge_flags) in [(0x02, 0), (0, 1)] {
        let head = [b"\0\x04MQTT\x05", &[flags, 0, 60][..], b"\x05\x11\0\0\0\x3C"].concat();
        let mut client = bare(V5);
        client.send(&packet(0x10, &[&head, &field(&id)]));
        assert_eq!(client.recv_bytes()[2], acknowledge_flags);
    }
}

fn clean_start_has_no_session(version: Version) {
    let connect = Connect::new(version, &fresh()).durable();
    join_as(&connect).disconnect();
    let clean = join_as(&connect.clean(true));
    assert!(!clean.connack.session_present);
    assert_eq!(clean.connack.code, 0);
}

#[test]
fn mqtt5_3_2_2_2() {
    clean_start_has_no_session(V5);
}

#[test]
fn mqtt311_3_2_2_1() {
    clean_start_has_no_session(V311);
}

#[test]
fn mqtt5_3_2_2_3() {
    let connect = Connect::v5(&fresh()).durable();
    for session_present in [false, true, true] {
        let client = join_as(&connect);
        assert_eq!((client.connack.session_present, client.connack.code), (session_present, 0));
    }
    // The session ended with its connection: there is none.
    let fleeting = Connect::v5(&fresh()).clean(false);
    for _ in 0..2 {
        let client = join_as(&fleeting);
        assert_eq!((client.connack.session_present, client.connack.code), (false, 0));
        client.disconnect();
    }
}

#[test]
fn mqtt311_3_2_2_2() {
    let connect = Connect::v311(&fresh()).durable();
    join_as(&connect).disconnect();
    let client = join_as(&connect);
    assert_eq!((client.connack.session_present, client.connack.code), (true, 0));
}

#[test]
fn mqtt311_3_2_2_3() {
    let id = fresh();
    join_as(&Connect::v311(&id)).disconnect();
    let client = join_as(&Connect::v311(&id).durable());
    assert_eq!((client.connack.session_present, client.connack.code), (false, 0), "a clean session leaves nothing");
}

/// A session is there, but a client that is refused is not told so.
fn a_refusal_has_no_session(version: Version) {
    let id = fresh();
    join_as(&Connect::new(version, &id).durable()).disconnect();
    let refused = match version {
        V5 => packet(0x10, &[b"\0\x04MQTT\x05\0\0\x3C", b"\x04\x15\0\x01m", &field(&id)]),
        V311 => packet(0x10, &[b"\0\x04MQTT\x09\0\0\x3C", &field(&id)]),
    };
    let mut client = bare(version);
    client.send(&refused);
    let connack = client.recv_bytes();
    assert!(connack[2] == 0 && connack[3] != 0, "{connack:?}");
    assert_eq!(client.expect_closed(), None);
}

#[test]
fn mqtt5_3_2_2_6() {
    a_refusal_has_no_session(V5);
}

#[test]
fn mqtt311_3_2_2_4() {
    a_refusal_has_no_session(V311);
}

#[test]
fn mqtt5_3_2_2_7() {
    // Each waits for the end behind the CONNACK.
    assert_eq!(refused_for(V5, &connect(V5, 0x01, &[])), Some(0x81));
    let with_method = Connect::v5(&fresh()).with(Prop::AuthMethod("m".into()));
    let mut client = Client::connect(broker().mqtt(), &with_method);
    assert_eq!((client.connack.code, client.expect_closed()), (0x8C, None));
}

#[test]
fn mqtt311_3_2_2_5() {
    for refused in [&b"\x10\x0D\0\x04MQTT\x02\x02\0\x3C\0\x01a"[..], b"\x10\x0C\0\x04MQTT\x04\0\0\x3C\0\0"] {
        assert!(matches!(refused_for(V311, refused), Some(1 | 2)));
    }
}

#[test]
fn mqtt311_3_2_2_6() {
    // A will that is not allowed, a flag that is not: there is no code for either, or for what is malformed.
    let connect = Connect::v311(&fresh()).will(Publish::new(&"/".repeat(300), "x"));
    assert!(matches!(Client::try_connect(broker().mqtt(), &connect), Err(Lost::Closed)));
    assert_eq!(refused_for(V311, &crate::script::connect(V311, 0x03, &[])), None);
}

/// Table 3-1.
const CODES: [u8; 22] = [
    0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97, 0x99, 0x9A, 0x9B,
    0x9C, 0x9D, 0x9F,
];

#[test]
fn mqtt5_3_2_2_8() {
    let head = b"\0\x04MQTT\x05\x02\0\x3C";
    let cases = [
        packet(0x10, &[b"\0\x04MQTT\x09\x02\0\x3C\0", b"\0\x01a"]),
        connect(V5, 0x03, &[]),
        connect(V5, 0x06, &[b"\0", &field("w/#"), b"\0\0"]),
        connect(V5, 0x06, &[b"\0", &field("/".repeat(300)), b"\0\0"]),
        connect(V5, 0x06, &[b"\0", &field("$SYS/x"), b"\0\0"]),
        connect(V5, 0x06, &[b"\0", b"\0\0", b"\0\0"]),
        packet(0x10, &[head, b"\x04\x15\0\x01m", b"\0\x01a"]),
        packet(0x10, &[head, b"\x03\x21\0\0", b"\0\x01a"]),
        packet(0x10, &[head, b"\0", b"\0\x01\xFF"]),
    ];
    for bytes in cases {
        let mut client = bare(V5);
        client.send(&bytes);
        let code = client.recv_bytes()[3];
        assert!(CODES.contains(&code) && code != 0, "{code:#04x} for {bytes:?}");
    }
}

#[test]
fn mqtt5_3_2_2_9() {
    let mut client = join(V5);
    // It says none, so it has to take all.
    assert!(!client.connack.props.iter().any(|prop| matches!(prop, Prop::MaximumQos(_))));
    let topic = fresh();
    client.send_publish(&Publish::new(&topic, "x").qos(1).id(1));
    assert!(client.expect_ack(AckKind::PubAck, 1) < 0x80);
    client.send_publish(&Publish::new(&topic, "x").qos(2).id(2));
    assert!(client.expect_ack(AckKind::PubRec, 2) < 0x80);
}

#[test]
fn mqtt5_3_2_2_10() {
    let mut client = join(V5);
    let codes = client.subscribe_with(&[(&fresh(), 0), (&fresh(), 1), (&fresh(), 2)], &[]);
    assert!(codes.iter().all(|code| *code <= 2), "{codes:?}");
}

fn assigned(client: &Client) -> Option<&str> {
    client.connack.props.iter().find_map(|prop| match prop {
        Prop::AssignedClientId(id) => Some(id.as_str()),
        _ => None,
    })
}

#[test]
fn mqtt5_3_2_2_16() {
    let clients: Vec<Client> = (0..8).map(|_| join_as(&Connect::v5(""))).collect();
    let mut ids: Vec<&str> = clients.iter().map(|client| assigned(client).expect("an assigned one")).collect();
    ids.sort_unstable();
    ids.dedup();
    assert!(ids.len() == 8 && !ids.contains(&""), "{ids:?}");
    assert_eq!(assigned(&join(V5)), None, "it brought its own");
}

/// The least that a CONNACK can be has 5 bytes.
#[test]
fn mqtt5_3_2_2_19() {
    for bytes in [5_u32, 6, 20, 30] {
        let mut client = bare(V5);
        let size = bytes.to_be_bytes();
        client.send(&packet(0x10, &[b"\0\x04MQTT\x05\x02\0\x3C\x09\x27", &size, b"\x15\0\x01m", b"\0\x01a"]));
        let refusal = client.recv_bytes();
        assert!(refusal.len() <= bytes as usize && refusal[3] == 0x8C, "{refusal:?}");
    }
}

#[test]
fn mqtt5_3_2_2_20() {
    for bytes in 5..40_u32 {
        let mut client = bare(V5);
        let id = field(fresh());
        client.send(&packet(0x10, &[b"\0\x04MQTT\x05\x02\0\x3C\x05\x27", &bytes.to_be_bytes(), &id]));
        let connack = client.recv_bytes();
        assert!(connack.len() <= bytes as usize, "{} bytes, {bytes} are taken: {connack:02x?}", connack.len());
        assert!(connack[3] == 0 || connack[3] == 0x95, "let in, or told that the packet would be too large");
    }
}
