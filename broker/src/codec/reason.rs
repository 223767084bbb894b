//! Reason codes (MQTT 5.0, 2.4) and what they are as CONNACK return codes of 3.1 and 3.1.1.

macro_rules! reason_codes {
    ($($(#[$doc:meta])* $name:ident = $value:literal,)*) => {
        /// Why something succeeded or failed, in MQTT 5.0's numbers.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum ReasonCode {
            $($(#[$doc])* $name = $value,)*
        }

        impl ReasonCode {
            /// From the wire; `None` for a number the standard does not assign.
            pub fn from_u8(value: u8) -> Option<ReasonCode> {
                match value {
                    $($value => Some(ReasonCode::$name),)*
                    _ => None,
                }
            }

            /// All of them.
            #[cfg(test)]
            pub(super) const ALL: &'static [ReasonCode] = &[$(ReasonCode::$name,)*];
        }
    };
}

reason_codes! {
    /// Also: normal disconnection, granted QoS 0.
    Success = 0x00,
    /// SUBACK.
    GrantedQoS1 = 0x01,
    /// SUBACK.
    GrantedQoS2 = 0x02,
    /// DISCONNECT, client: publish my will all the same.
    DisconnectWithWill = 0x04,
    /// PUBACK, PUBREC, server: accepted, but nobody subscribes.
    NoMatchingSubscribers = 0x10,
    /// UNSUBACK.
    NoSubscriptionExisted = 0x11,
    /// AUTH.
    ContinueAuthentication = 0x18,
    /// AUTH, client.
    ReAuthenticate = 0x19,
    /// The sender does not say why.
    UnspecifiedError = 0x80,
    /// Bytes that are not MQTT.
    MalformedPacket = 0x81,
    /// Well-formed, but not allowed here or now.
    ProtocolError = 0x82,
    /// Valid, but not accepted by this receiver.
    ImplementationSpecificError = 0x83,
    /// CONNACK.
    UnsupportedProtocolVersion = 0x84,
    /// CONNACK.
    ClientIdentifierNotValid = 0x85,
    /// CONNACK.
    BadUserNameOrPassword = 0x86,
    /// The client may not do this.
    NotAuthorized = 0x87,
    /// CONNACK.
    ServerUnavailable = 0x88,
    /// The server cannot serve now; try later.
    ServerBusy = 0x89,
    /// CONNACK.
    Banned = 0x8A,
    /// DISCONNECT.
    ServerShuttingDown = 0x8B,
    /// The authentication method is unknown or not the connection's.
    BadAuthenticationMethod = 0x8C,
    /// DISCONNECT: nothing heard for one and a half keep-alives.
    KeepAliveTimeout = 0x8D,
    /// DISCONNECT: another connection uses this client identifier.
    SessionTakenOver = 0x8E,
    /// The topic filter is not accepted.
    TopicFilterInvalid = 0x8F,
    /// The topic name is not accepted.
    TopicNameInvalid = 0x90,
    /// The packet identifier is in use already.
    PacketIdentifierInUse = 0x91,
    /// PUBREL, PUBCOMP.
    PacketIdentifierNotFound = 0x92,
    /// DISCONNECT.
    ReceiveMaximumExceeded = 0x93,
    /// DISCONNECT: alias 0, above the maximum, or never set.
    TopicAliasInvalid = 0x94,
    /// Longer than the receiver's Maximum Packet Size.
    PacketTooLarge = 0x95,
    /// DISCONNECT.
    MessageRateTooHigh = 0x96,
    /// A limit of the receiver is reached.
    QuotaExceeded = 0x97,
    /// DISCONNECT.
    AdministrativeAction = 0x98,
    /// The payload is not what its format indicator says.
    PayloadFormatInvalid = 0x99,
    /// The server keeps no retained messages.
    RetainNotSupported = 0x9A,
    /// Above the server's Maximum QoS.
    QoSNotSupported = 0x9B,
    /// For now.
    UseAnotherServer = 0x9C,
    /// For good.
    ServerMoved = 0x9D,
    /// The server has no shared subscriptions.
    SharedSubscriptionsNotSupported = 0x9E,
    /// Too many connections in too short a time.
    ConnectionRateExceeded = 0x9F,
    /// DISCONNECT.
    MaximumConnectTime = 0xA0,
    /// The server has no subscription identifiers.
    SubscriptionIdentifiersNotSupported = 0xA1,
    /// The server has no wildcard subscriptions.
    WildcardSubscriptionsNotSupported = 0xA2,
}

impl ReasonCode {
    /// The wire's number.
    #[inline]
    pub fn as_u8(self) -> u8 {
        self as u8
    }

    /// 0x80 and above are failures.
    #[inline]
    pub fn is_error(self) -> bool {
        self.as_u8() >= 0x80
    }

    /// The CONNACK return code of 3.1 and 3.1.1, if one says the same. If none does, those versions close
    /// the connection without a CONNACK (3.1.1, 3.2.2.3).
    pub fn as_v3_return_code(self) -> Option<u8> {
        match self {
            ReasonCode::Success => Some(0),
            ReasonCode::UnsupportedProtocolVersion => Some(1),
            ReasonCode::ClientIdentifierNotValid => Some(2),
            ReasonCode::ServerUnavailable
            | ReasonCode::ServerBusy
            | ReasonCode::QuotaExceeded
            | ReasonCode::ConnectionRateExceeded
            | ReasonCode::UseAnotherServer
            | ReasonCode::ServerMoved => Some(3),
            ReasonCode::BadUserNameOrPassword => Some(4),
            ReasonCode::NotAuthorized | ReasonCode::Banned => Some(5),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ReasonCode;

    #[test]
    fn every_code_survives_the_wire_and_no_other_number_is_one() {
        assert_eq!(ReasonCode::ALL.len(), 43);
        let known = (0..=u8::MAX).filter_map(ReasonCode::from_u8);
        assert!(known.eq(ReasonCode::ALL.iter().copied()));
        for code in ReasonCode::ALL {
            assert_eq!(ReasonCode::from_u8(code.as_u8()), Some(*code));
            assert_eq!(code.is_error(), code.as_u8() & 0x80 != 0);
        }
    }

    #[test]
    fn return_codes_of_3_1_1() {
        let code = ReasonCode::as_v3_return_code;
        assert_eq!(code(ReasonCode::Success), Some(0));
        assert_eq!(code(ReasonCode::UnsupportedProtocolVersion), Some(1));
        assert_eq!(code(ReasonCode::ClientIdentifierNotValid), Some(2));
        assert_eq!(code(ReasonCode::ServerUnavailable), Some(3));
        assert_eq!(code(ReasonCode::BadUserNameOrPassword), Some(4));
        assert_eq!(code(ReasonCode::NotAuthorized), Some(5));
        assert_eq!(code(ReasonCode::MalformedPacket), None);
    }
}
