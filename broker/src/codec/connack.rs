//! CONNACK (3.2).

use super::primitives::insert_length;
use super::properties::{id, put_byte_property, put_string_property, put_u16_property, put_u32_property};
use super::{QoS, ReasonCode, Version};

/// The answer to CONNECT. Start from [`ConnAck::new`]: every field then has the value that 5.0 gives to an
/// absent property, and is not sent. Only `session_present` and `reason` exist before 5.0.
///
/// In range means: strings of at most 65,535 bytes, `receive_maximum` and `maximum_packet_size` not 0,
/// `maximum_qos` not `AtMostOnce` unless the server means it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnAck<'a> {
    /// Sent as 0 with any reason but success [MQTT-3.2.2-6], and in 3.1.
    pub session_present: bool,
    /// Why, or why not.
    pub reason: ReasonCode,
    /// If other than the client asked for.
    pub session_expiry_s: Option<u32>,
    /// Absent: 65,535.
    pub receive_maximum: Option<u16>,
    /// `ExactlyOnce` if all are served.
    pub maximum_qos: QoS,
    /// Whether retained messages are.
    pub retain_available: bool,
    /// In bytes. Absent: no limit but the protocol's.
    pub maximum_packet_size: Option<u32>,
    /// If the client gave none.
    pub assigned_client_id: Option<&'a str>,
    /// How many aliases the client may use.
    pub topic_alias_maximum: u16,
    /// For a human who diagnoses.
    pub reason_string: Option<&'a str>,
    /// Whether filters may have wildcards.
    pub wildcard_subscription_available: bool,
    /// Whether subscriptions may have identifiers.
    pub subscription_ids_available: bool,
    /// Whether `$share/` is served.
    pub shared_subscription_available: bool,
    /// In place of the client's keep-alive.
    pub server_keep_alive_s: Option<u16>,
    /// If asked for.
    pub response_information: Option<&'a str>,
    /// With 0x9C and 0x9D.
    pub server_reference: Option<&'a str>,
}

