//! DeleteTopics and DeleteRecords, and what every other request says afterwards.

use std::{sync::atomic::Ordering, time::Duration};

use kafka_protocol::messages::{
    CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest, DeleteTopicsResponse, DescribeGroupsRequest,
    FetchRequest, FetchResponse, GroupId, ListOffsetsRequest, MetadataRequest, OffsetCommitRequest, OffsetFetchRequest,
    ProduceRequest, TopicName,
    create_topics_request::{CreatableTopic, CreatableTopicConfig},
    delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic},
    delete_topics_request::DeleteTopicState,
    fetch_request::{FetchPartition, FetchTopic},
    list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
    metadata_request::MetadataRequestTopic,
    offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
    offset_fetch_request::OffsetFetchRequestTopic,
    produce_request::{PartitionProduceData, TopicProduceData},
};
use tokio::time::Instant;

use super::{Broker, Peer, batch_of, on_one_thread, text, values_in, with_broker};

const OUT_OF_RANGE: i16 = 1;
const UNKNOWN: i16 = 3;
const INVALID_TOPIC: i16 = 17;
const INVALID_REQUEST: i16 = 42;
const POLICY: i16 = 44;
const UNKNOWN_ID: i16 = 100;

fn name(name: &str) -> TopicName {
    TopicName(text(name))
}

/// Makes a topic of one partition, and waits until it has these records. They are of 1970, and kept all the same.
async fn make(broker: &Broker, peer: &mut Peer, topic: &str, policy: &str, values: &[&str]) -> [u8; 16] {
    let setting = |name, value| CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)));
    let wanted = CreatableTopic::default()
        .with_name(name(topic))
        .with_num_partitions(1)
        .with_replication_factor(1)
        .with_configs(vec![setting("retention.ms", "-1"), setting("cleanup.policy", policy)]);
    let made = peer.ask(7, &CreateTopicsRequest::default().with_topics(vec![wanted])).await;
    assert_eq!(made.topics[0].error_code, 0, "{made:?}");
    for value in values {
        assert_eq!(produce(peer, topic, value).await.0, 0);
    }
    let end = || broker.bridge.topic(topic).map(|topic| topic.partitions[0].high_watermark());
    while end() != Some(values.len() as i64) {
        tokio::task::yield_now().await;
    }
    made.topics[0].topic_id.into_bytes()
}

async fn produce(peer: &mut Peer, topic: &str, value: &str) -> (i16, i64) {
    let data = PartitionProduceData::default().with_records(Some(batch_of(&[value])));
    let data = TopicProduceData::default().with_name(name(topic)).with_partition_data(vec![data]);
    let produced = peer.ask(9, &ProduceRequest::default().with_acks(-1).with_topic_data(vec![data])).await;
    let partition = &produced.responses[0].partition_responses[0];
    (partition.error_code, partition.base_offset)
}

fn fetch_from(topic: &str, offset: i64, wait_ms: i32) -> FetchRequest {
    let partition = FetchPartition::default().with_partition_max_bytes(10_000).with_fetch_offset(offset);
    let asked = FetchTopic::default().with_topic(name(topic)).with_partitions(vec![partition]);
    FetchRequest::default().with_min_bytes(1).with_max_bytes(10_000).with_max_wait_ms(wait_ms).with_topics(vec![asked])
}

fn fetched(response: &FetchResponse) -> (i16, Vec<String>) {
    let partition = &response.responses[0].partitions[0];
    (partition.error_code, values_in(partition.records.as_deref().unwrap_or_default()))
}

/// Where the topic begins and ends.
async fn range(peer: &mut Peer, topic: &str) -> (i16, i64, i64) {
    let mut offsets = Vec::new();
    let mut code = 0;
    for timestamp in [-2, -1] {
        let partition = ListOffsetsPartition::default().with_timestamp(timestamp);
        let asked = ListOffsetsTopic::default().with_name(name(topic)).with_partitions(vec![partition]);
        let listed = peer.ask(7, &ListOffsetsRequest::default().with_topics(vec![asked])).await;
        code = listed.topics[0].partitions[0].error_code;
        offsets.push(listed.topics[0].partitions[0].offset);
    }
    (code, offsets[0], offsets[1])
}

