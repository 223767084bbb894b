//! The account after a run: what was acknowledged against what is there.

use super::sent::{Got, Sent};
use crate::kafka::Record;
use std::collections::{BTreeMap, HashMap, HashSet};

/// What was acknowledged, and what is there.
#[derive(Debug)]
pub struct Account {
    pub(super) sent: Vec<Sent>,
    pub(super) got: Vec<Got>,
    /// What the consumer group read, by place.
    pub(super) seen: BTreeMap<(i32, i64), String>,
    pub(super) log: Vec<Record>,
}

/// The numbers of each topic's messages, in order, repeats and all.
type Numbers = HashMap<String, Vec<u64>>;

fn by_topic(messages: impl Iterator<Item = (String, String)>) -> Numbers {
    let mut numbers = Numbers::new();
    for (topic, payload) in messages {
        // The messages before the start and after the end carry no number.
        if let Some(number) = Sent::number_in(&payload) {
            numbers.entry(topic).or_default().push(number);
        }
    }
    numbers
}

fn of_log(log: &[Record]) -> Numbers {
    by_topic(log.iter().map(|record| (record.key_text(), record.text())))
}

fn first_occurrences(numbers: &[u64]) -> Vec<u64> {
    let mut seen = HashSet::new();
    let is_first = |number: &&u64| seen.insert(**number);
    numbers.iter().filter(is_first).copied().collect()
}

fn exactly_once(who: &str, got: &Numbers) {
    let of_qos_2 = got.iter().filter(|(topic, _)| topic.starts_with("load/q2/"));
    for (topic, numbers) in of_qos_2 {
        let mut seen = HashSet::new();
        let is_repeat = |number: &&u64| !seen.insert(**number);
        let repeats: Vec<_> = numbers.iter().filter(is_repeat).collect();
        assert!(repeats.is_empty(), "{who} has {topic} {repeats:?} more than once");
    }
}

/// A log that may have lost something has nothing twice that came at QoS 2, and what it has is in order.
pub fn not_twice_in_the_log(log: &[Record]) {
    let got = of_log(log);
    exactly_once("the log", &got);
    for (topic, numbers) in got {
        let first = first_occurrences(&numbers);
        assert!(first.is_sorted(), "{topic} is out of order: {first:?}");
    }
}

impl Account {
    /// Panics where something is missing, twice or out of order.
    pub fn settle(&self) {
        self.settle_subscribers();
        self.log_has_no_gap();
        let log = of_log(&self.log);
        self.complete("the log", &log);
        self.in_order("the log", &log);
        exactly_once("the log", &log);
        self.backend_saw_the_log();
    }

    /// The same of what subscribers got, whatever retention has taken of the log.
    pub fn settle_subscribers(&self) {
        eprintln!("{}", self.summary());
        let of = |got: &Got| by_topic(got.messages.iter().cloned());
        for got in self.got.iter().filter(|got| !got.is_part) {
            let messages = of(got);
            self.complete(&got.name, &messages);
            self.in_order(&got.name, &messages);
            if got.qos == 2 {
                exactly_once(&got.name, &messages);
            }
        }
        let parts = || self.got.iter().filter(|got| got.is_part);
        let together = by_topic(parts().flat_map(|got| got.messages.iter().cloned()));
        if parts().count() > 0 {
            self.complete("all parts", &together);
        }
        if parts().all(|got| got.qos == 2) {
            exactly_once("all parts", &together);
        }
    }

    /// The part of somebody who was no subscriber.
    pub fn add(&mut self, part: Got) {
        self.got.push(part);
    }

    /// One line for who reads along.
    fn summary(&self) -> String {
        let sent: u64 = self.sent.iter().map(|sent| sent.count).sum();
        let repeats = self.log.len() as i64 - sent as i64 - 2;
        let each = self.sent.iter().map(|sent| format!("{} {}", sent.name, sent.count));
        let each = each.collect::<Vec<_>>().join(", ");
        format!("{sent} messages acknowledged ({each}), {repeats} repeats in the log, {} subscribers", self.got.len())
    }

    /// Each topic holds what its publisher sent.
    fn complete(&self, who: &str, got: &Numbers) {
        self.each_topic(got, |topic, due, got| {
            let there: HashSet<_> = got.iter().collect();
            let missing: Vec<_> = due.iter().filter(|n| !there.contains(n)).collect();
            assert!(missing.is_empty(), "{who} lacks {topic} {missing:?}");
        });
    }

    /// First occurrences are in the order in which they were sent, and nothing else is there.
    fn in_order(&self, who: &str, got: &Numbers) {
        self.each_topic(got, |topic, due, got| {
            assert_eq!(first_occurrences(got), due, "{who}: {topic} is out of order");
        });
    }

    fn each_topic(&self, got: &Numbers, check: impl Fn(&str, &[u64], &[u64])) {
        for sent in &self.sent {
            for topic in sent.topics() {
                check(&topic, &sent.numbers_of(&topic), got.get(&topic).map_or(&[], Vec::as_slice));
            }
        }
    }

    fn log_has_no_gap(&self) {
        let mut next: BTreeMap<i32, i64> = BTreeMap::new();
        for record in &self.log {
            let due = next.entry(record.partition).or_default();
            assert_eq!(record.offset, *due, "a gap in partition {}", record.partition);
            *due += 1;
        }
    }

    /// The consumer group saw the whole log, and each record as it is now.
    fn backend_saw_the_log(&self) {
        let place = |record: &Record| ((record.partition, record.offset), record.text());
        let log: BTreeMap<(i32, i64), String> = self.log.iter().map(place).collect();
        for (place, text) in &self.seen {
            assert_eq!(log.get(place), Some(text), "{place:?} was read once");
        }
        let missing: Vec<_> = log.keys().filter(|place| !self.seen.contains_key(place)).collect();
        assert!(missing.is_empty(), "the group did not get {missing:?}");
    }
}
