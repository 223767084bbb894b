//! Batches of closed segments, and the segments that are made of what is left of them.

use bytes::Bytes;

use crate::batch::{self, BatchError, Header};
use crate::disk::{DiskError, Folder};

use super::super::partition::Closed;
use super::super::segment::{OpenError, Segment, write_index};
use super::run::{CleanError, Pace};

/// Read at a time.
const READ_BYTES: usize = 256 << 10;
/// Written at a time.
const WRITE_BYTES: usize = if cfg!(test) { 2 << 10 } else { 256 << 10 };
/// Synced at a time: a sync of the journal's waits behind no more than this.
const SYNC_BYTES: u64 = 1 << 20;

/// The batches of a closed segment, one after the other, whole and checked.
pub(super) struct Batches<'a> {
    segment: &'a Closed,
    /// Where `chunk` is in the file.
    position: u64,
    chunk: Bytes,
    /// No batch begins before it: base offsets are covered by no CRC.
    next_offset: i64,
}

impl<'a> Batches<'a> {
    pub(super) fn of(segment: &'a Closed) -> Batches<'a> {
        Batches { segment, position: 0, chunk: Bytes::new(), next_offset: segment.extent.base }
    }

    /// The next; `None` after the last.
    pub(super) fn next(&mut self, pace: &mut Pace<'_>) -> Result<Option<(Header, Bytes)>, CleanError> {
        while self.position < self.segment.extent.bytes {
            match whole_batch(&self.chunk).map_err(|error| self.damaged(error))? {
                Ok((header, bytes)) => {
                    if !batch::crc_ok(&header, &bytes) {
                        return Err(self.damaged(BatchError::Corrupt("CRC does not match")).into());
                    }
                    if header.base_offset < self.next_offset || header.last_offset() >= self.segment.end {
                        return Err(self.damaged(BatchError::Corrupt("its offsets are out of order")).into());
                    }
                    self.next_offset = header.last_offset() + 1;
                    self.position += bytes.len() as u64;
                    self.chunk = self.chunk.slice(bytes.len()..);
                    return Ok(Some((header, bytes)));
                }
                Err(needs) => self.read(needs, pace)?,
            }
        }
        Ok(None)
    }

    fn read(&mut self, needs: usize, pace: &mut Pace<'_>) -> Result<(), CleanError> {
        pace.breathe()?;
        let left = self.segment.extent.bytes - self.position;
        if needs as u64 > left {
            return Err(self.damaged(BatchError::Corrupt("it runs past the segment's end")).into());
        }
        let want = left.min(needs.max(READ_BYTES) as u64) as usize;
        self.chunk = self.segment.file.read_at(self.position, want)?;
        pace.read_bytes += self.chunk.len() as u64;
        match self.chunk.len() < needs {
            true => Err(self.damaged(BatchError::Corrupt("the file is cut")).into()),
            false => Ok(()),
        }
    }

    fn damaged(&self, error: BatchError) -> OpenError {
        OpenError::Batch { position: self.position, error }
    }
}

/// The batch at the front, or how many bytes it needs.
fn whole_batch(bytes: &Bytes) -> Result<Result<(Header, Bytes), usize>, BatchError> {
    if bytes.len() < batch::HEADER_BYTES {
        return Ok(Err(batch::HEADER_BYTES));
    }
    let header = Header::parse(bytes)?;
    let needs = header.total_bytes();
    Ok(if needs > bytes.len() { Err(needs) } else { Ok((header, bytes.slice(..needs))) })
}

/// A segment that is being made of what is left of others.
pub(super) struct Output<'a> {
    folder: &'a Folder,
    segment: Segment,
    buffer: Vec<u8>,
    unsynced_bytes: u64,
}

impl<'a> Output<'a> {
    pub(super) fn create(folder: &'a Folder, base: i64, generation: u32) -> Result<Output<'a>, DiskError> {
        let segment = Segment::create(folder, base, generation)?;
        Ok(Output { folder, segment, buffer: Vec::new(), unsynced_bytes: 0 })
    }

    pub(super) fn push(&mut self, bytes: &[u8], pace: &mut Pace<'_>) -> Result<(), CleanError> {
        let header = Header::parse(bytes).map_err(|error| OpenError::Batch { position: self.segment.bytes, error })?;
        self.segment.note(&header, self.segment.bytes + self.buffer.len() as u64);
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= WRITE_BYTES {
            self.write(pace)?;
        }
        Ok(())
    }

    fn write(&mut self, pace: &mut Pace<'_>) -> Result<(), CleanError> {
        self.segment.file.write_at(&self.buffer, self.segment.bytes)?;
        self.segment.bytes += self.buffer.len() as u64;
        self.unsynced_bytes += self.buffer.len() as u64;
        pace.written_bytes += self.buffer.len() as u64;
        self.buffer.clear();
        if self.unsynced_bytes >= SYNC_BYTES {
            self.segment.file.sync_data()?;
            self.unsynced_bytes = 0;
        }
        pace.breathe()
    }

    /// Its bytes are durable; its name is with the checkpoint that names it.
    pub(super) fn finish(mut self, pace: &mut Pace<'_>) -> Result<Segment, CleanError> {
        self.write(pace)?;
        if !off!(CleanSync) {
            self.segment.file.sync_data()?;
        }
        let unwritten = self.segment.index.unwritten();
        write_index(self.folder, &self.segment.extent(), &unwritten)?;
        self.segment.index.wrote(&unwritten);
        self.segment.dirty = false;
        Ok(self.segment)
    }

    /// To be removed when nothing comes of it.
    pub(super) fn file_names(&self) -> [String; 3] {
        self.segment.file_names()
    }
}
