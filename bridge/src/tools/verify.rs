//! `millstream log verify`: every CRC, index and pointer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::batch::Header;
use crate::journal::changes::Changes;
use crate::journal::frame::{self, Section};
use crate::log::segment;
use crate::reader::{Fetched, Reader};
use crate::state::{Change, Pointer};
use crate::{OpenError, Space};

use super::{Finding, Look};

/// What was looked at and what is wrong.
#[derive(Clone, Debug, Default)]
pub struct Verified {
    /// What is damaged.
    pub findings: Vec<Finding>,
    /// Files that nothing names: the next start removes segments among them.
    pub orphans: Vec<PathBuf>,
    /// The LSN of the checkpoint.
    pub checkpoint_lsn: u64,
    /// Frames behind it.
    pub frames: u64,
    /// Topics, with internal ones.
    pub topics: usize,
    /// Bytes of their segments.
    pub bytes: u64,
    /// Entries of queues.
    pub pointers: usize,
    /// Of these, ones that lead to no record: (queue, sequence).
    pub dangling: Vec<(u64, u64)>,
}

/// Offsets that frames behind the checkpoint append, by partition.
type Journaled = BTreeMap<(u32, u32), Vec<(i64, i64)>>;

/// Looks at everything in a folder. Changes nothing.
pub fn verify(data_dir: &Path) -> Result<Verified, OpenError> {
    let mut look = Look::at(data_dir, false)?;
    let mut verified = Verified { checkpoint_lsn: look.checkpoint.lsn, ..Verified::default() };
    let journaled = replay_in_memory(&mut look, &mut verified)?;
    for topic in look.topics.all() {
        verified.topics += 1;
        verified.bytes += topic.partitions.iter().map(|partition| partition.size_bytes()).sum::<u64>();
    }
    verified.pointers = look.whole.queues.values().map(|queue| queue.entries.len()).sum();
    verified.dangling = dangling(&look, &journaled);
    for (queue, sequence) in &verified.dangling {
        let entry = look.whole.queues.get(queue).and_then(|queue| queue.entries.get(sequence));
        let Some(Pointer { topic, partition, offset }) = entry.map(|entry| entry.pointer) else { continue };
        let what = format!(
            "entry {sequence} of queue {queue:x} leads to topic {topic}, partition {partition}, offset {offset}: no record"
        );
        look.damage.found(&look.topics_folder.join("__queues.3"), 0..0, what);
    }
    verified.orphans = orphans(&look)?;
    verified.findings = look.damage.findings();
    Ok(verified)
}

fn replay_in_memory(look: &mut Look, verified: &mut Verified) -> Result<Journaled, OpenError> {
    let (mut changes, mut journaled) = (Changes::default(), Journaled::new());
    changes.over_newer = true;
    let (from, changes_from) = (look.survey.from_lsn, look.survey.changes_from);
    look.journal.frames(from, |_, _, frame| {
        if frame.lsn <= from {
            return Ok(true);
        }
        verified.frames += 1;
        let mut body = frame.body;
        while let Some(section) = frame::next_section(&mut body) {
            match section {
                Section::Batch { topic, partition, bytes } => {
                    if let Ok(header) = Header::parse(bytes) {
                        let ranges = journaled.entry((topic, partition)).or_default();
                        ranges.push((header.base_offset, header.last_offset()));
                    }
                }
                Section::Changes(mut bytes) if frame.lsn >= changes_from => {
                    while let Some(change) = Change::decode(&mut bytes) {
                        changes.add(&change);
                    }
                }
                Section::Changes(_) => {}
            }
        }
        Ok(true)
    })?;
    look.whole.apply(&changes);
    Ok(journaled)
}

/// Entries that still need a record which is nowhere.
fn dangling(look: &Look, journaled: &Journaled) -> Vec<(u64, u64)> {
    let mut reader = Reader::new(look.topics.clone());
    let mut found = Vec::new();
    for (queue, held) in &look.whole.queues {
        for (sequence, entry) in held.entries.iter().filter(|(_, entry)| !entry.released) {
            let Pointer { topic, partition, offset } = entry.pointer;
            let ranges = journaled.get(&(topic, partition)).map_or(&[][..], Vec::as_slice);
            let is_journaled = ranges.iter().any(|(first, last)| (*first..=*last).contains(&offset));
            if !is_journaled && !leads_to_record(look, &mut reader, &entry.pointer) {
                found.push((*queue, *sequence));
            }
        }
    }
    found
}

fn leads_to_record(look: &Look, reader: &mut Reader, pointer: &Pointer) -> bool {
    match reader.get(pointer) {
        Ok(Fetched::Record(_)) => return true,
        Ok(Fetched::Cold) => {}
        Ok(Fetched::Gone) | Err(_) => return false,
    }
    let topic = look.topics.with_id(pointer.topic);
    let partition = topic.as_ref().and_then(|topic| topic.partitions.get(pointer.partition as usize));
    let Some(partition) = partition.filter(|partition| pointer.offset < partition.high_watermark()) else {
        return false;
    };
    let Ok(chunk) = partition.read_blocking(pointer.offset, 1) else { return false };
    reader.install(pointer, chunk);
    matches!(reader.get(pointer), Ok(Fetched::Record(_)))
}

/// Segments that the checkpoint does not name, and folders of no topic.
fn orphans(look: &Look) -> Result<Vec<PathBuf>, OpenError> {
    let mut found = Vec::new();
    let defined = |id: u32| {
        let key = (Space::TOPICS, Box::from(id.to_be_bytes()));
        id < crate::log::topic::FIRST_PUBLIC_ID
            || look.whole.keyed.contains_key(&key)
            || look.topics.with_id(id).is_some()
    };
    for name in look.topics_folder.names()? {
        let id = name.rsplit_once('.').and_then(|(_, id)| id.parse().ok());
        match id {
            Some(id) if defined(id) => {}
            _ => found.push(PathBuf::from("topics").join(name)),
        }
    }
    for topic in look.topics.all() {
        for partition in &topic.partitions {
            let folder = partition.folder();
            let extent = look.checkpoint.extents.get(&(topic.id, partition.index)).cloned().unwrap_or_default();
            let is_named = |found| extent.segments.iter().any(|s| (s.base, s.generation) == found);
            // Those behind the checkpoint are the journal's to write again.
            let is_behind = |(base, _): (i64, u32)| base >= extent.end;
            for name in folder.names()? {
                let parsed = segment::parse_file_name(&name);
                if parsed.is_none_or(|found| !is_named(found) && !is_behind(found)) {
                    let path = folder.join(&name);
                    found.push(path.strip_prefix(look.damage.root()).unwrap_or(&path).to_owned());
                }
            }
        }
    }
    Ok(found)
}
