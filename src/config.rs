//! The configuration: flags over environment over file over defaults.
//!
//! [`Config::read`] is the one place that names every key with its default and range; the list of
//! keys, what `check-config` prints and the check of the example file are derived from it.

mod address;
mod check;
mod clients;
mod listener;
mod problem;
mod reader;
mod report;
mod schema;
mod sources;
#[cfg(test)]
mod tests;
mod topic_config;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    thread,
};

use bridge::Durability;

pub use address::{Address, AddressError, Endpoint};
pub use clients::ClientSettings;
pub use listener::{ListenerChange, ListenerConfig, Protocol, origins};
pub use problem::Problems;
pub use report::report;
pub use sources::Flag;

use crate::logs::{self, LogFormat};
use reader::{Entry, Reader};
use schema::Schema;
use sources::Sources;
use topic_config::TopicConfig;

/// More shards than this are not started.
const SHARDS_MAX: u16 = 64;
/// As Kafka's index files, which hold positions in 31 bits.
const SEGMENT_BYTES_MAX: u64 = i32::MAX as u64;
/// The largest MQTT packet there is.
const PACKET_BYTES_MAX: u32 = 268_435_460;
/// More than one machine serves.
const CONNECTIONS_MAX: u32 = 10_000_000;
/// A day.
const INTERVAL_S_MAX: u32 = 86_400;

/// Everything that can be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The folder for everything that must survive a restart.
    pub data_dir: PathBuf,
    /// When a commit counts as durable.
    pub durability: Durability,
    /// How long a commit may wait for company; 0: not at all.
    pub commit_interval_ms: u32,
    /// Room on the disk below which nothing is taken but what frees some.
    pub disk_reserve_bytes: u64,
    /// After a failed sync the process goes on without a disk, until it is restarted.
    pub degrades_on_disk_error: bool,
    /// How logs are written.
    pub log_format: LogFormat,
    /// A level or `EnvFilter` directives.
    pub log_level: String,
    /// As configured; see [`Config::shard_count`].
    pub shards: u16,
    /// Who may come in.
    pub password_file: Option<PathBuf>,
    /// Who may do what.
    pub acl_file: Option<PathBuf>,
    /// Certificates, for all TLS listeners.
    pub tls: Tls,
    /// The MQTT side.
    pub mqtt: Mqtt,
    /// The Kafka side.
    pub kafka: Kafka,
    /// The log between them.
    pub bridge: Bridge,
    /// Health and metrics.
    pub admin: Admin,
}

/// Section `mqtt`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mqtt {
    /// Plain TCP listener.
    pub tcp: Address,
    /// TLS listener.
    pub tls: Address,
    /// WebSocket listener.
    pub ws: Address,
    /// WebSocket listener on TLS.
    pub wss: Address,
    /// What holds for each of them.
    pub listeners: ListenerSettings,
    /// Further ones, each with settings of its own.
    pub listener: Vec<ListenerConfig>,
    /// Messages queued for a session; beyond it new ones for it are dropped and counted.
    pub max_queued_messages: u32,
    /// Bytes of QoS 1 and 2 waiting for a client whose session ends with its connection; beyond it they are dropped
    /// and counted.
    pub max_queued_bytes: u64,
    /// A full queue drops what is in it longest, not what comes.
    pub drops_oldest: bool,
    /// Bytes that wait for clients in memory, all together; above it they are dropped and counted.
    pub max_buffered_bytes: u64,
    /// Retained messages; 0: no limit.
    pub max_retained_messages: u32,
    /// Memory they take; 0: no limit.
    pub max_retained_bytes: u64,
    /// Clients connected at once; 0: no limit but that of open files.
    pub max_connections: u32,
    /// Between two tellings of `$SYS`; 0: it is not told.
    pub sys_interval_s: u32,
}

