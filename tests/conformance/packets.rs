//! Chapters 1, 2 and 4.13: strings, integers, flags, packet identifiers, properties, and what becomes of who gets
//! them wrong.

use crate::script::{
    V5, V311, bare, closed_for, connect, field, fresh, header, join, packet, publish, publish_bytes, refusal,
    refused_for, subscribe_bytes, told, unsubscribe_bytes,
};
use support::mqtt::{AckKind, Lost, Prop, Publish, Version};

/// Not UTF-8: a cut sequence, an overlong one, a surrogate, a code point above U+10FFFF, a lone continuation.
const NOT_UTF8: [&[u8]; 5] = [b"a\xC3", b"\xC0\x80", b"\xED\xA0\x80", b"\xF4\x90\x80\x80", b"\x80"];

fn ill_formed_utf8_is_malformed(version: Version) {
    for bytes in NOT_UTF8 {
        let publish = publish_bytes(version, 0x30, bytes, b"", b"");
        assert_eq!(closed_for(version, &publish), told(version, 0x81), "{bytes:?}");
        assert_eq!(closed_for(version, &subscribe_bytes(version, bytes, 0)), told(version, 0x81), "{bytes:?}");
        assert_eq!(closed_for(version, &unsubscribe_bytes(version, bytes)), told(version, 0x81), "{bytes:?}");
    }
}

#[test]
fn mqtt5_1_5_4_1() {
    ill_formed_utf8_is_malformed(V5);
}

#[test]
fn mqtt311_1_5_3_1() {
    ill_formed_utf8_is_malformed(V311);
}

fn null_is_malformed(version: Version) {
    let publish = publish_bytes(version, 0x30, b"a\0b", b"", b"");
    assert_eq!(closed_for(version, &publish), told(version, 0x81));
    assert_eq!(closed_for(version, &subscribe_bytes(version, b"a\0b", 0)), told(version, 0x81));
    assert_eq!(closed_for(version, &unsubscribe_bytes(version, b"a\0b")), told(version, 0x81));
}

#[test]
fn mqtt5_1_5_4_2() {
    null_is_malformed(V5);
}

#[test]
fn mqtt311_1_5_3_2() {
    null_is_malformed(V311);
}

fn a_byte_order_mark_stays(version: Version) {
    let mut client = join(version);
    let plain = fresh();
    let marked = format!("\u{FEFF}{plain}");
    client.subscribe(&marked, 1);
    publish(&plain, "not for this filter");
    publish(&marked, "1");
    let got = client.take();
    assert_eq!((got.topic, got.payload), (marked, b"1".to_vec()));
}

#[test]
fn mqtt5_1_5_4_3() {
    a_byte_order_mark_stays(V5);
}

#[test]
fn mqtt311_1_5_3_3() {
    a_byte_order_mark_stays(V311);
}

#[test]
fn mqtt5_1_5_5_1() {
    // A Property Length of 0 in two bytes, and a Remaining Length of 0 in three.
    assert_eq!(closed_for(V5, b"\x30\x05\0\x01a\x80\0"), Some(0x81));
    assert_eq!(closed_for(V5, b"\xC0\x80\x80\0"), Some(0x81));
    // A subscription identifier of 1 in two.
    assert_eq!(closed_for(V5, b"\x82\x0A\0\x01\x03\x0B\x81\0\0\x01a\0"), Some(0x81));
    // CONNECT, of 14 bytes said in two.
    assert_eq!(refused_for(V5, b"\x10\x8E\0\0\x04MQTT\x05\x02\0\x3C\0\0\x01a"), Some(0x81));
    // And the server's own: 127 and 128 bytes behind the fixed header.
    for (payload, header) in [(120, &b"\x30\x7F"[..]), (121, b"\x30\x80\x01")] {
        let mut client = join(V5);
        let topic = fresh();
        let padded = format!("{topic:_<4}")[..4].to_owned();
        client.subscribe(&padded, 0);
        client.send_publish(&Publish::new(&padded, vec![b'x'; payload]));
        assert!(client.recv_bytes().starts_with(header));
    }
}

#[test]
fn mqtt5_1_5_7_1() {
    for (name, value) in [(&b"\xFF"[..], &b"v"[..]), (b"n", b"\xFF"), (b"n\0", b"v"), (b"n", b"\0")] {
        let pair = [b"\x26", &field(name)[..], &field(value)].concat();
        let bytes = packet(0x30, &[b"\0\x01a", &[pair.len() as u8], &pair]);
        assert_eq!(closed_for(V5, &bytes), Some(0x81));
    }
}

