//! `[[mqtt.listener]]`: further listeners, each with settings of its own.

use broker::listener::proxy::Networks;

use super::{CONNECTIONS_MAX, ListenerSettings, Loaded, address::Endpoint, reader::Reader};

/// One `[[mqtt.listener]]`. Its name is its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerConfig {
    /// Where it listens.
    pub address: Endpoint,
    /// What is spoken there.
    pub protocol: Protocol,
    /// Permissions of its Unix socket, as `chmod` takes them.
    pub unix_mode: u32,
    /// Its clients come through proxies that say so.
    pub proxy_protocol: bool,
    /// Those that are believed, with commas between.
    pub proxy_trusted: String,
    /// Clients connected at once; 0: as many as all listeners together may have.
    pub max_connections: u32,
    /// Where it says nothing, those of `[mqtt]`.
    pub settings: ListenerSettings,
}

/// What carries MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP, or a Unix socket, as it is.
    Mqtt,
    /// TLS.
    Mqtts,
    /// WebSocket.
    Ws,
    /// WebSocket on TLS.
    Wss,
}

impl Protocol {
    const NAMES: [(&str, Protocol); 4] =
        [("mqtt", Protocol::Mqtt), ("mqtts", Protocol::Mqtts), ("ws", Protocol::Ws), ("wss", Protocol::Wss)];

    /// Does it take a certificate?
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Mqtts | Self::Wss)
    }

    /// As the configuration says it.
    pub fn name(self) -> &'static str {
        // PROOF: each has one.
        Self::NAMES.iter().find(|(_, known)| *known == self).expect("a name").0
    }
}

impl ListenerConfig {
    /// The keys that it has beside those of [`ListenerSettings`].
    pub(super) fn read(from: &mut Reader<'_>, at: usize, all: &ListenerSettings) -> Self {
        let section = format!("mqtt.listener[{at}]");
        let key = |name: &str| format!("{section}.{name}");
        Self {
            address: from.endpoint(&key("address")),
            protocol: from.choice(&key("protocol"), Protocol::NAMES),
            // PROOF of the fallback: what does not parse was complained of.
            unix_mode: mode(&from.checked_text(&key("unix_mode"), "0660", check_mode)).unwrap_or(0o600),
            proxy_protocol: from.boolean(&key("proxy_protocol"), false),
            proxy_trusted: from.checked_text(&key("proxy_trusted"), "", |text| {
                text.parse::<Networks>().map(drop).map_err(|error| error.to_string())
            }),
            max_connections: from.number(&key("max_connections"), 0, 0..=CONNECTIONS_MAX),
            settings: ListenerSettings::read(from, &section, all),
        }
    }

    /// How it is known, in the log and over a reload.
    pub fn name(&self) -> String {
        self.address.to_string()
    }
}

/// What has become of one `[[mqtt.listener]]`, which is known by its address.
#[derive(Debug, PartialEq, Eq)]
pub enum ListenerChange<'a> {
    /// It was not there.
    New,
    /// It is not there any more.
    Gone,
    /// This key has another value.
    Key(&'a str),
}

impl Loaded {
    /// Listeners that are not as in `other`, by name.
    pub fn listeners_changed_since(&self, other: &Loaded) -> Vec<(String, ListenerChange<'_>)> {
        let (ours, theirs) = (&self.config.mqtt.listener, &other.config.mqtt.listener);
        let mut changes = Vec::new();
        for (at, listener) in ours.iter().enumerate() {
            let name = listener.name();
            let Some(before) = theirs.iter().position(|known| known.name() == name) else {
                changes.push((name, ListenerChange::New));
                continue;
            };
            let known: Vec<_> = other.listener_entries(before).collect();
            let changed = self.listener_entries(at).filter(|entry| !known.contains(entry));
            changes.extend(changed.map(|(key, _)| (name.clone(), ListenerChange::Key(key))));
        }
        let is_gone = |listener: &&ListenerConfig| ours.iter().all(|known| known.name() != listener.name());
        changes.extend(theirs.iter().filter(is_gone).map(|listener| (listener.name(), ListenerChange::Gone)));
        changes
    }

    /// Keys and values of one `[[mqtt.listener]]`.
    fn listener_entries(&self, at: usize) -> impl Iterator<Item = (&str, &str)> {
        let section = format!("mqtt.listener[{at}].");
        self.entries.iter().filter_map(move |entry| Some((entry.key.strip_prefix(&section)?, &*entry.value)))
    }
}

/// `0660`, as `chmod` takes it.
fn mode(text: &str) -> Option<u32> {
    let is_octal = text.bytes().all(|digit| (b'0'..=b'7').contains(&digit));
    u32::from_str_radix(text, 8).ok().filter(|mode| is_octal && *mode <= 0o777)
}

fn check_mode(text: &str) -> Result<(), String> {
    match mode(text) {
        Some(_) => Ok(()),
        None => Err("must be permissions in octal digits, as \"0660\"".to_owned()),
    }
}

/// The origins in a list of them.
pub fn origins(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|origin| !origin.is_empty())
}

pub(super) fn check_origins(list: &str) -> Result<(), String> {
    let is_origin = |origin: &str| match origin.split_once("://") {
        Some((scheme, host)) => !scheme.is_empty() && !host.is_empty() && !host.contains(['/', ' ', '*']),
        None => origin == "null",
    };
    match origins(list).find(|origin| !is_origin(origin)) {
        Some(wrong) => {
            Err(format!("{wrong:?} is no origin: write them as https://host or https://host:port, with commas between"))
        }
        None => Ok(()),
    }
}
