//! A task from its first read to its last sync.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::batch::{Header, Record};
use crate::disk::DiskError;

use super::super::partition::Closed;
use super::super::segment::{OpenError, Segment};
use super::files::{Batches, Output};
use super::newest::{KEYS_MAX, Newest};
use super::rewrite::{Left, Opened, Stamp};
use super::{Group, Task, clean_segments};

/// Longest rest between two pieces of work.
const REST_MAX: Duration = Duration::from_secs(1);

/// Why a task was given up; its partition stays as it was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CleanError {
    #[error("the process is stopping")]
    Stopping,
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Damaged(#[from] OpenError),
}

/// Rests for as long as it worked, so that the disk is others' half of the time; counts what it did.
pub(crate) struct Pace<'a> {
    stop: &'a AtomicBool,
    rest: fn(Duration),
    worked_since: Instant,
    pub(crate) read_bytes: u64,
    pub(crate) written_bytes: u64,
    pub(crate) records_gone: u64,
}

impl Pace<'_> {
    /// Until `stop` is set; `rest` waits.
    pub(crate) fn new(stop: &AtomicBool, rest: fn(Duration)) -> Pace<'_> {
        Pace { stop, rest, worked_since: Instant::now(), read_bytes: 0, written_bytes: 0, records_gone: 0 }
    }

    /// Between two pieces of work.
    pub(super) fn breathe(&mut self) -> Result<(), CleanError> {
        if self.stop.load(Ordering::Acquire) {
            return Err(CleanError::Stopping);
        }
        (self.rest)(self.worked_since.elapsed().min(REST_MAX));
        self.worked_since = Instant::now();
        Ok(())
    }
}

/// Does a task. When it fails the files that it made are gone, or go at the next start.
pub(crate) fn clean(task: &Task, pace: &mut Pace<'_>) -> Result<Vec<Group>, CleanError> {
    let mut run = Run { task, newest: Newest::new(), end: i64::MIN, made: Vec::new() };
    let cleaned = run.learn(pace).and_then(|()| run.rewrite(pace));
    if cleaned.is_err() {
        for name in run.made.iter().flatten() {
            if let Err(error) = task.partition.folder().remove(name) {
                tracing::debug!(%error, "a file of a compaction that was given up stays until the next start");
            }
        }
    }
    cleaned
}

struct Run<'a> {
    task: &'a Task,
    newest: Newest,
    /// Records from here on are not looked at: their keys may not be known.
    end: i64,
    made: Vec<[String; 3]>,
}

impl Run<'_> {
    /// Finds the newest record of each key among what is dirty, as far as there is room. Of what was cleaned before
    /// only tombstones are noted, so that what a queue held then goes when it does not any more.
    fn learn(&mut self, pace: &mut Pace<'_>) -> Result<(), CleanError> {
        let (clean, dirty) = self.task.segments.split_at(clean_segments(&self.task.segments));
        self.end = clean.last().map_or(i64::MIN, |segment| segment.end);
        for segment in clean {
            let mut batches = Batches::of(segment);
            while let Some((header, bytes)) = batches.next(pace)? {
                if header.delete_horizon_ms().is_some() {
                    // Half of the room is for what is dirty, and one batch of that fits: it gets on.
                    self.note(&header, &bytes, KEYS_MAX / 2, |record| record.value.is_none());
                }
            }
        }
        for segment in dirty {
            let mut batches = Batches::of(segment);
            while let Some((header, bytes)) = batches.next(pace)? {
                if !self.note(&header, &bytes, KEYS_MAX, |_| true) {
                    return Ok(());
                }
                self.end = header.last_offset() + 1;
            }
        }
        Ok(())
    }

    /// Whether there was room for all; what cannot be read has nothing to note.
    fn note(&mut self, header: &Header, bytes: &[u8], keys_max: usize, which: impl Fn(&Record<'_>) -> bool) -> bool {
        let Some(opened) = Opened::new(*header, bytes) else { return true };
        let mut records = opened.records();
        while let Ok(Some(record)) = records.next() {
            if let Some(key) = record.key.filter(|_| which(&record))
                && !self.newest.note(key, record.offset, keys_max)
            {
                return false;
            }
        }
        true
    }

    fn rewrite(&mut self, pace: &mut Pace<'_>) -> Result<Vec<Group>, CleanError> {
        let task = self.task;
        let first_dirty = clean_segments(&task.segments);
        // One of which only a part is known waits for the next time, unless it is the first: else nothing would come of it.
        let is_known = |at: usize, s: &Closed| s.end <= self.end || at == first_dirty && s.extent.base < self.end;
        let known = task.segments.iter().enumerate().filter(|(at, segment)| is_known(*at, segment));
        let known: Vec<&Closed> = known.map(|(_, segment)| segment).collect();
        let mut rewritten = Vec::new();
        for group in groups(&known, task.settings.segment_bytes_max()) {
            rewritten.extend(self.rewrite_group(group, pace)?);
        }
        Ok(rewritten)
    }

    /// `None` when it is as it was.
    fn rewrite_group(&mut self, group: &[&Closed], pace: &mut Pace<'_>) -> Result<Option<Group>, CleanError> {
        if let [segment] = group
            && segment.extent.generation > 0
            && !self.would_change(segment, pace)?
        {
            return Ok(None);
        }
        let mut writer = GroupWriter::new(group);
        for segment in group {
            let mut batches = Batches::of(segment);
            while let Some((header, bytes)) = batches.next(pace)? {
                let left = self.left_of(segment, &header, &bytes);
                pace.records_gone += left.records_gone(&header);
                match &left {
                    Left::Nothing => {}
                    Left::All => writer.push(self, &header, &bytes, pace)?,
                    Left::Some(batch) => writer.push(self, &header, batch, pace)?,
                }
            }
        }
        let new = writer.finish(pace)?;
        Ok(Some(Group { old: group.iter().map(|s| (s.extent.base, s.extent.generation)).collect(), new }))
    }

    fn would_change(&mut self, segment: &Closed, pace: &mut Pace<'_>) -> Result<bool, CleanError> {
        let mut changes = false;
        let mut batches = Batches::of(segment);
        // To its end: what is held back there must be known.
        while let Some((header, bytes)) = batches.next(pace)? {
            changes |= self.left_of(segment, &header, &bytes) != Left::All;
        }
        Ok(changes)
    }

    fn left_of(&mut self, segment: &Closed, header: &Header, bytes: &[u8]) -> Left {
        if header.base_offset >= self.end {
            return Left::All;
        }
        let Some(opened) = Opened::new(*header, bytes) else {
            self.newest.hold_back_all();
            return Left::All;
        };
        // Only what compaction wrote: a producer may set any bit.
        let horizon_ms = header.delete_horizon_ms().filter(|_| segment.extent.generation > 0);
        let retention_ms = self.task.settings.delete_retention_ms;
        let stamp = match horizon_ms {
            Some(_) => Stamp::Keep,
            None => Stamp::DeleteFrom(self.task.ages.now_ms().saturating_add_unsigned(retention_ms)),
        };
        let (task, newest) = (self.task, &mut self.newest);
        let seen_at = horizon_ms.map(|horizon_ms| horizon_ms.saturating_sub_unsigned(retention_ms));
        let tombstones_go = seen_at.is_some_and(|seen_ms| task.ages.is_older(seen_ms, retention_ms));
        opened.rewrite(stamp, |record| stays(task, newest, record, tombstones_go))
    }
}

