//! Clients that come by a proxy which says for whom it connects.

use crate::{accepted, refused, talks_to_itself};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use support::broker::Broker;
use support::certs::Certs;
use support::mqtt::{Client, Connect};
use support::ports::{Lease, lease};
use support::stream::{read_to_close, tcp};
use support::tls::Tls;
use support::websocket::WebSocket;

/// A test's client and broker are of this machine, so the proxy is.
const TRUSTED: &str = "proxy_protocol = true\nproxy_trusted = \"127.0.0.1\"\n";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A broker with a listener for proxies, and that one's address.
fn behind_proxy(rest: &str) -> (Broker, SocketAddr, Lease) {
    let port = lease();
    let at: SocketAddr = (Ipv4Addr::LOCALHOST, port.port).into();
    let config = format!("shards = 2\n[[mqtt.listener]]\naddress = \"{at}\"\n{TRUSTED}{rest}");
    (Broker::with_config(&config), at, port)
}

/// Version 2, with this command and family, and what is behind its length.
fn binary(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    [SIGNATURE, &[command, family], &(body.len() as u16).to_be_bytes(), body].concat()
}

/// A client at 203.0.113.7:4660, with a TLV behind.
fn v2() -> Vec<u8> {
    binary(0x21, 0x11, b"\xCB\0\x71\x07\x0A\0\0\x01\x12\x34\x07\x5B\x02\0\x03abc")
}

fn through(at: SocketAddr, header: &[u8]) -> TcpStream {
    let mut stream = tcp(at);
    stream.write_all(header).expect("open");
    stream
}

#[test]
fn a_client_is_where_its_proxy_says() {
    let (broker, at, _port) = behind_proxy("allow_anonymous = true\n");
    let v6: Vec<u8> = [&[0x20, 1, 0x0D, 0xB8][..], &[0; 11], &[9], &[0; 16], &[0x12, 0x34, 0, 1]].concat();
    for (n, (header, peer)) in [
        (b"PROXY TCP4 203.0.113.9 10.0.0.1 4711 1883\r\n".to_vec(), "203.0.113.9:4711"),
        (b"PROXY TCP6 2001:db8::7 ::1 4712 1883\r\n".to_vec(), "[2001:db8::7]:4712"),
        (v2(), "203.0.113.7:4660"),
        (binary(0x21, 0x21, &v6), "[2001:db8::9]:4660"),
    ]
    .iter()
    .enumerate()
    {
        let id = format!("client-{n}");
        let mut client = accepted(Client::over(through(at, header), &Connect::v5(&id)));
        talks_to_itself(&mut client, "t");
        let line = broker.log_line(&["connected", &id]);
        assert!(line.contains(&format!("peer={peer} ")), "{line}");
    }
    // Where it says nothing that can be used, its own address stands in the log.
    for (id, header) in [("unknown", b"PROXY UNKNOWN\r\n".to_vec()), ("unspec", binary(0x21, 0, b""))] {
        let stream = through(at, &header);
        let own = stream.local_addr().expect("connected");
        accepted(Client::over(stream, &Connect::v5(id)));
        broker.log_line(&["connected", id, &own.to_string()]);
    }
}

#[test]
fn a_header_may_come_in_pieces_or_with_all_that_follows() {
    let (_broker, at, _port) = behind_proxy("allow_anonymous = true\n");
    let line = b"PROXY TCP4 203.0.113.9 10.0.0.1 4711 1883\r\n".to_vec();
    for header in [line, v2()] {
        let all = [&header[..], &Connect::v311("a").bytes()].concat();
        for step in [1, 2, 7, all.len()] {
            let mut stream = tcp(at);
            for piece in all.chunks(step) {
                stream.write_all(piece).expect("open");
            }
            let mut client = Client::on(stream, support::mqtt::Version::V311);
            let connack = client.recv();
            assert!(matches!(connack, support::mqtt::Packet::ConnAck(ref it) if it.code == 0), "{step}: {connack:?}");
        }
    }
}

