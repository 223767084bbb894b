//! PUBACK, PUBREC, PUBREL and PUBCOMP (3.4 to 3.7): one shape, four types.

use super::primitives::{Reader, insert_length, put_u16};
use super::properties::{Allowed, PropertyReader, id, put_string_property};
use super::{DecodeError, Frame, ReasonCode, Version};

/// Which of the four.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum AckKind {
    PubAck,
    PubRec,
    PubRel,
    PubComp,
}

impl AckKind {
    fn first_byte(self) -> u8 {
        match self {
            AckKind::PubAck => 0x40,
            AckKind::PubRec => 0x50,
            AckKind::PubRel => 0x62,
            AckKind::PubComp => 0x70,
        }
    }

    /// Tables 3-4 to 3-7. No Matching Subscribers is for servers only, but Mosquitto's bridges say it, which
    /// are clients here: it is a success as good as any.
    fn is_from_client(self, reason: ReasonCode) -> bool {
        match self {
            AckKind::PubAck | AckKind::PubRec => matches!(
                reason,
                ReasonCode::Success
                    | ReasonCode::NoMatchingSubscribers
                    | ReasonCode::UnspecifiedError
                    | ReasonCode::ImplementationSpecificError
                    | ReasonCode::NotAuthorized
                    | ReasonCode::TopicNameInvalid
                    | ReasonCode::PacketIdentifierInUse
                    | ReasonCode::QuotaExceeded
                    | ReasonCode::PayloadFormatInvalid
            ),
            AckKind::PubRel | AckKind::PubComp => {
                matches!(reason, ReasonCode::Success | ReasonCode::PacketIdentifierNotFound)
            }
        }
    }
}

/// An acknowledgement of a message, or of an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The packet.
    pub kind: AckKind,
    /// Not 0.
    pub packet_id: u16,
    /// Success before 5.0.
    pub reason: ReasonCode,
}

impl Ack {
    pub(super) fn decode(kind: AckKind, frame: &Frame<'_>, version: Version) -> Result<Ack, DecodeError> {
        frame.check_dup(version)?;
        let mut reader = Reader::new(frame.body);
        let packet_id = reader.packet_id()?;
        let mut reason = ReasonCode::Success;
        if version == Version::V5 && !reader.is_empty() {
            let byte = reader.u8()?;
            reason = ReasonCode::from_u8(byte)
                .filter(|&reason| kind.is_from_client(reason))
                .ok_or(DecodeError::ReasonCode(byte))?;
            if !reader.is_empty() {
                PropertyReader::new(reader.properties()?, Allowed::ACK).skip_all()?;
            }
        }
        reader.finish()?;
        Ok(Ack { kind, packet_id, reason })
    }
}

/// Appends an acknowledgement. Before 5.0 there is only success: `ack.reason` and `reason_string` go unsaid.
/// `reason_string` is at most 65,535 bytes, and not for clients that asked for no problem information.
pub fn encode_ack(out: &mut Vec<u8>, version: Version, ack: Ack, reason_string: Option<&str>) {
    let first_byte = ack.kind.first_byte();
    let [high, low] = ack.packet_id.to_be_bytes();
    if version != Version::V5 || (ack.reason == ReasonCode::Success && reason_string.is_none()) {
        out.extend_from_slice(&[first_byte, 2, high, low]);
        return;
    }
    let Some(reason_string) = reason_string else {
        out.extend_from_slice(&[first_byte, 3, high, low, ack.reason.as_u8()]);
        return;
    };
    out.push(first_byte);
    let body_at = out.len();
    put_u16(out, ack.packet_id);
    out.push(ack.reason.as_u8());
    let properties_at = out.len();
    put_string_property(out, id::REASON_STRING, reason_string);
    insert_length(out, properties_at);
    insert_length(out, body_at);
}

#[cfg(test)]
mod tests {
    use super::{Ack, AckKind, DecodeError, ReasonCode, Version, encode_ack};
    use crate::codec::Packet;
    use crate::codec::tests::framed;

