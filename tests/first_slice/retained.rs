//! Retained messages.

use support::broker::Broker;
use support::mqtt::{Client, Connect, Publish, VERSIONS};

/// What a new subscriber of `filter` is told at once, as (topic, payload), sorted.
fn told(broker: &Broker, filter: &str) -> Vec<(String, String)> {
    let mut client = broker.connect(Connect::v5("told"));
    client.subscribe(filter, 1);
    client.subscribe("end", 1);
    client.publish(Publish::new("end", "end").qos(1));
    let mut told = Vec::new();
    loop {
        let got = client.take();
        if got.topic == "end" {
            break;
        }
        assert!(got.retain, "a retained message is marked: {got:?}");
        told.push((got.topic.clone(), got.text()));
    }
    client.disconnect();
    told.sort();
    told
}

fn pair(topic: &str, payload: &str) -> (String, String) {
    (topic.to_owned(), payload.to_owned())
}

#[test]
fn the_last_value_is_told_to_new_subscribers() {
    for version in VERSIONS {
        let broker = Broker::start();
        let mut from = broker.connect(Connect::new(version, "from"));
        for (topic, value) in [("a/x", "1"), ("a/y", "2"), ("b", "3"), ("a/x", "4")] {
            from.publish(Publish::new(topic, value).qos(1).retain());
        }
        from.publish(Publish::new("a/y", "not kept").qos(1));
        assert_eq!(told(&broker, "a/x"), [pair("a/x", "4")]);
        assert_eq!(told(&broker, "a/+"), [pair("a/x", "4"), pair("a/y", "2")]);
        assert_eq!(told(&broker, "#").len(), 3);
        assert_eq!(told(&broker, "c/#"), []);
    }
}

#[test]
fn an_empty_payload_clears() {
    let broker = Broker::start();
    let mut live = broker.connect(Connect::v311("live"));
    live.subscribe("a", 1);
    let mut from = broker.connect(Connect::v311("from"));
    from.publish(Publish::new("a", "1").qos(1).retain());
    from.publish(Publish::new("a", "").qos(1).retain());
    assert_eq!(told(&broker, "a"), []);
    // Whoever is subscribed sees both as ordinary messages.
    let got = [live.take(), live.take()];
    assert_eq!([got[0].text(), got[1].text()], ["1", ""]);
    assert!(got.iter().all(|publish| !publish.retain));
}

#[test]
fn a_live_message_is_not_marked_retained() {
    for version in VERSIONS {
        let broker = Broker::start();
        let mut client = broker.connect(Connect::new(version, "a"));
        client.subscribe("a", 1);
        client.publish(Publish::new("a", "1").qos(1).retain());
        assert!(!client.take().retain);
        // Subscribing again tells it again.
        client.subscribe("a", 1);
        assert!(client.take().retain);
    }
}

#[test]
fn a_retained_message_comes_at_the_lower_qos() {
    let broker = Broker::start();
    broker.publish(Publish::new("a", "1").qos(2).retain());
    for qos in [0, 1, 2] {
        let mut client = broker.connect(Connect::v311("a"));
        client.subscribe("a", qos);
        assert_eq!(client.take().qos, qos);
    }
}

#[test]
fn wildcards_do_not_reach_retained_dollar_topics() {
    let broker = Broker::start();
    broker.publish(Publish::new("a", "1").qos(1).retain());
    // Should the broker retain anything below $SYS, `#` does not tell it.
    assert_eq!(told(&broker, "#"), [pair("a", "1")]);
}

#[test]
fn shared_subscriptions_are_told_nothing_retained() {
    let broker = Broker::start();
    broker.publish(Publish::new("a", "old").qos(1).retain());
    let mut member = broker.connect(Connect::v5("member"));
    member.subscribe("$share/g/a", 1);
    broker.publish(Publish::new("a", "new").qos(1));
    assert_eq!(member.take().text(), "new");
}

#[test]
fn they_survive_kill_and_restart() {
    let mut broker = Broker::start();
    broker.publish(Publish::new("a", "1").qos(1).retain());
    broker.publish(Publish::new("b", "2").qos(2).retain());
    broker.publish(Publish::new("c", "3").qos(1).retain());
    broker.publish(Publish::new("c", "").qos(1).retain());
    broker.kill9_and_restart();
    assert_eq!(told(&broker, "#"), [pair("a", "1"), pair("b", "2")]);
    broker.publish(Publish::new("b", "").qos(1).retain());
    broker.restart_gracefully();
    assert_eq!(told(&broker, "#"), [pair("a", "1")]);
    broker.kill9_and_restart();
    assert_eq!(told(&broker, "#"), [pair("a", "1")]);
}

#[test]
fn many_of_them_reach_a_durable_subscriber_once() {
    let broker = Broker::start();
    let mut from = broker.connect(Connect::v311("from"));
    for n in 0..300 {
        from.publish(Publish::new(&format!("many/{n}"), "v").qos(1).retain());
    }
    let collect = |client: &mut Client| {
        let mut topics: Vec<String> = (0..300).map(|_| client.take().topic).collect();
        topics.sort();
        topics.dedup();
        topics.len()
    };
    let mut durable = broker.connect(Connect::v5("durable").durable());
    durable.subscribe("many/#", 2);
    assert_eq!(collect(&mut durable), 300);
    broker.publish(Publish::new("many/end", "end").qos(1));
    assert!(durable.take_until("end").is_empty());
}

#[test]
fn no_more_of_them_are_queued_than_a_queue_holds() {
    let broker = Broker::with_config("[mqtt]\nmax_queued_messages = 10\n");
    let mut from = broker.connect(Connect::v311("from"));
    for n in 0..30 {
        from.publish(Publish::new(&format!("many/{n}"), "v").qos(1).retain());
    }
    let mut durable = broker.connect(Connect::v5("durable").durable());
    durable.subscribe("many/#", 1);
    (0..10).for_each(|_| assert!(durable.take().retain));
    broker.publish(Publish::new("many/end", "end").qos(1));
    assert!(durable.take_until("end").is_empty());
    let metrics = support::http::get(broker.admin(), "/metrics").expect("metrics").body;
    assert!(metrics.contains("dropped_messages_total{reason=\"queue_full\"} 20\n"), "{metrics}");
}
