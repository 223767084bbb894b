//! The fixed header (2.1): where a packet ends, before anything else about it is known.

use super::primitives::varint_length;
use super::{DecodeError, Version};

/// The sixteen packet types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum PacketType {
    Connect = 1,
    ConnAck = 2,
    Publish = 3,
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
    Subscribe = 8,
    SubAck = 9,
    Unsubscribe = 10,
    UnsubAck = 11,
    PingReq = 12,
    PingResp = 13,
    Disconnect = 14,
    Auth = 15,
}

impl PacketType {
    /// From the high four bits of a first byte; 0 is none.
    #[inline]
    fn from_first_byte(first_byte: u8) -> Option<PacketType> {
        Some(match first_byte >> 4 {
            1 => PacketType::Connect,
            2 => PacketType::ConnAck,
            3 => PacketType::Publish,
            4 => PacketType::PubAck,
            5 => PacketType::PubRec,
            6 => PacketType::PubRel,
            7 => PacketType::PubComp,
            8 => PacketType::Subscribe,
            9 => PacketType::SubAck,
            10 => PacketType::Unsubscribe,
            11 => PacketType::UnsubAck,
            12 => PacketType::PingReq,
            13 => PacketType::PingResp,
            14 => PacketType::Disconnect,
            15 => PacketType::Auth,
            _ => return None,
        })
    }
}

/// A fixed header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Type and flags, as sent.
    pub first_byte: u8,
    /// The type in it.
    pub packet_type: PacketType,
    /// Bytes of the fixed header itself: 2 to 5.
    pub header_length: usize,
    /// Bytes after it.
    pub body_length: usize,
}

impl Header {
    /// Bytes of the whole packet: how large a buffer must become to hold it.
    #[inline]
    pub fn packet_length(&self) -> usize {
        self.header_length + self.body_length
    }
}

/// One whole packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Type and flags, as sent.
    pub first_byte: u8,
    /// The type in it.
    pub packet_type: PacketType,
    /// What follows the fixed header.
    pub body: &'a [u8],
    /// Bytes of the whole packet: what to take off the input.
    pub length: usize,
}

impl Frame<'_> {
    /// 5.0 wants Remaining Length in the fewest bytes [MQTT-1.5.5-1]; before, more of them are allowed.
    #[inline]
    pub(super) fn check_length(&self, version: Version) -> Result<(), DecodeError> {
        let length_bytes = self.length - self.body.len() - 1;
        if version == Version::V5 && length_bytes > varint_length(self.body.len()) {
            return Err(DecodeError::VariableByteInteger);
        }
        Ok(())
    }

    /// Before 3.1.1 the DUP flag existed on PUBREL, SUBSCRIBE and UNSUBSCRIBE too.
    pub(super) fn check_dup(&self, version: Version) -> Result<(), DecodeError> {
        if self.first_byte & 0x08 != 0 && version != Version::V3_1 {
            return Err(DecodeError::FixedHeaderFlags(self.first_byte));
        }
        Ok(())
    }
}

/// The low four bits of the first byte [MQTT-2.1.3-1], as far as they do not depend on the version.
#[inline]
fn check_flags(first_byte: u8, packet_type: PacketType) -> Result<(), DecodeError> {
    let flags = first_byte & 0x0F;
    let good = match packet_type {
        PacketType::Publish => true,
        PacketType::PubRel | PacketType::Subscribe | PacketType::Unsubscribe => flags & 0x07 == 2,
        _ => flags == 0,
    };
    if good { Ok(()) } else { Err(DecodeError::FixedHeaderFlags(first_byte)) }
}

