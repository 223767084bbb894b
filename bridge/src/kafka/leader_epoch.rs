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
    call::{Call, Work},
};
use crate::Topic;

pub(super) fn leader_epoch(mut call: Call) -> Work {
    Box::pin(async move {
        let request: OffsetForLeaderEpochRequest = call.decode()?;
        let mut response = OffsetForLeaderEpochResponse::default();
        for asked in request.topics {
            let topic = call.server.bridge.topic(&asked.topic);
            let partitions = asked.partitions.iter();
            let partitions = partitions.map(|p| end_of_epoch(&call.server, topic.as_deref(), p));
            let result = OffsetForLeaderTopicResult::default().with_partitions(partitions.collect());
            response.topics.push(result.with_topic(asked.topic));
        }
        call.answer(&response)
    })
}

fn end_of_epoch(server: &Server, topic: Option<&Topic>, asked: &OffsetForLeaderPartition) -> EpochEndOffset {
    let end = EpochEndOffset::default().with_partition(asked.partition);
    let partition = topic.and_then(|t| t.partitions.get(usize::try_from(asked.partition).ok()?));
    let Some(partition) = partition else {
        return end.with_error_code(ResponseError::UnknownTopicOrPartition.code());
    };
    if let Err(error) = check_epoch(server, asked.current_leader_epoch) {
        return end.with_error_code(error.code());
    }
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
