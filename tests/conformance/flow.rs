//! Chapters 3.3.4 and 4.9: Receive Maximum, both ways; 4.6: order.

use crate::script::{V5, V311, broker, fresh, join, join_as, publish};
use support::mqtt::{AckKind, Client, Connect, Prop, Publish, Version};

/// A client that takes so many unacknowledged messages, subscribed to a fresh topic at QoS 2.
fn taking(receive_maximum: u16) -> (Client, String) {
    let (mut client, topic) = (join_as(&Connect::v5(&fresh()).with(Prop::ReceiveMaximum(receive_maximum))), fresh());
    client.subscribe(&topic, 2);
    (client, topic)
}

#[test]
fn mqtt5_3_3_4_9() {
    let (mut client, topic) = taking(2);
    for (n, qos) in [(0, 1), (1, 2), (2, 1), (3, 2), (4, 1)] {
        broker().publish(Publish::new(&topic, n.to_string()).qos(qos));
    }
    let first = [client.expect_publish(), client.expect_publish()];
    assert!(client.sent_so_far().is_empty(), "two are on their way");
    // PUBREC leaves the place taken; PUBCOMP, PUBACK and a PUBREC of 0x80 or more free it.
    client.send_ack(AckKind::PubRec, first[1].id);
    client.expect_ack(AckKind::PubRel, first[1].id);
    assert!(client.sent_so_far().is_empty(), "two are on their way");
    client.send_ack(AckKind::PubComp, first[1].id);
    let third = client.expect_publish();
    assert_eq!(third.text(), "2");
    client.send_ack(AckKind::PubAck, third.id);
    let fourth = client.expect_publish();
    assert_eq!((fourth.text().as_str(), fourth.qos), ("3", 2));
    let [high, low] = fourth.id.to_be_bytes();
    client.send(&[0x50, 3, high, low, 0x80]);
    assert_eq!(client.expect_publish().text(), "4");
}

#[test]
fn mqtt5_3_3_4_10() {
    let (mut client, topic) = taking(1);
    publish(&topic, "1");
    publish(&topic, "2");
    let first = client.expect_publish();
    // Everything but PUBLISH goes on.
    client.send(b"\xC0\0");
    client.expect_bytes(b"\xD0\0");
    assert_eq!(client.subscribe(&fresh(), 2), 2);
    client.unsubscribe(&fresh());
    assert!(client.publish(Publish::new(&fresh(), "x").qos(2)) < 0x80);
    assert!(client.publish(Publish::new(&fresh(), "x").qos(1)) < 0x80);
    client.send_ack(AckKind::PubAck, first.id);
    assert_eq!(client.take().text(), "2");
}

#[test]
fn mqtt5_4_9_0_1() {
    for receive_maximum in [1, 3] {
        let (mut client, topic) = taking(receive_maximum);
        for n in 0..5 {
            publish(&topic, &n.to_string());
        }
        // Not none, and no more than that.
        let first = client.expect_publish();
        let more = client.sent_so_far().len();
        assert_eq!(first.text(), "0");
        assert!(more < usize::from(receive_maximum), "{} at once", 1 + more);
    }
}

#[test]
fn mqtt5_4_9_0_2() {
    let (mut client, topic) = taking(1);
    publish(&topic, "1");
    let first = client.expect_publish();
    for qos in [1, 2] {
        broker().publish(Publish::new(&topic, "later").qos(qos));
    }
    assert!(client.sent_so_far().is_empty());
    // QoS 0 costs nothing.
    broker().publish(Publish::new(&topic, "now").qos(0));
    assert_eq!(client.take().text(), "now");
    client.send_ack(AckKind::PubAck, first.id);
    assert_eq!(client.take().text(), "later");
    assert_eq!(client.take().text(), "later");
}

