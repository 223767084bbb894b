//! One partition: its segments in order, written by the apply thread alone, read by everyone.

mod read;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::batch::{self, Header};
use crate::damage::Damage;
use crate::disk::{DiskError, File, Folder};

use super::ages::Ages;
use super::segment::{self, Believed, Segment, SegmentExtent};
use super::settings::Settings;

pub use read::ReadError;

/// One partition of a topic.
#[derive(Debug)]
pub struct Partition {
    /// Its topic's id.
    pub topic_id: u32,
    /// Its index in the topic.
    pub index: u32,
    folder: Folder,
    segment_bytes_max: AtomicU64,
    segments: RwLock<Segments>,
    log_start: AtomicI64,
    high_watermark: AtomicI64,
    waiting: Mutex<Vec<Weak<Notify>>>,
}

#[derive(Debug, Default)]
struct Segments {
    /// Ascending; appends go to the last.
    list: Vec<Segment>,
    /// (leader epoch, its first offset), ascending.
    epochs: Vec<(i32, i64)>,
}

/// What a checkpoint says of a partition: up to here it is durable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// First offset held.
    pub log_start: i64,
    /// Offset after the last record.
    pub end: i64,
    /// Ascending; between two there may be offsets that nobody needs any more.
    pub segments: Vec<SegmentExtent>,
    /// (leader epoch, its first offset).
    pub epochs: Vec<(i32, i64)>,
}

/// A segment that nobody appends to any more.
#[derive(Clone, Debug)]
pub(crate) struct Closed {
    pub(crate) extent: SegmentExtent,
    /// The offset after its last record.
    pub(crate) end: i64,
    /// Its greatest timestamp.
    pub(crate) newest_ms: Option<i64>,
    pub(crate) file: Arc<File>,
}

/// How far what lies in a partition's folder is believed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trust<'a> {
    /// As far as there are whole batches, not as far as a checkpoint says.
    pub(crate) as_far_as_whole: bool,
    /// The journal has what comes from this offset on.
    pub(crate) journaled_from: i64,
    pub(crate) damage: &'a Damage,
}

