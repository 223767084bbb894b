//! A segment: one `.log` file of record batches, and its indexes.

use std::sync::Arc;

use crate::batch::{self, BatchError, Header};
use crate::disk::{DiskError, File, Folder};

use super::index::Index;

/// Bytes read at a time when a segment is walked.
const WALK_BYTES: usize = 256 << 10;

/// One file of a partition. Batches up to `bytes` are there; what lies behind is not ours yet.
#[derive(Debug)]
pub struct Segment {
    /// Offset of its first record, and its name.
    pub base: i64,
    /// The `.log` file.
    pub file: Arc<File>,
    /// Bytes of whole batches in it.
    pub bytes: u64,
    /// Where to look.
    pub index: Index,
    /// Written since it was last synced.
    pub dirty: bool,
}

/// The name of a segment's file: Kafka's 20 digits.
pub fn file_name(base: i64, extension: &str) -> String {
    format!("{base:020}.{extension}")
}

impl Segment {
    /// A new, empty one; whatever lies there from before a crash is cut.
    pub fn create(folder: &Folder, base: i64) -> Result<Segment, DiskError> {
        for extension in ["index", "timeindex"] {
            folder.remove(&file_name(base, extension))?;
        }
        let file = Arc::new(folder.file(&file_name(base, "log"))?);
        file.set_len(0)?;
        Ok(Segment { base, file, bytes: 0, index: Index::default(), dirty: true })
    }

    /// Opens what a checkpoint names: cuts the file to `bytes`, loads the indexes and notes what they lack.
    /// Gives the segment and the offset after its last record.
    pub fn open(folder: &Folder, base: i64, bytes: u64) -> Result<(Segment, i64), OpenError> {
        let file = Arc::new(folder.file(&file_name(base, "log"))?);
        let found = file.size()?;
        if found < bytes {
            return Err(OpenError::Short { name: file_name(base, "log"), found, expected: bytes });
        }
        file.set_len(bytes)?;
        let (offsets, times) = index_files(folder, base)?;
        let (index, from) = Index::load(&offsets, &times, bytes)?;
        let mut segment = Segment { base, file, bytes, index, dirty: false };
        let end = match segment.note_from(from) {
            // What a power cut left of an index may lead anywhere: the batches say what is there.
            Err(OpenError::Batch { .. }) if from > 0 => {
                segment.index = Index::reset(&offsets, &times)?;
                segment.note_from(0)
            }
            noted => noted,
        }?;
        Ok((segment, end))
    }

    /// Notes every batch from a position on; gives the offset after the last.
    fn note_from(&mut self, from: u64) -> Result<i64, OpenError> {
        let (base, index) = (self.base, &mut self.index);
        let mut end = base;
        walk(&self.file, from, self.bytes, |header, position| {
            index.note(base, header, position);
            end = header.last_offset() + 1;
        })?;
        Ok(end)
    }

    /// Writes its index files, for Kafka's own tools and a quick start.
    pub fn store_index(&mut self, folder: &Folder) -> Result<(), DiskError> {
        let (offsets, times) = index_files(folder, self.base)?;
        self.index.store(&offsets, &times)
    }
}

fn index_files(folder: &Folder, base: i64) -> Result<(File, File), DiskError> {
    let offsets = folder.file(&file_name(base, "index"))?;
    Ok((offsets, folder.file(&file_name(base, "timeindex"))?))
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
