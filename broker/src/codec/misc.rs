//! DISCONNECT and AUTH (3.14, 3.15), PINGRESP (3.13). PINGREQ has nothing in it to decode.

use super::primitives::{Reader, insert_length};
use super::properties::{Allowed, Property, PropertyReader, id, put_string_property};
use super::{DecodeError, Frame, ReasonCode, Version};

/// A client's DISCONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disconnect {
    /// Success before 5.0.
    pub reason: ReasonCode,
    /// In place of CONNECT's; may not be above 0 if that was 0, which the session checks.
    pub session_expiry_s: Option<u32>,
}

impl Disconnect {
    pub(super) fn decode(frame: &Frame<'_>, version: Version) -> Result<Disconnect, DecodeError> {
        let mut reader = Reader::new(frame.body);
        let mut disconnect = Disconnect { reason: ReasonCode::Success, session_expiry_s: None };
        if version == Version::V5 && !reader.is_empty() {
            let byte = reader.u8()?;
            disconnect.reason = ReasonCode::from_u8(byte)
                .filter(|&reason| may_client_disconnect(reason))
                .ok_or(DecodeError::ReasonCode(byte))?;
            if !reader.is_empty() {
                let mut properties = PropertyReader::new(reader.properties()?, Allowed::DISCONNECT);
                while let Some(property) = properties.read()? {
                    if let Property::SessionExpiry(seconds) = property {
                        disconnect.session_expiry_s = Some(seconds);
                    }
                }
            }
        }
        reader.finish()?;
        Ok(disconnect)
    }
}

/// Table 3-10, the rows a client sends.
fn may_client_disconnect(reason: ReasonCode) -> bool {
    matches!(
        reason,
        ReasonCode::Success
            | ReasonCode::DisconnectWithWill
            | ReasonCode::UnspecifiedError
            | ReasonCode::MalformedPacket
            | ReasonCode::ProtocolError
            | ReasonCode::ImplementationSpecificError
            | ReasonCode::TopicNameInvalid
            | ReasonCode::ReceiveMaximumExceeded
            | ReasonCode::TopicAliasInvalid
            | ReasonCode::PacketTooLarge
            | ReasonCode::MessageRateTooHigh
            | ReasonCode::QuotaExceeded
            | ReasonCode::AdministrativeAction
            | ReasonCode::PayloadFormatInvalid
    )
}

/// A client's AUTH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Auth<'a> {
    /// Continue authentication, or re-authenticate.
    pub reason: ReasonCode,
    /// To be CONNECT's, which the session checks.
    pub authentication_method: &'a str,
    /// What the method says.
    pub authentication_data: Option<&'a [u8]>,
}

impl<'a> Auth<'a> {
    pub(super) fn decode(frame: &Frame<'a>, version: Version) -> Result<Auth<'a>, DecodeError> {
        if version != Version::V5 {
            return Err(DecodeError::ReservedPacketType(frame.first_byte >> 4));
        }
        let mut reader = Reader::new(frame.body);
        if reader.is_empty() {
            // Success, which only servers send.
            return Err(DecodeError::ReasonCode(0));
        }
        let byte = reader.u8()?;
        let reason = match ReasonCode::from_u8(byte) {
            Some(reason @ (ReasonCode::ContinueAuthentication | ReasonCode::ReAuthenticate)) => reason,
            _ => return Err(DecodeError::ReasonCode(byte)),
        };
        let (mut method, mut data) = (None, None);
        let mut properties = PropertyReader::new(reader.properties()?, Allowed::AUTH);
        while let Some(property) = properties.read()? {
            match property {
                Property::AuthenticationMethod(value) => method = Some(value),
                Property::AuthenticationData(value) => data = Some(value),
                _ => {}
            }
        }
        reader.finish()?;
        Ok(Auth {
            reason,
            authentication_method: method.ok_or(DecodeError::AuthenticationMethod)?,
            authentication_data: data,
        })
    }
}

/// Appends a PINGRESP.
pub fn encode_pingresp(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xD0, 0]);
}

/// Appends a DISCONNECT, which a server has for 5.0 clients only: to others it just closes. Strings are at
/// most 65,535 bytes; `server_reference` goes with 0x9C and 0x9D.
pub fn encode_disconnect(
    out: &mut Vec<u8>,
    reason: ReasonCode,
    reason_string: Option<&str>,
    server_reference: Option<&str>,
) {
    out.push(0xE0);
    let body_at = out.len();
    out.push(reason.as_u8());
    let properties_at = out.len();
    if let Some(text) = reason_string {
        put_string_property(out, id::REASON_STRING, text);
    }
    if let Some(server) = server_reference {
        put_string_property(out, id::SERVER_REFERENCE, server);
    }
    if out.len() > properties_at {
        insert_length(out, properties_at);
    }
    insert_length(out, body_at);
}

