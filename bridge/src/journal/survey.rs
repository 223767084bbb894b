//! What the journal holds, before anything is applied: whether frames are missing, and what may be believed of them
//! when the checkpoint is lost (R1, R3).
//!
//! A lost checkpoint, step by step. Keyed state in the internal topics is that of the lost checkpoint C, and of parts of
//! a later one that was cut off. Frames are blind puts and deletes, so a run of frames without a gap up to the newest one
//! brings any such state to where it was, wherever the run begins: the last change of each key is in it, or the key is as
//! it was. What must not be is a frame without those that came after it. Frames go only when a file is begun over again,
//! and that file's header then says which checkpoint allowed it: none above the greatest of these was written over.
//! Older formats do not say; there the run behind the last gap is taken. Damage besides: batches of internal topics say
//! the checkpoint that wrote them. When that is newer than the newest frame, the newest frames are gone, and no frame may
//! change the state. When a gap lies below it, the frames before that gap may not.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::batch::Header;
use crate::damage::Damage;
use crate::log::topic::FIRST_PUBLIC_ID;
use crate::state::{Change, Space};

use super::frame::{self, Section};
use super::recovery::{Journal, ReplayError};

/// What the journal holds behind the checkpoint.
#[derive(Clone, Debug, Default)]
pub(crate) struct Survey {
    /// Where replay begins.
    pub(crate) from_lsn: u64,
    /// Changes of frames before this one are not applied, batches are.
    pub(crate) changes_from: u64,
    /// The newest checkpoint that internal topics speak of; LSNs go on behind it.
    pub(crate) stamped_lsn: u64,
    /// Frames up to here may have been written over.
    pub(crate) recycled_lsn: u64,
    pub(crate) cluster_id: [u8; 16],
    /// Frames that are declared durable and not there.
    pub(crate) missing: Vec<Range<u64>>,
}

impl Survey {
    /// Behind a checkpoint at `lsn`.
    pub(crate) fn behind(lsn: u64, cluster_id: [u8; 16], journal: &mut Journal) -> Result<Survey, ReplayError> {
        let mut runs = Runs::default();
        journal.frames(lsn, |_, _, frame| {
            runs.add(frame.lsn, frame.durable_lsn);
            Ok(true)
        })?;
        let missing = runs.gaps(lsn).into_iter().filter(|gap| gap.start <= runs.declared_lsn).collect();
        Ok(Survey { from_lsn: lsn, recycled_lsn: lsn, cluster_id, missing, ..Survey::default() })
    }

    /// Whether these are nowhere in the journal, and what comes behind them is next.
    pub(crate) fn is_lost(&self, lsns: Range<u64>) -> bool {
        self.missing.iter().any(|gap| gap.contains(&lsns.start) && gap.end == lsns.end)
    }

    /// Says what is missing, for those who do not replay.
    pub(crate) fn report(&self, journal: &Journal, damage: &Damage) {
        for Range { start, end } in &self.missing {
            damage.found(journal.folder.path(), 0..0, format!("frames {start} to {} are lost", end - 1));
        }
    }

    /// Without a checkpoint; `stamped_lsn` is the newest that internal topics speak of.
    pub(crate) fn alone(stamped_lsn: u64, cluster_id: [u8; 16], journal: &mut Journal) -> Result<Survey, ReplayError> {
        let mut runs = Runs::default();
        journal.frames(0, |_, _, frame| {
            runs.add(frame.lsn, frame.durable_lsn);
            Ok(true)
        })?;
        let newest = runs.newest();
        let from_lsn = match journal.note() {
            Some(note) => note.checkpoint_lsn,
            None => runs.last_start().map_or(stamped_lsn, |start| start - 1),
        };
        let gaps = runs.gaps(from_lsn);
        let below = gaps.iter().rev().find(|gap| gap.start <= stamped_lsn);
        let changes_from = match newest < stamped_lsn {
            true => u64::MAX,
            false => below.map_or(from_lsn + 1, |gap| gap.end),
        };
        let missing = gaps.into_iter().filter(|gap| gap.start <= runs.declared_lsn).collect();
        Ok(Survey { from_lsn, changes_from, stamped_lsn, recycled_lsn: from_lsn, cluster_id, missing })
    }
}

