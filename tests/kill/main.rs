//! `kill -9` at random moments, with everything under way, and the account afterwards:
//! nothing acknowledged is lost, QoS 2 is exactly once, order holds, no commit steps back.
//!
//! `MILLSTREAM_KILL_ROUNDS` is how often it is killed (10), `MILLSTREAM_KILL_SEED` replays the
//! moments of a run.

mod account;
mod backend;
mod publisher;
mod run;
mod subscriber;

use account::Account;
use backend::Backend;
use publisher::Publisher;
use run::Run;
use std::collections::HashMap;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use subscriber::Subscriber;
use support::broker::Broker;
use support::kafka::Kafka;
use support::mqtt::{Connect, Publish, Version};
use support::random::Random;

/// Checkpoints often, so that kills meet every part of one.
const CONFIG: &str = "[bridge]\ncheckpoint_interval_s = 1\ncheckpoint_bytes = 1048576\n";
const GROUP: &str = "kill";

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn seed() -> u64 {
    let from_clock = || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.expect("after 1970").as_nanos() as u64
    };
    from_environment("MILLSTREAM_KILL_SEED").unwrap_or_else(from_clock)
}

#[test]
fn nothing_acknowledged_is_lost() {
    let rounds = from_environment("MILLSTREAM_KILL_ROUNDS").unwrap_or(10);
    let seed = seed();
    eprintln!("to replay: MILLSTREAM_KILL_ROUNDS={rounds} MILLSTREAM_KILL_SEED={seed}");
    let mut broker = Broker::with_config(CONFIG);
    let (mqtt, kafka) = (broker.mqtt(), Kafka::at(broker.kafka()));
    let run = Run::default();
    // The subscribers' sessions and the topic exist before anything counts.
    let mut at_least_once = Subscriber::new("at-least-once", Version::V311, 1, mqtt);
    let mut exactly_once = Subscriber::new("exactly-once", Version::V5, 2, mqtt);
    at_least_once.subscribe();
    exactly_once.subscribe();
    broker.publish(Publish::new("kill/start", "start").qos(1));
    kafka.read("mqtt", 1);

    let backend = Backend::new(kafka, GROUP);
    let mut publishers: Vec<Publisher> = [(Version::V311, 1), (Version::V5, 1), (Version::V311, 2), (Version::V5, 2)]
        .into_iter()
        .enumerate()
        .map(|(n, (version, qos))| Publisher::new(&format!("p{n}"), version, qos, mqtt))
        .collect();

    let log = thread::scope(|scope| {
        let _abort = run.abort_on_panic();
        let subscribers =
            [&mut at_least_once, &mut exactly_once].map(|subscriber| scope.spawn(|| subscriber.run(&run)));
        let consumer = scope.spawn(|| backend.run(&run));
        let publishers: Vec<_> = publishers.iter_mut().map(|publisher| scope.spawn(|| publisher.run(&run))).collect();

        kill_and_restart(&mut broker, rounds, seed, &backend, &run);
        run.drain();
        for publisher in publishers {
            publisher.join().expect("a publisher failed, see above");
        }
        broker.publish(Publish::new("kill/end", "end").qos(2));
        for subscriber in subscribers {
            subscriber.join().expect("a subscriber failed, see above");
        }
        let log = support::eventually("the end in the log", || {
            let log = kafka.read("mqtt", 2);
            log.iter().any(|record| record.text() == "end").then_some(log)
        });
        backend.wait_for(log.len(), &run);
        run.finish();
        consumer.join().expect("the consumer failed, see above");
        log
    });

    let account = Account::new(&publishers, log);
    eprintln!("{}", account.summary());
    account.log_holds_everything_in_order();
    account.backend_saw(&backend.records());
    account.subscriber_missed_nothing(&at_least_once);
    account.subscriber_missed_nothing(&exactly_once);
    account.qos_2_was_exactly_once(&exactly_once);
}

fn kill_and_restart(broker: &mut Broker, rounds: u64, seed: u64, backend: &Backend, run: &Run) {
    let mut random = Random::seeded(seed);
    for round in 0..=rounds {
        thread::sleep(Duration::from_millis(random.within(50, 1500)));
        if round == rounds || run.is_aborted() {
            return;
        }
        let committed = backend.committed();
        broker.kill9();
        // One in three is killed again while it recovers.
        if round % 3 == 2 {
            broker.spawn();
            thread::sleep(Duration::from_millis(random.within(1, 60)));
            broker.kill9();
        }
        broker.restart();
        never_back(&committed, &backend.told_by_broker());
    }
}

/// Panics if a committed offset is now lower than it was known to be.
fn never_back(before: &HashMap<i32, i64>, after: &HashMap<i32, i64>) {
    for (partition, offset) in before {
        let now = after.get(partition).copied().unwrap_or(-1);
        assert!(now >= *offset, "partition {partition}: {offset} fell to {now}");
    }
}

#[test]
fn sessions_made_and_wiped_just_before_a_kill_stay_so() {
    let mut broker = Broker::with_config(CONFIG);
    for round in 0..5 {
        let id = format!("client-{round}");
        let mut client = broker.connect(Connect::v5(&id).durable());
        client.subscribe("t", 1);
        broker.kill9_and_restart();
        let mut client = broker.connect(Connect::v5(&id).durable());
        assert!(client.connack.session_present);
        broker.publish(Publish::new("t", "1").qos(1));
        assert_eq!(client.take().text(), "1");
        drop(client);
        let clean = broker.connect(Connect::v5(&id));
        assert!(!clean.connack.session_present);
        broker.kill9_and_restart();
        let client = broker.connect(Connect::v5(&id).clean(false));
        assert!(!client.connack.session_present);
    }
}
