//! The threads of a bridge, a step of theirs at a time.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

use super::baton::Aside;
use super::disk::SimulatedDisk;
use super::mutation::Mutation;
use crate::disk::{DiskError, Folder};
use crate::journal::apply::{Applier, ApplyError};
use crate::journal::checkpoint::{Checkpointer, Job};
use crate::journal::cleaning::Cleaner;
use crate::journal::commit::{Committer, Shared};
use crate::journal::files::Files;
use crate::journal::frame::Frame;
use crate::log::Now;
use crate::log::compaction::Task;
use crate::log::partition::AppendError;
use crate::watch::Watch;
use crate::{Bridge, Machine, OpenError, Options};

/// Frames that wait to be applied, as the channel between the threads holds.
pub const UNAPPLIED_MAX: usize = crate::UNAPPLIED_FRAMES_MAX - 1;

/// What the threads of one process do.
pub struct Steps {
    shared: Arc<Shared>,
    committer: Committer,
    applier: Applier,
    files: Arc<Files>,
    watch: Watch,
    jobs: Receiver<Job>,
    /// The checkpoint thread, when it has nothing to do, and a checkpoint that it is at.
    checkpointer: Option<Checkpointer>,
    checkpoint: Option<Aside<Checkpointed>>,
    /// The same of the thread that cleans.
    tasks: Receiver<Task>,
    cleaner: Option<Cleaner>,
    cleaning: Option<Aside<Cleaner>>,
    /// One to be begun, or tried again.
    job: Option<Job>,
    /// What an unfinished application waits with.
    frame: Option<Arc<Frame>>,
    unapplied: usize,
}

/// The checkpoint thread, what it was about, and what came of it.
type Checkpointed = (Checkpointer, Job, Result<(), DiskError>);

/// The journal, or a checkpoint, failed: the process says so and exits.
#[derive(Debug)]
pub struct Failed {
    /// It was a sync.
    pub is_sync: bool,
    /// What the disk said.
    pub why: String,
}

impl From<DiskError> for Failed {
    fn from(error: DiskError) -> Failed {
        Failed { is_sync: error.is_sync(), why: error.to_string() }
    }
}

impl Steps {
    /// Opens the data folder of a disk.
    pub fn open(disk: &SimulatedDisk, options: Options) -> Result<(Bridge, Steps), OpenError> {
        let folder = Folder::open_in(Arc::new(disk.clone()), Path::new("/data"))?;
        let machine = Machine::open(options, folder)?;
        let Machine { bridge, committer, applier, checkpointer, jobs, mut cleaner, tasks, watch } = machine;
        cleaner.rest = |_| {};
        let steps = Steps {
            shared: applier.shared.clone(),
            committer,
            applier,
            files: checkpointer.files.clone(),
            watch,
            jobs,
            checkpointer: Some(checkpointer),
            checkpoint: None,
            tasks,
            cleaner: Some(cleaner),
            cleaning: None,
            job: None,
            frame: None,
            unapplied: 0,
        };
        Ok((bridge, steps))
    }

    /// The committer writes what the lanes hold, unless too much waits to be applied; whether there was room for it. When
    /// the journal fails, everyone hears.
    pub fn commit(&mut self) -> Result<bool, Failed> {
        if self.unapplied >= UNAPPLIED_MAX {
            return Ok(true);
        }
        match self.committer.commit_group() {
            Ok(_) => {}
            Err(error) if error.is_full() => return Ok(false),
            Err(error) => {
                self.shared.lanes.fail(&error.to_string());
                return Err(error.into());
            }
        }
        self.unapplied += 1;
        Ok(true)
    }

    /// Whether the start found more in the journal than there was room for in the log.
    pub fn has_late(&self) -> bool {
        !self.applier.late.is_empty()
    }

    /// Applies that; whether the disk took it all.
    pub fn apply_late(&mut self) -> bool {
        while let Some(frame) = self.applier.late.pop_front() {
            if self.applier.try_apply(&frame).is_err() {
                return false;
            }
        }
        true
    }

    /// Durability "os": the committer syncs what it wrote.
    pub fn sync(&mut self) -> Result<(), Failed> {
        Ok(self.committer.sync_written()?)
    }

