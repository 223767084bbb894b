//! Properties of the whole codec: round trips over [`mirror`](super::mirror), and bytes that are not MQTT.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::mirror::{self, Value};
use super::properties::Allowed;
use super::{
    Auth, ConnAck, Connect, Disconnect, Frame, MAX_PACKET_SIZE, OutgoingPublish, Packet, Publish, PublishProperties,
    QoS, ReasonCode, RetainHandling, Subscription, Version, Will, encode_disconnect, encode_suback, encode_unsuback,
    frame, topic,
};

const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];

/// The one packet that `bytes` are.
pub fn framed(bytes: &[u8]) -> Frame<'_> {
    let found = frame(bytes, MAX_PACKET_SIZE).unwrap().expect("whole");
    assert_eq!(found.length, bytes.len(), "as long as it says");
    found
}

pub fn text() -> impl Strategy<Value = String> {
    "[a-z0-9 #+/é€𝄞\u{1}]{0,12}"
}

pub fn name() -> impl Strategy<Value = String> {
    "[a-z/$é€𝄞]{1,24}"
}

pub fn filter() -> impl Strategy<Value = String> {
    let level = prop_oneof!["[a-zé]{0,4}", Just("+".to_owned())];
    let share = prop_oneof![Just(""), Just("$share/group/")];
    (share, vec(level, 1..4), any::<bool>()).prop_map(|(share, levels, all)| {
        let tail = if all { "/#" } else { "" };
        // The leading letter keeps it from being empty.
        format!("{share}x/{}{tail}", levels.join("/"))
    })
}

pub fn data() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..12)
}

pub fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 0..300), vec(any::<u8>(), 16_300..16_500)]
}

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V3_1), Just(Version::V3_1_1), Just(Version::V5)]
}

pub fn qos() -> impl Strategy<Value = QoS> {
    prop_oneof![Just(QoS::AtMostOnce), Just(QoS::AtLeastOnce), Just(QoS::ExactlyOnce)]
}

fn reason() -> impl Strategy<Value = ReasonCode> {
    proptest::sample::select(ReasonCode::ALL)
}

/// What describes a message, as generated.
#[derive(Clone, Debug)]
struct Message {
    /// Encoded, in any order.
    raw: Vec<u8>,
    /// The same without what is not forwarded.
    forwarded: Vec<u8>,
    payload_format_indicator: Option<u8>,
    message_expiry_s: Option<u32>,
    content_type: Option<String>,
    response_topic: Option<String>,
    correlation_data: Option<Vec<u8>>,
    users: Vec<(String, String)>,
    /// Topic alias, or the will delay.
    last: Option<u32>,
}

impl Message {
    fn check(&self, properties: &PublishProperties<'_>) {
        assert_eq!(properties.payload_format_indicator, self.payload_format_indicator);
        assert_eq!(properties.content_type, self.content_type.as_deref());
        assert_eq!(properties.response_topic, self.response_topic.as_deref());
        assert_eq!(properties.correlation_data, self.correlation_data.as_deref());
        let users = self.users.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        assert!(properties.user_properties().eq(users));
    }
}

/// `last`: the encoding of a topic alias or a will delay.
fn message(last: fn(u32) -> Vec<u8>) -> impl Strategy<Value = Message> {
    let fields = (
        option::of(0..=1_u8),
        option::of(any::<u32>()),
        option::of(text()),
        option::of(name()),
        option::of(data()),
        vec((text(), text()), 0..3),
        option::of(1..=65_535_u32),
    );
    (fields, any::<[u8; 6]>()).prop_map(move |(fields, order)| {
        let (indicator, expiry, content_type, response_topic, correlation_data, users, number) = fields;
        let tagged = |id: u8, bytes: Vec<u8>| [&[id], &bytes[..]].concat();
        let user = |(name, value): &(String, String)| {
            tagged(0x26, [mirror::binary(name.as_bytes()), mirror::binary(value.as_bytes())].concat())
        };
        // (where it stands, whether it is forwarded, its bytes)
        let mut parts = vec![
            (order[0], true, indicator.map(|byte| vec![1, byte])),
            (order[1], false, expiry.map(|s| tagged(2, s.to_be_bytes().to_vec()))),
            (order[2], true, content_type.as_ref().map(|t| tagged(3, mirror::binary(t.as_bytes())))),
            (order[3], true, response_topic.as_ref().map(|t| tagged(8, mirror::binary(t.as_bytes())))),
            (order[4], true, correlation_data.as_ref().map(|d| tagged(9, mirror::binary(d)))),
            (order[5], false, number.map(last)),
        ];
        parts.extend(users.iter().map(|pair| (order[0], true, Some(user(pair)))));
        parts.sort_by_key(|(at, ..)| *at);
        let encoded = |all: bool| {
            let chosen = parts.iter().filter(|(_, forwarded, _)| all || *forwarded);
            chosen.flat_map(|(.., bytes)| bytes.clone().unwrap_or_default()).collect::<Vec<u8>>()
        };
        Message {
            raw: encoded(true),
            forwarded: encoded(false),
            payload_format_indicator: indicator,
            message_expiry_s: expiry,
            content_type,
            response_topic,
            correlation_data,
            users,
            last: number,
        }
    })
}

