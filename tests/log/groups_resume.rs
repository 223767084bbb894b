//! Groups over the life and death of the broker.

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;
use support::broker::Broker;
use support::kafka::{Kafka, poll_record, poll_records};
use support::mqtt::{Connect, Publish};

fn publish_numbers(broker: &Broker, numbers: std::ops::Range<u32>) {
    let mut client = broker.connect(Connect::v311("numbers"));
    for n in numbers {
        let topic = format!("sensors/{}", n % 20);
        client.publish(Publish::new(&topic, n.to_string()).qos(1).id(1));
    }
    client.disconnect();
}

/// Reads `count` records, commits, leaves, and gives the sorted numbers.
fn read_and_commit(kafka: Kafka, group: &str, count: usize) -> Vec<u32> {
    let consumer = kafka.join(group, "mqtt");
    let numbers = read(&consumer, count);
    consumer.commit_consumer_state(CommitMode::Sync).expect("committed");
    numbers
}

fn read(consumer: &BaseConsumer, count: usize) -> Vec<u32> {
    let records = poll_records(consumer, count);
    let mut numbers: Vec<u32> = records.iter().map(|record| record.text().parse().expect("a number")).collect();
    numbers.sort_unstable();
    numbers
}

#[test]
fn a_group_goes_on_where_it_had_committed() {
    let mut broker = Broker::start();
    let kafka = Kafka::at(broker.kafka());
    publish_numbers(&broker, 0..50);
    assert_eq!(read_and_commit(kafka, "backend", 50), Vec::from_iter(0..50));
    let committed = kafka.committed("backend", "mqtt");
    assert_eq!(committed.values().sum::<i64>(), 50);

    broker.kill9_and_restart();
    assert_eq!(kafka.committed("backend", "mqtt"), committed);
    publish_numbers(&broker, 50..80);
    assert_eq!(read_and_commit(kafka, "backend", 30), Vec::from_iter(50..80));

    broker.restart_gracefully();
    publish_numbers(&broker, 80..90);
    assert_eq!(read_and_commit(kafka, "backend", 10), Vec::from_iter(80..90));
    // A new group reads from the beginning.
    assert_eq!(read_and_commit(kafka, "new", 90), Vec::from_iter(0..90));
}

#[test]
fn what_was_not_committed_comes_again() {
    let mut broker = Broker::start();
    let kafka = Kafka::at(broker.kafka());
    publish_numbers(&broker, 0..20);
    {
        let consumer = kafka.join("backend", "mqtt");
        assert_eq!(read(&consumer, 20), Vec::from_iter(0..20));
    }
    broker.kill9_and_restart();
    assert_eq!(kafka.committed("backend", "mqtt"), HashMap::new());
    assert_eq!(read_and_commit(kafka, "backend", 20), Vec::from_iter(0..20));
}

#[test]
fn a_member_lives_through_a_kill() {
    let mut broker = Broker::start();
    let kafka = Kafka::at(broker.kafka());
    publish_numbers(&broker, 0..20);
    let consumer = kafka.join("backend", "mqtt");
    assert_eq!(read(&consumer, 20), Vec::from_iter(0..20));
    consumer.commit_consumer_state(CommitMode::Sync).expect("committed");
    broker.kill9_and_restart();
    publish_numbers(&broker, 20..40);
    // A broker may have forgotten its members: until this one has joined again its commits are
    // refused, and what it read in between comes again.
    let mut seen = BTreeSet::new();
    support::eventually("all read and committed", || {
        if let Some(record) = poll_record(&consumer, Duration::from_millis(100)) {
            seen.insert(record.text().parse().expect("a number"));
        }
        let positions = consumer.position().expect("positions");
        let elements = positions.elements();
        let read: i64 = elements.iter().filter_map(|e| e.offset().to_raw()).sum();
        (read == 40 && consumer.commit_consumer_state(CommitMode::Sync).is_ok()).then_some(())
    });
    assert_eq!(seen, BTreeSet::from_iter(20..40_u32));
    let committed = kafka.committed("backend", "mqtt");
    assert_eq!(committed.values().sum::<i64>(), 40);
}

#[test]
fn groups_are_listed_and_described() {
    let broker = Broker::start();
    let kafka = Kafka::at(broker.kafka());
    publish_numbers(&broker, 0..1);
    let consumer = kafka.join_with("seen", "mqtt", &[("client.id", "watcher")]);
    assert_eq!(read(&consumer, 1), [0]);
    let told = consumer.fetch_group_list(None, support::PATIENCE);
    let told = told.expect("a list of groups");
    let group = told.groups().iter().find(|group| group.name() == "seen");
    let group = group.expect("the group is listed");
    assert_eq!((group.state(), group.members().len()), ("Stable", 1));
    assert_eq!(group.members()[0].client_id(), "watcher");
    assert_eq!(group.protocol_type(), "consumer");
}
