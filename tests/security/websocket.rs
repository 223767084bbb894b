//! MQTT in WebSocket messages, without and with TLS.

use crate::{accepted, certs, payload, talks_to_itself};
use std::io::Write;
use support::broker::{Broker, Way};
use support::mqtt::{AckKind, Client, Connect, Packet, Prop, Publish, Version, subscribe, take_packet};
use support::stream::{Duplex, read_to_close, tcp};
use support::tls::Tls;
use support::websocket::{Opcode, WebSocket};

#[track_caller]
fn start() -> Broker {
    let mut broker = Broker::prepared().listen(&[Way::Ws]);
    broker.restart();
    broker
}

#[track_caller]
fn open(broker: &Broker) -> WebSocket<std::net::TcpStream> {
    WebSocket::open(tcp(broker.at(Way::Ws)))
}

#[test]
fn the_subprotocol_is_chosen_or_the_upgrade_refused() {
    let broker = start();
    let ask = |path, protocols| WebSocket::ask(tcp(broker.at(Way::Ws)), path, protocols);
    let chosen = |path, protocols| {
        let (_, answer) = ask(path, Some(protocols)).expect("an upgrade");
        answer.header("sec-websocket-protocol").map(str::to_owned)
    };
    assert_eq!(chosen("/mqtt", "mqtt").as_deref(), Some("mqtt"));
    assert_eq!(chosen("/", "mqttv3.1").as_deref(), Some("mqttv3.1"));
    assert_eq!(chosen("/any/path?with=query", "soap, mqtt").as_deref(), Some("mqtt"));
    for protocols in [None, Some("soap"), Some("mqttx"), Some("")] {
        let answer = ask("/mqtt", protocols).expect_err("no protocol of ours");
        assert_eq!(answer.status(), 400, "{protocols:?}");
    }
    // MQTT by either name.
    for name in ["mqtt", "mqttv3.1"] {
        let (socket, _) = ask("/mqtt", Some(name)).expect("an upgrade");
        talks_to_itself(&mut accepted(Client::over(socket, &Connect::v311("a"))), "t");
    }
}

#[test]
fn a_path_may_be_asked_for() {
    let mut broker = Broker::prepared().listen(&[Way::Ws]).config("[mqtt]\nws_path = \"/mqtt\"\n");
    broker.restart();
    let ask = |path| WebSocket::ask(tcp(broker.at(Way::Ws)), path, Some("mqtt"));
    for path in ["/mqtt", "/mqtt?with=query"] {
        let (socket, _) = ask(path).expect("an upgrade");
        talks_to_itself(&mut accepted(Client::over(socket, &Connect::v311("a"))), "t");
    }
    for path in ["/", "/mqtt/", "/mqttx", "/other"] {
        assert_eq!(ask(path).expect_err("another path").status(), 404, "{path}");
    }
}

#[test]
fn packets_are_cut_and_joined_in_messages_and_frames() {
    let broker = start();
    for (message, frame) in [(1, 1), (7, 7), (1000, 3), (65_536, 127)] {
        let socket = open(&broker).cut(message, frame);
        let mut client = accepted(Client::over(socket, &Connect::v5("cut")));
        talks_to_itself(&mut client, "cut");
        assert_eq!(client.publish(Publish::new("cut", payload(5000)).qos(2)), 0);
        assert!(client.take().payload == payload(5000), "{message}, {frame}");
    }
    // Everything in one message.
    let mut client = Client::on(open(&broker), Version::V5);
    let mut joined = Connect::v5("joined").bytes();
    joined.extend(subscribe(Version::V5, 1, &[("t", 1)], &[]));
    (1..=100).for_each(|n| joined.extend(Publish::new("t", n.to_string()).qos(1).id(n).bytes(Version::V5)));
    client.send(&joined);
    client.recv();
    (1..=100).for_each(|n| assert_eq!(client.expect_ack(AckKind::PubAck, n), 0));
    (1..=100).for_each(|n| assert_eq!(client.take().text(), n.to_string()));
}

