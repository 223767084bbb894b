//! What a client may do, request by request.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use kafka_protocol::messages::{
    CreateTopicsRequest, DeleteGroupsRequest, DeleteRecordsRequest, DeleteRecordsResponse, DeleteTopicsRequest,
    DescribeConfigsRequest, DescribeGroupsRequest, FetchRequest, FetchResponse, FindCoordinatorRequest, GroupId,
    HeartbeatRequest, IncrementalAlterConfigsRequest, InitProducerIdRequest, JoinGroupRequest, LeaveGroupRequest,
    ListGroupsRequest, ListOffsetsRequest, MetadataRequest, MetadataResponse, OffsetCommitRequest, OffsetFetchRequest,
    OffsetForLeaderEpochRequest, ProduceRequest, SyncGroupRequest, TopicName,
    create_topics_request::CreatableTopic,
    delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic},
    delete_topics_request::DeleteTopicState,
    describe_configs_request::DescribeConfigsResource,
    fetch_request::{FetchPartition, FetchTopic},
    incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig},
    join_group_request::JoinGroupRequestProtocol,
    list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic},
    metadata_request::MetadataRequestTopic,
    offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
    offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics},
    offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic},
    produce_request::{PartitionProduceData, TopicProduceData},
};

use super::{
    Broker, Peer, batch_of,
    sasl::{Users, user},
    text, values_in, with_broker_of,
};
use crate::kafka::{ConnectionError, Operation, Principal};

/// Refused for lack of rights.
const TOPIC: i16 = 29;
const GROUP: i16 = 30;
/// Not known.
const UNKNOWN: i16 = 3;

/// The topics of these tests: one that may be read, one that may be written, one that may not be
/// seen, and one that is not there and might be anything.
const READ: &str = "for-reading";
const WRITTEN: &str = "for-writing";
const HIDDEN: &str = "hidden";
const ABSENT: &str = "absent";
const NAMES: [&str; 4] = [READ, WRITTEN, HIDDEN, ABSENT];

/// Runs a test of ann, who may use groups and these topics; bob may use nothing but these topics.
/// All topics hold one record.
fn with_rights(test: impl AsyncFnOnce(&Broker)) {
    let users = Users::new(&["ann", "bob", "root"]);
    let rights = Arc::clone(&users);
    with_broker_of(users, async |broker| {
        for who in ["ann", "bob"] {
            let given = [(who, Operation::Read, READ), (who, Operation::Write, WRITTEN)];
            rights.rights.lock().extend(given);
        }
        rights.rights.lock().extend([READ, WRITTEN, HIDDEN].map(|topic| ("root", Operation::Write, topic)));
        let mut root = broker.connect_as(user("root"));
        for topic in [READ, WRITTEN, HIDDEN] {
            assert_eq!(root.ask(5, &make(topic)).await.topics[0].error_code, 0);
        }
        let codes = produce(&mut root, &[READ, WRITTEN, HIDDEN]).await;
        assert_eq!(codes, [0, 0, 0]);
        until_readable(&broker, [1, 1, 1]).await;
        test(&broker).await;
    });
}

/// Waits until so many records of the topics can be read: a little after they are durable.
async fn until_readable(broker: &Broker, ends: [i64; 3]) {
    let end = |topic| broker.bridge.topic(topic).map(|topic| topic.partitions[0].high_watermark());
    while [READ, WRITTEN, HIDDEN].map(end) != ends.map(Some) {
        tokio::task::yield_now().await;
    }
}

fn name(name: &str) -> TopicName {
    TopicName(text(name))
}

fn group() -> GroupId {
    GroupId(text("g"))
}

fn make(topic: &str) -> CreateTopicsRequest {
    let wanted = CreatableTopic::default().with_name(name(topic)).with_num_partitions(1).with_replication_factor(1);
    CreateTopicsRequest::default().with_topics(vec![wanted])
}

fn produce_request(topics: &[&str]) -> ProduceRequest {
    let data = topics.iter().map(|topic| {
        let data = PartitionProduceData::default().with_records(Some(batch_of(&["x"])));
        TopicProduceData::default().with_name(name(topic)).with_partition_data(vec![data])
    });
    ProduceRequest::default().with_acks(-1).with_topic_data(data.collect())
}

