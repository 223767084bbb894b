//! How old a record is, by a wall clock that may be wrong (R5).

use std::time::Duration;

/// A clock that moves by more than this beside the one that never jumps was set.
const JUMP_MS: i64 = 60 * 60 * 1000;
/// The beginning of 2020: what says it is older was made by a clock that nobody had set.
const SET_FROM_MS: i64 = 1_577_836_800_000;

/// The time: of the wall clock, in milliseconds since 1970, and since the process began.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// What records are stamped with; may be set.
    pub wall_ms: i64,
    /// Never set.
    pub up: Duration,
}

/// By which ages are told. When the clock is set by over an hour, everything counts as made at that moment: a gateway that
/// starts in 1970 and then learns the time does not throw away what it took in between. When it learns it while nobody
/// looks, what was made before 2020 counts as made when this process began.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ages {
    now_ms: i64,
    began_ms: i64,
    last: Option<(i64, Duration)>,
    /// Nothing counts as older than this.
    pub since_ms: i64,
}

impl Ages {
    /// Goes on from what was stored.
    pub fn since(since_ms: i64) -> Ages {
        Ages { since_ms, ..Ages::default() }
    }

    /// Takes note of the time; whether the clock was set meanwhile.
    pub fn look(&mut self, now: Now) -> bool {
        let expected = self.last.map(|(wall_ms, up)| wall_ms + now.up.saturating_sub(up).as_millis() as i64);
        let was_set = expected.is_some_and(|expected| (now.wall_ms - expected).abs() > JUMP_MS);
        if was_set {
            self.since_ms = now.wall_ms;
        }
        if self.last.is_none() {
            self.began_ms = now.wall_ms;
        }
        self.now_ms = now.wall_ms;
        self.last = Some((now.wall_ms, now.up));
        was_set
    }

    /// The wall clock's, when it was last looked at.
    pub fn now_ms(&self) -> i64 {
        self.now_ms
    }

    /// Whether what was made at `made_ms` is older than `age_ms`.
    pub fn is_older(&self, made_ms: i64, age_ms: u64) -> bool {
        let age_ms = i64::try_from(age_ms).unwrap_or(i64::MAX);
        let by_unset_clock = made_ms < SET_FROM_MS && self.now_ms >= SET_FROM_MS;
        let made_ms = if by_unset_clock { self.began_ms } else { made_ms };
        self.now_ms.saturating_sub(made_ms.max(self.since_ms)) > age_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(wall_ms: i64, up_s: u64) -> Now {
        Now { wall_ms, up: Duration::from_secs(up_s) }
    }

    #[test]
    fn a_clock_that_is_set_makes_nothing_old() {
        let day_ms = 24 * 60 * 60 * 1000;
        let mut ages = Ages::default();
        assert!(!ages.look(at(5_000, 10)));
        assert!(!ages.look(at(65_000, 70)));
        assert!(ages.is_older(5_000, 50_000));
        assert!(ages.look(at(20_000 * day_ms, 80)), "it learns the time");
        assert!(!ages.is_older(5_000, 50_000));
        assert!(!ages.look(at(20_000 * day_ms + 60_000, 140)));
        assert!(ages.is_older(5_000, 50_000), "a minute has gone by since");
        assert!(ages.look(at(19_000 * day_ms, 150)), "and back");
        assert!(!ages.is_older(20_000 * day_ms, 0));
        assert!(!ages.is_older(i64::MIN, u64::MAX));
    }

    #[test]
    fn what_was_made_by_a_clock_that_nobody_had_set_counts_from_the_start() {
        let day_ms = 24 * 60 * 60 * 1000;
        let now_ms = 20_000 * day_ms;
        let mut ages = Ages::default();
        ages.look(at(now_ms, 0));
        assert!(!ages.is_older(5_000, 50_000) && ages.is_older(now_ms - 60_000, 50_000));
        ages.look(at(now_ms + 60_000, 60));
        assert!(ages.is_older(5_000, 50_000));
        // Nobody ever sets it: then it is as good as any.
        let mut ages = Ages::default();
        ages.look(at(5_000, 0));
        ages.look(at(8 * day_ms, 8 * 24 * 60 * 60));
        assert!(!ages.is_older(8 * day_ms - 1_000, 50_000) && ages.is_older(7 * day_ms, 50_000));
        // What is to come is not old, however long this process has run.
        assert!(!ages.is_older(now_ms, 50_000));
    }
}
