//! Every API in every version served: a request with one of everything is taken, and answered.

use bytes::{Buf, Bytes, BytesMut};
use kafka_protocol::messages::{
    AlterConfigsRequest, ApiKey, ApiVersionsRequest, BrokerId, CreateTopicsRequest, DeleteGroupsRequest,
    DeleteRecordsRequest, DeleteTopicsRequest, DescribeClusterRequest, DescribeConfigsRequest, DescribeGroupsRequest,
    FetchRequest, FindCoordinatorRequest, GroupId, HeartbeatRequest, IncrementalAlterConfigsRequest,
    InitProducerIdRequest, JoinGroupRequest, LeaveGroupRequest, ListGroupsRequest, ListOffsetsRequest, MetadataRequest,
    OffsetCommitRequest, OffsetFetchRequest, OffsetForLeaderEpochRequest, ProduceRequest, RequestKind, ResponseKind,
    SaslAuthenticateRequest, SaslHandshakeRequest, SyncGroupRequest, TopicName, alter_configs_request as alter,
    create_topics_request as create, delete_records_request as records, delete_topics_request as delete,
    describe_configs_request as configs, fetch_request as fetch, incremental_alter_configs_request as incremental,
    join_group_request as join, leave_group_request as leave, list_offsets_request as list,
    metadata_request as metadata, offset_commit_request as commit, offset_fetch_request as offsets,
    offset_for_leader_epoch_request as epoch, produce_request as produce, sync_group_request as sync,
};

use super::{batch_of, text, with_broker};
use crate::kafka::{APIS, find_api, shape};

fn topic() -> TopicName {
    TopicName(text("t"))
}

fn group() -> GroupId {
    GroupId(text("g"))
}

/// A topic to delete: CreateTopics comes before, and has six versions too.
fn made(n: usize) -> TopicName {
    TopicName(text(&format!("made-{}", n.saturating_sub(6))))
}

