//! Where checkpoints keep keyed state: internal compacted topics, in the same segment format as the log.
//! Written by the checkpoint thread alone and read back whole at a start.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use crate::batch::{self, Builder, Header};
use crate::damage::Damage;
use crate::disk::{DiskError, Folder};
use crate::journal::changes::{Changes, Whole};
use crate::journal::checkpoint::Extents;
use crate::journal::retention::Outdated;
use crate::log::partition::{AppendError, ReadError};
use crate::log::{Extent, Partition, Trust};
use crate::size::Size;
use crate::state::{Change, Entry, Space};

/// Name and id of each internal topic, and the spaces it holds.
const TOPICS: [(&str, u32, std::ops::RangeInclusive<u8>); 5] = [
    ("__meta", 1, 0..=1),
    ("__consumer_offsets", 2, 2..=4),
    ("__queues", 3, 5..=15),
    ("__sessions", 4, 16..=31),
    ("__retained", 5, 32..=255),
];

/// Their names.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    TOPICS.into_iter().map(|(name, _, _)| name)
}

/// The id of one of them.
pub(crate) fn id_of(name: &str) -> Option<u32> {
    TOPICS.into_iter().find_map(|(known, id, _)| (known == name).then_some(id))
}

/// Segments of internal topics roll at this size. All three are small in a simulation.
const SEGMENT_MAX: Size = Size::new(4 << 20, 4 << 10);
/// A batch is closed at about this size.
const BATCH: Size = Size::new(256 << 10, 1 << 10);
/// An internal topic smaller than this is not worth compacting.
const COMPACT_MIN: Size = Size::new(8 << 20, 8 << 10);

/// The internal topics of keyed state.
#[derive(Debug)]
pub(crate) struct KeyedLogs {
    logs: Vec<KeyedLog>,
    epoch: i32,
    /// Files that compaction made needless, until a checkpoint is there that does not name them.
    outdated: Vec<Outdated>,
}

/// What the batches of internal topics say besides their records.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Stamps {
    /// The LSN of the newest checkpoint that wrote any; older formats say 0.
    pub(crate) lsn: u64,
    /// The newest start that wrote any.
    pub(crate) epoch: i32,
}

#[derive(Debug)]
struct KeyedLog {
    partition: Arc<Partition>,
    /// Its size after it was last compacted, or at the start.
    compacted_bytes: u64,
    /// It is to be written anew.
    rewrites: bool,
    /// Names in its folder are not durable yet.
    is_unsettled: bool,
    /// What could not be read of it at the start.
    gaps: Gaps,
    /// Records in it of the checkpoint that is being made: one that is tried again goes on behind them.
    stored: usize,
}

/// Byte ranges of files.
type Gaps = Vec<(PathBuf, Range<u64>)>;

impl KeyedLogs {
    /// Opens them as the checkpoint names them, or as far as they are whole.
    pub(crate) fn open(topics: &Folder, extents: &Extents, trust: Trust<'_>) -> Result<KeyedLogs, LoadError> {
        let mut logs = Vec::new();
        for (name, id, _) in TOPICS {
            let folder = topics.folder(&format!("{name}.{id}"))?;
            let partition = folder.folder("0")?;
            if !trust.damage.only_looks() {
                folder.sync()?;
            }
            let extent = extents.get(&(id, 0)).cloned().unwrap_or_default();
            let partition = Arc::new(Partition::open(partition, (id, 0), extent, SEGMENT_MAX.bytes(), trust)?);
            // Counted as half its size, what the last process left is compacted about when it would have.
            let compacted_bytes = partition.size_bytes() / 2;
            let (gaps, stored) = (Gaps::new(), 0);
            logs.push(KeyedLog { partition, compacted_bytes, rewrites: false, is_unsettled: false, gaps, stored });
        }
        Ok(KeyedLogs { logs, epoch: 0, outdated: Vec::new() })
    }

    /// Reads everything back, and what else its batches say.
    pub(crate) fn load(&mut self, damage: &Damage) -> Result<(Whole, Stamps), LoadError> {
        let (mut whole, mut stamps) = (Whole::default(), Stamps::default());
        for log in &mut self.logs {
            log.load(&mut whole, &mut stamps)?;
            log.gaps = log.partition.gaps();
            // Reading it found more than opening it, and has said so.
            log.gaps.iter().for_each(|(path, bytes)| damage.note(path, bytes.clone()));
            // It is written anew without them.
            let files: BTreeSet<_> = log.gaps.iter().filter_map(|(path, _)| path.file_name()?.to_str()).collect();
            files.into_iter().for_each(|name| damage.set_aside(log.partition.folder(), name));
        }
        Ok((whole, stamps))
    }

