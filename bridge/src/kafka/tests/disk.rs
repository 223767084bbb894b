//! A disk that takes nothing.

use std::time::Duration;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::{
    CreateTopicsRequest, FetchRequest, GroupId, MetadataRequest, OffsetCommitRequest, ProduceRequest, TopicName,
    create_topics_request::CreatableTopic,
    fetch_request::{FetchPartition, FetchTopic},
    metadata_request::MetadataRequestTopic,
    offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
    produce_request::{PartitionProduceData, TopicProduceData},
};

use super::{Broker, Peer, batch_of, text, values_in, with_broker};
use crate::admission::Waiting;
use crate::disk::full_disk_error;

fn topic() -> TopicName {
    TopicName(text("t"))
}

fn metadata(name: &str) -> MetadataRequest {
    let asked = MetadataRequestTopic::default().with_name(Some(TopicName(text(name))));
    MetadataRequest::default().with_topics(Some(vec![asked]))
}

fn produce(value: &str) -> ProduceRequest {
    let data = PartitionProduceData::default().with_records(Some(batch_of(&[value])));
    let data = TopicProduceData::default().with_name(topic()).with_partition_data(vec![data]);
    ProduceRequest::default().with_acks(-1).with_topic_data(vec![data])
}

async fn produced(peer: &mut Peer, version: i16, value: &str) -> i16 {
    peer.ask(version, &produce(value)).await.responses[0].partition_responses[0].error_code
}

/// So many records from the beginning: what is acknowledged can be read a moment later.
async fn fetched(peer: &mut Peer, count: usize) -> Vec<String> {
    for _ in 0..1_000 {
        let values = fetched_now(peer).await;
        if values.len() >= count {
            return values;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{count} records were due");
}

async fn fetched_now(peer: &mut Peer) -> Vec<String> {
    let partition = FetchPartition::default().with_partition_max_bytes(1 << 20);
    let asked = FetchTopic::default().with_topic(topic()).with_partitions(vec![partition]);
    let request = FetchRequest::default().with_min_bytes(1).with_max_bytes(1 << 20).with_topics(vec![asked]);
    let response = peer.ask(12, &request).await;
    values_in(response.responses[0].partitions[0].records.as_deref().unwrap_or_default())
}

async fn committed(peer: &mut Peer) -> i16 {
    let partition = OffsetCommitRequestPartition::default().with_committed_offset(1);
    let topic = OffsetCommitRequestTopic::default().with_name(topic()).with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default().with_group_id(GroupId(text("g"))).with_topics(vec![topic]);
    peer.ask(7, &request).await.topics[0].partitions[0].error_code
}

async fn connect(broker: &Broker) -> Peer {
    let mut peer = broker.connect();
    assert_eq!(peer.ask(4, &metadata("t")).await.topics[0].error_code, 0);
    assert_eq!(produced(&mut peer, 9, "before").await, 0);
    peer
}

#[test]
fn while_it_is_full_producers_are_told_to_try_again_and_readers_go_on() {
    with_broker(async |broker| {
        let mut peer = connect(&broker).await;
        let admission = &broker.bridge.0.shared.admission;
        admission.refused(Waiting::Checkpoint, &full_disk_error());
        assert_eq!(produced(&mut peer, 9, "refused").await, ResponseError::KafkaStorageError.code());
        // Older clients would not know that they may.
        assert_eq!(produced(&mut peer, 3, "refused").await, ResponseError::NotLeaderOrFollower.code());
        let made = CreatableTopic::default().with_name(TopicName(text("new"))).with_num_partitions(1);
        let made = CreateTopicsRequest::default().with_topics(vec![made.with_replication_factor(1)]);
        assert_eq!(peer.ask(5, &made).await.topics[0].error_code, ResponseError::KafkaStorageError.code());
        let mentioned = peer.ask(4, &metadata("new")).await;
        assert_eq!(mentioned.topics[0].error_code, ResponseError::LeaderNotAvailable.code());
        assert_eq!(committed(&mut peer).await, 0);
        assert_eq!(fetched(&mut peer, 1).await, ["before"]);
        admission.written(Waiting::Checkpoint);
        let mut tries = 0;
        while produced(&mut peer, 9, "after").await != 0 {
            tries += 1;
            assert!(tries < 1_000, "it is looked at twice a second");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(fetched(&mut peer, 2).await, ["before", "after"]);
    });
}

#[test]
fn when_it_has_failed_nothing_is_written_and_readers_go_on() {
    with_broker(async |broker| {
        let mut peer = connect(&broker).await;
        // Also applied: nothing is any more, once it has failed.
        assert_eq!(fetched(&mut peer, 1).await, ["before"]);
        broker.bridge.0.shared.fail("for this test");
        assert_eq!(produced(&mut peer, 9, "refused").await, ResponseError::KafkaStorageError.code());
        assert_eq!(committed(&mut peer).await, ResponseError::NotCoordinator.code());
        assert_eq!(fetched(&mut peer, 1).await, ["before"]);
        // What is submitted all the same is no burden.
        let lane = broker.bridge.lane();
        for _ in 0..3 {
            lane.put_all(&[(crate::Space(16), b"key", Some(&[0; 1 << 10]))]);
        }
        assert_eq!((lane.submitted(), lane.durable(), lane.backlog_bytes()), (3, 0, 0));
        assert!(lane.wait(3).await.is_err());
    });
}
