//! Ten thousand subscriptions, and subscriptions again and again: each empties what the shards know by heart.

use std::net::TcpStream;

use support::broker::Broker;
use support::mqtt::{Connect, Version, subscribe};

use crate::flood::{PINGREQ, flood, let_in, take};
use crate::town::{MIB, SLACK, Town, VOLUME, size};

const RECEIVED: &str = "millstream_mqtt_received_bytes_total";
const COUNT: usize = 10_000;

fn client(broker: &Broker, name: &str) -> TcpStream {
    let_in(broker.mqtt(), &Connect::v311(name).keep_alive_s(0))
}

/// UNSUBSCRIBE; the support's own has one filter and is private to its client.
fn unsubscribe(id: u16, filter: &str) -> Vec<u8> {
    let length = filter.len() as u8;
    let head = [0xA2, length + 4, (id >> 8) as u8, id as u8, 0, length];
    [&head, filter.as_bytes()].concat()
}

/// Each filter in a SUBSCRIBE of its own.
fn subscribe_each(client: &TcpStream, filter: impl Fn(usize) -> String, count: usize) {
    let packet = |n: usize| subscribe(Version::V311, (n % 60_000) as u16 + 1, &[(&filter(n), 1)], &[]);
    flood(client, (0..count).map(packet), 5 * count);
}

/// The branches of the trie must go with the client, and with its UNSUBSCRIBE.
#[test]
fn ten_thousand_subscriptions_of_one_client() {
    let mut town = Town::founded("10,000 subscriptions", Broker::prepared());
    let rounds = size(3, 10);
    town.attacked(|broker| {
        for round in 0..rounds {
            let filters: Vec<String> = (0..COUNT).map(|n| format!("house/{round}/room/{n}")).collect();
            let in_one: Vec<(&str, u8)> = filters.iter().map(|filter| (&**filter, 1)).collect();
            let client = client(broker, "many");
            // A fixed header of 3, the identifier, a code for each.
            flood(&client, [subscribe(Version::V311, 1, &in_one, &[])].into_iter(), 3 + 2 + COUNT);
            subscribe_each(&client, |n| format!("house/{round}/cellar/{n}"), COUNT);
            flood(&client, filters.iter().map(|filter| unsubscribe(1, filter)), 4 * COUNT);
        }
    });
    town.told(RECEIVED, &[], rounds * COUNT * 60);
    town.is_again("millstream_mqtt_subscriptions");
    town.recovers(SLACK);
}

/// Every topic has to be looked for under `+`.
#[test]
fn ten_thousand_subscriptions_with_a_wildcard() {
    let mut town = Town::founded("10,000 subscriptions to +/x/i", Broker::prepared());
    let rounds = size(3, 10);
    town.attacked(|broker| {
        for round in 0..rounds {
            let client = client(broker, "wild");
            subscribe_each(&client, |n| format!("+/x{round}/{n}"), COUNT);
            subscribe_each(&client, |n| format!("+/{round}y{n}/#"), COUNT);
            drop(client);
        }
    });
    town.told(RECEIVED, &[], rounds * COUNT * 24);
    town.is_again("millstream_mqtt_subscriptions");
    town.recovers(SLACK);
}

/// One filter, again and again.
#[test]
fn subscribe_and_unsubscribe_without_end() {
    let mut town = Town::founded("SUBSCRIBE, UNSUBSCRIBE, again", Broker::prepared());
    let count = size(30_000, 500_000);
    town.attacked(|broker| {
        let client = client(broker, "restless");
        let both = [subscribe(Version::V311, 1, &[("town/+/0", 0)], &[]), unsubscribe(2, "town/+/0")].concat();
        // Messages of the citizens come between: it is not counted what comes back, but asked when it is over.
        std::thread::scope(|scope| {
            let reading = scope.spawn(|| until_ping_response(&client));
            let mut out = std::io::BufWriter::new(&client);
            (0..count).for_each(|_| std::io::Write::write_all(&mut out, &both).expect("it is taken in time"));
            std::io::Write::write_all(&mut out, &PINGREQ).expect("it is taken in time");
            drop(out);
            reading.join().expect("the answer comes in time");
        });
    });
    town.told(RECEIVED, &[], count * 28);
    town.recovers(SLACK);
}

/// Reads whole packets up to PINGRESP.
fn until_ping_response(mut client: &TcpStream) {
    let mut inbound = Vec::new();
    let mut buffer = [0; 16 << 10];
    loop {
        let got = std::io::Read::read(&mut client, &mut buffer).expect("an answer in time");
        assert!(got > 0, "closed");
        inbound.extend_from_slice(&buffer[..got]);
        // All of them are shorter than 128 bytes.
        let mut at = 0;
        while let Some(length) = inbound.get(at + 1).map(|length| usize::from(*length) + 2) {
            if inbound[at] == 0xD0 {
                return;
            }
            if inbound.len() < at + length {
                break;
            }
            at += length;
        }
        inbound.drain(..at);
    }
}

/// Two bytes to read, two to write.
#[test]
fn a_flood_of_pings() {
    let mut town = Town::founded("PINGREQ", Broker::prepared());
    let count = size(1_000_000, 20_000_000);
    town.attacked(|broker| {
        let client = client(broker, "ping");
        let many = PINGREQ.repeat(1000);
        flood(&client, (0..count / 1000).map(|_| many.clone()), 2 * count);
    });
    town.told(RECEIVED, &[], 2 * count);
    // Up to 8 MiB of answers wait to be written.
    town.recovers(VOLUME);
}

/// It asks, and does not read the answers: it is not read either.
#[test]
fn a_flood_of_pings_whose_answers_nobody_reads() {
    let mut town = Town::founded("PINGREQ, answers not read", Broker::prepared());
    let bytes = size(64, 1024) << 20;
    town.attacked(|broker| {
        let mut client = client(broker, "ping");
        client.set_write_timeout(Some(std::time::Duration::from_secs(1))).expect("an open socket");
        let many = PINGREQ.repeat(32 << 10);
        let mut sent = 0;
        let stopped = loop {
            match std::io::Write::write(&mut client, &many) {
                Ok(count) => sent += count,
                Err(error) => break error,
            }
            assert!(sent < bytes, "everything was taken");
        };
        assert_eq!(stopped.kind(), std::io::ErrorKind::WouldBlock);
        take(&client, 2);
    });
    town.told(RECEIVED, &[], 1 << 20);
    town.peaked_below(40 * MIB);
    town.recovers(SLACK);
}
