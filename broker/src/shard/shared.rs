//! Shared subscriptions: a message goes to one member, and to another when that one's session ends before it was
//! acknowledged (S7). QoS 2 that was sent stays with who has it [MQTT-4.8.2-5].

use std::collections::VecDeque;
use std::sync::Arc;

use ahash::HashMap;
use bridge::state::{Entry, Pointer};
use bridge::{Delivery, Fetched, ReadError, Target as Enqueued, Ticket};
use smallvec::SmallVec;

use crate::codec::QoS;
use crate::codec::topic::split_share;
use crate::limits;
use crate::message::Message;
use crate::router::trie::{SharedGroup, Subscriber};
use crate::router::{MatchSet, QueueTarget, SessionRef, Target, picked, picked_queue};
use crate::session::subscriptions::Subscriptions;
use crate::session::window::Shared;
use crate::session::{Out, Session, Tag, now_before};
use crate::stats::Dropped;

use super::Shard;
use super::publish::To;

/// Messages in the log that were a session's and go to members that keep no queue.
#[derive(Default)]
pub struct Orphans {
    waiting: VecDeque<Orphan>,
    /// The first waits for the disk.
    reading: bool,
    /// Sessions that ended lately, by queue: what was on its way to them may only become durable now.
    ended: HashMap<u64, Ended>,
    /// Submitted the last time that they were looked at.
    ended_looked: Ticket,
}

struct Ended {
    looks_left: u32,
    subscriptions: Subscriptions,
}

struct Orphan {
    entry: Entry,
    group: Arc<SharedGroup>,
}

impl Shard {
    /// Gives one member of each shared group its copy; those that go through a queue are returned.
    pub(super) fn deliver_shared(&mut self, set: &MatchSet, message: &Message<'_>) -> SmallVec<[QueueTarget; 2]> {
        let mut queued = SmallVec::new();
        for group in &set.shared {
            let Some(member) = self.pick(group, message.topic) else { continue };
            if through_queue(&member, message.qos) {
                queued.push(picked_queue(&member, group.key));
            } else {
                self.send_to(&member, group, message);
            }
        }
        queued
    }

    fn pick(&self, group: &SharedGroup, topic: &str) -> Option<Subscriber> {
        group.pick(|session| self.router.may_receive(session, topic))
    }

    /// Sends a message to a member, not through a queue.
    fn send_to(&mut self, member: &Subscriber, group: &Arc<SharedGroup>, message: &Message<'_>) {
        let target = picked(member);
        if member.session.shard == self.index {
            self.deliver_picked(&target, group, message);
        } else {
            self.bursts[member.session.shard].push(To::Picked(Box::new((target, group.clone()))), message);
            self.schedule_turn();
        }
    }

    /// The same on the member's own shard. It may have gone since it was picked: then the next one gets it.
    pub(super) fn deliver_picked(&mut self, target: &Target, group: &Arc<SharedGroup>, message: &Message<'_>) {
        if self.is_there(target.slot, target.session) || message.qos.min(target.qos) == QoS::AtMostOnce {
            self.deliver(target, Some(group), message);
        } else {
            self.hand_over(group, message, Some(target.session));
        }
    }

    /// Whether this session of this shard has a client that is not being closed.
    fn is_there(&self, slot: u32, id: u64) -> bool {
        self.sessions.get(slot as usize).is_some_and(|session| {
            session.me.id == id && session.link.as_ref().is_some_and(|link| link.closing.is_none())
        })
    }

