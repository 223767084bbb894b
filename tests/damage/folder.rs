//! A data folder with something of everything in it, and what must be found again.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use rdkafka::consumer::{CommitMode, Consumer};
use support::broker::Broker;
use support::kafka::{Kafka, poll_records};
use support::mqtt::{Connect, Publish};
use support::prometheus::Scrape;

pub const CONFIG: &str = "shards = 1\n[bridge]\ncheckpoint_interval_s = 1\n";
const BEFORE: u32 = 20;
const ALL: u32 = 60;
const PRODUCED: usize = 50;
const READ: usize = 10;

/// What need not be there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lost {
    /// Records of the topic that MQTT messages go to, and so their queue entries.
    pub mqtt: bool,
    pub session: bool,
    pub queue: bool,
    pub retained: bool,
    pub offsets: bool,
}

fn publish(broker: &Broker, numbers: std::ops::Range<u32>) {
    let mut device = broker.connect(Connect::v5("device"));
    for number in numbers {
        device.publish(Publish::new(&format!("a/{}", number % 7), number.to_string()).qos(1));
    }
    device.disconnect();
}

fn produce(kafka: Kafka, numbers: std::ops::Range<usize>) {
    let values: Vec<String> = numbers.map(|number| number.to_string()).collect();
    let records: Vec<(&str, &str)> = values.iter().map(|value| (value.as_str(), value.as_str())).collect();
    kafka.produce("t", &records, &[("enable.idempotence", "true")]);
}

fn wait_for_checkpoint(broker: &Broker) {
    support::eventually("a checkpoint", || {
        let open = Scrape::of(broker.admin()).value("millstream_journal_uncheckpointed_bytes", &[])?;
        (open == 0.0).then_some(())
    });
}

/// Fills a folder: topics, a durable session with a queue, retained messages, a group, an idempotent producer; some of it
/// in a checkpoint, some in the journal alone. The broker is killed.
pub fn fill(broker: &mut Broker) {
    let kafka = Kafka::at(broker.kafka());
    kafka.create_topic("t", 2, &[]).expect("created");
    let mut absent = broker.connect(Connect::v5("absent").durable());
    absent.subscribe("a/#", 1);
    absent.disconnect();
    broker.publish(Publish::new("kept", "21.5").qos(1).retain());
    publish(broker, 0..BEFORE);
    produce(kafka, 0..PRODUCED / 2);
    let member = kafka.join("backend", "t");
    assert_eq!(poll_records(&member, READ).len(), READ);
    member.commit_consumer_state(CommitMode::Sync).expect("committed");
    drop(member);
    wait_for_checkpoint(broker);
    publish(broker, BEFORE..ALL);
    produce(kafka, PRODUCED / 2..PRODUCED);
    broker.kill9();
}

/// Whether what a start serves is all but what may be lost.
pub fn check(broker: &Broker, lost: Lost, what: &str) {
    let kafka = Kafka::at(broker.kafka());
    let numbers = |values: Vec<String>| -> BTreeSet<u32> {
        values.iter().map(|value| value.parse().unwrap_or_else(|_| panic!("{what}: {value} was never sent"))).collect()
    };
    assert_eq!(numbers(kafka.texts("t", PRODUCED)).len(), PRODUCED, "{what}");
    if !lost.mqtt {
        let mut values = kafka.texts("mqtt", ALL as usize + 1);
        values.retain(|value| value != "21.5");
        assert_eq!(numbers(values), BTreeSet::from_iter(0..ALL), "{what}");
    }
    if !lost.offsets {
        let committed = kafka.committed("backend", "t");
        assert_eq!(committed.values().sum::<i64>(), READ as i64, "{what}: {committed:?}");
    }
    if !lost.retained {
        let mut client = broker.connect(Connect::v5(""));
        client.subscribe("kept", 0);
        assert_eq!(client.take().text(), "21.5", "{what}");
    }
    check_queue(broker, lost, what);
    // And it goes on.
    broker.publish(Publish::new("b", "more").qos(2));
    produce(kafka, PRODUCED..PRODUCED + 10);
    assert_eq!(kafka.texts("t", PRODUCED + 10).len(), PRODUCED + 10, "{what}");
}

fn check_queue(broker: &Broker, lost: Lost, what: &str) {
    let mut absent = broker.connect(Connect::v5("absent").durable());
    assert!(absent.connack.session_present || lost.session, "{what}");
    absent.subscribe("end", 1);
    broker.publish(Publish::new("end", "end").qos(1));
    let got: Vec<u32> = absent.take_until("end").iter().map(|value| value.parse().expect("a number")).collect();
    let may_miss = lost.mqtt || lost.session || lost.queue;
    assert!(may_miss || got == Vec::from_iter(0..ALL), "{what}: {got:?}");
    assert!(got.is_sorted() && got.iter().all(|number| *number < ALL), "{what}: {got:?}");
    absent.disconnect();
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        match entry.file_type().expect("its type").is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(fs::copy(entry.path(), to.join(entry.file_name())).expect("copied")),
        }
    }
}