fn publish_message() -> impl Strategy<Value = Message> {
    message(|alias| [&[0x23], &(alias as u16).to_be_bytes()[..]].concat())
}

fn will_message() -> impl Strategy<Value = Message> {
    message(|delay_s| [&[0x18], &delay_s.to_be_bytes()[..]].concat())
}

/// Everything that can be asked of what was decoded.
fn use_up(packet: &Packet<'_>) {
    match packet {
        Packet::Publish(publish) => {
            let forwarded = publish.properties.forwardable();
            let again = PublishProperties::parse(&forwarded).unwrap();
            assert!(again.user_properties().eq(publish.properties.user_properties()));
            assert_eq!((again.topic_alias, again.message_expiry_s), (None, None));
            if !publish.topic.is_empty() {
                topic::validate_topic_name(publish.topic).unwrap();
            }
        }
        Packet::Subscribe(subscribe) => {
            assert!(subscribe.subscriptions.count() > 0);
            for subscription in subscribe.subscriptions {
                topic::validate_filter(subscription.filter).unwrap();
            }
        }
        Packet::Unsubscribe(unsubscribe) => assert!(unsubscribe.filters.count() > 0),
        Packet::Ack(_) | Packet::PingReq | Packet::Disconnect(_) | Packet::Auth(_) => {}
    }
}

/// Decodes as every version can; panics only if the codec does.
fn decode_all(bytes: &[u8]) {
    if let Ok(Some(frame)) = frame(bytes, MAX_PACKET_SIZE) {
        if let Ok(connect) = Connect::decode(&frame)
            && let Some(will) = connect.will
        {
            will.properties.forwardable();
        }
        for version in VERSIONS {
            if let Ok(packet) = Packet::decode(&frame, version) {
                use_up(&packet);
            }
        }
    }
}

/// Some valid packet of some version, for damaging.
pub fn valid_packet() -> impl Strategy<Value = Vec<u8>> {
    let publish = (publish_message(), name(), data()).prop_map(|(message, topic, payload)| {
        let properties = [mirror::varint(message.raw.len()), message.raw].concat();
        let body = [mirror::binary(topic.as_bytes()), vec![0, 1], properties, payload].concat();
        mirror::packet(0x32, &body)
    });
    let connect = (version(), will_message(), name()).prop_map(|(version, message, id)| {
        let (properties, delay_s) = PublishProperties::read(&message.raw, Allowed::WILL).unwrap();
        let will = Will { topic: "w", payload: b"p", qos: QoS::AtLeastOnce, retain: true, delay_s, properties };
        let connect = Connect { will: Some(will), ..connect(version, &id) };
        mirror::encode_connect(&connect, &message.raw)
    });
    let subscribe = (version(), filter()).prop_map(|(version, filter)| {
        let subscription = Subscription {
            filter: &filter,
            qos: QoS::ExactlyOnce,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        };
        mirror::encode_subscribe(version, 1, Some(300), &[subscription; 2])
    });
    let unsubscribe =
        (version(), filter()).prop_map(|(version, filter)| mirror::encode_unsubscribe(version, 1, &[&filter, "b"]));
    let auth = Just(b"\xF0\x0A\x18\x08\x15\x00\x01m\x16\x00\x01\xFF".to_vec());
    let ack = Just(b"\x40\x0B\x00\x01\x97\x07\x1F\x00\x04full".to_vec());
    let disconnect = Just(b"\xE0\x07\x00\x05\x11\x00\x00\x00\x3C".to_vec());
    prop_oneof![publish, connect, subscribe, unsubscribe, auth, ack, disconnect]
}

