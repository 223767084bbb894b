//! The MQTT half of Millstream.
