//! Chapters 3.15 and 4.12: enhanced authentication, of which no method is offered.

use crate::script::{V5, bare, broker, closed_for, field, fresh, join, packet};
use support::mqtt::{Client, Connect, Lost, Prop};

/// AUTH with this first byte, reason and method.
fn auth(first_byte: u8, reason: u8, method: &str) -> Vec<u8> {
    let property = [b"\x15", &field(method)[..]].concat();
    packet(first_byte, &[&[reason, property.len() as u8], &property])
}

#[test]
fn mqtt5_3_15_1_1() {
    for flags in 1..16 {
        assert_eq!(closed_for(V5, &auth(0xF0 | flags, 0x19, "m")), Some(0x81), "{flags:#06b}");
    }
}

#[test]
fn mqtt5_4_12_0_1() {
    for method in ["SCRAM-SHA-1", "PLAIN", ""] {
        let connect = Connect::v5(&fresh()).with(Prop::AuthMethod(method.into()));
        let connect = connect.with(Prop::AuthData(b"n,,n=user,r=nonce".to_vec()));
        let mut client = Client::connect(broker().mqtt(), &connect);
        assert!(matches!(client.connack.code, 0x8C | 0x87), "{:?}", client.connack);
        assert_eq!(client.expect_closed(), None);
    }
}

#[test]
fn mqtt5_4_12_0_4() {
    let mut client = bare(V5);
    let connect = packet(0x10, &[b"\0\x04MQTT\x05\x02\0\x3C", b"\x04\x15\0\x01m", &field(fresh())]);
    // Whatever it goes on to say.
    client.send(&[connect, auth(0xF0, 0x18, "m")].concat());
    client.expect_bytes(b"\x20\x03\0\x8C\0");
    assert_eq!(client.try_recv(support::PATIENCE), Err(Lost::Closed));
}

#[test]
fn mqtt5_4_12_0_6() {
    let client = join(V5);
    let has_method = client.connack.props.iter().any(|prop| matches!(prop, Prop::AuthMethod(_) | Prop::AuthData(_)));
    assert!(!has_method, "{:?}", client.connack);
    // With a user name and password, too, the first packet is CONNACK.
    let mut client = bare(V5);
    client.send(&crate::script::connect(V5, 0xC2, &[b"\0\x01u", b"\0\x01p"]));
    assert_eq!(client.recv_bytes()[0], 0x20);
}

#[test]
fn mqtt5_4_12_0_7() {
    // What such a client may not do.
    for reason in [0x18, 0x19] {
        assert_eq!(closed_for(V5, &auth(0xF0, reason, "m")), Some(0x82));
    }
    assert!(closed_for(V5, b"\xF0\0").is_some());
}

#[test]
fn mqtt5_4_12_1_2() {
    let mut client = join(V5);
    client.ping();
    client.send(&auth(0xF0, 0x19, "m"));
    assert!(client.expect_closed().is_some_and(|reason| reason >= 0x80));
}
