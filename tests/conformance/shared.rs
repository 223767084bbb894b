//! Chapter 4.8.2: shared subscriptions.

use crate::script::{V5, broker, closed_for, fresh, join, join_as, publish, subscribe_bytes};
use support::mqtt::{AckKind, Client, Connect, Prop, Publish};

#[test]
fn mqtt5_4_8_2_1() {
    for filter in ["$share/", "$share//a", "$share/g"] {
        assert_eq!(closed_for(V5, &subscribe_bytes(V5, filter, 1)), Some(0x81), "{filter}");
    }
    let (mut one, mut other, topic) = (join(V5), join(V5), fresh());
    for member in [&mut one, &mut other] {
        assert_eq!(member.subscribe(&format!("$share/g/{topic}"), 1), 1);
    }
    for _ in 0..4 {
        publish(&topic, "x");
    }
    let end = fresh();
    for member in [&mut one, &mut other] {
        member.subscribe(&end, 1);
    }
    publish(&end, "end");
    // Each message went to one of them.
    assert_eq!(one.take_until("end").len() + other.take_until("end").len(), 4);
    // What begins otherwise is a filter like any.
    let (mut one, mut other) = (join(V5), join(V5));
    let filter = format!("$shared/{topic}");
    one.subscribe(&filter, 1);
    other.subscribe(&filter, 1);
    publish(&filter, "both");
    assert_eq!((one.take().text(), other.take().text()), ("both".into(), "both".into()));
}

#[test]
fn mqtt5_4_8_2_2() {
    for filter in ["$share/g+/a", "$share/#/a", "$share/+/a", "$share/g#/a", "$share/g", "$share/g/", "$share/g/a#"] {
        assert_eq!(closed_for(V5, &subscribe_bytes(V5, filter, 1)), Some(0x81), "{filter}");
    }
    let mut client = join(V5);
    let topic = fresh();
    for filter in ["/", "/a", "a/+", "a/#", "+"] {
        assert_eq!(client.subscribe(&format!("$share/a name of {topic}/{filter}"), 1), 1);
    }
}

#[test]
fn mqtt5_4_8_2_3() {
    for durable in [false, true] {
        for granted in [0, 1, 2] {
            let connect = Connect::v5(&fresh());
            let (mut member, topic) = (join_as(&if durable { connect.durable() } else { connect }), fresh());
            assert_eq!(member.subscribe(&format!("$share/g/{topic}"), granted), granted);
            for published in [0, 1, 2] {
                broker().publish(Publish::new(&topic, "x").qos(published));
                assert_eq!(member.take().qos, published.min(granted));
            }
        }
    }
}

/// A member with a message at this QoS that was sent to it, and another member, who was not there yet.
fn one_chosen(qos: u8) -> (Client, Connect, Client, String) {
    let (connect, topic) = (Connect::v5(&fresh()).durable(), fresh());
    let filter = format!("$share/g/{topic}");
    let mut chosen = join_as(&connect);
    chosen.subscribe(&filter, 2);
    broker().publish(Publish::new(&topic, "for one").qos(qos));
    let (mut other, end) = (join_as(&Connect::v5(&fresh()).durable()), fresh());
    other.subscribe(&filter, 2);
    other.subscribe(&end, 1);
    (chosen, connect, other, end)
}

#[test]
fn mqtt5_4_8_2_4() {
    let (mut chosen, connect, mut other, end) = one_chosen(2);
    let first = chosen.expect_publish();
    drop(chosen);
    let mut chosen = join_as(&connect);
    assert_eq!(chosen.expect_publish(), Publish { dup: true, ..first.clone() });
    chosen.send_ack(AckKind::PubRec, first.id);
    chosen.expect_ack(AckKind::PubRel, first.id);
    drop(chosen);
    let mut chosen = join_as(&connect);
    chosen.expect_ack(AckKind::PubRel, first.id);
    chosen.send_ack(AckKind::PubComp, first.id);
    publish(&end, "end");
    assert!(other.take_until("end").is_empty());
}

#[test]
fn mqtt5_4_8_2_5() {
    let (mut chosen, _, mut other, end) = one_chosen(2);
    chosen.expect_publish();
    chosen.disconnect_with(0, &[Prop::SessionExpiryS(0)]);
    publish(&end, "end");
    assert!(other.take_until("end").is_empty());
}

#[test]
fn mqtt5_4_8_2_6() {
    for qos in [1, 2] {
        let (mut chosen, connect, mut other, end) = one_chosen(qos);
        let [high, low] = chosen.expect_publish().id.to_be_bytes();
        chosen.send(&[if qos == 1 { 0x40 } else { 0x50 }, 3, high, low, 0x97]);
        chosen.ping();
        drop(chosen);
        let mut chosen = join_as(&connect);
        assert!(chosen.sent_so_far().is_empty());
        publish(&end, "end");
        assert!(other.take_until("end").is_empty());
    }
}
