//! Metadata: the broker, and the topics and their partitions. May make topics.

use std::{collections::BTreeMap, sync::Arc};

use kafka_protocol::{
    ResponseError,
    messages::{
        BrokerId, MetadataRequest, MetadataResponse, TopicName,
        metadata_request::MetadataRequestTopic,
        metadata_response::{MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic},
    },
    protocol::StrBytes,
};

use super::{
    access::Operation,
    call::{Call, ConnectionError, Work},
    metrics::add,
};
use crate::{CreateTopicError, Topic, log::topic::name_ok};

/// Topics that one request may make. A list of made-up names is no reason to fill the disk.
const AUTO_CREATED_MAX: usize = 100;

pub(super) fn metadata(mut call: Call) -> Work {
    Box::pin(async move {
        let request: MetadataRequest = call.decode()?;
        let everything = match &request.topics {
            None => true,
            Some(topics) => topics.is_empty() && call.version == 0,
        };
        let topics = if everything {
            let topics = call.server.bridge.topics();
            let shown = topics.iter().filter(|topic| call.may(Operation::Describe, &topic.name));
            shown.map(|topic| describe(&call, topic)).collect()
        } else {
            let may_create = call.server.config.auto_create_topics && request.allow_auto_topic_creation;
            look_up(&call, request.topics.unwrap_or_default(), may_create).await?
        };
        let node_id = BrokerId(call.server.config.node_id);
        let broker = MetadataResponseBroker::default()
            .with_node_id(node_id)
            .with_host(call.client.host.clone())
            .with_port(call.client.port);
        let response = MetadataResponse::default()
            .with_brokers(vec![broker])
            .with_cluster_id(Some(call.server.cluster_id.clone()))
            .with_controller_id(node_id)
            .with_topics(topics);
        call.answer(&response)
    })
}

async fn look_up(
    call: &Call,
    asked: Vec<MetadataRequestTopic>,
    may_create: bool,
) -> Result<Vec<MetadataResponseTopic>, ConnectionError> {
    let mut described = Vec::with_capacity(asked.len());
    let mut created = None;
    let mut creations_left = if may_create { AUTO_CREATED_MAX } else { 0 };
    for topic in asked {
        let Some(name) = topic.name else {
            let id = topic.topic_id.into_bytes();
            let topics = call.server.bridge.topics();
            let found = topics.iter().find(|t| t.uuid == id && call.may(Operation::Describe, &t.name));
            let unknown = || failed(None, ResponseError::UnknownTopicId).with_topic_id(topic.topic_id);
            described.push(found.map_or_else(unknown, |found| describe(call, found)));
            continue;
        };
        let found = match call.topic(Operation::Describe, &name) {
            // Who may only read waits for it, as for any topic that is not there yet.
            Err(ResponseError::UnknownTopicOrPartition)
                if creations_left == 0 || !call.may(Operation::Write, &name) =>
            {
                Err(unknown_or_invalid(&name))
            }
            Err(ResponseError::UnknownTopicOrPartition) => create(call, &name).map(|(topic, ticket)| {
                creations_left -= 1;
                created = created.max(ticket);
                topic
            }),
            found_or_refused => found_or_refused,
        };
        described.push(match found {
            Ok(found) => describe(call, &found),
            Err(error) => failed(Some(name), error),
        });
    }
    if let Some(ticket) = created {
        call.client.lane.wait(ticket).await?;
    }
    Ok(described)
}

/// Makes a topic, or finds that another connection just did.
fn create(call: &Call, name: &str) -> Result<(Arc<Topic>, Option<crate::Ticket>), ResponseError> {
    if !call.server.bridge.is_open() {
        // What clients take for a topic that is being made: they ask again.
        add(&call.server.metrics().refused_topics, 1);
        return Err(ResponseError::LeaderNotAvailable);
    }
    let partitions = call.server.config.num_partitions;
    let lane = &call.client.lane;
    match call.server.bridge.create_topic(lane, name, partitions, BTreeMap::new()) {
        Ok((topic, ticket)) => {
            tracing::info!(topic = name, partitions, peer = %call.client.peer, "topic made at a client's first mention");
            Ok((topic, Some(ticket)))
        }
        Err(CreateTopicError::Exists(_)) => {
            let found = call.server.bridge.topic(name);
            // One that exists and is not found is hidden.
            found.map(|topic| (topic, None)).ok_or(ResponseError::InvalidTopicException)
        }
        Err(CreateTopicError::BadName(_)) => Err(ResponseError::InvalidTopicException),
        Err(CreateTopicError::BadPartitions(_)) => Err(ResponseError::InvalidPartitions),
        Err(CreateTopicError::BadSetting(_)) => Err(ResponseError::InvalidConfig),
        Err(error @ CreateTopicError::Disk(_)) => {
            tracing::error!(topic = name, %error, "a topic could not be made");
            Err(ResponseError::KafkaStorageError)
        }
    }
}

fn unknown_or_invalid(name: &str) -> ResponseError {
    match name_ok(name) {
        true => ResponseError::UnknownTopicOrPartition,
        false => ResponseError::InvalidTopicException,
    }
}

fn failed(name: Option<TopicName>, error: ResponseError) -> MetadataResponseTopic {
    // Versions below 12 know no topic without a name.
    MetadataResponseTopic::default().with_error_code(error.code()).with_name(Some(name.unwrap_or_default()))
}

fn describe(call: &Call, topic: &Topic) -> MetadataResponseTopic {
    let (node_id, epoch) = (BrokerId(call.server.config.node_id), call.server.bridge.epoch());
    let partition = |partition: &Arc<crate::Partition>| {
        MetadataResponsePartition::default()
            .with_partition_index(i32::try_from(partition.index).unwrap_or(i32::MAX))
            .with_leader_id(node_id)
            .with_leader_epoch(epoch)
            .with_replica_nodes(vec![node_id])
            .with_isr_nodes(vec![node_id])
    };
    MetadataResponseTopic::default()
        .with_name(Some(TopicName(StrBytes::from_string(topic.name.clone()))))
        // 16 bytes are always an id.
        .with_topic_id(topic.uuid.to_vec().try_into().unwrap_or_default())
        .with_partitions(topic.partitions.iter().map(partition).collect())
}
