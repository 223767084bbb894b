//! OffsetCommit: a group keeps its positions. Answered when they are on disk.

use std::time::{SystemTime, UNIX_EPOCH};

use kafka_protocol::{
    ResponseError,
    messages::{
        OffsetCommitRequest, OffsetCommitResponse,
        offset_commit_request::OffsetCommitRequestPartition,
        offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic},
    },
};

use super::{
    access::Operation,
    call::{Call, FoundTopic, Work, find_partition},
    groups::error_code,
    membership::arc,
    offsets::{Committed, Place},
};
use crate::group::Membership;

/// Kafka's default `offset.metadata.max.bytes`.
const METADATA_BYTES_MAX: usize = 4096;

pub(super) fn offset_commit(mut call: Call) -> Work {
    Box::pin(async move {
        let request: OffsetCommitRequest = call.decode()?;
        let group = arc(&request.group_id);
        let who = Membership {
            member_id: arc(&request.member_id),
            instance_id: request.group_instance_id.as_ref().map(arc),
            generation: request.generation_id_or_member_epoch,
        };
        let allowed = call.authorize_groups().map_err(|error| error.code());
        // As Kafka's brokers answer when their disk has failed (J8): clients look for another coordinator.
        let allowed = allowed.and_then(|()| match call.server.bridge.failure() {
            Some(_) => Err(ResponseError::NotCoordinator.code()),
            None => Ok(()),
        });
        let allowed = allowed.and_then(|()| call.server.groups.may_commit(&group, &who).map_err(error_code));
        let (mut response, accepted) = check(&call, request, allowed);
        if !accepted.is_empty() && call.server.offsets.commit(&group, accepted).await?.is_err() {
            tracing::warn!(%group, "committed offsets take too much room, commit refused");
            let partitions = response.topics.iter_mut().flat_map(|t| &mut t.partitions);
            for partition in partitions.filter(|p| p.error_code == 0) {
                partition.error_code = ResponseError::InvalidCommitOffsetSize.code();
            }
        }
        call.answer(&response)
    })
}

/// The response as it will be if the disk takes what is accepted.
fn check(
    call: &Call,
    request: OffsetCommitRequest,
    allowed: Result<(), i16>,
) -> (OffsetCommitResponse, Vec<(Place, Committed)>) {
    let mut accepted = Vec::new();
    let mut response = OffsetCommitResponse::default();
    for asked in request.topics {
        let topic = call.topic(Operation::Read, &asked.name);
        let mut partitions = Vec::with_capacity(asked.partitions.len());
        for partition in asked.partitions {
            let index = partition.partition_index;
            let checked = allowed.and_then(|()| place(&topic, index));
            let error_code = match checked.and_then(|place| Ok((place, to_committed(partition)?))) {
                Ok(offset) => {
                    accepted.push(offset);
                    0
                }
                Err(code) => code,
            };
            let partition =
                OffsetCommitResponsePartition::default().with_partition_index(index).with_error_code(error_code);
            partitions.push(partition);
        }
        let topic = OffsetCommitResponseTopic::default().with_name(asked.name);
        response.topics.push(topic.with_partitions(partitions));
    }
    (response, accepted)
}

fn place(topic: &FoundTopic, index: i32) -> Result<Place, i16> {
    let partition = find_partition(topic, index).map_err(|error| error.code())?;
    Ok(Place { topic_id: partition.topic_id, partition: partition.index })
}

fn to_committed(partition: OffsetCommitRequestPartition) -> Result<Committed, i16> {
    let metadata = partition.committed_metadata.unwrap_or_default();
    if metadata.len() > METADATA_BYTES_MAX {
        return Err(ResponseError::OffsetMetadataTooLarge.code());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ok(Committed {
        offset: partition.committed_offset,
        leader_epoch: partition.committed_leader_epoch,
        committed_at_ms: i64::try_from(now.as_millis()).unwrap_or(i64::MAX),
        metadata: metadata.as_str().into(),
    })
}
