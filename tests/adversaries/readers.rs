//! Subscribers that do not keep up, or do not want to, and publishers that begin what they do not end.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;

use support::broker::Broker;
use support::mqtt::{Connect, Prop, Publish, Version, subscribe};

use crate::flood::{flood, flood_unanswered, let_in, take};
use crate::town::{MIB, Town, VOLUME, size};

const DROPPED: &str = "millstream_mqtt_dropped_messages_total";

/// A client that subscribed to everything and has read nothing since.
#[track_caller]
fn deaf(broker: &Broker, connect: &Connect, qos: u8) -> TcpStream {
    let mut client = let_in(broker.mqtt(), connect);
    client.write_all(&subscribe(Version::V5, 1, &[("#", qos)], &[])).expect("an open connection");
    take(&client, 6);
    client
}

fn connect(name: &str) -> Connect {
    Connect::v5(name).keep_alive_s(0)
}

fn publisher(broker: &Broker) -> TcpStream {
    let_in(broker.mqtt(), &Connect::v311("publisher").keep_alive_s(0))
}

/// Publishes so many of a kilobyte at QoS 1, no more than are acknowledged in time, and waits for all of them.
fn publish_acknowledged(stream: &TcpStream, count: usize) {
    let message = |n| Publish::new("volume", [b'x'; 1000]).qos(1).id((n % 60_000) as u16 + 1);
    flood(stream, (0..count).map(|n| message(n).bytes(Version::V311)), 4 * count);
}

/// 4 MiB wait for it, and the rest is dropped. What would break this: an outbox without a bound.
#[test]
fn a_subscriber_to_everything_that_never_reads_at_qos_0() {
    let mut town = Town::founded("# never read, QoS 0", Broker::prepared());
    let count = size(60_000, 300_000);
    town.attacked(|broker| {
        let deaf = deaf(broker, &connect("deaf"), 0);
        let message = Publish::new("volume", [b'x'; 1000]).bytes(Version::V311);
        flood_unanswered(&publisher(broker), (0..count).map(|_| message.clone()));
        drop(deaf);
    });
    // The kernel takes some megabytes.
    town.told(DROPPED, &[("reason", "slow_client")], count / 2);
    // Twice, for a buffer grows by doubling; the journal's own come besides, the more the faster it is.
    town.peaked_below(size(40, 80) as u64 * MIB);
    town.recovers(VOLUME);
}

/// `max_queued_bytes` wait for it. What would break this: waiting messages without a bound, or a publisher that
/// is made to wait for them.
#[test]
fn a_subscriber_to_everything_that_never_reads_at_qos_1() {
    let config = "[mqtt]\nmax_queued_bytes = 8388608\n";
    let mut town = Town::founded("# never read, QoS 1", Broker::prepared().config(config));
    let count = size(40_000, 300_000);
    town.attacked(|broker| {
        let deaf = deaf(broker, &connect("deaf"), 1);
        publish_acknowledged(&publisher(broker), count);
        drop(deaf);
    });
    town.told(DROPPED, &[("reason", "queue_full")], count / 4);
    town.peaked_below(48 * MIB);
    town.recovers(VOLUME);
}

/// Its queue is pointers into the log: `max_queued_messages` of 40 bytes.
#[test]
fn a_durable_subscriber_to_everything_that_never_reads() {
    let config = "[mqtt]\nmax_queued_messages = 20000\n";
    let mut town = Town::founded("# never read, durable", Broker::prepared().config(config));
    let count = size(40_000, 300_000);
    town.attacked(|broker| {
        let deaf = deaf(broker, &connect("deaf").durable(), 1);
        publish_acknowledged(&publisher(broker), count);
        drop(deaf);
        // Its session goes with this one.
        drop(let_in(broker.mqtt(), &connect("deaf")));
    });
    town.told(DROPPED, &[("reason", "queue_full")], count / 4);
    town.peaked_below(48 * MIB);
    town.recovers(VOLUME);
}

/// It reads, and acknowledges nothing: `max_inflight_messages` are sent to it and the rest waits, then is dropped.
#[test]
fn a_subscriber_that_never_acknowledges() {
    let config = "[mqtt]\nmax_queued_messages = 5000\n";
    let mut town = Town::founded("QoS 1 never acknowledged", Broker::prepared().config(config));
    let count = size(40_000, 300_000);
    town.attacked(|broker| {
        let stingy = deaf(broker, &connect("stingy").with(Prop::ReceiveMaximum(100)), 1);
        let durable = deaf(broker, &connect("stingy-durable").durable(), 1);
        thread::scope(|scope| {
            let reading = [&stingy, &durable].map(|client| scope.spawn(|| read_all(client)));
            publish_acknowledged(&publisher(broker), count);
            for (client, reader) in [&stingy, &durable].into_iter().zip(reading) {
                client.shutdown(Shutdown::Both).expect("an open connection");
                reader.join().expect("it reads");
            }
        });
        drop(let_in(broker.mqtt(), &connect("stingy-durable")));
    });
    town.told(DROPPED, &[("reason", "queue_full")], count);
    town.peaked_below(48 * MIB);
    town.recovers(VOLUME);
}

fn read_all(mut client: &TcpStream) {
    let mut sink = vec![0; 64 << 10];
    while matches!(client.read(&mut sink), Ok(1..)) {}
}

/// Every packet identifier is taken and none released, again and again over new sessions: the identifiers go with
/// their session.
#[test]
fn qos_2_messages_that_are_never_released() {
    // Those of durable sessions are remembered for the next checkpoint.
    let config = "[bridge]\ncheckpoint_interval_s = 1\n";
    let mut town = Town::founded("QoS 2 never released", Broker::prepared().config(config));
    let (sessions, each) = (size(2, 20), size(60_000, 65_535));
    town.attacked(|broker| {
        for n in 0..sessions {
            // Half of them are durable, and end when they are taken up clean.
            let name = format!("unreleased-{}", n / 2);
            let connect = Connect::v311(&name).keep_alive_s(0);
            let client = let_in(broker.mqtt(), &if n.is_multiple_of(2) { connect.durable() } else { connect });
            let message = |id| Publish::new("volume", "x").qos(2).id(id as u16).bytes(Version::V311);
            flood(&client, (1..=each).map(message), 4 * each);
        }
    });
    town.told("millstream_mqtt_received_messages_total", &[("qos", "2")], sessions * each);
    town.recovers(VOLUME);
}

/// More of them than it was told it may have under way, in 5.0: it is closed.
#[test]
fn more_qos_2_messages_than_it_may_have_under_way() {
    let mut town = Town::founded("above Receive Maximum", Broker::prepared().config("[mqtt]\nreceive_maximum = 100\n"));
    let count = size(200, 2000);
    town.attacked(|broker| {
        let message = |id| Publish::new("volume", "x").qos(2).id(id).bytes(Version::V5);
        let messages: Vec<u8> = (1..=101).flat_map(message).collect();
        for n in 0..count {
            let mut client = let_in(broker.mqtt(), &connect(&format!("greedy-{n}")));
            client.write_all(&messages).expect("an open connection");
            let said = support::stream::read_to_close(&mut client);
            assert!(said.contains(&0xE0) && said.contains(&0x93), "{said:02x?}");
        }
    });
    town.told("millstream_mqtt_protocol_errors_total", &[], count);
    town.recovers(VOLUME);
}