    fn decode(bytes: &[u8], version: Version) -> Result<Ack, DecodeError> {
        match Packet::decode(&framed(bytes), version)? {
            Packet::Ack(ack) => Ok(ack),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn known_packets_both_ways() {
        let kinds =
            [(AckKind::PubAck, 0x40), (AckKind::PubRec, 0x50), (AckKind::PubRel, 0x62), (AckKind::PubComp, 0x70)];
        for (kind, first_byte) in kinds {
            for version in [Version::V3_1, Version::V3_1_1, Version::V5] {
                let ack = Ack { kind, packet_id: 0x0102, reason: ReasonCode::Success };
                let bytes = [first_byte, 2, 1, 2];
                let mut out = Vec::new();
                encode_ack(&mut out, version, ack, None);
                assert_eq!(out, bytes);
                assert_eq!(decode(&bytes, version), Ok(ack));
            }
        }
    }

    #[test]
    fn reasons_of_version_5() {
        let refused = Ack { kind: AckKind::PubRec, packet_id: 1, reason: ReasonCode::QuotaExceeded };
        let mut out = Vec::new();
        encode_ack(&mut out, Version::V5, refused, None);
        assert_eq!(out, b"\x50\x03\x00\x01\x97");
        assert_eq!(decode(&out, Version::V5), Ok(refused));
        out.clear();
        encode_ack(&mut out, Version::V5, refused, Some("full"));
        assert_eq!(out, b"\x50\x0B\x00\x01\x97\x07\x1F\x00\x04full");
        assert_eq!(decode(&out, Version::V5), Ok(refused));
        out.clear();
        encode_ack(&mut out, Version::V3_1_1, refused, Some("full"));
        assert_eq!(out, b"\x50\x02\x00\x01");
    }

    #[test]
    fn what_is_refused() {
        let v5 = |bytes| decode(bytes, Version::V5);
        assert_eq!(v5(b"\x40\x02\x00\x00"), Err(DecodeError::PacketIdZero));
        assert_eq!(v5(b"\x40\x01\x00"), Err(DecodeError::Truncated));
        assert_eq!(v5(b"\x40\x03\x00\x01\x92"), Err(DecodeError::ReasonCode(0x92)));
        assert_eq!(v5(b"\x62\x03\x00\x01\x97"), Err(DecodeError::ReasonCode(0x97)));
        assert_eq!(v5(b"\x62\x03\x00\x01\x03"), Err(DecodeError::ReasonCode(3)));
        assert_eq!(v5(b"\x40\x05\x00\x01\x00\x00\x00"), Err(DecodeError::LeftOver));
        assert_eq!(v5(b"\x40\x06\x00\x01\x00\x02\x01\x00"), Err(DecodeError::PropertyNotAllowed(1)));
        let v3 = decode(b"\x40\x03\x00\x01\x00", Version::V3_1_1);
        assert_eq!(v3, Err(DecodeError::LeftOver));
    }

    #[test]
    fn bridges_say_that_nobody_subscribed() {
        for (kind, bytes) in [(AckKind::PubAck, b"\x40\x03\x00\x01\x10"), (AckKind::PubRec, b"\x50\x03\x00\x01\x10")] {
            let ack = Ack { kind, packet_id: 1, reason: ReasonCode::NoMatchingSubscribers };
            assert_eq!(decode(bytes, Version::V5), Ok(ack));
        }
    }

    #[test]
    fn every_reason_code_of_the_tables_and_no_other() {
        let puback: &[u8] = &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
        for (first_byte, allowed) in [(0x40, puback), (0x50, puback), (0x62, &[0, 0x92]), (0x70, &[0, 0x92])] {
            for code in 0..=u8::MAX {
                let found = decode(&[first_byte, 3, 0, 1, code], Version::V5);
                let expected = if allowed.contains(&code) { Ok(code) } else { Err(DecodeError::ReasonCode(code)) };
                assert_eq!(found.map(|ack| ack.reason.as_u8()), expected, "{first_byte:#04x}");
            }
        }
    }

    #[test]
    fn dup_on_pubrel_is_of_3_1() {
        let bytes = b"\x6A\x02\x00\x01";
        assert!(decode(bytes, Version::V3_1).is_ok());
        for version in [Version::V3_1_1, Version::V5] {
            assert_eq!(decode(bytes, version), Err(DecodeError::FixedHeaderFlags(0x6A)));
        }
    }
}
