//! Shared subscriptions: a message goes to one member, and to another when that one's session ends before it was
//! acknowledged (S7). QoS 2 that was sent stays with who has it [MQTT-4.8.2-5].

use std::collections::VecDeque;
use std::sync::Arc;

use ahash::HashMap;
use bridge::state::{Change, Entry};
use bridge::{Delivery, Fetched, Operation, ReadError, RecoveredQueue, Target as Enqueued, Ticket};
use smallvec::SmallVec;

use crate::codec::QoS;
use crate::codec::topic::split_share;
use crate::limits;
use crate::message::{Message, OwnedMessage};
use crate::router::trie::{SharedGroup, Subscriber};
use crate::router::{MatchSet, QueueTarget, SessionRef, Target, picked, picked_queue};
use crate::session::subscriptions::Subscriptions;
use crate::session::window::Shared;
use crate::session::{Out, Session, Tag, now_before};
use crate::stats::Dropped;

use super::Shard;
use super::publish::To;

/// What sessions that ended leave to other members of their groups. Their queues stay until nothing is on its way to them: an
/// entry is in one queue or another at any moment, whatever crash comes.
#[derive(Default)]
pub struct Orphans {
    /// Messages that go to members that keep no queue, and have to be read for it.
    waiting: VecDeque<Orphan>,
    /// The first waits for the disk.
    reading: bool,
    /// QoS 2 that was read: once it is sent nobody may find it in a queue, so it waits until it is durably in none.
    leaving: VecDeque<(Ticket, Arc<SharedGroup>, OwnedMessage)>,
    /// Sessions that ended lately, by queue.
    ended: HashMap<u64, Ended>,
    /// Submitted the last time that they were looked at.
    looked: Ticket,
    /// Entries of these for whom there was nobody yet: members without a session may come back after a start.
    found: Vec<Left>,
}

struct Ended {
    looks_left: u32,
    subscriptions: Subscriptions,
}

/// An entry of a session that has ended.
#[derive(Clone, Copy)]
pub struct Left {
    queue: u64,
    sequence: u64,
    entry: Entry,
}

/// What becomes of it.
pub enum Fate {
    /// Another queue has it.
    Moves(Enqueued),
    /// It is given up.
    Goes,
    /// It is read for who keeps no queue, and goes then.
    Stays,
}

impl From<Delivery> for Left {
    fn from(delivery: Delivery) -> Left {
        Left { queue: delivery.queue, sequence: delivery.sequence, entry: delivery.entry }
    }
}

impl Left {
    pub(super) fn put(&self, fate: &Fate, operation: &mut Operation<'_>) {
        match fate {
            Fate::Moves(target) => {
                operation.move_entry((self.queue, self.sequence), self.entry.pointer, *target);
            }
            Fate::Goes => operation.change(Change::Remove(self.queue, self.sequence)),
            Fate::Stays => {}
        }
    }
}

struct Orphan {
    left: Left,
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

    /// What a session that ends for good has not got finds other members, as far as it came by shared subscriptions; its own
    /// are out of the router already. What becomes of such entries is returned, for the frame that ends the session.
    pub(super) fn leave_to_others(&mut self, session: &mut Session) -> Vec<(Left, Fate)> {
        let queue_id = session.me.id;
        let mut fates = Vec::new();
        match &mut session.out {
            Out::Window(window) => {
                let (alone, shared) = window.leftovers();
                self.counts.dropped_session_ended += alone as u64;
                for Shared { group, message } in shared {
                    self.hand_over(&group, &message.borrow(), Some(queue_id));
                    self.post_due(&message.borrow());
                }
            }
            Out::Queue(queue) => {
                for (sequence, entry, was_sent) in queue.leftovers() {
                    let left = Left { queue: queue_id, sequence, entry };
                    match self.group_of(&session.subscriptions, &entry, was_sent) {
                        Some(group) => fates.push((left, self.adopt(left, group))),
                        None => {
                            self.counts.dropped_session_ended += u64::from(!was_sent);
                            fates.extend(Tag(entry.tag).share().map(|_| (left, Fate::Goes)));
                        }
                    }
                }
            }
        }
        fates
    }

