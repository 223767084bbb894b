//! The only caller of the file system. What is written here is durable when `sync_data` (a file's
//! bytes) or `sync` (a folder's names) returned without an error, and not before.

use std::fmt;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::FlockOperation;
use rustix::io::{Errno, ReadWriteFlags};

use crate::metrics::{Disk, Purpose, disk};
use crate::stall::watched;

/// A disk operation that failed, and on what.
#[derive(Debug, thiserror::Error)]
#[error("disk: {action} {}: {source}", path.display())]
pub struct DiskError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl DiskError {
    /// Whether it was a sync that failed: what it was about may or may not be on the disk (J8).
    pub fn is_sync(&self) -> bool {
        self.action == FSYNC || self.action == FDATASYNC
    }

    /// Whether this process may not: whoever set it up has to help.
    pub(crate) fn is_denied(&self) -> bool {
        self.source.kind() == io::ErrorKind::PermissionDenied
    }

    /// Whether there was no room, which passes: nothing was written for certain, and it can be written again (J9).
    pub fn is_full(&self) -> bool {
        let kind = self.source.kind();
        !self.is_sync() && matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

#[cfg(test)]
pub(crate) fn full_disk_error() -> DiskError {
    failed("write", Path::new("full"))(io::ErrorKind::StorageFull.into())
}

/// What a disk reads at once, or not.
const SECTOR_BYTES: u64 = 4096;
/// Before a read that failed is tried again.
const READ_AGAIN: Duration = Duration::from_millis(50);
const FSYNC: &str = "fsync";
const FDATASYNC: &str = "fdatasync";

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    move |source| DiskError { action, path: path.to_owned(), source }
}

/// A file system: the real one, or a simulated one that fails and forgets.
pub(crate) trait System: fmt::Debug + Send + Sync {
    /// Opens for reading and writing; makes it when missing.
    fn open(&self, path: &Path) -> io::Result<Box<dyn RawFile>>;
    /// Whether there is such a folder.
    fn is_folder(&self, path: &Path) -> bool;
    /// Makes a folder in one that is there.
    fn make_folder(&self, path: &Path) -> io::Result<()>;
    /// Names in a folder that are UTF-8; ours all are.
    fn names(&self, folder: &Path) -> io::Result<Vec<String>>;
    /// Makes names made, renamed and removed in a folder durable.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes a folder with nothing in it.
    fn remove_folder(&self, path: &Path) -> io::Result<()>;
    /// Renames a file over another.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// A whole file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Bytes that can still be written to files in a folder.
    fn free_bytes(&self, folder: &Path) -> io::Result<u64>;
}

/// What an open file can do.
pub(crate) trait RawFile: fmt::Debug + Send + Sync {
    fn size(&self) -> io::Result<u64>;
    fn set_len(&self, bytes: u64) -> io::Result<()>;
    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()>;
    /// Makes its bytes durable.
    fn sync_data(&self) -> io::Result<()>;
    /// The same with all that is known of it.
    fn sync_all(&self) -> io::Result<()>;
    /// As many bytes as are there, at most; may wait for the disk.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;
    /// All of them from the page cache; `false` when that cannot be.
    fn read_cached_at(&self, buffer: &mut [u8], position: u64) -> io::Result<bool>;
    /// Whether no other process had locked it; it is locked now.
    fn lock(&self) -> io::Result<bool>;
}

/// The operating system's.
#[derive(Debug)]
struct Real;

impl System for Real {
    fn open(&self, path: &Path) -> io::Result<Box<dyn RawFile>> {
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        Ok(Box::new(file))
    }

    fn is_folder(&self, path: &Path) -> bool {
        path.is_dir()
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn names(&self, folder: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(folder)? {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        fs::File::open(folder)?.sync_all()
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn free_bytes(&self, folder: &Path) -> io::Result<u64> {
        let found = rustix::fs::statvfs(folder)?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }
}

impl RawFile for fs::File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        fs::File::set_len(self, bytes)
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, position)
    }

    fn sync_data(&self) -> io::Result<()> {
        fs::File::sync_data(self)
    }

    fn sync_all(&self) -> io::Result<()> {
        fs::File::sync_all(self)
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, position)
    }

