//! A segment: one `.log` file of record batches, and its indexes.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use crate::batch::{self, BatchError, Header};
use crate::damage::Damage;
use crate::disk::{DiskError, File, Folder};

use super::index::{Index, Unwritten};
use super::scan::{self, Expected, Gap};

/// Bytes read at a time when a segment is walked.
const WALK_BYTES: usize = 256 << 10;

/// One file of a partition. Batches up to `bytes` are there; what lies behind is not ours yet.
#[derive(Debug)]
pub struct Segment {
    /// Its first offset, also when compaction took the record, and its name.
    pub base: i64,
    /// How often it was rewritten; in its name too.
    pub generation: u32,
    /// The offset after its last record, `base` while there is none.
    pub end: i64,
    /// Timestamp of its first batch: from then on it ages.
    pub first_ms: Option<i64>,
    /// The `.log` file.
    pub file: Arc<File>,
    /// Bytes of whole batches in it.
    pub bytes: u64,
    /// Where to look.
    pub index: Index,
    /// Written since it was last synced.
    pub dirty: bool,
    /// The next batch begins another one.
    pub sealed: bool,
    /// Byte ranges in it that hold no whole batch, ascending.
    pub gaps: Vec<Range<u64>>,
}

/// How far what lies on the disk is believed when it is opened.
pub(crate) struct Believed<'a> {
    /// As far as there are whole batches, not as far as a checkpoint says.
    pub(crate) as_far_as_whole: bool,
    pub(crate) damage: &'a Damage,
    /// The journal has what comes from this offset on.
    pub(crate) journaled_from: i64,
    /// (leader epoch, its first offset), ascending; grows by what is found.
    pub(crate) epochs: Vec<(i32, i64)>,
}

impl Believed<'_> {
    fn note_epoch(&mut self, header: &Header) {
        let is_newer = |(epoch, start): &(i32, i64)| *epoch < header.leader_epoch && *start < header.base_offset;
        if self.epochs.last().is_none_or(is_newer) {
            self.epochs.push((header.leader_epoch, header.base_offset));
        }
    }
}

/// What a gap in a segment means.
pub(crate) fn describe(gap: &Gap) -> String {
    format!("no whole record batch; {}", lost(&gap.offsets))
}

pub(crate) fn lost(offsets: &Range<i64>) -> String {
    match (offsets.end, offsets.end - offsets.start) {
        (_, ..=0) => "no offsets are lost".to_owned(),
        (i64::MAX, _) => format!("what may have been there from offset {} on is lost", offsets.start),
        (end, _) => format!("offsets {} to {} are lost, as far as they were held", offsets.start, end - 1),
    }
}

/// The name of a segment's file: Kafka's 20 digits, and how often it was rewritten, if it was. Kafka's own tools read up
/// to the first dot.
pub fn file_name(base: i64, generation: u32, extension: &str) -> String {
    match generation {
        0 => format!("{base:020}.{extension}"),
        _ => format!("{base:020}.{generation}.{extension}"),
    }
}

/// The names of a segment's files.
pub fn file_names(base: i64, generation: u32) -> [String; 3] {
    ["log", "index", "timeindex"].map(|extension| file_name(base, generation, extension))
}

/// What a file's name says: base and generation; `None` when it is no segment's.
pub fn parse_file_name(name: &str) -> Option<(i64, u32)> {
    let mut parts = name.split('.');
    let base = parts.next()?.parse().ok()?;
    match (parts.next()?, parts.next(), parts.next()) {
        (_, None, None) => Some((base, 0)),
        (generation, Some(_), None) => Some((base, generation.parse().ok()?)),
        _ => None,
    }
}

/// What a checkpoint names of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SegmentExtent {
    /// Its first offset.
    pub base: i64,
    /// How often it was rewritten.
    pub generation: u32,
    /// Bytes of whole batches.
    pub bytes: u64,
}

