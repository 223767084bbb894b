//! `kill -9` at random moments, with everything under way, and the account afterwards:
//! nothing acknowledged is lost, QoS 2 is exactly once, order holds, no commit steps back.
//!
//! `MILLSTREAM_KILL_ROUNDS` is how often it is killed (10), `MILLSTREAM_KILL_SEED` replays the
//! moments of a run. `MILLSTREAM_KILL_PYTHON` is a Python that has paho-mqtt, which then takes part.

mod with_paho;
mod with_rumqttc;

use std::thread;
use std::time::Duration;
use support::broker::Broker;
use support::load::{Backend, Load, Run};
use support::mqtt::{Connect, Publish};
use support::random::{Random, number_from, seed_from};

/// Checkpoints often, so that kills meet every part of one.
const CONFIG: &str = "[bridge]\ncheckpoint_interval_s = 1\ncheckpoint_bytes = 1048576\n";

#[test]
fn nothing_acknowledged_is_lost() {
    let mut broker = Broker::with_config(CONFIG);
    let load = Load::of_our_own(broker.mqtt());
    killed_again_and_again(&mut broker, load);
}

/// Clients that people use, which keep their sessions in their own ways.
#[test]
fn nothing_acknowledged_to_real_clients_is_lost() {
    let mut broker = Broker::with_config(CONFIG);
    let mut load = Load::subscribers_of_our_own(broker.mqtt());
    with_rumqttc::join(&mut load, broker.mqtt());
    if let Ok(python) = std::env::var("MILLSTREAM_KILL_PYTHON") {
        with_paho::join(&mut load, &python, broker.mqtt());
    }
    killed_again_and_again(&mut broker, load);
}

fn killed_again_and_again(broker: &mut Broker, load: Load) {
    let rounds = number_from("MILLSTREAM_KILL_ROUNDS").unwrap_or(10);
    let seed = seed_from("MILLSTREAM_KILL_SEED");
    eprintln!("to replay: MILLSTREAM_KILL_ROUNDS={rounds} MILLSTREAM_KILL_SEED={seed}");
    let account = load.run(broker, |broker, backend, run| {
        kill_and_restart(broker, rounds, Random::seeded(seed), backend, run);
    });
    account.settle();
}

fn kill_and_restart(broker: &mut Broker, rounds: u64, mut random: Random, backend: &Backend, run: &Run) {
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
        backend.never_back(&committed);
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