async fn commit(peer: &mut Peer, topic: &str, offset: i64) {
    let partition = OffsetCommitRequestPartition::default().with_committed_offset(offset);
    let asked = OffsetCommitRequestTopic::default().with_name(name(topic)).with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default().with_group_id(GroupId(text("g"))).with_topics(vec![asked]);
    assert_eq!(peer.ask(8, &request).await.topics[0].partitions[0].error_code, 0);
}

async fn committed(peer: &mut Peer, topic: &str) -> i64 {
    let asked = OffsetFetchRequestTopic::default().with_name(name(topic)).with_partition_indexes(vec![0]);
    let request = OffsetFetchRequest::default().with_group_id(GroupId(text("g"))).with_topics(Some(vec![asked]));
    peer.ask(7, &request).await.topics[0].partitions[0].committed_offset
}

async fn group_state(peer: &mut Peer) -> String {
    let asked = DescribeGroupsRequest::default().with_groups(vec![GroupId(text("g"))]);
    peer.ask(5, &asked).await.groups[0].group_state.to_string()
}

async fn metadata(peer: &mut Peer, topic: &str) -> i16 {
    let asked = MetadataRequestTopic::default().with_name(Some(name(topic)));
    let request = MetadataRequest::default().with_topics(Some(vec![asked])).with_allow_auto_topic_creation(false);
    peer.ask(12, &request).await.topics[0].error_code
}

fn by_name(topics: &[&str]) -> DeleteTopicsRequest {
    DeleteTopicsRequest::default().with_topic_names(topics.iter().map(|topic| name(topic)).collect())
}

fn codes(response: &DeleteTopicsResponse) -> Vec<i16> {
    response.responses.iter().map(|topic| topic.error_code).collect()
}

fn trim(topic: &str, offset: i64) -> DeleteRecordsRequest {
    let partition = DeleteRecordsPartition::default().with_offset(offset);
    let asked = DeleteRecordsTopic::default().with_name(name(topic)).with_partitions(vec![partition]);
    DeleteRecordsRequest::default().with_topics(vec![asked])
}

async fn trimmed(peer: &mut Peer, topic: &str, offset: i64) -> (i16, i64) {
    let answer = peer.ask(2, &trim(topic, offset)).await;
    let partition = &answer.topics[0].partitions[0];
    (partition.error_code, partition.low_watermark)
}

#[test]
fn a_deleted_topic_is_unknown_and_its_name_free() {
    with_broker(async |broker| {
        let mut peer = broker.connect();
        let old_id = make(&broker, &mut peer, "t", "delete", &["a", "b"]).await;
        commit(&mut peer, "t", 2).await;
        assert_eq!((committed(&mut peer, "t").await, group_state(&mut peer).await.as_str()), (2, "Empty"));

        assert_eq!(codes(&peer.ask(5, &by_name(&["t"])).await), [0]);
        assert_eq!(metadata(&mut peer, "t").await, UNKNOWN);
        assert_eq!(produce(&mut peer, "t", "c").await.0, UNKNOWN);
        assert_eq!(fetched(&peer.ask(12, &fetch_from("t", 0, 0)).await), (UNKNOWN, vec![]));
        assert_eq!(range(&mut peer, "t").await.0, UNKNOWN);
        assert_eq!(trimmed(&mut peer, "t", -1).await, (UNKNOWN, -1));
        assert_eq!((committed(&mut peer, "t").await, group_state(&mut peer).await.as_str()), (-1, "Dead"));
        assert_eq!(codes(&peer.ask(1, &by_name(&["t"])).await), [UNKNOWN]);

        let new_id = make(&broker, &mut peer, "t", "delete", &[]).await;
        assert_ne!(new_id, old_id);
        assert_eq!((range(&mut peer, "t").await, committed(&mut peer, "t").await), ((0, 0, 0), -1));
        assert_eq!(fetched(&peer.ask(12, &fetch_from("t", 2, 0)).await).0, OUT_OF_RANGE);
        assert_eq!(produce(&mut peer, "t", "new").await, (0, 0));
    });
}

