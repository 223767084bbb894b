//! The log half of Millstream. It knows no MQTT: it takes records and state changes and gives
//! back tickets that become durable.
//!
//! (Skeleton: the public face that the other modules build on.)

pub mod batch;
pub mod log;
pub mod state;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

pub use log::{Partition, ReadError, Topic};
pub use state::Space;

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
    /// A segment rolls when its next batch would pass this size.
    pub segment_bytes_max: u64,
    /// Journal bytes after which a checkpoint starts.
    pub checkpoint_bytes: u64,
    /// Time after which a checkpoint starts, when anything changed.
    pub checkpoint_interval: Duration,
}

/// Number of an operation on its [`Lane`]; see [`Lane::wait`].
pub type Ticket = u64;

/// The journal could not be written or synced; nothing more becomes durable (J8).
#[derive(Debug, Clone, thiserror::Error)]
#[error("disk: the journal failed and takes no more: {0}")]
pub struct JournalFailed(pub Arc<str>);

/// Why a topic was not made.
#[derive(Debug, thiserror::Error)]
pub enum CreateTopicError {
    /// It is there already.
    #[error("topic {0:?} exists")]
    Exists(String),
    /// Kafka allows `[a-zA-Z0-9._-]`, 1 to 249 characters, not `.` or `..`.
    #[error("topic name {0:?}: 1 to 249 of a-z A-Z 0-9 . _ -")]
    BadName(String),
    /// Partitions must be 1 to 10,000.
    #[error("{0} partitions: 1 to 10000")]
    BadPartitions(i64),
}

/// The durable log and keyed state of one data folder. Cheap to clone.
#[derive(Clone)]
pub struct Bridge {}

impl Bridge {
    /// A new way in. One per thread that submits; any task on any thread may use it.
    pub fn lane(&self) -> Lane {
        unimplemented!()
    }
    /// A topic by name, hidden and internal ones excluded.
    pub fn topic(&self, _name: &str) -> Option<Arc<Topic>> {
        unimplemented!()
    }
    /// Every public topic, by name.
    pub fn topics(&self) -> Vec<Arc<Topic>> {
        unimplemented!()
    }
    /// Makes a topic. It can be appended to at once; it is durable when the ticket is.
    pub fn create_topic(
        &self,
        _lane: &Lane,
        _name: &str,
        _partitions: u32,
        _config: BTreeMap<String, String>,
    ) -> Result<(Arc<Topic>, Ticket), CreateTopicError> {
        unimplemented!()
    }
    /// Keyed state of one space as it was when the folder was opened: (key, value), handed out once.
    pub fn take_recovered(&self, _space: Space) -> Vec<(Box<[u8]>, Box<[u8]>)> {
        unimplemented!()
    }
    /// The number of this start, written into batches as partition leader epoch (K3). Starts at 1.
    pub fn epoch(&self) -> i32 {
        unimplemented!()
    }
    /// A random UUID of this data folder, made at the first start.
    pub fn cluster_id(&self) -> [u8; 16] {
        unimplemented!()
    }
    /// A producer id never given before; usable once the ticket is durable.
    pub fn new_producer_id(&self, _lane: &Lane) -> (i64, Ticket) {
        unimplemented!()
    }
}

/// What became of a produced batch; filled when it was gathered, to be read once its ticket is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Produced {
    /// Offset of its first record, and the log start offset.
    Appended {
        /// Offset of the batch's first record.
        base_offset: i64,
        /// A repeat of an idempotent producer's batch: the offset is the original's (K1).
        duplicate: bool,
    },
    /// Its sequence does not follow the last one of this producer.
    OutOfOrderSequence,
    /// A newer epoch of this producer is known.
    InvalidProducerEpoch,
    /// The topic was deleted while the batch waited.
    UnknownTopic,
}

/// An ordered way into the journal. What is added between two [`Lane::submit`] is one atomic operation.
#[derive(Clone)]
pub struct Lane {}

/// A place where [`Produced`] appears.
#[derive(Clone)]
pub struct ProduceSlot {}

impl ProduceSlot {
    /// The outcome; `None` until the batch was gathered.
    pub fn get(&self) -> Option<Produced> {
        unimplemented!()
    }
}

impl Lane {
    /// Submits one validated record batch as an operation of its own and flushes.
    pub fn produce(
        &self,
        _partition: &Partition,
        _batch: &batch::Header,
        _bytes: &[u8],
    ) -> (ProduceSlot, Ticket) {
        unimplemented!()
    }
    /// Submits puts (value) and deletes (None) of keyed state as one operation and flushes.
    pub fn put_all(&self, _changes: &[(Space, &[u8], Option<&[u8]>)]) -> Ticket {
        unimplemented!()
    }
    /// Waits until everything up to `ticket` is durable.
    pub async fn wait(&self, _ticket: Ticket) -> Result<(), JournalFailed> {
        unimplemented!()
    }
}
