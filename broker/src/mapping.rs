//! Mapping rules: which log topic an MQTT message goes to, under which key. First match wins.

use std::collections::BTreeMap;

use crate::codec::topic::validate_filter;

/// Where a key's parts come from.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Topic,
    /// From 0.
    Level(usize),
    ClientId,
    User,
    UserProperty(String),
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    filter: String,
    /// Log topic.
    pub topic: String,
    /// Partitions the log topic is made with, when it is not there yet.
    pub partitions: u32,
    /// An empty payload becomes a null value.
    pub empty_as_null: bool,
    /// Settings of the log topic, which hold over what it was given else. None when parsed.
    pub topic_config: BTreeMap<String, String>,
    key: Vec<Part>,
}

/// What goes to the log, and where.
#[derive(Clone, Debug, Default)]
pub struct Mapping {
    /// In order; none maps nothing.
    pub rules: Vec<Rule>,
    /// The log topic of dead letters, if there are any.
    pub dead_letters: Option<String>,
}

impl Mapping {
    /// Every log topic that messages go to.
    pub fn topics(&self) -> Vec<String> {
        self.rules.iter().map(|rule| &rule.topic).chain(&self.dead_letters).cloned().collect()
    }
}

/// What is wrong with a rule; the configuration's fault.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RuleError {
    /// Not an MQTT topic filter.
    #[error("filter {0:?}: {1}")]
    Filter(String, String),
    /// Shared subscriptions are for clients.
    #[error("filter {0:?}: $share is for clients, a rule sees every message anyway")]
    Share(String),
    /// A brace that opens or closes nothing.
    #[error("key {0:?}: a lone brace; write {{{{ or }}}} for the character itself")]
    Brace(String),
    /// An unknown placeholder.
    #[error(
        "key {key:?}: {{{name}}} is unknown; there are {{topic}}, {{1}} to {{200}}, {{client_id}}, {{user}} and \
         {{user_property:NAME}}"
    )]
    Placeholder {
        /// The whole key.
        key: String,
        /// What stands between the braces.
        name: String,
    },
}

/// What a key can be made of.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// MQTT topic.
    pub topic: &'a str,
    /// Who published.
    pub client_id: &'a str,
    /// As whom, if it said so.
    pub user: Option<&'a str>,
}

impl Rule {
    /// Checks and reads a rule as it stands in the configuration.
    pub fn parse(
        filter: &str,
        topic: &str,
        key: &str,
        partitions: u32,
        empty_as_null: bool,
    ) -> Result<Rule, RuleError> {
        validate_filter(filter).map_err(|error| RuleError::Filter(filter.to_owned(), error.to_string()))?;
        if filter.starts_with("$share/") {
            return Err(RuleError::Share(filter.to_owned()));
        }
        let (filter, topic) = (filter.to_owned(), topic.to_owned());
        let topic_config = BTreeMap::new();
        Ok(Rule { filter, topic, partitions, empty_as_null, topic_config, key: parse_key(key)? })
    }

    /// Its MQTT topic filter.
    pub fn filter(&self) -> &str {
        &self.filter
    }

    /// Whether it takes messages on this topic.
    pub fn matches(&self, topic: &str) -> bool {
        filter_matches(&self.filter, topic)
    }

    /// Whether every message on one topic has the same key.
    pub fn key_is_fixed_by_topic(&self) -> bool {
        self.key.iter().all(|part| matches!(part, Part::Literal(_) | Part::Topic | Part::Level(_)))
    }

    /// Writes the key. A part that is not there is left empty; whether all are there.
    pub fn key<'a>(
        &self,
        out: &mut Vec<u8>,
        origin: Origin<'_>,
        user_properties: impl Iterator<Item = (&'a str, &'a str)> + Clone,
    ) -> bool {
        let mut is_whole = true;
        for part in &self.key {
            let text = match part {
                Part::Literal(text) => Some(text.as_str()),
                Part::Topic => Some(origin.topic),
                Part::Level(level) => origin.topic.split('/').nth(*level),
                Part::ClientId => Some(origin.client_id),
                Part::User => origin.user,
                Part::UserProperty(wanted) => {
                    user_properties.clone().find(|(name, _)| name == wanted).map(|(_, value)| value)
                }
            };
            is_whole &= text.is_some();
            out.extend_from_slice(text.unwrap_or_default().as_bytes());
        }
        is_whole
    }
}

