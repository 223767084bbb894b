//! One partition: its segments in order, written by the apply thread alone, read by everyone.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::batch::{self, Header};
use crate::disk::{DiskError, File, Folder};

use super::ages::Ages;
use super::segment::{self, Segment, SegmentExtent};
use super::settings::Settings;

/// Bytes read beyond what was asked for, since an index points at most this far before its batch.
const INDEX_SLACK_BYTES: usize = 8192;

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

/// Where a read has to look.
struct Place {
    file: Arc<File>,
    position: u64,
    end: u64,
}

impl Partition {
    /// Opens a partition at exactly what the checkpoint names; anything else in its folder goes (R1).
    pub fn open(
        folder: Folder,
        (topic_id, index): (u32, u32),
        extent: Extent,
        segment_bytes_max: u64,
    ) -> Result<Partition, segment::OpenError> {
        for name in folder.names()? {
            let named = |found| extent.segments.iter().any(|s| (s.base, s.generation) == found);
            if segment::parse_file_name(&name).is_some_and(|found| !named(found)) {
                folder.remove(&name)?;
            }
        }
        let mut list = Vec::new();
        for segment in &extent.segments {
            list.push(Segment::open(&folder, segment)?);
        }
        Ok(Partition {
            topic_id,
            index,
            folder,
            segment_bytes_max: AtomicU64::new(segment_bytes_max),
            segments: RwLock::new(Segments { list, epochs: extent.epochs }),
            log_start: AtomicI64::new(extent.log_start),
            high_watermark: AtomicI64::new(extent.end),
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
        self.roll_if_full(bytes.len() as u64, &header)?;
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
            active.note(&header, position);
            active.bytes += bytes.len() as u64;
            active.dirty = true;
        }
        self.high_watermark.store(header.last_offset() + 1, Ordering::Release);
        Ok(())
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
        let fresh = Segment::create(&self.folder, header.base_offset)?;
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
        let fresh = Segment::create(&self.folder, base)?;
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
    /// one; none above the high watermark; empty at the high watermark. Does not block the thread.
    pub async fn read(&self, offset: i64, bytes_max: usize) -> Result<Bytes, ReadError> {
        let Some(place) = self.place(offset)? else { return Ok(Bytes::new()) };
        let mut want = bytes_max.saturating_add(INDEX_SLACK_BYTES);
        loop {
            let chunk = place.read(want).await?;
            match cut(&chunk, offset, bytes_max)? {
                Cut::Batches(range) => return Ok(chunk.slice(range)),
                Cut::More(bytes) => want = place.more(chunk.len(), bytes)?,
            }
        }
    }

    /// The same, from the page cache alone: `None` when the disk would have to be asked.
    pub fn read_cached(&self, offset: i64, bytes_max: usize) -> Result<Option<Bytes>, ReadError> {
        let Some(place) = self.place(offset)? else { return Ok(Some(Bytes::new())) };
        let mut want = bytes_max.saturating_add(INDEX_SLACK_BYTES);
        loop {
            let Some(chunk) = place.read_cached(want)? else { return Ok(None) };
            match cut(&chunk, offset, bytes_max)? {
                Cut::Batches(range) => return Ok(Some(chunk.slice(range))),
                Cut::More(bytes) => want = place.more(chunk.len(), bytes)?,
            }
        }
    }

    /// The same, waiting for the disk where needed; not for I/O threads.
    pub fn read_blocking(&self, offset: i64, bytes_max: usize) -> Result<Bytes, ReadError> {
        let Some(place) = self.place(offset)? else { return Ok(Bytes::new()) };
        let mut want = bytes_max.saturating_add(INDEX_SLACK_BYTES);
        loop {
            let chunk = place.file.read_at(place.position, place.clamp(want))?;
            match cut(&chunk, offset, bytes_max)? {
                Cut::Batches(range) => return Ok(chunk.slice(range)),
                Cut::More(bytes) => want = place.more(chunk.len(), bytes)?,
            }
        }
    }

    /// Whether Kafka clients may read from this offset on.
    pub fn check_visible(&self, offset: i64) -> Result<(), ReadError> {
        let (start, end) = (self.log_start(), self.high_watermark());
        match (start..=end).contains(&offset) {
            true => Ok(()),
            false => Err(ReadError::OutOfRange { offset, start, end }),
        }
    }

    /// Where the first batch lies that reaches this offset; `None` when there is none yet.
    fn place(&self, offset: i64) -> Result<Option<Place>, ReadError> {
        let end = self.high_watermark();
        if offset > end {
            return Err(ReadError::OutOfRange { offset, start: self.log_start(), end });
        }
        let segments = self.segments.read();
        let found = segments.list.partition_point(|s| s.end <= offset);
        let Some(segment) = segments.list.get(found).filter(|_| offset < end) else { return Ok(None) };
        let position = segment.index.position_before((offset - segment.base).max(0) as u32);
        Ok(Some(Place { file: segment.file.clone(), position, end: segment.bytes }))
    }

    /// Offset and timestamp of the first record whose timestamp is at least `timestamp_ms`; of a compressed
    /// batch, whose records are not looked into, its first offset.
    pub async fn offset_for_timestamp(&self, timestamp_ms: i64) -> Result<Option<(i64, i64)>, ReadError> {
        let (start, high_watermark) = (self.log_start(), self.high_watermark());
        let places: Vec<Place> = {
            let segments = self.segments.read();
            let reaches = |s: &&Segment| s.end > start && s.index.max_timestamp().is_some_and(|t| t >= timestamp_ms);
            let place = |s: &Segment| Place {
                file: s.file.clone(),
                position: s.index.position_before_time(timestamp_ms),
                end: s.bytes,
            };
            segments.list.iter().filter(reaches).map(place).collect()
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

impl Place {
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

    fn read_cached(&self, want: usize) -> Result<Option<Bytes>, ReadError> {
        Ok(self.file.read_cached_at(self.position, self.clamp(want))?)
    }

    async fn read(&self, want: usize) -> Result<Bytes, ReadError> {
        if let Some(bytes) = self.read_cached(want)? {
            return Ok(bytes);
        }
        let (file, position, want) = (self.file.clone(), self.position, self.clamp(want));
        blocking(move || Ok(file.read_at(position, want)?)).await
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
            if header.compressed() {
                return Ok(Some((header.base_offset.max(log_start), header.base_timestamp)));
            }
            let bytes = self.file.read_at(position, header.total_bytes())?;
            let mut walk = batch::records(&bytes, &header);
            let damaged = |error| segment::OpenError::Batch { position, error };
            while let Some(record) = walk.next().map_err(damaged)? {
                if record.timestamp_ms >= timestamp_ms && record.offset >= log_start {
                    return Ok(Some((record.offset, record.timestamp_ms)));
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

/// The whole batches in `chunk` from the one that holds `offset`: at least one, at most `bytes_max`.
fn cut(chunk: &[u8], offset: i64, bytes_max: usize) -> Result<Cut, ReadError> {
    let mut at = 0;
    let mut start = None;
    while chunk.len() - at >= batch::HEADER_BYTES {
        let header =
            Header::parse(&chunk[at..]).map_err(|error| segment::OpenError::Batch { position: at as u64, error })?;
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
        } else if next + batch::HEADER_BYTES > chunk.len() {
            return Ok(Cut::More(next + INDEX_SLACK_BYTES));
        }
        at = next;
        if at >= chunk.len() {
            break;
        }
    }
    match start {
        Some(start) => Ok(Cut::Batches(start..at.min(chunk.len()))),
        None => Ok(Cut::Batches(0..0)),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(base: i64) -> Vec<u8> {
        let mut body = Vec::new();
        batch::encode_body(&mut body, None, Some(b"value"), std::iter::empty());
        let mut builder = batch::Builder::default();
        builder.restart(base);
        builder.push(1, &body);
        builder.finish(1).to_vec()
    }

    #[test]
    fn offsets_too_far_apart_for_an_index_get_segments_of_their_own() {
        let home = tempfile::tempdir().expect("a folder");
        let folder = Folder::open(home.path()).expect("opens");
        let partition = Partition::open(folder, (3, 0), Extent::default(), 1 << 20).expect("opens");
        let mut bases = Vec::new();
        for _ in 0..9 {
            let base = partition.high_watermark();
            let mut bytes = batch(base);
            bytes.resize(5000, 0); // far enough apart for an entry each
            bytes[8..12].copy_from_slice(&(5000i32 - 12).to_be_bytes());
            bytes[23..27].copy_from_slice(&(i32::MAX - 1).to_be_bytes());
            partition.append(&bytes).expect("written");
            bases.push(base);
        }
        for base in bases {
            let read = partition.read_blocking(base, 1).expect("reads");
            assert_eq!(Header::parse(&read).expect("a batch").base_offset, base);
        }
    }

    /// Found by seeds 466 and 2723 of the simulation: index files are not synced, and a power cut may leave anything.
    #[test]
    fn an_index_that_leads_astray_is_found_out_and_what_it_has_too_much_is_gone() {
        let home = tempfile::tempdir().expect("a folder");
        let open = |extent| {
            let folder = Folder::open(home.path()).expect("opens");
            Partition::open(folder, (3, 0), extent, 1 << 20).expect("opens")
        };
        let partition = open(Extent::default());
        for base in 0..100 {
            partition.append(&batch(base)).expect("written");
        }
        partition.settle().expect("written");
        let (extent, _) = partition.extent();
        let path = home.path().join("00000000000000000000.index");
        let times = path.with_extension("timeindex");
        let (right, times_right) = (std::fs::read(&path).expect("an index"), std::fs::read(&times).expect("one"));
        let entry = |offset: u32, position: u32| [offset.to_be_bytes(), position.to_be_bytes()].concat();
        let bytes = extent.segments[0].bytes as u32;
        // One that is no batch's, one beyond the log.
        for (last, kept) in [(entry(98, bytes - 7), 0), (entry(200, bytes + 1), right.len())] {
            std::fs::write(&path, [&right[..], &last].concat()).expect("written");
            std::fs::write(&times, &times_right).expect("written");
            let partition = open(extent.clone());
            for base in 0..100 {
                let read = partition.read_blocking(base, 1).expect("reads");
                assert_eq!(Header::parse(&read).expect("a batch").base_offset, base);
            }
            assert_eq!(std::fs::read(&path).expect("an index").len(), kept);
        }
    }

    #[test]
    fn rolling_twice_leaves_one_segment_and_the_partition_opens_again() {
        let home = tempfile::tempdir().expect("a folder");
        let open = |extent| {
            let folder = Folder::open(home.path()).expect("opens");
            Partition::open(folder, (3, 0), extent, 1 << 20).expect("opens")
        };
        let partition = open(Extent::default());
        partition.append(&batch(0)).expect("written");
        // A compaction that the disk refused, and its retry.
        partition.roll().expect("rolls");
        partition.roll().expect("rolls");
        partition.append(&batch(1)).expect("written");
        let (extent, _) = partition.extent();
        assert_eq!(extent.segments.len(), 2);
        assert_eq!(open(extent).read_blocking(1, 1).expect("reads"), batch(1));
    }
}
