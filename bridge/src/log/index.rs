//! Sparse indexes of a segment, in Kafka's file format: `.index` (last offset of a batch relative to the
//! segment's base, position of the batch) and `.timeindex` (greatest timestamp so far, offset of it).
//! Derived: whatever does not fit the segment is thrown away and found again by reading batches.

use crate::batch::Header;
use crate::disk::{DiskError, File};
use crate::size::Size;

/// An entry about every so many bytes of log, as Kafka's `log.index.interval.bytes`.
const INTERVAL: Size = Size::new(4096, 512);
const OFFSET_ENTRY_BYTES: usize = 8;
const TIME_ENTRY_BYTES: usize = 12;

/// What is known of a segment's batches without reading them.
#[derive(Debug, Default)]
pub struct Index {
    offsets: Vec<(u32, u32)>,
    times: Vec<(i64, u32)>,
    /// Log bytes since the last entry.
    since_entry: u64,
    /// Greatest timestamp so far and the offset, relative to the base, of the batch's last record.
    newest: Option<(i64, u32)>,
    /// Entries that are in the files already.
    offsets_written: usize,
    times_written: usize,
}

impl Index {
    /// Takes note of a batch that was appended at `position`.
    pub fn note(&mut self, segment_base: i64, header: &Header, position: u64) {
        // A segment holds under 2^31 bytes, and a record takes several: both fit.
        let relative = (header.last_offset() - segment_base) as u32;
        if self.newest.is_none_or(|(newest, _)| header.max_timestamp > newest) {
            self.newest = Some((header.max_timestamp, relative));
        }
        if self.since_entry > INTERVAL.bytes() {
            self.offsets.push((relative, position as u32));
            if let Some(newest) = self.newest
                && self.times.last().is_none_or(|last| newest.0 > last.0)
            {
                self.times.push(newest);
            }
            self.since_entry = 0;
        }
        self.since_entry += header.total_bytes() as u64;
    }

    /// A position at or before the batch that holds `relative` (offset less base).
    pub fn position_before(&self, relative: u32) -> u64 {
        let after = self.offsets.partition_point(|(last, _)| *last <= relative);
        after.checked_sub(1).map_or(0, |i| u64::from(self.offsets[i].1))
    }

    /// A position at or before the first batch that reaches `timestamp_ms`.
    pub fn position_before_time(&self, timestamp_ms: i64) -> u64 {
        let after = self.times.partition_point(|(time, _)| *time < timestamp_ms);
        after.checked_sub(1).map_or(0, |i| self.position_before(self.times[i].1))
    }

    /// Positions of batches.
    pub(crate) fn positions(&self) -> Vec<u64> {
        self.offsets.iter().map(|(_, position)| u64::from(*position)).collect()
    }

    /// Greatest timestamp held.
    pub fn max_timestamp(&self) -> Option<i64> {
        self.newest.map(|(time, _)| time)
    }

    /// Reads the files of a segment of `log_bytes` bytes; gives the index and the position from which the
    /// batches still have to be noted. Entries that cannot be true are dropped, from the files too: what a process wrote
    /// of batches that no checkpoint named must not be found again when others are in their place.
    pub fn load(offsets: &File, times: &File, log_bytes: u64) -> Result<(Index, u64), DiskError> {
        let (index, from) = Index::read(offsets, times, log_bytes)?;
        // The last offset is noted again, and stands there already.
        let offsets_kept = index.offsets.len() + usize::from(from > 0);
        cut(offsets, (offsets_kept * OFFSET_ENTRY_BYTES) as u64)?;
        cut(times, (index.times.len() * TIME_ENTRY_BYTES) as u64)?;
        Ok((index, from))
    }

    /// An empty one, for files that lead nowhere.
    pub fn reset(offsets: &File, times: &File) -> Result<Index, DiskError> {
        cut(offsets, 0)?;
        cut(times, 0)?;
        Ok(Index::default())
    }

    pub(crate) fn read(offsets: &File, times: &File, log_bytes: u64) -> Result<(Index, u64), DiskError> {
        let mut index = Index::default();
        // What cannot be read leads nowhere: the batches say what is there.
        let bytes = offsets.read_lossy(0, offsets.size()? as usize);
        for entry in bytes.chunks_exact(OFFSET_ENTRY_BYTES) {
            let (relative, position) = (u32_at(entry, 0), u32_at(entry, 4));
            let rises = index.offsets.last().is_none_or(|(r, p)| relative > *r && position > *p);
            if !rises || u64::from(position) >= log_bytes {
                break;
            }
            index.offsets.push((relative, position));
        }
        let Some((last_relative, last_position)) = index.offsets.last().copied() else {
            return Ok((Index::default(), 0));
        };
        let bytes = times.read_lossy(0, times.size()? as usize);
        for entry in bytes.chunks_exact(TIME_ENTRY_BYTES) {
            let time = i64::from(u32_at(entry, 0)) << 32 | i64::from(u32_at(entry, 4));
            let relative = u32_at(entry, 8);
            if relative > last_relative || index.times.last().is_some_and(|(t, r)| time <= *t || relative <= *r) {
                break;
            }
            index.times.push((time, relative));
        }
        // Without its time entries the offsets would hide older, greater timestamps: read the whole segment.
        let Some(newest) = index.times.last().copied() else { return Ok((Index::default(), 0)) };
        index.newest = Some(newest);
        // The batch of the last entry is noted again; its entry must not be doubled.
        index.offsets.pop();
        index.offsets_written = index.offsets.len();
        index.times_written = index.times.len();
        index.since_entry = INTERVAL.bytes() + 1;
        Ok((index, u64::from(last_position)))
    }

    /// What the files lack.
    pub fn unwritten(&self) -> Unwritten {
        let offsets = self.offsets[self.offsets_written..].iter();
        let times = self.times[self.times_written..].iter();
        Unwritten {
            offsets: (self.offsets_written, self.offsets.len()),
            offset_bytes: offsets
                .flat_map(|(at, position)| [at.to_be_bytes(), position.to_be_bytes()])
                .flatten()
                .collect(),
            times: (self.times_written, self.times.len()),
            time_bytes: times.flat_map(|(time, at)| time.to_be_bytes().into_iter().chain(at.to_be_bytes())).collect(),
        }
    }

    /// That is in the files now. Two threads may have written the same at once.
    pub fn wrote(&mut self, unwritten: &Unwritten) {
        self.offsets_written = self.offsets_written.max(unwritten.offsets.1);
        self.times_written = self.times_written.max(unwritten.times.1);
    }
}

/// Entries on their way to an index's files, which may take long.
#[derive(Debug)]
pub struct Unwritten {
    /// From which entry to which.
    offsets: (usize, usize),
    offset_bytes: Vec<u8>,
    times: (usize, usize),
    time_bytes: Vec<u8>,
}

impl Unwritten {
    /// Writes them; not synced, for they are derived.
    pub fn write(&self, offsets: &File, times: &File) -> Result<(), DiskError> {
        offsets.write_at(&self.offset_bytes, (self.offsets.0 * OFFSET_ENTRY_BYTES) as u64)?;
        times.write_at(&self.time_bytes, (self.times.0 * TIME_ENTRY_BYTES) as u64)
    }
}

/// Durably, if there is more.
fn cut(file: &File, bytes: u64) -> Result<(), DiskError> {
    if file.size()? > bytes {
        file.set_len(bytes)?;
        file.sync_data()?;
    }
    Ok(())
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
