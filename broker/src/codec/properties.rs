//! Properties of MQTT 5.0 (2.2.2): which may stand where, how often, and with what values.

use std::borrow::Cow;

use super::DecodeError;
use super::primitives::{Reader, put_binary, put_u16, put_u32};

/// Property identifiers. On the wire a variable byte integer, but all fit in one byte.
pub(super) mod id {
    pub const PAYLOAD_FORMAT_INDICATOR: u8 = 0x01;
    pub const MESSAGE_EXPIRY_INTERVAL: u8 = 0x02;
    pub const CONTENT_TYPE: u8 = 0x03;
    pub const RESPONSE_TOPIC: u8 = 0x08;
    pub const CORRELATION_DATA: u8 = 0x09;
    pub const SUBSCRIPTION_IDENTIFIER: u8 = 0x0B;
    pub const SESSION_EXPIRY_INTERVAL: u8 = 0x11;
    pub const ASSIGNED_CLIENT_IDENTIFIER: u8 = 0x12;
    pub const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub const AUTHENTICATION_METHOD: u8 = 0x15;
    pub const AUTHENTICATION_DATA: u8 = 0x16;
    pub const REQUEST_PROBLEM_INFORMATION: u8 = 0x17;
    pub const WILL_DELAY_INTERVAL: u8 = 0x18;
    pub const REQUEST_RESPONSE_INFORMATION: u8 = 0x19;
    pub const RESPONSE_INFORMATION: u8 = 0x1A;
    pub const SERVER_REFERENCE: u8 = 0x1C;
    pub const REASON_STRING: u8 = 0x1F;
    pub const RECEIVE_MAXIMUM: u8 = 0x21;
    pub const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    pub const TOPIC_ALIAS: u8 = 0x23;
    pub const MAXIMUM_QOS: u8 = 0x24;
    pub const RETAIN_AVAILABLE: u8 = 0x25;
    pub const USER_PROPERTY: u8 = 0x26;
    pub const MAXIMUM_PACKET_SIZE: u8 = 0x27;
    pub const WILDCARD_SUBSCRIPTION_AVAILABLE: u8 = 0x28;
    pub const SUBSCRIPTION_IDENTIFIERS_AVAILABLE: u8 = 0x29;
    pub const SHARED_SUBSCRIPTION_AVAILABLE: u8 = 0x2A;
}

/// Which properties a client may put into a packet: one bit per identifier.
#[derive(Clone, Copy)]
pub(super) struct Allowed(u64);

impl Allowed {
    pub const CONNECT: Allowed = Allowed::of(&[
        id::SESSION_EXPIRY_INTERVAL,
        id::RECEIVE_MAXIMUM,
        id::MAXIMUM_PACKET_SIZE,
        id::TOPIC_ALIAS_MAXIMUM,
        id::REQUEST_RESPONSE_INFORMATION,
        id::REQUEST_PROBLEM_INFORMATION,
        id::USER_PROPERTY,
        id::AUTHENTICATION_METHOD,
        id::AUTHENTICATION_DATA,
    ]);
    /// What describes a message, in PUBLISH and in a will.
    const MESSAGE: Allowed = Allowed::of(&[
        id::PAYLOAD_FORMAT_INDICATOR,
        id::MESSAGE_EXPIRY_INTERVAL,
        id::CONTENT_TYPE,
        id::RESPONSE_TOPIC,
        id::CORRELATION_DATA,
        id::USER_PROPERTY,
    ]);
    pub const WILL: Allowed = Allowed(Allowed::MESSAGE.0 | Allowed::of(&[id::WILL_DELAY_INTERVAL]).0);
    /// The subscription identifier is let through to be refused with an error of its own.
    pub const PUBLISH: Allowed =
        Allowed(Allowed::MESSAGE.0 | Allowed::of(&[id::TOPIC_ALIAS, id::SUBSCRIPTION_IDENTIFIER]).0);
    pub const ACK: Allowed = Allowed::of(&[id::REASON_STRING, id::USER_PROPERTY]);
    pub const SUBSCRIBE: Allowed = Allowed::of(&[id::SUBSCRIPTION_IDENTIFIER, id::USER_PROPERTY]);
    pub const UNSUBSCRIBE: Allowed = Allowed::of(&[id::USER_PROPERTY]);
    pub const DISCONNECT: Allowed = Allowed::of(&[id::SESSION_EXPIRY_INTERVAL, id::REASON_STRING, id::USER_PROPERTY]);
    pub const AUTH: Allowed =
        Allowed::of(&[id::AUTHENTICATION_METHOD, id::AUTHENTICATION_DATA, id::REASON_STRING, id::USER_PROPERTY]);

