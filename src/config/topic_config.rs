//! Settings of a rule's Kafka topic, by Kafka's names: `retention.ms=86400000 cleanup.policy=compact,delete`.

use std::collections::BTreeMap;

use bridge::Settings;

/// By name.
pub type TopicConfig = BTreeMap<String, String>;

/// Reads settings separated by blanks. What is wrong is said by the setting itself.
pub fn parse(text: &str) -> Result<TopicConfig, String> {
    let mut config = TopicConfig::new();
    for word in text.split_whitespace() {
        let (name, value) = word.split_once('=').ok_or_else(|| {
            format!(
                "{word:?} must be a setting's name, = and its value, as \"retention.ms=86400000\"; blanks separate them"
            )
        })?;
        if !Settings::NAMES.contains(&name) {
            return Err(format!("{name:?} is no setting of a topic; there are {}", Settings::NAMES.join(", ")));
        }
        if config.insert(name.to_owned(), value.to_owned()).is_some() {
            return Err(format!("{name} is there twice"));
        }
    }
    Settings::default().with(&config).map_err(|error| error.to_string())?;
    Ok(config)
}

/// As it is written.
pub fn show(config: &TopicConfig) -> String {
    let words: Vec<String> = config.iter().map(|(name, value)| format!("{name}={value}")).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_and_what_is_wrong_is_said() {
        let text = "cleanup.policy=compact,delete  retention.ms=-1 ";
        let config = parse(text).expect("right");
        assert_eq!((show(&config).as_str(), config.len()), ("cleanup.policy=compact,delete retention.ms=-1", 2));
        assert_eq!(parse(""), Ok(TopicConfig::new()));
        for (text, says) in [
            ("retention.ms", "must be a setting's name, = and its value"),
            ("retention.ms=soon", "retention.ms: \"soon\" is not a number"),
            ("retention.days=1", "there are cleanup.policy, delete.retention.ms"),
            ("segment.ms=1 segment.ms=2", "segment.ms is there twice"),
            ("cleanup.policy=", "cleanup.policy: \"\" is not delete, compact or both"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(says), "{error}");
        }
    }
}
