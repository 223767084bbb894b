//! Reading a partition: around holes, and around what turns out to be damaged.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use crate::batch::{self, BatchError, Header};
use crate::compression;
use crate::disk::{DiskError, File};
use crate::metrics::{Purpose, disk};

use super::super::index::Index;
use super::super::scan::{self, Expected, Gap};
use super::super::segment::{self, Segment};
use super::Partition;

/// Bytes read beyond what was asked for, since an index points at most this far before its batch.
const INDEX_SLACK_BYTES: usize = 8192;
/// How often a segment is looked through and the read tried again, before an error is told.
const LOOKS_MAX: usize = 3;
/// Before a disk that gave an error is asked again.
const PAUSE: Duration = Duration::from_millis(100);

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
                    if error.may_pass(tries) {
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                    let (file, base) = (place.file.clone(), place.segment.0);
                    let looked = blocking(move || Ok(look(&file, &expected, base))).await?;
                    self.take_out(&place, looked);
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
                    if error.may_pass(tries) {
                        std::thread::sleep(PAUSE);
                        continue;
                    }
                    self.take_out(&place, look(&place.file, &expected, place.segment.0));
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
                self.take_out(&place, look(&place.file, &expected, place.segment.0));
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
    fn take_out(&self, place: &Place, looked: Looked) {
        let Looked { gaps, index, bytes } = looked;
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
        if segment.bytes == bytes {
            // Its own may have led astray.
            segment.index = index;
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

    /// Where the first batch lies that reaches this offset, from a segment's position on where one is given; `None` when
    /// there is none yet.
    fn place(&self, offset: i64, from: Option<((i64, u32), u64)>) -> Result<Option<Place>, ReadError> {
        let end = self.high_watermark();
        if offset > end {
            return Err(ReadError::OutOfRange { offset, start: self.log_start(), end });
        }
        let segments = self.segments.read();
        let found = segments.list.partition_point(|s| s.end <= offset);
        // Compaction may have put another segment in its place meanwhile: then from the start.
        let from = from.filter(|(at, _)| segments.list.iter().any(|s| (s.base, s.generation) == *at));
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

/// What a look through a whole segment found.
struct Looked {
    gaps: Vec<Gap>,
    /// Of the batches that are whole.
    index: Index,
    /// How much of it was looked through.
    bytes: u64,
}

fn look(file: &File, expected: &Expected, base: i64) -> Looked {
    let mut index = Index::default();
    let gaps = scan::scan(file, expected, |header, position| index.note(base, header, position));
    Looked { gaps, index, bytes: expected.bytes }
}

impl ReadError {
    /// Whether it is the disk's and may pass: then it is asked again first.
    fn may_pass(&self, tries: usize) -> bool {
        tries < LOOKS_MAX && matches!(self, ReadError::Disk(_))
    }

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
        let mut had = None;
        loop {
            let Some(chunk) = chunk(want)? else { return Ok(None) };
            match self.cut(&chunk, offset, bytes_max)? {
                Cut::Batches(range) => return Ok(Some(chunk.slice(range))),
                // A file that was cut gives no more, however much is asked for.
                Cut::More(_) if had == Some(chunk.len()) => want = self.more(usize::MAX, want)?,
                Cut::More(bytes) => want = self.more(chunk.len(), bytes)?,
            }
            had = Some(chunk.len());
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
