//! SIGHUP: what can change while it runs is read again.

use std::sync::Arc;

use bridge::Bridge;
use broker::Broker;
use broker::auth::Access;
use broker::listener::tls::Tls;
use parking_lot::RwLock;
use tracing::{error, info, warn};

use super::kafka::Front;
use super::settings;
use crate::admin::gate::Token;
use crate::config::{Config, ListenerChange, Loaded, Problems};

/// Keys that a reload puts in force; a name that ends in a dot is a section.
const RELOADABLE: &[&str] = &[
    "password_file",
    "acl_file",
    "tls.",
    "mqtt.allow_anonymous",
    "mqtt.max_packet_size",
    "mqtt.max_inflight_messages",
    "mqtt.receive_maximum",
    "mqtt.max_queued_messages",
    "mqtt.max_queued_bytes",
    "mqtt.queue_full",
    "mqtt.max_buffered_bytes",
    "mqtt.max_retained_messages",
    "mqtt.max_retained_bytes",
    "mqtt.connect_timeout_s",
    "mqtt.ws_path",
    "mqtt.ws_origins",
    "mqtt.max_connection_rate",
    "mqtt.max_connections_per_address",
    "mqtt.max_handshakes",
    "mqtt.max_handshakes_per_address",
    "mqtt.max_connections",
    "mqtt.max_keepalive_s",
    "mqtt.min_keepalive_s",
    "mqtt.max_qos",
    "mqtt.retain_available",
    "mqtt.wildcard_subscriptions",
    "mqtt.shared_subscriptions",
    "mqtt.topic_alias_maximum",
    "mqtt.max_topic_bytes",
    "mqtt.max_topic_levels",
    "mqtt.max_subscriptions",
    "mqtt.max_message_rate",
    "mqtt.max_byte_rate",
    "mqtt.response_information",
    "mqtt.server_reference",
    "mqtt.check_payload_format",
    "mqtt.sys_interval_s",
    "kafka.allow_anonymous",
    "kafka.advertised",
    "kafka.advertised_tls",
    "bridge.enabled",
    "bridge.dead_letter_topic",
    "admin.token_file",
];

/// Of the keys that only a `[[mqtt.listener]]` has, those that a reload puts in force. The others are as in `[mqtt]`.
const RELOADABLE_OF_LISTENERS: [&str; 2] = ["proxy_protocol", "proxy_trusted"];

/// Reads the configuration anew, from where it was read at the start.
pub type Source = Box<dyn Fn() -> Result<Loaded, Problems>>;

/// What a reload changes.
pub struct Running {
    pub source: Source,
    /// What is in force of the settings that take a restart.
    pub at_start: Loaded,
    pub bridge: Bridge,
    pub broker: Arc<Broker>,
    pub access: Arc<Access>,
    pub tls: Option<Arc<Tls>>,
    pub front: Arc<Front>,
    pub admin_token: Arc<RwLock<Option<Token>>>,
}

fn is_reloadable(key: &str) -> bool {
    RELOADABLE.iter().any(|known| key == *known || (known.ends_with('.') && key.starts_with(known)))
}

impl Running {
    /// Puts in force what has changed. What is wrong is said, and what was in force before stays so.
    pub async fn reload(&self) {
        info!("SIGHUP: reading configuration, certificates, users and rights again");
        let loaded = match (self.source)() {
            Ok(loaded) => loaded,
            Err(problems) => {
                for line in problems.to_string().lines() {
                    error!("{line}");
                }
                return error!("nothing was reloaded");
            }
        };
        for key in loaded.changed_since(&self.at_start) {
            if !is_reloadable(key) {
                warn!(key, "has changed, and takes a restart");
            }
        }
        for (listener, change) in loaded.listeners_changed_since(&self.at_start) {
            match change {
                ListenerChange::New => warn!(listener, "is new, and takes a restart"),
                ListenerChange::Gone => warn!(listener, "is gone from the configuration, and takes a restart to close"),
                ListenerChange::Key(key) if RELOADABLE_OF_LISTENERS.contains(&key) => {}
                ListenerChange::Key(key) if is_reloadable(&format!("mqtt.{key}")) => {}
                ListenerChange::Key(key) => warn!(listener, key, "has changed, and takes a restart"),
            }
        }
        // A last line in any case: who asked for it waits for one.
        match self.take(&loaded.config).await {
            true => info!("reloaded"),
            false => error!("reloaded in part: see above for what stays as it was"),
        }
    }

    /// Whether everything was taken.
    async fn take(&self, config: &Config) -> bool {
        let mut complete = true;
        let mut failed = |what: &str, error: &dyn std::fmt::Display| {
            complete = false;
            for line in error.to_string().lines() {
                error!("{line}");
            }
            error!("{what} stay as they were");
        };
        if let (Some(tls), Some(files)) = (&self.tls, settings::tls_files(config))
            && let Err(error) = tls.reload(&files)
        {
            failed("certificates", &error);
        }
        if let Err(error) = self.access.reload(&settings::auth_files(config)) {
            failed("users and rights", &error);
        }
        match Token::read(config.admin.token_file.as_deref()) {
            Ok(token) => *self.admin_token.write() = token,
            Err(error) => failed("the admin listener's token", &error),
        }
        self.front.settings.write().clone_from(&config.kafka);
        // Before the rules, which may fail or wait for the disk: who was shut out is shut out at once.
        self.broker.reload(settings::broker(config));
        self.front.server.recheck();
        let (broker, bridge) = (self.broker.clone(), self.bridge.clone());
        match settings::mapping(config) {
            // A new topic has to reach the disk; nothing else is to wait for it.
            Ok(mapping) => match tokio::task::spawn_blocking(move || broker.set_mapping(&bridge, mapping)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => failed("rules", &error),
                Err(error) => failed("rules", &error),
            },
            Err(error) => failed("rules", &error),
        }
        complete
    }
}
