//! Chapters 3.1.2.4, 3.1.2.11.2, 4.1 and 4.5: sessions. What takes time is in [`crate::time`].

use crate::script::{V5, V311, broker, fresh, join_as, publish};
use support::mqtt::{AckKind, Connect, Prop, Publish, Version};

fn the_old_session_is_discarded(version: Version) {
    let (connect, topic) = (Connect::new(version, &fresh()).durable(), fresh());
    let mut client = join_as(&connect);
    client.subscribe(&topic, 2);
    publish(&topic, "unacknowledged");
    client.expect_publish();
    client.send_publish(&Publish::new(&topic, "x").qos(2).id(5));
    client.expect_ack(AckKind::PubRec, 5);
    drop(client);
    publish(&topic, "queued");
    // Nothing of it is left: not its subscriptions, not its messages, not its packet identifiers.
    let mut client = join_as(&connect.clone().clean(true));
    assert!(!client.connack.session_present);
    publish(&topic, "for nobody");
    assert!(client.sent_so_far().is_empty());
    let end = fresh();
    client.subscribe(&end, 1);
    client.send_publish(&Publish::new(&end, "end").qos(2).id(5));
    client.expect_ack(AckKind::PubRec, 5);
    assert!(client.take_until("end").is_empty());
    client.disconnect();
    if version == V311 {
        // Nor is the clean session used again.
        assert!(!join_as(&connect).connack.session_present);
    }
}

#[test]
fn mqtt5_3_1_2_4() {
    the_old_session_is_discarded(V5);
}

#[test]
fn mqtt311_3_1_2_6() {
    the_old_session_is_discarded(V311);
}

fn a_session_is_resumed(version: Version) {
    let (connect, topic) = (Connect::new(version, &fresh()).durable(), fresh());
    let mut client = join_as(&connect);
    client.subscribe(&topic, 2);
    publish(&topic, "1");
    let first = client.expect_publish();
    client.send_publish(&Publish::new(&topic, "2").qos(2).id(5));
    client.expect_ack(AckKind::PubRec, 5);
    drop(client);
    publish(&topic, "3");
    let mut client = join_as(&connect);
    assert!(client.connack.session_present);
    // What was sent, what came meanwhile, and where the QoS 2 message stands.
    assert_eq!(client.expect_publish(), Publish { dup: true, ..first.clone() });
    client.send_ack(AckKind::PubAck, first.id);
    client.send_ack(AckKind::PubRel, 5);
    assert_eq!(client.expect_ack(AckKind::PubComp, 5), 0);
    assert_eq!(client.take_until("3"), ["2"]);
}

#[test]
fn mqtt5_3_1_2_5() {
    a_session_is_resumed(V5);
}

#[test]
fn mqtt311_3_1_2_4() {
    let connect = Connect::v311(&fresh()).durable();
    assert!(!join_as(&connect).connack.session_present, "begun");
    a_session_is_resumed(V311);
}

#[test]
fn mqtt5_3_1_2_6() {
    let (connect, topic) = (Connect::v5(&fresh()).durable(), fresh());
    let mut client = join_as(&connect);
    assert!(!client.connack.session_present);
    client.subscribe(&topic, 1);
    client.disconnect();
    assert!(join_as(&connect).connack.session_present, "it was begun");
}

fn a_session_outlives_its_connection(version: Version, connect: &Connect) {
    let topic = fresh();
    let mut client = join_as(connect);
    client.subscribe(&topic, 1);
    if version == V5 {
        drop(client)
    } else {
        client.disconnect()
    }
    for payload in ["1", "2"] {
        publish(&topic, payload);
    }
    let mut client = join_as(connect);
    assert!(client.connack.session_present);
    assert_eq!(client.take_until("2"), ["1"]);
}

#[test]
fn mqtt5_3_1_2_23() {
    let finite = Connect::v5(&fresh()).clean(false).with(Prop::SessionExpiryS(30));
    let never = Connect::v5(&fresh()).clean(false).with(Prop::SessionExpiryS(u32::MAX));
    a_session_outlives_its_connection(V5, &finite);
    a_session_outlives_its_connection(V5, &never);
    // Said with DISCONNECT, it counts from there.
    let connect = Connect::v5(&fresh()).clean(false).with(Prop::SessionExpiryS(1));
    join_as(&connect).disconnect_with(0, &[Prop::SessionExpiryS(30)]);
    assert!(join_as(&connect).connack.session_present);
    join_as(&connect).disconnect_with(0, &[Prop::SessionExpiryS(0)]);
    assert!(!join_as(&connect).connack.session_present);
}

#[test]
fn mqtt311_3_1_2_5() {
    let (connect, topic) = (Connect::v311(&fresh()).durable(), fresh());
    join_as(&connect).subscribe(&topic, 2);
    for qos in [1, 2] {
        broker().publish(Publish::new(&topic, qos.to_string()).qos(qos));
    }
    let mut client = join_as(&connect);
    for qos in [1, 2] {
        let got = client.take();
        assert_eq!((got.text(), got.qos), (qos.to_string(), qos));
    }
}

#[test]
fn mqtt311_4_1_0_1() {
    a_session_outlives_its_connection(V311, &Connect::v311(&fresh()).durable());
}

fn matching_sessions_get_it(version: Version) {
    let (present, absent, other) = (fresh(), fresh(), fresh());
    let durable = |id: &str| Connect::new(version, id).durable();
    let topic = fresh();
    let mut here = join_as(&durable(&present));
    here.subscribe(&topic, 1);
    join_as(&durable(&absent)).subscribe(&topic, 1);
    join_as(&durable(&other)).subscribe(&format!("{topic}/other"), 1);
    publish(&topic, "1");
    publish(&format!("{topic}/other"), "end");
    // The connected one did not acknowledge, and one was not there: both have it in their session.
    here.expect_publish();
    drop(here);
    assert_eq!(join_as(&durable(&present)).take().text(), "1");
    assert_eq!(join_as(&durable(&absent)).take().text(), "1");
    assert!(join_as(&durable(&other)).take_until("end").is_empty());
}

#[test]
fn mqtt5_4_5_0_1() {
    matching_sessions_get_it(V5);
}

#[test]
fn mqtt311_4_5_0_1() {
    matching_sessions_get_it(V311);
}
