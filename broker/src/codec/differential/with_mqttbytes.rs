//! 3.1.1, by mqttbytes.

use bytes::{Bytes, BytesMut};
use mqttbytes::v4;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

use super::{Decoded, Difference, MQTTBYTES, bytes, faults_are_there, is_a_known_fault, ours};
use crate::codec::tests::{connect, data, filter, framed, name, payload, qos};
use crate::codec::{
    Ack, AckKind, ConnAck, Connect, OutgoingPublish, Packet, Publish, PublishProperties, QoS, ReasonCode, Version,
    Will, encode_ack, encode_suback, encode_unsuback,
};

fn qos_of(qos: QoS) -> mqttbytes::QoS {
    match qos {
        QoS::AtMostOnce => mqttbytes::QoS::AtMostOnce,
        QoS::AtLeastOnce => mqttbytes::QoS::AtLeastOnce,
        QoS::ExactlyOnce => mqttbytes::QoS::ExactlyOnce,
    }
}

fn read_v4(bytes: &[u8]) -> v4::Packet {
    v4::read(&mut BytesMut::from(bytes), bytes.len()).unwrap()
}

/// What we read, in their words, which have none for a password that is not UTF-8.
fn translated(decoded: Decoded<'_>) -> Option<v4::Packet> {
    Some(match decoded {
        Decoded::Connect(connect) => {
            let mut theirs = v4::Connect::new(connect.client_id);
            theirs.clean_session = connect.clean_start;
            theirs.keep_alive = connect.keep_alive_s;
            theirs.last_will = connect
                .will
                .map(|will| v4::LastWill::new(will.topic, will.payload.to_vec(), qos_of(will.qos), will.retain));
            let password = std::str::from_utf8(connect.password.unwrap_or_default()).ok()?;
            theirs.login = connect.username.map(|username| v4::Login::new(username, password));
            v4::Packet::Connect(theirs)
        }
        Decoded::Other(Packet::Publish(publish)) => v4::Packet::Publish(v4::Publish {
            dup: publish.dup,
            qos: qos_of(publish.qos),
            retain: publish.retain,
            topic: publish.topic.to_owned(),
            pkid: publish.packet_id,
            payload: Bytes::copy_from_slice(publish.payload),
        }),
        Decoded::Other(Packet::Ack(ack)) => match ack.kind {
            AckKind::PubAck => v4::Packet::PubAck(v4::PubAck::new(ack.packet_id)),
            AckKind::PubRec => v4::Packet::PubRec(v4::PubRec::new(ack.packet_id)),
            AckKind::PubRel => v4::Packet::PubRel(v4::PubRel::new(ack.packet_id)),
            AckKind::PubComp => v4::Packet::PubComp(v4::PubComp::new(ack.packet_id)),
        },
        Decoded::Other(Packet::Subscribe(subscribe)) => {
            let filters = subscribe
                .subscriptions
                .map(|one| v4::SubscribeFilter { path: one.filter.to_owned(), qos: qos_of(one.qos) });
            v4::Packet::Subscribe(v4::Subscribe { pkid: subscribe.packet_id, filters: filters.collect() })
        }
        Decoded::Other(Packet::Unsubscribe(unsubscribe)) => v4::Packet::Unsubscribe(v4::Unsubscribe {
            pkid: unsubscribe.packet_id,
            topics: unsubscribe.filters.map(str::to_owned).collect(),
        }),
        Decoded::Other(Packet::PingReq) => v4::Packet::PingReq,
        Decoded::Other(Packet::Disconnect(_)) => v4::Packet::Disconnect,
        Decoded::Other(Packet::Auth(_)) => return None,
    })
}

fn difference(bytes: &[u8]) -> Option<Difference> {
    let ours = ours(bytes, Version::V3_1_1)?.map(translated);
    Difference::between(ours, v4::read(&mut BytesMut::from(bytes), bytes.len()).ok())
}

#[test]
fn its_faults_are_faults_still() {
    faults_are_there(&MQTTBYTES, Version::V3_1_1, difference);
}

