//! Kafka for scripts, spoken by librdkafka.

use crate::{PATIENCE, eventually};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{DeliveryResult, Headers, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A record as a consumer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its partition.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// Milliseconds since 1970.
    pub timestamp_ms: Option<i64>,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its value; `None` is a null, not an empty value.
    pub value: Option<Vec<u8>>,
    /// Its headers, in order, duplicates and all.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl Record {
    fn of(message: &impl Message) -> Record {
        let headers = message.headers().map_or_else(Vec::new, |headers| {
            let owned = |value: &[u8]| value.to_vec();
            let pair = |header: rdkafka::message::Header<'_, &[u8]>| (header.key.to_owned(), header.value.map(owned));
            headers.iter().map(pair).collect()
        });
        Record {
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis(),
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers,
        }
    }

    /// The value as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.value.as_deref().unwrap_or_default()).into_owned()
    }

    /// The key as text.
    pub fn key_text(&self) -> String {
        String::from_utf8_lossy(self.key.as_deref().unwrap_or_default()).into_owned()
    }

    /// Every value of the header of this name, in order.
    pub fn header(&self, name: &str) -> Vec<String> {
        let named = self.headers.iter().filter(|(key, _)| key == name);
        named.map(|(_, value)| String::from_utf8_lossy(value.as_deref().unwrap_or(b"null")).into()).collect()
    }
}

/// The Kafka listener of a broker.
#[derive(Debug, Clone, Copy)]
pub struct Kafka {
    address: SocketAddr,
    user: Option<(&'static str, &'static str)>,
}

impl Kafka {
    /// The listener at this address.
    pub fn at(address: SocketAddr) -> Kafka {
        Kafka { address, user: None }
    }

    /// The same for clients that authenticate with SASL PLAIN.
    pub fn as_user(self, name: &'static str, password: &'static str) -> Kafka {
        Kafka { user: Some((name, password)), ..self }
    }

    /// What every client here starts from.
    pub fn config(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", self.address.to_string())
            .set("broker.address.family", "v4")
            // A killed broker is back at once, and so should be its clients.
            .set("reconnect.backoff.ms", "20")
            .set("reconnect.backoff.max.ms", "200")
            .set("topic.metadata.refresh.interval.ms", "1000")
            .set("log_level", "3");
        if let Some((name, password)) = self.user {
            config
                .set("security.protocol", "sasl_plaintext")
                .set("sasl.mechanism", "PLAIN")
                .set("sasl.username", name)
                .set("sasl.password", password);
        }
        config
    }

    // ---- what is there ----

    /// Topics and the number of their partitions; internal ones too, if the broker tells.
    #[track_caller]
    pub fn topics(&self) -> HashMap<String, usize> {
        let client = self.bare_consumer();
        let metadata = client.fetch_metadata(None, PATIENCE).expect("metadata");
        let topics = metadata.topics().iter();
        topics.map(|topic| (topic.name().to_owned(), topic.partitions().len())).collect()
    }

    /// The number of partitions of a topic that exists or is about to.
    #[track_caller]
    pub fn partitions(&self, topic: &str) -> i32 {
        let client = self.bare_consumer();
        eventually(&format!("the topic {topic}"), || {
            let metadata = client.fetch_metadata(Some(topic), PATIENCE).ok()?;
            let topic = metadata.topics().first()?;
            let count = topic.partitions().len() as i32;
            (topic.error().is_none() && count > 0).then_some(count)
        })
    }

    /// Log start and high watermark of a partition.
    #[track_caller]
    pub fn watermarks(&self, topic: &str, partition: i32) -> (i64, i64) {
        let client = self.bare_consumer();
        let watermarks = client.fetch_watermarks(topic, partition, PATIENCE);
        watermarks.expect("watermarks")
    }

    fn bare_consumer(&self) -> BaseConsumer {
        let mut config = self.config();
        config.set("group.id", "bare").set("enable.auto.commit", "false").set("allow.auto.create.topics", "false");
        config.create().expect("a consumer")
    }

    // ---- reading ----

    /// Everything in the topic, by partition and offset, once it holds at least `count` records.
    #[track_caller]
    pub fn read(&self, topic: &str, count: usize) -> Vec<Record> {
        let partitions = self.partitions(topic);
        let client = self.bare_consumer();
        let ranges = eventually(&format!("{count} records in {topic}"), || {
            let mut ranges = Vec::new();
            for partition in 0..partitions {
                let range = client.fetch_watermarks(topic, partition, PATIENCE);
                ranges.push(range.expect("watermarks"));
            }
            let total: i64 = ranges.iter().map(|(low, high)| high - low).sum();
            (total >= count as i64).then_some(ranges)
        });
        read_ranges(&client, topic, &ranges)
    }

    /// The texts of the values in the topic, once it holds at least `count` records.
    #[track_caller]
    pub fn texts(&self, topic: &str, count: usize) -> Vec<String> {
        let records = self.read(topic, count);
        records.iter().map(Record::text).collect()
    }

