//! Topics and partitions.
use bytes::Bytes;
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::Notify;

/// A topic: a name and its partitions.
#[derive(Debug)]
pub struct Topic {
    /// Never given twice in a data folder; stored in journal and offsets.
    pub id: u32,
    /// Kafka's topic id.
    pub uuid: [u8; 16],
    /// As Kafka clients see it.
    pub name: String,
    /// By index.
    pub partitions: Vec<Arc<Partition>>,
    /// What CreateTopics gave.
    pub config: BTreeMap<String, String>,
}

/// One partition of a topic.
#[derive(Debug)]
pub struct Partition {
    /// Its topic's id.
    pub topic_id: u32,
    /// Its index in the topic.
    pub index: u32,
}

/// Why a read gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Below the log start or above the high watermark.
    #[error("offset {offset} is outside {start}..={end}")]
    OutOfRange {
        /// Asked for.
        offset: i64,
        /// First offset held.
        start: i64,
        /// High watermark.
        end: i64,
    },
    /// The disk.
    #[error("disk: {0}")]
    Io(#[from] std::io::Error),
}

impl Partition {
    /// First offset held.
    pub fn log_start(&self) -> i64 {
        unimplemented!()
    }
    /// The offset after the last record that is durable and can be read.
    pub fn high_watermark(&self) -> i64 {
        unimplemented!()
    }
    /// Whole stored batches, from the one that holds `offset` on, at most `bytes_max` but always at least
    /// one; none above the high watermark; empty at the high watermark. Does not block the thread.
    pub async fn read(&self, _offset: i64, _bytes_max: usize) -> Result<Bytes, ReadError> {
        unimplemented!()
    }
    /// Offset and timestamp of the first record whose timestamp is at least `timestamp_ms`.
    pub async fn offset_for_timestamp(
        &self,
        _timestamp_ms: i64,
    ) -> Result<Option<(i64, i64)>, ReadError> {
        unimplemented!()
    }
    /// Offset and timestamp of a record with the greatest timestamp.
    pub async fn max_timestamp(&self) -> Result<Option<(i64, i64)>, ReadError> {
        unimplemented!()
    }
    /// For OffsetForLeaderEpoch: the greatest epoch held that is <= `epoch` and the offset after its last
    /// record; `None` when every epoch held is newer.
    pub fn end_of_epoch(&self, _epoch: i32) -> Option<(i32, i64)> {
        unimplemented!()
    }
    /// Bytes of its segments.
    pub fn size_bytes(&self) -> u64 {
        unimplemented!()
    }
    /// `notify` is told (notify_one) once at the next append that became readable. Registering the same one
    /// again costs nothing; dropped ones are forgotten.
    pub fn wake_on_append(&self, _notify: &Arc<Notify>) {
        unimplemented!()
    }
}