#[test]
fn mqtt5_4_9_0_3() {
    let (mut client, topic) = taking(1);
    broker().publish(Publish::new(&topic, "1").qos(2));
    let first = client.expect_publish();
    publish(&topic, "2");
    // The quota is used up: what the client sends is processed and answered.
    client.send_publish(&Publish::new(&fresh(), "x").qos(1).id(77));
    assert!(client.expect_ack(AckKind::PubAck, 77) < 0x80);
    client.ping();
    client.send_ack(AckKind::PubRec, first.id);
    assert_eq!(client.expect_ack(AckKind::PubRel, first.id), 0);
    client.send_ack(AckKind::PubComp, first.id);
    assert_eq!(client.take().text(), "2");
}

fn receive_maximum(client: &Client) -> u16 {
    let maximum = client.connack.props.iter().find_map(|prop| match prop {
        Prop::ReceiveMaximum(maximum) => Some(*maximum),
        _ => None,
    });
    maximum.unwrap_or(u16::MAX)
}

/// What a client may not do is answered with 0x93: more QoS 2 messages than the server takes, none released.
#[test]
fn mqtt5_3_3_4_7() {
    let mut client = join(V5);
    let (maximum, topic) = (receive_maximum(&client), fresh());
    for id in 1..=maximum {
        client.send_publish(&Publish::new(&topic, "x").qos(2).id(id));
    }
    for id in 1..=maximum {
        assert!(client.expect_ack(AckKind::PubRec, id) < 0x80);
    }
    // As many as it takes; one done makes room for one.
    client.send_ack(AckKind::PubRel, 1);
    assert_eq!(client.expect_ack(AckKind::PubComp, 1), 0);
    client.send_publish(&Publish::new(&topic, "x").qos(1).id(1));
    assert!(client.expect_ack(AckKind::PubAck, 1) < 0x80);
    client.send_publish(&Publish::new(&topic, "x").qos(2).id(1));
    assert!(client.expect_ack(AckKind::PubRec, 1) < 0x80);
    client.send_publish(&Publish::new(&topic, "one too many").qos(1).id(maximum + 1));
    assert_eq!(client.expect_closed(), Some(0x93));
}

// ---- 4.6 ----

/// Messages of one client to one topic come in their order, at each QoS, live and from a queue.
fn order_is_kept(version: Version) {
    for qos in [0, 1, 2] {
        let absent = Connect::new(version, &fresh()).durable();
        let topic = fresh();
        join_as(&absent).subscribe(&topic, qos);
        let mut live = join(version);
        live.subscribe(&topic, qos);
        let mut from = join(version);
        for n in 1..=60 {
            from.send_publish(&Publish::new(&topic, n.to_string()).qos(qos).id(n));
        }
        let in_order = |client: &mut Client| {
            for n in 1..=60 {
                assert_eq!(client.take().text(), n.to_string(), "QoS {qos}");
            }
        };
        in_order(&mut live);
        if qos > 0 {
            let kind = if qos == 1 { AckKind::PubAck } else { AckKind::PubRec };
            for id in 1..=60 {
                from.expect_ack(kind, id);
            }
            in_order(&mut join_as(&absent));
        }
    }
}

#[test]
fn mqtt5_4_6_0_5() {
    order_is_kept(V5);
}

#[test]
fn mqtt311_4_6_0_6() {
    order_is_kept(V311);
}

/// Every topic: whichever of many they go to, and through whichever filter.
fn every_topic_is_ordered(version: Version) {
    let (mut to, root) = (join(version), fresh());
    to.subscribe(&format!("{root}/#"), 1);
    let mut from = join(version);
    for n in 0..100 {
        from.send_publish(&Publish::new(&format!("{root}/{}", n % 7), n.to_string()).qos(1).id(n + 1));
    }
    let mut last = [None; 7];
    for _ in 0..100 {
        let got = to.take();
        let n: usize = got.text().parse().expect("a number");
        assert!(last[n % 7] < Some(n), "{n} behind {:?}", last[n % 7]);
        last[n % 7] = Some(n);
    }
}

#[test]
fn mqtt5_4_6_0_6() {
    every_topic_is_ordered(V5);
}

#[test]
fn mqtt311_4_6_0_5() {
    every_topic_is_ordered(V311);
}
