//! Recovery: the last checkpoint, then every frame behind it, in order (R1, R2). Damage is said and passed over.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use crate::batch::Header;
use crate::damage::Damage;
use crate::disk::{DiskError, File, Folder};
use crate::log::partition::AppendError;
use crate::state::Change;

use super::apply::{Applied, ApplyError, LeftOut};
use super::files::{self, FileHeader, Files, FolderNote, Writer};
use super::frame::{self, BOUNDARY_BYTES, Frame, Section};
use super::survey::Survey;

/// Bytes of frames that wait in memory because the log has no room for them: about what was not applied when the last
/// process ended. A start that finds more of them is refused.
const LATE_BYTES_MAX: usize = 64 << 20;

/// Why a journal could not be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A newer Millstream wrote it.
    #[error("disk: {file} has journal format {version}; this binary reads up to 2: start the newer one")]
    Version {
        /// The file.
        file: String,
        /// What it says.
        version: u32,
    },
    /// The disk gave something once and not twice.
    #[error("disk: {0} was read once and could not be read again: start again, and copy the folder to another disk")]
    ReadTwice(PathBuf),
    /// A frame cannot be applied.
    #[error("disk: frame {lsn}: {why}")]
    Apply {
        /// Which frame.
        lsn: u64,
        /// Why.
        why: String,
    },
}

/// A journal file as it was found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) name: String,
    pub(crate) header: FileHeader,
    /// Frames from there on are void (J2).
    limit: u64,
    last_lsn: u64,
    /// Bytes that could not be read when its frames were last; and those that this start has said so of.
    unreadable: Vec<Range<u64>>,
    known_unreadable: Vec<Range<u64>>,
}

/// Where a frame stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At<'a> {
    pub(crate) file: &'a str,
    pub(crate) bytes: (u64, u64),
}

/// What is in the journal's folder.
pub(crate) struct Journal {
    pub(crate) folder: Folder,
    used: Vec<Found>,
    blank: Vec<String>,
}

/// Frames at the journal's end whose batches the log has no room for (J9): they are applied when it has. Their changes
/// are known.
#[derive(Debug, Default)]
pub(crate) struct Late {
    pub(crate) frames: VecDeque<Arc<Frame>>,
    bytes: usize,
    /// Batches of the first that are in their partitions.
    pub(crate) batches_done: usize,
}

impl Late {
    /// Applies a frame's batches, unless there is no room or others wait before it; whether it could be done or kept.
    fn apply(&mut self, applied: &mut Applied, found: &frame::Found<'_>) -> Result<Vec<LeftOut>, ApplyError> {
        if self.frames.is_empty() {
            let mut batches_done = 0;
            match applied.replay_batches(found.body, &mut batches_done) {
                Err(ApplyError::Append(_, _, AppendError::Disk(error))) if error.is_full() => {
                    tracing::warn!(lsn = found.lsn, %error, "what is in the journal finds no room in the log yet");
                    self.batches_done = batches_done;
                }
                done_or_failed => return done_or_failed,
            }
        } else if self.bytes > LATE_BYTES_MAX {
            // The same error again.
            return applied.replay_batches(found.body, &mut 0);
        }
        self.bytes += found.body.len();
        let mut frame = Frame::with_body(found.body);
        frame.lsn = found.lsn;
        self.frames.push_back(Arc::new(frame));
        Ok(Vec::new())
    }

    /// (topic id, partition) and the offset behind each batch of them.
    pub(crate) fn ends(&self) -> Vec<((u32, u32), i64)> {
        let mut ends = Vec::new();
        for frame in &self.frames {
            let mut rest = frame.body();
            while let Some(section) = frame::next_section(&mut rest) {
                if let Section::Batch { topic, partition, bytes } = section
                    && let Ok(header) = Header::parse(bytes)
                {
                    ends.push(((topic, partition), header.last_offset() + 1));
                }
            }
        }
        ends
    }
}

/// What replay gave.
pub(crate) struct Replayed {
    pub(crate) writer: Writer,
    pub(crate) files: Arc<Files>,
    /// Journal bytes behind the checkpoint.
    pub(crate) journal_bytes: u64,
    pub(crate) frames: u64,
    pub(crate) synced_lsn: u64,
    pub(crate) late: Late,
}

impl Journal {
    pub(crate) fn open(folder: Folder) -> Result<Journal, ReplayError> {
        // A file's name may be in memory only, from a process that was killed while it made it.
        folder.sync()?;
        Journal::look(folder)
    }

