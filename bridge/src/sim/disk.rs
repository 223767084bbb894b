//! A disk in memory. What was written and not synced may be there after a power cut or not, each sector for itself;
//! so may names that were made, renamed or removed in a folder that was not synced.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::baton;
use super::mutation::Mutation;
use super::random::Random;
use crate::disk::{RawFile, System};

const SECTOR_BYTES: usize = 512;

/// The disk, as the processes that use it one after the other see it.
#[derive(Clone, Debug)]
pub struct SimulatedDisk(Arc<Mutex<State>>);

/// How a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// What it wrote is in the page cache still, and no more durable than before.
    Killed,
    /// The page cache is gone: of what was not synced, something or other is there.
    PowerCut,
    /// None of it is.
    PowerCutLosingAll,
}

#[derive(Debug)]
struct State {
    random: Random,
    files: Vec<Contents>,
    folders: BTreeMap<PathBuf, Names>,
    /// Operations so far, and at which of them the process ends.
    operations: u64,
    ends_at: Option<u64>,
    ended: bool,
    /// Bytes by which files can still grow; `None`: any number.
    room: Option<usize>,
    /// Syncs from now until one that fails.
    sync_fails_in: Option<u64>,
    failed_syncs: u64,
    /// Of all operations and what they were about.
    trace: u64,
}

#[derive(Debug, Default)]
struct Contents {
    now: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Unsynced>,
}

#[derive(Clone, Debug)]
struct Unsynced {
    what: What,
    /// A sync of it failed: later ones say nothing about it.
    given_up: bool,
}

#[derive(Clone, Debug)]
enum What {
    Write { at: usize, bytes: Vec<u8> },
    Length(usize),
}

#[derive(Clone, Copy, Debug)]
enum Node {
    File(usize),
    Folder,
}

#[derive(Debug, Default)]
struct Names {
    now: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
    unsynced: Vec<NameChange>,
}

#[derive(Clone, Debug)]
enum NameChange {
    Set(String, Node),
    Remove(String),
    Rename(String, String, Node),
}

/// An open file.
#[derive(Debug)]
struct Open {
    disk: SimulatedDisk,
    file: usize,
    path: PathBuf,
}

impl SimulatedDisk {
    /// An empty one. From here on this process simulates, also with what else it opens.
    pub fn new(seed: u64) -> SimulatedDisk {
        super::simulate();
        SimulatedDisk(Arc::new(Mutex::new(State {
            random: Random::new(seed),
            files: Vec::new(),
            folders: BTreeMap::from([(PathBuf::from("/"), Names::default())]),
            operations: 0,
            ends_at: None,
            ended: false,
            room: None,
            sync_fails_in: None,
            failed_syncs: 0,
            trace: 0,
        })))
    }

    /// The process ends at the operation after `operations` more.
    pub fn end_after(&self, operations: u64) {
        let mut state = self.0.lock();
        state.ends_at = Some(state.operations + 1 + operations);
    }

    /// The process ends here.
    pub fn end_now(&self) {
        self.0.lock().ended = true;
    }

    /// Whether it did.
    pub fn has_ended(&self) -> bool {
        self.0.lock().ended
    }

    /// Files can grow by so many bytes from here on; `None`: by any number.
    pub fn set_room(&self, bytes: Option<usize>) {
        self.0.lock().room = bytes;
    }

    /// Every sync succeeds from here on.
    pub fn fail_no_sync(&self) {
        self.0.lock().sync_fails_in = None;
    }

    /// One of the next syncs fails.
    pub fn fail_a_sync(&self, after: u64) {
        self.0.lock().sync_fails_in = Some(after);
    }

    /// (operations, syncs that failed, hash of everything that was done)
    pub fn counts(&self) -> (u64, u64, u64) {
        let state = self.0.lock();
        (state.operations, state.failed_syncs, state.trace)
    }