impl Segment {
    /// A new, empty one; whatever lies there from before a crash is cut.
    pub fn create(folder: &Folder, base: i64, generation: u32) -> Result<Segment, DiskError> {
        for extension in ["index", "timeindex"] {
            folder.remove(&file_name(base, generation, extension))?;
        }
        let file = Arc::new(folder.file(&file_name(base, generation, "log"))?);
        file.set_len(0)?;
        Ok(Segment {
            base,
            generation,
            end: base,
            first_ms: None,
            file,
            bytes: 0,
            index: Index::default(),
            dirty: true,
            sealed: false,
            gaps: Vec::new(),
        })
    }

    /// Opens what a checkpoint names: cuts the file to its bytes, loads the indexes and notes what they lack. What is
    /// damaged becomes a gap; a file that is gone is no segment. Offsets end where the next segment's begin.
    pub(crate) fn open(
        folder: &Folder,
        extent: &SegmentExtent,
        offset_end: i64,
        believed: &mut Believed<'_>,
    ) -> Result<Segment, DiskError> {
        let SegmentExtent { base, generation, .. } = *extent;
        let file = Arc::new(folder.file(&file_name(base, generation, "log"))?);
        let found = file.size()?;
        let bytes = if believed.as_far_as_whole { found } else { extent.bytes };
        let mut segment = Segment {
            base,
            generation,
            end: base,
            first_ms: None,
            file,
            bytes,
            index: Index::default(),
            dirty: false,
            sealed: false,
            gaps: Vec::new(),
        };
        let elsewhere_from = if believed.as_far_as_whole { believed.journaled_from } else { i64::MAX };
        let expected = |marks| Expected { bytes: found.min(bytes), offsets: base..offset_end, marks, elsewhere_from };
        if believed.damage.only_looks() {
            segment.look_at_index(folder, believed)?;
            let expected = expected(segment.index.positions());
            segment.look_through(folder, extent, &expected, believed)?;
            return Ok(segment);
        }
        if found > bytes {
            segment.file.set_len(bytes)?;
        }
        let (offsets, times) = index_files(folder, base, generation)?;
        let (index, from) = Index::load(&offsets, &times, bytes)?;
        let marks = index.positions();
        segment.index = index;
        let is_right = !believed.as_far_as_whole && found >= bytes && {
            let mut noted = segment.note_from(from);
            if noted.is_err() && from > 0 {
                // What a power cut left of an index may lead anywhere: the batches say what is there.
                (segment.index, segment.end, segment.first_ms) = (Index::reset(&offsets, &times)?, base, None);
                noted = segment.note_from(0);
            }
            noted.is_ok() && segment.end <= offset_end
        };
        if !is_right {
            Index::reset(&offsets, &times)?;
            segment.look_through(folder, extent, &expected(marks), believed)?;
        } else if from > 0 {
            let first = segment.file.read_lossy(0, batch::HEADER_BYTES);
            segment.first_ms = Header::parse(&first).ok().map(|header| header.max_timestamp);
        }
        Ok(segment)
    }

    /// What its index files say, right or wrong, without a change to them.
    fn look_at_index(&mut self, folder: &Folder, believed: &Believed<'_>) -> Result<(), DiskError> {
        let names = folder.names()?;
        let [_, offsets, times] = self.file_names();
        if names.contains(&offsets) && names.contains(&times) {
            let files = (folder.file(&offsets)?, folder.file(&times)?);
            let (index, from) = Index::read(&files.0, &files.1, self.bytes)?;
            let mut known = index.positions();
            known.extend(Some(from).filter(|from| *from > 0));
            let mut positions = BTreeSet::new();
            // Damage besides is found in a moment.
            let _ends_there = walk(&self.file, 0, self.bytes, |_, position| {
                positions.insert(position);
            });
            let last = positions.last().copied().unwrap_or(0);
            if known.iter().any(|position| *position <= last && !positions.contains(position)) {
                let what = "entries lead to no batch; it is made anew at the next start";
                believed.damage.found(files.0.path(), 0..files.0.size()?, what);
                return Ok(());
            }
            self.index = index;
        }
        Ok(())
    }

