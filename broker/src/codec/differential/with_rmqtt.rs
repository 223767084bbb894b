//! 5.0, by rmqtt-codec.

use std::num::{NonZeroU16, NonZeroU32};

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{any, prop_assert_eq, proptest};
use rmqtt_codec::types;
use rmqtt_codec::v5;
use tokio_util::codec::{Decoder, Encoder};

use super::{Decoded, Difference, RMQTT, bytes, faults_are_there, is_a_known_fault, ours};
use crate::codec::tests::{name, payload, qos, text, valid_packet};
use crate::codec::{
    Ack, AckKind, ConnAck, Connect, OutgoingPublish, Packet, Publish, PublishProperties, QoS, ReasonCode, Version,
    Will, encode_ack, encode_disconnect, encode_pingresp, encode_suback, encode_unsuback,
};

fn read(bytes: &[u8]) -> Option<v5::Packet> {
    let mut bytes = BytesMut::from(bytes);
    let (packet, _) = v5::Codec::default().decode(&mut bytes).ok()??;
    bytes.is_empty().then_some(packet)
}

fn write(packet: v5::Packet) -> BytesMut {
    let mut bytes = BytesMut::new();
    v5::Codec::default().encode(packet, &mut bytes).expect("it read it itself");
    bytes
}

fn qos_of(qos: QoS) -> types::QoS {
    match qos {
        QoS::AtMostOnce => types::QoS::AtMostOnce,
        QoS::AtLeastOnce => types::QoS::AtLeastOnce,
        QoS::ExactlyOnce => types::QoS::ExactlyOnce,
    }
}

fn reason_of<T: TryFrom<u8>>(reason: ReasonCode) -> Option<T> {
    T::try_from(reason.as_u8()).ok()
}

fn users_of(properties: &PublishProperties<'_>) -> v5::UserProperties {
    properties.user_properties().map(|(name, value)| (name.into(), value.into())).collect()
}

fn data_of(data: Option<&[u8]>) -> Option<Bytes> {
    data.map(Bytes::copy_from_slice)
}

/// `Some(None)` where there is none.
fn expiry_of(properties: &PublishProperties<'_>) -> Option<Option<NonZeroU32>> {
    properties.message_expiry_s.map_or(Some(None), |seconds| NonZeroU32::new(seconds).map(Some))
}

/// What we read, in their words, which have none for what they refuse.
fn translated(decoded: Decoded<'_>) -> Option<v5::Packet> {
    Some(match decoded {
        Decoded::Connect(connect) => v5::Packet::from(connect_of(connect)?),
        Decoded::Other(Packet::Publish(publish)) => v5::Packet::from(publish_of(publish)?),
        Decoded::Other(Packet::Ack(ack)) => ack_of(ack)?,
        Decoded::Other(Packet::Subscribe(subscribe)) => v5::Packet::from(v5::Subscribe {
            packet_id: NonZeroU16::new(subscribe.packet_id)?,
            id: subscribe.subscription_id.and_then(NonZeroU32::new),
            user_properties: Vec::new(),
            topic_filters: subscribe
                .subscriptions
                .map(|one| {
                    let options = v5::SubscriptionOptions {
                        qos: qos_of(one.qos),
                        no_local: one.no_local,
                        retain_as_published: one.retain_as_published,
                        retain_handling: (one.retain_handling as u8).try_into().ok()?,
                    };
                    Some((one.filter.into(), options))
                })
                .collect::<Option<_>>()?,
        }),
        Decoded::Other(Packet::Unsubscribe(unsubscribe)) => v5::Packet::from(v5::Unsubscribe {
            packet_id: NonZeroU16::new(unsubscribe.packet_id)?,
            user_properties: Vec::new(),
            topic_filters: unsubscribe.filters.map(Into::into).collect(),
        }),
        Decoded::Other(Packet::PingReq) => v5::Packet::PingRequest,
        Decoded::Other(Packet::Disconnect(disconnect)) => v5::Packet::from(v5::Disconnect {
            reason_code: reason_of(disconnect.reason)?,
            session_expiry_interval_secs: disconnect.session_expiry_s,
            ..v5::Disconnect::default()
        }),
        Decoded::Other(Packet::Auth(auth)) => v5::Packet::from(v5::Auth {
            reason_code: reason_of(auth.reason)?,
            auth_method: Some(auth.authentication_method.into()),
            auth_data: data_of(auth.authentication_data),
            ..v5::Auth::default()
        }),
    })
}

