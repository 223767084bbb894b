//! The disk is full.

use std::time::Duration;

use rdkafka::consumer::{CommitMode, Consumer};
use support::broker::Broker;
use support::eventually;
use support::kafka::{Kafka, poll_records};
use support::mqtt::{AckKind, Client, Connect, Lost, Packet, Publish};

use super::small::SmallDisk;
use super::{QUOTA_EXCEEDED, metric, wait_for_ready};

const RESERVE_BYTES: u64 = 8 << 20;
/// Far enough below the reserve that no journal file that is freed makes up for it.
const LEFT_BYTES: u64 = 4 << 20;

const CONFIG: &str = "disk_reserve_bytes = 8388608
shards = 2
[bridge]
checkpoint_interval_s = 1
[[bridge.rule]]
filter = \"log/#\"
topic = \"log\"
";

/// No answer for so long is none.
const A_WHILE: Duration = Duration::from_millis(700);

fn durable(id: &str) -> Connect {
    Connect::v5(id).durable()
}

fn at(qos: u8, topic: &str, payload: &str) -> Publish {
    Publish::new(topic, payload).qos(qos)
}

fn refused(broker: &Broker, what: &str) -> f64 {
    metric(broker, "millstream_disk_refused_total", &[("what", what)])
}

/// Shards show what they count a moment later.
#[track_caller]
fn expect_refused(broker: &Broker, counts: &[(&str, f64)]) {
    for (what, count) in counts {
        eventually(&format!("{what} {count}"), || (refused(broker, what) == *count).then_some(()));
    }
}

#[track_caller]
fn fill(disk: &SmallDisk, broker: &Broker) {
    disk.leave_bytes(LEFT_BYTES);
    wait_for_ready(broker, 503, "the disk is full");
    assert!(disk.free_bytes() < RESERVE_BYTES, "{}", disk.free_bytes());
}

#[track_caller]
fn empty(disk: &SmallDisk, broker: &Broker) {
    disk.give_room();
    wait_for_ready(broker, 200, "ready");
}

fn sorted(mut texts: Vec<String>) -> Vec<String> {
    texts.sort();
    texts
}