    fn read_cached_at(&self, buffer: &mut [u8], position: u64) -> io::Result<bool> {
        let wanted = buffer.len();
        match rustix::io::preadv2(self, &mut [io::IoSliceMut::new(buffer)], position, ReadWriteFlags::NOWAIT) {
            Ok(n) => Ok(n == wanted),
            // Not there, or the file system cannot tell.
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    fn lock(&self) -> io::Result<bool> {
        match rustix::fs::flock(self, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(Errno::WOULDBLOCK) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }
}

/// An open file, read and written at positions.
#[derive(Debug)]
pub struct File {
    raw: Box<dyn RawFile>,
    path: PathBuf,
    counted: &'static Disk,
}

impl File {
    /// Its size in bytes.
    pub fn size(&self) -> Result<u64, DiskError> {
        self.raw.size().map_err(failed("stat", &self.path))
    }

    /// Cuts or extends it.
    pub fn set_len(&self, bytes: u64) -> Result<(), DiskError> {
        self.raw.set_len(bytes).map_err(failed("truncate", &self.path))
    }

    /// Writes all of `bytes` at `position`.
    pub fn write_at(&self, bytes: &[u8], position: u64) -> Result<(), DiskError> {
        let written = watched(|| self.raw.write_all_at(bytes, position));
        self.counted.wrote(written, bytes.len()).map_err(failed("write", &self.path))
    }

    /// Makes its bytes durable (fdatasync).
    pub fn sync_data(&self) -> Result<(), DiskError> {
        self.counted.synced(watched(|| self.raw.sync_data())).map_err(failed(FDATASYNC, &self.path))
    }

    fn sync_all(&self, counted: &Disk) -> Result<(), DiskError> {
        counted.synced(watched(|| self.raw.sync_all())).map_err(failed(FSYNC, &self.path))
    }

    /// Reads up to `bytes_max` from `position`; less only at the end of the file. May wait for the disk.
    pub fn read_at(&self, position: u64, bytes_max: usize) -> Result<Bytes, DiskError> {
        let mut buffer = vec![0; bytes_max];
        let mut got = 0;
        while got < bytes_max {
            match self.raw.read_at(&mut buffer[got..], position + got as u64) {
                Ok(0) => break,
                Ok(n) => got += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed("read", &self.path)(e)),
            }
        }
        buffer.truncate(got);
        Ok(buffer.into())
    }

    /// The same from a disk that may not give all of it: what cannot be read is zeros.
    pub(crate) fn read_lossy(&self, position: u64, bytes_max: usize) -> Bytes {
        self.read_around(position, bytes_max).0
    }

    /// The same, and which bytes could not be read, tried again after a pause.
    pub(crate) fn read_around(&self, position: u64, bytes_max: usize) -> (Bytes, Vec<Range<u64>>) {
        for is_again in [false, true, true] {
            if is_again {
                std::thread::sleep(READ_AGAIN);
            }
            if let Ok(bytes) = self.read_at(position, bytes_max) {
                return (bytes, Vec::new());
            }
        }
        let mut unreadable: Vec<Range<u64>> = Vec::new();
        let size = self.size().unwrap_or(0);
        let end = size.min(position.saturating_add(bytes_max as u64));
        let mut all = Vec::new();
        let mut at = position;
        while at < end {
            let count = (SECTOR_BYTES - at % SECTOR_BYTES).min(end - at) as usize;
            match self.read_at(at, count) {
                Ok(bytes) => all.extend_from_slice(&bytes),
                Err(_) => match unreadable.last_mut() {
                    Some(before) if before.end == at => before.end += count as u64,
                    _ => unreadable.push(at..at + count as u64),
                },
            }
            at += count as u64;
            all.resize((at - position) as usize, 0);
        }
        (all.into(), unreadable)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The same from the page cache only: `None` when some of it would have to come from the disk, or
    /// when the file system cannot tell.
    pub fn read_cached_at(&self, position: u64, bytes_max: usize) -> Result<Option<Bytes>, DiskError> {
        let mut buffer = vec![0; bytes_max];
        let all = self.raw.read_cached_at(&mut buffer, position).map_err(failed("read", &self.path))?;
        Ok(all.then(|| buffer.into()))
    }

    /// Makes it `bytes` long, with zeros behind what it has, and that durable: so later writes cost no metadata (J3).
    pub fn fill_with_zeros(&self, bytes: u64) -> Result<(), DiskError> {
        let counted = disk(Purpose::Zeros);
        let zeros = vec![0u8; bytes.min(1 << 20) as usize];
        let mut position = self.size()?;
        while position < bytes {
            let n = (bytes - position).min(zeros.len() as u64);
            let written = watched(|| self.raw.write_all_at(&zeros[..n as usize], position));
            counted.wrote(written, n as usize).map_err(failed("write", &self.path))?;
            position += n;
        }
        self.sync_all(counted)
    }
}

/// A folder whose names can be made durable.
#[derive(Clone, Debug)]
pub struct Folder {
    system: Arc<dyn System>,
    path: PathBuf,
}

impl Folder {
    /// Opens one of the operating system's; made when missing, with those above it, and its name made durable.
    pub fn open(path: &Path) -> Result<Folder, DiskError> {
        Folder::open_in(Arc::new(Real), path)
    }

    /// The same in any file system.
    pub(crate) fn open_in(system: Arc<dyn System>, path: &Path) -> Result<Folder, DiskError> {
        let folder = Folder { system, path: path.to_owned() };
        let Some(above) = path.parent() else { return Ok(folder) };
        let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
        if folder.system.is_folder(path) {
            // A process that was killed may have made it, and its name be in memory only.
            let above = Folder { path: above.to_owned(), ..folder.clone() };
            let _not_ours_to_read = above.sync();
            return Ok(folder);
        }
        let above = Folder::open_in(folder.system.clone(), above)?;
        folder.make()?;
        above.sync()?;
        Ok(folder)
    }

    fn make(&self) -> Result<(), DiskError> {
        self.system.make_folder(&self.path).map_err(failed("make folder", &self.path))
    }

    /// A folder in it, made when missing. Its name is durable after [`Folder::sync`], also when it was there: a process
    /// that was killed may have made it.
    pub fn folder(&self, name: &str) -> Result<Folder, DiskError> {
        let folder = Folder { path: self.path.join(name), ..self.clone() };
        if !self.system.is_folder(&folder.path) {
            folder.make()?;
        }
        Ok(folder)
    }

    /// A file in it, opened for reading and writing; made when missing.
    pub fn file(&self, name: &str) -> Result<File, DiskError> {
        let path = self.path.join(name);
        let raw = self.system.open(&path).map_err(failed("open", &path))?;
        Ok(File { raw, counted: disk(Purpose::of(&path)), path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a name in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Names in it, sorted.
    pub fn names(&self) -> Result<Vec<String>, DiskError> {
        let mut names = self.system.names(&self.path).map_err(failed("list", &self.path))?;
        names.sort();
        Ok(names)
    }

    /// Whether there is such a name in it.
    pub(crate) fn has(&self, name: &str) -> Result<bool, DiskError> {
        Ok(self.names()?.iter().any(|found| found == name))
    }

    /// Makes the names in it durable: files made, renamed and removed.
    pub fn sync(&self) -> Result<(), DiskError> {
        let synced = watched(|| self.system.sync_folder(&self.path));
        disk(Purpose::Folder).synced(synced).map_err(failed(FSYNC, &self.path))
    }

    /// Removes a file in it; one that is not there is no error.
    pub fn remove(&self, name: &str) -> Result<(), DiskError> {
        let path = self.join(name);
        match self.system.remove(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path)(e)),
            _ => Ok(()),
        }
    }

    /// Removes it with its files and folders.
    pub fn remove_with_all_in_it(&self) -> Result<(), DiskError> {
        for name in self.names()? {
            let inner = Folder { path: self.path.join(&name), ..self.clone() };
            match self.system.is_folder(&inner.path) {
                true => inner.remove_with_all_in_it()?,
                false => self.remove(&name)?,
            }
        }
        self.system.remove_folder(&self.path).map_err(failed("remove folder", &self.path))
    }

    /// Reads a whole file; `None` when it is not there.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, DiskError> {
        let path = self.join(name);
        match self.system.read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed("read", &path)(e)),
        }
    }

    /// Replaces a file by `bytes` so that a crash leaves the old or the new one, durably.
    pub fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        let file = self.file(&format!("{name}.new"))?;
        file.set_len(0)?;
        file.write_at(bytes, 0)?;
        file.sync_all(file.counted)?;
        let path = self.join(name);
        self.system.rename(&file.path, &path).map_err(failed("rename to", &path))?;
        self.sync()
    }

    /// Bytes that can still be written to files in it.
    pub fn free_bytes(&self) -> Result<u64, DiskError> {
        self.system.free_bytes(&self.path).map_err(failed("statvfs", &self.path))
    }

    /// Locks the folder for this process until the lock is dropped; `None` when another process has it.
    pub fn lock(&self) -> Result<Option<Lock>, DiskError> {
        let file = self.file("lock")?;
        let locked = file.raw.lock().map_err(failed("lock", &file.path))?;
        Ok(locked.then_some(Lock { _file: file }))
    }
}

/// Held while a data folder is open.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}
