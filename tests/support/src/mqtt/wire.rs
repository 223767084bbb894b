//! Bytes: what a client writes and what a server may answer. Strict where a server must be
//! exact (flags, lengths, left-over bytes), so that a wrong byte fails a test.

use super::packet::{Ack, AckKind, ConnAck, Connect, Packet, Prop, Publish, Version};

/// What the server sent is no packet of this protocol version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed(pub String);

type Parsed<T> = Result<T, Malformed>;

fn malformed<T>(what: impl Into<String>) -> Parsed<T> {
    Err(Malformed(what.into()))
}

// ---- writing ----

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).expect("a script's strings are short");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}

fn put_varint(out: &mut Vec<u8>, mut value: usize) {
    loop {
        let seven_bits = (value % 128) as u8;
        value /= 128;
        if value == 0 {
            return out.push(seven_bits);
        }
        out.push(seven_bits | 0x80);
    }
}

fn put_prop(out: &mut Vec<u8>, prop: &Prop) {
    let mut byte = |id: u8, value: u8| out.extend_from_slice(&[id, value]);
    match prop {
        Prop::PayloadFormat(value) => byte(1, *value),
        Prop::RequestProblemInfo(value) => byte(23, *value),
        Prop::RequestResponseInfo(value) => byte(25, *value),
        Prop::MaximumQos(value) => byte(36, *value),
        Prop::RetainAvailable(value) => byte(37, *value),
        Prop::WildcardsAvailable(value) => byte(40, *value),
        Prop::SubscriptionIdsAvailable(value) => byte(41, *value),
        Prop::SharedAvailable(value) => byte(42, *value),
        other => put_longer_prop(out, other),
    }
}

fn put_longer_prop(out: &mut Vec<u8>, prop: &Prop) {
    let mut field = |id: u8, value: &[u8]| {
        out.push(id);
        out.extend_from_slice(value);
    };
    match prop {
        Prop::ServerKeepAliveS(value) => field(19, &value.to_be_bytes()),
        Prop::ReceiveMaximum(value) => field(33, &value.to_be_bytes()),
        Prop::TopicAliasMaximum(value) => field(34, &value.to_be_bytes()),
        Prop::TopicAlias(value) => field(35, &value.to_be_bytes()),
        Prop::MessageExpiryS(value) => field(2, &value.to_be_bytes()),
        Prop::SessionExpiryS(value) => field(17, &value.to_be_bytes()),
        Prop::WillDelayS(value) => field(24, &value.to_be_bytes()),
        Prop::MaximumPacketBytes(value) => field(39, &value.to_be_bytes()),
        Prop::SubscriptionId(value) => {
            out.push(11);
            put_varint(out, *value as usize);
        }
        other => put_string_prop(out, other),
    }
}

fn put_string_prop(out: &mut Vec<u8>, prop: &Prop) {
    let mut string = |id: u8, value: &[u8]| {
        out.push(id);
        put_bytes(out, value);
    };
    match prop {
        Prop::ContentType(value) => string(3, value.as_bytes()),
        Prop::ResponseTopic(value) => string(8, value.as_bytes()),
        Prop::CorrelationData(value) => string(9, value),
        Prop::AssignedClientId(value) => string(18, value.as_bytes()),
        Prop::AuthMethod(value) => string(21, value.as_bytes()),
        Prop::AuthData(value) => string(22, value),
        Prop::ResponseInfo(value) => string(26, value.as_bytes()),
        Prop::ServerReference(value) => string(28, value.as_bytes()),
        Prop::ReasonString(value) => string(31, value.as_bytes()),
        Prop::UserProperty(name, value) => {
            string(38, name.as_bytes());
            put_bytes(out, value.as_bytes());
        }
        other => unreachable!("{other:?} is no string"),
    }
}

fn put_props(out: &mut Vec<u8>, version: Version, props: &[Prop]) {
    if version == Version::V311 {
        assert!(props.is_empty(), "3.1.1 has no properties: {props:?}");
        return;
    }
    let mut bytes = Vec::new();
    props.iter().for_each(|prop| put_prop(&mut bytes, prop));
    put_varint(out, bytes.len());
    out.extend_from_slice(&bytes);
}

fn packet(first_byte: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first_byte];
    put_varint(&mut out, body.len());
    out.extend_from_slice(body);
    out
}