async fn produce(peer: &mut Peer, topics: &[&str]) -> Vec<i16> {
    let response = peer.ask(9, &produce_request(topics)).await;
    response.responses.iter().map(|topic| topic.partition_responses[0].error_code).collect()
}

fn codes(response: &MetadataResponse) -> Vec<i16> {
    response.topics.iter().map(|topic| topic.error_code).collect()
}

fn metadata(topics: &[&str]) -> MetadataRequest {
    let asked = topics.iter().map(|topic| MetadataRequestTopic::default().with_name(Some(name(topic))));
    MetadataRequest::default().with_topics(Some(asked.collect()))
}

#[test]
fn metadata_shows_what_may_be_seen() {
    with_rights(async |broker| {
        let mut ann = broker.connect_as(user("ann"));
        let all = ann.ask(12, &MetadataRequest::default().with_topics(None)).await;
        let names: Vec<_> = all.topics.iter().filter_map(|topic| topic.name.as_ref()).collect();
        assert_eq!(names, [&name(READ), &name(WRITTEN)]);
        // Whether a hidden one is there makes no difference.
        let answer = ann.ask(12, &metadata(&NAMES)).await;
        assert_eq!(codes(&answer), [0, 0, TOPIC, TOPIC]);
        assert!(answer.topics[2].partitions.is_empty() && answer.topics[2].topic_id.is_nil());
        assert_eq!(answer.topics[0].topic_authorized_operations, i32::MIN, "not said");
        // Nor does its id tell that it is there.
        let hidden = broker.bridge.topic(HIDDEN).expect("it is there").uuid.to_vec();
        let by_id = MetadataRequestTopic::default().with_topic_id(hidden.try_into().expect("16 bytes"));
        let by_id = ann.ask(12, &MetadataRequest::default().with_topics(Some(vec![by_id.with_name(None)]))).await;
        assert_eq!(codes(&by_id), [100], "UNKNOWN_TOPIC_ID");
        // An anonymous client sees nothing.
        let mut nobody = broker.connect_as(Some(Principal::Anonymous { token: 0 }));
        assert!(nobody.ask(1, &MetadataRequest::default().with_topics(None)).await.topics.is_empty());
    });
}

#[test]
fn topics_are_made_by_who_may_write_to_them() {
    let users = Users::new(&["ann"]);
    let rights = users.clone();
    with_broker_of(users, async |broker| {
        rights.rights.lock().extend([("ann", Operation::Read, "r"), ("ann", Operation::Write, "w")]);
        let mut ann = broker.connect_as(user("ann"));
        // Who may read waits for somebody to make it.
        assert_eq!(codes(&ann.ask(12, &metadata(&["r", "w", "x"])).await), [UNKNOWN, 0, TOPIC]);
        assert!(broker.bridge.topic("r").is_none() && broker.bridge.topic("x").is_none());
        for (topic, code) in [("r", TOPIC), ("x", TOPIC), ("w", 36)] {
            let made = ann.ask(7, &make(topic)).await;
            assert_eq!(made.topics[0].error_code, code, "{topic}");
        }
        assert!(broker.bridge.topic("r").is_none() && broker.bridge.topic("x").is_none());
    });
}

