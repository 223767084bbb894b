//! What becomes of what would have to be written while the disk takes none: it is full, and that passes (J9), or it has
//! failed, and that takes a restart (J8). What needs no disk goes on, and so does what only removes or advances.

use crate::codec::{Connect, Packet, Publish, QoS, ReasonCode, Version, header};
use crate::limits;
use crate::message::Message;
use crate::session::{Close, Options};

use super::lifecycle::Refusal;
use super::packets::Handled;
use super::retained::RetainedChange;
use super::{Held, Promise, Shard};

/// Why a connection ends whose client cannot be told anything else.
const FAILED: &str = "the disk has failed, and nothing can be stored";
/// The same, where something was promised.
const UNKNOWN: &str = "the disk has failed: what became of the last messages is not known";

impl Shard {
    /// Whether a message above QoS 0 has to be written to be taken.
    fn is_durable(&mut self, slot: u32, topic: &str, publish: &Publish<'_>) -> bool {
        let keeps_identifier = publish.qos == QoS::ExactlyOnce && self.sessions[slot as usize].me.durable;
        let is_retained = publish.retain && !publish.payload.is_empty();
        if publish.qos == QoS::AtMostOnce || keeps_identifier || is_retained {
            return publish.qos > QoS::AtMostOnce;
        }
        let set = self.matches(topic);
        set.log.is_some() || !set.queued.is_empty() || set.shared.iter().any(|group| group.has_durable())
    }

    /// Whether a packet waits until the journal has caught up, and all behind it. Asked only while it is behind.
    pub(super) fn waits_for_journal(&mut self, slot: u32, packet: &Packet<'_>) -> bool {
        let is_stored = self.sessions[slot as usize].me.durable;
        let waits = match packet {
            Packet::Publish(publish) => match self.topic_of(slot, publish) {
                Some(topic) => self.is_written(slot, &topic, publish),
                None => false,
            },
            Packet::Ack(_) | Packet::Subscribe(_) | Packet::Unsubscribe(_) => is_stored,
            Packet::PingReq | Packet::Disconnect(_) | Packet::Auth(_) => false,
        };
        self.note_writes(slot, waits)
    }

    /// Whether a packet that is not whole yet waits likewise: it takes up memory, and who knows what it says.
    pub(super) fn outgrows(&mut self, slot: u32, begun: &[u8], packet_max: u32) -> bool {
        let length = header(begun, packet_max).ok().flatten().map_or(0, |header| header.packet_length());
        self.note_writes(slot, length > limits::READ_BEHIND_BYTES)
    }

    fn note_writes(&mut self, slot: u32, writes: bool) -> bool {
        if let Some(link) = self.sessions[slot as usize].link.as_mut() {
            link.writes |= writes;
        }
        writes
    }

    /// The topic of a message, which 5.0 may have left to an alias; none if that was never set.
    fn topic_of(&self, slot: u32, publish: &Publish<'_>) -> Option<Box<str>> {
        match publish.properties.topic_alias {
            Some(alias) if publish.topic.is_empty() => {
                self.sessions[slot as usize].link.as_ref()?.aliases.get(&alias).cloned()
            }
            _ => Some(publish.topic.into()),
        }
    }

    /// Whether any of a message goes to the journal.
    fn is_written(&mut self, slot: u32, topic: &str, publish: &Publish<'_>) -> bool {
        match publish.qos {
            QoS::AtMostOnce => publish.retain || self.matches(topic).log.is_some(),
            _ => publish.retain || self.is_durable(slot, topic, publish),
        }
    }

    /// Whether a packet waits for room on the disk, and all behind it: who speaks an older version cannot be told that
    /// its message is not taken. Its task is woken when there is room.
    pub(super) fn waits_for_disk(&mut self, slot: u32, version: Version, packet: &Packet<'_>) -> bool {
        let Packet::Publish(publish) = packet else { return false };
        let inbound = &self.sessions[slot as usize].inbound;
        let is_repeat = publish.qos == QoS::ExactlyOnce && inbound.contains_key(&publish.packet_id);
        let is_answered = version == Version::V5 || self.lane.failure().is_some() || is_repeat;
        if is_answered || !self.is_durable(slot, publish.topic, publish) {
            return false;
        }
        let Some(link) = self.sessions[slot as usize].link.as_mut() else { return false };
        link.waits_for_disk = true;
        self.waiting_for_disk.push((slot, link.id));
        self.counts.refused_disk_messages += 1;
        true
    }

