//! What groups committed: in memory, and as keyed state that survives.
//!
//! What can be read is what is durable. Changes go through one lane, so their order in the journal
//! is the order of their tickets, and they are applied to memory in that order.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    ops::RangeInclusive,
    sync::Arc,
};

use parking_lot::Mutex;

use crate::{Bridge, JournalFailed, KeyedChange, Lane, Space, Ticket};

/// Bytes of all committed offsets, with their keys.
const BYTES_MAX: usize = 64 * 1024 * 1024;
/// Bytes that an offset takes in memory besides its metadata, roughly.
const ENTRY_BYTES: usize = 96;
/// Changes on their way to disk. Beyond, the disk has stood still for long.
const PENDING_MAX: usize = 10_000;
/// Begins every stored value.
const VALUE_VERSION: u8 = 1;

/// A partition of a topic, by ids that outlive a topic's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    pub topic_id: u32,
    pub partition: u32,
}

/// A group's position in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Committed {
    pub offset: i64,
    pub leader_epoch: i32,
    pub committed_at_ms: i64,
    pub metadata: Box<str>,
}

/// Committed offsets take too much room already, or the disk stands still.
#[derive(Debug)]
pub(crate) struct Full;

pub(crate) struct Offsets {
    bridge: Bridge,
    lane: Lane,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    groups: HashMap<Arc<str>, BTreeMap<Place, Committed>>,
    pending: VecDeque<(Ticket, Change)>,
    /// Of `groups` and what is pending.
    bytes: usize,
}

enum Change {
    Commit(Arc<str>, Vec<(Place, Committed)>),
    Forget(Arc<str>),
    ForgetTopics(Vec<u32>),
}

/// Deletions of offsets in one operation, when a start finds what is to be deleted.
const DELETED_AT_ONCE: usize = 1_000;

impl Offsets {
    /// What was committed before this start. What belonged to topics that are gone is deleted: a crash may have come
    /// between their deletion and that of their offsets.
    pub fn recover(bridge: &Bridge) -> Offsets {
        let topics: HashSet<u32> = bridge.topics().iter().map(|topic| topic.id).collect();
        let mut book = Book::default();
        let (mut taken, mut unreadable, mut gone) = (0_usize, 0_usize, Vec::new());
        for (key, value) in bridge.take_recovered(Space::OFFSETS) {
            match decode_key(&key).zip(Committed::decode(&value)) {
                Some(((place, group), committed)) if topics.contains(&place.topic_id) => {
                    taken += 1;
                    book.bytes += committed.bytes();
                    let group = book.groups.entry(group.into()).or_default();
                    group.insert(place, committed);
                }
                Some(_) => gone.push(key),
                None => unreadable += 1,
            }
        }
        if unreadable > 0 {
            tracing::warn!(unreadable, "committed offsets that do not decode are ignored");
        }
        tracing::info!(groups = book.groups.len(), offsets = taken, "committed offsets recovered");
        let lane = bridge.lane();
        for keys in gone.chunks(DELETED_AT_ONCE) {
            lane.put_all(&deletions(keys.iter().map(|key| &**key)));
        }
        Offsets { bridge: bridge.clone(), lane, book: Mutex::new(book) }
    }

    /// Commits, and waits until that is durable and readable.
    pub async fn commit(
        &self,
        group: &Arc<str>,
        offsets: Vec<(Place, Committed)>,
    ) -> Result<Result<(), Full>, JournalFailed> {
        match self.submit(group, offsets) {
            Ok(ticket) => self.settle_to(ticket).await.map(Ok),
            Err(full) => Ok(Err(full)),
        }
    }

