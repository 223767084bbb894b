//! MQTT on the wire, for the server's side: decodes what clients send, encodes what a server sends.
//!
//! Pure: no I/O, no clock, no state between packets. Versions 3.1, 3.1.1 and 5.0 share one type per
//! packet; what an older version cannot say has the value that means the same in 5.0. Decoded packets
//! borrow from the input. The map, in data order:
//!
//! - `frame`: bytes → one packet's first byte and body
//! - `connect`: the first packet of a connection, and which version it speaks
//! - `packet`: every later packet, dispatched by type
//!   - `publish`, `ack` (PUBACK, PUBREC, PUBREL, PUBCOMP), `subscribe` (and UNSUBSCRIBE),
//!     `misc` (DISCONNECT, AUTH, PINGRESP)
//! - `connack`, and in the files above `encode…`: what goes back
//! - `topic`: names and filters; `properties`: those of 5.0; `reason`: its reason codes;
//!   `primitives`: integers and strings; `error`: what a client did wrong
//!
//! Strict where the standard is: reserved bits, UTF-8 without NUL or surrogates, each property only where
//! and as often as it may stand, nothing left over. Decided, where it leaves the receiver a choice or where
//! clients are known to differ from it:
//!
//! - Control characters and non-characters in strings are accepted (1.5.4). U+FEFF is kept.
//! - Remaining Length may be encoded in more bytes than it needs (at most four) in 3.1 and 3.1.1, which do not
//!   forbid it.
//! - `$share/` filters are checked, and served, in all versions.
//! - 3.1: client identifiers are not bounded by its 23 characters, as in Mosquitto; an empty one is refused.
//!   Flags that 3.1 does not speak of (bit 0, will bits without a will) are disregarded; user name and
//!   password may be missing behind their flags; the DUP flag is allowed where 3.1 has it. Strings are plain
//!   UTF-8: of Java's modified form, two bytes for U+0000, nothing is taken. SUBACK cannot refuse: 0 stands for it.
//! - A client's PUBACK or PUBREC may say No Matching Subscribers, which is for servers: bridges do.

mod ack;
mod connack;
mod connect;
mod error;
mod frame;
mod misc;
mod packet;
mod primitives;
mod properties;
mod publish;
mod reason;
mod subscribe;
pub mod topic;

#[cfg(test)]
mod differential;
#[cfg(test)]
pub(crate) mod mirror;
#[cfg(test)]
mod tests;

pub use ack::{Ack, AckKind, encode_ack};
pub use connack::ConnAck;
pub use connect::{Connect, Will, connect_version};
pub use error::DecodeError;
pub use frame::{Frame, Header, PacketType, frame, header};
pub use misc::{Auth, Disconnect, encode_disconnect, encode_pingresp};
pub use packet::Packet;
pub use primitives::varint_length;
pub use properties::{PublishProperties, UserProperties, put_property};
pub use publish::{OutgoingPublish, Publish};
pub use reason::ReasonCode;
pub use subscribe::{
    Filters, RetainHandling, Subscribe, Subscription, Subscriptions, Unsubscribe, encode_suback, encode_suback_with,
    encode_unsuback,
};

/// Bytes of the largest packet there can be: five of fixed header, 268,435,455 after it.
pub const MAX_PACKET_SIZE: u32 = primitives::VARINT_MAX + 5;

/// The version a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(non_camel_case_types, reason = "the dots of the version numbers")]
pub enum Version {
    /// MQTT 3.1: protocol name `MQIsdp`, level 3.
    V3_1,
    /// MQTT 3.1.1: level 4.
    V3_1_1,
    /// MQTT 5.0: level 5.
    V5,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Version::V3_1 => "3.1",
            Version::V3_1_1 => "3.1.1",
            Version::V5 => "5.0",
        })
    }
}

/// Quality of service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum QoS {
    /// QoS 0.
    AtMostOnce = 0,
    /// QoS 1.
    AtLeastOnce = 1,
    /// QoS 2.
    ExactlyOnce = 2,
}

impl QoS {
    /// From the two bits of the wire; 3 is none.
    #[inline]
    pub fn from_bits(bits: u8) -> Option<QoS> {
        match bits {
            0 => Some(QoS::AtMostOnce),
            1 => Some(QoS::AtLeastOnce),
            2 => Some(QoS::ExactlyOnce),
            _ => None,
        }
    }
}
