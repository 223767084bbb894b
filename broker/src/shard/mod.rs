//! A shard: one thread that owns the sessions of the clients whose id falls to it. Nothing here is locked;
//! shards talk by bursts, and with the journal by tickets.
//!
//! - `publish`: a message comes in and goes everywhere it has to
//! - `packets`: what else a client sends; `allowed`: what its limits say of it
//! - `lifecycle`: sessions begin, are resumed, taken over, end; wills and expiry
//! - `shared`: shared subscriptions
//! - `disk`: what becomes of what cannot be written
//! - `retained`: what is kept for who subscribes later; `sys`: what the server says of itself
//! - `admin`: sessions told to an administrator and removed by one
//! - `rates`: clients that are too fast are not read for a while
//! - `shed`: what gives way when there is too much
//! - `letters`: what is given up becomes a dead letter; `doomed`: in durable queues
//! - `told`: what a client is told of itself: CONNACK, DISCONNECT, reasons
//! - `mailbox`: how other threads reach it
//! - here: the turn, in which commits, other shards and timers are heard

mod admin;
mod allowed;
mod disk;
mod doomed;
mod letters;
mod lifecycle;
mod mailbox;
mod packets;
mod publish;
mod rates;
mod retained;
mod shared;
mod shed;
mod sys;
mod told;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ahash::HashMap;
use bridge::state::Pointer;
use bridge::{Bridge, Lane, ReadError, Reader, Ticket, Topic};
use slab::Slab;

use crate::Config;
use crate::codec::{Ack, AckKind, ReasonCode, Version, encode_ack};
use crate::limits;
use crate::router::{MatchSet, Router};
use crate::session::queue::Next;
use crate::session::{Close, Link, Out, Session};
use crate::stats::Counts;

pub use admin::{list_clients, remove_client};
use letters::Letters;
pub use lifecycle::{Admitted, RecoveredSession, Rejected};
pub use mailbox::{Job, Mail, Mailbox, Visit};
pub use packets::{Consumed, refuse_topic};
use publish::{Burst, Scratch};
use shared::Orphans;
use shed::Room;

/// What was promised to a client and waits for its commit (J6).
struct Held {
    ticket: Ticket,
    slot: u32,
    link: u64,
    what: Promise,
}

enum Promise {
    Ack(Ack),
    Packet(Box<[u8]>),
    /// The first packet on a link; others may follow it.
    ConnAck(Box<[u8]>),
}

/// A shard's state; shared by the tasks of its thread.
pub struct Shard {
    /// Its number.
    pub index: usize,
    /// What every shard shares.
    pub router: Arc<Router>,
    /// Settings.
    pub config: Arc<Config>,
    /// Its counts.
    pub counts: Counts,
    mailboxes: Arc<[Mailbox]>,
    bridge: Bridge,
    lane: Lane,
    flushed: Ticket,
    reader: Reader,
    sessions: Slab<Session>,
    by_client: HashMap<Arc<str>, u32>,
    by_queue: HashMap<u64, u32>,
    held: VecDeque<Held>,
    stalled: Vec<(u32, u64)>,
    /// Links that wait for room on the disk, by slot.
    waiting_for_disk: Vec<(u32, u64)>,
    orphans: Orphans,
    /// Ends of durable sessions that may not be durable yet, by client id.
    ends: HashMap<Arc<str>, Ticket>,
    letters: Letters,
    room: Room,
    /// Sessions that wait for a commit, by slot: every packet identifier is used, or the journal is behind.
    waiting_for_commit: Vec<u32>,
    /// Last bytes for links that were taken over, by link.
    farewells: HashMap<u64, Vec<u8>>,
    cache: HashMap<Box<str>, Arc<MatchSet>>,
    cache_bytes: usize,
    cache_generation: u64,
    bursts: Vec<Burst>,
    scratch: Scratch,
    record_scratch: Vec<u8>,
    spare_buffers: Vec<Vec<u8>>,
    turn_due: bool,
    /// Someone waits for what was submitted.
    awaited: bool,
    /// A turn comes by itself for what nobody waits for.
    riding: bool,
    now: Now,
    /// By how much the wall clock is ahead of the process's, as the records of absent sessions have it.
    clock_ahead_s: i64,
    failed: bool,
}