/// A request with one element in every array. `n` makes names that must be new.
fn sample(key: ApiKey, version: i16, n: usize) -> RequestKind {
    let v = version;
    match key {
        ApiKey::Produce => {
            let data = produce::PartitionProduceData::default().with_records(Some(batch_of(&["x"])));
            let data = produce::TopicProduceData::default().with_name(topic()).with_partition_data(vec![data]);
            ProduceRequest::default().with_acks(-1).with_topic_data(vec![data]).into()
        }
        ApiKey::Fetch => {
            let partition = fetch::FetchPartition::default().with_partition_max_bytes(1000);
            let asked = fetch::FetchTopic::default().with_topic(topic()).with_partitions(vec![partition]);
            let forgotten = fetch::ForgottenTopic::default().with_topic(topic()).with_partitions(vec![1]);
            FetchRequest::default()
                .with_max_bytes(1000)
                .with_topics(vec![asked])
                .with_forgotten_topics_data(if v >= 7 { vec![forgotten] } else { vec![] })
                .into()
        }
        ApiKey::ListOffsets => {
            let partition = list::ListOffsetsPartition::default().with_timestamp(-1);
            let asked = list::ListOffsetsTopic::default().with_name(topic()).with_partitions(vec![partition]);
            ListOffsetsRequest::default().with_topics(vec![asked]).into()
        }
        ApiKey::Metadata => {
            let asked = metadata::MetadataRequestTopic::default().with_name(Some(topic()));
            MetadataRequest::default().with_topics(Some(vec![asked])).into()
        }
        ApiKey::OffsetCommit => {
            let partition = commit::OffsetCommitRequestPartition::default()
                .with_committed_offset(5)
                .with_committed_metadata(Some(text("m")));
            let asked = commit::OffsetCommitRequestTopic::default().with_name(topic()).with_partitions(vec![partition]);
            OffsetCommitRequest::default().with_group_id(group()).with_topics(vec![asked]).into()
        }
        ApiKey::OffsetFetch if v >= 8 => {
            let asked = offsets::OffsetFetchRequestTopics::default().with_name(topic()).with_partition_indexes(vec![0]);
            let asked =
                offsets::OffsetFetchRequestGroup::default().with_group_id(group()).with_topics(Some(vec![asked]));
            OffsetFetchRequest::default().with_groups(vec![asked]).into()
        }
        ApiKey::OffsetFetch => {
            let asked = offsets::OffsetFetchRequestTopic::default().with_name(topic()).with_partition_indexes(vec![0]);
            OffsetFetchRequest::default().with_group_id(group()).with_topics(Some(vec![asked])).into()
        }
        ApiKey::FindCoordinator if v >= 4 => {
            FindCoordinatorRequest::default().with_coordinator_keys(vec![text("g")]).into()
        }
        ApiKey::FindCoordinator => FindCoordinatorRequest::default().with_key(text("g")).into(),
        ApiKey::JoinGroup => {
            let protocol =
                join::JoinGroupRequestProtocol::default().with_name(text("range")).with_metadata(Bytes::from("topics"));
            JoinGroupRequest::default()
                .with_group_id(GroupId(text(&format!("join-{n}"))))
                .with_session_timeout_ms(10_000)
                .with_protocol_type(text("consumer"))
                .with_protocols(vec![protocol])
                .into()
        }
        ApiKey::Heartbeat => HeartbeatRequest::default().with_group_id(group()).into(),
        ApiKey::LeaveGroup => {
            let member = leave::MemberIdentity::default().with_member_id(text("m"));
            let request = LeaveGroupRequest::default().with_group_id(group());
            match v {
                ..3 => request.with_member_id(text("m")).into(),
                _ => request.with_members(vec![member]).into(),
            }
        }
        ApiKey::SyncGroup => {
            let part = sync::SyncGroupRequestAssignment::default()
                .with_member_id(text("m"))
                .with_assignment(Bytes::from("part"));
            SyncGroupRequest::default().with_group_id(group()).with_assignments(vec![part]).into()
        }
        ApiKey::DescribeGroups => DescribeGroupsRequest::default().with_groups(vec![group()]).into(),
        ApiKey::ListGroups => {
            let states = if v >= 4 { vec![text("Empty"), text("Stable")] } else { vec![] };
            ListGroupsRequest::default().with_states_filter(states).into()
        }
        ApiKey::ApiVersions => ApiVersionsRequest::default()
            .with_client_software_name(text("test"))
            .with_client_software_version(text("1"))
            .into(),
        ApiKey::CreateTopics => {
            let placed = create::CreatableReplicaAssignment::default().with_broker_ids(vec![BrokerId(7)]);
            let setting = create::CreatableTopicConfig::default()
                .with_name(text("cleanup.policy"))
                .with_value(Some(text("delete")));
            let wanted = create::CreatableTopic::default()
                .with_name(TopicName(text(&format!("made-{n}"))))
                .with_num_partitions(-1)
                .with_replication_factor(-1)
                .with_assignments(vec![placed])
                .with_configs(vec![setting]);
            CreateTopicsRequest::default().with_topics(vec![wanted]).into()
        }
        ApiKey::InitProducerId => InitProducerIdRequest::default().with_transactional_id(None).into(),
        ApiKey::OffsetForLeaderEpoch => {
            let partition = epoch::OffsetForLeaderPartition::default().with_leader_epoch(1);
            let asked = epoch::OffsetForLeaderTopic::default().with_topic(topic()).with_partitions(vec![partition]);
            OffsetForLeaderEpochRequest::default().with_topics(vec![asked]).into()
        }
        ApiKey::DeleteTopics if v >= 6 => {
            let asked = delete::DeleteTopicState::default().with_name(Some(made(n)));
            DeleteTopicsRequest::default().with_topics(vec![asked]).into()
        }
        ApiKey::DeleteTopics => DeleteTopicsRequest::default().with_topic_names(vec![made(n)]).into(),
        ApiKey::DeleteRecords => {
            let partition = records::DeleteRecordsPartition::default().with_offset(-1);
            let asked = records::DeleteRecordsTopic::default().with_name(topic()).with_partitions(vec![partition]);
            DeleteRecordsRequest::default().with_topics(vec![asked]).into()
        }
        ApiKey::AlterConfigs => {
            let setting =
                alter::AlterableConfig::default().with_name(text("retention.ms")).with_value(Some(text("1000000")));
            let asked = alter::AlterConfigsResource::default()
                .with_resource_type(2)
                .with_resource_name(text("t"))
                .with_configs(vec![setting]);
            AlterConfigsRequest::default().with_resources(vec![asked]).into()
        }
        ApiKey::IncrementalAlterConfigs => {
            let setting = incremental::AlterableConfig::default()
                .with_name(text("cleanup.policy"))
                .with_config_operation(2)
                .with_value(Some(text("compact")));
            let asked = incremental::AlterConfigsResource::default()
                .with_resource_type(2)
                .with_resource_name(text("t"))
                .with_configs(vec![setting]);
            IncrementalAlterConfigsRequest::default().with_resources(vec![asked]).into()
        }
        ApiKey::DescribeConfigs => {
            let keys = Some(vec![text("retention.ms")]);
            let asked = configs::DescribeConfigsResource::default()
                .with_resource_type(2)
                .with_resource_name(text("t"))
                .with_configuration_keys(keys);
            DescribeConfigsRequest::default().with_resources(vec![asked]).into()
        }
        ApiKey::DeleteGroups => DeleteGroupsRequest::default().with_groups_names(vec![group()]).into(),
        ApiKey::DescribeCluster => DescribeClusterRequest::default().into(),
        ApiKey::SaslHandshake => SaslHandshakeRequest::default().with_mechanism(text("PLAIN")).into(),
        ApiKey::SaslAuthenticate => {
            SaslAuthenticateRequest::default().with_auth_bytes(Bytes::from("\0ann\0secret")).into()
        }
        other => panic!("{other:?} has no sample"),
    }
}

fn encode(request: &RequestKind, version: i16) -> BytesMut {
    let mut body = BytesMut::new();
    request.encode(&mut body, version).expect("the sample encodes");
    body
}

