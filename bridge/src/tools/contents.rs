//! `millstream log dump`: what a topic or the journal holds.

use std::path::Path;

use crate::OpenError;
use crate::batch::{self, Header};
use crate::disk::DiskError;
use crate::journal::frame::{self, Section};
use crate::log::topic::Definition;
use crate::log::{Extent, Partition, ReadError, Trust};
use crate::state::{Change, Space};

use super::Look;

const READ_BYTES: usize = 1 << 20;

/// A folder to be shown.
pub struct Contents {
    look: Look,
}

/// A record, or what cannot be shown as one.
#[derive(Debug)]
pub enum Line<'a> {
    /// A record.
    Record(batch::Record<'a>),
    /// Records in a compressed batch, which are not looked into: first and last offset.
    Compressed(i64, i64),
    /// One that does not parse: its batch's first offset.
    Unreadable(i64),
}

/// A frame of the journal.
#[derive(Clone, Debug)]
pub struct FrameLine {
    /// Its file.
    pub file: String,
    /// First byte.
    pub position: u64,
    /// Its number.
    pub lsn: u64,
    /// What it says was on the disk before it.
    pub durable_lsn: u64,
    /// Batches: topic, partition, first and last offset.
    pub batches: Vec<(u32, u32, i64, i64)>,
    /// Changes, as text.
    pub changes: Vec<String>,
}

impl Contents {
    /// Opens a folder that no broker has open, and changes nothing.
    pub fn open(data_dir: &Path) -> Result<Contents, OpenError> {
        Ok(Contents { look: Look::at(data_dir, true)? })
    }

    /// Names of everything that can be shown.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.look.topics.all().iter().map(|topic| topic.name.clone()).collect();
        names.extend(crate::keyed::names().map(str::to_owned));
        names.sort();
        names
    }

    /// Indexes of a topic's partitions; `None` when there is no such topic.
    pub fn partitions(&self, topic: &str) -> Option<Vec<u32>> {
        if crate::keyed::names().any(|name| name == topic) {
            return Some(vec![0]);
        }
        let topics = self.look.topics.all();
        let found = topics.iter().rev().find(|found| found.name == topic)?;
        Some(found.partitions.iter().map(|partition| partition.index).collect())
    }

    /// Shows records of a partition from an offset on, until `each` says that it is enough.
    pub fn records(
        &self,
        topic: &str,
        partition: u32,
        from: i64,
        mut each: impl FnMut(Line<'_>) -> bool,
    ) -> Result<(), ReadError> {
        let Some(partition) = self.partition(topic, partition)? else { return Ok(()) };
        let mut offset = from.max(partition.first_held());
        while offset < partition.high_watermark() {
            let bytes = partition.read_blocking(offset, READ_BYTES)?;
            let mut rest = &bytes[..];
            if rest.is_empty() {
                return Ok(());
            }
            while let Ok(header) = Header::parse(rest) {
                let (one, after) = rest.split_at(header.total_bytes().min(rest.len()));
                if !show(one, &header, from, &mut each) {
                    return Ok(());
                }
                (offset, rest) = (header.last_offset() + 1, after);
            }
        }
        Ok(())
    }

    fn partition(&self, topic: &str, index: u32) -> Result<Option<std::sync::Arc<Partition>>, DiskError> {
        if let Some(id) = crate::keyed::id_of(topic) {
            let folder = self.look.topics_folder.folder(&format!("{topic}.{id}"))?.folder("0")?;
            let extent = self.look.checkpoint.extents.get(&(id, 0)).cloned().unwrap_or_else(Extent::default);
            let trust = Trust::batches(&self.look.damage);
            return Ok(Some(std::sync::Arc::new(Partition::open(folder, (id, 0), extent, 1, trust)?)));
        }
        let topics = self.look.topics.all();
        let found = topics.iter().rev().find(|found| found.name == topic);
        Ok(found.and_then(|found| found.partitions.get(index as usize)).cloned())
    }

    /// Shows every frame that is there, also what a checkpoint has.
    pub fn frames(&mut self, mut each: impl FnMut(FrameLine) -> bool) -> Result<(), OpenError> {
        let mut more = true;
        self.look.journal.frames(0, |_, at, frame| {
            if more {
                more = each(FrameLine::of(at.file, at.bytes.0, frame));
            }
            Ok(more)
        })?;
        Ok(())
    }
}

fn show(one: &[u8], header: &Header, from: i64, each: &mut impl FnMut(Line<'_>) -> bool) -> bool {
    if header.compressed() {
        return each(Line::Compressed(header.base_offset, header.last_offset()));
    }
    let mut records = batch::records(one, header);
    loop {
        match records.next() {
            Ok(Some(record)) if record.offset < from => {}
            Ok(Some(record)) => {
                if !each(Line::Record(record)) {
                    return false;
                }
            }
            Ok(None) => return true,
            Err(_) => return each(Line::Unreadable(header.base_offset)),
        }
    }
}

impl FrameLine {
    fn of(file: &str, position: u64, frame: &frame::Found<'_>) -> FrameLine {
        let (mut batches, mut changes) = (Vec::new(), Vec::new());
        let mut body = frame.body;
        while let Some(section) = frame::next_section(&mut body) {
            match section {
                Section::Batch { topic, partition, bytes } => {
                    if let Ok(header) = Header::parse(bytes) {
                        batches.push((topic, partition, header.base_offset, header.last_offset()));
                    }
                }
                Section::Changes(mut bytes) => {
                    while let Some(change) = Change::decode(&mut bytes) {
                        changes.push(in_words(&change));
                    }
                }
            }
        }
        let (file, lsn, durable_lsn) = (file.to_owned(), frame.lsn, frame.durable_lsn);
        FrameLine { file, position, lsn, durable_lsn, batches, changes }
    }
}

fn in_words(change: &Change<'_>) -> String {
    match change {
        Change::Put(Space::TOPICS, id, value) => format!("topic {}: {:?}", number(id), Definition::decode(value)),
        Change::Put(space, key, value) => format!("put {} {:?} ({} bytes)", space.0, lossy(key), value.len()),
        Change::Delete(space, key) => format!("delete {} {:?}", space.0, lossy(key)),
        Change::Enqueue(queue, sequence, entry) => {
            let at = entry.pointer;
            format!("enqueue {queue:x} {sequence}: topic {} partition {} offset {}", at.topic, at.partition, at.offset)
        }
        other => format!("{other:?}").to_lowercase(),
    }
}

fn number(id: &[u8]) -> u32 {
    id.try_into().map_or(0, u32::from_be_bytes)
}

fn lossy(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}
