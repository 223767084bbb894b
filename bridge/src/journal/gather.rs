//! Gathering: what the lanes hand over becomes one frame (J1). Offsets and queue sequences are given
//! here and nowhere else, so journal order = partition order = delivery order.

use std::collections::HashMap;
use std::sync::Arc;

use crate::HIDDEN;
use crate::batch::{self, Builder, Header};
use crate::log::Topic;
use crate::producer::{Producers, Verdict};
use crate::state::{Change, Entry, Pointer, Space};

use super::changes::Key;
use super::frame::{Frame, u32_at, u64_at};
use super::lane::{
    self, APPEND, ATTACH, BATCH, Delivery, MOVE, ORDERED, Pending, ProduceSlot, Produced, Target, UNLESS_NEWER,
};

/// A builder's batch is closed at this size, so that readers get batches they can hold.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// Keys whose order is remembered, twice over.
const ORDERED_KEYS_MAX: usize = 10_000;

/// The committer's view of what exists, and the group being gathered.
#[derive(Debug)]
pub(crate) struct Gather {
    epoch: i32,
    /// First of a topic's consecutive heads.
    topics: HashMap<u32, (usize, u32)>,
    heads: Vec<Head>,
    queues: HashMap<u64, Queue>,
    producers: Producers,
    stamped: Stamped,
    changes: Vec<u8>,
    /// Heads with something in this group.
    touched: Vec<usize>,
    deliveries: Vec<Unplaced>,
    /// Records in this group.
    records: u64,
    /// Order of the newest change gathered, by key, for keys that several lanes change.
    newest: HashMap<Key, u64>,
    /// The same for keys changed longer ago; older ones are forgotten. A change is overtaken between a lock and
    /// a submit, so by far fewer others than are remembered.
    newer_before: HashMap<Key, u64>,
}

/// The newest time that the broker stamped a record with, so that a clock set back makes no later record older (R5). What
/// producers stamp says nothing of it.
#[derive(Debug)]
pub(crate) struct Stamped {
    stored_ms: i64,
}

impl Stamped {
    /// The key in `__meta`.
    pub(crate) const KEY: &[u8] = b"stamped";
    /// It is stored whenever it has grown by so much.
    const STEP_MS: i64 = 10_000;

    /// Goes on from what was stored.
    pub(crate) fn since(stored_ms: Option<i64>) -> Stamped {
        Stamped { stored_ms: stored_ms.unwrap_or(0) }
    }

    /// No record was stamped later by the starts before this one.
    fn floor_ms(&self) -> i64 {
        self.stored_ms.saturating_add(Stamped::STEP_MS)
    }

    fn note(&mut self, stamped_ms: i64) -> Option<i64> {
        let grown = stamped_ms > self.floor_ms();
        if grown {
            self.stored_ms = stamped_ms;
        }
        grown.then_some(stamped_ms)
    }
}

/// Where a partition's next record goes.
#[derive(Debug)]
struct Head {
    topic: u32,
    partition: u32,
    next: i64,
    /// R5: broker-stamped times do not fall, also over a restart.
    last_ms: i64,
    builder: Builder,
    /// Whole batches of this group, before the builder's; then their positions in the frame.
    closed: Vec<Vec<u8>>,
    placed: Vec<usize>,
    touched: bool,
}

#[derive(Debug)]
struct Queue {
    next: u64,
    lane: Option<usize>,
}

/// A delivery before its frame is laid out.
#[derive(Debug)]
struct Unplaced {
    queue: u64,
    sequence: u64,
    entry: Entry,
    lane: usize,
    /// Head, batch of it in this group, and position there, when its record is in this group.
    record: Option<(usize, usize, usize)>,
}

impl Gather {
    pub(crate) fn new(epoch: i32, producers: Producers, stamped: Stamped) -> Gather {
        Gather {
            epoch,
            stamped,
            topics: HashMap::new(),
            heads: Vec::new(),
            queues: HashMap::new(),
            producers,
            changes: Vec::new(),
            touched: Vec::new(),
            deliveries: Vec::new(),
            records: 0,
            newest: HashMap::new(),
            newer_before: HashMap::new(),
        }
    }