fn reserved_flags_are_malformed(version: Version) {
    // PUBACK, PUBREC, PUBCOMP, PINGREQ, DISCONNECT.
    for bytes in [&b"\x41\x02\0\x01"[..], b"\x58\x02\0\x01", b"\x72\x02\0\x01", b"\xC1\0", b"\xE4\0"] {
        assert_eq!(closed_for(version, bytes), told(version, 0x81), "{bytes:?}");
    }
}

#[test]
fn mqtt5_2_1_3_1() {
    reserved_flags_are_malformed(V5);
}

#[test]
fn mqtt311_2_2_2_1() {
    let mut client = join(V311);
    let topic = fresh();
    // What the server sends has its reserved bits as listed: SUBACK 0000, PUBREL 0010, UNSUBACK 0000, PINGRESP 0000.
    client.send(&subscribe_bytes(V311, &topic, 2));
    client.expect_bytes(b"\x90\x03\0\x01\x02");
    client.send_publish(&Publish::new(&topic, "1").qos(2).id(5));
    let publish = loop {
        let bytes = client.recv_bytes();
        match bytes[0] {
            0x50 => assert_eq!(bytes, b"\x50\x02\0\x05"),
            _ => break bytes,
        }
    };
    assert_eq!(publish[0], 0x34);
    let id = [publish[publish.len() - 3], publish[publish.len() - 2]];
    client.send(&[0x50, 2, id[0], id[1]]);
    let release = client.expect("PUBREL", |packet| match packet {
        support::mqtt::Packet::Ack(ack) if ack.kind == AckKind::PubRel => Some(ack.id),
        _ => None,
    });
    assert_eq!(release, u16::from_be_bytes(id));
}

#[test]
fn mqtt311_2_2_2_2() {
    reserved_flags_are_malformed(V311);
}

#[test]
fn mqtt5_2_2_1_2() {
    let mut client = join(V5);
    client.send(&subscribe_bytes(V5, "q0", 0));
    client.expect_bytes(b"\x90\x04\0\x01\0\0");
    client.send(b"\x30\x06\0\x02q0\0x");
    // Topic, no identifier, no properties, payload.
    client.expect_bytes(b"\x30\x06\0\x02q0\0x");
}

#[test]
fn mqtt311_2_3_1_5() {
    let mut client = join(V311);
    client.send(&subscribe_bytes(V311, "q0/311", 0));
    client.expect_bytes(b"\x90\x03\0\x01\0");
    client.send(b"\x30\x09\0\x06q0/311x");
    client.expect_bytes(b"\x30\x09\0\x06q0/311x");
}

fn identifiers_are_not_zero_and_unused(version: Version) {
    let mut client = join(version);
    let topic = fresh();
    client.subscribe(&topic, 2);
    for n in 0..20 {
        client.send_publish(&Publish::new(&topic, n.to_string()).qos(1 + n as u8 % 2).id(100 + n));
    }
    let next = |client: &mut support::mqtt::Client| {
        client.expect("PUBLISH", |packet| match packet {
            support::mqtt::Packet::Publish(publish) => Some(publish.id),
            _ => None,
        })
    };
    let mut ids: Vec<u16> = (0..20).map(|_| next(&mut client)).collect();
    ids.sort_unstable();
    ids.dedup();
    assert!(ids.len() == 20 && !ids.contains(&0), "{ids:?}");
}

#[test]
fn mqtt5_2_2_1_4() {
    identifiers_are_not_zero_and_unused(V5);
}

#[test]
fn mqtt311_2_3_1_4() {
    identifiers_are_not_zero_and_unused(V311);
}

#[test]
fn mqtt311_2_3_1_1() {
    for bytes in [&b"\x32\x05\0\x01a\0\0"[..], b"\x34\x05\0\x01a\0\0", b"\x82\x06\0\0\0\x01a\0", b"\xA2\x05\0\0\0\x01a"]
    {
        assert_eq!(closed_for(V311, bytes), None, "{bytes:?}");
    }
}