    /// What the next process finds.
    pub fn next(self, end: End) -> SimulatedDisk {
        {
            let mut state = self.0.lock();
            match end {
                End::Killed => {}
                End::PowerCut => {
                    let style = state.random.below(5);
                    state.lose_what_is_not_synced(style);
                }
                End::PowerCutLosingAll => state.lose_what_is_not_synced(0),
            }
            (state.ended, state.ends_at, state.sync_fails_in) = (false, None, None);
        }
        self
    }

    fn state<T>(&self, what: &str, path: &Path, then: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let done = {
            let mut state = self.0.lock();
            state.operate(what, path).and_then(|()| then(&mut state))
        };
        baton::pass();
        done
    }
}

impl State {
    /// Every change goes through here. At its last one the process ends, when it may be done or not.
    fn operate(&mut self, what: &str, path: &Path) -> io::Result<()> {
        if self.ended {
            return Err(io::Error::other("the process has ended"));
        }
        self.operations += 1;
        for byte in what.bytes().chain(path.to_string_lossy().bytes()) {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.ends_at == Some(self.operations) {
            self.ended = true;
            if self.random.one_in(2) {
                return Err(io::Error::other("the process ends here"));
            }
        }
        Ok(())
    }

    /// What an operation answers that was done: nothing, when the process ended with it.
    fn answer<T>(&self, answer: T) -> io::Result<T> {
        if self.ended { Err(io::Error::other("the process ends here")) } else { Ok(answer) }
    }

    fn names(&mut self, folder: &Path) -> io::Result<&mut Names> {
        self.folders.get_mut(folder).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }

    fn find(&self, path: &Path) -> Option<Node> {
        let (folder, name) = split(path);
        self.folders.get(&folder)?.now.get(&name).copied()
    }

    /// What of a change there is room for, and whether that is all of it.
    fn cut_to_room(&mut self, file: usize, what: What) -> (What, bool) {
        let Some(room) = self.room.as_mut() else { return (what, true) };
        let there = self.files[file].now.len();
        match what {
            What::Write { at, mut bytes } => {
                let wanted = bytes.len();
                bytes.truncate((there + *room).saturating_sub(at).min(wanted));
                *room -= (at + bytes.len()).saturating_sub(there);
                let fits = bytes.len() == wanted;
                (What::Write { at, bytes }, fits)
            }
            What::Length(length) => {
                *room += there.saturating_sub(length);
                (What::Length(length), true)
            }
        }
    }

    /// A file's name goes, and with it what it took up.
    fn give_back(&mut self, path: &Path) {
        if let (Some(Node::File(file)), Some(room)) = (self.find(path), self.room.as_mut()) {
            *room += self.files[file].now.len();
        }
    }

    fn sync(&mut self, file: usize) -> io::Result<()> {
        if let Some(left) = self.sync_fails_in.as_mut() {
            if *left == 0 {
                self.sync_fails_in = None;
                self.failed_syncs += 1;
                self.files[file].unsynced.iter_mut().for_each(|one| one.given_up = true);
                return Err(io::Error::other("the disk could not write"));
            }
            *left -= 1;
        }
        let contents = &mut self.files[file];
        let (stay, synced): (Vec<_>, Vec<_>) =
            std::mem::take(&mut contents.unsynced).into_iter().partition(|one| one.given_up);
        synced.iter().for_each(|one| apply(&mut contents.durable, &one.what));
        // What was given up and written again since is no longer in question.
        let rewritten = |one: &Unsynced| {
            synced.iter().any(|newer| match (&one.what, &newer.what) {
                (What::Write { at, bytes }, What::Write { at: from, bytes: new }) => {
                    at < &(from + new.len()) && from < &(at + bytes.len())
                }
                _ => true,
            })
        };
        contents.unsynced = stay.into_iter().filter(|one| !rewritten(one)).collect();
        Ok(())
    }

    /// 0: all of it; 1: nothing; 2: what came last; 3: sectors and names here and there; 4: some sectors are garbage.
    fn lose_what_is_not_synced(&mut self, style: u64) {
        let random = &mut self.random;
        for contents in &mut self.files {
            let mut image = std::mem::take(&mut contents.durable);
            let unsynced = std::mem::take(&mut contents.unsynced);
            let kept = random.below(unsynced.len() as u64 + 1) as usize;
            for (number, one) in unsynced.iter().enumerate() {
                match (&one.what, style) {
                    (_, 0) => {}
                    (what, 1) => apply(&mut image, what),
                    (what, 2) if number < kept => apply(&mut image, what),
                    (_, 2) => {}
                    (what @ What::Length(_), _) => {
                        if random.one_in(2) {
                            apply(&mut image, what);
                        }
                    }
                    (What::Write { at, bytes }, _) => tear(&mut image, *at, bytes, random, style == 4),
                }
            }
            contents.now.clone_from(&image);
            contents.durable = image;
        }
        for names in self.folders.values_mut() {
            let mut image = std::mem::take(&mut names.durable);
            let unsynced = std::mem::take(&mut names.unsynced);
            let kept = random.below(unsynced.len() as u64 + 1) as usize;
            for (number, change) in unsynced.iter().enumerate() {
                let happened = match style {
                    0 => false,
                    1 => true,
                    2 => number < kept,
                    _ => random.one_in(2),
                };
                if happened {
                    rename(&mut image, change);
                }
            }
            names.now.clone_from(&image);
            names.durable = image;
        }
        // What is in a folder whose own name is lost is lost.
        let folders: Vec<PathBuf> = self.folders.keys().cloned().collect();
        for path in folders {
            let is_there = path.ancestors().filter(|one| *one != Path::new("/")).all(|one| {
                let (folder, name) = split(one);
                self.folders.get(&folder).is_some_and(|names| names.now.contains_key(&name))
            });
            if !is_there {
                self.folders.remove(&path);
            }
        }
    }
}

/// Some sectors of a write, and some of those as garbage.
fn tear(image: &mut Vec<u8>, at: usize, bytes: &[u8], random: &mut Random, garbage: bool) {
    let mut from = 0;
    while from < bytes.len() {
        let to = bytes.len().min((at + from + SECTOR_BYTES) / SECTOR_BYTES * SECTOR_BYTES - at);
        let mut piece = bytes[from..to].to_vec();
        match random.below(8) {
            0..=2 => {}
            3 if garbage => {
                piece.iter_mut().for_each(|byte| *byte = random.number() as u8);
                apply(image, &What::Write { at: at + from, bytes: piece });
            }
            _ => apply(image, &What::Write { at: at + from, bytes: piece }),
        }
        from = to;
    }
}

fn apply(image: &mut Vec<u8>, what: &What) {
    match what {
        What::Write { at, bytes } => {
            if image.len() < at + bytes.len() {
                image.resize(at + bytes.len(), 0);
            }
            image[*at..at + bytes.len()].copy_from_slice(bytes);
        }
        What::Length(bytes) => image.resize(*bytes, 0),
    }
}

fn rename(names: &mut BTreeMap<String, Node>, change: &NameChange) {
    match change {
        NameChange::Set(name, node) => drop(names.insert(name.clone(), *node)),
        NameChange::Remove(name) => drop(names.remove(name)),
        NameChange::Rename(from, to, node) => {
            names.remove(from);
            names.insert(to.clone(), *node);
        }
    }
}

fn split(path: &Path) -> (PathBuf, String) {
    let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
    (folder, path.file_name().unwrap_or_default().to_string_lossy().into_owned())
}

impl Names {
    fn change(&mut self, change: NameChange) {
        rename(&mut self.now, &change);
        self.unsynced.push(change);
    }
}

impl System for SimulatedDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn RawFile>> {
        let found = {
            let state = self.0.lock();
            if state.ended {
                return Err(io::Error::other("the process has ended"));
            }
            state.find(path)
        };
        let file = match found {
            Some(Node::File(file)) => file,
            Some(Node::Folder) => return Err(io::ErrorKind::IsADirectory.into()),
            None => self.state("make", path, |state| {
                if state.room == Some(0) {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                let file = state.files.len();
                state.files.push(Contents::default());
                let (folder, name) = split(path);
                state.names(&folder)?.change(NameChange::Set(name, Node::File(file)));
                state.answer(file)
            })?,
        };
        Ok(Box::new(Open { disk: self.clone(), file, path: path.to_owned() }))
    }