    /// Finds a member for a message that is another's no longer. `gone` has had it and is not asked again.
    fn hand_over(&mut self, group: &Arc<SharedGroup>, message: &Message<'_>, gone: Option<u64>) {
        // Those of this shard that are being closed would hand it to each other without end.
        let may = |one: &SessionRef| {
            let takes = one.durable || one.shard != self.index || self.is_there(one.slot, one.id);
            takes && Some(one.id) != gone && self.router.may_receive(one, message.topic)
        };
        let member = group.pick(may);
        let Some(member) = member else {
            self.counts.dropped_session_ended += 1;
            return;
        };
        if !through_queue(&member, message.qos) {
            self.scratch.restart();
            return self.send_to(&member, group, message);
        }
        let Some(target) = self.queue_target(&member, group.key, message.qos, message.expires_s) else { return };
        let now = self.now;
        let mut operation = self.lane.begin();
        operation.append(self.bridge.hidden(), now.unix_ms, std::iter::once(target), |out| {
            message.encode_record(out, message.topic.as_bytes(), false, now.unix_s);
        });
        operation.submit();
        self.schedule_turn();
    }

    /// A place in a member's queue; none when it is full.
    fn queue_target(&mut self, member: &Subscriber, key: u32, qos: QoS, expires_s: u32) -> Option<Enqueued> {
        if self.is_queue_full(member.session.queued()) {
            self.letters.note(Dropped::QueueFull, qos, &member.session);
            self.counts.dropped(Dropped::QueueFull, &member.session);
            return None;
        }
        // Counted before its commit: there may be many.
        member.session.set_queued(member.session.queued() + 1);
        let tag = Tag::shared(qos.min(member.qos), false, key).0;
        Some(Enqueued { queue: member.session.id, tag, expires_s })
    }

    /// What a session that ends for good has not got finds other members, as far as it came by shared subscriptions;
    /// its own are out of the router already. Pointers are returned, to move in the frame that closes its queue.
    pub(super) fn leave_to_others(&mut self, session: &mut Session) -> Vec<(Pointer, Enqueued)> {
        let gone = session.me.id;
        let mut moves = Vec::new();
        match &mut session.out {
            Out::Window(window) => {
                let (alone, shared) = window.leftovers();
                self.counts.dropped_session_ended += alone as u64;
                for Shared { group, message } in shared {
                    self.hand_over(&group, &message.borrow(), Some(gone));
                    self.post_due(&message.borrow());
                }
            }
            Out::Queue(queue) => {
                for (entry, was_sent) in queue.leftovers() {
                    match self.group_of(&session.subscriptions, &entry, was_sent) {
                        Some(group) => moves.extend(self.adopt(entry, group)),
                        None => self.counts.dropped_session_ended += u64::from(!was_sent),
                    }
                }
            }
        }
        moves
    }

    /// Keeps what says where that goes which is still on its way to a session that ends.
    pub(super) fn note_ended(&mut self, queue: u64, subscriptions: Subscriptions) {
        if subscriptions.has_shared() {
            self.orphans.ended.insert(queue, Ended { looks_left: limits::ENDED_LOOKS, subscriptions });
        }
    }

    /// Once a second: nothing is on its way any more to who ended long ago. What may be waits for its commit, so a second
    /// counts only when all that was submitted before the last one is durable.
    pub(super) fn forget_ended(&mut self) {
        if self.orphans.ended.is_empty() || self.lane.durable() < self.orphans.ended_looked {
            return;
        }
        self.orphans.ended.retain(|_, ended| {
            ended.looks_left = ended.looks_left.saturating_sub(1);
            ended.looks_left > 0
        });
        if self.orphans.ended.is_empty() {
            self.orphans.ended = HashMap::default();
        }
        // Empty, it writes nothing, and is gathered no sooner than what other lanes hold now.
        self.orphans.ended_looked = self.lane.begin().submit();
        self.schedule_turn();
    }

    /// Entries that became durable for queues that have ended find other members like those before.
    pub(super) fn take_late(&mut self, late: Vec<Delivery>) {
        let mut moves = Vec::new();
        for Delivery { queue, entry, .. } in late {
            let ended = self.orphans.ended.get(&queue);
            match ended.and_then(|ended| self.group_of(&ended.subscriptions, &entry, false)) {
                Some(group) => moves.extend(self.adopt(entry, group)),
                None => self.counts.dropped_session_ended += 1,
            }
        }
        if moves.is_empty() {
            return;
        }
        let mut operation = self.lane.begin();
        moves.into_iter().for_each(|(pointer, target)| operation.requeue(pointer, target));
        operation.submit();
        // They were acknowledged to who published them.
        self.awaited = true;
        self.schedule_turn();
    }