/// What can differ between listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSettings {
    /// The path of WebSocket clients; empty: any.
    pub ws_path: String,
    /// Pages whose scripts may come by WebSocket, with commas between; empty: all.
    pub ws_origins: String,
    /// Clients without credentials; `None`: on loopback listeners, as long as there is no password file.
    pub allow_anonymous: Option<bool>,
    /// Largest packet taken from a client, in bytes.
    pub max_packet_size: u32,
    /// QoS 1 and 2 messages sent to a client and not yet acknowledged by it.
    pub max_inflight_messages: u16,
    /// QoS 1 and 2 messages of a client not yet acknowledged by us.
    pub receive_maximum: u16,
    /// From accept to CONNECT.
    pub connect_timeout_s: u32,
    /// The longest keep alive; 0: any, and none.
    pub max_keepalive_s: u16,
    /// New connections of a listener per second; 0: any number.
    pub max_connection_rate: u32,
    /// Connections of one address to a listener; 0: any number.
    pub max_connections_per_address: u32,
    /// Connections of a listener whose CONNECT is not there yet.
    pub max_handshakes: u32,
    /// Of them, those of one address.
    pub max_handshakes_per_address: u32,
    /// What else its clients are held to.
    pub clients: ClientSettings,
}

/// Section `kafka`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kafka {
    /// Plain TCP listener.
    pub tcp: Address,
    /// TLS listener.
    pub tls: Address,
    /// Host and port told to clients; `None`: the address the client came in on.
    pub advertised: Option<(String, u16)>,
    /// The same for clients of the TLS listener.
    pub advertised_tls: Option<(String, u16)>,
    /// The broker id told to clients.
    pub node_id: i32,
    /// Does asking for a topic's metadata make it?
    pub auto_create_topics_enable: bool,
    /// Partitions of a topic made without saying how many.
    pub num_partitions: u32,
    /// How long the first rebalance of an empty group waits for more members.
    pub group_initial_rebalance_delay_ms: u32,
    /// Shortest session timeout a group member may ask for.
    pub group_min_session_timeout_ms: u32,
    /// Longest session timeout a group member may ask for.
    pub group_max_session_timeout_ms: u32,
    /// Largest record batch taken from a producer, in bytes.
    pub message_max_bytes: u32,
    /// As [`ListenerSettings::allow_anonymous`].
    pub allow_anonymous: Option<bool>,
}

/// Section `tls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The server's certificate and key; `None`: there are none.
    pub pair: Option<(PathBuf, PathBuf)>,
    /// CAs whose client certificates are believed.
    pub cafile: Option<PathBuf>,
    /// Clients without a certificate are refused.
    pub require_certificate: bool,
    /// The common name of a client's certificate is its user name.
    pub use_identity_as_username: bool,
}

/// Section `bridge`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bridge {
    /// False: nothing is mapped to the log; sessions stay durable.
    pub enabled: bool,
    /// A segment rolls when its next batch would pass this size.
    pub segment_bytes: u64,
    /// How long a topic keeps records, in milliseconds; -1 for ever.
    pub retention_ms: i64,
    /// How many bytes a partition keeps; -1 any number.
    pub retention_bytes: i64,
    /// Whether topics delete what is too old or too much, and whether they are compacted.
    pub cleanup_policy: (bool, bool),
    /// Journal bytes after which a checkpoint starts.
    pub checkpoint_bytes: u64,
    /// Time after which a checkpoint starts, when anything changed.
    pub checkpoint_interval_s: u32,
    /// The topic of dead letters; empty: there are none.
    pub dead_letter_topic: String,
    /// First match wins. Never empty: without any there is one for everything.
    pub rule: Vec<RuleConfig>,
}

/// One `[[bridge.rule]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleConfig {
    /// MQTT topic filter.
    pub filter: String,
    /// Kafka topic.
    pub topic: String,
    /// Template of the record key.
    pub key: String,
    /// Partitions of the topic when it is made.
    pub partitions: u32,
    /// An empty payload becomes a null value, not an empty one.
    pub empty_as_null: bool,
    /// Settings of the topic, which hold over what others give it.
    pub topic_config: TopicConfig,
}

/// Section `admin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// HTTP listener.
    pub http: Address,
    /// What who asks for more than health and metrics has to know.
    pub token_file: Option<PathBuf>,
}

/// A configuration without faults, and where it is from.
#[derive(Debug)]
pub struct Loaded {
    /// What to run.
    pub config: Config,
    /// Every setting, in the order of the example file; rules excluded.
    entries: Vec<Entry>,
}

impl Loaded {
    /// Keys with another value than in `other`; rules and listeners excluded.
    pub fn changed_since<'a>(&'a self, other: &'a Loaded) -> impl Iterator<Item = &'a str> {
        let pairs = self.entries.iter().filter(|entry| !entry.key.contains('['));
        pairs
            .filter(|entry| !other.entries.iter().any(|known| known.key == entry.key && known.value == entry.value))
            .map(|entry| entry.key.as_str())
    }
}

