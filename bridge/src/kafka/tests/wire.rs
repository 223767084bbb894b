//! Frames, headers, ApiVersions, Metadata and the order of answers.

use bytes::Buf;
use kafka_protocol::messages::{
    ApiKey, ApiVersionsRequest, ApiVersionsResponse, HeartbeatRequest, MetadataRequest, TopicName,
    metadata_request::MetadataRequestTopic,
};
use tokio::io::AsyncWriteExt;

use super::{text, with_broker};
use crate::kafka::{ConnectionError, find_api};

fn who() -> ApiVersionsRequest {
    ApiVersionsRequest::default()
        .with_client_software_name(text("a-client.x"))
        .with_client_software_version(text("1.0-rc1"))
}

/// What old librdkafka tests for, one version at a time, before it uses a feature.
#[test]
fn ranges_contain_what_old_clients_test_for() {
    let needed = [
        (ApiKey::Produce, &[0, 3, 7][..]),
        (ApiKey::Fetch, &[4, 10]),
        (ApiKey::FindCoordinator, &[0]),
        (ApiKey::JoinGroup, &[0]),
        (ApiKey::SyncGroup, &[0]),
        (ApiKey::Heartbeat, &[0]),
        (ApiKey::LeaveGroup, &[0]),
        (ApiKey::OffsetFetch, &[1]),
        (ApiKey::OffsetCommit, &[2]),
        (ApiKey::ListOffsets, &[1]),
        (ApiKey::InitProducerId, &[0]),
        (ApiKey::SaslHandshake, &[0, 1]),
        (ApiKey::SaslAuthenticate, &[0]),
    ];
    for (key, versions) in needed {
        let api = find_api(key as i16).expect("served");
        assert!(versions.iter().all(|v| (api.min..=api.max).contains(v)), "{key:?}");
    }
}

#[test]
fn api_versions_are_answered_in_every_version() {
    with_broker(async |broker| {
        let mut peer = broker.connect();
        for version in 0..=4 {
            let response = peer.ask(version, &who()).await;
            assert_eq!(response.error_code, 0);
            let produce = &response.api_keys[0];
            assert_eq!((produce.api_key, produce.min_version, produce.max_version), (0, 0, 9));
        }
    });
}

#[test]
fn api_versions_of_the_future_are_told_the_range() {
    with_broker(async |broker| {
        let mut peer = broker.connect();
        for version in [5, 99, i16::MAX, -1] {
            peer.send_body(18, version, b"whatever a later version has here").await;
            let response: ApiVersionsResponse = peer.receive(0).await;
            assert_eq!(response.error_code, 35);
            let [own] = response.api_keys.as_slice() else { panic!("{response:?}") };
            assert_eq!((own.api_key, own.min_version, own.max_version), (18, 0, 4));
        }
        // The client can go on with what it learned.
        assert_eq!(peer.ask(4, &who()).await.error_code, 0);
    });
}

#[test]
fn client_software_is_checked() {
    with_broker(async |broker| {
        let mut peer = broker.connect();
        for bad in ["", "-a", "a-", "a b", "a/b"] {
            let request = who().with_client_software_name(text(bad));
            assert_eq!(peer.ask(3, &request).await.error_code, 42, "{bad:?}");
        }
    });
}

#[test]
fn answers_come_in_the_order_of_requests() {
    with_broker(async |broker| {
        let mut peer = broker.connect();
        for i in 0..200 {
            match i % 2 {
                0 => peer.send(0, &ApiVersionsRequest::default()).await,
                _ => peer.send(0, &HeartbeatRequest::default()).await,
            }
        }
        for i in 1..=200 {
            assert_eq!(peer.receive_frame().await.0, i);
        }
    });
}

#[test]
fn a_request_may_come_byte_by_byte() {
    with_broker(async |broker| {
        let mut peer = broker.connect();
        let frame = [0, 0, 0, 11, 0, 18, 0, 0, 0, 0, 0, 9, 0, 1, b'x'];
        for byte in frame {
            peer.stream.write_all(&[byte]).await.expect("written");
            tokio::task::yield_now().await;
        }
        assert_eq!(peer.receive_frame().await.0, 9);
    });
}

