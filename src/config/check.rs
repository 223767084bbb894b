//! What is wrong only in combination, and what a start should point out.

use super::{Address, Config, RuleConfig, reader::Reader};

impl Config {
    /// Checks settings against each other; skips those already found wrong by themselves.
    pub(super) fn check(&self, from: &mut Reader<'_>) {
        let mut found = self.open_doors();
        found.extend(self.shared_addresses());
        found.extend(self.timeouts());
        for (at, rule) in self.bridge.rule.iter().enumerate() {
            found.extend(self.rule(at, rule));
        }
        for Conflict { key, other, message } in found {
            // A rule's own key is the beginning of its fields'.
            let involved = |wrong: &str| wrong.starts_with(&key) || Some(wrong) == other.as_deref();
            if !from.problems.iter().any(|problem| involved(&problem.key)) {
                let value = from.entries.iter().find(|entry| entry.key == key);
                let value = value.map(|entry| entry.value.clone());
                from.complain(&key, value, message);
            }
        }
    }

    fn open_doors(&self) -> Vec<Conflict> {
        [("mqtt", &self.mqtt.tcp, self.mqtt.allow_anonymous), ("kafka", &self.kafka.tcp, self.kafka.allow_anonymous)]
            .into_iter()
            .filter(|(_, tcp, allow_anonymous)| !tcp.is_loopback() && !allow_anonymous)
            .map(|(section, ..)| {
                Conflict::new(
                    format!("{section}.tcp"),
                    Some(format!("{section}.allow_anonymous")),
                    format!(
                        "there are no users and no TLS yet, so anyone who reaches this address could read \
                         and write; if that is meant, set {section}.allow_anonymous = true, else listen on \
                         127.0.0.1"
                    ),
                )
            })
            .collect()
    }

    fn shared_addresses(&self) -> Vec<Conflict> {
        let listeners =
            [("mqtt.tcp", &self.mqtt.tcp), ("kafka.tcp", &self.kafka.tcp), ("admin.http", &self.admin.http)];
        let mut conflicts = Vec::new();
        for (at, (key, address)) in listeners.iter().enumerate() {
            let taken = |other: &&(&str, &Address)| other.1 == *address;
            let is_fixed = address.host_port().is_some_and(|(_, port)| port != 0);
            if let Some((other, _)) = listeners[..at].iter().find(taken).filter(|_| is_fixed) {
                let message = format!("is the address of {other} already");
                conflicts.push(Conflict::new(*key, Some((*other).to_owned()), message));
            }
        }
        conflicts
    }

    fn timeouts(&self) -> Option<Conflict> {
        let min = self.kafka.group_min_session_timeout_ms;
        (self.kafka.group_max_session_timeout_ms < min).then(|| {
            Conflict::new(
                "kafka.group_max_session_timeout_ms",
                Some("kafka.group_min_session_timeout_ms".to_owned()),
                format!("must not be below kafka.group_min_session_timeout_ms = {min}"),
            )
        })
    }

    fn rule(&self, at: usize, rule: &RuleConfig) -> Option<Conflict> {
        if let Err(message) = check_rule(rule) {
            return Some(Conflict::new(format!("bridge.rule[{at}]"), None, message));
        }
        let (first, other) = self
            .bridge
            .rule
            .iter()
            .enumerate()
            .take(at)
            .find(|(_, other)| other.topic == rule.topic && other.partitions != rule.partitions)?;
        let partitions = other.partitions;
        Some(Conflict::new(
            format!("bridge.rule[{at}].partitions"),
            Some(format!("bridge.rule[{first}].partitions")),
            format!("topic {:?} has {partitions} partitions in bridge.rule[{first}]", rule.topic),
        ))
    }

    /// What a start should warn of.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if !self.admin.http.is_loopback() {
            warnings.push(format!(
                "admin.http = \"{}\": anyone who reaches this address can read metrics",
                self.admin.http
            ));
        }
        warnings
    }

    /// How to serve others, when only this machine is served.
    pub fn how_to_open(&self) -> Option<&'static str> {
        (self.mqtt.tcp.is_loopback() && self.kafka.tcp.is_loopback()).then_some(
            "only this machine can connect; to serve others without passwords, set tcp = \"0.0.0.0:1883\" \
             and allow_anonymous = true under [mqtt], the same with port 9092 under [kafka]",
        )
    }
}

/// Two settings that do not go together.
struct Conflict {
    key: String,
    other: Option<String>,
    message: String,
}

impl Conflict {
    fn new(key: impl Into<String>, other: Option<String>, message: String) -> Self {
        Self { key: key.into(), other, message }
    }
}

/// Is the rule one that can run? Else what is wrong with which field.
fn check_rule(rule: &RuleConfig) -> Result<(), String> {
    if rule.filter.is_empty() {
        return Err("filter must not be empty; # matches every topic".to_owned());
    }
    let topic = rule.topic.as_str();
    if !bridge::log::topic::name_ok(topic) || topic.starts_with("__") {
        return Err(format!(
            "topic {topic:?} must be 1 to 249 of a-z A-Z 0-9 . _ -, not beginning with __, not . or .."
        ));
    }
    broker::mapping::Rule::parse(&rule.filter, topic, &rule.key, rule.partitions, rule.empty_as_null)
        .map(drop)
        .map_err(|error| error.to_string())
}
