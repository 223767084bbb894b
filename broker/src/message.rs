//! A message on its way, and what it looks like in the log: a record whose headers hold what Kafka has no
//! place for, so that a queue's pointer is enough to send it later.

use std::borrow::Cow;

use bridge::batch::{self, Record};
use smallvec::SmallVec;

use crate::codec::{PublishProperties, QoS, put_property};

/// A message, borrowed from wherever it is.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Topic name.
    pub topic: &'a str,
    /// As published.
    pub qos: QoS,
    /// The retain flag as published.
    pub retain: bool,
    /// Encoded 5.0 properties to forward.
    pub properties: &'a [u8],
    /// Seconds since 1970 when it expires; 0 never.
    pub expires_s: u32,
    /// The payload.
    pub payload: &'a [u8],
    /// The session that published it, for no local; 0 none.
    pub publisher: u64,
    /// Its client; empty where nobody asks for it.
    pub client_id: &'a str,
}

/// A message with bytes of its own.
#[derive(Debug)]
pub struct OwnedMessage {
    /// Topic, client id, properties, payload.
    bytes: Box<[u8]>,
    topic_bytes: u32,
    client_id_bytes: u32,
    properties_bytes: u32,
    expires_s: u32,
    qos: QoS,
    retain: bool,
    publisher: u64,
}

impl OwnedMessage {
    /// Memory it takes, about.
    pub fn bytes(&self) -> usize {
        self.bytes.len() + size_of::<Self>()
    }

    /// As it was.
    pub fn borrow(&self) -> Message<'_> {
        let (topic, rest) = self.bytes.split_at(self.topic_bytes as usize);
        let (client_id, rest) = rest.split_at(self.client_id_bytes as usize);
        let (properties, payload) = rest.split_at(self.properties_bytes as usize);
        let Self { qos, retain, expires_s, publisher, .. } = *self;
        // They were a &str when they were put in.
        let text = |bytes| std::str::from_utf8(bytes).unwrap_or_default();
        let (topic, client_id) = (text(topic), text(client_id));
        Message { topic, qos, retain, properties, expires_s, payload, publisher, client_id }
    }
}

impl From<&Message<'_>> for OwnedMessage {
    fn from(message: &Message<'_>) -> OwnedMessage {
        let Message { topic, qos, retain, properties, expires_s, payload, publisher, client_id } = *message;
        OwnedMessage {
            bytes: [topic.as_bytes(), client_id.as_bytes(), properties, payload].concat().into(),
            topic_bytes: topic.len() as u32,
            client_id_bytes: client_id.len() as u32,
            properties_bytes: properties.len() as u32,
            expires_s,
            qos,
            retain,
            publisher,
        }
    }
}

/// Header names of the log; a user property's own name is escaped when it begins like these.
const PREFIX: &str = "mqtt.";
const ESCAPE: &str = "mqtt.user.";
const TOPIC: &str = "mqtt.topic";
const CLIENT_ID: &str = "mqtt.client_id";
const QOS: &str = "mqtt.qos";
const RETAIN: &str = "mqtt.retain";
const PAYLOAD_FORMAT: &str = "mqtt.payload_format";
const EXPIRY: &str = "mqtt.expiry_s";
const CONTENT_TYPE: &str = "mqtt.content_type";
const RESPONSE_TOPIC: &str = "mqtt.response_topic";
const CORRELATION_DATA: &str = "mqtt.correlation_data";

