//! Chapters 3.10 and 3.11: UNSUBSCRIBE and UNSUBACK.

use crate::script::{
    V5, V311, broker, closed_for, field, fresh, join, join_as, no_properties, packet, publish, told, unsubscribe_bytes,
};
use support::mqtt::{AckKind, Client, Connect, Prop, Publish, Version};

fn filters_are_text(version: Version) {
    for filter in [&b"\xFF"[..], b"a/\xED\xA0\x80", b"a\0"] {
        assert_eq!(closed_for(version, &unsubscribe_bytes(version, filter)), told(version, 0x81), "{filter:?}");
    }
}

#[test]
fn mqtt5_3_10_3_1() {
    filters_are_text(V5);
}

#[test]
fn mqtt311_3_10_3_1() {
    filters_are_text(V311);
}

fn a_filter_at_least(version: Version) {
    let bytes = packet(0xA2, &[b"\0\x01", no_properties(version)]);
    assert_eq!(closed_for(version, &bytes), told(version, 0x82));
}

#[test]
fn mqtt5_3_10_3_2() {
    a_filter_at_least(V5);
}

#[test]
fn mqtt311_3_10_3_2() {
    a_filter_at_least(V311);
}

/// Unsubscribes under identifier 0x0102; the codes of UNSUBACK, of which 3.1.1 has none.
fn unsubscribe(client: &mut Client, version: Version, filters: &[&str]) -> Vec<u8> {
    let body: Vec<u8> = filters.iter().flat_map(field).collect();
    client.send(&packet(0xA2, &[b"\x01\x02", no_properties(version), &body]));
    let unsuback = client.recv_bytes();
    let head = [&[0xB0, unsuback[1], 1, 2][..], no_properties(version)].concat();
    assert!(unsuback.starts_with(&head), "{unsuback:02x?}");
    unsuback[head.len()..].to_vec()
}

fn filters_are_compared_by_character(version: Version) {
    let (mut client, root) = (join(version), fresh());
    let (plus, plain) = (format!("{root}/+"), format!("{root}/x"));
    client.subscribe(&plus, 1);
    // None of these is that filter, whatever it matches.
    let others = [plain.clone(), format!("{root}/#"), format!("{root}/+/"), format!("/{root}/+"), plus.to_uppercase()];
    for other in &others {
        let codes = unsubscribe(&mut client, version, &[other]);
        assert!(version == V311 || codes == [0x11], "{other}: {codes:02x?}");
    }
    publish(&plain, "1");
    assert_eq!(client.take().text(), "1");
    let codes = unsubscribe(&mut client, version, &[&plus]);
    assert!(version == V311 || codes == [0], "{codes:02x?}");
    client.subscribe(&format!("{root}/y/end"), 1);
    publish(&plain, "2");
    publish(&format!("{root}/y/end"), "end");
    assert!(client.take_until("end").is_empty());
}

#[test]
fn mqtt5_3_10_4_1() {
    filters_are_compared_by_character(V5);
}

/// A shared subscription's filter is all of it, `$share/` and name included.
#[test]
fn mqtt5_3_10_4_1_shared() {
    let (mut client, topic, end) = (join(V5), fresh(), fresh());
    let shared = format!("$share/g/{topic}");
    client.subscribe_with(&[(&shared, 1), (&topic, 1), (&end, 1)], &[]);
    assert_eq!(unsubscribe(&mut client, V5, &[&format!("$share/h/{topic}")]), [0x11]);
    publish(&topic, "two copies");
    assert_eq!((client.take().text(), client.take().text()), ("two copies".into(), "two copies".into()));
    assert_eq!(unsubscribe(&mut client, V5, &[&topic]), [0]);
    publish(&topic, "one");
    publish(&end, "end");
    assert_eq!(client.take_until("end"), ["one"]);
    assert_eq!(unsubscribe(&mut client, V5, &[&shared]), [0]);
    publish(&topic, "none");
    publish(&end, "end");
    assert!(client.take_until("end").is_empty());
}

#[test]
fn mqtt311_3_10_4_1() {
    filters_are_compared_by_character(V311);
}

fn no_new_messages(version: Version) {
    for durable in [false, true] {
        let connect = Connect::new(version, &fresh());
        let (mut client, topic) = (join_as(&if durable { connect.durable() } else { connect }), fresh());
        let end = fresh();
        client.subscribe(&topic, 1);
        client.subscribe(&end, 1);
        unsubscribe(&mut client, version, &[&topic]);
        publish(&topic, "1");
        publish(&end, "end");
        assert!(client.take_until("end").is_empty());
    }
}