    fn is_folder(&self, path: &Path) -> bool {
        self.0.lock().folders.contains_key(path)
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        self.state("make folder", path, |state| {
            let (folder, name) = split(path);
            state.names(&folder)?.change(NameChange::Set(name, Node::Folder));
            state.folders.insert(path.to_owned(), Names::default());
            state.answer(())
        })
    }

    fn names(&self, folder: &Path) -> io::Result<Vec<String>> {
        let mut state = self.0.lock();
        if state.ended {
            return Err(io::Error::other("the process has ended"));
        }
        Ok(state.names(folder)?.now.keys().cloned().collect())
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        self.state("sync folder", folder, |state| {
            if !(Mutation::JournalName.is_off() && folder.ends_with("journal")) {
                let names = state.names(folder)?;
                for change in std::mem::take(&mut names.unsynced) {
                    rename(&mut names.durable, &change);
                }
            }
            state.answer(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if self.0.lock().find(path).is_none() {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.state("remove", path, |state| {
            state.give_back(path);
            let (folder, name) = split(path);
            state.names(&folder)?.change(NameChange::Remove(name));
            state.answer(())
        })
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.state("remove folder", path, |state| {
            if !state.names(path)?.now.is_empty() {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
            let (folder, name) = split(path);
            state.names(&folder)?.change(NameChange::Remove(name));
            state.answer(())
        })
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.state("rename", from, |state| {
            let node = state.find(from).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
            state.give_back(to);
            let ((folder, from), (_, to)) = (split(from), split(to));
            state.names(&folder)?.change(NameChange::Rename(from, to, node));
            state.answer(())
        })
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let state = self.0.lock();
        match state.find(path) {
            _ if state.ended => Err(io::Error::other("the process has ended")),
            Some(Node::File(file)) => Ok(state.files[file].now.clone()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(self.0.lock().room.map_or(u64::MAX, |bytes| bytes as u64))
    }
}

impl Open {
    fn change(&self, what: What) -> io::Result<()> {
        let name = match &what {
            What::Write { .. } => "write",
            What::Length(_) => "length",
        };
        self.disk.state(name, &self.path, |state| {
            let (what, fits) = state.cut_to_room(self.file, what);
            let contents = &mut state.files[self.file];
            apply(&mut contents.now, &what);
            contents.unsynced.push(Unsynced { what, given_up: false });
            if fits { state.answer(()) } else { Err(io::ErrorKind::StorageFull.into()) }
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.state("sync", &self.path, |state| {
            let is_journal = self.path.extension().is_some_and(|extension| extension == "journal");
            let skipped =
                (Mutation::JournalSync.is_off() && is_journal) || (Mutation::SegmentSync.is_off() && !is_journal);
            if !skipped {
                state.sync(self.file)?;
            }
            state.answer(())
        })
    }
}

impl RawFile for Open {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.0.lock().files[self.file].now.len() as u64)
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        if self.size()? == bytes {
            return Ok(());
        }
        self.change(What::Length(bytes as usize))
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.change(What::Write { at: position as usize, bytes: bytes.to_owned() })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sync()
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync()
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let state = self.disk.0.lock();
        if state.ended {
            return Err(io::Error::other("the process has ended"));
        }
        let rest = state.files[self.file].now.get(position as usize..).unwrap_or_default();
        let bytes = rest.len().min(buffer.len());
        buffer[..bytes].copy_from_slice(&rest[..bytes]);
        Ok(bytes)
    }

    fn read_cached_at(&self, buffer: &mut [u8], position: u64) -> io::Result<bool> {
        let wanted = buffer.len();
        Ok(self.read_at(buffer, position)? == wanted)
    }

    fn lock(&self) -> io::Result<bool> {
        Ok(true)
    }
}
