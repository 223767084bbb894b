//! What topics keep, what is deleted of them, and what queues keep all the same; as librdkafka asks for it.

use rdkafka::TopicPartitionList;
use rdkafka::admin::{AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::types::RDKafkaErrorCode;
use std::fs;
use support::broker::Broker;
use support::kafka::{Kafka, poll_records, wait};
use support::mqtt::{Connect, Publish};
use support::prometheus::Scrape;
use support::{PATIENCE, eventually, within};

/// What a checkpoint lets go, goes soon.
const OFTEN: &str = "[bridge]\ncheckpoint_interval_s = 1\nsegment_bytes = 65536\n";

fn with_rule(topic: &str, topic_config: &str) -> String {
    format!(
        "{OFTEN}[[bridge.rule]]\nfilter = \"#\"\ntopic = \"{topic}\"\npartitions = 1\ntopic_config = \"{topic_config}\"\n"
    )
}

fn describe(kafka: &Kafka, topic: &str, name: &str) -> String {
    let answer = wait(kafka.admin().describe_configs([&ResourceSpecifier::Topic(topic)], &AdminOptions::new()));
    let resource = answer.expect("an answer").remove(0).expect("a topic");
    let value = resource.get(name).expect("a setting").value.clone();
    value.expect("a value")
}

/// Gives a topic these settings, and takes away all others.
fn alter(kafka: &Kafka, topic: &str, settings: &[(&str, &str)]) {
    let mut all = AlterConfig::new(ResourceSpecifier::Topic(topic));
    for (name, value) in settings {
        all = all.set(name, value);
    }
    let answer = wait(kafka.admin().alter_configs([&all], &AdminOptions::new()));
    answer.expect("an answer").remove(0).expect("changed");
}

/// Deletes what is below an offset.
fn delete_records(kafka: &Kafka, topic: &str, offset: i64) {
    let mut below = TopicPartitionList::new();
    below.add_partition_offset(topic, 0, rdkafka::Offset::Offset(offset)).expect("a partition");
    let answer = wait(kafka.admin().delete_records(&below, &AdminOptions::new())).expect("an answer");
    answer.elements()[0].error().expect("deleted");
}

fn folders_of(broker: &Broker, topic: &str) -> usize {
    let topics = fs::read_dir(broker.data_dir().join("topics")).expect("the topics' folder");
    let names = topics.map(|entry| entry.expect("an entry").file_name().into_string().expect("text"));
    names.filter(|name| name.starts_with(&format!("{topic}."))).count()
}

#[test]
fn a_partition_keeps_so_many_bytes_and_a_group_behind_begins_anew() {
    const KEPT_BYTES: f64 = 262_144.0;
    let broker = Broker::with_config(&with_rule("t", "retention.bytes=262144"));
    let kafka = Kafka::at(broker.kafka());
    let mut publisher = broker.connect(Connect::v311("publisher"));
    let mut publish = |count: usize| {
        for _ in 0..count {
            publisher.publish(Publish::new("x", [b'x'; 10_000]).qos(1).id(1));
        }
    };
    publish(5);
    let member = kafka.join("behind", "t");
    assert_eq!(poll_records(&member, 5)[0].offset, 0);
    let mut read = TopicPartitionList::new();
    read.add_partition_offset("t", 0, rdkafka::Offset::Offset(2)).expect("a partition");
    member.commit(&read, CommitMode::Sync).expect("committed");
    drop(member);

    publish(95);
    let size = || Scrape::of(broker.admin()).value("millstream_log_size_bytes", &[("topic", "t"), ("partition", "0")]);
    let size = || size().expect("a size");
    within(4 * PATIENCE, "the topic shrinks", || (size() <= 1.25 * KEPT_BYTES).then_some(()));
    let (low, high) = kafka.watermarks("t", 0);
    assert!(low > 5 && high == 100 && size() > 0.5 * KEPT_BYTES, "{low} to {high}, {} bytes", size());
    let kept = kafka.read("t", (high - low) as usize);
    assert_eq!(kept.iter().map(|record| record.offset).collect::<Vec<_>>(), (low..high).collect::<Vec<_>>());
    let scrape = Scrape::of(broker.admin());
    assert!(scrape.value("millstream_log_deleted_segments_total", &[]).is_some_and(|segments| segments >= 10.0));
    assert_eq!(scrape.value("millstream_log_pinned_bytes", &[]), Some(0.0));
    // What it was to go on with is no more.
    assert_eq!(kafka.committed("behind", "t")[&0], 2);
    assert_eq!(poll_records(&kafka.join("behind", "t"), 1)[0].offset, low);
}

#[test]
fn records_go_when_they_are_old_and_settings_survive_a_kill() {
    let mut broker = Broker::with_config(OFTEN);
    let kafka = Kafka::at(broker.kafka());
    for topic in ["short", "altered"] {
        kafka.create_topic(topic, 1, &[("retention.ms", "500")]).expect("made");
        kafka.produce(topic, &[("k", "old")], &[]);
    }
    for topic in ["short", "altered"] {
        eventually("what is old goes", || (kafka.watermarks(topic, 0) == (1, 1)).then_some(()));
    }
    assert_eq!(describe(&kafka, "altered", "retention.ms"), "500");
    alter(&kafka, "altered", &[("retention.ms", "-1"), ("segment.ms", "77")]);
    broker.kill9_and_restart();
    assert_eq!(describe(&kafka, "altered", "retention.ms"), "-1");
    assert_eq!(describe(&kafka, "altered", "segment.ms"), "77");
    // Both at once: when the one is gone, the other had its chance to go.
    kafka.produce("altered", &[("k", "new")], &[]);
    kafka.produce("short", &[("k", "new")], &[]);
    eventually("what is old goes again", || (kafka.watermarks("short", 0) == (2, 2)).then_some(()));
    assert_eq!(kafka.watermarks("altered", 0), (1, 2));
    assert_eq!(kafka.texts("altered", 1), ["new"]);
}

#[test]
fn deleted_records_stay_away() {
    let mut broker = Broker::with_config(OFTEN);
    let kafka = Kafka::at(broker.kafka());
    kafka.create_topic("t", 1, &[]).expect("made");
    kafka.produce("t", &[("k", "a"), ("k", "b"), ("k", "c")], &[]);
    delete_records(&kafka, "t", 2);
    assert_eq!(kafka.watermarks("t", 0), (2, 3));
    assert_eq!(kafka.texts("t", 1), ["c"]);
    broker.kill9_and_restart();
    assert_eq!(kafka.watermarks("t", 0), (2, 3));
    delete_records(&kafka, "t", 3);
    assert_eq!(kafka.watermarks("t", 0), (3, 3));
    kafka.produce("t", &[("k", "d")], &[]);
    assert_eq!(kafka.read("t", 1)[0].offset, 3);
}

#[test]
fn a_deleted_topic_gives_queues_what_they_point_to() {
    let mut broker = Broker::with_config(&with_rule("old", ""));
    let kafka = Kafka::at(broker.kafka());
    let absent = || Connect::v5("absent").durable();
    let mut client = broker.connect(absent());
    client.subscribe("x", 1);
    client.disconnect();
    for n in 0..5 {
        broker.publish(Publish::new("x", n.to_string()).qos(1));
    }
    let member = kafka.join("g", "old");
    poll_records(&member, 5);
    member.commit_consumer_state(CommitMode::Sync).expect("committed");
    drop(member);
    assert_eq!(kafka.delete_topic("old"), Err(RDKafkaErrorCode::PolicyViolation), "a rule leads there");
    broker.write_config(&with_rule("new", ""));
    broker.reload();
    kafka.delete_topic("old").expect("deleted");
    for n in 5..7 {
        broker.publish(Publish::new("x", n.to_string()).qos(1));
    }
    assert_eq!(kafka.topics().into_keys().collect::<Vec<_>>(), ["new"]);
    let pinned = || Scrape::of(broker.admin()).value("millstream_log_pinned_bytes", &[]);
    eventually("its records are pinned", || pinned().is_some_and(|bytes| bytes > 0.0).then_some(()));
    // Another of its name has nothing of it.
    kafka.create_topic("old", 1, &[]).expect("made");
    assert_eq!((kafka.watermarks("old", 0), kafka.committed("g", "old").len()), ((0, 0), 0));
    assert_eq!(folders_of(&broker, "old"), 2);
    broker.kill9_and_restart();
    broker.restart_gracefully();
    let mut client = broker.connect(absent());
    for n in 0..7 {
        assert_eq!(client.take().text(), n.to_string());
    }
    client.disconnect();
    within(4 * PATIENCE, "nobody needs it any more", || (folders_of(&broker, "old") == 1).then_some(()));
    kafka.produce("old", &[("k", "a")], &[]);
    assert_eq!(kafka.read("old", 1)[0].offset, 0);
}

#[test]
fn what_a_rule_names_holds_over_what_was_set() {
    let mut broker = Broker::with_config(&with_rule("t", "retention.ms=500000"));
    let kafka = Kafka::at(broker.kafka());
    assert_eq!(describe(&kafka, "t", "retention.ms"), "500000");
    alter(&kafka, "t", &[("retention.ms", "100000"), ("segment.ms", "90000")]);
    assert_eq!(describe(&kafka, "t", "retention.ms"), "100000");
    broker.restart_gracefully();
    assert_eq!(describe(&kafka, "t", "retention.ms"), "500000");
    assert_eq!(describe(&kafka, "t", "segment.ms"), "90000", "which the rule does not name");
    broker.write_config(&with_rule("t", "retention.ms=700000"));
    broker.reload();
    assert_eq!(describe(&kafka, "t", "retention.ms"), "700000");
    broker.kill9_and_restart();
    assert_eq!(describe(&kafka, "t", "retention.ms"), "700000");
    // What is no value is refused in the setting's own words.
    let wrong = Broker::prepared().config(&with_rule("t", "retention.ms=soon"));
    let said = wrong.fails_to_start();
    assert!(said.contains("bridge.rule[0].topic_config") && said.contains("\"soon\" is not a number"), "{said}");
}