#[test]
fn topics_are_deleted_by_id_too() {
    with_broker(async |broker| {
        let mut peer = broker.connect();
        let id = make(&broker, &mut peer, "t", "delete", &[]).await;
        make(&broker, &mut peer, "u", "delete", &[]).await;
        let state = |id: [u8; 16]| DeleteTopicState::default().with_topic_id(id.to_vec().try_into().expect("an id"));
        let both = state(id).with_name(Some(name("t")));
        let asked = vec![state([9; 16]).with_name(None), both, state([0; 16]).with_name(Some(name("u")))];
        let answer = peer.ask(6, &DeleteTopicsRequest::default().with_topics(asked)).await;
        assert_eq!(codes(&answer), [UNKNOWN_ID, INVALID_REQUEST, 0]);
        let twice = vec![state(id).with_name(None), state([0; 16]).with_name(Some(name("t")))];
        let answer = peer.ask(6, &DeleteTopicsRequest::default().with_topics(twice)).await;
        assert_eq!(codes(&answer), [INVALID_REQUEST; 2]);
        let answer = peer.ask(6, &DeleteTopicsRequest::default().with_topics(vec![state(id).with_name(None)])).await;
        assert_eq!((codes(&answer), answer.responses[0].name.clone()), (vec![0], Some(name("t"))));
        assert!(broker.bridge.topics().is_empty());
    });
}

#[test]
fn some_topics_are_not_deleted() {
    with_broker(async |broker| {
        let mut peer = broker.connect();
        make(&broker, &mut peer, "mqtt", "delete", &[]).await;
        make(&broker, &mut peer, "t", "delete", &[]).await;
        broker.bridge.set_mapped_topics(["mqtt".to_owned()].into_iter());
        let answer = peer.ask(5, &by_name(&["mqtt", "__mqtt", "..", "absent", "t", "t"])).await;
        let expected = [POLICY, INVALID_TOPIC, INVALID_TOPIC, UNKNOWN, INVALID_REQUEST, INVALID_REQUEST];
        assert_eq!(codes(&answer), expected);
        let message = answer.responses[0].error_message.as_deref().unwrap_or_default().to_owned();
        assert!(message.contains("MQTT messages go there, by a rule"), "{message}");
        assert_eq!(broker.bridge.topics().len(), 2);
        assert_eq!(range(&mut peer, "t").await, (0, 0, 0));
    });
}

#[test]
fn a_fetch_that_waits_ends_with_its_topic() {
    with_broker(async |broker| {
        let (mut reader, mut peer) = (broker.connect(), broker.connect());
        make(&broker, &mut peer, "t", "delete", &["a"]).await;
        reader.send(12, &fetch_from("t", 1, 25_000)).await;
        let began = Instant::now();
        // It may come after this, too; what it is told is the same.
        let requests = || broker.server.metrics().requests.load(Ordering::Relaxed);
        let before = requests();
        while requests() == before {
            tokio::task::yield_now().await;
        }
        assert_eq!(codes(&peer.ask(5, &by_name(&["t"])).await), [0]);
        let answer: FetchResponse = reader.receive(12).await;
        assert_eq!(fetched(&answer), (UNKNOWN, vec![]));
        assert!(began.elapsed() < Duration::from_secs(10));
    });
}