pub(super) fn connect(connect: &Connect) -> Vec<u8> {
    let mut flags = u8::from(connect.clean) << 1;
    if let Some(will) = &connect.will {
        flags |= 0x04 | will.message.qos << 3 | u8::from(will.message.retain) << 5;
    }
    flags |= u8::from(connect.user.is_some()) << 7 | u8::from(connect.password.is_some()) << 6;
    let mut body = Vec::new();
    put_bytes(&mut body, b"MQTT");
    body.push(if connect.version == Version::V311 { 4 } else { 5 });
    body.push(flags);
    body.extend_from_slice(&connect.keep_alive_s.to_be_bytes());
    put_props(&mut body, connect.version, &connect.props);
    put_bytes(&mut body, connect.client_id.as_bytes());
    if let Some(will) = &connect.will {
        put_props(&mut body, connect.version, &will.message.props);
        put_bytes(&mut body, will.message.topic.as_bytes());
        put_bytes(&mut body, &will.message.payload);
    }
    for given in [connect.user.as_deref().map(str::as_bytes), connect.password.as_deref()].into_iter().flatten() {
        put_bytes(&mut body, given);
    }
    packet(0x10, &body)
}

pub(super) fn publish(version: Version, publish: &Publish) -> Vec<u8> {
    let mut body = Vec::new();
    put_bytes(&mut body, publish.topic.as_bytes());
    if publish.qos > 0 {
        body.extend_from_slice(&publish.id.to_be_bytes());
    }
    put_props(&mut body, version, &publish.props);
    body.extend_from_slice(&publish.payload);
    let flags = u8::from(publish.dup) << 3 | publish.qos << 1 | u8::from(publish.retain);
    packet(0x30 | flags, &body)
}

pub(super) fn ack(kind: AckKind, id: u16) -> Vec<u8> {
    let first_byte = match kind {
        AckKind::PubAck => 0x40,
        AckKind::PubRec => 0x50,
        AckKind::PubRel => 0x62,
        AckKind::PubComp => 0x70,
    };
    packet(first_byte, &id.to_be_bytes())
}

/// A SUBSCRIBE packet, for scripts that cut and join packets themselves.
pub fn subscribe(version: Version, id: u16, filters: &[(&str, u8)], props: &[Prop]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    put_props(&mut body, version, props);
    for (filter, options) in filters {
        put_bytes(&mut body, filter.as_bytes());
        body.push(*options);
    }
    packet(0x82, &body)
}

/// UNSUBSCRIBE with one filter.
pub fn unsubscribe(version: Version, id: u16, filter: &str) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    put_props(&mut body, version, &[]);
    put_bytes(&mut body, filter.as_bytes());
    packet(0xA2, &body)
}

pub(super) fn disconnect(version: Version, reason: u8, props: &[Prop]) -> Vec<u8> {
    if version == Version::V311 || (reason == 0 && props.is_empty()) {
        return packet(0xE0, &[]);
    }
    let mut body = vec![reason];
    put_props(&mut body, version, props);
    packet(0xE0, &body)
}

// ---- reading ----

struct Reader<'a> {
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Parsed<&'a [u8]> {
        match self.left.split_at_checked(count) {
            Some((taken, left)) => {
                self.left = left;
                Ok(taken)
            }
            None => malformed(format!("{count} bytes wanted of {:?}", self.left)),
        }
    }

    fn array<const N: usize>(&mut self) -> Parsed<[u8; N]> {
        let taken = self.take(N)?;
        taken.try_into().or_else(|_| malformed("a short field"))
    }

    fn u8(&mut self) -> Parsed<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Parsed<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Parsed<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn varint(&mut self) -> Parsed<usize> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.u8()?;
            value |= usize::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        malformed("a variable byte integer of five bytes")
    }

    fn bytes(&mut self) -> Parsed<Vec<u8>> {
        let length = self.u16()?;
        Ok(self.take(usize::from(length))?.to_vec())
    }

    fn string(&mut self) -> Parsed<String> {
        String::from_utf8(self.bytes()?).or_else(|error| malformed(error.to_string()))
    }

    fn id(&mut self) -> Parsed<u16> {
        match self.u16()? {
            0 => malformed("packet id 0"),
            id => Ok(id),
        }
    }

    fn props(&mut self, version: Version) -> Parsed<Vec<Prop>> {
        let mut props = Vec::new();
        if version == Version::V311 {
            return Ok(props);
        }
        let length = self.varint()?;
        let mut inner = Reader { left: self.take(length)? };
        while !inner.left.is_empty() {
            props.push(inner.prop()?);
        }
        Ok(props)
    }

    fn prop(&mut self) -> Parsed<Prop> {
        Ok(match self.u8()? {
            1 => Prop::PayloadFormat(self.u8()?),
            2 => Prop::MessageExpiryS(self.u32()?),
            3 => Prop::ContentType(self.string()?),
            8 => Prop::ResponseTopic(self.string()?),
            9 => Prop::CorrelationData(self.bytes()?),
            11 => Prop::SubscriptionId(self.varint()? as u32),
            17 => Prop::SessionExpiryS(self.u32()?),
            18 => Prop::AssignedClientId(self.string()?),
            19 => Prop::ServerKeepAliveS(self.u16()?),
            21 => Prop::AuthMethod(self.string()?),
            22 => Prop::AuthData(self.bytes()?),
            23 => Prop::RequestProblemInfo(self.u8()?),
            24 => Prop::WillDelayS(self.u32()?),
            25 => Prop::RequestResponseInfo(self.u8()?),
            26 => Prop::ResponseInfo(self.string()?),
            28 => Prop::ServerReference(self.string()?),
            31 => Prop::ReasonString(self.string()?),
            33 => Prop::ReceiveMaximum(self.u16()?),
            34 => Prop::TopicAliasMaximum(self.u16()?),
            35 => Prop::TopicAlias(self.u16()?),
            36 => Prop::MaximumQos(self.u8()?),
            37 => Prop::RetainAvailable(self.u8()?),
            38 => Prop::UserProperty(self.string()?, self.string()?),
            39 => Prop::MaximumPacketBytes(self.u32()?),
            40 => Prop::WildcardsAvailable(self.u8()?),
            41 => Prop::SubscriptionIdsAvailable(self.u8()?),
            42 => Prop::SharedAvailable(self.u8()?),
            unknown => return malformed(format!("property {unknown}")),
        })
    }

    fn rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.left).to_vec()
    }
}

