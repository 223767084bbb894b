//! The log half of Millstream. It knows no MQTT: it takes records and state changes and gives back tickets
//! that become durable.
//!
//! In the order of the data:
//!
//! - [`Lane`] (`journal/lane.rs`): how operations come in, and how their durability is told
//! - `journal/gather.rs`: many lanes become one frame; offsets and queue sequences are given
//! - `journal/commit.rs`, `frame.rs`, `files.rs`: the frame is written and synced, once
//! - `journal/apply.rs`: batches go to partitions, changes to the next checkpoint
//! - [`log`]: topics, partitions, segments, indexes; [`Reader`] follows queues' pointers into them
//! - `journal/checkpoint.rs`, `keyed.rs`: the state at one LSN made durable, journal files reused
//! - `log/compaction/`, `journal/cleaning.rs`: of each key the newest record stays
//! - `machine.rs`, `journal/recovery.rs`, `salvage.rs`: a start: the last checkpoint, every frame behind it, and what damage left
//! - `admission.rs`, `watch.rs`, `stall.rs`: a disk that is full, or slow
//! - [`group`], [`kafka`]: consumer groups and the Kafka protocol on top
//!
//! [`disk`] is the only caller of the file system. Rules cited as J1, C2, R1 … are numbered in ARCHITECTURE.md.

/// Whether a rule is switched off, which happens in the simulation alone: it must notice.
macro_rules! off {
    ($rule:ident) => {{
        #[cfg(any(test, feature = "sim"))]
        let off = crate::sim::mutation::Mutation::$rule.is_off();
        #[cfg(not(any(test, feature = "sim")))]
        let off = false;
        off
    }};
}

mod admission;
pub mod batch;
mod compression;
mod damage;
pub mod disk;
pub mod group;
mod journal;
pub mod kafka;
mod keyed;
pub mod log;
mod machine;
pub mod metrics;
mod producer;
mod reader;
mod salvage;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod size;
mod stall;
pub mod state;
pub mod tools;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use damage::Damage;
use disk::{DiskError, Folder};
use journal::changes::Whole;
use journal::commit::{Shared, TopicChange};
use journal::files::Files;
use journal::survey::Appended;
use log::topic::{Definition, PARTITIONS_MAX, name_ok};
use log::{Topics, Trust};
use machine::{Machine, Opener};
use state::{Change, Pointer};

pub use admission::Shut;
pub use journal::changes::WholeQueue as RecoveredQueue;
pub use journal::lane::{Delivery, JournalFailed, KeyedChange, Lane, Operation, ProduceSlot, Produced, Target, Ticket};
pub use journal::recovery::ReplayError;
pub use keyed::LoadError;
pub use log::{Partition, ReadError, SettingError, Settings, Topic};
pub use reader::{Fetched, Reader};
pub use stall::STALL;
pub use state::Space;

/// Frames committed and not yet applied, at most; each is about a group's bytes.
const UNAPPLIED_FRAMES_MAX: usize = 8;
/// Name and id of the topic that holds what queues need and no rule maps.
const HIDDEN: (&str, u32) = ("__mqtt", 6);

/// A key of keyed state, without its space, and its value.
pub type KeyValue = (Box<[u8]>, Box<[u8]>);

/// When a commit counts as durable (J7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// After fdatasync. The default, and the only one that survives a power cut.
    Fsync,
    /// After the write; one fdatasync a second.
    Os,
}

/// How to open a [`Bridge`].
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder that holds everything; made when missing, locked while open.
    pub data_dir: PathBuf,
    /// What "durable" means.
    pub durability: Durability,
    /// Longest wait from the first pending operation to its commit; zero commits at once.
    pub commit_interval: Duration,
    /// What holds for topics that have no settings of their own.
    pub topic_defaults: Settings,
    /// Journal bytes after which a checkpoint starts; at twice as many, publishers wait.
    pub checkpoint_bytes: u64,
    /// Time after which a checkpoint starts, when anything changed.
    pub checkpoint_interval: Duration,
    /// Bytes of the disk that are left for what only removes or advances: below it nothing else is taken (J9).
    pub reserve_bytes: u64,
}

