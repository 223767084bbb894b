//! Clients that were let in and do not finish what they say.

use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use support::broker::Broker;
use support::mqtt::{Connect, Publish, Version};
use support::stream::{read_to_close, tcp};

use crate::flood::let_in;
use crate::town::{MIB, SLACK, Town, size};

const CLOSED: &str = "millstream_mqtt_closed_connections_total";
/// DISCONNECT of 5.0: keep alive timeout, packet too large.
const KEEP_ALIVE_TIMEOUT: u8 = 0x8D;
const PACKET_TOO_LARGE: u8 = 0x95;
/// A PUBLISH of 268,435,455 bytes begins so.
const HUGE: [u8; 5] = [0x30, 0xFF, 0xFF, 0xFF, 0x7F];

fn clients(broker: &Broker, count: usize, keep_alive_s: u16) -> Vec<TcpStream> {
    let connect = |n| Connect::v5(&format!("silent-{n}")).keep_alive_s(keep_alive_s);
    (0..count).map(|n| let_in(broker.mqtt(), &connect(n))).collect()
}

/// The reason code of the DISCONNECT before the close.
#[track_caller]
fn closed_with(mut client: TcpStream) -> Option<u8> {
    match read_to_close(&mut client)[..] {
        [0xE0, _, reason, ..] => Some(reason),
        _ => None,
    }
}

/// The keep alive closes them. Were the announced size allocated, the peak would be twenty times its bound.
#[test]
fn half_a_publish_then_silence() {
    let mut town = Town::founded("half a PUBLISH of 1 MB", Broker::prepared());
    let (count, sent) = (size(100, 1000), 50_000);
    town.attacked(|broker| {
        let half = &Publish::new("t", vec![0; 1_000_000]).bytes(Version::V5)[..sent];
        let mut clients = clients(broker, count, 1);
        clients.iter_mut().for_each(|client| client.write_all(half).expect("an open connection"));
        clients.into_iter().for_each(|client| assert_eq!(closed_with(client), Some(KEEP_ALIVE_TIMEOUT)));
    });
    town.told(CLOSED, &[("reason", "keep_alive")], count);
    town.peaked_below(3 * (count * sent) as u64 + 8 * MIB);
    town.recovers(SLACK);
}

/// A packet that does not come to its end is none, however long its bytes trickle: what keeps a connection alive
/// is whole packets, or a large one that gets on.
#[test]
fn a_publish_byte_by_byte() {
    let mut town = Town::founded("PUBLISH byte by byte", Broker::prepared());
    let count = size(100, 1000);
    town.attacked(|broker| {
        let packet = Publish::new("t", vec![0; 1_000_000]).bytes(Version::V5);
        let mut clients = clients(broker, count, 1);
        // The keep alive, a second until it is looked at, and three for what is still on its way.
        let end = Instant::now() + support::PATIENCE;
        for byte in packet {
            let is_open = |client: &mut TcpStream| match client.write_all(&[byte]) {
                Ok(()) => true,
                Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => false,
                Err(error) => panic!("{error}"),
            };
            clients.retain_mut(is_open);
            if clients.is_empty() {
                break;
            }
            assert!(Instant::now() < end, "{} are still heard", clients.len());
            thread::sleep(Duration::from_millis(100));
        }
    });
    town.told(CLOSED, &[("reason", "keep_alive")], count);
    town.recovers(SLACK);
}

/// What is larger than `max_packet_size` is refused by its first five bytes, in a CONNECT too.
#[test]
fn two_hundred_and_fifty_six_megabytes_announced() {
    let mut town = Town::founded("256 MB announced", Broker::prepared());
    let count = size(500, 5000);
    town.attacked(|broker| {
        for mut client in clients(broker, count, 60) {
            client.write_all(&HUGE).expect("an open connection");
            assert_eq!(closed_with(client), Some(PACKET_TOO_LARGE));
            let mut stranger = tcp(broker.mqtt());
            stranger.write_all(&[0x10, 0xFF, 0xFF, 0xFF, 0x7F]).expect("an open connection");
            assert_eq!(read_to_close(&mut stranger), b"");
        }
    });
    town.told("millstream_mqtt_protocol_errors_total", &[], count);
    town.told("millstream_mqtt_refused_connections_total", &[("reason", "no_connect")], count);
    town.recovers(SLACK);
}

/// Where so large a packet is allowed, it takes the memory of what came of it, in a buffer that doubles.
#[test]
fn two_hundred_and_fifty_six_megabytes_begun() {
    let config = "[mqtt]\nmax_packet_size = 268435460\n";
    let mut town = Town::founded("256 MB allowed and begun", Broker::prepared().config(config));
    let (count, sent) = (size(50, 500), 200_000);
    town.attacked(|broker| {
        let begun = [&HUGE[..], &[0; 200_000]].concat();
        let mut clients = clients(broker, count, 1);
        clients.iter_mut().for_each(|client| client.write_all(&begun).expect("an open connection"));
        clients.into_iter().for_each(|client| assert_eq!(closed_with(client), Some(KEEP_ALIVE_TIMEOUT)));
    });
    town.told(CLOSED, &[("reason", "keep_alive")], count);
    town.peaked_below(3 * (count * sent) as u64 + 8 * MIB);
    town.recovers(SLACK);
}