    /// Once a second: what waits for members that are away goes to those that are there and keep a queue, in the frame that
    /// takes it from the former. Nothing waits for one member while another has nothing to do.
    pub(super) fn relieve_absent(&mut self) {
        let is_waiting =
            |session: &Session| session.link.is_none() && session.subscriptions.has_shared() && session.me.queued() > 0;
        let away = self.sessions.iter().filter(|(_, session)| is_waiting(session)).map(|(slot, _)| slot as u32);
        let mut left = limits::RELIEVED_ENTRIES_MAX;
        for slot in away.collect::<Vec<_>>() {
            self.relieve(slot, &mut left);
        }
    }

    fn relieve(&mut self, slot: u32, left: &mut usize) {
        let session = &self.sessions[slot as usize];
        let Out::Queue(queue) = &session.out else { return };
        let id = session.me.id;
        let mut groups = HashMap::default();
        let mut moves = Vec::new();
        for (sequence, entry) in queue.never_sent() {
            let Some(key) = Tag(entry.tag).share() else { continue };
            let group = groups.entry(key).or_insert_with(|| self.relieved_group(&session.subscriptions, key));
            let Some((found, filter)) = group else { continue };
            if *left == 0 {
                break;
            }
            match self.taker(found, filter, &entry) {
                Some(target) => moves.push((sequence, entry, target)),
                None => *group = None,
            }
            *left -= 1;
        }
        if moves.is_empty() {
            return;
        }
        let mut operation = self.lane.begin();
        for (sequence, entry, target) in &moves {
            operation.move_entry((id, *sequence), *entry, *target);
        }
        let ticket = operation.submit();
        let gone: Vec<u64> = moves.iter().map(|(sequence, ..)| *sequence).collect();
        let session = &mut self.sessions[slot as usize];
        if let Out::Queue(queue) = &mut session.out {
            queue.give_up(&gone);
            queue.note_removals(ticket);
            session.me.set_queued(queue.len());
        }
        tracing::debug!(client = &*session.me.client_id, entries = gone.len(), "went to other members of its group");
        self.schedule_turn();
    }