impl<'a> Trust<'a> {
    /// As far as the checkpoint says.
    pub(crate) fn checkpoint(damage: &'a Damage) -> Trust<'a> {
        Trust { as_far_as_whole: false, journaled_from: i64::MAX, damage }
    }

    /// As far as there is anything.
    pub(crate) fn batches(damage: &'a Damage) -> Trust<'a> {
        Trust { as_far_as_whole: true, journaled_from: i64::MAX, damage }
    }
}

impl Partition {
    /// Opens a partition at exactly what the checkpoint names; anything else in its folder goes (R1). Where the journal or
    /// the checkpoint is lost, whole batches behind that are believed, too, and nothing goes (R3).
    pub(crate) fn open(
        folder: Folder,
        (topic_id, index): (u32, u32),
        extent: Extent,
        segment_bytes_max: u64,
        Trust { as_far_as_whole, journaled_from, damage }: Trust<'_>,
    ) -> Result<Partition, DiskError> {
        let names = folder.names()?;
        let mut wanted = extent.segments.clone();
        let is_named = |(base, generation)| wanted.iter().any(|s| (s.base, s.generation) == (base, generation));
        let unnamed: Vec<_> =
            names.iter().filter_map(|name| segment::parse_file_name(name)).filter(|found| !is_named(*found)).collect();
        if as_far_as_whole {
            wanted.extend(found_behind(&names, &extent));
            if !damage.only_looks() {
                // They may have been made by a process that was killed.
                folder.sync()?;
            }
        } else if !damage.only_looks() {
            for (base, generation) in unnamed {
                segment::file_names(base, generation).iter().try_for_each(|name| folder.remove(name))?;
            }
        }
        let mut believed = Believed { as_far_as_whole: false, damage, journaled_from, epochs: extent.epochs };
        let mut list: Vec<Segment> = Vec::new();
        for (at, one) in wanted.iter().enumerate() {
            let name = segment::file_name(one.base, one.generation, "log");
            let end = if as_far_as_whole { i64::MAX } else { extent.end };
            let offset_end = wanted.get(at + 1).map_or(end, |next| next.base);
            if names.binary_search(&name).is_err() {
                let what = format!("missing; {}", segment::lost(&(one.base..offset_end)));
                damage.found(&folder.join(&name), 0..one.bytes, what);
                continue;
            }
            believed.as_far_as_whole = as_far_as_whole && at + 1 >= extent.segments.len();
            let before = list.last().map_or(one.base, |segment| segment.end);
            if at >= extent.segments.len() && before < one.base && before >= journaled_from {
                // The journal has the offsets in between, and so all behind them.
                break;
            }
            list.push(Segment::open(&folder, one, offset_end, &mut believed)?);
        }
        let first_held = list.first().map_or(0, |segment| segment.base);
        let known = extent.end > 0 || !extent.segments.is_empty();
        let end = list.last().map_or(0, |segment| segment.end).max(extent.end);
        Ok(Partition {
            topic_id,
            index,
            folder,
            segment_bytes_max: AtomicU64::new(segment_bytes_max),
            segments: RwLock::new(Segments { list, epochs: believed.epochs }),
            log_start: AtomicI64::new(if known { extent.log_start } else { first_held }),
            high_watermark: AtomicI64::new(end),
            waiting: Mutex::default(),
        })
    }

    /// First offset that Kafka clients see; queues may point to records below it (S6).
    pub fn log_start(&self) -> i64 {
        self.log_start.load(Ordering::Acquire)
    }

    /// The offset after the last record that is durable and can be read.
    pub fn high_watermark(&self) -> i64 {
        self.high_watermark.load(Ordering::Acquire)
    }

    /// Appends one batch whose base offset is the high watermark. Called by the one thread that writes this
    /// partition; readers see it when this returns.
    pub fn append(&self, bytes: &[u8]) -> Result<(), AppendError> {
        let header = Header::parse(bytes)?;
        let expected = self.high_watermark();
        if header.base_offset != expected {
            return Err(AppendError::Gap { expected, found: header.base_offset });
        }
        self.append_at_end(bytes, &header)
    }

    /// The same when the journal is replayed. What is there already is passed over; offsets that damage took are left
    /// out, for those behind them keep theirs (R1). Gives the ones left out.
    pub(crate) fn append_replayed(&self, bytes: &[u8]) -> Result<Range<i64>, AppendError> {
        let header = Header::parse(bytes)?;
        let expected = self.high_watermark();
        if header.base_offset < expected {
            return Ok(expected..expected);
        }
        self.append_at_end(bytes, &header)?;
        Ok(expected..header.base_offset)
    }

    fn append_at_end(&self, bytes: &[u8], header: &Header) -> Result<(), AppendError> {
        self.roll_if_full(bytes.len() as u64, header)?;
        let (file, position) = {
            let segments = self.segments.read();
            // PROOF: roll_if_full leaves at least one segment.
            let active = segments.list.last().ok_or(AppendError::NoSegment)?;
            (active.file.clone(), active.bytes)
        };
        file.write_at(bytes, position)?;
        {
            let mut segments = self.segments.write();
            if segments.epochs.last().is_none_or(|(epoch, _)| *epoch < header.leader_epoch) {
                segments.epochs.push((header.leader_epoch, header.base_offset));
            }
            let active = segments.list.last_mut().ok_or(AppendError::NoSegment)?;
            active.note(header, position);
            active.bytes += bytes.len() as u64;
            active.dirty = true;
        }
        self.high_watermark.store(header.last_offset() + 1, Ordering::Release);
        Ok(())
    }

    /// Offsets below this were given, whatever is left of them.
    pub(crate) fn raise_end(&self, offset: i64) {
        self.high_watermark.fetch_max(offset, Ordering::AcqRel);
    }

    /// Wakes who waits for an append.
    pub fn wake_waiting(&self) {
        for notify in self.waiting.lock().drain(..) {
            if let Some(notify) = notify.upgrade() {
                notify.notify_one();
            }
        }
    }

    fn roll_if_full(&self, more: u64, header: &Header) -> Result<(), DiskError> {
        let full = {
            let segments = self.segments.read();
            // A compressed batch may say that it holds any number of records; offsets in an index are relative.
            let indexable = |active: &Segment| header.last_offset() - active.base <= i64::from(i32::MAX);
            let bytes_max = self.segment_bytes_max.load(Ordering::Relaxed);
            let fits = |active: &Segment| !active.sealed && active.bytes + more <= bytes_max && indexable(active);
            match segments.list.last() {
                Some(active) if active.bytes == 0 || fits(active) => return Ok(()),
                full => full.is_some(),
            }
        };
        if full {
            self.write_index()?;
        }
        let fresh = Segment::create(&self.folder, header.base_offset, 0)?;
        self.segments.write().list.push(fresh);
        Ok(())
    }

    /// Starts a new segment at the high watermark, whatever the size of the last one; nothing when it is
    /// empty and so begins there already: a second of that name would be the same file.
    pub fn roll(&self) -> Result<(), DiskError> {
        let base = self.high_watermark();
        if self.segments.read().list.last().is_some_and(|active| active.base == base) {
            return Ok(());
        }
        let fresh = Segment::create(&self.folder, base, 0)?;
        self.segments.write().list.push(fresh);
        Ok(())
    }

    /// From the next batch on segments are closed at another size.
    pub fn limit_segments(&self, bytes_max: u64) {
        self.segment_bytes_max.store(bytes_max, Ordering::Relaxed);
    }

    /// Kafka clients see nothing below `offset` any more, as far as there is anything. It never goes back.
    pub fn raise_log_start(&self, offset: i64) {
        let start = offset.min(self.high_watermark());
        self.log_start.fetch_max(start, Ordering::AcqRel);
        // Of the epochs below it the last one says where it began.
        let mut segments = self.segments.write();
        let below = segments.epochs.partition_point(|(_, first)| *first <= start);
        segments.epochs.drain(..below.saturating_sub(1));
    }

    /// Lets go of what its topic's settings do not keep: raises the log start over whole segments, and closes the last
    /// one when it is old. Called by the thread that appends.
    pub fn expire(&self, settings: &Settings, ages: &Ages) {
        let mut segments = self.segments.write();
        if let Some(active) = segments.list.last_mut()
            && active
                .first_ms
                .is_some_and(|first_ms| first_ms >= 0 && ages.is_older(first_ms, settings.segment_age_max_ms()))
        {
            active.sealed = true;
        }
        if !settings.delete {
            return;
        }
        let mut start = self.log_start();
        let mut kept: u64 = segments.list.iter().filter(|s| s.end > start).map(|s| s.bytes).sum();
        let last = segments.list.len().saturating_sub(1);
        for (index, segment) in segments.list.iter().enumerate() {
            if segment.end <= start || segment.bytes == 0 {
                continue;
            }
            // A record without a time (-1) has no age.
            let newest_ms = segment.index.max_timestamp().filter(|at| *at >= 0);
            let too_old = settings.retention_ms.zip(newest_ms).is_some_and(|(age, at)| ages.is_older(at, age));
            let enough = |bytes| kept - segment.bytes >= bytes;
            if !too_old && (index == last || !settings.retention_bytes.is_some_and(enough)) {
                break;
            }
            start = segment.end;
            kept -= segment.bytes;
        }
        drop(segments);
        self.raise_log_start(start);
    }

    /// Whether there is a segment that Kafka clients see nothing of.
    pub fn has_unseen(&self) -> bool {
        self.segments.read().list.iter().any(|segment| self.is_unseen(segment))
    }

    /// Forgets every segment that Kafka clients see nothing of and that no range of offsets (both ends included, in order)
    /// touches. Gives the names of their files, to be unlinked after the next checkpoint (C2). Called by the thread that
    /// appends.
    pub fn forget_unseen(&self, pinned: &[(i64, i64)]) -> Vec<String> {
        let mut gone = Vec::new();
        let mut unneeded = Vec::new();
        // Not under the lock that readers wait for: there may be many ranges.
        for segment in self.segments.read().list.iter().filter(|segment| self.is_unseen(segment)) {
            let from = pinned.partition_point(|(_, last)| *last < segment.base);
            if pinned.get(from).is_none_or(|(first, _)| *first >= segment.end) {
                unneeded.push(segment.base);
                gone.extend(segment.file_names());
            }
        }
        if !unneeded.is_empty() {
            self.segments.write().list.retain(|segment| unneeded.binary_search(&segment.base).is_err());
        }
        gone
    }

    /// Bytes of the segments that Kafka clients see nothing of.
    pub fn unseen_bytes(&self) -> u64 {
        self.segments.read().list.iter().filter(|segment| self.is_unseen(segment)).map(|segment| segment.bytes).sum()
    }

    fn is_unseen(&self, segment: &Segment) -> bool {
        segment.bytes > 0 && segment.end <= self.log_start()
    }

    /// All but the last segment, from the log start on.
    pub(crate) fn closed_segments(&self) -> Vec<Closed> {
        let segments = self.segments.read();
        let (_, closed) = segments.list.split_last().unzip();
        let closed: &[Segment] = closed.unwrap_or_default();
        let seen = closed.iter().filter(|segment| segment.bytes > 0 && !self.is_unseen(segment));
        let close = |s: &Segment| Closed {
            extent: s.extent(),
            end: s.end,
            newest_ms: s.index.max_timestamp(),
            file: s.file.clone(),
        };
        seen.map(close).collect()
    }

    /// Puts what compaction left of some neighbours in their place, unless one of them is gone meanwhile. Gives the names of
    /// what goes, to be unlinked after the next checkpoint (C2): those segments, or what was to replace them. Called by the
    /// thread that appends.
    pub(crate) fn replace(&self, old: &[(i64, u32)], new: Vec<Segment>) -> Vec<String> {
        let mut segments = self.segments.write();
        let list = &mut segments.list;
        let place = old.first().and_then(|first| list.iter().position(|s| (s.base, s.generation) == *first));
        let range = place.map(|place| place..place + old.len());
        // The last is appended to.
        let range = range.filter(|range| range.end < list.len());
        let range =
            range.filter(|range| list[range.clone()].iter().map(|s| (s.base, s.generation)).eq(old.iter().copied()));
        let gone = match range {
            Some(range) => list.splice(range, new).collect(),
            None => new,
        };
        gone.iter().flat_map(Segment::file_names).collect()
    }

    /// Whether it holds no segment at all.
    pub fn is_bare(&self) -> bool {
        self.segments.read().list.is_empty()
    }

    /// What a checkpoint at this very moment has to name, and the files to sync for it, which count as
    /// clean from here on. Called by the thread that appends.
    pub fn extent(&self) -> (Extent, Vec<Arc<File>>) {
        let mut segments = self.segments.write();
        let extent = Extent {
            log_start: self.log_start(),
            end: self.high_watermark(),
            segments: segments.list.iter().map(Segment::extent).collect(),
            epochs: segments.epochs.clone(),
        };
        let mut dirty = Vec::new();
        for segment in segments.list.iter_mut().filter(|s| s.dirty) {
            segment.dirty = false;
            dirty.push(segment.file.clone());
        }
        (extent, dirty)
    }

    /// Writes the active segment's index files and makes the folder's names durable.
    pub fn settle(&self) -> Result<(), DiskError> {
        self.write_index()?;
        self.folder.sync()
    }

    /// Writes what the active segment's index files lack. Not under the lock, which readers wait for: a disk may take
    /// its time.
    fn write_index(&self) -> Result<(), DiskError> {
        let Some((extent, unwritten)) =
            self.segments.read().list.last().map(|active| (active.extent(), active.index.unwritten()))
        else {
            return Ok(());
        };
        segment::write_index(&self.folder, &extent, &unwritten)?;
        let same = |segment: &&mut Segment| (segment.base, segment.generation) == (extent.base, extent.generation);
        if let Some(segment) = self.segments.write().list.iter_mut().rev().find(same) {
            segment.index.wrote(&unwritten);
        }
        Ok(())
    }

    /// Forgets every segment below `base`; gives their names, to be unlinked after the next checkpoint (C2).
    pub fn forget_below(&self, base: i64) -> Vec<String> {
        let mut segments = self.segments.write();
        let gone: Vec<_> = segments.list.extract_if(.., |s| s.base < base).collect();
        self.log_start.fetch_max(base, Ordering::AcqRel);
        gone.iter().flat_map(Segment::file_names).collect()
    }

    /// The folder its files are in.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Bytes of its segments.
    pub fn size_bytes(&self) -> u64 {
        self.segments.read().list.iter().map(|s| s.bytes).sum()
    }

    /// The newest start that wrote to it.
    pub(crate) fn newest_epoch(&self) -> Option<i32> {
        self.segments.read().epochs.last().map(|(epoch, _)| *epoch)
    }

    /// For OffsetForLeaderEpoch: the greatest epoch held that is at most `epoch` and the offset after its
    /// last record; where every epoch held is newer, the asked for and where the first of those begins: who read all of it
    /// goes on there. `None` when none is held.
    pub fn end_of_epoch(&self, epoch: i32) -> Option<(i32, i64)> {
        let segments = self.segments.read();
        let after = segments.epochs.partition_point(|(known, _)| *known <= epoch);
        let Some(found) = after.checked_sub(1).map(|at| segments.epochs[at].0) else {
            return segments.epochs.first().map(|(_, start)| (epoch, *start));
        };
        let end = segments.epochs.get(after).map_or_else(|| self.high_watermark(), |(_, start)| *start);
        Some((found, end))
    }

    /// `notify` is told (notify_one) once at the next append that became readable. Registering the same one
    /// again costs nothing; dropped ones are forgotten.
    pub fn wake_on_append(&self, notify: &Arc<Notify>) {
        let mut waiting = self.waiting.lock();
        let mine = Arc::downgrade(notify);
        if waiting.iter().any(|w| w.ptr_eq(&mine)) {
            return;
        }
        waiting.retain(|w| w.strong_count() > 0);
        waiting.push(mine);
    }
}

/// Segments that no checkpoint names, behind those that one does: of each base the oldest generation, which is whole
/// where a newer one may have been in the making.
fn found_behind(names: &[String], extent: &Extent) -> Vec<SegmentExtent> {
    let mut found = BTreeMap::new();
    for name in names.iter().filter(|name| name.ends_with(".log")) {
        let Some((base, generation)) = segment::parse_file_name(name) else { continue };
        let is_behind = extent.segments.is_empty() || base >= extent.end;
        if is_behind && !extent.segments.iter().any(|s| s.base == base) {
            let oldest = found.entry(base).or_insert(generation);
            *oldest = generation.min(*oldest);
        }
    }
    found.into_iter().map(|(base, generation)| SegmentExtent { base, generation, bytes: 0 }).collect()
}

/// Why an append did not happen; the journal still has the batch.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The batch is not one.
    #[error(transparent)]
    Batch(#[from] batch::BatchError),
    /// The batch does not continue the partition.
    #[error("batch at offset {found}, the partition ends at {expected}")]
    Gap {
        /// The partition's end.
        expected: i64,
        /// The batch's base offset.
        found: i64,
    },
    /// There is no segment to append to.
    #[error("the partition has no segment")]
    NoSegment,
}
