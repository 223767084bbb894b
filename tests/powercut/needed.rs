//! Every sync is needed: where the disk only says that it did one, a power cut shows it, as a loss or as damage.

use crate::disk::ForgetfulDisk;
use crate::survival::Cut;
use crate::{CONFIG, start_on};
use std::thread;
use support::broker::Broker;
use support::http;
use support::kafka::Kafka;
use support::mqtt::{Connect, Publish};
use support::random::Random;

const MESSAGES: usize = 40;

fn publish(broker: &Broker, from: usize) {
    let mut client = broker.connect(Connect::v5("publisher"));
    for n in from..from + MESSAGES {
        assert_eq!(client.publish(Publish::new("t", format!("{n}")).qos(1)), 0);
    }
}

fn checkpoints(broker: &Broker) -> u64 {
    let metrics = http::get(broker.admin(), "/metrics").expect("it answers").body;
    let count = metrics.lines().find_map(|line| line.strip_prefix("millstream_checkpoint_seconds_count "));
    count.and_then(|count| count.parse().ok()).expect("it is told")
}

/// A start that ends by itself is no start.
fn starts(broker: &mut Broker) -> bool {
    broker.spawn();
    support::eventually("a start or its end", || {
        let ready = http::get(broker.admin(), "/ready").is_ok_and(|answer| answer.status == 200);
        (ready || !broker.is_running()).then_some(ready)
    })
}

/// What was acknowledged before a checkpoint and behind it is there after a power cut, and so is a session.
fn all_is_there(disk: &ForgetfulDisk) -> bool {
    let mut broker = start_on(disk, CONFIG);
    let mut subscriber = broker.connect(Connect::v5("subscriber").durable());
    subscriber.subscribe("t", 1);
    publish(&broker, 0);
    let before = checkpoints(&broker);
    // One that has begun may lack the last messages.
    support::eventually("two checkpoints", || {
        broker.publish(Publish::new("more", "").qos(1));
        (checkpoints(&broker) >= before + 2).then_some(())
    });
    publish(&broker, MESSAGES);
    broker.kill9();
    disk.cut(Cut::Forgets, &mut Random::seeded(0));
    // What can be put together again from the rest is damage all the same, and said.
    if !starts(&mut broker) || broker.stderr().contains("damage:") {
        return false;
    }
    let subscriber = broker.connect(Connect::v5("subscriber").clean(false));
    let kafka = Kafka::at(broker.kafka());
    if !subscriber.connack.session_present || !kafka.topics().contains_key("mqtt") {
        return false;
    }
    let there: Vec<usize> = kafka.texts("mqtt", 0).iter().filter_map(|text| text.parse().ok()).collect();
    there == (0..2 * MESSAGES).collect::<Vec<_>>()
}

/// Files and folders whose syncs are left out, one kind at a time.
const KINDS: [&str; 9] =
    [".journal", "/journal", ".log", "/checkpoint.new", "/disk", "/data", "/topics", "/mqtt.16", "/0"];

#[test]
fn no_sync_is_done_in_vain() {
    assert!(all_is_there(&ForgetfulDisk::new()));
    thread::scope(|scope| {
        let without = |kind| scope.spawn(move || all_is_there(&ForgetfulDisk::new().that_ignores(kind)));
        for (kind, without) in KINDS.map(|kind| (kind, without(kind))) {
            assert!(!without.join().expect("a verdict"), "nothing is lost or damaged without the sync of {kind}");
        }
    });
}
