//! What a client is held to beyond the protocol, where it asks for something: a message, a will, a subscription, a keep
//! alive. A limit that is reached is counted under its key, and told in the log once per connection.

use crate::codec::topic::split_share;
use crate::codec::{Connect, Publish, PublishProperties, QoS, ReasonCode, Version, Will};
use crate::config::ClientLimits;
use crate::session::{Close, Link};
use crate::stats::Limit;

use super::Shard;
use super::packets::is_the_servers;

/// What came up against which limit, and what its client is told.
type Refused = (Limit, ReasonCode);

impl ClientLimits {
    /// What 5.0 tells at CONNACK that it is not served.
    fn refuse_kind(&self, qos: QoS, retain: bool) -> Option<Refused> {
        if qos > self.max_qos {
            return Some((Limit::MaxQos, ReasonCode::QoSNotSupported));
        }
        (retain && !self.retain_available).then_some((Limit::RetainAvailable, ReasonCode::RetainNotSupported))
    }

    /// A topic name or the filter of a subscription that is too long or too deep.
    fn refuse_size(&self, topic: &str) -> Option<Limit> {
        if topic.len() > self.max_topic_bytes.into() {
            return Some(Limit::MaxTopicBytes);
        }
        let levels = 1 + topic.bytes().filter(|byte| *byte == b'/').count();
        (levels > self.max_topic_levels.into()).then_some(Limit::MaxTopicLevels)
    }

    fn refuse_payload(&self, properties: &PublishProperties<'_>, payload: &[u8]) -> Option<Refused> {
        let is_text = properties.payload_format_indicator == Some(1);
        let lies = self.check_payload_format && is_text && std::str::from_utf8(payload).is_err();
        lies.then_some((Limit::CheckPayloadFormat, ReasonCode::PayloadFormatInvalid))
    }

    /// The will of a CONNECT: the server is to publish it as it stands [MQTT-3.2.2-12, MQTT-3.2.2-13].
    pub(super) fn refuse_will(&self, will: &Will<'_>) -> Option<Refused> {
        self.refuse_kind(will.qos, will.retain)
            .or_else(|| Some((self.refuse_size(will.topic)?, ReasonCode::TopicNameInvalid)))
            .or_else(|| self.refuse_payload(&will.properties, will.payload))
    }

    fn refuse_filter(&self, filter: &str) -> Option<Refused> {
        let share = split_share(filter);
        if share.is_some() && !self.shared_subscriptions {
            return Some((Limit::SharedSubscriptions, ReasonCode::SharedSubscriptionsNotSupported));
        }
        let filter = share.map_or(filter, |(_, filter)| filter);
        if !self.wildcard_subscriptions && filter.contains(['+', '#']) {
            return Some((Limit::WildcardSubscriptions, ReasonCode::WildcardSubscriptionsNotSupported));
        }
        Some((self.refuse_size(filter)?, ReasonCode::TopicFilterInvalid))
    }

    /// The keep alive in force: the client's own, if it is within bounds [MQTT-3.1.2-21]. `None` where the client would
    /// have to be told another one and speaks a version that cannot.
    pub(super) fn keep_alive_s(&self, connect: &Connect<'_>) -> Option<u16> {
        let wanted = connect.keep_alive_s;
        let within = match (wanted, self.max_keepalive_s) {
            (wanted, 0) if wanted == 0 || wanted >= self.min_keepalive_s => wanted,
            (_, 0) => self.min_keepalive_s,
            (0, max) => max,
            (wanted, max) => wanted.max(self.min_keepalive_s).min(max),
        };
        (within == wanted || connect.version == Version::V5).then_some(within)
    }
}

impl Shard {
    /// Counts a limit that a client of this shard reached, and says so once per connection.
    pub(super) fn reached(&mut self, slot: u32, limit: Limit) {
        self.counts.limits[limit as usize] += 1;
        let Some(session) = self.sessions.get_mut(slot as usize) else { return };
        let Some(link) = session.link.as_mut() else { return };
        if !link.tells(limit) {
            return;
        }
        let (client, peer, listener) = (&*session.me.client_id, &*link.peer, &*link.listener.name);
        tracing::info!(client, peer, listener, limit = limit.key(), "a limit is reached; told once per connection");
    }

    /// A PUBLISH of a kind that the client was told not to send ends its connection: in 5.0 the standard wants it so
    /// (3.3.1.2, 3.3.1.3), and before there is no other answer. Mosquitto does the same.
    pub(super) fn check_kind(&mut self, slot: u32, publish: &Publish<'_>) -> Result<(), Close> {
        let Some(link) = self.sessions[slot as usize].link.as_ref() else { return Ok(()) };
        let Some((limit, reason)) = link.limits().refuse_kind(publish.qos, publish.retain) else { return Ok(()) };
        let what = match limit {
            Limit::MaxQos => format!("QoS {} is above max_qos [MQTT-3.2.2-11]", publish.qos as u8),
            _ => "a message to be retained, without retain_available [MQTT-3.2.2-14]".to_owned(),
        };
        self.counts.limits[limit as usize] += 1;
        Err(Close::Fault(reason, what))
    }

    /// Why a message is not taken, if so, and by which limit; by none where nobody may publish.
    pub(super) fn refuse_message(
        &mut self,
        slot: u32,
        topic: &str,
        publish: &Publish<'_>,
    ) -> Option<(Option<Limit>, ReasonCode)> {
        if is_the_servers(topic) {
            self.counts.refused_topics += 1;
            return Some((None, ReasonCode::NotAuthorized));
        }
        let limits = self.sessions[slot as usize].link.as_ref()?.limits();
        if let Some(limit) = limits.refuse_size(topic) {
            self.counts.refused_topics += 1;
            self.reached(slot, limit);
            return Some((Some(limit), ReasonCode::TopicNameInvalid));
        }
        let (limit, reason) = limits.refuse_payload(&publish.properties, publish.payload)?;
        self.counts.refused_payloads += 1;
        self.reached(slot, limit);
        Some((Some(limit), reason))
    }

    /// Why a subscription is not made, if so. One that is there already may always be made again.
    pub(super) fn refuse_subscription(&mut self, slot: u32, filter: &str) -> Option<ReasonCode> {
        let session = &self.sessions[slot as usize];
        let limits = session.link.as_ref()?.limits();
        let full = session.subscriptions.len() >= limits.max_subscriptions as usize;
        let refused = limits.refuse_filter(filter).or_else(|| {
            let one_more = full && !session.subscriptions.contains(filter);
            one_more.then_some((Limit::MaxSubscriptions, ReasonCode::QuotaExceeded))
        });
        if let Some((limit, reason)) = refused {
            self.reached(slot, limit);
            return Some(reason);
        }
        let me = &session.me;
        if self.router.access.may_subscribe(&me.identity(), &me.client_id, filter) {
            return None;
        }
        let (client, filter) = (&*me.client_id, crate::listener::shortened(filter));
        tracing::info!(client, filter, "a subscription is refused: nothing it matches may be read");
        Some(ReasonCode::NotAuthorized)
    }
}

impl Link {
    /// Whether this limit was not told of on this connection before.
    fn tells(&mut self, limit: Limit) -> bool {
        let bit = 1 << limit as u32;
        let is_new = self.told & bit == 0;
        self.told |= bit;
        is_new
    }
}
