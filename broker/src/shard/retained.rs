//! Retained messages: kept when they are published, sent to who subscribes, removed when they expire (S5).

use bridge::Target as Enqueued;
use bridge::state::Change;

use crate::codec::QoS;
use crate::message::Message;
use crate::router::retained::Retained;
use crate::router::{Target, Whose};
use crate::session::Tag;
use crate::store;

use super::Shard;
use super::publish::Publisher;

impl Shard {
    /// S5: before the subscriptions are looked at. The change's place in the order of all.
    pub(super) fn keep_retained(&self, message: &Message<'_>, from: Publisher<'_>) -> u64 {
        match message.payload.is_empty() {
            true => self.router.retained.remove(message.topic),
            false => self.router.retained.set(retained(message, from)),
        }
    }

    pub(super) fn retained_value(&self, message: &Message<'_>, from: Publisher<'_>) -> Option<Vec<u8>> {
        (!message.payload.is_empty()).then(|| store::encode_retained(&retained(message, from)))
    }

    /// Sends one retained message to a session that subscribed; through its queue at QoS 1 and 2 when it is
    /// durable (S5).
    pub(super) fn deliver_retained(&mut self, slot: u32, kept: &Retained, granted: QoS, id: Option<u32>) {
        let message = Message {
            topic: &kept.topic,
            qos: kept.qos,
            retain: true,
            properties: &kept.properties,
            expires_s: kept.expires_s,
            payload: &kept.payload,
            publisher: 0,
        };
        let Some(session) = self.sessions.get(slot as usize) else { return };
        let me = session.me.clone();
        if !self.router.may_receive(&me, &kept.topic) {
            return;
        }
        let qos = kept.qos.min(granted);
        if me.durable && qos > QoS::AtMostOnce {
            if me.queued() >= self.config.max_queued_messages {
                self.counts.dropped_queue_full += 1;
                return;
            }
            // Counted before its commit: a filter may match more than a queue may hold.
            me.set_queued(me.queued() + 1);
            let tag = Tag::new(qos, true, id.unwrap_or(0)).0;
            let target = Enqueued { queue: me.id, tag, expires_s: kept.expires_s };
            let now = self.now;
            let mut operation = self.lane.begin();
            operation.append(self.bridge.hidden(), now.unix_ms, std::iter::once(target), |out| {
                message.encode_record(out, kept.topic.as_bytes(), &kept.client_id, false, now.unix_s);
            });
            operation.submit();
            return self.schedule_turn();
        }
        let target = Target {
            slot,
            session: me.id,
            qos: granted,
            durable: me.durable,
            whose: Whose::Anyones,
            retain_as_published: true,
            ids: id.into_iter().collect(),
        };
        self.scratch.restart();
        self.deliver(&target, None, &message);
    }

    /// Once a second, on one shard for all: what has expired goes.
    pub(super) fn expire_retained(&mut self) {
        let expired = self.router.retained.expire(self.now.unix_s);
        if expired.is_empty() {
            return;
        }
        self.counts.retained_expired += expired.len() as u64;
        let mut operation = self.lane.begin();
        for (topic, order) in &expired {
            operation.change_in_order(*order, Change::Delete(store::RETAINED, topic.as_bytes()));
        }
        operation.submit();
    }
}

fn retained(message: &Message<'_>, from: Publisher<'_>) -> Retained {
    Retained {
        topic: message.topic.into(),
        qos: message.qos,
        properties: message.properties.into(),
        payload: message.payload.into(),
        expires_s: message.expires_s,
        client_id: from.client_id.into(),
    }
}
