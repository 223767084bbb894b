//! A simulation of everything that must survive a crash: the journal, the log, keyed state, queues and producers
//! run step by step on a disk that forgets, tears and fails, all of it from one seed; a model knows what has to be
//! there afterwards.
//!
//! - [`disk`]: the disk; [`steps`]: what the threads do; [`baton`]: a checkpoint goes on between other steps
//! - `world`: what is done, and when it crashes
//! - `model`: what must be found; `compacted`: in topics where compaction goes on beside
//! - `groups`: a consumer group and its committed offsets, likewise; `written`: durability "os"
//! - [`mutation`]: the rules that can be switched off, to see that it notices
//!
//! The simulation of the broker has its own world and model, on the same disk and steps.
//!
//! `cargo test -p millstream-bridge sim` runs the seeds of `MILLSTREAM_SIM_SEEDS` (as `7` or `0..20000`, by default
//! `0..300`). A seed that fails is named; it does the same again.

mod baton;
#[cfg(test)]
mod compacted;
pub mod disk;
#[cfg(test)]
mod groups;
#[cfg(test)]
mod model;
pub mod mutation;
pub mod random;
pub mod steps;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;
#[cfg(test)]
mod written;

use std::sync::atomic::{AtomicBool, Ordering};

/// Set for good with the first simulated disk.
static SIMULATED: AtomicBool = AtomicBool::new(false);

/// Whether this process simulates: what it writes is small.
pub(crate) fn is_simulated() -> bool {
    SIMULATED.load(Ordering::Relaxed)
}

fn simulate() {
    SIMULATED.store(true, Ordering::Relaxed);
}

/// The seeds of `MILLSTREAM_SIM_SEEDS`, or those before `many`.
pub fn seeds(many: u64) -> std::ops::Range<u64> {
    let wanted = std::env::var("MILLSTREAM_SIM_SEEDS").unwrap_or_else(|_| format!("0..{many}"));
    let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("MILLSTREAM_SIM_SEEDS={wanted} is no range"));
    match wanted.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => number(&wanted)..number(&wanted) + 1,
    }
}

/// What a run said that panicked.
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    text.unwrap_or_else(|| "it panicked".to_owned())
}
