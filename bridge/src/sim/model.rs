//! What was asked for and what was acknowledged, and what must therefore be found.
//!
//! Every operation of a lane sets the lane's marker to its number, in the same operation. So the marker that is found
//! says which operations are there: all up to that number, whole, and none after it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::world::{MARKERS, STATE};
use crate::batch::{self, Header};
use crate::state::{Entry, Pointer};
use crate::{Bridge, Fetched, Partition, RecoveredQueue};

/// An operation's place: its lane and its number there, from 1.
pub type Place = (usize, u64);

/// What an operation did besides its marker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Appended a record to a partition, or to the hidden topic, with a pointer in each of these queues.
    Append { to: (u32, u32), queues: Vec<u64> },
    /// Opened a queue.
    Open(u64),
    /// Closed it, after what is in it went to another (sequence, queue).
    Close { queue: u64, moved: Vec<(u64, u64)> },
    /// (queue, sequence)
    Remove(u64, u64),
    /// (queue, sequence)
    Release(u64, u64),
    /// Set a key of the lane's own, or deleted it.
    Set(u64, Option<u64>),
    /// Kafka clients are to see nothing of a partition below an offset.
    Trim((u32, u32), i64),
    /// Deleted a topic.
    Delete(u32),
}

impl Deed {
    /// Whether it only removes or advances, and so goes on when the disk is full (J9).
    pub fn draws_on_the_reserve(&self) -> bool {
        !matches!(self, Deed::Append { .. } | Deed::Open(_) | Deed::Set(_, Some(_)))
    }
}

/// One lane's operations that may be there.
#[derive(Clone, Debug, Default)]
pub struct LaneModel {
    pub deeds: Vec<Deed>,
    /// Operations that were acknowledged.
    pub acknowledged: u64,
}

/// A queue entry as its owner was told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub place: Place,
    pub pointer: Pointer,
}

#[derive(Clone, Debug, Default)]
pub struct Model {
    pub lanes: Vec<LaneModel>,
    /// Delivered entries by queue and sequence.
    pub told: BTreeMap<(u64, u64), Told>,
    /// (topic, partition): its records by offset, as readers have seen them.
    pub seen: BTreeMap<(u32, u32), BTreeMap<i64, String>>,
    /// Topics that let go by themselves of what is too much.
    pub let_go: BTreeSet<u32>,
    /// Sequences of the idempotent producer: sent, acknowledged.
    pub produced: (i32, i32),
}

/// The payload of an operation's record: its place, and as many bytes as that says.
pub fn payload((lane, number): Place) -> String {
    let bytes = (number as usize).wrapping_mul(7919) % 1500;
    format!("{lane}/{number}/{}", "x".repeat(bytes))
}

fn place_of(value: &[u8]) -> Result<Place, String> {
    let text = std::str::from_utf8(value).map_err(|_| "a record nobody sent".to_owned())?;
    let mut parts = text.split('/');
    let mut number = || parts.next().and_then(|part| part.parse::<u64>().ok());
    match (number(), number()) {
        (Some(lane), Some(number)) if payload((lane as usize, number)) == text => Ok((lane as usize, number)),
        _ => Err(format!("a record nobody sent: {:.40}", text)),
    }
}

fn partition(bridge: &Bridge, (topic, partition): (u32, u32)) -> Result<Arc<Partition>, String> {
    let found = bridge.topics_and_hidden().into_iter().find(|one| one.id == topic).ok_or("the topic is gone")?;
    Ok(found.partitions[partition as usize].clone())
}

