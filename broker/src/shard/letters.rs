//! Dead letters of messages in hand: each is in one operation with the rest of its PUBLISH. What waited in memory alone,
//! for a session that ends with its connection, has an operation of its own; while the journal is far behind these are
//! left out, and counted, for there is no place where they could wait.

use std::sync::Arc;

use ahash::HashSet;
use bridge::state::Change;
use bridge::{Operation, Ticket, Topic};

use crate::codec::QoS;
use crate::dead_letter::{Label, Reason};
use crate::limits;
use crate::mapping::partition_of;
use crate::message::{Message, OwnedMessage};
use crate::router::SessionRef;
use crate::router::trie::SharedGroup;
use crate::session::window::Waiting;
use crate::stats::{Counts, Dropped};
use crate::store;

use super::{Now, Shard};

/// Where dead letters go, and what is to become one.
#[derive(Default)]
pub(super) struct Letters {
    to: Option<Arc<Topic>>,
    /// Those that do not get the message in hand.
    due: Vec<(Reason, Arc<str>)>,
    /// Sessions whose queues have entries to give up, by slot.
    pub doomed: HashSet<u32>,
    /// One of those entries waits for the disk.
    pub reading: bool,
}

impl Letters {
    pub fn new(to: Option<Arc<Topic>>) -> Letters {
        Letters { to, ..Letters::default() }
    }

    /// Whether anything becomes a dead letter.
    pub fn are_on(&self) -> bool {
        self.to.is_some()
    }

    pub fn are_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// Takes note that a session does not get the message in hand, which is of this QoS for it.
    pub fn note(&mut self, why: Dropped, qos: QoS, session: &SessionRef) {
        let Some(reason) = Reason::of(why).filter(|_| self.are_on() && qos > QoS::AtMostOnce) else { return };
        // It may be due to several subscriptions of one session.
        let is_known =
            |(known, client): &(Reason, Arc<str>)| *known == reason && Arc::ptr_eq(client, &session.client_id);
        if !self.due.last().is_some_and(is_known) {
            self.due.push((reason, session.client_id.clone()));
        }
    }

    /// What was noted is no loss.
    pub fn forget(&mut self) {
        self.due.clear();
    }

    /// What has to be kept of a message that waits encoded, in case it becomes a letter.
    pub fn copy(&self, group: Option<&Arc<SharedGroup>>, message: &Message<'_>) -> Option<Box<OwnedMessage>> {
        (self.are_on() && group.is_none()).then(|| Box::new(message.into()))
    }

    /// Appends what was noted of the message in hand: one letter for each reason, however many did not get it.
    pub fn append_due(&mut self, operation: &mut Operation<'_>, message: &Message<'_>, now: Now, counts: &mut Counts) {
        let mut due = std::mem::take(&mut self.due);
        due.sort_unstable_by_key(|(reason, _)| *reason);
        for alike in due.chunk_by(|(one, _), (other, _)| one == other) {
            for some in alike.chunks(limits::LETTER_RECIPIENTS_MAX) {
                let recipients: Vec<&str> = some.iter().map(|(_, client)| &**client).collect();
                let label = Label { reason: some[0].0, limit: None, recipients: &recipients, time_ms: now.unix_ms };
                self.append(operation, message, label, counts);
            }
        }
        due.clear();
        self.due = due;
    }

    pub fn append(&self, operation: &mut Operation<'_>, message: &Message<'_>, label: Label<'_>, counts: &mut Counts) {
        let Some(topic) = &self.to else { return };
        let partition = partition_of(message.topic.as_bytes(), topic.partitions.len() as u32);
        operation.append((topic.id, partition), label.time_ms, std::iter::empty(), |out| label.encode(out, message));
        counts.dead_letters[label.reason as usize] += 1;
    }
}

impl Shard {
    /// Other settings are in force.
    pub(super) fn set_dead_letters(&mut self, to: Option<Arc<Topic>>) {
        self.letters.to = to;
        self.schedule_turn();
    }

    /// Whether a letter can be written: there is room on the disk, and no more than so many bytes are before it.
    pub(super) fn takes_letters(&self, backlog_bytes_max: usize) -> bool {
        self.bridge.is_open() && self.lane.backlog_bytes() <= backlog_bytes_max
    }

    /// Hands in what was noted of a message that is in no other operation.
    pub(super) fn post_due(&mut self, message: &Message<'_>) {
        if !self.letters.are_due() {
            return;
        }
        if !self.takes_letters(limits::LETTERS_BACKLOG_BYTES_MAX) {
            return self.miss_due();
        }
        let mut operation = self.lane.begin();
        self.letters.append_due(&mut operation, message, self.now, &mut self.counts);
        operation.submit();
        self.schedule_turn();
    }

    /// There is no place for what was noted: it is only counted.
    pub(super) fn miss_due(&mut self) {
        self.counts.dead_letters_missed += self.letters.due.len() as u64;
        self.letters.forget();
    }

    /// Counts messages that waited in memory for a session, and hands in their letters.
    pub(super) fn give_up_waiting(&mut self, why: Dropped, session: &SessionRef, waiting: &[Waiting]) {
        self.counts.dropped_many(why, waiting.len(), session);
        let Some(reason) = Reason::of(why).filter(|_| self.letters.are_on()) else { return };
        for message in waiting.iter().filter_map(Waiting::message) {
            if !self.takes_letters(limits::LETTERS_BACKLOG_BYTES_MAX) {
                self.counts.dead_letters_missed += 1;
                continue;
            }
            let recipients = [&*session.client_id];
            let label = Label { reason, limit: None, recipients: &recipients, time_ms: self.now.unix_ms };
            let mut operation = self.lane.begin();
            self.letters.append(&mut operation, &message.borrow(), label, &mut self.counts);
            operation.submit();
            self.schedule_turn();
        }
    }

    /// Hands in the letter of a message of which no member of a shared group got hold in time.
    pub(super) fn give_up_shared(&mut self, group: &SharedGroup, message: &Message<'_>) {
        self.counts.dropped_expired += 1;
        if self.letters.are_on() {
            self.letters.due.push((Reason::Expired, format!("$share/{}", group.name()).into()));
            self.post_due(message);
        }
    }

    /// Hands in the letter of a message that a limit refuses. Not for who has no right to publish there: refusals are
    /// no way into the log. Its acknowledgement has to wait for the ticket.
    pub(super) fn post_refused(
        &mut self,
        slot: u32,
        message: &Message<'_>,
        packet_id: u16,
        limit: &'static str,
    ) -> Option<Ticket> {
        if !self.letters.are_on() || !self.may_publish(slot, message.topic) {
            return None;
        }
        if !self.takes_letters(limits::LETTERS_BACKLOG_BYTES_MAX) {
            self.counts.dead_letters_missed += 1;
            return None;
        }
        let label = Label { reason: Reason::Limit, limit: Some(limit), recipients: &[], time_ms: self.now.unix_ms };
        // Who is told that it was taken, for want of another answer, may send it again (S4).
        let is_taken = message.qos == QoS::ExactlyOnce && !self.speaks_v5(slot);
        let session = &mut self.sessions[slot as usize];
        let mut operation = self.lane.begin();
        self.letters.append(&mut operation, message, label, &mut self.counts);
        if is_taken && session.me.durable {
            operation.change(Change::Put(store::INBOUND, &store::inbound_key(session.me.id, packet_id), &[]));
        }
        let ticket = operation.submit();
        if is_taken {
            session.inbound.insert(packet_id, ticket);
        }
        self.schedule_turn();
        Some(ticket)
    }
}