impl<'a> ConnAck<'a> {
    /// An answer that says no more than `reason`.
    pub fn new(reason: ReasonCode) -> ConnAck<'a> {
        ConnAck {
            session_present: false,
            reason,
            session_expiry_s: None,
            receive_maximum: None,
            maximum_qos: QoS::ExactlyOnce,
            retain_available: true,
            maximum_packet_size: None,
            assigned_client_id: None,
            topic_alias_maximum: 0,
            reason_string: None,
            wildcard_subscription_available: true,
            subscription_ids_available: true,
            shared_subscription_available: true,
            server_keep_alive_s: None,
            response_information: None,
            server_reference: None,
        }
    }

    /// Appends it. Appends nothing if `version` is before 5.0 and has no return code for the reason: then
    /// the standard wants the connection closed without a CONNACK (3.1.1, 3.2.2.3).
    pub fn encode(&self, out: &mut Vec<u8>, version: Version) {
        let present = self.session_present && self.reason == ReasonCode::Success && version != Version::V3_1;
        if version != Version::V5 {
            if let Some(code) = self.reason.as_v3_return_code() {
                out.extend_from_slice(&[0x20, 2, present.into(), code]);
            }
            return;
        }
        out.push(0x20);
        let body_at = out.len();
        out.extend_from_slice(&[present.into(), self.reason.as_u8()]);
        let properties_at = out.len();
        self.put_limits(out);
        self.put_strings(out);
        insert_length(out, properties_at);
        insert_length(out, body_at);
    }

    fn put_limits(&self, out: &mut Vec<u8>) {
        if let Some(seconds) = self.session_expiry_s {
            put_u32_property(out, id::SESSION_EXPIRY_INTERVAL, seconds);
        }
        if let Some(count) = self.receive_maximum {
            put_u16_property(out, id::RECEIVE_MAXIMUM, count);
        }
        if self.maximum_qos != QoS::ExactlyOnce {
            put_byte_property(out, id::MAXIMUM_QOS, self.maximum_qos as u8);
        }
        if let Some(bytes) = self.maximum_packet_size {
            put_u32_property(out, id::MAXIMUM_PACKET_SIZE, bytes);
        }
        if self.topic_alias_maximum != 0 {
            put_u16_property(out, id::TOPIC_ALIAS_MAXIMUM, self.topic_alias_maximum);
        }
        if let Some(seconds) = self.server_keep_alive_s {
            put_u16_property(out, id::SERVER_KEEP_ALIVE, seconds);
        }
        let flags = [
            (id::RETAIN_AVAILABLE, self.retain_available),
            (id::WILDCARD_SUBSCRIPTION_AVAILABLE, self.wildcard_subscription_available),
            (id::SUBSCRIPTION_IDENTIFIERS_AVAILABLE, self.subscription_ids_available),
            (id::SHARED_SUBSCRIPTION_AVAILABLE, self.shared_subscription_available),
        ];
        for (id, available) in flags {
            if !available {
                put_byte_property(out, id, 0);
            }
        }
    }

    fn put_strings(&self, out: &mut Vec<u8>) {
        let strings = [
            (id::ASSIGNED_CLIENT_IDENTIFIER, self.assigned_client_id),
            (id::REASON_STRING, self.reason_string),
            (id::RESPONSE_INFORMATION, self.response_information),
            (id::SERVER_REFERENCE, self.server_reference),
        ];
        for (id, value) in strings {
            if let Some(value) = value {
                put_string_property(out, id, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ConnAck, QoS, ReasonCode, Version};

    fn encode(connack: ConnAck<'_>, version: Version) -> Vec<u8> {
        let mut out = Vec::new();
        connack.encode(&mut out, version);
        out
    }

    #[test]
    fn accepted_and_refused_per_version() {
        let present = ConnAck { session_present: true, ..ConnAck::new(ReasonCode::Success) };
        assert_eq!(encode(present, Version::V3_1), b"\x20\x02\x00\x00");
        assert_eq!(encode(present, Version::V3_1_1), b"\x20\x02\x01\x00");
        assert_eq!(encode(present, Version::V5), b"\x20\x03\x01\x00\x00");
        let refused = ConnAck { session_present: true, ..ConnAck::new(ReasonCode::NotAuthorized) };
        assert_eq!(encode(refused, Version::V3_1_1), b"\x20\x02\x00\x05");
        assert_eq!(encode(refused, Version::V5), b"\x20\x03\x00\x87\x00");
        let unsayable = ConnAck::new(ReasonCode::MalformedPacket);
        assert_eq!(encode(unsayable, Version::V3_1_1), b"");
    }

    #[test]
    fn every_property() {
        let connack = ConnAck {
            session_present: false,
            reason: ReasonCode::Success,
            session_expiry_s: Some(1),
            receive_maximum: Some(2),
            maximum_qos: QoS::AtLeastOnce,
            retain_available: false,
            maximum_packet_size: Some(3),
            assigned_client_id: Some("c"),
            topic_alias_maximum: 4,
            reason_string: Some("r"),
            wildcard_subscription_available: false,
            subscription_ids_available: false,
            shared_subscription_available: false,
            server_keep_alive_s: Some(5),
            response_information: Some("i"),
            server_reference: Some("s"),
        };
        let expected = [
            b"\x20\x30\x00\x00\x2D".as_slice(),
            b"\x11\x00\x00\x00\x01\x21\x00\x02\x24\x01\x27\x00\x00\x00\x03\x22\x00\x04\x13\x00\x05",
            b"\x25\x00\x28\x00\x29\x00\x2A\x00",
            b"\x12\x00\x01c\x1F\x00\x01r\x1A\x00\x01i\x1C\x00\x01s",
        ];
        assert_eq!(encode(connack, Version::V5), expected.concat());
    }
}
