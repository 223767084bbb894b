//! AlterConfigs and IncrementalAlterConfigs: topics' settings. The broker's are in its configuration file.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use kafka_protocol::{
    ResponseError,
    messages::{
        AlterConfigsRequest, AlterConfigsResponse, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
        alter_configs_request as whole, alter_configs_response as of_whole, incremental_alter_configs_request as steps,
        incremental_alter_configs_response as of_steps,
    },
    protocol::StrBytes,
};

use super::{
    Server,
    access::Operation,
    call::{Call, ConnectionError, Work},
    configs::{BROKER, TOPIC},
    settings::{self, Given, ValueType},
};
use crate::{ConfigureTopicError, Ticket, Topic};

/// What becomes of a setting, by Kafka's numbers.
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

/// Why a resource's settings stay as they are, in words for who asked.
struct Refused(ResponseError, String);

/// What has settings: its kind and its name.
type Resource = (i8, StrBytes);

/// What became of a resource: an error code and words, or 0.
type Outcome = (Resource, i16, Option<StrBytes>);

/// Settings that are named are given, all others taken away.
pub(super) fn alter_configs(mut call: Call) -> Work {
    Box::pin(async move {
        let request: AlterConfigsRequest = call.decode()?;
        let resources = request.resources.into_iter();
        let resources =
            resources.map(|one: whole::AlterConfigsResource| ((one.resource_type, one.resource_name), one.configs));
        let edit = |call: &Call, configs: &Vec<whole::AlterableConfig>| replace(&call.server, configs);
        let outcomes = alter(&call, resources.collect(), request.validate_only, edit).await?;
        let responses = outcomes.into_iter().map(|((kind, name), code, message)| {
            of_whole::AlterConfigsResourceResponse::default()
                .with_resource_type(kind)
                .with_resource_name(name)
                .with_error_code(code)
                .with_error_message(message)
        });
        call.answer(&AlterConfigsResponse::default().with_responses(responses.collect()))
    })
}

/// Settings that are named change, all others stay.
pub(super) fn incremental_alter_configs(mut call: Call) -> Work {
    Box::pin(async move {
        let request: IncrementalAlterConfigsRequest = call.decode()?;
        let resources = request.resources.into_iter();
        let resources =
            resources.map(|one: steps::AlterConfigsResource| ((one.resource_type, one.resource_name), one.configs));
        let edit = |call: &Call, configs: &Vec<steps::AlterableConfig>| change(&call.server, configs);
        let outcomes = alter(&call, resources.collect(), request.validate_only, edit).await?;
        let responses = outcomes.into_iter().map(|((kind, name), code, message)| {
            of_steps::AlterConfigsResourceResponse::default()
                .with_resource_type(kind)
                .with_resource_name(name)
                .with_error_code(code)
                .with_error_message(message)
        });
        call.answer(&IncrementalAlterConfigsResponse::default().with_responses(responses.collect()))
    })
}

/// How what a topic was given changes.
type Edit = Box<dyn FnOnce(&mut Given)>;

/// Each resource by itself; answered when all that changed is durable.
async fn alter<C>(
    call: &Call,
    resources: Vec<(Resource, C)>,
    validate_only: bool,
    edit: impl Fn(&Call, &C) -> Result<Edit, String>,
) -> Result<Vec<Outcome>, ConnectionError> {
    let named_twice = repeated(resources.iter().map(|(resource, _)| resource.clone()));
    let mut last_ticket = None;
    let mut outcomes = Vec::with_capacity(resources.len());
    for (resource, configs) in resources {
        let altered = match named_twice.contains(&resource) {
            true => Err(Refused(ResponseError::InvalidRequest, "the request names it twice".to_owned())),
            false => find(call, &resource).and_then(|topic| {
                let edit = edit(call, &configs).map_err(|message| Refused(ResponseError::InvalidConfig, message))?;
                put_in_force(call, &topic, edit, validate_only)
            }),
        };
        outcomes.push(match altered {
            Ok(ticket) => {
                last_ticket = last_ticket.max(ticket);
                (resource, 0, None)
            }
            Err(Refused(error, message)) => (resource, error.code(), Some(StrBytes::from_string(message))),
        });
    }
    if let Some(ticket) = last_ticket {
        call.client.lane.wait(ticket).await?;
    }
    Ok(outcomes)
}

/// Of these, those that come more than once.
fn repeated<T: Hash + Eq + Clone>(all: impl Iterator<Item = T>) -> HashSet<T> {
    let mut mentions: HashMap<T, usize> = HashMap::new();
    all.for_each(|one| *mentions.entry(one).or_default() += 1);
    mentions.into_iter().filter(|(_, count)| *count > 1).map(|(one, _)| one).collect()
}