#[test]
fn topics_are_deleted_and_changed_by_who_may_manage_them() {
    with_rights(async |broker| {
        let mut ann = broker.connect_as(user("ann"));
        let delete = DeleteTopicsRequest::default().with_topic_names(NAMES.map(name).into());
        let trim = NAMES.map(|topic| {
            let partition = DeleteRecordsPartition::default().with_offset(-1);
            DeleteRecordsTopic::default().with_name(name(topic)).with_partitions(vec![partition])
        });
        let trim = DeleteRecordsRequest::default().with_topics(trim.into());
        let steps = NAMES.map(|topic| {
            let config = AlterableConfig::default().with_name(text("retention.ms")).with_value(Some(text("-1")));
            let resource = AlterConfigsResource::default().with_resource_type(2).with_resource_name(text(topic));
            resource.with_configs(vec![config])
        });
        let steps = IncrementalAlterConfigsRequest::default().with_resources(steps.into());
        // Who may read, or write, may not do this.
        assert_eq!(ann.ask(1, &steps).await.responses.iter().map(|r| r.error_code).collect::<Vec<_>>(), [TOPIC; 4]);
        let codes = |r: &DeleteRecordsResponse| r.topics.iter().map(|t| t.partitions[0].error_code).collect::<Vec<_>>();
        assert_eq!(codes(&ann.ask(2, &trim).await), [TOPIC; 4]);
        let deleted = ann.ask(5, &delete).await;
        assert_eq!(deleted.responses.iter().map(|r| r.error_code).collect::<Vec<_>>(), [TOPIC; 4]);
        // Nor does an id tell that a topic is there.
        let hidden = broker.bridge.topic(HIDDEN).expect("it is there").uuid.to_vec();
        let by_id = DeleteTopicState::default().with_topic_id(hidden.try_into().expect("an id")).with_name(None);
        let by_id = ann.ask(6, &DeleteTopicsRequest::default().with_topics(vec![by_id])).await;
        assert_eq!((by_id.responses[0].error_code, &by_id.responses[0].name), (100, &None));
        assert_eq!(broker.bridge.topics().len(), 3);
    });
    let users = Users::new(&["root"]);
    let rights = users.clone();
    with_broker_of(users, async |broker| {
        let mut root = broker.connect_as(user("root"));
        rights.rights.lock().push(("root", Operation::Manage, "t"));
        assert_eq!(root.ask(5, &make("t")).await.topics[0].error_code, 0);
        assert_eq!(produce(&mut root, &["t"]).await, [TOPIC]);
        let delete = DeleteTopicsRequest::default().with_topic_names(vec![name("t")]);
        assert_eq!(root.ask(5, &delete).await.responses[0].error_code, 0);
    });
}

#[test]
fn records_are_produced_and_fetched_where_that_is_allowed() {
    with_rights(async |broker| {
        let mut ann = broker.connect_as(user("ann"));
        assert_eq!(produce(&mut ann, &NAMES).await, [TOPIC, 0, TOPIC, TOPIC], "the others go through");
        until_readable(broker, [1, 2, 1]).await;

        let asked = NAMES.map(|topic| {
            let partition = FetchPartition::default().with_partition_max_bytes(1000);
            FetchTopic::default().with_topic(name(topic)).with_partitions(vec![partition])
        });
        let fetch = FetchRequest::default().with_min_bytes(1).with_max_bytes(1000).with_topics(asked.into());
        let fetched = ann.ask(12, &fetch.with_max_wait_ms(20_000)).await;
        let got = fetched.responses.iter().map(|topic| {
            let partition = &topic.partitions[0];
            let values = values_in(partition.records.as_deref().unwrap_or_default());
            (partition.error_code, values.len(), partition.high_watermark)
        });
        assert_eq!(got.collect::<Vec<_>>(), [(0, 1, 1), (TOPIC, 0, -1), (TOPIC, 0, -1), (TOPIC, 0, -1)]);
        assert_eq!(broker.server.metrics().unauthorized.load(Ordering::Relaxed), 6);

        // A producer that wants no answers learns of it by the end.
        ann.send(9, &produce_request(&[HIDDEN]).with_acks(0)).await;
        assert!(matches!(ann.ended().await, Err(ConnectionError::UnansweredProduce(TOPIC))));
    });
}

#[test]
fn what_is_known_of_a_topic_is_told_to_who_may_see_it() {
    with_rights(async |broker| {
        let mut ann = broker.connect_as(user("ann"));
        let asked = NAMES.map(|topic| {
            let partition = ListOffsetsPartition::default().with_timestamp(-1);
            ListOffsetsTopic::default().with_name(name(topic)).with_partitions(vec![partition])
        });
        let listed = ann.ask(7, &ListOffsetsRequest::default().with_topics(asked.into())).await;
        let listed = listed.topics.iter().map(|topic| (topic.partitions[0].error_code, topic.partitions[0].offset));
        assert_eq!(listed.collect::<Vec<_>>(), [(0, 1), (0, 1), (TOPIC, -1), (TOPIC, -1)]);

        let asked = NAMES.map(|topic| {
            let partition = OffsetForLeaderPartition::default().with_leader_epoch(1);
            OffsetForLeaderTopic::default().with_topic(name(topic)).with_partitions(vec![partition])
        });
        let ends = ann.ask(4, &OffsetForLeaderEpochRequest::default().with_topics(asked.into())).await;
        let ends = ends.topics.iter().map(|topic| (topic.partitions[0].error_code, topic.partitions[0].end_offset));
        assert_eq!(ends.collect::<Vec<_>>(), [(0, 1), (0, 1), (TOPIC, -1), (TOPIC, -1)]);

        let asked = NAMES.map(|topic| {
            DescribeConfigsResource::default()
                .with_resource_type(2)
                .with_resource_name(text(topic))
                .with_configuration_keys(None)
        });
        let described = ann.ask(4, &DescribeConfigsRequest::default().with_resources(asked.into())).await;
        let described = described.results.iter().map(|result| (result.error_code, result.configs.is_empty()));
        assert_eq!(described.collect::<Vec<_>>(), [(0, false), (0, false), (TOPIC, true), (TOPIC, true)]);
    });
}

