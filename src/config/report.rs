//! What `check-config` prints.

use std::path;

use super::{Config, Loaded, reader::Entry, topic_config};

/// The effective configuration; what differs from its default is marked with `*`.
pub fn report(loaded: &Loaded) -> String {
    let mut out = String::from("This would run; lines marked * differ from the default.\n\n");
    let mut section = "";
    for entry in loaded.entries.iter().filter(|entry| !entry.key.contains('[')) {
        let (of, name) = entry.key.rsplit_once('.').unwrap_or(("", &entry.key));
        if of != section {
            section = of;
            out += &format!("\n  [{section}]\n");
        }
        out += &setting(name, entry);
    }
    out += &listeners(loaded);
    out += &rules(&loaded.config);
    out += &notes(&loaded.config);
    out
}

fn setting(name: &str, entry: &Entry) -> String {
    let Entry { value, default, place, .. } = entry;
    match place {
        Some(place) if value != default => {
            format!("* {name} = {value}    ({place}; default {default})\n")
        }
        _ => format!("  {name} = {value}\n"),
    }
}

/// Each with its own keys; what it has from `[mqtt]` is its default.
fn listeners(loaded: &Loaded) -> String {
    let mut out = String::new();
    for entry in &loaded.entries {
        let of_listener = entry.key.strip_prefix("mqtt.listener[").and_then(|rest| rest.split_once("]."));
        let Some((_, name)) = of_listener else { continue };
        if name == "address" {
            out += "\n  [[mqtt.listener]]\n";
        }
        out += &setting(name, entry);
    }
    out
}

fn rules(config: &Config) -> String {
    if !config.bridge.enabled {
        return "\n  Nothing is mapped to the log: bridge.enabled = false.\n".to_owned();
    }
    let mut out = String::from("\n  Rules, the first that matches wins:\n");
    for (at, rule) in config.bridge.rule.iter().enumerate() {
        let null = if rule.empty_as_null { ", empty payload as null" } else { "" };
        let config = match topic_config::show(&rule.topic_config) {
            config if config.is_empty() => config,
            config => format!(", {config}"),
        };
        out += &format!(
            "  {:>3}. {:?} -> topic {:?}, key {:?}, partitions {}{null}{config}\n",
            at + 1,
            rule.filter,
            rule.topic,
            rule.key,
            rule.partitions,
        );
    }
    out
}

fn notes(config: &Config) -> String {
    let data_dir = path::absolute(&config.data_dir).unwrap_or_else(|_| config.data_dir.clone());
    let mut out = format!("\n  Data folder: {}\n", data_dir.display());
    out += &format!("  Shards: {}\n", config.shard_count());
    for warning in config.warnings() {
        out += &format!("  Warning: {warning}\n");
    }
    if let Some(hint) = config.how_to_open() {
        out += &format!("  Note: {hint}\n");
    }
    out
}
