//! Agreement with independent implementations: mqttbytes for 3.1.1, rmqtt-codec for 5.0.
//!
//! On what is valid they have to say the same, both ways. On bytes that may be anything, each difference has to be
//! of a kind listed here, in [`MQTTBYTES`] or [`RMQTT`], as the fault of theirs that it is.

mod with_mqttbytes;
mod with_rmqtt;

use std::fmt::Debug;
use std::mem::discriminant;

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::Index;

use super::tests::valid_packet;
use super::{Connect, DecodeError, MAX_PACKET_SIZE, Packet, PacketType, Version, frame, mirror};

/// What we make of bytes that are one packet of a client.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Decoded<'a> {
    Connect(Connect<'a>),
    Other(Packet<'a>),
}

/// `None` for what is no one packet, or a CONNECT of another version.
fn ours(bytes: &[u8], version: Version) -> Option<Result<Decoded<'_>, DecodeError>> {
    let frame = match frame(bytes, MAX_PACKET_SIZE) {
        Ok(None) => return None,
        Ok(Some(frame)) if frame.length != bytes.len() => return None,
        Ok(Some(frame)) => frame,
        Err(error) => return Some(Err(error)),
    };
    if frame.packet_type != PacketType::Connect {
        return Some(Packet::decode(&frame, version).map(Decoded::Other));
    }
    let decoded = Connect::decode(&frame);
    (super::connect_version(&frame) == Ok(version)).then(|| decoded.map(Decoded::Connect))
}

/// How they differ.
#[derive(Clone, Copy, Debug)]
enum Difference {
    /// They take what we refuse with this error.
    Taken(DecodeError),
    /// They refuse what we take.
    Refused,
    /// They read something else.
    Misread,
}

impl Difference {
    /// `ours` is what we read, in their words; `None` if they have no words for it.
    fn between<T: PartialEq>(ours: Result<Option<T>, DecodeError>, theirs: Option<T>) -> Option<Difference> {
        match (ours, theirs) {
            (Err(_), None) => None,
            (Err(error), Some(_)) => Some(Difference::Taken(error)),
            (Ok(_), None) => Some(Difference::Refused),
            (Ok(ours), theirs) => (ours != theirs).then_some(Difference::Misread),
        }
    }

    fn is_like(&self, other: &Difference) -> bool {
        match (self, other) {
            (Difference::Taken(one), Difference::Taken(other)) => discriminant(one) == discriminant(other),
            (one, other) => discriminant(one) == discriminant(other),
        }
    }
}

