//! What a topic's settings say: how long it keeps what, by Kafka's names. Parsed once, when they are set.

use std::collections::BTreeMap;

/// A topic's settings, those of the broker where it has none of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `cleanup.policy` has `delete`: what is too old or too much goes.
    pub delete: bool,
    /// `cleanup.policy` has `compact`: of each key the newest record stays.
    pub compact: bool,
    /// `retention.ms`: how old a segment's newest record may be; `None` (-1) for ever.
    pub retention_ms: Option<u64>,
    /// `retention.bytes`: how much a partition may hold; `None` (-1) any amount.
    pub retention_bytes: Option<u64>,
    /// `delete.retention.ms`: how long compaction keeps a deletion for readers to see.
    pub delete_retention_ms: u64,
    /// `min.compaction.lag.ms`: how old a record must be to be compacted away.
    pub min_compaction_lag_ms: u64,
    /// `min.cleanable.dirty.ratio` in thousandths: how much of a partition must be new for it to be compacted.
    pub min_cleanable_dirty_permille: u32,
    /// `segment.bytes`: a segment is closed before it would be larger.
    pub segment_bytes: u64,
    /// `segment.ms`: or when its first record is this old.
    pub segment_ms: u64,
}

/// A value that is no value of its setting.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}: {problem}")]
pub struct SettingError {
    /// Kafka's name of it.
    pub name: String,
    /// What is wrong, and what it takes.
    pub problem: String,
}

/// How many segments `retention.bytes` is divided into at least: what is kept is then a quarter too much at most.
const SEGMENTS_KEPT_MIN: u64 = 4;
/// However little is to be kept.
const SEGMENT_BYTES_MIN: u64 = if cfg!(test) { 1 << 10 } else { 64 << 10 };
const SEGMENT_BYTES_MAX: u64 = i32::MAX as u64;

impl Default for Settings {
    fn default() -> Self {
        const DAY_MS: u64 = 24 * 60 * 60 * 1000;
        Settings {
            delete: true,
            compact: false,
            retention_ms: Some(7 * DAY_MS),
            retention_bytes: None,
            delete_retention_ms: DAY_MS,
            min_compaction_lag_ms: 0,
            min_cleanable_dirty_permille: 500,
            segment_bytes: 64 << 20,
            segment_ms: 7 * DAY_MS,
        }
    }
}

impl Settings {
    /// Names of the settings a topic may have.
    pub const NAMES: [&str; 8] = [
        "cleanup.policy",
        "delete.retention.ms",
        "min.cleanable.dirty.ratio",
        "min.compaction.lag.ms",
        "retention.bytes",
        "retention.ms",
        "segment.bytes",
        "segment.ms",
    ];