/// Why a topic was not made.
#[derive(Debug, thiserror::Error)]
pub enum CreateTopicError {
    /// It is there already.
    #[error("topic {0:?} exists")]
    Exists(String),
    /// Kafka allows `[a-zA-Z0-9._-]`, 1 to 249 characters, not `.` or `..`; `__` is ours.
    #[error("topic name {0:?}: 1 to 249 of a-z A-Z 0-9 . _ -, not beginning with __")]
    BadName(String),
    /// Partitions must be 1 to 10,000.
    #[error("{0} partitions: 1 to 10000")]
    BadPartitions(i64),
    /// A setting has no such value.
    #[error(transparent)]
    BadSetting(#[from] SettingError),
    /// Its folders could not be made.
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// What a disk does that those who ask whether to send work here should know.
#[derive(Clone, Debug)]
pub enum Trouble {
    /// Nothing more becomes durable until a restart (J8).
    Failed(JournalFailed),
    /// Nothing that has to be written is taken until there is room (J9).
    Shut(Shut),
    /// A write or sync has been under way for longer than [`STALL`].
    Slow {
        /// Whose.
        thread: &'static str,
        /// For how long.
        age: Duration,
    },
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Failed(failed) => write!(f, "{failed}"),
            Trouble::Shut(shut) => write!(f, "{shut}"),
            Trouble::Slow { thread, age } => {
                write!(f, "the disk is slow: a write or sync ({thread}) has been under way for {} s", age.as_secs())
            }
        }
    }
}

