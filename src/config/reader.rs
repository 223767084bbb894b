//! Takes typed settings out of what was given, and notes each one: name, default, effective value.

use std::{fmt, ops::RangeInclusive};

use config::{Value, ValueKind};

use super::{
    address::{Address, Endpoint},
    problem::{Place, Problem},
    sources::Sources,
    topic_config::{self, TopicConfig},
};

/// A setting as it is in effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// `section.key`, or the key alone.
    pub key: String,
    /// In TOML.
    pub value: String,
    /// In TOML.
    pub default: String,
    /// Where it was given; `None` for a default.
    pub place: Option<Place>,
}

/// Reads settings by name. What is absent or wrong becomes the default; what is wrong, a [`Problem`].
pub struct Reader<'a> {
    values: config::Config,
    sources: &'a Sources,
    /// Every setting read so far, in that order.
    pub entries: Vec<Entry>,
    /// What was wrong with them.
    pub problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    /// Of `sources`, laid over one another.
    pub fn new(sources: &'a Sources) -> Self {
        let (values, problems) = match sources.layered() {
            Ok(values) => (values, Vec::new()),
            Err(error) => {
                let place = Some(sources.in_file(None));
                let message = error.to_string();
                let problem = Problem { place, key: String::new(), value: None, message };
                (config::Config::default(), vec![problem])
            }
        };
        Self { values, sources, entries: Vec::new(), problems }
    }

    /// Text, without further conditions.
    pub fn text(&mut self, key: &str, default: &str) -> String {
        self.checked_text(key, default, |_| Ok(()))
    }

    /// Text that `check` accepts, or says what would be right.
    pub fn checked_text(&mut self, key: &str, default: &str, check: impl Fn(&str) -> Result<(), String>) -> String {
        self.setting(key, default.to_owned(), quoted, |value, _| {
            let text = text_of(value)?;
            check(&text).map(|()| text)
        })
    }

    /// Text that must be given.
    pub fn required_text(&mut self, key: &str) -> String {
        if matches!(self.values.get::<Value>(key), Err(config::ConfigError::NotFound(_))) {
            self.complain(key, None, "must be given".to_owned());
        }
        self.text(key, "")
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, key: &str, default: bool) -> bool {
        self.setting(key, default, bool::to_string, |value, is_typed| match value {
            ValueKind::Boolean(value) => Ok(*value),
            ValueKind::String(text) if !is_typed => text.parse().map_err(|_| "must be true or false".to_owned()),
            _ => Err("must be true or false".to_owned()),
        })
    }

    /// A whole number within `range`.
    pub fn number<N>(&mut self, key: &str, default: N, range: RangeInclusive<N>) -> N
    where
        N: Copy + PartialOrd + fmt::Display + TryFrom<i128>,
    {
        let wanted = || format!("must be a whole number{} from {} to {}", unit(key), range.start(), range.end());
        self.setting(key, default, N::to_string, |value, is_typed| {
            integer_of(value, is_typed)
                .and_then(|n| N::try_from(n).ok())
                .filter(|n| range.contains(n))
                .ok_or_else(wanted)
        })
    }

    /// One of a few words, each with its meaning; the first is the default.
    pub fn choice<T: Copy, const N: usize>(&mut self, key: &str, choices: [(&str, T); N]) -> T {
        let words = choices.map(|(word, _)| quoted(word)).join(" or ");
        let find = |text: &str| choices.iter().position(|(word, _)| *word == text);
        let show = |at: &usize| quoted(choices[*at].0);
        let chosen =
            self.setting(key, 0, show, |value, _| find(&text_of(value)?).ok_or_else(|| format!("must be {words}")));
        choices[chosen].1
    }

    /// `true`, `false`, or `"auto"`, which is `None`.
    pub fn boolean_or_auto(&mut self, key: &str, default: Option<bool>) -> Option<bool> {
        let show = |value: &Option<bool>| value.map_or_else(|| quoted("auto"), |value| value.to_string());
        self.setting(key, default, show, |value, is_typed| match value {
            ValueKind::Boolean(value) => Ok(Some(*value)),
            ValueKind::String(text) if text == "auto" => Ok(None),
            ValueKind::String(text) if !is_typed && text.parse::<bool>().is_ok() => Ok(text.parse().ok()),
            _ => Err("must be true, false or \"auto\"".to_owned()),
        })
    }

    /// `host:port` or `off`; without a default port, off.
    pub fn address(&mut self, key: &str, default_port: Option<u16>) -> Address {
        let default = match default_port {
            Some(port) => Address::At { host: "127.0.0.1".to_owned(), port },
            None => Address::Off,
        };
        let show = |address: &Address| quoted(&address.to_string());
        self.setting(key, default, show, |value, _| {
            text_of(value)?.parse().map_err(|error: super::AddressError| error.to_string())
        })
    }

    /// `host:port` or `unix:/path`, which must be given. Off where it is not, or is wrong.
    pub fn endpoint(&mut self, key: &str) -> Endpoint {
        if matches!(self.values.get::<Value>(key), Err(config::ConfigError::NotFound(_))) {
            self.complain(key, None, "must be given".to_owned());
        }
        let endpoint =
            self.setting(key, Endpoint::Net(Address::Off), |it| quoted(&it.to_string()), |it, _| text_of(it)?.parse());
        // It has no default to differ from.
        if let Some(entry) = self.entries.last_mut() {
            entry.default.clone_from(&entry.value);
        }
        endpoint
    }

    /// Settings of a Kafka topic; without any, none.
    pub fn topic_config(&mut self, key: &str) -> TopicConfig {
        let show = |config: &TopicConfig| quoted(&topic_config::show(config));
        self.setting(key, TopicConfig::new(), show, |value, _| topic_config::parse(&text_of(value)?))
    }

    /// Number of elements of a list of tables; 0 when it is absent.
    pub fn list_len(&mut self, key: &str) -> usize {
        self.values.get_array(key).map_or(0, |list| list.len())
    }

    /// Notes what is wrong with a setting that was read.
    pub fn complain(&mut self, key: &str, value: Option<String>, message: String) {
        let element = key.rsplit_once('.').map(|(element, _)| element);
        let place = self.sources.place(key).or_else(|| element.and_then(|element| self.sources.place(element)));
        self.problems.push(Problem { place, key: key.to_owned(), value, message });
    }

    fn setting<T>(
        &mut self,
        key: &str,
        default: T,
        show: impl Fn(&T) -> String,
        parse: impl Fn(&ValueKind, bool) -> Result<T, String>,
    ) -> T {
        let default_text = show(&default);
        let place = self.sources.place(key);
        let is_typed = place.as_ref().is_some_and(Place::is_typed);
        let value = match self.values.get::<Value>(key) {
            Err(_absent) => default,
            Ok(given) => match parse(&given.kind, is_typed) {
                Ok(value) => value,
                Err(message) => {
                    self.complain(key, Some(shown(&given.kind)), message);
                    default
                }
            },
        };
        self.entries.push(Entry { key: key.to_owned(), value: show(&value), default: default_text, place });
        value
    }
}

