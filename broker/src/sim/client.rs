//! A client, as the standard has it: what it keeps of its session survives whatever becomes of the broker.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bridge::sim::random::Random;

use crate::codec::{AckKind, Connect, QoS, Version, Will};

use super::model::{Incarnation, Model, Number, SHARED_FILTER, SHARED_TOPIC, number_in, payload_of};
use super::pipe::{ClientEnd, LostEnd};
use super::process::Process;
use super::say;
use super::wire::{self, Packet, Received, Sent};

/// Packet identifiers it uses: few, so that they come round.
const IDS: u16 = 4;
const FILTERS: [&str; 6] = ["a/#", "a/0", "u/#", "r/#", "w/#", SHARED_FILTER];
const TOPICS: [&str; 7] = ["a/0", "a/0", "a/1", "u/0", SHARED_TOPIC, "r/0", "r/1"];
/// Session expiry, and for ever.
const EXPIRIES_S: [u32; 3] = [15, 1_000, u32::MAX];

#[derive(Debug)]
pub struct Client {
    index: usize,
    name: String,
    in_group: bool,
    version: Version,
    /// Seconds its session outlives a connection; 0 not at all.
    pub expiry_s: u32,
    incarnation: u32,
    /// The broker said that it has the session.
    is_known: bool,
    /// It asked for it when it may have been over, and got no answer: what is there may be another.
    is_in_doubt: bool,
    /// Until then the broker must have it.
    ends_not_before_ms: u64,
    connection: Option<Connection>,
    /// Given up by the client, not by the broker yet: taken over, or lost with something to be read.
    left_open: Vec<ClientEnd>,
    lost: Vec<LostEnd>,
    /// Sent at QoS 1 and 2 and not done, in order.
    outgoing: VecDeque<Outgoing>,
    /// Received at QoS 2 and not released.
    incoming: BTreeMap<u16, Number>,
    /// SUBSCRIBE and UNSUBSCRIBE on their way.
    requests: BTreeMap<u16, Request>,
    /// What it has subscribed to, as far as it knows.
    filters: BTreeSet<&'static str>,
    pub will: Option<WillState>,
    /// Withdrawn, and perhaps not durably.
    withdrawn: Vec<WillState>,
    /// Those that a crash may have brought back.
    brought_back: Vec<WillState>,
    /// Packets received.
    pub heard: u64,
}

#[derive(Debug)]
struct Connection {
    end: ClientEnd,
    input: Vec<u8>,
    is_ready: bool,
    is_clean: bool,
    receive_maximum: u16,
    /// PUBLISHes sent on it that are to be answered, in order.
    awaited: VecDeque<u16>,
    /// Received on it and not acknowledged to the end.
    in_flight: BTreeSet<u16>,
    /// To be said when it comes to it.
    due: VecDeque<(AckKind, u16)>,
}

#[derive(Debug)]
struct Outgoing {
    id: u16,
    number: Number,
    sent: Payload,
    is_released: bool,
}

#[derive(Clone, Copy, Debug)]
struct Payload {
    topic: &'static str,
    qos: QoS,
    retain: bool,
    is_clear: bool,
    expiry_s: Option<u32>,
}