    /// From here on batches say that this start wrote them.
    pub(crate) fn set_epoch(&mut self, epoch: i32) {
        self.epoch = epoch;
    }

    /// The next checkpoint writes all of it anew: after damage, or where a tool asks for it.
    pub(crate) fn rewrite(&mut self) {
        self.logs.iter_mut().for_each(|log| log.rewrites = true);
    }

    /// Appends net changes and syncs them; compacts what has grown, where as much is free: it is there twice for a while. After
    /// an error of the disk's it is done again, with the same changes.
    pub(crate) fn store(&mut self, changes: &Changes, lsn: u64, free_bytes: u64) -> Result<(), DiskError> {
        let stamps = Stamps { lsn, epoch: self.epoch };
        for (log, (_, _, spaces)) in self.logs.iter_mut().zip(TOPICS) {
            let mut writer = Writer::new(&log.partition, stamps, &mut log.stored);
            for ((space, key), value) in &changes.keyed {
                if spaces.contains(&space.0) {
                    writer.push(&full_key(*space, key), value.as_deref())?;
                }
            }
            if spaces.contains(&Space::QUEUES.0) {
                store_queues(&mut writer, changes)?;
            }
            writer.finish()?;
            if log.partition.size_bytes() < free_bytes {
                self.outdated.extend(log.compact_if_grown(stamps)?);
            }
            let (_, dirty) = log.partition.extent();
            log.is_unsettled |= !dirty.is_empty();
            for file in &dirty {
                file.sync_data()?;
            }
            if log.is_unsettled {
                log.partition.settle()?;
                log.is_unsettled = false;
            }
        }
        Ok(())
    }

    /// The checkpoint is there that was stored for. Gives the files to be unlinked now.
    pub(crate) fn stored(&mut self) -> Vec<Outdated> {
        self.logs.iter_mut().for_each(|log| log.stored = 0);
        std::mem::take(&mut self.outdated)
    }

    /// What the checkpoint file has to name of them.
    pub(crate) fn extents(&self) -> impl Iterator<Item = ((u32, u32), Extent)> + '_ {
        self.logs.iter().map(|log| ((log.partition.topic_id, 0), log.partition.extent().0))
    }
}

impl KeyedLog {
    fn load(&self, whole: &mut Whole, stamps: &mut Stamps) -> Result<(), LoadError> {
        let mut offset = self.partition.log_start();
        while offset < self.partition.high_watermark() {
            let bytes = self.partition.read_blocking(offset, BATCH.bytes() as usize)?;
            if bytes.is_empty() {
                // Damage took the rest.
                return Ok(());
            }
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let header = Header::parse(rest)?;
                let batch = rest.get(..header.total_bytes()).ok_or(batch::BatchError::Corrupt("cut"))?;
                stamps.lsn = stamps.lsn.max(header.max_timestamp as u64);
                stamps.epoch = stamps.epoch.max(header.leader_epoch);
                let mut records = batch::records(batch, &header);
                while let Some(record) = records.next()? {
                    fold(whole, record.key.unwrap_or_default(), record.value);
                }
                offset = header.last_offset() + 1;
                rest = &rest[batch.len()..];
            }
        }
        Ok(())
    }

    /// Rewrites its live keys into fresh segments once it is twice what it was after the last time: each
    /// byte is then rewritten about once.
    fn compact_if_grown(&mut self, stamps: Stamps) -> Result<Vec<Outdated>, DiskError> {
        if self.partition.size_bytes() < COMPACT_MIN.bytes().max(self.compacted_bytes * 2) && !self.rewrites {
            return Ok(Vec::new());
        }
        let mut whole = Whole::default();
        if let Err(error) = self.load(&mut whole, &mut Stamps::default()) {
            tracing::error!(topic = self.partition.topic_id, %error, "cannot be compacted");
            return Ok(Vec::new());
        }
        if self.partition.gaps() != self.gaps {
            // What cannot be read now may be read another time, and is in memory besides: it must not be left out for good.
            tracing::error!(topic = self.partition.topic_id, "is not compacted: some of it cannot be read");
            return Ok(Vec::new());
        }
        self.partition.roll()?;
        let base = self.partition.high_watermark();
        let mut done = 0;
        let mut writer = Writer::new(&self.partition, stamps, &mut done);
        for ((space, key), value) in &whole.keyed {
            writer.push(&full_key(*space, key), Some(value))?;
        }
        for (queue, held) in &whole.queues {
            writer.push(&queue_key(*queue, None), Some(&held.next.to_be_bytes()))?;
            for (sequence, entry) in &held.entries {
                writer.push(&queue_key(*queue, Some(*sequence)), Some(&encode_entry(entry)))?;
            }
        }
        writer.finish()?;
        let names = self.partition.forget_below(base);
        self.compacted_bytes = self.partition.size_bytes();
        (self.rewrites, self.gaps) = (false, Gaps::new());
        Ok(names.into_iter().map(|name| Outdated::File(self.partition.folder().clone(), name)).collect())
    }
}