    const fn of(ids: &[u8]) -> Allowed {
        let mut bits = 0;
        let mut index = 0;
        while index < ids.len() {
            bits |= 1 << ids[index];
            index += 1;
        }
        Allowed(bits)
    }
}

/// A property that a client may send, somewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Property<'a> {
    PayloadFormatIndicator(u8),
    MessageExpiry(u32),
    ContentType(&'a str),
    ResponseTopic(&'a str),
    CorrelationData(&'a [u8]),
    SubscriptionId(u32),
    SessionExpiry(u32),
    AuthenticationMethod(&'a str),
    AuthenticationData(&'a [u8]),
    RequestProblemInformation(bool),
    WillDelay(u32),
    RequestResponseInformation(bool),
    ReasonString,
    ReceiveMaximum(u16),
    TopicAliasMaximum(u16),
    TopicAlias(u16),
    User(&'a str, &'a str),
    MaximumPacketSize(u32),
}

impl<'a> Property<'a> {
    fn read(id: u8, reader: &mut Reader<'a>) -> Result<Property<'a>, DecodeError> {
        let flag = |byte: u8| match byte {
            0 | 1 => Ok(byte == 1),
            _ => Err(DecodeError::PropertyValue(id)),
        };
        Ok(match id {
            id::PAYLOAD_FORMAT_INDICATOR => Property::PayloadFormatIndicator(flag(reader.u8()?)?.into()),
            id::MESSAGE_EXPIRY_INTERVAL => Property::MessageExpiry(reader.u32()?),
            id::CONTENT_TYPE => Property::ContentType(reader.string()?),
            id::RESPONSE_TOPIC => {
                let topic = reader.string()?;
                super::topic::validate_topic_name(topic)?;
                Property::ResponseTopic(topic)
            }
            id::CORRELATION_DATA => Property::CorrelationData(reader.binary()?),
            id::SUBSCRIPTION_IDENTIFIER => Property::SubscriptionId(non_zero(id, reader.varint()?)?),
            id::SESSION_EXPIRY_INTERVAL => Property::SessionExpiry(reader.u32()?),
            id::AUTHENTICATION_METHOD => Property::AuthenticationMethod(reader.string()?),
            id::AUTHENTICATION_DATA => Property::AuthenticationData(reader.binary()?),
            id::REQUEST_PROBLEM_INFORMATION => Property::RequestProblemInformation(flag(reader.u8()?)?),
            id::WILL_DELAY_INTERVAL => Property::WillDelay(reader.u32()?),
            id::REQUEST_RESPONSE_INFORMATION => Property::RequestResponseInformation(flag(reader.u8()?)?),
            id::REASON_STRING => {
                reader.string()?;
                Property::ReasonString
            }
            id::RECEIVE_MAXIMUM => Property::ReceiveMaximum(non_zero(id, reader.u16()?)?),
            id::TOPIC_ALIAS_MAXIMUM => Property::TopicAliasMaximum(reader.u16()?),
            id::TOPIC_ALIAS => match reader.u16()? {
                0 => return Err(DecodeError::TopicAliasZero),
                alias => Property::TopicAlias(alias),
            },
            id::USER_PROPERTY => Property::User(reader.string()?, reader.string()?),
            id::MAXIMUM_PACKET_SIZE => Property::MaximumPacketSize(non_zero(id, reader.u32()?)?),
            _ => return Err(DecodeError::PropertyNotAllowed(id)),
        })
    }
}

fn non_zero<T: Default + PartialEq>(id: u8, value: T) -> Result<T, DecodeError> {
    if value == T::default() { Err(DecodeError::PropertyValue(id)) } else { Ok(value) }
}

/// Goes through the properties of one packet.
#[derive(Clone)]
pub(super) struct PropertyReader<'a> {
    reader: Reader<'a>,
    allowed: Allowed,
    seen: u64,
}

impl<'a> PropertyReader<'a> {
    /// `raw` without its length.
    pub fn new(raw: &'a [u8], allowed: Allowed) -> PropertyReader<'a> {
        PropertyReader { reader: Reader::new(raw), allowed, seen: 0 }
    }

    /// The next one; `None` at the end.
    pub fn read(&mut self) -> Result<Option<Property<'a>>, DecodeError> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        let id = self.reader.u8()?;
        let bit = 1_u64.checked_shl(u32::from(id)).unwrap_or(0);
        if self.allowed.0 & bit == 0 {
            return Err(DecodeError::PropertyNotAllowed(id));
        }
        if self.seen & bit != 0 && id != id::USER_PROPERTY {
            return Err(DecodeError::PropertyTwice(id));
        }
        self.seen |= bit;
        Property::read(id, &mut self.reader).map(Some)
    }

    /// Validates what is left, for packets of which no property is used.
    pub fn skip_all(mut self) -> Result<(), DecodeError> {
        while self.read()?.is_some() {}
        Ok(())
    }
}

/// The properties of a PUBLISH or a will; empty before 5.0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublishProperties<'a> {
    /// As sent, validated, without their length.
    raw: &'a [u8],
    /// Whether `raw` holds what is not forwarded as it is.
    strip: bool,
    /// 1: the payload is UTF-8, says the sender.
    pub payload_format_indicator: Option<u8>,
    /// Lifetime in seconds.
    pub message_expiry_s: Option<u32>,
    /// Not 0; whether it is in range the connection knows.
    pub topic_alias: Option<u16>,
    /// What the payload is.
    pub content_type: Option<&'a str>,
    /// Where to answer; a valid topic name.
    pub response_topic: Option<&'a str>,
    /// For the requester to recognise the answer by.
    pub correlation_data: Option<&'a [u8]>,
}

impl<'a> PublishProperties<'a> {
    /// Reads the properties of a client's PUBLISH, or what [`forwardable`](Self::forwardable) made of them.
    pub fn parse(raw: &'a [u8]) -> Result<PublishProperties<'a>, DecodeError> {
        Self::read(raw, Allowed::PUBLISH).map(|(properties, _)| properties)
    }

    /// With `Allowed::WILL` also the will delay in seconds, else 0.
    pub(super) fn read(raw: &'a [u8], allowed: Allowed) -> Result<(PublishProperties<'a>, u32), DecodeError> {
        let mut properties = PublishProperties { raw, ..PublishProperties::default() };
        let mut will_delay_s = 0;
        let mut reader = PropertyReader::new(raw, allowed);
        while let Some(property) = reader.read()? {
            properties.strip |= is_stripped(&property);
            match property {
                Property::PayloadFormatIndicator(value) => {
                    properties.payload_format_indicator = Some(value);
                }
                Property::MessageExpiry(value) => properties.message_expiry_s = Some(value),
                Property::TopicAlias(value) => properties.topic_alias = Some(value),
                Property::ContentType(value) => properties.content_type = Some(value),
                Property::ResponseTopic(value) => properties.response_topic = Some(value),
                Property::CorrelationData(value) => properties.correlation_data = Some(value),
                Property::WillDelay(value) => will_delay_s = value,
                Property::SubscriptionId(_) => return Err(DecodeError::SubscriptionIdFromClient),
                // User properties are read from `raw`; `allowed` lets nothing else pass.
                _ => {}
            }
        }
        Ok((properties, will_delay_s))
    }

    /// In the order they were sent, duplicates kept.
    pub fn user_properties(&self) -> UserProperties<'a> {
        UserProperties { reader: self.reader() }
    }

    /// The encoded properties to send to subscribers: all but topic alias, message expiry (which the server
    /// counts down) and will delay. Borrowed unless something is cut out of the middle.
    pub fn forwardable(&self) -> Cow<'a, [u8]> {
        if !self.strip {
            return Cow::Borrowed(self.raw);
        }
        let mut kept = Cow::Borrowed(&self.raw[..0]);
        let mut kept_from = 0;
        let mut reader = self.reader();
        loop {
            let start = self.raw.len() - reader.reader.rest().len();
            // `raw` is valid, so an error cannot be; it would end the loop.
            let Ok(Some(property)) = reader.read() else {
                return kept;
            };
            let end = self.raw.len() - reader.reader.rest().len();
            if is_stripped(&property) {
                continue;
            }
            if kept.is_empty() {
                kept_from = start;
            }
            match &mut kept {
                Cow::Borrowed(run) if kept_from + run.len() == start => {
                    *run = &self.raw[kept_from..end];
                }
                _ => kept.to_mut().extend_from_slice(&self.raw[start..end]),
            }
        }
    }

    fn reader(&self) -> PropertyReader<'a> {
        PropertyReader::new(self.raw, Allowed(Allowed::PUBLISH.0 | Allowed::WILL.0))
    }
}

fn is_stripped(property: &Property<'_>) -> bool {
    matches!(property, Property::MessageExpiry(_) | Property::TopicAlias(_) | Property::WillDelay(_))
}

/// Names and values, from [`PublishProperties::user_properties`].
#[derive(Clone)]
pub struct UserProperties<'a> {
    reader: PropertyReader<'a>,
}