fn find(call: &Call, (kind, name): &Resource) -> Result<Arc<Topic>, Refused> {
    match *kind {
        TOPIC => call.topic(Operation::Manage, name).map_err(|error| Refused(error, error.to_string())),
        BROKER => {
            let message = "the broker's settings are in its configuration file; most are in force after a reload";
            Err(Refused(ResponseError::InvalidRequest, message.to_owned()))
        }
        _ => Err(Refused(ResponseError::InvalidRequest, "only topics have settings to be changed".to_owned())),
    }
}

fn put_in_force(call: &Call, topic: &Topic, edit: Edit, validate_only: bool) -> Result<Option<Ticket>, Refused> {
    if validate_only {
        let mut given = topic.config().given.clone();
        edit(&mut given);
        let checked = call.server.bridge.topic_defaults().with(&given);
        return checked.map(|_| None).map_err(|error| Refused(ResponseError::InvalidConfig, error.to_string()));
    }
    match call.server.bridge.configure_topic(&call.client.lane, topic, edit) {
        Ok(ticket) => {
            let given = &topic.config().given;
            tracing::info!(topic = topic.name, ?given, peer = %call.client.peer, "topic settings changed");
            Ok(Some(ticket))
        }
        Err(error @ ConfigureTopicError::Unknown(_)) => {
            Err(Refused(ResponseError::UnknownTopicOrPartition, error.to_string()))
        }
        Err(error @ ConfigureTopicError::BadSetting(_)) => {
            Err(Refused(ResponseError::InvalidConfig, error.to_string()))
        }
    }
}

fn replace(server: &Server, configs: &[whole::AlterableConfig]) -> Result<Edit, String> {
    refuse_repeated(configs.iter().map(|config| &config.name))?;
    let mut all = Given::new();
    for config in configs {
        settings::give(server, &mut all, &config.name, config.value.as_deref())?;
    }
    Ok(Box::new(move |given| *given = all))
}

fn change(server: &Server, configs: &[steps::AlterableConfig]) -> Result<Edit, String> {
    refuse_repeated(configs.iter().map(|config| &config.name))?;
    let mut all: Vec<Edit> = Vec::with_capacity(configs.len());
    for config in configs {
        all.push(step(server, config)?);
    }
    Ok(Box::new(move |given| all.into_iter().for_each(|edit| edit(given))))
}

fn refuse_repeated<'a>(names: impl Iterator<Item = &'a StrBytes>) -> Result<(), String> {
    match repeated(names).into_iter().next() {
        // The name may be any length, and is not told.
        Some(_) => Err("a setting is named twice".to_owned()),
        None => Ok(()),
    }
}

fn step(server: &Server, config: &steps::AlterableConfig) -> Result<Edit, String> {
    let setting = settings::find(&config.name)?;
    let mut checked = Given::new();
    match config.config_operation {
        DELETE => Ok(Box::new(|given| drop(given.remove(setting.name)))),
        SET => {
            settings::give(server, &mut checked, setting.name, config.value.as_deref())?;
            Ok(Box::new(|given| given.extend(checked)))
        }
        APPEND | SUBTRACT if setting.value_type != ValueType::List => {
            Err(format!("{}: is no list: it can be set or deleted", setting.name))
        }
        operation @ (APPEND | SUBTRACT) => {
            settings::give(server, &mut checked, setting.name, config.value.as_deref())?;
            let of_broker = server.bridge.topic_defaults().get(setting.name).unwrap_or_default();
            Ok(Box::new(move |given| {
                for (name, words) in checked {
                    let before = given.get(&name).unwrap_or(&of_broker);
                    let after = list(before, operation == APPEND, &words);
                    given.insert(name, after);
                }
            }))
        }
        other => Err(format!("{}: {other} is no operation", setting.name)),
    }
}

/// A list with these words, or without them.
fn list(before: &str, with: bool, words: &str) -> String {
    let words: Vec<&str> = split(words).collect();
    let mut after: Vec<&str> = split(before).filter(|word| !words.contains(word)).collect();
    if with {
        after.extend(words);
    }
    after.join(",")
}

fn split(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::list;

    #[test]
    fn words_are_added_once_and_taken_away() {
        assert_eq!(list("delete", true, "compact"), "delete,compact");
        assert_eq!(list("delete, compact", true, "compact"), "delete,compact");
        assert_eq!(list("delete,compact", false, "delete"), "compact");
        // Which is no cleanup.policy, and refused where it is put in force.
        assert_eq!(list("delete", false, "delete"), "");
    }
}
