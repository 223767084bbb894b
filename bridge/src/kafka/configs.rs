//! DescribeConfigs, and which topic settings there are. None can be changed yet: a topic may be
//! made with the one value that each has, and with no other.

use kafka_protocol::{
    ResponseError,
    messages::{
        DescribeConfigsRequest, DescribeConfigsResponse,
        describe_configs_request::DescribeConfigsResource,
        describe_configs_response::{DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym},
    },
    protocol::StrBytes,
};

use super::{
    Server,
    access::Operation,
    call::{Call, Work},
};

/// Where a value comes from, by Kafka's numbers.
pub(super) const DYNAMIC_TOPIC_CONFIG: i8 = 1;
pub(super) const STATIC_BROKER_CONFIG: i8 = 4;
pub(super) const DEFAULT_CONFIG: i8 = 5;

/// What can be described, by Kafka's numbers.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;

/// Of which type a value is, by Kafka's numbers.
#[derive(Clone, Copy)]
pub(super) enum ValueType {
    Boolean = 1,
    String = 2,
    Int = 3,
    Long = 5,
    List = 7,
}

/// A setting and its value.
pub(super) struct Setting {
    pub name: &'static str,
    pub value: String,
    value_type: ValueType,
}

fn setting(name: &'static str, value: impl ToString, value_type: ValueType) -> Setting {
    Setting { name, value: value.to_string(), value_type }
}

/// What holds for every topic.
pub(super) fn topic_settings(server: &Server) -> Vec<Setting> {
    vec![
        setting("cleanup.policy", "delete", ValueType::List),
        setting("compression.type", "producer", ValueType::String),
        setting("max.message.bytes", server.config.message_bytes_max, ValueType::Int),
        setting("message.timestamp.type", "CreateTime", ValueType::String),
        setting("min.insync.replicas", 1, ValueType::Int),
        setting("retention.bytes", -1, ValueType::Long),
        setting("retention.ms", -1, ValueType::Long),
    ]
}

fn broker_settings(server: &Server) -> Vec<Setting> {
    let config = &server.config;
    let (delay, min, max) = (
        config.group_initial_rebalance_delay_ms,
        config.group_min_session_timeout_ms,
        config.group_max_session_timeout_ms,
    );
    vec![
        setting("auto.create.topics.enable", config.auto_create_topics, ValueType::Boolean),
        setting("compression.type", "producer", ValueType::String),
        setting("default.replication.factor", 1, ValueType::Int),
        setting("group.initial.rebalance.delay.ms", delay, ValueType::Int),
        setting("group.max.session.timeout.ms", max, ValueType::Int),
        setting("group.min.session.timeout.ms", min, ValueType::Int),
        setting("log.cleanup.policy", "delete", ValueType::List),
        setting("log.retention.bytes", -1, ValueType::Long),
        setting("log.retention.ms", -1, ValueType::Long),
        setting("message.max.bytes", config.message_bytes_max, ValueType::Int),
        setting("node.id", config.node_id, ValueType::Int),
        setting("num.partitions", config.num_partitions, ValueType::Int),
    ]
}

/// Whether a topic may be made with this; if not, why.
pub(super) fn check_topic_config(server: &Server, name: &str, value: Option<&str>) -> Result<(), String> {
    let settings = topic_settings(server);
    let Some(setting) = settings.iter().find(|setting| setting.name == name) else {
        let known: Vec<&str> = settings.iter().map(|setting| setting.name).collect();
        return Err(format!("{name}: not a setting of this broker; there are {}", known.join(", ")));
    };
    match value {
        Some(value) if value == setting.value => Ok(()),
        _ => Err(format!("{name}: only {:?} is served", setting.value)),
    }
}

pub(super) fn describe_configs(mut call: Call) -> Work {
    Box::pin(async move {
        let request: DescribeConfigsRequest = call.decode()?;
        let results = request.resources.into_iter().map(|resource| describe(&call, resource));
        let response = DescribeConfigsResponse::default().with_results(results.collect());
        call.answer(&response)
    })
}

fn describe(call: &Call, resource: DescribeConfigsResource) -> DescribeConfigsResult {
    let result = DescribeConfigsResult::default().with_resource_type(resource.resource_type);
    let configs = match resource.resource_type {
        TOPIC => topic_configs(call, &resource.resource_name),
        BROKER => broker_configs(call, &resource.resource_name),
        _ => Err((ResponseError::InvalidRequest, "only topics and brokers have settings")),
    };
    let wanted = |config: &DescribeConfigsResourceResult| match &resource.configuration_keys {
        Some(keys) => keys.contains(&config.name),
        None => true,
    };
    let result = match configs {
        Ok(configs) => result.with_configs(configs.into_iter().filter(wanted).collect()),
        Err((error, message)) => {
            result.with_error_code(error.code()).with_error_message(Some(StrBytes::from_static_str(message)))
        }
    };
    result.with_resource_name(resource.resource_name)
}

type Described = Result<Vec<DescribeConfigsResourceResult>, (ResponseError, &'static str)>;

fn topic_configs(call: &Call, name: &str) -> Described {
    let topic = call.topic(Operation::Describe, name).map_err(|error| match error {
        ResponseError::UnknownTopicOrPartition => (error, "there is no such topic"),
        _ => (error, "not allowed"),
    })?;
    let configs =
        topic_settings(&call.server).into_iter().map(|setting| match topic.config().given.contains_key(setting.name) {
            true => describe_setting(setting, DYNAMIC_TOPIC_CONFIG),
            false => describe_setting(setting, DEFAULT_CONFIG),
        });
    Ok(configs.collect())
}

fn broker_configs(call: &Call, name: &str) -> Described {
    if !name.is_empty() && name != call.server.config.node_id.to_string() {
        return Err((ResponseError::InvalidRequest, "there is no broker of this number"));
    }
    let settings = broker_settings(&call.server).into_iter();
    Ok(settings.map(|setting| describe_setting(setting, STATIC_BROKER_CONFIG)).collect())
}

/// Every value is its own only synonym. None can be changed through this protocol.
fn describe_setting(setting: Setting, source: i8) -> DescribeConfigsResourceResult {
    let name = StrBytes::from_static_str(setting.name);
    let value = Some(StrBytes::from_string(setting.value));
    let synonym =
        DescribeConfigsSynonym::default().with_name(name.clone()).with_value(value.clone()).with_source(source);
    DescribeConfigsResourceResult::default()
        .with_name(name)
        .with_value(value)
        .with_read_only(true)
        .with_config_source(source)
        .with_synonyms(vec![synonym])
        .with_config_type(setting.value_type as i8)
}
