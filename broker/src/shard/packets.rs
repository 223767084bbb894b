//! What a client sends, packet by packet.

use ahash::HashSet;
use bridge::Ticket;
use bridge::state::Change;

use crate::codec::{
    Ack, AckKind, DecodeError, Disconnect, Packet, Publish, QoS, ReasonCode, RetainHandling, Subscribe, Unsubscribe,
    Version, encode_pingresp, encode_unsuback, frame, varint_length,
};
use crate::limits;
use crate::message::Message;
use crate::router::retained::Retained;
use crate::session::window::Acked;
use crate::session::{Close, Options, Out};
use crate::stats::Limit;
use crate::store;

use super::lifecycle::subscriber;
use super::{Promise, Shard};

/// What came of a piece of input.
#[derive(Debug)]
pub struct Consumed {
    /// Bytes of whole packets.
    pub bytes: usize,
    /// No more is taken before the journal has caught up; the task is woken then.
    pub stalled: bool,
}

pub(super) type Handled = Result<(), Close>;

impl Shard {
    /// Handles whole packets at the front of `input`, from the client of this link: all of them, unless they are very
    /// small and others have to have their turn.
    pub fn receive(&mut self, slot: u32, link: u64, input: &[u8]) -> Consumed {
        let mut consumed = Consumed { bytes: 0, stalled: false };
        let Some(known) = self.linked(slot, link).and_then(|s| s.link.as_ref()) else {
            return Consumed { bytes: input.len(), stalled: true };
        };
        let (version, packet_max, has_rates) = (known.version, known.limits().max_packet_size, known.rates.is_some());
        let mut packets = 0;
        while consumed.bytes < input.len() && packets < limits::PACKETS_PER_READ {
            packets += 1;
            let first_byte = input[consumed.bytes];
            if self.has_enough(slot, link) || has_rates && self.holds_up(slot, first_byte) {
                consumed.stalled = true;
                break;
            }
            // One read may hold much that is little to say: a SUBSCRIBE to all that is retained.
            let is_behind = self.is_behind();
            let handled = match frame(&input[consumed.bytes..], packet_max) {
                Ok(None) => {
                    consumed.stalled = is_behind && self.outgrows(slot, &input[consumed.bytes..], packet_max);
                    break;
                }
                Ok(Some(found)) => {
                    let packet = Packet::decode(&found, version);
                    if let Ok(packet) = &packet
                        && (is_behind && self.waits_for_journal(slot, packet)
                            || !self.bridge.is_open() && self.waits_for_disk(slot, version, packet))
                    {
                        consumed.stalled = true;
                        break;
                    }
                    consumed.bytes += found.length;
                    self.counts.packets_in += 1;
                    if has_rates {
                        self.took_packet(slot, first_byte);
                    }
                    packet.map_err(fault).and_then(|packet| self.handle(slot, version, &packet))
                }
                Err(error) => {
                    if let DecodeError::PacketTooLarge { .. } = error {
                        self.counts.limits[Limit::MaxPacketSize as usize] += 1;
                    }
                    Err(fault(error))
                }
            };
            if let Err(close) = handled {
                if let Some(link) = self.sessions.get_mut(slot as usize).and_then(|s| s.link.as_mut()) {
                    link.close(close);
                }
                return Consumed { bytes: input.len(), stalled: true };
            }
        }
        let now_ms = self.now.up_ms;
        if let Some(session) = self.sessions.get_mut(slot as usize)
            && let Some(link) = session.link.as_mut()
        {
            let begun = input.len() - consumed.bytes;
            // A packet counts when it is whole, or a client could keep us with a byte a minute [MQTT-3.1.2-22]; a large
            // one may take its time, if it gets on.
            if consumed.bytes > 0 || consumed.stalled || begun >= link.begun_bytes + limits::PROGRESS_BYTES_MIN {
                link.heard_ms = now_ms;
                link.begun_bytes = begun;
            }
            session.traffic.bytes_in += consumed.bytes as u64;
        }
        consumed
    }