/// Reads and checks all there is to a configuration. On failure, every problem that could be found.
pub fn load(
    file: Option<&Path>,
    variables: impl Iterator<Item = (OsString, OsString)>,
    flags: Vec<Flag>,
) -> Result<Loaded, Problems> {
    let mut problems = Vec::new();
    let sources = Sources::gather(file, variables, flags, &schema(), &mut problems);
    // Each source alone first: a bad value is refused even where another source hides it.
    for part in [sources.file_only(), sources.variables_only()] {
        let mut reader = Reader::new(&part);
        Config::read(&mut reader);
        problems.append(&mut reader.problems);
    }
    let mut reader = Reader::new(&sources);
    let config = Config::read(&mut reader);
    config.check(&mut reader);
    for problem in reader.problems {
        if !problems.contains(&problem) {
            problems.push(problem);
        }
    }
    match problems.is_empty() {
        true => Ok(Loaded { config, entries: reader.entries }),
        false => Err(Problems(problems)),
    }
}

fn schema() -> Schema {
    let nothing = Sources::default();
    let mut reader = Reader::new(&nothing);
    let config = Config::read(&mut reader);
    RuleConfig::read(&mut reader, 0);
    ListenerConfig::read(&mut reader, 0, &config.mqtt.listeners);
    Schema::new(reader.entries.into_iter().map(|entry| entry.key).collect())
}

impl Default for Config {
    fn default() -> Self {
        Self::read(&mut Reader::new(&Sources::default()))
    }
}

impl Config {
    fn read(from: &mut Reader<'_>) -> Self {
        Self {
            data_dir: from.checked_text("data_dir", "./millstream-data", not_empty).into(),
            durability: from.choice("durability", [("fsync", Durability::Fsync), ("os", Durability::Os)]),
            commit_interval_ms: from.number("commit_interval_ms", 0, 0..=60_000),
            disk_reserve_bytes: from.number("disk_reserve_bytes", 67_108_864, 0..=1 << 50),
            degrades_on_disk_error: from.choice("on_disk_error", [("exit", false), ("degraded", true)]),
            log_format: from.choice("log_format", [("text", LogFormat::Text), ("json", LogFormat::Json)]),
            log_level: from.checked_text("log_level", "info", logs::check_level),
            shards: from.number("shards", 0, 0..=SHARDS_MAX),
            password_file: path(&from.text("password_file", "")),
            acl_file: path(&from.text("acl_file", "")),
            tls: Tls::read(from),
            mqtt: Mqtt::read(from),
            kafka: Kafka::read(from),
            bridge: Bridge::read(from),
            admin: Admin {
                http: from.address("admin.http", Some(9180)),
                token_file: path(&from.text("admin.token_file", "")),
            },
        }
    }

    /// Whether any listener speaks TLS.
    pub fn serves_tls(&self) -> bool {
        let short = [&self.mqtt.tls, &self.mqtt.wss, &self.kafka.tls];
        short.iter().any(|address| address.host_port().is_some())
            || self.mqtt.listener.iter().any(|listener| listener.protocol.is_tls())
    }

    /// Shards to run: as configured, or one per CPU this process may use.
    pub fn shard_count(&self) -> u16 {
        if self.shards > 0 {
            return self.shards;
        }
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        u16::try_from(cpus).unwrap_or(SHARDS_MAX).min(SHARDS_MAX)
    }
}

impl Mqtt {
    fn read(from: &mut Reader<'_>) -> Self {
        let mut mqtt = Self {
            tcp: from.address("mqtt.tcp", Some(1883)),
            tls: from.address("mqtt.tls", None),
            ws: from.address("mqtt.ws", None),
            wss: from.address("mqtt.wss", None),
            listeners: ListenerSettings::read(from, "mqtt", &ListenerSettings::default()),
            listener: Vec::new(),
            max_queued_messages: from.number("mqtt.max_queued_messages", 100_000, 1..=u32::MAX),
            max_queued_bytes: from.number("mqtt.max_queued_bytes", 67_108_864, 1024..=1 << 40),
            drops_oldest: from.choice("mqtt.queue_full", [("drop_newest", false), ("drop_oldest", true)]),
            max_buffered_bytes: from.number("mqtt.max_buffered_bytes", 268_435_456, 1_048_576..=1 << 40),
            max_retained_messages: from.number("mqtt.max_retained_messages", 1_000_000, 0..=u32::MAX),
            max_retained_bytes: from.number("mqtt.max_retained_bytes", 268_435_456, 0..=1 << 40),
            max_connections: from.number("mqtt.max_connections", 0, 0..=u32::MAX),
            sys_interval_s: from.number("mqtt.sys_interval_s", 10, 0..=INTERVAL_S_MAX),
        };
        let further = 0..from.list_len("mqtt.listener");
        mqtt.listener = further.map(|at| ListenerConfig::read(from, at, &mqtt.listeners)).collect();
        mqtt
    }
}

