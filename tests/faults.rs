//! Bad input, a bad start, a polite end, and what the admin listener tells.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};
use support::broker::{Broker, wait_for_exit};
use support::http;
use support::kafka::Kafka;
use support::mqtt::{AckKind, Client, Connect, Lost, Packet, Prop, Publish};
use support::random::Random;

/// A start that must fail; gives its stderr.
#[track_caller]
fn fails_to_start(broker: &Broker) -> String {
    let mut command = broker.command();
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary is built");
    let status = wait_for_exit(&mut child).expect("it gives up");
    let mut words = String::new();
    let mut stderr = child.stderr.take().expect("it is piped");
    stderr.read_to_string(&mut words).expect("text");
    assert!(!status.success(), "it started:\n{words}");
    assert!(!words.contains("panicked"), "{words}");
    // (An address is "already in use".)
    assert!(!words.contains(" ready"), "{words}");
    words
}

/// One line that names each of these.
#[track_caller]
fn tells_in_one_line(words: &str, named: &[&str]) {
    let tells = |line: &&str| named.iter().all(|name| line.contains(name));
    assert!(words.lines().any(|line| tells(&line)), "{named:?} in\n{words}");
}

/// MQTT, Kafka and admin do what they are for.
#[track_caller]
fn serves_all(broker: &Broker) {
    let mut client = broker.connect(Connect::v5("serves-all"));
    client.subscribe("serves/all", 1);
    assert_eq!(client.publish(Publish::new("serves/all", "x").qos(2)), 0);
    assert_eq!(client.take().text(), "x");
    assert!(!Kafka::at(broker.kafka()).read("mqtt", 1).is_empty());
    assert_eq!(http::get(broker.admin(), "/ready").map(|a| a.status).ok(), Some(200));
}

#[test]
fn the_last_line_of_a_start_says_ready_with_the_addresses() {
    let broker = Broker::start();
    let words = support::eventually("the last line", || {
        let words = broker.stderr();
        words.contains("ready").then_some(words)
    });
    let last = words.lines().last().expect("it says something");
    let addresses = [broker.mqtt(), broker.kafka(), broker.admin()].map(|a| a.to_string());
    for due in ["ready", &addresses[0], &addresses[1], &addresses[2]] {
        assert!(last.contains(due), "{due} in {last}");
    }
}

#[test]
fn a_used_port_is_told_in_one_line() {
    for which in ["mqtt", "kafka", "admin"] {
        let broker = Broker::prepared();
        let address = match which {
            "mqtt" => broker.mqtt(),
            "kafka" => broker.kafka(),
            _ => broker.admin(),
        };
        let _occupied = TcpListener::bind(address).expect("a leased port is free");
        let words = fails_to_start(&broker);
        tells_in_one_line(&words, &[&address.to_string()]);
    }
}

#[test]
fn a_data_folder_in_use_is_told_in_one_line() {
    let broker = Broker::start();
    let folder = broker.data_dir();
    let second = Broker::prepared().data_in(folder);
    let words = fails_to_start(&second);
    tells_in_one_line(&words, &[&folder.to_string_lossy()]);
    serves_all(&broker);
}

#[test]
fn a_configuration_that_cannot_be_read_is_told_in_one_line() {
    for (toml, named) in [
        ("[mqtt\n", ""),
        ("[mqtt]\ntcp = 7\n", "tcp"),
        ("[mqtt]\ntcq = \"127.0.0.1:1\"\n", "tcq"),
        ("[bridge]\nenabled = \"perhaps\"\n", "enabled"),
    ] {
        let broker = Broker::prepared().config(toml);
        let words = fails_to_start(&broker);
        tells_in_one_line(&words, &["millstream.toml", named]);
    }
    // No file at all.
    let broker = Broker::prepared().config("");
    let path = broker.folder().join("millstream.toml");
    std::fs::remove_file(&path).expect("it was written");
    let words = fails_to_start(&broker);
    tells_in_one_line(&words, &["millstream.toml"]);
}

