//! A message comes in and goes everywhere it has to: to connected sessions at once, into the journal for
//! queues and log. The hot path.

use std::ops::Range;
use std::sync::Arc;

use bridge::state::{Change, Entry, Pointer};
use bridge::{Fetched, ReadError, Target as Enqueued, Ticket, batch};
use smallvec::SmallVec;

use crate::codec::{Ack, AckKind, OutgoingPublish, QoS, ReasonCode, Version, encode_ack};
use crate::dead_letter::{Label, Reason};
use crate::limits;
use crate::mapping::{Origin, partition_of};
use crate::message::Message;
use crate::router::trie::SharedGroup;
use crate::router::{MatchSet, QueueTarget, Target};
use crate::session::aliases::Said;
use crate::session::queue::Next;
use crate::session::window::{Shared, Waiting};
use crate::session::{Link, Out, Tag};
use crate::stats::Dropped;
use crate::store;

use super::Shard;
use super::retained::RetainedChange;

/// Messages for the sessions of another shard, in order, with their bytes in one piece.
#[derive(Default)]
pub struct Burst {
    bytes: Vec<u8>,
    items: Vec<Item>,
}

struct Item {
    to: To,
    topic: Range<usize>,
    properties: Range<usize>,
    payload: Range<usize>,
    qos: QoS,
    retain: bool,
    expires_s: u32,
    publisher: u64,
    client_id: Range<usize>,
}

pub(super) enum To {
    /// Everyone on the shard in this set.
    Set(Arc<MatchSet>),
    /// The member of a shared group whose turn it was.
    Picked(Box<(Target, Arc<SharedGroup>)>),
}

impl Burst {
    /// Nothing to send.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Memory it takes, about.
    pub fn bytes(&self) -> usize {
        self.bytes.len() + self.items.len() * size_of::<Item>()
    }

    pub(super) fn push(&mut self, to: To, message: &Message<'_>) {
        let mut put = |bytes: &[u8]| {
            let start = self.bytes.len();
            self.bytes.extend_from_slice(bytes);
            start..self.bytes.len()
        };
        let (topic, properties, payload) =
            (put(message.topic.as_bytes()), put(message.properties), put(message.payload));
        // At QoS 0 nobody asks for it.
        let client_id = put(if message.qos > QoS::AtMostOnce { message.client_id.as_bytes() } else { &[] });
        let Message { qos, retain, expires_s, publisher, .. } = *message;
        self.items.push(Item { to, topic, properties, payload, qos, retain, expires_s, publisher, client_id });
    }

    fn message(&self, item: &Item) -> Message<'_> {
        // They were a &str when they were put in.
        let text = |at: &Range<usize>| std::str::from_utf8(&self.bytes[at.clone()]).unwrap_or_default();
        Message {
            topic: text(&item.topic),
            qos: item.qos,
            retain: item.retain,
            properties: &self.bytes[item.properties.clone()],
            expires_s: item.expires_s,
            payload: &self.bytes[item.payload.clone()],
            publisher: item.publisher,
            client_id: text(&item.client_id),
        }
    }
}

/// The last encoding of the message in hand: many subscribers take the same bytes.
#[derive(Default)]
pub struct Scratch {
    bytes: Vec<u8>,
    packet_id_at: usize,
    /// Where a 5.0 packet says what is left of its lifetime [MQTT-3.3.2-6].
    expiry_at: Option<usize>,
    form: Option<Form>,
    /// Queues to be read from the disk: (slot, what, session).
    pub cold: Vec<(u32, Pointer, u64)>,
}

/// Everything that makes one subscriber's PUBLISH differ from another's but the packet identifier.
#[derive(PartialEq)]
struct Form {
    v5: bool,
    qos: QoS,
    retain: bool,
    ids: SmallVec<[u32; 2]>,
}

impl Scratch {
    /// Another message is in hand.
    pub fn restart(&mut self) {
        self.form = None;
    }

