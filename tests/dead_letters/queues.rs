//! What was due to a subscriber.

use super::{all_told, away, letters, now_ms, publish, slow, told, toml, value};
use std::path::Path;
use std::process::Command;
use support::broker::Broker;
use support::kafka::Kafka;
use support::mqtt::{AckKind, Client, Connect, Prop, Publish, VERSIONS};

const NEWEST: &str = "[mqtt]\nmax_queued_messages = 3\n";
const OLDEST: &str = "[mqtt]\nmax_queued_messages = 3\nqueue_full = \"drop_oldest\"\n";

/// The texts that come, each acknowledged.
#[track_caller]
fn take(client: &mut Client, count: usize) -> Vec<String> {
    let texts = (0..count).map(|_| client.take().text()).collect();
    assert!(client.sent_so_far().is_empty());
    texts
}

#[test]
fn a_letter_has_all_that_the_message_had_and_says_why() {
    let broker = Broker::with_config(&toml(NEWEST));
    away(&broker, Connect::v5("one"), "t/#");
    publish(&broker, "t/1", 1..=3);
    let before = now_ms();
    let mut publisher = broker.connect(Connect::v5("oven"));
    let message = Publish::new("t/x", b"\xFFlast").qos(2).retain();
    let message = message
        .with(Prop::MessageExpiryS(600))
        .with(Prop::ContentType("text/plain".into()))
        .with(Prop::CorrelationData(vec![0xFF, 0]))
        .with(Prop::user("unit", "C"))
        .with(Prop::user("mqtt.dead_letter.reason", "forged"));
    assert_eq!(publisher.publish(message), 0);
    let letter = &letters(&broker, 1)[0];
    let after = now_ms();
    assert_eq!(letter.key_text(), "t/x");
    assert_eq!(letter.value.as_deref(), Some(&b"\xFFlast"[..]));
    let given_up: i64 = letter.header("mqtt.dead_letter.time_ms")[0].parse().expect("a number");
    assert!((before..=after).contains(&given_up), "{before} {given_up} {after}");
    assert_eq!(letter.timestamp_ms, Some(given_up));
    let expiry_s: u32 = letter.header("mqtt.expiry_s")[0].parse().expect("a number");
    assert!((590..=600).contains(&expiry_s), "{expiry_s}");
    for (name, due) in [
        ("mqtt.topic", "t/x"),
        ("mqtt.client_id", "oven"),
        ("mqtt.qos", "2"),
        ("mqtt.retain", "1"),
        ("mqtt.content_type", "text/plain"),
        ("unit", "C"),
        ("mqtt.dead_letter.reason", "queue_full"),
        ("mqtt.dead_letter.for", "one"),
    ] {
        assert_eq!(letter.header(name), [due], "{name}");
    }
    assert!(letter.header("mqtt.dead_letter.limit").is_empty());
    // The mapped record is the same but for the label.
    let record = Kafka::at(broker.kafka()).read("mqtt", 4).into_iter().find(|record| record.key_text() == "t/x");
    let is_labelled = |name: &str| name.starts_with("mqtt.dead_letter.");
    let mut headers = letter.headers.clone();
    headers.retain(|(name, _)| !is_labelled(name));
    assert_eq!(headers, record.expect("mapped").headers);
}

#[test]
fn one_letter_names_everyone_whose_queue_was_full_and_survives_a_crash() {
    let mut broker = Broker::with_config(&toml(NEWEST));
    for version in VERSIONS {
        away(&broker, Connect::new(version, &format!("{version:?}")), "t");
    }
    let mut held = slow(&broker, "slow", "t");
    publish(&broker, "t", 1..=4);
    // Only the slow one has had one.
    let both = "V311,V5";
    assert_eq!(all_told(&broker, 1), [format!("publisher: 4 (queue_full) for {both}")]);
    publish(&broker, "t", 5..=5);
    assert_eq!(all_told(&broker, 2)[1], format!("publisher: 5 (queue_full) for {both},slow"));
    assert_eq!(take(&mut held, 4), ["1", "2", "3", "4"]);
    assert_eq!(value(&broker, "millstream_dead_letters_total", &[("reason", "queue_full")]), 2.0);
    assert_eq!(value(&broker, "millstream_mqtt_dropped_messages_total", &[("reason", "queue_full")]), 5.0);
    broker.kill9_and_restart();
    letters(&broker, 2);
    for version in VERSIONS {
        let mut client = broker.connect(Connect::new(version, &format!("{version:?}")).durable());
        assert_eq!(take(&mut client, 3), ["1", "2", "3"]);
    }
    letters(&broker, 2);
}

