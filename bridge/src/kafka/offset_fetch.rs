//! OffsetFetch: where a group left off.

use std::collections::BTreeMap;

use kafka_protocol::{
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
    call::{Call, Work},
    offsets::{Committed, Place},
};

/// A topic, and what of it was committed; `None` where nothing was.
type TopicOffsets = (TopicName, Vec<(i32, Option<Committed>)>);

pub(super) fn offset_fetch(mut call: Call) -> Work {
    Box::pin(async move {
        let request: OffsetFetchRequest = call.decode()?;
        // What other connections committed counts from the moment it is durable.
        call.server.offsets.settle().await?;
        let mut response = OffsetFetchResponse::default();
        if call.version >= 8 {
            for group in request.groups {
                let asked = group.topics.map(|topics| {
                    let topic = |t: OffsetFetchRequestTopics| (t.name, t.partition_indexes);
                    topics.into_iter().map(topic).collect()
                });
                let offsets = look_up(&call, &group.group_id, asked);
                let answer = OffsetFetchResponseGroup::default().with_group_id(group.group_id);
                response.groups.push(answer.with_topics(offsets.into_iter().map(new_topic).collect()));
            }
        } else {
            let asked = request.topics.map(|topics| {
                let topic = |t: OffsetFetchRequestTopic| (t.name, t.partition_indexes);
                topics.into_iter().map(topic).collect()
            });
            let offsets = look_up(&call, &request.group_id, asked);
            response.topics = offsets.into_iter().map(old_topic).collect();
        }
        call.answer(&response)
    })
}

/// The offsets of a group: of some partitions, or everything it ever committed.
fn look_up(call: &Call, group: &str, asked: Option<Vec<(TopicName, Vec<i32>)>>) -> Vec<TopicOffsets> {
    let Some(asked) = asked else {
        return everything(call, group);
    };
    let topics = asked.into_iter().map(|(name, partitions)| {
        let topic = call.server.bridge.topic(&name);
        let committed = |index: i32| {
            let partition = index.try_into().ok()?;
            let place = Place { topic_id: topic.as_ref()?.id, partition };
            call.server.offsets.get(group, place)
        };
        let partitions = partitions.into_iter().map(|index| (index, committed(index)));
        (name, partitions.collect())
    });
    topics.collect()
}

fn everything(call: &Call, group: &str) -> Vec<TopicOffsets> {
    let mut by_topic: BTreeMap<u32, Vec<(i32, Option<Committed>)>> = BTreeMap::new();
    for (place, committed) in call.server.offsets.of_group(group) {
        let index = i32::try_from(place.partition).unwrap_or(i32::MAX);
        by_topic.entry(place.topic_id).or_default().push((index, Some(committed)));
    }
    let topics = call.server.bridge.topics();
    let topics = topics.iter().filter_map(|topic| {
        let name = TopicName(StrBytes::from_string(topic.name.clone()));
        Some((name, by_topic.remove(&topic.id)?))
    });
    topics.collect()
}

fn metadata(committed: &Committed) -> Option<StrBytes> {
    Some(StrBytes::from_string(committed.metadata.to_string()))
}

fn nothing() -> Committed {
    Committed { offset: -1, leader_epoch: -1, committed_at_ms: -1, metadata: "".into() }
}

fn old_topic((name, partitions): TopicOffsets) -> OffsetFetchResponseTopic {
    let partition = |(index, committed): (i32, Option<Committed>)| {
        let committed = committed.unwrap_or_else(nothing);
        OffsetFetchResponsePartition::default()
            .with_partition_index(index)
            .with_committed_offset(committed.offset)
            .with_committed_leader_epoch(committed.leader_epoch)
            .with_metadata(metadata(&committed))
    };
    OffsetFetchResponseTopic::default().with_name(name).with_partitions(partitions.into_iter().map(partition).collect())
}

/// The same, in the types of version 8.
fn new_topic((name, partitions): TopicOffsets) -> OffsetFetchResponseTopics {
    let partition = |(index, committed): (i32, Option<Committed>)| {
        let committed = committed.unwrap_or_else(nothing);
        OffsetFetchResponsePartitions::default()
            .with_partition_index(index)
            .with_committed_offset(committed.offset)
            .with_committed_leader_epoch(committed.leader_epoch)
            .with_metadata(metadata(&committed))
    };
    OffsetFetchResponseTopics::default()
        .with_name(name)
        .with_partitions(partitions.into_iter().map(partition).collect())
}
