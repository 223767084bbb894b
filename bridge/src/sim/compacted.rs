//! What must be found in a compacted partition: of each key the last record, at the offset where it was; a tombstone for
//! its time; nothing twice, nothing that was not there.

use std::collections::{BTreeMap, BTreeSet};

use super::model::{Model, Place, place_of_text};
use crate::batch::Record;

/// How long a compacted topic keeps tombstones.
pub const DELETE_RETENTION_MS: i64 = 30_000;

/// A record of a compacted topic, as text: what is compared when it is read again.
pub fn text_of(record: &Record<'_>, place: &str) -> String {
    let key = record.key.and_then(|key| key.try_into().ok()).map_or(u64::MAX, u64::from_be_bytes);
    let is_tombstone = u8::from(record.value.is_none());
    format!("{key}|{is_tombstone}|{}|{place}", record.timestamp_ms)
}

struct Keyed {
    key: u64,
    is_tombstone: bool,
    place: Place,
}

fn parse(text: &str) -> Result<Keyed, String> {
    let strange = || format!("a record nobody sent: {text:.40}");
    let mut parts = text.splitn(4, '|');
    let key = parts.next().and_then(|key| key.parse().ok()).ok_or_else(strange)?;
    let is_tombstone = parts.next().ok_or_else(strange)? == "1";
    parts.next();
    let place = place_of_text(parts.next().ok_or_else(strange)?)?;
    Ok(Keyed { key, is_tombstone, place })
}

impl Model {
    /// Compares what is found of a compacted partition with what was seen of it, and takes note of what is new.
    pub fn check_compacted(&mut self, at: (u32, u32), start: i64, found: &BTreeMap<i64, String>) -> Result<(), String> {
        let steady_ms = self.steady_ms;
        let seen = self.seen.entry(at).or_default();
        let last_seen = seen.last_key_value().map_or(-1, |(offset, _)| *offset);
        for (offset, text) in found {
            match seen.get(offset) {
                Some(before) if before == text => {}
                None if *offset > last_seen => {}
                _ => return Err(format!("{at:?}: readers saw at {offset} what is another now, or nothing")),
            }
        }
        for (offset, text) in found.range(last_seen + 1..) {
            seen.insert(*offset, text.clone());
            self.seen_since.insert((at, *offset), steady_ms);
        }
        // By key, from the last record back.
        let mut newest: BTreeMap<u64, (i64, bool)> = BTreeMap::new();
        let mut found_later: BTreeSet<u64> = BTreeSet::new();
        for (offset, text) in self.seen[&at].range(start..).rev() {
            let Keyed { key, is_tombstone, .. } = parse(text)?;
            let (last, is_deleted) = *newest.entry(key).or_insert((*offset, is_tombstone));
            if found.contains_key(offset) {
                found_later.insert(key);
            } else if !found_later.contains(&key) {
                let age_ms = steady_ms - self.seen_since[&(at, last)];
                if !is_deleted || age_ms <= DELETE_RETENTION_MS {
                    let what = if is_deleted { "tombstone" } else { "record" };
                    return Err(format!("{at:?}: key {key}: its last {what}, at {last}, is gone after {age_ms} ms"));
                }
            }
        }
        Ok(())
    }

    /// Everything that was appended was seen, once and in the order of its lane.
    pub fn check_places(&self, at: (u32, u32), due: &BTreeSet<Place>) -> Result<(), String> {
        let mut places = BTreeSet::new();
        let mut last = BTreeMap::new();
        for text in self.seen.get(&at).into_iter().flat_map(BTreeMap::values) {
            let (lane, number) = parse(text)?.place;
            if last.insert(lane, number).is_some_and(|before| before >= number) {
                return Err(format!("{at:?}: lane {lane}'s {number} is twice there, or out of order"));
            }
            places.insert((lane, number));
        }
        match places == *due {
            true => Ok(()),
            false => Err(format!(
                "{at:?}: lost {:?}, there without their operation {:?}",
                due.difference(&places).take(5).collect::<Vec<_>>(),
                places.difference(due).take(5).collect::<Vec<_>>()
            )),
        }
    }
}