fn store_queues(writer: &mut Writer<'_>, changes: &Changes) -> Result<(), DiskError> {
    for (queue, change) in &changes.queues {
        if change.closed {
            writer.push(&queue_key(*queue, None), None)?;
            continue;
        }
        if let Some(next) = change.next {
            writer.push(&queue_key(*queue, None), Some(&next.to_be_bytes()))?;
        }
        for (sequence, entry) in &change.entries {
            let value = entry.as_ref().map(encode_entry);
            writer.push(&queue_key(*queue, Some(*sequence)), value.as_deref())?;
        }
    }
    Ok(())
}

fn full_key(space: Space, key: &[u8]) -> Vec<u8> {
    [&[space.0], key].concat()
}

fn queue_key(queue: u64, sequence: Option<u64>) -> Vec<u8> {
    let mut key = vec![Space::QUEUES.0];
    key.extend_from_slice(&queue.to_be_bytes());
    key.extend(sequence.map(u64::to_be_bytes).into_iter().flatten());
    key
}

fn encode_entry(entry: &Entry) -> Vec<u8> {
    let mut out = Vec::new();
    Change::Enqueue(0, 0, *entry).encode(&mut out);
    out
}

/// Applies one stored record; what does not parse is not ours and left out.
fn fold(whole: &mut Whole, key: &[u8], value: Option<&[u8]>) {
    let Some((space, key)) = key.split_first() else { return };
    if *space != Space::QUEUES.0 {
        let key = (Space(*space), key.into());
        match value {
            Some(value) => whole.keyed.insert(key, value.into()),
            None => whole.keyed.remove(&key),
        };
        return;
    }
    let Some((queue, sequence)) = key.split_first_chunk::<8>() else { return };
    let queue = u64::from_be_bytes(*queue);
    match (<[u8; 8]>::try_from(sequence).map(u64::from_be_bytes), value) {
        (Err(_), None) => {
            whole.queues.remove(&queue);
        }
        (Err(_), Some(next)) => {
            let next = <[u8; 8]>::try_from(next).map_or(0, u64::from_be_bytes);
            whole.queues.entry(queue).or_default().next = next;
        }
        (Ok(sequence), value) => {
            match value.and_then(|mut bytes| Change::decode(&mut bytes)) {
                Some(Change::Enqueue(_, _, entry)) => {
                    // Damage may have taken what says how far the queue was.
                    let held = whole.queues.entry(queue).or_default();
                    held.next = held.next.max(sequence + 1);
                    held.entries.insert(sequence, entry);
                }
                _ => {
                    whole.queues.get_mut(&queue).map(|held| held.entries.remove(&sequence));
                }
            }
        }
    }
}

/// Appends records to an internal partition, a batch at a time.
struct Writer<'a> {
    partition: &'a Partition,
    builder: Builder,
    stamps: Stamps,
    body: Vec<u8>,
    /// Records pushed.
    pushed: usize,
    /// Of these, how many are in the partition.
    done: &'a mut usize,
}

impl<'a> Writer<'a> {
    /// The first `done` that are pushed are there.
    fn new(partition: &'a Partition, stamps: Stamps, done: &'a mut usize) -> Writer<'a> {
        let mut builder = Builder::default();
        builder.restart(partition.high_watermark());
        Writer { partition, builder, stamps, body: Vec::new(), pushed: 0, done }
    }

    fn push(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), DiskError> {
        self.pushed += 1;
        if self.pushed <= *self.done {
            return Ok(());
        }
        self.body.clear();
        batch::encode_body(&mut self.body, Some(key), value, std::iter::empty());
        self.builder.push(self.stamps.lsn as i64, &self.body);
        if self.builder.len() as u64 >= BATCH.bytes() {
            self.finish()?;
            self.builder.restart(self.partition.high_watermark());
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), DiskError> {
        if self.builder.is_empty() {
            return Ok(());
        }
        match self.partition.append(self.builder.finish(self.stamps.epoch)) {
            Ok(()) => {
                *self.done = self.pushed;
                Ok(())
            }
            Err(AppendError::Disk(error)) => Err(error),
            Err(other) => unreachable!("a batch built at the partition's end is appended: {other}"),
        }
    }
}

/// Why keyed state could not be read back.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A segment does not open.
    #[error(transparent)]
    Open(#[from] DiskError),
    /// A read failed.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A stored batch is damaged.
    #[error("disk: {0}")]
    Batch(#[from] batch::BatchError),
}
