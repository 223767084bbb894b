//! What a server sends, as a client reads it; and what clients send.

use crate::codec::{
    Ack, AckKind, Disconnect, OutgoingPublish, PacketType, QoS, ReasonCode, RetainHandling, Subscription, Version,
    encode_ack, frame, mirror, put_property,
};

/// A packet of the server's.
#[derive(Debug)]
pub enum Packet {
    ConnAck { present: bool, code: u8 },
    Publish(Received),
    Ack { kind: AckKind, id: u16, code: u8 },
    SubAck { id: u16, codes: Vec<u8> },
    UnsubAck(u16),
    Disconnect(u8),
}

/// A PUBLISH of the server's.
#[derive(Debug)]
pub struct Received {
    pub dup: bool,
    pub qos: QoS,
    pub retain: bool,
    pub topic: String,
    /// 0 at QoS 0.
    pub id: u16,
    pub payload: Vec<u8>,
}

/// The first whole packet, which is taken off.
pub fn next_packet(bytes: &mut Vec<u8>, version: Version) -> Result<Option<Packet>, String> {
    let Some(found) = frame(bytes, u32::MAX).map_err(|error| error.to_string())? else { return Ok(None) };
    let mut body = found.body;
    let id = |body: &mut &[u8]| {
        let (id, rest) = body.split_at(2);
        *body = rest;
        u16::from_be_bytes([id[0], id[1]])
    };
    let ack = |kind, mut body: &[u8]| {
        let id = id(&mut body);
        Packet::Ack { kind, id, code: body.first().copied().unwrap_or(0) }
    };
    let packet = match found.packet_type {
        PacketType::ConnAck => Packet::ConnAck { present: body[0] & 1 != 0, code: body[1] },
        PacketType::PubAck => ack(AckKind::PubAck, body),
        PacketType::PubRec => ack(AckKind::PubRec, body),
        PacketType::PubRel => ack(AckKind::PubRel, body),
        PacketType::PubComp => ack(AckKind::PubComp, body),
        PacketType::SubAck => {
            let id = id(&mut body);
            skip_properties(&mut body, version);
            Packet::SubAck { id, codes: body.to_vec() }
        }
        PacketType::UnsubAck => Packet::UnsubAck(id(&mut body)),
        PacketType::Disconnect => Packet::Disconnect(body.first().copied().unwrap_or(0)),
        PacketType::Publish => {
            let flags = found.first_byte;
            let qos = QoS::from_bits(flags >> 1 & 3).ok_or("QoS 3")?;
            let length = usize::from(id(&mut body));
            let (topic, rest) = body.split_at(length);
            body = rest;
            let id = if qos == QoS::AtMostOnce { 0 } else { id(&mut body) };
            skip_properties(&mut body, version);
            Packet::Publish(Received {
                dup: flags & 8 != 0,
                qos,
                retain: flags & 1 != 0,
                topic: String::from_utf8_lossy(topic).into_owned(),
                id,
                payload: body.to_vec(),
            })
        }
        other => return Err(format!("a {other:?} from the server")),
    };
    let length = found.length;
    bytes.drain(..length);
    Ok(Some(packet))
}

/// Those of a 5.0 packet; here they are short.
fn skip_properties(body: &mut &[u8], version: Version) {
    if version == Version::V5 {
        assert!(body[0] < 128, "longer properties than anything here causes");
        *body = &body[1 + usize::from(body[0])..];
    }
}

/// A PUBLISH of a client's.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    pub dup: bool,
    pub qos: QoS,
    pub retain: bool,
    pub topic: &'a str,
    pub id: u16,
    pub expiry_s: Option<u32>,
    pub payload: &'a [u8],
}

pub fn publish(version: Version, sent: Sent<'_>) -> Vec<u8> {
    let mut properties = Vec::new();
    put_property::user(&mut properties, b"who", b"sim");
    let mut out = Vec::new();
    let outgoing = OutgoingPublish {
        dup: sent.dup,
        qos: sent.qos,
        retain: sent.retain,
        topic: sent.topic,
        packet_id: sent.id,
        properties: &properties,
        message_expiry_s: sent.expiry_s,
        topic_alias: None,
        subscription_ids: &[],
        payload: sent.payload,
    };
    outgoing.encode(&mut out, version);
    out
}

pub fn acknowledgement(version: Version, kind: AckKind, packet_id: u16) -> Vec<u8> {
    let mut out = Vec::new();
    encode_ack(&mut out, version, Ack { kind, packet_id, reason: ReasonCode::Success }, None);
    out
}

pub fn subscribe(version: Version, id: u16, filter: &str, qos: QoS) -> Vec<u8> {
    let subscription = Subscription {
        filter,
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Send,
    };
    mirror::encode_subscribe(version, id, None, &[subscription])
}

pub fn unsubscribe(version: Version, id: u16, filter: &str) -> Vec<u8> {
    mirror::encode_unsubscribe(version, id, &[filter])
}

pub fn disconnect(version: Version) -> Vec<u8> {
    match version {
        Version::V5 => mirror::encode_disconnect(&Disconnect { reason: ReasonCode::Success, session_expiry_s: None }),
        _ => vec![0xE0, 0],
    }
}