pub fn connect(version: Version, client_id: &str) -> Connect<'_> {
    Connect {
        version,
        client_id,
        keep_alive_s: 60,
        clean_start: true,
        will: None,
        username: None,
        password: None,
        session_expiry_s: 0,
        receive_maximum: u16::MAX,
        maximum_packet_size: None,
        topic_alias_maximum: 0,
        request_response_information: false,
        request_problem_information: true,
        authentication_method: None,
        authentication_data: None,
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..64)) {
        decode_all(&bytes);
    }

    #[test]
    fn arbitrary_bodies_never_panic(first_byte in any::<u8>(), body in vec(any::<u8>(), 0..64)) {
        decode_all(&mirror::packet(first_byte, &body));
    }

    #[test]
    fn damaged_packets_never_panic(
        packet in valid_packet(),
        damage in vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<proptest::sample::Index>(),
    ) {
        let mut packet = packet;
        decode_all(&packet[..cut.index(packet.len())]);
        for (at, byte) in damage {
            let at = at.index(packet.len());
            packet[at] = byte;
            decode_all(&packet);
        }
        if let Some((first_byte, body)) = packet.split_first() {
            let body = &body[body.len().min(1)..];
            decode_all(&mirror::packet(*first_byte, &body[..cut.index(body.len() + 1)]));
        }
    }

    #[test]
    fn publish_from_a_client(
        message in publish_message(), topic in name(), qos in qos(), retain in any::<bool>(),
        dup in any::<bool>(), packet_id in 1..=u16::MAX, payload in payload(),
    ) {
        let dup = dup && qos != QoS::AtMostOnce;
        let packet_id = if qos == QoS::AtMostOnce { 0 } else { packet_id };
        let mut body = mirror::binary(topic.as_bytes());
        if qos != QoS::AtMostOnce {
            body.extend(packet_id.to_be_bytes());
        }
        let first_byte = 0x30 | u8::from(dup) << 3 | (qos as u8) << 1 | u8::from(retain);
        for version in VERSIONS {
            let mut body = body.clone();
            if version == Version::V5 {
                body.extend(mirror::varint(message.raw.len()));
                body.extend(&message.raw);
            }
            body.extend(&payload);
            let bytes = mirror::packet(first_byte, &body);
            let publish = Publish::decode(&framed(&bytes), version).unwrap();
            prop_assert_eq!((publish.dup, publish.qos, publish.retain), (dup, qos, retain));
            prop_assert_eq!((publish.topic, publish.packet_id), (&topic[..], packet_id));
            prop_assert_eq!(publish.payload, &payload);
            if version == Version::V5 {
                message.check(&publish.properties);
                prop_assert_eq!(publish.properties.message_expiry_s, message.message_expiry_s);
                prop_assert_eq!(publish.properties.topic_alias.map(u32::from), message.last);
                prop_assert_eq!(&publish.properties.forwardable()[..], &message.forwarded[..]);
            } else {
                prop_assert_eq!(publish.properties, PublishProperties::default());
            }
        }
    }

    #[test]
    fn publish_to_a_client_and_back(
        message in publish_message(), topic in name(), qos in qos(), retain in any::<bool>(),
        packet_id in 1..=u16::MAX, subscription_ids in vec(1..268_435_456_u32, 0..4), payload in payload(),
    ) {
        let outgoing = OutgoingPublish {
            dup: false,
            qos,
            retain,
            topic: &topic,
            packet_id,
            properties: &message.forwarded,
            message_expiry_s: message.message_expiry_s,
            topic_alias: message.last.map(|alias| alias as u16),
            subscription_ids: &[],
            payload: &payload,
        };
        for version in VERSIONS {
            let mut out = Vec::new();
            let packet_id_at = outgoing.encode(&mut out, version);
            prop_assert_eq!(out.len(), outgoing.encoded_length(version));
            let publish = Publish::decode(&framed(&out), version).unwrap();
            prop_assert_eq!((publish.topic, publish.qos), (&topic[..], qos));
            prop_assert_eq!((publish.retain, publish.payload), (retain, &payload[..]));
            match packet_id_at {
                None => prop_assert_eq!(qos, QoS::AtMostOnce),
                Some(at) => prop_assert_eq!(&out[at..at + 2], &publish.packet_id.to_be_bytes()),
            }
            if version == Version::V5 {
                message.check(&publish.properties);
                prop_assert_eq!(publish.properties.message_expiry_s, outgoing.message_expiry_s);
                prop_assert_eq!(publish.properties.topic_alias, outgoing.topic_alias);
            }
        }
        let mut out = Vec::new();
        let outgoing = OutgoingPublish { subscription_ids: &subscription_ids, ..outgoing };
        outgoing.encode(&mut out, Version::V5);
        prop_assert_eq!(out.len(), outgoing.encoded_length(Version::V5));
        let received = mirror::decode_publish(&out);
        prop_assert_eq!((received.topic, received.payload), (topic.into_bytes(), payload));
        prop_assert_eq!(received.packet_id, (qos != QoS::AtMostOnce).then_some(packet_id));
        let ids = received.properties.into_iter().filter(|(id, _)| *id == 0x0B).map(|(_, value)| value);
        prop_assert!(ids.eq(subscription_ids.into_iter().map(Value::Number)));
    }

    #[test]
    fn connects(
        version in version(), message in will_message(),
        (client_id, topic, payload) in (name(), name(), data()),
        will_flags in option::of((qos(), any::<bool>())),
        (username, password) in (option::of(text()), option::of(data())),
        (keep_alive_s, clean_start, session_expiry_s) in any::<(u16, bool, u32)>(),
        limits in (1..=u16::MAX, option::of(1..=u32::MAX), any::<u16>()),
        flags in any::<(bool, bool)>(),
        authentication in option::of((text(), option::of(data()))),
    ) {
        let v5 = version == Version::V5;
        let (properties, delay_s) = if v5 {
            PublishProperties::read(&message.raw, Allowed::WILL).unwrap()
        } else {
            Default::default()
        };
        let will = will_flags.map(|(qos, retain)| {
            Will { topic: &topic, payload: &payload, qos, retain, delay_s, properties }
        });
        let plain = Connect {
            keep_alive_s,
            clean_start,
            will,
            username: username.as_deref(),
            password: password.as_deref().filter(|_| v5 || username.is_some()),
            session_expiry_s: if clean_start { 0 } else { u32::MAX },
            ..connect(version, &client_id)
        };
        let connect = if v5 {
            Connect {
                session_expiry_s,
                receive_maximum: limits.0,
                maximum_packet_size: limits.1,
                topic_alias_maximum: limits.2,
                request_response_information: flags.0,
                request_problem_information: flags.1,
                authentication_method: authentication.as_ref().map(|(method, _)| &method[..]),
                authentication_data: authentication.as_ref().and_then(|(_, data)| data.as_deref()),
                ..plain
            }
        } else {
            plain
        };
        let bytes = mirror::encode_connect(&connect, &message.raw);
        prop_assert_eq!(Connect::decode(&framed(&bytes)), Ok(connect));
        if v5 {
            message.check(&properties);
            prop_assert_eq!(delay_s, message.last.unwrap_or(0));
            prop_assert_eq!(&properties.forwardable()[..], &message.forwarded[..]);
        }
    }

    #[test]
    fn subscribes(
        version in version(), packet_id in 1..=u16::MAX,
        subscription_id in option::of(1..268_435_456_u32),
        requests in vec((filter(), qos(), any::<bool>(), any::<bool>(), 0..3_u8), 1..6),
    ) {
        let v5 = version == Version::V5;
        let subscriptions: Vec<_> = requests.iter().map(|(filter, qos, no_local, retain, handling)| {
            Subscription {
                filter,
                qos: *qos,
                no_local: v5 && *no_local && topic::split_share(filter).is_none(),
                retain_as_published: v5 && *retain,
                retain_handling: match handling {
                    1 if v5 => RetainHandling::SendIfNew,
                    2 if v5 => RetainHandling::DoNotSend,
                    _ => RetainHandling::Send,
                },
            }
        }).collect();
        let bytes = mirror::encode_subscribe(version, packet_id, subscription_id, &subscriptions);
        let Ok(Packet::Subscribe(subscribe)) = Packet::decode(&framed(&bytes), version) else {
            panic!("{:?}", Packet::decode(&framed(&bytes), version));
        };
        prop_assert_eq!(subscribe.packet_id, packet_id);
        prop_assert_eq!(subscribe.subscription_id, subscription_id.filter(|_| v5));
        prop_assert_eq!(subscribe.subscriptions.collect::<Vec<_>>(), subscriptions);

        let filters: Vec<&str> = requests.iter().map(|(filter, ..)| &filter[..]).collect();
        let bytes = mirror::encode_unsubscribe(version, packet_id, &filters);
        let Ok(Packet::Unsubscribe(unsubscribe)) = Packet::decode(&framed(&bytes), version) else {
            panic!("{:?}", Packet::decode(&framed(&bytes), version));
        };
        prop_assert_eq!(unsubscribe.packet_id, packet_id);
        prop_assert_eq!(unsubscribe.filters.collect::<Vec<_>>(), filters);
    }

    #[test]
    fn small_packets_from_a_client(
        method in text(), authentication_data in option::of(data()), again in any::<bool>(),
        session_expiry_s in option::of(any::<u32>()), with_will in any::<bool>(),
    ) {
        let reason = match again {
            true => ReasonCode::ReAuthenticate,
            false => ReasonCode::ContinueAuthentication,
        };
        let authentication_data = authentication_data.as_deref();
        let auth = Auth { reason, authentication_method: &method, authentication_data };
        let bytes = mirror::encode_auth(&auth);
        prop_assert_eq!(Packet::decode(&framed(&bytes), Version::V5), Ok(Packet::Auth(auth)));
        let reason = match with_will {
            true => ReasonCode::DisconnectWithWill,
            false => ReasonCode::Success,
        };
        let disconnect = Disconnect { reason, session_expiry_s };
        let bytes = mirror::encode_disconnect(&disconnect);
        let decoded = Packet::decode(&framed(&bytes), Version::V5);
        prop_assert_eq!(decoded, Ok(Packet::Disconnect(disconnect)));
    }

    #[test]
    fn connacks(
        (session_present, reason) in (any::<bool>(), reason()),
        session_expiry_s in option::of(any::<u32>()),
        receive_maximum in option::of(1..=u16::MAX),
        maximum_qos in qos(),
        flags in any::<[bool; 4]>(),
        maximum_packet_size in option::of(1..=u32::MAX),
        topic_alias_maximum in any::<u16>(),
        server_keep_alive_s in option::of(any::<u16>()),
        texts in (option::of(text()), option::of(text()), option::of(text()), option::of(text())),
    ) {
        let connack = ConnAck {
            session_present: session_present && reason == ReasonCode::Success,
            reason,
            session_expiry_s,
            receive_maximum,
            maximum_qos,
            retain_available: flags[0],
            maximum_packet_size,
            assigned_client_id: texts.0.as_deref(),
            topic_alias_maximum,
            reason_string: texts.1.as_deref(),
            wildcard_subscription_available: flags[1],
            subscription_ids_available: flags[2],
            shared_subscription_available: flags[3],
            server_keep_alive_s,
            response_information: texts.2.as_deref(),
            server_reference: texts.3.as_deref(),
        };
        let mut out = Vec::new();
        connack.encode(&mut out, Version::V5);
        let mut texts = Vec::new();
        prop_assert_eq!(mirror::decode_connack(&out, &mut texts), connack);
    }

    #[test]
    fn subacks_and_disconnects(
        version in version(), packet_id in any::<u16>(), reasons in vec(reason(), 1..200),
        reason in reason(), (text, server) in (option::of(text()), option::of(text())),
    ) {
        let codes: Vec<u8> = reasons.iter().map(|reason| reason.as_u8()).collect();
        let mut out = Vec::new();
        encode_suback(&mut out, version, packet_id, reasons.iter().copied());
        let expected = codes.iter().map(|&code| match version {
            Version::V5 => code,
            Version::V3_1_1 => code.min(0x80),
            Version::V3_1 => if code < 0x80 { code } else { 0 },
        });
        prop_assert_eq!(mirror::decode_suback(0x90, version, &out), (packet_id, expected.collect()));
        out.clear();
        encode_unsuback(&mut out, version, packet_id, reasons);
        let expected = if version == Version::V5 { codes } else { Vec::new() };
        prop_assert_eq!(mirror::decode_suback(0xB0, version, &out), (packet_id, expected));
        out.clear();
        encode_disconnect(&mut out, reason, text.as_deref(), server.as_deref());
        let bytes = |text: String| Value::Bytes(text.into_bytes());
        let expected = [(0x1F, text.map(bytes)), (0x1C, server.map(bytes))];
        let expected = expected.into_iter().filter_map(|(id, value)| Some((id, value?)));
        prop_assert_eq!(mirror::decode_disconnect(&out), (reason, expected.collect()));
    }
}
