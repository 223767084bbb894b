//! A seeded random number generator, so that a failed run can be replayed from its seed.

use std::time::{SystemTime, UNIX_EPOCH};

/// The number that an environment variable holds, if it is set.
pub fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// The seed that an environment variable holds, else one that was not used before.
pub fn seed_from(variable: &str) -> u64 {
    let from_clock = || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.expect("after 1970").as_nanos() as u64
    };
    number_from(variable).unwrap_or_else(from_clock)
}

/// SplitMix64: small, and good enough to choose moments.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The generator of this seed.
    pub fn seeded(seed: u64) -> Random {
        Random(seed)
    }

    /// The next number, uniform in `low..high`.
    pub fn within(&mut self, low: u64, high: u64) -> u64 {
        assert!(low < high, "an empty range {low}..{high}");
        low + self.next() % (high - low)
    }

    /// Bytes without any pattern.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    #[test]
    fn a_seed_replays() {
        let draw = |seed| {
            let mut random = Random::seeded(seed);
            (0..8).map(|_| random.within(10, 1000)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert!(draw(7).iter().all(|n| (10..1000).contains(n)));
    }
}