    /// Does not take a message that has to be written, and remembers nothing of it (S4).
    pub(super) fn refuse_durable(&mut self, slot: u32, topic: &str, publish: &Publish<'_>) -> Option<Handled> {
        let speaks_v5 = self.speaks_v5(slot);
        if !speaks_v5 && self.lane.failure().is_none() || !self.is_durable(slot, topic, publish) {
            // Of an older version, and full only since it was asked whether it waits: there is the reserve.
            return None;
        }
        self.counts.refused_disk_messages += 1;
        Some(match speaks_v5 {
            true => self.refuse(slot, publish, ReasonCode::QuotaExceeded, None),
            false => Err(Close::ByServer(ReasonCode::ServerUnavailable, FAILED)),
        })
    }

    /// There may be room again.
    pub(super) fn wake_waiting_for_disk(&mut self) {
        if self.waiting_for_disk.is_empty() || !self.bridge.is_open() && self.lane.failure().is_none() {
            return;
        }
        let now_ms = self.now.up_ms;
        for (slot, link) in std::mem::take(&mut self.waiting_for_disk) {
            if let Some(link) = self.linked(slot, link).and_then(|session| session.link.as_mut()) {
                link.waits_for_disk = false;
                // What it said meanwhile is read only now.
                link.heard_ms = now_ms;
                link.wake();
            }
        }
    }

    /// Why a client is not let in whose session would have to be stored. One that is stored already is resumed, as long
    /// as what changes in it can be.
    pub(super) fn refuse_session(&mut self, known: Option<u32>, connect: &Connect<'_>) -> Option<Refusal> {
        let is_stored = |slot: &u32| self.sessions[*slot as usize].me.durable;
        let known = known.filter(is_stored);
        let resumes = known.is_some_and(|slot| !connect.clean_start && !self.has_ended(slot));
        let why = match self.lane.failure() {
            Some(_) if known.is_some() || connect.session_expiry_s > 0 => FAILED,
            None if connect.session_expiry_s > 0 && !resumes => "the disk is full: no new session can be stored",
            _ => return None,
        };
        self.counts.refused_disk_sessions += 1;
        Some((ReasonCode::QuotaExceeded, why))
    }

    /// Whether a subscription is not made because it would have to be stored. One that is there as it is goes on.
    pub(super) fn refuse_stored(&mut self, slot: u32, filter: &str, options: &Options) -> bool {
        let session = &self.sessions[slot as usize];
        let refused = session.me.durable && session.subscriptions.options(filter) != Some(options);
        self.counts.refused_disk_subscriptions += u64::from(refused);
        refused
    }

    /// A QoS 0 message that was to be retained is not. The older one of its topic goes: nobody is to take that for the
    /// newest, neither now nor after a restart.
    pub(super) fn forget_retained(&mut self, message: &Message<'_>) -> Option<RetainedChange> {
        self.counts.refused_disk_retained += 1;
        let (_, order) = self.router.retained.remove_all(std::iter::once(message.topic)).pop()?;
        Some(RetainedChange { order, value: None })
    }

    /// The journal failed and the broker stays: what was promised is of unknown outcome and never said, and who waits
    /// for it is closed. The others go on with what needs no disk.
    pub(super) fn end_promises(&mut self) {
        for Held { slot, link, what, .. } in std::mem::take(&mut self.held) {
            let Some(link) = self.linked(slot, link).and_then(|session| session.link.as_mut()) else { continue };
            link.close(match what {
                // It was told nothing yet; a DISCONNECT is not what it waits for.
                Promise::ConnAck(_) => Close::Lost(UNKNOWN.into()),
                _ => Close::ByServer(ReasonCode::UnspecifiedError, UNKNOWN),
            });
        }
    }

    /// Nothing can be promised for a ticket that never becomes durable.
    pub(super) fn is_never(&mut self, slot: u32, ticket: bridge::Ticket) -> bool {
        let is_never = self.failed && ticket > self.lane.durable();
        if is_never && let Some(link) = self.sessions.get_mut(slot as usize).and_then(|s| s.link.as_mut()) {
            link.close(Close::ByServer(ReasonCode::UnspecifiedError, FAILED));
        }
        is_never
    }
}