    fn submit(&self, group: &Arc<str>, mut offsets: Vec<(Place, Committed)>) -> Result<Ticket, Full> {
        let mut book = self.book.lock();
        // Under the lock: of a topic that is deleted after this, the deletion finds them.
        offsets.retain(|(place, _)| self.bridge.has_topic(place.topic_id));
        let encode = |(place, committed): &(Place, Committed)| (encode_key(*place, group), committed.encode());
        let encoded: Vec<_> = offsets.iter().map(encode).collect();
        let puts = encoded.iter().map(|(k, v)| (Space::OFFSETS, k.as_slice(), Some(v.as_slice())));
        let puts: Vec<_> = puts.collect();
        let bytes: usize = offsets.iter().map(|(_, committed)| committed.bytes()).sum();
        if book.bytes + bytes > BYTES_MAX || book.pending.len() >= PENDING_MAX {
            return Err(Full);
        }
        book.bytes += bytes;
        // Under the lock: tickets and `pending` have one order.
        let ticket = self.lane.put_all(&puts);
        book.pending.push_back((ticket, Change::Commit(group.clone(), offsets)));
        Ok(ticket)
    }

    /// Deletes what a group committed; false when that is nothing.
    pub async fn forget(&self, group: &Arc<str>) -> Result<bool, JournalFailed> {
        self.settle().await?;
        let ticket = {
            let mut book = self.book.lock();
            let keys: Vec<_> = book.places_of(group).map(|place| encode_key(place, group)).collect();
            if keys.is_empty() {
                return Ok(false);
            }
            let ticket = self.lane.put_all(&deletions(keys.iter().map(Vec::as_slice)));
            book.pending.push_back((ticket, Change::Forget(group.clone())));
            ticket
        };
        self.settle_to(ticket).await?;
        Ok(true)
    }

    /// Deletes what any group committed in topics that are gone.
    pub async fn forget_topics(&self, topics: &[u32]) -> Result<(), JournalFailed> {
        let ticket = {
            let mut book = self.book.lock();
            let keys: HashSet<Vec<u8>> = topics.iter().flat_map(|topic| book.keys_of_topic(*topic)).collect();
            if keys.is_empty() {
                return Ok(());
            }
            let ticket = self.lane.put_all(&deletions(keys.iter().map(Vec::as_slice)));
            book.pending.push_back((ticket, Change::ForgetTopics(topics.to_owned())));
            ticket
        };
        self.settle_to(ticket).await
    }

    /// Waits until everything committed so far is durable and readable. Most often it is.
    pub async fn settle(&self) -> Result<(), JournalFailed> {
        let last = self.book.lock().pending.back().map(|(ticket, _)| *ticket);
        match last {
            Some(ticket) => self.settle_to(ticket).await,
            None => Ok(()),
        }
    }

    async fn settle_to(&self, ticket: Ticket) -> Result<(), JournalFailed> {
        if !off!(OffsetWaits) {
            self.lane.wait(ticket).await?;
        }
        self.book.lock().apply(ticket);
        Ok(())
    }

    /// A group's position in one partition.
    pub fn get(&self, group: &str, place: Place) -> Option<Committed> {
        self.book.lock().groups.get(group)?.get(&place).cloned()
    }

    /// All positions of a group.
    pub fn of_group(&self, group: &str) -> Vec<(Place, Committed)> {
        let book = self.book.lock();
        let offsets = book.groups.get(group).into_iter().flatten();
        offsets.map(|(place, committed)| (*place, committed.clone())).collect()
    }

    /// Every group that committed something.
    pub fn groups(&self) -> Vec<Arc<str>> {
        self.book.lock().groups.keys().cloned().collect()
    }

    /// Every group's positions, group by group in the order of their names, as far as `max` of them; and how
    /// many are left out.
    pub fn positions(&self, max: usize) -> (Vec<(Arc<str>, Place, i64)>, usize) {
        let mut groups: Vec<(Arc<str>, usize)> = {
            let book = self.book.lock();
            book.groups.iter().map(|(group, offsets)| (group.clone(), offsets.len())).collect()
        };
        // Not under the lock, which commits wait for.
        groups.sort_unstable();
        let total: usize = groups.iter().map(|(_, offsets)| offsets).sum();
        let mut positions = Vec::new();
        for (group, _) in groups {
            if positions.len() >= max {
                break;
            }
            let book = self.book.lock();
            let offsets = book.groups.get(&group).into_iter().flatten().take(max - positions.len());
            positions.extend(offsets.map(|(place, committed)| (group.clone(), *place, committed.offset)));
        }
        let left_out = total.saturating_sub(positions.len());
        (positions, left_out)
    }