fn commit() -> OffsetCommitRequest {
    let topics = NAMES.map(|topic| {
        let partition = OffsetCommitRequestPartition::default().with_committed_offset(1);
        OffsetCommitRequestTopic::default().with_name(name(topic)).with_partitions(vec![partition])
    });
    OffsetCommitRequest::default().with_group_id(group()).with_topics(topics.into())
}

async fn commit_as(peer: &mut Peer) -> Vec<i16> {
    let response = peer.ask(8, &commit()).await;
    response.topics.iter().map(|topic| topic.partitions[0].error_code).collect()
}

/// All of a group's offsets, in the old form.
#[test]
fn a_fetch_that_waited_is_judged_again() {
    let users = Users::new(&["ann", "root"]);
    let rights = Arc::clone(&users);
    with_broker_of(users, async |broker| {
        rights.rights.lock().extend([("ann", Operation::Read, READ), ("root", Operation::Write, READ)]);
        let (mut root, mut ann) = (broker.connect_as(user("root")), broker.connect_as(user("ann")));
        assert_eq!(root.ask(5, &make(READ)).await.topics[0].error_code, 0);
        let partition = FetchPartition::default().with_partition_max_bytes(1000);
        let asked = FetchTopic::default().with_topic(name(READ)).with_partitions(vec![partition]);
        let fetch = FetchRequest::default().with_min_bytes(1).with_max_bytes(1000).with_topics(vec![asked]);
        ann.send(12, &fetch.with_max_wait_ms(20_000)).await;
        while broker.server.metrics().requests.load(Ordering::Relaxed) < 2 {
            tokio::task::yield_now().await;
        }
        rights.rights.lock().retain(|(who, ..)| *who != "ann");
        assert_eq!(produce(&mut root, &[READ]).await, [0]);
        let told: FetchResponse = ann.receive(12).await;
        let told = &told.responses[0].partitions[0];
        assert_eq!((told.error_code, told.records.as_ref().map_or(0, Bytes::len)), (TOPIC, 0));
    });
}

fn old_fetch(topics: Option<Vec<OffsetFetchRequestTopic>>) -> OffsetFetchRequest {
    OffsetFetchRequest::default().with_group_id(group()).with_topics(topics)
}

fn old_topics() -> Option<Vec<OffsetFetchRequestTopic>> {
    let topic = |topic| OffsetFetchRequestTopic::default().with_name(name(topic)).with_partition_indexes(vec![0]);
    Some(NAMES.map(topic).into())
}

fn new_fetch() -> OffsetFetchRequest {
    let topic = |topic| OffsetFetchRequestTopics::default().with_name(name(topic)).with_partition_indexes(vec![0]);
    let asked = OffsetFetchRequestGroup::default().with_group_id(group()).with_topics(Some(NAMES.map(topic).into()));
    OffsetFetchRequest::default().with_groups(vec![asked])
}