/// What frames append to, and which topics they define or delete.
#[derive(Debug, Default)]
pub(crate) struct Appended {
    /// By topic and partition, the first offset: from there on the journal has what segments have.
    pub(crate) first: BTreeMap<(u32, u32), i64>,
    spoken_of: BTreeSet<u32>,
}

impl Appended {
    pub(crate) fn behind(lsn: u64, journal: &mut Journal) -> Result<Appended, ReplayError> {
        let mut appended = Appended::default();
        journal.frames(lsn, |_, _, frame| {
            if frame.lsn > lsn {
                appended.look_at(frame.body);
            }
            Ok(true)
        })?;
        Ok(appended)
    }

    fn look_at(&mut self, mut body: &[u8]) {
        while let Some(section) = frame::next_section(&mut body) {
            match section {
                Section::Batch { topic, partition, bytes } => {
                    if let Ok(header) = Header::parse(bytes) {
                        let first = self.first.entry((topic, partition)).or_insert(header.base_offset);
                        *first = header.base_offset.min(*first);
                    }
                }
                Section::Changes(mut changes) => {
                    while let Some(change) = Change::decode(&mut changes) {
                        if let Change::Put(Space::TOPICS | Space::DELETED, id, _) | Change::Delete(Space::TOPICS, id) =
                            change
                        {
                            self.spoken_of.extend(<[u8; 4]>::try_from(id).map(u32::from_be_bytes));
                        }
                    }
                }
            }
        }
    }

    /// Public topics that no frame defines or deletes, and how many partitions each must have.
    pub(crate) fn topics(&self) -> BTreeMap<u32, u32> {
        let mut topics = BTreeMap::new();
        let ids = self.first.keys().filter(|(id, _)| *id >= FIRST_PUBLIC_ID && !self.spoken_of.contains(id));
        for (id, partition) in ids {
            topics.insert(*id, partition.saturating_add(1));
        }
        topics
    }
}

/// LSNs that are there.
#[derive(Debug, Default)]
struct Runs {
    /// Start to end, disjoint.
    runs: BTreeMap<u64, u64>,
    declared_lsn: u64,
}

impl Runs {
    fn add(&mut self, lsn: u64, durable_lsn: u64) {
        self.declared_lsn = self.declared_lsn.max(durable_lsn);
        let (mut start, mut end) = (lsn, lsn + 1);
        if let Some((before, until)) = self.runs.range(..=lsn).next_back().map(|(start, end)| (*start, *end)) {
            if until > lsn {
                return;
            }
            if until == lsn {
                self.runs.remove(&before);
                start = before;
            }
        }
        if let Some(after) = self.runs.remove(&end) {
            end = after;
        }
        self.runs.insert(start, end);
    }

    fn newest(&self) -> u64 {
        self.runs.last_key_value().map_or(0, |(_, end)| end - 1)
    }

    fn last_start(&self) -> Option<u64> {
        self.runs.last_key_value().map(|(start, _)| *start)
    }

    /// What is missing between `lsn` and the newest.
    fn gaps(&self, lsn: u64) -> Vec<Range<u64>> {
        let mut next = lsn + 1;
        let mut gaps = Vec::new();
        for (start, end) in &self.runs {
            if *start > next {
                gaps.push(next..*start);
            }
            next = next.max(*end);
        }
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn gaps_are_what_was_not_added(lsns in proptest::collection::vec(1u64..60, 0..60), from in 0u64..60) {
            let mut runs = Runs::default();
            lsns.iter().for_each(|lsn| runs.add(*lsn, lsn - 1));
            let newest = lsns.iter().copied().max().unwrap_or(0);
            let missing: Vec<u64> = (from + 1..newest).filter(|lsn| !lsns.contains(lsn)).collect();
            prop_assert_eq!(runs.gaps(from).into_iter().flatten().collect::<Vec<_>>(), missing);
            prop_assert_eq!(runs.newest(), newest);
            prop_assert_eq!(runs.declared_lsn, newest.saturating_sub(1));
        }
    }
}
