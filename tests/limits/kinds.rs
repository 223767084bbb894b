//! What is not served, and said so at CONNACK.

use super::{metric, reached, refused};
use support::broker::Broker;
use support::mqtt::{Client, Connect, Lost, Prop, Publish, VERSIONS, Version};
use support::ports::lease;

const NOTHING_FANCY: &str = "[mqtt]\nmax_qos = 1\nretain_available = false\nwildcard_subscriptions = false\n\
                             shared_subscriptions = false\ntopic_alias_maximum = 2\n";

#[test]
fn it_is_told_at_connack_and_nothing_is_by_default() {
    let broker = Broker::with_config(NOTHING_FANCY);
    let props = broker.connect(Connect::v5("a")).connack.props.clone();
    for told in [
        Prop::MaximumQos(1),
        Prop::RetainAvailable(0),
        Prop::WildcardsAvailable(0),
        Prop::SharedAvailable(0),
        Prop::TopicAliasMaximum(2),
    ] {
        assert!(props.contains(&told), "{told:?} in {props:?}");
    }
    let none = Broker::with_config("[mqtt]\ntopic_alias_maximum = 0\n");
    let is_told = |prop: &Prop| {
        use Prop::{MaximumQos, RetainAvailable, SharedAvailable, TopicAliasMaximum, WildcardsAvailable};
        matches!(
            prop,
            MaximumQos(_) | RetainAvailable(_) | SharedAvailable(_) | TopicAliasMaximum(_) | WildcardsAvailable(_)
        )
    };
    let props = none.connect(Connect::v5("a")).connack.props.clone();
    assert!(!props.iter().any(is_told), "{props:?}");
}

/// What a client says that ends its connection, in 5.0 with this code.
#[track_caller]
fn closed_for(broker: &Broker, version: Version, publish: &Publish, code: u8) {
    let mut client = broker.connect(Connect::new(version, "breaks"));
    client.send_publish(publish);
    assert_eq!(client.expect_closed(), (version == Version::V5).then_some(code), "{publish:?} in {version:?}");
}

#[test]
fn a_publish_of_a_kind_that_is_not_served_closes_its_client() {
    let broker = Broker::with_config(NOTHING_FANCY);
    let mut other = broker.connect(Connect::v5("other"));
    other.subscribe("t", 2);
    for version in VERSIONS {
        closed_for(&broker, version, &Publish::new("t", "x").qos(2).id(1), 0x9B);
        closed_for(&broker, version, &Publish::new("t", "x").retain(), 0x9A);
        closed_for(&broker, version, &Publish::new("t", "").retain(), 0x9A);
    }
    closed_for(&broker, Version::V5, &Publish::new("t", "x").with(Prop::TopicAlias(3)), 0x94);
    assert!(other.sent_so_far().is_empty());
    reached(&broker, "max_qos", 2);
    reached(&broker, "retain_available", 4);
    reached(&broker, "topic_alias_maximum", 1);
    broker.log_line(&["WARN", "QoS 2 is above max_qos", "client=breaks"]);
}

#[test]
fn a_subscription_is_granted_what_is_served_and_delivered_so() {
    let broker = Broker::with_config(NOTHING_FANCY);
    for version in VERSIONS {
        let mut client = broker.connect(Connect::new(version, "subscriber"));
        assert_eq!(client.subscribe_with(&[("a", 0), ("b", 1), ("c", 2)], &[]), [0, 1, 1]);
        broker.publish(Publish::new("c", "x").qos(1));
        assert_eq!(client.take().qos, 1);
    }
}

#[test]
fn filters_of_a_kind_that_is_not_served_are_refused_one_by_one() {
    let broker = Broker::with_config(NOTHING_FANCY);
    let filters = [("a/+", 0), ("b", 0), ("#", 1), ("$share/g/b", 0), ("$share/g/#", 0)];
    for (version, codes) in [(Version::V5, [0xA2, 0, 0xA2, 0x9E, 0x9E]), (Version::V311, [0x80, 0, 0x80, 0x80, 0x80])] {
        let mut client = broker.connect(Connect::new(version, "subscriber"));
        assert_eq!(client.subscribe_with(&filters, &[]), codes);
        broker.publish(Publish::new("a/b", "no"));
        broker.publish(Publish::new("b", "yes"));
        assert_eq!(client.take().text(), "yes");
    }
    reached(&broker, "wildcard_subscriptions", 4);
    reached(&broker, "shared_subscriptions", 4);
    broker.log_line(&["INFO", "client=subscriber", "listener=mqtt.tcp", "limit=shared_subscriptions"]);
    // As often as it was reached, and in the log once per connection.
    let lines = broker.stderr().lines().filter(|line| line.contains("wildcard_subscriptions")).count();
    assert_eq!(lines, 2);
}

#[test]
fn a_will_of_a_kind_that_is_not_served_is_refused_at_connect() {
    let broker = Broker::with_config(NOTHING_FANCY);
    for (will, code) in [(Publish::new("w", "x").qos(2), 0x9B), (Publish::new("w", "x").retain(), 0x9A)] {
        assert_eq!(refused(&broker, Connect::v5("a").will(will.clone())).code, code);
        // No return code says it before 5.0: it is closed without a CONNACK.
        let old = Client::try_connect(broker.mqtt(), &Connect::v311("a").will(will));
        assert_eq!(old.err(), Some(Lost::Closed));
    }
    let mut watcher = broker.connect(Connect::v5("watcher"));
    watcher.subscribe("w", 1);
    drop(broker.connect(Connect::v5("a").will(Publish::new("w", "good").qos(1))));
    assert_eq!(watcher.take().text(), "good");
}

