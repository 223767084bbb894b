//! The client's side, for tests only: encodes what clients send, decodes what a server sends. Written
//! apart from the product's code wherever sharing it would hide a mistake; panics on what it does not expect.

use super::{Auth, ConnAck, Connect, Disconnect, QoS, ReasonCode, Subscription, Version, Will};

/// What a property can hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Number(u32),
    Bytes(Vec<u8>),
    Pair(Vec<u8>, Vec<u8>),
}

pub fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 128 {
        bytes.push((value % 128) as u8 | 128);
        value /= 128;
    }
    bytes.push(value as u8);
    bytes
}

pub fn binary(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap();
    [&length.to_be_bytes(), bytes].concat()
}

pub fn packet(first_byte: u8, body: &[u8]) -> Vec<u8> {
    [&[first_byte], &varint(body.len())[..], body].concat()
}

fn with_length(bytes: &[u8]) -> Vec<u8> {
    [&varint(bytes.len())[..], bytes].concat()
}

/// `will_raw` is the will's properties, delay included.
pub fn encode_connect(connect: &Connect<'_>, will_raw: &[u8]) -> Vec<u8> {
    let mut body = match connect.version {
        Version::V3_1 => b"\x00\x06MQIsdp\x03".to_vec(),
        Version::V3_1_1 => b"\x00\x04MQTT\x04".to_vec(),
        Version::V5 => b"\x00\x04MQTT\x05".to_vec(),
    };
    let will_flags = |will: &Will<'_>| 4 | (will.qos as u8) << 3 | u8::from(will.retain) << 5;
    body.push(
        u8::from(connect.clean_start) << 1
            | connect.will.as_ref().map_or(0, will_flags)
            | u8::from(connect.password.is_some()) << 6
            | u8::from(connect.username.is_some()) << 7,
    );
    body.extend(connect.keep_alive_s.to_be_bytes());
    if connect.version == Version::V5 {
        body.extend(with_length(&connect_properties(connect)));
    }
    body.extend(binary(connect.client_id.as_bytes()));
    if let Some(will) = &connect.will {
        if connect.version == Version::V5 {
            body.extend(with_length(will_raw));
        }
        body.extend(binary(will.topic.as_bytes()));
        body.extend(binary(will.payload));
    }
    body.extend(connect.username.map(|name| binary(name.as_bytes())).unwrap_or_default());
    body.extend(connect.password.map(binary).unwrap_or_default());
    packet(0x10, &body)
}

fn connect_properties(connect: &Connect<'_>) -> Vec<u8> {
    let mut raw = Vec::new();
    raw.push(0x11);
    raw.extend(connect.session_expiry_s.to_be_bytes());
    raw.push(0x21);
    raw.extend(connect.receive_maximum.to_be_bytes());
    if let Some(bytes) = connect.maximum_packet_size {
        raw.push(0x27);
        raw.extend(bytes.to_be_bytes());
    }
    raw.push(0x22);
    raw.extend(connect.topic_alias_maximum.to_be_bytes());
    raw.extend([0x19, connect.request_response_information.into()]);
    raw.extend([0x17, connect.request_problem_information.into()]);
    if let Some(method) = connect.authentication_method {
        raw.push(0x15);
        raw.extend(binary(method.as_bytes()));
    }
    if let Some(data) = connect.authentication_data {
        raw.push(0x16);
        raw.extend(binary(data));
    }
    raw
}

pub fn encode_subscribe(
    version: Version,
    packet_id: u16,
    subscription_id: Option<u32>,
    subscriptions: &[Subscription<'_>],
) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    if version == Version::V5 {
        let id = subscription_id.map(|id| [&[0x0B], &varint(id as usize)[..]].concat());
        body.extend(with_length(&id.unwrap_or_default()));
    }
    for subscription in subscriptions {
        body.extend(binary(subscription.filter.as_bytes()));
        body.push(
            subscription.qos as u8
                | u8::from(subscription.no_local) << 2
                | u8::from(subscription.retain_as_published) << 3
                | (subscription.retain_handling as u8) << 4,
        );
    }
    packet(0x82, &body)
}

pub fn encode_unsubscribe(version: Version, packet_id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    if version == Version::V5 {
        body.push(0);
    }
    body.extend(filters.iter().flat_map(|filter| binary(filter.as_bytes())));
    packet(0xA2, &body)
}

pub fn encode_disconnect(disconnect: &Disconnect) -> Vec<u8> {
    let mut raw = Vec::new();
    if let Some(seconds) = disconnect.session_expiry_s {
        raw.push(0x11);
        raw.extend(seconds.to_be_bytes());
    }
    let body = [&[disconnect.reason.as_u8()], &with_length(&raw)[..]].concat();
    packet(0xE0, &body)
}

pub fn encode_auth(auth: &Auth<'_>) -> Vec<u8> {
    let mut raw = [&[0x15], &binary(auth.authentication_method.as_bytes())[..]].concat();
    if let Some(data) = auth.authentication_data {
        raw.push(0x16);
        raw.extend(binary(data));
    }
    packet(0xF0, &[&[auth.reason.as_u8()], &with_length(&raw)[..]].concat())
}

