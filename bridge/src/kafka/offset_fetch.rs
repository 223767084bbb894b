//! OffsetFetch: where a group left off.

use std::collections::BTreeMap;

use kafka_protocol::{
    ResponseError,
    messages::{
        OffsetFetchRequest, OffsetFetchResponse, TopicName,
        offset_fetch_request::{OffsetFetchRequestTopic, OffsetFetchRequestTopics},
        offset_fetch_response::{
            OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions,
            OffsetFetchResponseTopic, OffsetFetchResponseTopics,
        },
    },
    protocol::StrBytes,
};

use super::{
    access::Operation,
    call::{Call, FoundTopic, Work, find_partition},
    offsets::{Committed, Place},
};

/// A topic, and what of it was committed.
type TopicOffsets = (TopicName, Vec<(i32, PartitionOffset)>);

/// What was committed, be it nothing, or why that is not told.
type PartitionOffset = Result<Committed, ResponseError>;

pub(super) fn offset_fetch(mut call: Call) -> Work {
    Box::pin(async move {
        let request: OffsetFetchRequest = call.decode()?;
        // What other connections committed counts from the moment it is durable.
        call.server.offsets.settle().await?;
        let allowed = call.authorize_groups();
        // Version 1 has no place for this: there, each partition says it.
        let error_code = allowed.map_or_else(|error| error.code(), |()| 0);
        let mut response = OffsetFetchResponse::default().with_error_code(error_code);
        if call.version >= 8 {
            for group in request.groups {
                let asked = group.topics.map(|topics| {
                    let topic = |t: OffsetFetchRequestTopics| (t.name, t.partition_indexes);
                    topics.into_iter().map(topic).collect()
                });
                let offsets = look_up(&call, allowed, &group.group_id, asked);
                let answer =
                    OffsetFetchResponseGroup::default().with_group_id(group.group_id).with_error_code(error_code);
                response.groups.push(answer.with_topics(offsets.into_iter().map(new_topic).collect()));
            }
        } else {
            let asked = request.topics.map(|topics| {
                let topic = |t: OffsetFetchRequestTopic| (t.name, t.partition_indexes);
                topics.into_iter().map(topic).collect()
            });
            let offsets = look_up(&call, allowed, &request.group_id, asked);
            response.topics = offsets.into_iter().map(old_topic).collect();
        }
        call.answer(&response)
    })
}

/// The offsets of a group: of some partitions, or everything it ever committed.
fn look_up(
    call: &Call,
    allowed: Result<(), ResponseError>,
    group: &str,
    asked: Option<Vec<(TopicName, Vec<i32>)>>,
) -> Vec<TopicOffsets> {
    let Some(asked) = asked else {
        return if allowed.is_ok() { everything(call, group) } else { Vec::new() };
    };
    let topics = asked.into_iter().map(|(name, partitions)| {
        let topic = allowed.and_then(|()| call.topic(Operation::Describe, &name));
        let partitions = partitions.into_iter().map(|index| (index, committed(call, group, &topic, index)));
        (name, partitions.collect())
    });
    topics.collect()
}

fn committed(call: &Call, group: &str, topic: &FoundTopic, index: i32) -> PartitionOffset {
    let place = match find_partition(topic, index) {
        Ok(partition) => Place { topic_id: partition.topic_id, partition: partition.index },
        // Nothing can have been committed there.
        Err(ResponseError::UnknownTopicOrPartition) => return Ok(nothing()),
        Err(error) => return Err(error),
    };
    Ok(call.server.offsets.get(group, place).unwrap_or_else(nothing))
}

fn everything(call: &Call, group: &str) -> Vec<TopicOffsets> {
    let mut by_topic: BTreeMap<u32, Vec<(i32, PartitionOffset)>> = BTreeMap::new();
    for (place, committed) in call.server.offsets.of_group(group) {
        let index = i32::try_from(place.partition).unwrap_or(i32::MAX);
        by_topic.entry(place.topic_id).or_default().push((index, Ok(committed)));
    }
    let topics = call.server.bridge.topics();
    let topics = topics.iter().filter(|topic| call.may(Operation::Describe, &topic.name)).filter_map(|topic| {
        let name = TopicName(StrBytes::from_string(topic.name.clone()));
        Some((name, by_topic.remove(&topic.id)?))
    });
    topics.collect()
}

/// What is answered in the place of an offset, and the error code with it.
fn told(offset: PartitionOffset) -> (Committed, i16) {
    offset.map_or_else(|error| (nothing(), error.code()), |committed| (committed, 0))
}

fn metadata(committed: &Committed) -> Option<StrBytes> {
    Some(StrBytes::from_string(committed.metadata.to_string()))
}

fn nothing() -> Committed {
    Committed { offset: -1, leader_epoch: -1, committed_at_ms: -1, metadata: "".into() }
}

fn old_topic((name, partitions): TopicOffsets) -> OffsetFetchResponseTopic {
    let partition = |(index, offset): (i32, PartitionOffset)| {
        let (committed, error_code) = told(offset);
        OffsetFetchResponsePartition::default()
            .with_partition_index(index)
            .with_error_code(error_code)
            .with_committed_offset(committed.offset)
            .with_committed_leader_epoch(committed.leader_epoch)
            .with_metadata(metadata(&committed))
    };
    OffsetFetchResponseTopic::default().with_name(name).with_partitions(partitions.into_iter().map(partition).collect())
}

/// The same, in the types of version 8.
fn new_topic((name, partitions): TopicOffsets) -> OffsetFetchResponseTopics {
    let partition = |(index, offset): (i32, PartitionOffset)| {
        let (committed, error_code) = told(offset);
        OffsetFetchResponsePartitions::default()
            .with_partition_index(index)
            .with_error_code(error_code)
            .with_committed_offset(committed.offset)
            .with_committed_leader_epoch(committed.leader_epoch)
            .with_metadata(metadata(&committed))
    };
    OffsetFetchResponseTopics::default()
        .with_name(name)
        .with_partitions(partitions.into_iter().map(partition).collect())
}
