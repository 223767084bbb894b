//! What is wrong only in combination, and what a start should point out.

use std::borrow::Cow;

use super::{Address, Config, Endpoint, ListenerSettings, RuleConfig, check_topic, reader::Reader, topic_config};

impl Config {
    /// Checks settings against each other; skips those already found wrong by themselves.
    pub(super) fn check(&self, from: &mut Reader<'_>) {
        let mut found = self.open_doors();
        found.extend(self.shared_addresses());
        found.extend(self.certificates());
        found.extend(self.timeouts());
        found.extend(self.further_listeners());
        found.extend(self.dead_letters());
        found.extend(keep_alives("mqtt", &self.mqtt.listeners));
        for (at, listener) in self.mqtt.listener.iter().enumerate() {
            found.extend(keep_alives(&format!("mqtt.listener[{at}]"), &listener.settings));
        }
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

    /// Listeners that others reach, on which anyone may do anything, are no accident.
    fn open_doors(&self) -> Vec<Conflict> {
        let by_certificate = self.tls.cafile.is_some() && self.tls.use_identity_as_username;
        let open = |listener: &&Listener<'_>| {
            let proves = self.password_file.is_some() || (listener.is_tls && by_certificate);
            !listener.is_loopback() && !proves && listener.allow_anonymous != Some(true)
        };
        self.listeners()
            .iter()
            .filter(open)
            .map(|listener| {
                let section = &listener.section;
                Conflict::new(
                    listener.key.clone(),
                    Some(format!("{section}.allow_anonymous")),
                    format!(
                        "others reach this address, and nothing says who may come in: set password_file (millstream \
                         passwd FILE USER makes one); or, to let anyone read and write everything, set \
                         {section}.allow_anonymous = true"
                    ),
                )
            })
            .collect()
    }

