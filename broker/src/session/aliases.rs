//! Topic aliases that the server sets for one connection, where its client allows them (3.3.2.3.4): the first
//! topics that come get one each, for good.

use ahash::HashMap;

use crate::limits;

/// The aliases of one connection.
#[derive(Debug)]
pub struct Aliases {
    /// Aliases run from 1 to this.
    maximum: u16,
    by_topic: HashMap<Box<str>, u16>,
}

/// How to say a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// By an alias the client knows.
    Known(u16),
    /// In full, with an alias from here on; then [`Aliases::sent`].
    New(u16),
}

impl Aliases {
    /// For a client with this Topic Alias Maximum; `None` if it allows none [MQTT-3.1.2-27].
    pub fn allowed(topic_alias_maximum: u16) -> Option<Aliases> {
        let maximum = topic_alias_maximum.min(limits::OUTBOUND_ALIASES_MAX);
        (maximum > 0).then(|| Aliases { maximum, by_topic: HashMap::default() })
    }

    /// How to say this topic; `None` for one that has no alias and gets none.
    pub fn of(&self, topic: &str) -> Option<Said> {
        if let Some(alias) = self.by_topic.get(topic) {
            return Some(Said::Known(*alias));
        }
        let worth_it = (limits::ALIASED_TOPIC_BYTES_MIN..=limits::ALIASED_TOPIC_BYTES_MAX).contains(&topic.len());
        // At most the maximum, which is a u16.
        let next = self.by_topic.len() as u16 + 1;
        (worth_it && next <= self.maximum).then_some(Said::New(next))
    }

    /// A new alias is on its way.
    pub fn sent(&mut self, topic: &str, alias: u16) {
        self.by_topic.insert(topic.into(), alias);
    }
}

#[cfg(test)]
mod tests {
    use super::{Aliases, Said};

    #[test]
    fn the_first_topics_get_one_each_up_to_the_maximum() {
        assert!(Aliases::allowed(0).is_none());
        let mut aliases = Aliases::allowed(2).unwrap();
        for (topic, alias) in [("first topic", 1), ("second topic", 2)] {
            assert_eq!(aliases.of(topic), Some(Said::New(alias)));
            aliases.sent(topic, alias);
            assert_eq!(aliases.of(topic), Some(Said::Known(alias)));
        }
        assert_eq!(aliases.of("third topic"), None);
        assert_eq!(aliases.of("first topic"), Some(Said::Known(1)));
    }

    #[test]
    fn a_topic_that_is_shorter_than_its_alias_or_very_long_gets_none() {
        let aliases = Aliases::allowed(u16::MAX).unwrap();
        assert_eq!(aliases.of("a/b"), None);
        assert_eq!(aliases.of(&"x".repeat(60_000)), None);
    }
}