impl Message<'_> {
    /// Writes the body of its log record. `now_s` turns its expiry into what is left of it.
    pub fn encode_record(&self, out: &mut Vec<u8>, key: &[u8], null: bool, now_s: u32) {
        self.encode_with(out, key, null, now_s, &[]);
    }

    /// The same, with these headers after its own.
    pub(crate) fn encode_with(
        &self,
        out: &mut Vec<u8>,
        key: &[u8],
        null: bool,
        now_s: u32,
        more: &[(&'static str, &[u8])],
    ) {
        let qos = [b'0' + self.qos as u8];
        let retain = [b'0' + u8::from(self.retain)];
        let always = [
            (TOPIC.as_bytes(), self.topic.as_bytes()),
            (CLIENT_ID.as_bytes(), self.client_id.as_bytes()),
            (QOS.as_bytes(), &qos[..]),
            (RETAIN.as_bytes(), &retain[..]),
        ];
        let value = (!null).then_some(self.payload);
        if self.properties.is_empty() && self.expires_s == 0 && more.is_empty() {
            return batch::encode_body(out, Some(key), value, always.into_iter());
        }
        let expiry = self.expires_s.saturating_sub(now_s).to_string();
        // They were validated when the PUBLISH was decoded.
        let properties = PublishProperties::parse(self.properties).unwrap_or_default();
        let format = properties.payload_format_indicator.map(|format| [b'0' + format]);
        let user: SmallVec<[(Cow<'_, str>, &str); 8]> =
            properties.user_properties().map(|(name, value)| (escape(name), value)).collect();
        let named = [
            (EXPIRY, (self.expires_s != 0).then_some(expiry.as_bytes())),
            (PAYLOAD_FORMAT, format.as_ref().map(|f| &f[..])),
            (CONTENT_TYPE, properties.content_type.map(str::as_bytes)),
            (RESPONSE_TOPIC, properties.response_topic.map(str::as_bytes)),
            (CORRELATION_DATA, properties.correlation_data),
        ];
        let mut headers: SmallVec<[(&[u8], &[u8]); 12]> = SmallVec::from_slice(&always);
        headers.extend(named.into_iter().filter_map(|(name, value)| Some((name.as_bytes(), value?))));
        headers.extend(user.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
        headers.extend(more.iter().map(|(name, value)| (name.as_bytes(), *value)));
        batch::encode_body(out, Some(key), value, headers.iter().copied());
    }

    /// Reads a log record back; the properties are written into `scratch`. `None` when it does not come from
    /// MQTT.
    pub fn from_record<'a>(record: &Record<'a>, scratch: &'a mut Vec<u8>) -> Option<Message<'a>> {
        scratch.clear();
        let mut message = Message {
            topic: "",
            qos: QoS::AtMostOnce,
            retain: false,
            properties: &[],
            expires_s: 0,
            payload: record.value.unwrap_or_default(),
            publisher: 0,
            client_id: "",
        };
        for (name, value) in record.headers {
            let (name, value) = (std::str::from_utf8(name).ok()?, value.unwrap_or_default());
            let digit = || value.first().map_or(0, |byte| byte.wrapping_sub(b'0'));
            match name {
                TOPIC => message.topic = std::str::from_utf8(value).ok()?,
                QOS => message.qos = QoS::from_bits(digit())?,
                RETAIN => message.retain = digit() == 1,
                CLIENT_ID => message.client_id = std::str::from_utf8(value).ok()?,
                EXPIRY => {}
                PAYLOAD_FORMAT => put_property::payload_format(scratch, digit()),
                CONTENT_TYPE => put_property::content_type(scratch, value),
                RESPONSE_TOPIC => put_property::response_topic(scratch, value),
                CORRELATION_DATA => put_property::correlation_data(scratch, value),
                other => put_property::user(scratch, other.strip_prefix(ESCAPE).unwrap_or(other).as_bytes(), value),
            }
        }
        message.properties = scratch;
        (!message.topic.is_empty()).then_some(message)
    }
}

fn escape(name: &str) -> Cow<'_, str> {
    match name.starts_with(PREFIX) {
        true => Cow::Owned(format!("{ESCAPE}{name}")),
        false => Cow::Borrowed(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bridge::batch::Builder;
    use proptest::prelude::*;

    fn through_the_log(message: &Message<'_>) -> OwnedMessage {
        let mut body = Vec::new();
        message.encode_record(&mut body, b"key", false, 0);
        let mut builder = Builder::default();
        builder.restart(0);
        builder.push(1, &body);
        let bytes = builder.finish(1).to_vec();
        let header = batch::validate_produced(&bytes).expect("valid");
        let record = batch::records(&bytes, &header).next().expect("parses").expect("one");
        let mut scratch = Vec::new();
        let back = Message::from_record(&record, &mut scratch).expect("ours");
        (&back).into()
    }

    proptest! {
        #[test]
        fn what_goes_into_the_log_comes_out_the_same(
            payload in prop::collection::vec(any::<u8>(), 0..50),
            user in prop::collection::vec(("(mqtt\\.)?(user\\.)?[a-zé]{0,5}", "[ -~]{0,5}"), 0..5),
            format in prop::option::of(0u8..2),
            content in prop::option::of("[a-z/]{0,8}"),
            response in prop::option::of("[a-z/]{1,8}"),
            correlation in prop::option::of(prop::collection::vec(any::<u8>(), 0..8)),
        ) {
            let mut properties = Vec::new();
            if let Some(format) = format { put_property::payload_format(&mut properties, format) }
            if let Some(text) = &content { put_property::content_type(&mut properties, text.as_bytes()) }
            if let Some(text) = &response { put_property::response_topic(&mut properties, text.as_bytes()) }
            if let Some(bytes) = &correlation { put_property::correlation_data(&mut properties, bytes) }
            for (name, value) in &user { put_property::user(&mut properties, name.as_bytes(), value.as_bytes()) }
            let message = Message {
                topic: "a/b", qos: QoS::ExactlyOnce, retain: true, properties: &properties,
                expires_s: 9, payload: &payload, publisher: 3, client_id: "client",
            };
            let back = through_the_log(&message);
            let back = back.borrow();
            prop_assert_eq!((back.topic, back.client_id, back.qos, back.retain), ("a/b", "client", QoS::ExactlyOnce, true));
            prop_assert_eq!((back.properties, back.payload), (&properties[..], &payload[..]));
        }
    }
}
