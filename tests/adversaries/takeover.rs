//! One client id, many who claim it.

use std::io::Write;
use std::thread;

use support::mqtt::{Connect, Publish};
use support::stream::tcp;

use crate::flood::{let_in, take};
use crate::town::{SLACK, Town, size};
use support::broker::Broker;

const THREADS: usize = 4;

/// Each thread holds its connection until it has the next one, so that there is always someone to be taken over.
/// Who waits for its CONNACK may be taken over before it comes.
fn storm(broker: &Broker, count: usize, connect: &Connect) {
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut held = None;
                for n in 0..count / THREADS {
                    let mut stream = tcp(broker.mqtt());
                    stream.write_all(&connect.bytes()).expect("an open connection");
                    if n.is_multiple_of(8) {
                        // Now and then the broker has time to welcome one.
                        let _ = std::io::Read::read(&mut stream, &mut [0; 64]);
                    }
                    held = Some(stream);
                }
                drop(held);
            });
        }
    });
    // Whoever comes last is let in, and has the session for itself.
    let last = let_in(broker.mqtt(), &connect.clone().clean(true));
    (&last).write_all(&[0xE0, 0]).expect("an open connection");
}

/// Sessions, their wills and what the old connection is still to be told must go with it.
#[test]
fn a_storm_of_takeovers_with_a_will() {
    let mut town = Town::founded("takeover storm, will", Broker::prepared());
    let count = size(8000, 40_000);
    let will = Publish::new("will", [b'w'; 200]).qos(1);
    town.attacked(|broker| storm(broker, count, &Connect::v5("contested").will(will)));
    town.told("millstream_mqtt_connects_total", &[], count);
    town.told("millstream_mqtt_closed_connections_total", &[("reason", "taken_over")], count / 2);
    town.recovers(SLACK);
}

/// The session stays, with its subscription and its will, while its connections come and go.
#[test]
fn a_storm_of_takeovers_of_a_durable_session() {
    let mut town = Town::founded("takeover storm, durable", Broker::prepared());
    let count = size(8000, 40_000);
    town.attacked(|broker| {
        let contested = Connect::v311("contested").durable();
        let first = let_in(broker.mqtt(), &contested);
        let filter = support::mqtt::subscribe(support::mqtt::Version::V311, 1, &[("will", 1)], &[]);
        (&first).write_all(&filter).expect("an open connection");
        take(&first, 5);
        storm(broker, count, &contested.will(Publish::new("elsewhere", "x").qos(1)));
    });
    town.told("millstream_mqtt_connects_total", &[], count);
    town.told("millstream_mqtt_closed_connections_total", &[("reason", "taken_over")], count / 2);
    town.recovers(SLACK);
}
