//! MQTT over TLS, and what comes to the wrong port or with the wrong certificate.

use crate::{accepted, certs, payload, talks_to_itself};
use rustls::ProtocolVersion;
use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};
use support::broker::{Broker, Way, binary};
use support::certs::Certs;
use support::http;
use support::mqtt::{AckKind, Client, Connect, Publish, Version, subscribe};
use support::stream::{Duplex, read_to_close, tcp};
use support::tls::Tls;

/// A broker with TLS by `--certs`, and clients that trust it.
#[track_caller]
fn start(toml: &str) -> (Broker, Certs) {
    let broker = Broker::prepared().config(toml).listen(&[Way::MqttTls]);
    let certs = certs(&broker, "certs");
    let mut broker = broker.certs(certs.folder());
    broker.restart();
    (broker, certs)
}

#[test]
fn both_versions_carry_messages() {
    let (broker, certs) = start("");
    let tls = Tls::trusting(&certs);
    let both = [(tls.clone().v12(), ProtocolVersion::TLSv1_2), (tls.v13(), ProtocolVersion::TLSv1_3)];
    for (tls, version) in both {
        let stream = tls.connect(broker.at(Way::MqttTls));
        assert_eq!(stream.conn.protocol_version(), Some(version));
        let mut client = accepted(Client::over(stream, &Connect::v5("sensor")));
        talks_to_itself(&mut client, "both/versions");
        client.ping();
        client.disconnect();
    }
    // By each name of the certificate.
    for name in ["localhost", "127.0.0.1", "::1"] {
        let tls = Tls::trusting(&certs).calling(name);
        accepted(Client::over(tls.connect(broker.at(Way::MqttTls)), &Connect::v311("sensor"))).ping();
    }
}

#[test]
fn packets_cross_records_as_they_like() {
    let (broker, certs) = start("");
    for tls in [Tls::trusting(&certs).v12(), Tls::trusting(&certs).v13()] {
        // CONNECT and what follows at once, in one record.
        let mut client = Client::on(tls.connect(broker.at(Way::MqttTls)), Version::V5);
        let mut joined = Connect::v5("joined").bytes();
        joined.extend(subscribe(Version::V5, 1, &[("t", 1)], &[]));
        for n in 1..=300 {
            joined.extend(Publish::new("t", n.to_string()).qos(1).id(n).bytes(Version::V5));
        }
        client.send(&joined);
        client.recv();
        (1..=300).for_each(|n| assert_eq!(client.expect_ack(AckKind::PubAck, n), 0));
        (1..=300).for_each(|n| assert_eq!(client.take().text(), n.to_string()));
        // One packet in as many records as it has bytes.
        for byte in Publish::new("t", "split").qos(1).id(9).bytes(Version::V5) {
            client.send(&[byte]);
        }
        assert_eq!(client.expect_ack(AckKind::PubAck, 9), 0);
        assert_eq!(client.take().text(), "split");
        // And a large one both ways.
        let large = payload(300_000);
        assert_eq!(client.publish(Publish::new("t", &large).qos(1)), 0);
        assert!(client.take().payload == large);
    }
}

#[test]
fn clients_of_every_id_stay_connected_when_they_change_threads() {
    let (broker, certs) = start("shards = 2");
    let tls = Tls::trusting(&certs);
    let connect = |n: usize| {
        let id = format!("client-{n}");
        accepted(Client::over(tls.connect(broker.at(Way::MqttTls)), &Connect::v5(&id)))
    };
    let mut clients: Vec<Client> = (0..12).map(connect).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.subscribe(&format!("to/{n}"), 1), 1);
    }
    // Each to the next: some of these cross threads.
    for n in 0..12 {
        let to = (n + 1) % 12;
        let message = Publish::new(&format!("to/{to}"), payload(20_000)).qos(1);
        assert_eq!(clients[n].publish(message), 0);
        assert_eq!(clients[to].take().payload.len(), 20_000);
    }
}

#[test]
fn who_does_not_trust_the_server_goes_and_is_named() {
    let (broker, certs) = start("");
    let mut other = accepted(Client::connect(broker.mqtt(), &Connect::v5("other")));
    let strangers = crate::certs(&broker, "strangers");
    for tls in [Tls::trusting(&strangers), Tls::trusting(&certs).calling("elsewhere.example")] {
        for tls in [tls.clone().v12(), tls.v13()] {
            let socket = tcp(broker.at(Way::MqttTls));
            let peer = socket.peer();
            let error = tls.on(socket).expect_err("the client must refuse");
            assert!(error.to_string().contains("invalid peer certificate"), "{error}");
            let line = broker.log_line(&[&peer]);
            assert!(line.contains("certificate") || line.contains("CA"), "{line}");
        }
    }
    talks_to_itself(&mut other, "undisturbed");
}

