//! DescribeConfigs: the settings of topics and of the broker, and where each comes from.

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
    settings::{self, InForce, Source, Sourced, ValueType},
};

/// What has settings, by Kafka's numbers.
pub(super) const TOPIC: i8 = 2;
pub(super) const BROKER: i8 = 4;

pub(super) fn describe_configs(mut call: Call) -> Work {
    Box::pin(async move {
        let request: DescribeConfigsRequest = call.decode()?;
        let with = With { synonyms: request.include_synonyms, documentation: request.include_documentation };
        let results = request.resources.into_iter().map(|resource| describe(&call, with, resource));
        let response = DescribeConfigsResponse::default().with_results(results.collect());
        call.answer(&response)
    })
}

/// What the client wants to know besides values.
#[derive(Clone, Copy)]
struct With {
    synonyms: bool,
    documentation: bool,
}

fn describe(call: &Call, with: With, resource: DescribeConfigsResource) -> DescribeConfigsResult {
    let result = DescribeConfigsResult::default().with_resource_type(resource.resource_type);
    let configs = match resource.resource_type {
        TOPIC => topic_configs(call, with, &resource.resource_name),
        BROKER => broker_configs(call, with, &resource.resource_name),
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

fn topic_configs(call: &Call, with: With, name: &str) -> Described {
    let topic = call.topic(Operation::Describe, name).map_err(|error| match error {
        ResponseError::UnknownTopicOrPartition => (error, "there is no such topic"),
        _ => (error, "not allowed"),
    })?;
    let config = topic.config();
    Ok(settings::of_topic(&call.server, &config).map(|setting| of_topic(with, setting)).collect())
}

fn of_topic(with: With, InForce { setting, value, source, of_broker }: InForce) -> DescribeConfigsResourceResult {
    let own = (source == Source::Topic).then(|| Sourced { name: setting.name, value: value.clone(), source });
    let names = own.into_iter().chain([of_broker]).collect();
    let told = tell(with, Sourced { name: setting.name, value, source }, setting.value_type, names);
    // Others have one value.
    let is_fixed = !crate::Settings::NAMES.contains(&setting.name);
    document(with, told.with_read_only(is_fixed), setting.documentation)
}

fn broker_configs(call: &Call, with: With, name: &str) -> Described {
    let server = &call.server;
    if !name.is_empty() && name != server.config.node_id.to_string() {
        return Err((ResponseError::InvalidRequest, "there is no broker of this number"));
    }
    let alone = own_settings(server).into_iter().map(|(name, value, value_type)| {
        let told = Sourced { name, value, source: Source::File };
        tell(with, told, value_type, Vec::new()).with_read_only(true)
    });
    let of_topics = settings::of_all_topics(server).map(|(setting, of_broker)| {
        let told = tell(with, of_broker, setting.value_type, Vec::new()).with_read_only(true);
        document(with, told, setting.documentation)
    });
    let mut all: Vec<_> = alone.chain(of_topics).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

/// What is not about topics.
fn own_settings(server: &Server) -> [(&'static str, String, ValueType); 7] {
    let config = &server.config;
    let delay_ms = config.group_initial_rebalance_delay_ms.to_string();
    let (min_ms, max_ms) = (config.group_min_session_timeout_ms, config.group_max_session_timeout_ms);
    [
        ("auto.create.topics.enable", config.auto_create_topics.to_string(), ValueType::Boolean),
        ("default.replication.factor", "1".to_owned(), ValueType::Int),
        ("group.initial.rebalance.delay.ms", delay_ms, ValueType::Int),
        ("group.max.session.timeout.ms", max_ms.to_string(), ValueType::Int),
        ("group.min.session.timeout.ms", min_ms.to_string(), ValueType::Int),
        ("node.id", config.node_id.to_string(), ValueType::Int),
        ("num.partitions", config.num_partitions.to_string(), ValueType::Int),
    ]
}

/// A value, and with it, if that is wanted, all the names it could have come by, the first that says something first.
fn tell(with: With, told: Sourced, value_type: ValueType, names: Vec<Sourced>) -> DescribeConfigsResourceResult {
    let synonym = |Sourced { name, value, source }: Sourced| {
        DescribeConfigsSynonym::default()
            .with_name(StrBytes::from_static_str(name))
            .with_value(Some(StrBytes::from_string(value)))
            .with_source(source as i8)
    };
    let synonyms = match (with.synonyms, names.is_empty()) {
        (false, _) => Vec::new(),
        (true, false) => names.into_iter().map(synonym).collect(),
        (true, true) => vec![synonym(Sourced { value: told.value.clone(), ..told })],
    };
    DescribeConfigsResourceResult::default()
        .with_name(StrBytes::from_static_str(told.name))
        .with_value(Some(StrBytes::from_string(told.value)))
        .with_config_source(told.source as i8)
        .with_synonyms(synonyms)
        .with_config_type(value_type as i8)
}

fn document(
    with: With,
    told: DescribeConfigsResourceResult,
    documentation: &'static str,
) -> DescribeConfigsResourceResult {
    told.with_documentation(with.documentation.then(|| StrBytes::from_static_str(documentation)))
}
