//! PUBLISH: what is taken can be sent on, and says the same there.

#![no_main]

use broker::codec::topic::validate_topic_name;
use broker::codec::{MAX_PACKET_SIZE, OutgoingPublish, Publish, PublishProperties, QoS, Version, frame};
use libfuzzer_sys::fuzz_target;
use millstream_fuzz::version_and_packet;

fuzz_target!(|input: &[u8]| {
    let Some((version, mut packet)) = version_and_packet(input) else { return };
    packet[0] = 0x30 | packet[0] & 0x0F;
    let frame_of = |bytes| frame(bytes, MAX_PACKET_SIZE).expect("a good header").expect("whole");
    let Ok(publish) = Publish::decode(&frame_of(&packet), version) else { return };
    assert_eq!(publish.packet_id == 0, publish.qos == QoS::AtMostOnce);
    match publish.topic {
        "" => assert!(publish.properties.topic_alias.is_some()),
        topic => validate_topic_name(topic).expect("a topic name"),
    }
    let properties = publish.properties.forwardable();
    let forwarded = PublishProperties::parse(&properties).expect("taken from what was good");
    assert_eq!((forwarded.topic_alias, forwarded.message_expiry_s), (None, None));
    assert!(forwarded.user_properties().eq(publish.properties.user_properties()));
    assert_eq!(forwarded.forwardable(), properties);
    let outgoing = OutgoingPublish {
        dup: publish.dup,
        qos: publish.qos,
        retain: publish.retain,
        topic: publish.topic,
        packet_id: publish.packet_id,
        properties: &properties,
        message_expiry_s: publish.properties.message_expiry_s,
        topic_alias: publish.properties.topic_alias,
        subscription_ids: &[],
        payload: publish.payload,
    };
    let mut out = Vec::new();
    let packet_id_at = outgoing.encode(&mut out, version);
    assert_eq!(out.len(), outgoing.encoded_length(version));
    let again = Publish::decode(&frame_of(&out), version).expect("as it was read");
    assert_eq!((again.topic, again.payload), (publish.topic, publish.payload));
    assert_eq!((again.dup, again.qos, again.retain), (publish.dup, publish.qos, publish.retain));
    assert_eq!(again.packet_id, publish.packet_id);
    assert_eq!(packet_id_at.map_or(0, |at| u16::from_be_bytes([out[at], out[at + 1]])), publish.packet_id);
    if version == Version::V5 {
        let (one, other) = (again.properties, publish.properties);
        assert_eq!((one.topic_alias, one.message_expiry_s), (other.topic_alias, other.message_expiry_s));
        assert_eq!((one.content_type, one.response_topic), (other.content_type, other.response_topic));
        assert_eq!(one.correlation_data, other.correlation_data);
        assert_eq!(one.payload_format_indicator, other.payload_format_indicator);
    } else {
        assert_eq!(publish.properties, PublishProperties::default());
    }
    if let Some(at) = outgoing.expiry_at(out.len(), version) {
        assert_eq!(outgoing.message_expiry_s, out[at..].first_chunk().map(|bytes| u32::from_be_bytes(*bytes)));
    }
});
