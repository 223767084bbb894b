//! CreateTopics.

use std::collections::HashMap;

use kafka_protocol::{
    ResponseError,
    messages::{
        CreateTopicsRequest, CreateTopicsResponse,
        create_topics_request::CreatableTopic,
        create_topics_response::{CreatableTopicConfigs, CreatableTopicResult},
    },
    protocol::StrBytes,
};

use super::{
    Server,
    access::Operation,
    call::{Call, Work},
    metrics::add,
    settings::{self, Given},
};
use crate::{
    CreateTopicError,
    log::topic::{Config, PARTITIONS_MAX, name_ok},
};

/// Why a topic was not made, in words for its creator.
struct Refused(ResponseError, String);

/// A topic as it would be made.
struct Plan {
    partitions: u32,
    config: Config,
}

pub(super) fn create_topics(mut call: Call) -> Work {
    Box::pin(async move {
        let request: CreateTopicsRequest = call.decode()?;
        let mut mentions: HashMap<StrBytes, usize> = HashMap::new();
        for topic in &request.topics {
            *mentions.entry(topic.name.0.clone()).or_default() += 1;
        }
        let mut response = CreateTopicsResponse::default();
        let mut last_ticket = None;
        for topic in request.topics {
            let twice = mentions.get(&topic.name.0).is_some_and(|count| *count > 1);
            let planned = match twice {
                true => Err(refused(ResponseError::InvalidRequest, "the request names it twice")),
                false => authorize(&call, &topic).and_then(|()| plan(&call.server, &topic)),
            };
            let made = planned.and_then(|plan| make(&call, &topic, plan, request.validate_only));
            let result = CreatableTopicResult::default().with_name(topic.name);
            response.topics.push(match made {
                Ok(made) => {
                    last_ticket = last_ticket.max(made.ticket);
                    made.describe(&call.server, result)
                }
                Err(Refused(error, message)) => {
                    result.with_error_code(error.code()).with_error_message(Some(StrBytes::from_string(message)))
                }
            });
        }
        if let Some(ticket) = last_ticket {
            call.client.lane.wait(ticket).await?;
        }
        call.answer(&response)
    })
}

fn refused(error: ResponseError, message: &str) -> Refused {
    Refused(error, message.to_owned())
}

fn authorize(call: &Call, topic: &CreatableTopic) -> Result<(), Refused> {
    if call.may(Operation::Manage, &topic.name) {
        return Ok(());
    }
    let allowed = call.authorize(Operation::Write, &topic.name);
    allowed.map_err(|error| refused(error, "only who may write to a topic, or manage it, may make it"))
}

fn plan(server: &Server, topic: &CreatableTopic) -> Result<Plan, Refused> {
    if !name_ok(&topic.name) || topic.name.starts_with("__") {
        let message = "a topic name is 1 to 249 of a-z A-Z 0-9 . _ - not . or .., not beginning with __";
        return Err(refused(ResponseError::InvalidTopicException, message));
    }
    let partitions = match topic.assignments.is_empty() {
        true => counted_partitions(server, topic)?,
        false => assigned_partitions(server, topic)?,
    };
    if partitions > PARTITIONS_MAX {
        let message = format!("{partitions} partitions: at most {PARTITIONS_MAX}");
        return Err(Refused(ResponseError::InvalidPartitions, message));
    }
    let mut given = Given::new();
    for config in &topic.configs {
        let checked = settings::give(server, &mut given, &config.name, config.value.as_deref());
        checked.map_err(|message| Refused(ResponseError::InvalidConfig, message))?;
    }
    let settings = server.bridge.topic_defaults().with(&given);
    let settings = settings.map_err(|error| Refused(ResponseError::InvalidConfig, error.to_string()))?;
    Ok(Plan { partitions, config: Config { given, settings } })
}