fn parse_key(key: &str) -> Result<Vec<Part>, RuleError> {
    let lone = || RuleError::Brace(key.to_owned());
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = key;
    while let Some(at) = rest.find(['{', '}']) {
        literal.push_str(&rest[..at]);
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            literal.push_str(brace);
            rest = after;
            continue;
        }
        let end = rest.find('}').filter(|_| brace == "{").ok_or_else(lone)?;
        if !literal.is_empty() {
            parts.push(Part::Literal(std::mem::take(&mut literal)));
        }
        parts.push(parse_placeholder(key, &rest[..end])?);
        rest = &rest[end + 1..];
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(Part::Literal(literal));
    }
    Ok(parts)
}

fn parse_placeholder(key: &str, name: &str) -> Result<Part, RuleError> {
    if let Some(property) = name.strip_prefix("user_property:").filter(|p| !p.is_empty()) {
        return Ok(Part::UserProperty(property.to_owned()));
    }
    match (name, name.parse::<usize>()) {
        ("topic", _) => Ok(Part::Topic),
        ("client_id", _) => Ok(Part::ClientId),
        ("user", _) => Ok(Part::User),
        (_, Ok(level @ 1..=crate::limits::TOPIC_LEVELS_MAX)) => Ok(Part::Level(level - 1)),
        _ => Err(RuleError::Placeholder { key: key.to_owned(), name: name.to_owned() }),
    }
}

/// Whether a valid filter matches a topic name [MQTT-4.7]: wildcards at the front do not match `$` topics.
pub fn filter_matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        match (wanted, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (wanted, Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

/// The partition of a key, as the Java client's default partitioner places it (murmur2).
pub fn partition_of(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff) % partitions
}

fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c ^ data.len() as u32;
    let mut chunks = data.chunks_exact(4);
    for chunk in &mut chunks {
        let mut k = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        for (i, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * i);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(template: &str, topic: &str) -> String {
        let rule = Rule::parse("#", "t", template, 1, false).expect("valid");
        let mut out = Vec::new();
        let origin = Origin { topic, client_id: "c1", user: Some("ann") };
        let properties = [("site", "north"), ("site", "south")];
        let is_whole = rule.key(&mut out, origin, properties.into_iter());
        String::from_utf8(out).expect("text") + if is_whole { "" } else { " in part" }
    }

    #[test]
    fn keys_are_made_of_topic_levels_client_user_and_property() {
        assert_eq!(key("{topic}", "a/b"), "a/b");
        assert_eq!(key("{2}-{client_id}@{user}", "a/b/c"), "b-c1@ann");
        assert_eq!(key("{9}{{x}}{user_property:site}", "a"), "{x}north in part");
        assert_eq!(key("", "a"), "");
        assert_eq!(key("{1}{2}", "/"), "", "levels without a name");
        assert_eq!(key("{user_property:nope}", "a"), " in part");
    }

    #[test]
    fn bad_rules_say_which_field() {
        let error = |filter, key| Rule::parse(filter, "t", key, 1, false).expect_err("bad").to_string();
        assert!(error("a/#/b", "").starts_with("filter \"a/#/b\""));
        assert!(error("$share/g/a", "").contains("$share"));
        assert!(error("#", "{nope}").contains("{nope} is unknown"));
        assert!(error("#", "{0}").contains("unknown"));
        for lone in ["{", "}", "a}b", "{topic"] {
            assert!(error("#", lone).contains("lone brace"), "{lone}");
        }
    }

    #[test]
    fn filters_match_as_the_standard_says() {
        let cases = [
            ("#", "a/b", true),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("a/#", "a", true),
            ("a/+", "a", false),
            ("a/+", "a/", true),
            ("+/+", "/a", true),
            ("+", "/a", false),
            ("a/b", "a/b/c", false),
        ];
        for (filter, topic, matches) in cases {
            assert_eq!(filter_matches(filter, topic), matches, "{filter} {topic}");
        }
    }

    /// Values that the Java client's own test pins (org.apache.kafka.common.utils.UtilsTest).
    #[test]
    fn murmur2_is_the_java_clients() {
        let cases = [("21", -973932308), ("foobar", -790332482), ("a-little-bit-long-string", -985981536)];
        for (text, expected) in cases {
            assert_eq!(murmur2(text.as_bytes()) as i32, expected, "{text}");
        }
    }
}
