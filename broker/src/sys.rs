//! The `$SYS/broker/…` tree as Mosquitto's users know it: what the broker counts, told by MQTT. Never written to the
//! log or the journal (S8). Pure: counts go in, what has changed comes out.
//!
//! Mosquitto's names mean packets of any kind by "messages" and PUBLISH by "publish messages". Not told is what it tells
//! of its bridges and when it was built.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::stats::Counts;

/// How far back the averages look, in minutes, and what that is called.
const SPANS: [(f64, &str); 3] = [(1.0, "1min"), (5.0, "5min"), (15.0, "15min")];

/// What is told besides [`Counts`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Sizes {
    /// Subscriptions of all sessions, but for shared ones.
    pub subscriptions: usize,
    /// The shared ones.
    pub shared_subscriptions: usize,
    /// Retained messages, without this tree.
    pub retained: usize,
    /// Their bytes.
    pub retained_bytes: usize,
    /// Memory of the process that is no file's, where the system tells.
    pub heap_bytes: Option<u64>,
}

/// What was told last.
#[derive(Debug, Default)]
pub struct Tree {
    told: BTreeMap<String, String>,
    averages: BTreeMap<String, f64>,
    before: Counts,
    before_ms: u64,
    most_connected: u64,
    most_heap_bytes: u64,
}

impl Tree {
    /// Every topic whose value is another than before, with that value. `up_ms`: since the start, never falling.
    pub fn update(&mut self, counts: &Counts, sizes: Sizes, up_ms: u64) -> Vec<(String, String)> {
        let elapsed_s = up_ms.saturating_sub(self.before_ms) as f64 / 1e3;
        self.most_connected = self.most_connected.max(counts.connected);
        let total = counts.connected + counts.durable_away;
        let stored = counts.queued_durable + counts.queued_passing + sizes.retained as u64;
        let mut now: Vec<(String, String)> = [
            ("version", format!("millstream {}", env!("CARGO_PKG_VERSION"))),
            ("uptime", format!("{} seconds", up_ms / 1000)),
            ("clients/connected", counts.connected.to_string()),
            ("clients/active", counts.connected.to_string()),
            ("clients/disconnected", counts.durable_away.to_string()),
            ("clients/inactive", counts.durable_away.to_string()),
            ("clients/expired", counts.sessions_expired.to_string()),
            ("clients/maximum", self.most_connected.to_string()),
            ("clients/total", total.to_string()),
            ("messages/received", counts.packets_received().to_string()),
            ("messages/sent", counts.packets_sent().to_string()),
            ("messages/inflight", counts.in_flight.to_string()),
            ("messages/stored", stored.to_string()),
            ("bytes/received", counts.bytes_in.to_string()),
            ("bytes/sent", counts.bytes_out.to_string()),
            ("publish/messages/received", received(counts).to_string()),
            ("publish/messages/sent", sent(counts).to_string()),
            ("publish/messages/dropped", dropped(counts).to_string()),
            ("publish/bytes/received", payload_bytes_in(counts).to_string()),
            ("publish/bytes/sent", payload_bytes_out(counts).to_string()),
            ("subscriptions/count", sizes.subscriptions.to_string()),
            ("shared_subscriptions/count", sizes.shared_subscriptions.to_string()),
            ("retained messages/count", sizes.retained.to_string()),
            ("store/messages/count", stored.to_string()),
            ("store/messages/bytes", (counts.queued_passing_bytes + sizes.retained_bytes as u64).to_string()),
        ]
        .into_iter()
        .map(|(name, value)| (format!("$SYS/broker/{name}"), value))
        .collect();
        if let Some(bytes) = sizes.heap_bytes {
            self.most_heap_bytes = self.most_heap_bytes.max(bytes);
            now.push(("$SYS/broker/heap/current".to_owned(), bytes.to_string()));
            now.push(("$SYS/broker/heap/maximum".to_owned(), self.most_heap_bytes.to_string()));
        }
        for (name, count) in [
            ("messages/received", Counts::packets_received as fn(&Counts) -> u64),
            ("messages/sent", Counts::packets_sent),
            ("publish/received", received),
            ("publish/sent", sent),
            ("publish/dropped", dropped),
            ("bytes/received", |of| of.bytes_in),
            ("bytes/sent", |of| of.bytes_out),
            ("connections", |of| of.connects),
            ("sockets", Counts::accepted),
        ] {
            let new = count(counts).saturating_sub(count(&self.before));
            for (minutes, span) in SPANS {
                let topic = format!("$SYS/broker/load/{name}/{span}");
                let value = self.average(&topic, new, elapsed_s, minutes);
                now.push((topic, format!("{value:.2}")));
            }
        }
        (self.before, self.before_ms) = (*counts, up_ms);
        now.retain(|(topic, value)| match self.told.entry(topic.clone()) {
            Entry::Occupied(told) if told.get() == value => false,
            Entry::Occupied(mut told) => {
                told.insert(value.clone());
                true
            }
            Entry::Vacant(new) => {
                new.insert(value.clone());
                true
            }
        });
        now
    }

