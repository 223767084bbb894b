//! Sessions begin, are resumed and taken over, and end; wills and expiry.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bridge::state::Change;
use bridge::{JournalFailed, RecoveredQueue, Ticket};

use crate::auth::{Access, Identity, Proof, User};
use crate::codec::{Connect, ReasonCode, Version};
use crate::config::{Config, ListenerConfig};
use crate::limits;
use crate::listener::{Client, anonymous_allowed};
use crate::message::Message;
use crate::router::SessionRef;
use crate::router::trie::Subscriber;
use crate::session::aliases::Aliases;
use crate::session::queue::Queue;
use crate::session::rates::Rates;
use crate::session::window::Window;
use crate::session::{Close, Link, NEVER, Options, Out, Session, Will};
use crate::stats::{Depths, Limit};
use crate::store::{self, Record};

use super::told::packet_bytes_max;
use super::{Promise, Shard};

/// Numbers links.
static NEXT_LINK: AtomicU64 = AtomicU64::new(1);

/// A client that was let in; its CONNACK is on its way or waits for a commit.
#[derive(Clone, Copy, Debug)]
pub struct Admitted {
    /// Where its session is.
    pub slot: u32,
    /// Its link.
    pub link: u64,
}

/// Whose time has come: the session's end, its will.
#[derive(Clone, Copy, Debug, Default)]
struct Due {
    end: bool,
    will: bool,
}

/// A client that is not let in, by whose session or by which limit.
#[derive(Debug)]
pub struct Rejected {
    /// Why.
    pub reason: ReasonCode,
    /// What the log says.
    pub why: &'static str,
    /// The CONNACK; empty where its version has none for this.
    pub answer: Box<[u8]>,
}

