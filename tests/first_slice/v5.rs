//! What 5.0 adds.

use std::time::Duration;
use support::broker::Broker;
use support::mqtt::{
    AckKind, Client, Connect, NO_LOCAL, Packet, Prop, Publish, RETAIN_AS_PUBLISHED, RETAINED_IF_NEW, RETAINED_NEVER,
};

#[test]
fn a_client_without_an_id_is_given_one() {
    let broker = Broker::start();
    let assigned = |client: &Client| {
        let props = client.connack.props.iter();
        let ids = props.filter_map(|prop| match prop {
            Prop::AssignedClientId(id) => Some(id.clone()),
            _ => None,
        });
        ids.collect::<Vec<_>>()
    };
    let first = broker.connect(Connect::v5("").with(Prop::SessionExpiryS(60)));
    let second = broker.connect(Connect::v5(""));
    let (first_id, second_id) = (assigned(&first), assigned(&second));
    assert_eq!((first_id.len(), second_id.len()), (1, 1));
    assert_ne!(first_id, second_id);
    // The id is good for coming back.
    drop(first);
    let back = broker.connect(Connect::v5(&first_id[0]).durable());
    assert!(back.connack.session_present);
    assert!(assigned(&broker.connect(Connect::v5("own"))).is_empty());
}

#[test]
fn subscription_ids_come_with_each_message() {
    let broker = Broker::start();
    let mut client = broker.connect(Connect::v5("a"));
    client.subscribe_with(&[("a/+", 1)], &[Prop::SubscriptionId(1)]);
    client.subscribe_with(&[("a/#", 1)], &[Prop::SubscriptionId(268_435_455)]);
    client.subscribe_with(&[("b", 1)], &[]);
    client.publish(Publish::new("a/x", "1").qos(1));
    client.publish(Publish::new("b", "end").qos(1));
    // One copy with both, or one for each subscription: the standard leaves it open.
    let mut ids = Vec::new();
    loop {
        let got = client.take();
        let of_this = got.props.iter().filter_map(|prop| match prop {
            Prop::SubscriptionId(id) => Some(*id),
            _ => None,
        });
        let of_this: Vec<u32> = of_this.collect();
        if got.text() == "end" {
            assert!(of_this.is_empty(), "{of_this:?}");
            break;
        }
        ids.extend(of_this);
    }
    ids.sort_unstable();
    assert_eq!(ids, [1, 268_435_455]);
}

#[test]
fn no_local_keeps_ones_own_messages_away() {
    let broker = Broker::start();
    let mut client = broker.connect(Connect::v5("a"));
    client.subscribe("t", 1 | NO_LOCAL);
    client.publish(Publish::new("t", "own").qos(1));
    broker.publish(Publish::new("t", "end").qos(1));
    assert!(client.take_until("end").is_empty());
}

#[test]
fn retain_as_published_keeps_the_flag() {
    let broker = Broker::start();
    let mut client = broker.connect(Connect::v5("a"));
    client.subscribe("t", 1 | RETAIN_AS_PUBLISHED);
    broker.publish(Publish::new("t", "1").qos(1).retain());
    broker.publish(Publish::new("t", "2").qos(1));
    assert_eq!((client.take().retain, client.take().retain), (true, false));
}

#[test]
fn retain_handling_says_when_retained_messages_are_told() {
    let broker = Broker::start();
    broker.publish(Publish::new("t", "kept").qos(1).retain());
    let mut client = broker.connect(Connect::v5("a"));
    let mut told = |options| {
        client.subscribe("t", 1 | options);
        broker.publish(Publish::new("t", "end").qos(1));
        client.take_until("end")
    };
    assert!(told(RETAINED_NEVER).is_empty());
    assert!(told(RETAINED_IF_NEW).is_empty(), "it is not new");
    assert_eq!(told(0), ["kept"]);
    let mut other = broker.connect(Connect::v5("b"));
    other.subscribe("t", 1 | RETAINED_IF_NEW);
    assert_eq!(other.take().text(), "kept");
}