    /// Events per minute, averaged with weights that fall to 1/e over the span, as Mosquitto does.
    fn average(&mut self, topic: &str, new: u64, elapsed_s: f64, minutes: f64) -> f64 {
        let average = self.averages.entry(topic.to_owned()).or_default();
        if elapsed_s > 0.0 {
            let per_minute = new as f64 * 60.0 / elapsed_s;
            let kept = (-elapsed_s / (60.0 * minutes)).exp();
            *average = per_minute + kept * (*average - per_minute);
        }
        *average
    }
}

fn received(of: &Counts) -> u64 {
    of.received_qos0 + of.received_qos1 + of.received_qos2
}

fn sent(of: &Counts) -> u64 {
    of.sent_qos0 + of.sent_qos1 + of.sent_qos2
}

fn dropped(of: &Counts) -> u64 {
    of.dropped_slow
        + of.dropped_queue_full
        + of.dropped_expired
        + of.dropped_too_large
        + of.dropped_unreadable
        + of.dropped_session_ended
        + of.dropped_rights
}

fn payload_bytes_in(of: &Counts) -> u64 {
    of.received_bytes_qos0 + of.received_bytes_qos1 + of.received_bytes_qos2
}

fn payload_bytes_out(of: &Counts) -> u64 {
    of.sent_bytes_qos0 + of.sent_bytes_qos1 + of.sent_bytes_qos2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value<'a>(told: &'a [(String, String)], name: &str) -> Option<&'a str> {
        told.iter().find(|(topic, _)| topic == &format!("$SYS/broker/{name}")).map(|(_, value)| &**value)
    }

    #[test]
    fn everything_is_told_once_and_then_what_changes() {
        let mut tree = Tree::default();
        let packets = Counts { connects: 4, packets_in: 20, packets_out: 30, sent_qos0: 5, ..Counts::default() };
        let counts = Counts { connected: 3, durable_away: 2, received_qos1: 7, refused_timeout: 6, ..packets };
        let sizes = Sizes { subscriptions: 4, retained: 5, retained_bytes: 60, ..Sizes::default() };
        let first = tree.update(&counts, sizes, 10_000);
        assert_eq!(value(&first, "clients/total"), Some("5"));
        assert_eq!(value(&first, "uptime"), Some("10 seconds"));
        assert_eq!(value(&first, "publish/messages/received"), Some("7"));
        assert_eq!(value(&first, "retained messages/count"), Some("5"));
        assert_eq!(value(&first, "store/messages/bytes"), Some("60"));
        assert_eq!((value(&first, "messages/received"), value(&first, "messages/sent")), (Some("24"), Some("35")));
        assert_eq!(value(&first, "shared_subscriptions/count"), Some("0"));
        assert_eq!(value(&first, "heap/current"), None, "the system does not tell");
        // Ten seconds of a minute: 10 accepted make 60 a minute, of which 1 - e^(-10/60) count.
        assert_eq!(value(&first, "load/sockets/1min"), Some("9.21"));
        let fewer = Counts { connected: 1, ..counts };
        let more_heap = Sizes { heap_bytes: Some(9), ..sizes };
        let second = tree.update(&fewer, more_heap, 20_000);
        assert_eq!((value(&second, "heap/current"), value(&second, "heap/maximum")), (Some("9"), Some("9")));
        assert_eq!(value(&second, "clients/connected"), Some("1"));
        assert_eq!(value(&second, "clients/maximum"), None, "it is 3 as before");
        assert_eq!(value(&second, "version"), None);
    }

    #[test]
    fn averages_follow_a_steady_load_and_forget_it() {
        let mut tree = Tree::default();
        let mut counts = Counts::default();
        let mut told = BTreeMap::new();
        for second in 1..=600 {
            counts.received_qos0 += 10;
            told.extend(tree.update(&counts, Sizes::default(), 1000 * second));
        }
        let average = |told: &BTreeMap<String, String>, span: &str| -> f64 {
            told[&format!("$SYS/broker/load/publish/received/{span}")].parse().expect("a number")
        };
        assert!((average(&told, "1min") - 600.0).abs() < 1.0);
        assert!((average(&told, "15min") - 600.0 * (1.0 - (-10.0_f64 / 15.0).exp())).abs() < 1.0);
        for second in 601..=1200 {
            told.extend(tree.update(&counts, Sizes::default(), 1000 * second));
        }
        assert!(average(&told, "1min") < 0.1 && average(&told, "15min") > 100.0);
    }
}