/// A fault of theirs.
struct Fault {
    /// A packet that shows it.
    packet: &'static [u8],
    /// How.
    difference: Difference,
    /// Which packets have it: these bytes, of which we make this.
    of: fn(&[u8], Option<&Decoded<'_>>) -> bool,
}

const fn take(packet: &'static [u8], error: DecodeError) -> Fault {
    Fault { packet, difference: Difference::Taken(error), of: |_, _| true }
}

/// Faults of mqttbytes 0.6.0 as a reader of 3.1.1.
const MQTTBYTES: [Fault; 16] = [
    take(b"\x43\x02\x00\x01", DecodeError::FixedHeaderFlags(0x43)),
    take(b"\xC0\x01\x00", DecodeError::LeftOver),
    take(b"\x30\x03\x00\x01\x00", DecodeError::Nul),
    // Bit 0, or a password without a user name.
    take(b"\x10\x0D\x00\x04MQTT\x04\x03\x00\x3C\x00\x01c", DecodeError::ConnectFlags(3)),
    take(b"\x10\x0C\x00\x04MQTT\x04\x00\x00\x3C\x00\x00", DecodeError::ClientIdentifier),
    // In SUBSCRIBE, UNSUBSCRIBE and the acknowledgements.
    take(b"\x40\x02\x00\x00", DecodeError::PacketIdZero),
    take(b"\x38\x03\x00\x01a", DecodeError::DupAtQoS0),
    take(b"\x30\x03\x00\x01+", DecodeError::TopicName),
    take(b"\x30\x02\x00\x00", DecodeError::TopicMissing),
    take(b"\x82\x07\x00\x01\x00\x02a#\x00", DecodeError::TopicFilter),
    take(b"\x82\x0C\x00\x01\x00\x07$share/\x00", DecodeError::SharedFilter),
    take(b"\x82\x06\x00\x01\x00\x01a\x04", DecodeError::SubscriptionOptionsReserved(4)),
    take(b"\x82\x02\x00\x01", DecodeError::NoFilters),
    // Not a fault: it reads for both sides.
    take(b"\xD0\x00", DecodeError::ServerPacket(13)),
    // A password is any bytes (3.1.3.5); it takes it for a string.
    Fault {
        packet: b"\x10\x13\x00\x04MQTT\x04\xC2\x00\x3C\x00\x01c\x00\x01u\x00\x01\xFF",
        difference: Difference::Refused,
        of: |_, packet| matches!(packet, Some(Decoded::Connect(connect)) if !connect.password.is_none_or(is_utf8)),
    },
    // An empty user name with an empty password, or with none, is none.
    Fault {
        packet: b"\x10\x0F\x00\x04MQTT\x04\x82\x00\x3C\x00\x01c\x00\x00",
        difference: Difference::Misread,
        of: |_, packet| matches!(packet, Some(Decoded::Connect(Connect { username: Some(""), .. }))),
    },
];

/// Faults of rmqtt-codec 0.3.0 as a reader of 5.0.
const RMQTT: [Fault; 22] = [
    take(b"\xC0\x80\x00", DecodeError::VariableByteInteger),
    // In CONNECT and PINGREQ.
    take(b"\xC0\x01\x00", DecodeError::LeftOver),
    take(b"\x30\x04\x00\x01\x00\x00", DecodeError::Nul),
    // A will's bits without a will.
    take(b"\x10\x0E\x00\x04MQTT\x05\x0A\x00\x3C\x00\x00\x01c", DecodeError::ConnectFlags(0x0A)),
    take(b"\x38\x04\x00\x01a\x00", DecodeError::DupAtQoS0),
    take(b"\x30\x04\x00\x01+\x00", DecodeError::TopicName),
    take(b"\x30\x03\x00\x00\x00", DecodeError::TopicMissing),
    take(b"\x82\x08\x00\x01\x00\x00\x02a#\x00", DecodeError::TopicFilter),
    take(b"\x82\x0D\x00\x01\x00\x00\x07$share/\x00", DecodeError::SharedFilter),
    take(b"\x82\x10\x00\x01\x00\x00\x0A$share/g/a\x04", DecodeError::NoLocalOnShared),
    take(b"\x82\x07\x00\x01\x00\x00\x01a\x40", DecodeError::SubscriptionOptionsReserved(0x40)),
    take(b"\x82\x03\x00\x01\x00", DecodeError::NoFilters),
    take(b"\x30\x06\x00\x01a\x02\x0B\x01", DecodeError::SubscriptionIdFromClient),
    take(b"\x10\x11\x00\x04MQTT\x05\x02\x00\x3C\x03\x16\x00\x00\x00\x01c", DecodeError::AuthenticationData),
    take(b"\xF0\x02\x19\x00", DecodeError::AuthenticationMethod),
    // Those that only servers send.
    take(b"\xE0\x01\x8B", DecodeError::ReasonCode(0x8B)),
    // Server Reference in a client's DISCONNECT.
    take(b"\xE0\x05\x00\x03\x1C\x00\x00", DecodeError::PropertyNotAllowed(0x1C)),
    // Not a fault: it reads for both sides.
    take(b"\xD0\x00", DecodeError::ServerPacket(13)),
    // An empty client identifier is for the server to replace, also without Clean Start (3.1.3.1).
    Fault {
        packet: b"\x10\x0D\x00\x04MQTT\x05\x00\x00\x3C\x00\x00\x00",
        difference: Difference::Refused,
        of: |_, packet| matches!(packet, Some(Decoded::Connect(Connect { client_id: "", clean_start: false, .. }))),
    },
    // A message expiry of 0 is one (3.3.2.3.3).
    Fault {
        packet: b"\x30\x09\x00\x01a\x05\x02\x00\x00\x00\x00",
        difference: Difference::Refused,
        of: |_, packet| match packet {
            Some(Decoded::Connect(connect)) => {
                connect.will.and_then(|will| will.properties.message_expiry_s) == Some(0)
            }
            Some(Decoded::Other(Packet::Publish(publish))) => publish.properties.message_expiry_s == Some(0),
            _ => false,
        },
    },
    // The properties of AUTH may be left out behind Success only (3.15.2.1).
    Fault {
        packet: b"\xF0\x01\x18",
        difference: Difference::Taken(DecodeError::Truncated),
        of: |bytes, _| matches!(bytes, [0xF0, 1, _]),
    },
    // AUTH without anything is a success, which is for servers to say.
    take(b"\xF0\x00", DecodeError::ReasonCode(0)),
];

fn is_utf8(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok()
}

/// Each fault of the list is one still.
#[track_caller]
fn faults_are_there(faults: &[Fault], version: Version, difference: impl Fn(&[u8]) -> Option<Difference>) {
    for Fault { packet, difference: expected, of } in faults {
        let found = difference(packet);
        assert!(found.is_some_and(|found| found.is_like(expected)), "{packet:02x?}: {found:?}");
        let decoded = ours(packet, version).and_then(Result::ok);
        assert!(of(packet, decoded.as_ref()), "{packet:02x?}: {decoded:?}");
    }
}

/// A difference on arbitrary bytes is one of these faults.
#[track_caller]
fn is_a_known_fault(faults: &[Fault], version: Version, bytes: &[u8], found: Difference) {
    let decoded = ours(bytes, version).and_then(Result::ok);
    let is_of = |fault: &Fault| found.is_like(&fault.difference) && (fault.of)(bytes, decoded.as_ref());
    let known = faults.iter().any(is_of);
    assert!(known, "{found:?} on {bytes:02x?}, which we read as {decoded:?}");
}

/// Bytes that are nearly a packet: damaged, or any body behind a fixed header that fits.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let damage = vec((any::<Index>(), any::<u8>()), 0..4);
    let damaged = (valid_packet(), damage, any::<bool>()).prop_map(|(mut packet, damage, shorter)| {
        for (at, byte) in damage {
            let at = at.index(packet.len());
            packet[at] = byte;
        }
        if shorter {
            packet.pop();
        }
        packet
    });
    let refitted = (valid_packet(), any::<Index>()).prop_map(|(packet, cut)| {
        let body = &packet[2.min(packet.len())..];
        mirror::packet(packet[0], &body[..cut.index(body.len() + 1)])
    });
    let kinds = vec![0x30_u8, 0x32, 0x3D, 0x40, 0x50, 0x62, 0x70, 0x82, 0xA2, 0xC0, 0xE0, 0xF0];
    let any_body = (proptest::sample::select(kinds), vec(prop_oneof![any::<u8>(), Just(0), Just(1)], 0..16))
        .prop_map(|(first_byte, body)| mirror::packet(first_byte, &body));
    prop_oneof![damaged, refitted, any_body]
}
