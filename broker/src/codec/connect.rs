//! CONNECT (3.1): the first packet, and the only one that says which version it is.

use super::primitives::Reader;
use super::properties::{Allowed, Property, PropertyReader, PublishProperties};
use super::topic::validate_topic_name;
use super::{DecodeError, Frame, PacketType, QoS, Version};

const RESERVED: u8 = 0x01;
const CLEAN_START: u8 = 0x02;
const WILL: u8 = 0x04;
const WILL_QOS: u8 = 0x18;
const WILL_RETAIN: u8 = 0x20;
const PASSWORD: u8 = 0x40;
const USERNAME: u8 = 0x80;

/// What a client wants of the connection. Before 5.0 the fields of 5.0 have the values that mean the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect<'a> {
    /// Spoken from here on.
    pub version: Version,
    /// Empty if the server is to choose one; never in 3.1, in 3.1.1 only with `clean_start`.
    pub client_id: &'a str,
    /// 0: off.
    pub keep_alive_s: u16,
    /// Begin without the old session.
    pub clean_start: bool,
    /// To be published when the client is lost.
    pub will: Option<Will<'a>>,
    /// As sent.
    pub username: Option<&'a str>,
    /// Any bytes.
    pub password: Option<&'a [u8]>,
    /// How long the session outlives the connection; `u32::MAX` is for ever. Before 5.0 0 with clean
    /// session, for ever without (3.1.2.11.2).
    pub session_expiry_s: u32,
    /// QoS 1 and 2 messages the client takes unacknowledged; not 0.
    pub receive_maximum: u16,
    /// In bytes, fixed header included; not 0.
    pub maximum_packet_size: Option<u32>,
    /// Aliases the server may use.
    pub topic_alias_maximum: u16,
    /// The client would like response information in CONNACK.
    pub request_response_information: bool,
    /// Whether reason strings may stand in other packets than CONNACK, DISCONNECT and PUBLISH.
    pub request_problem_information: bool,
    /// Of enhanced authentication.
    pub authentication_method: Option<&'a str>,
    /// Only with a method.
    pub authentication_data: Option<&'a [u8]>,
}

/// The will.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Will<'a> {
    /// A valid topic name.
    pub topic: &'a str,
    /// Any bytes, or none.
    pub payload: &'a [u8],
    /// To publish with.
    pub qos: QoS,
    /// To publish with.
    pub retain: bool,
    /// From the loss of the connection to publishing.
    pub delay_s: u32,
    /// Without topic alias.
    pub properties: PublishProperties<'a>,
}

/// The version that a CONNECT asks for, also when the rest of it is bad: the refusal has to be encoded in it.
pub fn connect_version(frame: &Frame<'_>) -> Result<Version, DecodeError> {
    read_version(frame).map(|(version, _)| version)
}

fn read_version<'a>(frame: &Frame<'a>) -> Result<(Version, Reader<'a>), DecodeError> {
    if frame.packet_type != PacketType::Connect {
        return Err(DecodeError::NotConnect);
    }
    let mut reader = Reader::new(frame.body);
    let name = reader.binary()?;
    let level = reader.u8()?;
    let version = match (name, level) {
        (b"MQIsdp", 3) => Version::V3_1,
        (b"MQTT", 4) => Version::V3_1_1,
        (b"MQTT", 5) => Version::V5,
        _ => {
            // Mosquitto's bridges set the level's high bit, and fall back when refused in their version.
            let speaks_5 = name == b"MQTT" && level & 0x7F >= 5;
            let answer_in = if speaks_5 { Version::V5 } else { Version::V3_1_1 };
            return Err(DecodeError::UnsupportedProtocol { level, answer_in });
        }
    };
    Ok((version, reader))
}

