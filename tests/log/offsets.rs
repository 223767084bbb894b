//! Offsets: where they start, that none is missing, that they stay, how time finds them.

use std::collections::HashMap;
use std::time::{Duration, Instant};
use support::broker::Broker;
use support::kafka::{Kafka, Record, poll_record};
use support::mqtt::{Connect, Publish};

/// Panics unless each partition holds 0, 1, 2, …
#[track_caller]
fn contiguous(records: &[Record]) {
    let mut next: HashMap<i32, i64> = HashMap::new();
    for record in records {
        let due = next.entry(record.partition).or_default();
        assert_eq!(record.offset, *due, "partition {}", record.partition);
        *due += 1;
    }
}

fn publish_numbers(broker: &Broker, numbers: std::ops::Range<u32>) {
    let mut client = broker.connect(Connect::v311("numbers"));
    for n in numbers {
        let topic = format!("sensors/{}", n % 20);
        client.publish(Publish::new(&topic, n.to_string()).qos(1).id(1));
    }
    client.disconnect();
}

#[test]
fn they_start_at_zero_and_none_is_missing() {
    let broker = Broker::start();
    publish_numbers(&broker, 0..300);
    let records = Kafka::at(broker.kafka()).read("mqtt", 300);
    assert_eq!(records.len(), 300);
    contiguous(&records);
}

#[test]
fn they_stay_through_restart_and_kill() {
    let mut broker = Broker::start();
    let kafka = Kafka::at(broker.kafka());
    publish_numbers(&broker, 0..100);
    let before = kafka.read("mqtt", 100);
    broker.kill9_and_restart();
    assert_eq!(kafka.read("mqtt", 100), before);
    publish_numbers(&broker, 100..200);
    let before = kafka.read("mqtt", 200);
    contiguous(&before);
    broker.restart_gracefully();
    assert_eq!(kafka.read("mqtt", 200), before);
    broker.kill9_and_restart();
    publish_numbers(&broker, 200..300);
    let after = kafka.read("mqtt", 300);
    contiguous(&after);
    assert_eq!(after.len(), 300);
    let old = after.iter().filter(|record| before.contains(record));
    assert_eq!(old.count(), 200, "bytes, stamps and places are as they were");
}

#[test]
fn they_stay_when_checkpoints_are_frequent() {
    let config = "[bridge]\ncheckpoint_interval_s = 1\n";
    let mut broker = Broker::with_config(config);
    let kafka = Kafka::at(broker.kafka());
    let started = Instant::now();
    let mut count = 0;
    while started.elapsed() < Duration::from_secs(3) {
        publish_numbers(&broker, count..count + 50);
        count += 50;
    }
    let before = kafka.read("mqtt", count as usize);
    broker.kill9_and_restart();
    assert_eq!(kafka.read("mqtt", count as usize), before);
    contiguous(&before);
}

#[test]
fn order_within_a_topic_is_the_publishers() {
    let broker = Broker::start();
    publish_numbers(&broker, 0..200);
    let mut last: HashMap<String, u32> = HashMap::new();
    for record in Kafka::at(broker.kafka()).read("mqtt", 200) {
        let n = record.text().parse().expect("a number");
        if let Some(before) = last.insert(record.key_text(), n) {
            assert!(before < n, "{before} before {n}");
        }
    }
}

#[test]
fn time_finds_offsets() {
    let broker = Broker::with_config("[[bridge.rule]]\nfilter = \"#\"\ntopic = \"t\"\npartitions = 1\n");
    let kafka = Kafka::at(broker.kafka());
    for n in 0..3 {
        broker.publish(Publish::new("x", n.to_string()).qos(1));
        // So that stamps differ.
        std::thread::sleep(Duration::from_millis(5));
    }
    let stamps: Vec<i64> = kafka.read("t", 3).iter().map(|record| record.timestamp_ms.expect("a timestamp")).collect();
    assert_eq!(kafka.offset_at("t", 0, 0), Some(0));
    assert_eq!(kafka.offset_at("t", 0, stamps[1]), Some(1));
    assert_eq!(kafka.offset_at("t", 0, stamps[1] + 1), Some(2));
    assert_eq!(kafka.offset_at("t", 0, stamps[2] + 1), None);
    assert_eq!(kafka.watermarks("t", 0), (0, 3));
}

#[test]
fn a_waiting_consumer_is_woken() {
    let broker = Broker::start();
    let kafka = Kafka::at(broker.kafka());
    broker.publish(Publish::new("t", "0").qos(1));
    // At the end of the log it asks to be kept waiting longer than this test lets it. (Not much
    // longer: its first fetch may name an empty partition only, and is kept waiting, too.)
    let settings = [("fetch.wait.max.ms", "4000")];
    let consumer = kafka.join_with("waiting", "mqtt", &settings);
    let first = support::eventually("the first record", || poll_record(&consumer, Duration::from_millis(100)));
    assert_eq!(first.text(), "0");
    assert_eq!(poll_record(&consumer, Duration::from_millis(500)), None);
    let asked = Instant::now();
    broker.publish(Publish::new("t", "1").qos(1));
    let second = poll_record(&consumer, support::PATIENCE);
    assert_eq!(second.map(|record| record.text()).as_deref(), Some("1"));
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
}
