//! How many may come, of whom and how fast: each limit bites, is counted and said, lets go, and is a listener's own.

use crate::{accepted, refused};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};
use support::broker::Broker;
use support::eventually;
use support::mqtt::{Client, Connect, Lost};
use support::ports::{Lease, lease};
use support::prometheus::Scrape;
use support::stream::{read_to_close, tcp};

/// A broker with one more listener.
fn with_listener(rest: &str) -> (Broker, SocketAddr, Lease) {
    let port = lease();
    let at: SocketAddr = (Ipv4Addr::LOCALHOST, port.port).into();
    (Broker::with_config(&config(at, rest)), at, port)
}

fn config(at: SocketAddr, rest: &str) -> String {
    format!("shards = 2\n[[mqtt.listener]]\naddress = \"{at}\"\nallow_anonymous = true\n{rest}")
}

/// The tests' own addresses are this machine's, which are not counted: these come by a proxy.
const PROXIED: &str = "proxy_protocol = true\nproxy_trusted = \"127.0.0.1\"\n";

fn from(at: SocketAddr, ip: &str) -> TcpStream {
    let mut stream = tcp(at);
    let family = if ip.contains(':') { "TCP6" } else { "TCP4" };
    let to = if ip.contains(':') { "::1" } else { "127.0.0.1" };
    stream.write_all(format!("PROXY {family} {ip} {to} 4711 1883\r\n").as_bytes()).expect("open");
    stream
}

/// Tries until one is let in: the server sees a moment later that another one is gone.
#[track_caller]
fn eventually_accepted(mut attempt: impl FnMut() -> Result<Client, Lost>) -> Client {
    eventually("to be let in", || attempt().ok().filter(|client| client.connack.code == 0))
}

#[test]
fn a_listener_takes_as_many_clients_as_it_may() {
    let (mut broker, at, _port) = with_listener("max_connections = 2\n");
    let connect = |id: &str| Client::connect(at, &Connect::v5(id));
    let first = accepted(connect("a"));
    let mut second = accepted(connect("b"));
    for n in 0..20 {
        assert_eq!(connect(&format!("one more {n}")).connack.code, 0x97);
    }
    refused(&broker, "busy", 20.0);
    let said = broker.stderr();
    let told = said.lines().filter(|line| line.contains("its listener's max_connections")).count();
    assert!((1..=3).contains(&told), "{told} lines of 20");
    // The others have room, and one that takes over its own connection needs none.
    broker.connect(Connect::v5("elsewhere"));
    let third = accepted(connect("b"));
    assert_eq!(second.expect_closed(), Some(0x8E));
    drop(first);
    let fourth = eventually_accepted(|| Client::try_connect(at, &Connect::v5("c")));
    // Who comes here from another listener is one more here.
    let mut elsewhere = broker.connect(Connect::v5("d"));
    assert_eq!(connect("d").connack.code, 0x97);
    elsewhere.ping();
    broker.write_config(&config(at, "max_connections = 3\n"));
    assert!(!broker.reload().contains("restart"));
    accepted(connect("d"));
    drop((third, fourth));
}

#[test]
fn unfinished_handshakes_are_bounded() {
    let (mut broker, at, _port) = with_listener("max_handshakes = 3\n");
    let silent: Vec<_> = (0..3).map(|_| tcp(at)).collect();
    assert_eq!(read_to_close(&mut tcp(at)), b"");
    refused(&broker, "busy", 1.0);
    broker.log_line(&["max_handshakes"]);
    broker.connect(Connect::v5("elsewhere"));
    broker.write_config(&config(at, "max_handshakes = 4\n"));
    broker.reload();
    // Who is let in is no handshake any more.
    let _clients: Vec<_> =
        (0..5).map(|n| eventually_accepted(|| Client::try_connect(at, &Connect::v5(&n.to_string())))).collect();
    broker.write_config(&config(at, "max_handshakes = 3\n"));
    broker.reload();
    assert!(Client::try_connect(at, &Connect::v5("x")).is_err());
    drop(silent);
    eventually_accepted(|| Client::try_connect(at, &Connect::v5("x")));
}