/// What the flags may not say. 3.1 has no use for the reserved bit, and disregards the will's bits without a
/// will.
fn check_flags(flags: u8, version: Version) -> Result<(), DecodeError> {
    let will_bits_alone = flags & WILL == 0 && flags & (WILL_QOS | WILL_RETAIN) != 0;
    let password_alone = flags & PASSWORD != 0 && flags & USERNAME == 0;
    let bad = version != Version::V3_1 && (flags & RESERVED != 0 || will_bits_alone)
        || version != Version::V5 && password_alone;
    if bad { Err(DecodeError::ConnectFlags(flags)) } else { Ok(()) }
}

impl<'a> Connect<'a> {
    /// Decodes the first frame of a connection, of whatever type it is.
    pub fn decode(frame: &Frame<'a>) -> Result<Connect<'a>, DecodeError> {
        let (version, mut reader) = read_version(frame)?;
        frame.check_length(version)?;
        let flags = reader.u8()?;
        check_flags(flags, version)?;
        let clean_start = flags & CLEAN_START != 0;
        let keep_alive_s = reader.u16()?;
        let mut connect = Connect::plain(version, clean_start, keep_alive_s);
        if version == Version::V5 {
            connect.read_properties(reader.properties()?)?;
        }
        connect.client_id = reader.string()?;
        let id_needed = version == Version::V3_1 || version == Version::V3_1_1 && !clean_start;
        if connect.client_id.is_empty() && id_needed {
            return Err(DecodeError::ClientIdentifier);
        }
        if flags & WILL != 0 {
            connect.will = Some(Will::read(&mut reader, flags, version)?);
        }
        // In 3.1 the end of the packet overrules these two flags.
        let missing = |reader: &Reader<'_>| version == Version::V3_1 && reader.is_empty();
        if flags & USERNAME != 0 && !missing(&reader) {
            connect.username = Some(reader.string()?);
        }
        if flags & PASSWORD != 0 && !missing(&reader) {
            connect.password = Some(reader.binary()?);
        }
        reader.finish()?;
        Ok(connect)
    }

    /// With the value of each property that is absent.
    fn plain(version: Version, clean_start: bool, keep_alive_s: u16) -> Connect<'a> {
        Connect {
            version,
            client_id: "",
            keep_alive_s,
            clean_start,
            will: None,
            username: None,
            password: None,
            session_expiry_s: if version == Version::V5 || clean_start { 0 } else { u32::MAX },
            receive_maximum: u16::MAX,
            maximum_packet_size: None,
            topic_alias_maximum: 0,
            request_response_information: false,
            request_problem_information: true,
            authentication_method: None,
            authentication_data: None,
        }
    }

    fn read_properties(&mut self, raw: &'a [u8]) -> Result<(), DecodeError> {
        let mut properties = PropertyReader::new(raw, Allowed::CONNECT);
        while let Some(property) = properties.read()? {
            match property {
                Property::SessionExpiry(value) => self.session_expiry_s = value,
                Property::ReceiveMaximum(value) => self.receive_maximum = value,
                Property::MaximumPacketSize(value) => self.maximum_packet_size = Some(value),
                Property::TopicAliasMaximum(value) => self.topic_alias_maximum = value,
                Property::RequestResponseInformation(value) => {
                    self.request_response_information = value;
                }
                Property::RequestProblemInformation(value) => {
                    self.request_problem_information = value;
                }
                Property::AuthenticationMethod(value) => self.authentication_method = Some(value),
                Property::AuthenticationData(value) => self.authentication_data = Some(value),
                // User properties have no meaning here (3.1.2.11.8); nothing else gets this far.
                _ => {}
            }
        }
        if self.authentication_data.is_some() && self.authentication_method.is_none() {
            return Err(DecodeError::AuthenticationData);
        }
        Ok(())
    }
}