#[cfg(test)]
mod tests {
    use super::{Auth, DecodeError, Disconnect, ReasonCode, Version, encode_disconnect, encode_pingresp};
    use crate::codec::tests::framed;

    fn disconnect(bytes: &[u8], version: Version) -> Result<Disconnect, DecodeError> {
        Disconnect::decode(&framed(bytes), version)
    }

    fn auth(bytes: &[u8]) -> Result<Auth<'_>, DecodeError> {
        Auth::decode(&framed(bytes), Version::V5)
    }

    #[test]
    fn disconnects() {
        let normal = Disconnect { reason: ReasonCode::Success, session_expiry_s: None };
        for version in [Version::V3_1, Version::V3_1_1, Version::V5] {
            assert_eq!(disconnect(b"\xE0\x00", version), Ok(normal));
        }
        let v5 = |bytes| disconnect(bytes, Version::V5);
        let with_will = Disconnect { reason: ReasonCode::DisconnectWithWill, ..normal };
        assert_eq!(v5(b"\xE0\x01\x04"), Ok(with_will));
        assert_eq!(v5(b"\xE0\x02\x04\x00"), Ok(with_will));
        let expiry = Disconnect { session_expiry_s: Some(60), ..normal };
        assert_eq!(v5(b"\xE0\x07\x00\x05\x11\x00\x00\x00\x3C"), Ok(expiry));
        assert_eq!(v5(b"\xE0\x01\x8B"), Err(DecodeError::ReasonCode(0x8B)), "a server's reason");
        assert_eq!(v5(b"\xE0\x01\x07"), Err(DecodeError::ReasonCode(7)));
        assert_eq!(v5(b"\xE0\x03\x00\x00\x00"), Err(DecodeError::LeftOver));
        assert_eq!(v5(b"\xE0\x05\x00\x03\x1C\x00\x00"), Err(DecodeError::PropertyNotAllowed(0x1C)));
        assert_eq!(disconnect(b"\xE0\x01\x00", Version::V3_1_1), Err(DecodeError::LeftOver));
    }

    #[test]
    fn every_reason_code_of_a_client_and_no_other() {
        let goodbyes = [0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99];
        for code in 0..=u8::MAX {
            let refused = Err(DecodeError::ReasonCode(code));
            let goodbye = disconnect(&[0xE0, 1, code], Version::V5).map(|packet| packet.reason.as_u8());
            assert_eq!(goodbye, if goodbyes.contains(&code) { Ok(code) } else { refused });
            let bytes = [0xF0, 6, code, 4, 0x15, 0, 1, b'm'];
            let step = auth(&bytes).map(|packet| packet.reason.as_u8());
            assert_eq!(step, if [0x18, 0x19].contains(&code) { Ok(code) } else { refused });
        }
    }

    #[test]
    fn auths() {
        let expected = Auth {
            reason: ReasonCode::ContinueAuthentication,
            authentication_method: "m",
            authentication_data: Some(&[0xFF]),
        };
        assert_eq!(auth(b"\xF0\x0A\x18\x08\x15\x00\x01m\x16\x00\x01\xFF"), Ok(expected));
        assert_eq!(auth(b"\xF0\x00"), Err(DecodeError::ReasonCode(0)));
        assert_eq!(auth(b"\xF0\x02\x00\x00"), Err(DecodeError::ReasonCode(0)));
        assert_eq!(auth(b"\xF0\x02\x19\x00"), Err(DecodeError::AuthenticationMethod));
        assert_eq!(auth(b"\xF0\x01\x18"), Err(DecodeError::Truncated));
        let left_over = auth(b"\xF0\x07\x18\x04\x15\x00\x01m\x00");
        assert_eq!(left_over, Err(DecodeError::LeftOver));
    }

    #[test]
    fn what_a_server_sends() {
        let mut out = Vec::new();
        encode_pingresp(&mut out);
        encode_disconnect(&mut out, ReasonCode::SessionTakenOver, None, None);
        encode_disconnect(&mut out, ReasonCode::ServerMoved, Some("x"), Some("s:1"));
        let expected = [b"\xD0\x00".as_slice(), b"\xE0\x01\x8E", b"\xE0\x0C\x9D\x0A\x1F\x00\x01x\x1C\x00\x03s:1"];
        assert_eq!(out, expected.concat());
    }
}