#[test]
fn a_listener_can_be_off() {
    let mut broker = Broker::prepared().config("[kafka]\ntcp = \"off\"\n").kafka_by_config();
    broker.restart();
    broker.connect(Connect::v311("a")).ping();
    assert!(TcpStream::connect(broker.kafka()).is_err());
}

/// Sends these bytes and reads what comes until the other side closes; half closes itself
/// first, so that a server that waits for the rest sees that there is none.
fn poke(address: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    let limit = Some(Duration::from_secs(10));
    stream.set_read_timeout(limit).expect("an open socket");
    // The server may have closed in the middle of it.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        let reset = error.kind() == std::io::ErrorKind::ConnectionReset;
        assert!(reset, "{error} after {:?}", &bytes[..bytes.len().min(40)]);
    }
}

/// What strangers say: noise, other protocols, sizes that promise too much, half packets.
fn strange_words() -> Vec<Vec<u8>> {
    let mut random = Random::seeded(7);
    let mut words: Vec<Vec<u8>> = [
        &b""[..],
        b"\0",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\0\x01\0\x01\xFC\x03\x03",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF",
        // CONNECT cut, CONNECT with a client id longer than the packet.
        b"\x10\x0D\0\x04MQTT\x04\x02\0",
        b"\x10\x0D\0\x04MQTT\x04\x02\0\x3C\xFF\xFFa",
        // The largest packet there can be, promised.
        b"\x10\xFF\xFF\xFF\x7F",
        // Kafka: a size of 2 GiB, a negative size, a size of 0, ApiVersions cut, an unknown key.
        b"\x7F\xFF\xFF\xFF",
        b"\x80\0\0\0",
        b"\0\0\0\0",
        b"\0\0\0\x14\0\x12\0\x03\0\0\0\x01\0\x04",
        b"\0\0\0\x0A\x7F\xFF\0\0\0\0\0\x01\0\0",
        // Metadata that promises two billion topics; Produce that promises as many.
        b"\0\0\0\x0E\0\x03\0\x01\0\0\0\x01\0\0\x7F\xFF\xFF\xFF",
        b"\0\0\0\x16\0\0\0\x03\0\0\0\x01\0\0\xFF\xFF\0\x01\0\0\0\x64\x7F\xFF\xFF\xFF",
    ]
    .map(<[u8]>::to_vec)
    .into();
    for size in [1, 2, 7, 100, 5000, 200_000] {
        words.push(random.bytes(size));
    }
    for _ in 0..200 {
        let size = random.within(1, 300) as usize;
        words.push(random.bytes(size));
    }
    // A valid start with every single byte turned over.
    let connect = b"\x10\x14\0\x04MQTT\x05\x02\0\x3C\x05\x11\0\0\0\x0A\0\x03abc";
    let api_versions = b"\0\0\0\x13\0\x12\0\x03\0\0\0\x01\0\x04kcat\0\x02k\x021\0";
    for valid in [&connect[..], api_versions] {
        for place in 0..valid.len() {
            let mut turned = valid.to_vec();
            turned[place] ^= 0xFF;
            words.push(turned);
            words.push(valid[..place].to_vec());
        }
    }
    words
}

#[test]
fn garbage_closes_only_its_own_connection() {
    let mut broker = Broker::start();
    let mut bystander = broker.connect(Connect::v5("bystander"));
    bystander.subscribe("still", 1);
    for address in [broker.mqtt(), broker.kafka(), broker.admin()] {
        for bytes in strange_words() {
            poke(address, &bytes);
        }
        bystander.publish(Publish::new("still", "here").qos(1));
        assert_eq!(bystander.take().text(), "here");
        serves_all(&broker);
    }
    assert!(broker.is_running());
    assert!(!broker.stderr().contains("panicked"));
}

#[test]
fn half_packets_hold_up_nobody_else() {
    let broker = Broker::start();
    let mut held = Vec::new();
    for address in [broker.mqtt(), broker.kafka(), broker.admin()] {
        for half in [&b"\x10\x0D\0\x04MQ"[..], b"\0\0\0\x14\0\x12", b"GET /rea"] {
            for _ in 0..20 {
                let mut stream = TcpStream::connect(address).expect("it listens");
                stream.write_all(half).expect("an open connection");
                held.push(stream);
            }
        }
    }
    serves_all(&broker);
    drop(held);
    serves_all(&broker);
}

