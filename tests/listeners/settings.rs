//! What each listener has of its own, and what a reload changes.

use crate::{accepted, refused, talks_to_itself};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use support::broker::{Broker, Way};
use support::certs::Certs;
use support::mqtt::{Client, Connect, Prop, Publish};
use support::ports::lease;
use support::stream::tcp;
use support::tls::Tls;
use support::websocket::WebSocket;

fn at(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn told_bytes(client: &Client) -> Option<u32> {
    client.connack.props.iter().find_map(|prop| match prop {
        Prop::MaximumPacketBytes(bytes) => Some(*bytes),
        _ => None,
    })
}

#[test]
fn two_listeners_hold_their_clients_to_different_limits() {
    let (small, closed) = (lease(), lease());
    let config = format!(
        "shards = 2\n[mqtt]\nmax_packet_size = 5000\n\
         [[mqtt.listener]]\naddress = \"127.0.0.1:{}\"\nmax_packet_size = 1000\n\
         [[mqtt.listener]]\naddress = \"127.0.0.1:{}\"\nallow_anonymous = false\n",
        small.port, closed.port
    );
    let mut broker = Broker::with_config(&config);
    let of_bytes = |bytes: usize| Publish::new("t", vec![b'x'; bytes]).qos(1);
    let mut large = broker.connect(Connect::v5("large"));
    assert_eq!(told_bytes(&large), Some(5000));
    assert_eq!(large.publish(of_bytes(2000)), 0);
    let mut other = accepted(Client::connect(at(small.port), &Connect::v5("small")));
    assert_eq!(told_bytes(&other), Some(1000));
    other.send_publish(&of_bytes(2000).id(9));
    assert_eq!(other.expect_closed(), Some(0x95));
    assert_eq!(Client::connect(at(closed.port), &Connect::v5("a")).connack.code, 0x87);
    // All of them are told.
    let ready = broker.log_line(&["ready", "mqtt_further"]);
    assert!(ready.contains(&format!("127.0.0.1:{} (mqtt)", small.port)), "{ready}");

    // A session is everyone's, whichever way its client comes.
    let mut back = accepted(Client::connect(at(small.port), &Connect::v5("large")));
    assert_eq!(large.expect_closed(), Some(0x8E));
    talks_to_itself(&mut back, "t");

    // A reload changes the one and not the other.
    broker.write_config(&config.replace("max_packet_size = 1000", "max_packet_size = 1500"));
    let said = broker.reload();
    assert!(!said.contains("WARN"), "{said}");
    assert_eq!(told_bytes(&accepted(Client::connect(at(small.port), &Connect::v5("b")))), Some(1500));
    assert_eq!(told_bytes(&broker.connect(Connect::v5("c"))), Some(5000));
    // What a client was told holds for its connection.
    assert_eq!(told_bytes(&back), Some(1000));
}

#[test]
fn a_reload_shuts_out_who_may_no_longer_come_in_there() {
    let port = lease();
    let config = format!("[[mqtt.listener]]\naddress = \"127.0.0.1:{}\"\nallow_anonymous = true\n", port.port);
    let mut broker = Broker::with_config(&config);
    let mut shut_out = accepted(Client::connect(at(port.port), &Connect::v5("a")));
    let mut stays = broker.connect(Connect::v5("b"));
    broker.write_config(&config.replace("true", "false"));
    broker.reload();
    assert_eq!(shut_out.expect_closed(), Some(0x87));
    stays.ping();
    assert_eq!(Client::connect(at(port.port), &Connect::v5("a")).connack.code, 0x87);
}

#[test]
fn listeners_that_come_and_go_take_a_restart() {
    let (first, second) = (lease(), lease());
    let of = |port: u16, rest: &str| format!("[[mqtt.listener]]\naddress = \"127.0.0.1:{port}\"\n{rest}");
    let mut broker = Broker::with_config(&of(first.port, "max_packet_size = 2500\n"));
    broker.write_config(&of(first.port, "max_packet_size = 3000\n"));
    assert!(!broker.reload().contains("WARN"));
    broker.write_config(&of(second.port, ""));
    let said = broker.reload();
    for (port, what) in [(first.port, "is gone"), (second.port, "is new")] {
        let tells = |line: &str| line.contains(&format!("127.0.0.1:{port}")) && line.contains(what);
        assert!(said.lines().any(|line| tells(line) && line.contains("restart")), "{port} {what} in\n{said}");
    }
    // As it was when it was heard of last.
    assert_eq!(told_bytes(&accepted(Client::connect(at(first.port), &Connect::v5("a")))), Some(3000));
    assert!(Client::try_connect(at(second.port), &Connect::v5("a")).is_err());
    broker.write_config(&of(first.port, "protocol = \"ws\"\nmax_packet_size = 2000\n"));
    let said = broker.reload();
    assert!(said.contains("protocol") && said.contains("restart") && !said.contains("max_packet_size"), "{said}");
    assert_eq!(told_bytes(&accepted(Client::connect(at(first.port), &Connect::v5("a")))), Some(2000));
    broker.restart_gracefully();
    accepted(Client::over(WebSocket::open(tcp(at(first.port))), &Connect::v5("a")));
}

#[test]
fn each_protocol_is_spoken_on_a_listener_of_its_own() {
    let ports = [lease(), lease(), lease(), lease()];
    let [plain, tls, ws, wss] = [0, 1, 2, 3].map(|n| at(ports[n].port));
    let config: String = [(plain, "mqtt"), (tls, "mqtts"), (ws, "ws"), (wss, "wss")]
        .map(|(at, protocol)| format!("[[mqtt.listener]]\naddress = \"{at}\"\nprotocol = \"{protocol}\"\n"))
        .concat();
    let broker = Broker::prepared().config(&format!("shards = 2\n{config}"));
    let certs = Certs::make(&broker.folder().join("certs"));
    let mut broker = broker.certs(certs.folder());
    broker.restart();
    let secure = Tls::trusting(&certs);
    // Ids enough for both threads.
    for n in 0..4 {
        let connect = Connect::v5(&format!("client {n}"));
        let mut clients = [
            accepted(Client::over(tcp(plain), &connect)),
            accepted(Client::over(secure.connect(tls), &connect)),
            accepted(Client::over(WebSocket::open(tcp(ws)), &connect)),
            accepted(Client::over(WebSocket::open(secure.connect(wss)), &connect)),
        ];
        let [.., last] = &mut clients;
        talks_to_itself(last, "t");
    }
}

#[test]
fn a_listener_that_cannot_be_bound_ends_the_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound");
    let broker = Broker::prepared().config(&format!("[[mqtt.listener]]\naddress = \"{address}\"\n"));
    let said = broker.fails_to_start();
    assert!(said.contains(&format!("mqtt.listener = \"{address}\"")) && said.contains("in use"), "{said}");
}

