//! Compaction beside the journal. The apply thread gives out partitions at a checkpoint's LSN, with what queues point to then; a
//! thread of its own reads and writes for as long as it takes; at a later checkpoint the apply thread puts the new segments in
//! the place of the old ones, which are unlinked after it (C2). A crash before leaves files that no checkpoint names, and the
//! next start removes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use crate::log::compaction::{CleanError, Cleaned, Pace, Task, clean};

use super::apply::Applied;
use super::commit::Shared;
use super::retention::Outdated;

/// Given out at a time, beyond one partition: until the checkpoint after it, what is rewritten takes its place twice.
const ROUND_BYTES_MAX: u64 = 256 << 20;

/// The apply thread's side. The cleaning ends with it.
#[derive(Debug)]
pub(crate) struct Cleaning {
    tasks: Sender<Task>,
    cleaned: Receiver<Cleaned>,
    stop: Arc<AtomicBool>,
}

impl Drop for Cleaning {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

impl Cleaning {
    pub(crate) fn new(shared: Arc<Shared>) -> (Cleaning, Cleaner, Receiver<Task>) {
        let (tasks, to_do) = channel();
        let (done, cleaned) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let cleaner = Cleaner { cleaned: done, stop: stop.clone(), shared, rest: std::thread::sleep };
        (Cleaning { tasks, cleaned, stop }, cleaner, to_do)
    }

    /// Takes in what was cleaned; whether that was anything. The next checkpoint names it.
    pub(crate) fn take(&self, applied: &mut Applied) -> bool {
        let mut any = false;
        for cleaned in self.cleaned.try_iter() {
            any |= !cleaned.groups.is_empty();
            applied.put_in_place(cleaned);
        }
        any
    }

    /// Gives out what is worth cleaning, when nothing is under way.
    pub(crate) fn give(&mut self, applied: &mut Applied, shared: &Shared) {
        // What is rewritten takes its place twice until it is named (J9).
        if !applied.being_cleaned.is_empty() || !shared.admission.is_open() {
            return;
        }
        for task in applied.tasks(shared) {
            applied.being_cleaned.insert(task.place());
            // A thread that is gone has panicked, and the process ends.
            let _ = self.tasks.send(task);
        }
    }
}

impl Applied {
    fn put_in_place(&mut self, cleaned: Cleaned) {
        let Cleaned { partition, groups } = cleaned;
        let place = (partition.topic_id, partition.index);
        self.being_cleaned.remove(&place);
        for group in groups {
            let names = partition.replace(&group.old, group.new).into_iter();
            self.outdated.extend(names.map(|name| Outdated::Rewritten(partition.folder().clone(), name)));
        }
        if off!(UnlinkAfter) {
            self.outdated.iter().for_each(|outdated| drop(outdated.remove()));
        }
        // The checkpoint makes names in its folder durable.
        self.touched.insert(place, partition);
    }

    /// Partitions that it is worth to clean, the dirtiest first. What they say of pins holds for exactly the last frame applied.
    fn tasks(&self, shared: &Shared) -> Vec<Task> {
        let mut tasks = Vec::new();
        let mut dirtiest = 0;
        for topic in self.topics.public() {
            let settings = &topic.config().settings;
            if !settings.compact || topic.is_deleted() {
                continue;
            }
            for partition in &topic.partitions {
                let task = Task::new(partition, settings, &self.ages);
                dirtiest = dirtiest.max(task.dirt().permille());
                tasks.extend(Some(task).filter(Task::is_due));
            }
        }
        shared.metrics.compaction.dirtiest_permille.store(dirtiest.into(), Ordering::Relaxed);
        tasks.sort_by_key(|task| std::cmp::Reverse(task.dirt().permille()));
        let mut bytes = 0;
        let mut first = true;
        tasks.retain(|task| {
            bytes += task.dirt().total_bytes;
            std::mem::take(&mut first) || bytes <= ROUND_BYTES_MAX
        });
        if !tasks.is_empty() {
            let pinned = self.pins.pinned();
            tasks.iter_mut().for_each(|task| task.pin(pinned.get(&task.place()).map_or(&[], Vec::as_slice)));
        }
        tasks
    }
}

/// The thread that cleans.
pub(crate) struct Cleaner {
    cleaned: Sender<Cleaned>,
    stop: Arc<AtomicBool>,
    shared: Arc<Shared>,
    /// How it waits.
    pub(crate) rest: fn(Duration),
}

impl Cleaner {
    /// Runs until the apply thread is gone.
    pub(crate) fn run(self, tasks: Receiver<Task>) {
        tasks.iter().for_each(|task| self.clean(&task));
    }

    /// Does one task; a partition that cannot be cleaned stays as it was, and comes up again.
    pub(crate) fn clean(&self, task: &Task) {
        let mut pace = Pace::new(&self.stop, self.rest);
        let outcome = clean(task, &mut pace);
        let counted = &self.shared.metrics.compaction;
        counted.read_bytes.fetch_add(pace.read_bytes, Ordering::Relaxed);
        counted.written_bytes.fetch_add(pace.written_bytes, Ordering::Relaxed);
        let (topic_id, index) = task.place();
        let groups = match outcome {
            Ok(cleaned) => {
                counted.runs.fetch_add(1, Ordering::Relaxed);
                counted.records_gone.fetch_add(pace.records_gone, Ordering::Relaxed);
                let (read_bytes, written_bytes) = (pace.read_bytes, pace.written_bytes);
                tracing::debug!(topic_id, index, read_bytes, written_bytes, gone = pace.records_gone, "compacted");
                cleaned
            }
            Err(CleanError::Stopping) => Vec::new(),
            Err(error) => {
                counted.failures.fetch_add(1, Ordering::Relaxed);
                tracing::error!(topic_id, index, %error, "a partition could not be compacted and stays as it was");
                Vec::new()
            }
        };
        // An apply thread that is gone needs it no more: the files go at the next start.
        let _ = self.cleaned.send(Cleaned { partition: task.partition.clone(), groups });
    }
}
