//! What is wrong with a packet. Always the client's fault.

use super::{ReasonCode, Version};

/// Why a packet was refused. The connection is to be closed; 5.0 clients are told [`DecodeError::reason`]
/// first. Section and statement numbers are MQTT 5.0's unless the text says otherwise.
///
/// Malformed Packet is what cannot be read as the standard has it, Protocol Error what is read and must not be
/// said (1.2, 4.13.1); where a section names one of them, it is that one. Topic Name invalid and Topic Filter
/// invalid are not for wildcards out of place: what these refuse is "correctly formed" (2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Packet type 0, or 15 before 5.0.
    #[error("reserved packet type {0} [2.1.2]")]
    ReservedPacketType(u8),
    /// The low four bits of the first byte.
    #[error("first byte {0:#04x} has reserved flags set [MQTT-2.1.3-1]")]
    FixedHeaderFlags(u8),
    /// More than four bytes.
    #[error("Remaining Length takes more than four bytes [1.5.5]")]
    RemainingLength,
    /// Above the Maximum Packet Size given to the client.
    #[error("packet of {length} bytes, at most {limit} are accepted [MQTT-3.2.2-15]")]
    PacketTooLarge {
        /// Fixed header included.
        length: u32,
        /// What was given.
        limit: u32,
    },
    /// A field runs past the end of the packet, or of its properties.
    #[error("packet ends inside a field [2.1.4, 2.2.2.1]")]
    Truncated,
    /// Bytes behind the last field.
    #[error("packet goes on after its last field [2.1.4]")]
    LeftOver,
    /// More than four bytes, or more than needed.
    #[error("variable byte integer not in its shortest form, or longer than four bytes [MQTT-1.5.5-1]")]
    VariableByteInteger,
    /// Ill-formed, surrogates included.
    #[error("string is not UTF-8 [MQTT-1.5.4-1]")]
    Utf8,
    /// U+0000 in a string.
    #[error("string holds U+0000 [MQTT-1.5.4-2]")]
    Nul,
    /// The first packet is something else.
    #[error("first packet is not CONNECT [MQTT-3.1.0-1]")]
    NotConnect,
    /// A second one.
    #[error("second CONNECT on a connection [MQTT-3.1.0-2]")]
    SecondConnect,
    /// Only servers send this packet.
    #[error("packet type {0} is sent by servers only [2.1.2]")]
    ServerPacket(u8),
    /// Protocol name or level unknown.
    #[error("unknown protocol name or level {level} [MQTT-3.1.2-1, MQTT-3.1.2-2]")]
    UnsupportedProtocol {
        /// As sent.
        level: u8,
        /// In which form such a client understands the refusing CONNACK.
        answer_in: Version,
    },
    /// Reserved bit, will bits without will, will QoS 3, or (before 5.0) a password without user name.
    #[error("connect flags {0:#04x} contradict each other or the standard [3.1.2.3 to 3.1.2.9]")]
    ConnectFlags(u8),
    /// Empty in 3.1, or in 3.1.1 with clean session 0.
    #[error("empty client identifier where one is needed [MQTT 3.1, 3.1; MQTT 3.1.1, MQTT-3.1.3-8]")]
    ClientIdentifier,
    /// QoS bits 11.
    #[error("QoS 3 [MQTT-3.3.1-4]")]
    QoS3,
    /// DUP on a QoS 0 message.
    #[error("DUP set at QoS 0 [MQTT-3.3.1-2]")]
    DupAtQoS0,
    /// Packet identifier 0.
    #[error("packet identifier 0 [MQTT-2.2.1-3]")]
    PacketIdZero,
    /// Empty, too long, or with wildcards.
    #[error("topic name empty, too long or with wildcards [MQTT-4.7.0-1, MQTT-4.7.3-1, MQTT-4.7.3-3]")]
    TopicName,
    /// Neither topic name nor alias.
    #[error("PUBLISH with neither topic name nor topic alias [3.3.2.1]")]
    TopicMissing,
    /// Alias 0.
    #[error("topic alias 0 [MQTT-3.3.2-8]")]
    TopicAliasZero,
    /// Ill-formed.
    #[error(
        "topic filter empty, too long or with misplaced wildcards [MQTT-4.7.1-1, MQTT-4.7.1-2, MQTT-4.7.3-1, MQTT-4.7.3-3]"
    )]
    TopicFilter,
    /// `$share/…` that is not `$share/{name}/{filter}`.
    #[error("shared subscription is not $share/name/filter [MQTT-4.8.2-1, MQTT-4.8.2-2]")]
    SharedFilter,
    /// No Local and `$share/`.
    #[error("No Local on a shared subscription [MQTT-3.8.3-4]")]
    NoLocalOnShared,
    /// Reserved bits, or (before 5.0) bits of 5.0.
    #[error("subscription options {0:#04x} have reserved bits set [MQTT-3.8.3-5]")]
    SubscriptionOptionsReserved(u8),
    /// QoS 3 or retain handling 3.
    #[error("subscription options {0:#04x} ask for QoS 3 or retain handling 3 [3.8.3.1]")]
    SubscriptionOptions(u8),
    /// SUBSCRIBE or UNSUBSCRIBE without filters.
    #[error("no topic filter [MQTT-3.8.3-2, MQTT-3.10.3-2]")]
    NoFilters,
    /// Unknown, or not for this packet.
    #[error("property {0:#04x} does not belong to this packet [2.2.2.2]")]
    PropertyNotAllowed(u8),
    /// More than once.
    #[error("property {0:#04x} occurs twice [3.1.2.11, 3.3.2.3 and the like]")]
    PropertyTwice(u8),
    /// Outside what the standard lists.
    #[error("property {0:#04x} has a value the standard does not allow [3.1.2.11, 3.3.2.3, 3.8.2.1]")]
    PropertyValue(u8),
    /// A subscription identifier in a client's PUBLISH.
    #[error("subscription identifier in a client's PUBLISH [MQTT-3.3.4-6]")]
    SubscriptionIdFromClient,
    /// Data without method.
    #[error("authentication data without authentication method [3.1.2.11.10]")]
    AuthenticationData,
    /// AUTH without method.
    #[error("AUTH without authentication method [3.15.2.2.2]")]
    AuthenticationMethod,
    /// Unknown, or not for a client to send in this packet.
    #[error("reason code {0:#04x} does not belong in this packet from a client [2.4, MQTT-3.4.2-1, MQTT-3.14.2-1]")]
    ReasonCode(u8),
}

