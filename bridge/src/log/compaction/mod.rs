//! Compaction: of each key the newest record stays, in closed segments, which nobody writes any more. What stays is
//! written into new files, offsets and contents as they were; a checkpoint then names these in the place of the old ones.
//!
//! - [`Task`]: what is to be cleaned, as it was at a checkpoint's LSN
//! - [`newest`]: where the newest record of each key is, in bounded memory
//! - [`rewrite`]: what is left of one batch
//! - [`run`]: a task from its first read to its last sync
//! - [`files`]: batches in and out

mod files;
mod newest;
mod rewrite;
mod run;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use super::partition::Closed;
use super::segment::Segment;
use super::{Ages, Partition, Settings};

pub(crate) use run::{CleanError, Pace, clean};

/// A partition to be cleaned, as it was at a checkpoint's LSN. Of what was written before, queues point to what was pinned
/// then and to nothing else, then and later (S6): an entry that moves to another queue leaves one in the same frame.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) partition: Arc<Partition>,
    /// All closed segments in order, up to the first that is too new.
    pub(crate) segments: Vec<Closed>,
    /// Ranges of offsets, both ends included, ascending and apart.
    pinned: Vec<(i64, i64)>,
    settings: Settings,
    ages: Ages,
}

/// What came of a task.
#[derive(Debug)]
pub(crate) struct Cleaned {
    pub(crate) partition: Arc<Partition>,
    pub(crate) groups: Vec<Group>,
}

/// Neighbouring segments and what is left of them.
#[derive(Debug)]
pub(crate) struct Group {
    /// Base and generation of each.
    pub(crate) old: Vec<(i64, u32)>,
    pub(crate) new: Vec<Segment>,
}

/// How a partition's closed segments stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dirt {
    /// Bytes that no compaction has seen, of those that one may.
    pub(crate) dirty_bytes: u64,
    /// Those, and what was cleaned before.
    pub(crate) total_bytes: u64,
}

impl Dirt {
    pub(crate) fn permille(self) -> u32 {
        // At most 1000.
        (self.dirty_bytes * 1000).checked_div(self.total_bytes).unwrap_or(0) as u32
    }
}

impl Task {
    /// What may be cleaned of a partition.
    pub(crate) fn new(partition: &Arc<Partition>, settings: &Settings, ages: &Ages) -> Task {
        let lag_ms = settings.min_compaction_lag_ms;
        let old_enough =
            |segment: &Closed| lag_ms == 0 || segment.newest_ms.is_some_and(|at| ages.is_older(at, lag_ms));
        let mut segments = partition.closed_segments();
        let clean = clean_segments(&segments);
        let dirty = segments[clean..].iter().take_while(|segment| old_enough(segment)).count();
        segments.truncate(clean + dirty);
        Task { partition: partition.clone(), segments, pinned: Vec::new(), settings: settings.clone(), ages: *ages }
    }

    /// Records in these ranges (both ends included, ascending and apart) stay whatever their key.
    pub(crate) fn pin(&mut self, pinned: &[(i64, i64)]) {
        self.pinned = pinned.to_vec();
    }

    /// Topic id and partition.
    pub(crate) fn place(&self) -> (u32, u32) {
        (self.partition.topic_id, self.partition.index)
    }

    pub(crate) fn dirt(&self) -> Dirt {
        let bytes = |segments: &[Closed]| segments.iter().map(|segment| segment.extent.bytes).sum();
        Dirt {
            dirty_bytes: bytes(&self.segments[clean_segments(&self.segments)..]),
            total_bytes: bytes(&self.segments),
        }
    }

    /// Whether it is worth it (`min.cleanable.dirty.ratio`).
    pub(crate) fn is_due(&self) -> bool {
        let dirt = self.dirt();
        dirt.dirty_bytes > 0 && dirt.permille() >= self.settings.min_cleanable_dirty_permille
    }

    fn is_pinned(&self, offset: i64) -> bool {
        let after = self.pinned.partition_point(|(first, _)| *first <= offset);
        after.checked_sub(1).is_some_and(|at| self.pinned[at].1 >= offset)
    }
}

/// How many at the front were cleaned before: only what was rewritten has a generation.
fn clean_segments(segments: &[Closed]) -> usize {
    segments.iter().take_while(|segment| segment.extent.generation > 0).count()
}