    /// Lets a topic be appended to.
    pub(crate) fn add_topic(&mut self, topic: &Topic) {
        self.topics.insert(topic.id, (self.heads.len(), topic.partitions.len() as u32));
        for partition in &topic.partitions {
            self.heads.push(Head {
                topic: topic.id,
                partition: partition.index,
                next: partition.high_watermark(),
                last_ms: partition.newest_ms().unwrap_or(0).min(self.stamped.floor_ms()),
                builder: Builder::default(),
                closed: Vec::new(),
                placed: Vec::new(),
                touched: false,
            });
        }
    }

    /// What is in the journal and not in the partition yet: what comes is behind it.
    pub(crate) fn come_behind(&mut self, (topic, partition): (u32, u32), end: i64) {
        if let Some((first, partitions)) = self.topics.get(&topic)
            && partition < *partitions
        {
            let head = &mut self.heads[first + partition as usize];
            head.next = head.next.max(end);
        }
    }

    /// J4: from here on nothing is appended to it.
    pub(crate) fn delete_topic(&mut self, topic: u32) {
        let Some((first, partitions)) = self.topics.remove(&topic) else { return };
        for head in &mut self.heads[first..first + partitions as usize] {
            // Between groups it is empty.
            head.builder = Builder::default();
        }
        for key in self.producers.forget_topic(topic) {
            Change::Delete(Space::PRODUCERS, &key).encode(&mut self.changes);
        }
        Change::Put(Space::DELETED, &topic.to_be_bytes(), b"").encode(&mut self.changes);
    }

    /// A queue that recovery found, with the sequence it goes on with.
    pub(crate) fn add_queue(&mut self, queue: u64, next: u64) {
        self.queues.insert(queue, Queue { next, lane: None });
    }

    /// Adds a change of the bridge's own to the group.
    pub(crate) fn change(&mut self, change: Change<'_>) {
        change.encode(&mut self.changes);
    }

    /// Takes in one lane's operations.
    pub(crate) fn take_in(&mut self, lane: usize, pending: &Pending) {
        let mut rest = &pending.bytes[..];
        let mut slots = pending.slots.iter();
        while let Some(kind) = rest.first() {
            match *kind {
                APPEND => rest = self.take_append(&rest[1..]),
                BATCH => rest = self.take_batch(&rest[1..], slots.next()),
                ORDERED => {
                    let order = u64_at(rest, 1);
                    let change = &rest[9..];
                    let mut after = change;
                    if self.overtaken(order, Change::decode(&mut after)) {
                        rest = after;
                    } else {
                        rest = self.take_change(lane, change);
                    }
                }
                UNLESS_NEWER => {
                    let (order, key_end) = (u64_at(rest, 1), 14 + u32_at(rest, 10) as usize);
                    let key = (Space(rest[9]), rest[14..key_end].into());
                    let append = &rest[key_end + 1..];
                    rest = match self.newest_of(&key).is_some_and(|newest| newest > order) {
                        true => &append[append_end(append)..],
                        false => self.take_append(append),
                    };
                }
                ATTACH => {
                    if let Some(queue) = self.queues.get_mut(&u64_at(rest, 1)) {
                        queue.lane = Some(lane);
                    }
                    rest = &rest[9..];
                }
                MOVE => {
                    let (topic, partition) = (u32_at(rest, 17), u32_at(rest, 21));
                    let pointer = Pointer { topic, partition, offset: u64_at(rest, 25) as i64 };
                    let (target, after) = rest[33..].split_at(Target::BYTES);
                    self.take_move((u64_at(rest, 1), u64_at(rest, 9)), pointer, &Target::take(target));
                    rest = after;
                }
                _ => rest = self.take_change(lane, rest),
            }
        }
    }

    /// From one queue into another, if both are there.
    fn take_move(&mut self, (queue, sequence): (u64, u64), pointer: Pointer, target: &Target) {
        if self.queues.contains_key(&queue) && self.queues.contains_key(&target.queue) {
            self.enqueue(pointer, target, None);
            Change::Remove(queue, sequence).encode(&mut self.changes);
        }
    }