#[test]
fn a_client_certificate_is_the_user() {
    let toml = "acl_file = \"acl\"\n[tls]\nrequire_certificate = true";
    let broker = Broker::prepared().config(toml).listen(&[Way::MqttTls]);
    broker.write("acl", "user sensor-1\ntopic of/sensor-1\n");
    let ours = certs(&broker, "certs");
    ours.client("sensor-1");
    let theirs = certs(&broker, "strangers");
    let mut broker = broker.certs(ours.folder());
    broker.restart();
    let tls = Tls::trusting(&ours);

    // The name has rights; another of the same CA has none.
    let stream = tls.clone().showing(&ours, "sensor-1").connect(broker.at(Way::MqttTls));
    let peer = stream.peer();
    let mut sensor = accepted(Client::over(stream, &Connect::v5("a")));
    talks_to_itself(&mut sensor, "of/sensor-1");
    assert_eq!(sensor.publish(Publish::new("of/client", "x").qos(1)), 0x87);
    let mut other = accepted(Client::over(
        tls.clone().showing(&ours, "client").connect(broker.at(Way::MqttTls)),
        &Connect::v5("b"),
    ));
    assert_eq!(other.publish(Publish::new("of/sensor-1", "x").qos(1)), 0x87);
    // A name in CONNECT does not change who it is.
    let liar = tls.clone().showing(&ours, "client").connect(broker.at(Way::MqttTls));
    let mut liar = accepted(Client::over(liar, &Connect::v5("c").user("sensor-1").password("x")));
    assert_eq!(liar.publish(Publish::new("of/sensor-1", "x").qos(1)), 0x87);
    // Refused, a line for each.
    for refused in [tls.clone(), tls.clone().showing(&theirs, "client")] {
        for tls in [refused.clone().v12(), refused.v13()] {
            let socket = tcp(broker.at(Way::MqttTls));
            let peer = socket.peer();
            let client = tls.on(socket).map(|stream| Client::try_over(stream, &Connect::v5("d")));
            assert!(!matches!(client, Ok(Ok(_))), "it came in");
            broker.log_line(&[&peer, "certificate"]);
        }
    }
    talks_to_itself(&mut sensor, "of/sensor-1");
    // The log says who it was.
    sensor.send(b"\x00\x00");
    sensor.expect_closed();
    broker.log_line(&[&peer, "sensor-1"]);
}

#[test]
fn a_certificate_is_no_user_where_the_configuration_says_so() {
    let toml = "[mqtt]\nallow_anonymous = false\n[tls]\nuse_identity_as_username = false";
    let (mut broker, certs) = start(toml);
    let tls = Tls::trusting(&certs).showing(&certs, "client");
    let come = |broker: &Broker| Client::over(tls.connect(broker.at(Way::MqttTls)), &Connect::v5("a"));
    assert_eq!(come(&broker).connack.code, 0x87);
    broker.write_config("[mqtt]\nallow_anonymous = false");
    assert!(broker.reload().contains("INFO  reloaded"));
    accepted(come(&broker)).ping();
}

/// A certificate by rcgen that ended in the past.
fn expired(folder: &std::path::Path) {
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = params.self_signed(&key).expect("signed");
    fs::write(folder.join("old.crt"), certificate.pem()).expect("a writable folder");
    fs::write(folder.join("old.key"), key.serialize_pem()).expect("a writable folder");
}

#[test]
fn an_expired_certificate_is_warned_of() {
    let mut broker =
        Broker::prepared().config("[tls]\ncertfile = \"old.crt\"\nkeyfile = \"old.key\"").listen(&[Way::MqttTls]);
    expired(broker.folder());
    broker.restart();
    broker.log_line(&["expired", "Jan  1 00:00:00 2021", "old.crt"]);
    // It goes on nevertheless; the client is the one to refuse.
    let ours = certs(&broker, "certs");
    assert!(Tls::trusting(&ours).on(tcp(broker.at(Way::MqttTls))).is_err());
    broker.connect(Connect::v5("plain")).ping();
}

