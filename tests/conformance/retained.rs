//! Chapter 3.3.1.3: retained messages.

use crate::script::{V5, V311, broker, fresh, join, join_as, publish};
use support::mqtt::{Client, Connect, Publish, RETAIN_AS_PUBLISHED, RETAINED_IF_NEW, RETAINED_NEVER, Version};

fn retain(topic: &str, payload: &str, qos: u8) {
    broker().publish(Publish::new(topic, payload).qos(qos).retain());
    if qos == 0 {
        // It has arrived when something behind it has: nothing of ours acknowledges QoS 0.
        let mut client = join(V5);
        client.publish(Publish::new(topic, payload).qos(0).retain());
        client.publish(Publish::new(&format!("{topic}/behind"), "x").qos(1));
    }
}

/// The payloads that a new subscriber to this topic gets from what was retained.
fn kept(version: Version, topic: &str) -> Vec<String> {
    let mut client = join(version);
    sent_for(&mut client, topic, 1)
}

/// The payloads that subscribing causes to be sent.
fn sent_for(client: &mut Client, topic: &str, options: u8) -> Vec<String> {
    let end = fresh();
    client.subscribe(&end, 1);
    client.subscribe(topic, options);
    publish(&end, "end");
    client.take_until("end")
}

fn the_last_one_is_kept(version: Version) {
    let topic = fresh();
    for (payload, qos) in [("1", 1), ("2", 2), ("3", 0), ("4", 1)] {
        retain(&topic, payload, qos);
        assert_eq!(kept(version, &topic), [payload]);
    }
}

#[test]
fn mqtt5_3_3_1_5() {
    the_last_one_is_kept(V5);
}

#[test]
fn mqtt311_3_3_1_5() {
    the_last_one_is_kept(V311);
    // And its QoS.
    for qos in [1, 2] {
        let topic = fresh();
        retain(&topic, "kept", qos);
        let mut client = join(V311);
        client.subscribe(&topic, 2);
        assert_eq!(client.take().qos, qos);
    }
}

#[test]
fn mqtt311_3_3_1_6() {
    let root = fresh();
    for (topic, payload) in [("a", "old"), ("a", "1"), ("b", "2"), ("b/c", "3")] {
        retain(&format!("{root}/{topic}"), payload, 1);
    }
    let mut got = kept(V311, &format!("{root}/#"));
    got.sort();
    assert_eq!(got, ["1", "2", "3"]);
    got = kept(V311, &format!("{root}/+"));
    got.sort();
    assert_eq!(got, ["1", "2"]);
}

#[test]
fn mqtt311_3_3_1_7() {
    let topic = fresh();
    retain(&topic, "old", 2);
    retain(&topic, "new", 0);
    assert!(!kept(V311, &topic).contains(&"old".to_owned()));
}

#[test]
fn mqtt311_3_3_1_8() {
    let topic = fresh();
    retain(&topic, "kept", 1);
    for _ in 0..2 {
        let mut client = join(V311);
        client.subscribe(&topic, 1);
        assert!(client.take().retain);
    }
}

#[test]
fn mqtt311_3_3_1_9() {
    let (mut client, topic) = (join(V311), fresh());
    client.subscribe(&topic, 1);
    retain(&topic, "kept", 1);
    assert!(!client.take().retain);
}

fn an_empty_payload_removes_it(version: Version) {
    let topic = fresh();
    retain(&topic, "kept", 1);
    let mut live = join(version);
    live.subscribe(&topic, 1);
    assert_eq!(live.take().text(), "kept");
    retain(&topic, "", 1);
    // It is delivered as any message is.
    let got = live.take();
    assert_eq!((got.text().as_str(), got.retain), ("", false));
    assert!(kept(version, &topic).is_empty());
}

#[test]
fn mqtt5_3_3_1_6() {
    an_empty_payload_removes_it(V5);
}

#[test]
fn mqtt311_3_3_1_10() {
    an_empty_payload_removes_it(V311);
}

