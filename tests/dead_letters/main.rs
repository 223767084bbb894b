//! What is given up is found in the dead-letter topic, once, with headers that say why, when, from whom and for whom.

mod publishers;
mod queues;
mod settings;

use std::time::{SystemTime, UNIX_EPOCH};

use support::broker::Broker;
use support::kafka::{Kafka, Record};
use support::mqtt::{Client, Connect, Prop, Publish};
use support::prometheus::Scrape;

/// A configuration with dead letters and one shard: who shares a letter then does not hang on client ids.
fn toml(rest: &str) -> String {
    format!("shards = 1\n{rest}\n[bridge]\ndead_letter_topic = \"lost\"\n")
}

/// Every dead letter in the order of the log, once there are as many; there are not more.
#[track_caller]
fn letters(broker: &Broker, count: usize) -> Vec<Record> {
    let letters = Kafka::at(broker.kafka()).read("lost", count);
    assert_eq!(letters.len(), count, "{letters:#?}");
    letters
}

/// Whose message it is, what it says, and why and for whom it is given up; these in their order.
fn told(letter: &Record) -> String {
    let header = |name: &str| {
        let mut values = letter.header(&format!("mqtt.{name}"));
        values.sort();
        values.join(",")
    };
    let (from, text) = (header("client_id"), letter.text());
    let (reason, limit, whom) = (header("dead_letter.reason"), header("dead_letter.limit"), header("dead_letter.for"));
    format!("{from}: {text} ({reason}{}{limit}) for {whom}", if limit.is_empty() { "" } else { " " })
}

/// The same of all of them.
#[track_caller]
fn all_told(broker: &Broker, count: usize) -> Vec<String> {
    letters(broker, count).iter().map(told).collect()
}

/// A durable session whose client is away.
#[track_caller]
fn away(broker: &Broker, connect: Connect, filter: &str) {
    let mut client = broker.connect(connect.durable());
    client.subscribe(filter, 2);
    client.disconnect();
}

/// A subscriber that gets one message at QoS 1, and acknowledges none.
#[track_caller]
fn slow(broker: &Broker, client_id: &str, filter: &str) -> Client {
    let mut client = broker.connect(Connect::v5(client_id).with(Prop::ReceiveMaximum(1)));
    client.subscribe(filter, 1);
    client
}

/// Publishes these numbers at QoS 1, one after the other.
#[track_caller]
fn publish(broker: &Broker, topic: &str, numbers: impl Iterator<Item = u32>) {
    let mut publisher = broker.connect(Connect::v5("publisher"));
    for number in numbers {
        assert_eq!(publisher.publish(Publish::new(topic, number.to_string()).qos(1)), 0);
    }
    publisher.disconnect();
}

/// What a metric says.
#[track_caller]
fn value(broker: &Broker, name: &str, labels: &[(&str, &str)]) -> f64 {
    Scrape::of(broker.admin()).value(name, labels).unwrap_or_else(|| panic!("{name} {labels:?}"))
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_millis() as i64
}