fn acknowledgements_have_the_identifier_of_the_publish(version: Version) {
    let mut client = join(version);
    let topic = fresh();
    client.send(&publish_bytes(version, 0x32, topic.as_bytes(), b"\x12\x34", b"1"));
    assert!(client.expect_ack(AckKind::PubAck, 0x1234) < 0x80);
    client.send(&publish_bytes(version, 0x34, topic.as_bytes(), b"\xAB\xCD", b"2"));
    assert!(client.expect_ack(AckKind::PubRec, 0xABCD) < 0x80);
    client.send_ack(AckKind::PubRel, 0xABCD);
    assert_eq!(client.expect_ack(AckKind::PubComp, 0xABCD), 0);
    // The other way: PUBREL has the identifier of the server's PUBLISH.
    client.subscribe(&topic, 2);
    publish(&topic, "warm");
    client.take();
    client.send(&publish_bytes(version, 0x34, topic.as_bytes(), b"\xFF\xFF", b"3"));
    assert_eq!(client.expect_ack(AckKind::PubRec, 0xFFFF), 0);
    let got = client.expect_publish();
    client.send_ack(AckKind::PubRec, got.id);
    assert_eq!(client.expect_ack(AckKind::PubRel, got.id), 0);
}

#[test]
fn mqtt5_2_2_1_5() {
    acknowledgements_have_the_identifier_of_the_publish(V5);
}

#[test]
fn mqtt311_2_3_1_6() {
    acknowledgements_have_the_identifier_of_the_publish(V311);
}

#[test]
fn mqtt5_2_2_1_6() {
    let mut client = join(V5);
    let filter = field(fresh());
    client.send(&packet(0x82, &[b"\xBE\xEF\0", &filter, b"\x01"]));
    client.expect_bytes(b"\x90\x04\xBE\xEF\0\x01");
    client.send(&packet(0xA2, &[b"\xFA\xCE\0", &filter]));
    client.expect_bytes(b"\xB0\x04\xFA\xCE\0\0");
}

#[test]
fn mqtt311_2_3_1_7() {
    let mut client = join(V311);
    let filter = field(fresh());
    client.send(&packet(0x82, &[b"\xBE\xEF", &filter, b"\x01"]));
    client.expect_bytes(b"\x90\x03\xBE\xEF\x01");
    client.send(&packet(0xA2, &[b"\xFA\xCE", &filter]));
    client.expect_bytes(b"\xB0\x02\xFA\xCE");
}

#[test]
fn mqtt5_2_2_2_1() {
    // A SUBSCRIBE as 3.1.1 would say it: no length of properties.
    assert_eq!(closed_for(V5, b"\x82\x06\0\x01\0\x01a\0"), Some(0x81));
    // Properties longer than the packet.
    assert_eq!(closed_for(V5, b"\x30\x04\0\x01a\x7F"), Some(0x81));
    let mut client = join(V5);
    client.send(b"\x82\x08\0\x01\0\0\x02p0\x01");
    client.expect_bytes(b"\x90\x04\0\x01\0\x01");
    client.send(b"\x30\x06\0\x02p0\0x");
    client.expect_bytes(b"\x30\x06\0\x02p0\0x");
    client.send(b"\xA2\x07\0\x02\0\0\x02p0");
    client.expect_bytes(b"\xB0\x04\0\x02\0\0");
}

// ---- 3.12, 4.2, 4.13 ----

fn pingreq_is_answered(version: Version) {
    let mut client = join(version);
    client.send(b"\xC0\0");
    client.expect_bytes(b"\xD0\0");
    client.send(b"\xC0\0\xC0\0");
    client.expect_bytes(b"\xD0\0");
    client.expect_bytes(b"\xD0\0");
}

#[test]
fn mqtt5_3_12_4_1() {
    pingreq_is_answered(V5);
}

#[test]
fn mqtt311_3_12_4_1() {
    pingreq_is_answered(V311);
}

/// TCP cuts and joins as it likes: one byte at a time, and everything at once.
fn a_stream_of_bytes_is_enough(version: Version) {
    let script = [
        connect(version, 0x02, &[]),
        subscribe_bytes(version, "stream", 0),
        publish_bytes(version, 0x32, b"elsewhere", b"\0\x02", b"x"),
        b"\xC0\0".to_vec(),
    ];
    let script = script.concat();
    for piece in [1, script.len()] {
        let mut client = bare(version);
        script.chunks(piece).for_each(|bytes| client.send(bytes));
        let mut first_bytes: Vec<u8> = (0..4).map(|_| client.recv_bytes()[0]).collect();
        assert_eq!(first_bytes.remove(0), 0x20);
        // SUBACK and PINGRESP need not wait for the commit that PUBACK waits for.
        first_bytes.sort_unstable();
        assert_eq!(first_bytes, [0x40, 0x90, 0xD0]);
    }
}

#[test]
fn mqtt5_4_2_1() {
    a_stream_of_bytes_is_enough(V5);
}

#[test]
fn mqtt311_7_1_1_1() {
    a_stream_of_bytes_is_enough(V311);
}