#[test]
fn other_protocols_are_shown_the_door() {
    with_broker(async |broker| {
        let strangers: [(&[u8], &str); 3] = [
            (b"GET / HTTP/1.1\r\n\r\n", "peer: this is HTTP; this listener speaks the Kafka protocol"),
            (b"\x16\x03\x01\x02\x00\x01", "peer: this is TLS; this listener is plain"),
            (b"\x10\x10\x00\x04MQTT\x05", "peer: this is MQTT; this listener speaks the Kafka protocol"),
        ];
        for (first_bytes, reason) in strangers {
            let mut peer = broker.connect();
            peer.stream.write_all(first_bytes).await.expect("written");
            assert_eq!(peer.ended().await.expect_err("refused").to_string(), reason);
        }
        let mut peer = broker.connect();
        peer.stream.write_all(&[0x7f; 4]).await.expect("written");
        assert!(matches!(peer.ended().await, Err(ConnectionError::BadLength { bytes: 0x7f7f_7f7f, .. })));
        let mut peer = broker.connect();
        peer.send_body(4, 0, b"inter-broker").await;
        let ended = peer.ended().await;
        assert!(matches!(ended, Err(ConnectionError::NotServed { key: 4, version: 0 })));
        let mut peer = broker.connect();
        peer.stream.write_all(&[0, 0, 0, 50, 0]).await.expect("written");
        assert!(matches!(peer.hang_up().await, Err(ConnectionError::CutRequest)));
        // Nobody else noticed.
        let mut peer = broker.connect();
        assert_eq!(peer.ask(0, &ApiVersionsRequest::default()).await.error_code, 0);
        assert!(peer.hang_up().await.is_ok());
    });
}

fn named(name: &str) -> MetadataRequestTopic {
    MetadataRequestTopic::default().with_name(Some(TopicName(text(name))))
}

#[test]
fn metadata_tells_the_advertised_address_and_makes_topics() {
    with_broker(async |broker| {
        let mut peer = broker.connect();
        let nothing = MetadataRequest::default().with_topics(Some(vec![]));
        assert!(peer.ask(1, &nothing).await.topics.is_empty());

        let asked = MetadataRequest::default().with_topics(Some(vec![named("new")]));
        let hidden = asked.clone().with_allow_auto_topic_creation(false);
        let unknown = peer.ask(4, &hidden).await;
        assert_eq!(unknown.topics[0].error_code, 3);
        let made = peer.ask(12, &asked).await;
        assert_eq!((made.brokers[0].node_id.0, made.brokers[0].port), (7, 9092));
        assert_eq!(&*made.brokers[0].host, "broker.example");
        assert_eq!(made.cluster_id.as_ref().map(|id| id.len()), Some(22));
        let topic = &made.topics[0];
        assert_eq!((topic.error_code, topic.partitions.len()), (0, 2));
        assert_eq!(topic.partitions[0].leader_epoch, broker.bridge.epoch());

        // By id, and all.
        let by_id = MetadataRequestTopic::default().with_name(None).with_topic_id(topic.topic_id);
        let by_id = peer.ask(12, &MetadataRequest::default().with_topics(Some(vec![by_id]))).await;
        assert_eq!(by_id.topics[0].name, topic.name);
        let all = MetadataRequest::default().with_topics(None);
        assert_eq!(peer.ask(1, &all).await.topics.len(), 1);
        let all_of_old = MetadataRequest::default().with_topics(Some(vec![]));
        assert_eq!(peer.ask(0, &all_of_old).await.topics.len(), 1);

        let bad = MetadataRequest::default().with_topics(Some(vec![named("no/good")]));
        assert_eq!(peer.ask(4, &bad).await.topics[0].error_code, 17);
    });
}

#[test]
fn an_unknown_correlation_id_is_given_back_first() {
    with_broker(async |broker| {
        let mut peer = broker.connect();
        peer.send_frame(&[0, 18, 0x7f, 0xff, 0xde, 0xad, 0xbe, 0xef]).await;
        let (correlation_id, mut body) = peer.receive_frame().await;
        assert_eq!(correlation_id as u32, 0xdead_beef);
        assert_eq!(body.get_i16(), 35);
    });
}