impl Default for ListenerSettings {
    fn default() -> Self {
        Self {
            ws_path: String::new(),
            ws_origins: String::new(),
            allow_anonymous: None,
            max_packet_size: 1_048_576,
            max_inflight_messages: 1000,
            receive_maximum: u16::MAX,
            connect_timeout_s: 10,
            max_keepalive_s: 0,
            max_connection_rate: 0,
            max_connections_per_address: 0,
            max_handshakes: 10_000,
            max_handshakes_per_address: 1_000,
            clients: ClientSettings::default(),
        }
    }
}

impl ListenerSettings {
    /// Of a section; where it says nothing, `default` does.
    fn read(from: &mut Reader<'_>, section: &str, default: &Self) -> Self {
        let key = |name: &str| format!("{section}.{name}");
        let any = 0..=CONNECTIONS_MAX;
        let some = 1..=CONNECTIONS_MAX;
        let per_address = default.max_connections_per_address;
        let handshakes_per_address = default.max_handshakes_per_address;
        Self {
            ws_path: from.checked_text(&key("ws_path"), &default.ws_path, |path| {
                match path.is_empty() || path.starts_with('/') {
                    true => Ok(()),
                    false => Err("must begin with /, or be empty".to_owned()),
                }
            }),
            ws_origins: from.checked_text(&key("ws_origins"), &default.ws_origins, listener::check_origins),
            allow_anonymous: from.boolean_or_auto(&key("allow_anonymous"), default.allow_anonymous),
            max_packet_size: from.number(&key("max_packet_size"), default.max_packet_size, 64..=PACKET_BYTES_MAX),
            max_inflight_messages: from.number(
                &key("max_inflight_messages"),
                default.max_inflight_messages,
                1..=u16::MAX,
            ),
            receive_maximum: from.number(&key("receive_maximum"), default.receive_maximum, 1..=u16::MAX),
            connect_timeout_s: from.number(&key("connect_timeout_s"), default.connect_timeout_s, 1..=3600),
            max_keepalive_s: from.number(&key("max_keepalive_s"), default.max_keepalive_s, 0..=u16::MAX),
            max_connection_rate: from.number(&key("max_connection_rate"), default.max_connection_rate, any.clone()),
            max_connections_per_address: from.number(&key("max_connections_per_address"), per_address, any),
            max_handshakes: from.number(&key("max_handshakes"), default.max_handshakes, some.clone()),
            max_handshakes_per_address: from.number(&key("max_handshakes_per_address"), handshakes_per_address, some),
            clients: ClientSettings::read(from, section, &default.clients),
        }
    }
}

impl Kafka {
    fn read(from: &mut Reader<'_>) -> Self {
        Self {
            tcp: from.address("kafka.tcp", Some(9092)),
            tls: from.address("kafka.tls", None),
            advertised: advertised(&from.checked_text("kafka.advertised", "", check_advertised)),
            advertised_tls: advertised(&from.checked_text("kafka.advertised_tls", "", check_advertised)),
            node_id: from.number("kafka.node_id", 1, 0..=i32::MAX),
            auto_create_topics_enable: from.boolean("kafka.auto_create_topics_enable", true),
            num_partitions: from.number("kafka.num_partitions", 4, 1..=10_000),
            group_initial_rebalance_delay_ms: from.number("kafka.group_initial_rebalance_delay_ms", 200, 0..=300_000),
            group_min_session_timeout_ms: from.number("kafka.group_min_session_timeout_ms", 6000, 1..=3_600_000),
            group_max_session_timeout_ms: from.number("kafka.group_max_session_timeout_ms", 1_800_000, 1..=86_400_000),
            message_max_bytes: from.number("kafka.message_max_bytes", 1_048_588, 1024..=104_857_600),
            allow_anonymous: from.boolean_or_auto("kafka.allow_anonymous", None),
        }
    }
}

