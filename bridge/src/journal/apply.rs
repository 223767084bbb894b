//! The apply thread: after the sync, batches go to partitions and changes to the next checkpoint (J5, C1).
//! It alone writes public partitions, so a slow page cache delays readers and never an acknowledgement.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::admission::Waiting;
use crate::log::partition::AppendError;
use crate::log::{Ages, Now, Partition, Topics};
use crate::size::Size;
use crate::stall::tell_of_this_thread;
use crate::state::{Change, Pointer, Space};

use super::changes::Changes;
use super::checkpoint::Job;
use super::cleaning::Cleaning;
use super::commit::Shared;
use super::frame::{self, Frame, Section};
use super::pins::Pins;
use super::retention::Outdated;

/// Changed keys and entries of queues that wait for a checkpoint in memory, 60 to 100 bytes each.
const CHANGES_MAX: usize = 500_000;
/// What a file may take up beyond its bytes.
const BLOCK: Size = Size::new(4096, 512);
/// How long to wait before the disk is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often a checkpoint is made while the disk is full: it frees what is journaled.
const CHECKPOINT_WHEN_FULL: Duration = Duration::from_secs(2);
/// How often it is looked whether the disk is full.
const LOOK: Duration = Duration::from_secs(1);

/// Applies frames; used by the apply thread and by recovery.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) topics: Arc<Topics>,
    /// Net changes since the last checkpoint.
    pub(crate) changes: Changes,
    /// The last frame applied.
    pub(crate) lsn: u64,
    pub(super) touched: BTreeMap<(u32, u32), Arc<Partition>>,
    /// What queues pointed to at the last checkpoint.
    pub(crate) pins: Pins,
    pub(crate) ages: Ages,
    /// What goes with the next checkpoint.
    pub(crate) outdated: Vec<Outdated>,
    /// Partitions given out for compaction: (topic, partition).
    pub(crate) being_cleaned: BTreeSet<(u32, u32)>,
}

/// Offsets of a partition (topic, index) that damage took.
pub(crate) type LeftOut = ((u32, u32), Range<i64>);

/// A frame that cannot be applied as it stands.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    #[error("topic {0} partition {1}: {2}")]
    Append(u32, u32, AppendError),
    #[error("a change in frame {0} does not parse")]
    Change(u64),
    #[error("there is not room for all of the frame")]
    NoRoom,
}

impl Applied {
    /// Goes on from a checkpoint at `lsn`, with what queues pointed to then.
    pub(crate) fn new(topics: Arc<Topics>, lsn: u64, pins: Pins, ages: Ages) -> Applied {
        let (changes, touched, being_cleaned) = (Changes::default(), BTreeMap::new(), BTreeSet::new());
        Applied { topics, changes, lsn, touched, pins, ages, outdated: Vec::new(), being_cleaned }
    }

