//! Recovery: the last checkpoint, then every frame behind it, in order (R1, R2).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::batch::Header;
use crate::disk::{DiskError, Folder};
use crate::log::partition::AppendError;
use crate::state::Change;

use super::apply::{Applied, ApplyError};
use super::files::{FileHeader, Files, Writer};
use super::frame::{self, BOUNDARY_BYTES, Frame, Section};

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
    /// Frames that had reached the disk are gone.
    #[error("disk: the journal lost frame {lsn}, which {file} says was durable: restore the folder from a copy")]
    Damaged {
        /// The first that is missing.
        lsn: u64,
        /// Where a later one is.
        file: String,
    },
    /// A frame does not fit what the checkpoint says.
    #[error("disk: frame {lsn}: {why}")]
    Apply {
        /// Which frame.
        lsn: u64,
        /// Why.
        why: String,
    },
}

/// A journal file as it was found.
struct Found {
    name: String,
    header: FileHeader,
    last_lsn: u64,
}

/// What is in the journal's folder.
pub(crate) struct Journal {
    folder: Folder,
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
    fn apply(&mut self, applied: &mut Applied, found: &frame::Found<'_>) -> Result<(), ApplyError> {
        if self.frames.is_empty() {
            self.batches_done = 0;
            match applied.batches(found.body, &mut self.batches_done) {
                Err(ApplyError::Append(_, _, AppendError::Disk(error))) if error.is_full() => {
                    tracing::warn!(lsn = found.lsn, %error, "what is in the journal finds no room in the log yet");
                }
                done_or_failed => return done_or_failed,
            }
        } else if self.bytes > LATE_BYTES_MAX {
            // The same error again.
            return applied.batches(found.body, &mut 0);
        }
        self.bytes += found.body.len();
        let mut frame = Frame::with_body(found.body);
        frame.lsn = found.lsn;
        self.frames.push_back(Arc::new(frame));
        Ok(())
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
        let (mut used, mut blank) = (Vec::new(), Vec::new());
        // A file's name may be in memory only, from a process that was killed while it made it.
        folder.sync()?;
        for name in folder.names()? {
            if !name.ends_with(".journal") {
                continue;
            }
            let bytes = folder.file(&name)?.read_at(0, BOUNDARY_BYTES)?;
            match FileHeader::decode(&bytes) {
                Ok(Some(header)) => used.push(Found { name, header, last_lsn: 0 }),
                Ok(None) => blank.push(name),
                Err(version) => return Err(ReplayError::Version { file: name, version }),
            }
        }
        used.sort_by_key(|found| (found.header.epoch, found.header.first_lsn));
        Ok(Journal { folder, used, blank })
    }

    /// The newest start that wrote here.
    pub(crate) fn last_epoch(&self) -> u64 {
        self.used.last().map_or(0, |found| found.header.epoch)
    }

    /// Applies every frame after `applied.lsn`, telling `each` about every change before it takes effect;
    /// then writes again, under the new epoch, what no later frame declared durable (R2).
    pub(crate) fn replay(
        mut self,
        applied: &mut Applied,
        epoch: u64,
        mut each: impl FnMut(&Change<'_>),
    ) -> Result<Replayed, ReplayError> {
        let limits = self.epoch_limits();
        let checkpoint_lsn = applied.lsn;
        let mut tail: VecDeque<(u64, Vec<u8>)> = VecDeque::new();
        let (mut journal_bytes, mut frames) = (0, 0);
        let mut late = Late::default();
        // The epoch whose frames end in a gap. A newer one goes on where its start left off: at or before it,
        // for it wrote again what might not have been durable.
        let mut torn = None;
        for found in &mut self.used {
            let limit = limits.get(&found.header.epoch).copied().unwrap_or(u64::MAX);
            let file = self.folder.file(&found.name)?;
            let bytes = file.read_at(0, file.size()? as usize)?;
            let mut at = BOUNDARY_BYTES;
            while at < bytes.len() && torn != Some(found.header.epoch) {
                let Some(frame) = frame::find(&bytes[at..], found.header.salt).filter(|f| f.lsn < limit) else {
                    at += BOUNDARY_BYTES;
                    continue;
                };
                at += frame::padded_bytes(frame.body.len());
                found.last_lsn = frame.lsn;
                while tail.front().is_some_and(|(lsn, _)| *lsn <= frame.durable_lsn) {
                    tail.pop_front();
                }
                if frame.lsn <= applied.lsn {
                    continue;
                }
                let next = applied.lsn + 1;
                if frame.lsn > next {
                    if frame.durable_lsn >= next {
                        return Err(ReplayError::Damaged { lsn: next, file: found.name.clone() });
                    }
                    // Durability "os": a later frame reached the disk and this one did not.
                    torn = Some(found.header.epoch);
                    continue;
                }
                let failed = |error: ApplyError| ReplayError::Apply { lsn: frame.lsn, why: error.to_string() };
                applied.changes(frame.lsn, frame.body, &mut each).map_err(failed)?;
                late.apply(applied, &frame).map_err(failed)?;
                journal_bytes += frame::padded_bytes(frame.body.len()) as u64;
                frames += 1;
                tail.push_back((frame.lsn, frame.body.to_vec()));
            }
        }
        let first_lsn = tail.front().map_or(applied.lsn + 1, |(lsn, _)| *lsn);
        let files = Arc::new(self.into_files(checkpoint_lsn));
        let mut writer = Writer::new(files.clone(), epoch, first_lsn, applied.lsn + 1);
        for (_, body) in tail.iter().filter(|_| !off!(TailAgain)) {
            writer.write(&mut Frame::with_body(body))?;
        }
        let synced_lsn = writer.sync()?;
        writer.keep_a_spare();
        Ok(Replayed { writer, files, journal_bytes, frames, synced_lsn, late })
    }

    /// By epoch, the LSN from which a newer epoch voids its frames (J2).
    fn epoch_limits(&self) -> BTreeMap<u64, u64> {
        let mut limits = BTreeMap::new();
        let mut limit = u64::MAX;
        for found in self.used.iter().rev() {
            limits.entry(found.header.epoch).or_insert(limit);
            limit = limit.min(found.header.void_from_lsn);
        }
        limits
    }

    /// Files that hold nothing after the checkpoint are free for use.
    fn into_files(self, checkpoint_lsn: u64) -> Files {
        let mut spares = self.blank;
        let mut full = Vec::new();
        for found in self.used {
            match found.last_lsn > checkpoint_lsn {
                true => full.push((found.name, found.last_lsn)),
                false => spares.push(found.name),
            }
        }
        Files::new(self.folder, full, spares)
    }
}