    pub fn knows(&self, group: &str) -> bool {
        self.book.lock().groups.contains_key(group)
    }
}

impl Book {
    /// Every place with something to delete, also what is still on its way.
    fn places_of(&self, group: &Arc<str>) -> impl Iterator<Item = Place> {
        let settled = self.groups.get(group).into_iter().flat_map(|offsets| offsets.keys().copied());
        let pending = self.pending.iter().flat_map(move |(_, change)| match change {
            Change::Commit(of, offsets) if of == group => offsets.as_slice(),
            _ => &[],
        });
        let places: HashSet<Place> = settled.chain(pending.map(|(place, _)| *place)).collect();
        places.into_iter()
    }

    /// Every key of a topic's, also of what is still on its way.
    fn keys_of_topic(&self, topic: u32) -> Vec<Vec<u8>> {
        let mut keys = Vec::new();
        for (group, offsets) in &self.groups {
            keys.extend(offsets.range(all_of(topic)).map(|(place, _)| encode_key(*place, group)));
        }
        for (_, change) in &self.pending {
            if let Change::Commit(group, offsets) = change {
                let places = offsets.iter().map(|(place, _)| place).filter(|place| place.topic_id == topic);
                keys.extend(places.map(|place| encode_key(*place, group)));
            }
        }
        keys
    }

    fn forget_topic(&mut self, topic: u32) {
        let Book { groups, bytes, .. } = self;
        groups.retain(|_, offsets| {
            let gone: Vec<Place> = offsets.range(all_of(topic)).map(|(place, _)| *place).collect();
            for place in gone {
                *bytes -= offsets.remove(&place).as_ref().map_or(0, Committed::bytes);
            }
            !offsets.is_empty()
        });
    }

    /// Everything up to `ticket` is durable: makes it readable.
    fn apply(&mut self, ticket: Ticket) {
        let durable = |(pending, _): &(Ticket, Change)| *pending <= ticket;
        while self.pending.front().is_some_and(durable)
            && let Some((_, change)) = self.pending.pop_front()
        {
            match change {
                // Of topics that are gone nothing was kept.
                Change::Commit(_, offsets) if offsets.is_empty() => {}
                Change::Commit(group, offsets) => {
                    let group = self.groups.entry(group).or_default();
                    for (place, committed) in offsets {
                        if let Some(before) = group.insert(place, committed) {
                            self.bytes -= before.bytes();
                        }
                    }
                }
                Change::Forget(group) => {
                    let gone = self.groups.remove(&group).unwrap_or_default();
                    self.bytes -= gone.values().map(Committed::bytes).sum::<usize>();
                }
                Change::ForgetTopics(topics) => topics.into_iter().for_each(|topic| self.forget_topic(topic)),
            }
        }
    }
}

impl Committed {
    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.metadata.len()
    }

    fn encode(&self) -> Vec<u8> {
        let mut value = Vec::with_capacity(21 + self.metadata.len());
        value.push(VALUE_VERSION);
        value.extend(self.offset.to_be_bytes());
        value.extend(self.leader_epoch.to_be_bytes());
        value.extend(self.committed_at_ms.to_be_bytes());
        value.extend(self.metadata.as_bytes());
        value
    }

    fn decode(value: &[u8]) -> Option<Committed> {
        let (version, rest) = value.split_first()?;
        let (offset, rest) = rest.split_first_chunk()?;
        let (leader_epoch, rest) = rest.split_first_chunk()?;
        let (committed_at_ms, metadata) = rest.split_first_chunk()?;
        (*version == VALUE_VERSION).then_some(Committed {
            offset: i64::from_be_bytes(*offset),
            leader_epoch: i32::from_be_bytes(*leader_epoch),
            committed_at_ms: i64::from_be_bytes(*committed_at_ms),
            metadata: std::str::from_utf8(metadata).ok()?.into(),
        })
    }
}

