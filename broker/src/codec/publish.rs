//! PUBLISH (3.3), both ways: the packet that has to be fast.

use super::primitives::{Reader, put_binary, put_u16, put_varint, varint_length};
use super::properties::{PublishProperties, id, put_u16_property, put_u32_property};
use super::topic::name_or_empty;
use super::{DecodeError, Frame, MAX_PACKET_SIZE, QoS, Version};

const DUP: u8 = 0x08;
const RETAIN: u8 = 0x01;

/// A client's PUBLISH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// Perhaps sent before.
    pub dup: bool,
    /// As published.
    pub qos: QoS,
    /// To be retained.
    pub retain: bool,
    /// A valid topic name; empty only if there is a topic alias.
    pub topic: &'a str,
    /// 0 at QoS 0, and only there.
    pub packet_id: u16,
    /// Empty before 5.0.
    pub properties: PublishProperties<'a>,
    /// Any bytes, or none.
    pub payload: &'a [u8],
}

impl<'a> Publish<'a> {
    /// Decodes a frame of type [`Publish`](super::PacketType::Publish).
    #[inline]
    pub fn decode(frame: &Frame<'a>, version: Version) -> Result<Publish<'a>, DecodeError> {
        let flags = frame.first_byte;
        let qos = QoS::from_bits((flags >> 1) & 3).ok_or(DecodeError::QoS3)?;
        let dup = flags & DUP != 0;
        if dup && qos == QoS::AtMostOnce {
            return Err(DecodeError::DupAtQoS0);
        }
        let mut reader = Reader::new(frame.body);
        let topic = name_or_empty(reader.binary()?)?;
        let packet_id = if qos == QoS::AtMostOnce { 0 } else { reader.packet_id()? };
        let mut properties = PublishProperties::default();
        if version == Version::V5 {
            let raw = reader.properties()?;
            if !raw.is_empty() {
                properties = PublishProperties::parse(raw)?;
            }
        }
        if topic.is_empty() && properties.topic_alias.is_none() {
            return Err(DecodeError::TopicMissing);
        }
        Ok(Publish { dup, qos, retain: flags & RETAIN != 0, topic, packet_id, properties, payload: reader.rest() })
    }
}

/// A PUBLISH to a client.
///
/// In range means: `topic` at most 65,535 bytes, `packet_id` not 0 above QoS 0, `subscription_ids` from 1 to
/// 268,435,455, and [`encoded_length`](Self::encoded_length) within the client's Maximum Packet Size, which
/// is at most [`MAX_PACKET_SIZE`]. Out of range the packet is wrong (debug builds assert).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutgoingPublish<'a> {
    /// A resend.
    pub dup: bool,
    /// As delivered.
    pub qos: QoS,
    /// Sent because it was retained, or retain as published.
    pub retain: bool,
    /// Empty only with a topic alias the client knows.
    pub topic: &'a str,
    /// Ignored at QoS 0.
    pub packet_id: u16,
    /// Encoded, without their length: what [`PublishProperties::forwardable`] gives. This and the next three
    /// are ignored before 5.0.
    pub properties: &'a [u8],
    /// What is left of the lifetime.
    pub message_expiry_s: Option<u32>,
    /// Not 0.
    pub topic_alias: Option<u16>,
    /// Of the subscriptions that match.
    pub subscription_ids: &'a [u32],
    /// As published.
    pub payload: &'a [u8],
}

