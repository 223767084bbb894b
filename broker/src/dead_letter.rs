//! Dead letters: messages that were given up, as records of a log topic of their own. Key: the MQTT topic; value and
//! headers as the message has them in the log (`mqtt.expiry_s`: what is left); and these headers:
//!
//! - `mqtt.dead_letter.reason`: a [`Reason`]
//! - `mqtt.dead_letter.time_ms`: when it was given up, in milliseconds since 1970
//! - `mqtt.dead_letter.limit`: with the reason `limit`, the name of the setting
//! - `mqtt.dead_letter.for`: a client that did not get it, once for each; for `$share/{name}`, when nobody had been
//!   chosen yet. None where nobody gets it.
//!
//! From whom it is `mqtt.client_id` says. No MQTT client can read them, so none makes another one.

use smallvec::SmallVec;

use crate::message::Message;
use crate::stats::Dropped;

const REASON: &str = "mqtt.dead_letter.reason";
const TIME: &str = "mqtt.dead_letter.time_ms";
const LIMIT: &str = "mqtt.dead_letter.limit";
const FOR: &str = "mqtt.dead_letter.for";

/// Why a message was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// Its lifetime was over before it could be sent.
    Expired,
    /// A queue had no place for it, or for it any longer: `max_queued_messages`, `max_queued_bytes`.
    QueueFull,
    /// It waited in memory beyond its client's share: `max_buffered_bytes`.
    MemoryQueued,
    /// It is larger than its subscriber takes.
    TooLarge,
    /// The key of its mapping rule names something that it does not have.
    Unmapped,
    /// It is not within a limit that its publisher is held to.
    Limit,
}

impl Reason {
    /// All of them, in their order.
    pub const ALL: [Reason; 6] =
        [Reason::Expired, Reason::QueueFull, Reason::MemoryQueued, Reason::TooLarge, Reason::Unmapped, Reason::Limit];
    /// How many there are.
    pub const COUNT: usize = Reason::ALL.len();

    /// As headers and metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            Reason::Expired => "expired",
            Reason::QueueFull => "queue_full",
            Reason::MemoryQueued => "memory_queued",
            Reason::TooLarge => "too_large",
            Reason::Unmapped => "unmapped",
            Reason::Limit => "limit",
        }
    }

    /// For a message that is not sent to a session. Not all that is dropped is given up: QoS 0 is at most once, rights
    /// were taken away on purpose, what cannot be read cannot be told, and for what there is no room there is none.
    pub fn of(dropped: Dropped) -> Option<Reason> {
        match dropped {
            Dropped::Expired => Some(Reason::Expired),
            Dropped::QueueFull => Some(Reason::QueueFull),
            Dropped::MemoryQueued => Some(Reason::MemoryQueued),
            Dropped::TooLarge => Some(Reason::TooLarge),
            Dropped::SlowClient | Dropped::MemoryQos0 | Dropped::Rights => None,
            Dropped::Unreadable | Dropped::DiskFull => None,
        }
    }
}

/// What its headers say.
#[derive(Clone, Copy, Debug)]
pub struct Label<'a> {
    /// Why.
    pub reason: Reason,
    /// The setting that [`Reason::Limit`] is about.
    pub limit: Option<&'static str>,
    /// For whom it was.
    pub recipients: &'a [&'a str],
    /// When it was given up, in milliseconds since 1970.
    pub time_ms: i64,
}

impl Label<'_> {
    /// Writes the body of a dead letter's record.
    pub fn encode(&self, out: &mut Vec<u8>, message: &Message<'_>) {
        let time = self.time_ms.to_string();
        let mut headers: SmallVec<[(&'static str, &[u8]); 8]> = SmallVec::new();
        headers.push((REASON, self.reason.name().as_bytes()));
        headers.push((TIME, time.as_bytes()));
        headers.extend(self.limit.map(|limit| (LIMIT, limit.as_bytes())));
        headers.extend(self.recipients.iter().map(|recipient| (FOR, recipient.as_bytes())));
        message.encode_with(out, message.topic.as_bytes(), false, (self.time_ms / 1000) as u32, &headers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{QoS, put_property};
    use bridge::batch::{self, Builder};

    #[test]
    fn a_letter_is_the_message_and_says_why_when_and_for_whom() {
        let mut properties = Vec::new();
        put_property::user(&mut properties, b"mqtt.dead_letter.reason", b"forged");
        let message = Message {
            topic: "a/b",
            qos: QoS::AtLeastOnce,
            retain: false,
            properties: &properties,
            expires_s: 9,
            payload: b"21.5",
            publisher: 3,
            client_id: "oven",
        };
        let label = Label { reason: Reason::QueueFull, limit: None, recipients: &["one", "two"], time_ms: 12_345 };
        let mut body = Vec::new();
        label.encode(&mut body, &message);
        let mut builder = Builder::default();
        builder.restart(0);
        builder.push(1, &body);
        let bytes = builder.finish(1).to_vec();
        let header = batch::validate_produced(&bytes).expect("valid");
        let record = batch::records(&bytes, &header).next().expect("parses").expect("one");
        assert_eq!((record.key, record.value), (Some(&b"a/b"[..]), Some(&b"21.5"[..])));
        let headers: Vec<(&str, &str)> = record
            .headers
            .map(|(name, value)| {
                let text = |bytes| std::str::from_utf8(bytes).expect("text");
                (text(name), text(value.expect("a value")))
            })
            .collect();
        let expected = [
            ("mqtt.topic", "a/b"),
            ("mqtt.client_id", "oven"),
            ("mqtt.qos", "1"),
            ("mqtt.retain", "0"),
            ("mqtt.expiry_s", "0"),
            ("mqtt.user.mqtt.dead_letter.reason", "forged"),
            ("mqtt.dead_letter.reason", "queue_full"),
            ("mqtt.dead_letter.time_ms", "12345"),
            ("mqtt.dead_letter.for", "one"),
            ("mqtt.dead_letter.for", "two"),
        ];
        assert_eq!(headers, expected);
    }
}