    /// The group, and its filter, whose other members an entry may go to. With an access control list and wildcards it
    /// would take reading the record to know who may have it: then it stays.
    fn relieved_group<'a>(&self, of: &'a Subscriptions, key: u32) -> Option<(Arc<SharedGroup>, &'a str)> {
        let (name, filter) = split_share(of.shared_filter(key)?)?;
        let is_known = !self.router.access.has_acl() || !filter.contains(['+', '#']);
        Some((self.router.group(filter, name).filter(|_| is_known)?, filter))
    }

    /// A member that is there and has room in its queue for an entry that waits for another; it counts at once.
    fn taker(&self, group: &SharedGroup, filter: &str, entry: &Entry) -> Option<Enqueued> {
        let qos = Tag(entry.tag).qos();
        // Half of what it may hold is for what comes to it otherwise.
        let room = limits::RELIEF_QUEUED_MAX.min(self.config.max_queued_messages / 2);
        let takes = |one: &SessionRef| one.is_open() && one.durable && one.queued() < room;
        let member = group.pick(|one| takes(one) && self.router.may_receive(one, filter))?;
        if !through_queue(&member, qos) {
            return None;
        }
        member.session.set_queued(member.session.queued() + 1);
        let tag = Tag::shared(qos.min(member.qos), false, group.key).0;
        Some(Enqueued { queue: member.session.id, tag, expires_s: entry.expires_s })
    }

    /// Entries that were to move to sessions that ended just then are their former owners' again, behind what they have.
    pub(super) fn take_back(&mut self, back: Vec<Delivery>) {
        let mut operation = self.lane.begin();
        for Delivery { queue, sequence, entry, .. } in &back {
            let target = Enqueued { queue: *queue, tag: entry.tag, expires_s: entry.expires_s };
            operation.move_entry((*queue, *sequence), *entry, target);
        }
        operation.submit();
        self.schedule_turn();
    }

    /// Whose an entry becomes when its session ends.
    fn group_of(&self, subscriptions: &Subscriptions, entry: &Entry, was_sent: bool) -> Option<Arc<SharedGroup>> {
        let tag = Tag(entry.tag);
        let key = tag.share().filter(|_| !was_sent || tag.qos() == QoS::AtLeastOnce)?;
        let (name, filter) = split_share(subscriptions.shared_filter(key)?)?;
        self.router.group(filter, name)
    }

    /// Finds a member for an entry: one that keeps a queue gets the pointer that is returned; for another the message
    /// is read. Rights are looked at when it is sent.
    fn adopt(&mut self, entry: Entry, group: Arc<SharedGroup>) -> Option<(Pointer, Enqueued)> {
        let Some(member) = group.pick(|_| true) else {
            self.counts.dropped_session_ended += 1;
            return None;
        };
        let qos = Tag(entry.tag).qos();
        if through_queue(&member, qos) {
            let target = self.queue_target(&member, group.key, qos, entry.expires_s);
            // It is not in hand: it is only counted.
            self.letters.forget();
            return Some((entry.pointer, target?));
        }
        self.orphans.waiting.push_back(Orphan { entry, group });
        self.schedule_turn();
        None
    }

    /// Hands over messages that had to be read, as far as that takes no waiting for the disk.
    pub(super) fn place_orphans(&mut self, shared: &super::Shared) {
        while !self.orphans.reading
            && let Some(orphan) = self.orphans.waiting.pop_front()
        {
            // The reader leaves the shard while a record borrowed from it is sent.
            let mut reader = std::mem::replace(&mut self.reader, self.bridge.reader());
            let mut scratch = std::mem::take(&mut self.record_scratch);
            let Orphan { entry, group } = &orphan;
            match reader.get(&entry.pointer) {
                Ok(Fetched::Record(record)) => match Message::from_record(&record, &mut scratch) {
                    Some(message) if now_before(entry.expires_s, self.now.unix_s) => {
                        self.give_up_shared(group, &Message { expires_s: entry.expires_s, ..message });
                    }
                    Some(message) => {
                        let (qos, retain, expires_s) = (Tag(entry.tag).qos(), false, entry.expires_s);
                        let message = Message { qos, retain, expires_s, ..message };
                        self.hand_over(group, &message, None);
                        self.post_due(&message);
                    }
                    None => self.counts.dropped_unreadable += 1,
                },
                Ok(Fetched::Cold) => {
                    self.orphans.reading = true;
                    let (fetch, shared, pointer) = (reader.fetch(&entry.pointer), shared.clone(), entry.pointer);
                    self.orphans.waiting.push_front(orphan);
                    tokio::task::spawn_local(async move {
                        let fetched = fetch.await;
                        let mut shard = shared.borrow_mut();
                        shard.orphans.reading = false;
                        match fetched {
                            Ok(chunk) => shard.reader.install(&pointer, chunk),
                            Err(ReadError::Stopping) => return,
                            Err(error) => {
                                shard.unreadable_orphan(&error);
                                shard.orphans.waiting.pop_front();
                            }
                        }
                        shard.schedule_turn();
                    });
                }
                Ok(Fetched::Gone) => self.counts.dropped_unreadable += 1,
                Err(error) => self.unreadable_orphan(&error),
            }
            (self.reader, self.record_scratch) = (reader, scratch);
        }
    }

    fn unreadable_orphan(&mut self, error: &ReadError) {
        tracing::error!(%error, "a message that was to go to another member cannot be read");
        self.counts.dropped_unreadable += 1;
    }
}

/// Whether a member gets a message of this QoS through its queue.
fn through_queue(member: &Subscriber, qos: QoS) -> bool {
    member.session.durable && qos.min(member.qos) > QoS::AtMostOnce
}
