//! Whether anything more is taken that has to be written: only while the disk has room for it (J9), and while the
//! journal can be written at all (J8). What only removes or advances is not asked about, and draws on the reserve.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::disk::DiskError;

/// To be taken again there must be more room than to be taken on, by this part of the reserve.
const SLACK: u64 = 8;

/// Who tries again and again what the disk refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// A group that is to be committed.
    Commit,
    /// A frame that is to be applied.
    Apply,
    /// A checkpoint.
    Checkpoint,
    /// A spare journal file.
    Spare,
}

/// Why durable work is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shut {
    /// The disk has not enough room.
    Full {
        /// Bytes it has for us.
        free: u64,
        /// Bytes it should have: what is journaled and not yet checkpointed, and the reserve.
        needed: u64,
    },
    /// The disk refuses, and is asked again.
    Refused(String),
    /// The journal failed.
    Failed,
}

impl fmt::Display for Shut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Shut::Full { free, needed } => {
                write!(f, "the disk is full: {free} bytes are free, {needed} are needed (disk_reserve_bytes)")
            }
            Shut::Refused(why) => write!(f, "the disk takes nothing: {why}"),
            Shut::Failed => f.write_str("the journal failed"),
        }
    }
}

/// Asked before anything is routed that has to be written.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    reserve_bytes: u64,
    /// What all others go by; changed under `state`.
    is_shut: AtomicBool,
    /// Whether anyone waits; so that nobody who does not has to lock.
    anyone_waits: AtomicBool,
    free_bytes: AtomicU64,
    needed_bytes: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By who waits, what the disk said.
    refused: [Option<String>; 4],
    is_full: bool,
    has_failed: bool,
}

impl Admission {
    pub(crate) fn new(reserve_bytes: u64) -> Admission {
        Admission { reserve_bytes, ..Admission::default() }
    }

    /// Whether durable work is taken; one load.
    pub(crate) fn is_open(&self) -> bool {
        !self.is_shut.load(Ordering::Relaxed)
    }

    /// Why not, if so.
    pub(crate) fn shut(&self) -> Option<Shut> {
        let state = self.state.lock();
        if state.has_failed {
            return Some(Shut::Failed);
        }
        if let Some(why) = state.refused.iter().flatten().next() {
            return Some(Shut::Refused(why.clone()));
        }
        let (free, needed) = self.bytes();
        state.is_full.then_some(Shut::Full { free, needed })
    }

    /// Bytes free, and bytes needed, as of the last look.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.free_bytes.load(Ordering::Relaxed), self.needed_bytes.load(Ordering::Relaxed))
    }

    /// So much is free, and so much is journaled and not checkpointed.
    pub(crate) fn look(&self, free: u64, uncheckpointed: u64) {
        let needed = uncheckpointed.saturating_add(self.reserve_bytes);
        self.free_bytes.store(free, Ordering::Relaxed);
        self.needed_bytes.store(needed, Ordering::Relaxed);
        let mut state = self.state.lock();
        let slack = if state.is_full { self.reserve_bytes / SLACK } else { 0 };
        state.is_full = free <= needed.saturating_add(slack);
        self.decide(&state);
    }

    /// The disk refuses what `who` has to write. Whether that is new.
    pub(crate) fn refused(&self, who: Waiting, error: &DiskError) -> bool {
        let mut state = self.state.lock();
        let is_new = state.refused[who as usize].replace(error.to_string()).is_none();
        self.decide(&state);
        is_new
    }

    /// It was written. The next look decides whether there is room for more.
    pub(crate) fn written(&self, who: Waiting) {
        if self.anyone_waits.load(Ordering::Relaxed) {
            let mut state = self.state.lock();
            if state.refused[who as usize].take().is_some() {
                // Not before it was looked at how much room there is.
                state.is_full = true;
            }
            self.decide(&state);
        }
    }

    /// The journal failed: nothing more is taken until a restart (J8).
    pub(crate) fn fail(&self) {
        let mut state = self.state.lock();
        state.has_failed = true;
        self.decide(&state);
    }

    fn decide(&self, state: &State) {
        let waits = state.refused.iter().any(Option::is_some);
        self.anyone_waits.store(waits, Ordering::Relaxed);
        let is_shut = waits || state.is_full || state.has_failed;
        if self.is_shut.swap(is_shut, Ordering::Relaxed) == is_shut || state.has_failed {
            return;
        }
        let (free_bytes, needed_bytes) = self.bytes();
        match is_shut {
            true if state.is_full => tracing::warn!(
                free_bytes,
                needed_bytes,
                "the disk is full: nothing that has to be written is taken until there is room; reading goes on"
            ),
            true => tracing::warn!(
                refused = state.refused.iter().flatten().next(),
                "the disk refuses: nothing that has to be written is taken until it does not; reading goes on"
            ),
            false => tracing::info!(free_bytes, needed_bytes, "the disk has room again: everything is taken"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::full_disk_error;

    #[test]
    fn it_shuts_at_the_reserve_and_opens_a_little_above_it() {
        let admission = Admission::new(800);
        admission.look(1_001, 200);
        assert!(admission.is_open() && admission.shut().is_none());
        admission.look(1_000, 200);
        assert_eq!(admission.shut(), Some(Shut::Full { free: 1_000, needed: 1_000 }));
        admission.look(1_100, 200);
        assert!(!admission.is_open(), "within the slack");
        admission.look(1_101, 200);
        assert!(admission.is_open());
        admission.look(900, 99);
        assert!(admission.is_open(), "a checkpoint freed what was journaled");
    }

    #[test]
    fn what_the_disk_refuses_shuts_it_until_that_is_written_and_there_is_room() {
        let admission = Admission::new(0);
        admission.look(1 << 30, 0);
        assert!(admission.refused(Waiting::Apply, &full_disk_error()));
        assert!(!admission.refused(Waiting::Apply, &full_disk_error()), "told once");
        admission.refused(Waiting::Spare, &full_disk_error());
        admission.look(1 << 30, 0);
        assert!(!admission.is_open(), "a quota knows more than the file system says");
        admission.written(Waiting::Apply);
        admission.written(Waiting::Commit);
        assert!(matches!(admission.shut(), Some(Shut::Refused(_))), "the other one still waits");
        admission.written(Waiting::Spare);
        assert!(!admission.is_open(), "it was not looked yet");
        admission.look(1 << 30, 0);
        assert!(admission.is_open());
        admission.fail();
        admission.look(1 << 30, 0);
        assert_eq!(admission.shut(), Some(Shut::Failed));
    }
}
