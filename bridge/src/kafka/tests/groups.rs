//! Groups and their offsets, through the wire and across a restart.

use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::{
    DeleteGroupsRequest, DescribeGroupsRequest, GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse,
    ListGroupsRequest, MetadataRequest, OffsetCommitRequest, OffsetFetchRequest, SyncGroupRequest, SyncGroupResponse,
    TopicName,
    join_group_request::JoinGroupRequestProtocol,
    metadata_request::MetadataRequestTopic,
    offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic},
    sync_group_request::SyncGroupRequestAssignment,
};
use tokio::task::spawn_local;

use super::{Broker, Peer, on_one_thread, text, with_broker};

fn group() -> GroupId {
    GroupId(text("g"))
}

fn join(session_timeout_ms: i32) -> JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol::default().with_name(text("range")).with_metadata(Bytes::from("topics"));
    JoinGroupRequest::default()
        .with_group_id(group())
        .with_session_timeout_ms(session_timeout_ms)
        .with_rebalance_timeout_ms(20_000)
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol])
}

fn sync(member: &JoinGroupResponse, everyone: &[&JoinGroupResponse]) -> SyncGroupRequest {
    let part = |m: &&JoinGroupResponse| {
        let part = Bytes::from(format!("part of {}", m.member_id.as_str()));
        SyncGroupRequestAssignment::default().with_member_id(m.member_id.clone()).with_assignment(part)
    };
    SyncGroupRequest::default()
        .with_group_id(group())
        .with_generation_id(member.generation_id)
        .with_member_id(member.member_id.clone())
        .with_protocol_type(Some(text("consumer")))
        .with_protocol_name(Some(text("range")))
        .with_assignments(everyone.iter().map(part).collect())
}

fn heartbeat(member: &JoinGroupResponse) -> HeartbeatRequest {
    HeartbeatRequest::default()
        .with_group_id(group())
        .with_generation_id(member.generation_id)
        .with_member_id(member.member_id.clone())
}

fn commit(offset: i64, metadata: &str) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition::default()
        .with_committed_offset(offset)
        .with_committed_leader_epoch(1)
        .with_committed_metadata(Some(text(metadata)));
    let topic = OffsetCommitRequestTopic::default().with_name(TopicName(text("t"))).with_partitions(vec![partition]);
    OffsetCommitRequest::default().with_group_id(group()).with_topics(vec![topic])
}

/// Everything the group committed: topic, partition, offset.
async fn committed(peer: &mut Peer) -> Vec<(String, i32, i64)> {
    let everything = OffsetFetchRequest::default().with_group_id(group()).with_topics(None);
    let response = peer.ask(7, &everything).await;
    let topics = response.topics.iter();
    let offsets = topics.flat_map(|topic| {
        topic.partitions.iter().map(|p| (topic.name.to_string(), p.partition_index, p.committed_offset))
    });
    offsets.collect()
}

async fn make_topic(peer: &mut Peer) {
    let asked = MetadataRequestTopic::default().with_name(Some(TopicName(text("t"))));
    peer.ask(4, &MetadataRequest::default().with_topics(Some(vec![asked]))).await;
}

#[test]
fn two_members_share_the_work() {
    with_broker(async |broker| {
        let (mut one, mut two) = (broker.connect(), broker.connect());
        let a = one.ask(3, &join(10_000)).await;
        assert_eq!((a.error_code, a.generation_id, &a.leader), (0, 1, &a.member_id));
        let part: SyncGroupResponse = one.ask(3, &sync(&a, &[&a])).await;
        assert!(part.assignment.starts_with(b"part of test-"));

        two.send(9, &join(10_000)).await;
        let told: JoinGroupResponse = two.receive(9).await;
        assert_eq!(told.error_code, 79, "MEMBER_ID_REQUIRED");
        two.send(9, &join(10_000).with_member_id(told.member_id)).await;
        // The first hears of it at its next heartbeats.
        while one.ask(4, &heartbeat(&a)).await.error_code != 27 {
            tokio::task::yield_now().await;
        }
        let a = one.ask(9, &join(10_000).with_member_id(a.member_id)).await;
        let b: JoinGroupResponse = two.receive(9).await;
        assert_eq!((a.generation_id, b.generation_id), (2, 2));
        assert_eq!((a.members.len(), b.members.len()), (2, 0));
        two.send(5, &sync(&b, &[])).await;
        one.ask(5, &sync(&a, &[&a, &b])).await;
        let part: SyncGroupResponse = two.receive(5).await;
        assert_eq!(part.assignment, format!("part of {}", b.member_id.as_str()));
        assert_eq!(part.protocol_name, Some(text("range")));

        let described = one.ask(5, &DescribeGroupsRequest::default().with_groups(vec![group()])).await;
        assert_eq!(&*described.groups[0].group_state, "Stable");
        assert_eq!(&*described.groups[0].members[0].client_host, "/127.0.0.1");
        assert_eq!(described.groups[0].members.len(), 2);
        let refused = one.ask(2, &DeleteGroupsRequest::default().with_groups_names(vec![group()])).await;
        assert_eq!(refused.results[0].error_code, 68, "NON_EMPTY_GROUP");
    });
}