#[derive(Debug)]
enum Request {
    Subscribe(&'static str),
    Unsubscribe(&'static str),
}

/// The will of the last connection.
#[derive(Clone, Copy, Debug)]
pub struct WillState {
    pub number: Number,
    delay_s: u32,
    /// The broker has it for sure.
    pub is_armed: bool,
    /// The connection was lost: it is to be published.
    pub is_due: bool,
}

impl Client {
    /// `in_group`: it is about the shared subscription, more than anything.
    pub fn new(index: usize, in_group: bool, random: &mut Random) -> Client {
        let version = if random.one_in(2) { Version::V5 } else { Version::V3_1_1 };
        let expiry_s = match random.below(4) {
            _ if in_group => u32::MAX,
            0 => 0,
            n if version == Version::V5 => EXPIRIES_S[n as usize - 1],
            _ => u32::MAX,
        };
        Client {
            index,
            name: format!("client-{index}"),
            in_group,
            version,
            expiry_s,
            incarnation: 0,
            is_known: false,
            is_in_doubt: false,
            ends_not_before_ms: 0,
            connection: None,
            left_open: Vec::new(),
            lost: Vec::new(),
            outgoing: VecDeque::new(),
            incoming: BTreeMap::new(),
            requests: BTreeMap::new(),
            filters: BTreeSet::new(),
            will: None,
            withdrawn: Vec::new(),
            brought_back: Vec::new(),
            heard: 0,
        }
    }

    fn session(&self) -> Incarnation {
        (self.index, self.incarnation)
    }

    fn is_durable(&self) -> bool {
        self.expiry_s > 0
    }

    pub fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    pub fn is_ready(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.is_ready)
    }

    /// Whether it waits for the broker, or the broker for it.
    pub fn is_busy(&self) -> bool {
        let connection = self.connection.as_ref();
        let is_waiting = connection.is_none_or(|c| {
            !c.is_ready || !c.awaited.is_empty() || !c.due.is_empty() || !c.in_flight.is_empty() || !c.end.is_read()
        });
        is_waiting || !self.outgoing.is_empty() || !self.requests.is_empty()
    }

    /// Whether the broker has taken in everything it wrote.
    pub fn is_heard(&self) -> bool {
        let is_heard = |c: &Connection| c.is_ready && c.end.is_read() && c.awaited.is_empty();
        self.connection.as_ref().is_none_or(is_heard)
            && self.requests.is_empty()
            && self.left_open.iter().all(ClientEnd::is_closed)
            && self.lost.iter().all(LostEnd::is_closed)
    }

    /// Everything that the broker has taken in is durable.
    pub fn all_is_durable(&mut self) {
        self.withdrawn.clear();
    }

    /// Begins another session: what was known of the last one is forgotten, and nothing is owed to it.
    fn forget(&mut self, model: &mut Model) {
        model.over(self.session());
        if !model.has_group() {
            model.forgive_group();
        }
        self.incarnation += 1;
        self.outgoing.clear();
        self.incoming.clear();
        self.requests.clear();
        self.filters.clear();
    }

    /// Connects, over whatever connection there is.
    pub fn connect(
        &mut self,
        process: &Process,
        model: &mut Model,
        random: &mut Random,
        now_ms: u64,
        is_last: bool,
    ) -> Result<(), String> {
        if let Some(taken_over) = self.connection.take() {
            self.is_lost(&taken_over, model, now_ms);
            self.left_open.push(taken_over.end);
        }
        self.left_open.retain(|end| !end.is_closed());
        self.lost.retain(|end| !end.is_closed());
        let is_goodbye_read = self.lost.is_empty();
        let is_clean = !self.is_durable() || !self.is_known || self.is_in_doubt || !is_last && random.one_in(8);
        self.is_in_doubt = now_ms >= self.ends_not_before_ms;
        if is_clean {
            self.forget(model);
            self.is_known = false;
        }
        self.will_ends(model, now_ms, is_clean, is_goodbye_read);
        let mut payload = Vec::new();
        let topic = format!("w/{}", self.index);
        if !is_last && random.one_in(3) {
            let delay_s = if self.version == Version::V5 { random.below(3) as u32 * 20 } else { 0 };
            let number = model.publish(self.index, &topic, QoS::AtLeastOnce, false, false);
            model.messages[number].will_not_before_ms = Some(u64::MAX);
            payload = payload_of(number);
            self.will = Some(WillState { number, delay_s, is_armed: false, is_due: false });
        }
        let receive_maximum = match self.version {
            Version::V5 => 1 + random.below(5) as u16,
            _ => u16::MAX,
        };
        let delay_s = self.will.map_or(0, |will| will.delay_s);
        let connect = Connect {
            version: self.version,
            client_id: &self.name,
            keep_alive_s: 0,
            clean_start: is_clean,
            will: self.will.map(|_| Will {
                topic: &topic,
                payload: &payload,
                qos: QoS::AtLeastOnce,
                retain: false,
                delay_s,
                properties: Default::default(),
            }),
            username: None,
            password: None,
            session_expiry_s: self.expiry_s,
            receive_maximum,
            maximum_packet_size: None,
            topic_alias_maximum: 0,
            request_response_information: false,
            request_problem_information: true,
            authentication_method: None,
            authentication_data: None,
        };
        say(|| format!("{now_ms} {connect:?}"));
        let end = process.connect(&connect).map_err(|why| format!("{} was refused: {why}", self.name))?;
        self.connection = Some(Connection {
            end,
            input: Vec::new(),
            is_ready: false,
            is_clean,
            receive_maximum,
            awaited: VecDeque::new(),
            in_flight: BTreeSet::new(),
            due: VecDeque::new(),
        });
        Ok(())
    }

    /// Another connection takes the place of the one with the will: that is published now if it is time, the session ends
    /// or the broker does not know that it was withdrawn; else not any more, but a crash may bring it back.
    fn will_ends(&mut self, model: &mut Model, now_ms: u64, is_clean: bool, is_goodbye_read: bool) {
        let withdrawn = self.withdrawn.iter().filter(|_| !is_goodbye_read);
        let brought_back = self.brought_back.iter().filter(|_| is_clean || !is_goodbye_read);
        for will in withdrawn.chain(brought_back).chain(&self.will.take()) {
            let due_ms = &mut model.messages[will.number].will_not_before_ms;
            *due_ms = (*due_ms).min(Some(now_ms));
        }
    }

    /// The connection is gone; the broker may learn of it later.
    fn is_lost(&mut self, connection: &Connection, model: &mut Model, now_ms: u64) {
        self.requests.clear();
        // Without CONNACK it may have come too late.
        if connection.is_ready {
            self.ends_not_before_ms = now_ms.saturating_add(1000 * u64::from(self.expiry_s));
        }
        if let Some(will) = self.will.as_mut() {
            will.is_due = true;
            let delay_s = will.delay_s.min(self.expiry_s);
            model.messages[will.number].will_not_before_ms = Some(now_ms + 1000 * u64::from(delay_s));
        }
    }

    /// The connection is lost, without a word, and with the last bytes of what was said.
    pub fn lose(&mut self, model: &mut Model, now_ms: u64, bytes: u64) {
        if let Some(connection) = self.connection.take() {
            say(|| format!("{now_ms} {} loses its connection and {bytes} bytes", self.name));
            self.is_lost(&connection, model, now_ms);
            self.lost.push(connection.end.lose(bytes));
        }
    }

    /// Says goodbye.
    pub fn disconnect(&mut self, model: &mut Model, now_ms: u64) {
        if let Some(connection) = self.connection.take() {
            say(|| format!("{now_ms} {} disconnects", self.name));
            connection.end.write(&wire::disconnect(self.version));
            // Nobody knows whether it is read before a crash.
            self.withdrawn.extend(self.will.take());
            self.is_lost(&connection, model, now_ms);
            self.lost.push(connection.end.lose(0));
        }
    }

    /// The broker is gone since `crashed_ms`, and has started again.
    pub fn crashed(&mut self, model: &mut Model, crashed_ms: u64, now_ms: u64) {
        self.left_open.clear();
        self.lost.clear();
        if let Some(connection) = self.connection.take() {
            self.is_lost(&connection, model, crashed_ms);
        }
        if self.ends_not_before_ms > crashed_ms {
            // That it came back may be lost: then it has been away for longer (R5).
            self.ends_not_before_ms = now_ms + 1000 * u64::from(self.expiry_s.min(600));
        }
        self.brought_back.append(&mut self.withdrawn);
        for will in self.will.iter().chain(&self.brought_back) {
            let due_ms = &mut model.messages[will.number].will_not_before_ms;
            if due_ms.is_some_and(|due_ms| due_ms > crashed_ms) {
                // The session's end is the will's as well.
                *due_ms = Some(now_ms + 1000 * u64::from(will.delay_s.max(30).min(self.expiry_s)));
            }
        }
    }

    /// Reads what the broker has sent.
    pub fn read(&mut self, model: &mut Model, now_ms: u64) -> Result<(), String> {
        let Some(connection) = self.connection.as_mut() else { return Ok(()) };
        let was_closed = connection.end.is_closed();
        connection.input.extend(connection.end.take());
        while let Some(connection) = self.connection.as_mut() {
            let packet = wire::next_packet(&mut connection.input, self.version);
            let Some(packet) = packet.map_err(|error| format!("{}: {error}", self.name))? else { break };
            self.take(packet, model, now_ms).map_err(|wrong| format!("{}: {wrong}", self.name))?;
        }
        if let Some(connection) = self.connection.take_if(|_| was_closed) {
            self.is_lost(&connection, model, now_ms);
        }
        Ok(())
    }

    fn take(&mut self, packet: Packet, model: &mut Model, now_ms: u64) -> Result<(), String> {
        let Some(connection) = self.connection.as_mut() else { return Ok(()) };
        self.heard += 1;
        say(|| format!("{} got {packet:?}", self.name));
        if let Packet::ConnAck { present, code } = packet {
            return self.let_in(present, code, model, now_ms);
        }
        if !connection.is_ready {
            return Err(format!("{packet:?} before CONNACK"));
        }
        match packet {
            Packet::ConnAck { .. } => Ok(()),
            Packet::Publish(received) => self.receive(received, model),
            Packet::Ack { kind: AckKind::PubRel, id, .. } => {
                self.incoming.remove(&id);
                connection.due.push_back((AckKind::PubComp, id));
                Ok(())
            }
            Packet::Ack { kind, id, code } => self.answered(kind, id, code, model),
            Packet::SubAck { id, codes } => match (self.requests.remove(&id), &codes[..]) {
                (Some(Request::Subscribe(filter)), [code @ 0..=2]) => {
                    let qos = QoS::from_bits(*code).unwrap_or(QoS::AtMostOnce);
                    if self.is_durable() {
                        model.granted(self.session(), filter, qos);
                    }
                    Ok(())
                }
                other => Err(format!("SUBACK {other:?}")),
            },
            Packet::UnsubAck(id) => match self.requests.remove(&id) {
                Some(Request::Unsubscribe(filter)) => {
                    self.filters.remove(filter);
                    model.left(self.session(), filter);
                    Ok(())
                }
                other => Err(format!("UNSUBACK for {other:?}")),
            },
            // Taken over, shutting down.
            Packet::Disconnect(0x8e | 0x8b) => Ok(()),
            Packet::Disconnect(code) => Err(format!("DISCONNECT {code:#04x}")),
        }
    }

    fn let_in(&mut self, present: bool, code: u8, model: &mut Model, now_ms: u64) -> Result<(), String> {
        let Some(connection) = self.connection.as_mut().filter(|connection| code == 0 && !connection.is_ready) else {
            return Err(format!("CONNACK {code}"));
        };
        if present && connection.is_clean {
            return Err("a session was present at a clean start".to_owned());
        }
        connection.is_ready = true;
        if !present && !connection.is_clean {
            if now_ms < self.ends_not_before_ms {
                let due_ms = self.ends_not_before_ms;
                return Err(format!("its session is gone at {now_ms} ms, which had until {due_ms} ms"));
            }
            self.forget(model);
            // Whoever was there when it ended had what was its.
            model.forgive_group();
        }
        (self.is_known, self.is_in_doubt) = (true, false);
        if let Some(will) = self.will.as_mut() {
            will.is_armed = true;
        }
        let Some(connection) = self.connection.as_mut() else { return Ok(()) };
        for outgoing in &self.outgoing {
            if outgoing.is_released {
                connection.end.write(&wire::acknowledgement(self.version, AckKind::PubRel, outgoing.id));
                continue;
            }
            model.sends(outgoing.number, outgoing.sent.is_clear, true);
            connection.end.write(&outgoing.encode(self.version, true));
            connection.awaited.push_back(outgoing.id);
        }
        Ok(())
    }

    fn receive(&mut self, received: Received, model: &mut Model) -> Result<(), String> {
        let (session, is_durable) = (self.session(), self.is_durable());
        let Some(connection) = self.connection.as_mut() else { return Ok(()) };
        let Received { dup, qos, retain, topic, id, payload } = received;
        let deliver = |model: &mut Model| model.received(session, &topic, &payload, qos, retain, is_durable);
        if qos == QoS::AtMostOnce {
            return deliver(model);
        }
        if !connection.in_flight.insert(id) {
            return Err(format!("packet identifier {id} is in flight twice"));
        }
        if connection.in_flight.len() > usize::from(connection.receive_maximum) {
            return Err(format!("more than {} are in flight", connection.receive_maximum));
        }
        if qos == QoS::AtLeastOnce {
            if self.incoming.contains_key(&id) {
                return Err(format!("packet identifier {id} is used again before PUBREL"));
            }
            connection.due.push_back((AckKind::PubAck, id));
            return deliver(model);
        }
        connection.due.push_back((AckKind::PubRec, id));
        let number = number_in(&payload).unwrap_or(Number::MAX);
        match self.incoming.insert(id, number) {
            None => deliver(model),
            Some(before) if before == number && dup => Ok(()),
            Some(before) => Err(format!("packet identifier {id} of {before} came with {number}, dup {dup}")),
        }
    }

    /// PUBACK, PUBREC and PUBCOMP.
    fn answered(&mut self, kind: AckKind, id: u16, code: u8, model: &mut Model) -> Result<(), String> {
        let Some(connection) = self.connection.as_mut() else { return Ok(()) };
        let at = self.outgoing.iter().position(|outgoing| outgoing.id == id);
        let Some(outgoing) = at.and_then(|at| self.outgoing.get_mut(at)) else {
            return Err(format!("{kind:?} {id} for nothing"));
        };
        let (is_right, is_done) = match kind {
            AckKind::PubAck => (outgoing.sent.qos == QoS::AtLeastOnce, true),
            AckKind::PubRec => (outgoing.sent.qos == QoS::ExactlyOnce && !outgoing.is_released, false),
            _ => (outgoing.is_released, true),
        };
        // The identifier may be gone when a PUBREL comes again.
        if !is_right || code >= 0x80 && kind != AckKind::PubComp {
            return Err(format!("{kind:?} {id} with {code:#04x} for {outgoing:?}"));
        }
        if kind != AckKind::PubComp {
            if connection.awaited.pop_front() != Some(id) {
                return Err(format!("{kind:?} {id} is out of order"));
            }
            model.acknowledged(outgoing.number);
            outgoing.is_released = true;
        }
        if kind == AckKind::PubRec {
            connection.end.write(&wire::acknowledgement(self.version, AckKind::PubRel, id));
        }
        if is_done {
            self.outgoing.retain(|outgoing| outgoing.id != id);
        }
        Ok(())
    }

    /// Says some of what is due.
    pub fn acknowledge(&mut self, most: u64) {
        let Some(connection) = self.connection.as_mut() else { return };
        for _ in 0..most {
            let Some((kind, id)) = connection.due.pop_front() else { return };
            if matches!(kind, AckKind::PubAck | AckKind::PubComp) {
                connection.in_flight.remove(&id);
            }
            say(|| format!("{} says {kind:?} {id}", self.name));
            connection.end.write(&wire::acknowledgement(self.version, kind, id));
        }
    }

    fn free_id(&self) -> Option<u16> {
        let is_used = |id: &u16| self.requests.contains_key(id) || self.outgoing.iter().any(|one| one.id == *id);
        (1..=IDS).find(|id| !is_used(id))
    }

    pub fn publish(&mut self, model: &mut Model, random: &mut Random) {
        let Some(id) = self.free_id() else { return };
        let Some(connection) = self.connection.as_mut().filter(|connection| connection.is_ready) else { return };
        let topic = TOPICS[random.below(TOPICS.len() as u64) as usize];
        let topic = if self.in_group && random.one_in(2) { SHARED_TOPIC } else { topic };
        let qos = QoS::from_bits([0, 1, 1, 2, 2][random.below(5) as usize]).unwrap_or(QoS::AtMostOnce);
        let retain = topic.starts_with("r/") && qos > QoS::AtMostOnce;
        let expires = self.version == Version::V5 && random.one_in(12);
        let is_clear = retain && random.one_in(4);
        let sent = Payload { topic, qos, retain, is_clear, expiry_s: expires.then_some(10) };
        let expires = expires && !retain;
        let sent = Payload { expiry_s: sent.expiry_s.filter(|_| expires), ..sent };
        let number = model.publish(self.index, topic, qos, retain, expires);
        model.sends(number, is_clear, false);
        let outgoing = Outgoing { id, number, sent, is_released: false };
        say(|| format!("{} publishes {outgoing:?}", self.name));
        connection.end.write(&outgoing.encode(self.version, false));
        if qos > QoS::AtMostOnce {
            connection.awaited.push_back(id);
            self.outgoing.push_back(outgoing);
        }
    }

    pub fn subscribe(&mut self, model: &mut Model, random: &mut Random) {
        let filter = FILTERS[random.below(FILTERS.len() as u64) as usize];
        let filter = if self.in_group && random.one_in(2) { SHARED_FILTER } else { filter };
        // A group whose members keep their sessions loses nothing.
        let may = filter != SHARED_FILTER || self.expiry_s == u32::MAX;
        let is_asking = self.requests.values().any(|request| request.filter() == filter);
        let (Some(id), true) = (self.free_id(), may && !is_asking && self.is_ready()) else { return };
        let qos = QoS::from_bits([0, 1, 2, 2][random.below(4) as usize]).unwrap_or(QoS::AtMostOnce);
        // Who takes it at QoS 0 may lose it for all.
        let qos = if filter == SHARED_FILTER { qos.max(QoS::AtLeastOnce) } else { qos };
        say(|| format!("{} subscribes to {filter} at {qos:?}", self.name));
        model.asks(self.session(), filter);
        self.filters.insert(filter);
        self.requests.insert(id, Request::Subscribe(filter));
        self.write(&wire::subscribe(self.version, id, filter, qos));
    }

    pub fn unsubscribe(&mut self, model: &mut Model, random: &mut Random) {
        let mine: Vec<&'static str> = self.filters.iter().copied().collect();
        let (Some(id), true) = (self.free_id(), !mine.is_empty() && self.is_ready()) else { return };
        let filter = mine[random.below(mine.len() as u64) as usize];
        if self.requests.values().any(|request| request.filter() == filter) {
            return;
        }
        say(|| format!("{} unsubscribes from {filter}", self.name));
        model.leaves(self.session(), filter);
        self.requests.insert(id, Request::Unsubscribe(filter));
        self.write(&wire::unsubscribe(self.version, id, filter));
    }

    fn write(&self, bytes: &[u8]) {
        if let Some(connection) = &self.connection {
            connection.end.write(bytes);
        }
    }
}

impl Request {
    fn filter(&self) -> &'static str {
        match self {
            Request::Subscribe(filter) | Request::Unsubscribe(filter) => filter,
        }
    }
}

impl Outgoing {
    fn encode(&self, version: Version, dup: bool) -> Vec<u8> {
        let Payload { topic, qos, retain, is_clear, expiry_s } = self.sent;
        let payload = if is_clear { Vec::new() } else { payload_of(self.number) };
        wire::publish(version, Sent { dup, qos, retain, topic, id: self.id, expiry_s, payload: &payload })
    }
}
