//! The disk takes seconds.

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use support::broker::Broker;
use support::eventually;
use support::kafka::Kafka;
use support::mqtt::{AckKind, Connect, Lost, Packet, Publish, Version};

use super::sick::SickDisk;
use super::{metric, wait_for_ready};

const CONFIG: &str = "shards = 2
[[bridge.rule]]
filter = \"log/#\"
topic = \"log\"
";
/// What publishers would like to send meanwhile.
const FLOOD_BYTES: usize = 256 << 20;
/// What the broker may take of it: lanes, frames, a read of each connection, and what malloc keeps.
const GROWTH_BYTES_MAX: u64 = 32 << 20;

fn resident_bytes(broker: &Broker) -> u64 {
    let statm = fs::read_to_string(format!("/proc/{}/statm", broker.id())).expect("it runs");
    let pages: u64 = statm.split(' ').nth(1).and_then(|text| text.parse().ok()).expect("a number");
    pages * rustix::param::page_size() as u64
}

/// Sends as much as is taken; how much that was.
fn flood(broker: &Broker, number: usize) -> usize {
    let mut stream = TcpStream::connect(broker.mqtt()).expect("it listens");
    stream.write_all(&Connect::v311(&format!("flood {number}")).bytes()).expect("taken");
    stream.set_nonblocking(true).expect("a socket");
    let message = Publish::new("log/flood", vec![b'x'; 4 << 10]).qos(1);
    let (mut sent, mut id, mut progress) = (0, 0_u16, Instant::now());
    while sent < FLOOD_BYTES / 8 {
        id = id % 60_000 + 1;
        let bytes = message.clone().id(id).bytes(Version::V311);
        let mut left = &bytes[..];
        while !left.is_empty() {
            match stream.write(left) {
                Ok(count) => {
                    (sent, left, progress) = (sent + count, &left[count..], Instant::now());
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if progress.elapsed() > Duration::from_millis(500) {
                        // It stays connected until its test is over.
                        std::mem::forget(stream);
                        return sent;
                    }
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    std::mem::forget(stream);
    sent
}

#[test]
fn a_disk_that_hangs_is_seen_and_holds_up_nobody_who_does_not_need_it() {
    let disk = SickDisk::new();
    let mut broker = disk.broker(CONFIG);
    broker.restart();
    let kafka = Kafka::at(broker.kafka());
    let mut publisher = broker.connect(Connect::v5("publisher"));
    let mut live = broker.connect(Connect::v311("live"));
    live.subscribe("live/#", 0);
    assert_eq!(publisher.publish(Publish::new("log/a", "before").qos(1)), 0);

    disk.set("hang");
    publisher.send_publish(&Publish::new("log/a", "during").qos(1).id(9));
    let began = Instant::now();
    let mut worst = Duration::ZERO;
    while broker_says_nothing(&broker) {
        assert!(began.elapsed() < Duration::from_secs(20), "the stall is not seen");
        let sent = Instant::now();
        publisher.publish(Publish::new("live/a", "still").qos(0));
        assert_eq!(live.take().text(), "still");
        worst = worst.max(sent.elapsed());
        assert_eq!(kafka.texts("log", 1), ["before"]);
    }
    assert!(began.elapsed() > Duration::from_secs(4), "it is no stall yet after {:?}", began.elapsed());
    assert!(worst < Duration::from_secs(1), "QoS 0 waited {worst:?}");
    wait_for_ready(&broker, 503, "the disk is slow: a write or sync (commit)");
    broker.log_line(&["WARN", "the disk is slow", "thread=commit"]);
    assert!(metric(&broker, "millstream_disk_operation_seconds", &[("thread", "commit")]) > 5.0);
    assert_eq!(metric(&broker, "millstream_disk_stalls_total", &[]), 1.0);
    assert_eq!(publisher.try_recv(Duration::from_millis(100)), Err(Lost::Silent), "nothing was promised too early");

    disk.heal();
    assert_eq!(publisher.expect_ack(AckKind::PubAck, 9), 0);
    wait_for_ready(&broker, 200, "ready");
    broker.log_line(&["INFO", "the disk answers again"]);
    assert_eq!(broker.stderr().matches("the disk is slow").count(), 1, "told once");
    assert_eq!(metric(&broker, "millstream_disk_operation_seconds", &[("thread", "commit")]), 0.0);
}

fn broker_says_nothing(broker: &Broker) -> bool {
    support::http::get(broker.admin(), "/ready").is_ok_and(|answer| answer.status == 200)
}

#[test]
fn publishers_wait_and_memory_does_not_grow_while_it_hangs() {
    let disk = SickDisk::new();
    let mut broker = disk.broker(CONFIG);
    broker.restart();
    let mut witness = broker.connect(Connect::v311("witness"));
    assert_eq!(witness.publish(Publish::new("log/a", "before").qos(1)), 0);
    let before = resident_bytes(&broker);
    disk.set("hang");
    witness.send_publish(&Publish::new("log/a", "during").qos(1).id(7));
    let sent: usize = std::thread::scope(|scope| {
        let broker = &broker;
        let floods: Vec<_> = (0..8).map(|number| scope.spawn(move || flood(broker, number))).collect();
        floods.into_iter().map(|flood| flood.join().expect("no panic")).sum()
    });
    let grown = resident_bytes(&broker).saturating_sub(before);
    println!("{sent} bytes went into sockets and broker, which grew by {grown}");
    // Whoever writes waits; on the same shards others do not.
    let mut live = broker.connect(Connect::v5("live"));
    live.subscribe("live/#", 1);
    for number in 0..8 {
        let mut other = broker.connect(Connect::v311(&format!("other {number}")));
        other.publish(Publish::new("live/a", "QoS 0").qos(0));
        assert_eq!(other.publish(Publish::new("live/a", "QoS 1").qos(1)), 0);
        other.ping();
        assert_eq!((live.take().text(), live.take().text()), ("QoS 0".to_owned(), "QoS 1".to_owned()));
        other.send_publish(&Publish::new("log/a", "during").qos(1).id(9));
        assert_eq!(other.try_recv(Duration::from_millis(20)), Err(Lost::Silent));
    }
    assert!(sent < FLOOD_BYTES, "nobody was held up");
    assert!(grown < GROWTH_BYTES_MAX, "it grew by {grown}");
    disk.heal();
    let answered = eventually("the acknowledgement", || match witness.try_recv(Duration::from_millis(100)) {
        Ok(Packet::Ack(ack)) => Some(ack.id),
        _ => None,
    });
    assert_eq!(answered, 7);
    wait_for_ready(&broker, 200, "ready");
}
