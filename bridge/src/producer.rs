//! Idempotent producers: which batches of theirs are in the log (Kafka's rules, trap 9 in kafka-wire.md).
//! Pure; kept as keyed state per topic, partition and producer id.

use std::collections::HashMap;

use crate::batch::Header;
use crate::state::{put_number, take_number, take_u32};

/// Batches remembered per producer and partition: as many as a client may have in flight.
const REMEMBERED_MAX: usize = 5;

/// (topic id, partition, producer id)
pub type Key = (u32, u32, i64);

/// What a batch turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its producer has no id: nothing to check.
    NotIdempotent,
    /// The next one: append it and [`Producers::remember`] it.
    Next,
    /// Sent before; its original's base offset.
    Duplicate(i64),
    /// Its sequence does not follow.
    OutOfOrder,
    /// Its producer has been fenced by a newer epoch.
    OldEpoch,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    epoch: i16,
    /// (first sequence, last sequence, base offset), oldest first; never empty.
    batches: Vec<(i32, i32, i64)>,
}

/// Every producer's state.
#[derive(Debug, Default)]
pub struct Producers {
    states: HashMap<Key, State>,
}

impl Producers {
    /// Judges a batch against what is remembered.
    pub fn check(&self, topic: u32, partition: u32, header: &Header) -> Verdict {
        if header.producer_id < 0 {
            return Verdict::NotIdempotent;
        }
        if header.producer_epoch < 0 || header.base_sequence < 0 {
            return Verdict::OutOfOrder;
        }
        let known = self.states.get(&(topic, partition, header.producer_id));
        let Some(state) = known.filter(|_| !off!(ProducerRepeat)) else { return Verdict::Next };
        if header.producer_epoch < state.epoch {
            return Verdict::OldEpoch;
        }
        if header.producer_epoch > state.epoch {
            return if header.base_sequence == 0 { Verdict::Next } else { Verdict::OutOfOrder };
        }
        let range = sequences(header);
        if let Some((_, _, offset)) = state.batches.iter().find(|(first, last, _)| (*first, *last) == range) {
            return Verdict::Duplicate(*offset);
        }
        match state.batches.last() {
            Some((_, last, _)) if after(*last, 1) == range.0 => Verdict::Next,
            _ => Verdict::OutOfOrder,
        }
    }

    /// Takes note of an appended batch; gives key and value to be stored.
    pub fn remember(&mut self, topic: u32, partition: u32, header: &Header, base_offset: i64) -> (Vec<u8>, Vec<u8>) {
        let key = (topic, partition, header.producer_id);
        let fresh = State { epoch: header.producer_epoch, batches: Vec::new() };
        let state = self.states.entry(key).or_insert_with(|| fresh.clone());
        if state.epoch != header.producer_epoch {
            *state = fresh;
        }
        if state.batches.len() == REMEMBERED_MAX {
            state.batches.remove(0);
        }
        let (first, last) = sequences(header);
        state.batches.push((first, last, base_offset));
        (encode_key(&key), encode_state(state))
    }

    /// Forgets what is known of a topic; the keys that were stored.
    pub fn forget_topic(&mut self, topic: u32) -> Vec<Vec<u8>> {
        let gone = self.states.extract_if(|key, _| key.0 == topic);
        gone.map(|(key, _)| encode_key(&key)).collect()
    }

    /// Takes in what was stored; `None` when it is not of ours.
    pub fn restore(&mut self, mut key: &[u8], mut value: &[u8]) -> Option<()> {
        let key = (take_u32(&mut key)?, take_u32(&mut key)?, i64::try_from(take_number(&mut key)?).ok()?);
        let epoch = i16::try_from(take_number(&mut value)?).ok()?;
        let mut batches = Vec::new();
        while !value.is_empty() {
            let first = i32::try_from(take_number(&mut value)?).ok()?;
            let last = i32::try_from(take_number(&mut value)?).ok()?;
            batches.push((first, last, i64::try_from(take_number(&mut value)?).ok()?));
        }
        self.states.insert(key, State { epoch, batches });
        Some(())
    }
}

fn sequences(header: &Header) -> (i32, i32) {
    (header.base_sequence, after(header.base_sequence, header.last_offset_delta))
}

/// Sequences wrap from i32::MAX to 0.
fn after(sequence: i32, steps: i32) -> i32 {
    ((i64::from(sequence) + i64::from(steps)) & i64::from(i32::MAX)) as i32
}

fn encode_key(key: &Key) -> Vec<u8> {
    let mut out = Vec::new();
    for number in [key.0.into(), key.1.into(), key.2 as u64] {
        put_number(&mut out, number);
    }
    out
}

fn encode_state(state: &State) -> Vec<u8> {
    let mut out = Vec::new();
    put_number(&mut out, state.epoch as u64);
    for (first, last, offset) in &state.batches {
        for number in [*first as u64, *last as u64, *offset as u64] {
            put_number(&mut out, number);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(epoch: i16, first: i32, records: i32) -> Header {
        Header {
            base_offset: 0,
            length: 0,
            leader_epoch: 0,
            crc: 0,
            attributes: 0,
            last_offset_delta: records - 1,
            base_timestamp: 0,
            max_timestamp: 0,
            producer_id: 9,
            producer_epoch: epoch,
            base_sequence: first,
            record_count: records,
        }
    }

    #[test]
    fn a_retry_is_known_and_a_gap_refused_also_after_a_restart() {
        let mut producers = Producers::default();
        assert_eq!(producers.check(1, 0, &batch(0, 7, 3)), Verdict::Next, "an unknown producer takes any sequence");
        let (key, value) = producers.remember(1, 0, &batch(0, 7, 3), 100);
        let mut again = Producers::default();
        again.restore(&key, &value).expect("ours");
        for known in [&producers, &again] {
            assert_eq!(known.check(1, 0, &batch(0, 7, 3)), Verdict::Duplicate(100));
            assert_eq!(known.check(1, 0, &batch(0, 10, 1)), Verdict::Next);
            assert_eq!(known.check(1, 0, &batch(0, 11, 1)), Verdict::OutOfOrder);
            assert_eq!(known.check(1, 0, &batch(1, 0, 1)), Verdict::Next, "a new epoch starts at 0");
            assert_eq!(known.check(1, 0, &batch(1, 5, 1)), Verdict::OutOfOrder);
            assert_eq!(known.check(1, 1, &batch(0, 0, 1)), Verdict::Next, "partitions are apart");
        }
    }

    #[test]
    fn an_old_epoch_is_fenced_and_sequences_wrap() {
        let mut producers = Producers::default();
        producers.remember(1, 0, &batch(3, i32::MAX - 1, 2), 0);
        assert_eq!(producers.check(1, 0, &batch(2, 0, 1)), Verdict::OldEpoch);
        assert_eq!(producers.check(1, 0, &batch(3, 0, 1)), Verdict::Next);
    }

    #[test]
    fn the_last_five_are_remembered() {
        let mut producers = Producers::default();
        for i in 0..7 {
            producers.remember(1, 0, &batch(0, i, 1), i64::from(i));
        }
        assert_eq!(producers.check(1, 0, &batch(0, 1, 1)), Verdict::OutOfOrder);
        assert_eq!(producers.check(1, 0, &batch(0, 2, 1)), Verdict::Duplicate(2));
    }
}
