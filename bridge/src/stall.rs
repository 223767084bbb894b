//! How long the operation of the disk has been under way that a thread is at: a disk that takes seconds is to be seen
//! while it does, not afterwards.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// A write or sync that takes longer is told of: SD cards are known to take a second now and then.
pub const STALL: Duration = Duration::from_secs(5);

thread_local! {
    static OURS: RefCell<Option<Arc<UnderWay>>> = const { RefCell::new(None) };
}

/// When the operation began that one thread is at: in milliseconds of the process, plus one; 0: it is at none.
#[derive(Debug, Default)]
pub(crate) struct UnderWay(AtomicU64);

impl UnderWay {
    fn age(&self) -> Duration {
        match self.0.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis((now_ms() + 1).saturating_sub(since)),
        }
    }
}

/// From here on what this thread does to the disk is told there.
pub(crate) fn tell_of_this_thread(under_way: &Arc<UnderWay>) {
    OURS.set(Some(under_way.clone()));
}

/// Does something to the disk.
pub(crate) fn watched<T>(operation: impl FnOnce() -> T) -> T {
    let say = |since| {
        OURS.with_borrow(|ours| {
            if let Some(UnderWay(at)) = ours.as_deref() {
                at.store(since, Ordering::Relaxed);
            }
        });
    };
    say(now_ms() + 1);
    let done = operation();
    say(0);
    done
}

fn now_ms() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis() as u64
}

/// What the threads of a [`Bridge`](crate::Bridge) are at.
#[derive(Debug, Default)]
pub(crate) struct Stalls {
    pub(crate) commit: Arc<UnderWay>,
    pub(crate) apply: Arc<UnderWay>,
    pub(crate) checkpoint: Arc<UnderWay>,
}

impl Stalls {
    /// By thread, how long its operation has been under way.
    pub(crate) fn ages(&self) -> [(&'static str, Duration); 3] {
        [("commit", self.commit.age()), ("apply", self.apply.age()), ("checkpoint", self.checkpoint.age())]
    }

    /// The longest, if it is too long.
    pub(crate) fn worst(&self) -> Option<(&'static str, Duration)> {
        self.ages().into_iter().filter(|(_, age)| *age >= STALL).max_by_key(|(_, age)| *age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_seen_while_it_lasts() {
        let stalls = Stalls::default();
        let under_way = stalls.apply.clone();
        std::thread::spawn(move || {
            tell_of_this_thread(&under_way);
            watched(|| {
                std::thread::sleep(Duration::from_millis(5));
                assert!(under_way.age() >= Duration::from_millis(4), "{:?}", under_way.age());
            });
            assert_eq!(under_way.age(), Duration::ZERO);
        })
        .join()
        .expect("as asserted");
        stalls.apply.0.store(1, Ordering::Relaxed);
        let (_, age) = stalls.ages()[1];
        assert_eq!(stalls.worst().is_some(), age >= STALL);
        assert_eq!(stalls.ages()[0], ("commit", Duration::ZERO));
    }
}