#[test]
fn a_client_that_reads_nothing_holds_up_nobody_else() {
    let broker = Broker::start();
    let mut deaf = broker.connect(Connect::v311("deaf"));
    deaf.subscribe("flood", 0);
    let mut from = broker.connect(Connect::v311("from"));
    let payload = vec![b'x'; 100_000];
    for _ in 0..300 {
        from.publish(Publish::new("flood", &payload));
    }
    // 30 MB for a client that reads nothing: its publisher is served all the same.
    assert_eq!(from.publish(Publish::new("flood", "end").qos(1)), 0);
    serves_all(&broker);
}

/// The most memory a process has had, in bytes.
fn peak_bytes(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("Linux tells it");
    let kib = line.split_whitespace().nth(1).expect("a number").parse::<u64>().expect("a number");
    kib << 10
}

#[test]
fn answers_for_a_client_that_reads_none_do_not_pile_up() {
    let broker = Broker::start();
    let mut stream = TcpStream::connect(broker.mqtt()).expect("it listens");
    stream.write_all(b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01p").expect("an open connection");
    stream.read_exact(&mut [0; 4]).expect("a CONNACK");
    let limit = Some(Duration::from_secs(2));
    stream.set_write_timeout(limit).expect("an open socket");
    // 48 MB of PINGREQ: at some point the server takes no more.
    let pings = b"\xC0\0".repeat(500_000);
    let refused = (0..48).any(|_| stream.write_all(&pings).is_err());
    assert!(refused, "48 MB of answers wait for it");
    serves_all(&broker);
    // Who reads again is served again.
    let mut answers = vec![0; 1 << 20];
    stream.set_write_timeout(None).expect("an open socket");
    for _ in 0..8 {
        stream.read_exact(&mut answers).expect("its answers");
    }
}

#[test]
fn a_durable_client_that_reads_nothing_leaves_its_messages_in_the_log() {
    let broker = Broker::start();
    let mut deaf = broker.connect(Connect::v5("deaf").durable());
    deaf.subscribe("flood", 1);
    let mut from = broker.connect(Connect::v5("from"));
    let payload = vec![b'x'; 1_000_000];
    for _ in 0..100 {
        assert_eq!(from.publish(Publish::new("flood", &payload).qos(1)), 0);
    }
    let peak = peak_bytes(broker.id());
    assert!(peak < 80 << 20, "{peak} bytes for 100 MB that nobody reads");
    for _ in 0..5 {
        assert_eq!(deaf.take().payload.len(), payload.len());
    }
}

#[test]
fn long_topics_do_not_pile_up() {
    let broker = Broker::with_config("shards = 1\n[bridge]\nenabled = false\n");
    let mut client = broker.connect(Connect::v311("client"));
    for n in 0..3000 {
        client.send_publish(&Publish::new(&format!("{n}{}", "x".repeat(65_000)), ""));
    }
    client.ping();
    let peak = peak_bytes(broker.id());
    assert!(peak < 130 << 20, "{peak} bytes for topics that were published once");
}

/// A shard is kept busy by one subscriber whom each message costs a thousand subscription identifiers, and
/// who takes none of them for their size.
#[test]
fn publishers_wait_for_a_shard_that_is_behind() {
    let broker = Broker::with_config("shards = 2\n[bridge]\nenabled = false\n");
    let mut costly = broker.connect(Connect::v5("costly").with(Prop::MaximumPacketBytes(64)));
    for mask in 0..1024u32 {
        let level = |bit: u32| if mask >> bit & 1 == 0 { "a" } else { "+" };
        let filter = (0..10).map(level).collect::<Vec<_>>().join("/");
        costly.subscribe_with(&[(&filter, 0)], &[Prop::SubscriptionId(mask + 1)]);
    }
    let message = Publish::new("a/a/a/a/a/a/a/a/a/a", [b'x'; 1000]);
    let flood = |n: u32| {
        let mut client = broker.connect(Connect::v311(&format!("flood-{n}")));
        let until = Instant::now() + Duration::from_secs(3);
        while Instant::now() < until && client.try_send_publish(&message).is_ok() {}
    };
    thread::scope(|scope| {
        // Some of them live on the other shard.
        (0..8).for_each(|n| {
            drop(scope.spawn({
                let flood = &flood;
                move || flood(n)
            }))
        });
    });
    let peak = peak_bytes(broker.id());
    assert!(peak < 60 << 20, "{peak} bytes wait for a shard");
    broker.connect(Connect::v5("later")).ping();
}

/// Publishes at QoS 1 with some under way until the broker is gone; gives the acknowledged.
fn publish_until_gone(mqtt: SocketAddr, n: u32) -> Vec<String> {
    let mut client = Client::connect(mqtt, &Connect::v311(&format!("p{n}")));
    let text = |id: u16| format!("{n}:{id}");
    let mut acknowledged = Vec::new();
    for id in 1..=u16::MAX {
        let topic = format!("load/{n}");
        let message = Publish::new(&topic, text(id)).qos(1).id(id);
        if client.try_send_publish(&message).is_err() {
            break;
        }
        while usize::from(id) - acknowledged.len() >= 10 {
            match client.try_recv(support::PATIENCE) {
                Ok(Packet::Ack(ack)) if ack.kind == AckKind::PubAck => {
                    acknowledged.push(text(ack.id));
                }
                Err(Lost::Closed) => return acknowledged,
                other => panic!("PUBACK was due, came {other:?}"),
            }
        }
    }
    acknowledged
}

#[test]
fn sigterm_under_load_ends_in_time_and_loses_nothing() {
    let mut broker = Broker::start();
    let mqtt = broker.mqtt();
    let mut absent = broker.connect(Connect::v5("absent").durable());
    absent.subscribe("load/#", 1);
    drop(absent);
    let acknowledged: HashSet<String> = thread::scope(|scope| {
        let publishers = [0, 1, 2, 3].map(|n| scope.spawn(move || publish_until_gone(mqtt, n)));
        thread::sleep(Duration::from_millis(500));
        let (status, elapsed) = broker.sigterm_and_wait();
        assert_eq!(status.code(), Some(0), "{status}");
        assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
        let joined = publishers.map(|publisher| publisher.join().expect("a publisher"));
        HashSet::from_iter(joined.concat())
    });
    assert!(acknowledged.len() > 20, "a load: {}", acknowledged.len());
    broker.restart();
    let texts = Kafka::at(broker.kafka()).texts("mqtt", acknowledged.len());
    let texts = HashSet::from_iter(texts);
    let lost: Vec<_> = acknowledged.difference(&texts).collect();
    assert!(lost.is_empty(), "{lost:?}");
    let mut absent = broker.connect(Connect::v5("absent").durable());
    assert!(absent.connack.session_present);
    broker.publish(Publish::new("load/end", "end").qos(1));
    let queue = HashSet::from_iter(absent.take_until("end"));
    let lost: Vec<_> = acknowledged.difference(&queue).collect();
    assert!(lost.is_empty(), "not queued: {lost:?}");
}

#[test]
fn health_and_metrics_are_told() {
    let broker = Broker::start();
    broker.publish(Publish::new("t", "x").qos(1));
    for path in ["/live", "/ready"] {
        let answer = http::get(broker.admin(), path).expect("an answer");
        assert_eq!(answer.status, 200, "{path}");
    }
    let metrics = http::get(broker.admin(), "/metrics").expect("an answer");
    assert_eq!(metrics.status, 200);
    let is_sample = |line: &&str| {
        let value = line.rsplit(' ').next().unwrap_or_default();
        !line.starts_with('#') && value.parse::<f64>().is_ok()
    };
    let samples = metrics.body.lines().filter(is_sample).count();
    assert!(samples >= 5, "Prometheus text:\n{}", metrics.body);
    let nowhere = http::get(broker.admin(), "/nowhere").expect("an answer");
    assert_eq!(nowhere.status, 404);
}