    /// Notes what is whole and remembers what is not.
    fn look_through(
        &mut self,
        folder: &Folder,
        extent: &SegmentExtent,
        expected: &Expected,
        believed: &mut Believed<'_>,
    ) -> Result<(), DiskError> {
        (self.end, self.first_ms, self.index) = (self.base, None, Index::default());
        let file = self.file.clone();
        let mut gaps = scan::scan(&file, expected, |header, position| {
            self.note(header, position);
            believed.note_epoch(header);
        });
        self.bytes = expected.bytes;
        let end = gaps.pop_if(|gap| gap.bytes.end == expected.bytes);
        // Without a checkpoint's word, what follows the last whole batch of all may never have been one.
        let was_there = |gap: &&Gap| gap.bytes.start < extent.bytes || gap.offsets.end < i64::MAX;
        let end_was_there = end.as_ref().filter(was_there);
        for gap in gaps.iter().chain(end_was_there) {
            believed.damage.found(file.path(), gap.bytes.clone(), describe(gap));
        }
        if extent.bytes > self.bytes {
            let what = format!("missing at its end; {}", lost(&(self.end..expected.offsets.end)));
            believed.damage.found(file.path(), self.bytes..extent.bytes, what);
        }
        // A gap at the end is written over by what comes next.
        if end_was_there.is_some() {
            believed.damage.set_aside(folder, &file_name(self.base, self.generation, "log"));
        }
        if let Some(end) = end {
            self.bytes = end.bytes.start;
            if !believed.damage.only_looks() {
                self.file.set_len(self.bytes)?;
            }
        }
        self.gaps = gaps.into_iter().map(|gap| gap.bytes).collect();
        self.dirty |= believed.as_far_as_whole;
        Ok(())
    }

    /// Writes what is whole of it into a file of the next generation; the file before stays as it is.
    pub(crate) fn rewritten(&self, folder: &Folder) -> Result<Segment, DiskError> {
        let generation = self.generation + 1;
        let file = Arc::new(folder.file(&file_name(self.base, generation, "log"))?);
        file.set_len(0)?;
        let (offsets, times) = index_files(folder, self.base, generation)?;
        let index = Index::reset(&offsets, &times)?;
        let mut fresh = Segment {
            base: self.base,
            generation,
            end: self.base,
            first_ms: None,
            file,
            bytes: 0,
            index,
            dirty: true,
            sealed: self.sealed,
            gaps: Vec::new(),
        };
        for run in self.runs(0) {
            let mut copied = Ok(());
            let walked = walk(&self.file, run.start, run.end, |header, position| {
                if copied.is_ok() {
                    copied = fresh.copy_batch(&self.file, header, position);
                }
            });
            copied?;
            if let Err(OpenError::Disk(error)) = walked {
                return Err(error);
            }
        }
        fresh.file.sync_data()?;
        fresh.store_index(folder)?;
        Ok(fresh)
    }

    /// Writes what its index files lack.
    pub(crate) fn store_index(&mut self, folder: &Folder) -> Result<(), DiskError> {
        let unwritten = self.index.unwritten();
        write_index(folder, &self.extent(), &unwritten)?;
        self.index.wrote(&unwritten);
        Ok(())
    }

    fn copy_batch(&mut self, from: &File, header: &Header, position: u64) -> Result<(), DiskError> {
        self.file.write_at(&from.read_at(position, header.total_bytes())?, self.bytes)?;
        self.note(header, self.bytes);
        self.bytes += header.total_bytes() as u64;
        Ok(())
    }

