//! ListOffsets: the first, the last, or the offset of a time.

use kafka_protocol::{
    ResponseError,
    messages::{
        ListOffsetsRequest, ListOffsetsResponse,
        list_offsets_request::ListOffsetsPartition,
        list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse},
    },
};

use super::{
    Server,
    access::Operation,
    call::{Call, FoundTopic, Work, find_partition},
    leader_epoch::check_epoch,
};
use crate::{Partition, ReadError};

/// Timestamps that stand for something else.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;

/// First version that has a leader epoch; the codec refuses to leave it out.
const LEADER_EPOCH_FROM: i16 = 4;

pub(super) fn list_offsets(mut call: Call) -> Work {
    Box::pin(async move {
        let request: ListOffsetsRequest = call.decode()?;
        let mut response = ListOffsetsResponse::default();
        for asked in request.topics {
            let topic = call.topic(Operation::Describe, &asked.name);
            let mut partitions = Vec::with_capacity(asked.partitions.len());
            for partition in &asked.partitions {
                partitions.push(list_one(&call.server, &topic, partition).await);
            }
            let topic = ListOffsetsTopicResponse::default().with_name(asked.name);
            if call.version < LEADER_EPOCH_FROM {
                partitions.iter_mut().for_each(|partition| partition.leader_epoch = -1);
            }
            response.topics.push(topic.with_partitions(partitions));
        }
        call.answer(&response)
    })
}

async fn list_one(server: &Server, topic: &FoundTopic, asked: &ListOffsetsPartition) -> ListOffsetsPartitionResponse {
    let response = ListOffsetsPartitionResponse::default().with_partition_index(asked.partition_index);
    match find(server, topic, asked).await {
        Ok(Some((offset, timestamp))) => {
            response.with_offset(offset).with_timestamp(timestamp).with_leader_epoch(server.bridge.epoch())
        }
        Ok(None) => response,
        Err(error) => response.with_error_code(error.code()),
    }
}

/// Offset and timestamp; the latter −1 where the question was not of time.
async fn find(
    server: &Server,
    topic: &FoundTopic,
    asked: &ListOffsetsPartition,
) -> Result<Option<(i64, i64)>, ResponseError> {
    let partition = find_partition(topic, asked.partition_index)?;
    check_epoch(server, asked.current_leader_epoch)?;
    let found = match asked.timestamp {
        LATEST => Ok(Some((partition.high_watermark(), -1))),
        EARLIEST => Ok(Some((partition.log_start(), -1))),
        MAX_TIMESTAMP => partition.max_timestamp().await,
        timestamp_ms if timestamp_ms >= 0 => partition.offset_for_timestamp(timestamp_ms).await,
        // Of tiered storage, which is not.
        _ => return Err(ResponseError::UnsupportedVersion),
    };
    found.map_err(|error| storage_error(partition, &error))
}

/// What a client hears when the disk fails a read.
pub(super) fn storage_error(partition: &Partition, error: &ReadError) -> ResponseError {
    match error {
        ReadError::OutOfRange { .. } => ResponseError::OffsetOutOfRange,
        ReadError::Stopping => ResponseError::KafkaStorageError,
        ReadError::Disk(_) | ReadError::Damaged(_) => {
            let (topic_id, partition) = (partition.topic_id, partition.index);
            tracing::error!(topic_id, partition, %error, "a partition could not be read");
            ResponseError::KafkaStorageError
        }
    }
}