/// Why a topic has the settings it had.
#[derive(Debug, thiserror::Error)]
pub enum ConfigureTopicError {
    /// It is gone.
    #[error("there is no topic {0:?} any more")]
    Unknown(String),
    /// A setting has no such value.
    #[error(transparent)]
    BadSetting(#[from] SettingError),
}

/// Why a topic was not deleted.
#[derive(Debug, thiserror::Error)]
pub enum DeleteTopicError {
    /// There is none.
    #[error("there is no topic {0:?}")]
    Unknown(String),
    /// What devices send goes there.
    #[error("topic {0:?}: MQTT messages go there, by a rule or as dead letters; change the configuration first")]
    Mapped(String),
}

/// Why a data folder does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Another process has it.
    #[error("data folder {0} is in use by another process: stop that one, or give this one another --data-dir")]
    InUse(PathBuf),
    /// A tool was pointed at nothing.
    #[error("there is no data folder {0}")]
    Missing(PathBuf),
    /// A tool was pointed at something else.
    #[error("{0} is no data folder: there is no {1} in it")]
    NotOurs(PathBuf, &'static str),
    /// A tool could not end what it did; the next start goes on.
    #[error("the last checkpoint could not be written: the log says why")]
    Unfinished,
    /// A newer Millstream wrote the checkpoint.
    #[error("disk: {0} has format {1}; this binary reads up to 2: start the newer one")]
    Checkpoint(PathBuf, u8),
    /// Keyed state does not load.
    #[error("internal topics: {0}")]
    Load(#[from] LoadError),
    /// A partition does not open.
    #[error("topic {0}: {1}")]
    Topic(String, DiskError),
    /// The journal does not replay.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// A thread could not be started.
    #[error("the operating system gives no thread: {0}")]
    Thread(std::io::Error),
}

/// The durable log and keyed state of one data folder. Cheap to clone; the folder is closed by
/// [`Bridge::close`], or by the end of the process, as by a crash.
#[derive(Clone)]
pub struct Bridge(Arc<Core>);

struct Core {
    options: Options,
    shared: Arc<Shared>,
    topics: Arc<Topics>,
    topics_folder: Folder,
    journal_files: Arc<Files>,
    /// Held while topics are made, changed or deleted.
    topic_changes: Mutex<()>,
    topic_changes_made: AtomicU64,
    mapped_topics: Mutex<BTreeSet<String>>,
    recovered: Mutex<Whole>,
    epoch: i32,
    cluster_id: [u8; 16],
    next_producer: AtomicI64,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// What the start found, for its log line.
    summary: String,
    _lock: disk::Lock,
}

impl Bridge {
    /// Opens a data folder and brings it to where it was: the last checkpoint and the journal behind it.
    pub fn open(options: Options) -> Result<Bridge, OpenError> {
        let folder = Folder::open(&options.data_dir)?;
        let Machine { bridge, committer, applier, checkpointer, jobs, cleaner, tasks, watch } =
            Machine::open(options, folder)?;
        // It ends by itself; nobody waits for its sleep.
        drop(spawn("watch", move || watch.run())?);
        *bridge.0.threads.lock() = vec![
            spawn("clean", move || cleaner.run(tasks))?,
            spawn("checkpoint", move || checkpointer.run(jobs))?,
            spawn("apply", move || applier.run())?,
            spawn("commit", move || committer.run())?,
        ];
        Ok(bridge)
    }

    /// A new way in. One per thread that submits; any task on any thread may use it.
    pub fn lane(&self) -> Lane {
        self.0.shared.lanes.add(None)
    }

    /// The same, ringing `doorbell` (notify_one) at each commit and when the journal fails.
    pub fn lane_with_doorbell(&self, doorbell: Arc<Notify>) -> Lane {
        self.0.shared.lanes.add(Some(doorbell))
    }

    /// A reader for queues' pointers.
    pub fn reader(&self) -> Reader {
        Reader::new(self.0.topics.clone())
    }

    /// A topic by name, hidden and internal ones excluded.
    pub fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.0.topics.named(name)
    }

    /// Every public topic, by name.
    pub fn topics(&self) -> Vec<Arc<Topic>> {
        self.0.topics.public()
    }

    /// (topic id, partition) where records go that only queues need.
    pub fn hidden(&self) -> (u32, u32) {
        (HIDDEN.1, 0)
    }

    /// Makes a topic. It can be appended to at once; it is durable when the ticket is.
    pub fn create_topic(
        &self,
        lane: &Lane,
        name: &str,
        partitions: u32,
        config: BTreeMap<String, String>,
    ) -> Result<(Arc<Topic>, Ticket), CreateTopicError> {
        if !name_ok(name) || name.starts_with("__") {
            return Err(CreateTopicError::BadName(name.to_owned()));
        }
        if !(1..=PARTITIONS_MAX).contains(&partitions) {
            return Err(CreateTopicError::BadPartitions(partitions.into()));
        }
        let core = &self.0;
        let _order = core.topic_changes.lock();
        if core.topics.named(name).is_some() {
            return Err(CreateTopicError::Exists(name.to_owned()));
        }
        core.options.topic_defaults.with(&config)?;
        let definition = Definition { uuid: random(), name: name.to_owned(), partitions, config };
        let defaults = &core.options.topic_defaults;
        let (damage, appended) = (Damage::new(&core.topics_folder, false), Appended::default());
        let trust = Trust::checkpoint(&damage);
        let opener = Opener { topics: &core.topics, folder: &core.topics_folder, defaults, trust, appended: &appended };
        let topic = opener.make(core.topics.next_id(), &definition, &BTreeMap::new())?;
        core.topics_folder.sync()?;
        // In this order: whoever finds the topic may append to it, and the committer must know it by then.
        core.shared.topic_changes.lock().push(TopicChange::Made(topic.clone()));
        core.topics.insert(topic.clone());
        let ticket = lane.begin().submit();
        lane.flush();
        Ok((topic, ticket))
    }

    /// What holds for topics that have no settings of their own.
    pub fn topic_defaults(&self) -> &Settings {
        &self.0.options.topic_defaults
    }

    /// Changes what a topic was given of settings: `edit` makes of the old ones the new, one edit after the other. They are
    /// in force at once, and durable when the ticket is.
    pub fn configure_topic(
        &self,
        lane: &Lane,
        topic: &Topic,
        edit: impl FnOnce(&mut BTreeMap<String, String>),
    ) -> Result<Ticket, ConfigureTopicError> {
        // The last put in force is the last stored, and none is stored of a topic that is deleted.
        let _order = self.0.topic_changes.lock();
        if topic.is_gone() {
            return Err(ConfigureTopicError::Unknown(topic.name.clone()));
        }
        let mut config = topic.config().given.clone();
        edit(&mut config);
        let settings = self.topic_defaults().with(&config)?;
        topic.configure(config, settings);
        let order = self.0.topic_changes_made.fetch_add(1, Ordering::Relaxed);
        let mut operation = lane.begin();
        let definition = topic.definition().encode();
        operation.change_in_order(order, Change::Put(Space::TOPICS, &topic.id.to_be_bytes(), &definition));
        let ticket = operation.submit();
        lane.flush();
        Ok(ticket)
    }

    /// Topics that MQTT messages go to; they are not to be deleted.
    pub fn set_mapped_topics(&self, names: impl Iterator<Item = String>) {
        // Not while one is being deleted: whoever looks for it afterwards finds that it is gone.
        let _order = self.0.topic_changes.lock();
        *self.0.mapped_topics.lock() = names.collect();
    }

    /// Deletes a topic: its name is free at once, nobody reads or writes it any more, and it is gone for good when the
    /// ticket is durable. What queues point to in it stays until they do not (S6). Offsets that groups committed in it
    /// are the caller's to forget.
    pub fn delete_topic(&self, lane: &Lane, name: &str) -> Result<(Arc<Topic>, Ticket), DeleteTopicError> {
        let core = &self.0;
        let _order = core.topic_changes.lock();
        if core.mapped_topics.lock().contains(name) {
            return Err(DeleteTopicError::Mapped(name.to_owned()));
        }
        let topic = core.topics.named(name).ok_or_else(|| DeleteTopicError::Unknown(name.to_owned()))?;
        core.topics.hide(&topic);
        topic.partitions.iter().for_each(|partition| partition.wake_waiting());
        core.shared.topic_changes.lock().push(TopicChange::Deleted(topic.id));
        let ticket = lane.begin().submit();
        lane.flush();
        Ok((topic, ticket))
    }

    /// Has Kafka clients see nothing below `offset` of a partition any more, for good when the ticket is durable; no
    /// further than to its high watermark. Gives the new log start besides.
    pub fn delete_records(&self, lane: &Lane, partition: &Partition, offset: i64) -> (i64, Ticket) {
        let offset = offset.clamp(partition.log_start(), partition.high_watermark());
        let at = Pointer { topic: partition.topic_id, partition: partition.index, offset };
        let mut operation = lane.begin();
        operation.change(Change::Trim(at));
        let ticket = operation.submit();
        lane.flush();
        (offset, ticket)
    }

    /// Keyed state of one space as it was when the folder was opened: (key, value), handed out once.
    pub fn take_recovered(&self, space: Space) -> Vec<KeyValue> {
        let mut recovered = self.0.recovered.lock();
        let keyed = std::mem::take(&mut recovered.keyed);
        let (mine, others) = keyed.into_iter().partition(|((of, _), _)| *of == space);
        recovered.keyed = others;
        mine.into_iter().map(|((_, key), value): ((Space, _), _)| (key, value)).collect()
    }

    /// Queues as they were when the folder was opened, handed out once. Each must be attached to a lane
    /// ([`Operation::attach`]) or closed.
    pub fn take_recovered_queues(&self) -> BTreeMap<u64, RecoveredQueue> {
        std::mem::take(&mut self.0.recovered.lock().queues)
    }

    /// The number of this start, written into batches as partition leader epoch (K3). Starts at 1.
    pub fn epoch(&self) -> i32 {
        self.0.epoch
    }

    /// A random UUID of this data folder, made at the first start.
    pub fn cluster_id(&self) -> [u8; 16] {
        self.0.cluster_id
    }

    /// A producer id never given before; usable once the ticket is durable.
    pub fn new_producer_id(&self, lane: &Lane) -> (i64, Ticket) {
        // Ids are this start's number and a count: the put makes the start itself durable, so that none
        // after it takes the same number.
        let count = self.0.next_producer.fetch_add(1, Ordering::Relaxed) & i64::from(u32::MAX);
        let ticket = lane.put_all(&[(Space::META, b"producer epoch", Some(&self.0.epoch.to_be_bytes()))]);
        (i64::from(self.0.epoch) << 32 | count, ticket)
    }

    /// What the start found and how long it took.
    pub fn summary(&self) -> &str {
        &self.0.summary
    }

    /// Counters.
    pub fn metrics(&self) -> &metrics::Metrics {
        &self.0.shared.metrics
    }

    /// Journal bytes that no checkpoint covers yet.
    pub fn uncheckpointed_bytes(&self) -> u64 {
        self.0.shared.uncheckpointed_bytes.load(Ordering::Acquire)
    }

    /// Bytes handed to the journal and not durable yet.
    pub fn backlog_bytes(&self) -> u64 {
        self.0.shared.lanes.backlog_bytes() as u64
    }

    /// Journal files: being written, full and waiting for a checkpoint, spare.
    pub fn journal_files(&self) -> (usize, usize, usize) {
        self.0.journal_files.counts()
    }

    /// Bytes of segments that Kafka clients see nothing of, of deleted topics too: queues need them, or they go with the
    /// next checkpoint.
    pub fn unseen_bytes(&self) -> u64 {
        let topics = self.0.topics.all();
        topics.iter().flat_map(|topic| &topic.partitions).map(|partition| partition.unseen_bytes()).sum()
    }

    /// Whether clients know a topic of this id.
    pub(crate) fn has_topic(&self, id: u32) -> bool {
        self.0.topics.with_id(id).is_some_and(|topic| !topic.is_gone())
    }

    /// Every topic by name, the hidden one included, deleted ones not; not to be shown to clients.
    pub fn topics_and_hidden(&self) -> Vec<Arc<Topic>> {
        let mut all = self.0.topics.all();
        all.retain(|topic| !topic.is_gone());
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Whether anything is taken that has to be written (J9, J8): asked before it is routed. What only removes or
    /// advances, as an acknowledgement does, goes on as long as the disk has any room.
    pub fn is_open(&self) -> bool {
        self.0.shared.admission.is_open()
    }

    /// Why not, if so.
    pub fn shut(&self) -> Option<Shut> {
        if self.is_open() { None } else { self.0.shared.admission.shut() }
    }

    /// Bytes that the disk has, and bytes that it has to have for more to be taken; looked at twice a second.
    pub fn room_bytes(&self) -> (u64, u64) {
        self.0.shared.admission.bytes()
    }

    /// By thread, how long the write or sync has been under way that it is at.
    pub fn disk_ages(&self) -> [(&'static str, Duration); 3] {
        self.0.shared.stalls.ages()
    }

    /// What the disk does that it should not.
    pub fn trouble(&self) -> Option<Trouble> {
        let shared = &self.0.shared;
        if let Some(failed) = shared.lanes.failure() {
            return Some(Trouble::Failed(failed.clone()));
        }
        let slow = || shared.stalls.worst().map(|(thread, age)| Trouble::Slow { thread, age });
        shared.admission.shut().map(Trouble::Shut).or_else(slow)
    }

    /// Why nothing more becomes durable, if so (J8).
    pub fn failure(&self) -> Option<JournalFailed> {
        self.0.shared.lanes.failure().cloned()
    }

    /// Makes everything submitted durable and starts a checkpoint; gives it until `deadline` to complete
    /// (C3). Whether it did.
    pub fn close(&self, deadline: Instant) -> bool {
        self.0.shared.stop();
        let threads = std::mem::take(&mut *self.0.threads.lock());
        while !threads.iter().all(JoinHandle::is_finished) {
            if Instant::now() >= deadline {
                return false;
            }
            thread::sleep(Duration::from_millis(2));
        }
        threads.into_iter().all(|thread| thread.join().is_ok()) && self.failure().is_none()
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, OpenError> {
    thread::Builder::new().name(name.to_owned()).spawn(run).map_err(OpenError::Thread)
}

fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    // PROOF: getrandom fails only where the kernel has no getrandom(2); Linux has had it since 3.17.
    getrandom::fill(&mut bytes).expect("the kernel gives random numbers");
    bytes
}
