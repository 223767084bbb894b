//! What the server counts.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters since the start.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Connections begun.
    pub connections: AtomicU64,
    /// Connections ended; the difference is open.
    pub connections_closed: AtomicU64,
    /// Requests whose header was read.
    pub requests: AtomicU64,
    /// Clients that authenticated by SASL.
    pub authentications: AtomicU64,
    /// Attempts at it that were refused: wrong passwords, unknown users and mechanisms.
    pub authentications_failed: AtomicU64,
    /// Topics and groups refused in requests, for lack of rights.
    pub unauthorized: AtomicU64,
    /// Bytes read from clients.
    pub bytes_in: AtomicU64,
    /// Bytes written to clients.
    pub bytes_out: AtomicU64,
    /// Bytes of record batches given to Fetch.
    pub fetched_bytes: AtomicU64,
    /// Records taken by Produce and durable; repeats of an idempotent producer not counted.
    pub produced_records: AtomicU64,
    /// Batches not taken because the disk takes none.
    pub refused_batches: AtomicU64,
    /// Topics not made for the same reason.
    pub refused_topics: AtomicU64,
    /// Generations begun, over all groups.
    pub group_rebalances: AtomicU64,
}

/// Adds to a counter. Nothing is ordered by counters.
pub(super) fn add(counter: &AtomicU64, amount: usize) {
    counter.fetch_add(amount as u64, Ordering::Relaxed);
}
