//! How long, how deep, how many.

use super::{metric, reached, refused};
use support::broker::Broker;
use support::mqtt::{Connect, Publish, VERSIONS, Version};

#[test]
fn topics_are_as_long_and_as_deep_as_they_may_be() {
    let broker = Broker::with_config("[mqtt]\nmax_topic_bytes = 10\nmax_topic_levels = 3\n");
    let mut watcher = broker.connect(Connect::v5("watcher"));
    watcher.subscribe("#", 1);
    for version in VERSIONS {
        // Before 5.0 an acknowledgement cannot say that a message was not taken.
        let code = if version == Version::V5 { 0x90 } else { 0 };
        let mut client = broker.connect(Connect::new(version, "a"));
        for (topic, taken) in [("0123456789", true), ("01234567890", false), ("a/b/c", true), ("a/b/c/d", false)] {
            assert_eq!(client.publish(Publish::new(topic, "x").qos(1)), if taken { 0 } else { code }, "{topic}");
        }
        let filters = [("0123456789", 0), ("01234567890", 0), ("a/+/#", 0), ("a/+/c/#", 0), ("$share/group/a/b/c", 0)];
        let bad = if version == Version::V5 { 0x8F } else { 0x80 };
        assert_eq!(client.subscribe_with(&filters, &[]), [0, bad, 0, bad, 0]);
    }
    assert_eq!(watcher.sent_so_far().len(), 4);
    reached(&broker, "max_topic_bytes", 4);
    reached(&broker, "max_topic_levels", 4);
    metric(&broker, "millstream_mqtt_refused_messages_total", &[("reason", "topic")], 4.0);
    assert_eq!(refused(&broker, Connect::v5("b").will(Publish::new("01234567890", "x"))).code, 0x90);
    assert_eq!(refused(&broker, Connect::v5("b").will(Publish::new("a/b/c/d", "x"))).code, 0x90);
}

#[test]
fn two_hundred_levels_are_the_most() {
    let words = Broker::prepared().config("[mqtt]\nmax_topic_levels = 201\n").fails_to_start();
    assert!(words.contains("must be a whole number from 1 to 200"), "{words}");
    let broker = Broker::start();
    let mut client = broker.connect(Connect::v5("a"));
    let deep = vec!["x"; 200].join("/");
    assert_eq!(client.subscribe_with(&[(&deep, 1), (&format!("{deep}/x"), 1)], &[]), [1, 0x8F]);
    assert_eq!(client.publish(Publish::new(&format!("{deep}/x"), "").qos(1)), 0x90);
    assert_eq!(client.publish(Publish::new(&deep, "").qos(1)), 0);
}

#[test]
fn a_session_has_as_many_subscriptions_as_it_may() {
    let mut broker = Broker::with_config("[mqtt]\nmax_subscriptions = 3\n");
    for version in VERSIONS {
        let full = if version == Version::V5 { 0x97 } else { 0x80 };
        let connect = Connect::new(version, &format!("{version:?}")).durable();
        let mut client = broker.connect(connect);
        assert_eq!(client.subscribe_with(&[("a", 0), ("b", 0), ("c", 0), ("d", 0), ("a", 1)], &[]), [0, 0, 0, full, 1]);
        client.unsubscribe("b");
        assert_eq!(client.subscribe_with(&[("e", 0), ("f", 0)], &[]), [0, full]);
    }
    reached(&broker, "max_subscriptions", 4);
    // What is there stays, and may be made again.
    broker.write_config("[mqtt]\nmax_subscriptions = 1\n");
    broker.restart_gracefully();
    for version in VERSIONS {
        let full = if version == Version::V5 { 0x97 } else { 0x80 };
        let mut client = broker.connect(Connect::new(version, &format!("{version:?}")).durable());
        assert!(client.connack.session_present);
        assert_eq!(client.subscribe_with(&[("a", 1), ("g", 0)], &[]), [1, full]);
        broker.publish(Publish::new("c", "x"));
        assert_eq!(client.take().text(), "x");
    }
}
