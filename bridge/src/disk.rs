//! The only caller of the file system. What is written here is durable when `sync_data` (a file's
//! bytes) or `sync` (a folder's names) returned without an error, and not before.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::FlockOperation;
use rustix::io::{Errno, ReadWriteFlags};

use crate::metrics::{Disk, Purpose, disk};

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
}

const FSYNC: &str = "fsync";
const FDATASYNC: &str = "fdatasync";

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    move |source| DiskError { action, path: path.to_owned(), source }
}

/// An open file, read and written at positions.
#[derive(Debug)]
pub struct File {
    file: fs::File,
    path: PathBuf,
    counted: &'static Disk,
}

impl File {
    /// Opens for reading and writing; makes it when missing.
    pub fn open(path: &Path) -> Result<File, DiskError> {
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let counted = disk(Purpose::of(path));
        Ok(File { file: file.map_err(failed("open", path))?, path: path.to_owned(), counted })
    }

    /// Its size in bytes.
    pub fn size(&self) -> Result<u64, DiskError> {
        Ok(self.file.metadata().map_err(failed("stat", &self.path))?.len())
    }

    /// Cuts or extends it.
    pub fn set_len(&self, bytes: u64) -> Result<(), DiskError> {
        self.file.set_len(bytes).map_err(failed("truncate", &self.path))
    }

    /// Writes all of `bytes` at `position`.
    pub fn write_at(&self, bytes: &[u8], position: u64) -> Result<(), DiskError> {
        let written = self.file.write_all_at(bytes, position);
        self.counted.wrote(written, bytes.len()).map_err(failed("write", &self.path))
    }

    /// Makes its bytes durable (fdatasync).
    pub fn sync_data(&self) -> Result<(), DiskError> {
        self.counted.synced(self.file.sync_data()).map_err(failed(FDATASYNC, &self.path))
    }

    /// Reads up to `bytes_max` from `position`; less only at the end of the file. May wait for the disk.
    pub fn read_at(&self, position: u64, bytes_max: usize) -> Result<Bytes, DiskError> {
        let mut buffer = vec![0; bytes_max];
        let mut got = 0;
        while got < bytes_max {
            match self.file.read_at(&mut buffer[got..], position + got as u64) {
                Ok(0) => break,
                Ok(n) => got += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(failed("read", &self.path)(e)),
            }
        }
        buffer.truncate(got);
        Ok(buffer.into())
    }

    /// The same from the page cache only: `None` when some of it would have to come from the disk, or
    /// when the file system cannot tell.
    pub fn read_cached_at(&self, position: u64, bytes_max: usize) -> Result<Option<Bytes>, DiskError> {
        let mut buffer = vec![0; bytes_max];
        let mut parts = [io::IoSliceMut::new(&mut buffer)];
        match rustix::io::preadv2(&self.file, &mut parts, position, ReadWriteFlags::NOWAIT) {
            Ok(n) if n == bytes_max => Ok(Some(buffer.into())),
            Ok(_) | Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(None),
            Err(e) => Err(failed("read", &self.path)(e.into())),
        }
    }

    /// Fills it with `bytes` zeros and makes them durable, so that later writes cost no metadata (J3).
    pub fn fill_with_zeros(&self, bytes: u64) -> Result<(), DiskError> {
        let counted = disk(Purpose::Zeros);
        let zeros = vec![0u8; 1 << 20];
        let mut position = 0;
        while position < bytes {
            let n = (bytes - position).min(zeros.len() as u64);
            let written = self.file.write_all_at(&zeros[..n as usize], position);
            counted.wrote(written, n as usize).map_err(failed("write", &self.path))?;
            position += n;
        }
        counted.synced(self.file.sync_all()).map_err(failed(FSYNC, &self.path))
    }
}

/// A folder whose names can be made durable.
#[derive(Clone, Debug)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Opens it, made when missing, its own name made durable then.
    pub fn open(path: &Path) -> Result<Folder, DiskError> {
        if !path.is_dir() {
            fs::create_dir_all(path).map_err(failed("make folder", path))?;
            if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
                Folder { path: parent.to_owned() }.sync()?;
            }
        }
        Ok(Folder { path: path.to_owned() })
    }

    /// The path of a name in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Names in it that are UTF-8, sorted; ours all are.
    pub fn names(&self) -> Result<Vec<String>, DiskError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed("list", &self.path))? {
            let entry = entry.map_err(failed("list", &self.path))?;
            names.extend(entry.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    /// Makes the names in it durable: files made, renamed and removed.
    pub fn sync(&self) -> Result<(), DiskError> {
        let folder = fs::File::open(&self.path).map_err(failed("open", &self.path))?;
        disk(Purpose::Folder).synced(folder.sync_all()).map_err(failed(FSYNC, &self.path))
    }

    /// Removes a file in it; one that is not there is no error.
    pub fn remove(&self, name: &str) -> Result<(), DiskError> {
        let path = self.join(name);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path)(e)),
            _ => Ok(()),
        }
    }

    /// Reads a whole file; `None` when it is not there.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, DiskError> {
        let path = self.join(name);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed("read", &path)(e)),
        }
    }

    /// Replaces a file by `bytes` so that a crash leaves the old or the new one, durably.
    pub fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), DiskError> {
        let temporary = format!("{name}.new");
        let file = File::open(&self.join(&temporary))?;
        file.set_len(0)?;
        file.write_at(bytes, 0)?;
        file.counted.synced(file.file.sync_all()).map_err(failed(FSYNC, &file.path))?;
        let path = self.join(name);
        fs::rename(&file.path, &path).map_err(failed("rename to", &path))?;
        self.sync()
    }

    /// Locks the folder for this process until the lock is dropped; `None` when another process has it.
    pub fn lock(&self) -> Result<Option<Lock>, DiskError> {
        let file = File::open(&self.join("lock"))?;
        match rustix::fs::flock(&file.file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(failed("lock", &file.path)(e.into())),
        }
    }
}

/// Held while a data folder is open.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}
