//! The journal's files (J3): written full of zeros beforehand, so that a commit changes no metadata;
//! reused only after a checkpoint; every start opens a fresh one. A spare is made at the start and after each
//! checkpoint; when it is used up before the next, the committer makes a file itself.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::disk::{DiskError, File, Folder};
use crate::size::Size;

use super::frame::{self, BOUNDARY_BYTES, Frame, u32_at, u64_at};

const MAGIC: u32 = 0x4d53_4a4c;
/// Raised when an older binary could not read what this one writes: 2 brought `Change::Trim`. Older ones are read.
const VERSION: u32 = 2;
const FIRST_FILE: Size = Size::new(4 << 20, 16 << 10);
const FILE_MAX: Size = Size::new(64 << 20, 64 << 10);

/// What stands in the first 512 bytes of a file in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHeader {
    /// The start that wrote it.
    pub epoch: u64,
    /// The first LSN of that epoch that is not a copy of an older epoch's frame: older epochs' frames from
    /// there on are void. Those below stay valid, for a crash may come before all of them are copied (R2).
    pub void_from_lsn: u64,
    /// The first LSN in this file.
    pub first_lsn: u64,
    /// Seeds the CRC of its frames, so that what a device sends can never be one.
    pub salt: u32,
}

impl FileHeader {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(BOUNDARY_BYTES);
        out.extend_from_slice(&MAGIC.to_le_bytes());
        out.extend_from_slice(&VERSION.to_le_bytes());
        for number in [self.epoch, self.void_from_lsn, self.first_lsn] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.salt.to_le_bytes());
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out.resize(BOUNDARY_BYTES, 0);
        out
    }

    /// `Ok(None)` when the file is blank or its header never became whole; an error when a newer
    /// version wrote it.
    pub fn decode(bytes: &[u8]) -> Result<Option<FileHeader>, u32> {
        if bytes.len() < 40 || u32_at(bytes, 0) != MAGIC || crc32c::crc32c(&bytes[..36]) != u32_at(bytes, 36) {
            return Ok(None);
        }
        match u32_at(bytes, 4) {
            1..=VERSION => Ok(Some(FileHeader {
                epoch: u64_at(bytes, 8),
                void_from_lsn: u64_at(bytes, 16),
                first_lsn: u64_at(bytes, 24),
                salt: u32_at(bytes, 32),
            })),
            newer => Err(newer),
        }
    }
}

/// Files that are full, and files that wait for use. Shared by the committer and the checkpoint thread.
#[derive(Debug)]
pub struct Files {
    folder: Folder,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Full ones with their last LSN, oldest first.
    full: VecDeque<(String, u64)>,
    /// Ready for use.
    spares: Vec<String>,
    /// Whether one is being written.
    in_use: bool,
    next_number: u64,
    next_bytes: u64,
}

impl Files {
    /// Takes over a folder: `full` holds what recovery still needs, by last LSN; the rest are spares.
    pub fn new(folder: Folder, full: Vec<(String, u64)>, spares: Vec<String>) -> Files {
        let number = |name: &String| name.split('.').next().and_then(|n| n.parse::<u64>().ok());
        let next_number =
            full.iter().map(|(name, _)| name).chain(&spares).filter_map(number).max().map_or(1, |n| n + 1);
        let inner = Inner { full: full.into(), spares, in_use: false, next_number, next_bytes: FIRST_FILE.bytes() };
        Files { folder, inner: Mutex::new(inner) }
    }

    /// Everything up to `lsn` is in a checkpoint: files that hold no more become spares.
    pub fn recycle(&self, lsn: u64) {
        let mut inner = self.inner.lock();
        while inner.full.front().is_some_and(|(_, last)| *last <= lsn) {
            if let Some((name, _)) = inner.full.pop_front() {
                inner.spares.push(name);
            }
        }
    }

    /// Files being written (one, after the first frame), full ones that wait for a checkpoint, and spares.
    pub fn counts(&self) -> (usize, usize, usize) {
        let inner = self.inner.lock();
        (inner.in_use.into(), inner.full.len(), inner.spares.len())
    }

    /// Makes a spare when there is none; off the committer's path.
    pub fn ensure_spare(&self) -> Result<(), DiskError> {
        if !self.inner.lock().spares.is_empty() {
            return Ok(());
        }
        let name = self.create(0)?;
        self.inner.lock().spares.push(name);
        Ok(())
    }

