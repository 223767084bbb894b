//! DeleteRecords: what is below an offset goes. Queues of MQTT clients keep what they need of it.

use std::sync::Arc;

use kafka_protocol::{
    ResponseError,
    messages::{
        DeleteRecordsRequest, DeleteRecordsResponse,
        delete_records_request::DeleteRecordsPartition,
        delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult},
    },
};

use super::{
    access::Operation,
    call::{Call, FoundTopic, Work, find_partition},
};
use crate::{Partition, Ticket};

/// Stands for the high watermark: everything that there is.
const ALL: i64 = -1;

/// A partition on its way to another beginning.
type Trimmed = (Arc<Partition>, i64);

pub(super) fn delete_records(mut call: Call) -> Work {
    Box::pin(async move {
        let request: DeleteRecordsRequest = call.decode()?;
        let mut response = DeleteRecordsResponse::default();
        let (mut trimmed, mut last_ticket) = (Vec::new(), None);
        for asked in request.topics {
            let topic = call.topic(Operation::Manage, &asked.name);
            let partitions = asked.partitions.iter().map(|asked| {
                let result = DeleteRecordsPartitionResult::default().with_partition_index(asked.partition_index);
                match trim(&call, &topic, asked) {
                    Ok(((partition, low), ticket)) => {
                        trimmed.push((partition, low));
                        last_ticket = Some(ticket);
                        result.with_low_watermark(low)
                    }
                    Err(error) => result.with_low_watermark(-1).with_error_code(error.code()),
                }
            });
            let partitions = partitions.collect();
            response.topics.push(DeleteRecordsTopicResult::default().with_name(asked.name).with_partitions(partitions));
        }
        if let Some(ticket) = last_ticket {
            call.client.lane.wait(ticket).await?;
            // The apply thread does the same a little later: who is answered sees it.
            trimmed.into_iter().for_each(|(partition, low)| partition.raise_log_start(low));
        }
        call.answer(&response)
    })
}

fn trim(call: &Call, topic: &FoundTopic, asked: &DeleteRecordsPartition) -> Result<(Trimmed, Ticket), ResponseError> {
    let partition = find_partition(topic, asked.partition_index)?;
    // As Kafka has it: of a topic that is only compacted nothing goes but by its key.
    if topic.as_ref().is_ok_and(|topic| !topic.config().settings.delete) {
        return Err(ResponseError::PolicyViolation);
    }
    let end = partition.high_watermark();
    let offset = if asked.offset == ALL { end } else { asked.offset };
    if !(0..=end).contains(&offset) {
        return Err(ResponseError::OffsetOutOfRange);
    }
    let (low, ticket) = call.server.bridge.delete_records(&call.client.lane, partition, offset);
    Ok(((partition.clone(), low), ticket))
}