    /// These with what `config` says instead; names that are not of these are left alone.
    pub fn with(&self, config: &BTreeMap<String, String>) -> Result<Settings, SettingError> {
        let mut settings = self.clone();
        for (name, value) in config.iter().filter(|(name, _)| Settings::NAMES.contains(&name.as_str())) {
            settings.set(name, value.trim()).map_err(|problem| SettingError { name: name.clone(), problem })?;
        }
        Ok(settings)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "cleanup.policy" => {
                let words: Vec<&str> = value.split(',').map(str::trim).filter(|word| !word.is_empty()).collect();
                if words.is_empty() || words.iter().any(|word| !["delete", "compact"].contains(word)) {
                    return Err(format!("{value:?} is not delete, compact or both"));
                }
                (self.delete, self.compact) = (words.contains(&"delete"), words.contains(&"compact"));
            }
            "retention.ms" => self.retention_ms = unless_minus_1(value)?,
            "retention.bytes" => self.retention_bytes = unless_minus_1(value)?,
            "delete.retention.ms" => self.delete_retention_ms = number(value)?,
            "min.compaction.lag.ms" => self.min_compaction_lag_ms = number(value)?,
            "min.cleanable.dirty.ratio" => {
                let ratio = value.parse::<f64>().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
                let ratio = ratio.ok_or_else(|| format!("{value:?} is not a number from 0 to 1"))?;
                self.min_cleanable_dirty_permille = (ratio * 1000.0).round() as u32;
            }
            "segment.bytes" => {
                let range = SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX;
                self.segment_bytes = number(value)
                    .ok()
                    .filter(|bytes| range.contains(bytes))
                    .ok_or_else(|| format!("{value:?} is not a number from {} to {}", range.start(), range.end()))?;
            }
            _ => {
                self.segment_ms = number(value).and_then(|ms| match ms {
                    0 => Err("0 is not a time".to_owned()),
                    ms => Ok(ms),
                })?
            }
        }
        Ok(())
    }

    /// One setting as Kafka writes it; `None` for a name that is not of these.
    pub fn get(&self, name: &str) -> Option<String> {
        let or_minus_1 = |limit: Option<u64>| limit.map_or("-1".to_owned(), |limit| limit.to_string());
        Some(match name {
            "cleanup.policy" => match (self.delete, self.compact) {
                (true, true) => "compact,delete".to_owned(),
                (_, true) => "compact".to_owned(),
                _ => "delete".to_owned(),
            },
            "retention.ms" => or_minus_1(self.retention_ms),
            "retention.bytes" => or_minus_1(self.retention_bytes),
            "delete.retention.ms" => self.delete_retention_ms.to_string(),
            "min.compaction.lag.ms" => self.min_compaction_lag_ms.to_string(),
            "min.cleanable.dirty.ratio" => format!("{}", f64::from(self.min_cleanable_dirty_permille) / 1000.0),
            "segment.bytes" => self.segment_bytes.to_string(),
            "segment.ms" => self.segment_ms.to_string(),
            _ => return None,
        })
    }

    /// A segment is closed at this size: smaller than `segment.bytes` where little is to be kept, for only closed ones go.
    pub fn segment_bytes_max(&self) -> u64 {
        let share = self.retention_bytes.filter(|_| self.delete).map(|bytes| bytes / SEGMENTS_KEPT_MIN);
        self.segment_bytes.min(share.unwrap_or(u64::MAX).max(SEGMENT_BYTES_MIN))
    }

    /// A segment is closed when its first record is this old: no later than it would go.
    pub fn segment_age_max_ms(&self) -> u64 {
        self.segment_ms.min(self.retention_ms.filter(|_| self.delete).unwrap_or(u64::MAX).max(1))
    }
}

fn number(value: &str) -> Result<u64, String> {
    let number = value.parse::<u64>().ok().filter(|number| *number <= i64::MAX as u64);
    number.ok_or_else(|| format!("{value:?} is not a number from 0 on"))
}

fn unless_minus_1(value: &str) -> Result<Option<u64>, String> {
    match value {
        "-1" => Ok(None),
        _ => number(value).map(Some).map_err(|_| format!("{value:?} is not a number from 0 on, nor -1 for no limit")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &str, value: &str) -> Result<Settings, SettingError> {
        Settings::default().with(&BTreeMap::from([(name.to_owned(), value.to_owned())]))
    }

    #[test]
    fn what_is_set_is_told_again() {
        for (name, value) in [
            ("cleanup.policy", "compact"),
            ("cleanup.policy", "compact,delete"),
            ("retention.ms", "-1"),
            ("retention.ms", "86400000"),
            ("retention.bytes", "0"),
            ("delete.retention.ms", "5"),
            ("min.compaction.lag.ms", "5"),
            ("min.cleanable.dirty.ratio", "0.25"),
            ("segment.bytes", "1048576"),
            ("segment.ms", "1"),
        ] {
            assert_eq!(with(name, value).expect(name).get(name).as_deref(), Some(value), "{name}");
        }
        assert!(Settings::NAMES.iter().all(|name| Settings::default().get(name).is_some()));
    }

    #[test]
    fn what_is_no_value_is_refused_with_its_name() {
        for (name, value) in [
            ("cleanup.policy", "keep"),
            ("cleanup.policy", ""),
            ("retention.ms", "-2"),
            ("retention.bytes", "1e9"),
            ("min.cleanable.dirty.ratio", "2"),
            ("segment.bytes", "3"),
            ("segment.ms", "0"),
            ("segment.ms", "99999999999999999999"),
        ] {
            assert_eq!(with(name, value).expect_err(name).name, name);
        }
        assert_eq!(with("compression.type", "anything"), Ok(Settings::default()));
    }

    #[test]
    fn little_to_keep_makes_small_segments() {
        assert_eq!(with("retention.bytes", "40960").expect("one").segment_bytes_max(), 10_240);
        assert_eq!(with("retention.bytes", "0").expect("one").segment_bytes_max(), SEGMENT_BYTES_MIN);
        assert_eq!(with("retention.ms", "60000").expect("one").segment_age_max_ms(), 60_000);
    }
}