/// Takes the first whole packet out of `inbound`; `None` while it is cut.
pub fn take_packet(version: Version, inbound: &mut Vec<u8>) -> Parsed<Option<Packet>> {
    let mut head = Reader { left: inbound };
    let (Ok(first_byte), length) = (head.u8(), head.varint()) else {
        return Ok(None);
    };
    let length = match length {
        Ok(length) => length,
        Err(_) if inbound.len() < 5 => return Ok(None),
        Err(error) => return Err(error),
    };
    let Ok(body) = head.take(length) else {
        return Ok(None);
    };
    let mut body = Reader { left: body };
    let packet = parse(version, first_byte, &mut body)?;
    if !body.left.is_empty() {
        return malformed(format!("{:?} behind {packet:?}", body.left));
    }
    let used = inbound.len() - head.left.len();
    inbound.drain(..used);
    Ok(Some(packet))
}

/// How long the packet at the front is, once all of it is there.
pub(super) fn packet_length(inbound: &[u8]) -> Option<usize> {
    let mut head = Reader { left: inbound };
    head.u8().ok()?;
    let length = head.varint().ok()?;
    head.take(length).ok()?;
    Some(inbound.len() - head.left.len())
}

fn parse(version: Version, first_byte: u8, body: &mut Reader) -> Parsed<Packet> {
    match first_byte {
        0x20 => parse_connack(version, body),
        0x30..=0x3F => parse_publish(version, first_byte, body),
        0x40 => parse_ack(version, AckKind::PubAck, body),
        0x50 => parse_ack(version, AckKind::PubRec, body),
        0x62 => parse_ack(version, AckKind::PubRel, body),
        0x70 => parse_ack(version, AckKind::PubComp, body),
        0x90 => {
            let id = body.id()?;
            body.props(version)?;
            let codes = body.rest();
            Ok(Packet::SubAck { id, codes })
        }
        0xB0 => {
            let id = body.id()?;
            body.props(version)?;
            let codes = body.rest();
            Ok(Packet::UnsubAck { id, codes })
        }
        0xD0 => Ok(Packet::PingResp),
        0xE0 if version == Version::V5 => parse_disconnect(body),
        other => malformed(format!("a server does not send {other:#04x}")),
    }
}

fn parse_connack(version: Version, body: &mut Reader) -> Parsed<Packet> {
    let flags = body.u8()?;
    let code = body.u8()?;
    if flags > 1 {
        return malformed(format!("CONNACK flags {flags:#04x}"));
    }
    // A server that refuses a client's version answers in the form of 3.1.1.
    let props = if body.left.is_empty() && code != 0 { Vec::new() } else { body.props(version)? };
    Ok(Packet::ConnAck(ConnAck { session_present: flags == 1, code, props }))
}

fn parse_publish(version: Version, first_byte: u8, body: &mut Reader) -> Parsed<Packet> {
    let qos = first_byte >> 1 & 3;
    let dup = first_byte & 0x08 != 0;
    if qos == 3 || (qos == 0 && dup) {
        return malformed(format!("PUBLISH flags {first_byte:#04x}"));
    }
    Ok(Packet::Publish(Publish {
        dup,
        qos,
        retain: first_byte & 1 != 0,
        topic: body.string()?,
        id: if qos == 0 { 0 } else { body.id()? },
        props: body.props(version)?,
        payload: body.rest(),
    }))
}

