//! What the clients of a listener are held to, and told: keys that stand in `[mqtt]` for all listeners.

use broker::limits::{TOPIC_ALIASES_MAX, TOPIC_LEVELS_MAX};

use super::reader::Reader;

/// Settings that are a client's affair; [`broker::ClientLimits`] says more of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSettings {
    /// The shortest keep alive but none.
    pub min_keepalive_s: u16,
    /// 0 to 2.
    pub max_qos: u8,
    /// May clients have messages retained?
    pub retain_available: bool,
    /// May filters have wildcards?
    pub wildcard_subscriptions: bool,
    /// May filters begin with `$share/`?
    pub shared_subscriptions: bool,
    /// Topic aliases that a client may set.
    pub topic_alias_maximum: u16,
    /// Of a topic name or filter.
    pub max_topic_bytes: u16,
    /// Of a topic name or filter.
    pub max_topic_levels: u16,
    /// Of one session.
    pub max_subscriptions: u32,
    /// PUBLISH packets of a client per second; 0: any number.
    pub max_message_rate: u32,
    /// Bytes of a client per second; 0: any number.
    pub max_byte_rate: u32,
    /// What a client that asks for response information is told.
    pub response_information: String,
    /// Another server, for who finds this one full or ending.
    pub server_reference: String,
    /// Is a payload that is said to be UTF-8 looked at?
    pub check_payload_format: bool,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            min_keepalive_s: 0,
            max_qos: 2,
            retain_available: true,
            wildcard_subscriptions: true,
            shared_subscriptions: true,
            topic_alias_maximum: 32,
            max_topic_bytes: u16::MAX,
            max_topic_levels: TOPIC_LEVELS_MAX as u16,
            max_subscriptions: 10_000,
            max_message_rate: 0,
            max_byte_rate: 0,
            response_information: String::new(),
            server_reference: String::new(),
            check_payload_format: false,
        }
    }
}

impl ClientSettings {
    /// Of a section; where it says nothing, `default` does.
    pub(super) fn read(from: &mut Reader<'_>, section: &str, default: &Self) -> Self {
        let key = |name: &str| format!("{section}.{name}");
        Self {
            min_keepalive_s: from.number(&key("min_keepalive_s"), default.min_keepalive_s, 0..=u16::MAX),
            max_qos: from.number(&key("max_qos"), default.max_qos, 0..=2),
            retain_available: from.boolean(&key("retain_available"), default.retain_available),
            wildcard_subscriptions: from.boolean(&key("wildcard_subscriptions"), default.wildcard_subscriptions),
            shared_subscriptions: from.boolean(&key("shared_subscriptions"), default.shared_subscriptions),
            topic_alias_maximum: from.number(
                &key("topic_alias_maximum"),
                default.topic_alias_maximum,
                0..=TOPIC_ALIASES_MAX,
            ),
            max_topic_bytes: from.number(&key("max_topic_bytes"), default.max_topic_bytes, 1..=u16::MAX),
            max_topic_levels: from.number(
                &key("max_topic_levels"),
                default.max_topic_levels,
                1..=TOPIC_LEVELS_MAX as u16,
            ),
            max_subscriptions: from.number(&key("max_subscriptions"), default.max_subscriptions, 1..=u32::MAX),
            max_message_rate: from.number(&key("max_message_rate"), default.max_message_rate, 0..=u32::MAX),
            max_byte_rate: from.number(&key("max_byte_rate"), default.max_byte_rate, 0..=u32::MAX),
            response_information: from.checked_text(
                &key("response_information"),
                &default.response_information,
                broker::response_information::check,
            ),
            server_reference: from.checked_text(&key("server_reference"), &default.server_reference, check_reference),
            check_payload_format: from.boolean(&key("check_payload_format"), default.check_payload_format),
        }
    }
}

fn check_reference(text: &str) -> Result<(), String> {
    match text.len() <= 1024 && !text.contains(char::is_control) {
        true => Ok(()),
        false => Err("must be at most 1024 bytes without control characters, as \"other.example:1883\"".to_owned()),
    }
}