#[test]
fn pages_of_other_origins_are_not_let_in() {
    let mut broker =
        Broker::prepared().listen(&[Way::Ws]).config("[mqtt]\nws_origins = \"https://a.example, HTTP://localhost\"");
    broker.restart();
    let ask =
        |broker: &Broker| WebSocket::ask(tcp(broker.at(Way::Ws)), "/mqtt", Some("mqtt")).map(|(socket, _)| socket);
    // These scripts say that they are of http://localhost.
    accepted(Client::over(ask(&broker).expect("an upgrade"), &Connect::v5("a")));
    broker.write_config("[mqtt]\nws_origins = \"https://a.example\"");
    broker.reload();
    assert_eq!(ask(&broker).expect_err("no upgrade").status(), 403);
    refused(&broker, "handshake", 1.0);
    broker.log_line(&["refused", "403"]);
    // What is no page says nothing of it.
    let mut bare = tcp(broker.at(Way::Ws));
    bare.write_all(
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n",
    )
    .expect("open");
    let mut status = [0; 12];
    bare.read_exact(&mut status).expect("an answer");
    assert_eq!(&status, b"HTTP/1.1 101");
    broker.write_config("[mqtt]\nws_origins = \"\"");
    broker.reload();
    accepted(Client::over(ask(&broker).expect("an upgrade"), &Connect::v5("b")));
}

#[test]
fn a_page_of_elsewhere_is_not_this_machine() {
    let mut broker = Broker::prepared().listen(&[Way::Ws]).config("");
    broker.restart();
    let page = |broker: &Broker, id: &str| {
        let asked = WebSocket::ask_from("https://evil.example", tcp(broker.at(Way::Ws)), "/mqtt", Some("mqtt"));
        Client::over(asked.expect("an upgrade").0, &Connect::v5(id))
    };
    // Nobody has set anything: who is here comes in as nobody, and a page that a browser here shows does not.
    assert_eq!(page(&broker, "a").connack.code, 0x87);
    broker.log_line(&["refused", "ws_origins"]);
    accepted(Client::over(WebSocket::open(tcp(broker.at(Way::Ws))), &Connect::v5("b")));
    // Whoever means it says so.
    for meant in ["ws_origins = \"https://evil.example\"", "allow_anonymous = true"] {
        broker.write_config(&format!("[mqtt]\n{meant}"));
        broker.reload();
        accepted(page(&broker, "c"));
    }
}
