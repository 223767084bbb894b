//! The names of all keys, and the nearest one to a name that is none.

use strsim::damerau_levenshtein;

/// First part of the name of every environment variable that is a setting.
pub const VARIABLE_PREFIX: &str = "MILLSTREAM__";

/// The keys a configuration can have, as `section.key`; of a list, its first element's.
pub struct Schema {
    keys: Vec<String>,
}

impl Schema {
    /// Of these keys.
    pub fn new(keys: Vec<String>) -> Self {
        Self { keys }
    }

    /// Is it a setting?
    pub fn is_key(&self, key: &str) -> bool {
        let key = first_of_list(key);
        self.keys.contains(&key)
    }

    /// Is it a table of settings, as `mqtt` or `bridge.rule[3]`?
    pub fn is_section(&self, key: &str) -> bool {
        self.has_prefix(&format!("{}.", first_of_list(key)))
    }

    /// Is it a list of tables, as `bridge.rule`?
    pub fn is_list(&self, key: &str) -> bool {
        self.has_prefix(&format!("{key}[0]"))
    }

    fn has_prefix(&self, prefix: &str) -> bool {
        self.keys.iter().any(|known| known.starts_with(prefix))
    }

    /// The key that may have been meant by `key`.
    pub fn nearest(&self, key: &str) -> Option<&str> {
        let key = first_of_list(key);
        let tolerated = 1 + leaf(&key).len() / 4;
        self.keys
            .iter()
            .map(|known| (distance(&key, known), known.as_str()))
            .filter(|(distance, _)| *distance <= tolerated)
            .min_by_key(|(distance, _)| *distance)
            .map(|(_, known)| known)
    }

    /// "unknown key", and what may have been meant, told by `spelled`.
    pub fn unknown(&self, key: &str, spelled: impl Fn(&str) -> String) -> String {
        match self.nearest(key) {
            Some(near) => format!("is no setting; did you mean {}?", spelled(near)),
            None => "is no setting; examples/millstream.toml shows all".to_owned(),
        }
    }
}

/// Edits between two keys; the right key in the wrong section counts as one.
fn distance(key: &str, known: &str) -> usize {
    let edits = damerau_levenshtein(key, known);
    if leaf(key) == leaf(known) { edits.min(1) } else { edits }
}

fn leaf(key: &str) -> &str {
    key.rsplit_once('.').map_or(key, |(_, leaf)| leaf)
}

/// `bridge.rule[3].key` is described by `bridge.rule[0].key`.
fn first_of_list(key: &str) -> String {
    match (key.find('['), key.find(']')) {
        (Some(open), Some(close)) if open < close => {
            format!("{}[0]{}", &key[..open], &key[close + 1..])
        }
        _ => key.to_owned(),
    }
}

/// `mqtt.tcp` as `MILLSTREAM__MQTT__TCP`.
pub fn variable_of(key: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", key.replace('.', "__").to_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> Schema {
        let keys = ["data_dir", "mqtt.tcp", "kafka.tcp", "kafka.node_id", "bridge.rule[0].filter"];
        Schema::new(keys.map(str::to_owned).to_vec())
    }

    #[test]
    fn knows_keys_sections_and_lists() {
        let schema = schema();
        assert!(schema.is_key("mqtt.tcp") && !schema.is_key("mqtt") && !schema.is_key("tcp"));
        assert!(schema.is_key("bridge.rule[7].filter") && !schema.is_key("bridge.rule"));
        assert!(schema.is_section("mqtt") && schema.is_section("bridge.rule[7]"));
        assert!(!schema.is_section("data_dir") && !schema.is_section("mq"));
        assert!(schema.is_list("bridge.rule") && !schema.is_list("mqtt"));
    }

    #[test]
    fn finds_what_was_meant() {
        let schema = schema();
        for (typed, meant) in [
            ("data-dir", Some("data_dir")),
            ("mqtt.tpc", Some("mqtt.tcp")),
            ("mqtt_tcp", Some("mqtt.tcp")),
            ("mqtt.node_id", Some("kafka.node_id")),
            ("bridge.rule[3].fliter", Some("bridge.rule[0].filter")),
            ("retention_ms", None),
        ] {
            assert_eq!(schema.nearest(typed), meant, "{typed}");
        }
    }

    #[test]
    fn odd_brackets_do_no_harm() {
        for key in ["]x[", "[", "]", "bridge.rule[", "é[é]é"] {
            assert!(!schema().is_key(key));
        }
    }
}
