//! Kafka producers and the admin API.

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::types::RDKafkaErrorCode;
use support::broker::Broker;
use support::kafka::Kafka;

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("value {n}")).collect()
}

fn keyed(values: &[String]) -> Vec<(&str, &str)> {
    values.iter().map(|value| ("key", value.as_str())).collect()
}

#[test]
fn every_acks_and_compression_is_read_back() {
    let mut broker = Broker::start();
    let kafka = Kafka::at(broker.kafka());
    let values = numbers(200);
    let mut topics = Vec::new();
    for acks in ["0", "1", "all"] {
        for codec in ["none", "snappy", "lz4"] {
            let topic = format!("acks-{acks}-{codec}");
            kafka.create_topic(&topic, 1, &[]).expect("created");
            let settings = [("acks", acks), ("compression.type", codec), ("linger.ms", "20")];
            kafka.produce(&topic, &keyed(&values), &settings);
            assert_eq!(kafka.texts(&topic, 200), values, "{topic}");
            topics.push(topic);
        }
    }
    broker.kill9_and_restart();
    // What was read was durable, and acks=0 was read.
    for topic in topics {
        assert_eq!(kafka.texts(&topic, 200), values, "{topic}");
    }
}

#[test]
fn what_was_acknowledged_is_there_after_a_kill() {
    let mut broker = Broker::start();
    let kafka = Kafka::at(broker.kafka());
    kafka.create_topic("t", 1, &[]).expect("created");
    let values = numbers(50);
    for value in &values {
        kafka.produce("t", &[("key", value)], &[("acks", "all"), ("linger.ms", "0")]);
    }
    broker.kill9_and_restart();
    assert_eq!(kafka.texts("t", 50), values);
}

#[test]
fn an_idempotent_producer_is_served() {
    let broker = Broker::start();
    let kafka = Kafka::at(broker.kafka());
    kafka.create_topic("t", 2, &[]).expect("created");
    let values = numbers(500);
    let settings = [("enable.idempotence", "true"), ("batch.num.messages", "10")];
    kafka.produce("t", &keyed(&values), &settings);
    assert_eq!(kafka.texts("t", 500), values);
}

#[test]
fn nulls_headers_and_stamps_pass_through() {
    let broker = Broker::start();
    let kafka = Kafka::at(broker.kafka());
    kafka.create_topic("t", 1, &[]).expect("created");
    let producer: BaseProducer = kafka.config().create().expect("a producer");
    let headers = OwnedHeaders::new()
        .insert(Header { key: "a", value: Some("1") })
        .insert(Header::<&str> { key: "a", value: None });
    let record: BaseRecord<'_, str, str> = BaseRecord::to("t").key("tombstone");
    let record = record.timestamp(1_500_000_000_123).headers(headers);
    producer.send(record).map_err(|(error, _)| error).expect("queued");
    let record: BaseRecord<'_, str, str> = BaseRecord::to("t").payload("");
    producer.send(record).map_err(|(error, _)| error).expect("queued");
    producer.flush(support::PATIENCE).expect("produced");

    let records = kafka.read("t", 2);
    assert_eq!(records[0].value, None);
    assert_eq!(records[0].key_text(), "tombstone");
    assert_eq!(records[0].timestamp_ms, Some(1_500_000_000_123));
    let due = [("a".to_owned(), Some(b"1".to_vec())), ("a".to_owned(), None)];
    assert_eq!(records[0].headers, due);
    assert_eq!((&records[1].key, records[1].value.as_deref()), (&None, Some(&b""[..])));
}

#[test]
fn topics_are_created_and_stay() {
    let mut broker = Broker::start();
    let kafka = Kafka::at(broker.kafka());
    assert_eq!(kafka.create_topic("t", 7, &[]), Ok(()));
    assert_eq!(kafka.partitions("t"), 7);
    let again = kafka.create_topic("t", 7, &[]);
    assert_eq!(again, Err(RDKafkaErrorCode::TopicAlreadyExists));
    let invalid = kafka.create_topic("no/slash", 1, &[]);
    assert_eq!(invalid, Err(RDKafkaErrorCode::InvalidTopic));
    kafka.produce("t", &[("k", "v")], &[]);
    broker.kill9_and_restart();
    assert_eq!(kafka.partitions("t"), 7);
    assert_eq!(kafka.texts("t", 1), ["v"]);
}