    /// The queue of a session that ended stays for what is on its way to it.
    pub(super) fn note_ended(&mut self, queue: u64, subscriptions: Subscriptions) {
        self.orphans.ended.insert(queue, Ended { looks_left: limits::ENDED_LOOKS, subscriptions });
    }

    /// A queue that the start found, of a session that had ended. Its entries wait until the other shards' sessions are there.
    pub fn recover_ended(&mut self, queue: u64, held: RecoveredQueue) {
        self.note_ended(queue, Subscriptions::default());
        let left = held.entries.into_iter().map(|(sequence, entry)| Left { queue, sequence, entry });
        self.orphans.found.extend(left);
    }

    /// Once a second: nothing is on its way any more to who ended long ago. What may be waits for its commit, so a second
    /// counts only when all that was submitted before the last one is durable.
    pub(super) fn look_at_ended(&mut self) {
        let found = std::mem::take(&mut self.orphans.found);
        self.take_late(found);
        let waits = !self.orphans.waiting.is_empty() || self.lane.durable() < self.orphans.looked;
        if self.orphans.ended.is_empty() || waits {
            return;
        }
        // What has arrived leaves before its queue is closed.
        self.take_deliveries();
        let mut operation = self.lane.begin();
        self.orphans.ended.retain(|queue, ended| {
            ended.looks_left -= 1;
            if ended.looks_left == 0 {
                operation.change(Change::Close(*queue));
            }
            ended.looks_left > 0
        });
        // Also when it is empty: then it writes nothing, and is gathered no sooner than what other lanes hold now.
        self.orphans.looked = operation.submit();
        let before = self.orphans.found.len();
        self.orphans.found.retain(|left| self.orphans.ended.contains_key(&left.queue));
        self.counts.dropped_session_ended += (before - self.orphans.found.len()) as u64;
        if self.orphans.ended.is_empty() {
            self.orphans.ended = HashMap::default();
        }
        self.schedule_turn();
    }

    /// Entries that became durable for queues of sessions that have ended find other members like those before.
    pub(super) fn take_late(&mut self, late: Vec<Left>) {
        let mut fates = Vec::new();
        for left in late {
            let ended = self.orphans.ended.get(&left.queue);
            match ended.and_then(|ended| self.group_of(&ended.subscriptions, &left.entry, false)) {
                Some(group) => fates.push((left, self.adopt(left, group))),
                None if ended.is_some() && Tag(left.entry.tag).share().is_some() => self.orphans.found.push(left),
                // It goes with the queue.
                None => self.counts.dropped_session_ended += 1,
            }
        }
        if fates.is_empty() {
            return;
        }
        let mut operation = self.lane.begin();
        fates.iter().for_each(|(left, fate)| left.put(fate, &mut operation));
        operation.submit();
        // They were acknowledged to who published them.
        self.awaited = true;
        self.schedule_turn();
    }