#[test]
fn what_would_be_written_is_turned_away_until_there_is_room_and_nothing_is_lost() {
    let disk = SmallDisk::of(64);
    let mut broker = Broker::prepared().config(CONFIG).data_in(&disk.path().join("data"));
    broker.restart();
    let kafka = Kafka::at(broker.kafka());
    let mut new = broker.connect(Connect::v5("new"));
    let mut live = broker.connect(Connect::v5("live"));
    live.subscribe("#", 1);
    let mut kept = broker.connect(durable("kept"));
    assert_eq!(kept.subscribe("queue/#", 1), 1);
    kept.disconnect();
    assert_eq!(new.publish(at(1, "log/a", "1")), 0);
    assert_eq!(new.publish(at(1, "queue/a", "queued")), 0);
    assert_eq!(new.publish(at(1, "kept/a", "old").retain()), 0);
    assert_eq!(live.take_until("old"), ["1", "queued"]);
    let mut old = broker.connect(Connect::v311("old"));
    let mut dies = broker.connect(Connect::v5("dies").will(at(1, "log/will", "will")));
    dies.ping();
    let group = kafka.join("group", "log");
    assert_eq!(poll_records(&group, 1)[0].text(), "1");

    fill(&disk, &broker);
    assert_eq!(metric(&broker, "millstream_disk_open", &[]), 0.0);
    broker.log_line(&["WARN", "the disk is full"]);

    // MQTT 5 publishers are told, and may use the identifier again.
    for (qos, topic) in [(1, "log/a"), (2, "log/a"), (1, "queue/a")] {
        assert_eq!(new.publish(at(qos, topic, "refused")), QUOTA_EXCEEDED, "QoS {qos} {topic}");
    }
    assert_eq!(new.publish(at(1, "kept/a", "refused").retain()), QUOTA_EXCEEDED);
    expect_refused(&broker, &[("message", 4.0)]);
    // What needs no disk goes on, at any QoS and in both versions.
    assert_eq!(new.publish(at(1, "live/1", "live 1")), 0);
    assert_eq!(new.publish(at(2, "live/2", "live 2")), 0);
    assert_eq!(live.take_until("live 2"), ["live 1"]);
    assert_eq!(old.publish(at(1, "live/3", "live 3")), 0);
    assert_eq!(live.take().text(), "live 3");
    assert_eq!(new.publish(at(0, "log/b", "live only")), 0);
    assert_eq!(new.publish(at(0, "kept/a", "newer").retain()), 0);
    new.ping();
    assert_eq!(live.take_until("newer"), ["live only"]);
    expect_refused(&broker, &[("qos0_log", 1.0), ("qos0_retained", 1.0)]);

    // An older one is not read, whatever its keep alive says, and is not closed for it.
    let mut old = broker.connect(Connect::v311("patient").keep_alive_s(1));
    old.send_publish(&at(1, "log/a", "waited").id(77));
    old.send(&[0xC0, 0]);
    assert_eq!(old.try_recv(4 * A_WHILE), Err(Lost::Silent));
    eventually("a client that waits", || {
        (metric(&broker, "millstream_disk_waiting_clients", &[]) == 1.0).then_some(())
    });
    // One that gives up is noticed: with and without a DISCONNECT.
    for goodbye in [&[0xE0, 0][..], &[]] {
        let left = metric(&broker, "millstream_mqtt_connections", &[]);
        let mut gives_up = broker.connect(Connect::v311("gives up").will(at(0, "live/w", "given up")));
        gives_up.send_publish(&at(1, "log/a", "never").id(5));
        gives_up.send(goodbye);
        drop(gives_up);
        eventually("its end", || (metric(&broker, "millstream_mqtt_connections", &[]) == left).then_some(()));
    }
    assert_eq!(live.take().text(), "given up", "the second one's will, and not the first one's");

    // Sessions: those that are there are resumed and go on with what they have, new ones are not made.
    let mut kept = broker.connect(durable("kept"));
    assert_eq!(kept.take().text(), "queued");
    assert_eq!(kept.subscribe("queue/#", 1), 1, "as it is");
    assert_eq!(kept.subscribe("more/#", 1), QUOTA_EXCEEDED);
    assert_eq!(kept.publish(at(2, "live/4", "its identifier is stored")), QUOTA_EXCEEDED);
    let refusal = Client::connect(broker.mqtt(), &durable("another"));
    assert_eq!(refusal.connack.code, QUOTA_EXCEEDED);
    let refusal = Client::connect(broker.mqtt(), &Connect::v311("another").durable());
    assert_eq!(refusal.connack.code, 3, "server unavailable");
    expect_refused(&broker, &[("session", 2.0), ("subscription", 1.0)]);
    kept.unsubscribe("queue/#");
    kept.disconnect();
    // A will draws on the reserve.
    drop(dies);
    assert_eq!(live.take().text(), "will");

    // Kafka: reading and committing go on, producers try again.
    assert_eq!(poll_records(&group, 1)[0].text(), "will");
    group.commit_consumer_state(CommitMode::Sync).expect("committed");
    let failures = kafka.try_produce("log", &[("k", "not produced")], &[("message.timeout.ms", "1000")]);
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert!(kafka.create_topic("more", 1, &[]).is_err());
    assert!(refused(&broker, "batch") > 0.0 && refused(&broker, "topic") > 0.0);
    let producer = std::thread::spawn(move || kafka.produce("log", &[("k", "tried again")], &[]));
    let before = refused(&broker, "batch");
    eventually("its first try", || (refused(&broker, "batch") > before).then_some(()));

    // There is room again: who waited is answered.
    empty(&disk, &broker);
    assert_eq!(old.expect_ack(AckKind::PubAck, 77), 0);
    assert_eq!(old.recv(), Packet::PingResp);
    producer.join().expect("produced");
    broker.log_line(&["INFO", "the disk has room again"]);
    assert_eq!(new.publish(at(1, "log/a", "2")), 0);
    eventually("nobody waits", || (metric(&broker, "millstream_disk_waiting_clients", &[]) == 0.0).then_some(()));

    // A start on a full disk: everything is there, nothing more is taken.
    fill(&disk, &broker);
    broker.kill9();
    broker.spawn();
    wait_for_ready(&broker, 503, "the disk is full");
    let mut new = broker.connect(Connect::v5("new"));
    assert_eq!(new.publish(at(1, "log/a", "refused")), QUOTA_EXCEEDED);
    let all = sorted(kafka.texts("log", 5));
    assert_eq!(all, ["1", "2", "tried again", "waited", "will"]);
    assert_eq!(kafka.committed("group", "log").values().sum::<i64>(), 2);
    let mut subscriber = broker.connect(Connect::v5("subscriber"));
    subscriber.subscribe("kept/#", 1);
    assert_eq!(subscriber.sent_so_far(), [], "an older value is not taken for the newest");
    empty(&disk, &broker);
    assert_eq!(new.publish(at(1, "log/a", "3")), 0);
    let (status, _) = broker.sigterm_and_wait();
    assert!(status.success());
    broker.restart();
    assert_eq!(sorted(kafka.texts("log", 6)), ["1", "2", "3", "tried again", "waited", "will"]);
    assert!(broker.connect(durable("kept")).connack.session_present);
}

