//! Power cuts at random moments, with everything under way: the binary runs on a disk that forgets what was not
//! synced, is killed, and goes on with what that disk has. The account is that of `tests/kill`.
//!
//! `MILLSTREAM_CUT_ROUNDS` is how often (3), `MILLSTREAM_CUT_SEED` replays the moments and the disk's choices.

mod changes;
mod disk;
mod layer;
mod needed;
mod state;
mod survival;

use disk::ForgetfulDisk;
use std::thread;
use std::time::Duration;
use support::broker::Broker;
use support::kafka::Kafka;
use support::load::{Account, Got, Load, Publisher, Run, Subscriber, not_twice_in_the_log};
use support::mqtt::{Connect, Publish, Version};
use support::random::{Random, number_from, seed_from};
use survival::Cut;

/// Small segments and frequent checkpoints, so that cuts meet every part of them.
const CONFIG: &str = "[bridge]\ncheckpoint_interval_s = 1\ncheckpoint_bytes = 1048576\nsegment_bytes = 65536\n";
/// A sync takes up to so long: a broker that does not wait for it is caught.
const SYNC_US: u64 = 20_000;

fn rounds_and_seed() -> (u64, u64) {
    let rounds = number_from("MILLSTREAM_CUT_ROUNDS").unwrap_or(3);
    let seed = seed_from("MILLSTREAM_CUT_SEED");
    eprintln!("to replay: MILLSTREAM_CUT_ROUNDS={rounds} MILLSTREAM_CUT_SEED={seed}");
    (rounds, seed)
}

/// A broker whose data is on this disk.
fn start_on(disk: &ForgetfulDisk, config: &str) -> Broker {
    let mut broker = Broker::prepared().config(config).data_in(&disk.folder().join("data"));
    let environment = disk.environment(SYNC_US);
    let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
    broker.set_environment(&environment);
    broker.restart();
    assert!(disk.was_used(), "the layer sees nothing: a binary that is not linked dynamically?");
    broker
}

/// A power cut and a start. One in four comes while a start is under way, after a kill or another cut, and one in four
/// while the broker ends by itself.
fn cut_and_restart(broker: &mut Broker, disk: &ForgetfulDisk, round: u64, random: &mut Random) {
    if round % 4 == 1 {
        broker.sigterm();
        thread::sleep(Duration::from_millis(random.within(0, 300)));
    }
    broker.kill9();
    if round % 4 == 3 {
        if random.within(0, 2) == 0 {
            disk.cut(Cut::any(random), random);
        }
        broker.spawn();
        thread::sleep(Duration::from_millis(random.within(1, 120)));
        broker.kill9();
    }
    disk.cut(Cut::any(random), random);
    broker.restart();
}

fn until_the_next_cut(random: &mut Random) {
    thread::sleep(Duration::from_millis(random.within(50, 1500)));
}

#[test]
fn nothing_acknowledged_is_lost() {
    let disk = ForgetfulDisk::new();
    let mut broker = start_on(&disk, CONFIG);
    let load = Load::of_our_own(broker.mqtt());
    cut_again_and_again(&mut broker, &disk, load).settle();
}

/// Retention takes almost all of the log, and nothing of what waits for somebody.
#[test]
fn what_waits_outlives_cuts_and_retention() {
    let disk = ForgetfulDisk::new();
    let mut broker = start_on(&disk, &format!("{CONFIG}retention_bytes = 65536\n"));
    let mqtt = broker.mqtt();
    let mut load = Load::of_our_own(mqtt);
    let late = [("late-1", Version::V5, 1), ("late-2", Version::V311, 2)];
    let late = late.map(|(name, version, qos)| Subscriber::new(name, version, qos, mqtt).late());
    let members = ["member-1", "member-2"].map(|name| Subscriber::new(name, Version::V5, 2, mqtt).sharing());
    for subscriber in late.into_iter().chain(members) {
        subscriber.subscribe();
        load.subscribe(move |run| subscriber.run(run));
    }
    cut_again_and_again(&mut broker, &disk, load).settle_subscribers();
    let (start, end) = Kafka::at(broker.kafka()).watermarks("mqtt", 0);
    assert!(start > 0, "retention has taken nothing of {end} records");
}