#[test]
fn control_frames_are_answered_even_within_a_message() {
    let broker = start();
    let mut socket = open(&broker);
    socket.send_frame(true, Opcode::Ping, b"before").expect("open");
    let pong = socket.recv_frame();
    assert_eq!((pong.opcode, pong.payload.as_slice()), (Opcode::Pong, &b"before"[..]));
    let connect = Connect::v311("a").bytes();
    socket.send_frame(false, Opcode::Binary, &connect[..5]).expect("open");
    socket.send_frame(true, Opcode::Ping, b"within").expect("open");
    socket.send_frame(true, Opcode::More, &connect[5..]).expect("open");
    let pong = socket.recv_frame();
    assert_eq!((pong.opcode, pong.payload.as_slice()), (Opcode::Pong, &b"within"[..]));
    let mut connack = socket.recv_frame();
    assert_eq!(connack.opcode, Opcode::Binary);
    let packet = take_packet(Version::V311, &mut connack.payload);
    assert!(matches!(packet, Ok(Some(Packet::ConnAck(connack))) if connack.code == 0));
    // The close handshake: the code comes back.
    socket.send_frame(true, Opcode::Close, &1000_u16.to_be_bytes()).expect("open");
    let close = socket.recv_frame();
    assert_eq!((close.opcode, close.payload.first_chunk()), (Opcode::Close, Some(&1000_u16.to_be_bytes())));
}

#[test]
fn a_close_without_disconnect_sends_the_will() {
    let broker = start();
    let mut watcher = broker.connect(Connect::v5("watcher"));
    watcher.subscribe("will", 1);
    let mut socket = open(&broker);
    let connect = Connect::v311("a").will(Publish::new("will", "gone").qos(1));
    socket.send_frame(true, Opcode::Binary, &connect.bytes()).expect("open");
    assert_eq!(socket.recv_frame().opcode, Opcode::Binary);
    socket.send_frame(true, Opcode::Close, &1001_u16.to_be_bytes()).expect("open");
    assert_eq!(watcher.take().text(), "gone");
}

#[test]
fn text_is_closed() {
    let broker = start();
    let mut socket = open(&broker);
    let peer = socket.peer();
    socket.send_frame(true, Opcode::Text, &Connect::v311("a").bytes()).expect("open");
    assert_eq!(read_to_close(&mut socket), b"");
    assert!(matches!(socket.closed, None | Some(1003)), "{:?}", socket.closed);
    let line = broker.log_line(&[&peer]);
    assert!(line.contains("text"), "{line}");
    // And what is no WebSocket at all.
    for bytes in [Connect::v5("plain").bytes(), b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()] {
        let mut stream = tcp(broker.at(Way::Ws));
        stream.write_all(&bytes).expect("open");
        read_to_close(&mut stream);
        let line = broker.log_line(&[&stream.peer()]);
        assert!(line.contains("WebSocket"), "{line}");
    }
}

#[test]
fn large_messages_go_both_ways_with_and_without_tls() {
    let broker = Broker::prepared().config("shards = 2").listen(&[Way::Ws, Way::Wss]);
    let certs = certs(&broker, "certs");
    let mut broker = broker.certs(certs.folder());
    broker.restart();
    let large = payload(300_000);
    let plain = Client::over(open(&broker), &Connect::v5("plain"));
    let secure = || WebSocket::open(Tls::trusting(&certs).connect(broker.at(Way::Wss)));
    // Ids enough for every thread.
    let mut clients = vec![plain];
    clients.extend((0..4).map(|n| Client::over(secure().cut(70_000, 16_000), &Connect::v5(&n.to_string()))));
    for (n, client) in clients.into_iter().enumerate() {
        let mut client = accepted(client);
        let topic = format!("large/{n}");
        assert_eq!(client.subscribe(&topic, 1), 1);
        assert_eq!(client.publish(Publish::new(&topic, &large).qos(1)), 0);
        assert!(client.take().payload == large);
    }
    let (_, answer) =
        WebSocket::ask(Tls::trusting(&certs).connect(broker.at(Way::Wss)), "/", Some("mqttv3.1")).expect("an upgrade");
    assert_eq!(answer.header("sec-websocket-protocol"), Some("mqttv3.1"));
}