    /// TLS listeners need a certificate and its key.
    fn certificates(&self) -> Vec<Conflict> {
        // TLS through a Unix socket is refused in any case: to ask for a certificate first would be a detour.
        let missing = |listener: &&Listener<'_>| {
            let is_net = matches!(*listener.address, Endpoint::Net(_));
            listener.is_tls && is_net && listener.is_on() && self.tls.pair.is_none()
        };
        let message = "needs a certificate: millstream certs DIR makes one, then give --certs DIR or tls.certs; for one \
                       of your own set tls.certfile and tls.keyfile";
        let conflict = |listener: &Listener<'_>| Conflict::new(listener.key.clone(), None, message.to_owned());
        let mut found: Vec<_> = self.listeners().iter().filter(missing).map(conflict).collect();
        if self.tls.require_certificate && self.tls.cafile.is_none() {
            let message = "needs tls.cafile (or tls.certs): the CA that signs the clients' certificates".to_owned();
            found.push(Conflict::new("tls.require_certificate", None, message));
        }
        found
    }

    /// What only the further ones can have wrong.
    fn further_listeners(&self) -> Vec<Conflict> {
        let mut found = Vec::new();
        for (at, listener) in self.mqtt.listener.iter().enumerate() {
            let key = |name: &str| format!("mqtt.listener[{at}].{name}");
            let is_unix = matches!(listener.address, Endpoint::Unix(_));
            if is_unix && listener.protocol.is_tls() {
                let message = "what goes through a Unix socket stays in this machine: make it \"mqtt\" or \"ws\"";
                found.push(Conflict::new(key("protocol"), Some(key("address")), message.to_owned()));
            }
            if !is_unix && listener.proxy_protocol && listener.proxy_trusted.trim().is_empty() {
                let message = "must name the proxies, as \"10.0.0.5, 192.168.7.0/24\", for proxy_protocol = true";
                found.push(Conflict::new(key("proxy_trusted"), None, message.to_owned()));
            }
        }
        found
    }

    fn listeners(&self) -> Vec<Listener<'_>> {
        let Config { mqtt, kafka, .. } = self;
        let short = |section: &str, name, address: &Address, is_tls| Listener {
            key: format!("{section}.{name}"),
            section: section.to_owned(),
            address: Cow::Owned(Endpoint::Net(address.clone())),
            is_tls,
            is_proxied: false,
            allow_anonymous: if section == "mqtt" { mqtt.listeners.allow_anonymous } else { kafka.allow_anonymous },
        };
        let mut all = vec![
            short("mqtt", "tcp", &mqtt.tcp, false),
            short("mqtt", "tls", &mqtt.tls, true),
            short("mqtt", "ws", &mqtt.ws, false),
            short("mqtt", "wss", &mqtt.wss, true),
            short("kafka", "tcp", &kafka.tcp, false),
            short("kafka", "tls", &kafka.tls, true),
        ];
        all.extend(mqtt.listener.iter().enumerate().map(|(at, listener)| Listener {
            key: format!("mqtt.listener[{at}].address"),
            section: format!("mqtt.listener[{at}]"),
            address: Cow::Borrowed(&listener.address),
            is_tls: listener.protocol.is_tls(),
            is_proxied: listener.proxy_protocol,
            allow_anonymous: listener.settings.allow_anonymous,
        }));
        all
    }

    fn shared_addresses(&self) -> Vec<Conflict> {
        let all = self.listeners().into_iter().filter(Listener::is_on);
        let mut listeners: Vec<_> = all.map(|one| (one.key, one.address.into_owned())).collect();
        let is_further = |key: &str| key.starts_with("mqtt.listener[");
        if self.admin.http != Address::Off {
            let at = listeners.iter().position(|(key, _)| is_further(key)).unwrap_or(listeners.len());
            listeners.insert(at, ("admin.http".to_owned(), Endpoint::Net(self.admin.http.clone())));
        }
        let mut conflicts = Vec::new();
        for (at, (key, address)) in listeners.iter().enumerate() {
            // The system may choose two ports, but a further listener is known by its address.
            let is_taken =
                |(other, its): &&(String, Endpoint)| its == address && (address.is_fixed() || is_further(other));
            if let Some((other, _)) = listeners[..at].iter().find(is_taken) {
                let message = format!("is the address of {other} already");
                conflicts.push(Conflict::new(key.clone(), Some(other.clone()), message));
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

    /// What was given up does not stand among what was not.
    fn dead_letters(&self) -> Option<Conflict> {
        let topic = &self.bridge.dead_letter_topic;
        let at = self.bridge.rule.iter().position(|rule| rule.topic == *topic)?;
        let rule = &self.bridge.rule[at].filter;
        Some(Conflict::new(
            "bridge.dead_letter_topic",
            Some(format!("bridge.rule[{at}].topic")),
            format!("is the topic of the rule for {rule:?}: dead letters need one of their own"),
        ))
    }

    fn rule(&self, at: usize, rule: &RuleConfig) -> Option<Conflict> {
        if let Err(message) = check_rule(rule) {
            return Some(Conflict::new(format!("bridge.rule[{at}]"), None, message));
        }
        let topic = &rule.topic;
        let conflict = |field: &str, other: usize, has: String| {
            Conflict::new(
                format!("bridge.rule[{at}].{field}"),
                Some(format!("bridge.rule[{other}].{field}")),
                format!("topic {topic:?} has {has} in bridge.rule[{other}]"),
            )
        };
        let before = self.bridge.rule.iter().enumerate().take(at).filter(|(_, other)| other.topic == *topic);
        for (first, other) in before {
            if other.partitions != rule.partitions {
                return Some(conflict("partitions", first, format!("{} partitions", other.partitions)));
            }
            if other.topic_config != rule.topic_config {
                let has = format!("topic_config = {:?}", topic_config::show(&other.topic_config));
                return Some(conflict("topic_config", first, has));
            }
        }
        (rule.key.is_empty() && self.is_compacted(rule)).then(|| {
            let message =
                format!("topic {topic:?} is compacted, which leaves one record of each key: it must not be empty");
            Conflict::new(format!("bridge.rule[{at}].key"), None, message)
        })
    }

    fn is_compacted(&self, rule: &RuleConfig) -> bool {
        let defaults = bridge::Settings { compact: self.bridge.cleanup_policy.1, ..bridge::Settings::default() };
        defaults.with(&rule.topic_config).is_ok_and(|settings| settings.compact)
    }

    /// What a start should warn of.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if !self.admin.http.is_loopback() {
            let rest = match self.admin.token_file {
                Some(_) => "its token crosses the network unencrypted",
                None => "without admin.token_file nothing else is answered there",
            };
            warnings.push(format!(
                "admin.http = \"{}\": anyone who reaches this address can read metrics; {rest}",
                self.admin.http
            ));
        }
        let listeners = self.listeners();
        let readable = |one: &&Listener<'_>| !one.is_tls && !one.address.is_loopback() && self.password_file.is_some();
        for Listener { key, address, .. } in listeners.iter().filter(readable) {
            warnings.push(format!("{key} = \"{address}\": passwords cross the network unencrypted; TLS hides them"));
        }
        for (at, listener) in self.mqtt.listener.iter().enumerate() {
            if !listener.proxy_protocol && !listener.proxy_trusted.trim().is_empty() {
                warnings.push(format!(
                    "mqtt.listener[{at}].proxy_trusted = {:?} says nothing without proxy_protocol = true: whoever \
                     connects to {} counts as itself",
                    listener.proxy_trusted, listener.address
                ));
            }
        }
        if self.tls.pair.is_some() && !self.serves_tls() {
            warnings
                .push("there are certificates, and no listener uses them: --mqtt-tls, --mqtt-wss, --kafka-tls".into());
        }
        warnings
    }

    /// How to serve others, when only this machine is served and nobody has made users yet.
    pub fn how_to_open(&self) -> Option<&'static str> {
        let only_here = self.listeners().iter().all(Listener::is_loopback);
        (only_here && self.password_file.is_none()).then_some(
            "only this machine can connect; to serve others make users (millstream passwd FILE USER) and certificates \
             (millstream certs DIR), then --mqtt-tls 0.0.0.0:8883 --kafka-tls 0.0.0.0:9093 --certs DIR with password_file \
             = \"FILE\"; or let anyone in with allow_anonymous = true under [mqtt] and [kafka]",
        )
    }
}

/// The keep alives that a section allows.
fn keep_alives(section: &str, settings: &ListenerSettings) -> Option<Conflict> {
    let (min, max) = (settings.clients.min_keepalive_s, settings.max_keepalive_s);
    (max != 0 && min > max).then(|| {
        Conflict::new(
            format!("{section}.min_keepalive_s"),
            Some(format!("{section}.max_keepalive_s")),
            format!("must not be above {section}.max_keepalive_s = {max}"),
        )
    })
}

/// A listener for clients.
struct Listener<'a> {
    key: String,
    section: String,
    address: Cow<'a, Endpoint>,
    is_tls: bool,
    is_proxied: bool,
    allow_anonymous: Option<bool>,
}

impl Listener<'_> {
    /// Can only clients of this machine come in? Whoever comes by a proxy may be anywhere.
    fn is_loopback(&self) -> bool {
        self.address.is_loopback() && !self.is_proxied
    }

    fn is_on(&self) -> bool {
        *self.address != Endpoint::Net(Address::Off)
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
    check_topic(topic).map_err(|what| format!("topic {topic:?} {what}"))?;
    broker::mapping::Rule::parse(&rule.filter, topic, &rule.key, rule.partitions, rule.empty_as_null)
        .map(drop)
        .map_err(|error| error.to_string())
}