impl Tls {
    fn read(from: &mut Reader<'_>) -> Self {
        let certs = path(&from.text("tls.certs", ""));
        let in_certs = |name: &str| certs.as_ref().map(|folder| folder.join(name));
        let certfile = path(&from.text("tls.certfile", "")).or_else(|| in_certs("server.crt"));
        let keyfile = path(&from.text("tls.keyfile", "")).or_else(|| in_certs("server.key"));
        Self {
            pair: certfile.zip(keyfile),
            cafile: path(&from.text("tls.cafile", "")).or_else(|| in_certs("ca.crt").filter(|ca| ca.exists())),
            require_certificate: from.boolean("tls.require_certificate", false),
            use_identity_as_username: from.boolean("tls.use_identity_as_username", true),
        }
    }
}

impl Bridge {
    fn read(from: &mut Reader<'_>) -> Self {
        Self {
            enabled: from.boolean("bridge.enabled", true),
            segment_bytes: from.number("bridge.segment_bytes", 67_108_864, 65_536..=SEGMENT_BYTES_MAX),
            retention_ms: from.number("bridge.retention_ms", 604_800_000, -1..=i64::MAX),
            retention_bytes: from.number("bridge.retention_bytes", -1, -1..=i64::MAX),
            cleanup_policy: from.choice(
                "bridge.cleanup_policy",
                [("delete", (true, false)), ("compact", (false, true)), ("compact,delete", (true, true))],
            ),
            checkpoint_bytes: from.number("bridge.checkpoint_bytes", 268_435_456, 1_048_576..=1 << 40),
            checkpoint_interval_s: from.number("bridge.checkpoint_interval_s", 60, 1..=INTERVAL_S_MAX),
            dead_letter_topic: from.checked_text("bridge.dead_letter_topic", "", |topic| match topic {
                "" => Ok(()),
                topic => check_topic(topic),
            }),
            rule: match from.list_len("bridge.rule") {
                0 => vec![RuleConfig::default()],
                rules => (0..rules).map(|at| RuleConfig::read(from, at)).collect(),
            },
        }
    }
}

impl RuleConfig {
    fn read(from: &mut Reader<'_>, at: usize) -> Self {
        let key = |name: &str| format!("bridge.rule[{at}].{name}");
        Self {
            filter: from.required_text(&key("filter")),
            topic: from.required_text(&key("topic")),
            key: from.text(&key("key"), "{topic}"),
            partitions: from.number(&key("partitions"), 4, 1..=10_000),
            empty_as_null: from.boolean(&key("empty_as_null"), false),
            topic_config: from.topic_config(&key("topic_config")),
        }
    }
}

impl Default for RuleConfig {
    /// Everything into one topic.
    fn default() -> Self {
        Self {
            filter: "#".to_owned(),
            topic: "mqtt".to_owned(),
            key: "{topic}".to_owned(),
            partitions: 4,
            empty_as_null: false,
            topic_config: TopicConfig::new(),
        }
    }
}

fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| text.into())
}

fn not_empty(text: &str) -> Result<(), String> {
    match text {
        "" => Err("must not be empty".to_owned()),
        _ => Ok(()),
    }
}

/// Is it the name of a topic that can be made?
fn check_topic(topic: &str) -> Result<(), String> {
    match bridge::log::topic::name_ok(topic) && !topic.starts_with("__") {
        true => Ok(()),
        false => Err("must be 1 to 249 of a-z A-Z 0-9 . _ -, not beginning with __, not . or ..".to_owned()),
    }
}

fn check_advertised(text: &str) -> Result<(), String> {
    let concrete = advertised(text)
        .is_some_and(|(host, port)| port != 0 && !host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_unspecified()));
    match text.is_empty() || concrete {
        true => Ok(()),
        false => Err("must be a host:port that clients can reach, or empty".to_owned()),
    }
}

fn advertised(text: &str) -> Option<(String, u16)> {
    match text.parse() {
        Ok(Address::At { host, port }) => Some((host, port)),
        _ => None,
    }
}
