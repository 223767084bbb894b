//! What the bridge counts. Read at scrape time; nothing here is on the path of a single message.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of commit latencies, in microseconds: an NVMe disk syncs in 80, an SD card may take seconds.
pub const COMMIT_BUCKETS_US: [u64; 18] = [
    25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// Upper bounds of records per commit; those with none carry changes of state alone.
pub const COMMIT_BUCKETS_RECORDS: [u64; 13] = [0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000];

/// Upper bounds of checkpoint durations, in microseconds.
pub const CHECKPOINT_BUCKETS_US: [u64; 9] =
    [10_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000, 10_000_000, 30_000_000, 60_000_000];

/// Counters since start.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Group commits written, by how long that took: in microseconds, from gathering the group to the moment
    /// it counts as durable.
    pub commit_us: Observed<{ COMMIT_BUCKETS_US.len() + 1 }>,
    /// The same commits by the records in them.
    pub commit_records: Observed<{ COMMIT_BUCKETS_RECORDS.len() + 1 }>,
    /// Checkpoints completed, by how long they took: in microseconds, tries that failed included.
    pub checkpoint_us: Observed<{ CHECKPOINT_BUCKETS_US.len() + 1 }>,
    /// Times that a write or sync took longer than [`STALL`](crate::STALL).
    pub stalls: AtomicU64,
    /// Segments of topics that retention and deletions let go, `__mqtt`'s included.
    pub retired_segments: AtomicU64,
}

/// Observations counted by size.
#[derive(Debug)]
pub struct Observed<const N: usize> {
    /// One count per bucket, not cumulative, the last without a bound.
    pub counts: [AtomicU64; N],
    /// Of all observations.
    pub sum: AtomicU64,
}

impl<const N: usize> Default for Observed<N> {
    fn default() -> Self {
        Observed { counts: [const { AtomicU64::new(0) }; N], sum: AtomicU64::new(0) }
    }
}

impl<const N: usize> Observed<N> {
    /// Adds one; there is one count more than `bounds`, which are inclusive.
    fn add(&self, bounds: &[u64], observed: u64) {
        debug_assert_eq!(bounds.len() + 1, N);
        let bucket = bounds.partition_point(|bound| *bound < observed);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(observed, Ordering::Relaxed);
    }
}

impl Metrics {
    pub(crate) fn commit(&self, took: Duration, records: u64) {
        self.commit_us.add(&COMMIT_BUCKETS_US, took.as_micros() as u64);
        self.commit_records.add(&COMMIT_BUCKETS_RECORDS, records);
    }

    pub(crate) fn checkpoint(&self, took: Duration) {
        self.checkpoint_us.add(&CHECKPOINT_BUCKETS_US, took.as_micros() as u64);
    }

    pub(crate) fn retired(&self, segments: usize) {
        self.retired_segments.fetch_add(segments as u64, Ordering::Relaxed);
    }
}

/// What a file is for, as its name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Frames and file headers of the journal.
    Journal,
    /// The zeros that journal files are filled with when they are made (J3).
    Zeros,
    /// Record batches of topics, `__mqtt` included.
    Log,
    /// Keyed state: the internal topics that checkpoints write.
    State,
    /// Indexes of either.
    Index,
    /// The checkpoint file.
    Checkpoint,
    /// A folder: names in it. Synced, never written.
    Folder,
}

impl Purpose {
    /// All of them.
    pub const ALL: [Purpose; 7] = [
        Purpose::Journal,
        Purpose::Zeros,
        Purpose::Log,
        Purpose::State,
        Purpose::Index,
        Purpose::Checkpoint,
        Purpose::Folder,
    ];

