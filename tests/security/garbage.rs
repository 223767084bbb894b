//! Clients that are none, many at once, while an honest one works.

use crate::{accepted, certs};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;
use support::PATIENCE;
use support::broker::{Broker, Way};
use support::mqtt::{AckKind, Client, Connect, Publish};
use support::random::Random;
use support::stream::tcp;
use support::tls::Tls;
use support::websocket::{Opcode, WebSocket};

/// One stranger. What it begins with is right, so that the garbage gets as far as it can.
fn disturb(seed: u64, broker: [SocketAddr; 4], tls: &Tls) {
    let mut random = Random::seeded(seed);
    let garbage = random.within(1, 4000) as usize;
    let garbage = random.bytes(garbage);
    let [mqtt_tls, ws, wss, kafka_tls] = broker;
    match seed % 8 {
        0 => spill(tcp(mqtt_tls), &garbage),
        1 => spill(tcp(ws), &garbage),
        2 => {
            // A hello with its end torn off and garbage in its place.
            let mut hello = Vec::new();
            tls.connection().write_tls(&mut hello).expect("memory");
            hello.truncate(random.within(1, hello.len() as u64 - 1) as usize);
            spill(tcp([mqtt_tls, wss, kafka_tls][seed as usize % 3]), &[hello, garbage].concat());
        }
        3 => spill(tcp(ws), &[b"GET /mqtt HTTP/1.1\r\nUpgrade: websocket\r\n", &garbage[..]].concat()),
        // Through the handshake, and then garbage.
        4 => tls.connect(mqtt_tls).write_all(&garbage).unwrap_or_default(),
        5 => tls.connect(kafka_tls).write_all(&garbage).unwrap_or_default(),
        6 => WebSocket::open(tls.connect(wss)).write_all(&garbage).unwrap_or_default(),
        _ => {
            let mut socket = WebSocket::open(tcp(ws));
            // Frames no MQTT client sends; the server may be gone before the last.
            let frames = [Opcode::More, Opcode::Ping, Opcode::Binary, Opcode::Text, Opcode::Close];
            frames.iter().for_each(|opcode| socket.send_frame(seed % 16 < 8, *opcode, &garbage).unwrap_or_default());
        }
    }
}

fn spill(mut stream: TcpStream, garbage: &[u8]) {
    // The server may close before it has all of it, or wait for more until its timeout.
    if stream.write_all(garbage).is_ok() && stream.shutdown(Shutdown::Write).is_ok() {
        stream.set_read_timeout(Some(Duration::from_secs(2))).expect("an open socket");
        let _ = stream.read(&mut [0; 64]);
    }
}

#[test]
fn two_hundred_strangers_do_not_disturb_one_client() {
    let broker = Broker::prepared().listen(&[Way::MqttTls, Way::Ws, Way::Wss, Way::KafkaTls]);
    let certs = certs(&broker, "certs");
    let mut broker = broker.certs(certs.folder());
    broker.restart();
    let tls = Tls::trusting(&certs);
    let addresses = [Way::MqttTls, Way::Ws, Way::Wss, Way::KafkaTls].map(|way| broker.at(way));
    let mut good = accepted(Client::over(tls.connect(broker.at(Way::MqttTls)), &Connect::v5("good")));
    thread::scope(|scope| {
        let strangers = (0..200).map(|seed| {
            let tls = &tls;
            scope.spawn(move || disturb(seed, addresses, tls))
        });
        let strangers: Vec<_> = strangers.collect();
        for id in 1..=1000 {
            good.send_publish(&Publish::new("good", id.to_string()).qos(1).id(id));
            // Some way behind, so that both directions are busy.
            if id > 50 {
                assert!(good.expect_ack(AckKind::PubAck, id - 50) < 0x80);
            }
        }
        (951..=1000).for_each(|id| assert!(good.expect_ack(AckKind::PubAck, id) < 0x80));
        for stranger in strangers {
            stranger.join().expect("a stranger does not fail either");
        }
    });
    good.ping();
    assert!(broker.is_running() && !broker.stderr().contains("panicked"));
    let logged = support::kafka::Kafka::at(broker.kafka()).texts("mqtt", 1000);
    assert_eq!(logged.len(), 1000);
    assert!(good.try_recv(PATIENCE / 1000).is_err(), "nothing was left over");
}