    /// The same for tools, which change nothing.
    pub(crate) fn look(folder: Folder) -> Result<Journal, ReplayError> {
        let (mut used, mut blank) = (Vec::new(), Vec::new());
        for name in folder.names()? {
            if !name.ends_with(".journal") {
                continue;
            }
            match FileHeader::read(&folder.file(&name)?) {
                Ok(Some(header)) => used.push(Found {
                    name,
                    header,
                    limit: u64::MAX,
                    last_lsn: 0,
                    unreadable: Vec::new(),
                    known_unreadable: Vec::new(),
                }),
                Ok(None) => blank.push(name),
                Err(version) => return Err(ReplayError::Version { file: name, version }),
            }
        }
        used.sort_by_key(|found| (found.header.epoch, found.header.first_lsn));
        let mut journal = Journal { folder, used, blank };
        journal.set_limits();
        Ok(journal)
    }

    /// The newest start that wrote here.
    pub(crate) fn last_epoch(&self) -> u64 {
        self.used.last().map_or(0, |found| found.header.epoch)
    }

    /// Whether any start ever wrote here.
    pub(crate) fn is_used(&self) -> bool {
        !self.used.is_empty()
    }

    /// The newest of what its files say of the folder.
    pub(crate) fn note(&self) -> Option<FolderNote> {
        self.used.iter().filter_map(|found| found.header.folder).max_by_key(|note| note.checkpoint_lsn)
    }

    /// Says which files are missing or have lost their header, of those that a checkpoint says have been in use.
    pub(crate) fn find_missing(&self, (lsn, named): (u64, &[u64]), damage: &Damage) {
        let numbers = |names: &mut dyn Iterator<Item = &String>| -> BTreeSet<u64> {
            names.filter_map(|name| files::number_of(name)).collect()
        };
        let used = numbers(&mut self.used.iter().map(|found| &found.name));
        let blank = numbers(&mut self.blank.iter());
        for number in named.iter().filter(|number| !used.contains(number)) {
            let name = files::name_of(*number);
            let (path, size) = (self.folder.join(&name), self.size_of(&name));
            let what = if blank.contains(number) { "its header is gone" } else { "missing" };
            damage.found(&path, 0..size, format!("{what}; what it held since the last checkpoint is lost"));
            if blank.contains(number) {
                damage.set_aside(&self.folder, &name);
            }
        }
        for name in self.blank.iter().filter(|name| files::number_of(name).is_none_or(|n| !named.contains(&n))) {
            if self.has_frames(name) {
                let what = "no header; what it held since the last checkpoint is lost";
                damage.found(&self.folder.join(name), 0..self.size_of(name), what);
                damage.set_aside(&self.folder, name);
            }
        }
        for found in &self.used {
            let Ok(file) = self.folder.file(&found.name) else { continue };
            if !found.header.is_whole(&file) && has_frames_behind(lsn, &file, &found.header) {
                let size = file.size().unwrap_or(0);
                let what = "its end, or one of its headers, is gone; frames may be lost";
                damage.found(&self.folder.join(&found.name), size..size, what);
                damage.set_aside(&self.folder, &found.name);
            }
        }
    }

    /// Says what of the files whose frames were read could not be. What was at the journal's end is missed by nothing else.
    /// Whether all could be.
    pub(crate) fn find_unreadable(&mut self, damage: &Damage) -> bool {
        let mut all = true;
        for found in self.used.iter_mut().filter(|found| !found.unreadable.is_empty()) {
            for bytes in &found.unreadable {
                let what = "cannot be read; frames that were there are lost";
                damage.found(&self.folder.join(&found.name), bytes.clone(), what);
            }
            damage.set_aside(&self.folder, &found.name);
            found.known_unreadable = found.unreadable.clone();
            all = false;
        }
        all
    }

    /// Whether a file has more than one frame. The first is synced together with the header: with one alone, a power cut
    /// may have torn both, and nobody was told of it.
    fn has_frames(&self, name: &str) -> bool {
        let Ok(file) = self.folder.file(name) else { return false };
        let is_frame = |position: usize| frame::may_be(&file.read_lossy(position as u64, BOUNDARY_BYTES));
        if !is_frame(BOUNDARY_BYTES) {
            return false;
        }
        let bytes = file.read_lossy(0, file.size().unwrap_or(0) as usize);
        bytes.chunks(BOUNDARY_BYTES).filter(|piece| frame::may_be(piece)).count() > 1
    }

    fn size_of(&self, name: &str) -> u64 {
        let is_there = self.blank.iter().any(|blank| blank == name);
        let size = is_there.then(|| self.folder.file(name).and_then(|file| file.size()));
        size.and_then(Result::ok).unwrap_or(0)
    }