    /// The PUBLISH in this form, with packet identifier 1 above QoS 0, and where that stands.
    fn encode(&mut self, message: &Message<'_>, version: Version, how: &How<'_>, now_s: u32) -> (&[u8], usize) {
        let v5 = version == Version::V5;
        let ids = if v5 { how.ids } else { &[] };
        let same =
            |form: &Form| form.v5 == v5 && form.qos == how.qos && form.retain == how.retain && form.ids[..] == *ids;
        if !self.form.as_ref().is_some_and(same) {
            self.bytes.clear();
            let outgoing = outgoing(message, how, 1, now_s);
            self.packet_id_at = outgoing.encode(&mut self.bytes, version).unwrap_or(0);
            self.expiry_at = outgoing.expiry_at(self.bytes.len(), version);
            self.form = Some(Form { v5, qos: how.qos, retain: how.retain, ids: ids.into() });
        }
        (&self.bytes, self.packet_id_at)
    }
}

/// How one subscriber gets a message.
struct How<'a> {
    qos: QoS,
    retain: bool,
    ids: &'a [u32],
}

fn outgoing<'a>(message: &Message<'a>, how: &How<'a>, packet_id: u16, now_s: u32) -> OutgoingPublish<'a> {
    OutgoingPublish {
        dup: false,
        qos: how.qos,
        retain: how.retain,
        topic: message.topic,
        packet_id,
        properties: message.properties,
        message_expiry_s: (message.expires_s != 0).then(|| message.expires_s.saturating_sub(now_s)),
        topic_alias: None,
        subscription_ids: how.ids,
        payload: message.payload,
    }
}

