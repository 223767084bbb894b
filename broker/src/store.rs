//! How durable sessions and retained messages are kept: keys and values of the bridge's keyed state.

use bridge::Space;
use bridge::state::{put_bytes, put_number, take_bytes, take_number, take_u32};

use crate::codec::QoS;
use crate::router::retained::Retained;
use crate::session::{Options, Will};

/// Sessions by id.
pub const SESSIONS: Space = Space(16);
/// Subscriptions by session id and filter.
pub const SUBSCRIPTIONS: Space = Space(17);
/// Received QoS 2 packet identifiers by session id and identifier (S4).
pub const INBOUND: Space = Space(18);
/// Retained messages by topic.
pub const RETAINED: Space = Space(32);

/// What is kept of a session besides its subscriptions, queue and identifiers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Client id.
    pub client_id: Box<str>,
    /// User name.
    pub user: Option<Box<str>>,
    /// The user name was proved: the session is that user's alone.
    pub proved: bool,
    /// Seconds it outlives its connection.
    pub expiry_s: u32,
    /// When its client left, in seconds since 1970; `None` while it is there.
    pub left_s: Option<u64>,
    /// Entries of its queue below this sequence may have been sent; `None`: all of them, for its client is there.
    pub sent_to: Option<u64>,
    /// Its will, until it is published or withdrawn.
    pub will: Option<Will>,
}

impl Record {
    /// As stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_bytes(&mut out, self.client_id.as_bytes());
        let flags = [self.user.is_some(), self.proved, self.sent_to.is_some()];
        put_number(&mut out, flags.iter().rev().fold(0, |bits, flag| bits << 1 | u64::from(*flag)));
        put_bytes(&mut out, self.user.as_deref().unwrap_or_default().as_bytes());
        put_number(&mut out, self.expiry_s.into());
        put_number(&mut out, self.left_s.map_or(0, |s| s + 1));
        self.sent_to.iter().for_each(|sequence| put_number(&mut out, *sequence));
        let Some(will) = &self.will else { return out };
        put_bytes(&mut out, will.topic.as_bytes());
        put_bytes(&mut out, &will.payload);
        put_bytes(&mut out, &will.properties);
        put_number(&mut out, will.qos as u64 | u64::from(will.retain) << 2);
        put_number(&mut out, will.delay_s.into());
        put_number(&mut out, will.expiry_s.map_or(0, |s| u64::from(s) + 1));
        out
    }

    /// From what was stored; `None` when it is not one.
    pub fn decode(mut bytes: &[u8]) -> Option<Record> {
        let rest = &mut bytes;
        let client_id = text(rest)?;
        let flags = take_number(rest)?;
        let (has_user, proved) = (flags & 1 != 0, flags & 2 != 0);
        let user = Some(text(rest)?).filter(|_| has_user);
        let expiry_s = take_u32(rest)?;
        let left_s = take_number(rest)?.checked_sub(1);
        let sent_to = if flags & 4 != 0 { Some(take_number(rest)?) } else { None };
        let mut record = Record { client_id, user, proved, expiry_s, left_s, sent_to, will: None };
        if !rest.is_empty() {
            let (topic, payload, properties) = (text(rest)?, take_bytes(rest)?.into(), take_bytes(rest)?.into());
            let flags = take_number(rest)?;
            record.will = Some(Will {
                topic,
                payload,
                properties,
                qos: QoS::from_bits((flags & 3) as u8)?,
                retain: flags & 4 != 0,
                delay_s: take_u32(rest)?,
                expiry_s: take_number(rest)?.checked_sub(1).map(u32::try_from).transpose().ok()?,
            });
        }
        rest.is_empty().then_some(record)
    }
}

fn text(bytes: &mut &[u8]) -> Option<Box<str>> {
    Some(std::str::from_utf8(take_bytes(bytes)?).ok()?.into())
}

/// Key of a session.
pub fn session_key(session: u64) -> [u8; 8] {
    session.to_be_bytes()
}