impl OutgoingPublish<'_> {
    /// Bytes of the whole packet; may exceed [`MAX_PACKET_SIZE`], and then must not be encoded.
    pub fn encoded_length(&self, version: Version) -> usize {
        let remaining = self.remaining_length(version, self.properties_length(version));
        1 + varint_length(remaining) + remaining
    }

    /// How far behind its first byte the value of its message expiry stands, in an encoding of `encoded_bytes`:
    /// only subscription identifiers and the payload come behind it.
    pub fn expiry_at(&self, encoded_bytes: usize, version: Version) -> Option<usize> {
        self.message_expiry_s.filter(|_| version == Version::V5 && self.topic_alias.is_none())?;
        let ids: usize = self.subscription_ids.iter().map(|id| 1 + varint_length(*id as usize)).sum();
        Some(encoded_bytes - self.payload.len() - ids - 4)
    }

    /// Appends the packet. Returns how far behind its first byte the packet identifier stands, so that a
    /// copy can be given another one; `None` at QoS 0.
    pub fn encode(&self, out: &mut Vec<u8>, version: Version) -> Option<usize> {
        let packet_id_at = self.encode_head(out, version, self.payload.len());
        out.extend_from_slice(self.payload);
        packet_id_at
    }

    /// As [`encode`](Self::encode), but without the payload, which the caller sends behind it.
    pub fn encode_without_payload(&self, out: &mut Vec<u8>, version: Version) -> Option<usize> {
        self.encode_head(out, version, 0)
    }

    /// `room` is what to reserve beyond the head.
    #[inline]
    fn encode_head(&self, out: &mut Vec<u8>, version: Version, room: usize) -> Option<usize> {
        let properties_length = self.properties_length(version);
        let remaining = self.remaining_length(version, properties_length);
        debug_assert!(remaining < MAX_PACKET_SIZE as usize, "PUBLISH of {remaining} bytes");
        out.reserve(1 + 4 + (remaining - self.payload.len()) + room);
        let start = out.len();
        let mut first_byte = 0x30 | ((self.qos as u8) << 1);
        if self.dup {
            first_byte |= DUP;
        }
        if self.retain {
            first_byte |= RETAIN;
        }
        out.push(first_byte);
        put_varint(out, remaining as u32);
        put_binary(out, self.topic.as_bytes());
        let mut packet_id_at = None;
        if self.qos != QoS::AtMostOnce {
            packet_id_at = Some(out.len() - start);
            put_u16(out, self.packet_id);
        }
        if version == Version::V5 {
            put_varint(out, properties_length as u32);
            self.put_properties(out);
        }
        packet_id_at
    }

    fn put_properties(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.properties);
        if let Some(expiry_s) = self.message_expiry_s {
            put_u32_property(out, id::MESSAGE_EXPIRY_INTERVAL, expiry_s);
        }
        if let Some(alias) = self.topic_alias {
            put_u16_property(out, id::TOPIC_ALIAS, alias);
        }
        for &subscription_id in self.subscription_ids {
            out.push(id::SUBSCRIPTION_IDENTIFIER);
            put_varint(out, subscription_id);
        }
    }

    #[inline]
    fn properties_length(&self, version: Version) -> usize {
        if version != Version::V5 {
            return 0;
        }
        let ids = self.subscription_ids.iter();
        self.properties.len()
            + if self.message_expiry_s.is_some() { 5 } else { 0 }
            + if self.topic_alias.is_some() { 3 } else { 0 }
            + ids.map(|&id| 1 + varint_length(id as usize)).sum::<usize>()
    }

    #[inline]
    fn remaining_length(&self, version: Version, properties_length: usize) -> usize {
        let packet_id = if self.qos == QoS::AtMostOnce { 0 } else { 2 };
        let properties = match version {
            Version::V5 => varint_length(properties_length) + properties_length,
            _ => 0,
        };
        2 + self.topic.len() + packet_id + properties + self.payload.len()
    }
}

#[cfg(test)]
mod tests {
    use super::{DecodeError, OutgoingPublish, Publish, QoS, Version};
    use crate::codec::tests::framed;