    /// One word.
    pub fn name(self) -> &'static str {
        match self {
            Purpose::Journal => "journal",
            Purpose::Zeros => "zeros",
            Purpose::Log => "log",
            Purpose::State => "state",
            Purpose::Index => "index",
            Purpose::Checkpoint => "checkpoint",
            Purpose::Folder => "folder",
        }
    }

    /// What a file in the data folder is for.
    pub(crate) fn of(path: &Path) -> Purpose {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("journal") => Purpose::Journal,
            Some("index" | "timeindex") => Purpose::Index,
            // topics/NAME.ID/PARTITION/FILE; no public name begins so.
            Some("log") => match path.iter().nth_back(2).and_then(|name| name.to_str()) {
                Some(name) if name.starts_with("__") && !name.starts_with("__mqtt.") => Purpose::State,
                _ => Purpose::Log,
            },
            _ => Purpose::Checkpoint,
        }
    }
}

/// What was done to files of one purpose.
#[derive(Debug)]
pub struct Disk {
    /// Bytes written.
    pub written_bytes: AtomicU64,
    /// fsync and fdatasync calls that succeeded.
    pub syncs: AtomicU64,
    /// Writes and syncs that failed.
    pub errors: AtomicU64,
}

static DISK: [Disk; Purpose::ALL.len()] =
    [const { Disk { written_bytes: AtomicU64::new(0), syncs: AtomicU64::new(0), errors: AtomicU64::new(0) } };
        Purpose::ALL.len()];

/// What this process did to files of a purpose. Of the process, not of a [`Bridge`](crate::Bridge): it is counted
/// where the file system is called, so that no write is missed, and a process serves one data folder.
pub fn disk(purpose: Purpose) -> &'static Disk {
    &DISK[purpose as usize]
}

impl Disk {
    pub(crate) fn wrote<E>(&self, outcome: Result<(), E>, bytes: usize) -> Result<(), E> {
        self.note(outcome, &self.written_bytes, bytes as u64)
    }

    pub(crate) fn synced<E>(&self, outcome: Result<(), E>) -> Result<(), E> {
        self.note(outcome, &self.syncs, 1)
    }

    fn note<E>(&self, outcome: Result<(), E>, counter: &AtomicU64, amount: u64) -> Result<(), E> {
        match outcome {
            Ok(()) => counter.fetch_add(amount, Ordering::Relaxed),
            Err(_) => self.errors.fetch_add(1, Ordering::Relaxed),
        };
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_observation_is_in_the_first_bucket_that_holds_it() {
        let metrics = Metrics::default();
        for (us, records) in [(25, 0), (26, 1), (20_000_000, 5_001)] {
            metrics.commit(Duration::from_micros(us), records);
        }
        let counts = |counts: &[AtomicU64]| counts.iter().map(|c| c.load(Ordering::Relaxed)).collect::<Vec<_>>();
        let of_us = counts(&metrics.commit_us.counts);
        assert_eq!((of_us[0], of_us[1], of_us[18], of_us.iter().sum::<u64>()), (1, 1, 1, 3));
        let of_records = counts(&metrics.commit_records.counts);
        assert_eq!((of_records[0], of_records[1], of_records[13]), (1, 1, 1));
        assert_eq!(metrics.commit_records.sum.load(Ordering::Relaxed), 5_002);
    }

    #[test]
    fn a_files_name_says_what_it_is_for() {
        for (purpose, path) in [
            (Purpose::Journal, "d/journal/0000000001.journal"),
            (Purpose::Log, "d/topics/mqtt.16/0/00000000000000000000.log"),
            (Purpose::Log, "d/topics/__mqtt.6/0/00000000000000000000.log"),
            (Purpose::State, "d/topics/__queues.3/0/00000000000000000000.log"),
            (Purpose::Index, "d/topics/mqtt.16/0/00000000000000000000.timeindex"),
            (Purpose::Checkpoint, "d/checkpoint.new"),
        ] {
            assert_eq!(Purpose::of(Path::new(path)), purpose, "{path}");
        }
        for (at, purpose) in Purpose::ALL.into_iter().enumerate() {
            assert_eq!(purpose as usize, at);
        }
    }
}