    fn take_append<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (topic, partition) = (u32_at(bytes, 0), u32_at(bytes, 4));
        let timestamp_ms = u64_at(bytes, 8) as i64;
        let targets_bytes = u32_at(bytes, 16) as usize * Target::BYTES;
        let targets = &bytes[20..20 + targets_bytes];
        let (body_at, body_end) = (24 + targets_bytes, append_end(bytes));
        let body = &bytes[body_at..body_end];
        // J4: queues get a record whose topic was deleted while it waited all the same.
        let (topic, partition) = match targets.is_empty() || self.topics.contains_key(&topic) {
            true => (topic, partition),
            false => (HIDDEN.1, 0),
        };
        if let Some(index) = self.touch(topic, partition) {
            self.records += 1;
            let head = &mut self.heads[index];
            if head.builder.len() + body.len() > BATCH_BYTES_MAX {
                head.close_builder(self.epoch);
            }
            if head.builder.is_empty() {
                head.builder.restart(head.next);
            }
            head.last_ms = head.last_ms.max(timestamp_ms);
            if let Some(stamped_ms) = self.stamped.note(head.last_ms) {
                Change::Put(Space::META, Stamped::KEY, &stamped_ms.to_be_bytes()).encode(&mut self.changes);
            }
            let (offset, position) = head.builder.push(head.last_ms, body);
            head.next = offset + 1;
            let batch = head.closed.len();
            let pointer = Pointer { topic, partition, offset };
            for target in targets.chunks_exact(Target::BYTES) {
                self.enqueue(pointer, &Target::take(target), Some((index, batch, position)));
            }
        }
        &bytes[body_end..]
    }

    fn enqueue(&mut self, pointer: Pointer, target: &Target, record: Option<(usize, usize, usize)>) {
        // J4: a queue that ended while the record waited gets nothing.
        let Some(queue) = self.queues.get_mut(&target.queue) else { return };
        let entry = lane::entry(pointer, target);
        let sequence = queue.next;
        queue.next += 1;
        Change::Enqueue(target.queue, sequence, entry).encode(&mut self.changes);
        if let Some(lane) = queue.lane {
            self.deliveries.push(Unplaced { queue: target.queue, sequence, entry, lane, record });
        }
    }

    fn take_batch<'a>(&mut self, bytes: &'a [u8], slot: Option<&ProduceSlot>) -> &'a [u8] {
        let (topic, partition) = (u32_at(bytes, 0), u32_at(bytes, 4));
        let end = 12 + u32_at(bytes, 8) as usize;
        let produced = match Header::parse(&bytes[12..end]) {
            Ok(header) => self.append_batch((topic, partition), &header, &bytes[12..end]),
            // It was validated before it was submitted.
            Err(_) => Produced::UnknownTopic,
        };
        if let Some(slot) = slot {
            slot.set(produced);
        }
        &bytes[end..]
    }

    fn append_batch(&mut self, (topic, partition): (u32, u32), header: &Header, bytes: &[u8]) -> Produced {
        let verdict = self.producers.check(topic, partition, header);
        match verdict {
            Verdict::Duplicate(base_offset) => return Produced::Appended { base_offset, duplicate: true },
            Verdict::OutOfOrder => return Produced::OutOfOrderSequence,
            Verdict::OldEpoch => return Produced::InvalidProducerEpoch,
            Verdict::Next | Verdict::NotIdempotent => {}
        }
        let Some(index) = self.touch(topic, partition) else { return Produced::UnknownTopic };
        let head = &mut self.heads[index];
        head.close_builder(self.epoch);
        let base_offset = head.next;
        let mut batch = bytes.to_vec();
        batch::place(&mut batch, base_offset, self.epoch);
        head.closed.push(batch);
        head.next += i64::from(header.record_count);
        self.records += u64::try_from(header.record_count).unwrap_or(0);
        if verdict == Verdict::Next {
            let (key, value) = self.producers.remember(topic, partition, header, base_offset);
            Change::Put(Space::PRODUCERS, &key, &value).encode(&mut self.changes);
        }
        Produced::Appended { base_offset, duplicate: false }
    }

    /// Whether a newer change of the same key was gathered before this one; if not, it is the newest now.
    fn overtaken(&mut self, order: u64, change: Option<Change<'_>>) -> bool {
        let (Some(Change::Put(space, key, _)) | Some(Change::Delete(space, key))) = change else { return false };
        let key = (space, key.into());
        if self.newest_of(&key).is_some_and(|newest| newest > order) {
            return true;
        }
        if self.newest.len() >= ORDERED_KEYS_MAX {
            self.newer_before = std::mem::take(&mut self.newest);
        }
        self.newest.insert(key, order);
        false
    }

    /// The newest change of a key that was gathered, unless that was long ago.
    fn newest_of(&self, key: &(Space, Box<[u8]>)) -> Option<u64> {
        self.newest.get(key).or_else(|| self.newer_before.get(key)).copied()
    }

    fn take_change<'a>(&mut self, lane: usize, bytes: &'a [u8]) -> &'a [u8] {
        let mut rest = bytes;
        let Some(change) = Change::decode(&mut rest) else {
            // PROOF: lanes are filled by `Change::encode` alone, and it round-trips (its property test).
            unreachable!("a lane holds what is no change")
        };
        let applies = match change {
            Change::Open(queue) => self.queues.insert(queue, Queue { next: 0, lane: Some(lane) }).is_none(),
            Change::Close(queue) => self.queues.remove(&queue).is_some(),
            Change::Remove(queue, _) | Change::Release(queue, _) => self.queues.contains_key(&queue),
            // Settings that were on their way when their topic was deleted would bring it back.
            Change::Put(Space::TOPICS, id, _) => {
                id.try_into().is_ok_and(|id| self.topics.contains_key(&u32::from_be_bytes(id)))
            }
            Change::Trim(at) => self.topics.contains_key(&at.topic),
            Change::Put(..) | Change::Delete(..) => true,
            Change::Enqueue(..) => false,
        };
        if applies {
            self.changes.extend_from_slice(&bytes[..bytes.len() - rest.len()]);
        }
        rest
    }

    fn touch(&mut self, topic: u32, partition: u32) -> Option<usize> {
        let (first, count) = self.topics.get(&topic)?;
        if partition >= *count {
            return None;
        }
        let index = first + partition as usize;
        let head = &mut self.heads[index];
        if !head.touched {
            head.touched = true;
            self.touched.push(index);
        }
        Some(index)
    }

    /// How many records the group holds; the next one's count begins.
    pub(crate) fn take_records(&mut self) -> u64 {
        std::mem::take(&mut self.records)
    }

    /// Lays the group out in `frame`; `false` when there is nothing to write.
    pub(crate) fn finish(&mut self, frame: &mut Frame) -> bool {
        frame.push_changes(&self.changes);
        self.changes.clear();
        for index in self.touched.drain(..) {
            let head = &mut self.heads[index];
            head.touched = false;
            head.placed.clear();
            for batch in head.closed.drain(..) {
                head.placed.push(frame.push_batch(head.topic, head.partition, &batch));
            }
            if !head.builder.is_empty() {
                let batch = head.builder.finish(self.epoch);
                head.placed.push(frame.push_batch(head.topic, head.partition, batch));
                head.builder.restart(head.next);
            }
        }
        !frame.body().is_empty()
    }

    /// The finished group's deliveries by lane, once its frame is on disk.
    pub(crate) fn deliveries(&mut self, frame: &Arc<Frame>, mut deliver: impl FnMut(usize, Delivery)) {
        for d in self.deliveries.drain(..) {
            let place = |(head, batch, position): (usize, usize, usize)| {
                (frame.clone(), self.heads[head].placed[batch] + position)
            };
            deliver(d.lane, Delivery::new((d.queue, d.sequence), d.entry, d.record.map(place)));
        }
    }
}

impl Head {
    /// Makes what was built so far a whole batch, so that another can follow it.
    fn close_builder(&mut self, epoch: i32) {
        if !self.builder.is_empty() {
            self.closed.push(self.builder.finish(epoch).to_vec());
            self.builder.restart(self.next);
        }
    }
}

/// Where a lane's append ends; `bytes` begin behind its kind.
fn append_end(bytes: &[u8]) -> usize {
    let body_at = 24 + u32_at(bytes, 16) as usize * Target::BYTES;
    body_at + u32_at(bytes, body_at - 4) as usize
}