impl DecodeError {
    /// What a 5.0 client is told, in CONNACK or DISCONNECT.
    pub fn reason(&self) -> ReasonCode {
        match self {
            DecodeError::ReservedPacketType(_)
            | DecodeError::FixedHeaderFlags(_)
            | DecodeError::RemainingLength
            | DecodeError::Truncated
            | DecodeError::LeftOver
            | DecodeError::VariableByteInteger
            | DecodeError::Utf8
            | DecodeError::Nul
            | DecodeError::ConnectFlags(_)
            | DecodeError::QoS3
            | DecodeError::DupAtQoS0
            | DecodeError::TopicName
            | DecodeError::TopicFilter
            | DecodeError::SharedFilter
            | DecodeError::SubscriptionOptionsReserved(_)
            | DecodeError::PropertyNotAllowed(_) => ReasonCode::MalformedPacket,
            DecodeError::NotConnect
            | DecodeError::SecondConnect
            | DecodeError::ServerPacket(_)
            | DecodeError::PacketIdZero
            | DecodeError::TopicMissing
            | DecodeError::NoLocalOnShared
            | DecodeError::SubscriptionOptions(_)
            | DecodeError::NoFilters
            | DecodeError::PropertyTwice(_)
            | DecodeError::PropertyValue(_)
            | DecodeError::SubscriptionIdFromClient
            | DecodeError::AuthenticationData
            | DecodeError::AuthenticationMethod
            | DecodeError::ReasonCode(_) => ReasonCode::ProtocolError,
            DecodeError::PacketTooLarge { .. } => ReasonCode::PacketTooLarge,
            DecodeError::UnsupportedProtocol { .. } => ReasonCode::UnsupportedProtocolVersion,
            DecodeError::ClientIdentifier => ReasonCode::ClientIdentifierNotValid,
            DecodeError::TopicAliasZero => ReasonCode::TopicAliasInvalid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{DecodeError, ReasonCode, Version};

    #[test]
    fn what_a_client_is_told() {
        let answer_in = Version::V5;
        let cases = [
            (DecodeError::Truncated, 0x81),
            (DecodeError::Utf8, 0x81),
            (DecodeError::QoS3, 0x81),
            (DecodeError::PropertyNotAllowed(0x1F), 0x81),
            (DecodeError::PropertyTwice(0x1F), 0x82),
            (DecodeError::PacketIdZero, 0x82),
            (DecodeError::TopicMissing, 0x82),
            (DecodeError::SubscriptionIdFromClient, 0x82),
            (DecodeError::UnsupportedProtocol { level: 6, answer_in }, 0x84),
            (DecodeError::ClientIdentifier, 0x85),
            (DecodeError::TopicFilter, 0x81),
            (DecodeError::SharedFilter, 0x81),
            (DecodeError::TopicName, 0x81),
            (DecodeError::TopicAliasZero, 0x94),
            (DecodeError::PacketTooLarge { length: 2, limit: 1 }, 0x95),
        ];
        for (error, reason) in cases {
            assert_eq!(Some(error.reason()), ReasonCode::from_u8(reason), "{error}");
        }
    }

    #[test]
    fn every_statement_that_is_cited_is_one() {
        let of = |table: &'static str| table.lines().filter_map(|line| line.split('\t').next());
        let v5 = of(include_str!("../../../tests/conformance/mqtt5-statements.tsv"));
        let v3_1_1 = of(include_str!("../../../tests/conformance/mqtt311-statements.tsv"));
        let known: std::collections::HashSet<_> = v5.chain(v3_1_1).collect();
        let is_number = |character: char| character.is_ascii_digit() || ".-".contains(character);
        let here = include_str!("error.rs").split("MQTT-").skip(1);
        let mut cited = 0;
        for rest in here.filter(|rest| rest.starts_with(|first: char| first.is_ascii_digit())) {
            let number = rest.split(|character| !is_number(character)).next().unwrap_or_default();
            assert!(known.contains(&*format!("MQTT-{number}")), "MQTT-{number}");
            cited += 1;
        }
        assert!(cited > 20);
    }
}
