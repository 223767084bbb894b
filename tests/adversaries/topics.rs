//! More topics than anyone can remember, and messages that are more name than message.

use support::broker::Broker;
use support::mqtt::{Connect, Prop, Publish, Version};

use crate::flood::{flood, flood_unanswered, let_in};
use crate::town::{MIB, Town, VOLUME, size};

const RECEIVED: &str = "millstream_mqtt_received_messages_total";

/// What the shards remember of topics goes with the next change of a subscription.
fn forget_topics(broker: &Broker) {
    broker.connect(Connect::v5("")).subscribe("other", 0);
}

fn connect() -> Connect {
    Connect::v5("publisher").keep_alive_s(0)
}

/// What a shard remembers of a topic must be forgotten again: 20,000 at most, and 64 MiB.
#[test]
fn a_million_topics() {
    let mut town = Town::founded("a million topics, QoS 0", Broker::prepared());
    let count = size(250_000, 1_000_000);
    town.attacked(|broker| {
        let message = |n| Publish::new(&format!("device/{n}/temperature"), "21.5").bytes(Version::V5);
        flood_unanswered(&let_in(broker.mqtt(), &connect()), (0..count).map(message));
        forget_topics(broker);
    });
    town.told(RECEIVED, &[("qos", "0")], count);
    town.peaked_below(48 * MIB);
    town.recovers(VOLUME);
}

/// Retained, then cleared: the tree must shrink again, and so must its tables.
#[test]
fn retained_messages_set_and_cleared() {
    // What was changed since the last checkpoint is remembered for the next.
    let config = "[bridge]\ncheckpoint_interval_s = 1\n";
    let mut town = Town::founded("retained, then cleared", Broker::prepared().config(config));
    let count = size(60_000, 200_000);
    town.attacked(|broker| {
        let client = let_in(broker.mqtt(), &connect());
        let message = |n, payload: &str| {
            let topic = format!("{n}/kept");
            Publish::new(&topic, payload).qos(1).id((n % 60_000) as u16 + 1).retain().bytes(Version::V5)
        };
        // PUBACK of 5.0 without a reason.
        flood(&client, (0..count).map(|n| message(n, "21.5")), 4 * count);
        flood(&client, (0..count).map(|n| message(n, "")), 4 * count);
        forget_topics(broker);
    });
    town.told(RECEIVED, &[("qos", "1")], 2 * count);
    town.is_again("millstream_mqtt_retained_messages");
    // Pages with a single thing on them that stays, such as a key the committer remembers, stay as well.
    town.recovers(size(1, 2) as u64 * VOLUME);
}

/// Names of 65,535 bytes in 200 levels, all different, to subscribers who have to be looked for level by level; and
/// some with a level more than there may be.
#[test]
fn topics_of_two_hundred_levels_and_sixty_five_thousand_bytes() {
    let mut town = Town::founded("deep topics", Broker::prepared());
    let count = size(200, 3000);
    town.attacked(|broker| {
        let subscriber = let_in(broker.mqtt(), &Connect::v311("deep").keep_alive_s(0));
        let plus = |level| vec!["+"; level].join("/") + "/never";
        let filters: Vec<String> = (1..199).map(plus).collect();
        let filters: Vec<(&str, u8)> = filters.iter().map(|filter| (&**filter, 0)).collect();
        let packet = support::mqtt::subscribe(Version::V311, 1, &filters, &[]);
        flood(&subscriber, [packet].into_iter(), 3 + 2 + filters.len());
        let deep = |n: usize| {
            // Every tenth has a 201st level.
            let below = if n.is_multiple_of(10) { 200 } else { 199 };
            let name = format!("{n:05}{}", format!("/{}", "x".repeat(326)).repeat(below));
            Publish::new(&name, "x").bytes(Version::V5)
        };
        flood_unanswered(&let_in(broker.mqtt(), &connect()), (0..count).map(deep));
        drop(subscriber);
        forget_topics(broker);
    });
    town.told(RECEIVED, &[("qos", "0")], count);
    town.told("millstream_mqtt_refused_messages_total", &[("reason", "topic")], count / 10);
    // Remembered topics have their bound in bytes, too: 64 MiB a shard; journal, frames and batches pass through.
    town.peaked_below(160 * MIB);
    town.recovers(VOLUME);
}

/// As many user properties as a packet holds.
#[test]
fn ten_thousand_user_properties() {
    let mut town = Town::founded("10,000 user properties", Broker::prepared());
    let count = size(20, 1000);
    town.attacked(|broker| {
        let mut message = Publish::new("properties", "x").qos(1).id(1);
        message.props = (0..10_000).map(|n| Prop::user(&format!("name-{n}"), "value")).collect();
        let packet = message.bytes(Version::V5);
        flood(&let_in(broker.mqtt(), &connect()), (0..count).map(|_| packet.clone()), 4 * count);
    });
    town.told(RECEIVED, &[("qos", "1")], count);
    town.peaked_below(80 * MIB);
    town.recovers(VOLUME);
}
