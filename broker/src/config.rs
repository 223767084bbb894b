//! The broker's settings: its own, each listener's, and what the clients of a listener are held to.

use std::sync::Arc;
use std::time::Duration;

use crate::codec::QoS;
use crate::listener::proxy::Networks;

/// The broker's settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Threads that own sessions; at least 1.
    pub shards: usize,
    /// Messages that wait for a client.
    pub max_queued_messages: usize,
    /// Bytes that wait for a connected client whose session ends with its connection.
    pub max_queued_bytes: usize,
    /// A full queue drops what is in it longest, not what comes.
    pub drops_oldest: bool,
    /// Bytes that wait for clients in memory, all together; above it they are dropped.
    pub max_buffered_bytes: u64,
    /// Retained messages; 0: without limit.
    pub max_retained_messages: usize,
    /// Memory they take, in bytes; 0: without limit.
    pub max_retained_bytes: usize,
    /// Clients connected at once, by all listeners; 0: as many as there are open files.
    pub max_connections: u64,
    /// Between two tellings of `$SYS`; zero: it is not told.
    pub sys_interval: Duration,
    /// A certificate can prove a user name.
    pub certificates_name_users: bool,
    /// After the journal failed the broker stays, for what needs no disk.
    pub degrades_on_disk_error: bool,
    /// Each listener's settings.
    pub listeners: Vec<Arc<ListenerConfig>>,
}

/// One listener's settings.
#[derive(Clone, Debug)]
pub struct ListenerConfig {
    /// Which one: never that of another, and the same after a reload.
    pub name: String,
    /// From accept to CONNECT.
    pub connect_timeout: Duration,
    /// The path of WebSocket clients; empty: any.
    pub ws_path: String,
    /// Pages whose scripts may come by WebSocket, as their `Origin`; none: all of them.
    pub ws_origins: Vec<String>,
    /// Clients connected at once; 0: as many as all listeners together may have.
    pub max_connections: usize,
    /// New connections a second; 0: any number.
    pub max_connection_rate: u32,
    /// Connections of one address; 0: any number.
    pub max_connections_per_address: u32,
    /// Connections whose CONNECT is not there yet.
    pub max_handshakes: u32,
    /// Of them, those of one address.
    pub max_handshakes_per_address: u32,
    /// Clients come through these proxies, and no other way.
    pub proxies: Option<Networks>,
    /// Clients without credentials; `None`: on loopback, as long as there are no users.
    pub allow_anonymous: Option<bool>,
    /// What a client that asks for response information is told, as [`response_information`](crate::response_information)
    /// has it.
    pub response_information: String,
    /// Another server for who finds this one full, or ending; empty: none.
    pub server_reference: String,
    /// What its clients are held to.
    pub clients: ClientLimits,
}

/// What a client is held to. It is told at CONNACK where the protocol has a word for it, so a reload changes nothing
/// for clients that are connected.
#[derive(Clone, Debug)]
pub struct ClientLimits {
    /// Largest packet taken, in bytes.
    pub max_packet_size: u32,
    /// Unacknowledged QoS 1 and 2 messages sent to it.
    pub max_inflight_messages: u16,
    /// Unacknowledged QoS 1 and 2 messages taken from it.
    pub receive_maximum: u16,
    /// The longest keep alive, in seconds; 0: any, and none.
    pub max_keepalive_s: u16,
    /// The shortest keep alive but none, in seconds.
    pub min_keepalive_s: u16,
    /// Greatest QoS taken from it, and granted to it.
    pub max_qos: QoS,
    /// Whether it may have messages retained.
    pub retain_available: bool,
    /// Whether its filters may have wildcards.
    pub wildcard_subscriptions: bool,
    /// Whether its filters may begin with `$share/`.
    pub shared_subscriptions: bool,
    /// Topic aliases it may set: each keeps its topic in memory.
    pub topic_alias_maximum: u16,
    /// Of a topic name or filter, without `$share/{name}/`.
    pub max_topic_bytes: u16,
    /// Of the same; at most [`TOPIC_LEVELS_MAX`](crate::limits::TOPIC_LEVELS_MAX).
    pub max_topic_levels: u16,
    /// Subscriptions of its session.
    pub max_subscriptions: u32,
    /// PUBLISH packets per second; 0: any number.
    pub max_message_rate: u32,
    /// Bytes read from it per second; 0: any number.
    pub max_byte_rate: u32,
    /// Whether a payload that is said to be UTF-8 has to be.
    pub check_payload_format: bool,
}

impl Config {
    /// The settings of the listener of this name, if there is one.
    pub fn listener(&self, name: &str) -> Option<&Arc<ListenerConfig>> {
        self.listeners.iter().find(|listener| listener.name == name)
    }

    /// A listener's settings as they are now, where a reload may have come since.
    pub fn of<'a>(&'a self, listener: &'a Arc<ListenerConfig>) -> &'a Arc<ListenerConfig> {
        self.listener(&listener.name).unwrap_or(listener)
    }

    /// These settings, with those of `before` for listeners that they do not name any more: they go on until a restart.
    pub fn keeping_listeners(self: Arc<Self>, before: &Self) -> Arc<Self> {
        let gone: Vec<_> = before.listeners.iter().filter(|known| self.listener(&known.name).is_none()).collect();
        if gone.is_empty() {
            return self;
        }
        let listeners = self.listeners.iter().chain(gone).cloned().collect();
        Arc::new(Self { listeners, ..(*self).clone() })
    }
}