/// Nothing is kept in reserve, and publishers are faster than anybody can look: the log, the journal or a checkpoint
/// finds no room.
#[test]
fn when_nothing_at_all_is_left_the_broker_waits_for_room() {
    let disk = SmallDisk::of(64);
    let config = CONFIG.replace("disk_reserve_bytes = 8388608", "disk_reserve_bytes = 0");
    let mut broker = Broker::prepared().config(&config).data_in(&disk.path().join("data"));
    broker.restart();
    let kafka = Kafka::at(broker.kafka());
    let errors = |broker: &Broker| {
        let of = |file| metric(broker, "millstream_disk_errors_total", &[("file", file)]);
        of("log") + of("journal") + of("zeros") + of("state") + of("checkpoint")
    };
    let mut acknowledged = Vec::new();
    let mut unanswered = Vec::new();
    for round in 0..3 {
        let mut old = broker.connect(Connect::v311(&format!("old {round}")));
        disk.leave_bytes(1 << 20);
        let before = errors(&broker);
        // 16 MiB, which fit nowhere.
        for id in 1..=256_u16 {
            let text = format!("{round}.{id}.{}", "x".repeat(64 << 10));
            if old.try_send_publish(&at(1, "log/a", &text).id(id)).is_err() {
                panic!("the connection was closed");
            }
            while let Ok(Packet::Ack(ack)) = old.try_recv(Duration::from_millis(1)) {
                acknowledged.push(format!("{round}.{}", ack.id));
            }
            if errors(&broker) > before && !broker_is_open(&broker) {
                unanswered.push((old, round, id));
                break;
            }
        }
        wait_for_ready(&broker, 503, "the disk");
        assert!(broker.is_running());
        if round == 1 {
            // What was acknowledged is in the journal, and for some of it there is no room in the log.
            broker.kill9();
            broker.spawn();
            wait_for_ready(&broker, 503, "the disk");
            unanswered.clear();
        }
        empty(&disk, &broker);
        for (mut old, round, last) in unanswered.drain(..) {
            let first = acknowledged.iter().filter(|text| text.starts_with(&format!("{round}."))).count() as u16 + 1;
            for id in first..=last {
                assert_eq!(old.expect_ack(AckKind::PubAck, id), 0);
                acknowledged.push(format!("{round}.{id}"));
            }
        }
    }
    assert!(errors(&broker) > 0.0, "it was never full");
    let found = kafka.texts("log", acknowledged.len());
    let found: Vec<&str> = found.iter().filter_map(|text| text.rsplit_once('.')).map(|(head, _)| head).collect();
    for one in &acknowledged {
        assert!(found.contains(&one.as_str()), "{one} was acknowledged and is lost");
    }
    let (status, _) = broker.sigterm_and_wait();
    assert!(status.success());
}

fn broker_is_open(broker: &Broker) -> bool {
    metric(broker, "millstream_disk_open", &[]) == 1.0
}