    /// A frame is applied, if there is one; it waits while the disk refuses. What was committed and cannot be applied is an
    /// error.
    pub fn apply(&mut self) -> Result<bool, String> {
        let Some(frame) = self.frame.take().or_else(|| self.applier.frames.try_recv().ok()) else {
            self.unapplied = 0;
            return Ok(false);
        };
        match self.applier.try_apply(&frame) {
            Ok(()) => {
                self.unapplied = self.unapplied.saturating_sub(1);
                return Ok(true);
            }
            Err(ApplyError::Append(_, _, AppendError::Disk(_)) | ApplyError::NoRoom) => self.frame = Some(frame),
            Err(error) => return Err(format!("a committed frame cannot be applied: {error}")),
        }
        Ok(false)
    }

    /// Whether none is under way, and no frame half applied.
    pub fn may_start_checkpoint(&self) -> bool {
        self.is_between_frames() && !self.applier.running.load(Ordering::Relaxed)
    }

    fn is_between_frames(&self) -> bool {
        self.frame.as_ref().is_none_or(|frame| self.applier.is_before(frame))
    }

    /// Hands a checkpoint over, between frames only.
    pub fn start_checkpoint(&mut self, now: Now) {
        if self.is_between_frames() {
            self.applier.start_checkpoint(false, now);
        }
    }

    /// A checkpoint goes on for a few operations of the disk; whether it is done now.
    pub fn checkpoint(&mut self, operations: u64) -> Result<bool, Failed> {
        let Some(checkpoint) = self.checkpoint.take().or_else(|| self.begin_checkpoint()) else { return Ok(false) };
        match checkpoint.run(operations) {
            Err(goes_on) => self.checkpoint = Some(goes_on),
            Ok((checkpointer, job, done)) => {
                self.checkpointer = Some(checkpointer);
                match done {
                    Ok(()) => return Ok(true),
                    Err(error) if error.is_sync() => return Err(error.into()),
                    Err(_) => self.job = Some(job),
                }
            }
        }
        Ok(false)
    }

    fn begin_checkpoint(&mut self) -> Option<Aside<Checkpointed>> {
        let mut job = self.job.take().or_else(|| self.jobs.try_recv().ok())?;
        if self.shared.synced_lsn.load(Ordering::Acquire) < job.lsn {
            // Its thread waits for the sync.
            self.job = Some(job);
            return None;
        }
        if Mutation::CheckpointCut.is_off() {
            // As if it looked when it got round to it.
            let later = self.applier.applied.checkpoint_job(0);
            (job.extents, job.dirty) = (later.extents, later.dirty);
        }
        let mut checkpointer = self.checkpointer.take()?;
        Some(Aside::new(move || {
            let done = checkpointer.checkpoint(&job);
            (checkpointer, job, done)
        }))
    }

    /// Compaction goes on for a few operations of the disk, or `begins` if there is something for it.
    pub fn clean(&mut self, begins: bool, operations: u64) {
        let under_way = self.cleaning.take().or_else(|| {
            let mut task = begins.then(|| self.tasks.try_recv().ok()).flatten()?;
            if Mutation::CleanBelow.is_off() {
                // As if it looked when it got round to it.
                task.segments = task.partition.closed_segments();
            }
            let cleaner = self.cleaner.take()?;
            Some(Aside::new(move || {
                cleaner.clean(&task);
                cleaner
            }))
        });
        let Some(cleaning) = under_way else { return };
        match cleaning.run(operations) {
            Err(goes_on) => self.cleaning = Some(goes_on),
            Ok(cleaner) => self.cleaner = Some(cleaner),
        }
    }

    /// The checkpoint thread makes spare journal files, if it can; a small one where room is `scarce`.
    pub fn make_spares(&mut self, scarce: bool) {
        let _tried_again_later = self.files.ensure_spares(scarce);
    }

    /// The watch looks how much room there is.
    pub fn look_at_room(&self) {
        self.watch.look_at_room();
    }

    /// The process ends, and with it what is under way.
    pub fn end(self, disk: &SimulatedDisk) {
        disk.end_now();
        if let Some(cleaning) = self.cleaning {
            assert!(cleaning.run(u64::MAX).is_ok(), "nothing is granted for ever");
        }
        if let Some(checkpoint) = self.checkpoint {
            let ended = checkpoint.run(u64::MAX);
            assert!(ended.is_ok(), "nothing is granted for ever");
        }
    }
}
