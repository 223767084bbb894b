//! The queue of a durable session: pointers into the log, sent in order, resent under the same packet
//! identifiers after whatever happened (S2, S3).

use std::collections::VecDeque;

use bridge::Ticket;
use bridge::state::{Entry, Pointer};

use crate::codec::AckKind;

use super::window::{Acked, PACKET_IDS, Sent, acknowledge, distance, packet_id};
use super::{Tag, now_before};

/// An entry and how far it got.
#[derive(Clone, Copy, Debug)]
struct Item {
    entry: Entry,
    /// `None` until it was first sent.
    sent: Option<Sent>,
}

/// The queue. Sequences are the committer's; `base` is that of the first item.
#[derive(Debug, Default)]
pub struct Queue {
    base: u64,
    items: VecDeque<Item>,
    /// Index of the next item to send on this connection.
    next: usize,
    /// Sent on this connection and not done.
    in_flight: usize,
    in_flight_max: usize,
    /// Everything below is durably gone, so its packet identifiers are free.
    settled: u64,
    /// The base that becomes settled with a ticket.
    settling: Option<(Ticket, u64)>,
    /// The newest such base, which is next in line.
    removed: (Ticket, u64),
}

/// What to do next for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Send the record behind this entry; then [`Queue::sent`].
    Publish {
        /// Packet identifier.
        packet_id: u16,
        /// What and how.
        entry: Entry,
        /// It was, or may have been, sent before.
        dup: bool,
    },
    /// Send PUBREL; then [`Queue::sent`].
    Release(u16),
    /// It expired: [`Queue::drop_next`].
    Expired,
}

impl Queue {
    /// What recovery found: sequences and entries in order. The first `maybe_sent` may have been sent.
    pub fn recovered(next: u64, entries: impl Iterator<Item = (u64, Entry)>, maybe_sent: usize) -> Queue {
        let mut queue = Queue::default();
        for (index, (sequence, entry)) in entries.enumerate() {
            if queue.items.is_empty() {
                queue.base = sequence;
            }
            queue.fill_gap(sequence);
            let sent = match entry.released {
                true => Some(Sent::Released),
                // Gaps had no part in the window.
                false if index < maybe_sent => Some(first_state(&entry)),
                false => None,
            };
            queue.items.push_back(Item { entry, sent });
        }
        if queue.items.is_empty() {
            queue.base = next;
        }
        queue.fill_gap(next);
        queue.settled = queue.base;
        queue
    }

    /// What was acknowledged before its neighbours left a gap, in the middle or at the end.
    fn fill_gap(&mut self, to: u64) {
        let nowhere = Pointer { topic: 0, partition: 0, offset: 0 };
        let entry = Entry { pointer: nowhere, tag: 0, expires_s: 0, released: true };
        while self.base + (self.items.len() as u64) < to {
            self.items.push_back(Item { entry, sent: Some(Sent::Done) });
        }
    }

    /// Entries that are not done.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether everything is done.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// While the client is connected: entries not sent to it yet, and those sent and not done.
    pub fn standing(&self) -> (usize, usize) {
        (self.items.len().saturating_sub(self.next), self.in_flight)
    }

    /// The session ends: entries that are not done, and whether they were or may have been sent.
    pub fn leftovers(&self) -> impl Iterator<Item = (Entry, bool)> {
        let left = self.items.iter().filter(|item| item.sent != Some(Sent::Done));
        left.map(|item| (item.entry, item.sent.is_some()))
    }

    /// A new entry, durable now.
    pub fn push(&mut self, sequence: u64, entry: Entry) {
        if self.items.is_empty() {
            self.base = sequence;
            self.next = 0;
        }
        debug_assert_eq!(sequence, self.base + self.items.len() as u64, "the committer gives every sequence once");
        self.items.push_back(Item { entry, sent: None });
    }

    /// The client is back: everything unfinished is sent again, in order.
    pub fn restart(&mut self, in_flight_max: u16) {
        self.next = 0;
        self.in_flight = 0;
        self.in_flight_max = in_flight_max.into();
    }

    /// Whether one more may be sent.
    pub fn is_open(&self) -> bool {
        self.in_flight < self.in_flight_max
    }

    /// The next thing to send now, skipping what is done.
    pub fn next(&mut self, durable: Ticket, now_s: u32) -> Option<Next> {
        while self.items.get(self.next).is_some_and(|item| item.sent == Some(Sent::Done)) {
            self.next += 1;
        }
        if !self.is_open() || !self.identifier_is_free(durable) {
            return None;
        }
        let packet_id = packet_id(self.base + self.next as u64);
        let item = self.items.get(self.next)?;
        Some(match item.sent {
            Some(Sent::Released) => Next::Release(packet_id),
            // Once sent it may be known to the client under its identifier: it stays [MQTT-4.3.3-7].
            None if now_before(item.entry.expires_s, now_s) => Next::Expired,
            sent => Next::Publish { packet_id, entry: item.entry, dup: sent.is_some() },
        })
    }

