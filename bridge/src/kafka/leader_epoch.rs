//! OffsetForLeaderEpoch: where an epoch ended, so that a client notices a cut tail (K3).

use kafka_protocol::{
    ResponseError,
    messages::{
        OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse,
        offset_for_leader_epoch_request::OffsetForLeaderPartition,
        offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult},
    },
};

use super::{
    Server,
    access::Operation,
    call::{Call, FoundTopic, Work, find_partition},
};

pub(super) fn leader_epoch(mut call: Call) -> Work {
    Box::pin(async move {
        let request: OffsetForLeaderEpochRequest = call.decode()?;
        let mut response = OffsetForLeaderEpochResponse::default();
        for asked in request.topics {
            let topic = call.topic(Operation::Describe, &asked.topic);
            let partitions = asked.partitions.iter();
            let partitions = partitions.map(|p| end_of_epoch(&call.server, &topic, p));
            let result = OffsetForLeaderTopicResult::default().with_partitions(partitions.collect());
            response.topics.push(result.with_topic(asked.topic));
        }
        call.answer(&response)
    })
}

fn end_of_epoch(server: &Server, topic: &FoundTopic, asked: &OffsetForLeaderPartition) -> EpochEndOffset {
    let end = EpochEndOffset::default().with_partition(asked.partition);
    let checked = find_partition(topic, asked.partition).and_then(|partition| {
        check_epoch(server, asked.current_leader_epoch)?;
        Ok(partition)
    });
    let partition = match checked {
        Ok(partition) => partition,
        Err(error) => return end.with_error_code(error.code()),
    };
    match partition.end_of_epoch(asked.leader_epoch) {
        Some((epoch, offset)) => end.with_leader_epoch(epoch).with_end_offset(offset),
        None => end,
    }
}

/// Whether a client's idea of the epoch is ours; −1 is no idea. A client from before a restart
/// is told so: then it asks where its epoch ended.
pub(super) fn check_epoch(server: &Server, current: i32) -> Result<(), ResponseError> {
    match current {
        ..0 => Ok(()),
        _ if current < server.bridge.epoch() => Err(ResponseError::FencedLeaderEpoch),
        _ if current > server.bridge.epoch() => Err(ResponseError::UnknownLeaderEpoch),
        _ => Ok(()),
    }
}