fn connect_of(connect: Connect<'_>) -> Option<v5::Connect> {
    let will_of = |will: Will<'_>| {
        Some(v5::LastWill {
            qos: qos_of(will.qos),
            retain: will.retain,
            topic: will.topic.into(),
            message: Bytes::copy_from_slice(will.payload),
            will_delay_interval_sec: Some(will.delay_s),
            correlation_data: data_of(will.properties.correlation_data),
            message_expiry_interval: expiry_of(&will.properties)?,
            content_type: will.properties.content_type.map(Into::into),
            user_properties: users_of(&will.properties),
            is_utf8_payload: will.properties.payload_format_indicator.map(|indicator| indicator == 1),
            response_topic: will.properties.response_topic.map(Into::into),
        })
    };
    Some(v5::Connect {
        clean_start: connect.clean_start,
        keep_alive: connect.keep_alive_s,
        session_expiry_interval_secs: connect.session_expiry_s,
        auth_method: connect.authentication_method.map(Into::into),
        auth_data: data_of(connect.authentication_data),
        request_problem_info: connect.request_problem_information,
        request_response_info: connect.request_response_information,
        receive_max: NonZeroU16::new(connect.receive_maximum),
        topic_alias_max: connect.topic_alias_maximum,
        user_properties: Vec::new(),
        max_packet_size: connect.maximum_packet_size.and_then(NonZeroU32::new),
        last_will: connect.will.map_or(Some(None), |will| will_of(will).map(Some))?,
        client_id: connect.client_id.into(),
        username: connect.username.map(Into::into),
        password: data_of(connect.password),
        cert: None,
    })
}

fn publish_of(publish: Publish<'_>) -> Option<types::Publish> {
    Some(types::Publish {
        dup: publish.dup,
        retain: publish.retain,
        qos: qos_of(publish.qos),
        topic: publish.topic.into(),
        packet_id: NonZeroU16::new(publish.packet_id),
        payload: Bytes::copy_from_slice(publish.payload),
        properties: Some(v5::PublishProperties {
            topic_alias: publish.properties.topic_alias.and_then(NonZeroU16::new),
            correlation_data: data_of(publish.properties.correlation_data),
            message_expiry_interval: expiry_of(&publish.properties)?,
            content_type: publish.properties.content_type.map(Into::into),
            user_properties: users_of(&publish.properties),
            is_utf8_payload: publish.properties.payload_format_indicator == Some(1),
            response_topic: publish.properties.response_topic.map(Into::into),
            subscription_ids: Vec::new(),
        }),
    })
}

fn ack_of(ack: Ack) -> Option<v5::Packet> {
    let packet_id = NonZeroU16::new(ack.packet_id)?;
    let message = || {
        let reason_code = reason_of(ack.reason)?;
        Some(v5::PublishAck { packet_id, reason_code, ..v5::PublishAck::default() })
    };
    let release = || {
        let reason_code = reason_of(ack.reason)?;
        Some(v5::PublishAck2 { packet_id, reason_code, ..v5::PublishAck2::default() })
    };
    Some(match ack.kind {
        AckKind::PubAck => v5::Packet::PublishAck(message()?),
        AckKind::PubRec => v5::Packet::PublishReceived(message()?),
        AckKind::PubRel => v5::Packet::PublishRelease(release()?),
        AckKind::PubComp => v5::Packet::PublishComplete(release()?),
    })
}

/// What they read, without what we read and drop, and with the value of what is absent.
fn reduced(mut packet: v5::Packet) -> v5::Packet {
    match &mut packet {
        v5::Packet::Connect(connect) => {
            connect.user_properties.clear();
            connect.receive_max = connect.receive_max.or(NonZeroU16::new(u16::MAX));
            if let Some(will) = &mut connect.last_will {
                will.will_delay_interval_sec.get_or_insert_default();
            }
        }
        v5::Packet::PublishAck(ack) | v5::Packet::PublishReceived(ack) => {
            ack.properties.clear();
            ack.reason_string = None;
        }
        v5::Packet::PublishRelease(ack) | v5::Packet::PublishComplete(ack) => {
            ack.properties.clear();
            ack.reason_string = None;
        }
        v5::Packet::Subscribe(subscribe) => subscribe.user_properties.clear(),
        v5::Packet::Unsubscribe(unsubscribe) => unsubscribe.user_properties.clear(),
        v5::Packet::Disconnect(disconnect) => {
            disconnect.user_properties.clear();
            disconnect.reason_string = None;
        }
        v5::Packet::Auth(auth) => {
            auth.user_properties.clear();
            auth.reason_string = None;
        }
        _ => {}
    }
    packet
}