impl<'a> Will<'a> {
    fn read(reader: &mut Reader<'a>, flags: u8, version: Version) -> Result<Will<'a>, DecodeError> {
        let qos = QoS::from_bits((flags & WILL_QOS) >> 3).ok_or(DecodeError::ConnectFlags(flags))?;
        let mut properties = PublishProperties::default();
        let mut delay_s = 0;
        if version == Version::V5 {
            (properties, delay_s) = PublishProperties::read(reader.properties()?, Allowed::WILL)?;
        }
        let topic = reader.string()?;
        validate_topic_name(topic)?;
        let payload = reader.binary()?;
        Ok(Will { topic, payload, qos, retain: flags & WILL_RETAIN != 0, delay_s, properties })
    }
}

#[cfg(test)]
mod tests {
    use super::{Connect, DecodeError, QoS, Version, connect_version};
    use crate::codec::tests::framed;

    fn decode(parts: &[&[u8]]) -> Result<Connect<'static>, DecodeError> {
        let body = parts.concat();
        let packet = [&[0x10, u8::try_from(body.len()).unwrap()], &body[..]].concat();
        Connect::decode(&framed(packet.leak()))
    }

    const MQISDP_3: &[u8] = b"\x00\x06MQIsdp\x03";
    const MQTT_4: &[u8] = b"\x00\x04MQTT\x04";
    const MQTT_5: &[u8] = b"\x00\x04MQTT\x05";

    #[test]
    fn the_least_of_each_version() {
        let v3_1 = decode(&[MQISDP_3, b"\x02\x00\x3C\x00\x01c"]).unwrap();
        assert_eq!(v3_1, Connect { client_id: "c", ..Connect::plain(Version::V3_1, true, 60) });
        let v3_1_1 = decode(&[MQTT_4, b"\x00\x00\x3C\x00\x01c"]).unwrap();
        assert_eq!(v3_1_1, Connect { client_id: "c", ..Connect::plain(Version::V3_1_1, false, 60) });
        assert_eq!((v3_1.session_expiry_s, v3_1_1.session_expiry_s), (0, u32::MAX));
        let v5 = decode(&[MQTT_5, b"\x00\x00\x00\x00\x00\x00"]).unwrap();
        assert_eq!(v5, Connect::plain(Version::V5, false, 0));
        assert_eq!((v5.session_expiry_s, v5.receive_maximum), (0, 65_535));
        assert!(v5.request_problem_information && !v5.request_response_information);
    }

    #[test]
    fn everything_in_3_1_1() {
        let fields = b"\x00\x01c\x00\x03w/t\x00\x02\xFF\x00\x00\x01u\x00\x01\xFE";
        let connect = decode(&[MQTT_4, b"\xF6\x00\x0A", fields]).unwrap();
        let will = connect.will.unwrap();
        assert_eq!((will.topic, will.payload), ("w/t", &[0xFF, 0][..]));
        assert_eq!((will.qos, will.retain, will.delay_s), (QoS::ExactlyOnce, true, 0));
        assert_eq!((connect.username, connect.password), (Some("u"), Some(&[0xFE][..])));
    }

    #[test]
    fn everything_in_version_5() {
        let connect = decode(&[
            MQTT_5,
            b"\x46\x00\x0A\x23",
            b"\x11\x00\x00\x00\x01\x21\x00\x02\x27\x00\x00\x00\x03\x22\x00\x04\x19\x01\x17\x00",
            b"\x26\x00\x01a\x00\x01b\x15\x00\x01m\x16\x00\x01d",
            b"\x00\x01c",
            b"\x13\x18\x00\x00\x00\x05\x02\x00\x00\x00\x06\x01\x01\x26\x00\x01x\x00\x01y",
            b"\x00\x01w\x00\x00",
            b"\x00\x01p",
        ])
        .unwrap();
        assert_eq!((connect.session_expiry_s, connect.receive_maximum), (1, 2));
        assert_eq!((connect.maximum_packet_size, connect.topic_alias_maximum), (Some(3), 4));
        assert!(connect.request_response_information && !connect.request_problem_information);
        assert_eq!(connect.authentication_method, Some("m"));
        assert_eq!(connect.authentication_data, Some(&b"d"[..]));
        assert_eq!((connect.username, connect.password), (None, Some(&b"p"[..])));
        let will = connect.will.unwrap();
        assert_eq!((will.delay_s, will.properties.message_expiry_s), (5, Some(6)));
        assert!(will.properties.user_properties().eq([("x", "y")]));
        let forwarded = will.properties.forwardable();
        assert_eq!(forwarded.as_ref(), b"\x01\x01\x26\x00\x01x\x00\x01y", "delay and expiry cut off");
    }

