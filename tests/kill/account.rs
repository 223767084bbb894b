//! The account after a run: what was acknowledged against what is there.

use crate::publisher::Publisher;
use crate::subscriber::Subscriber;
use std::collections::{BTreeMap, HashMap, HashSet};
use support::kafka::Record;

/// What was acknowledged, and the whole log.
#[derive(Debug)]
pub struct Account<'a> {
    publishers: &'a [Publisher],
    log: Vec<Record>,
}

/// The numbers of a topic's messages, in order, repeats and all.
fn by_topic<'a>(messages: impl Iterator<Item = (String, &'a str)>) -> HashMap<String, Vec<u64>> {
    let mut sequences: HashMap<String, Vec<u64>> = HashMap::new();
    for (topic, payload) in messages {
        // The messages before the start and after the end carry no number.
        let Some((_, sequence)) = payload.split_once(':') else {
            continue;
        };
        let sequence = sequence.parse().expect("a number");
        sequences.entry(topic).or_default().push(sequence);
    }
    sequences
}

fn first_occurrences(sequences: &[u64]) -> Vec<u64> {
    let mut seen = HashSet::new();
    let is_first = |sequence: &&u64| seen.insert(**sequence);
    sequences.iter().filter(is_first).copied().collect()
}

impl Account<'_> {
    /// The account of these publishers and this log.
    pub fn new(publishers: &[Publisher], log: Vec<Record>) -> Account<'_> {
        Account { publishers, log }
    }

    /// One line for who reads along.
    pub fn summary(&self) -> String {
        let sent: u64 = self.publishers.iter().map(|publisher| publisher.sent).sum();
        let repeats = self.log.len() as i64 - sent as i64 - 2;
        format!("{sent} messages acknowledged, {repeats} repeats in the log")
    }

    /// Each topic holds what its publisher sent, first occurrences in order.
    fn complete(&self, who: &str, got: &HashMap<String, Vec<u64>>) {
        for publisher in self.publishers {
            for topic in publisher.topics() {
                let due = publisher.sequences_of(&topic);
                let got = got.get(&topic).map_or(&[][..], Vec::as_slice);
                let first = first_occurrences(got);
                let there: HashSet<_> = first.iter().collect();
                let missing: Vec<_> = due.iter().filter(|n| !there.contains(n)).collect();
                assert!(missing.is_empty(), "{who} lacks {topic} {missing:?}");
                assert_eq!(first, due, "{who}: {topic} is out of order");
            }
        }
    }

    fn exactly_once(who: &str, got: &HashMap<String, Vec<u64>>) {
        let of_qos_2 = got.iter().filter(|(topic, _)| topic.starts_with("kill/q2/"));
        for (topic, sequences) in of_qos_2 {
            let mut seen = HashSet::new();
            let is_repeat = |sequence: &&u64| !seen.insert(**sequence);
            let repeats: Vec<_> = sequences.iter().filter(is_repeat).collect();
            assert!(repeats.is_empty(), "{who} has {topic} {repeats:?} more than once");
        }
    }

    /// The log has no gap, everything acknowledged, in order, and QoS 2 exactly once.
    pub fn log_holds_everything_in_order(&self) {
        let mut next: BTreeMap<i32, i64> = BTreeMap::new();
        for record in &self.log {
            let due = next.entry(record.partition).or_default();
            assert_eq!(record.offset, *due, "a gap in partition {}", record.partition);
            *due += 1;
        }
        let texts: Vec<String> = self.log.iter().map(Record::text).collect();
        let keys = self.log.iter().map(Record::key_text);
        let got = by_topic(keys.zip(texts.iter().map(String::as_str)));
        self.complete("the log", &got);
        Account::exactly_once("the log", &got);
    }

    /// The consumer group saw the whole log, and each record as it is now.
    pub fn backend_saw(&self, seen: &BTreeMap<(i32, i64), String>) {
        let log: BTreeMap<(i32, i64), String> =
            self.log.iter().map(|record| ((record.partition, record.offset), record.text())).collect();
        for (place, text) in seen {
            assert_eq!(log.get(place), Some(text), "{place:?} was read once");
        }
        let missing: Vec<_> = log.keys().filter(|place| !seen.contains_key(place)).collect();
        assert!(missing.is_empty(), "the group did not get {missing:?}");
    }

    /// The subscriber has everything acknowledged, first occurrences in order.
    pub fn subscriber_missed_nothing(&self, subscriber: &Subscriber) {
        let got = subscriber.got.iter();
        let got = by_topic(got.map(|(topic, payload)| (topic.clone(), payload.as_str())));
        self.complete(&subscriber.name, &got);
    }

    /// The subscriber has each QoS 2 message once.
    pub fn qos_2_was_exactly_once(&self, subscriber: &Subscriber) {
        let got = subscriber.got.iter();
        let got = by_topic(got.map(|(topic, payload)| (topic.clone(), payload.as_str())));
        Account::exactly_once(&subscriber.name, &got);
    }
}