#[test]
fn the_oldest_that_make_room_are_letters_once_also_after_crashes() {
    let mut broker = Broker::with_config(&toml(OLDEST));
    away(&broker, Connect::v5("one"), "t");
    away(&broker, Connect::v311("two"), "t");
    publish(&broker, "t", 1..=10);
    let due = |numbers: std::ops::RangeInclusive<u32>| {
        numbers.map(|n| format!("publisher: {n} (queue_full) for one,two")).collect::<Vec<_>>()
    };
    assert_eq!(all_told(&broker, 7), due(1..=7));
    broker.kill9_and_restart();
    // Read back from the log.
    publish(&broker, "t", 11..=12);
    assert_eq!(all_told(&broker, 9), due(1..=9));
    broker.restart_gracefully();
    for connect in [Connect::v5("one"), Connect::v311("two")] {
        assert_eq!(take(&mut broker.connect(connect.durable()), 3), ["10", "11", "12"]);
    }
    letters(&broker, 9);
}

#[test]
fn what_has_to_be_read_from_the_disk_is_a_letter_too() {
    let rule = "[[bridge.rule]]\nfilter = \"#\"\ntopic = \"mqtt\"\npartitions = 1\n";
    let mut broker = Broker::with_config(&(toml(OLDEST) + rule));
    for client_id in ["one", "two"] {
        away(&broker, Connect::v5(client_id), client_id);
    }
    for n in 1..=3 {
        ["one", "two"].iter().for_each(|topic| publish(&broker, topic, n..=n));
        // In a page of its own, and no read for one finds the next.
        broker.publish(Publish::new("between", "x".repeat(100_000)).qos(1));
    }
    broker.restart_gracefully();
    forget_pages(&broker.data_dir().join("topics"));
    publish(&broker, "two", 4..=6);
    publish(&broker, "one", 4..=6);
    let mut all = all_told(&broker, 6);
    all.sort();
    let due = [1, 2, 3].map(|n| ["one", "two"].map(|whom| format!("publisher: {n} (queue_full) for {whom}")));
    assert_eq!(all, due.concat());
    for client_id in ["one", "two"] {
        assert_eq!(take(&mut broker.connect(Connect::v5(client_id).durable()), 3), ["4", "5", "6"]);
    }
}

/// Has the files below a folder read from the disk next time, where its file system has one.
fn forget_pages(folder: &Path) {
    for found in std::fs::read_dir(folder).expect("a folder") {
        let path = found.expect("an entry").path();
        if path.is_dir() {
            forget_pages(&path);
        } else {
            let dd =
                Command::new("dd").arg(format!("if={}", path.display())).args(["iflag=nocache", "count=0"]).output();
            assert!(dd.expect("dd").status.success());
        }
    }
}

