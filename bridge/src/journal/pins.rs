//! Which records queues point to, as of a checkpoint: their segments stay, whatever retention says (S6).
//! Kept from a checkpoint's net changes, so an entry that comes and goes between two costs nothing here.

use std::collections::{BTreeMap, HashMap};

use crate::state::{Entry, Pointer};

use super::changes::{Changes, WholeQueue};

/// Entries whose records are kept or let go together.
const CHUNK_ENTRIES: u64 = 64;
/// Offsets between two entries of a chunk up to here are taken as pointed to as well.
const GAP_MAX: i64 = 256;

/// What queues point to.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    queues: HashMap<u64, BTreeMap<u64, Chunk>>,
}

/// 64 consecutive sequences of a queue.
#[derive(Debug, Default)]
struct Chunk {
    /// A bit per entry that still needs its record.
    needed: u64,
    ranges: Vec<Range>,
}

/// Offsets of a partition, both ends included.
#[derive(Debug)]
struct Range {
    partition: (u32, u32),
    first: i64,
    last: i64,
}

/// By (topic, partition): ranges of offsets, both ends included, ascending and apart.
pub(crate) type Pinned = BTreeMap<(u32, u32), Vec<(i64, i64)>>;

impl Pins {
    /// Of queues as they were at a checkpoint.
    pub(crate) fn of(queues: &BTreeMap<u64, WholeQueue>) -> Pins {
        let mut pins = Pins::default();
        for (queue, held) in queues {
            for (sequence, entry) in &held.entries {
                pins.set(*queue, *sequence, Some(entry));
            }
        }
        pins
    }

    /// Goes on to the next checkpoint.
    pub(crate) fn apply(&mut self, changes: &Changes) {
        for (queue, change) in &changes.queues {
            if change.closed {
                self.queues.remove(queue);
            }
            for (sequence, entry) in &change.entries {
                self.set(*queue, *sequence, entry.as_ref());
            }
        }
    }

    fn set(&mut self, queue: u64, sequence: u64, entry: Option<&Entry>) {
        let (index, bit) = (sequence / CHUNK_ENTRIES, 1u64 << (sequence % CHUNK_ENTRIES));
        // A released entry is a sequence that is still in use; nobody reads its record again.
        if let Some(entry) = entry.filter(|entry| !entry.released) {
            let chunk = self.queues.entry(queue).or_default().entry(index).or_default();
            chunk.needed |= bit;
            return chunk.point_to(&entry.pointer);
        }
        let Some(chunks) = self.queues.get_mut(&queue) else { return };
        if let Some(chunk) = chunks.get_mut(&index) {
            chunk.needed &= !bit;
            if chunk.needed == 0 {
                chunks.remove(&index);
            }
        }
        if chunks.is_empty() {
            self.queues.remove(&queue);
        }
    }

    /// Everything pointed to.
    pub(crate) fn pinned(&self) -> Pinned {
        let mut pinned = Pinned::new();
        for range in self.queues.values().flat_map(BTreeMap::values).flat_map(|chunk| &chunk.ranges) {
            pinned.entry(range.partition).or_default().push((range.first, range.last));
        }
        for ranges in pinned.values_mut() {
            ranges.sort_unstable();
            ranges.dedup_by(|next, before| {
                let touches = next.0 <= before.1;
                before.1 = if touches { before.1.max(next.1) } else { before.1 };
                touches
            });
        }
        pinned
    }
}

impl Chunk {
    fn point_to(&mut self, pointer: &Pointer) {
        let partition = (pointer.topic, pointer.partition);
        let near = |range: &&mut Range| {
            range.partition == partition
                && pointer.offset >= range.first.saturating_sub(GAP_MAX)
                && pointer.offset <= range.last.saturating_add(GAP_MAX)
        };
        match self.ranges.iter_mut().find(near) {
            Some(range) => {
                range.first = range.first.min(pointer.offset);
                range.last = range.last.max(pointer.offset);
            }
            None => self.ranges.push(Range { partition, first: pointer.offset, last: pointer.offset }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(offset: i64, released: bool) -> Entry {
        Entry { pointer: Pointer { topic: 16, partition: 0, offset }, tag: 0, expires_s: 0, released }
    }

    proptest! {
        /// Whatever is set and taken back: what is needed is pinned, and when nothing is needed nothing is.
        #[test]
        fn what_is_needed_is_pinned(steps in proptest::collection::vec((0u64..3, 0u64..200, 0i64..5_000, 0u8..4), 1..300)) {
            let mut pins = Pins::default();
            let mut needed = BTreeMap::new();
            for (queue, sequence, offset, kind) in steps {
                match kind {
                    0 => { pins.set(queue, sequence, None); needed.remove(&(queue, sequence)); }
                    1 => { pins.set(queue, sequence, Some(&entry(offset, true))); needed.remove(&(queue, sequence)); }
                    _ => {
                        pins.set(queue, sequence, Some(&entry(offset, false)));
                        needed.insert((queue, sequence), offset);
                    }
                }
                let pinned = pins.pinned().remove(&(16, 0)).unwrap_or_default();
                for offset in needed.values() {
                    prop_assert!(pinned.iter().any(|(first, last)| (*first..=*last).contains(offset)));
                }
            }
            for (queue, sequence) in needed.into_keys() {
                pins.set(queue, sequence, None);
            }
            prop_assert!(pins.queues.is_empty());
        }
    }
}