/// What a full queue drops is a dead letter, and never both or neither.
#[test]
fn what_a_queue_drops_is_a_dead_letter() {
    let disk = ForgetfulDisk::new();
    let full = "[mqtt]\nmax_queued_messages = 500\nqueue_full = \"drop_oldest\"\n";
    let mut broker = start_on(&disk, &format!("{full}{CONFIG}dead_letter_topic = \"letters\"\n"));
    let mut load = Load::default();
    for publisher in Publisher::of_each_kind(broker.mqtt()) {
        load.publish(move |run| publisher.run(run));
    }
    let late = Subscriber::new("late", Version::V5, 2, broker.mqtt()).late().in_part();
    late.subscribe();
    load.subscribe(move |run| late.run(run));
    let mut account = cut_again_and_again(&mut broker, &disk, load);
    let letters = Kafka::at(broker.kafka()).read("letters", 1);
    let messages = letters.iter().map(|letter| (letter.key_text(), letter.text())).collect();
    account.add(Got { name: "letters".into(), qos: 2, is_part: true, messages });
    account.settle();
}

fn cut_again_and_again(broker: &mut Broker, disk: &ForgetfulDisk, load: Load) -> Account {
    let (rounds, seed) = rounds_and_seed();
    let mut random = Random::seeded(seed);
    load.run(broker, |broker, backend, run| {
        for round in (0..rounds).take_while(|_| !run.is_aborted()) {
            until_the_next_cut(&mut random);
            let committed = backend.committed();
            cut_and_restart(broker, disk, round, &mut random);
            backend.never_back(&committed);
        }
        until_the_next_cut(&mut random);
    })
}

/// With `durability = "os"` a power cut may take what was acknowledged. It must not keep the broker from starting, nor
/// put anything into the log twice.
#[test]
fn what_the_operating_system_had_may_be_lost_but_nothing_is_twice() {
    let (rounds, seed) = rounds_and_seed();
    let mut random = Random::seeded(seed);
    let disk = ForgetfulDisk::new();
    let mut broker = start_on(&disk, &format!("durability = \"os\"\n{CONFIG}"));
    let run = Run::default();
    let publishers = Publisher::of_each_kind(broker.mqtt());
    thread::scope(|scope| {
        let _abort = run.abort_on_panic();
        for publisher in publishers {
            let run = &run;
            scope.spawn(move || {
                let _abort = run.abort_on_panic();
                publisher.forgiving().run(run)
            });
        }
        for round in (0..rounds).take_while(|_| !run.is_aborted()) {
            until_the_next_cut(&mut random);
            cut_and_restart(&mut broker, &disk, round, &mut random);
        }
        run.drain();
    });
    broker.publish(Publish::new("load/end", "end").qos(1));
    not_twice_in_the_log(&Kafka::at(broker.kafka()).read("mqtt", 1));
}

/// How many of some messages, each acknowledged just before a power cut, are in the log afterwards.
fn kept_with(durability: &str) -> usize {
    const MESSAGES: usize = 6;
    let disk = ForgetfulDisk::new();
    let mut broker = start_on(&disk, &format!("durability = \"{durability}\"\n"));
    broker.publish(Publish::new("t", "start").qos(1));
    // The topic is there for sure.
    thread::sleep(Duration::from_secs(2));
    for n in 0..MESSAGES {
        let mut client = broker.connect(Connect::v5("publisher"));
        assert_eq!(client.publish(Publish::new("t", format!("kept {n}")).qos(1)), 0);
        broker.kill9();
        disk.cut(Cut::Forgets, &mut Random::seeded(0));
        broker.restart();
    }
    let texts = Kafka::at(broker.kafka()).texts("mqtt", 1);
    texts.iter().filter(|text| text.starts_with("kept")).count()
}

/// The fixed scenario that shows that the disk forgets, and that `durability = "fsync"` does not mind.
#[test]
fn an_acknowledgement_is_worth_what_durability_says() {
    assert_eq!(kept_with("fsync"), 6);
    let kept = kept_with("os");
    assert!(kept < 6, "nothing was lost that was never synced");
}