    /// Calls `each` with every frame that may hold something behind `lsn`, file by file, until it says that this file's
    /// rest is void.
    pub(crate) fn frames(
        &mut self,
        lsn: u64,
        mut each: impl FnMut(&Found, At<'_>, &frame::Found<'_>) -> Result<bool, ReplayError>,
    ) -> Result<(), ReplayError> {
        for index in 0..self.used.len() {
            let next = self.used.get(index + 1);
            let found = &self.used[index];
            // The next file of the same start goes on where this one ends.
            let is_spent = next.is_some_and(|next| {
                let header = &next.header;
                // Two may begin with the same: of one the disk had no room for more than a header.
                header.epoch == found.header.epoch
                    && header.first_lsn > found.header.first_lsn
                    && header.first_lsn <= lsn.saturating_add(1)
            });
            // A newer start voids what is behind.
            if is_spent || found.limit <= lsn.saturating_add(1) {
                continue;
            }
            let mut unreadable = Vec::new();
            let last_lsn = read_frames(&self.folder, found, &mut each, &mut unreadable)?;
            self.used[index].last_lsn = last_lsn;
            self.used[index].unreadable = unreadable;
        }
        Ok(())
    }

    /// Applies every frame after `applied.lsn`, telling `each` about every change before it takes effect;
    /// then writes again, under the new epoch, what no later frame declared durable (R2). Of frames before
    /// `survey.changes_from` only batches count.
    pub(crate) fn replay(
        mut self,
        applied: &mut Applied,
        epoch: u64,
        (survey, damage): (&Survey, &Damage),
        mut each: impl FnMut(&Change<'_>),
    ) -> Result<Replayed, ReplayError> {
        let checkpoint_lsn = applied.lsn;
        let mut tail: VecDeque<(u64, Vec<u8>)> = VecDeque::new();
        let (mut journal_bytes, mut frames) = (0, 0);
        let mut late = Late::default();
        // The epoch whose frames end in a gap. A newer one goes on where its start left off: at or before it,
        // for it wrote again what might not have been durable.
        let mut torn = None;
        let mut last = Last::default();
        let folder = self.folder.clone();
        self.frames(checkpoint_lsn, |found, at, frame| {
            if torn == Some(found.header.epoch) {
                return Ok(false);
            }
            while tail.front().is_some_and(|(lsn, _)| *lsn <= frame.durable_lsn) {
                tail.pop_front();
            }
            let next = applied.lsn + 1;
            if frame.lsn > next && !survey.is_lost(next..frame.lsn) {
                // Durability "os": a later frame reached the disk and this one did not, or a newer start has it.
                torn = Some(found.header.epoch);
                return Ok(false);
            }
            if frame.lsn > next {
                last.report(&folder, at, next..frame.lsn, damage);
            }
            last.note(at);
            if frame.lsn < next {
                return Ok(true);
            }
            let failed = |error: ApplyError| ReplayError::Apply { lsn: frame.lsn, why: error.to_string() };
            match frame.lsn >= survey.changes_from {
                true => applied.changes(frame.lsn, frame.body, &mut each).map_err(failed)?,
                false => applied.lsn = frame.lsn,
            }
            for ((topic, partition), offsets) in late.apply(applied, frame).map_err(failed)? {
                let (path, Range { start, end }) = (folder.join(at.file), offsets);
                let what = format!("topic {topic} partition {partition}: offsets {start} to {} are lost", end - 1);
                damage.found(&path, at.bytes.0..at.bytes.1, what);
            }
            journal_bytes += frame::padded_bytes(frame.body.len()) as u64;
            frames += 1;
            tail.push_back((frame.lsn, frame.body.to_vec()));
            Ok(true)
        })?;
        let is_known = |found: &Found, bytes: &Range<u64>| {
            found.known_unreadable.iter().any(|known| known.start <= bytes.start && bytes.end <= known.end)
        };
        if let Some(found) = self.used.iter().find(|f| f.unreadable.iter().any(|bytes| !is_known(f, bytes))) {
            // What is there would pass for what a power cut tore, and be voided by what is written next.
            return Err(ReplayError::ReadTwice(self.folder.join(&found.name)));
        }
        if applied.lsn < survey.stamped_lsn {
            // LSNs go on behind what the state speaks of; these frames stay where they are until the next checkpoint.
            applied.lsn = survey.stamped_lsn;
            tail.clear();
        }
        let first_lsn = tail.front().map_or(applied.lsn + 1, |(lsn, _)| *lsn);
        let note = FolderNote { checkpoint_lsn: survey.recycled_lsn, cluster_id: survey.cluster_id };
        for found in self.used.iter().filter(|found| found.last_lsn <= checkpoint_lsn) {
            // A header of a process that was killed may be in memory only, and its sync have failed (J8): what a checkpoint
            // names must be there ever after.
            found.header.write_again(&self.folder.file(&found.name)?)?;
        }
        let files = Arc::new(self.into_files(checkpoint_lsn, note));
        let mut writer = Writer::new(files.clone(), epoch, first_lsn, applied.lsn + 1);
        for (_, body) in tail.iter().filter(|_| !off!(TailAgain)) {
            writer.write(&mut Frame::with_body(body))?;
        }
        let synced_lsn = writer.sync()?.max(if off!(TailAgain) { applied.lsn } else { 0 });
        writer.keep_a_spare();
        Ok(Replayed { writer, files, journal_bytes, frames, synced_lsn, late })
    }

    /// The LSN from which a newer epoch voids a file's frames (J2).
    fn set_limits(&mut self) {
        let mut limits = BTreeMap::new();
        let mut limit = u64::MAX;
        for found in self.used.iter_mut().rev() {
            found.limit = *limits.entry(found.header.epoch).or_insert(limit);
            limit = limit.min(found.header.void_from_lsn);
        }
    }

    /// Files that hold nothing after the checkpoint are free for use.
    fn into_files(self, checkpoint_lsn: u64, note: FolderNote) -> Files {
        let mut spares = self.blank;
        let mut full = Vec::new();
        let begun = self.used.iter().filter_map(|found| files::number_of(&found.name)).collect();
        for found in self.used {
            match found.last_lsn > checkpoint_lsn {
                true => full.push((found.name, found.last_lsn)),
                false => spares.push(found.name),
            }
        }
        Files::new(self.folder, full, spares, begun, note)
    }
}

/// Whether there is more than one frame behind a header: it was synced then.
fn has_frames_behind(lsn: u64, file: &File, header: &FileHeader) -> bool {
    let bytes = file.read_lossy(0, file.size().unwrap_or(0) as usize);
    let positions = (BOUNDARY_BYTES..bytes.len()).step_by(BOUNDARY_BYTES);
    let is_behind = |at: &usize| frame::find(&bytes[*at..], header.salt, lsn + 1..=u64::MAX).is_some();
    positions.filter(is_behind).take(2).count() > 1
}

fn read_frames(
    folder: &Folder,
    found: &Found,
    each: &mut impl FnMut(&Found, At<'_>, &frame::Found<'_>) -> Result<bool, ReplayError>,
    unreadable: &mut Vec<Range<u64>>,
) -> Result<u64, ReplayError> {
    let file = folder.file(&found.name)?;
    let (bytes, ranges) = file.read_around(0, file.size()? as usize);
    *unreadable = ranges;
    let (mut at, mut last_lsn) = (BOUNDARY_BYTES, 0);
    // The number that a frame has if it follows the last one there, and where that would be.
    let (mut next, mut next_at) = (found.header.first_lsn, at);
    while at < bytes.len() {
        // One that is not there took up a sector at least.
        let last_possible =
            next.saturating_add(((at - next_at) / BOUNDARY_BYTES) as u64).min(found.limit.saturating_sub(1));
        let Some(frame) = frame::find(&bytes[at..], found.header.salt, next..=last_possible) else {
            at += BOUNDARY_BYTES;
            continue;
        };
        let from = at as u64;
        at += frame::padded_bytes(frame.body.len());
        last_lsn = frame.lsn;
        (next, next_at) = (last_lsn + 1, at);
        if !each(found, At { file: &found.name, bytes: (from, at as u64) }, &frame)? {
            break;
        }
    }
    Ok(last_lsn)
}

/// The last frame that was found, to say where the next ones should have been.
#[derive(Default)]
struct Last {
    file: Option<String>,
    end: u64,
    set_aside: BTreeSet<String>,
}

impl Last {
    fn note(&mut self, at: At<'_>) {
        if self.file.as_deref() != Some(at.file) {
            self.file = Some(at.file.to_owned());
        }
        self.end = at.bytes.1;
    }

    /// R1: the file may be used again after the next checkpoint, so it is copied aside.
    fn report(&mut self, folder: &Folder, at: At<'_>, lsns: Range<u64>, damage: &Damage) {
        let (name, bytes) = match &self.file {
            Some(last) if last == at.file => (at.file, self.end..at.bytes.0),
            // It lies behind the last one there, or in a file between the two that is gone.
            Some(last) => (last.as_str(), self.end..self.end),
            None => (at.file, BOUNDARY_BYTES as u64..at.bytes.0),
        };
        let what = format!(
            "frames {} to {} are lost: what was published, queued, acknowledged and committed in them",
            lsns.start,
            lsns.end - 1
        );
        damage.found(&folder.join(name), bytes, what);
        for name in [name, at.file] {
            if self.set_aside.insert(name.to_owned()) {
                damage.set_aside(folder, name);
            }
        }
    }
}
