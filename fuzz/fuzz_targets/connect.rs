//! CONNECT: what is taken is within the rules, and is the same when a client says it again.

#![no_main]

use broker::codec::topic::validate_topic_name;
use broker::codec::{Connect, MAX_PACKET_SIZE, Version, Will, connect_version, frame};
use libfuzzer_sys::fuzz_target;
use millstream_fuzz::codec::mirror;

fuzz_target!(|input: &[u8]| {
    let packet = mirror::packet(0x10, input);
    let frame_of = |bytes| frame(bytes, MAX_PACKET_SIZE).expect("a good header").expect("whole");
    let Ok(connect) = Connect::decode(&frame_of(&packet)) else { return };
    assert_eq!(connect_version(&frame_of(&packet)), Ok(connect.version));
    assert!(!connect.client_id.contains('\0') && connect.receive_maximum > 0);
    assert!(!connect.client_id.is_empty() || connect.clean_start || connect.version == Version::V5);
    assert!(connect.maximum_packet_size != Some(0));
    assert!(connect.authentication_data.is_none() || connect.authentication_method.is_some());
    let mut will_raw = Vec::new();
    if let Some(will) = connect.will {
        validate_topic_name(will.topic).expect("a topic name");
        will.properties.response_topic.map(|topic| validate_topic_name(topic).expect("a topic name"));
        will_raw.extend_from_slice(&will.properties.forwardable());
        if let Some(expiry_s) = will.properties.message_expiry_s {
            will_raw.push(0x02);
            will_raw.extend(expiry_s.to_be_bytes());
        }
        will_raw.push(0x18);
        will_raw.extend(will.delay_s.to_be_bytes());
    }
    let again = mirror::encode_connect(&connect, &will_raw);
    let again = Connect::decode(&frame_of(&again)).expect("as it was read");
    assert_eq!(plain(&again), plain(&connect));
    assert_eq!(again.will.map(told), connect.will.map(told));
});

fn plain<'a>(connect: &Connect<'a>) -> Connect<'a> {
    Connect { will: None, ..*connect }
}

/// The will, with its properties in an order of our own.
fn told(will: Will<'_>) -> impl PartialEq + std::fmt::Debug {
    let Will { topic, payload, qos, retain, delay_s, properties } = will;
    let users: Vec<_> = properties.user_properties().collect();
    let expiry_s = properties.message_expiry_s;
    ((topic, payload, qos, retain, delay_s, expiry_s), properties.forwardable(), users)
}
