//! Retained messages: kept when they are published, sent to who subscribes, removed when they expire (S5).

use bridge::Target as Enqueued;
use bridge::state::Change;

use crate::codec::QoS;
use crate::message::Message;
use crate::router::retained::{Bounds, Full, Retained};
use crate::router::{Target, Whose};
use crate::session::Tag;
use crate::stats::Dropped;
use crate::store;

use super::Shard;

/// What became of a topic's retained message, for the journal.
pub(super) struct RetainedChange {
    /// Its place in the order of all.
    pub order: u64,
    /// As stored; `None`: it is removed.
    pub value: Option<Vec<u8>>,
}

impl Shard {
    /// Keeps a retained message, before the subscriptions are looked at (S5). One that has no place is an error if its
    /// publisher can be told; if not, it is delivered all the same, and its topic has no retained message.
    pub(super) fn keep_retained(
        &mut self,
        message: &Message<'_>,
        can_be_told: bool,
    ) -> Result<Option<RetainedChange>, Full> {
        let store = &self.router.retained;
        if !message.retain {
            return Ok(None);
        }
        if message.payload.is_empty() {
            return Ok(Some(RetainedChange { order: store.remove(message.topic), value: None }));
        }
        if message.qos == QoS::AtMostOnce && !self.bridge.is_open() {
            return Ok(self.forget_retained(message));
        }
        let kept = retained(message);
        let bounds = Bounds { messages: self.config.max_retained_messages, bytes: self.config.max_retained_bytes };
        let set = match can_be_told {
            true => store.set_within(bounds, kept).map_err(|full| (full, None)),
            false => store.set_or_clear(bounds, kept),
        };
        match set {
            Ok(kept) => Ok(Some(RetainedChange { order: kept.order, value: Some(store::encode_retained(&kept)) })),
            Err((full, removed)) => {
                self.note_full(full, message);
                match can_be_told {
                    true => Err(full),
                    false => Ok(removed.map(|order| RetainedChange { order, value: None })),
                }
            }
        }
    }

    /// Counts a message that was not retained, and says so from time to time.
    fn note_full(&mut self, full: Full, message: &Message<'_>) {
        *match full {
            Full::Messages => &mut self.counts.not_retained_messages,
            Full::Bytes => &mut self.counts.not_retained_bytes,
        } += 1;
        let setting = full.key();
        if self.router.may_warn_of_retained(self.now.up_ms) {
            let (client, topic) = (message.client_id, crate::listener::shortened(message.topic));
            let (messages, bytes) = self.router.retained.size();
            tracing::warn!(
                client,
                topic,
                messages,
                bytes,
                "not retained, and others will not be either: mqtt.{setting} is reached; further ones are counted"
            );
        }
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
            client_id: &kept.client_id,
        };
        let Some(session) = self.sessions.get(slot as usize) else { return };
        let me = session.me.clone();
        if !self.router.may_receive(&me, &kept.topic) {
            return;
        }
        let qos = kept.qos.min(granted);
        if me.durable && qos > QoS::AtMostOnce {
            if !self.bridge.is_open() {
                return self.counts.dropped(Dropped::DiskFull, &me);
            }
            if me.queued() >= self.config.max_queued_messages {
                return self.counts.dropped(Dropped::QueueFull, &me);
            }
            // Counted before its commit: a filter may match more than a queue may hold.
            me.set_queued(me.queued() + 1);
            let tag = Tag::new(qos, true, id.unwrap_or(0)).0;
            let target = Enqueued { queue: me.id, tag, expires_s: kept.expires_s };
            let now = self.now;
            let mut operation = self.lane.begin();
            // Another shard's newer value may be queued first: this one is not to follow it.
            operation.unless_newer(kept.order, store::RETAINED, kept.topic.as_bytes());
            operation.append(self.bridge.hidden(), now.unix_ms, std::iter::once(target), |out| {
                message.encode_record(out, kept.topic.as_bytes(), false, now.unix_s);
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
        // It is still there.
        self.letters.forget();
    }

    /// Once a second, on one shard for all: what has expired goes.
    pub(super) fn expire_retained(&mut self) {
        let expired = self.router.retained.expire(self.now.unix_s);
        if expired.is_empty() {
            return;
        }
        self.counts.retained_expired += expired.len() as u64;
        let mut operation = self.lane.begin();
        for (message, order) in &expired {
            operation.change_in_order(*order, Change::Delete(store::RETAINED, message.topic.as_bytes()));
        }
        operation.submit();
    }
}

fn retained(message: &Message<'_>) -> Retained {
    Retained {
        topic: message.topic.into(),
        qos: message.qos,
        properties: message.properties.into(),
        payload: message.payload.into(),
        expires_s: message.expires_s,
        client_id: message.client_id.into(),
        order: 0,
    }
}