#[test]
fn a_crash_at_any_moment_leaves_each_message_in_the_queue_or_a_letter() {
    let mut broker = Broker::with_config(&toml(OLDEST));
    away(&broker, Connect::v5("one"), "t");
    let mut acknowledged = Vec::new();
    for round in 0..6 {
        let mut publisher = broker.connect(Connect::v5("publisher"));
        let first = 1 + round * 300;
        for n in first..first + 300 {
            publisher.send_publish(&Publish::new("t", n.to_string()).qos(1).id(n));
        }
        for n in first..first + 40 * (round + 1) {
            publisher.expect_ack(AckKind::PubAck, n);
            acknowledged.push(n);
        }
        // Others are under way, and so are letters.
        broker.kill9_and_restart();
    }
    publish(&broker, "t", 5000..=5000);
    acknowledged.push(5000);
    // What a crash left beyond the bound is still there to send, or becomes letters now.
    let numbers = |texts: Vec<String>| texts.into_iter().map(|text| text.parse::<u16>().expect("a number"));
    let mut all: Vec<u16> = numbers(broker.connect(Connect::v5("one").durable()).take_until("5000")).collect();
    all.push(5000);
    broker.restart_gracefully();
    let letters = Kafka::at(broker.kafka()).texts("lost", 1);
    all.extend(numbers(letters));
    all.sort_unstable();
    assert!(all.is_sorted_by(|one, next| one < next), "one is there twice: {all:?}");
    let lost: Vec<_> = acknowledged.iter().filter(|n| all.binary_search(n).is_err()).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

#[test]
fn what_expires_is_a_letter_whether_its_subscriber_comes_back_or_not() {
    let broker = Broker::with_config(&toml(""));
    away(&broker, Connect::v5("away"), "t/#");
    let mut publisher = broker.connect(Connect::v5("oven"));
    let expires = |topic: &str| Publish::new(topic, "expires").qos(1).with(Prop::MessageExpiryS(1));
    publisher.publish(expires("t/1"));
    publisher.publish(expires("t/2"));
    publisher.publish(Publish::new("t/3", "stays").qos(1));
    // Nobody asks for them: they are read back.
    let all = letters(&broker, 2);
    assert_eq!(told(&all[0]), "oven: expires (expired) for away");
    assert_eq!(all.iter().map(|letter| letter.key_text()).collect::<Vec<_>>(), ["t/1", "t/2"]);
    assert_eq!(all[0].header("mqtt.expiry_s"), ["0"]);
    assert_eq!(take(&mut broker.connect(Connect::v5("away").durable()), 1), ["stays"]);
    assert_eq!(value(&broker, "millstream_mqtt_dropped_messages_total", &[("reason", "expired")]), 2.0);
    letters(&broker, 2);
}

#[test]
fn what_expires_in_memory_is_a_letter_when_its_turn_comes() {
    let broker = Broker::with_config(&toml(""));
    let mut slow = slow(&broker, "slow", "t");
    let mut publisher = broker.connect(Connect::v5("oven"));
    publisher.publish(Publish::new("t", "first").qos(1));
    publisher.publish(Publish::new("t", "expires").qos(1).with(Prop::MessageExpiryS(1)));
    publisher.publish(Publish::new("t", "last").qos(1));
    let first = slow.expect_publish();
    let due_ms = now_ms() + 2000;
    support::eventually("its lifetime to be over", || (now_ms() > due_ms).then_some(()));
    slow.send_ack(AckKind::PubAck, first.id);
    assert_eq!(take(&mut slow, 1), ["last"]);
    assert_eq!(all_told(&broker, 1), ["oven: expires (expired) for slow"]);
}

#[test]
fn what_expires_before_a_client_that_is_there_lets_the_next_one_pass() {
    let broker = Broker::with_config(&toml(""));
    let connect = || Connect::v5("busy").durable().with(Prop::ReceiveMaximum(1));
    let mut busy = broker.connect(connect());
    busy.subscribe("t", 1);
    let mut publisher = broker.connect(Connect::v5("oven"));
    publisher.publish(Publish::new("t", "first").qos(1));
    for n in 0..3 {
        publisher.publish(Publish::new("t", format!("expires {n}")).qos(1).with(Prop::MessageExpiryS(1)));
    }
    publisher.publish(Publish::new("t", "last").qos(1));
    let due: Vec<_> = (0..3).map(|n| format!("oven: expires {n} (expired) for busy")).collect();
    assert_eq!(all_told(&broker, 3), due);
    assert_eq!(take(&mut busy, 2), ["first", "last"]);
    drop(busy);
    let busy = &mut broker.connect(connect());
    assert!(busy.sent_so_far().is_empty());
    letters(&broker, 3);
}

#[test]
fn what_a_subscriber_takes_no_packets_of_is_a_letter() {
    let broker = Broker::with_config(&toml(""));
    let small = |client_id: &str| Connect::v5(client_id).with(Prop::MaximumPacketBytes(50));
    let mut queue = broker.connect(small("queue").durable());
    queue.subscribe("t", 1);
    let mut others = ["one", "two"].map(|client_id| broker.connect(small(client_id)));
    others.iter_mut().for_each(|client| assert_eq!(client.subscribe("t", 1), 1));
    let mut passing = broker.connect(small("qos0"));
    passing.subscribe("t", 0);
    let mut publisher = broker.connect(Connect::v5("oven"));
    let large = "x".repeat(100);
    publisher.publish(Publish::new("t", &large).qos(1));
    publisher.publish(Publish::new("t", "small").qos(1));
    let due = ["one,two", "queue"].map(|whom| format!("oven: {large} (too_large) for {whom}"));
    assert_eq!(all_told(&broker, 2), due);
    for client in others.iter_mut().chain([&mut queue, &mut passing]) {
        assert_eq!(take(client, 1), ["small"]);
    }
    // At QoS 0 nothing is a letter for its subscriber.
    publisher.publish(Publish::new("t", &large));
    publisher.ping();
    letters(&broker, 2);
    assert_eq!(value(&broker, "millstream_mqtt_dropped_messages_total", &[("reason", "too_large")]), 8.0);
}

#[test]
fn who_is_slow_and_keeps_no_queue_loses_nothing_without_a_letter() {
    let broker = Broker::with_config(&toml(&format!("{OLDEST}max_inflight_messages = 1\n")));
    // An older version's packets have no properties: the letter has them all the same.
    let mut client = broker.connect(Connect::v311("slow"));
    client.subscribe("t", 1);
    let mut publisher = broker.connect(Connect::v5("oven"));
    for n in 1..=6 {
        let message = Publish::new("t", n.to_string()).qos(2).with(Prop::user("n", &n.to_string()));
        assert_eq!(publisher.publish(message), 0);
    }
    let all = letters(&broker, 2);
    assert_eq!(told(&all[0]), "oven: 2 (queue_full) for slow");
    assert_eq!(told(&all[1]), "oven: 3 (queue_full) for slow");
    assert_eq!((all[1].header("n"), all[1].header("mqtt.qos")), (vec!["3".to_owned()], vec!["2".to_owned()]));
    assert_eq!(take(&mut client, 4), ["1", "4", "5", "6"]);
}

#[test]
fn what_gives_way_to_others_when_memory_is_scarce_is_a_letter() {
    let broker = Broker::with_config(&toml("[mqtt]\nmax_buffered_bytes = 1048576\n"));
    let _hog = slow(&broker, "hog", "t");
    let mut publisher = broker.connect(Connect::v5("oven"));
    for _ in 0..15 {
        assert_eq!(publisher.publish(Publish::new("t", "x".repeat(100_000)).qos(1)), 0);
    }
    let reason = [("reason", "memory_queued")];
    let dropped = support::eventually("messages give way", || {
        let dropped = value(&broker, "millstream_mqtt_dropped_messages_total", &reason);
        (dropped >= 4.0).then_some(dropped)
    });
    assert_eq!(value(&broker, "millstream_dead_letters_missed_total", &[]), 0.0);
    for letter in letters(&broker, dropped as usize) {
        assert_eq!(letter.header("mqtt.dead_letter.reason"), ["memory_queued"]);
        assert_eq!(letter.header("mqtt.dead_letter.for"), ["hog"]);
        assert_eq!(letter.value.map(|value| value.len()), Some(100_000));
    }
}

#[test]
fn subscribers_of_all_shards_are_named_once() {
    let broker = Broker::with_config(&toml("").replace("shards = 1", "shards = 3"));
    let names: Vec<String> = (0..9).map(|n| format!("client-{n}")).collect();
    let connect = |name: &String| broker.connect(Connect::v5(name).with(Prop::MaximumPacketBytes(50)));
    let mut clients: Vec<_> = names.iter().map(connect).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.subscribe("t", 2), 2));
    broker.publish(Publish::new("t", "x".repeat(100)).qos(2));
    let named = support::eventually("all are named", || {
        let letters = Kafka::at(broker.kafka()).read("lost", 1);
        let mut named: Vec<_> = letters.iter().flat_map(|letter| letter.header("mqtt.dead_letter.for")).collect();
        assert!(letters.iter().all(|letter| letter.header("mqtt.client_id") == letters[0].header("mqtt.client_id")));
        named.sort();
        (named.len() >= names.len()).then_some(named)
    });
    assert_eq!(named, names);
}

#[test]
fn a_member_of_a_shared_group_is_named() {
    let broker = Broker::with_config(&toml(NEWEST));
    away(&broker, Connect::v5("member"), "$share/g/t");
    publish(&broker, "t", 1..=4);
    assert_eq!(all_told(&broker, 1), ["publisher: 4 (queue_full) for member"]);
}

#[test]
fn a_retained_message_is_still_there_and_no_letter() {
    let broker = Broker::with_config(&toml(NEWEST));
    let mut publisher = broker.connect(Connect::v5("publisher"));
    for n in 0..6 {
        publisher.publish(Publish::new(&format!("t/{n}"), "x").qos(1).retain());
    }
    away(&broker, Connect::v5("away"), "t/#");
    let mut slow = slow(&broker, "slow", "t/#");
    slow.ping();
    support::eventually("both queues are full", || {
        let dropped = value(&broker, "millstream_mqtt_dropped_messages_total", &[("reason", "queue_full")]);
        (dropped >= 5.0).then_some(())
    });
    publish(&broker, "t/0", 1..=1);
    // Both have full queues.
    assert_eq!(all_told(&broker, 1), ["publisher: 1 (queue_full) for away,slow"]);
}
