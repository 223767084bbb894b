//! One partition: its segments in order, written by the apply thread alone, read by everyone.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::batch::{self, BatchError, Header};
use crate::compression;
use crate::damage::Damage;
use crate::disk::{DiskError, File, Folder};
use crate::metrics::{Purpose, disk};

use super::ages::Ages;
use super::scan::{self, Expected, Gap};
use super::segment::{self, Believed, Segment, SegmentExtent};
use super::settings::Settings;

/// Bytes read beyond what was asked for, since an index points at most this far before its batch.
const INDEX_SLACK_BYTES: usize = 8192;
/// How often a segment is looked through and the read tried again, before an error is told.
const LOOKS_MAX: usize = 3;

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
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The runtime that reads is being shut down.
    #[error("the process is stopping")]
    Stopping,
    /// A stored batch does not parse.
    #[error("disk: {0}")]
    Damaged(#[from] segment::OpenError),
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

/// Where a read has to look: a part of a segment without gaps.
#[derive(Clone)]
struct Place {
    segment: (i64, u32),
    file: Arc<File>,
    position: u64,
    end: u64,
    /// Of the segment.
    offsets: Range<i64>,
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
    /// has touched for `grace`: a pointer may be on its way from one queue to another. Gives their names, to be unlinked
    /// after the next checkpoint (C2). Called by the thread that appends.
    pub fn forget_unseen(&self, pinned: &[(i64, i64)], up: Duration, grace: Duration) -> Vec<String> {
        let mut gone = Vec::new();
        let mut unneeded = Vec::new();
        // Not under the lock that readers wait for: there may be many ranges.
        for segment in self.segments.read().list.iter().filter(|segment| self.is_unseen(segment)) {
            let from = pinned.partition_point(|(_, last)| *last < segment.base);
            if pinned.get(from).is_none_or(|(first, _)| *first >= segment.end) {
                unneeded.push(segment.base);
            }
        }
        self.segments.write().list.retain_mut(|segment| {
            if unneeded.binary_search(&segment.base).is_err() {
                segment.unneeded_since = None;
                return true;
            }
            let since = *segment.unneeded_since.get_or_insert(up);
            let stays = up.saturating_sub(since) < grace;
            if !stays {
                gone.extend(segment.file_names());
            }
            stays
        });
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

    /// Whole stored batches, from the first that reaches `offset` on, visible or not, at most `bytes_max` but always at least
    /// one; none above the high watermark; empty at the high watermark, or where damage took all up to there. Does not
    /// block the thread.
    pub async fn read(&self, offset: i64, bytes_max: usize) -> Result<Bytes, ReadError> {
        let (mut from, mut tries) = (None, 0);
        while let Some(place) = self.place(offset, from)? {
            match place.read(offset, bytes_max).await {
                Ok(batches) if !batches.is_empty() => return Ok(batches),
                Ok(_) => from = Some((place.segment, place.end)),
                Err(error) => {
                    tries += 1;
                    let Some(expected) = self.expected(place.segment).filter(|_| error.is_worth_a_look(tries)) else {
                        return Err(error);
                    };
                    let file = place.file.clone();
                    let gaps = blocking(move || Ok(scan::scan(&file, &expected, |_, _| {}))).await?;
                    self.take_out(&place, gaps);
                }
            }
        }
        Ok(Bytes::new())
    }

    /// The same, from the page cache alone: `None` when the disk would have to be asked.
    pub fn read_cached(&self, offset: i64, bytes_max: usize) -> Result<Option<Bytes>, ReadError> {
        let mut from = None;
        while let Some(place) = self.place(offset, from)? {
            match place.read_from(offset, bytes_max, |want| place.cached(want))? {
                Some(batches) if batches.is_empty() => from = Some((place.segment, place.end)),
                batches_or_cold => return Ok(batches_or_cold),
            }
        }
        Ok(Some(Bytes::new()))
    }

    /// The same, waiting for the disk where needed; not for I/O threads.
    pub fn read_blocking(&self, offset: i64, bytes_max: usize) -> Result<Bytes, ReadError> {
        let (mut from, mut tries) = (None, 0);
        while let Some(place) = self.place(offset, from)? {
            match place.read_from(offset, bytes_max, |want| place.uncached(want).map(Some)) {
                Ok(batches) => match batches.filter(|batches| !batches.is_empty()) {
                    Some(batches) => return Ok(batches),
                    None => from = Some((place.segment, place.end)),
                },
                Err(error) => {
                    tries += 1;
                    let Some(expected) = self.expected(place.segment).filter(|_| error.is_worth_a_look(tries)) else {
                        return Err(error);
                    };
                    let gaps = scan::scan(&place.file, &expected, |_, _| {});
                    self.take_out(&place, gaps);
                }
            }
        }
        Ok(Bytes::new())
    }

    /// The first offset of its segments: Kafka clients may see less.
    pub(crate) fn first_held(&self) -> i64 {
        self.segments.read().list.first().map_or(0, |segment| segment.base)
    }

    /// What is damaged of its files, as far as it was found.
    pub(crate) fn gaps(&self) -> Vec<(PathBuf, Range<u64>)> {
        let segments = self.segments.read();
        let of = |s: &Segment| s.gaps.iter().map(|gap| (s.file.path().to_owned(), gap.clone())).collect::<Vec<_>>();
        segments.list.iter().flat_map(of).collect()
    }

    /// Looks at every batch; takes out what is damaged.
    pub(crate) fn look_through(&self) {
        let segments: Vec<_> = self.segments.read().list.iter().map(|s| Place::of(s, 0..s.bytes)).collect();
        for place in segments {
            if let Some(expected) = self.expected(place.segment) {
                self.take_out(&place, scan::scan(&place.file, &expected, |_, _| {}));
            }
        }
    }

    /// Rewrites segments with damage in them into the next generation, and every index; gives the names of files that the
    /// next checkpoint does not name. Nobody appends meanwhile.
    pub(crate) fn rewrite_damaged(&self) -> Result<Vec<String>, DiskError> {
        let mut segments = self.segments.write();
        let mut outdated = Vec::new();
        for segment in &mut segments.list {
            if segment.gaps.is_empty() {
                segment.store_index(&self.folder)?;
            } else {
                let fresh = segment.rewritten(&self.folder)?;
                outdated.extend(std::mem::replace(segment, fresh).file_names());
            }
        }
        self.folder.sync()?;
        Ok(outdated)
    }

    /// What a segment should hold.
    fn expected(&self, (base, generation): (i64, u32)) -> Option<Expected> {
        let segments = self.segments.read();
        let at = segments.list.iter().position(|s| (s.base, s.generation) == (base, generation))?;
        let segment = &segments.list[at];
        let offset_end = segments.list.get(at + 1).map_or(segment.end, |next| next.base);
        let marks = segment.index.positions();
        Some(Expected { bytes: segment.bytes, offsets: base..offset_end, marks, elsewhere_from: i64::MAX })
    }

    /// Readers pass over what was found damaged in a segment from here on. A consumer that is before it gets what lies
    /// behind it, as over offsets that compaction took: an error would keep it there for ever.
    fn take_out(&self, place: &Place, gaps: Vec<Gap>) {
        let mut segments = self.segments.write();
        let found = segments.list.iter_mut().find(|s| (s.base, s.generation) == place.segment);
        let Some(segment) = found else { return };
        for gap in gaps.iter().filter(|gap| !segment.gaps.contains(&gap.bytes)) {
            let (path, bytes, what) = (place.file.path(), &gap.bytes, segment::describe(gap));
            disk(Purpose::of(path)).damaged.fetch_add(1, Ordering::Relaxed);
            let (file, from, to) = (path.display(), bytes.start, bytes.end);
            tracing::error!("damage: {file}, bytes {from} to {to}: {what}; readers go on behind it");
        }
        segment.gaps = gaps.into_iter().map(|gap| gap.bytes).collect();
    }

    /// Whether Kafka clients may read from this offset on.
    pub fn check_visible(&self, offset: i64) -> Result<(), ReadError> {
        let (start, end) = (self.log_start(), self.high_watermark());
        match (start..=end).contains(&offset) {
            true => Ok(()),
            false => Err(ReadError::OutOfRange { offset, start, end }),
        }
    }

    /// Where the first batch lies that reaches this offset, from a segment's position on where one is given; `None` when
    /// there is none yet.
    fn place(&self, offset: i64, from: Option<((i64, u32), u64)>) -> Result<Option<Place>, ReadError> {
        let end = self.high_watermark();
        if offset > end {
            return Err(ReadError::OutOfRange { offset, start: self.log_start(), end });
        }
        let segments = self.segments.read();
        let found = segments.list.partition_point(|s| s.end <= offset);
        let mut rest = segments.list[found..].iter().filter(|_| offset < end);
        Ok(rest.find_map(|segment| {
            let position = match from {
                Some(((base, _), _)) if segment.base < base => return None,
                Some(((base, _), position)) if segment.base == base => position,
                _ => segment.index.position_before((offset - segment.base).max(0) as u32),
            };
            Some(Place::of(segment, segment.run(position)?))
        }))
    }

    /// Offset and timestamp of the first record whose timestamp is at least `timestamp_ms`; of a batch that does not
    /// unpack, its first offset.
    pub async fn offset_for_timestamp(&self, timestamp_ms: i64) -> Result<Option<(i64, i64)>, ReadError> {
        let (start, high_watermark) = (self.log_start(), self.high_watermark());
        let places: Vec<Place> = {
            let segments = self.segments.read();
            let reaches = |s: &&Segment| s.end > start && s.index.max_timestamp().is_some_and(|t| t >= timestamp_ms);
            let places = |s: &Segment| {
                let runs = s.runs(s.index.position_before_time(timestamp_ms));
                runs.into_iter().map(|run| Place::of(s, run)).collect::<Vec<_>>()
            };
            segments.list.iter().filter(reaches).flat_map(places).collect()
        };
        // More than one where the log starts behind the record that reached it, or compaction took it.
        for place in places {
            if let Some(found) = blocking(move || place.find_time(timestamp_ms, start)).await? {
                return Ok(Some(found).filter(|(offset, _)| *offset < high_watermark));
            }
        }
        Ok(None)
    }

    /// Greatest timestamp held, by whoever set it.
    pub fn newest_ms(&self) -> Option<i64> {
        self.segments.read().list.iter().filter_map(|s| s.index.max_timestamp()).max()
    }

    /// Offset and timestamp of a record with the greatest timestamp.
    pub async fn max_timestamp(&self) -> Result<Option<(i64, i64)>, ReadError> {
        match self.newest_ms() {
            Some(newest) => self.offset_for_timestamp(newest).await,
            None => Ok(None),
        }
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

impl ReadError {
    /// Whether the segment should be looked at, and the read tried again: the error may pass, or be a range's alone.
    fn is_worth_a_look(&self, tries: usize) -> bool {
        tries <= LOOKS_MAX && matches!(self, ReadError::Disk(_) | ReadError::Damaged(_))
    }
}

impl Place {
    fn of(segment: &Segment, run: Range<u64>) -> Place {
        Place {
            segment: (segment.base, segment.generation),
            file: segment.file.clone(),
            position: run.start,
            end: run.end,
            offsets: segment.base..segment.end,
        }
    }

    fn clamp(&self, want: usize) -> usize {
        usize::try_from(self.end - self.position).map_or(want, |left| left.min(want))
    }

    /// How much to read when `had` was too little; damage when there is no more.
    fn more(&self, had: usize, want: usize) -> Result<usize, ReadError> {
        if self.clamp(want) > had {
            return Ok(want);
        }
        let error = batch::BatchError::Corrupt("it runs past the segment's end");
        Err(segment::OpenError::Batch { position: self.position, error }.into())
    }

    /// Batches as `chunk` gives them; none when it gives nothing.
    fn read_from(
        &self,
        offset: i64,
        bytes_max: usize,
        chunk: impl Fn(usize) -> Result<Option<Bytes>, ReadError>,
    ) -> Result<Option<Bytes>, ReadError> {
        let mut want = bytes_max.saturating_add(INDEX_SLACK_BYTES);
        loop {
            let Some(chunk) = chunk(want)? else { return Ok(None) };
            match self.cut(&chunk, offset, bytes_max)? {
                Cut::Batches(range) => return Ok(Some(chunk.slice(range))),
                Cut::More(bytes) => want = self.more(chunk.len(), bytes)?,
            }
        }
    }

    fn cached(&self, want: usize) -> Result<Option<Bytes>, ReadError> {
        Ok(self.file.read_cached_at(self.position, self.clamp(want))?)
    }

    fn uncached(&self, want: usize) -> Result<Bytes, ReadError> {
        Ok(self.file.read_at(self.position, self.clamp(want))?)
    }

    async fn read(&self, offset: i64, bytes_max: usize) -> Result<Bytes, ReadError> {
        if let Some(batches) = self.read_from(offset, bytes_max, |want| self.cached(want))? {
            return Ok(batches);
        }
        let place = self.clone();
        blocking(move || {
            let read = place.read_from(offset, bytes_max, |want| place.uncached(want).map(Some));
            Ok(read?.unwrap_or_default())
        })
        .await
    }

    fn find_time(&self, timestamp_ms: i64, log_start: i64) -> Result<Option<(i64, i64)>, ReadError> {
        let mut candidates = Vec::new();
        segment::walk(&self.file, self.position, self.end, |header, position| {
            let reaches = header.max_timestamp >= timestamp_ms && header.last_offset() >= log_start;
            // One behind the batch that the log starts in has its record for sure.
            if reaches && candidates.last().is_none_or(|(last, _): &(Header, u64)| last.base_offset < log_start) {
                candidates.push((*header, position));
            }
        })?;
        for (header, position) in candidates {
            let bytes = self.file.read_at(position, header.total_bytes())?;
            // Of what its producer packed so that it does not unpack, or is no record, the first offset.
            let unreadable = (header.base_offset.max(log_start), header.max_timestamp);
            let Ok(records) = compression::records_of(&header, &bytes) else { return Ok(Some(unreadable)) };
            let mut walk = batch::unpacked_records(&records, &header);
            loop {
                match walk.next() {
                    Ok(Some(record)) if record.timestamp_ms >= timestamp_ms && record.offset >= log_start => {
                        return Ok(Some((record.offset, record.timestamp_ms)));
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) if header.compressed() => return Ok(Some(unreadable)),
                    Err(error) => return Err(segment::OpenError::Batch { position, error }.into()),
                }
            }
        }
        Ok(None)
    }
}

/// Runs a read that may wait for the disk off the I/O threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
) -> Result<T, ReadError> {
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(ReadError::Stopping))
}

enum Cut {
    Batches(std::ops::Range<usize>),
    /// The first batch alone needs this many bytes from the place's position.
    More(usize),
}

impl Place {
    /// The whole batches in `chunk` from the one that holds `offset`: at least one, at most `bytes_max`. None when none
    /// here reaches it.
    fn cut(&self, chunk: &[u8], offset: i64, bytes_max: usize) -> Result<Cut, ReadError> {
        let is_all = self.position + chunk.len() as u64 >= self.end;
        let damaged = |at: usize, error| segment::OpenError::Batch { position: self.position + at as u64, error };
        let (mut at, mut start, mut next_offset) = (0, None, self.offsets.start);
        while chunk.len() - at >= batch::HEADER_BYTES {
            let header = match self.header_at(chunk, at, next_offset) {
                Ok(header) => header,
                // What is before it is right.
                Err(_) if start.is_some_and(|start| at > start) => break,
                Err(error) => return Err(damaged(at, error).into()),
            };
            let next = at + header.total_bytes();
            if start.is_none() && header.last_offset() >= offset {
                start = Some(at);
                if next > chunk.len() {
                    return Ok(Cut::More(next));
                }
            } else if let Some(start) = start {
                if next > chunk.len() || next - start > bytes_max {
                    return Ok(Cut::Batches(start..at));
                }
            } else if next + batch::HEADER_BYTES > chunk.len() && !(is_all && next == chunk.len()) {
                return Ok(Cut::More(next + INDEX_SLACK_BYTES));
            }
            if start.is_some() && !batch::crc_ok(&header, &chunk[at..next]) {
                match start.filter(|start| at > *start) {
                    Some(_) => break,
                    None => return Err(damaged(at, BatchError::Corrupt("CRC does not match")).into()),
                }
            }
            (at, next_offset) = (next, header.last_offset() + 1);
            if at >= chunk.len() {
                break;
            }
        }
        match start {
            Some(start) => Ok(Cut::Batches(start..at.min(chunk.len()))),
            None if is_all && at < chunk.len() => {
                Err(damaged(at, BatchError::Corrupt("it runs past the segment's end")).into())
            }
            None => Ok(Cut::Batches(0..0)),
        }
    }

    /// A header whose offsets, which no CRC covers, may be right.
    fn header_at(&self, chunk: &[u8], at: usize, next_offset: i64) -> Result<Header, BatchError> {
        let header = Header::parse(&chunk[at..])?;
        match header.base_offset >= next_offset && header.last_offset() < self.offsets.end {
            true => Ok(header),
            false => Err(BatchError::Corrupt("its offsets are not the segment's")),
        }
    }
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
