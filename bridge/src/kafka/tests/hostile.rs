//! Requests from anywhere: nothing panics, nothing is believed before it is seen.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{RequestKind, ResponseKind};
use proptest::prelude::*;

use super::{Broker, on_one_thread, with_broker};
use crate::kafka::{
    APIS, ConnectionError,
    shape::{self, ShapeError},
};

/// Decodes as the server does: by shape first.
fn decode(api: &super::super::Api, version: i16, body: &[u8]) {
    let flexible = version >= api.flexible_from;
    let served_by_codec = api.key as i16 != 0 || version >= 3;
    if shape::check(body, api.request, version, flexible).is_ok() && served_by_codec {
        let mut bytes = Bytes::copy_from_slice(body);
        // Either outcome is fine; what counts is that there is one.
        RequestKind::decode(api.key, &mut bytes, version).ok();
    }
}

proptest! {
    #[test]
    fn random_bodies_never_panic_the_decoder(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        for api in &APIS {
            for version in api.min..=api.max {
                decode(api, version, &body);
            }
        }
    }

    /// Mostly zeros and small numbers: these get further in.
    #[test]
    fn plausible_bodies_never_panic_the_decoder(body in proptest::collection::vec(
        prop_oneof![4 => Just(0_u8), 3 => 1_u8..6, 1 => any::<u8>()], 0..200)) {
        for api in &APIS {
            for version in api.min..=api.max {
                decode(api, version, &body);
            }
        }
    }
}

#[test]
fn counts_that_cannot_be_true_are_refused() {
    // Metadata: an array of 2^31 - 1 topics, in 8 bytes; the same, compact.
    let metadata = crate::kafka::find_api(3).expect("served");
    let check = |body: &[u8], version| shape::check(body, metadata.request, version, version >= 9);
    assert_eq!(check(&[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0], 1), Err(ShapeError::Short));
    assert_eq!(check(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0], 9), Err(ShapeError::Short));
    assert_eq!(check(&[0xff, 0xff, 0xff, 0xff, 0xff, 0, 0], 9), Err(ShapeError::Varint));
    assert_eq!(check(&[0x80, 0, 0, 0], 1), Err(ShapeError::Negative));
    // Null is a count.
    assert_eq!(check(&[0xff; 4], 1), Ok(4));
    // True, but too many.
    let mut body = BytesMut::new();
    body.put_i32(100_001);
    body.put_bytes(0, 2 * 100_001);
    assert_eq!(check(&body, 1), Err(ShapeError::TooMany));
}

#[test]
fn a_request_that_lies_about_its_count_ends_its_connection_only() {
    with_broker(async |broker| {
        for (version, lie) in [(1, &[0x7f, 0xff, 0xff, 0xff][..]), (9, &[0xff, 0xff, 0xff, 0xff, 0x0f])] {
            let mut peer = broker.connect();
            peer.send_body(3, version, &[lie, &[0; 90]].concat()).await;
            assert!(matches!(peer.ended().await, Err(ConnectionError::Malformed { .. })));
        }
        let mut peer = broker.connect();
        peer.send_body(18, 0, &[]).await;
        peer.receive_frame().await;
    });
}

#[test]
fn every_api_survives_every_short_body() {
    let broker = Broker::start();
    on_one_thread(async {
        for api in &APIS {
            for version in [api.min, api.max] {
                for length in 0..12 {
                    let mut peer = broker.connect();
                    peer.send_body(api.key as i16, version, &vec![0xff; length]).await;
                    // Some are whole requests; none panics.
                    peer.hang_up().await.ok();
                }
            }
        }
    });
}

/// The codec's idea of a response is used by the tests; it must know every API that is served.
#[test]
fn the_codec_knows_every_response() {
    for api in &APIS {
        let version = api.max;
        let empty = ResponseKind::decode(api.key, &mut Bytes::new(), version);
        assert!(empty.is_err(), "{:?}", api.key);
    }
}