    fn decode(bytes: &[u8], version: Version) -> Result<Publish<'_>, DecodeError> {
        Publish::decode(&framed(bytes), version)
    }

    fn outgoing(qos: QoS) -> OutgoingPublish<'static> {
        OutgoingPublish {
            dup: false,
            qos,
            retain: false,
            topic: "a/b",
            packet_id: 10,
            properties: b"",
            message_expiry_s: None,
            topic_alias: None,
            subscription_ids: &[],
            payload: b"hi",
        }
    }

    #[test]
    fn what_is_left_of_a_lifetime_can_be_found_again() {
        let publish = OutgoingPublish {
            message_expiry_s: Some(0x0102_0304),
            subscription_ids: &[1, 200, 70_000],
            ..outgoing(QoS::AtLeastOnce)
        };
        let mut out = Vec::new();
        publish.encode(&mut out, Version::V5);
        let at = publish.expiry_at(out.len(), Version::V5).expect("it has one");
        assert_eq!(out[at - 1..at + 4], [2, 1, 2, 3, 4]);
        assert_eq!(publish.expiry_at(out.len(), Version::V3_1_1), None);
        assert_eq!(outgoing(QoS::AtLeastOnce).expiry_at(20, Version::V5), None);
    }

    #[test]
    fn qos_0_retained() {
        for version in [Version::V3_1, Version::V3_1_1] {
            let publish = decode(b"\x31\x07\x00\x03a/bhi", version).unwrap();
            assert_eq!((publish.qos, publish.retain, publish.dup), (QoS::AtMostOnce, true, false));
            assert_eq!((publish.topic, publish.packet_id), ("a/b", 0));
            assert_eq!(publish.payload, b"hi");
        }
    }

    #[test]
    fn qos_2_again_without_payload() {
        let publish = decode(b"\x3C\x05\x00\x01a\x01\x02", Version::V3_1_1).unwrap();
        assert_eq!((publish.qos, publish.retain, publish.dup), (QoS::ExactlyOnce, false, true));
        assert_eq!((publish.packet_id, publish.payload), (0x0102, &b""[..]));
    }

    #[test]
    fn version_5_with_an_alias_for_a_topic() {
        let publish = decode(b"\x32\x0A\x00\x00\x00\x01\x03\x23\x00\x07hi", Version::V5).unwrap();
        assert_eq!((publish.topic, publish.properties.topic_alias), ("", Some(7)));
        assert_eq!((publish.packet_id, publish.payload), (1, &b"hi"[..]));
    }

    #[test]
    fn what_is_refused() {
        let v3 = |bytes| decode(bytes, Version::V3_1_1).map(|_| ());
        let v5 = |bytes| decode(bytes, Version::V5).map(|_| ());
        assert_eq!(v3(b"\x36\x05\x00\x01a\x00\x01"), Err(DecodeError::QoS3));
        assert_eq!(v3(b"\x38\x03\x00\x01a"), Err(DecodeError::DupAtQoS0));
        assert_eq!(v3(b"\x32\x05\x00\x01a\x00\x00"), Err(DecodeError::PacketIdZero));
        assert_eq!(v3(b"\x32\x04\x00\x01a\x00"), Err(DecodeError::Truncated));
        assert_eq!(v3(b"\x30\x03\x00\x02a"), Err(DecodeError::Truncated));
        assert_eq!(v3(b"\x30\x02\x00\x00"), Err(DecodeError::TopicMissing));
        assert_eq!(v3(b"\x30\x03\x00\x01+"), Err(DecodeError::TopicName));
        assert_eq!(v3(b"\x30\x05\x00\x03a/#"), Err(DecodeError::TopicName));
        assert_eq!(v3(b"\x30\x03\x00\x01\x00"), Err(DecodeError::Nul));
        assert_eq!(v3(b"\x30\x03\x00\x01\xFF"), Err(DecodeError::Utf8));
        assert_eq!(v5(b"\x30\x03\x00\x00\x00"), Err(DecodeError::TopicMissing));
        assert_eq!(v5(b"\x30\x03\x00\x01a"), Err(DecodeError::Truncated), "no Property Length");
        assert_eq!(v5(b"\x30\x06\x00\x01a\x03\x23\x00"), Err(DecodeError::Truncated));
        assert_eq!(v5(b"\x30\x07\x00\x01a\x02\x23\x00\x01"), Err(DecodeError::Truncated));
    }

    #[test]
    fn encoded_per_version() {
        let encode = |publish: OutgoingPublish<'_>, version| {
            let mut out = b"before".to_vec();
            let packet_id_at = publish.encode(&mut out, version);
            assert_eq!(out.len() - 6, publish.encoded_length(version));
            (out[6..].to_vec(), packet_id_at)
        };
        let plain = outgoing(QoS::AtMostOnce);
        assert_eq!(encode(plain, Version::V3_1_1), (b"\x30\x07\x00\x03a/bhi".to_vec(), None));
        assert_eq!(encode(plain, Version::V5), (b"\x30\x08\x00\x03a/b\x00hi".to_vec(), None));
        let full = OutgoingPublish {
            dup: true,
            retain: true,
            properties: b"\x01\x01",
            message_expiry_s: Some(9),
            topic_alias: Some(5),
            subscription_ids: &[1, 200],
            ..outgoing(QoS::AtLeastOnce)
        };
        let v3 = b"\x3B\x09\x00\x03a/b\x00\x0Ahi".to_vec();
        assert_eq!(encode(full, Version::V3_1), (v3, Some(7)));
        let v5 = [
            b"\x3B\x19\x00\x03a/b\x00\x0A".as_slice(),
            b"\x0F\x01\x01\x02\x00\x00\x00\x09\x23\x00\x05\x0B\x01\x0B\xC8\x01hi",
        ];
        assert_eq!(encode(full, Version::V5), (v5.concat(), Some(7)));
    }

    #[test]
    fn the_packet_id_of_a_copy_can_be_changed() {
        let payload = [7; 300];
        let publish = OutgoingPublish { payload: &payload, ..outgoing(QoS::ExactlyOnce) };
        let mut out = vec![0xEE; 3];
        let at = 3 + publish.encode(&mut out, Version::V3_1_1).unwrap();
        out[at..at + 2].copy_from_slice(&0x1234_u16.to_be_bytes());
        assert_eq!(decode(&out[3..], Version::V3_1_1).unwrap().packet_id, 0x1234);
    }

    #[test]
    fn a_head_announces_the_payload_that_follows() {
        let publish = outgoing(QoS::AtLeastOnce);
        for version in [Version::V3_1_1, Version::V5] {
            let (mut whole, mut head) = (Vec::new(), Vec::new());
            let at = publish.encode(&mut whole, version);
            assert_eq!(publish.encode_without_payload(&mut head, version), at);
            head.extend_from_slice(publish.payload);
            assert_eq!(head, whole);
        }
    }
}