/// Every partition of a topic.
fn all_of(topic_id: u32) -> RangeInclusive<Place> {
    Place { topic_id, partition: 0 }..=Place { topic_id, partition: u32::MAX }
}

fn deletions<'a>(keys: impl Iterator<Item = &'a [u8]>) -> Vec<KeyedChange<'a>> {
    keys.map(|key| (Space::OFFSETS, key, None)).collect()
}

/// Topic id, partition, group: the first two of fixed length, so nothing is ambiguous, and a deleted
/// topic's keys stand together.
fn encode_key(place: Place, group: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(8 + group.len());
    key.extend(place.topic_id.to_be_bytes());
    key.extend(place.partition.to_be_bytes());
    key.extend(group.as_bytes());
    key
}

fn decode_key(key: &[u8]) -> Option<(Place, &str)> {
    let (topic_id, rest) = key.split_first_chunk()?;
    let (partition, group) = rest.split_first_chunk()?;
    let place = Place { topic_id: u32::from_be_bytes(*topic_id), partition: u32::from_be_bytes(*partition) };
    Some((place, std::str::from_utf8(group).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn committed(offset: i64) -> Committed {
        Committed { offset, leader_epoch: 3, committed_at_ms: 1_700_000_000_000, metadata: "é".into() }
    }

    #[test]
    fn keys_and_values_come_back() {
        let place = Place { topic_id: 7, partition: u32::MAX };
        assert_eq!(decode_key(&encode_key(place, "a group")), Some((place, "a group")));
        let value = committed(42).encode();
        assert_eq!(Committed::decode(&value), Some(committed(42)));
        assert_eq!(Committed::decode(&value[..20]), None);
        assert_eq!(Committed::decode(&[&[2][..], &value[1..]].concat()), None);
        assert_eq!(decode_key(&[0; 7]), None);
    }

    #[test]
    fn positions_are_the_first_by_name_and_the_rest_is_counted() {
        let folder = tempfile::tempdir().expect("a folder");
        let options = crate::Options {
            data_dir: folder.path().to_owned(),
            durability: crate::Durability::Os,
            commit_interval: std::time::Duration::ZERO,
            topic_defaults: crate::Settings { segment_bytes: 1 << 20, ..crate::Settings::default() },
            checkpoint_bytes: 1 << 24,
            checkpoint_interval: std::time::Duration::from_secs(60),
            reserve_bytes: 0,
        };
        let bridge = Bridge::open(options).expect("a new folder opens");
        let offsets = Offsets::recover(&bridge);
        let place = |partition| Place { topic_id: 16, partition };
        let two = || BTreeMap::from([(place(1), committed(11)), (place(0), committed(10))]);
        offsets.book.lock().groups.extend([("b".into(), two()), ("a".into(), two())]);
        assert_eq!(offsets.positions(4).1, 0);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let first = vec![(a.clone(), place(0), 10), (a, place(1), 11), (b, place(0), 10)];
        assert_eq!(offsets.positions(3), (first, 1));
        assert_eq!(offsets.positions(0), (vec![], 4));
    }

    #[test]
    fn changes_are_applied_in_the_order_of_their_tickets() {
        let (group, place): (Arc<str>, _) = ("g".into(), Place { topic_id: 1, partition: 0 });
        let mut book = Book::default();
        let commit = |offset| Change::Commit(group.clone(), vec![(place, committed(offset))]);
        book.pending.extend([(1, commit(10)), (2, Change::Forget(group.clone())), (3, commit(30))]);
        book.bytes = 2 * committed(0).bytes();
        let read = |book: &Book| Some(book.groups.get(&group)?.get(&place)?.offset);
        assert_eq!(read(&book), None);
        book.apply(1);
        assert_eq!(read(&book), Some(10));
        // A later waiter may be woken first.
        book.apply(3);
        assert_eq!(read(&book), Some(30));
        book.apply(2);
        assert_eq!(read(&book), Some(30));
        assert_eq!(book.bytes, committed(30).bytes());
    }
}
