//! Every packet a client may send after CONNECT.

use super::{Ack, AckKind, Auth, DecodeError, Disconnect, Frame, PacketType, Publish, Subscribe, Unsubscribe, Version};

/// A decoded packet. CONNECT is not among them: it comes once, first, and by itself
/// ([`Connect::decode`](super::Connect::decode)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Packet<'a> {
    Publish(Publish<'a>),
    Ack(Ack),
    Subscribe(Subscribe<'a>),
    Unsubscribe(Unsubscribe<'a>),
    PingReq,
    Disconnect(Disconnect),
    Auth(Auth<'a>),
}

impl<'a> Packet<'a> {
    /// Decodes a frame of a connection that speaks `version`.
    #[inline]
    pub fn decode(frame: &Frame<'a>, version: Version) -> Result<Packet<'a>, DecodeError> {
        frame.check_length(version)?;
        let ack = |kind| Ack::decode(kind, frame, version).map(Packet::Ack);
        match frame.packet_type {
            PacketType::Publish => Publish::decode(frame, version).map(Packet::Publish),
            PacketType::PubAck => ack(AckKind::PubAck),
            PacketType::PubRec => ack(AckKind::PubRec),
            PacketType::PubRel => ack(AckKind::PubRel),
            PacketType::PubComp => ack(AckKind::PubComp),
            PacketType::Subscribe => Subscribe::decode(frame, version).map(Packet::Subscribe),
            PacketType::Unsubscribe => Unsubscribe::decode(frame, version).map(Packet::Unsubscribe),
            PacketType::PingReq if frame.body.is_empty() => Ok(Packet::PingReq),
            PacketType::PingReq => Err(DecodeError::LeftOver),
            PacketType::Disconnect => Disconnect::decode(frame, version).map(Packet::Disconnect),
            PacketType::Auth => Auth::decode(frame, version).map(Packet::Auth),
            PacketType::Connect => Err(DecodeError::SecondConnect),
            PacketType::ConnAck | PacketType::SubAck | PacketType::UnsubAck | PacketType::PingResp => {
                Err(DecodeError::ServerPacket(frame.packet_type as u8))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{DecodeError, Packet, Version};
    use crate::codec::tests::framed;

    #[test]
    fn pingreq() {
        for version in [Version::V3_1, Version::V3_1_1, Version::V5] {
            let decode = |bytes| Packet::decode(&framed(bytes), version);
            assert_eq!(decode(b"\xC0\x00"), Ok(Packet::PingReq));
            assert_eq!(decode(b"\xC0\x01\x00"), Err(DecodeError::LeftOver));
        }
    }

    #[test]
    fn what_is_not_for_a_client_to_send() {
        for version in [Version::V3_1, Version::V3_1_1, Version::V5] {
            for packet_type in [2, 9, 11, 13] {
                let bytes = [packet_type << 4, 2, 0, 0];
                let decoded = Packet::decode(&framed(&bytes), version);
                assert_eq!(decoded, Err(DecodeError::ServerPacket(packet_type)));
            }
            let again = Packet::decode(&framed(b"\x10\x00"), version);
            assert_eq!(again, Err(DecodeError::SecondConnect));
        }
        let auth = Packet::decode(&framed(b"\xF0\x00"), Version::V3_1_1);
        assert_eq!(auth, Err(DecodeError::ReservedPacketType(15)));
    }
}