    /// Takes in the changes of a frame.
    pub(crate) fn changes(
        &mut self,
        lsn: u64,
        body: &[u8],
        mut each: impl FnMut(&Change<'_>),
    ) -> Result<(), ApplyError> {
        let mut rest = body;
        while let Some(section) = frame::next_section(&mut rest) {
            if let Section::Changes(mut bytes) = section {
                while !bytes.is_empty() {
                    let change = Change::decode(&mut bytes).ok_or(ApplyError::Change(lsn))?;
                    each(&change);
                    self.take_effect(&change);
                    self.changes.add(&change);
                }
            }
        }
        self.lsn = lsn;
        Ok(())
    }

    /// Has the changes of a frame take effect once more.
    fn effects_of(&mut self, lsn: u64, body: &[u8]) -> Result<(), ApplyError> {
        let mut rest = body;
        while let Some(section) = frame::next_section(&mut rest) {
            let Section::Changes(mut bytes) = section else { continue };
            while !bytes.is_empty() {
                self.take_effect(&Change::decode(&mut bytes).ok_or(ApplyError::Change(lsn))?);
            }
        }
        Ok(())
    }

    /// Some changes are about topics themselves. Twice they do the same.
    fn take_effect(&mut self, change: &Change<'_>) {
        match change {
            Change::Trim(Pointer { topic, partition, offset }) => {
                if let Some(partition) = self.partition(*topic, *partition) {
                    partition.raise_log_start(*offset);
                }
            }
            Change::Put(Space::DELETED, id, _) => {
                if let Ok(id) = (*id).try_into().map(u32::from_be_bytes) {
                    self.topics.delete(id);
                }
            }
            _ => {}
        }
    }

    /// Appends the batches of a frame from the `done`th on, counting `done` up.
    pub(crate) fn batches(&mut self, body: &[u8], done: &mut usize) -> Result<(), ApplyError> {
        self.each_batch(body, done, |_, found, bytes| found.append(bytes))
    }

    /// Appends the first batch alone, unless that is done or its topic is not known yet.
    pub(crate) fn first_batch(&mut self, body: &[u8], done: &mut usize) -> Result<(), ApplyError> {
        let mut rest = body;
        let first = std::iter::from_fn(|| frame::next_section(&mut rest)).find_map(|section| match section {
            Section::Batch { topic, partition, bytes } => Some((topic, partition, bytes)),
            Section::Changes(_) => None,
        });
        let Some((topic, partition, bytes)) = first.filter(|_| *done == 0) else { return Ok(()) };
        if let Some(found) = self.partition(topic, partition) {
            found.append(bytes).map_err(|e| ApplyError::Append(topic, partition, e))?;
            *done = 1;
        }
        Ok(())
    }

    /// The same for recovery, after damage perhaps: gives the offsets that are missing before a batch, by partition.
    pub(crate) fn replay_batches(&mut self, body: &[u8], done: &mut usize) -> Result<Vec<LeftOut>, ApplyError> {
        let mut missing = Vec::new();
        self.each_batch(body, done, |place, found, bytes| {
            let left_out = found.append_replayed(bytes)?;
            missing.extend(Some((place, left_out)).filter(|(_, offsets)| !offsets.is_empty()));
            Ok(())
        })?;
        Ok(missing)
    }

    fn each_batch(
        &mut self,
        body: &[u8],
        done: &mut usize,
        mut append: impl FnMut((u32, u32), &Partition, &[u8]) -> Result<(), AppendError>,
    ) -> Result<(), ApplyError> {
        let mut rest = body;
        let mut index = 0;
        while let Some(section) = frame::next_section(&mut rest) {
            let Section::Batch { topic, partition, bytes } = section else { continue };
            index += 1;
            if index <= *done {
                continue;
            }
            // J4: replay skips nothing but what belongs to a topic that is no more.
            if let Some(found) = self.partition(topic, partition) {
                append((topic, partition), &found, bytes).map_err(|e| ApplyError::Append(topic, partition, e))?;
            }
            *done = index;
        }
        Ok(())
    }

    fn partition(&mut self, topic: u32, partition: u32) -> Option<Arc<Partition>> {
        if let Some(found) = self.touched.get(&(topic, partition)) {
            return Some(found.clone());
        }
        let found = self.topics.with_id(topic)?.partitions.get(partition as usize)?.clone();
        self.touched.insert((topic, partition), found.clone());
        Some(found)
    }

    /// A checkpoint's work at exactly the last frame applied; what it takes is forgotten here.
    pub(crate) fn checkpoint_job(&mut self, journal_bytes: u64) -> Job {
        let mut extents = BTreeMap::new();
        let mut dirty = Vec::new();
        for topic in self.topics.all() {
            for partition in &topic.partitions {
                let (extent, files) = partition.extent();
                extents.insert((topic.id, partition.index), extent);
                dirty.extend(files);
            }
        }
        Job {
            lsn: self.lsn,
            changes: std::mem::take(&mut self.changes),
            outdated: std::mem::take(&mut self.outdated),
            next_topic_id: self.topics.next_id(),
            extents,
            dirty,
            touched: std::mem::take(&mut self.touched).into_values().collect(),
            journal_bytes,
        }
    }
}

/// The apply thread.
pub(crate) struct Applier {
    pub(crate) shared: Arc<Shared>,
    pub(crate) applied: Applied,
    pub(crate) frames: Receiver<Arc<Frame>>,
    pub(crate) checkpoints: Sender<Job>,
    pub(crate) cleaning: Cleaning,
    /// A checkpoint is under way.
    pub(crate) running: Arc<AtomicBool>,
    pub(crate) checkpoint_bytes: u64,
    pub(crate) checkpoint_interval: Duration,
    pub(crate) began: Instant,
    /// Bytes applied that no checkpoint covers.
    pub(crate) journal_bytes: u64,
    /// What the start found no room for; before anything else.
    pub(crate) late: VecDeque<Arc<Frame>>,
    /// A checkpoint is due whatever the bytes and the time.
    pub(crate) soon: bool,
    /// Batches of the frame at hand that are in their partitions.
    pub(crate) batches_done: usize,
    /// Partitions with new batches, whose readers are to be woken.
    pub(crate) woken: Vec<Arc<Partition>>,
}

impl Applier {
    /// Runs until the committer is gone, then starts a last checkpoint.
    pub(crate) fn run(mut self) {
        tell_of_this_thread(&self.shared.stalls.apply);
        while let Some(frame) = self.late.pop_front() {
            if let Err(error) = self.apply(&frame) {
                return self.shared.fail(&error.to_string());
            }
        }
        // Whatever it was set to before, from here on a change is noticed (R5).
        self.applied.ages.look(now_since(self.began));
        let mut last = Instant::now();
        loop {
            let wait = match self.is_much() {
                // One is due and the last is not done: publishers may be waiting, and no frame wakes us.
                true => Duration::ZERO,
                false => self.checkpoint_interval.saturating_sub(last.elapsed()),
            };
            let wait = wait.clamp(Duration::from_millis(10), LOOK);
            let ended = match self.frames.recv_timeout(wait) {
                Ok(frame) => {
                    if let Err(error) = self.apply(&frame) {
                        tracing::error!(%error, "a committed frame cannot be applied");
                        return self.shared.fail(&error.to_string());
                    }
                    false
                }
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => true,
            };
            let interval = match self.shared.admission.is_open() {
                true => self.checkpoint_interval,
                false => self.checkpoint_interval.min(CHECKPOINT_WHEN_FULL),
            };
            let due = ended || self.is_much() || last.elapsed() >= interval;
            if due {
                self.start_checkpoint(ended, now_since(self.began));
                last = Instant::now();
            }
            if ended {
                return;
            }
        }
    }

