//! A client that is too fast is not read for a while: it waits, as it does for the journal, and nothing is lost.

use std::time::Duration;

use super::Shard;

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

    /// How long this link's client is not to be read, if it is not.
    pub fn pause(&mut self, slot: u32, link: u64) -> Option<Duration> {
        let now_ms = self.now.up_ms;
        let link = self.linked(slot, link)?.link.as_mut()?;
        let rates = link.rates.as_mut()?;
        let Some((limit, wait_ms)) = rates.pause(now_ms) else {
            if let Some(paused_ms) = rates.end_pause(now_ms) {
                // What it said meanwhile is read only now.
                link.heard_ms = now_ms;
                self.counts.paused_ms += paused_ms;
            }
            return None;
        };
        if rates.begin_pause(now_ms) {
            self.reached(slot, limit);
        }
        Some(Duration::from_millis(wait_ms))
    }
}