#[test]
fn offsets_are_committed_and_told_topic_by_topic() {
    with_rights(async |broker| {
        let mut ann = broker.connect_as(user("ann"));
        assert_eq!(commit_as(&mut ann).await, [0, TOPIC, TOPIC, TOPIC]);
        for version in [1, 7] {
            let told = ann.ask(version, &old_fetch(old_topics())).await;
            let offsets = told.topics.iter().map(|topic| &topic.partitions[0]);
            let offsets: Vec<_> = offsets.map(|partition| (partition.error_code, partition.committed_offset)).collect();
            assert_eq!(offsets, [(0, 1), (0, -1), (TOPIC, -1), (TOPIC, -1)], "version {version}");
        }
        let told = ann.ask(8, &new_fetch()).await;
        let offsets = told.groups[0].topics.iter().map(|topic| &topic.partitions[0]);
        let offsets: Vec<_> = offsets.map(|partition| (partition.error_code, partition.committed_offset)).collect();
        assert_eq!(offsets, [(0, 1), (0, -1), (TOPIC, -1), (TOPIC, -1)]);
        assert_eq!(ann.ask(7, &old_fetch(None)).await.topics.len(), 1);
    });
    // What is committed already is not told of topics that may no longer be seen.
    let users = Users::new(&["ann"]);
    let rights = users.clone();
    with_broker_of(users, async |broker| {
        rights.rights.lock().extend([("ann", Operation::Write, READ), ("ann", Operation::Read, READ)]);
        let mut ann = broker.connect_as(user("ann"));
        ann.ask(5, &make(READ)).await;
        assert_eq!(commit_as(&mut ann).await[0], 0);
        assert_eq!(ann.ask(7, &old_fetch(None)).await.topics.len(), 1);
        rights.rights.lock().clear();
        assert!(ann.ask(7, &old_fetch(None)).await.topics.is_empty());
    });
}

#[test]
fn groups_are_for_those_who_may_use_them() {
    with_rights(async |broker| {
        let mut ann = broker.connect_as(user("ann"));
        assert_eq!(commit_as(&mut ann).await[0], 0);
        assert_eq!(ann.ask(0, &FindCoordinatorRequest::default().with_key(text("g"))).await.error_code, 0);
        assert_eq!(ann.ask(4, &ListGroupsRequest::default()).await.groups.len(), 1);

        let mut bob = broker.connect_as(user("bob"));
        let found = bob.ask(2, &FindCoordinatorRequest::default().with_key(text("g"))).await;
        assert_eq!((found.error_code, found.node_id.0, found.port), (GROUP, -1, -1));
        let found = bob.ask(4, &FindCoordinatorRequest::default().with_coordinator_keys(vec![text("g")])).await;
        assert_eq!(found.coordinators[0].error_code, GROUP);

        let protocol = JoinGroupRequestProtocol::default().with_name(text("range")).with_metadata(Bytes::from("t"));
        let join = JoinGroupRequest::default()
            .with_group_id(group())
            .with_session_timeout_ms(10_000)
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        for version in 0..=9 {
            assert_eq!(bob.ask(version, &join).await.error_code, GROUP, "version {version}");
        }
        for version in 0..=5 {
            assert_eq!(bob.ask(version, &SyncGroupRequest::default().with_group_id(group())).await.error_code, GROUP);
            assert_eq!(bob.ask(version, &LeaveGroupRequest::default().with_group_id(group())).await.error_code, GROUP);
        }
        assert_eq!(bob.ask(4, &HeartbeatRequest::default().with_group_id(group())).await.error_code, GROUP);
        assert_eq!(commit_as(&mut bob).await, [GROUP; 4]);

        let told = bob.ask(1, &old_fetch(old_topics())).await;
        assert!(told.topics.iter().all(|topic| topic.partitions[0].error_code == GROUP), "{told:?}");
        assert_eq!(bob.ask(7, &old_fetch(old_topics())).await.error_code, GROUP);
        let told = bob.ask(7, &old_fetch(None)).await;
        assert_eq!((told.error_code, told.topics.len()), (GROUP, 0));
        let told = bob.ask(8, &new_fetch()).await;
        assert_eq!(told.groups[0].error_code, GROUP);
        assert!(told.groups[0].topics.iter().all(|topic| topic.partitions[0].committed_offset == -1));

        let described = bob.ask(5, &DescribeGroupsRequest::default().with_groups(vec![group()])).await;
        assert_eq!((described.groups[0].error_code, &*described.groups[0].group_state), (GROUP, ""));
        assert!(bob.ask(4, &ListGroupsRequest::default()).await.groups.is_empty());
        let deleted = bob.ask(2, &DeleteGroupsRequest::default().with_groups_names(vec![group()])).await;
        assert_eq!(deleted.results[0].error_code, GROUP);
        assert_eq!(ann.ask(4, &ListGroupsRequest::default()).await.groups.len(), 1, "it is still there");

        // An idempotent producer needs no right but that to write.
        let producer = bob.ask(4, &InitProducerIdRequest::default().with_transactional_id(None)).await;
        assert_eq!(producer.error_code, 0);
    });
}
