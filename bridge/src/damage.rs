//! What is found broken on the disk: said in one line each, counted, and copied aside where it would be written over (R1).

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::disk::{DiskError, File, Folder};
use crate::metrics::{Purpose, disk};

/// The folder in the data folder that has the copies, by number of the start.
pub const FOLDER: &str = "damaged";
const COPY_BYTES: usize = 1 << 20;

/// Something broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// In the data folder.
    pub file: PathBuf,
    /// Where in the file.
    pub bytes: Range<u64>,
    /// What is wrong and what it means.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { file, bytes, what } = self;
        write!(f, "{}, bytes {} to {}: {what}", file.display(), bytes.start, bytes.end)
    }
}

/// Collects what a start, or a tool, finds.
#[derive(Debug)]
pub(crate) struct Damage {
    root: Folder,
    /// Tools that only look change nothing.
    only_looks: bool,
    start: AtomicU64,
    found: Mutex<Vec<Finding>>,
}

impl Damage {
    pub(crate) fn new(root: &Folder, only_looks: bool) -> Damage {
        Damage { root: root.clone(), only_looks, start: AtomicU64::new(0), found: Mutex::default() }
    }

    /// Copies go into the folder of this start.
    pub(crate) fn set_start(&self, start: u64) {
        self.start.store(start, Ordering::Relaxed);
    }

    pub(crate) fn only_looks(&self) -> bool {
        self.only_looks
    }

    pub(crate) fn found(&self, path: &Path, bytes: Range<u64>, what: impl Into<String>) {
        let file = path.strip_prefix(self.root.path()).unwrap_or(path).to_owned();
        disk(Purpose::of(path)).damaged.fetch_add(1, Ordering::Relaxed);
        let finding = Finding { file, bytes, what: what.into() };
        if !self.only_looks {
            tracing::error!("damage: {finding}");
        }
        self.found.lock().push(finding);
    }

    /// The data folder.
    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    /// Takes note of what was said already.
    pub(crate) fn note(&self, path: &Path, bytes: Range<u64>) {
        let file = path.strip_prefix(self.root.path()).unwrap_or(path).to_owned();
        let mut found = self.found.lock();
        if !found.iter().any(|finding| finding.file == file && finding.bytes == bytes) {
            found.push(Finding { file, bytes, what: "no whole record batch".to_owned() });
        }
    }

    pub(crate) fn findings(&self) -> Vec<Finding> {
        self.found.lock().clone()
    }

    /// Whether anything in a folder is.
    pub(crate) fn is_in(&self, folder: &str) -> bool {
        self.found.lock().iter().any(|finding| finding.file.starts_with(folder))
    }

    pub(crate) fn count(&self) -> usize {
        self.found.lock().len()
    }

    /// Copies a file that is about to be written over. A full disk must not stop a start: it then goes on without.
    pub(crate) fn set_aside(&self, folder: &Folder, name: &str) {
        if self.only_looks {
            return;
        }
        let path = folder.join(name);
        match self.copy(folder, name) {
            Ok(to) => tracing::warn!("damage: {} is copied to {}", path.display(), to.display()),
            Err(error) => tracing::error!("damage: {} cannot be copied aside: {error}", path.display()),
        }
    }

    fn copy(&self, folder: &Folder, name: &str) -> Result<PathBuf, DiskError> {
        let mut to = self.root.folder(FOLDER)?.folder(&self.start.load(Ordering::Relaxed).to_string())?;
        for part in folder.path().strip_prefix(self.root.path()).into_iter().flatten() {
            to = to.folder(&part.to_string_lossy())?;
        }
        let copied = copy_file(&folder.file(name)?, &to, name).and_then(|()| to.sync());
        if copied.is_err() {
            let _what_there_was_room_for = to.remove(name);
        }
        copied.map(|()| to.join(name))
    }
}

fn copy_file(from: &File, to: &Folder, name: &str) -> Result<(), DiskError> {
    let to = to.file(name)?;
    let (mut position, size) = (0, from.size()?);
    while position < size {
        let bytes = from.read_lossy(position, COPY_BYTES);
        if bytes.is_empty() {
            break;
        }
        to.write_at(&bytes, position)?;
        position += bytes.len() as u64;
    }
    to.sync_data()
}