#[test]
fn no_address_has_all_the_handshakes() {
    let (broker, at, _port) = with_listener(&format!("{PROXIED}max_handshakes_per_address = 2\n"));
    let silent: Vec<_> = (0..2).map(|_| from(at, "203.0.113.7")).collect();
    eventually("a third one refused", || {
        let before = Instant::now();
        let mut third = from(at, "203.0.113.7");
        third.set_read_timeout(Some(Duration::from_secs(3))).expect("open");
        let said = read_to_close(&mut third);
        (said.is_empty() && before.elapsed() < Duration::from_secs(3)).then_some(())
    });
    broker.log_line(&["max_handshakes_per_address", "203.0.113.7"]);
    accepted(Client::over(from(at, "203.0.113.8"), &Connect::v5("other")));
    drop(silent);
    eventually_accepted(|| Client::try_over(from(at, "203.0.113.7"), &Connect::v5("a")));
    let scrape = Scrape::of(broker.admin());
    let found = scrape.value("millstream_mqtt_refused_connections_total", &[("reason", "address")]);
    assert!(found >= Some(1.0), "{found:?}");
}

#[test]
fn connections_of_one_address_are_bounded() {
    let (mut broker, at, _port) = with_listener(&format!("{PROXIED}max_connections_per_address = 2\n"));
    let connect = |ip: &str, id: &str| Client::try_over(from(at, ip), &Connect::v5(id));
    let first = accepted(connect("203.0.113.7", "a").expect("an answer"));
    let _second = accepted(connect("203.0.113.7", "b").expect("an answer"));
    assert!(connect("203.0.113.7", "c").is_err());
    // It is the same in IPv6's clothes; another one is another one.
    assert!(connect("::ffff:203.0.113.7", "c").is_err());
    accepted(connect("203.0.113.8", "c").expect("an answer"));
    // A network of 64 bits is one customer's.
    let _sixes = ["2001:db8::1", "2001:db8::ffff:1"].map(|ip| accepted(connect(ip, ip).expect("an answer")));
    assert!(connect("2001:db8::2", "d").is_err());
    accepted(connect("2001:db8:0:1::2", "d").expect("an answer"));
    refused(&broker, "address", 3.0);
    broker.log_line(&["max_connections_per_address", "203.0.113.7"]);
    drop(first);
    let _third = eventually_accepted(|| connect("203.0.113.7", "c"));
    broker.write_config(&config(at, &format!("{PROXIED}max_connections_per_address = 3\n")));
    broker.reload();
    accepted(connect("203.0.113.7", "e").expect("an answer"));
    // This machine's own are not counted.
    let port = lease();
    let at: SocketAddr = (Ipv4Addr::LOCALHOST, port.port).into();
    let _broker = Broker::with_config(&config(at, "max_connections_per_address = 2\nmax_handshakes_per_address = 1\n"));
    let _silent: Vec<_> = (0..3).map(|_| tcp(at)).collect();
    let all = (0..4).map(|n| accepted(Client::connect(at, &Connect::v5(&n.to_string()))));
    assert_eq!(all.collect::<Vec<_>>().len(), 4);
}

#[test]
fn connections_above_the_rate_wait() {
    let (mut broker, at, _port) = with_listener("max_connection_rate = 10\n");
    let start = Instant::now();
    let one = |n: usize| drop(accepted(Client::connect(at, &Connect::v5(&n.to_string()))));
    (0..10).for_each(one);
    // The second's worth at the beginning is for nothing.
    (0..15).for_each(one);
    let took = start.elapsed();
    assert!(took > Duration::from_millis(1400), "25 at 10 a second took {took:?}");
    let delayed = Scrape::of(broker.admin()).value("millstream_mqtt_delayed_connections_total", &[]);
    assert!(delayed >= Some(5.0), "{delayed:?}");
    broker.log_line(&["connections wait", "max_connection_rate"]);
    refused(&broker, "rate", 0.0);
    // Elsewhere nobody waits.
    let start = Instant::now();
    (0..15).for_each(|n| broker.connect(Connect::v5(&n.to_string())).disconnect());
    assert!(start.elapsed() < Duration::from_millis(1400), "{:?}", start.elapsed());
    broker.write_config(&config(at, ""));
    broker.reload();
    let start = Instant::now();
    (0..25).for_each(one);
    assert!(start.elapsed() < Duration::from_millis(1400), "{:?}", start.elapsed());
}

#[test]
fn many_strangers_do_not_fill_the_log() {
    let (broker, at, _port) = with_listener("");
    for _ in 0..400 {
        let mut stranger = tcp(at);
        stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("open");
        read_to_close(&mut stranger);
    }
    refused(&broker, "no_connect", 400.0);
    let lines = || broker.stderr().lines().filter(|line| line.contains("HTTP where MQTT is spoken")).count();
    assert!((100..=200).contains(&lines()), "{} lines of 400", lines());
    // What is said of others is still said.
    let mut other = tcp(broker.mqtt());
    other.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("open");
    broker.log_line(&["HTTP", &other.local_addr().expect("connected").to_string()]);
}