/// The shard that owns a client id's session.
pub fn shard_of(client_id: &str, shards: usize) -> usize {
    let hash = ahash::RandomState::with_seeds(1, 2, 3, 4).hash_one(client_id);
    (hash % shards as u64) as usize
}

/// The time, read once per burst of work.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Milliseconds since 1970.
    pub unix_ms: i64,
    /// Seconds since 1970.
    pub unix_s: u32,
    /// Milliseconds the process has run: what does not jump when the clock is set.
    pub up_ms: u64,
}

impl Now {
    fn read() -> Now {
        #[cfg(test)]
        if let Some(now) = crate::sim::clock::read() {
            return now;
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        static START: OnceLock<Instant> = OnceLock::new();
        let up_ms = START.get_or_init(Instant::now).elapsed().as_millis() as u64;
        Now { unix_ms: since.as_millis() as i64, unix_s: since.as_secs() as u32, up_ms }
    }

    fn ahead_s(self) -> i64 {
        i64::from(self.unix_s) - (self.up_ms / 1000) as i64
    }
}

/// Shared by the tasks of one shard's thread.
pub type Shared = Rc<RefCell<Shard>>;

impl Shard {
    /// A shard without sessions.
    pub fn new(
        index: usize,
        bridge: Bridge,
        router: Arc<Router>,
        config: Arc<Config>,
        mailboxes: Arc<[Mailbox]>,
        dead_letters: Option<Arc<Topic>>,
    ) -> Shard {
        let lane = bridge.lane_with_doorbell(mailboxes[index].doorbell.clone());
        Shard {
            index,
            reader: bridge.reader(),
            bursts: mailboxes.iter().map(|_| Burst::default()).collect(),
            bridge,
            router,
            config,
            mailboxes,
            lane,
            counts: Counts::default(),
            flushed: 0,
            sessions: Slab::new(),
            by_client: HashMap::default(),
            by_queue: HashMap::default(),
            held: VecDeque::new(),
            stalled: Vec::new(),
            waiting_for_disk: Vec::new(),
            orphans: Orphans::default(),
            ends: HashMap::default(),
            room: Room::default(),
            waiting_for_commit: Vec::new(),
            letters: Letters::new(dead_letters),
            farewells: HashMap::default(),
            cache: HashMap::default(),
            cache_bytes: 0,
            cache_generation: 0,
            scratch: Scratch::default(),
            record_scratch: Vec::new(),
            spare_buffers: Vec::new(),
            turn_due: false,
            awaited: false,
            riding: false,
            now: Now::read(),
            clock_ahead_s: Now::read().ahead_s(),
            failed: false,
        }
    }

    /// Reads the clock; before a burst of work.
    pub fn read_clock(&mut self) {
        self.now = Now::read();
    }

    /// The session in `slot`, if it is still the one this link belongs to.
    pub fn linked(&mut self, slot: u32, link: u64) -> Option<&mut Session> {
        let session = self.sessions.get_mut(slot as usize)?;
        session.link.as_ref().is_some_and(|l| l.id == link).then_some(session)
    }

    /// The shard that owns a client id's session.
    pub fn shard_of(&self, client_id: &str) -> usize {
        shard_of(client_id, self.mailboxes.len())
    }

    /// Sends mail to a shard.
    pub fn send(&self, shard: usize, mail: Mail) {
        self.mailboxes[shard].send(mail);
    }

    /// What a link that was taken over has to write before it closes.
    pub fn take_farewell(&mut self, link: u64) -> Option<Vec<u8>> {
        self.farewells.remove(&link)
    }

    /// A buffer that is no longer needed: idle connections hold none.
    pub fn give_buffer(&mut self, mut buffer: Vec<u8>) {
        let keep = self.spare_buffers.len() < limits::SPARE_BUFFERS_MAX;
        if keep && (1..=limits::SPARE_BUFFER_BYTES_MAX).contains(&buffer.capacity()) {
            buffer.clear();
            self.spare_buffers.push(buffer);
        }
    }