#[test]
fn tls_and_websocket_are_behind_it() {
    let ports = [lease(), lease(), lease()];
    let [tls, ws, wss] = [0, 1, 2].map(|n| SocketAddr::from((Ipv4Addr::LOCALHOST, ports[n].port)));
    let config: String = [(tls, "mqtts"), (ws, "ws"), (wss, "wss")]
        .map(|(at, protocol)| {
            format!(
                "[[mqtt.listener]]\naddress = \"{at}\"\nprotocol = \"{protocol}\"\nallow_anonymous = true\n{TRUSTED}"
            )
        })
        .concat();
    let broker = Broker::prepared().config(&format!("shards = 2\n{config}"));
    let certs = Certs::make(&broker.folder().join("certs"));
    let mut broker = broker.certs(certs.folder());
    broker.restart();
    let secure = |at| Tls::trusting(&certs).on(through(at, &v2())).expect("TLS");
    for n in 0..4 {
        let connect = |way: &str| Connect::v5(&format!("{way}-{n}"));
        let mut clients = [
            accepted(Client::over(secure(tls), &connect("tls"))),
            accepted(Client::over(WebSocket::open(through(ws, &v2())), &connect("ws"))),
            accepted(Client::over(WebSocket::open(secure(wss)), &connect("wss"))),
        ];
        clients.iter_mut().for_each(|client| talks_to_itself(client, "t"));
    }
    for way in ["tls", "ws", "wss"] {
        broker.log_line(&["connected", &format!("{way}-0"), "203.0.113.7:4660"]);
    }
}

#[test]
fn what_is_no_header_is_refused_and_said() {
    let (broker, at, _port) = behind_proxy("allow_anonymous = true\nconnect_timeout_s = 2\n");
    let mut wrong_checksum = v2();
    wrong_checksum.truncate(28);
    wrong_checksum.extend(b"\x03\0\x04\0\0\0\0");
    wrong_checksum[15] = 19;
    let all = [
        (Connect::v311("a").bytes(), "no PROXY header"),
        (b"PROXY TCP4 203.0.113.9 10.0.0.1 99999 1883\r\n".to_vec(), "version 1"),
        (b"PROXY ".repeat(20), "version 1"),
        (binary(0x21, 0x11, b"short"), "version 2"),
        ([SIGNATURE, b"\x21\x11\xFF\xFF"].concat(), "bytes; at most 4096"),
        (wrong_checksum, "checksum"),
    ];
    for (header, why) in &all {
        let mut stream = through(at, header);
        let own = stream.local_addr().expect("connected").to_string();
        assert_eq!(read_to_close(&mut stream), b"");
        let line = broker.log_line(&["refused", &own]);
        assert!(line.contains(why), "{line}");
    }
    refused(&broker, "proxy", all.len() as f64);
    // Two proxies in a row that both send one: the second's is for us, the first's is no CONNECT.
    let mut stream = through(at, &[v2(), v2()].concat());
    assert_eq!(read_to_close(&mut stream), b"");
    broker.log_line(&["refused", "a second PROXY header", "203.0.113.7:4660"]);
    // Who closes it or keeps silent half way is no better off than with half a CONNECT.
    drop(through(at, &v2()[..20]));
    refused(&broker, "proxy", all.len() as f64 + 1.0);
    let mut silent = through(at, &v2()[..20]);
    let line = broker.log_line(&["no PROXY header within 2 s"]);
    assert!(line.contains(&silent.local_addr().expect("connected").to_string()), "{line}");
    assert_eq!(read_to_close(&mut silent), b"");
    refused(&broker, "timeout", 1.0);
}

#[test]
fn only_those_that_are_trusted_may_speak_for_others() {
    let port = lease();
    let at: SocketAddr = (Ipv4Addr::LOCALHOST, port.port).into();
    let config = |trusted: &str| {
        format!(
            "[[mqtt.listener]]\naddress = \"{at}\"\nallow_anonymous = true\nproxy_protocol = true\n\
             proxy_trusted = \"{trusted}\"\n"
        )
    };
    let mut broker = Broker::with_config(&config("10.0.0.0/8, ::1"));
    for _ in 0..30 {
        let mut stranger = tcp(at);
        // It may be gone before it has said it.
        let _ = stranger.write_all(&v2());
        assert_eq!(read_to_close(&mut stranger), b"");
    }
    refused(&broker, "proxy", 30.0);
    let said = broker.stderr();
    let told = said.lines().filter(|line| line.contains("proxy_trusted does not name its address")).count();
    assert!((1..=3).contains(&told), "{told} lines");
    broker.write_config(&config("10.0.0.0/8, 127.0.0.0/8"));
    let said = broker.reload();
    assert!(!said.contains("restart"), "{said}");
    accepted(Client::over(through(at, &v2()), &Connect::v5("a")));
    // Without proxies clients come by themselves, and a header is no CONNECT.
    broker.write_config(&config("").replace("proxy_protocol = true", "proxy_protocol = false"));
    assert!(!broker.reload().contains("restart"));
    accepted(Client::connect(at, &Connect::v5("a")));
    for header in [v2(), b"PROXY UNKNOWN\r\n".to_vec()] {
        let mut stream = through(at, &header);
        assert_eq!(read_to_close(&mut stream), b"");
        let own = stream.local_addr().expect("connected").to_string();
        broker.log_line(&["a PROXY header where MQTT is spoken", &own]);
    }
}