proptest! {
    #[test]
    fn they_differ_by_its_known_faults_only(bytes in bytes()) {
        if let Some(difference) = difference(&bytes) {
            is_a_known_fault(&MQTTBYTES, Version::V3_1_1, &bytes, difference);
        }
    }

    #[test]
    fn agrees_with_mqttbytes_on_publish(
        topic in name(), qos in qos(), retain in any::<bool>(), packet_id in 1..=u16::MAX,
        payload in payload(),
    ) {
        let mut theirs = v4::Publish::new(&topic, qos_of(qos), payload.clone());
        theirs.retain = retain;
        theirs.pkid = if qos == QoS::AtMostOnce { 0 } else { packet_id };
        let mut bytes = BytesMut::new();
        theirs.write(&mut bytes).unwrap();
        let ours = Publish::decode(&framed(&bytes), Version::V3_1_1).unwrap();
        prop_assert_eq!((ours.topic, ours.qos, ours.retain), (&topic[..], qos, retain));
        prop_assert_eq!((ours.packet_id, ours.payload), (theirs.pkid, &payload[..]));
        let outgoing = OutgoingPublish {
            dup: ours.dup,
            qos,
            retain,
            topic: ours.topic,
            packet_id: ours.packet_id,
            properties: &[],
            message_expiry_s: None,
            topic_alias: None,
            subscription_ids: &[],
            payload: ours.payload,
        };
        let mut out = Vec::new();
        outgoing.encode(&mut out, Version::V3_1_1);
        prop_assert_eq!(&out[..], &bytes[..]);
        prop_assert_eq!(read_v4(&out), v4::Packet::Publish(theirs));
    }

    #[test]
    fn agrees_with_mqttbytes_on_connect(
        client_id in name(), clean_session in any::<bool>(), keep_alive in any::<u16>(),
        will in option::of((name(), data(), qos(), any::<bool>())),
        // mqttbytes takes an empty name or password for none.
        login in option::of(("[a-zé]{1,9}", "[a-z]{1,9}")),
    ) {
        let mut theirs = v4::Connect::new(&client_id);
        theirs.clean_session = clean_session;
        theirs.keep_alive = keep_alive;
        theirs.last_will = will.as_ref().map(|(topic, payload, qos, retain)| {
            v4::LastWill::new(topic, payload.clone(), qos_of(*qos), *retain)
        });
        theirs.login = login.as_ref().map(|(username, password)| v4::Login::new(username, password));
        let mut bytes = BytesMut::new();
        theirs.write(&mut bytes).unwrap();
        let ours = Connect::decode(&framed(&bytes)).unwrap();
        let login = login.as_ref();
        let expected = Connect {
            keep_alive_s: keep_alive,
            clean_start: clean_session,
            session_expiry_s: if clean_session { 0 } else { u32::MAX },
            username: login.map(|(username, _)| &username[..]),
            password: login.map(|(_, password)| password.as_bytes()),
            will: will.as_ref().map(|(topic, payload, qos, retain)| Will {
                topic,
                payload,
                qos: *qos,
                retain: *retain,
                delay_s: 0,
                properties: PublishProperties::default(),
            }),
            ..connect(Version::V3_1_1, &client_id)
        };
        prop_assert_eq!(ours, expected);
    }

    #[test]
    fn agrees_with_mqttbytes_on_subscribe(
        packet_id in 1..=u16::MAX, requests in vec((filter(), qos()), 1..4),
    ) {
        let theirs = requests.iter().map(|(path, qos)| v4::SubscribeFilter::new(path.clone(), qos_of(*qos)));
        let mut theirs = v4::Subscribe::new_many(theirs);
        theirs.pkid = packet_id;
        let mut bytes = BytesMut::new();
        theirs.write(&mut bytes).unwrap();
        let Ok(Packet::Subscribe(ours)) = Packet::decode(&framed(&bytes), Version::V3_1_1) else {
            panic!("refused");
        };
        prop_assert_eq!(ours.packet_id, packet_id);
        let expected = requests.iter().map(|(filter, qos)| (&filter[..], *qos));
        prop_assert!(ours.subscriptions.map(|one| (one.filter, one.qos)).eq(expected));
    }

    #[test]
    fn agrees_with_mqttbytes_on_unsubscribe(packet_id in 1..=u16::MAX, topics in vec(filter(), 1..4)) {
        let mut bytes = BytesMut::new();
        v4::Unsubscribe { pkid: packet_id, topics: topics.clone() }.write(&mut bytes).unwrap();
        let Ok(Packet::Unsubscribe(ours)) = Packet::decode(&framed(&bytes), Version::V3_1_1) else {
            panic!("refused");
        };
        prop_assert_eq!(ours.packet_id, packet_id);
        prop_assert!(ours.filters.eq(topics.iter().map(String::as_str)));
    }

    #[test]
    fn mqttbytes_reads_the_answers(packet_id in 1..=u16::MAX, qos in qos(), present in any::<bool>()) {
        let mut out = Vec::new();
        let connack = ConnAck { session_present: present, ..ConnAck::new(ReasonCode::Success) };
        connack.encode(&mut out, Version::V3_1_1);
        let expected = v4::ConnAck::new(v4::ConnectReturnCode::Success, present);
        prop_assert_eq!(read_v4(&out), v4::Packet::ConnAck(expected));

        out.clear();
        let granted = match qos {
            QoS::AtMostOnce => ReasonCode::Success,
            QoS::AtLeastOnce => ReasonCode::GrantedQoS1,
            QoS::ExactlyOnce => ReasonCode::GrantedQoS2,
        };
        encode_suback(&mut out, Version::V3_1_1, packet_id, [granted, ReasonCode::NotAuthorized]);
        let codes = vec![v4::SubscribeReasonCode::Success(qos_of(qos)), v4::SubscribeReasonCode::Failure];
        prop_assert_eq!(read_v4(&out), v4::Packet::SubAck(v4::SubAck::new(packet_id, codes)));

        out.clear();
        encode_unsuback(&mut out, Version::V3_1_1, packet_id, [ReasonCode::Success]);
        prop_assert_eq!(read_v4(&out), v4::Packet::UnsubAck(v4::UnsubAck::new(packet_id)));

        let acks = [
            (AckKind::PubAck, v4::Packet::PubAck(v4::PubAck::new(packet_id))),
            (AckKind::PubRec, v4::Packet::PubRec(v4::PubRec::new(packet_id))),
            (AckKind::PubRel, v4::Packet::PubRel(v4::PubRel::new(packet_id))),
            (AckKind::PubComp, v4::Packet::PubComp(v4::PubComp::new(packet_id))),
        ];
        for (kind, theirs) in acks {
            out.clear();
            let ours = Ack { kind, packet_id, reason: ReasonCode::Success };
            encode_ack(&mut out, Version::V3_1_1, ours, None);
            prop_assert_eq!(read_v4(&out), theirs);
        }
    }
}