    /// Has a turn follow once the tasks that are ready now have run.
    fn schedule_turn(&mut self) {
        if !self.turn_due {
            self.turn_due = true;
            self.mailboxes[self.index].doorbell.notify_one();
        }
    }

    /// Promises a client something for when `ticket` is durable.
    fn hold(&mut self, slot: u32, ticket: Ticket, what: Promise) {
        if self.is_never(slot, ticket) {
            return;
        }
        let Some(link) = self.sessions.get_mut(slot as usize).and_then(|s| s.link.as_mut()) else { return };
        let is_first = link.held == 0;
        link.held += 1;
        let held = Held { ticket, slot, link: link.id, what };
        if is_first && ticket <= self.lane.durable() {
            // Others may be waiting for a disk that hangs.
            self.keep(held);
        } else {
            self.awaited |= ticket > self.flushed;
            self.held.push_back(held);
        }
        // The ticket may be durable already: then no commit rings.
        self.schedule_turn();
    }

    /// Acknowledges once everything before is acknowledged and `ticket`, if any, is durable
    /// [MQTT-4.6.0-2, -3].
    fn acknowledge(&mut self, slot: u32, kind: AckKind, packet_id: u16, ticket: Option<Ticket>) {
        let Some(link) = self.sessions.get_mut(slot as usize).and_then(|s| s.link.as_mut()) else { return };
        let ack = Ack { kind, packet_id, reason: ReasonCode::Success };
        if ticket.is_none() && (link.held == 0 || off!(AckOrder)) {
            self.counts.packets_out += 1;
            return link.answer(ack);
        }
        let ticket = ticket.unwrap_or_else(|| self.lane.submitted());
        self.hold(slot, if off!(AckWaits) { 0 } else { ticket }, Promise::Ack(ack));
    }

    /// Keeps promises up to what is durable now.
    fn release_held(&mut self) {
        let durable = self.lane.durable();
        while self.held.front().is_some_and(|held| held.ticket <= durable) {
            let Some(held) = self.held.pop_front() else { return };
            self.keep(held);
        }
    }

    fn keep(&mut self, held: Held) {
        let Some(session) = self.linked(held.slot, held.link) else { return };
        let Some(link) = session.link.as_mut() else { return };
        link.held -= 1;
        let mut first = false;
        match held.what {
            Promise::Ack(ack) => link.answer(ack),
            Promise::Packet(packet) => link.outbox.extend_from_slice(&packet),
            Promise::ConnAck(packet) => {
                link.outbox.extend_from_slice(&packet);
                link.ready = true;
                first = true;
            }
        }
        link.wake();
        if first {
            session.me.set_connected(true);
        }
        self.counts.packets_out += 1;
        if first {
            self.pump(held.slot);
        }
    }

    /// Takes in what became durable for queues of this shard.
    fn take_deliveries(&mut self) {
        let (mut full, mut late) = (Vec::new(), Vec::new());
        for delivery in self.lane.take_deliveries() {
            let Some(slot) = self.by_queue.get(&delivery.queue).copied() else {
                late.push(delivery.into());
                continue;
            };
            let Some(session) = self.sessions.get_mut(slot as usize) else { continue };
            let Out::Queue(queue) = &mut session.out else { continue };
            queue.push(delivery.sequence, delivery.entry);
            session.me.set_queued(queue.len());
            if self.config.drops_oldest && queue.len() > self.config.max_queued_messages {
                full.push(slot);
            }
            let room = self.room.outbox_bytes_max;
            let takes = |link: &Link| link.ready && link.closing.is_none() && link.has_room(room);
            let ready = session.link.as_ref().is_some_and(takes);
            if !ready || session.cold {
                continue;
            }
            let durable = self.lane.durable();
            match queue.next(durable, self.now.unix_s) {
                // Nothing is before it: its record is still in memory.
                Some(Next::Publish { packet_id, entry, dup: false }) if entry == delivery.entry => {
                    match delivery.record() {
                        Some(record) => {
                            self.send_entry(slot, packet_id, &entry, false, &record);
                        }
                        None => self.pump(slot),
                    }
                }
                // Also when only a commit holds it up: then it is noted that it waits.
                _ => self.pump(slot),
            }
        }
        if !full.is_empty() {
            full.dedup();
            match self.letters.are_on() {
                true => full.into_iter().for_each(|slot| self.doom(slot)),
                false => self.drop_oldest(&full),
            }
        }
        if !late.is_empty() {
            self.take_late(late);
        }
    }

