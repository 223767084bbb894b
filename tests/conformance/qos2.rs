//! Chapter 4.3.3: QoS 2, both ways.

use crate::qos1::identifiers_in_use;
use crate::script::{V5, V311, broker, field, fresh, join, join_as, no_properties, packet, publish, publish_bytes};
use support::mqtt::{AckKind, Client, Connect, Packet, Publish, Version};

// ---- the server sends ----

fn each_has_an_identifier_of_its_own(version: Version) {
    let mut ids = identifiers_in_use(version, 2);
    ids.sort_unstable();
    ids.dedup();
    assert!(ids.len() == 10 && !ids.contains(&0), "{ids:?}");
}

#[test]
fn mqtt5_4_3_3_1() {
    each_has_an_identifier_of_its_own(V5);
}

/// A durable client, its CONNECT and topic, with one QoS 2 message on its way.
fn one_on_its_way(version: Version) -> (Client, Connect, String, Publish) {
    let (connect, topic) = (Connect::new(version, &fresh()).durable(), fresh());
    let mut client = join_as(&connect);
    client.subscribe(&topic, 2);
    broker().publish(Publish::new(&topic, "once").qos(2));
    let first = client.expect_publish();
    (client, connect, topic, first)
}

fn a_new_publish_is_qos_2_and_not_dup(version: Version) {
    let (mut client, topic) = (join(version), fresh());
    client.subscribe(&topic, 2);
    broker().publish(Publish::new(&topic, "x").qos(2));
    let bytes = client.recv_bytes();
    assert_eq!(bytes[0], 0x34);
    assert_ne!(bytes[4 + topic.len()..][..2], [0, 0]);
    assert_eq!(bytes[6 + topic.len()..], [no_properties(version), b"x"].concat());
}

#[test]
fn mqtt5_4_3_3_2() {
    a_new_publish_is_qos_2_and_not_dup(V5);
}

fn unacknowledged_until_pubrec(version: Version) {
    let (client, connect, _, first) = one_on_its_way(version);
    drop(client);
    let mut client = join_as(&connect);
    assert_eq!(client.expect_publish(), Publish { dup: true, ..first });
}

#[test]
fn mqtt5_4_3_3_3() {
    unacknowledged_until_pubrec(V5);
}

fn pubrec_is_answered_with_pubrel(version: Version) {
    let (mut client, _, _, first) = one_on_its_way(version);
    let [high, low] = first.id.to_be_bytes();
    client.send(&[0x50, 2, high, low]);
    client.expect_bytes(&[0x62, 2, high, low]);
    client.send(&[0x50, 2, high, low]);
    client.expect_bytes(&[0x62, 2, high, low]);
}

#[test]
fn mqtt5_4_3_3_4() {
    pubrec_is_answered_with_pubrel(V5);
    // With a reason code below 0x80; not with one above.
    let (mut client, _, _, first) = one_on_its_way(V5);
    let [high, low] = first.id.to_be_bytes();
    client.send(&[0x50, 3, high, low, 0x10]);
    client.expect_bytes(&[0x62, 2, high, low]);
    let (mut client, _, topic, first) = one_on_its_way(V5);
    let [high, low] = first.id.to_be_bytes();
    client.send(&[0x50, 3, high, low, 0x97]);
    client.ping();
    publish(&topic, "next");
    assert_eq!(client.expect_publish().text(), "next", "no PUBREL before it");
}

fn pubrel_is_unacknowledged_until_pubcomp(version: Version) {
    let (mut client, connect, topic, first) = one_on_its_way(version);
    client.send_ack(AckKind::PubRec, first.id);
    client.expect_ack(AckKind::PubRel, first.id);
    for _ in 0..2 {
        drop(client);
        client = join_as(&connect);
        let Packet::Ack(release) = client.recv() else { panic!("PUBREL was due") };
        assert_eq!((release.kind, release.id), (AckKind::PubRel, first.id));
    }
    client.send_ack(AckKind::PubComp, first.id);
    client.ping();
    drop(client);
    let mut client = join_as(&connect);
    publish(&topic, "end");
    assert!(client.take_until("end").is_empty());
}

#[test]
fn mqtt5_4_3_3_5() {
    pubrel_is_unacknowledged_until_pubcomp(V5);
}

fn no_publish_after_pubrel(version: Version) {
    let (mut client, connect, topic, first) = one_on_its_way(version);
    client.send_ack(AckKind::PubRec, first.id);
    client.expect_ack(AckKind::PubRel, first.id);
    drop(client);
    let mut client = join_as(&connect);
    client.expect_ack(AckKind::PubRel, first.id);
    publish(&topic, "end");
    assert!(client.take_until("end").is_empty(), "only the release");
}

#[test]
fn mqtt5_4_3_3_6() {
    no_publish_after_pubrel(V5);
}

#[test]
fn mqtt311_4_3_3_1() {
    each_has_an_identifier_of_its_own(V311);
    a_new_publish_is_qos_2_and_not_dup(V311);
    unacknowledged_until_pubrec(V311);
    pubrec_is_answered_with_pubrel(V311);
    pubrel_is_unacknowledged_until_pubcomp(V311);
    no_publish_after_pubrel(V311);
}

// ---- the server receives ----

/// A watcher of a topic, and a publisher.
fn pair(version: Version) -> (Client, Client, String) {
    let (mut to, topic) = (join(version), fresh());
    to.subscribe(&topic, 2);
    (to, join(version), topic)
}

