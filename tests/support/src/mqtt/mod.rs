//! An MQTT client for scripts: [`wire`] puts packets into bytes and back, [`client`] sends
//! and expects them. Written from the OASIS standards, not from the product's codec.

mod client;
mod packet;
mod wire;

pub use client::{Client, Lost};
pub use packet::{Ack, AckKind, ConnAck, Connect, Packet, Prop, Publish, Version, Will};
pub use wire::{Malformed, subscribe, take_packet, unsubscribe};

/// Subscription option: do not send my own messages back (5.0).
pub const NO_LOCAL: u8 = 0x04;
/// Subscription option: keep the retain flag as it was published (5.0).
pub const RETAIN_AS_PUBLISHED: u8 = 0x08;
/// Subscription option: retained messages only if the subscription is new (5.0).
pub const RETAINED_IF_NEW: u8 = 0x10;
/// Subscription option: no retained messages (5.0).
pub const RETAINED_NEVER: u8 = 0x20;

/// Both protocol versions, for tests that hold for each.
pub const VERSIONS: [Version; 2] = [Version::V311, Version::V5];