fn an_empty_payload_is_not_kept(version: Version) {
    let topic = fresh();
    for qos in [0, 1, 2] {
        retain(&topic, "", qos);
        assert!(kept(version, &topic).is_empty());
    }
}

#[test]
fn mqtt5_3_3_1_7() {
    an_empty_payload_is_not_kept(V5);
}

#[test]
fn mqtt311_3_3_1_11() {
    an_empty_payload_is_not_kept(V311);
}

fn a_plain_message_leaves_it_alone(version: Version) {
    let topic = fresh();
    publish(&topic, "not kept");
    assert!(kept(version, &topic).is_empty());
    retain(&topic, "kept", 1);
    publish(&topic, "passes");
    publish(&topic, "");
    assert_eq!(kept(version, &topic), ["kept"]);
}

#[test]
fn mqtt5_3_3_1_8() {
    a_plain_message_leaves_it_alone(V5);
}

#[test]
fn mqtt311_3_3_1_12() {
    a_plain_message_leaves_it_alone(V311);
}

#[test]
fn mqtt311_3_1_2_7() {
    let (topic, id) = (fresh(), fresh());
    let mut client = join_as(&Connect::v311(&id));
    client.publish(Publish::new(&topic, "kept").qos(1).retain());
    client.disconnect();
    // The session is gone, whatever way it began.
    join_as(&Connect::v311(&id)).disconnect();
    assert_eq!(kept(V311, &topic), ["kept"]);
}

#[test]
fn mqtt5_3_3_1_9() {
    for connect in [Connect::v5(&fresh()), Connect::v5(&fresh()).durable()] {
        let topic = fresh();
        retain(&topic, "kept", 1);
        let mut client = join_as(&connect);
        // Whether the subscription is new or not.
        assert_eq!(sent_for(&mut client, &topic, 1), ["kept"]);
        assert_eq!(sent_for(&mut client, &topic, 1), ["kept"]);
        assert_eq!(sent_for(&mut client, &topic, 0), ["kept"]);
    }
}

#[test]
fn mqtt5_3_3_1_10() {
    for connect in [Connect::v5(&fresh()), Connect::v5(&fresh()).durable()] {
        let topic = fresh();
        retain(&topic, "kept", 1);
        let mut client = join_as(&connect);
        assert_eq!(sent_for(&mut client, &topic, 1 | RETAINED_IF_NEW), ["kept"]);
        assert!(sent_for(&mut client, &topic, 1 | RETAINED_IF_NEW).is_empty());
        client.unsubscribe(&topic);
        assert_eq!(sent_for(&mut client, &topic, 1 | RETAINED_IF_NEW), ["kept"]);
    }
}

#[test]
fn mqtt5_3_3_1_11() {
    let topic = fresh();
    retain(&topic, "kept", 1);
    let mut client = join(V5);
    for _ in 0..2 {
        assert!(sent_for(&mut client, &topic, 1 | RETAINED_NEVER).is_empty());
    }
}

/// The RETAIN flag of a forwarded message, for what was published with it and without it.
fn forwarded(connect: &Connect, options: u8) -> Vec<bool> {
    let mut flags = Vec::new();
    for qos in [0, 1, 2] {
        let (mut client, topic) = (join_as(connect), fresh());
        client.subscribe(&topic, options | qos);
        for message in [Publish::new(&topic, "x"), Publish::new(&topic, "x").retain()] {
            broker().publish(message.qos(2));
            flags.push(client.take().retain);
        }
        // Its acknowledgements arrive before the next connection takes over, or what they are for comes again.
        client.disconnect();
    }
    flags
}

#[test]
fn mqtt5_3_3_1_12() {
    for connect in [Connect::v5(&fresh()), Connect::v5(&fresh()).durable()] {
        assert_eq!(forwarded(&connect, 0), [false; 6]);
    }
}

#[test]
fn mqtt5_3_3_1_13() {
    for connect in [Connect::v5(&fresh()), Connect::v5(&fresh()).durable()] {
        assert_eq!(forwarded(&connect, RETAIN_AS_PUBLISHED), [false, true, false, true, false, true]);
    }
}
