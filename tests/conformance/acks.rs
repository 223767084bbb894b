//! Chapters 3.4 to 3.7: PUBACK, PUBREC, PUBREL and PUBCOMP.

use crate::script::{V5, V311, broker, closed_for, field, fresh, join, join_as, packet, told};
use support::mqtt::{AckKind, Client, Connect, Prop, Publish};

/// A PUBLISH that is refused, for it is to the server's own topics.
fn refused_publish(first_byte: u8) -> Vec<u8> {
    packet(first_byte, &[&field("$SYS/x"), b"\0\x07\0", b"x"])
}

/// Table 3-4 and 3-5: what a PUBACK or PUBREC may say.
const PUBACK_CODES: [u8; 9] = [0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];

/// The reason codes of the answers to a message: taken, with and without subscribers, and refused in two ways.
fn answers(first_byte: u8) -> Vec<u8> {
    let topic = fresh();
    let mut watcher = join(V5);
    watcher.subscribe(&topic, 0);
    let topics = [topic, fresh(), "$SYS/x".to_owned(), "/".repeat(300)];
    let mut client = join(V5);
    let answer = |topic: &String| {
        client.send(&packet(first_byte, &[&field(topic), b"\0\x07\0", b"x"]));
        let bytes = client.recv_bytes();
        let code = bytes.get(4).copied().unwrap_or(0);
        if bytes[0] == 0x50 && code < 0x80 {
            client.send(b"\x62\x02\0\x07");
            client.recv_bytes();
        }
        code
    };
    topics.iter().map(answer).collect()
}

#[test]
fn mqtt5_3_4_2_1() {
    let codes = answers(0x32);
    assert!(codes.iter().all(|code| PUBACK_CODES.contains(code)), "{codes:02x?}");
    assert!(codes[0] < 0x80 && codes[1] < 0x80 && codes[2..] == [0x87, 0x90], "{codes:02x?}");
}

#[test]
fn mqtt5_3_5_2_1() {
    let codes = answers(0x34);
    assert!(codes.iter().all(|code| PUBACK_CODES.contains(code)), "{codes:02x?}");
    assert!(codes[0] < 0x80 && codes[1] < 0x80 && codes[2..] == [0x87, 0x90], "{codes:02x?}");
}

#[test]
fn mqtt5_3_6_2_1() {
    let (mut client, topic) = (join(V5), fresh());
    client.subscribe(&topic, 2);
    broker().publish(Publish::new(&topic, "x").qos(2));
    let id = client.expect_publish().id;
    client.send_ack(AckKind::PubRec, id);
    assert_eq!(client.expect_ack(AckKind::PubRel, id), 0x00);
    client.send_ack(AckKind::PubRec, 999);
    assert_eq!(client.expect_ack(AckKind::PubRel, 999), 0x92);
}

#[test]
fn mqtt5_3_7_2_1() {
    let mut client = join(V5);
    client.send_publish(&Publish::new(&fresh(), "x").qos(2).id(1));
    client.expect_ack(AckKind::PubRec, 1);
    client.send_ack(AckKind::PubRel, 1);
    assert_eq!(client.expect_ack(AckKind::PubComp, 1), 0x00);
    client.send_ack(AckKind::PubRel, 1);
    assert_eq!(client.expect_ack(AckKind::PubComp, 1), 0x92);
}

/// A client that takes hardly more than a CONNACK. A reason string or user property has three bytes and five at
/// the least, so what comes without any has none of them.
fn small() -> Client {
    join_as(&Connect::v5(&fresh()).with(Prop::MaximumPacketBytes(24)))
}

#[test]
fn mqtt5_3_4_2_2() {
    let mut client = small();
    client.send(&refused_publish(0x32));
    client.expect_bytes(b"\x40\x03\0\x07\x87");
}

#[test]
fn mqtt5_3_4_2_3() {
    let mut client = small();
    client.send(&packet(0x32, &[&field(fresh()), b"\0\x01\0", b"x"]));
    let bytes = client.recv_bytes();
    assert!(bytes.len() <= 5, "{bytes:02x?}");
}

#[test]
fn mqtt5_3_5_2_2() {
    let mut client = small();
    client.send(&refused_publish(0x34));
    client.expect_bytes(b"\x50\x03\0\x07\x87");
}

#[test]
fn mqtt5_3_5_2_3() {
    let mut client = small();
    client.send(&packet(0x34, &[&field(fresh()), b"\0\x01\0", b"x"]));
    let bytes = client.recv_bytes();
    assert!(bytes.len() <= 5, "{bytes:02x?}");
}

#[test]
fn mqtt5_3_6_2_2() {
    let mut client = small();
    client.send(b"\x50\x02\0\x09");
    client.expect_bytes(b"\x62\x03\0\x09\x92");
}

#[test]
fn mqtt5_3_6_2_3() {
    let (mut client, topic) = (small(), fresh());
    client.subscribe(&topic, 2);
    broker().publish(Publish::new(&topic, "x").qos(2));
    let [high, low] = client.expect_publish().id.to_be_bytes();
    client.send(&[0x50, 2, high, low]);
    client.expect_bytes(&[0x62, 2, high, low]);
}

#[test]
fn mqtt5_3_7_2_2() {
    let mut client = small();
    client.send(b"\x62\x02\0\x09");
    client.expect_bytes(b"\x70\x03\0\x09\x92");
}

#[test]
fn mqtt5_3_7_2_3() {
    let mut client = small();
    client.send(&packet(0x34, &[&field(fresh()), b"\0\x01\0", b"x"]));
    client.recv_bytes();
    client.send(b"\x62\x02\0\x01");
    client.expect_bytes(b"\x70\x02\0\x01");
}

/// Every other value of the four bits than 0010.
fn wrong_flags(packet_type: u8, body: &[u8]) -> Vec<Vec<u8>> {
    (0..16).filter(|flags| *flags != 2).map(|flags| packet(packet_type << 4 | flags, &[body])).collect()
}

#[test]
fn mqtt5_3_6_1_1() {
    for bytes in wrong_flags(6, b"\0\x01") {
        assert_eq!(closed_for(V5, &bytes), told(V5, 0x81), "{bytes:02x?}");
    }
}

#[test]
fn mqtt311_3_6_1_1() {
    for bytes in wrong_flags(6, b"\0\x01") {
        assert_eq!(closed_for(V311, &bytes), None, "{bytes:02x?}");
    }
}

#[test]
fn mqtt5_3_8_1_1() {
    for bytes in wrong_flags(8, b"\0\x01\0\0\x01a\0") {
        assert_eq!(closed_for(V5, &bytes), Some(0x81), "{bytes:02x?}");
    }
}

#[test]
fn mqtt311_3_8_1_1() {
    for bytes in wrong_flags(8, b"\0\x01\0\x01a\0") {
        assert_eq!(closed_for(V311, &bytes), None, "{bytes:02x?}");
    }
}

#[test]
fn mqtt5_3_10_1_1() {
    for bytes in wrong_flags(10, b"\0\x01\0\0\x01a") {
        assert_eq!(closed_for(V5, &bytes), Some(0x81), "{bytes:02x?}");
    }
}

#[test]
fn mqtt311_3_10_1_1() {
    for bytes in wrong_flags(10, b"\0\x01\0\x01a") {
        assert_eq!(closed_for(V311, &bytes), None, "{bytes:02x?}");
    }
}