    /// The first offset of the partition that is not older than this, if there is one.
    #[track_caller]
    pub fn offset_at(&self, topic: &str, partition: i32, timestamp_ms: i64) -> Option<i64> {
        let mut asked = TopicPartitionList::new();
        asked.add_partition_offset(topic, partition, Offset::Offset(timestamp_ms)).expect("a partition");
        let told = self.bare_consumer().offsets_for_times(asked, PATIENCE);
        let told = told.expect("offsets for times");
        match told.elements_for_topic(topic)[0].offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        }
    }

    // ---- groups ----

    /// A member of this group on this topic, which commits only by hand.
    #[track_caller]
    pub fn join(&self, group: &str, topic: &str) -> BaseConsumer {
        self.join_with(group, topic, &[])
    }

    /// The same with more settings.
    #[track_caller]
    pub fn join_with(&self, group: &str, topic: &str, settings: &[(&str, &str)]) -> BaseConsumer {
        let mut config = self.config();
        config
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .set("session.timeout.ms", "6000")
            .set("heartbeat.interval.ms", "500");
        for (name, value) in settings {
            config.set(*name, *value);
        }
        let consumer: BaseConsumer = config.create().expect("a consumer");
        consumer.subscribe(&[topic]).expect("a subscription");
        consumer
    }

    /// What the group has committed, by partition; partitions without a commit are absent.
    #[track_caller]
    pub fn committed(&self, group: &str, topic: &str) -> HashMap<i32, i64> {
        let mut config = self.config();
        config.set("group.id", group);
        let client: BaseConsumer = config.create().expect("a consumer");
        let mut asked = TopicPartitionList::new();
        asked.add_partition_range(topic, 0, self.partitions(topic) - 1);
        let told = eventually("the committed offsets", || client.committed_offsets(asked.clone(), PATIENCE).ok());
        let elements = told.elements_for_topic(topic);
        let committed = elements.iter().filter_map(|element| match element.offset() {
            Offset::Offset(offset) => Some((element.partition(), offset)),
            _ => None,
        });
        committed.collect()
    }

    // ---- writing ----

    /// Produces these keys and values, and waits until each is acknowledged.
    #[track_caller]
    pub fn produce(&self, topic: &str, records: &[(&str, &str)], settings: &[(&str, &str)]) {
        let failures = self.try_produce(topic, records, settings);
        assert!(failures.is_empty(), "not produced: {failures:?}");
    }

    /// Produces these keys and values, waits until each is answered, and gives the errors.
    #[track_caller]
    pub fn try_produce(&self, topic: &str, records: &[(&str, &str)], settings: &[(&str, &str)]) -> Vec<String> {
        let mut config = self.config();
        for (name, value) in settings {
            config.set(*name, *value);
        }
        let producer: BaseProducer<Failures> = config.create_with_context(Failures::default()).expect("a producer");
        for (key, value) in records {
            let record = BaseRecord::to(topic).key(*key).payload(*value);
            producer.send(record).map_err(|(error, _)| error).expect("room in the queue");
        }
        producer.flush(PATIENCE).expect("each is answered in time");
        producer.context().0.lock().expect("no panic in a callback").clone()
    }

    /// An admin client.
    pub fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.config().create().expect("an admin client")
    }

    /// Creates a topic with these settings; the error is the broker's.
    #[track_caller]
    pub fn create_topic(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) -> Result<(), RDKafkaErrorCode> {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        for (name, value) in settings {
            topic = topic.set(name, value);
        }
        let admin = self.admin();
        let results = wait(admin.create_topics([&topic], &AdminOptions::new()));
        let result = results.expect("an answer").remove(0);
        result.map(|_| ()).map_err(|(_, code)| code)
    }

    /// Deletes a topic; the error is the broker's.
    #[track_caller]
    pub fn delete_topic(&self, name: &str) -> Result<(), RDKafkaErrorCode> {
        let admin = self.admin();
        let results = wait(admin.delete_topics(&[name], &AdminOptions::new()));
        let result = results.expect("an answer").remove(0);
        result.map(|_| ()).map_err(|(_, code)| code)
    }
}

/// Waits for one of librdkafka's futures.
pub fn wait<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime").block_on(future)
}

fn read_ranges(client: &BaseConsumer, topic: &str, ranges: &[(i64, i64)]) -> Vec<Record> {
    let mut wanted = TopicPartitionList::new();
    for (partition, (low, high)) in ranges.iter().enumerate() {
        if low < high {
            wanted.add_partition_offset(topic, partition as i32, Offset::Offset(*low)).expect("a partition");
        }
    }
    // By their last records: a compacted partition has gaps before.
    let mut left = ranges.iter().filter(|(low, high)| low < high).count();
    client.assign(&wanted).expect("an assignment");
    let mut records = Vec::new();
    let deadline = Instant::now() + 3 * PATIENCE;
    while left > 0 {
        assert!(Instant::now() < deadline, "{left} partitions of {topic} do not come to their end");
        let Some(Ok(message)) = client.poll(Duration::from_millis(100)) else {
            continue;
        };
        // Records that arrived since the watermarks were taken are not asked for.
        let end = ranges[message.partition() as usize].1;
        if message.offset() < end {
            records.push(Record::of(&message));
        }
        left -= usize::from(message.offset() + 1 == end);
    }
    records.sort_by_key(|record| (record.partition, record.offset));
    records
}

/// Polls until it has this many records, or patience ends.
#[track_caller]
pub fn poll_records(consumer: &BaseConsumer, count: usize) -> Vec<Record> {
    let deadline = Instant::now() + 2 * PATIENCE;
    let mut records = Vec::new();
    while records.len() < count {
        let got = records.len();
        assert!(Instant::now() < deadline, "{got} of {count} records came");
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
            records.push(Record::of(&message));
        }
    }
    records
}

/// One record if it is there in time; errors such as a lost connection are passed over.
pub fn poll_record(consumer: &BaseConsumer, wait: Duration) -> Option<Record> {
    let message = consumer.poll(wait)?.ok()?;
    Some(Record::of(&message))
}

/// What a producer was refused.
#[derive(Debug, Default)]
struct Failures(Mutex<Vec<String>>);

impl ClientContext for Failures {}

impl ProducerContext for Failures {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, _opaque: ()) {
        if let Err((error, _)) = result {
            let failures = self.0.lock();
            failures.expect("no panic in a callback").push(error.to_string());
        }
    }
}
