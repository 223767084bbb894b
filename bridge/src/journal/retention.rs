//! What goes at a checkpoint: what is too old or too much, what was deleted, and of the hidden topic what no queue
//! points to any more. Decided by the apply thread for exactly the checkpoint's LSN, unlinked when that is durable (C2).
//! Kafka's view moves at once; a segment that a queue points into stays (S6).

use crate::HIDDEN;
use crate::disk::{DiskError, Folder};
use crate::log::{Now, Topic};
use crate::state::{Change, Space};

use super::apply::Applied;

/// What goes when the checkpoint no longer names it.
#[derive(Clone, Debug)]
pub(crate) enum Outdated {
    /// A file of a folder.
    File(Folder, String),
    /// The same, of what compaction rewrote or was to rewrite.
    Rewritten(Folder, String),
    /// A folder with folders of files: a topic's.
    Topic(Folder),
}

impl Outdated {
    pub(crate) fn remove(&self) -> Result<(), DiskError> {
        match self {
            Outdated::File(folder, name) | Outdated::Rewritten(folder, name) => folder.remove(name),
            Outdated::Topic(folder) => folder.remove_with_all_in_it(),
        }
    }

    /// Whether it is a segment's file of records: of its files the one to be counted.
    pub(crate) fn is_segment(&self) -> bool {
        matches!(self, Outdated::File(_, name) if name.ends_with(".log"))
    }
}

/// The key in `__meta` of the time that nothing counts as older than (R5).
pub(crate) const AGES_KEY: &[u8] = b"ages since";

impl Applied {
    /// The state becomes the next checkpoint's: lets go of what it need not keep; whether there was anything. When there was,
    /// or there are changes, [`Applied::checkpoint_job`] is next.
    pub(crate) fn retire(&mut self, now: Now) -> bool {
        self.pins.apply(&self.changes);
        let clock_was_set = self.ages.look(now);
        if clock_was_set {
            tracing::warn!("the clock was set by over an hour: what is kept for some time counts as new again");
            self.changes.add(&Change::Put(Space::META, AGES_KEY, &self.ages.since_ms.to_be_bytes()));
        }
        let topics = self.topics.all();
        let mut unseen = Vec::new();
        for topic in &topics {
            let config = topic.config();
            for partition in &topic.partitions {
                match topic.is_deleted() || topic.id == HIDDEN.1 {
                    true => partition.raise_log_start(i64::MAX),
                    false => partition.expire(&config.settings, &self.ages),
                }
                unseen.extend(Some(partition).filter(|partition| partition.has_unseen()));
            }
        }
        let before = self.outdated.len();
        if !unseen.is_empty() {
            let pinned = self.pins.pinned();
            for partition in unseen {
                let pinned = pinned.get(&(partition.topic_id, partition.index));
                let pinned = pinned.filter(|_| !off!(Pins)).map_or(&[][..], Vec::as_slice);
                let files = partition.forget_unseen(pinned).into_iter();
                self.outdated.extend(files.map(|name| Outdated::File(partition.folder().clone(), name)));
            }
        }
        for topic in topics.iter().filter(|topic| topic.is_deleted()) {
            self.forget_if_bare(topic);
        }
        clock_was_set || self.outdated.len() > before
    }

    fn forget_if_bare(&mut self, topic: &Topic) {
        // Files may be made in its folder while it is being cleaned.
        let is_being_cleaned = self.being_cleaned.iter().any(|(id, _)| *id == topic.id);
        if is_being_cleaned || !topic.partitions.iter().all(|partition| partition.is_bare()) {
            return;
        }
        self.topics.forget(topic.id);
        let id = topic.id.to_be_bytes();
        self.changes.add(&Change::Delete(Space::TOPICS, &id));
        self.changes.add(&Change::Delete(Space::DELETED, &id));
        self.outdated.push(Outdated::Topic(topic.folder.clone()));
    }
}