#[test]
fn an_expired_message_is_not_delivered_and_the_rest_is_counted_down() {
    let broker = Broker::start();
    let mut client = broker.connect(Connect::v5("a").durable());
    client.subscribe("t", 1);
    client.disconnect();
    let expiring = |payload, seconds| {
        let publish = Publish::new("t", payload).qos(1);
        publish.with(Prop::MessageExpiryS(seconds))
    };
    broker.publish(expiring("short", 1));
    broker.publish(expiring("long", 100));
    broker.publish(Publish::new("t", "for ever").qos(1));
    // The time itself is under test.
    std::thread::sleep(Duration::from_millis(2200));
    let mut client = broker.connect(Connect::v5("a").durable());
    let long = client.take();
    assert_eq!(long.text(), "long");
    let left = long.props.iter().find_map(|prop| match prop {
        Prop::MessageExpiryS(seconds) => Some(*seconds),
        _ => None,
    });
    assert!(left.is_some_and(|left| (80..=98).contains(&left)), "{left:?}");
    let for_ever = client.take();
    assert_eq!((for_ever.text().as_str(), for_ever.props), ("for ever", vec![]));
}

#[test]
fn an_expired_retained_message_is_not_told() {
    let broker = Broker::start();
    let expiring = Publish::new("t", "old").qos(1).retain();
    broker.publish(expiring.with(Prop::MessageExpiryS(1)));
    std::thread::sleep(Duration::from_millis(2200));
    let mut client = broker.connect(Connect::v5("a"));
    client.subscribe("t", 1);
    broker.publish(Publish::new("t", "end").qos(1));
    assert!(client.take_until("end").is_empty());
}

#[test]
fn a_topic_alias_stands_for_its_topic() {
    let broker = Broker::start();
    let mut client = broker.connect(Connect::v5("a"));
    let maximum = client.connack.props.iter().find_map(|prop| match prop {
        Prop::TopicAliasMaximum(maximum) => Some(*maximum),
        _ => None,
    });
    assert!(maximum.is_some_and(|maximum| maximum >= 2), "{maximum:?}");
    client.subscribe("#", 1);
    let mut said = |topic: &str, alias| {
        let publish = Publish::new(topic, "x").qos(1).with(Prop::TopicAlias(alias));
        assert!(client.publish(publish) < 0x80);
        let got = client.take();
        assert!(got.props.is_empty(), "an alias ends here: {got:?}");
        got.topic
    };
    assert_eq!(said("a", 1), "a");
    assert_eq!(said("", 1), "a");
    assert_eq!(said("b", 2), "b");
    assert_eq!(said("", 1), "a");
    assert_eq!(said("c", 1), "c");
    assert_eq!(said("", 1), "c");
    assert_eq!(said("", 2), "b");
}

#[test]
fn an_alias_out_of_range_or_never_set_is_an_error() {
    let broker = Broker::start();
    let violate = |topic: &str, alias| {
        let mut client = broker.connect(Connect::v5("a"));
        client.send_publish(&Publish::new(topic, "x").with(Prop::TopicAlias(alias)));
        client.expect_closed()
    };
    assert!(matches!(violate("a", 0), Some(0x81 | 0x82 | 0x94)));
    assert!(matches!(violate("", 1), Some(0x82 | 0x94)));
}

#[test]
fn a_session_ends_when_its_expiry_has_passed() {
    let broker = Broker::start();
    let connect = |seconds| {
        let connect = Connect::v5("a").clean(false);
        broker.connect(connect.with(Prop::SessionExpiryS(seconds)))
    };
    connect(1).disconnect();
    std::thread::sleep(Duration::from_millis(2500));
    let client = connect(60);
    assert!(!client.connack.session_present);
    client.disconnect();
    let client = connect(60);
    assert!(client.connack.session_present);
    // DISCONNECT may shorten it.
    client.disconnect_with(0, &[Prop::SessionExpiryS(0)]);
    assert!(!connect(60).connack.session_present);
}

