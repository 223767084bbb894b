//! The time in a simulation: given, not read.

use std::cell::Cell;
use std::time::Duration;

use crate::shard::Now;

thread_local! {
    static NOW: Cell<Option<Now>> = const { Cell::new(None) };
}

/// What a shard of this thread reads, if a simulation runs here.
pub fn read() -> Option<Now> {
    NOW.get()
}

/// The clocks of a simulated machine. Time goes on over restarts; the wall clock may be set.
#[derive(Debug)]
pub struct Clock {
    /// Milliseconds since the simulation began: what really passes.
    pub passed_ms: u64,
    /// What the wall clock says beyond that.
    wall_ahead_ms: i64,
    /// When the process started.
    started_ms: u64,
}

impl Clock {
    pub fn new() -> Clock {
        let clock = Clock { passed_ms: 0, wall_ahead_ms: 1_800_000_000_000, started_ms: 0 };
        clock.show();
        clock
    }

    /// Time passes.
    pub fn pass(&mut self, ms: u64) {
        self.passed_ms += ms;
        self.show();
    }

    /// Somebody sets the wall clock.
    pub fn set_wall(&mut self, by_ms: i64) {
        self.wall_ahead_ms += by_ms;
        self.show();
    }

    /// A process starts.
    pub fn start(&mut self) {
        self.started_ms = self.passed_ms;
        self.show();
    }

    /// As the bridge has it.
    pub fn now(&self) -> bridge::log::Now {
        let up = Duration::from_millis(self.passed_ms - self.started_ms);
        bridge::log::Now { wall_ms: self.wall_ahead_ms + self.passed_ms as i64, up }
    }

    fn show(&self) {
        let unix_ms = self.wall_ahead_ms + self.passed_ms as i64;
        let up_ms = self.passed_ms - self.started_ms;
        NOW.set(Some(Now { unix_ms, unix_s: (unix_ms / 1000) as u32, up_ms }));
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        NOW.set(None);
    }
}
