//! Checkpoints: the state at exactly one LSN made durable, so that journal files can be reused (C1, C2).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crate::admission::Waiting;
use crate::disk::{DiskError, File, Folder};
use crate::log::segment::SegmentExtent;
use crate::log::{Extent, Partition};
use crate::stall::tell_of_this_thread;
use crate::state::{put_number, take_number, take_u32};

use super::changes::Changes;
use super::commit::Shared;
use super::files::Files;
use super::retention::Outdated;

/// The checkpoint's file in the data folder.
pub(crate) const FILE_NAME: &str = "checkpoint";
const MAGIC: &[u8; 4] = b"MSCP";
/// Written here. 1, which is read too, had no generations: rewritten segments came with 2.
const VERSION: u8 = 2;
const RETRY: Duration = Duration::from_secs(1);
/// How often it is seen to that there is a spare journal file.
const SPARE_INTERVAL: Duration = Duration::from_millis(500);

/// (topic id, partition index) to what is durable of it.
pub(crate) type Extents = BTreeMap<(u32, u32), Extent>;

/// What the apply thread hands over for one checkpoint.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) lsn: u64,
    pub(crate) changes: Changes,
    pub(crate) extents: Extents,
    pub(crate) dirty: Vec<Arc<File>>,
    pub(crate) touched: Vec<Arc<Partition>>,
    pub(crate) journal_bytes: u64,
    /// What goes when it is done.
    pub(crate) outdated: Vec<Outdated>,
    pub(crate) next_topic_id: u32,
}

/// What the checkpoint file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) lsn: u64,
    /// Of the start that wrote it.
    pub(crate) epoch: u64,
    pub(crate) cluster_id: [u8; 16],
    pub(crate) next_topic_id: u32,
    pub(crate) extents: Extents,
    /// Numbers of the journal files that had been in use: one that has no header later was damaged.
    pub(crate) journal_files: Vec<u64>,
}

/// Why a checkpoint file says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unreadable {
    Damaged,
    /// A newer Millstream wrote it, in this version.
    Newer(u8),
}

impl Checkpoint {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.push(VERSION);
        out.extend_from_slice(&self.cluster_id);
        for number in [self.lsn, self.epoch, self.next_topic_id.into(), self.extents.len() as u64] {
            put_number(&mut out, number);
        }
        for ((topic, partition), extent) in &self.extents {
            let lengths = [extent.segments.len() as u64, extent.epochs.len() as u64];
            let head = [u64::from(*topic), (*partition).into(), extent.log_start as u64, extent.end as u64];
            let segments = extent.segments.iter().flat_map(|s| [s.base as u64, s.generation.into(), s.bytes]);
            let epochs = extent.epochs.iter().flat_map(|(epoch, start)| [*epoch as u64, *start as u64]);
            head.into_iter().chain(lengths).chain(segments).chain(epochs).for_each(|n| put_number(&mut out, n));
        }
        put_number(&mut out, self.journal_files.len() as u64);
        self.journal_files.iter().for_each(|number| put_number(&mut out, *number));
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Checkpoint, Unreadable> {
        let covered = bytes.split_last_chunk::<4>().filter(|(covered, crc)| {
            // What is there before it is not believed either: damage must not pass for another version.
            crc32c::crc32c(covered) == u32::from_le_bytes(**crc)
        });
        let (version, rest) =
            covered.and_then(|(covered, _)| covered.strip_prefix(MAGIC)?.split_first()).ok_or(Unreadable::Damaged)?;
        match *version {
            1..=VERSION => Checkpoint::decode_version(*version, rest).ok_or(Unreadable::Damaged),
            newer => Err(Unreadable::Newer(newer)),
        }
    }

    fn decode_version(version: u8, mut rest: &[u8]) -> Option<Checkpoint> {
        let (cluster_id, after) = rest.split_first_chunk::<16>()?;
        rest = after;
        let mut checkpoint = Checkpoint {
            cluster_id: *cluster_id,
            lsn: take_number(&mut rest)?,
            epoch: take_number(&mut rest)?,
            next_topic_id: take_u32(&mut rest)?,
            extents: Extents::new(),
            journal_files: Vec::new(),
        };
        for _ in 0..take_number(&mut rest)? {
            let key = (take_u32(&mut rest)?, take_u32(&mut rest)?);
            let mut extent =
                Extent { log_start: take_offset(&mut rest)?, end: take_offset(&mut rest)?, ..Extent::default() };
            let (segments, epochs) = (take_number(&mut rest)?, take_number(&mut rest)?);
            for _ in 0..segments {
                extent.segments.push(SegmentExtent {
                    base: take_offset(&mut rest)?,
                    generation: if version == 1 { 0 } else { take_u32(&mut rest)? },
                    bytes: take_number(&mut rest)?,
                });
            }
            for _ in 0..epochs {
                extent.epochs.push((take_u32(&mut rest)?.try_into().ok()?, take_offset(&mut rest)?));
            }
            checkpoint.extents.insert(key, extent);
        }
        if version > 1 {
            for _ in 0..take_number(&mut rest)? {
                checkpoint.journal_files.push(take_number(&mut rest)?);
            }
        }
        rest.is_empty().then_some(checkpoint)
    }
}

