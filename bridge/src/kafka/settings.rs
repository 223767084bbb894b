//! Which settings there are, of topics and of the broker: their names, types and meaning, where their values come from,
//! and what a topic may be given.

use std::collections::BTreeMap;

use super::Server;
use crate::{Settings, log::topic::Config};

/// Where a value comes from, by Kafka's numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// It was given for this topic.
    Topic = 1,
    /// The configuration file.
    File = 4,
    Default = 5,
}

/// Of which type a value is, by Kafka's numbers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ValueType {
    Boolean = 1,
    String = 2,
    Int = 3,
    Long = 5,
    Double = 6,
    List = 7,
}

/// Longest value taken: no number needs more, and it is stored as it comes.
const VALUE_BYTES_MAX: usize = 100;

/// A setting of topics.
pub(super) struct TopicSetting {
    pub name: &'static str,
    /// What the same is called where it holds for all topics.
    of_broker: &'static str,
    pub value_type: ValueType,
    pub documentation: &'static str,
}

/// By name.
static OF_TOPICS: [TopicSetting; 12] = [
    of_topics(
        "cleanup.policy",
        "log.cleanup.policy",
        ValueType::List,
        "What goes: \"delete\" what is too old or too much, \"compact\" what has a newer record of its key, or both.",
    ),
    of_topics(
        "compression.type",
        "compression.type",
        ValueType::String,
        "Records are stored as their producers compressed them. It cannot be changed.",
    ),
    of_topics(
        "delete.retention.ms",
        "log.cleaner.delete.retention.ms",
        ValueType::Long,
        "How long compaction keeps a deletion (a null value) for readers to see.",
    ),
    of_topics(
        "max.message.bytes",
        "message.max.bytes",
        ValueType::Int,
        "Largest record batch taken. It is the broker's, kafka.message_max_bytes.",
    ),
    of_topics(
        "message.timestamp.type",
        "log.message.timestamp.type",
        ValueType::String,
        "Records have the time that their producers gave them. It cannot be changed.",
    ),
    of_topics(
        "min.cleanable.dirty.ratio",
        "log.cleaner.min.cleanable.ratio",
        ValueType::Double,
        "How much of a partition must be new for it to be compacted.",
    ),
    of_topics(
        "min.compaction.lag.ms",
        "log.cleaner.min.compaction.lag.ms",
        ValueType::Long,
        "How old a record must be to be compacted away.",
    ),
    of_topics(
        "min.insync.replicas",
        "min.insync.replicas",
        ValueType::Int,
        "There is one broker. It cannot be changed.",
    ),
    of_topics(
        "retention.bytes",
        "log.retention.bytes",
        ValueType::Long,
        "How many bytes a partition keeps, whole segments; -1 for any number.",
    ),
    of_topics(
        "retention.ms",
        "log.retention.ms",
        ValueType::Long,
        "How long records are kept, by their newest in a segment; -1 for ever.",
    ),
    of_topics("segment.bytes", "log.segment.bytes", ValueType::Int, "At this size a segment is closed."),
    of_topics("segment.ms", "log.roll.ms", ValueType::Long, "When its first record is this old a segment is closed."),
];

const fn of_topics(
    name: &'static str,
    of_broker: &'static str,
    value_type: ValueType,
    documentation: &'static str,
) -> TopicSetting {
    TopicSetting { name, of_broker, value_type, documentation }
}

/// A name with a value, and where it comes from.
pub(super) struct Sourced {
    pub name: &'static str,
    pub value: String,
    pub source: Source,
}

/// A topic's setting as it is in force.
pub(super) struct InForce {
    pub setting: &'static TopicSetting,
    pub value: String,
    pub source: Source,
    /// What holds for topics that were not given it.
    pub of_broker: Sourced,
}

/// Every setting of a topic.
pub(super) fn of_topic<'a>(server: &'a Server, config: &'a Config) -> impl Iterator<Item = InForce> + 'a {
    OF_TOPICS.iter().map(|setting| {
        let of_broker = of_broker(server, setting);
        match config.settings.get(setting.name).filter(|_| config.given.contains_key(setting.name)) {
            Some(value) => InForce { setting, value, source: Source::Topic, of_broker },
            None => InForce { setting, value: of_broker.value.clone(), source: of_broker.source, of_broker },
        }
    })
}

/// What holds for every topic, by the broker's names for it.
pub(super) fn of_all_topics(server: &Server) -> impl Iterator<Item = (&'static TopicSetting, Sourced)> + '_ {
    OF_TOPICS.iter().map(|setting| (setting, of_broker(server, setting)))
}

fn of_broker(server: &Server, setting: &TopicSetting) -> Sourced {
    let name = setting.of_broker;
    let in_force = server.bridge.topic_defaults().get(setting.name);
    let source = match in_force == Settings::default().get(setting.name) {
        true => Source::Default,
        false => Source::File,
    };
    let value = in_force.unwrap_or_else(|| fixed(server, setting.name));
    Sourced { name, value, source }
}

/// The one value of a setting that a topic cannot have of its own.
fn fixed(server: &Server, name: &str) -> String {
    match name {
        "compression.type" => "producer".to_owned(),
        "message.timestamp.type" => "CreateTime".to_owned(),
        "min.insync.replicas" => "1".to_owned(),
        _ => server.config.message_bytes_max.to_string(),
    }
}

/// What a topic was given, or is to be.
pub(super) type Given = BTreeMap<String, String>;

/// The setting of this name, or the names there are.
pub(super) fn find(name: &str) -> Result<&'static TopicSetting, String> {
    OF_TOPICS.iter().find(|setting| setting.name == name).ok_or_else(|| {
        let known: Vec<&str> = OF_TOPICS.iter().map(|setting| setting.name).collect();
        let name: String = name.chars().take(VALUE_BYTES_MAX).collect();
        format!("{name}: not a setting of a topic; there are {}", known.join(", "))
    })
}

/// Gives a value to a setting, if it is one that it may have as far as that can be told by itself.
pub(super) fn give(server: &Server, given: &mut Given, name: &str, value: Option<&str>) -> Result<(), String> {
    let setting = find(name)?;
    let value = value.ok_or_else(|| format!("{name}: a value is missing"))?;
    if value.len() > VALUE_BYTES_MAX {
        return Err(format!("{name}: a value of {} bytes; at most {VALUE_BYTES_MAX}", value.len()));
    }
    if !Settings::NAMES.contains(&name) {
        let only = fixed(server, name);
        return match value.trim() == only {
            true => Ok(()),
            false => Err(format!("{name}: {value:?}: only {only:?} is served")),
        };
    }
    let one = Given::from([(name.to_owned(), value.to_owned())]);
    server.bridge.topic_defaults().with(&one).map_err(|error| error.to_string())?;
    given.insert(setting.name.to_owned(), value.to_owned());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_a_topics_settings_are_described_in_order() {
        assert!(OF_TOPICS.is_sorted_by_key(|setting| setting.name));
        for name in Settings::NAMES {
            assert!(find(name).is_ok(), "{name}");
        }
        let error = find("compaction").err().expect("unknown");
        assert!(error.contains("cleanup.policy, compression.type"), "{error}");
    }
}
