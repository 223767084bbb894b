//! The configuration as each part of the program takes it.

use std::sync::Arc;
use std::time::Duration;

use bridge::kafka;
use broker::codec::QoS;
use broker::listener::tls;
use broker::mapping::{Mapping, Rule, RuleError};
use broker::{ClientLimits, auth};

use crate::config::{self, Config, ListenerSettings, RuleConfig};

pub fn bridge(config: &Config) -> bridge::Options {
    bridge::Options {
        data_dir: config.data_dir.clone(),
        durability: config.durability,
        commit_interval: Duration::from_millis(config.commit_interval_ms.into()),
        topic_defaults: topic_defaults(config),
        checkpoint_bytes: config.bridge.checkpoint_bytes,
        checkpoint_interval: Duration::from_secs(config.bridge.checkpoint_interval_s.into()),
        reserve_bytes: config.disk_reserve_bytes,
    }
}

/// What holds for Kafka topics that have no settings of their own.
fn topic_defaults(config: &Config) -> bridge::Settings {
    let limit = |limit: i64| u64::try_from(limit).ok();
    let bridge = &config.bridge;
    bridge::Settings {
        delete: bridge.cleanup_policy.0,
        compact: bridge.cleanup_policy.1,
        retention_ms: limit(bridge.retention_ms),
        retention_bytes: limit(bridge.retention_bytes),
        segment_bytes: bridge.segment_bytes,
        ..bridge::Settings::default()
    }
}

pub fn broker(config: &Config) -> broker::Config {
    let mqtt = &config.mqtt;
    let short = ["mqtt.tcp", "mqtt.tls", "mqtt.ws", "mqtt.wss"].map(|name| listener(name, &mqtt.listeners));
    let listeners = short.into_iter().chain(mqtt.listener.iter().map(further_listener));
    broker::Config {
        shards: config.shard_count().into(),
        max_queued_messages: mqtt.max_queued_messages as usize,
        max_queued_bytes: usize::try_from(mqtt.max_queued_bytes).unwrap_or(usize::MAX),
        drops_oldest: mqtt.drops_oldest,
        max_buffered_bytes: mqtt.max_buffered_bytes,
        max_retained_messages: mqtt.max_retained_messages as usize,
        max_retained_bytes: usize::try_from(mqtt.max_retained_bytes).unwrap_or(usize::MAX),
        max_connections: mqtt.max_connections.into(),
        sys_interval: Duration::from_secs(mqtt.sys_interval_s.into()),
        certificates_name_users: config.tls.use_identity_as_username && config.tls.cafile.is_some(),
        degrades_on_disk_error: config.degrades_on_disk_error,
        listeners: listeners.map(Arc::new).collect(),
    }
}

fn listener(name: &str, settings: &ListenerSettings) -> broker::ListenerConfig {
    let clients = &settings.clients;
    broker::ListenerConfig {
        name: name.to_owned(),
        connect_timeout: Duration::from_secs(settings.connect_timeout_s.into()),
        ws_path: settings.ws_path.clone(),
        ws_origins: config::origins(&settings.ws_origins).map(str::to_owned).collect(),
        max_connections: 0,
        max_connection_rate: settings.max_connection_rate,
        max_connections_per_address: settings.max_connections_per_address,
        max_handshakes: settings.max_handshakes,
        max_handshakes_per_address: settings.max_handshakes_per_address,
        proxies: None,
        allow_anonymous: settings.allow_anonymous,
        response_information: clients.response_information.clone(),
        server_reference: clients.server_reference.clone(),
        clients: ClientLimits {
            max_packet_size: settings.max_packet_size,
            max_inflight_messages: settings.max_inflight_messages,
            receive_maximum: settings.receive_maximum,
            max_keepalive_s: settings.max_keepalive_s,
            min_keepalive_s: clients.min_keepalive_s,
            max_qos: QoS::from_bits(clients.max_qos).unwrap_or(QoS::ExactlyOnce),
            retain_available: clients.retain_available,
            wildcard_subscriptions: clients.wildcard_subscriptions,
            shared_subscriptions: clients.shared_subscriptions,
            topic_alias_maximum: clients.topic_alias_maximum,
            max_topic_bytes: clients.max_topic_bytes,
            max_topic_levels: clients.max_topic_levels,
            max_subscriptions: clients.max_subscriptions,
            max_message_rate: clients.max_message_rate,
            max_byte_rate: clients.max_byte_rate,
            check_payload_format: clients.check_payload_format,
        },
    }
}

fn further_listener(further: &config::ListenerConfig) -> broker::ListenerConfig {
    // The check has parsed them. Were they wrong nonetheless, nobody would be trusted.
    let proxies = || further.proxy_trusted.parse().unwrap_or_default();
    broker::ListenerConfig {
        max_connections: further.max_connections as usize,
        proxies: further.proxy_protocol.then(proxies),
        ..listener(&further.name(), &further.settings)
    }
}

pub fn kafka(config: &Config) -> kafka::Config {
    let kafka = &config.kafka;
    kafka::Config {
        node_id: kafka.node_id,
        auto_create_topics: kafka.auto_create_topics_enable,
        num_partitions: kafka.num_partitions,
        group_initial_rebalance_delay_ms: kafka.group_initial_rebalance_delay_ms.into(),
        group_min_session_timeout_ms: kafka.group_min_session_timeout_ms.into(),
        group_max_session_timeout_ms: kafka.group_max_session_timeout_ms.into(),
        message_bytes_max: kafka.message_max_bytes as usize,
    }
}

/// Empty when nothing is mapped.
pub fn mapping(config: &Config) -> Result<Mapping, RuleError> {
    if !config.bridge.enabled {
        return Ok(Mapping::default());
    }
    let parse = |rule: &RuleConfig| {
        let RuleConfig { filter, topic, key, partitions, empty_as_null, topic_config } = rule;
        let mut rule = Rule::parse(filter, topic, key, *partitions, *empty_as_null)?;
        rule.topic_config.clone_from(topic_config);
        Ok(rule)
    };
    let rules = config.bridge.rule.iter().map(parse).collect::<Result<_, _>>()?;
    let topic = &config.bridge.dead_letter_topic;
    Ok(Mapping { rules, dead_letters: (!topic.is_empty()).then(|| topic.clone()) })
}

pub fn auth_files(config: &Config) -> auth::Files {
    auth::Files { password_file: config.password_file.clone(), acl_file: config.acl_file.clone() }
}

/// `None` without certificates.
pub fn tls_files(config: &Config) -> Option<tls::Files> {
    let (certificate, key) = config.tls.pair.clone()?;
    Some(tls::Files {
        certificate,
        key,
        client_ca: config.tls.cafile.clone(),
        require_certificate: config.tls.require_certificate,
        use_identity_as_username: config.tls.use_identity_as_username,
    })
}