    /// Once a second: what waits for members that are away goes to those that are there and keep a queue, in the frame that
    /// takes it from the former. Nothing waits for one member while another has nothing to do.
    pub(super) fn relieve_absent(&mut self) {
        let is_waiting =
            |session: &Session| session.link.is_none() && session.subscriptions.had_shared() && session.me.queued() > 0;
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
            operation.move_entry((id, *sequence), entry.pointer, *target);
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

    /// Whose an entry becomes when its session ends.
    fn group_of(&self, subscriptions: &Subscriptions, entry: &Entry, was_sent: bool) -> Option<Arc<SharedGroup>> {
        let tag = Tag(entry.tag);
        let key = tag.share().filter(|_| !was_sent || tag.qos() == QoS::AtLeastOnce)?;
        match subscriptions.shared_filter(key).and_then(split_share) {
            Some((name, filter)) => self.router.group(filter, name),
            // It has unsubscribed before the start.
            None => self.router.group_with_key(key),
        }
    }

    /// Finds a member for an entry: one that keeps a queue, or another, for which the message is read. Rights are looked at
    /// when it is sent.
    fn adopt(&mut self, left: Left, group: Arc<SharedGroup>) -> Fate {
        let Some(member) = group.pick(|_| true) else {
            self.counts.dropped_session_ended += 1;
            return Fate::Goes;
        };
        let qos = Tag(left.entry.tag).qos();
        if through_queue(&member, qos) {
            let target = self.queue_target(&member, group.key, qos, left.entry.expires_s);
            // It is not in hand: it is only counted.
            self.letters.forget();
            return target.map_or(Fate::Goes, Fate::Moves);
        }
        self.orphans.waiting.push_back(Orphan { left, group });
        self.schedule_turn();
        Fate::Stays
    }

    /// Hands over messages that had to be read, as far as that takes no waiting for the disk.
    pub(super) fn place_orphans(&mut self, shared: &super::Shared) {
        let durable = self.lane.durable();
        while self.orphans.leaving.front().is_some_and(|(ticket, ..)| *ticket <= durable)
            && let Some((_, group, message)) = self.orphans.leaving.pop_front()
        {
            self.hand_over(&group, &message.borrow(), None);
            self.post_due(&message.borrow());
        }
        while !self.orphans.reading
            && self.orphans.leaving.len() < limits::LEAVING_MAX
            && let Some(orphan) = self.orphans.waiting.pop_front()
        {
            // The reader leaves the shard while a record borrowed from it is sent.
            let mut reader = std::mem::replace(&mut self.reader, self.bridge.reader());
            let mut scratch = std::mem::take(&mut self.record_scratch);
            let Orphan { left: Left { entry, .. }, group } = &orphan;
            let (mut is_placed, mut leaves) = (true, None);
            match reader.get(&entry.pointer) {
                Ok(Fetched::Record(record)) => match Message::from_record(&record, &mut scratch) {
                    Some(message) if now_before(entry.expires_s, self.now.unix_s) => {
                        self.give_up_shared(group, &Message { expires_s: entry.expires_s, ..message });
                    }
                    Some(message) => {
                        let (qos, retain, expires_s) = (Tag(entry.tag).qos(), false, entry.expires_s);
                        let message = Message { qos, retain, expires_s, ..message };
                        if qos == QoS::ExactlyOnce {
                            leaves = Some(OwnedMessage::from(&message));
                        } else {
                            self.hand_over(group, &message, None);
                            self.post_due(&message);
                        }
                    }
                    None => self.counts.dropped_unreadable += 1,
                },
                Ok(Fetched::Cold) => {
                    (self.orphans.reading, is_placed) = (true, false);
                    let (fetch, shared, pointer) = (reader.fetch(&entry.pointer), shared.clone(), entry.pointer);
                    tokio::task::spawn_local(async move {
                        let fetched = fetch.await;
                        let mut shard = shared.borrow_mut();
                        shard.orphans.reading = false;
                        match fetched {
                            Ok(chunk) => shard.reader.install(&pointer, chunk),
                            Err(ReadError::Stopping) => return,
                            Err(error) => {
                                shard.unreadable_orphan(&error);
                                if let Some(orphan) = shard.orphans.waiting.pop_front() {
                                    shard.placed(&orphan.left);
                                }
                            }
                        }
                        shard.schedule_turn();
                    });
                }
                Ok(Fetched::Gone) => self.counts.dropped_unreadable += 1,
                Err(error) => self.unreadable_orphan(&error),
            }
            (self.reader, self.record_scratch) = (reader, scratch);
            if !is_placed {
                self.orphans.waiting.push_front(orphan);
                continue;
            }
            let ticket = self.placed(&orphan.left);
            if let Some(message) = leaves {
                self.orphans.leaving.push_back((ticket, orphan.group, message));
                self.awaited = true;
            }
        }
    }

    /// It goes from the queue where it waited; the ticket of that.
    fn placed(&mut self, left: &Left) -> Ticket {
        let mut operation = self.lane.begin();
        left.put(&Fate::Goes, &mut operation);
        let ticket = operation.submit();
        self.schedule_turn();
        ticket
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
