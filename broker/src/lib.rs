//! The MQTT half of Millstream.

pub mod codec;
