//! A segment: one `.log` file of record batches, and its indexes.

use std::sync::Arc;
use std::time::Duration;

use crate::batch::{self, BatchError, Header};
use crate::disk::{DiskError, File, Folder};

use super::index::{Index, Unwritten};

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
    /// Since when, in time since the process began, nobody needs it.
    pub unneeded_since: Option<Duration>,
}

/// The name of a segment's file: Kafka's 20 digits, and how often it was rewritten, if it was. Kafka's own tools read up
/// to the first dot.
pub fn file_name(base: i64, generation: u32, extension: &str) -> String {
    match generation {
        0 => format!("{base:020}.{extension}"),
        _ => format!("{base:020}.{generation}.{extension}"),
    }
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
    pub fn create(folder: &Folder, base: i64) -> Result<Segment, DiskError> {
        for extension in ["index", "timeindex"] {
            folder.remove(&file_name(base, 0, extension))?;
        }
        let file = Arc::new(folder.file(&file_name(base, 0, "log"))?);
        file.set_len(0)?;
        Ok(Segment {
            base,
            generation: 0,
            end: base,
            first_ms: None,
            file,
            bytes: 0,
            index: Index::default(),
            dirty: true,
            sealed: false,
            unneeded_since: None,
        })
    }

    /// Opens what a checkpoint names: cuts the file to its bytes, loads the indexes and notes what they lack.
    pub fn open(folder: &Folder, extent: &SegmentExtent) -> Result<Segment, OpenError> {
        let SegmentExtent { base, generation, bytes } = *extent;
        let name = file_name(base, generation, "log");
        let file = Arc::new(folder.file(&name)?);
        let found = file.size()?;
        if found < bytes {
            return Err(OpenError::Short { name, found, expected: bytes });
        }
        file.set_len(bytes)?;
        let (offsets, times) = index_files(folder, base, generation)?;
        let (index, from) = Index::load(&offsets, &times, bytes)?;
        let mut segment = Segment {
            base,
            generation,
            end: base,
            first_ms: None,
            file,
            bytes,
            index,
            dirty: false,
            sealed: false,
            unneeded_since: None,
        };
        match segment.note_from(from) {
            // What a power cut left of an index may lead anywhere: the batches say what is there.
            Err(OpenError::Batch { .. }) if from > 0 => {
                segment.index = Index::reset(&offsets, &times)?;
                segment.note_from(0)?;
            }
            noted => noted?,
        }
        if from > 0 {
            let first = segment.file.read_at(0, batch::HEADER_BYTES)?;
            segment.first_ms = Header::parse(&first).ok().map(|header| header.max_timestamp);
        }
        Ok(segment)
    }

    /// Takes note of a batch that stands at `position`.
    pub fn note(&mut self, header: &Header, position: u64) {
        self.index.note(self.base, header, position);
        self.end = header.last_offset() + 1;
        self.first_ms.get_or_insert(header.max_timestamp);
    }

    /// What a checkpoint has to name of it.
    pub fn extent(&self) -> SegmentExtent {
        SegmentExtent { base: self.base, generation: self.generation, bytes: self.bytes }
    }

    /// Its files.
    pub fn file_names(&self) -> [String; 3] {
        ["log", "index", "timeindex"].map(|extension| file_name(self.base, self.generation, extension))
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
    /// The file lost bytes that a checkpoint made durable.
    #[error("disk: {name} has {found} bytes, its checkpoint says {expected}")]
    Short {
        /// The file.
        name: String,
        /// Bytes there.
        found: u64,
        /// Bytes that should be.
        expected: u64,
    },
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