    /// Whether a checkpoint is due by what there is, not by time.
    fn is_much(&self) -> bool {
        self.soon || self.journal_bytes >= self.checkpoint_bytes || self.applied.changes.len() >= CHANGES_MAX
    }

    /// Applies one frame, trying again while the disk refuses (J9): the frame stays in the journal. What there is before it
    /// goes on to the next checkpoint, which may let go of something.
    fn apply(&mut self, frame: &Frame) -> Result<(), ApplyError> {
        loop {
            match self.try_apply(frame) {
                Err(ApplyError::Append(topic, partition, AppendError::Disk(error))) => {
                    if self.shared.admission.refused(Waiting::Apply, &error) {
                        tracing::error!(topic, partition, %error, "the log cannot be written, and is tried again and again");
                    }
                    if self.is_before(frame) {
                        self.start_checkpoint(false, now_since(self.began));
                    }
                    std::thread::sleep(RETRY);
                }
                Err(ApplyError::NoRoom) => {
                    self.start_checkpoint(false, now_since(self.began));
                    std::thread::sleep(RETRY);
                }
                applied_or_failed => {
                    self.shared.admission.written(Waiting::Apply);
                    return applied_or_failed;
                }
            }
        }
    }

    /// Whether the disk is too full for a frame's batches: then none of them is tried.
    fn lacks_room(&self, mut body: &[u8]) -> bool {
        if self.shared.admission.is_open() {
            return false;
        }
        let (free_bytes, _) = self.shared.admission.bytes();
        let sections = std::iter::from_fn(|| frame::next_section(&mut body));
        let needed = sections.map(|section| match section {
            Section::Batch { bytes, .. } => bytes.len() as u64 + BLOCK.bytes(),
            Section::Changes(_) => 0,
        });
        free_bytes < needed.sum()
    }

    /// Whether nothing of a frame is applied yet.
    pub(crate) fn is_before(&self, frame: &Frame) -> bool {
        self.applied.lsn < frame.lsn
    }

    /// Applies one frame. After an error of the disk's the same one goes on where it stopped.
    pub(crate) fn try_apply(&mut self, frame: &Frame) -> Result<(), ApplyError> {
        let body = frame.body();
        let is_known = !self.is_before(frame);
        if !is_known {
            if self.lacks_room(body) {
                return Err(ApplyError::NoRoom);
            }
            // Also when that was wrong it is refused whole, mostly.
            self.applied.first_batch(body, &mut self.batches_done)?;
            self.applied.changes(frame.lsn, body, |_| {})?;
            self.journal_bytes += frame::padded_bytes(body.len()) as u64;
        }
        match is_known {
            // After damage some of its batches may be there.
            true => drop(self.applied.replay_batches(body, &mut self.batches_done)?),
            false => self.applied.batches(body, &mut self.batches_done)?,
        }
        self.batches_done = 0;
        if is_known {
            // A start that found no room for its batches trimmed less than it was to.
            self.applied.effects_of(frame.lsn, body)?;
        }
        self.applied.partitions_of(body, &mut self.woken);
        self.woken.drain(..).for_each(|partition| partition.wake_waiting());
        Ok(())
    }

    /// Hands a checkpoint over, when anything was applied or is to go since the last and none is under way, or `ended`.
    pub(crate) fn start_checkpoint(&mut self, ended: bool, now: Now) {
        if !ended && self.running.load(Ordering::Acquire) {
            return;
        }
        self.soon = false;
        let was_cleaned = self.cleaning.take(&mut self.applied);
        // Without bytes there are no changes, so what is retired is what the last checkpoint knew.
        let retired = self.applied.retire(now);
        if !was_cleaned && !ended {
            // What was given up is unlinked after this checkpoint, and no new file may have its name by then.
            self.cleaning.give(&mut self.applied, &self.shared);
        }
        if retired || was_cleaned || self.journal_bytes > 0 {
            self.running.store(true, Ordering::Release);
            let journal_bytes = std::mem::take(&mut self.journal_bytes);
            // A checkpoint thread that is gone has failed the lanes already.
            let _ = self.checkpoints.send(self.applied.checkpoint_job(journal_bytes));
        }
    }
}

fn now_since(began: Instant) -> Now {
    let wall_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64);
    Now { wall_ms, up: began.elapsed() }
}

impl Applied {
    /// The partitions that a frame's batches went to.
    fn partitions_of(&mut self, body: &[u8], out: &mut Vec<Arc<Partition>>) {
        let mut rest = body;
        while let Some(section) = frame::next_section(&mut rest) {
            if let Section::Batch { topic, partition, .. } = section
                && let Some(partition) = self.partition(topic, partition)
            {
                out.push(partition);
            }
        }
    }
}