    /// Hears commits, other shards and clients that waited; then hands on what this turn produced.
    fn turn(&mut self, shared: &Shared) -> Vec<Mail> {
        self.turn_due = false;
        self.read_clock();
        let mut left = Vec::new();
        let mail = std::mem::take(&mut *self.mailboxes[self.index].mail.lock());
        for mail in mail {
            match mail {
                Mail::Burst(burst) => {
                    self.take_burst(&burst);
                    self.taken_in(burst.bytes());
                }
                other => left.push(other),
            }
        }
        self.take_deliveries();
        self.release_held();
        for slot in std::mem::take(&mut self.waiting_for_commit) {
            self.pump(slot);
        }
        if self.lane.backlog_bytes() < limits::BACKLOG_BYTES_MAX / 2 && !self.others_are_behind() {
            self.wake_stalled();
        }
        if self.lane.failure().is_some() && !self.failed {
            self.failed = true;
            match self.config.degrades_on_disk_error {
                true => self.end_promises(),
                // It ends for it.
                false => self.close_all(ReasonCode::ServerShuttingDown, "the journal failed"),
            }
        }
        self.wake_waiting_for_disk();
        self.place_orphans(shared);
        self.post_doomed(shared);
        self.let_ride(shared);
        self.hand_on();
        self.warm_cold(shared);
        self.show_counts();
        left
    }

    /// What was submitted and nobody waits for is committed soon, with whatever comes by then (J6).
    fn let_ride(&mut self, shared: &Shared) {
        let submitted = self.lane.submitted();
        if submitted == self.flushed || self.awaited {
            return;
        }
        if !self.riding {
            self.riding = true;
            let shared = shared.clone();
            tokio::task::spawn_local(async move {
                tokio::time::sleep(Duration::from_millis(limits::RIDE_ALONG_MS)).await;
                let mut shard = shared.borrow_mut();
                shard.riding = false;
                shard.hand_on_all();
            });
        }
    }

    /// Hands on everything, whether anyone waits for it or not.
    fn hand_on_all(&mut self) {
        self.awaited = true;
        self.hand_on();
    }

    /// Hands what was submitted to the committer, if anyone waits for it, and bursts to their shards.
    fn hand_on(&mut self) {
        let submitted = self.lane.submitted();
        let much = self.lane.backlog_bytes() > limits::RIDE_ALONG_BYTES_MAX;
        if submitted != self.flushed && (self.awaited || much) {
            self.flushed = submitted;
            self.lane.flush();
        }
        self.awaited = false;
        for (shard, burst) in self.bursts.iter_mut().enumerate() {
            if !burst.is_empty() {
                self.mailboxes[shard].burst_bytes.fetch_add(burst.bytes(), Ordering::Relaxed);
                self.mailboxes[shard].send(Mail::Burst(std::mem::take(burst)));
            }
        }
    }

    fn show_counts(&self) {
        self.mailboxes[self.index].shown.show(&self.counts);
    }

    /// A burst was taken in. Whoever waited for this shard to catch up hears of it.
    fn taken_in(&self, bytes: usize) {
        let before = self.mailboxes[self.index].burst_bytes.fetch_sub(bytes, Ordering::Relaxed);
        if before > limits::BURST_BYTES_MAX && before - bytes <= limits::BURST_BYTES_MAX {
            self.mailboxes.iter().for_each(|mailbox| mailbox.doorbell.notify_one());
        }
    }