/// Why a client is not let in, and what the log says.
pub(super) type Refusal = (ReasonCode, &'static str);

/// A session as it was found at the start.
#[derive(Debug)]
pub struct RecoveredSession {
    /// Its id.
    pub id: u64,
    /// What was kept.
    pub record: Record,
    /// Subscriptions by filter.
    pub subscriptions: Vec<(Box<str>, Options)>,
    /// QoS 2 identifiers received and not released.
    pub inbound: Vec<u16>,
    /// Its queue.
    pub queue: RecoveredQueue,
}

impl Shard {
    /// Lets a client in whose CONNECT is valid and who was proved: takes over, resumes or begins its session.
    /// Refuses it when the session is another user's, or a limit is reached.
    pub fn connect(&mut self, connect: &Connect<'_>, client: &Client) -> Result<Admitted, Rejected> {
        self.let_in(connect, client).map_err(|(reason, why)| {
            let answer = self.refusal(connect, client, reason, why);
            Rejected { reason, why, answer }
        })
    }

    fn let_in(&mut self, connect: &Connect<'_>, client: &Client) -> Result<Admitted, Refusal> {
        let Client { id: client_id, identity, peer, listener, loopback, .. } = client;
        let known = self.by_client.get(client_id).copied();
        if let Some(slot) = known
            && !self.may_have(slot, identity)
        {
            let why = "its client id is that of another user's session";
            return Err((ReasonCode::ClientIdentifierNotValid, why));
        }
        if !is_welcome(&self.router.access, self.config.of(listener), identity, *loopback) {
            // Users or settings were changed while it was on its way here.
            return Err((ReasonCode::NotAuthorized, "its user has changed meanwhile"));
        }
        let taken_over = known.and_then(|slot| self.sessions[slot as usize].link.as_ref());
        let at_listener_max = self.config.of(listener).max_connections;
        // One that it takes over makes room for it, where it came in itself.
        let makes_room = taken_over.is_some_and(|link| link.listener.name == listener.name);
        if !makes_room && at_listener_max > 0 && client.at_listener >= at_listener_max {
            self.counts.limits[Limit::MaxConnections as usize] += 1;
            let why = "its listener's max_connections are there already";
            return Err((ReasonCode::QuotaExceeded, why));
        }
        if taken_over.is_none() && self.is_full() {
            self.counts.limits[Limit::MaxConnections as usize] += 1;
            return Err((ReasonCode::QuotaExceeded, "mqtt.max_connections are there already"));
        }
        if taken_over.is_none() && self.is_out_of_memory() {
            return Err((ReasonCode::ServerBusy, "too much waits for clients: mqtt.max_buffered_bytes"));
        }
        if !self.bridge.is_open()
            && let Some(refusal) = self.refuse_session(known, connect)
        {
            return Err(refusal);
        }
        let limits = &listener.clients;
        if let Some((limit, reason)) = connect.will.and_then(|will| limits.refuse_will(&will)) {
            self.counts.limits[limit as usize] += 1;
            return Err((reason, limit.said_of_a_will()));
        }
        let Some(keep_alive_s) = limits.keep_alive_s(connect) else {
            self.counts.limits[Limit::KeepAlive as usize] += 1;
            // Older versions cannot be told another one; Mosquitto answers so.
            let why = "its keep alive is none, or not within mqtt.min_keepalive_s and mqtt.max_keepalive_s";
            return Err((ReasonCode::ClientIdentifierNotValid, why));
        };
        let packet_bytes_max = packet_bytes_max(connect);
        if self.connack(connect, client, false).len() > packet_bytes_max {
            // What it has to be told does not fit [MQTT-3.1.2-24].
            let why = "its Maximum Packet Size is too small for what it has to be told";
            return Err((ReasonCode::PacketTooLarge, why));
        }
        if let Some(slot) = known {
            self.take_over(slot, connect.clean_start);
        }
        let due = known.map(|slot| self.due(slot)).unwrap_or_default();
        if let (Some(slot), true) = (known, due.end) {
            self.counts.sessions_expired += 1;
            self.end(slot);
        } else if let (Some(slot), true) = (known, due.will) {
            self.publish_will(slot);
        }
        // Taking over, or time, may have ended the session.
        let known = known.filter(|_| self.by_client.contains_key(client_id));
        let slot = match known {
            Some(slot) if !connect.clean_start => slot,
            other => {
                if let Some(slot) = other {
                    self.end(slot);
                }
                self.begin(connect, client_id)
            }
        };
        let present = known.is_some() && !connect.clean_start;
        let link = NEXT_LINK.fetch_add(1, Ordering::Relaxed);
        let in_flight_max = connect.receive_maximum.min(listener.clients.max_inflight_messages);
        let heard_ms = self.now.up_ms;
        let session = &mut self.sessions[slot as usize];
        session.expiry_s = connect.session_expiry_s;
        session.will = Will::of(connect);
        session.user = identity.name().or(connect.username).map(Into::into);
        if session.me.set_identity(identity.clone()) && present {
            self.router.forget_matches();
        }
        session.ends_at_ms = None;
        session.will_at_ms = None;
        match &mut session.out {
            Out::Queue(queue) => queue.restart(in_flight_max),
            out => *out = Out::Window(Window::new(in_flight_max)),
        }
        session.link = Some(Link {
            id: link,
            peer: peer.clone(),
            since_s: self.now.unix_s,
            version: connect.version,
            ready: false,
            outbox: Vec::new(),
            unwritten_bytes: 0,
            waker: None,
            closing: None,
            keep_alive_s,
            heard_ms,
            begun_bytes: 0,
            packet_bytes_max,
            held: 0,
            unanswered: 0,
            aliases: Default::default(),
            outbound_aliases: Aliases::allowed(connect.topic_alias_maximum).map(Box::new),
            listener: listener.clone(),
            loopback: *loopback,
            may_publish: None,
            stalled: false,
            writes: false,
            waits_for_disk: false,
            rates: Rates::of(&listener.clients, heard_ms),
            told: 0,
            problem_information: connect.request_problem_information,
        });
        let me = session.me.clone();
        // That there is no other session is said when the one before is durably gone.
        let mut ticket = self.ends.get(client_id).copied().filter(|_| self.lane.failure().is_none());
        self.counts.connects += 1;
        self.counts.connected += 1;
        if me.durable {
            let changed = self.put_record(slot, !present);
            let session = &mut self.sessions[slot as usize];
            if let Out::Queue(queue) = &mut session.out {
                queue.resumed(changed, limits::SENT_BEFORE_RESUMED_MAX, self.lane.durable());
            }
            if !present {
                session.made = changed;
            }
            // A resume rides along (J6); what changes durable state is waited for, and the session itself.
            ticket = match connect.will.is_some() {
                true => Some(changed),
                false => ticket.max(Some(session.made)),
            };
        }
        if keep_alive_s != connect.keep_alive_s {
            self.reached(slot, Limit::KeepAlive);
        }
        let packet = self.connack(connect, client, present);
        let ticket = ticket.filter(|_| !off!(ConnAckWaits)).unwrap_or_else(|| self.lane.durable());
        self.hold(slot, ticket, Promise::ConnAck(packet));
        self.schedule_turn();
        tracing::info!(
            client = &**client_id, peer = &**peer, user = identity.name(), version = %connect.version,
            clean = connect.clean_start, keep_alive_s,
            session = if present { "resumed" } else { "new" }, "connected"
        );
        Ok(Admitted { slot, link })
    }

    /// What an absent client's session has come to since the last sweep [MQTT-4.1.0-2, MQTT-3.1.2-8].
    fn due(&self, slot: u32) -> Due {
        let Some(session) = self.sessions.get(slot as usize) else { return Due::default() };
        let has_come = |at: Option<u64>| session.link.is_none() && at.is_some_and(|at| at <= self.now.up_ms);
        Due { end: has_come(session.ends_at_ms), will: has_come(session.will_at_ms) }
    }

    /// Whether the time of an absent client's session is over.
    pub(super) fn has_ended(&self, slot: u32) -> bool {
        self.due(slot).end
    }

    /// Whether as many clients are connected as may be; other shards are seen as they were a turn ago.
    fn is_full(&self) -> bool {
        let max = self.config.max_connections;
        if max == 0 {
            return false;
        }
        let others = self.mailboxes.iter().enumerate().filter(|(shard, _)| *shard != self.index);
        let there: u64 = others.map(|(_, mailbox)| mailbox.shown.connected.load(Ordering::Relaxed)).sum();
        there + self.counts.connected >= max
    }

    fn begin(&mut self, connect: &Connect<'_>, client_id: &Arc<str>) -> u32 {
        let durable = connect.session_expiry_s > 0;
        let id = self.new_session_id();
        let entry = self.sessions.vacant_entry();
        let slot = entry.key() as u32;
        let me = Arc::new(SessionRef::new(id, self.index, slot, client_id.clone(), durable));
        let out = match durable {
            true => Out::Queue(Queue::default()),
            false => Out::Window(Window::new(1)),
        };
        entry.insert(new_session(me, out));
        self.by_client.insert(client_id.clone(), slot);
        if durable {
            self.by_queue.insert(id, slot);
        }
        slot
    }

    /// Session ids are this start's number and a count over all shards.
    fn new_session_id(&self) -> u64 {
        (self.bridge.epoch() as u64) << 40 | self.router.count_session()
    }

    /// Stores what is kept of a durable session; opens its queue when it is new.
    fn put_record(&mut self, slot: u32, fresh: bool) -> Ticket {
        let session = &self.sessions[slot as usize];
        let id = session.me.id;
        let value = self.record(session).encode();
        let mut operation = self.lane.begin();
        if fresh {
            operation.change(Change::Open(id));
        }
        operation.change(Change::Put(store::SESSIONS, &store::session_key(id), &value));
        let ticket = operation.submit();
        self.schedule_turn();
        ticket
    }

    fn record(&self, session: &Session) -> Record {
        let is_away = session.link.is_none();
        let left_s = match session.ends_at_ms {
            // So that it does not matter how the wall clock was set meanwhile.
            Some(at_ms) => {
                let left_ms = at_ms.saturating_sub(self.now.up_ms);
                u64::from(self.now.unix_s).saturating_sub(u64::from(session.expiry_s).saturating_sub(left_ms / 1000))
            }
            None => self.now.unix_s.into(),
        };
        let sent_to = match &session.out {
            Out::Queue(queue) => Some(queue.sent_to()),
            Out::Window(_) => None,
        };
        Record {
            client_id: (&*session.me.client_id).into(),
            user: session.user.clone(),
            proved: session.me.identity() != Identity::Anonymous,
            expiry_s: session.expiry_s,
            left_s: is_away.then_some(left_s),
            sent_to: sent_to.filter(|_| is_away),
            will: session.will.clone(),
        }
    }

    /// A second connection with the same client id: the first one goes [MQTT-3.1.4-3].
    fn take_over(&mut self, slot: u32, clean_start: bool) {
        let session = &mut self.sessions[slot as usize];
        let Some(mut link) = session.link.take() else { return };
        tracing::info!(client = &*session.me.client_id, peer = &*link.peer, "taken over by a new connection");
        if link.closing == Some(Close::ByClient { with_will: false }) {
            // It said goodbye before, and its task had no turn yet to tell.
            session.will = None;
        }
        // Its task finds that the session is another link's: it writes this farewell and ends.
        link.close(Close::ByServer(ReasonCode::SessionTakenOver, "taken over by a new connection"));
        self.counts.packets_out += u64::from(link.version == Version::V5);
        if let Some(why) = &link.closing {
            self.counts.closed(why);
        }
        self.farewells.insert(link.id, link.farewell(&self.config));
        let session = &mut self.sessions[slot as usize];
        session.me.set_connected(false);
        self.counts.connected -= 1;
        let ends = clean_start || session.expiry_s == 0;
        let postponed = !ends && session.will.as_ref().is_some_and(|will| will.delay_s > 0);
        if !postponed {
            self.publish_will(slot);
        }
        if self.sessions[slot as usize].expiry_s == 0 {
            self.end(slot);
        }
    }

    /// A link is gone: what its session does now.
    pub fn disconnected(&mut self, slot: u32, link: u64, why: &Close) {
        let now_ms = self.now.up_ms;
        let Some(session) = self.linked(slot, link) else { return };
        let Some(link) = session.link.take() else { return };
        session.me.set_connected(false);
        log_disconnect(&session.me.client_id, &link.peer, why);
        let clean = matches!(why, Close::ByClient { with_will: false });
        if clean {
            session.will = None;
        }
        let (expiry_s, durable) = (session.expiry_s, session.me.durable);
        let delay_s = session.will.as_ref().map(|will| will.delay_s.min(expiry_s));
        session.ends_at_ms = (expiry_s != NEVER).then(|| now_ms + milliseconds(expiry_s));
        session.will_at_ms = delay_s.map(|delay_s| now_ms + milliseconds(delay_s));
        if link.version == Version::V5 && matches!(why, Close::Fault(..) | Close::ByServer(..)) {
            self.counts.packets_out += 1;
        }
        self.counts.closed(why);
        self.counts.connected -= 1;
        if delay_s == Some(0) {
            self.publish_will(slot);
        } else if durable && expiry_s > 0 {
            self.put_record(slot, false);
        }
        if expiry_s == 0 {
            self.end(slot);
        }
        self.schedule_turn();
    }

    /// Publishes a session's will, if it still has one, and forgets it in the same frame (S8).
    fn publish_will(&mut self, slot: u32) {
        let session = &mut self.sessions[slot as usize];
        let Some(will) = session.will.take() else { return };
        session.will_at_ms = None;
        let me = session.me.clone();
        let user = session.user.clone();
        let value = self.record(&self.sessions[slot as usize]).encode();
        let key = store::session_key(me.id);
        let also = [Change::Put(store::SESSIONS, &key, &value)];
        let also = if me.durable && !off!(WillInFrame) { &also[..] } else { &[] };
        if !self.router.access.may_publish(&me.identity(), &me.client_id, &will.topic) {
            // Its rights have changed since it connected.
            self.counts.refused_rights += 1;
            if let [forgotten] = also {
                let mut operation = self.lane.begin();
                operation.change(*forgotten);
                operation.submit();
                self.schedule_turn();
            }
            return;
        }
        let message = Message {
            topic: &will.topic,
            qos: will.qos,
            retain: will.retain,
            properties: &will.properties,
            expires_s: will.expiry_s.map_or(0, |s| self.now.unix_s.saturating_add(s)),
            payload: &will.payload,
            publisher: me.id,
            client_id: &me.client_id,
        };
        // Nobody is there to be told that it is not retained: that is no error.
        let retained = self.keep_retained(&message, false).ok().flatten();
        self.route(&message, user.as_deref(), retained.as_ref(), also);
    }

    /// A user's session is that user's alone, whoever knows its client id; one of nobody's is anybody's. Where
    /// nobody can prove a name any more, names do not count.
    fn may_have(&self, slot: u32, identity: &Identity) -> bool {
        let owner = self.sessions[slot as usize].me.identity();
        let can_prove = self.router.access.has_users() || self.config.certificates_name_users;
        let names_count = can_prove || *identity != Identity::Anonymous;
        !names_count || owner.name().is_none() || owner.name() == identity.name()
    }

    /// Other settings, users or rights are in force: clients that would not be let in now are closed.
    pub(super) fn reload(&mut self, config: Arc<Config>) {
        self.config = config.keeping_listeners(&self.config);
        for (_, session) in &mut self.sessions {
            let Some(link) = session.link.as_mut() else { continue };
            let listener = self.config.of(&link.listener);
            if !is_welcome(&self.router.access, listener, &session.me.identity(), link.loopback) {
                link.close(Close::ByServer(ReasonCode::NotAuthorized, "its user is gone or changed"));
            }
        }
    }

    /// A session ends with everything it had. The ticket of its removal when it was durable.
    pub(super) fn end(&mut self, slot: u32) -> Option<Ticket> {
        if self.sessions[slot as usize].will_at_ms.is_some() {
            // The will delay ends with the session [MQTT-3.1.2-8].
            self.publish_will(slot);
        }
        let mut session = self.sessions.try_remove(slot as usize)?;
        let id = session.me.id;
        self.by_client.remove(&session.me.client_id);
        self.by_queue.remove(&id);
        if !session.subscriptions.is_empty() {
            self.router.unsubscribe(session.subscriptions.filters(), id);
        }
        let fates = self.leave_to_others(&mut session);
        if !session.me.durable {
            return None;
        }
        let mut operation = self.lane.begin();
        fates.iter().filter(|_| !off!(MoveInFrame)).for_each(|(left, fate)| left.put(fate, &mut operation));
        // Else more may be on its way to its group.
        let is_alone = fates.is_empty() && !session.subscriptions.had_shared();
        let closes = is_alone || off!(QueueLingers);
        if closes || off!(MoveInFrame) {
            operation.change(Change::Close(id));
        }
        operation.change(Change::Delete(store::SESSIONS, &store::session_key(id)));
        for filter in session.subscriptions.filters() {
            operation.change(Change::Delete(store::SUBSCRIPTIONS, &store::subscription_key(id, filter)));
        }
        for packet_id in session.inbound.keys() {
            operation.change(Change::Delete(store::INBOUND, &store::inbound_key(id, *packet_id)));
        }
        let ticket = operation.submit();
        if !is_alone {
            self.note_ended(id, session.subscriptions);
        }
        self.ends.insert(session.me.client_id.clone(), ticket);
        self.schedule_turn();
        Some(ticket)
    }

    /// Takes in a session found at the start (R5).
    pub fn recover(&mut self, found: RecoveredSession) {
        let (unix_s, now_ms) = (u64::from(self.now.unix_s), self.now.up_ms);
        let RecoveredSession { id, record, subscriptions, inbound, queue } = found;
        let client_id: Arc<str> = record.client_id.into();
        let entry = self.sessions.vacant_entry();
        let slot = entry.key() as u32;
        let me = Arc::new(SessionRef::new(id, self.index, slot, client_id.clone(), true));
        me.set_queued(queue.entries.len());
        let was_there = record.left_s.is_none() || record.sent_to.is_none();
        // A client that was there may have acknowledged what is here still, and have been sent any number more.
        let (sent_to, more_max) = (record.sent_to.unwrap_or(u64::MAX), limits::SENT_BEFORE_RESUMED_MAX);
        let out = Out::Queue(Queue::recovered(queue.next, queue.entries.into_iter(), sent_to, more_max));
        let mut session = new_session(me.clone(), out);
        session.expiry_s = record.expiry_s;
        if let Some(name) = record.user.as_deref().filter(|_| record.proved) {
            // How it was proved matters for connections only.
            me.set_identity(Identity::User(User { name: name.into(), proof: Proof::Certificate }));
        }
        session.user = record.user;
        let expiry_s = u64::from(record.expiry_s);
        session.ends_at_ms = (record.expiry_s != NEVER).then(|| {
            let left_s = record.left_s.filter(|left_s| *left_s >= limits::CLOCK_IS_SET_FROM_S).unwrap_or(unix_s);
            let away_s = unix_s.saturating_sub(left_s);
            let least_s = if off!(ExpiryAfterStart) { 0 } else { limits::EXPIRY_AFTER_START_S };
            now_ms + 1000 * expiry_s.saturating_sub(away_s).max(expiry_s.min(least_s))
        });
        if let Some(will) = record.will {
            let least_s = if off!(WillAfterStart) { 0 } else { limits::WILL_AFTER_START_S };
            session.will_at_ms = Some(now_ms + 1000 * u64::from(will.delay_s).max(least_s));
            session.will = Some(will);
        }
        session.inbound = inbound.into_iter().map(|packet_id| (packet_id, 0)).collect();
        for (filter, options) in subscriptions {
            self.router.subscribe(&filter, subscriber(&me, &options), true);
            session.subscriptions.insert(&filter, options);
        }
        entry.insert(session);
        self.by_client.insert(client_id, slot);
        self.by_queue.insert(id, slot);
        let mut operation = self.lane.begin();
        operation.attach(id);
        operation.submit();
        if was_there {
            // It is away from now on: its time counts from here, and what is queued from here on was never sent.
            self.put_record(slot, false);
        }
    }

    /// Hands what recovery submitted to the committer and waits until it took it: a publish that another
    /// shard submits must not be gathered before the queues here are attached, or its entries reach no one
    /// before the next start.
    pub async fn recovered(&mut self) -> Result<(), JournalFailed> {
        self.hand_on_all();
        self.show_counts();
        self.lane.wait(self.lane.submitted()).await
    }

    /// R5: how long sessions have been away is told by a wall clock only over a start, and then by the one of now.
    fn notice_set_clock(&mut self) {
        let ahead_s = self.now.ahead_s();
        if (ahead_s - self.clock_ahead_s).abs() <= limits::CLOCK_SET_S {
            return;
        }
        self.clock_ahead_s = ahead_s;
        let is_away = |session: &Session| session.link.is_none() && session.me.durable;
        let away = self.sessions.iter().filter(|(_, session)| is_away(session)).map(|(slot, _)| slot as u32);
        for slot in away.collect::<Vec<_>>() {
            self.put_record(slot, false);
        }
    }

    /// Once a second: clients that fell silent, wills and sessions whose time has come.
    pub(super) fn sweep(&mut self) {
        if !self.router.is_recovered() {
            // What ends or is published now would miss other shards' sessions.
            return;
        }
        let now_ms = self.now.up_ms;
        let durable = self.lane.durable();
        let has_failed = self.lane.failure().is_some();
        self.ends.retain(|_, ticket| *ticket > durable && !has_failed);
        self.notice_set_clock();
        let mut due = Vec::new();
        let mut depths = Depths::default();
        let (mut doomed, has_letters) = (Vec::new(), self.letters.are_on());
        for (slot, session) in &mut self.sessions {
            depths.add(session);
            if let Out::Queue(queue) = &session.out {
                // What was counted before its commit may have come to nothing.
                session.me.set_queued(queue.len());
            }
            // Nobody may ever ask for it.
            if let (true, Out::Queue(queue)) = (has_letters, &session.out)
                && queue.doomed(session.link.is_none(), usize::MAX, self.now.unix_s).is_some()
            {
                doomed.push(slot as u32);
            }
            match &mut session.link {
                Some(link) => {
                    let silent_ms = now_ms.saturating_sub(link.heard_ms);
                    let allowed_ms = 1500 * u64::from(link.keep_alive_s);
                    // Not enforced while we do not read, unless it is because the client does not.
                    let is_paused = link.rates.as_ref().is_some_and(|rates| rates.is_paused());
                    let waits = link.stalled || link.waits_for_disk || link.holds_enough() || is_paused;
                    let read = link.ready && !waits;
                    if link.keep_alive_s > 0 && silent_ms > allowed_ms && read {
                        link.close(Close::ByServer(
                            ReasonCode::KeepAliveTimeout,
                            "silent for 1.5 times its keep alive",
                        ));
                    }
                }
                None => {
                    let ends = session.ends_at_ms.is_some_and(|at| at <= now_ms);
                    if ends || session.will_at_ms.is_some_and(|at| at <= now_ms) {
                        due.push((slot as u32, ends));
                    }
                }
            }
        }
        depths.put_into(&mut self.counts);
        doomed.into_iter().for_each(|slot| self.doom(slot));
        self.weigh();
        self.look_at_ended();
        self.relieve_absent();
        for (slot, ends) in due {
            if ends {
                tracing::info!(client = &*self.sessions[slot as usize].me.client_id, "session expired");
                self.counts.sessions_expired += 1;
                self.end(slot);
            } else {
                self.publish_will(slot);
            }
        }
        if self.index == 0 {
            self.expire_retained();
        }
    }
}

/// Whether a client that proved to be this would be let in now.
fn is_welcome(access: &Access, listener: &ListenerConfig, identity: &Identity, loopback: bool) -> bool {
    match identity {
        Identity::Anonymous => anonymous_allowed(listener.allow_anonymous, loopback, access),
        user => access.is_current(user),
    }
}

/// An interval of the protocol, in the unit of what is measured.
fn milliseconds(seconds: u32) -> u64 {
    1000 * u64::from(seconds)
}

/// A subscription as the router keeps it.
pub(super) fn subscriber(me: &Arc<SessionRef>, options: &Options) -> Subscriber {
    let Options { qos, no_local, retain_as_published, id } = *options;
    Subscriber { session: me.clone(), qos, no_local, retain_as_published, id }
}

fn new_session(me: Arc<SessionRef>, out: Out) -> Session {
    Session {
        me,
        made: 0,
        subscriptions: Default::default(),
        inbound: Default::default(),
        out,
        link: None,
        expiry_s: 0,
        will: None,
        user: None,
        ends_at_ms: None,
        will_at_ms: None,
        cold: false,
        traffic: Default::default(),
    }
}

fn log_disconnect(client: &str, peer: &str, why: &Close) {
    match why {
        Close::ByClient { .. } => tracing::info!(client, peer, "disconnected"),
        Close::ByServer(reason, why) => tracing::info!(client, peer, ?reason, "closed: {why}"),
        Close::Fault(reason, what) => tracing::warn!(client, peer, ?reason, "closed, the client's fault: {what}"),
        Close::Lost(how) => tracing::info!(client, peer, "connection lost: {how}"),
    }
}