    /// What [`Queue::next`] gave is on its way.
    pub fn sent(&mut self) {
        if let Some(item) = self.items.get_mut(self.next) {
            item.sent.get_or_insert(first_state(&item.entry));
            self.next += 1;
            self.in_flight += 1;
        }
    }

    /// Gives up the entry that [`Queue::next`] was about; its sequence, to be removed.
    pub fn drop_next(&mut self) -> u64 {
        let sequence = self.base + self.next as u64;
        if let Some(item) = self.items.get_mut(self.next) {
            item.sent = Some(Sent::Done);
        }
        self.advance();
        sequence
    }

    /// A client's PUBACK, PUBREC or PUBCOMP; with the entry's sequence when something is to be journaled.
    pub fn acknowledge(&mut self, packet_id: u16, kind: AckKind, failed: bool) -> (Acked, u64) {
        let index = distance(self.base, packet_id);
        let sequence = self.base + index as u64;
        let Some(item) = self.items.get_mut(index).filter(|_| index < self.next) else {
            return (Acked::Unknown, sequence);
        };
        let Some(sent) = item.sent else { return (Acked::Unknown, sequence) };
        let (state, acked) = acknowledge(sent, kind, failed);
        item.sent = Some(state);
        if acked == Acked::Done {
            self.in_flight = self.in_flight.saturating_sub(1);
            self.advance();
        }
        (acked, sequence)
    }

    /// Whether a released entry's PUBREL was journaled already: a repeated PUBREC then costs no write.
    pub fn is_released(&self, packet_id: u16) -> bool {
        let item = self.items.get(distance(self.base, packet_id));
        item.is_some_and(|item| item.sent == Some(Sent::Released))
    }

    /// Removals up to here were submitted under `ticket`.
    pub fn note_removals(&mut self, ticket: Ticket) {
        self.removed = (ticket, self.base);
        if self.settling.is_none() && self.settled < self.base {
            self.settling = Some(self.removed);
        }
    }

    /// Whether only removals that are not durable yet keep the next entry from being sent (S3): nothing that
    /// the client sends would wake the session then.
    pub fn waits_for_removals(&mut self, durable: Ticket) -> bool {
        let waits = self.is_open() && self.next < self.items.len() && !self.identifier_is_free(durable);
        waits && self.settled < self.base
    }

    fn identifier_is_free(&mut self, durable: Ticket) -> bool {
        if let Some((ticket, base)) = self.settling
            && ticket <= durable
        {
            self.settled = base;
            self.settling = Some(self.removed).filter(|(_, removed)| *removed > base);
        }
        self.base + self.next as u64 - self.settled.min(self.base) < PACKET_IDS
    }

    fn advance(&mut self) {
        while self.items.front().is_some_and(|item| item.sent == Some(Sent::Done)) {
            self.items.pop_front();
            self.base += 1;
            self.next = self.next.saturating_sub(1);
        }
    }
}