/// The shapes are what the codec means, to the byte.
#[test]
fn shapes_agree_with_the_codec() {
    for api in &APIS {
        for version in api.min.max(if api.key == ApiKey::Produce { 3 } else { 0 })..=api.max {
            let body = encode(&sample(api.key, version, 0), version);
            let taken = shape::check(&body, api.request, version, version >= api.flexible_from);
            assert_eq!(taken, Ok(body.len()), "{:?} version {version}", api.key);
            // And an early end is noticed anywhere.
            for cut in 0..body.len() {
                let taken = shape::check(&body[..cut], api.request, version, version >= api.flexible_from);
                assert!(taken.is_err(), "{:?} version {version} cut at {cut}", api.key);
            }
        }
    }
}

#[test]
fn header_versions_agree_with_the_codec() {
    for api in &APIS {
        for version in api.min..=api.max {
            let flexible = version >= api.flexible_from;
            let request = api.key.request_header_version(version);
            assert_eq!(request, if flexible { 2 } else { 1 }, "{:?} version {version}", api.key);
        }
    }
}

#[test]
fn every_version_of_every_api_is_answered() {
    with_broker(async |broker| {
        let mut peer = broker.connect();
        peer.send_body(3, 0, &[0, 0, 0, 1, 0, 1, b't']).await; // makes the topic
        peer.receive_frame().await;
        let mut n = 0;
        for api in &APIS {
            for version in api.min.max(if api.key == ApiKey::Produce { 3 } else { 0 })..=api.max {
                n += 1;
                let body = encode(&sample(api.key, version, n), version);
                if api.decides_who {
                    peer = broker.connect();
                    if api.key == ApiKey::SaslAuthenticate {
                        peer.ask(1, &SaslHandshakeRequest::default().with_mechanism(text("PLAIN"))).await;
                    }
                }
                peer.send_body(api.key as i16, version, &body).await;
                let (_, mut frame) = peer.receive_frame().await;
                if api.key.response_header_version(version) >= 1 {
                    assert_eq!(frame.get_u8(), 0);
                }
                let response = ResponseKind::decode(api.key, &mut frame, version);
                let response = response.unwrap_or_else(|e| panic!("{:?} version {version}: {e}", api.key));
                assert!(frame.is_empty(), "{:?} version {version}", api.key);
                check(&response, version);
            }
        }
    });
}

/// No answer to a sample is an error, but for strangers in groups.
fn check(response: &ResponseKind, version: i16) {
    let codes: Vec<i16> = match response {
        ResponseKind::Produce(r) => r.responses[0].partition_responses.iter().map(|p| p.error_code).collect(),
        ResponseKind::Fetch(r) => r.responses[0].partitions.iter().map(|p| p.error_code).collect(),
        ResponseKind::ListOffsets(r) => r.topics[0].partitions.iter().map(|p| p.error_code).collect(),
        ResponseKind::Metadata(r) => r.topics.iter().map(|t| t.error_code).collect(),
        ResponseKind::OffsetCommit(r) => r.topics[0].partitions.iter().map(|p| p.error_code).collect(),
        ResponseKind::OffsetFetch(r) if version >= 8 => {
            r.groups[0].topics[0].partitions.iter().map(|p| p.error_code).collect()
        }
        ResponseKind::OffsetFetch(r) => r.topics[0].partitions.iter().map(|p| p.error_code).collect(),
        ResponseKind::CreateTopics(r) => r.topics.iter().map(|t| t.error_code).collect(),
        ResponseKind::SaslHandshake(r) => vec![r.error_code],
        ResponseKind::SaslAuthenticate(r) => vec![r.error_code],
        ResponseKind::InitProducerId(r) => vec![r.error_code],
        ResponseKind::OffsetForLeaderEpoch(r) => r.topics[0].partitions.iter().map(|p| p.error_code).collect(),
        ResponseKind::DescribeConfigs(r) => r.results.iter().map(|r| r.error_code).collect(),
        ResponseKind::DeleteTopics(r) => r.responses.iter().map(|t| t.error_code).collect(),
        ResponseKind::DeleteRecords(r) => r.topics[0].partitions.iter().map(|p| p.error_code).collect(),
        ResponseKind::AlterConfigs(r) => r.responses.iter().map(|r| r.error_code).collect(),
        ResponseKind::IncrementalAlterConfigs(r) => r.responses.iter().map(|r| r.error_code).collect(),
        ResponseKind::DescribeCluster(r) => vec![r.error_code],
        ResponseKind::FindCoordinator(r) => vec![r.error_code],
        ResponseKind::DescribeGroups(r) => r.groups.iter().map(|g| g.error_code).collect(),
        ResponseKind::ListGroups(r) => vec![r.error_code],
        _ => return,
    };
    assert!(!codes.is_empty() && codes.iter().all(|code| *code == 0), "version {version}: {response:?}");
}

#[test]
fn there_is_one_entry_for_each_key() {
    for api in &APIS {
        let found = find_api(api.key as i16).expect("served");
        assert!(std::ptr::eq(found, api), "{:?} twice", api.key);
        assert!(api.min <= api.max);
    }
}