/// Everything readers see of a partition, as text by offset: from its log start on, without a gap.
pub fn read_all(bridge: &Bridge, at: (u32, u32)) -> Result<BTreeMap<i64, String>, String> {
    let partition = partition(bridge, at)?;
    let start = partition.log_start();
    let mut offset = start;
    let mut values = BTreeMap::new();
    while offset < partition.high_watermark() {
        let bytes = partition.read_blocking(offset, 64 << 10).map_err(|error| format!("a read: {error}"))?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let header = Header::parse(rest).map_err(|error| error.to_string())?;
            let (one, after) = rest.split_at_checked(header.total_bytes()).ok_or("a cut batch")?;
            if !batch::crc_ok(&header, one) {
                return Err(format!("offset {}: a batch whose CRC is wrong", header.base_offset));
            }
            let mut records = batch::records(one, &header);
            while let Some(record) = records.next().map_err(|error| error.to_string())? {
                if record.offset < start {
                    continue;
                }
                if record.offset != offset {
                    return Err(format!("offset {} where {offset} is due", record.offset));
                }
                values.insert(offset, String::from_utf8_lossy(record.value.unwrap_or_default()).into_owned());
                offset += 1;
            }
            rest = after;
        }
    }
    Ok(values)
}

impl Model {
    /// Compares what a start found with what must be there, and goes on from it.
    pub fn check(&mut self, bridge: &Bridge, producer_at: Option<(u32, u32)>) -> Result<(), String> {
        self.take_markers(bridge)?;
        self.check_state(bridge)?;
        let queues = bridge.take_recovered_queues();
        self.check_log(bridge, producer_at)?;
        self.check_queues(bridge, &queues)
    }

