//! Members of a consumer group: librdkafka.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rdkafka::Message as _;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::account::{Account, Message};

/// Without rules, everything goes to this topic.
const TOPIC: &str = "mqtt";

/// One member, reading in a thread of its own.
pub struct Member {
    /// What it is called in the table.
    pub name: &'static str,
    read: Arc<Mutex<BTreeMap<i32, u64>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), KafkaError>>>,
}

impl Member {
    /// Joins the group.
    pub fn join(name: &'static str, kafka: &str, account: &Arc<Account>) -> Result<Member, KafkaError> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", kafka)
            .set("group.id", "backend")
            .set("client.id", name.replace(' ', "-"))
            .set("auto.offset.reset", "earliest")
            // What was counted is what is committed, also when partitions go to the other member; not what a
            // consumer takes out of its own queue while it is closed.
            .set("enable.auto.commit", "true")
            .set("enable.auto.offset.store", "false")
            .set("auto.commit.interval.ms", "1000")
            .create()?;
        consumer.subscribe(&[TOPIC])?;
        let (read, stop) = (Arc::<Mutex<BTreeMap<i32, u64>>>::default(), Arc::new(AtomicBool::new(false)));
        let (counts, asked, account) = (read.clone(), stop.clone(), account.clone());
        let thread = thread::spawn(move || {
            while !asked.load(Ordering::Relaxed) {
                match consumer.poll(Duration::from_millis(100)) {
                    Some(Ok(record)) => {
                        if let Some(message) = record.payload().and_then(parse) {
                            account.consumed(message);
                        }
                        consumer.store_offset_from_message(&record)?;
                        if let Ok(mut counts) = counts.lock() {
                            *counts.entry(record.partition()).or_default() += 1;
                        }
                    }
                    Some(Err(error)) => eprintln!("{name}: {error}"),
                    None => {}
                }
            }
            match consumer.commit_consumer_state(CommitMode::Sync) {
                // There is nothing new to commit.
                Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => Ok(()),
                committed => committed,
            }
            // Dropped here, it leaves the group.
        });
        Ok(Member { name, read, stop, thread: Some(thread) })
    }

    /// How much it has read, per partition.
    pub fn read(&self) -> BTreeMap<i32, u64> {
        self.read.lock().map(|read| read.clone()).unwrap_or_default()
    }

    /// Commits and leaves the group.
    pub fn leave(mut self) -> Result<(), Box<dyn Error>> {
        self.leave_in_place()
    }

    /// The same, and stays to be asked what it has read.
    pub fn leave_in_place(&mut self) -> Result<(), Box<dyn Error>> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else { return Ok(()) };
        Ok(thread.join().map_err(|_| format!("{} panicked", self.name))??)
    }
}

/// Sensor and number in what a sensor says.
fn parse(payload: &[u8]) -> Option<Message> {
    let text = std::str::from_utf8(payload).ok()?;
    let (sensor, rest) = text.strip_prefix("{\"sensor\":")?.split_once(",\"n\":")?;
    let (number, _) = rest.split_once(',')?;
    Some((sensor.parse().ok()?, number.parse().ok()?))
}
