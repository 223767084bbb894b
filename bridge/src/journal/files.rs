//! The journal's files (J3): written full of zeros beforehand, so that a commit changes no metadata;
//! reused only after a checkpoint; every start opens a fresh one, and one is always left for it: so a start needs no
//! room. Another is made in advance for the committer; when it is used up before the next, the committer makes a file
//! itself.

use std::collections::{BTreeSet, VecDeque};
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
/// A file has room for its header, the header's copy and something between them.
const MIN_BYTES: u64 = 3 * BOUNDARY_BYTES as u64;

/// Made in advance: one for the next start, one for the committer.
const SPARES: usize = 2;

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
    /// What it says of the folder; older ones say nothing.
    pub folder: Option<FolderNote>,
}

/// What a start has to know of a folder whose checkpoint is lost (R3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FolderNote {
    /// The newest checkpoint when the file was begun. A file is begun over again only when a checkpoint holds all that
    /// was in it: so no frame above the greatest LSN that any file notes has been written over.
    pub checkpoint_lsn: u64,
    /// The folder's.
    pub cluster_id: [u8; 16],
}

/// Whole sectors of a file: one whose making was cut off may have any size.
fn whole_bytes(file: &File) -> u64 {
    let sector = BOUNDARY_BYTES as u64;
    file.size().unwrap_or(0) / sector * sector
}

/// What stands where the copy of the header belongs.
fn read_copy(file: &File) -> bytes::Bytes {
    file.read_lossy(whole_bytes(file).saturating_sub(BOUNDARY_BYTES as u64), BOUNDARY_BYTES)
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
        if let Some(note) = &self.folder {
            out.extend_from_slice(&note.checkpoint_lsn.to_le_bytes());
            out.extend_from_slice(&note.cluster_id);
            out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        }
        out.resize(BOUNDARY_BYTES, 0);
        out
    }

    /// The header of a file, or its copy in the last boundary.
    pub fn read(file: &File) -> Result<Option<FileHeader>, u32> {
        let header = FileHeader::decode(&file.read_lossy(0, BOUNDARY_BYTES));
        match header {
            Ok(None) if whole_bytes(file) >= MIN_BYTES => FileHeader::decode(&read_copy(file)),
            found => found,
        }
    }

    /// Writes what was read of it, where it was whole, once more; durably.
    pub fn write_again(&self, file: &File) -> Result<(), DiskError> {
        for position in [whole_bytes(file).saturating_sub(BOUNDARY_BYTES as u64), 0] {
            let stands = FileHeader::decode(&file.read_lossy(position, BOUNDARY_BYTES));
            if stands == Ok(Some(*self)) && self.folder.is_some() {
                file.write_at(&self.encode(), position)?;
                file.sync_data()?;
            }
        }
        Ok(())
    }

    /// Whether a file's end, where the copy stands, is as its header has it; or newer, when a power cut tore the two.
    pub fn is_whole(&self, file: &File) -> bool {
        let is_there = |copy: FileHeader| (copy.epoch, copy.first_lsn) >= (self.epoch, self.first_lsn);
        // Older ones have no copy.
        self.folder.is_none() || FileHeader::decode(&read_copy(file)).is_ok_and(|copy| copy.is_some_and(is_there))
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
                folder: FolderNote::decode(bytes),
            })),
            newer => Err(newer),
        }
    }
}

impl FolderNote {
    fn decode(bytes: &[u8]) -> Option<FolderNote> {
        let is_whole = bytes.len() >= 68 && crc32c::crc32c(&bytes[..64]) == u32_at(bytes, 64);
        let cluster_id = bytes.get(48..64).and_then(|id| id.try_into().ok());
        cluster_id.filter(|_| is_whole).map(|cluster_id| FolderNote { checkpoint_lsn: u64_at(bytes, 40), cluster_id })
    }
}

/// The number in a file's name.
pub fn number_of(name: &str) -> Option<u64> {
    name.strip_suffix(".journal")?.parse().ok()
}

/// The name of the file with a number.
pub fn name_of(number: u64) -> String {
    format!("{number:010}.journal")
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
    /// Numbers of those that have been in use: they have a header ever after.
    begun: BTreeSet<u64>,
    note: FolderNote,
}

impl Files {
    /// Takes over a folder: `full` holds what recovery still needs, by last LSN; the rest are spares, of which those
    /// with numbers in `begun` have been in use.
    pub fn new(
        folder: Folder,
        full: Vec<(String, u64)>,
        mut spares: Vec<String>,
        begun: BTreeSet<u64>,
        note: FolderNote,
    ) -> Files {
        let names = full.iter().map(|(name, _)| name).chain(&spares);
        let next_number = names.filter_map(|name| number_of(name)).max().map_or(1, |n| n + 1);
        spares.retain(|name| {
            // One whose making was cut off is none: it would need room when it is taken.
            let is_made = folder.file(name).and_then(|file| file.size()).is_ok_and(|bytes| bytes >= FIRST_FILE.bytes());
            let has_been_used = number_of(name).is_some_and(|number| begun.contains(&number));
            has_been_used || is_made || folder.remove(name).is_err()
        });
        let full = full.into();
        let inner = Inner { full, spares, in_use: false, next_number, next_bytes: FIRST_FILE.bytes(), begun, note };
        Files { folder, inner: Mutex::new(inner) }
    }

    /// Numbers of the files that have been in use, for the checkpoint to name: one that is missed later is damage.
    pub fn begun(&self) -> Vec<u64> {
        self.inner.lock().begun.iter().copied().collect()
    }