#[test]
fn mqtt5_4_13_1_1() {
    let cases: [(&str, &[u8], u8); 12] = [
        ("reserved packet type 0", b"\0\0", 0x81),
        ("a packet that ends inside a field", b"\x30\x02\0\x05", 0x81),
        ("a packet that goes on after its last field", b"\xC0\x01x", 0x81),
        ("a length of five bytes", b"\x30\xFF\xFF\xFF\xFF\x01", 0x81),
        ("a property unknown to the standard", b"\x30\x06\0\x01a\x02\x7E\0", 0x81),
        ("a property of another packet", b"\x30\x09\0\x01a\x05\x11\0\0\0\x01", 0x81),
        ("a property twice", b"\x30\x08\0\x01a\x04\x01\0\x01\0", 0x82),
        ("a property with a value it cannot have", b"\x30\x06\0\x01a\x02\x01\x02", 0x82),
        ("packet identifier 0", b"\x32\x06\0\x01a\0\0\0", 0x82),
        ("a packet that servers send", b"\x90\x04\0\x01\0\0", 0x82),
        ("neither topic name nor alias", b"\x30\x03\0\0\0", 0x82),
        ("a packet above what the server takes", b"\x30\xFF\xFF\xFF\x7F", 0x95),
    ];
    for (what, bytes, reason) in cases {
        assert_eq!(closed_for(V5, bytes), Some(reason), "{what}");
    }
}

#[test]
fn mqtt5_4_13_2_1() {
    // CONNACK of 0x80 or more, and DISCONNECT of 0x80 or more: then the end, which both helpers wait for.
    assert!(refused_for(V5, &connect(V5, 0x03, &[])).is_some_and(|code| code >= 0x80));
    assert!(closed_for(V5, b"\0\0").is_some_and(|reason| reason >= 0x80));
}

#[test]
fn mqtt311_4_8_0_1() {
    let cases: [(&str, &[u8]); 8] = [
        ("reserved packet type 0", b"\0\0"),
        ("reserved packet type 15", b"\xF0\0"),
        ("a packet that ends inside a field", b"\x30\x02\0\x05"),
        ("a packet that goes on after its last field", b"\xC0\x01x"),
        ("a length of five bytes", b"\x30\xFF\xFF\xFF\xFF\x01"),
        ("a packet that servers send", b"\x20\x02\0\0"),
        ("an empty topic name", b"\x30\x02\0\0"),
        ("a packet above what the server takes", b"\x30\xFF\xFF\xFF\x7F"),
    ];
    let mut bystander = join(V311);
    for (what, bytes) in cases {
        assert_eq!(closed_for(V311, bytes), None, "{what}");
    }
    bystander.ping();
}

// ---- 3.1.0 ----

fn what_comes_before_connect_is_refused(version: Version) {
    for bytes in [&b"\xC0\0"[..], b"\x30\x04\0\x01ax", b"\x82\x06\0\x01\0\x01a\0", b"\xE0\0"] {
        let mut client = bare(version);
        client.send(bytes);
        assert_eq!(client.try_recv(support::PATIENCE), Err(Lost::Closed), "{bytes:?}");
    }
}

#[test]
fn mqtt5_3_1_0_1() {
    what_comes_before_connect_is_refused(V5);
}

#[test]
fn mqtt311_3_1_0_1() {
    what_comes_before_connect_is_refused(V311);
}

fn a_second_connect_ends_it(version: Version) {
    assert_eq!(closed_for(version, &connect(version, 0x02, &[])), told(version, 0x82));
    // In the same breath as the first, too.
    let mut client = bare(version);
    client.send(&[connect(version, 0x02, &[]), connect(version, 0x02, &[])].concat());
    assert_eq!(client.recv_bytes()[..1], [0x20]);
    assert_eq!(client.expect_closed(), told(version, 0x82));
}

#[test]
fn mqtt5_3_1_0_2() {
    a_second_connect_ends_it(V5);
}

#[test]
fn mqtt311_3_1_0_2() {
    a_second_connect_ends_it(V311);
}

#[test]
fn mqtt5_3_2_2_15() {
    // What a client may not send: the server told its maximum, and holds to it before the packet is all there.
    let client = join(V5);
    let maximum = client.connack.props.iter().find_map(|prop| match prop {
        Prop::MaximumPacketBytes(bytes) => Some(*bytes),
        _ => None,
    });
    let Some(maximum) = maximum else { return };
    let mut client = client;
    client.send(&header(0x30, maximum as usize));
    assert_eq!(client.expect_closed(), Some(0x95));
    // A CONNECT above it is refused.
    let mut client = bare(V5);
    client.send(b"\x10\xFF\xFF\xFF\x7F");
    refusal(&mut client);
}