/// Reads the fixed header at the front of `input`; `None` while it is incomplete. A bad one is refused at the
/// first byte that shows it, a packet longer than `max_packet_size` bytes (fixed header included) before its
/// body arrives.
#[inline]
pub fn header(input: &[u8], max_packet_size: u32) -> Result<Option<Header>, DecodeError> {
    let Some((&first_byte, rest)) = input.split_first() else {
        return Ok(None);
    };
    let packet_type =
        PacketType::from_first_byte(first_byte).ok_or(DecodeError::ReservedPacketType(first_byte >> 4))?;
    check_flags(first_byte, packet_type)?;
    let mut body_length: u32 = 0;
    for index in 0..4 {
        let Some(&byte) = rest.get(index) else {
            return Ok(None);
        };
        body_length |= u32::from(byte & 0x7F) << (7 * index);
        if byte < 0x80 {
            let header =
                Header { first_byte, packet_type, header_length: index + 2, body_length: body_length as usize };
            let length = header.packet_length() as u32;
            if length > max_packet_size {
                return Err(DecodeError::PacketTooLarge { length, limit: max_packet_size });
            }
            return Ok(Some(header));
        }
    }
    Err(DecodeError::RemainingLength)
}

/// The packet at the front of `input`; `None` while it is incomplete. Errors as [`header`].
#[inline]
pub fn frame(input: &[u8], max_packet_size: u32) -> Result<Option<Frame<'_>>, DecodeError> {
    let Some(header) = header(input, max_packet_size)? else {
        return Ok(None);
    };
    let length = header.packet_length();
    Ok(input.get(header.header_length..length).map(|body| Frame {
        first_byte: header.first_byte,
        packet_type: header.packet_type,
        body,
        length,
    }))
}

#[cfg(test)]
mod tests {
    use super::{DecodeError, PacketType, frame, header};
    use crate::codec::MAX_PACKET_SIZE;

    #[test]
    fn a_frame_is_its_bytes_and_no_more() {
        let input = [0x30, 3, 0, 1, b'a', 0xC0];
        for end in 0..5 {
            assert_eq!(frame(&input[..end], 100), Ok(None), "{end} bytes");
        }
        let found = frame(&input, 100).unwrap().unwrap();
        assert_eq!((found.packet_type, found.first_byte), (PacketType::Publish, 0x30));
        assert_eq!((found.body, found.length), (&input[2..5], 5));
        let next = frame(&input[found.length..], 100);
        assert_eq!(next, Ok(None));
    }

    #[test]
    fn flags_and_types() {
        for first_byte in 0..=u8::MAX {
            let good = match first_byte >> 4 {
                0 => {
                    assert_eq!(frame(&[first_byte], 9), Err(DecodeError::ReservedPacketType(0)));
                    continue;
                }
                3 => true,
                6 | 8 | 10 => matches!(first_byte & 0x0F, 2 | 10),
                _ => first_byte & 0x0F == 0,
            };
            let expected = if good { Ok(None) } else { Err(DecodeError::FixedHeaderFlags(first_byte)) };
            assert_eq!(frame(&[first_byte], 9), expected, "{first_byte:#04x}");
        }
    }

    #[test]
    fn remaining_length_up_to_four_bytes() {
        let length = |input: &[u8]| header(input, MAX_PACKET_SIZE).map(|h| h.map(|h| h.packet_length()));
        assert_eq!(length(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F]), Ok(Some(268_435_460)));
        assert_eq!(length(&[0x30, 0x82, 0x80, 0x00]), Ok(Some(6)), "longer than needed is accepted");
        assert_eq!(length(&[0x30, 0x80, 0x80, 0x80]), Ok(None));
        assert_eq!(length(&[0x30, 0x80, 0x80, 0x80, 0x80]), Err(DecodeError::RemainingLength));
    }

    #[test]
    fn too_large_is_known_from_the_header() {
        assert_eq!(frame(&[0x30, 98], 100), Ok(None));
        let error = DecodeError::PacketTooLarge { length: 101, limit: 100 };
        assert_eq!(frame(&[0x30, 99], 100), Err(error));
    }

    #[test]
    fn remaining_length_is_in_its_shortest_form_in_version_5() {
        use crate::codec::{Packet, Version, tests::framed};
        let pingreq = |bytes| Packet::decode(&framed(bytes), Version::V5);
        assert_eq!(pingreq(b"\xC0\x00"), Ok(Packet::PingReq));
        assert_eq!(pingreq(b"\xC0\x80\x00"), Err(DecodeError::VariableByteInteger));
        for version in [Version::V3_1, Version::V3_1_1] {
            assert_eq!(Packet::decode(&framed(b"\xC0\x80\x80\x00"), version), Ok(Packet::PingReq));
        }
    }
}