#[test]
fn who_is_connected_keeps_what_it_was_told_over_a_reload() {
    let mut broker = Broker::with_config("");
    let mut old = broker.connect(Connect::v5("old"));
    broker.write_config(NOTHING_FANCY);
    assert!(!broker.reload().contains("takes a restart"));
    assert_eq!(old.publish(Publish::new("t", "x").qos(2).retain()), 0);
    assert_eq!(old.subscribe("t/#", 2), 2);
    let mut new = broker.connect(Connect::v5("new"));
    assert_eq!(new.subscribe("t/#", 2), 0xA2);
    new.send_publish(&Publish::new("t", "x").qos(2).id(9));
    assert_eq!(new.expect_closed(), Some(0x9B));
}

#[test]
fn text_that_is_none_is_refused_where_it_is_looked_at() {
    let text = |payload: &[u8], qos| Publish::new("t", payload).qos(qos).with(Prop::PayloadFormat(1));
    for checked in [false, true] {
        let broker = Broker::with_config(&format!("[mqtt]\ncheck_payload_format = {checked}\n"));
        let mut watcher = broker.connect(Connect::v5("watcher"));
        watcher.subscribe("t", 2);
        let mut client = broker.connect(Connect::v5("a"));
        let code = if checked { 0x99 } else { 0 };
        for qos in [1, 2] {
            assert_eq!(client.publish(text(b"\xFF", qos)), code);
            assert_eq!(client.publish(text("\u{e9}".as_bytes(), qos)), 0);
            assert_eq!(client.publish(Publish::new("t", b"\xFF").qos(qos)), 0, "it does not say that it is text");
        }
        assert_eq!(watcher.sent_so_far().len(), if checked { 4 } else { 6 });
        if checked {
            client.send_publish(&text(b"\xFF", 0));
            assert_eq!(client.expect_closed(), Some(0x99));
            reached(&broker, "check_payload_format", 3);
            assert_eq!(refused(&broker, Connect::v5("b").will(text(b"\xFF", 0))).code, 0x99);
        }
        broker.connect(Connect::v5("b").will(text(b"good", 0)));
    }
}

#[test]
fn keep_alives_are_kept_within_bounds() {
    let broker = Broker::with_config("[mqtt]\nmin_keepalive_s = 10\nmax_keepalive_s = 20\n");
    for (asked, told) in [(0, Some(20)), (5, Some(10)), (10, None), (20, None), (21, Some(20))] {
        let client = broker.connect(Connect::v5("a").keep_alive_s(asked));
        let is_told = client.connack.props.iter().find_map(|prop| match prop {
            Prop::ServerKeepAliveS(seconds) => Some(*seconds),
            _ => None,
        });
        assert_eq!(is_told, told, "asked {asked}");
        let old = Client::connect(broker.mqtt(), &Connect::v311("old").keep_alive_s(asked));
        assert_eq!(old.connack.code, if told.is_some() { 2 } else { 0 }, "asked {asked}");
    }
    reached(&broker, "keepalive_s", 6);
    let broker = Broker::with_config("[mqtt]\nmin_keepalive_s = 10\n");
    let client = broker.connect(Connect::v5("a").keep_alive_s(0));
    assert!(!client.connack.props.iter().any(|prop| matches!(prop, Prop::ServerKeepAliveS(_))), "none is allowed");
    let client = broker.connect(Connect::v5("a").keep_alive_s(9));
    assert!(client.connack.props.contains(&Prop::ServerKeepAliveS(10)));
    let words = Broker::prepared().config("[mqtt]\nmin_keepalive_s = 2\nmax_keepalive_s = 1\n").fails_to_start();
    assert!(words.contains("min_keepalive_s") && words.contains("must not be above mqtt.max_keepalive_s"), "{words}");
}

#[test]
fn each_listener_has_limits_of_its_own() {
    let port = lease();
    let further = format!("127.0.0.1:{}", port.port);
    let config = format!("[mqtt]\nmax_subscriptions = 1\n[[mqtt.listener]]\naddress = \"{further}\"\nmax_qos = 0\n");
    let broker = Broker::with_config(&config);
    let mut there = Client::connect(further.parse().expect("an address"), &Connect::v5("there"));
    assert!(there.connack.props.contains(&Prop::MaximumQos(0)), "{:?}", there.connack);
    // What it does not say itself it has of [mqtt].
    assert_eq!(there.subscribe_with(&[("a", 2), ("b", 0)], &[]), [0, 0x97]);
    let mut here = broker.connect(Connect::v5("here"));
    assert_eq!(here.subscribe_with(&[("a", 2), ("b", 0)], &[]), [2, 0x97]);
    assert_eq!(here.publish(Publish::new("a", "x").qos(2)), 0);
    assert_eq!(there.take().qos, 0);
    there.send_publish(&Publish::new("a", "x").qos(1).id(1));
    assert_eq!(there.expect_closed(), Some(0x9B));
}

#[test]
fn a_refused_message_is_only_not_taken_at_qos_0() {
    let broker = Broker::with_config("[mqtt]\nmax_topic_levels = 2\n");
    let mut client = broker.connect(Connect::v5("a"));
    client.send_publish(&Publish::new("a/b/c", "x"));
    client.ping();
    metric(&broker, "millstream_mqtt_refused_messages_total", &[("reason", "topic")], 1.0);
}