/// Takes bytes off the front.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn number(&mut self, bytes: usize) -> u32 {
        self.take(bytes).iter().fold(0, |sum, &byte| sum * 256 + u32::from(byte))
    }

    fn varint(&mut self) -> u32 {
        let (mut sum, mut factor) = (0, 1);
        loop {
            let byte = self.number(1);
            sum += byte % 128 * factor;
            factor *= 128;
            if byte < 128 {
                return sum;
            }
        }
    }

    fn binary(&mut self) -> Vec<u8> {
        let length = self.number(2) as usize;
        self.take(length).to_vec()
    }

    fn properties(&mut self) -> Vec<(u8, Value)> {
        let length = self.varint() as usize;
        let mut input = Input(self.take(length));
        let mut found = Vec::new();
        while !input.0.is_empty() {
            let id = input.number(1) as u8;
            let value = match id {
                0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28..=0x2A => Value::Number(input.number(1)),
                0x13 | 0x21..=0x23 => Value::Number(input.number(2)),
                0x02 | 0x11 | 0x18 | 0x27 => Value::Number(input.number(4)),
                0x0B => Value::Number(input.varint()),
                0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1A | 0x1C | 0x1F => Value::Bytes(input.binary()),
                0x26 => Value::Pair(input.binary(), input.binary()),
                _ => panic!("property {id:#04x}"),
            };
            found.push((id, value));
        }
        found
    }
}

/// The body of a packet that is all of `bytes`.
fn body(first_byte: u8, bytes: &[u8]) -> Input<'_> {
    let mut input = Input(bytes);
    assert_eq!(input.number(1), u32::from(first_byte));
    let length = input.varint() as usize;
    assert_eq!(input.0.len(), length);
    input
}

fn reason(input: &mut Input<'_>) -> ReasonCode {
    ReasonCode::from_u8(input.number(1) as u8).unwrap()
}

/// A 5.0 CONNACK; its strings stay behind in `texts`.
pub fn decode_connack<'t>(bytes: &[u8], texts: &'t mut Vec<(u8, String)>) -> ConnAck<'t> {
    let mut input = body(0x20, bytes);
    let session_present = input.number(1) == 1;
    let mut connack = ConnAck { session_present, ..ConnAck::new(reason(&mut input)) };
    for (id, value) in input.properties() {
        match (id, value) {
            (0x11, Value::Number(value)) => connack.session_expiry_s = Some(value),
            (0x21, Value::Number(value)) => connack.receive_maximum = Some(value as u16),
            (0x24, Value::Number(value)) => {
                connack.maximum_qos = QoS::from_bits(value as u8).unwrap();
            }
            (0x25, Value::Number(value)) => connack.retain_available = value == 1,
            (0x27, Value::Number(value)) => connack.maximum_packet_size = Some(value),
            (0x22, Value::Number(value)) => connack.topic_alias_maximum = value as u16,
            (0x28, Value::Number(value)) => connack.wildcard_subscription_available = value == 1,
            (0x29, Value::Number(value)) => connack.subscription_ids_available = value == 1,
            (0x2A, Value::Number(value)) => connack.shared_subscription_available = value == 1,
            (0x13, Value::Number(value)) => connack.server_keep_alive_s = Some(value as u16),
            (_, Value::Bytes(text)) => texts.push((id, String::from_utf8(text).unwrap())),
            other => panic!("{other:?} in CONNACK"),
        }
    }
    assert!(input.0.is_empty());
    for (id, text) in texts.iter() {
        let field = match id {
            0x12 => &mut connack.assigned_client_id,
            0x1F => &mut connack.reason_string,
            0x1A => &mut connack.response_information,
            0x1C => &mut connack.server_reference,
            _ => panic!("property {id:#04x} in CONNACK"),
        };
        assert_eq!(field.replace(text), None);
    }
    connack
}

/// SUBACK or 5.0 UNSUBACK: packet identifier and codes.
pub fn decode_suback(first_byte: u8, version: Version, bytes: &[u8]) -> (u16, Vec<u8>) {
    let mut input = body(first_byte, bytes);
    let packet_id = input.number(2) as u16;
    if version == Version::V5 {
        assert_eq!(input.properties(), []);
    }
    (packet_id, input.0.to_vec())
}

/// A server's DISCONNECT: reason and properties.
pub fn decode_disconnect(bytes: &[u8]) -> (ReasonCode, Vec<(u8, Value)>) {
    let mut input = body(0xE0, bytes);
    let reason = reason(&mut input);
    let properties = if input.0.is_empty() { Vec::new() } else { input.properties() };
    assert!(input.0.is_empty());
    (reason, properties)
}

/// A server's 5.0 PUBLISH.
pub struct ReceivedPublish {
    pub topic: Vec<u8>,
    pub packet_id: Option<u16>,
    pub properties: Vec<(u8, Value)>,
    pub payload: Vec<u8>,
}

pub fn decode_publish(bytes: &[u8]) -> ReceivedPublish {
    let mut input = body(bytes[0], bytes);
    ReceivedPublish {
        topic: input.binary(),
        packet_id: (bytes[0] & 6 != 0).then(|| input.number(2) as u16),
        properties: input.properties(),
        payload: input.0.to_vec(),
    }
}
