//! Where the newest record of each key is, in bounded memory.

use std::collections::{HashMap, HashSet};

use ahash::RandomState;

/// Keys at most: with the 24 bytes of an entry and one of its table's, 13 MiB.
pub(super) const KEYS_MAX: usize = if cfg!(test) { 8 } else { 448 << 10 };
/// Keys held back at most; beyond them all are.
const HELD_BACK_MAX: usize = if cfg!(test) { 4 } else { 64 << 10 };

/// Stands for a key. 128 bits under seeds that nobody outside knows: two keys do not come out the same, neither by
/// chance nor because somebody wants them to.
pub(super) type Hash = [u64; 2];

/// Offsets by key.
pub(super) struct Newest {
    seeds: [RandomState; 2],
    offsets: HashMap<Hash, i64, RandomState>,
    /// Keys of which an older record stays for a queue: their tombstones stay too.
    held_back: HashSet<Hash, RandomState>,
    all_held_back: bool,
}

impl Newest {
    pub(super) fn new() -> Newest {
        Newest {
            seeds: [RandomState::new(), RandomState::new()],
            offsets: HashMap::default(),
            held_back: HashSet::default(),
            all_held_back: false,
        }
    }

    pub(super) fn hash(&self, key: &[u8]) -> Hash {
        [self.seeds[0].hash_one(key), self.seeds[1].hash_one(key)]
    }

    /// Takes note of a record; `false` when there are so many keys already, and this is another.
    pub(super) fn note(&mut self, key: &[u8], offset: i64, keys_max: usize) -> bool {
        let hash = self.hash(key);
        if let Some(newest) = self.offsets.get_mut(&hash) {
            *newest = offset.max(*newest);
            return true;
        }
        let has_room = self.offsets.len() < keys_max;
        if has_room {
            self.offsets.insert(hash, offset);
        }
        has_room
    }

    /// The newest record of a key, as far as is known.
    pub(super) fn of(&self, hash: Hash) -> Option<i64> {
        self.offsets.get(&hash).copied()
    }

    /// A record stays that a newer one may have replaced.
    pub(super) fn hold_back(&mut self, hash: Hash) {
        if self.held_back.len() >= HELD_BACK_MAX {
            return self.hold_back_all();
        }
        self.held_back.insert(hash);
    }

    /// Records stay whose keys are not known.
    pub(super) fn hold_back_all(&mut self) {
        self.all_held_back = true;
    }

    pub(super) fn is_held_back(&self, hash: Hash) -> bool {
        self.all_held_back || self.held_back.contains(&hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_so_many_keys_and_no_more() {
        let mut newest = Newest::new();
        for offset in 0..KEYS_MAX as i64 {
            assert!(newest.note(&offset.to_be_bytes(), offset, KEYS_MAX));
        }
        assert!(!newest.note(b"another", 900, KEYS_MAX));
        assert!(newest.note(&0i64.to_be_bytes(), 901, KEYS_MAX), "known ones move on");
        assert!(newest.note(&1i64.to_be_bytes(), 0, KEYS_MAX), "and not back");
        let of = |key: i64| newest.of(newest.hash(&key.to_be_bytes()));
        assert_eq!((of(0), of(1), of(-1)), (Some(901), Some(1), None));
    }

    #[test]
    fn beyond_so_many_all_keys_are_held_back() {
        let mut newest = Newest::new();
        let hashes: Vec<Hash> = (0..=HELD_BACK_MAX as u64).map(|n| newest.hash(&n.to_be_bytes())).collect();
        let last = hashes[HELD_BACK_MAX];
        hashes[..HELD_BACK_MAX].iter().for_each(|hash| newest.hold_back(*hash));
        assert!(newest.is_held_back(hashes[0]) && !newest.is_held_back(last));
        newest.hold_back(last);
        assert!(newest.is_held_back(last) && newest.is_held_back([7, 7]));
    }
}