/// Key of a subscription.
pub fn subscription_key(session: u64, filter: &str) -> Vec<u8> {
    [&session.to_be_bytes(), filter.as_bytes()].concat()
}

/// Key of a received packet identifier.
pub fn inbound_key(session: u64, packet_id: u16) -> [u8; 10] {
    let mut key = [0; 10];
    key[..8].copy_from_slice(&session.to_be_bytes());
    key[8..].copy_from_slice(&packet_id.to_be_bytes());
    key
}

/// A key's session and what follows it.
pub fn split_key(key: &[u8]) -> Option<(u64, &[u8])> {
    let (session, rest) = key.split_first_chunk::<8>()?;
    Some((u64::from_be_bytes(*session), rest))
}

/// A subscription's options as stored.
pub fn encode_options(options: &Options) -> Vec<u8> {
    let flags = options.qos as u64 | u64::from(options.no_local) << 2 | u64::from(options.retain_as_published) << 3;
    let mut out = Vec::new();
    put_number(&mut out, flags);
    put_number(&mut out, options.id.unwrap_or(0).into());
    out
}

/// The same back; `None` when it is not one.
pub fn decode_options(mut bytes: &[u8]) -> Option<Options> {
    let (flags, id) = (take_number(&mut bytes)?, take_u32(&mut bytes)?);
    Some(Options {
        qos: QoS::from_bits((flags & 3) as u8)?,
        no_local: flags & 4 != 0,
        retain_as_published: flags & 8 != 0,
        id: Some(id).filter(|id| *id != 0),
    })
}

/// A retained message as stored under its topic.
pub fn encode_retained(message: &Retained) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.payload.len() + message.properties.len() + 32);
    put_number(&mut out, message.qos as u64);
    put_number(&mut out, message.expires_s.into());
    put_bytes(&mut out, message.client_id.as_bytes());
    put_bytes(&mut out, &message.properties);
    put_bytes(&mut out, &message.payload);
    out
}

/// The same back; `None` when it is not one.
pub fn decode_retained(topic: &[u8], mut bytes: &[u8]) -> Option<Retained> {
    let rest = &mut bytes;
    Some(Retained {
        topic: std::str::from_utf8(topic).ok()?.into(),
        qos: QoS::from_bits(take_number(rest)?.try_into().ok()?)?,
        expires_s: take_u32(rest)?,
        client_id: text(rest)?,
        properties: take_bytes(rest)?.into(),
        payload: take_bytes(rest)?.into(),
        order: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back() {
        let will = Will {
            topic: "gone".into(),
            payload: (*b"x").into(),
            qos: QoS::ExactlyOnce,
            retain: true,
            delay_s: 7,
            properties: (*b"\x01\x01").into(),
            expiry_s: Some(0),
        };
        let with = Record {
            client_id: "c".into(),
            user: Some("".into()),
            proved: true,
            expiry_s: 5,
            left_s: Some(0),
            sent_to: Some(300),
            will: Some(will),
        };
        let without = Record { user: None, proved: false, left_s: None, sent_to: None, will: None, ..with.clone() };
        for record in [with, without] {
            let bytes = record.encode();
            assert_eq!(Record::decode(&bytes), Some(record));
            assert_eq!(Record::decode(&bytes[..2]), None);
        }
        let options = Options { qos: QoS::AtLeastOnce, no_local: true, retain_as_published: false, id: Some(1 << 27) };
        assert_eq!(decode_options(&encode_options(&options)), Some(options));
    }

    #[test]
    fn retained_messages_come_back() {
        let message = Retained {
            topic: "a/b".into(),
            qos: QoS::AtLeastOnce,
            properties: [].into(),
            payload: (*b"21.5").into(),
            expires_s: 77,
            client_id: "c".into(),
            order: 0,
        };
        assert_eq!(decode_retained(b"a/b", &encode_retained(&message)), Some(message));
    }
}