/// Whether a record stays: the newest of its key, and what a queue points to. Without a key nothing says that a newer
/// one replaced it.
fn stays(task: &Task, newest: &mut Newest, record: &Record<'_>, tombstones_go: bool) -> bool {
    let Some(key) = record.key else { return true };
    let hash = newest.hash(key);
    if task.is_pinned(record.offset) && !off!(CleanPins) {
        newest.hold_back(hash);
        return true;
    }
    let newest_offset = newest.of(hash);
    if newest_offset.is_some_and(|newest| newest > record.offset) {
        return false;
    }
    let is_over = record.value.is_none() && tombstones_go;
    // Without it an older record that stays would be the key's last again.
    !(is_over && newest_offset == Some(record.offset) && !newest.is_held_back(hash))
}

/// Neighbours that fit into one segment together.
fn groups<'s>(segments: &'s [&'s Closed], bytes_max: u64) -> Vec<&'s [&'s Closed]> {
    let mut groups = Vec::new();
    let mut rest = segments;
    while let Some(first) = rest.first() {
        let mut bytes = 0;
        let fits = |segment: &&&Closed| {
            bytes += segment.extent.bytes;
            bytes <= bytes_max && segment.end - first.extent.base <= i64::from(i32::MAX)
        };
        let (group, after) = rest.split_at(rest.iter().take_while(fits).count().max(1));
        groups.push(group);
        rest = after;
    }
    groups
}

/// Writes what is left of a group: into one segment, but for what is not cleaned yet, which is a segment of generation 0
/// again.
struct GroupWriter<'a> {
    base: i64,
    generation: u32,
    output: Option<(Output<'a>, bool)>,
    new: Vec<Segment>,
}

impl<'a> GroupWriter<'a> {
    fn new(group: &[&Closed]) -> GroupWriter<'a> {
        let base = group.iter().map(|s| s.extent.base).min().unwrap_or(0);
        let generation = group.iter().map(|s| s.extent.generation).max().unwrap_or(0) + 1;
        GroupWriter { base, generation, output: None, new: Vec::new() }
    }

    fn push(
        &mut self,
        run: &mut Run<'a>,
        header: &Header,
        bytes: &[u8],
        pace: &mut Pace<'_>,
    ) -> Result<(), CleanError> {
        let is_dirty = header.base_offset >= run.end;
        if let Some((output, _)) = self.output.take_if(|(_, was_dirty)| *was_dirty != is_dirty) {
            self.new.push(output.finish(pace)?);
        }
        let (output, _) = match &mut self.output {
            Some(output) => output,
            none => {
                let (base, generation) = if is_dirty { (header.base_offset, 0) } else { (self.base, self.generation) };
                let output = Output::create(run.task.partition.folder(), base, generation)?;
                run.made.push(output.file_names());
                none.insert((output, is_dirty))
            }
        };
        output.push(bytes, pace)
    }

    fn finish(self, pace: &mut Pace<'_>) -> Result<Vec<Segment>, CleanError> {
        let mut new = self.new;
        if let Some((output, _)) = self.output {
            new.push(output.finish(pace)?);
        }
        Ok(new)
    }
}
