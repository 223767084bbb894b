//! How much may be retained, and what becomes of the rest.

use support::broker::Broker;
use support::mqtt::{Connect, Prop, Publish};
use support::prometheus::Scrape;

const QUOTA_EXCEEDED: u8 = 0x97;

fn kept(topic: &str, payload: &str, qos: u8) -> Publish {
    Publish::new(topic, payload).qos(qos).retain()
}

/// What a new subscriber gets.
fn retained(broker: &Broker, filter: &str) -> Vec<(String, String)> {
    let mut client = broker.connect(Connect::v5("").clean(true));
    client.subscribe(filter, 0);
    let mut found: Vec<_> = client.sent_so_far().into_iter().map(|got| (got.topic.clone(), got.text())).collect();
    found.sort();
    found
}

fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(topic, payload)| ((*topic).to_owned(), (*payload).to_owned())).collect()
}

fn not_retained(broker: &Broker, reason: &str) -> f64 {
    let scrape = Scrape::of(broker.admin());
    scrape.value("millstream_mqtt_not_retained_messages_total", &[("reason", reason)]).expect("a count")
}

#[test]
fn one_too_many_is_refused_or_delivered_and_not_kept() {
    // One shard: what two clients publish has an order then.
    let mut broker = Broker::with_config("shards = 1\n[mqtt]\nmax_retained_messages = 2\n");
    let mut live = broker.connect(Connect::v5("live"));
    live.subscribe("#", 0);
    let mut new = broker.connect(Connect::v5("new"));
    let mut old = broker.connect(Connect::v311("old"));
    assert_eq!(new.publish(kept("a", "1", 1)), 0);
    assert_eq!(old.publish(kept("b", "1", 1)), 0);

    // Who can be told is told, and nobody gets it.
    assert_eq!(new.publish(kept("c", "refused", 1)), QUOTA_EXCEEDED);
    assert_eq!(new.publish(kept("c", "refused", 2)), QUOTA_EXCEEDED);
    // For who cannot it is a message like any other.
    assert_eq!(new.publish(kept("c", "new, QoS 0", 0)), 0);
    new.ping();
    assert_eq!(old.publish(kept("c", "old, QoS 1", 1)), 0);
    assert_eq!(old.publish(kept("c", "old, QoS 2", 2)), 0);
    // A will has nobody to be told.
    let will = Connect::v5("dies").will(kept("c", "will", 1));
    drop(broker.connect(will));
    assert_eq!(live.take_until("will"), ["1", "1", "new, QoS 0", "old, QoS 1", "old, QoS 2"]);
    assert_eq!(retained(&broker, "#"), pairs(&[("a", "1"), ("b", "1")]));
    assert_eq!(not_retained(&broker, "messages"), 6.0);
    let refused = Scrape::of(broker.admin()).value("millstream_mqtt_refused_messages_total", &[("reason", "retained")]);
    assert_eq!(refused, Some(2.0));
    broker.log_line(&["not retained", "mqtt.max_retained_messages"]);
    assert_eq!(broker.stderr().matches("mqtt.max_retained_messages").count(), 1, "once a minute");

    // What is there can be changed and cleared, and makes room then.
    assert_eq!(new.publish(kept("a", "22", 1)), 0);
    assert_eq!(old.publish(kept("b", "", 1)), 0);
    assert_eq!(new.publish(kept("c", "at last", 2)), 0);
    broker.kill9_and_restart();
    assert_eq!(retained(&broker, "#"), pairs(&[("a", "22"), ("c", "at last")]));

    // A reload takes other limits; nothing that is there goes.
    broker.write_config("[mqtt]\nmax_retained_messages = 1\nmax_retained_bytes = 0\n");
    broker.reload();
    let mut new = broker.connect(Connect::v5("new"));
    assert_eq!(new.publish(kept("d", "x", 1)), QUOTA_EXCEEDED);
    assert_eq!(retained(&broker, "#"), pairs(&[("a", "22"), ("c", "at last")]));
    broker.write_config("[mqtt]\nmax_retained_messages = 0\n");
    broker.reload();
    assert_eq!(new.publish(kept("d", "x", 1)), 0);
}

#[test]
fn bytes_are_bounded_and_an_old_value_is_not_taken_for_a_new_one() {
    // Room for one on a topic of one level.
    let room = 176 + 80 + 192 + "t".len() + 10 + "new".len();
    let mut broker = Broker::with_config(&format!("[mqtt]\nmax_retained_bytes = {room}\n"));
    let mut new = broker.connect(Connect::v5("new"));
    let mut old = broker.connect(Connect::v311("old"));
    assert_eq!(new.publish(kept("t", "0123456789", 1)), 0);
    assert_eq!(new.publish(kept("u", "", 1)), 0);
    assert_eq!(new.publish(kept("u", "x", 1)), QUOTA_EXCEEDED);
    assert_eq!(new.publish(kept("t", "0123456789+", 1)), QUOTA_EXCEEDED);
    let with_property = kept("t", "0123456789", 1).with(Prop::user("a", "b"));
    assert_eq!(new.publish(with_property), QUOTA_EXCEEDED, "properties count");
    assert_eq!(retained(&broker, "#"), pairs(&[("t", "0123456789")]), "what was refused changes nothing");
    assert_eq!(not_retained(&broker, "bytes"), 3.0);
    // Taken and not kept: the value before it is not the newest any more, after a restart neither.
    assert_eq!(old.publish(kept("t", "0123456789+", 1)), 0);
    assert_eq!(retained(&broker, "#"), []);
    broker.kill9_and_restart();
    assert_eq!(retained(&broker, "#"), []);
}
