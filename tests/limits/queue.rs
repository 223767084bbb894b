//! What a full queue drops.

use super::metric;
use support::broker::Broker;
use support::mqtt::{AckKind, Client, Connect, Prop, Publish, VERSIONS};

const OLDEST: &str = "[mqtt]\nmax_queued_messages = 3\nqueue_full = \"drop_oldest\"\n";

/// Publishes these numbers, one after the other.
fn publish(broker: &Broker, numbers: impl Iterator<Item = u32>, qos: u8) {
    let mut publisher = broker.connect(Connect::v5("publisher"));
    for number in numbers {
        assert_eq!(publisher.publish(Publish::new("t", number.to_string()).qos(qos)), 0);
    }
}

/// Waits until so many were dropped: whose queue it is hears of a message a moment after its publisher.
#[track_caller]
fn dropped(broker: &Broker, count: u32) {
    metric(broker, "millstream_mqtt_dropped_messages_total", &[("reason", "queue_full")], f64::from(count));
}

/// The texts that come, each acknowledged.
fn take(client: &mut Client, count: usize) -> Vec<String> {
    let texts = (0..count).map(|_| client.take().text()).collect();
    assert!(client.sent_so_far().is_empty());
    texts
}

#[test]
fn who_is_away_finds_the_newest_also_after_a_crash() {
    // One shard: what is acknowledged after a drop is on the disk behind it.
    let mut broker = Broker::with_config(&format!("shards = 1\n{OLDEST}"));
    let crash = |broker: &mut Broker| {
        broker.publish(Publish::new("another", "").qos(1));
        broker.kill9_and_restart();
    };
    for version in VERSIONS {
        let away = || Connect::new(version, &format!("{version:?}")).durable();
        let mut client = broker.connect(away());
        client.subscribe("t", 1);
        client.disconnect();
    }
    publish(&broker, 1..=10, 1);
    dropped(&broker, 14);
    crash(&mut broker);
    publish(&broker, 11..=12, 1);
    // The process counts anew.
    dropped(&broker, 4);
    crash(&mut broker);
    for version in VERSIONS {
        let mut client = broker.connect(Connect::new(version, &format!("{version:?}")).durable());
        assert_eq!(take(&mut client, 3), ["10", "11", "12"]);
    }
    publish(&broker, 13..=13, 1);
    let mut client = broker.connect(Connect::new(VERSIONS[0], &format!("{:?}", VERSIONS[0])).durable());
    assert_eq!(take(&mut client, 1), ["13"]);
}

#[test]
fn what_was_sent_at_qos_2_stays_and_takes_no_place() {
    let broker = Broker::with_config(OLDEST);
    let connect = || Connect::v5("slow").durable().with(Prop::ReceiveMaximum(1));
    let mut client = broker.connect(connect());
    client.subscribe("t", 2);
    publish(&broker, 1..=1, 2);
    assert_eq!(client.expect_publish().text(), "1");
    publish(&broker, 2..=6, 2);
    dropped(&broker, 2);
    drop(client);
    publish(&broker, 7..=8, 2);
    dropped(&broker, 4);
    let mut client = broker.connect(connect());
    assert!(client.connack.session_present);
    assert_eq!(take(&mut client, 4), ["1", "6", "7", "8"]);
}

#[test]
fn who_is_slow_gets_the_newest() {
    let broker = Broker::with_config(OLDEST);
    let mut client = broker.connect(Connect::v5("slow").with(Prop::ReceiveMaximum(1)));
    client.subscribe("t", 1);
    publish(&broker, 1..=10, 1);
    dropped(&broker, 6);
    assert_eq!(take(&mut client, 4), ["1", "8", "9", "10"]);
}

#[test]
fn by_default_it_is_the_newest() {
    let broker = Broker::with_config("shards = 1\n[mqtt]\nmax_queued_messages = 3\n");
    let mut away = broker.connect(Connect::v5("away").durable());
    away.subscribe("t", 1);
    away.disconnect();
    let mut slow = broker.connect(Connect::v5("slow").with(Prop::ReceiveMaximum(1)));
    slow.subscribe("t", 1);
    publish(&broker, 1..=10, 1);
    dropped(&broker, 7 + 6);
    assert_eq!(take(&mut slow, 4), ["1", "2", "3", "4"]);
    assert_eq!(take(&mut broker.connect(Connect::v5("away").durable()), 3), ["1", "2", "3"]);
}

#[test]
fn a_window_of_bytes_makes_room_for_what_comes() {
    let broker = Broker::with_config("[mqtt]\nmax_queued_bytes = 3000\nqueue_full = \"drop_oldest\"\n");
    let mut client = broker.connect(Connect::v5("slow").with(Prop::ReceiveMaximum(1)));
    client.subscribe("t", 1);
    let mut publisher = broker.connect(Connect::v5("publisher"));
    let message = |fill: &str, bytes| Publish::new("t", fill.repeat(bytes)).qos(1);
    for (fill, bytes) in [("a", 1), ("b", 1000), ("c", 1000), ("d", 2000), ("e", 4000), ("f", 100)] {
        assert_eq!(publisher.publish(message(fill, bytes)), 0);
    }
    // Both b and c had to go for d; e never fits, and nothing goes for it.
    dropped(&broker, 3);
    let mut first = client.expect_publish();
    let mut fills = String::new();
    for _ in 0..3 {
        fills.push_str(&first.text()[..1]);
        client.send_ack(AckKind::PubAck, first.id);
        if fills.len() < 3 {
            first = client.expect_publish();
        }
    }
    assert_eq!(fills, "adf");
}

/// What waits for members of a shared subscription that are away goes to the one that is there as far as it has room.
#[test]
fn who_takes_over_from_absent_members_drops_nothing() {
    for queue_full in ["drop_oldest", "drop_newest"] {
        let settings = format!("[mqtt]\nmax_queued_messages = 30\nqueue_full = \"{queue_full}\"\n");
        let broker = Broker::with_config(&format!("shards = 1\n{settings}"));
        for name in ["a", "b", "c"] {
            let mut member = broker.connect(Connect::v5(name).durable());
            member.subscribe("$share/g/t", 1);
            member.disconnect();
        }
        publish(&broker, 1..=60, 1);
        dropped(&broker, 0);
        // It takes nothing yet: more than its queue holds must not be given to it.
        let mut slow = broker.connect(Connect::v5("c").durable().with(Prop::ReceiveMaximum(4)));
        let mut got: Vec<u32> = (0..60).map(|_| slow.take().text().parse().expect("a number")).collect();
        dropped(&broker, 0);
        got.sort_unstable();
        assert_eq!(got, (1..=60).collect::<Vec<_>>(), "{queue_full}");
    }
}