#[test]
fn mqtt5_3_10_4_2() {
    no_new_messages(V5);
}

#[test]
fn mqtt311_3_10_4_2() {
    no_new_messages(V311);
}

fn what_was_begun_is_completed(version: Version) {
    for durable in [false, true] {
        let connect = Connect::new(version, &fresh());
        let (mut client, topic) =
            (join_as(&if durable { connect.clone().durable() } else { connect.clone() }), fresh());
        client.subscribe(&topic, 2);
        for qos in [1, 2] {
            broker().publish(Publish::new(&topic, "begun").qos(qos));
        }
        let begun = [client.expect_publish(), client.expect_publish()];
        unsubscribe(&mut client, version, &[&topic]);
        if durable {
            drop(client);
            client = join_as(&connect.durable());
            for begun in &begun {
                assert_eq!(client.expect_publish().id, begun.id);
            }
        }
        client.send_ack(AckKind::PubAck, begun[0].id);
        client.send_ack(AckKind::PubRec, begun[1].id);
        assert_eq!(client.expect_ack(AckKind::PubRel, begun[1].id), 0);
        client.send_ack(AckKind::PubComp, begun[1].id);
        client.ping();
    }
}

#[test]
fn mqtt5_3_10_4_3() {
    what_was_begun_is_completed(V5);
}

#[test]
fn mqtt311_3_10_4_3() {
    what_was_begun_is_completed(V311);
}

#[test]
fn mqtt5_3_10_4_4() {
    let (mut client, topic) = (join(V5), fresh());
    client.subscribe(&topic, 0);
    client.send(&unsubscribe_bytes(V5, &topic));
    client.expect_bytes(b"\xB0\x04\0\x01\0\0");
}

#[test]
fn mqtt311_3_10_4_4() {
    let (mut client, topic) = (join(V311), fresh());
    client.subscribe(&topic, 0);
    client.send(&packet(0xA2, &[b"\x12\x34", &field(&topic)]));
    client.expect_bytes(b"\xB0\x02\x12\x34");
}

#[test]
fn mqtt5_3_10_4_5() {
    let mut client = join(V5);
    client.send(&packet(0xA2, &[b"\x12\x34\0", &field(fresh())]));
    client.expect_bytes(b"\xB0\x04\x12\x34\0\x11");
}

#[test]
fn mqtt311_3_10_4_5() {
    let mut client = join(V311);
    client.send(&packet(0xA2, &[b"\x12\x34", &field(fresh())]));
    client.expect_bytes(b"\xB0\x02\x12\x34");
}

fn several_filters_are_several_unsubscribes(version: Version) -> Vec<u8> {
    let (mut client, root) = (join(version), fresh());
    let name = |n: u8| format!("{root}/{n}");
    for n in 1..=3 {
        client.subscribe(&name(n), 1);
    }
    // The same twice: the second finds nothing.
    let codes = unsubscribe(&mut client, version, &[&name(1), &name(9), &name(2), &name(1)]);
    for n in 1..=3 {
        publish(&name(n), &n.to_string());
    }
    assert!(client.take_until("3").is_empty());
    codes
}

#[test]
fn mqtt5_3_10_4_6() {
    assert_eq!(several_filters_are_several_unsubscribes(V5).len(), 4);
}

#[test]
fn mqtt311_3_10_4_6() {
    assert_eq!(several_filters_are_several_unsubscribes(V311), b"");
}

#[test]
fn mqtt5_3_11_3_1() {
    assert_eq!(several_filters_are_several_unsubscribes(V5), [0, 0x11, 0, 0x11]);
}

#[test]
fn mqtt5_3_11_3_2() {
    const CODES: [u8; 7] = [0, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91];
    let codes = several_filters_are_several_unsubscribes(V5);
    assert!(codes.iter().all(|code| CODES.contains(code)), "{codes:02x?}");
}

fn small() -> Client {
    join_as(&Connect::v5(&fresh()).with(Prop::MaximumPacketBytes(24)))
}

#[test]
fn mqtt5_3_11_2_1() {
    let mut client = small();
    client.send(&unsubscribe_bytes(V5, fresh()));
    client.expect_bytes(b"\xB0\x04\0\x01\0\x11");
}

#[test]
fn mqtt5_3_11_2_2() {
    let mut client = small();
    let filters: Vec<u8> = (0..19).flat_map(|_| field(fresh())).collect();
    client.send(&packet(0xA2, &[b"\0\x01\0", &filters]));
    client.expect_bytes(&[&b"\xB0\x16\0\x01\0"[..], &[0x11; 19]].concat());
}