fn text_of(value: &ValueKind) -> Result<String, String> {
    match value {
        ValueKind::String(text) => Ok(text.clone()),
        _ => Err("must be text in quotes".to_owned()),
    }
}

fn integer_of(value: &ValueKind, is_typed: bool) -> Option<i128> {
    match value {
        ValueKind::I64(n) => Some((*n).into()),
        ValueKind::String(text) if !is_typed => text.parse().ok(),
        _ => None,
    }
}

fn shown(value: &ValueKind) -> String {
    match value {
        ValueKind::String(text) => quoted(text),
        ValueKind::Table(_) => "a table".to_owned(),
        ValueKind::Array(_) => "a list".to_owned(),
        value => value.to_string(),
    }
}

/// As TOML writes it; Rust's escapes differ only for characters no setting has.
fn quoted<T: AsRef<str> + ?Sized>(text: &T) -> String {
    format!("{:?}", text.as_ref())
}

/// The unit in a key's name.
fn unit(key: &str) -> &'static str {
    match key.rsplit_once('_') {
        Some((_, "ms")) => " of milliseconds",
        Some((_, "s")) => " of seconds",
        Some((_, "bytes" | "max")) => " of bytes",
        _ if key.ends_with("max_packet_size") => " of bytes",
        _ => "",
    }
}