    /// Everything up to `lsn` is in a checkpoint: files that hold no more become spares.
    pub fn recycle(&self, lsn: u64) {
        let mut inner = self.inner.lock();
        inner.note.checkpoint_lsn = lsn;
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

    /// Makes spares where they are missing: a small one for the next start, and one for the committer, off its path.
    /// Where room is `scarce`, that is small, too.
    pub fn ensure_spares(&self, scarce: bool) -> Result<(), DiskError> {
        loop {
            let spares = self.inner.lock().spares.len();
            let name = match spares {
                SPARES.. => return Ok(()),
                made if made == 0 || scarce => self.create_of(FIRST_FILE.bytes())?,
                _ => self.create(0)?,
            };
            self.inner.lock().spares.push(name);
        }
    }

    /// A file that holds this much, and more where there is room for more.
    fn create(&self, bytes_min: u64) -> Result<String, DiskError> {
        let bytes_min = bytes_min.next_multiple_of(BOUNDARY_BYTES as u64).max(FIRST_FILE.bytes());
        let bytes = self.inner.lock().next_bytes.max(bytes_min);
        match self.create_of(bytes) {
            Err(error) if error.is_full() && bytes > bytes_min => self.create_of(bytes_min),
            Ok(name) => {
                self.inner.lock().next_bytes = (bytes * 2).min(FILE_MAX.bytes());
                Ok(name)
            }
            failed => failed,
        }
    }

    fn create_of(&self, bytes: u64) -> Result<String, DiskError> {
        let name = {
            let mut inner = self.inner.lock();
            inner.next_number += 1;
            name_of(inner.next_number - 1)
        };
        let made = self.folder.file(&name).and_then(|file| file.fill_with_zeros(bytes));
        if let Err(error) = made.and_then(|()| self.folder.sync()) {
            // What there is of it would only take up room, and the next try would add to it.
            let _stays_until_the_next_start = self.folder.remove(&name);
            return Err(error);
        }
        Ok(name)
    }

    /// A file for `bytes_min`, its header written, while as many spares as are `kept` stay. What was to become one is a
    /// spare still when that fails.
    fn take(&self, bytes_min: u64, kept: usize, header: &FileHeader) -> Result<Current, DiskError> {
        let spare = {
            let spares = &mut self.inner.lock().spares;
            if spares.len() > kept { spares.pop() } else { None }
        };
        let name = match spare {
            Some(name) => name,
            None => self.create(bytes_min)?,
        };
        self.begin(&name, bytes_min, header).inspect_err(|_| self.inner.lock().spares.push(name.clone()))
    }

    fn begin(&self, name: &str, bytes_min: u64, header: &FileHeader) -> Result<Current, DiskError> {
        let file = self.folder.file(name)?;
        let mut bytes = whole_bytes(&file);
        if bytes < bytes_min {
            // One operation larger than the spare: grow the spare rather than keep an odd file.
            file.fill_with_zeros(bytes_min)?;
            bytes = bytes_min;
        }
        // Twice: without it all frames of a file would be lost with one sector. One after the other, the end's first, where it
        // may have no other: a power cut leaves one of the two whole, and is not taken for damage.
        bytes -= BOUNDARY_BYTES as u64;
        for position in [bytes, 0] {
            file.write_at(&header.encode(), position)?;
            file.sync_data()?;
        }
        Ok(Current { file: Arc::new(file), name: name.to_owned(), bytes, position: BOUNDARY_BYTES as u64 })
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
    /// Spares that are not for this writer.
    spares_kept: usize,
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
            spares_kept: 0,
        }
    }

    /// From here on it leaves a spare to the next start, which may find no room for another (J3).
    pub fn keep_a_spare(&mut self) {
        self.spares_kept = 1;
    }

    /// Writes a frame and gives its bytes on disk; it is durable after [`Writer::sync`]. One for which there is no room
    /// may be written again: it goes to the same place.
    pub fn write(&mut self, frame: &mut Frame) -> Result<u64, DiskError> {
        let bytes = frame.body().len();
        let needed = (2 * BOUNDARY_BYTES + frame::padded_bytes(bytes)) as u64;
        let room = self.current.as_ref().map_or(0, |c| c.bytes - c.position);
        if room < frame::padded_bytes(bytes) as u64 {
            self.rotate(needed)?;
        }
        let lsn = self.next_lsn;
        let padded = frame.seal(lsn, self.durable_lsn, self.salt);
        let padded_bytes = padded.len() as u64;
        let written = match &mut self.current {
            Some(current) => current.file.write_at(padded, current.position).map(|()| {
                current.position += padded_bytes;
                if self.unsynced.last().is_none_or(|file| !Arc::ptr_eq(file, &current.file)) {
                    self.unsynced.push(current.file.clone());
                }
            }),
            None => Ok(()),
        };
        frame.unpad();
        written?;
        self.next_lsn += 1;
        Ok(padded_bytes)
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
        let header = FileHeader {
            epoch: self.epoch,
            void_from_lsn: self.void_from_lsn,
            first_lsn: self.next_lsn,
            salt: random_salt(),
            folder: Some(self.files.inner.lock().note),
        };
        let next = self.files.take(bytes_min, self.spares_kept, &header)?;
        self.salt = header.salt;
        let mut files = self.files.inner.lock();
        files.in_use = true;
        files.begun.extend(number_of(&next.name));
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