    fn others_are_behind(&self) -> bool {
        self.mailboxes.iter().any(Mailbox::is_full)
    }

    /// How many bytes may be read from this link's client; none before others caught up, when it is woken. Asked before
    /// every read.
    pub fn appetite(&mut self, slot: u32, link: u64) -> usize {
        if self.has_enough(slot, link) {
            return 0;
        }
        let (is_behind, others_are_behind) = (self.is_behind(), self.others_are_behind());
        if !is_behind && !others_are_behind {
            return limits::READ_BYTES;
        }
        let Some(link) = self.linked(slot, link).and_then(|session| session.link.as_mut()) else { return 0 };
        if !others_are_behind && !link.writes {
            // It may have nothing to say that has to be written.
            return limits::READ_BEHIND_BYTES;
        }
        if !link.stalled {
            link.stalled = true;
            let entry = (slot, link.id);
            self.stalled.push(entry);
        }
        0
    }

    /// Whether so much waits for the journal that nothing more may go there.
    fn is_behind(&self) -> bool {
        self.lane.backlog_bytes() > limits::BACKLOG_BYTES_MAX
    }

    /// Whether this link's client has as much under way as it may. Asked before every packet.
    fn has_enough(&mut self, slot: u32, link: u64) -> bool {
        let link = self.linked(slot, link).and_then(|session| session.link.as_ref());
        // An acknowledgement that is released wakes the task by itself. What it asks for has to be answered, so
        // who does not read is not read; its task is woken by the socket.
        link.is_none_or(|link| link.holds_enough() || !link.ready || link.waits_for_disk || link.is_clogged())
    }

    fn wake_stalled(&mut self) {
        let now_ms = self.now.up_ms;
        for (slot, link) in std::mem::take(&mut self.stalled) {
            if let Some(link) = self.linked(slot, link).and_then(|session| session.link.as_mut()) {
                link.stalled = false;
                // What it said meanwhile is read only now.
                link.heard_ms = now_ms;
                link.wake();
            }
        }
    }

    fn close_all(&mut self, reason: ReasonCode, why: &'static str) {
        for (_, session) in self.sessions.iter_mut() {
            if let Some(link) = session.link.as_mut() {
                link.close(Close::ByServer(reason, why));
            }
        }
    }

    /// Whether the entry that a queue is at points there.
    fn is_next(&mut self, slot: u32, pointer: &Pointer) -> bool {
        let (durable, now_s) = (self.lane.durable(), self.now.unix_s);
        let Some(Out::Queue(queue)) = self.sessions.get_mut(slot as usize).map(|s| &mut s.out) else { return false };
        matches!(queue.next(durable, now_s), Some(Next::Publish { entry, .. }) if entry.pointer == *pointer)
    }

    /// Reads of queues that found nothing in the page cache go on in the background.
    fn warm_cold(&mut self, shared: &Shared) {
        for (slot, pointer, session) in std::mem::take(&mut self.scratch.cold) {
            let (fetch, shared) = (self.reader.fetch(&pointer), shared.clone());
            tokio::task::spawn_local(async move {
                let fetched = fetch.await;
                let mut shard = shared.borrow_mut();
                if shard.sessions.get(slot as usize).is_none_or(|s| s.me.id != session) {
                    return;
                }
                shard.sessions[slot as usize].cold = false;
                match fetched {
                    Ok(chunk) => shard.reader.install(&pointer, chunk),
                    // The message stays where it is for the next start.
                    Err(ReadError::Stopping) => return,
                    Err(error) if shard.is_next(slot, &pointer) => shard.unreadable(slot, &error),
                    // The client came back meanwhile and is at another message.
                    Err(_) => {}
                }
                shard.pump(slot);
                shard.schedule_turn();
            });
        }
    }
}

impl Link {
    /// Writes an acknowledgement. One that ends an exchange makes room for another message of the client's.
    fn answer(&mut self, ack: Ack) {
        let ends = match ack.kind {
            AckKind::PubAck | AckKind::PubComp => true,
            AckKind::PubRec => ack.reason.is_error(),
            AckKind::PubRel => false,
        };
        self.unanswered = self.unanswered.saturating_sub(ends.into());
        if ack.reason.is_error() {
            let mut outbox = std::mem::take(&mut self.outbox);
            self.put_ack(&mut outbox, ack);
            self.outbox = outbox;
        } else {
            encode_ack(&mut self.outbox, self.version, ack, None);
        }
    }

