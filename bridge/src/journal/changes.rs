//! Net changes of keyed state: what a checkpoint has to write (C1), and what recovery folds together.

use std::collections::BTreeMap;
// In an order of their own where a simulation is to do the same again.
#[cfg(any(test, feature = "sim"))]
use std::collections::BTreeMap as Map;
#[cfg(not(any(test, feature = "sim")))]
use std::collections::HashMap as Map;

use crate::state::{Change, Entry, Pointer, Space};

/// A key and the space it is in.
pub type Key = (Space, Box<[u8]>);

/// Net changes since some LSN. What came and went in between leaves no trace.
#[derive(Debug, Default)]
pub struct Changes {
    /// By space and key; `None` is a delete.
    pub keyed: Map<Key, Option<Box<[u8]>>>,
    /// By queue.
    pub queues: Map<u64, QueueChanges>,
    /// What is known of the state before may be newer than the first of them: then also what came and went leaves a
    /// trace (R3).
    pub over_newer: bool,
    /// How many entries those have.
    entries: usize,
}

/// Net changes of one queue.
#[derive(Debug, Default)]
pub struct QueueChanges {
    /// It ended: nothing of it is left.
    pub closed: bool,
    /// Its next sequence, where one was given.
    pub next: Option<u64>,
    /// By sequence; `None` is a removal of what an earlier checkpoint holds.
    pub entries: BTreeMap<u64, Option<Entry>>,
    /// Sequences given from here on are in no earlier checkpoint.
    first_fresh: Option<u64>,
}

const NOWHERE: Pointer = Pointer { topic: 0, partition: 0, offset: 0 };

impl Changes {
    /// Keys, queues and entries of queues that changed.
    pub fn len(&self) -> usize {
        self.keyed.len() + self.queues.len() + self.entries
    }

    /// Adds one change after all before it.
    pub fn add(&mut self, change: &Change<'_>) {
        match change {
            Change::Put(space, key, value) => {
                self.keyed.insert((*space, (*key).into()), Some((*value).into()));
            }
            Change::Delete(space, key) => {
                self.keyed.insert((*space, (*key).into()), None);
            }
            Change::Open(queue) => {
                let first_fresh = (!self.over_newer).then_some(0);
                self.replace(*queue, QueueChanges { next: Some(0), first_fresh, ..QueueChanges::default() });
            }
            Change::Close(queue) => self.replace(*queue, QueueChanges { closed: true, ..QueueChanges::default() }),
            Change::Enqueue(queue, sequence, entry) => {
                let queue = self.queues.entry(*queue).or_default();
                queue.next = Some(sequence + 1);
                if !self.over_newer {
                    queue.first_fresh.get_or_insert(*sequence);
                }
                self.entries += usize::from(queue.entries.insert(*sequence, Some(*entry)).is_none());
            }
            Change::Remove(queue, sequence) => {
                let queue = self.queues.entry(*queue).or_default();
                if queue.first_fresh.is_some_and(|first| *sequence >= first) {
                    self.entries -= usize::from(queue.entries.remove(sequence).is_some());
                } else {
                    self.entries += usize::from(queue.entries.insert(*sequence, None).is_none());
                }
            }
            Change::Trim(_) => {}
            Change::Release(queue, sequence) => {
                let released = Entry { pointer: NOWHERE, tag: 0, expires_s: 0, released: true };
                let entries = &mut self.queues.entry(*queue).or_default().entries;
                self.entries += usize::from(entries.insert(*sequence, Some(released)).is_none());
            }
        }
    }

    fn replace(&mut self, queue: u64, with: QueueChanges) {
        let before = self.queues.insert(queue, with);
        self.entries -= before.map_or(0, |before| before.entries.len());
    }
}

/// Whole keyed state, as recovery finds it.
#[derive(Debug, Default)]
pub struct Whole {
    /// By space and key.
    pub keyed: BTreeMap<Key, Box<[u8]>>,
    /// By queue.
    pub queues: BTreeMap<u64, WholeQueue>,
}

