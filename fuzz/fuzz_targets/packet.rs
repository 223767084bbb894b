//! Every packet but CONNECT and PUBLISH, in every version: what is taken is the same when it is said again.

#![no_main]

use broker::codec::topic::validate_filter;
use broker::codec::{MAX_PACKET_SIZE, Packet, ReasonCode, Version, encode_ack, frame};
use libfuzzer_sys::fuzz_target;
use millstream_fuzz::codec::mirror;
use millstream_fuzz::version_and_packet;

fuzz_target!(|input: &[u8]| {
    let Some((version, packet)) = version_and_packet(input) else { return };
    let Ok(Some(found)) = frame(&packet, MAX_PACKET_SIZE) else { return };
    let Ok(decoded) = Packet::decode(&found, version) else { return };
    let again = match decoded {
        Packet::Publish(_) | Packet::PingReq => return,
        Packet::Ack(ack) => {
            assert!(ack.packet_id != 0 && (version == Version::V5 || ack.reason == ReasonCode::Success));
            let mut out = Vec::new();
            encode_ack(&mut out, version, ack, None);
            out
        }
        Packet::Subscribe(subscribe) => {
            let subscriptions: Vec<_> = subscribe.subscriptions.collect();
            assert!(!subscriptions.is_empty() && subscribe.packet_id != 0 && subscribe.subscription_id != Some(0));
            for one in &subscriptions {
                validate_filter(one.filter).expect("a filter");
            }
            mirror::encode_subscribe(version, subscribe.packet_id, subscribe.subscription_id, &subscriptions)
        }
        Packet::Unsubscribe(unsubscribe) => {
            let filters: Vec<_> = unsubscribe.filters.collect();
            assert!(!filters.is_empty() && unsubscribe.packet_id != 0);
            for filter in &filters {
                validate_filter(filter).expect("a filter");
            }
            mirror::encode_unsubscribe(version, unsubscribe.packet_id, &filters)
        }
        Packet::Disconnect(disconnect) if version == Version::V5 => mirror::encode_disconnect(&disconnect),
        Packet::Disconnect(disconnect) => {
            assert_eq!((disconnect.reason, disconnect.session_expiry_s), (ReasonCode::Success, None));
            return;
        }
        Packet::Auth(auth) => {
            assert_eq!(version, Version::V5);
            mirror::encode_auth(&auth)
        }
    };
    let found = frame(&again, MAX_PACKET_SIZE).expect("a good header").expect("whole");
    let again = Packet::decode(&found, version).expect("as it was read");
    match (decoded, again) {
        (Packet::Subscribe(one), Packet::Subscribe(other)) => {
            assert_eq!((one.packet_id, one.subscription_id), (other.packet_id, other.subscription_id));
            assert!(one.subscriptions.eq(other.subscriptions));
        }
        (one, other) => assert_eq!(one, other),
    }
});