    /// What can be read from a position on, up to the next gap.
    pub(crate) fn run(&self, from: u64) -> Option<Range<u64>> {
        let mut from = from;
        for gap in &self.gaps {
            if gap.end <= from {
                continue;
            }
            if gap.start > from {
                return Some(from..gap.start);
            }
            from = gap.end;
        }
        (from < self.bytes).then_some(from..self.bytes)
    }

    /// All that can be read from a position on.
    pub(crate) fn runs(&self, from: u64) -> Vec<Range<u64>> {
        let next = |run: &Range<u64>| self.run(run.end).filter(|_| run.end < self.bytes);
        std::iter::successors(self.run(from), next).collect()
    }

    /// Takes note of a batch that stands at `position`.
    pub fn note(&mut self, header: &Header, position: u64) {
        self.index.note(self.base, header, position);
        self.end = header.last_offset().saturating_add(1);
        self.first_ms.get_or_insert(header.max_timestamp);
    }

    /// What a checkpoint has to name of it.
    pub fn extent(&self) -> SegmentExtent {
        SegmentExtent { base: self.base, generation: self.generation, bytes: self.bytes }
    }

    /// Its files.
    pub fn file_names(&self) -> [String; 3] {
        file_names(self.base, self.generation)
    }

    /// Notes every batch from a position on.
    fn note_from(&mut self, from: u64) -> Result<(), OpenError> {
        let file = self.file.clone();
        walk(&file, from, self.bytes, |header, position| self.note(header, position))
    }
}

/// Writes a segment's index entries, for Kafka's own tools and a quick start.
pub fn write_index(folder: &Folder, segment: &SegmentExtent, unwritten: &Unwritten) -> Result<(), DiskError> {
    let (offsets, times) = index_files(folder, segment.base, segment.generation)?;
    unwritten.write(&offsets, &times)
}

fn index_files(folder: &Folder, base: i64, generation: u32) -> Result<(File, File), DiskError> {
    let offsets = folder.file(&file_name(base, generation, "index"))?;
    Ok((offsets, folder.file(&file_name(base, generation, "timeindex"))?))
}

/// Why a segment does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A batch inside is damaged.
    #[error("disk: at byte {position}: {error}")]
    Batch {
        /// Where in the file.
        position: u64,
        /// What.
        error: BatchError,
    },
}

/// Calls `each` with the header and position of every batch from `from` to `to`.
pub fn walk(file: &File, from: u64, to: u64, mut each: impl FnMut(&Header, u64)) -> Result<(), OpenError> {
    let mut position = from;
    let mut chunk = bytes::Bytes::new();
    let mut chunk_at = from;
    while position < to {
        let inside = (position - chunk_at) as usize;
        if chunk.len() < inside + batch::HEADER_BYTES {
            chunk = file.read_at(position, WALK_BYTES.min((to - position) as usize))?;
            chunk_at = position;
            continue_if_short(&chunk, position)?;
            continue;
        }
        let header = Header::parse(&chunk[inside..]).map_err(|error| OpenError::Batch { position, error })?;
        let next = position + header.total_bytes() as u64;
        if next > to {
            return Err(OpenError::Batch { position, error: BatchError::Corrupt("it runs past the segment's end") });
        }
        each(&header, position);
        position = next;
    }
    Ok(())
}

fn continue_if_short(chunk: &[u8], position: u64) -> Result<(), OpenError> {
    if chunk.len() < batch::HEADER_BYTES {
        return Err(OpenError::Batch { position, error: BatchError::Corrupt("shorter than its header") });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_base_and_generation() {
        assert_eq!(file_name(7, 0, "log"), "00000000000000000007.log");
        assert_eq!(file_name(7, 3, "index"), "00000000000000000007.3.index");
        for (base, generation) in [(0, 0), (7, 3)] {
            assert_eq!(parse_file_name(&file_name(base, generation, "log")), Some((base, generation)));
        }
        for other in ["x", "x.log", "1", "1.2.3.log", "1.x.log"] {
            assert_eq!(parse_file_name(other), None, "{other}");
        }
    }
}
