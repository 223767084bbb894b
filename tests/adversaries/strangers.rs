//! Connections that are not let in, or just so.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use support::broker::{Broker, Way};
use support::certs::Certs;
use support::mqtt::Connect;
use support::stream::{read_to_close, tcp};
use support::tls::Tls;

use crate::flood::{DISCONNECT, take};
use crate::town::{MIB, SLACK, Town, size};

const REFUSED: &str = "millstream_mqtt_refused_connections_total";
const CONNECTS: &str = "millstream_mqtt_connects_total";
/// For what has 10 s unless configured.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// What a connection that was not let in may take: its task and room for a CONNECT, none for TLS and WebSocket.
const STRANGER_BYTES: u64 = 6 << 10;
const HURRIED: &str = "[mqtt]\nconnect_timeout_s = 2\n";

/// Every one is closed. Without the time-out none is, and their sockets are the memory that stays.
#[test]
fn half_a_connect_then_silence() {
    let mut town = Town::founded("half a CONNECT", Broker::prepared().config(HURRIED));
    let count = size(2000, 9000);
    town.attacked(|broker| {
        let half = &Connect::v5("half").bytes()[..8];
        let began = Instant::now();
        let open = || {
            let mut stranger = tcp(broker.mqtt());
            stranger.write_all(half).expect("an open connection");
            stranger
        };
        let mut strangers: Vec<_> = (0..count).map(|_| open()).collect();
        let opened = began.elapsed();
        strangers.iter_mut().for_each(|stranger| assert_eq!(read_to_close(stranger), b""));
        assert!(began.elapsed() < opened + 2 * CONNECT_TIMEOUT, "after {:?}", began.elapsed());
    });
    town.told(REFUSED, &[("reason", "timeout")], count);
    town.peaked_below(STRANGER_BYTES * count as u64 + 8 * MIB);
    town.recovers(SLACK);
}

/// A byte now and then of what each listener wants to hear first. A time-out that begins again with each byte
/// would let them go on.
#[test]
fn a_connect_byte_by_byte() {
    let broker = Broker::prepared().config(HURRIED).listen(&[Way::MqttTls, Way::Ws, Way::Wss]);
    let certs = Certs::make(&broker.folder().join("certs"));
    let mut town = Town::founded("CONNECT byte by byte, TCP, TLS, WebSocket", broker.certs(certs.folder()));
    let each = size(50, 500);
    town.attacked(|broker| {
        let mut hello = Vec::new();
        Tls::trusting(&certs).connection().write_tls(&mut hello).expect("memory");
        let upgrade = b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n".to_vec();
        let connect = Connect::v5("byte-by-byte-byte-by-byte-byte-by-byte-byte-by-byte").bytes();
        let ways = [
            (broker.mqtt(), &connect),
            (broker.at(Way::Ws), &upgrade),
            (broker.at(Way::MqttTls), &hello),
            (broker.at(Way::Wss), &hello),
        ];
        let mut strangers: Vec<_> =
            ways.iter().flat_map(|(at, says)| (0..each).map(|_| (tcp(*at), says.as_slice()))).collect();
        // At a hundred milliseconds a byte, the shortest would last twice as long as it may.
        let end = Instant::now() + 2 * CONNECT_TIMEOUT;
        let mut at = 0;
        while !strangers.is_empty() {
            assert!(Instant::now() < end, "{} are still heard", strangers.len());
            // Who was closed answers the second byte from then on with a reset.
            strangers.retain_mut(|(stranger, says)| stranger.write_all(&says[at..=at]).is_ok());
            at += 1;
            thread::sleep(Duration::from_millis(100));
        }
    });
    town.told(REFUSED, &[("reason", "timeout")], 4 * each);
    town.recovers(SLACK);
}

/// So many at once as there may be, and a few more, which are refused and leave nothing.
#[test]
fn a_flood_of_connections_that_say_nothing() {
    let mut town = Town::founded("connections that say nothing", Broker::prepared());
    let count = size(4000, 12_000);
    town.attacked(|broker| {
        let strangers: Vec<_> = (0..count).map(|_| tcp(broker.mqtt())).collect();
        drop(strangers);
    });
    town.told(REFUSED, &[], count);
    town.peaked_below(STRANGER_BYTES * count as u64 + 8 * MIB);
    town.recovers(SLACK);
}

fn from_four_threads(count: usize, at: SocketAddr, each: impl Fn(TcpStream, usize) + Sync) {
    let each = &each;
    thread::scope(|scope| {
        for part in 0..4 {
            scope.spawn(move || (0..count).filter(|n| n % 4 == part).for_each(|n| each(tcp(at), n)));
        }
    });
}

/// Sessions must go with their connections: tens of thousands that stay would be the memory that does.
#[test]
fn a_flood_of_connects_that_hang_up() {
    let mut town = Town::founded("CONNECT, then gone", Broker::prepared());
    let count = size(10_000, 50_000);
    town.attacked(|broker| {
        from_four_threads(count, broker.mqtt(), |mut stream, n| {
            stream.write_all(&Connect::v5(&format!("gone-{n}")).bytes()).expect("an open connection");
        });
    });
    town.told(CONNECTS, &[], count);
    town.recovers(SLACK);
}

#[test]
fn a_flood_of_connects_and_disconnects() {
    let mut town = Town::founded("CONNECT, CONNACK, DISCONNECT", Broker::prepared());
    let count = size(10_000, 50_000);
    town.attacked(|broker| {
        from_four_threads(count, broker.mqtt(), |mut stream, n| {
            let hello = Connect::v311(&format!("polite-{n}")).bytes();
            stream.write_all(&hello).expect("an open connection");
            take(&stream, 4);
            stream.write_all(&DISCONNECT).expect("an open connection");
            stream.shutdown(Shutdown::Write).expect("an open connection");
            assert_eq!(stream.read(&mut [0; 8]).unwrap_or_default(), 0, "nothing follows a DISCONNECT");
        });
    });
    town.told(CONNECTS, &[], count);
    town.recovers(SLACK);
}