    /// The largest packet taken from the client of this link.
    pub fn inbound_bytes_max(&mut self, slot: u32, link: u64) -> u32 {
        self.linked(slot, link).and_then(|s| s.link.as_ref()).map_or(0, |l| l.limits().max_packet_size)
    }

    fn handle(&mut self, slot: u32, version: Version, packet: &Packet<'_>) -> Handled {
        match packet {
            Packet::Publish(publish) => self.publish(slot, publish),
            Packet::Ack(ack) => self.client_acknowledged(slot, ack),
            Packet::Subscribe(subscribe) => self.subscribe(slot, version, subscribe),
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(slot, version, unsubscribe),
            Packet::PingReq => {
                if let Some(link) = self.sessions[slot as usize].link.as_mut() {
                    encode_pingresp(&mut link.outbox);
                    self.counts.packets_out += 1;
                }
                Ok(())
            }
            Packet::Disconnect(disconnect) => self.disconnect(slot, disconnect),
            Packet::Auth(_) => {
                Err(Close::Fault(ReasonCode::ProtocolError, "AUTH without an authentication method".into()))
            }
        }
    }

    fn publish(&mut self, slot: u32, publish: &Publish<'_>) -> Handled {
        let alias = self.resolve_alias(slot, publish)?;
        let topic = alias.as_deref().unwrap_or(publish.topic);
        let me = self.sessions[slot as usize].me.clone();
        self.counts.received(publish.qos, publish.payload.len());
        self.sessions[slot as usize].traffic.messages_in += 1;
        self.check_kind(slot, publish)?;
        let session = &mut self.sessions[slot as usize];
        if publish.qos == QoS::ExactlyOnce && session.inbound.contains_key(&publish.packet_id) {
            // S4: a repeat waits for the same commit; it is not appended again.
            let ticket = Some(self.lane.submitted());
            self.acknowledge(slot, AckKind::PubRec, publish.packet_id, ticket);
            return Ok(());
        }
        self.count_unanswered(slot, publish.qos)?;
        let now_s = self.now.unix_s;
        let properties = publish.properties.forwardable();
        let message = Message {
            topic,
            qos: publish.qos,
            retain: publish.retain,
            properties: &properties,
            // Never 0, which means never.
            expires_s: publish.properties.message_expiry_s.map_or(0, |s| now_s.saturating_add(s).max(1)),
            payload: publish.payload,
            publisher: me.id,
            client_id: &me.client_id,
        };
        if let Some((limit, refused)) = self.refuse_message(slot, topic, publish) {
            let id = publish.packet_id;
            let letter = limit.and_then(|limit| self.post_refused(slot, &message, id, limit.key()));
            return self.refuse(slot, publish, refused, letter);
        }
        if !self.may_publish(slot, topic) {
            self.counts.refused_rights += 1;
            return self.refuse(slot, publish, ReasonCode::NotAuthorized, None);
        }
        if !self.bridge.is_open()
            && let Some(refused) = self.refuse_durable(slot, topic, publish)
        {
            return refused;
        }
        let user = self.sessions[slot as usize].user.clone();
        let user = user.as_deref();
        let mut retained = None;
        if publish.retain {
            let can_be_told = publish.qos > QoS::AtMostOnce && self.speaks_v5(slot);
            retained = match self.keep_retained(&message, can_be_told) {
                Ok(change) => change,
                Err(full) => {
                    self.counts.refused_retained += 1;
                    let letter = self.post_refused(slot, &message, publish.packet_id, full.key());
                    return self.refuse(slot, publish, ReasonCode::QuotaExceeded, letter);
                }
            };
        }
        let retained = retained.as_ref();
        match publish.qos {
            QoS::AtMostOnce => {
                self.route(&message, user, retained, &[]);
            }
            QoS::AtLeastOnce => {
                let ticket = self.route(&message, user, retained, &[]);
                self.acknowledge(slot, AckKind::PubAck, publish.packet_id, ticket);
            }
            QoS::ExactlyOnce => {
                let key = store::inbound_key(me.id, publish.packet_id);
                let received = [Change::Put(store::INBOUND, &key, &[])];
                let received: &[Change<'_>] = if me.durable && !off!(InboundInFrame) { &received } else { &[] };
                let ticket = self.route(&message, user, retained, received);
                let session = &mut self.sessions[slot as usize];
                session.inbound.insert(publish.packet_id, ticket.unwrap_or(0));
                self.acknowledge(slot, AckKind::PubRec, publish.packet_id, ticket);
            }
        }
        Ok(())
    }

    pub(super) fn speaks_v5(&self, slot: u32) -> bool {
        self.sessions[slot as usize].link.as_ref().is_some_and(|link| link.version == Version::V5)
    }

    /// Counts a message that is to be acknowledged. A 5.0 client was told how many it may have under way; who speaks
    /// an older version is only not read for a while [MQTT-3.3.4-7].
    fn count_unanswered(&mut self, slot: u32, qos: QoS) -> Handled {
        let Some(link) = self.sessions[slot as usize].link.as_mut().filter(|_| qos > QoS::AtMostOnce) else {
            return Ok(());
        };
        let maximum = link.limits().receive_maximum;
        if link.version == Version::V5 && link.unanswered >= maximum {
            self.counts.limits[Limit::ReceiveMaximum as usize] += 1;
            let what = format!("more than {maximum} messages at QoS 1 and 2 that are not acknowledged [MQTT-3.3.4-7]");
            return Err(Close::Fault(ReasonCode::ReceiveMaximumExceeded, what));
        }
        link.unanswered = link.unanswered.saturating_add(1);
        Ok(())
    }

    /// Whether the session's client may publish there. What was looked up last is remembered: devices stay
    /// with their topic.
    pub(super) fn may_publish(&mut self, slot: u32, topic: &str) -> bool {
        let access = &self.router.access;
        if !access.has_acl() {
            return true;
        }
        let generation = access.generation();
        let session = &mut self.sessions[slot as usize];
        let Some(link) = session.link.as_mut() else { return false };
        if matches!(&link.may_publish, Some((at, known)) if *at == generation && **known == *topic) {
            return true;
        }
        let may = access.may_publish(&session.me.identity(), &session.me.client_id, topic);
        if may {
            link.may_publish = Some((generation, topic.into()));
        } else {
            let (client, topic) = (&*session.me.client_id, crate::listener::shortened(topic));
            tracing::debug!(client, peer = &*link.peer, topic, "dropped: it may not publish there");
        }
        may
    }

    /// 5.0's topic alias: the name it stands for, when the packet has none.
    fn resolve_alias(&mut self, slot: u32, publish: &Publish<'_>) -> Result<Option<Box<str>>, Close> {
        let Some(alias) = publish.properties.topic_alias else { return Ok(None) };
        let Some(link) = self.sessions[slot as usize].link.as_mut() else { return Ok(None) };
        let maximum = link.limits().topic_alias_maximum;
        if alias > maximum {
            self.counts.limits[Limit::TopicAliasMaximum as usize] += 1;
            let what = format!("topic alias {alias}, at most {maximum} were offered [MQTT-3.3.2-9]");
            return Err(Close::Fault(ReasonCode::TopicAliasInvalid, what));
        }
        if !publish.topic.is_empty() {
            link.aliases.insert(alias, publish.topic.into());
            return Ok(None);
        }
        match link.aliases.get(&alias) {
            Some(topic) => Ok(Some(topic.clone())),
            None => Err(Close::Fault(ReasonCode::ProtocolError, format!("topic alias {alias} was never set"))),
        }
    }

    /// Does not take a message: in 5.0 its acknowledgement says so; before, it is acknowledged all the same,
    /// for there is no other answer but to close. It is told after its letter, if it has one.
    pub(super) fn refuse(
        &mut self,
        slot: u32,
        publish: &Publish<'_>,
        reason: ReasonCode,
        letter: Option<Ticket>,
    ) -> Handled {
        let kind = match publish.qos {
            // A text that is none can be told here by closing alone (3.3.2.3.2); the rest is only not taken.
            QoS::AtMostOnce if reason == ReasonCode::PayloadFormatInvalid => {
                return Err(Close::Fault(reason, "a payload that is not UTF-8, as its format indicator says".into()));
            }
            QoS::AtMostOnce => return Ok(()),
            QoS::AtLeastOnce => AckKind::PubAck,
            QoS::ExactlyOnce => AckKind::PubRec,
        };
        let Some(link) = self.sessions[slot as usize].link.as_mut() else { return Ok(()) };
        let reason = if link.version == Version::V5 { reason } else { ReasonCode::Success };
        let ack = Ack { kind, packet_id: publish.packet_id, reason };
        if link.held == 0 && letter.is_none() {
            // At once: the journal may be waiting for room on the disk.
            link.answer(ack);
            self.counts.packets_out += 1;
            self.schedule_turn();
            return Ok(());
        }
        let ticket = letter.unwrap_or_else(|| self.lane.submitted());
        self.hold(slot, ticket, Promise::Ack(ack));
        self.schedule_turn();
        Ok(())
    }

    /// PUBACK, PUBREC and PUBCOMP for what we sent; PUBREL for what the client sent.
    fn client_acknowledged(&mut self, slot: u32, ack: &Ack) -> Handled {
        if ack.kind == AckKind::PubRel {
            self.released(slot, ack.packet_id);
            return Ok(());
        }
        let session = &mut self.sessions[slot as usize];
        let failed = ack.reason.is_error();
        match &mut session.out {
            Out::Window(window) => {
                let acked = window.acknowledge(ack.packet_id, ack.kind, failed);
                self.answer(slot, ack, acked, None);
            }
            Out::Queue(queue) => {
                let known = queue.is_released(ack.packet_id);
                let (acked, sequence) = queue.acknowledge(ack.packet_id, ack.kind, failed);
                session.me.set_queued(queue.len());
                let ticket = match acked {
                    Acked::Unknown => None,
                    // The first PUBREL left after its commit, or waits for it; so does this one.
                    Acked::Release if known => Some(self.lane.submitted()),
                    Acked::Release | Acked::Done => {
                        let id = session.me.id;
                        let mut operation = self.lane.begin();
                        operation.change(match acked {
                            Acked::Release => Change::Release(id, sequence),
                            _ => Change::Remove(id, sequence),
                        });
                        let ticket = operation.submit();
                        queue.note_removals(ticket);
                        if acked == Acked::Release {
                            queue.note_release(ticket);
                        }
                        self.schedule_turn();
                        Some(ticket)
                    }
                };
                self.answer(slot, ack, acked, ticket);
            }
        }
        self.pump(slot);
        Ok(())
    }

    /// PUBREC is answered by PUBREL, once that is durable (J6); a wrong one in 5.0 by saying so.
    fn answer(&mut self, slot: u32, ack: &Ack, acked: Acked, ticket: Option<u64>) {
        if ack.kind != AckKind::PubRec || acked == Acked::Done {
            return;
        }
        if acked == Acked::Release {
            let ticket = ticket.filter(|_| !off!(ReleaseWaits));
            return self.acknowledge(slot, AckKind::PubRel, ack.packet_id, ticket);
        }
        self.not_found(slot, AckKind::PubRel, ack.packet_id);
    }

    /// The client will not repeat a QoS 2 message any more; its identifier is free once that is durable (S4).
    fn released(&mut self, slot: u32, packet_id: u16) {
        let session = &mut self.sessions[slot as usize];
        if session.inbound.remove(&packet_id).is_none() {
            return self.not_found(slot, AckKind::PubComp, packet_id);
        }
        let mut ticket = None;
        if session.me.durable {
            let key = store::inbound_key(session.me.id, packet_id);
            let mut operation = self.lane.begin();
            operation.change(Change::Delete(store::INBOUND, &key));
            ticket = Some(operation.submit()).filter(|_| !off!(ClearBeforeComp));
            self.schedule_turn();
        }
        self.acknowledge(slot, AckKind::PubComp, packet_id, ticket);
    }

    fn not_found(&mut self, slot: u32, kind: AckKind, packet_id: u16) {
        let Some(link) = self.sessions[slot as usize].link.as_ref() else { return };
        let mut packet = Vec::new();
        let ack = Ack { kind, packet_id, reason: ReasonCode::PacketIdentifierNotFound };
        link.put_ack(&mut packet, ack);
        let ticket = self.lane.submitted();
        self.hold(slot, ticket, Promise::Packet(packet.into()));
        self.schedule_turn();
    }

    /// A SUBACK or UNSUBACK has a code for each filter: the client has to take one of that size [MQTT-3.1.2-24].
    fn answer_fits(&self, slot: u32, version: Version, codes: usize) -> Handled {
        let Some(link) = self.sessions[slot as usize].link.as_ref() else { return Ok(()) };
        // Fixed header, identifier, Property Length, codes.
        let bytes = 1 + varint_length(2 + 1 + codes) + 2 + 1 + codes;
        if version == Version::V5 && bytes > link.packet_bytes_max {
            let what = format!("the answer takes {bytes} bytes, the client takes {}", link.packet_bytes_max);
            return Err(Close::Fault(ReasonCode::PacketTooLarge, what));
        }
        Ok(())
    }

    fn subscribe(&mut self, slot: u32, version: Version, subscribe: &Subscribe<'_>) -> Handled {
        self.answer_fits(slot, version, subscribe.subscriptions.count())?;
        let qos_max = self.sessions[slot as usize].link.as_ref().map_or(QoS::ExactlyOnce, |link| link.limits().max_qos);
        let mut reasons = Vec::new();
        let mut wanted = Vec::new();
        let mut kept = Vec::new();
        for subscription in subscribe.subscriptions {
            let filter = subscription.filter;
            if let Some(refused) = self.refuse_subscription(slot, filter) {
                reasons.push(refused);
                continue;
            }
            let qos = subscription.qos.min(qos_max);
            let options = Options {
                qos,
                no_local: subscription.no_local,
                retain_as_published: subscription.retain_as_published,
                id: subscribe.subscription_id,
            };
            let is_open = self.bridge.is_open();
            if !is_open && self.refuse_stored(slot, filter, &options) {
                reasons.push(ReasonCode::QuotaExceeded);
                continue;
            }
            reasons.push(match qos {
                QoS::AtMostOnce => ReasonCode::Success,
                QoS::AtLeastOnce => ReasonCode::GrantedQoS1,
                QoS::ExactlyOnce => ReasonCode::GrantedQoS2,
            });
            let session = &mut self.sessions[slot as usize];
            let me = session.me.clone();
            let fresh = session.subscriptions.insert(filter, options);
            if me.durable && is_open {
                kept.push((store::subscription_key(me.id, filter), store::encode_options(&options)));
            }
            self.router.subscribe(filter, subscriber(&me, &options), fresh);
            let retained = match subscription.retain_handling {
                RetainHandling::Send => true,
                RetainHandling::SendIfNew => fresh,
                RetainHandling::DoNotSend => false,
            };
            if retained && !filter.starts_with("$share/") {
                wanted.push((filter, options));
            }
        }
        let ticket = (!kept.is_empty()).then(|| {
            let mut operation = self.lane.begin();
            kept.iter().for_each(|(key, value)| operation.change(Change::Put(store::SUBSCRIPTIONS, key, value)));
            operation.submit()
        });
        let ticket = ticket.or_else(|| self.repeated(slot));
        let mut packet = Vec::new();
        if let Some(link) = self.sessions[slot as usize].link.as_ref() {
            link.put_suback(&mut packet, subscribe.packet_id, &reasons);
        }
        self.promise(slot, packet, ticket);
        // A filter that stands several times in one packet is one subscription.
        let mut seen = HashSet::default();
        wanted.retain(|(filter, _)| seen.insert(*filter));
        for (filter, options) in wanted {
            let me = &self.sessions[slot as usize].me.client_id;
            let local = |kept: &Retained| options.no_local && *kept.client_id == **me;
            let store = if filter.split('/').next() == Some("$SYS") { &self.router.sys } else { &self.router.retained };
            let mut matching = store.matching(filter, self.now.unix_s);
            matching.retain(|kept| !local(kept));
            for kept in matching {
                self.deliver_retained(slot, &kept, options.qos, options.id);
            }
        }
        Ok(())
    }

    fn unsubscribe(&mut self, slot: u32, version: Version, unsubscribe: &Unsubscribe<'_>) -> Handled {
        self.answer_fits(slot, version, unsubscribe.filters.count())?;
        let mut reasons = Vec::new();
        let mut operation = None;
        for filter in unsubscribe.filters {
            let session = &mut self.sessions[slot as usize];
            let id = session.me.id;
            if !session.subscriptions.remove(filter) {
                reasons.push(ReasonCode::NoSubscriptionExisted);
                continue;
            }
            reasons.push(ReasonCode::Success);
            self.router.unsubscribe(std::iter::once(filter), id);
            if session.me.durable {
                let operation = operation.get_or_insert_with(|| self.lane.begin());
                operation.change(Change::Delete(store::SUBSCRIPTIONS, &store::subscription_key(id, filter)));
            }
        }
        let ticket = operation.map(|operation| operation.submit()).or_else(|| self.repeated(slot));
        let mut packet = Vec::new();
        encode_unsuback(&mut packet, version, unsubscribe.packet_id, reasons);
        self.promise(slot, packet, ticket);
        Ok(())
    }

    /// Sends a packet now, or when `ticket` is durable.
    /// What a request that changes nothing waits for: it may repeat one that is not durable yet.
    fn repeated(&self, slot: u32) -> Option<Ticket> {
        self.sessions[slot as usize].me.durable.then(|| self.lane.submitted())
    }

    fn promise(&mut self, slot: u32, packet: Vec<u8>, ticket: Option<u64>) {
        match (ticket.filter(|_| !off!(SubAckWaits)), self.sessions[slot as usize].link.as_mut()) {
            (Some(ticket), _) => {
                self.hold(slot, ticket, Promise::Packet(packet.into()));
                self.schedule_turn();
            }
            (None, Some(link)) => {
                link.outbox.extend_from_slice(&packet);
                self.counts.packets_out += 1;
            }
            (None, None) => {}
        }
    }

    fn disconnect(&mut self, slot: u32, disconnect: &Disconnect) -> Handled {
        let session = &mut self.sessions[slot as usize];
        if let Some(expiry_s) = disconnect.session_expiry_s {
            if session.expiry_s == 0 && expiry_s > 0 {
                let what = "DISCONNECT sets a session expiry where CONNECT had none [3.14.2.2.2]";
                return Err(Close::Fault(ReasonCode::ProtocolError, what.into()));
            }
            session.expiry_s = expiry_s;
        }
        // Anything but a normal disconnection leaves the will standing [MQTT-3.14.4-3].
        Err(Close::ByClient { with_will: disconnect.reason != ReasonCode::Success })
    }
}

fn fault(error: DecodeError) -> Close {
    Close::Fault(error.reason(), error.to_string())
}

/// Whether only the server publishes there.
pub(super) fn is_the_servers(topic: &str) -> bool {
    topic.starts_with("$SYS/")
}

/// Why a topic may not be published to by anyone, if so.
pub fn refuse_topic(topic: &str) -> Option<ReasonCode> {
    if is_the_servers(topic) {
        return Some(ReasonCode::NotAuthorized);
    }
    (topic.bytes().filter(|byte| *byte == b'/').count() >= limits::TOPIC_LEVELS_MAX)
        .then_some(ReasonCode::TopicNameInvalid)
}