impl<'a> Iterator for UserProperties<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<(&'a str, &'a str)> {
        // Validated before: no error left to report.
        while let Ok(Some(property)) = self.reader.read() {
            if let Property::User(name, value) = property {
                return Some((name, value));
            }
        }
        None
    }
}

pub(super) fn put_byte_property(out: &mut Vec<u8>, id: u8, value: u8) {
    out.extend_from_slice(&[id, value]);
}

pub(super) fn put_u16_property(out: &mut Vec<u8>, id: u8, value: u16) {
    out.push(id);
    put_u16(out, value);
}

pub(super) fn put_u32_property(out: &mut Vec<u8>, id: u8, value: u32) {
    out.push(id);
    put_u32(out, value);
}

pub(super) fn put_string_property(out: &mut Vec<u8>, id: u8, value: &str) {
    out.push(id);
    put_binary(out, value.as_bytes());
}

/// Writes properties that a PUBLISH forwards, one at a time. Values are at most 65,535 bytes.
pub mod put_property {
    use super::{id, put_binary, put_byte_property};

    /// 1: the payload is UTF-8.
    pub fn payload_format(out: &mut Vec<u8>, value: u8) {
        put_byte_property(out, id::PAYLOAD_FORMAT_INDICATOR, value);
    }

    /// UTF-8.
    pub fn content_type(out: &mut Vec<u8>, value: &[u8]) {
        out.push(id::CONTENT_TYPE);
        put_binary(out, value);
    }