fn counted_partitions(server: &Server, topic: &CreatableTopic) -> Result<u32, Refused> {
    if !matches!(topic.replication_factor, -1 | 1) {
        let message = "there is one broker: the replication factor is 1";
        return Err(refused(ResponseError::InvalidReplicationFactor, message));
    }
    match topic.num_partitions {
        -1 => Ok(server.config.num_partitions),
        count => match u32::try_from(count) {
            Ok(count) if count > 0 => Ok(count),
            _ => Err(refused(ResponseError::InvalidPartitions, "at least one partition")),
        },
    }
}

/// The creator says which broker has which partition: there is one way to say it.
fn assigned_partitions(server: &Server, topic: &CreatableTopic) -> Result<u32, Refused> {
    if topic.num_partitions != -1 || topic.replication_factor != -1 {
        let message = "with assignments, number of partitions and replication factor must be -1";
        return Err(refused(ResponseError::InvalidRequest, message));
    }
    let mut indexes: Vec<i32> = topic.assignments.iter().map(|a| a.partition_index).collect();
    indexes.sort_unstable();
    let consecutive = (0..).zip(&indexes).all(|(expected, index)| expected == *index);
    let here = |ids: &[_]| matches!(ids, [id] if *id == server.config.node_id);
    if !consecutive || !topic.assignments.iter().all(|a| here(&a.broker_ids)) {
        let message = "partitions are numbered from 0, each on the one broker there is";
        return Err(refused(ResponseError::InvalidReplicaAssignment, message));
    }
    Ok(u32::try_from(indexes.len()).unwrap_or(u32::MAX))
}

/// What was made, or would have been.
struct Made {
    uuid: [u8; 16],
    plan: Plan,
    ticket: Option<crate::Ticket>,
}

fn make(call: &Call, topic: &CreatableTopic, plan: Plan, only_validate: bool) -> Result<Made, Refused> {
    let name = topic.name.as_str();
    let exists = || refused(ResponseError::TopicAlreadyExists, "a topic of this name exists");
    if only_validate {
        return match call.server.bridge.topic(name) {
            Some(_) => Err(exists()),
            None => Ok(Made { uuid: [0; 16], plan, ticket: None }),
        };
    }
    if let Some(shut) = call.server.bridge.shut() {
        add(&call.server.metrics().refused_topics, 1);
        return Err(Refused(ResponseError::KafkaStorageError, shut.to_string()));
    }
    let (partitions, config) = (plan.partitions, plan.config.given.clone());
    match call.server.bridge.create_topic(&call.client.lane, name, partitions, config) {
        Ok((made, ticket)) => {
            tracing::info!(topic = name, partitions, peer = %call.client.peer, "topic made");
            Ok(Made { uuid: made.uuid, plan, ticket: Some(ticket) })
        }
        Err(CreateTopicError::Exists(_)) => Err(exists()),
        Err(error @ CreateTopicError::BadName(_)) => {
            Err(Refused(ResponseError::InvalidTopicException, error.to_string()))
        }
        Err(error @ CreateTopicError::BadPartitions(_)) => {
            Err(Refused(ResponseError::InvalidPartitions, error.to_string()))
        }
        Err(error @ CreateTopicError::BadSetting(_)) => Err(Refused(ResponseError::InvalidConfig, error.to_string())),
        Err(error @ CreateTopicError::Disk(_)) => {
            tracing::error!(topic = name, %error, "a topic could not be made");
            Err(Refused(ResponseError::KafkaStorageError, error.to_string()))
        }
    }
}

impl Made {
    fn describe(&self, server: &Server, result: CreatableTopicResult) -> CreatableTopicResult {
        let configs = settings::of_topic(server, &self.plan.config).map(|in_force| {
            CreatableTopicConfigs::default()
                .with_name(StrBytes::from_static_str(in_force.setting.name))
                .with_value(Some(StrBytes::from_string(in_force.value)))
                .with_config_source(in_force.source as i8)
        });
        result
            // 16 bytes are always an id.
            .with_topic_id(self.uuid.to_vec().try_into().unwrap_or_default())
            .with_num_partitions(i32::try_from(self.plan.partitions).unwrap_or(i32::MAX))
            .with_replication_factor(1)
            .with_configs(Some(configs.collect()))
    }
}
