//! QoS 1 and 2 on their way to a client whose session ends with its connection. Nothing is resent, so a
//! message that was written is only a number here; what has no place in the window waits encoded.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::codec::{AckKind, QoS};
use crate::message::OwnedMessage;
use crate::router::trie::SharedGroup;

/// Packet identifiers run from 1 to this (S3).
pub const PACKET_IDS: u64 = 65_535;

/// How many there are; few where a simulation is to come round.
pub fn packet_ids() -> u64 {
    #[cfg(test)]
    if let Some(few) = crate::sim::few_packet_ids() {
        return few;
    }
    PACKET_IDS
}

/// The packet identifier of a sequence.
pub fn packet_id(sequence: u64) -> u16 {
    (sequence % packet_ids()) as u16 + 1
}

/// How far `packet_id` lies behind `base`'s, going round.
pub fn distance(base: u64, packet_id: u16) -> usize {
    let base = base % packet_ids();
    ((u64::from(packet_id.max(1)) - 1 + packet_ids() - base) % packet_ids()) as usize
}

/// Where a sent message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// Acknowledged; it waits for those before it.
    Done,
    /// It may have been sent before the start: with PUBACK it is done.
    MaybeQos1,
    /// Awaits PUBACK.
    Qos1,
    /// Awaits PUBREC.
    Qos2,
    /// PUBREL is due or sent; awaits PUBCOMP.
    Released,
}

/// What an acknowledgement led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acked {
    /// The message is done.
    Done,
    /// PUBREL is to be sent.
    Release,
    /// Nothing awaits it.
    Unknown,
}

/// The state after an acknowledgement of `kind`; `failed` is a reason code of 0x80 or more, which ends a
/// QoS 2 exchange at PUBREC [MQTT-4.3.3-4].
pub fn acknowledge(state: Sent, kind: AckKind, failed: bool) -> (Sent, Acked) {
    match (state, kind) {
        (Sent::Qos1 | Sent::MaybeQos1, AckKind::PubAck) | (Sent::Released, AckKind::PubComp) => {
            (Sent::Done, Acked::Done)
        }
        (Sent::Qos2, AckKind::PubRec) if failed => (Sent::Done, Acked::Done),
        (Sent::Qos2 | Sent::Released, AckKind::PubRec) => (Sent::Released, Acked::Release),
        (state, _) => (state, Acked::Unknown),
    }
}

/// A message that waits for a place in the window: an encoded PUBLISH without its packet identifier.
#[derive(Debug)]
pub struct Waiting {
    /// The packet.
    pub packet: Box<[u8]>,
    /// Where the packet identifier goes.
    pub packet_id_at: usize,
    /// Bytes of the payload in it.
    pub payload_bytes: usize,
    /// Where what is left of its lifetime goes, in a 5.0 packet that has one.
    pub expiry_at: Option<usize>,
    /// QoS it is sent at.
    pub qos: QoS,
    /// Seconds since 1970 when it is dropped; 0 never.
    pub expires_s: u32,
    /// Set when it came by a shared subscription.
    pub shared: Option<Box<Shared>>,
    /// As it was published, where it could become a dead letter and `shared` does not have it.
    pub copy: Option<Box<OwnedMessage>>,
}

/// A message that came by a shared subscription: another member gets it if the session ends first (S7).
#[derive(Debug)]
pub struct Shared {
    /// The members.
    pub group: Arc<SharedGroup>,
    /// As it was published.
    pub message: OwnedMessage,
}

impl Waiting {
    /// As it was published, if that is known.
    pub fn message(&self) -> Option<&OwnedMessage> {
        self.shared.as_ref().map(|shared| &shared.message).or(self.copy.as_deref())
    }

    fn bytes(&self) -> usize {
        self.packet.len() + self.message().map_or(0, OwnedMessage::bytes)
    }
}

/// How much may wait, and what goes when it is full.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Messages.
    pub messages_max: usize,
    /// Their bytes.
    pub bytes_max: usize,
    /// The oldest goes, not the newest.
    pub drops_oldest: bool,
}

/// What was sent and is not acknowledged, and what waits.
#[derive(Debug)]
pub struct Window {
    base: u64,
    sent: VecDeque<Sent>,
    in_flight: usize,
    in_flight_max: usize,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// What came by shared subscriptions at QoS 1 and is in flight, by packet identifier, in order.
    kept: VecDeque<(u16, Box<Shared>)>,
    kept_bytes: usize,
}