fn pubrec_has_the_identifier(version: Version) {
    let (mut to, mut from, topic) = pair(version);
    from.send(&publish_bytes(version, 0x34, topic.as_bytes(), b"\xFF\xFE", b"x"));
    from.expect_bytes(b"\x50\x02\xFF\xFE");
    // It owns the message: it is delivered, at the latest after PUBREL.
    from.send(b"\x62\x02\xFF\xFE");
    from.expect_bytes(b"\x70\x02\xFF\xFE");
    assert_eq!(to.take().text(), "x");
}

#[test]
fn mqtt5_4_3_3_8() {
    pubrec_has_the_identifier(V5);
}

#[test]
fn mqtt5_4_3_3_9() {
    let (mut to, mut from, topic) = pair(V5);
    // Refused: the identifier is free at once.
    from.send(&packet(0x34, &[&field("$SYS/x"), b"\0\x07\0", b"x"]));
    assert_eq!(from.expect_ack(AckKind::PubRec, 7), 0x87);
    from.send(&publish_bytes(V5, 0x34, topic.as_bytes(), b"\0\x07", b"new"));
    from.expect_bytes(b"\x50\x02\0\x07");
    from.send(b"\x62\x02\0\x07");
    from.expect_bytes(b"\x70\x02\0\x07");
    assert_eq!(to.take().text(), "new");
}

fn a_repeat_is_not_delivered(version: Version) {
    let (mut to, mut from, topic) = pair(version);
    let message = Publish::new(&topic, "once").qos(2).id(7);
    from.send_publish(&message);
    assert_eq!(from.expect_ack(AckKind::PubRec, 7), 0);
    for _ in 0..2 {
        from.send_publish(&message.clone().dup());
        from.expect_ack(AckKind::PubRec, 7);
    }
    from.send_ack(AckKind::PubRel, 7);
    from.expect_ack(AckKind::PubComp, 7);
    from.publish(Publish::new(&topic, "end").qos(2).id(8));
    assert_eq!(to.take_until("end"), ["once"]);
}

#[test]
fn mqtt5_4_3_3_10() {
    a_repeat_is_not_delivered(V5);
}

fn pubrel_is_answered_with_pubcomp(version: Version) {
    let (_, mut from, topic) = pair(version);
    from.send_publish(&Publish::new(&topic, "x").qos(2).id(0x1234));
    from.expect_ack(AckKind::PubRec, 0x1234);
    from.send(b"\x62\x02\x12\x34");
    from.expect_bytes(b"\x70\x02\x12\x34");
    // Again, though there is nothing left to release.
    from.send(b"\x62\x02\x12\x34");
    let bytes = from.recv_bytes();
    assert!(bytes[0] == 0x70 && bytes[2..4] == [0x12, 0x34], "{bytes:02x?}");
}

#[test]
fn mqtt5_4_3_3_11() {
    pubrel_is_answered_with_pubcomp(V5);
}

fn the_identifier_is_free_after_pubcomp(version: Version) {
    let (mut to, mut from, topic) = pair(version);
    for message in [Publish::new(&topic, "1"), Publish::new(&topic, "2"), Publish::new(&topic, "3").dup()] {
        from.publish(message.qos(2).id(7));
    }
    for due in ["1", "2", "3"] {
        assert_eq!(to.take().text(), due);
    }
}

#[test]
fn mqtt5_4_3_3_12() {
    the_identifier_is_free_after_pubcomp(V5);
}

#[test]
fn mqtt311_4_3_3_2() {
    pubrec_has_the_identifier(V311);
    a_repeat_is_not_delivered(V311);
    pubrel_is_answered_with_pubcomp(V311);
    the_identifier_is_free_after_pubcomp(V311);
}

// ---- the order that 4.6 asks of clients, and 3.1.1 of servers too ----

/// Acknowledgements come in the order of what they answer.
fn acknowledged_in_order(kind: AckKind, qos: u8) {
    let (mut from, topic) = (join(V311), fresh());
    let ids = [5, 3, 9, 1, 7];
    for id in ids {
        from.send_publish(&Publish::new(&topic, "x").qos(qos).id(id));
    }
    for id in ids {
        let Packet::Ack(ack) = from.recv() else { panic!("{kind:?} was due") };
        assert_eq!((ack.kind, ack.id), (kind, id));
    }
}

#[test]
fn mqtt311_4_6_0_2() {
    acknowledged_in_order(AckKind::PubAck, 1);
}

#[test]
fn mqtt311_4_6_0_3() {
    acknowledged_in_order(AckKind::PubRec, 2);
}

#[test]
fn mqtt311_4_6_0_4() {
    let (mut client, topic) = (join(V311), fresh());
    client.subscribe(&topic, 2);
    for n in 0..3 {
        broker().publish(Publish::new(&topic, n.to_string()).qos(2));
    }
    let ids = [0, 1, 2].map(|_| client.expect_publish().id);
    // PUBREC in another order than the PUBLISHes.
    let order = [ids[2], ids[0], ids[1]];
    order.iter().for_each(|id| client.send_ack(AckKind::PubRec, *id));
    for id in order {
        let Packet::Ack(ack) = client.recv() else { panic!("PUBREL was due") };
        assert_eq!((ack.kind, ack.id), (AckKind::PubRel, id));
    }
}

#[test]
fn mqtt311_4_6_0_1() {
    let (connect, topic) = (Connect::v311(&fresh()).durable(), fresh());
    let mut client = join_as(&connect);
    client.subscribe(&topic, 2);
    for n in 0..10 {
        broker().publish(Publish::new(&topic, n.to_string()).qos(1 + n % 2));
    }
    let first: Vec<String> = (0..10).map(|_| client.expect_publish().text()).collect();
    drop(client);
    let mut client = join_as(&connect);
    let again: Vec<String> = (0..10).map(|_| client.expect_publish().text()).collect();
    assert_eq!(first, again);
}
