//! What the bridge counts. Read at scrape time; nothing here is on the path of a single message.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the commit latency buckets, in microseconds.
pub const COMMIT_BUCKETS_US: [u64; 12] =
    [100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000, 2_500_000];

/// Counters since start.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Group commits written.
    pub commits: AtomicU64,
    /// fdatasync calls on the journal.
    pub fsyncs: AtomicU64,
    /// Bytes written to the journal.
    pub journal_bytes: AtomicU64,
    /// Bytes written to segments.
    pub segment_bytes: AtomicU64,
    /// Records appended to partitions.
    pub records: AtomicU64,
    /// Checkpoints completed.
    pub checkpoints: AtomicU64,
    /// Commits by latency: one count per bucket, not cumulative, the last without a bound.
    pub commit_latency: [AtomicU64; COMMIT_BUCKETS_US.len() + 1],
    /// Sum of commit latencies in microseconds.
    pub commit_latency_sum_us: AtomicU64,
}

impl Metrics {
    pub(crate) fn commit(&self, took: Duration, bytes: u64) {
        let took_us = took.as_micros() as u64;
        let bucket = COMMIT_BUCKETS_US.partition_point(|bound| *bound < took_us);
        self.commit_latency[bucket].fetch_add(1, Ordering::Relaxed);
        self.commit_latency_sum_us.fetch_add(took_us, Ordering::Relaxed);
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.journal_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}