#[test]
fn nobody_behind_a_proxy_is_of_this_machine() {
    let (direct, proxied) = (lease(), lease());
    let at = |port: &Lease| SocketAddr::from((Ipv4Addr::LOCALHOST, port.port));
    let listener = |port: &Lease, rest: &str| {
        format!("[[mqtt.listener]]\naddress = \"{}\"\nprotocol = \"mqtts\"\n{rest}", at(port))
    };
    // Certificates say who somebody is, and there are no users.
    let config = listener(&direct, "") + &listener(&proxied, TRUSTED);
    let broker = Broker::prepared().config(&config);
    let certs = Certs::make(&broker.folder().join("certs"));
    let mut broker = broker.certs(certs.folder());
    broker.restart();
    // Where only this machine comes in, who shows none is let in. Not so behind a proxy, whatever it says.
    let nobody = Tls::trusting(&certs);
    accepted(Client::over(nobody.connect(at(&direct)), &Connect::v5("a")));
    let local = b"PROXY TCP4 127.0.0.1 127.0.0.1 1 1883\r\n".to_vec();
    for header in [local, b"PROXY UNKNOWN\r\n".to_vec(), v2(), binary(0x20, 0, b"")] {
        let connect = |tls: &Tls| Client::over(tls.on(through(at(&proxied), &header)).expect("TLS"), &Connect::v5("b"));
        assert_eq!(connect(&nobody).connack.code, 0x87, "{header:?}");
        accepted(connect(&nobody.clone().showing(&certs, "client")));
    }
    // A configuration that lets in everyone, and does not say so, is refused by a reload as by a start.
    broker.write_config(&(listener(&direct, "") + &listener(&proxied, TRUSTED).replace("mqtts", "mqtt")));
    assert!(broker.reload().contains("nothing was reloaded"));
}

#[test]
fn a_health_check_of_a_proxy_is_no_news() {
    let (broker, at, _port) = behind_proxy("allow_anonymous = true\nconnect_timeout_s = 2\n");
    for _ in 0..5 {
        let mut check = through(at, &binary(0x20, 0, b""));
        check.shutdown(std::net::Shutdown::Write).expect("open");
        assert_eq!(read_to_close(&mut check), b"");
    }
    // One may wait for us to close it, too.
    assert_eq!(read_to_close(&mut through(at, &binary(0x20, 0, b""))), b"");
    // Behind them, and heard after them.
    accepted(Client::over(through(at, &v2()), &Connect::v5("a")));
    assert!(!broker.stderr().contains("refused"));
    for reason in ["proxy", "no_connect", "timeout", "handshake"] {
        refused(&broker, reason, 0.0);
    }
}

#[test]
fn a_unix_socket_may_have_a_proxy_before_it() {
    let broker = Broker::prepared();
    let path = broker.folder().join("m");
    let config = format!(
        "[[mqtt.listener]]\naddress = \"unix:{}\"\nproxy_protocol = true\nallow_anonymous = true\n",
        path.display()
    );
    let mut broker = broker.config(&config);
    broker.restart();
    let mut stream = UnixStream::connect(&path).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("open");
    stream.write_all(&[v2(), Connect::v311("a").bytes()].concat()).expect("open");
    let mut connack = [0; 4];
    std::io::Read::read_exact(&mut stream, &mut connack).expect("an answer");
    assert_eq!(connack, [0x20, 2, 0, 0]);
    broker.log_line(&["connected", "203.0.113.7:4660"]);
}
