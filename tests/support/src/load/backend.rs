//! A Kafka consumer group that commits by hand, through all kills.

use super::run::Run;
use crate::PATIENCE;
use crate::kafka::{Kafka, Record, poll_record};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

const TOPIC: &str = "mqtt";
/// Records between two commits.
const COMMIT_EVERY: usize = 25;

/// What was read, by place, and what was committed, by partition.
#[derive(Debug, Default)]
struct Seen {
    records: BTreeMap<(i32, i64), String>,
    committed: HashMap<i32, i64>,
}

/// The consumer and what it knows.
#[derive(Debug)]
pub struct Backend {
    kafka: Kafka,
    group: String,
    seen: Mutex<Seen>,
}

impl Backend {
    /// A consumer of this group, not yet running.
    pub(super) fn new(kafka: Kafka, group: &str) -> Backend {
        Backend { kafka, group: group.to_owned(), seen: Mutex::default() }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // A poisoned lock only means that the consumer failed; its panic is the one to report.
        self.seen.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// Offsets whose commit was acknowledged.
    pub fn committed(&self) -> HashMap<i32, i64> {
        self.seen().committed.clone()
    }

    /// Panics if a committed offset that was known before is now lower.
    pub fn never_back(&self, before: &HashMap<i32, i64>) {
        let after = self.kafka.committed(&self.group, TOPIC);
        for (partition, offset) in before {
            let now = after.get(partition).copied().unwrap_or(-1);
            assert!(now >= *offset, "partition {partition}: {offset} fell to {now}");
        }
    }

    /// The text of each record it read, by partition and offset.
    pub(super) fn records(&self) -> BTreeMap<(i32, i64), String> {
        self.seen().records.clone()
    }

    /// Waits until it has read so many records.
    pub(super) fn wait_for(&self, count: usize, run: &Run) {
        let deadline = Instant::now() + 3 * PATIENCE;
        while !run.is_aborted() {
            let seen = self.seen().records.len();
            if seen >= count {
                return;
            }
            assert!(Instant::now() < deadline, "the group gets {seen} of {count}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Reads and commits until the run is over.
    pub(super) fn run(&self, run: &Run) {
        let _abort = run.abort_on_panic();
        let consumer = self.kafka.join(&self.group, TOPIC);
        let mut uncommitted = 0;
        while !run.is_over() {
            let Some(record) = poll_record(&consumer, Duration::from_millis(50)) else {
                continue;
            };
            self.take(record);
            uncommitted += 1;
            if uncommitted >= COMMIT_EVERY && self.commit(&consumer) {
                uncommitted = 0;
            }
        }
    }

    fn take(&self, record: Record) {
        let mut seen = self.seen();
        let place = (record.partition, record.offset);
        if let Some(committed) = seen.committed.get(&record.partition) {
            let offset = record.offset;
            assert!(offset >= *committed, "{committed} is committed, came {offset}");
        }
        let text = record.text();
        if let Some(before) = seen.records.insert(place, text.clone()) {
            assert_eq!(before, text, "{place:?} has changed");
        }
    }

    /// Commits what was read; a commit that meets a dead broker or a group that is being formed
    /// is tried again after the next record.
    ///
    /// A position is that of the present assignment: what was read before a rejoin and not
    /// committed has none, for it comes again.
    fn commit(&self, consumer: &BaseConsumer) -> bool {
        let positions = consumer.position().expect("positions of the assignment");
        let mut offsets = TopicPartitionList::new();
        let mut next = Vec::new();
        for element in positions.elements() {
            if let Offset::Offset(offset) = element.offset() {
                let partition = element.partition();
                let added = offsets.add_partition_offset(TOPIC, partition, Offset::Offset(offset));
                added.expect("a partition");
                next.push((partition, offset));
            }
        }
        let done = consumer.commit(&offsets, CommitMode::Sync).is_ok();
        if done {
            self.seen().committed.extend(next);
        }
        done
    }
}