#[test]
fn a_slow_reader_gets_everything_and_holds_up_nobody() {
    let broker = Broker::prepared().listen(&[Way::Ws, Way::Wss, Way::MqttTls]);
    let certs = certs(&broker, "certs");
    let mut broker = broker.certs(certs.folder());
    broker.restart();
    let tls = |way| Tls::trusting(&certs).connect(broker.at(way));
    let connect = |id: &str| Connect::v5(id).with(Prop::ReceiveMaximum(100));
    let mut slow = [
        accepted(Client::over(open(&broker), &connect("ws"))),
        accepted(Client::over(WebSocket::open(tls(Way::Wss)), &connect("wss"))),
        accepted(Client::over(tls(Way::MqttTls), &connect("tls"))),
    ];
    slow.iter_mut().for_each(|client| assert_eq!(client.subscribe("t", 1), 1));
    let mut publisher = broker.connect(Connect::v5("publisher"));
    // More than any socket buffers.
    for n in 0..60_u8 {
        let mut message = payload(200_000);
        message[0] = n;
        assert_eq!(publisher.publish(Publish::new("t", message).qos(1)), 0);
    }
    publisher.ping();
    for client in &mut slow {
        for n in 0..60_u8 {
            let got = client.take();
            assert_eq!((got.payload.len(), got.payload[0]), (200_000, n));
        }
        client.ping();
    }
}

#[test]
fn a_client_may_come_back_by_another_way() {
    let broker = Broker::prepared().config("shards = 2").listen(&[Way::Ws, Way::Wss, Way::MqttTls]);
    let certs = certs(&broker, "certs");
    let mut broker = broker.certs(certs.folder());
    broker.restart();
    let tls = |way| Tls::trusting(&certs).connect(broker.at(way));
    for id in ["a", "b", "c", "d"] {
        let connect = Connect::v5(id).durable();
        let mut first = broker.connect(connect.clone());
        first.subscribe("t", 1);
        let mut second = accepted(Client::over(WebSocket::open(tls(Way::Wss)), &connect));
        let mut third = accepted(Client::over(tls(Way::MqttTls), &connect));
        let mut fourth = accepted(Client::over(open(&broker), &connect));
        for taken_over in [&mut first, &mut second, &mut third] {
            assert_eq!(taken_over.expect_closed(), Some(0x8E), "{id}");
        }
        assert!(second.connack.session_present && third.connack.session_present && fourth.connack.session_present);
        assert_eq!(fourth.publish(Publish::new("t", id).qos(1)), 0);
        assert_eq!(fourth.take().text(), id);
        fourth.disconnect();
    }
}

#[test]
fn the_largest_packet_may_have_company_and_none_is_larger() {
    let mut broker = Broker::prepared().config("[mqtt]\nmax_packet_size = 100000").listen(&[Way::Ws]);
    broker.restart();
    // One of exactly 100,000 bytes and its neighbours in one message.
    let mut client = accepted(Client::over(open(&broker), &Connect::v5("joined")));
    let packet = |id, bytes| Publish::new("t", payload(bytes)).qos(1).id(id).bytes(Version::V5);
    let largest = packet(2, 100_000 - packet(2, 90_000).len() + 90_000);
    assert_eq!(largest.len(), 100_000);
    client.send(&[packet(1, 10_000), largest, packet(3, 10_000)].concat());
    (1..=3).for_each(|id| assert!(client.expect_ack(AckKind::PubAck, id) < 0x80, "{id}"));
    // One that is too large, in pieces.
    let mut client = accepted(Client::over(open(&broker).cut(3000, 1000), &Connect::v5("large")));
    // It may be closed before it has sent everything.
    let _ = client.try_send(&packet(1, 100_000));
    assert_eq!(client.expect_closed(), Some(0x95));
}

#[test]
fn frames_that_break_the_protocol_are_closed() {
    let broker = start();
    let mut other = accepted(Client::over(open(&broker), &Connect::v5("other")));
    let broken: [&[u8]; 5] = [
        b"\x82\x04abcd",                                         // without a mask
        b"\xC2\x80\0\0\0\0",                                     // with an extension nobody agreed on
        b"\x83\x80\0\0\0\0",                                     // of an unknown kind
        b"\x80\x84\0\0\0\0abcd",                                 // a second part without a first
        b"\x82\xFF\x7F\xFF\xFF\xFF\xFF\xFF\xFF\xFF\0\0\0\0data", // of nearly 2^63 bytes
    ];
    for frame in broken {
        let mut socket = open(&broker);
        let peer = socket.peer();
        socket.stream().write_all(frame).expect("open");
        read_to_close(&mut socket);
        broker.log_line(&[&peer]);
    }
    talks_to_itself(&mut other, "undisturbed");
}