#[test]
fn certificates_that_cannot_be_used_are_told_in_one_line() {
    let mut broker = Broker::prepared().listen(&[Way::MqttTls]);
    certs(&broker, "certs");
    broker.write("empty.pem", "");
    let cases = [
        ("certfile = \"certs/server.crt\"\nkeyfile = \"certs/client.key\"", "certs/client.key"),
        ("certfile = \"certs/none.crt\"\nkeyfile = \"certs/server.key\"", "certs/none.crt"),
        ("certfile = \"certs/server.crt\"\nkeyfile = \"certs/none.key\"", "certs/none.key"),
        ("certs = \"certs\"\ncafile = \"none.crt\"", "none.crt"),
        ("certfile = \"empty.pem\"\nkeyfile = \"certs/server.key\"", "empty.pem"),
        ("certfile = \"certs/server.crt\"\nkeyfile = \"certs/server.crt\"", "certs/server.crt"),
    ];
    for (keys, named) in cases {
        broker.write_config(&format!("[tls]\n{keys}"));
        let words = broker.fails_to_start();
        let errors: Vec<&str> = words.lines().filter(|line| line.contains("millstream: ")).collect();
        assert!(errors.len() == 1 && errors[0].contains(named), "{words}");
        // (It knows no flags, and files beside the configuration by the same paths.)
        let mut check = Command::new(binary());
        check.arg("check-config").arg(broker.config_path()).current_dir(broker.folder());
        let output = check.env("MILLSTREAM__MQTT__TLS", "127.0.0.1:1").output().expect("the binary is built");
        assert!(!output.status.success(), "{keys}");
        assert_eq!(String::from_utf8_lossy(&output.stderr).trim_end(), errors[0]);
    }
    // A listener without any.
    broker.write_config("");
    let words = broker.fails_to_start();
    assert!(words.contains("mqtt.tls") && words.lines().count() == 1, "{words}");
}

/// Sends these bytes, waits until the server closes, and gives its answer and the line in the log.
#[track_caller]
fn refused(broker: &Broker, address: SocketAddr, bytes: &[u8]) -> (Vec<u8>, String) {
    let mut stream = tcp(address);
    let asked = Instant::now();
    stream.write_all(bytes).expect("an open connection");
    let answer = read_to_close(&mut stream);
    assert!(asked.elapsed() < Duration::from_secs(5), "it took {:?}", asked.elapsed());
    let line = broker.log_line(&[&stream.peer()]);
    (answer, line)
}

/// ClientHello of TLS 1.1, as an old device sends it.
fn hello_1_1() -> Vec<u8> {
    let mut hello = vec![3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 4, 0xC0, 0x13, 0, 0x2F, 1, 0]);
    let mut handshake = vec![1, 0, 0, hello.len() as u8];
    handshake.extend(hello);
    let mut record = vec![22, 3, 1, 0, handshake.len() as u8];
    record.extend(handshake);
    record
}

#[test]
fn the_wrong_protocol_is_refused_at_once_and_named() {
    let (broker, certs) = start("");
    let mut other =
        accepted(Client::over(Tls::trusting(&certs).connect(broker.at(Way::MqttTls)), &Connect::v5("other")));
    for connect in [Connect::v5("plain").bytes(), Connect::v311("plain").bytes()] {
        let (_, line) = refused(&broker, broker.at(Way::MqttTls), &connect);
        assert!(line.contains("TLS"), "{line}");
    }
    let socket = tcp(broker.mqtt());
    let peer = socket.peer();
    assert!(Tls::trusting(&certs).on(socket).is_err());
    let line = broker.log_line(&[&peer]);
    assert!(line.contains("TLS"), "{line}");
    let (_, line) = refused(&broker, broker.mqtt(), b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(line.contains("HTTP"), "{line}");
    let (_, line) = refused(&broker, broker.at(Way::MqttTls), b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert!(line.contains("TLS"), "{line}");
    let (answer, line) = refused(&broker, broker.at(Way::MqttTls), &hello_1_1());
    assert_eq!((answer[0], answer[5]), (21, 2), "a fatal alert is due");
    assert!(line.contains("1.2 and 1.3 only"), "{line}");
    talks_to_itself(&mut other, "undisturbed");
}

#[test]
fn who_does_not_finish_the_handshake_is_closed() {
    let (broker, certs) = start("[mqtt]\nconnect_timeout_s = 1");
    let mut hello = Vec::new();
    Tls::trusting(&certs).connection().write_tls(&mut hello).expect("memory");
    let half = |count: usize| -> TcpStream {
        let mut stream = tcp(broker.at(Way::MqttTls));
        stream.write_all(&hello[..count]).expect("an open connection");
        stream
    };
    let mut silent = [half(0), half(60), half(hello.len())];
    // Done with the handshake, and then no CONNECT.
    let mut mute = Tls::trusting(&certs).connect(broker.at(Way::MqttTls));
    for stream in &mut silent {
        read_to_close(stream);
        broker.log_line(&[&stream.peer()]);
    }
    read_to_close(&mut mute);
    let metrics = http::get(broker.admin(), "/metrics").expect("metrics").body;
    assert!(metrics.contains("\nmillstream_mqtt_connections 0\n"), "{metrics}");
    let mut client =
        accepted(Client::over(Tls::trusting(&certs).connect(broker.at(Way::MqttTls)), &Connect::v5("in time")));
    talks_to_itself(&mut client, "in/time");
}