    fn create(&self, bytes_min: u64) -> Result<String, DiskError> {
        let (name, bytes) = {
            let mut inner = self.inner.lock();
            let bytes = inner.next_bytes.max(bytes_min.next_multiple_of(BOUNDARY_BYTES as u64));
            inner.next_bytes = (inner.next_bytes * 2).min(FILE_MAX.bytes());
            inner.next_number += 1;
            (format!("{:010}.journal", inner.next_number - 1), bytes)
        };
        self.folder.file(&name)?.fill_with_zeros(bytes)?;
        self.folder.sync()?;
        Ok(name)
    }

    fn take(&self, bytes_min: u64) -> Result<Current, DiskError> {
        let spare = self.inner.lock().spares.pop();
        if let Some(name) = spare {
            let file = self.folder.file(&name)?;
            let bytes = file.size()?;
            if bytes >= bytes_min {
                return Ok(Current { file: Arc::new(file), name, bytes, position: 0 });
            }
            // One operation larger than the spare: grow the spare rather than keep an odd file.
            file.fill_with_zeros(bytes_min)?;
            return Ok(Current { file: Arc::new(file), name, bytes: bytes_min, position: 0 });
        }
        let name = self.create(bytes_min)?;
        let file = self.folder.file(&name)?;
        let bytes = file.size()?;
        Ok(Current { file: Arc::new(file), name, bytes, position: 0 })
    }
}

#[derive(Debug)]
struct Current {
    file: Arc<File>,
    name: String,
    bytes: u64,
    position: u64,
}

/// Writes frames one behind the other.
#[derive(Debug)]
pub struct Writer {
    files: Arc<Files>,
    epoch: u64,
    void_from_lsn: u64,
    current: Option<Current>,
    salt: u32,
    next_lsn: u64,
    /// Written and not synced.
    unsynced: Vec<Arc<File>>,
    durable_lsn: u64,
}

impl Writer {
    /// A writer of a new epoch whose first frame has `first_lsn`; up to `void_from_lsn` it copies frames of
    /// older ones.
    pub fn new(files: Arc<Files>, epoch: u64, first_lsn: u64, void_from_lsn: u64) -> Writer {
        Writer {
            files,
            epoch,
            void_from_lsn,
            current: None,
            salt: 0,
            next_lsn: first_lsn,
            unsynced: Vec::new(),
            durable_lsn: first_lsn - 1,
        }
    }

    /// Writes a frame and gives its bytes on disk; it is durable after [`Writer::sync`].
    pub fn write(&mut self, frame: &mut Frame) -> Result<u64, DiskError> {
        let bytes = frame.body().len();
        let needed = (BOUNDARY_BYTES + frame::padded_bytes(bytes)) as u64;
        let room = self.current.as_ref().map_or(0, |c| c.bytes - c.position);
        if room < frame::padded_bytes(bytes) as u64 {
            self.rotate(needed)?;
        }
        let lsn = self.next_lsn;
        let padded = frame.seal(lsn, self.durable_lsn, self.salt);
        if let Some(current) = &mut self.current {
            current.file.write_at(padded, current.position)?;
            current.position += padded.len() as u64;
            if self.unsynced.last().is_none_or(|file| !Arc::ptr_eq(file, &current.file)) {
                self.unsynced.push(current.file.clone());
            }
        }
        let written = padded.len() as u64;
        frame.unpad();
        self.next_lsn += 1;
        Ok(written)
    }

    /// Makes everything written durable; gives the newest durable LSN.
    pub fn sync(&mut self) -> Result<u64, DiskError> {
        for file in &self.unsynced {
            file.sync_data()?;
        }
        self.unsynced.clear();
        self.durable_lsn = self.next_lsn - 1;
        Ok(self.durable_lsn)
    }

    /// Whether something is written and not synced.
    pub fn dirty(&self) -> bool {
        !self.unsynced.is_empty()
    }

    fn rotate(&mut self, bytes_min: u64) -> Result<(), DiskError> {
        let mut next = self.files.take(bytes_min)?;
        self.salt = random_salt();
        let header = FileHeader {
            epoch: self.epoch,
            void_from_lsn: self.void_from_lsn,
            first_lsn: self.next_lsn,
            salt: self.salt,
        };
        next.file.write_at(&header.encode(), 0)?;
        next.position = BOUNDARY_BYTES as u64;
        let mut files = self.files.inner.lock();
        files.in_use = true;
        if let Some(full) = self.current.replace(next) {
            files.full.push_back((full.name, self.next_lsn - 1));
        }
        Ok(())
    }
}

fn random_salt() -> u32 {
    // PROOF: getrandom fails only where the kernel has no getrandom(2); Linux has had it since 3.17.
    getrandom::u32().expect("the kernel gives random numbers")
}