impl Shard {
    /// Sends a message everywhere; `user` is its publisher's name. `retained` is what became of its topic's retained
    /// message; that and `also` have to be in the same frame. The ticket of that frame, when there is one.
    pub(super) fn route(
        &mut self,
        message: &Message<'_>,
        user: Option<&str>,
        retained: Option<&RetainedChange>,
        also: &[Change<'_>],
    ) -> Option<Ticket> {
        let set = self.matches(message.topic);
        self.scratch.restart();
        for target in &set.direct[self.index] {
            self.deliver(target, None, message);
        }
        for (shard, targets) in set.direct.iter().enumerate() {
            if shard != self.index && !targets.is_empty() {
                self.bursts[shard].push(To::Set(set.clone()), message);
                self.schedule_turn();
            }
        }
        let more = !also.is_empty() || retained.is_some() || self.letters.are_due();
        if set.log.is_none() && set.queued.is_empty() && set.shared.is_empty() && !more {
            return None;
        }
        let picked = self.deliver_shared(&set, message);
        self.journal(&set, &picked, message, user, (retained, also))
    }

    /// Everyone who gets a topic's messages, worked out once.
    pub(super) fn matches(&mut self, topic: &str) -> Arc<MatchSet> {
        let generation = self.router.generation();
        let full =
            self.cache.len() >= limits::MATCH_CACHE_TOPICS_MAX || self.cache_bytes >= limits::MATCH_CACHE_BYTES_MAX;
        if self.cache_generation != generation || full {
            self.cache.clear();
            self.cache_bytes = 0;
            self.cache_generation = generation;
        }
        if let Some(set) = self.cache.get(topic) {
            return set.clone();
        }
        let set = Arc::new(self.router.resolve(topic));
        self.cache_bytes += topic.len() + set.bytes();
        self.cache.insert(topic.into(), set.clone());
        set
    }

    /// Puts a message to one session of this shard on its way, unless it goes through the journal.
    pub(super) fn deliver(&mut self, target: &Target, group: Option<&Arc<SharedGroup>>, message: &Message<'_>) {
        let qos = message.qos.min(target.qos);
        let included = target.whose.includes(target.session == message.publisher);
        if (target.durable && qos > QoS::AtMostOnce) || !included {
            return;
        }
        let mut overflow = Vec::new();
        let Some(session) = self.sessions.get_mut(target.slot as usize) else { return };
        if session.me.id != target.session {
            return;
        }
        let Some(link) = session.link.as_mut().filter(|link| link.ready && link.closing.is_none()) else { return };
        let how = How { qos, retain: message.retain && target.retain_as_published, ids: &target.ids };
        let (packet, packet_id_at) = self.scratch.encode(message, link.version, &how, self.now.unix_s);
        if packet.len() > link.packet_bytes_max {
            self.letters.note(Dropped::TooLarge, qos, &session.me);
            return self.counts.dropped(Dropped::TooLarge, &session.me);
        }
        if link.outbox.capacity() == 0
            && let Some(buffer) = self.spare_buffers.pop()
        {
            link.outbox = buffer;
        }
        if qos == QoS::AtMostOnce {
            if link.backlog_bytes() > self.room.qos0_bytes_max {
                return self.counts.dropped(self.room.slow(), &session.me);
            }
            if !link.put_aliased(&outgoing(message, &how, 0, self.now.unix_s)) {
                link.outbox.extend_from_slice(packet);
            }
            self.counts.sent(qos, message.payload.len());
            session.traffic.messages_out += 1;
        } else {
            let Out::Window(window) = &mut session.out else { return };
            if window.waiting().0 == 0 && window.is_open() && link.has_room(self.room.outbox_bytes_max) {
                let packet_id = window.send(qos);
                if !link.put_aliased(&outgoing(message, &how, packet_id, self.now.unix_s)) {
                    append_with_id(&mut link.outbox, packet, packet_id_at, packet_id);
                }
                if let (Some(shared), QoS::AtLeastOnce) = (shared(group, message), qos) {
                    window.keep(packet_id, shared);
                }
                self.counts.sent(qos, message.payload.len());
                session.traffic.messages_out += 1;
            } else if let Some(dropped) = window.make_room(packet.len(), self.room.bounds(&self.config)) {
                let (packet, expires_s, payload_bytes) = (packet.into(), message.expires_s, message.payload.len());
                let expiry_at = self.scratch.expiry_at;
                let (shared, copy) = (shared(group, message), self.letters.copy(group, message));
                window.wait(Waiting { packet, packet_id_at, payload_bytes, expiry_at, qos, expires_s, shared, copy });
                overflow = dropped;
            } else {
                self.letters.note(self.room.overflow(), qos, &session.me);
                return self.counts.dropped(self.room.overflow(), &session.me);
            }
            session.me.set_open(window.is_open());
        }
        link.wake();
        if !overflow.is_empty() {
            let me = session.me.clone();
            self.give_up_waiting(self.room.overflow(), &me, &overflow);
        }
    }

    /// What other shards sent.
    pub(super) fn take_burst(&mut self, burst: &Burst) {
        for item in &burst.items {
            let message = burst.message(item);
            self.scratch.restart();
            match &item.to {
                To::Set(set) => {
                    set.direct[self.index].iter().for_each(|target| self.deliver(target, None, &message));
                }
                To::Picked(picked) => self.deliver_picked(&picked.0, &picked.1, &message),
            }
            self.post_due(&message);
        }
    }

    /// One operation: the record, pointers to it, letters for who does not get it, and what else belongs in its frame.
    fn journal(
        &mut self,
        set: &MatchSet,
        picked: &[QueueTarget],
        message: &Message<'_>,
        user: Option<&str>,
        (retained, also): (Option<&RetainedChange>, &[Change<'_>]),
    ) -> Option<Ticket> {
        let mut targets: SmallVec<[Enqueued; 4]> = SmallVec::new();
        if message.qos > QoS::AtMostOnce {
            for target in set.queued.iter().chain(picked) {
                if !target.whose.includes(target.session.id == message.publisher) {
                    continue;
                }
                if self.is_queue_full(target.session.queued()) {
                    self.letters.note(Dropped::QueueFull, message.qos, &target.session);
                    self.counts.dropped(Dropped::QueueFull, &target.session);
                    continue;
                }
                let tag = target.tag(message.qos, message.retain).0;
                targets.push(Enqueued { queue: target.session.id, tag, expires_s: message.expires_s });
            }
        }
        let mut log = set.log.as_ref();
        if !self.bridge.is_open() {
            // J9: QoS 0 was delivered, and is not stored.
            let left_out = log.take_if(|_| message.qos == QoS::AtMostOnce);
            self.counts.refused_disk_qos0 += u64::from(left_out.is_some());
            self.miss_due();
        }
        let due = self.letters.are_due();
        if log.is_none() && targets.is_empty() && also.is_empty() && retained.is_none() && !due {
            return None;
        }
        let now = self.now;
        let mut rendered = Vec::new();
        let mut mapped = log.map(|log| match &log.fixed {
            Some(fixed) => (log, &fixed.key[..], fixed.partition, fixed.is_whole),
            None => {
                let origin = Origin { topic: message.topic, client_id: message.client_id, user };
                let properties = crate::codec::PublishProperties::parse(message.properties).unwrap_or_default();
                let is_whole = log.target.rule.key(&mut rendered, origin, properties.user_properties());
                (log, &rendered[..], partition_of(&rendered, log.partitions), is_whole)
            }
        });
        let mut operation = self.lane.begin();
        if due {
            self.letters.append_due(&mut operation, message, now, &mut self.counts);
        }
        if self.letters.are_on() && mapped.take_if(|(.., is_whole)| !*is_whole).is_some() {
            let label = Label { reason: Reason::Unmapped, limit: None, recipients: &[], time_ms: now.unix_ms };
            self.letters.append(&mut operation, message, label, &mut self.counts);
        }
        if let Some((log, key, partition, _)) = mapped {
            let null = log.target.rule.empty_as_null && message.payload.is_empty();
            operation.append((log.target.topic.id, partition), now.unix_ms, targets.into_iter(), |out| {
                message.encode_record(out, key, null, now.unix_s);
            });
            self.counts.appended += 1;
        } else if !targets.is_empty() {
            operation.append(self.bridge.hidden(), now.unix_ms, targets.into_iter(), |out| {
                message.encode_record(out, message.topic.as_bytes(), false, now.unix_s);
            });
        }
        if let Some(RetainedChange { order, value }) = retained {
            let topic = message.topic.as_bytes();
            let change = match value {
                Some(value) => Change::Put(store::RETAINED, topic, value),
                None => Change::Delete(store::RETAINED, topic),
            };
            if off!(RetainedOrder) { operation.change(change) } else { operation.change_in_order(*order, change) }
        }
        also.iter().for_each(|change| operation.change(*change));
        let ticket = operation.submit();
        self.schedule_turn();
        Some(ticket)
    }

    /// Sends what may be sent now to a client whose window, outbox or queue changed.
    pub fn pump(&mut self, slot: u32) {
        loop {
            let durable = self.lane.durable();
            let Some(session) = self.sessions.get_mut(slot as usize) else { return };
            let Some(link) = session.link.as_mut().filter(|link| link.ready && link.closing.is_none()) else { return };
            if session.cold || !link.has_room(self.room.outbox_bytes_max) {
                return;
            }
            match &mut session.out {
                Out::Window(window) => {
                    let Some(next) = window.next_waiting() else { return session.me.set_open(window.is_open()) };
                    if crate::session::now_before(next.expires_s, self.now.unix_s) {
                        let me = session.me.clone();
                        self.give_up_waiting(Dropped::Expired, &me, &[next]);
                        continue;
                    }
                    let packet_id = window.send(next.qos);
                    if let (Some(shared), QoS::AtLeastOnce) = (next.shared, next.qos) {
                        window.keep(packet_id, shared);
                    }
                    let start = link.outbox.len();
                    append_with_id(&mut link.outbox, &next.packet, next.packet_id_at, packet_id);
                    if let Some(at) = next.expiry_at {
                        let left_s = next.expires_s.saturating_sub(self.now.unix_s);
                        link.outbox[start + at..start + at + 4].copy_from_slice(&left_s.to_be_bytes());
                    }
                    self.counts.sent(next.qos, next.payload_bytes);
                    session.traffic.messages_out += 1;
                    link.wake();
                }
                Out::Queue(queue) => match queue.next(durable, self.now.unix_s) {
                    None => {
                        session.me.set_open(queue.is_open());
                        if queue.waits_for_commit(durable) {
                            self.wait_for_commit(slot);
                        }
                        return;
                    }
                    Some(Next::Release(packet_id)) => {
                        queue.sent();
                        let ack = Ack { kind: AckKind::PubRel, packet_id, reason: ReasonCode::Success };
                        encode_ack(&mut link.outbox, link.version, ack, None);
                        self.counts.packets_out += 1;
                        link.wake();
                    }
                    // Its record has to be read first.
                    Some(Next::Expired) if self.letters.are_on() && self.bridge.is_open() => return self.doom(slot),
                    Some(Next::Expired) => {
                        self.counts.dead_letters_missed += u64::from(self.letters.are_on());
                        self.give_up(slot, Dropped::Expired, None);
                    }
                    Some(Next::Publish { packet_id, entry, dup }) => {
                        if !self.send_from_log(slot, packet_id, &entry, dup) {
                            return;
                        }
                    }
                },
            }
        }
    }

    /// Has a session's queue go on after the next commit: nothing that its client sends would wake it.
    fn wait_for_commit(&mut self, slot: u32) {
        if !self.waiting_for_commit.contains(&slot) {
            self.waiting_for_commit.push(slot);
        }
        self.awaited = true;
    }

    /// Drops the next entry of a queue, and says so in the journal; with a letter, where this is a message for one.
    fn give_up(&mut self, slot: u32, why: Dropped, message: Option<&Message<'_>>) {
        let session = &mut self.sessions[slot as usize];
        self.counts.dropped(why, &session.me);
        let Out::Queue(queue) = &mut session.out else { return };
        let sequence = queue.drop_next();
        session.me.set_queued(queue.len());
        let mut operation = self.lane.begin();
        operation.change(Change::Remove(session.me.id, sequence));
        if let (Some(message), Some(reason)) = (message, Reason::of(why)) {
            let recipients = [&*session.me.client_id];
            let label = Label { reason, limit: None, recipients: &recipients, time_ms: self.now.unix_ms };
            self.letters.append(&mut operation, message, label, &mut self.counts);
        }
        queue.note_removals(operation.submit());
        self.schedule_turn();
    }

    /// Sends a queue's entry from the log; whether to go on with the next.
    fn send_from_log(&mut self, slot: u32, packet_id: u16, entry: &Entry, dup: bool) -> bool {
        // The reader leaves the shard while a record borrowed from it is sent.
        let mut reader = std::mem::replace(&mut self.reader, self.bridge.reader());
        let more = match reader.get(&entry.pointer) {
            Ok(Fetched::Record(record)) => self.send_entry(slot, packet_id, entry, dup, &record),
            Ok(Fetched::Cold) => {
                let session = &mut self.sessions[slot as usize];
                session.cold = true;
                self.scratch.cold.push((slot, entry.pointer, session.me.id));
                self.schedule_turn();
                false
            }
            Ok(Fetched::Gone) => {
                tracing::error!(pointer = ?entry.pointer, "a queued message is not in the log any more");
                self.give_up(slot, Dropped::Unreadable, None);
                true
            }
            Err(error) => {
                self.unreadable(slot, &error);
                false
            }
        };
        self.reader = reader;
        more
    }

    /// A queue's next message cannot be read: it is left out, and said so.
    pub(super) fn unreadable(&mut self, slot: u32, error: &ReadError) {
        tracing::error!(%error, "a queued message cannot be read");
        self.give_up(slot, Dropped::Unreadable, None);
    }

    /// Sends the record of a queue's next entry, or drops it when the client does not take its size; whether to go on
    /// with the next.
    pub(super) fn send_entry(
        &mut self,
        slot: u32,
        packet_id: u16,
        entry: &Entry,
        dup: bool,
        record: &batch::Record<'_>,
    ) -> bool {
        let mut scratch = std::mem::take(&mut self.record_scratch);
        let more = match Message::from_record(record, &mut scratch) {
            Some(message) => {
                let message = Message { expires_s: entry.expires_s, ..message };
                self.send_queued(slot, packet_id, Tag(entry.tag), dup, &message)
            }
            None => {
                self.give_up(slot, Dropped::Unreadable, None);
                true
            }
        };
        self.record_scratch = scratch;
        more
    }

    fn send_queued(&mut self, slot: u32, packet_id: u16, tag: Tag, dup: bool, message: &Message<'_>) -> bool {
        let Some(session) = self.sessions.get_mut(slot as usize) else { return false };
        // Its rights may have changed while it waited; what may have been sent before is not sent again either.
        if !self.router.may_receive(&session.me, message.topic) {
            self.give_up(slot, Dropped::Rights, None);
            return true;
        }
        let (Some(link), Out::Queue(queue)) = (session.link.as_mut(), &mut session.out) else { return false };
        let id = tag.share().map_or(tag.id(), |key| session.subscriptions.shared_id(key));
        let how = How { qos: tag.qos(), retain: tag.retain(), ids: id.as_slice() };
        let outgoing = OutgoingPublish { dup, ..outgoing(message, &how, packet_id, self.now.unix_s) };
        if outgoing.encoded_length(link.version) > link.packet_bytes_max {
            let has_room = self.bridge.is_open();
            if self.letters.are_on() && has_room && !self.takes_letters(limits::BACKLOG_BYTES_MAX) {
                self.wait_for_commit(slot);
                return false;
            }
            self.counts.dead_letters_missed += u64::from(self.letters.are_on() && !has_room);
            self.give_up(slot, Dropped::TooLarge, Some(message).filter(|_| has_room));
            return true;
        }
        if !link.put_aliased(&outgoing) {
            outgoing.encode(&mut link.outbox, link.version);
        }
        queue.sent();
        session.me.set_open(queue.is_open());
        self.counts.sent(how.qos, message.payload.len());
        session.traffic.messages_out += 1;
        link.wake();
        true
    }
}

impl Link {
    /// Whether more may be taken out of the client's queue.
    pub(super) fn has_room(&self, bytes_max: usize) -> bool {
        self.backlog_bytes() <= bytes_max
    }

    /// Writes a PUBLISH by its topic's alias, or with a new one; whether it did. What waits for its place in the
    /// window is encoded already, without: an alias holds from where it stands in what is written.
    fn put_aliased(&mut self, outgoing: &OutgoingPublish<'_>) -> bool {
        let Some(aliases) = self.outbound_aliases.as_mut() else { return false };
        let Some(said) = aliases.of(outgoing.topic) else { return false };
        let aliased = match said {
            Said::Known(alias) => OutgoingPublish { topic: "", topic_alias: Some(alias), ..*outgoing },
            Said::New(alias) => OutgoingPublish { topic_alias: Some(alias), ..*outgoing },
        };
        if aliased.encoded_length(self.version) > self.packet_bytes_max {
            return false;
        }
        aliased.encode(&mut self.outbox, self.version);
        if let Said::New(alias) = said {
            aliases.sent(outgoing.topic, alias);
        }
        true
    }

    /// Whether so much waits to be written that nothing more is read.
    pub fn is_clogged(&self) -> bool {
        self.backlog_bytes() > limits::OUTBOX_STALL_BYTES
    }
}

/// What is kept of a message for others of its group.
fn shared(group: Option<&Arc<SharedGroup>>, message: &Message<'_>) -> Option<Box<Shared>> {
    group.map(|group| Box::new(Shared { group: group.clone(), message: message.into() }))
}

fn append_with_id(outbox: &mut Vec<u8>, packet: &[u8], packet_id_at: usize, packet_id: u16) {
    let start = outbox.len();
    outbox.extend_from_slice(packet);
    outbox[start + packet_id_at..start + packet_id_at + 2].copy_from_slice(&packet_id.to_be_bytes());
}