#[test]
fn a_session_without_expiry_ends_with_its_connection() {
    let broker = Broker::start();
    let mut client = broker.connect(Connect::v5("a").clean(false));
    client.subscribe("t", 1);
    client.disconnect();
    let client = broker.connect(Connect::v5("a").clean(false));
    assert!(!client.connack.session_present);
}

#[test]
fn properties_are_forwarded_in_order() {
    let broker = Broker::start();
    let forwarded = [
        Prop::PayloadFormat(1),
        Prop::ContentType("text/plain".into()),
        Prop::ResponseTopic("answers".into()),
        Prop::CorrelationData(vec![0, 1, 2, 255]),
        Prop::user("a", "1"),
        Prop::user("b", "2"),
        Prop::user("a", "1"),
        Prop::user("", ""),
    ];
    let mut live = broker.connect(Connect::v5("live"));
    live.subscribe("t", 1);
    let mut publish = Publish::new("t", "x").qos(1).retain();
    publish.props = forwarded.to_vec();
    broker.publish(publish);
    let mut late = broker.connect(Connect::v5("late"));
    late.subscribe("t", 1);
    for got in [live.take(), late.take()] {
        let user = |prop: &&Prop| matches!(prop, Prop::UserProperty(..));
        let order: Vec<&Prop> = got.props.iter().filter(user).collect();
        assert_eq!(order, forwarded.iter().filter(user).collect::<Vec<_>>());
        assert_eq!(got.props.len(), forwarded.len(), "{got:?}");
        assert!(forwarded.iter().all(|prop| got.props.contains(prop)), "{got:?}");
    }
}

#[test]
fn receive_maximum_of_the_client_is_kept() {
    let broker = Broker::start();
    let mut client = broker.connect(Connect::v5("a").with(Prop::ReceiveMaximum(2)));
    client.subscribe("t", 2);
    for (n, qos) in [(0, 1), (1, 2), (2, 1), (3, 2), (4, 1)] {
        broker.publish(Publish::new("t", n.to_string()).qos(qos));
    }
    let first = [client.expect_publish(), client.expect_publish()];
    assert_eq!(first.each_ref().map(Publish::text), ["0", "1"]);
    assert!(client.sent_so_far().is_empty(), "two are under way");
    // PUBREC does not open the window, PUBCOMP does.
    client.send_ack(AckKind::PubRec, first[1].id);
    client.expect_ack(AckKind::PubRel, first[1].id);
    assert!(client.sent_so_far().is_empty(), "two are under way");
    client.send_ack(AckKind::PubComp, first[1].id);
    assert_eq!(client.take().text(), "2");
    client.send_ack(AckKind::PubAck, first[0].id);
    assert_eq!(client.take().text(), "3");
    assert_eq!(client.take().text(), "4");
}

#[test]
fn a_publish_nobody_waits_for_says_so_or_succeeds() {
    let broker = Broker::start();
    let mut client = broker.connect(Connect::v5("a"));
    for qos in [1, 2] {
        let reason = client.publish(Publish::new("nobody", "x").qos(qos));
        assert!(matches!(reason, 0 | 0x10), "{reason:#04x}");
    }
}

#[test]
fn a_disconnect_gives_its_reason_in_words_only_where_they_fit() {
    let broker = Broker::start();
    for (bytes, fits) in [(20, false), (1000, true)] {
        let mut client = broker.connect(Connect::v5("client").with(Prop::MaximumPacketBytes(bytes)));
        // An alias that was never set.
        client.send(b"\x30\x06\0\0\x03\x23\0\x07");
        let told = client.expect("DISCONNECT", |packet| match packet {
            Packet::Disconnect { reason, props } => Some((*reason, props.is_empty())),
            _ => None,
        });
        assert_eq!(told, (0x82, !fits));
    }
}