#[test]
fn a_silent_member_is_removed_by_the_timers() {
    with_broker(async |broker| {
        let mut peer = broker.connect();
        let a = peer.ask(3, &join(100)).await;
        peer.ask(3, &sync(&a, &[&a])).await;
        while peer.ask(0, &DescribeGroupsRequest::default().with_groups(vec![group()])).await.groups[0]
            .group_state
            .as_str()
            != "Dead"
        {
            tokio::time::sleep(Duration::from_millis(5)).await; // it takes the session's 100 ms
        }
        assert_eq!(peer.ask(3, &heartbeat(&a)).await.error_code, 25, "UNKNOWN_MEMBER_ID");
    });
}

#[test]
fn a_client_that_hangs_up_while_joining_is_not_waited_for() {
    with_broker(async |broker| {
        let (mut one, mut two) = (broker.connect(), broker.connect());
        let a = one.ask(3, &join(10_000)).await;
        one.ask(3, &sync(&a, &[&a])).await;
        two.send(3, &join(10_000)).await;
        while one.ask(3, &heartbeat(&a)).await.error_code != 27 {
            tokio::task::yield_now().await;
        }
        assert!(two.hang_up().await.is_ok());
        let again = one.ask(5, &join(10_000).with_member_id(a.member_id)).await;
        assert_eq!(again.members.len(), 1, "at once, not after the rebalance timeout");
    });
}

#[test]
fn commits_survive_a_restart_and_end_with_their_group() {
    let broker = Broker::start();
    on_one_thread(async {
        let mut peer = broker.connect();
        make_topic(&mut peer).await;
        let answer = peer.ask(8, &commit(41, "note")).await;
        assert_eq!(answer.topics[0].partitions[0].error_code, 0);
        peer.ask(2, &commit(42, "note")).await;
        assert_eq!(committed(&mut peer).await, [("t".to_owned(), 0, 42)]);
        peer.hang_up().await.expect("a clean end");
    });
    let broker = broker.restart();
    on_one_thread(async {
        let mut peer = broker.connect();
        assert_eq!(committed(&mut peer).await, [("t".to_owned(), 0, 42)]);
        let listed = peer.ask(4, &ListGroupsRequest::default()).await;
        assert_eq!(&*listed.groups[0].group_state, "Empty");
        let gone = peer.ask(1, &DeleteGroupsRequest::default().with_groups_names(vec![group()])).await;
        assert_eq!(gone.results[0].error_code, 0);
        assert!(committed(&mut peer).await.is_empty());
        let gone = peer.ask(1, &DeleteGroupsRequest::default().with_groups_names(vec![group()])).await;
        assert_eq!(gone.results[0].error_code, 69, "GROUP_ID_NOT_FOUND");
        peer.hang_up().await.expect("a clean end");
    });
    let broker = broker.restart();
    on_one_thread(async {
        assert!(committed(&mut broker.connect()).await.is_empty());
    });
}

#[test]
fn commits_are_checked_one_by_one() {
    with_broker(async |broker| {
        let mut peer = broker.connect();
        make_topic(&mut peer).await;
        let code =
            |response: kafka_protocol::messages::OffsetCommitResponse| response.topics[0].partitions[0].error_code;
        assert_eq!(code(peer.ask(8, &commit(1, &"x".repeat(4097))).await), 12, "OFFSET_METADATA_TOO_LARGE");
        let mut elsewhere = commit(1, "");
        elsewhere.topics[0].partitions[0].partition_index = 2;
        assert_eq!(code(peer.ask(8, &elsewhere).await), 3, "UNKNOWN_TOPIC_OR_PARTITION");
        let stale = commit(1, "").with_generation_id_or_member_epoch(3);
        assert_eq!(code(peer.ask(8, &stale).await), 22, "ILLEGAL_GENERATION");
        assert!(committed(&mut peer).await.is_empty());
    });
}

#[test]
fn what_a_client_asked_last_is_done_after_it_hung_up() {
    with_broker(async |broker| {
        let mut peer = broker.connect();
        make_topic(&mut peer).await;
        peer.send(8, &commit(7, "")).await;
        // The answer may find nobody to read it.
        let _ = peer.hang_up().await;
        assert_eq!(committed(&mut broker.connect()).await, [("t".to_owned(), 0, 7)]);
    });
}

#[test]
fn many_commits_of_one_group_end_with_the_last() {
    with_broker(async |broker| {
        let mut first = broker.connect();
        make_topic(&mut first).await;
        let writers: Vec<_> = (0..8)
            .map(|w| {
                let mut peer = broker.connect();
                spawn_local(async move {
                    for i in 0..20 {
                        let answer = peer.ask(8, &commit(w * 100 + i, "")).await;
                        assert_eq!(answer.topics[0].partitions[0].error_code, 0);
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.expect("no panic");
        }
        let before = committed(&mut first).await;
        let on_disk = {
            first.ask(8, &commit(-5, "")).await;
            committed(&mut first).await
        };
        assert_eq!(before[0].2 % 100, 19, "the last of one of them");
        assert_eq!(on_disk[0].2, -5);
    });
}