fn difference(bytes: &[u8]) -> Option<Difference> {
    let ours = ours(bytes, Version::V5)?.map(translated);
    Difference::between(ours, read(bytes).map(reduced))
}

#[test]
fn its_faults_are_faults_still() {
    faults_are_there(&RMQTT, Version::V5, difference);
}

/// The reasons that it knows as a packet's.
fn reasons<T: TryFrom<u8>>() -> Vec<(ReasonCode, T)> {
    ReasonCode::ALL.iter().filter_map(|&reason| Some((reason, reason_of(reason)?))).collect()
}

proptest! {
    #[test]
    fn they_differ_by_its_known_faults_only(bytes in bytes()) {
        if let Some(difference) = difference(&bytes) {
            is_a_known_fault(&RMQTT, Version::V5, &bytes, difference);
        }
    }

    #[test]
    fn what_it_writes_we_read(packet in valid_packet()) {
        // Of several versions; what is one of 5.0's, they read.
        if let (Some(Ok(decoded)), Some(theirs)) = (ours(&packet, Version::V5), read(&packet)) {
            let written = write(theirs);
            let again = ours(&written, Version::V5).expect("one packet");
            prop_assert_eq!(again.map(translated), Ok(translated(decoded)));
        }
    }

    #[test]
    fn it_reads_our_publish(
        topic in name(), qos in qos(), (dup, retain) in any::<(bool, bool)>(), packet_id in 1..=u16::MAX,
        message_expiry_s in option::of(1..=u32::MAX), topic_alias in option::of(1..=u16::MAX),
        subscription_ids in vec(1..268_435_456_u32, 0..4), payload in payload(),
    ) {
        let publish = OutgoingPublish {
            dup, qos, retain,
            topic: &topic,
            packet_id,
            properties: b"\x01\x01\x08\x00\x01r\x26\x00\x01a\x00\x01b",
            message_expiry_s, topic_alias,
            subscription_ids: &subscription_ids,
            payload: &payload,
        };
        let mut out = Vec::new();
        publish.encode(&mut out, Version::V5);
        let expected = types::Publish {
            dup, retain,
            qos: qos_of(qos),
            topic: topic.as_str().into(),
            packet_id: if qos == QoS::AtMostOnce { None } else { NonZeroU16::new(packet_id) },
            payload: payload.clone().into(),
            properties: Some(v5::PublishProperties {
                topic_alias: topic_alias.and_then(NonZeroU16::new),
                message_expiry_interval: message_expiry_s.and_then(NonZeroU32::new),
                user_properties: vec![("a".into(), "b".into())],
                is_utf8_payload: true,
                response_topic: Some("r".into()),
                subscription_ids: subscription_ids.iter().filter_map(|&id| NonZeroU32::new(id)).collect(),
                ..v5::PublishProperties::default()
            }),
        };
        prop_assert_eq!(read(&out), Some(v5::Packet::from(expected)));
    }

    #[test]
    fn it_reads_our_connack(
        session_present in any::<bool>(), reason in proptest::sample::select(reasons::<v5::ConnectAckReason>()),
        session_expiry_s in option::of(any::<u32>()), receive_maximum in option::of(1..=u16::MAX),
        maximum_qos in qos(), available in any::<[bool; 4]>(), maximum_packet_size in option::of(1..=u32::MAX),
        topic_alias_maximum in any::<u16>(), server_keep_alive_s in option::of(any::<u16>()),
        texts in (option::of(text()), option::of(text()), option::of(text()), option::of(text())),
    ) {
        let connack = ConnAck {
            session_present,
            reason: reason.0,
            session_expiry_s, receive_maximum, maximum_qos,
            retain_available: available[0],
            maximum_packet_size,
            assigned_client_id: texts.0.as_deref(),
            topic_alias_maximum,
            reason_string: texts.1.as_deref(),
            wildcard_subscription_available: available[1],
            subscription_ids_available: available[2],
            shared_subscription_available: available[3],
            server_keep_alive_s,
            response_information: texts.2.as_deref(),
            server_reference: texts.3.as_deref(),
        };
        let mut out = Vec::new();
        connack.encode(&mut out, Version::V5);
        let text = |text: Option<&str>| text.map(Into::into);
        let expected = v5::ConnectAck {
            session_present: session_present && reason.0 == ReasonCode::Success,
            reason_code: reason.1,
            session_expiry_interval_secs: session_expiry_s,
            receive_max: NonZeroU16::new(receive_maximum.unwrap_or(u16::MAX)).expect("not 0"),
            max_qos: qos_of(maximum_qos),
            max_packet_size: maximum_packet_size,
            assigned_client_id: text(connack.assigned_client_id),
            topic_alias_max: topic_alias_maximum,
            retain_available: available[0],
            wildcard_subscription_available: available[1],
            subscription_identifiers_available: available[2],
            shared_subscription_available: available[3],
            server_keepalive_sec: server_keep_alive_s,
            response_info: text(connack.response_information),
            server_reference: text(connack.server_reference),
            reason_string: text(connack.reason_string),
            ..v5::ConnectAck::default()
        };
        prop_assert_eq!(read(&out), Some(v5::Packet::from(expected)));
    }

    #[test]
    fn it_reads_our_other_answers(
        packet_id in 1..=u16::MAX,
        granted in vec(proptest::sample::select(reasons::<v5::SubscribeAckReason>()), 1..200),
        gone in vec(proptest::sample::select(reasons::<v5::UnsubscribeAckReason>()), 1..200),
        message in proptest::sample::select(reasons::<v5::PublishAckReason>()),
        release in proptest::sample::select(reasons::<v5::PublishAck2Reason>()),
        goodbye in proptest::sample::select(reasons::<v5::DisconnectReasonCode>()),
        (why, server) in (option::of(text()), option::of(text())),
    ) {
        let id = NonZeroU16::new(packet_id).expect("not 0");
        let text = |text: &Option<String>| text.as_deref().map(Into::into);
        let answer = |encode: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            encode(&mut out);
            read(&out)
        };

        let suback = answer(&|out| encode_suback(out, Version::V5, packet_id, granted.iter().map(|one| one.0)));
        let status = granted.iter().map(|one| one.1).collect();
        let expected = v5::SubscribeAck { packet_id: id, properties: Vec::new(), reason_string: None, status };
        prop_assert_eq!(suback, Some(v5::Packet::from(expected)));

        let unsuback = answer(&|out| encode_unsuback(out, Version::V5, packet_id, gone.iter().map(|one| one.0)));
        let status = gone.iter().map(|one| one.1).collect();
        let expected = v5::UnsubscribeAck { packet_id: id, properties: Vec::new(), reason_string: None, status };
        prop_assert_eq!(unsuback, Some(v5::Packet::from(expected)));

        for kind in [AckKind::PubAck, AckKind::PubRec, AckKind::PubRel, AckKind::PubComp] {
            let of_message = matches!(kind, AckKind::PubAck | AckKind::PubRec);
            let ack = Ack { kind, packet_id, reason: if of_message { message.0 } else { release.0 } };
            let mut expected = ack_of(ack).expect("it knows the reason");
            match &mut expected {
                v5::Packet::PublishAck(ack) | v5::Packet::PublishReceived(ack) => ack.reason_string = text(&why),
                v5::Packet::PublishRelease(ack) | v5::Packet::PublishComplete(ack) => ack.reason_string = text(&why),
                _ => {}
            }
            let found = answer(&|out| encode_ack(out, Version::V5, ack, why.as_deref()));
            prop_assert_eq!(found, Some(expected));
        }

        let disconnect = answer(&|out| encode_disconnect(out, goodbye.0, why.as_deref(), server.as_deref()));
        let expected = v5::Disconnect {
            reason_code: goodbye.1,
            server_reference: text(&server),
            reason_string: text(&why),
            ..v5::Disconnect::default()
        };
        prop_assert_eq!(disconnect, Some(v5::Packet::from(expected)));
        prop_assert_eq!(answer(&|out| encode_pingresp(out)), Some(v5::Packet::PingResponse));
    }
}