    #[test]
    fn unknown_protocols_say_how_to_answer() {
        let cases: [(&[u8], u8, Version); 5] = [
            (b"\x00\x04MQTT", 6, Version::V5),
            (b"\x00\x04MQTT", 3, Version::V3_1_1),
            (b"\x00\x04MQTT", 0x84, Version::V3_1_1),
            (b"\x00\x06MQIsdp", 4, Version::V3_1_1),
            (b"\x00\x04mqtt", 5, Version::V3_1_1),
        ];
        for (name, level, answer_in) in cases {
            let error = DecodeError::UnsupportedProtocol { level, answer_in };
            assert_eq!(decode(&[name, &[level]]), Err(error));
        }
        assert_eq!(Connect::decode(&framed(b"\xC0\x00")), Err(DecodeError::NotConnect));
    }

    #[test]
    fn the_version_is_known_although_the_rest_is_bad() {
        let frame = framed(b"\x10\x08\x00\x04MQTT\x05\x01");
        assert_eq!(connect_version(&frame), Ok(Version::V5));
        assert_eq!(Connect::decode(&frame), Err(DecodeError::ConnectFlags(1)));
    }

    #[test]
    fn flags_that_contradict() {
        let flags = |version: &[u8], flags: u8| decode(&[version, &[flags]]).map(|_| ());
        let refused = |flags| Err(DecodeError::ConnectFlags(flags));
        for bad in [0x01, 0x08, 0x10, 0x20] {
            assert_eq!(flags(MQTT_4, bad), refused(bad));
            assert_eq!(flags(MQTT_5, bad), refused(bad));
            assert_eq!(flags(MQISDP_3, bad), Err(DecodeError::Truncated), "no matter in 3.1");
        }
        assert_eq!(flags(MQTT_4, 0x40), refused(0x40));
        assert_eq!(flags(MQISDP_3, 0x40), refused(0x40));
        assert_eq!(flags(MQTT_5, 0x40), Err(DecodeError::Truncated), "allowed in 5.0");
        let will_qos_3 = decode(&[MQTT_4, b"\x1C\x00\x00\x00\x01c\x00\x01w\x00\x00"]);
        assert_eq!(will_qos_3, Err(DecodeError::ConnectFlags(0x1C)));
    }

    #[test]
    fn empty_client_identifiers() {
        let empty = |version: &[u8], flags: u8| decode(&[version, &[flags, 0, 0, 0, 0]]).map(|_| ());
        assert_eq!(empty(MQISDP_3, 2), Err(DecodeError::ClientIdentifier));
        assert_eq!(empty(MQTT_4, 0), Err(DecodeError::ClientIdentifier));
        assert_eq!(empty(MQTT_4, 2), Ok(()));
    }

    #[test]
    fn ends_too_early_or_too_late() {
        let user = |version: &[u8]| decode(&[version, b"\xC2\x00\x00\x00\x01c"]).map(|c| c.username);
        assert_eq!(user(MQTT_4), Err(DecodeError::Truncated));
        assert_eq!(user(MQISDP_3), Ok(None), "as 3.1 allows");
        let more = decode(&[MQTT_4, b"\x02\x00\x00\x00\x01c!"]);
        assert_eq!(more, Err(DecodeError::LeftOver));
        let will_topic = decode(&[MQTT_4, b"\x06\x00\x00\x00\x01c\x00\x01+\x00\x00"]);
        assert_eq!(will_topic, Err(DecodeError::TopicName));
        let data_alone = decode(&[MQTT_5, b"\x02\x00\x00\x03\x16\x00\x00\x00\x01c"]);
        assert_eq!(data_alone, Err(DecodeError::AuthenticationData));
    }
}