impl Window {
    /// An empty one for at most so many unacknowledged messages.
    pub fn new(in_flight_max: u16) -> Window {
        Window {
            base: 0,
            sent: VecDeque::new(),
            in_flight: 0,
            in_flight_max: in_flight_max.into(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            kept: VecDeque::new(),
            kept_bytes: 0,
        }
    }

    /// Whether one more may be sent.
    pub fn is_open(&self) -> bool {
        self.in_flight < self.in_flight_max && (self.sent.len() as u64) < packet_ids()
    }

    /// Takes note that one is sent now; gives its packet identifier. Only while [`Window::is_open`].
    pub fn send(&mut self, qos: QoS) -> u16 {
        let sequence = self.base + self.sent.len() as u64;
        self.sent.push_back(if qos == QoS::ExactlyOnce { Sent::Qos2 } else { Sent::Qos1 });
        self.in_flight += 1;
        packet_id(sequence)
    }

    /// A client's PUBACK, PUBREC or PUBCOMP.
    pub fn acknowledge(&mut self, packet_id: u16, kind: AckKind, failed: bool) -> Acked {
        let Some(sent) = self.sent.get_mut(distance(self.base, packet_id)) else { return Acked::Unknown };
        let (state, acked) = acknowledge(*sent, kind, failed);
        *sent = state;
        if acked == Acked::Done {
            self.in_flight -= 1;
            if let Some(at) = self.kept.iter().position(|(id, _)| *id == packet_id) {
                let done = self.kept.remove(at);
                self.kept_bytes -= done.map_or(0, |(_, shared)| shared.message.bytes());
            }
            while self.sent.front() == Some(&Sent::Done) {
                self.sent.pop_front();
                self.base += 1;
            }
        }
        acked
    }

    /// Messages sent and not acknowledged.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Messages and bytes that wait.
    pub fn waiting(&self) -> (usize, usize) {
        (self.waiting.len(), self.waiting_bytes)
    }

    /// Makes room for one more that takes so many bytes; the oldest, that had to go. `None`: it has to go itself.
    pub fn make_room(&mut self, bytes: usize, bounds: Bounds) -> Option<Vec<Waiting>> {
        let mut dropped = Vec::new();
        while self.waiting.len() >= bounds.messages_max || self.waiting_bytes + bytes > bounds.bytes_max {
            if !bounds.drops_oldest || bytes > bounds.bytes_max {
                return None;
            }
            dropped.push(self.drop_waiting(true)?);
        }
        Some(dropped)
    }

    /// Memory in which what is in flight is kept for others.
    pub fn kept_bytes(&self) -> usize {
        self.kept_bytes
    }

    /// Gives up messages that wait until they take no more than so many bytes. What is in flight then stays with who has
    /// it.
    pub fn shrink_to(&mut self, bytes_max: usize, drops_oldest: bool) -> Vec<Waiting> {
        if self.kept_bytes > bytes_max {
            (self.kept, self.kept_bytes) = (VecDeque::new(), 0);
        }
        let mut dropped = Vec::new();
        while self.waiting_bytes > bytes_max
            && let Some(gone) = self.drop_waiting(drops_oldest)
        {
            dropped.push(gone);
        }
        dropped
    }

    fn drop_waiting(&mut self, oldest: bool) -> Option<Waiting> {
        let gone = if oldest { self.waiting.pop_front() } else { self.waiting.pop_back() }?;
        self.waiting_bytes -= gone.bytes();
        Some(gone)
    }

    /// Lets one wait behind the others.
    pub fn wait(&mut self, message: Waiting) {
        self.waiting_bytes += message.bytes();
        self.waiting.push_back(message);
    }

    /// The next that may be sent now, if any.
    pub fn next_waiting(&mut self) -> Option<Waiting> {
        if !self.is_open() {
            return None;
        }
        let message = self.waiting.pop_front()?;
        self.waiting_bytes -= message.bytes();
        Some(message)
    }

    /// Keeps what was just sent at QoS 1 until it is acknowledged.
    pub fn keep(&mut self, packet_id: u16, shared: Box<Shared>) {
        self.kept_bytes += shared.message.bytes();
        self.kept.push_back((packet_id, shared));
    }

    /// The session ends: how many messages nobody gets, and in order those that others of their group may have.
    /// QoS 2 in flight is not among either.
    pub fn leftovers(&mut self) -> (usize, impl Iterator<Item = Shared>) {
        let (kept, waiting) = (std::mem::take(&mut self.kept), std::mem::take(&mut self.waiting));
        self.kept_bytes = 0;
        let alone = waiting.iter().filter(|waiting| waiting.shared.is_none()).count();
        let waiting = waiting.into_iter().filter_map(|waiting| waiting.shared);
        (alone, kept.into_iter().map(|(_, shared)| shared).chain(waiting).map(|shared| *shared))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_qos_2_exchange_and_a_late_one() {
        let mut window = Window::new(2);
        let (first, second) = (window.send(QoS::ExactlyOnce), window.send(QoS::AtLeastOnce));
        assert!(!window.is_open());
        assert_eq!(window.acknowledge(first, AckKind::PubAck, false), Acked::Unknown);
        assert_eq!(window.acknowledge(first, AckKind::PubRec, false), Acked::Release);
        assert_eq!(window.acknowledge(first, AckKind::PubRec, false), Acked::Release, "a repeated PUBREC");
        assert_eq!(window.acknowledge(second, AckKind::PubAck, false), Acked::Done);
        assert!(window.is_open());
        assert_eq!(window.acknowledge(first, AckKind::PubComp, false), Acked::Done);
        assert_eq!(window.acknowledge(first, AckKind::PubComp, false), Acked::Unknown);
        let third = window.send(QoS::ExactlyOnce);
        assert_eq!(window.acknowledge(third, AckKind::PubRec, true), Acked::Done, "refused");
    }

    fn waiting(bytes: usize) -> Waiting {
        let (qos, packet) = (QoS::AtLeastOnce, vec![0; bytes].into());
        Waiting {
            packet,
            packet_id_at: 0,
            payload_bytes: 0,
            expiry_at: None,
            qos,
            expires_s: 0,
            shared: None,
            copy: None,
        }
    }

    /// How many had to go.
    fn room(window: &mut Window, bytes: usize, bounds: Bounds) -> Option<usize> {
        window.make_room(bytes, bounds).map(|dropped| dropped.len())
    }

    #[test]
    fn a_full_window_drops_the_newest_or_the_oldest() {
        let mut window = Window::new(1);
        let newest = Bounds { messages_max: 3, bytes_max: 10, drops_oldest: false };
        let oldest = Bounds { drops_oldest: true, ..newest };
        for bytes in [3, 4] {
            assert_eq!(room(&mut window, bytes, newest), Some(0));
            window.wait(waiting(bytes));
        }
        assert_eq!((room(&mut window, 4, newest), window.waiting()), (None, (2, 7)));
        assert_eq!(
            (room(&mut window, 11, oldest), window.waiting()),
            (None, (2, 7)),
            "nothing goes for what never fits"
        );
        assert_eq!((room(&mut window, 4, oldest), window.waiting()), (Some(1), (1, 4)));
        (0..2).for_each(|_| window.wait(waiting(1)));
        assert_eq!((room(&mut window, 1, newest), room(&mut window, 1, oldest)), (None, Some(1)));
        assert_eq!(window.waiting(), (2, 2));
        let mut shrunk = |bytes, oldest| window.shrink_to(bytes, oldest).len();
        assert_eq!((shrunk(2, true), shrunk(1, true), shrunk(0, false)), (0, 1, 1));
        assert_eq!(window.waiting(), (0, 0));
    }

    proptest! {
        /// Identifiers in flight are never 0 and never doubled, in whatever order they are acknowledged.
        #[test]
        fn identifiers_are_unique_while_in_flight(steps in prop::collection::vec(any::<u16>(), 1..400)) {
            let mut window = Window::new(50);
            window.base = PACKET_IDS - 100;
            let mut flying: Vec<u16> = Vec::new();
            for step in steps {
                if window.is_open() && (step % 3 != 0 || flying.is_empty()) {
                    let id = window.send(QoS::AtLeastOnce);
                    prop_assert!(id != 0 && !flying.contains(&id));
                    flying.push(id);
                } else if !flying.is_empty() {
                    let id = flying.swap_remove(usize::from(step) % flying.len());
                    prop_assert_eq!(window.acknowledge(id, AckKind::PubAck, false), Acked::Done);
                }
                prop_assert_eq!(window.in_flight, flying.len());
            }
        }
    }
}
