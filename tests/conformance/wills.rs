//! Chapter 3.1.2.5 and 3.1.3.2 to 3.1.3.4: wills. What takes time is in [`crate::time`].

use crate::script::{V5, V311, fresh, join, join_as, publish};
use support::mqtt::{Client, Connect, Prop, Publish, Version};

/// A watcher of a fresh topic.
fn watcher(version: Version) -> (Client, String) {
    let (mut watcher, topic) = (join(version), fresh());
    watcher.subscribe(&topic, 2);
    (watcher, topic)
}

fn with_will(version: Version, topic: &str) -> Connect {
    Connect::new(version, &fresh()).will(Publish::new(topic, "will").qos(1))
}

fn a_will_is_stored(version: Version) {
    let (mut watcher, topic) = watcher(version);
    let client = join_as(&with_will(version, &topic));
    // Stored, not sent.
    publish(&topic, "not yet");
    assert_eq!(watcher.take().text(), "not yet");
    drop(client);
    assert_eq!(watcher.take().text(), "will");
}

#[test]
fn mqtt5_3_1_2_7() {
    a_will_is_stored(V5);
}

#[test]
fn mqtt311_3_1_2_8() {
    a_will_is_stored(V311);
    // After a violation, too; and not after DISCONNECT.
    let (mut watcher, topic) = watcher(V311);
    let mut violator = join_as(&with_will(V311, &topic));
    violator.send(b"\0\0");
    violator.expect_closed();
    assert_eq!(watcher.take().text(), "will");
    join_as(&with_will(V311, &topic)).disconnect();
    publish(&topic, "end");
    assert!(watcher.take_until("end").is_empty());
}

/// A client that closes with messages unread resets the connection, so that writing to it fails.
#[test]
fn a_disconnect_is_heard_from_a_client_that_takes_nothing_more() {
    let (mut watcher, topic) = watcher(V5);
    let (flood, payload) = (fresh(), "x".repeat(1_000_000));
    for _ in 0..10 {
        let mut client = join_as(&with_will(V5, &topic));
        client.subscribe(&flood, 0);
        for _ in 0..12 {
            publish(&flood, &payload);
        }
        client.send(b"\xE0\0");
    }
    publish(&topic, "end");
    assert!(watcher.take_until("end").is_empty());
}

fn a_will_is_sent_once(version: Version) {
    let (mut watcher, topic) = watcher(version);
    let id = fresh();
    let connect = Connect::new(version, &id).durable();
    // Published: then gone, though the session goes on.
    drop(join_as(&connect.clone().will(Publish::new(&topic, "will").qos(1))));
    assert_eq!(watcher.take().text(), "will");
    drop(join_as(&connect));
    // Taken back by DISCONNECT.
    join_as(&connect.clone().will(Publish::new(&topic, "taken back").qos(1))).disconnect();
    drop(join_as(&connect));
    // The session is there again only when the connection before was noticed to be lost.
    join_as(&connect).disconnect();
    publish(&topic, "end");
    assert!(watcher.take_until("end").is_empty());
}

#[test]
fn mqtt5_3_1_2_10() {
    a_will_is_sent_once(V5);
}

#[test]
fn mqtt311_3_1_2_10() {
    a_will_is_sent_once(V311);
}

#[test]
fn mqtt311_3_1_2_12() {
    let (mut watcher, topic) = watcher(V311);
    let id = fresh();
    drop(join_as(&Connect::v311(&id)));
    // Taking over shows that it is lost.
    join_as(&Connect::v311(&id)).disconnect();
    publish(&topic, "end");
    assert!(watcher.take_until("end").is_empty());
}

fn a_will_is_not_retained(version: Version) {
    let (mut watcher, topic) = watcher(version);
    drop(join_as(&with_will(version, &topic)));
    let got = watcher.take();
    assert_eq!((got.text().as_str(), got.retain), ("will", false));
    let mut late = join(version);
    late.subscribe(&topic, 1);
    publish(&topic, "end");
    assert!(late.take_until("end").is_empty());
}

#[test]
fn mqtt5_3_1_2_14() {
    a_will_is_not_retained(V5);
}

#[test]
fn mqtt311_3_1_2_16() {
    a_will_is_not_retained(V311);
}

fn a_will_is_retained(version: Version) {
    let (mut watcher, topic) = watcher(version);
    let connect = Connect::new(version, &fresh()).will(Publish::new(&topic, "will").qos(1).retain());
    drop(join_as(&connect));
    assert_eq!(watcher.take().text(), "will");
    let mut late = join(version);
    late.subscribe(&topic, 1);
    let got = late.take();
    assert_eq!((got.text().as_str(), got.retain), ("will", true));
}

#[test]
fn mqtt5_3_1_2_15() {
    a_will_is_retained(V5);
}

#[test]
fn mqtt311_3_1_2_17() {
    a_will_is_retained(V311);
}

/// As any retained message: the last one counts, and an empty one removes it.
#[test]
fn mqtt5_3_1_2_15_replaced() {
    let (mut watcher, topic) = watcher(V5);
    for payload in ["first", "second", ""] {
        drop(join_as(&Connect::v5(&fresh()).will(Publish::new(&topic, payload).qos(2).retain())));
        assert_eq!(watcher.take().text(), payload);
        let (mut late, end) = (join(V5), fresh());
        late.subscribe(&topic, 1);
        late.subscribe(&end, 1);
        publish(&end, "end");
        let kept: Vec<&str> = if payload.is_empty() { vec![] } else { vec![payload] };
        assert_eq!(late.take_until("end"), kept);
    }
}

#[test]
fn mqtt5_3_1_3_10() {
    let (mut watcher, topic) = watcher(V5);
    let pairs = [("b", "1"), ("a", "2"), ("b", "3"), ("b", "1")].map(|(name, value)| Prop::user(name, value));
    let will = pairs.iter().fold(Publish::new(&topic, "will").qos(1), |will, pair| will.with(pair.clone()));
    drop(join_as(&Connect::v5(&fresh()).will(will)));
    assert_eq!(watcher.take().props, pairs);
}

fn a_normal_disconnect_discards_the_will(version: Version) {
    let (mut watcher, topic) = watcher(version);
    let mut client = join_as(&with_will(version, &topic));
    client.send(b"\xE0\0");
    assert_eq!(client.expect_closed(), None);
    publish(&topic, "end");
    assert!(watcher.take_until("end").is_empty());
}

#[test]
fn mqtt5_3_14_4_3() {
    a_normal_disconnect_discards_the_will(V5);
    // The same in three bytes; any other reason leaves the will standing.
    let (mut watcher, topic) = watcher(V5);
    let mut client = join_as(&with_will(V5, &topic));
    client.send(b"\xE0\x01\0");
    assert_eq!(client.expect_closed(), None);
    publish(&topic, "between");
    join_as(&with_will(V5, &topic)).disconnect_with(0x04, &[]);
    assert_eq!(watcher.take().text(), "between");
    assert_eq!(watcher.take().text(), "will");
}

#[test]
fn mqtt311_3_14_4_3() {
    a_normal_disconnect_discards_the_will(V311);
}
