//! Looks at the disk twice a second, on a thread of its own: the others may be waiting for it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use crate::disk::Folder;
use crate::journal::commit::Shared;

const INTERVAL: Duration = Duration::from_millis(500);

/// The watch thread.
pub(crate) struct Watch {
    /// Weak, so that it ends when nobody else is left.
    pub(crate) shared: Weak<Shared>,
    pub(crate) folder: Folder,
    /// What was stalled when it looked last, and for how long.
    stalled: Option<(&'static str, Duration)>,
}

impl Watch {
    pub(crate) fn new(shared: &Arc<Shared>, folder: Folder) -> Watch {
        Watch { shared: Arc::downgrade(shared), folder, stalled: None }
    }

    /// Runs until the bridge is stopped.
    pub(crate) fn run(mut self) {
        loop {
            thread::sleep(INTERVAL);
            let Some(shared) = self.shared.upgrade() else { return };
            if shared.stopping.load(Ordering::Acquire) {
                return;
            }
            self.look_for_stalls(&shared);
            self.look_at_room();
        }
    }

    /// How much room there is. Where the file system does not say, what it said before stands.
    pub(crate) fn look_at_room(&self) {
        let Some(shared) = self.shared.upgrade() else { return };
        match self.folder.free_bytes() {
            Ok(free) => shared.admission.look(free, shared.uncheckpointed_bytes.load(Ordering::Acquire)),
            Err(error) => tracing::debug!(%error, "the file system does not say how much room there is"),
        }
    }

    /// Tells of a stall once, and of its end.
    fn look_for_stalls(&mut self, shared: &Shared) {
        match (shared.stalls.worst(), &mut self.stalled) {
            (Some((thread, age)), None) => {
                shared.metrics.stalls.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(thread, seconds = age.as_secs(), "the disk is slow: a write or sync is still under way");
                self.stalled = Some((thread, age));
            }
            (Some(worst), Some(stalled)) => *stalled = worst,
            (None, Some((thread, age))) => {
                tracing::info!(thread, seconds = age.as_secs(), "the disk answers again");
                self.stalled = None;
            }
            (None, None) => {}
        }
    }
}
