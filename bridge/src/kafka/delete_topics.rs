//! DeleteTopics. Its name is free at once: whoever asks for the metadata of a deleted topic, and may, makes another of
//! that name where topics are made by themselves, as with Kafka. What queues of MQTT clients need of it stays for them.

use std::collections::HashMap;

use kafka_protocol::{
    ResponseError,
    messages::{
        DeleteTopicsRequest, DeleteTopicsResponse, TopicName, delete_topics_request::DeleteTopicState,
        delete_topics_response::DeletableTopicResult,
    },
    protocol::StrBytes,
};

use super::{
    access::Operation,
    call::{Call, Work},
};
use crate::{DeleteTopicError, Ticket, log::topic::name_ok};

/// First version that names topics by their ids.
const IDS_FROM: i16 = 6;

/// Why a topic was not deleted, in words for who asked.
struct Refused(ResponseError, String);

pub(super) fn delete_topics(mut call: Call) -> Work {
    Box::pin(async move {
        let request: DeleteTopicsRequest = call.decode()?;
        let asked = asked(&call, request);
        let mut mentions: HashMap<TopicName, usize> = HashMap::new();
        for (_, name) in &asked {
            name.iter().for_each(|name| *mentions.entry(name.clone()).or_default() += 1);
        }
        let mut response = DeleteTopicsResponse::default();
        let (mut deleted, mut last_ticket) = (Vec::new(), None);
        for (result, name) in asked {
            let outcome = match name {
                None => Ok(None),
                Some(name) if mentions.get(&name).is_some_and(|count| *count > 1) => {
                    Err(Refused(ResponseError::InvalidRequest, "the request names it twice".to_owned()))
                }
                Some(name) => delete(&call, &name).map(Some),
            };
            response.responses.push(match outcome {
                Ok(None) => result,
                Ok(Some((id, ticket))) => {
                    deleted.push(id);
                    last_ticket = Some(ticket);
                    result
                }
                Err(Refused(error, message)) => {
                    result.with_error_code(error.code()).with_error_message(Some(StrBytes::from_string(message)))
                }
            });
        }
        if let Some(ticket) = last_ticket {
            call.client.lane.wait(ticket).await?;
            // Behind it: a topic that comes back after a crash has what was committed.
            call.server.offsets.forget_topics(&deleted).await?;
        }
        call.answer(&response)
    })
}

/// Each topic's result as far as it is known, and its name, when it has one.
fn asked(call: &Call, request: DeleteTopicsRequest) -> Vec<(DeletableTopicResult, Option<TopicName>)> {
    if call.version < IDS_FROM {
        let named = |name: TopicName| (DeletableTopicResult::default().with_name(Some(name.clone())), Some(name));
        return request.topic_names.into_iter().map(named).collect();
    }
    request.topics.into_iter().map(|topic| named_or_found(call, topic)).collect()
}

fn named_or_found(call: &Call, topic: DeleteTopicState) -> (DeletableTopicResult, Option<TopicName>) {
    let result = DeletableTopicResult::default().with_topic_id(topic.topic_id);
    if let Some(name) = topic.name {
        let result = result.with_name(Some(name.clone()));
        return match topic.topic_id.is_nil() {
            true => (result, Some(name)),
            false => (result.with_error_code(ResponseError::InvalidRequest.code()), None),
        };
    }
    let id = topic.topic_id.into_bytes();
    let topics = call.server.bridge.topics();
    // Nor does its id tell that a topic is there.
    match topics.iter().find(|topic| topic.uuid == id && call.may(Operation::Describe, &topic.name)) {
        Some(topic) => {
            let name = TopicName(StrBytes::from_string(topic.name.clone()));
            (result.with_name(Some(name.clone())), Some(name))
        }
        None => (result.with_name(None).with_error_code(ResponseError::UnknownTopicId.code()), None),
    }
}

fn delete(call: &Call, name: &str) -> Result<(u32, Ticket), Refused> {
    let allowed = call.authorize(Operation::Manage, name);
    allowed.map_err(|error| Refused(error, "not allowed to delete it".to_owned()))?;
    if !name_ok(name) || name.starts_with("__") {
        return Err(Refused(ResponseError::InvalidTopicException, "no topic of clients has such a name".to_owned()));
    }
    match call.server.bridge.delete_topic(&call.client.lane, name) {
        Ok((topic, ticket)) => {
            tracing::info!(topic = name, peer = %call.client.peer, "topic deleted");
            Ok((topic.id, ticket))
        }
        Err(error @ DeleteTopicError::Unknown(_)) => {
            Err(Refused(ResponseError::UnknownTopicOrPartition, error.to_string()))
        }
        Err(error @ DeleteTopicError::Mapped(_)) => Err(Refused(ResponseError::PolicyViolation, error.to_string())),
    }
}