fn first_state(entry: &Entry) -> Sent {
    match Tag(entry.tag).qos() {
        crate::codec::QoS::ExactlyOnce => Sent::Qos2,
        _ => Sent::Qos1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::QoS;

    fn entry(offset: i64, qos: QoS) -> Entry {
        let pointer = Pointer { topic: 16, partition: 0, offset };
        Entry { pointer, tag: Tag::new(qos, false, 0).0, expires_s: 0, released: false }
    }

    fn filled(qos: QoS, count: u64) -> Queue {
        let mut queue = Queue::default();
        for sequence in 0..count {
            queue.push(sequence, entry(sequence as i64, qos));
        }
        queue.restart(3);
        queue
    }

    fn send_all(queue: &mut Queue) -> Vec<(u16, bool)> {
        let mut sent = Vec::new();
        while let Some(next) = queue.next(0, 0) {
            match next {
                Next::Publish { packet_id, dup, .. } => sent.push((packet_id, dup)),
                Next::Release(packet_id) => sent.push((packet_id + 1000, false)),
                Next::Expired => panic!("nothing expires here"),
            }
            queue.sent();
        }
        sent
    }

    #[test]
    fn the_window_holds_and_a_reconnect_resends_in_order_with_dup_under_the_same_ids() {
        let mut queue = filled(QoS::AtLeastOnce, 5);
        assert_eq!(send_all(&mut queue), [(1, false), (2, false), (3, false)]);
        assert_eq!(queue.acknowledge(2, AckKind::PubAck, false), (Acked::Done, 1));
        assert_eq!(send_all(&mut queue), [(4, false)]);
        queue.restart(10);
        assert_eq!(send_all(&mut queue), [(1, true), (3, true), (4, true), (5, false)]);
        assert_eq!(queue.acknowledge(2, AckKind::PubAck, false).0, Acked::Unknown);
        for id in [1, 3, 4, 5] {
            assert_eq!(queue.acknowledge(id, AckKind::PubAck, false).0, Acked::Done);
        }
        assert_eq!(queue.len(), 0);
        queue.push(5, entry(5, QoS::AtLeastOnce));
        assert_eq!(send_all(&mut queue), [(6, false)]);
    }

    #[test]
    fn without_a_free_identifier_it_waits_for_the_removals_and_says_so() {
        let mut queue = filled(QoS::AtLeastOnce, PACKET_IDS + 5);
        queue.restart(u16::MAX);
        assert_eq!(send_all(&mut queue).len(), PACKET_IDS as usize);
        for id in 1..=u16::MAX {
            queue.acknowledge(id, AckKind::PubAck, false);
        }
        queue.note_removals(7);
        assert!(queue.next(6, 0).is_none() && queue.waits_for_removals(6));
        assert!(!queue.waits_for_removals(7));
        assert!(queue.next(7, 0).is_some());
    }

    #[test]
    fn a_released_message_goes_on_with_pubrel() {
        let mut queue = filled(QoS::ExactlyOnce, 2);
        send_all(&mut queue);
        assert_eq!(queue.acknowledge(1, AckKind::PubRec, false), (Acked::Release, 0));
        queue.restart(10);
        assert_eq!(send_all(&mut queue), [(1001, false), (2, true)]);
        assert_eq!(queue.acknowledge(1, AckKind::PubComp, false), (Acked::Done, 0));
    }

    #[test]
    fn after_a_restart_ids_are_the_same() {
        let released = Entry { released: true, ..entry(0, QoS::ExactlyOnce) };
        let found = [(7, released), (9, entry(9, QoS::AtLeastOnce)), (10, entry(10, QoS::AtLeastOnce))];
        let mut queue = Queue::recovered(11, found.into_iter(), 3);
        queue.restart(10);
        assert_eq!(send_all(&mut queue), [(1008, false), (10, true), (11, true)], "a window of 3 held all three");
        let mut last_done = Queue::recovered(9, [(7, entry(7, QoS::AtLeastOnce))].into_iter(), 3);
        last_done.push(9, entry(9, QoS::AtLeastOnce));
        last_done.restart(10);
        assert_eq!(send_all(&mut last_done), [(8, true), (10, false)], "8 was acknowledged before 7");
        let mut empty = Queue::recovered(42, std::iter::empty(), 3);
        empty.restart(10);
        empty.push(42, entry(1, QoS::AtLeastOnce));
        assert_eq!(send_all(&mut empty), [(43, false)]);
    }

    #[test]
    fn an_identifier_is_not_used_again_before_its_removal_is_durable() {
        let count = PACKET_IDS + 5;
        let mut queue = filled(QoS::AtLeastOnce, count);
        let mut total = 0;
        while total < PACKET_IDS {
            let sent = send_all(&mut queue);
            assert!(!sent.is_empty());
            total += sent.len() as u64;
            for (id, _) in sent {
                queue.acknowledge(id, AckKind::PubAck, false);
            }
            queue.note_removals(9);
        }
        assert_eq!(send_all(&mut queue), [], "no removal is durable yet");
        assert!(queue.waits_for_removals(8));
        assert!(queue.next(9, 0).is_some());
        assert!(!queue.waits_for_removals(9));
    }

    #[test]
    fn removals_noted_while_others_settle_settle_after_them() {
        let mut queue = filled(QoS::AtLeastOnce, PACKET_IDS + 5);
        queue.restart(u16::MAX);
        let sent = send_all(&mut queue);
        assert_eq!(sent.len() as u64, PACKET_IDS);
        for (ticket, (id, _)) in sent.into_iter().enumerate() {
            queue.acknowledge(id, AckKind::PubAck, false);
            queue.note_removals(ticket as u64 + 1);
        }
        for _ in 0..2 {
            while queue.next(PACKET_IDS, 0).is_some() {
                queue.sent();
            }
        }
        assert_eq!(queue.next, 5, "all that is left was sent");
    }

    #[test]
    fn what_expired_before_it_was_sent_is_given_up() {
        let mut queue = Queue::default();
        queue.push(0, Entry { expires_s: 5, ..entry(0, QoS::AtLeastOnce) });
        queue.push(1, entry(1, QoS::AtLeastOnce));
        queue.restart(3);
        assert_eq!(queue.next(0, 5), Some(Next::Expired));
        assert_eq!(queue.drop_next(), 0);
        assert!(matches!(queue.next(0, 5), Some(Next::Publish { packet_id: 2, .. })));
    }
}
