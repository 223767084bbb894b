//! A client that is too fast is not read for a while: it waits, as it does for the journal, and nothing is lost.

use std::time::Duration;

use crate::limits;

use super::{Shard, Shared};

/// The packet type of PUBLISH.
const PUBLISH: u8 = 3;

impl Shard {
    /// Bytes were read from this link's client.
    pub fn has_read(&mut self, slot: u32, link: u64, bytes: usize) {
        self.counts.bytes_in += bytes as u64;
        let now_ms = self.now.up_ms;
        let rates = self.linked(slot, link).and_then(|session| session.link.as_mut()?.rates.as_mut());
        if let Some(rates) = rates {
            rates.read(bytes, now_ms);
        }
    }

    /// Whether the packet with this first byte has to wait.
    pub(super) fn holds_up(&mut self, slot: u32, first_byte: u8) -> bool {
        let now_ms = self.now.up_ms;
        let rates = self.sessions[slot as usize].link.as_mut().and_then(|link| link.rates.as_mut());
        first_byte >> 4 == PUBLISH && rates.is_some_and(|rates| rates.holds_up(now_ms))
    }

    /// The packet with this first byte was taken.
    pub(super) fn took_packet(&mut self, slot: u32, first_byte: u8) {
        let rates = self.sessions[slot as usize].link.as_mut().and_then(|link| link.rates.as_mut());
        if let Some(rates) = rates.filter(|_| first_byte >> 4 == PUBLISH) {
            rates.took_message();
        }
    }

    /// Whether this link's client was too fast and is not to be read now; its task is woken when it is.
    pub fn pauses(&mut self, shared: &Shared, slot: u32, link: u64) -> bool {
        self.read_clock();
        let now_ms = self.now.up_ms;
        let Some(link) = self.linked(slot, link).and_then(|session| session.link.as_mut()) else { return false };
        let Some(rates) = link.rates.as_mut() else { return false };
        let Some((limit, wait_ms)) = rates.pause(now_ms) else {
            if let Some(paused_ms) = rates.end_pause(now_ms) {
                // What it said meanwhile is read only now.
                link.heard_ms = now_ms;
                self.counts.paused_ms += paused_ms;
            }
            return false;
        };
        let begins = rates.begin_pause(now_ms);
        if !std::mem::replace(&mut rates.is_timed, true) {
            let (shared, link, wait_ms) = (shared.clone(), link.id, wait_ms.min(limits::PAUSE_MS_MAX));
            tokio::task::spawn_local(async move {
                tokio::time::sleep(Duration::from_millis(wait_ms)).await;
                shared.borrow_mut().wake_paused(slot, link);
            });
        }
        if begins {
            self.reached(slot, limit);
        }
        true
    }

    fn wake_paused(&mut self, slot: u32, link: u64) {
        let link = self.linked(slot, link).and_then(|session| session.link.as_mut());
        if let Some(link) = link
            && let Some(rates) = link.rates.as_mut()
        {
            rates.is_timed = false;
            link.wake();
        }
    }
}