fn take_offset(bytes: &mut &[u8]) -> Option<i64> {
    take_number(bytes)?.try_into().ok()
}

/// The checkpoint thread.
pub(crate) struct Checkpointer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) folder: Folder,
    pub(crate) files: Arc<Files>,
    pub(crate) state: crate::keyed::KeyedLogs,
    pub(crate) running: Arc<AtomicBool>,
    pub(crate) epoch: u64,
    pub(crate) cluster_id: [u8; 16],
}

impl Checkpointer {
    /// Runs until the apply thread is gone.
    pub(crate) fn run(mut self, jobs: Receiver<Job>) {
        tell_of_this_thread(&self.shared.stalls.checkpoint);
        loop {
            // Also between checkpoints: the committer may have taken the spare.
            self.keep_spare();
            let job = match jobs.recv_timeout(SPARE_INTERVAL) {
                Ok(job) => job,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            // J9: a full disk is tried again; meanwhile the frames stay in the journal and publishers wait.
            while let Err(error) = self.checkpoint(&job) {
                if error.is_sync() {
                    // J8: what could not be synced is never synced again.
                    tracing::error!(%error, "a checkpoint could not be synced");
                    return self.shared.fail(&error.to_string());
                }
                if self.shared.admission.refused(Waiting::Checkpoint, &error) {
                    tracing::error!(%error, "a checkpoint cannot be written, and is tried again and again");
                }
                thread::sleep(RETRY);
            }
            self.shared.admission.written(Waiting::Checkpoint);
        }
    }

    fn keep_spare(&self) {
        let admission = &self.shared.admission;
        match self.files.ensure_spares(!admission.is_open()) {
            Err(error) if error.is_full() => {
                admission.refused(Waiting::Spare, &error);
            }
            Err(error) => tracing::warn!(%error, "no spare journal file could be made"),
            Ok(()) => admission.written(Waiting::Spare),
        }
    }

    /// C2, in its order. After an error of the disk's it is done again from the start.
    pub(crate) fn checkpoint(&mut self, job: &Job) -> Result<(), DiskError> {
        let began = Instant::now();
        // J7: with durability "os" a frame is applied before it is synced.
        while self.shared.synced_lsn.load(Ordering::Acquire) < job.lsn {
            if let Some(failed) = self.shared.lanes.failure() {
                tracing::debug!(%failed, "no checkpoint after the journal failed");
                return Ok(());
            }
            thread::sleep(Duration::from_millis(10));
        }
        for file in &job.dirty {
            file.sync_data()?;
        }
        for partition in &job.touched {
            partition.settle()?;
        }
        if off!(RecycleAfter) {
            self.files.recycle(job.lsn);
        }
        let (free_bytes, _) = self.shared.admission.bytes();
        self.state.store(&job.changes, job.lsn, free_bytes)?;
        let mut checkpoint = Checkpoint {
            lsn: job.lsn,
            epoch: self.epoch,
            cluster_id: self.cluster_id,
            next_topic_id: job.next_topic_id,
            extents: job.extents.clone(),
            journal_files: self.files.begun(),
        };
        checkpoint.extents.extend(self.state.extents());
        self.folder.replace(FILE_NAME, &checkpoint.encode())?;
        self.files.recycle(job.lsn);
        let outdated = self.state.stored();
        for outdated in job.outdated.iter().chain(&outdated) {
            // A file left behind is removed at the next start.
            if let Err(error) = outdated.remove() {
                tracing::warn!(%error, "what is outdated stays");
            }
        }
        self.shared.metrics.retired(job.outdated.iter().filter(|outdated| outdated.is_segment()).count());
        self.shared.uncheckpointed_bytes.fetch_sub(job.journal_bytes, Ordering::AcqRel);
        self.shared.metrics.checkpoint(began.elapsed());
        self.running.store(false, Ordering::Release);
        tracing::debug!(lsn = job.lsn, took_ms = began.elapsed().as_millis() as u64, "checkpoint");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoint_comes_back_and_a_damaged_one_does_not() {
        let segments = vec![
            SegmentExtent { base: 0, generation: 2, bytes: 4096 },
            SegmentExtent { base: 50, generation: 0, bytes: 7 },
        ];
        let extent = Extent { log_start: 3, end: 90, segments, epochs: vec![(1, 0), (2, 60)] };
        let checkpoint = Checkpoint {
            lsn: 77,
            epoch: 4,
            cluster_id: [9; 16],
            next_topic_id: 18,
            extents: Extents::from([((16, 0), extent), ((16, 1), Extent::default())]),
            journal_files: vec![1, 300],
        };
        let bytes = checkpoint.encode();
        assert_eq!(Checkpoint::decode(&bytes), Ok(checkpoint));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            assert_eq!(Checkpoint::decode(&bad), Err(Unreadable::Damaged), "byte {at}");
        }
        let mut newer = bytes[..bytes.len() - 4].to_vec();
        newer[4] = VERSION + 1;
        newer.extend_from_slice(&crc32c::crc32c(&newer).to_le_bytes());
        assert_eq!(Checkpoint::decode(&newer), Err(Unreadable::Newer(VERSION + 1)));
    }
}
