//! Reads records back by pointer, for queues. Queues point forward through the log, so the last chunk read
//! usually holds the next record too.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Notify;

use crate::batch::{self, Header, Record};
use crate::log::{Partition, ReadError, Topics};
use crate::state::Pointer;

/// Bytes read from the log at a time.
const CHUNK_BYTES: usize = 64 << 10;

/// A reader with a chunk of its own. One per thread.
#[derive(Debug)]
pub struct Reader {
    topics: Arc<Topics>,
    partition: Option<Arc<Partition>>,
    chunk: Bytes,
    batch: Option<Header>,
    /// What was read for it is at hand: if it is not in there, it is nowhere.
    read_for: Option<Pointer>,
    /// Where the current batch starts in the chunk, and the next record of it.
    batch_at: usize,
    record_at: usize,
}

/// What a pointer led to.
#[derive(Debug)]
pub enum Fetched<'a> {
    /// The record.
    Record(Record<'a>),
    /// It has to be waited for, on the disk or on the apply thread: [`Reader::fetch`] the pointer and [`Reader::install`] what it gives.
    Cold,
    /// There is no such record any more.
    Gone,
}

impl Reader {
    pub(crate) fn new(topics: Arc<Topics>) -> Reader {
        Reader { topics, partition: None, chunk: Bytes::new(), batch: None, read_for: None, batch_at: 0, record_at: 0 }
    }

    /// The record a pointer points to, if it can be had without waiting for the disk.
    pub fn get(&mut self, pointer: &Pointer) -> Result<Fetched<'_>, ReadError> {
        // Of the first that is asked for alone: the search goes on from the last, and does not go back.
        let was_read = self.read_for.take() == Some(*pointer);
        if let Some(range) = self.seek(pointer) {
            return Ok(self.record(range));
        }
        let Some(partition) = self.find(pointer).filter(|_| !was_read) else { return Ok(Fetched::Gone) };
        if pointer.offset >= partition.high_watermark() {
            // Durable, and not applied yet (J5).
            return Ok(Fetched::Cold);
        }
        match partition.read_cached(pointer.offset, CHUNK_BYTES) {
            Ok(Some(chunk)) => {
                self.install_chunk(partition, chunk);
                Ok(match self.seek(pointer) {
                    Some(range) => self.record(range),
                    None => Fetched::Gone,
                })
            }
            Ok(None) => Ok(Fetched::Cold),
            Err(ReadError::OutOfRange { .. }) => Ok(Fetched::Gone),
            // It may pass, or be damage: a read that may wait looks into it.
            Err(ReadError::Disk(_) | ReadError::Damaged(_)) => Ok(Fetched::Cold),
            Err(other) => Err(other),
        }
    }

    /// Reads what [`Reader::get`] found cold; owned, so that it can be awaited apart from the reader.
    pub fn fetch(&self, pointer: &Pointer) -> impl Future<Output = Result<Bytes, ReadError>> + use<> {
        let (partition, offset) = (self.find(pointer), pointer.offset);
        async move {
            let Some(partition) = partition else { return Ok(Bytes::new()) };
            let applied = Arc::new(Notify::new());
            while partition.high_watermark() <= offset {
                partition.wake_on_append(&applied);
                if partition.high_watermark() <= offset {
                    applied.notified().await;
                }
            }
            partition.read(offset, CHUNK_BYTES).await
        }
    }

    /// Takes what [`Reader::fetch`] gave for `pointer`.
    pub fn install(&mut self, pointer: &Pointer, chunk: Bytes) {
        if let Some(partition) = self.find(pointer) {
            self.install_chunk(partition, chunk);
            self.read_for = Some(*pointer);
        }
    }

    fn install_chunk(&mut self, partition: Arc<Partition>, chunk: Bytes) {
        self.partition = Some(partition);
        self.chunk = chunk;
        self.batch = None;
        self.batch_at = 0;
    }

    fn find(&self, pointer: &Pointer) -> Option<Arc<Partition>> {
        match &self.partition {
            Some(held) if held.topic_id == pointer.topic && held.index == pointer.partition => Some(held.clone()),
            _ => self.topics.with_id(pointer.topic)?.partitions.get(pointer.partition as usize).cloned(),
        }
    }

    fn record(&self, (from, header): (usize, Header)) -> Fetched<'_> {
        match batch::read_record(&self.chunk[from..], header.base_offset, header.base_timestamp) {
            Some(record) => Fetched::Record(record),
            None => Fetched::Gone,
        }
    }

    /// Where in the chunk the record lies, if it does.
    fn seek(&mut self, pointer: &Pointer) -> Option<(usize, Header)> {
        let held = self.partition.as_ref()?;
        if held.topic_id != pointer.topic || held.index != pointer.partition {
            return None;
        }
        let mut searched_whole = false;
        loop {
            let header = match self.batch {
                Some(header) => header,
                None => self.enter_batch(self.batch_at)?,
            };
            if pointer.offset < header.base_offset {
                return None;
            }
            if pointer.offset > header.last_offset() {
                self.batch = None;
                self.batch_at += header.total_bytes();
                continue;
            }
            let mut rest = self.chunk.get(self.record_at..self.batch_at + header.total_bytes())?;
            while let Some(record) = batch::next_record(&mut rest, header.base_offset, header.base_timestamp) {
                let at = self.record_at;
                if record.offset == pointer.offset {
                    return Some((at, header));
                }
                if record.offset > pointer.offset {
                    break;
                }
                self.record_at = self.batch_at + header.total_bytes() - rest.len();
            }
            // Behind where the last one left off: once more from the batch's start, or it is not there.
            let start = self.batch_at + batch::HEADER_BYTES;
            let first = self.chunk.get(start..)?;
            let again = batch::read_record(first, header.base_offset, header.base_timestamp)?;
            if searched_whole || self.record_at == start || again.offset > pointer.offset {
                return None;
            }
            searched_whole = true;
            self.record_at = start;
        }
    }

    fn enter_batch(&mut self, at: usize) -> Option<Header> {
        let header = Header::parse(self.chunk.get(at..)?).ok()?;
        if at + header.total_bytes() > self.chunk.len() || header.compressed() {
            return None;
        }
        self.batch = Some(header);
        self.record_at = at + batch::HEADER_BYTES;
        Some(header)
    }
}