    /// A topic name.
    pub fn response_topic(out: &mut Vec<u8>, value: &[u8]) {
        out.push(id::RESPONSE_TOPIC);
        put_binary(out, value);
    }

    /// Any bytes.
    pub fn correlation_data(out: &mut Vec<u8>, value: &[u8]) {
        out.push(id::CORRELATION_DATA);
        put_binary(out, value);
    }

    /// UTF-8, both.
    pub fn user(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
        out.push(id::USER_PROPERTY);
        put_binary(out, name);
        put_binary(out, value);
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::{Allowed, DecodeError, PropertyReader, PublishProperties};

    const USER_AB: &[u8] = b"\x26\x00\x01a\x00\x01b";
    const ALIAS_5: &[u8] = b"\x23\x00\x05";
    const EXPIRY_9: &[u8] = b"\x02\x00\x00\x00\x09";

    #[test]
    fn every_field_of_a_publish() {
        let raw = [
            b"\x01\x01".as_slice(),
            EXPIRY_9,
            ALIAS_5,
            b"\x03\x00\x01c",
            USER_AB,
            b"\x08\x00\x03r/t",
            b"\x09\x00\x02\x00\xFF",
            USER_AB,
        ]
        .concat();
        let properties = PublishProperties::parse(&raw).unwrap();
        assert_eq!(properties.payload_format_indicator, Some(1));
        assert_eq!(properties.message_expiry_s, Some(9));
        assert_eq!(properties.topic_alias, Some(5));
        assert_eq!(properties.content_type, Some("c"));
        assert_eq!(properties.response_topic, Some("r/t"));
        assert_eq!(properties.correlation_data, Some(&[0, 0xFF][..]));
        assert!(properties.user_properties().eq([("a", "b"), ("a", "b")]));
    }

    #[test]
    fn what_is_refused() {
        let parse = |raw: &[u8]| PublishProperties::parse(raw).map(|_| ());
        assert_eq!(parse(b"\x01\x02"), Err(DecodeError::PropertyValue(1)));
        assert_eq!(parse(b"\x23\x00\x00"), Err(DecodeError::TopicAliasZero));
        assert_eq!(parse(b"\x0B\x01"), Err(DecodeError::SubscriptionIdFromClient));
        assert_eq!(parse(b"\x08\x00\x01#"), Err(DecodeError::TopicName));
        assert_eq!(parse(b"\x08\x00\x00"), Err(DecodeError::TopicName));
        assert_eq!(parse(b"\x18\x00\x00\x00\x00"), Err(DecodeError::PropertyNotAllowed(0x18)));
        assert_eq!(parse(b"\x7F"), Err(DecodeError::PropertyNotAllowed(0x7F)));
        assert_eq!(parse(b"\x00"), Err(DecodeError::PropertyNotAllowed(0)));
        assert_eq!(parse(b"\x02\x00\x00\x00"), Err(DecodeError::Truncated));
        let twice = [ALIAS_5, USER_AB, ALIAS_5].concat();
        assert_eq!(parse(&twice), Err(DecodeError::PropertyTwice(0x23)));
    }

    /// Table 2-4 of the standard, the columns a client sends (server-only properties left out of DISCONNECT).
    #[test]
    fn each_packet_takes_its_properties_and_no_other() {
        let samples: [(u8, &[u8]); 27] = [
            (0x01, &[0]),
            (0x02, &[0, 0, 0, 1]),
            (0x03, &[0, 0]),
            (0x08, &[0, 1, b'a']),
            (0x09, &[0, 0]),
            (0x0B, &[1]),
            (0x11, &[0, 0, 0, 1]),
            (0x12, &[0, 0]),
            (0x13, &[0, 0]),
            (0x15, &[0, 0]),
            (0x16, &[0, 0]),
            (0x17, &[0]),
            (0x18, &[0, 0, 0, 1]),
            (0x19, &[0]),
            (0x1A, &[0, 0]),
            (0x1C, &[0, 0]),
            (0x1F, &[0, 0]),
            (0x21, &[0, 1]),
            (0x22, &[0, 0]),
            (0x23, &[0, 1]),
            (0x24, &[0]),
            (0x25, &[0]),
            (0x26, &[0, 0, 0, 0]),
            (0x27, &[0, 0, 0, 1]),
            (0x28, &[0]),
            (0x29, &[0]),
            (0x2A, &[0]),
        ];
        let table: [(Allowed, &[u8]); 8] = [
            (Allowed::CONNECT, &[0x11, 0x15, 0x16, 0x17, 0x19, 0x21, 0x22, 0x26, 0x27]),
            (Allowed::WILL, &[0x01, 0x02, 0x03, 0x08, 0x09, 0x18, 0x26]),
            (Allowed::PUBLISH, &[0x01, 0x02, 0x03, 0x08, 0x09, 0x0B, 0x23, 0x26]),
            (Allowed::ACK, &[0x1F, 0x26]),
            (Allowed::SUBSCRIBE, &[0x0B, 0x26]),
            (Allowed::UNSUBSCRIBE, &[0x26]),
            (Allowed::DISCONNECT, &[0x11, 0x1F, 0x26]),
            (Allowed::AUTH, &[0x15, 0x16, 0x1F, 0x26]),
        ];
        for (allowed, ids) in table {
            for (id, value) in samples {
                let once = [&[id], value].concat();
                let result = PropertyReader::new(&once, allowed).skip_all();
                if ids.contains(&id) {
                    assert_eq!(result, Ok(()), "{id:#04x} in {ids:02x?}");
                    let twice = PropertyReader::new(&once.repeat(2), allowed).skip_all();
                    assert_eq!(twice.is_ok(), id == 0x26, "{id:#04x} twice");
                } else {
                    assert_eq!(result, Err(DecodeError::PropertyNotAllowed(id)));
                }
            }
        }
    }

    #[test]
    fn values_the_standard_does_not_allow() {
        let cases: [(u8, &[u8]); 6] =
            [(0x17, &[2]), (0x19, &[2]), (0x21, &[0, 0]), (0x27, &[0, 0, 0, 0]), (0x01, &[2]), (0x0B, &[0])];
        for (id, value) in cases {
            let raw = [&[id], value].concat();
            let everywhere = PropertyReader::new(&raw, Allowed(u64::MAX)).skip_all();
            assert_eq!(everywhere, Err(DecodeError::PropertyValue(id)));
        }
    }

    #[test]
    fn forwarding_borrows_where_it_can() {
        let forward = |parts: &[&[u8]]| {
            let raw = parts.concat();
            let forwarded = PublishProperties::parse(&raw).unwrap().forwardable();
            (matches!(forwarded, Cow::Borrowed(_)), forwarded.into_owned())
        };
        let content = b"\x03\x00\x01c".as_slice();
        let both = [content, USER_AB].concat();
        assert_eq!(forward(&[]), (true, vec![]));
        assert_eq!(forward(&[content, USER_AB]), (true, both.clone()));
        assert_eq!(forward(&[ALIAS_5]), (true, vec![]));
        assert_eq!(forward(&[ALIAS_5, content, USER_AB, EXPIRY_9]), (true, both.clone()));
        assert_eq!(forward(&[content, EXPIRY_9, USER_AB]), (false, both.clone()));
        assert_eq!(forward(&[content, EXPIRY_9, USER_AB, USER_AB]).1, [both, USER_AB.into()].concat());
    }
}