    /// Whether so many acknowledgements wait for their commit that nothing more is read. In 5.0 one packet more
    /// than it was allowed is: a client that sends too much is to be told.
    pub(super) fn holds_enough(&self) -> bool {
        let allowed = usize::from(self.limits().receive_maximum) + usize::from(self.version == Version::V5);
        self.held >= allowed.min(limits::HELD_MAX)
    }

    /// Asks for the connection to be closed, unless it is being closed already.
    pub fn close(&mut self, why: Close) {
        if self.closing.is_none() {
            self.closing = Some(why);
        }
        self.wake();
    }
}

/// Runs a shard until it is stopped.
pub async fn run(shared: Shared) {
    let (doorbell, index) = {
        let shard = shared.borrow();
        (shard.mailboxes[shard.index].doorbell.clone(), shard.index)
    };
    shared.borrow().router.note_recovered();
    tokio::task::spawn_local(tick(shared.clone()));
    if index == 0 {
        tokio::task::spawn_local(sys::tell(shared.clone()));
    }
    let mut acceptors = Vec::new();
    loop {
        doorbell.notified().await;
        // The borrow ends before anything below awaits or spawns.
        let left = shared.borrow_mut().turn(&shared);
        for mail in left {
            match mail {
                Mail::Incoming(incoming) => {
                    tokio::task::spawn_local(crate::listener::come_in(shared.clone(), *incoming));
                }
                Mail::Arrival(arrival) => {
                    tokio::task::spawn_local(crate::listener::arrive(shared.clone(), *arrival));
                }
                Mail::Job(job) => {
                    tokio::task::spawn_local(job());
                }
                Mail::Visit(visit) => {
                    tokio::task::spawn_local(visit(shared.clone()));
                }
                Mail::Listen(listener) => {
                    acceptors.push(tokio::task::spawn_local(crate::listener::accept(shared.clone(), listener)));
                }
                Mail::Stop => {
                    // Their listeners close with them.
                    acceptors.iter().for_each(tokio::task::JoinHandle::abort);
                    stop(&shared).await;
                    return tracing::debug!(shard = index, "stopped");
                }
                Mail::Reload(config) => shared.borrow_mut().reload(config),
                Mail::DeadLetters(to) => shared.borrow_mut().set_dead_letters(to),
                Mail::Burst(_) => {}
            }
        }
    }
}

/// Once a second: keep-alive, wills, expiry.
async fn tick(shared: Shared) {
    let mut interval = tokio::time::interval(Duration::from_secs(1));
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let mut shard = shared.borrow_mut();
        shard.read_clock();
        shard.sweep();
        shard.schedule_turn();
    }
}

/// Lets what was received be acknowledged, then closes every connection.
async fn stop(shared: &Shared) {
    let deadline = Instant::now() + Duration::from_secs(2);
    shared.borrow_mut().hand_on_all();
    while !shared.borrow().held.is_empty() && Instant::now() < deadline && !shared.borrow().failed {
        let ticket = shared.borrow().lane.submitted();
        let lane = shared.borrow().lane.clone();
        if tokio::time::timeout_at(deadline.into(), lane.wait(ticket)).await.is_err() {
            break;
        }
        let mut shard = shared.borrow_mut();
        shard.read_clock();
        shard.take_deliveries();
        shard.release_held();
        shard.hand_on_all();
    }
    shared.borrow_mut().close_all(ReasonCode::ServerShuttingDown, "the server is shutting down");
    // Every task writes what it has and ends.
    while shared.borrow().sessions.iter().any(|(_, s)| s.link.is_some()) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    shared.borrow_mut().hand_on_all();
}
