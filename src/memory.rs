//! Memory that was needed once goes back to the system.

#[cfg(target_env = "gnu")]
pub use glibc::give_back;

#[cfg(target_env = "gnu")]
mod glibc {
    use std::time::Duration;

    use rustix::time::{ClockId, clock_gettime};
    use tokio::time::{MissedTickBehavior, interval};

    /// How often it is seen to.
    const INTERVAL: Duration = Duration::from_secs(3);
    /// Processor time of all threads in that time above which the process is busy.
    const BUSY: Duration = Duration::from_millis(1500);

    unsafe extern "C" {
        /// malloc_trim(3).
        fn malloc_trim(pad_bytes: usize) -> i32;
    }

    /// glibc gives back what lies at the end of a thread's heap, and keeps the rest: ten thousand connections that
    /// came and went leave their memory behind for as long as the process runs, below whatever was allocated last.
    /// A heap is locked meanwhile (a fraction of a millisecond, some for each MiB that goes), and a busy process will
    /// need it again soon: so only when there is little to do.
    pub async fn give_back() {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before = processor_time();
        loop {
            ticks.tick().await;
            let used = processor_time();
            if used.saturating_sub(before) < BUSY {
                // SAFETY: it takes a number and may be called at any time by any thread.
                unsafe { malloc_trim(0) };
            }
            before = used;
        }
    }

    fn processor_time() -> Duration {
        let used = clock_gettime(ClockId::ProcessCPUTime);
        Duration::try_from(used).unwrap_or_default()
    }
}

/// mimalloc does so by itself.
#[cfg(not(target_env = "gnu"))]
pub async fn give_back() {
    std::future::pending().await
}
