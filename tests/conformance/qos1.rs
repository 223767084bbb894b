//! Chapters 4.3.1 and 4.3.2: QoS 0 and 1.

use crate::script::{V5, V311, broker, fresh, join, join_as, no_properties, publish, publish_bytes};
use support::mqtt::{AckKind, Connect, Publish, Version};

fn qos_0_goes_out_with_dup_0(version: Version) {
    let (mut client, topic) = (join(version), fresh());
    client.subscribe(&topic, 0);
    broker().publish(Publish::new(&topic, "x").qos(0));
    let due = publish_bytes(version, 0x30, topic.as_bytes(), b"", b"x");
    client.expect_bytes(&due);
    broker().publish(Publish::new(&topic, "x").qos(1));
    client.expect_bytes(&due);
}

#[test]
fn mqtt5_4_3_1_1() {
    qos_0_goes_out_with_dup_0(V5);
}

#[test]
fn mqtt311_4_3_1_1() {
    qos_0_goes_out_with_dup_0(V311);
}

/// Messages at this QoS that are not acknowledged: their identifiers.
pub fn identifiers_in_use(version: Version, qos: u8) -> Vec<u16> {
    let (mut client, topic) = (join_as(&Connect::new(version, &fresh()).durable()), fresh());
    client.subscribe(&topic, qos);
    let mut from = join(version);
    for n in 1..=10 {
        from.send_publish(&Publish::new(&topic, "x").qos(qos).id(n));
    }
    (0..10).map(|_| client.expect_publish().id).collect()
}

fn each_has_an_identifier_of_its_own(version: Version) {
    let mut ids = identifiers_in_use(version, 1);
    ids.sort_unstable();
    ids.dedup();
    assert!(ids.len() == 10 && !ids.contains(&0), "{ids:?}");
}

#[test]
fn mqtt5_4_3_2_1() {
    each_has_an_identifier_of_its_own(V5);
}

fn a_new_publish_is_qos_1_and_not_dup(version: Version) {
    let (mut client, topic) = (join(version), fresh());
    client.subscribe(&topic, 1);
    publish(&topic, "x");
    let bytes = client.recv_bytes();
    assert_eq!(bytes[0], 0x32);
    let id = &bytes[4 + topic.len()..][..2];
    assert_ne!(id, [0, 0]);
    assert_eq!(bytes[6 + topic.len()..], [no_properties(version), b"x"].concat());
}

#[test]
fn mqtt5_4_3_2_2() {
    a_new_publish_is_qos_1_and_not_dup(V5);
}

fn unacknowledged_until_puback(version: Version) {
    let (connect, topic) = (Connect::new(version, &fresh()).durable(), fresh());
    let mut client = join_as(&connect);
    client.subscribe(&topic, 1);
    publish(&topic, "1");
    publish(&topic, "2");
    let first = [client.expect_publish(), client.expect_publish()];
    client.send_ack(AckKind::PubAck, first[0].id);
    client.ping();
    drop(client);
    // The one is done, the other comes again, as it was.
    let mut client = join_as(&connect);
    let again = client.expect_publish();
    assert_eq!(again, Publish { dup: true, ..first[1].clone() });
    client.send_ack(AckKind::PubAck, again.id);
    client.ping();
    drop(client);
    let mut client = join_as(&connect);
    publish(&topic, "end");
    assert!(client.take_until("end").is_empty());
}

#[test]
fn mqtt5_4_3_2_3() {
    unacknowledged_until_puback(V5);
}

#[test]
fn mqtt311_4_3_2_1() {
    each_has_an_identifier_of_its_own(V311);
    a_new_publish_is_qos_1_and_not_dup(V311);
    unacknowledged_until_puback(V311);
}

fn puback_has_the_identifier(version: Version) {
    let (mut to, topic) = (join(version), fresh());
    to.subscribe(&topic, 1);
    let mut from = join(version);
    from.send(&publish_bytes(version, 0x32, topic.as_bytes(), b"\xFF\xFE", b"x"));
    from.expect_bytes(b"\x40\x02\xFF\xFE");
    // It owns the message: it is delivered.
    assert_eq!(to.take().text(), "x");
}

#[test]
fn mqtt5_4_3_2_4() {
    puback_has_the_identifier(V5);
}

fn the_identifier_is_free_after_puback(version: Version) {
    let (mut to, topic) = (join(version), fresh());
    to.subscribe(&topic, 1);
    let mut from = join(version);
    for message in [Publish::new(&topic, "1"), Publish::new(&topic, "2"), Publish::new(&topic, "3").dup()] {
        from.send_publish(&message.qos(1).id(9));
        assert!(from.expect_ack(AckKind::PubAck, 9) < 0x80);
    }
    for due in ["1", "2", "3"] {
        assert_eq!(to.take().text(), due);
    }
}

#[test]
fn mqtt5_4_3_2_5() {
    the_identifier_is_free_after_puback(V5);
}

#[test]
fn mqtt311_4_3_2_2() {
    puback_has_the_identifier(V311);
    the_identifier_is_free_after_puback(V311);
}

// ---- 4.4 ----

/// Unacknowledged PUBLISH and PUBREL, in the order they went, under their identifiers; and once only.
fn what_is_unacknowledged_is_sent_again(version: Version) {
    let (connect, topic) = (Connect::new(version, &fresh()).durable(), fresh());
    let mut client = join_as(&connect);
    client.subscribe(&topic, 2);
    for (payload, qos) in [("1", 2), ("2", 1), ("3", 2), ("4", 1)] {
        broker().publish(Publish::new(&topic, payload).qos(qos));
    }
    let first: Vec<Publish> = (0..4).map(|_| client.expect_publish()).collect();
    client.send_ack(AckKind::PubRec, first[0].id);
    assert_eq!(client.expect_ack(AckKind::PubRel, first[0].id), 0);
    // While the connection is there nothing comes twice, however long it takes.
    assert!(client.sent_so_far().is_empty());
    drop(client);
    let mut client = join_as(&connect);
    assert!(client.connack.session_present);
    let support::mqtt::Packet::Ack(release) = client.recv() else { panic!("PUBREL was due") };
    assert_eq!((release.kind, release.id), (AckKind::PubRel, first[0].id));
    for original in &first[1..] {
        assert_eq!(client.expect_publish(), Publish { dup: true, ..original.clone() });
    }
    assert!(client.sent_so_far().is_empty());
}

#[test]
fn mqtt5_4_4_0_1() {
    what_is_unacknowledged_is_sent_again(V5);
}

#[test]
fn mqtt311_4_4_0_1() {
    what_is_unacknowledged_is_sent_again(V311);
}

#[test]
fn mqtt5_4_4_0_2() {
    let (connect, topic) = (Connect::v5(&fresh()).durable(), fresh());
    let mut client = join_as(&connect);
    client.subscribe(&topic, 2);
    for qos in [1, 2] {
        broker().publish(Publish::new(&topic, "refused").qos(qos));
        let id = client.expect_publish().id.to_be_bytes();
        // PUBACK and PUBREC: unspecified error.
        client.send(&[if qos == 1 { 0x40 } else { 0x50 }, 3, id[0], id[1], 0x80]);
    }
    // Neither PUBREL nor PUBLISH: the next packet is the next message, on this connection and on another.
    publish(&topic, "next");
    let next = client.expect_publish();
    assert_eq!(next.text(), "next");
    client.send_ack(AckKind::PubAck, next.id);
    client.ping();
    drop(client);
    let mut client = join_as(&connect);
    publish(&topic, "end");
    assert_eq!(client.expect_publish().text(), "end");
}