/// A queue that recovery found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct WholeQueue {
    /// The sequence it goes on with.
    pub next: u64,
    /// Its entries by sequence.
    pub entries: BTreeMap<u64, Entry>,
}

impl Whole {
    /// Applies net changes.
    pub fn apply(&mut self, changes: &Changes) {
        for (key, value) in &changes.keyed {
            match value {
                Some(value) => self.keyed.insert(key.clone(), value.clone()),
                None => self.keyed.remove(key),
            };
        }
        for (id, change) in &changes.queues {
            if change.closed {
                self.queues.remove(id);
                continue;
            }
            if change.next.is_none() && !self.queues.contains_key(id) {
                continue;
            }
            let queue = self.queues.entry(*id).or_default();
            queue.next = queue.next.max(change.next.unwrap_or(0));
            for (sequence, entry) in &change.entries {
                match entry {
                    Some(entry) => queue.entries.insert(*sequence, *entry),
                    None => queue.entries.remove(sequence),
                };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry(offset: i64) -> Entry {
        Entry { pointer: Pointer { topic: 20, partition: 0, offset }, tag: 1, expires_s: 0, released: false }
    }

    #[test]
    fn what_came_and_went_leaves_no_trace() {
        let mut changes = Changes::default();
        changes.add(&Change::Enqueue(1, 8, entry(5)));
        changes.add(&Change::Remove(1, 8));
        assert!(changes.queues[&1].entries.is_empty());
        changes.add(&Change::Remove(1, 7));
        assert_eq!(changes.queues[&1].entries[&7], None, "an earlier checkpoint's entry needs its removal");
    }

    /// A valid history: sequences rise, only what is there is removed or released.
    fn history() -> impl Strategy<Value = Vec<(u8, u8, u8)>> {
        proptest::collection::vec((0u8..6, 0u8..3, any::<u8>()), 0..60)
    }

    proptest! {
        /// However a history is cut into checkpoints, the whole is the same.
        #[test]
        fn cuts_do_not_matter(history in history(), cuts in proptest::collection::vec(any::<u8>(), 60)) {
            let (mut at_once, mut pieces) = (Whole::default(), Whole::default());
            let (mut all, mut pending) = (Changes::default(), Changes::default());
            let mut live: BTreeMap<u64, (u64, Vec<u64>)> = BTreeMap::new();
            let mut ids = [0u64, 1, 2];
            for (i, (kind, which, x)) in history.iter().enumerate() {
                let slot = usize::from(*which);
                let id = ids[slot];
                let key = [*which];
                let value = [*x];
                let change = match (kind, live.get_mut(&id)) {
                    (0, _) => Change::Put(Space(9), &key, &value),
                    (1, _) => Change::Delete(Space(9), &key),
                    (_, None) => { live.insert(id, (0, Vec::new())); Change::Open(id) }
                    (2 | 3, Some((next, held))) => {
                        held.push(*next);
                        *next += 1;
                        Change::Enqueue(id, *next - 1, entry(i64::from(*x)))
                    }
                    (4, Some((_, held))) if !held.is_empty() => {
                        let at = usize::from(*x) % held.len();
                        if x % 2 == 0 { Change::Release(id, held[at]) } else { Change::Remove(id, held.remove(at)) }
                    }
                    (_, Some(_)) => { live.remove(&id); ids[slot] += 3; Change::Close(id) }
                };
                all.add(&change);
                prop_assert_eq!(all.entries, all.queues.values().map(|queue| queue.entries.len()).sum::<usize>());
                pending.add(&change);
                if cuts[i] % 3 == 0 { pieces.apply(&std::mem::take(&mut pending)); }
            }
            at_once.apply(&all);
            pieces.apply(&pending);
            prop_assert_eq!(at_once.keyed, pieces.keyed);
            prop_assert_eq!(at_once.queues, pieces.queues);
        }
    }
}
