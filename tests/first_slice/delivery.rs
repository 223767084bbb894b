//! From a publisher to those whose filters match.

use support::broker::Broker;
use support::mqtt::{AckKind, Connect, Publish, VERSIONS};

#[test]
fn each_qos_between_each_pair_of_versions() {
    let broker = Broker::start();
    for publisher in VERSIONS {
        for subscriber in VERSIONS {
            let mut to = broker.connect(Connect::new(subscriber, "to"));
            let mut from = broker.connect(Connect::new(publisher, "from"));
            for granted in [0, 1, 2] {
                assert_eq!(to.subscribe("sensors/kitchen", granted), granted);
                for sent in [0, 1, 2] {
                    from.publish(Publish::new("sensors/kitchen", "21.5").qos(sent));
                    let got = to.take();
                    let told = (got.topic.as_str(), got.text(), got.qos, got.retain, got.dup);
                    let due = ("sensors/kitchen", "21.5".into(), sent.min(granted), false, false);
                    assert_eq!(told, due, "{publisher:?} to {subscriber:?}");
                }
            }
            from.disconnect();
            to.disconnect();
        }
    }
}

#[test]
fn an_empty_payload_and_a_large_one_arrive_whole() {
    let broker = Broker::start();
    let large: Vec<u8> = (0..200_000_u32).map(|n| n as u8).collect();
    let mut client = broker.connect(Connect::v311("a"));
    client.subscribe("t", 2);
    for qos in [0, 1, 2] {
        client.publish(Publish::new("t", "").qos(qos));
        assert_eq!(client.take().payload, b"");
        client.publish(Publish::new("t", &large).qos(qos));
        assert!(client.take().payload == large, "QoS {qos}");
    }
}

/// Which of these topics a subscriber with this filter receives, in the order sent.
fn matching(broker: &Broker, filter: &str, topics: &[&str]) -> Vec<String> {
    let mut client = broker.connect(Connect::v5("matching"));
    assert_eq!(client.subscribe_with(&[(filter, 1), ("end", 1)], &[]), [1, 1]);
    for topic in topics {
        let reason = client.publish(Publish::new(topic, topic).qos(1));
        assert!(reason < 0x80, "{topic} refused with {reason:#04x}");
    }
    client.publish(Publish::new("end", "end").qos(1));
    let mut got = client.take_until("end");
    got.dedup();
    client.disconnect();
    got
}

#[test]
fn plus_stands_for_one_level() {
    let broker = Broker::start();
    let topics = ["a/b", "a", "a/", "a/b/c", "/b", "/", "a/é"];
    assert_eq!(matching(&broker, "a/+", &topics), ["a/b", "a/", "a/é"]);
    assert_eq!(matching(&broker, "+/b", &topics), ["a/b", "/b"]);
    assert_eq!(matching(&broker, "+", &topics), ["a"]);
    assert_eq!(matching(&broker, "+/+", &topics), ["a/b", "a/", "/b", "/", "a/é"]);
    assert_eq!(matching(&broker, "a/+/c", &topics), ["a/b/c"]);
}

#[test]
fn hash_stands_for_the_parent_and_all_below() {
    let broker = Broker::start();
    let topics = ["sport", "sport/", "sport/tennis/p1", "sports", "/sport"];
    assert_eq!(matching(&broker, "sport/#", &topics), ["sport", "sport/", "sport/tennis/p1"]);
    assert_eq!(matching(&broker, "sport/tennis/#", &topics), ["sport/tennis/p1"]);
    assert_eq!(matching(&broker, "+/tennis/#", &topics), ["sport/tennis/p1"]);
    assert_eq!(matching(&broker, "/#", &topics), ["/sport"]);
}

#[test]
fn topics_are_told_apart_by_case_and_slashes() {
    let broker = Broker::start();
    let topics = ["a/b", "A/b", "a//b", "/a/b", "a/b/", "a b"];
    assert_eq!(matching(&broker, "a/b", &topics), ["a/b"]);
    assert_eq!(matching(&broker, "a//b", &topics), ["a//b"]);
    assert_eq!(matching(&broker, "a b", &topics), ["a b"]);
}

#[test]
fn wildcards_at_the_start_do_not_match_dollar_topics() {
    let broker = Broker::start();
    let mut client = broker.connect(Connect::v5("a"));
    client.subscribe_with(&[("#", 1), ("+/x", 1), ("+/#", 1)], &[]);
    // A broker may refuse such a name; if it takes it, only a filter that spells it matches.
    let reason = client.publish(Publish::new("$hidden/x", "hidden").qos(1));
    client.publish(Publish::new("end", "end").qos(1));
    assert!(client.take_until("end").is_empty());

    if reason < 0x80 {
        let mut client = broker.connect(Connect::v5("b"));
        client.subscribe("$hidden/#", 1);
        client.publish(Publish::new("$hidden/x", "end").qos(1));
        assert!(client.take_until("end").is_empty());
    }
}

#[test]
fn an_unsubscribed_filter_is_quiet() {
    for version in VERSIONS {
        let broker = Broker::start();
        let mut client = broker.connect(Connect::new(version, "a"));
        client.subscribe_with(&[("a", 1), ("b", 1)], &[]);
        client.unsubscribe("a");
        client.publish(Publish::new("a", "1").qos(1));
        client.publish(Publish::new("b", "end").qos(1));
        assert!(client.take_until("end").is_empty());
    }
}

#[test]
fn subscribing_again_replaces_the_qos() {
    let broker = Broker::start();
    let mut client = broker.connect(Connect::v311("a"));
    assert_eq!(client.subscribe("a", 2), 2);
    assert_eq!(client.subscribe("a", 0), 0);
    client.publish(Publish::new("a", "1").qos(2));
    assert_eq!(client.take().qos, 0);
    client.publish(Publish::new("a", "end").qos(2));
    assert!(client.take_until("end").is_empty());
}

#[test]
fn order_is_kept_at_each_qos() {
    let broker = Broker::start();
    for qos in [0, 1, 2] {
        let mut to = broker.connect(Connect::v5("to"));
        to.subscribe("order", qos);
        let mut from = broker.connect(Connect::v5("from"));
        for n in 0..200 {
            let message = Publish::new("order", n.to_string());
            from.send_publish(&message.qos(qos).id(n + 1));
        }
        if qos == 2 {
            // A server may deliver at PUBLISH or at PUBREL: both come in order.
            for id in 1..=200 {
                from.expect_ack(AckKind::PubRec, id);
                from.send_ack(AckKind::PubRel, id);
            }
        }
        let got: Vec<u16> = (0..200).map(|_| to.take().text().parse().expect("a number")).collect();
        assert!(got.is_sorted(), "QoS {qos}: {got:?}");
    }
}

#[test]
fn one_message_reaches_each_of_many_subscribers_once() {
    let broker = Broker::start();
    let mut subscribers: Vec<_> = (0..20)
        .map(|n| {
            let version = VERSIONS[n % 2];
            let mut client = broker.connect(Connect::new(version, &format!("s{n}")));
            client.subscribe("all/#", (n % 3) as u8);
            client
        })
        .collect();
    let mut from = broker.connect(Connect::v311("from"));
    from.publish(Publish::new("all/x", "1").qos(2));
    from.publish(Publish::new("all/x", "end").qos(2));
    for subscriber in &mut subscribers {
        assert_eq!(subscriber.take_until("end"), ["1"]);
    }
}