fn parse_ack(version: Version, kind: AckKind, body: &mut Reader) -> Parsed<Packet> {
    let id = body.id()?;
    let mut reason = 0;
    if version == Version::V5 && !body.left.is_empty() {
        reason = body.u8()?;
        if !body.left.is_empty() {
            body.props(version)?;
        }
    }
    Ok(Packet::Ack(Ack { kind, id, reason }))
}

fn parse_disconnect(body: &mut Reader) -> Parsed<Packet> {
    let mut reason = 0;
    let mut props = Vec::new();
    if !body.left.is_empty() {
        reason = body.u8()?;
        if !body.left.is_empty() {
            props = body.props(Version::V5)?;
        }
    }
    Ok(Packet::Disconnect { reason, props })
}

#[cfg(test)]
mod tests {
    use super::{ack, connect, disconnect, publish, put_varint, subscribe, take_packet};
    use crate::mqtt::{Ack, AckKind, ConnAck, Connect, Packet, Prop, Publish, Version};

    #[test]
    fn connect_is_what_the_standard_prints() {
        let bytes = connect(&Connect::v311("ab").keep_alive_s(10));
        assert_eq!(bytes, b"\x10\x0E\0\x04MQTT\x04\x02\0\x0A\0\x02ab");
        let bytes = connect(&Connect::v5("").with(Prop::SessionExpiryS(10)));
        assert_eq!(bytes, b"\x10\x12\0\x04MQTT\x05\x02\0\x3C\x05\x11\0\0\0\x0A\0\0");
        let will = Publish::new("w", "x").qos(1).retain();
        let bytes = connect(&Connect::v311("a").keep_alive_s(0).will(will));
        assert_eq!(bytes, b"\x10\x13\0\x04MQTT\x04\x2E\0\0\0\x01a\0\x01w\0\x01x");
        let bytes = connect(&Connect::v311("a").keep_alive_s(0).user("u").password("p"));
        assert_eq!(bytes, b"\x10\x13\0\x04MQTT\x04\xC2\0\0\0\x01a\0\x01u\0\x01p");
    }

    #[test]
    fn a_publish_comes_back_as_it_went() {
        let sent = Publish::new("a/b", "21.5")
            .qos(2)
            .id(10)
            .retain()
            .dup()
            .with(Prop::user("k", "v"))
            .with(Prop::user("k", "w"))
            .with(Prop::SubscriptionId(300))
            .with(Prop::TopicAlias(1));
        let mut bytes = publish(Version::V5, &sent);
        let mut cut = bytes[..bytes.len() - 1].to_vec();
        assert_eq!(take_packet(Version::V5, &mut cut), Ok(None));
        let back = take_packet(Version::V5, &mut bytes);
        assert_eq!(back, Ok(Some(Packet::Publish(sent))));
        assert!(bytes.is_empty());
    }

    #[test]
    fn acknowledgements_in_both_forms() {
        let reason = |version, bytes: &[u8]| take_packet(version, &mut bytes.to_vec());
        let ack_of = |kind, id, reason| Ok(Some(Packet::Ack(Ack { kind, id, reason })));
        assert_eq!(reason(Version::V5, b"\x70\x03\0\x05\x92"), ack_of(AckKind::PubComp, 5, 0x92));
        assert_eq!(reason(Version::V311, &ack(AckKind::PubRel, 5)), ack_of(AckKind::PubRel, 5, 0));
        assert!(reason(Version::V311, b"\x40\x03\0\x05\0").is_err());
        assert!(reason(Version::V5, b"\x60\x02\0\x05").is_err());
        assert!(reason(Version::V5, b"\x40\x02\0\0").is_err());
    }

    #[test]
    fn connack_of_both_versions() {
        let connack =
            |session_present, code, props| Ok(Some(Packet::ConnAck(ConnAck { session_present, code, props })));
        assert_eq!(take_packet(Version::V311, &mut b"\x20\x02\x01\0".to_vec()), connack(true, 0, vec![]));
        assert_eq!(
            take_packet(Version::V5, &mut b"\x20\x06\0\0\x03\x21\0\x0A".to_vec()),
            connack(false, 0, vec![Prop::ReceiveMaximum(10)])
        );
        assert!(take_packet(Version::V5, &mut b"\x20\x02\0\0".to_vec()).is_err());
    }

    #[test]
    fn the_rest_of_what_a_script_writes() {
        let bytes = subscribe(Version::V311, 10, &[("a/b", 1), ("c/d", 2)], &[]);
        assert_eq!(bytes, b"\x82\x0E\0\x0A\0\x03a/b\x01\0\x03c/d\x02");
        assert_eq!(disconnect(Version::V5, 0, &[]), b"\xE0\0");
        assert_eq!(disconnect(Version::V5, 4, &[]), b"\xE0\x02\x04\0");
        let mut out = Vec::new();
        put_varint(&mut out, 268_435_455);
        assert_eq!(out, b"\xFF\xFF\xFF\x7F");
    }
}