    /// Operations after those that are found never were; acknowledged ones must be among them.
    fn take_markers(&mut self, bridge: &Bridge) -> Result<(), String> {
        let markers: BTreeMap<_, _> = bridge.take_recovered(MARKERS).into_iter().collect();
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            let marker = markers.get(&[index as u8][..]).map_or(Ok(0), |value| number(value))?;
            if marker < lane.acknowledged {
                return Err(format!("lane {index}: {} were acknowledged, {marker} are there", lane.acknowledged));
            }
            if marker > lane.deeds.len() as u64 {
                return Err(format!("lane {index}: {marker} are there, {} were asked for", lane.deeds.len()));
            }
            lane.deeds.truncate(marker as usize);
            lane.acknowledged = marker;
        }
        Ok(())
    }

    fn check_state(&self, bridge: &Bridge) -> Result<(), String> {
        let mut expected: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        for (index, lane) in self.lanes.iter().enumerate() {
            for deed in &lane.deeds {
                match deed {
                    Deed::Set(key, Some(value)) => drop(expected.insert(key_of(index, *key), *value)),
                    Deed::Set(key, None) => drop(expected.remove(&key_of(index, *key))),
                    _ => {}
                }
            }
        }
        let mut found = BTreeMap::new();
        for (key, value) in bridge.take_recovered(STATE) {
            found.insert(key.into_vec(), number(&value)?);
        }
        if found != expected {
            return Err(format!("keyed state: {found:?} where {expected:?} is due"));
        }
        Ok(())
    }

    fn appends(&self) -> impl Iterator<Item = (Place, (u32, u32), &[u64])> {
        self.lanes.iter().enumerate().flat_map(|(lane, model)| {
            model.deeds.iter().zip(1..).filter_map(move |(deed, number)| match deed {
                Deed::Append { to, queues } => Some(((lane, number), *to, &queues[..])),
                _ => None,
            })
        })
    }

    fn check_log(&mut self, bridge: &Bridge, producer_at: Option<(u32, u32)>) -> Result<(), String> {
        let mut due: BTreeMap<(u32, u32), BTreeSet<Place>> = BTreeMap::new();
        for (place, to, _) in self.appends() {
            due.entry(to).or_default().insert(place);
        }
        let everywhere: BTreeSet<_> = due.keys().chain(self.seen.keys()).chain(&producer_at).copied().collect();
        // What queues need of the others is looked at with the queues.
        for at in everywhere {
            if at == bridge.hidden() || self.is_deleted(at.0) {
                continue;
            }
            let due = due.remove(&at).unwrap_or_default();
            let (trimmed, values) = self.check_start(bridge, at).map_err(|wrong| format!("{at:?}: {wrong}"))?;
            if producer_at == Some(at) {
                self.check_produced(&values)?;
            } else {
                let mut last = BTreeMap::new();
                let mut found = BTreeSet::new();
                for value in values.values() {
                    let (lane, number) = place_of(value.as_bytes())?;
                    if last.insert(lane, number).is_some_and(|before| before >= number) {
                        return Err(format!("{at:?}: lane {lane}'s {number} is twice there, or out of order"));
                    }
                    found.insert((lane, number));
                }
                if !found.is_subset(&due) || found.len() + trimmed as usize != due.len() {
                    let lost: Vec<_> = due.difference(&found).take(5).collect();
                    let strange: Vec<_> = found.difference(&due).take(5).collect();
                    let lost = format!("lost {lost:?}, {trimmed} of them trimmed");
                    return Err(format!("{at:?}: {lost}, there without their operation {strange:?}"));
                }
            }
            if !values.is_empty() {
                self.seen.entry(at).or_default().extend(values);
            }
        }
        Ok(())
    }

    /// Whether the deletion of a topic is among the operations that are there.
    pub fn is_deleted(&self, topic: u32) -> bool {
        self.lanes.iter().flat_map(|lane| &lane.deeds).any(|deed| *deed == Deed::Delete(topic))
    }

    /// A partition begins where it was trimmed, or where retention left it, and readers find what they saw.
    fn check_start(&self, bridge: &Bridge, at: (u32, u32)) -> Result<(i64, BTreeMap<i64, String>), String> {
        let start = partition(bridge, at)?.log_start();
        let values = read_all(bridge, at)?;
        let trims = self.lanes.iter().flat_map(|lane| &lane.deeds).filter_map(|deed| match deed {
            Deed::Trim(of, offset) if *of == at => Some(*offset),
            _ => None,
        });
        let trimmed = trims.max().unwrap_or(0);
        if start < trimmed || start > trimmed && !self.let_go.contains(&at.0) {
            return Err(format!("it starts at {start}, and was trimmed to {trimmed}"));
        }
        let seen = self.seen.get(&at);
        for (offset, value) in seen.into_iter().flatten().filter(|(offset, _)| **offset >= start) {
            if values.get(offset) != Some(value) {
                return Err(format!("readers saw at {offset} what is another now, or gone"));
            }
        }
        Ok((start, values))
    }

    /// Batches of the idempotent producer: each once, in order, and all that were acknowledged.
    fn check_produced(&self, values: &BTreeMap<i64, String>) -> Result<(), String> {
        let (sent, acknowledged) = self.produced;
        for (due, value) in values {
            if *value != format!("produced {due}") {
                return Err(format!("{value:?} where the producer's {due} is due"));
            }
        }
        let Some((last, _)) = values.last_key_value() else { return Ok(()) };
        let found = *last as i32 + 1;
        if found < acknowledged || found > sent {
            return Err(format!("the producer sent {sent}, {acknowledged} were acknowledged, {found} are there"));
        }
        Ok(())
    }

    fn check_queues(&mut self, bridge: &Bridge, found: &BTreeMap<u64, RecoveredQueue>) -> Result<(), String> {
        // Live entries by queue: what is in each, as the operations that are there say.
        let mut due: BTreeMap<u64, BTreeSet<Place>> = BTreeMap::new();
        let mut gone: BTreeSet<(u64, u64)> = BTreeSet::new();
        let mut released: BTreeSet<(u64, u64)> = BTreeSet::new();
        let mut moved: Vec<(u64, Place)> = Vec::new();
        let mut closed = BTreeSet::new();
        for deed in self.lanes.iter().flat_map(|lane| &lane.deeds) {
            match deed {
                Deed::Open(queue) => drop(due.insert(*queue, BTreeSet::new())),
                Deed::Remove(queue, sequence) => drop(gone.insert((*queue, *sequence))),
                Deed::Release(queue, sequence) => drop(released.insert((*queue, *sequence))),
                Deed::Close { queue, moved: moves } => {
                    closed.insert(*queue);
                    for (sequence, to) in moves {
                        let told = self.told.get(&(*queue, *sequence)).ok_or("moved and never told of")?;
                        moved.push((*to, told.place));
                    }
                }
                Deed::Append { .. } | Deed::Set(..) | Deed::Trim(..) | Deed::Delete(_) => {}
            }
        }
        closed.iter().for_each(|queue| drop(due.remove(queue)));
        for (place, _, queues) in self.appends() {
            for queue in queues {
                due.get_mut(queue).map(|due| due.insert(place));
            }
        }
        for (queue, place) in moved {
            due.get_mut(&queue).map(|due| due.insert(place));
        }
        // The queue of a session that never came to be may hold nothing.
        let (is, must): (Vec<_>, Vec<_>) = (found.keys().collect(), due.keys().collect());
        if is != must {
            return Err(format!("queues {is:?} where {must:?} are due"));
        }
        let mut reader = bridge.reader();
        for (queue, held) in found {
            let mut places = BTreeSet::new();
            for (sequence, entry) in &held.entries {
                if *sequence >= held.next {
                    return Err(format!("queue {queue}: entry {sequence}, and the next is {}", held.next));
                }
                if entry.released != released.contains(&(*queue, *sequence)) {
                    return Err(format!("queue {queue}, entry {sequence}: released is {}", entry.released));
                }
                let told = self.told.get(&(*queue, *sequence));
                let place = match (entry.released, told) {
                    // Its record is meaningless; who owns it was told of it, or it could not be released.
                    (true, told) => told.ok_or("released and never told of")?.place,
                    (false, told) => {
                        let place = read_place(&mut reader, entry)?;
                        if told.is_some_and(|told| told.place != place) {
                            return Err(format!("queue {queue}, entry {sequence}: another message than before"));
                        }
                        self.told.insert((*queue, *sequence), Told { place, pointer: entry.pointer });
                        place
                    }
                };
                if gone.contains(&(*queue, *sequence)) || !places.insert(place) {
                    return Err(format!("queue {queue}, entry {sequence}: removed, or there twice"));
                }
            }
            let told = self.told.range((*queue, 0)..=(*queue, u64::MAX)).next_back();
            if told.is_some_and(|((_, sequence), _)| *sequence >= held.next) {
                return Err(format!("queue {queue}: its next sequence {} was given before", held.next));
            }
            let mut due = due.remove(queue).unwrap_or_default();
            for ((_, sequence), told) in self.told.range((*queue, 0)..=(*queue, u64::MAX)) {
                if gone.contains(&(*queue, *sequence)) {
                    due.remove(&told.place);
                }
            }
            if places != due {
                let lost: Vec<_> = due.difference(&places).take(5).collect();
                let strange: Vec<_> = places.difference(&due).take(5).collect();
                return Err(format!("queue {queue}: lost {lost:?}, there and not due {strange:?}"));
            }
        }
        Ok(())
    }
}

/// The place of the record behind an entry.
pub fn read_place(reader: &mut crate::Reader, entry: &Entry) -> Result<Place, String> {
    match reader.get(&entry.pointer) {
        Ok(Fetched::Record(record)) => place_of(record.value.unwrap_or_default()),
        other => Err(format!("{:?} leads to {other:?}", entry.pointer)),
    }
}

/// The place of a record that is delivered from memory.
pub fn place_of_delivery(record: &batch::Record<'_>) -> Result<Place, String> {
    place_of(record.value.unwrap_or_default())
}

pub fn key_of(lane: usize, key: u64) -> Vec<u8> {
    [&[lane as u8][..], &key.to_be_bytes()].concat()
}

fn number(value: &[u8]) -> Result<u64, String> {
    value.try_into().map(u64::from_be_bytes).map_err(|_| "a value nobody set".to_owned())
}