#[test]
fn what_groups_committed_stays_forgotten() {
    let broker = Broker::start();
    on_one_thread(async {
        let mut peer = broker.connect();
        for topic in ["t", "u"] {
            make(&broker, &mut peer, topic, "delete", &["a"]).await;
            commit(&mut peer, topic, 1).await;
        }
        assert_eq!(codes(&peer.ask(5, &by_name(&["t"])).await), [0]);
        peer.hang_up().await.expect("a clean end");
    });
    let broker = broker.restart();
    on_one_thread(async {
        let mut peer = broker.connect();
        assert_eq!(metadata(&mut peer, "t").await, UNKNOWN);
        make(&broker, &mut peer, "t", "delete", &[]).await;
        assert_eq!((committed(&mut peer, "t").await, committed(&mut peer, "u").await), (-1, 1));
        peer.hang_up().await.expect("a clean end");
    });
}

#[test]
fn records_below_an_offset_go_and_stay_away() {
    let broker = Broker::start();
    on_one_thread(async {
        let mut peer = broker.connect();
        make(&broker, &mut peer, "t", "delete", &["a", "b", "c"]).await;
        for bad in [4, -2, i64::MIN] {
            assert_eq!(trimmed(&mut peer, "t", bad).await, (OUT_OF_RANGE, -1), "{bad}");
        }
        assert_eq!(trimmed(&mut peer, "t", 2).await, (0, 2));
        assert_eq!(range(&mut peer, "t").await, (0, 2, 3), "as soon as it is answered");
        assert_eq!(trimmed(&mut peer, "t", 1).await, (0, 2), "it never goes back");
        assert_eq!(fetched(&peer.ask(12, &fetch_from("t", 1, 0)).await).0, OUT_OF_RANGE);
        assert_eq!(fetched(&peer.ask(12, &fetch_from("t", 2, 0)).await), (0, vec!["c".to_owned()]));
        assert_eq!(produce(&mut peer, "t", "d").await, (0, 3));
        peer.hang_up().await.expect("a clean end");
    });
    let broker = broker.restart();
    on_one_thread(async {
        let mut peer = broker.connect();
        assert_eq!(range(&mut peer, "t").await, (0, 2, 4));
        assert_eq!(trimmed(&mut peer, "t", -1).await, (0, 4));
        assert_eq!(range(&mut peer, "t").await, (0, 4, 4));
        // What is only compacted loses nothing but by its key.
        make(&broker, &mut peer, "compacted", "compact", &[]).await;
        assert_eq!(trimmed(&mut peer, "compacted", -1).await, (POLICY, -1));
        peer.hang_up().await.expect("a clean end");
    });
}

#[test]
fn a_commit_on_its_way_does_not_outlive_its_topic() {
    with_broker(async |broker| {
        let mut peer = broker.connect();
        make(&broker, &mut peer, "t", "delete", &[]).await;
        let topic = broker.bridge.topic("t").expect("it is there");
        let place = crate::kafka::offsets::Place { topic_id: topic.id, partition: 0 };
        assert_eq!(codes(&peer.ask(5, &by_name(&["t"])).await), [0]);
        // It found the topic before that was deleted.
        let late =
            crate::kafka::offsets::Committed { offset: 1, leader_epoch: 1, committed_at_ms: 1, metadata: "".into() };
        let committed = broker.server.offsets.commit(&"g".into(), vec![(place, late)]).await;
        committed.expect("the journal works").expect("there is room");
        assert_eq!((broker.server.offsets.get("g", place), group_state(&mut peer).await.as_str()), (None, "Dead"));
        assert!(broker.server.lags(10).0.is_empty());
    });
}

#[test]
fn empty_requests_are_answered() {
    with_broker(async |broker| {
        let mut peer = broker.connect();
        assert!(peer.ask(6, &DeleteTopicsRequest::default()).await.responses.is_empty());
        assert!(peer.ask(2, &DeleteRecordsRequest::default()).await.topics.is_empty());
    });
}
