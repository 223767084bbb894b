//! The budget for what waits in memory.

use super::{metric, refused};
use std::time::{Duration, Instant};
use support::broker::Broker;
use support::mqtt::{Client, Connect, Prop, Publish};
use support::prometheus::Scrape;

fn value(broker: &Broker, name: &str, labels: &[(&str, &str)]) -> f64 {
    Scrape::of(broker.admin()).value(name, labels).unwrap_or_else(|| panic!("{name} {labels:?}"))
}

fn dropped(broker: &Broker, reason: &str) -> f64 {
    value(broker, "millstream_mqtt_dropped_messages_total", &[("reason", reason)])
}

/// A subscriber that never acknowledges, and so gets one message at QoS 1.
fn holder(broker: &Broker, topic: &str) -> Client {
    let mut client = broker.connect(Connect::v5(topic).with(Prop::ReceiveMaximum(1)));
    client.subscribe(topic, 1);
    client
}

/// Publishes so many messages of 100 kB.
fn publish(broker: &Broker, topic: &str, count: usize) {
    let mut publisher = broker.connect(Connect::v5("publisher"));
    for _ in 0..count {
        assert_eq!(publisher.publish(Publish::new(topic, vec![b'x'; 100_000]).qos(1)), 0);
    }
}

#[test]
fn who_holds_more_than_its_share_loses_and_others_do_not() {
    let broker = Broker::with_config("[mqtt]\nmax_buffered_bytes = 1048576\n");
    let mut modest = holder(&broker, "modest");
    publish(&broker, "modest", 3);
    let _hog = holder(&broker, "hog");
    publish(&broker, "hog", 15);
    // Each may have half of it, once it is noticed.
    support::eventually("the hog's messages go", || {
        let queued = value(&broker, "millstream_mqtt_queued_bytes", &[]);
        (dropped(&broker, "memory_queued") >= 9.0 && queued < 800_000.0).then_some(())
    });
    assert_eq!(dropped(&broker, "queue_full"), 0.0);
    broker.log_line(&["WARN", "too much waits for clients", "max_buffered_bytes=1048576"]);
    for _ in 0..3 {
        assert_eq!(modest.take().payload.len(), 100_000);
    }
    metric(&broker, "millstream_mqtt_memory_pressure", &[], 0.0);
    broker.log_line(&["INFO", "little enough waits"]);
}

#[test]
fn at_twice_as_much_new_clients_are_refused_until_it_is_less() {
    let broker = Broker::with_config("shards = 1\n[mqtt]\nmax_buffered_bytes = 1048576\nmax_packet_size = 200000\n");
    let mut deaf = broker.connect(Connect::v5("deaf"));
    deaf.subscribe("t", 0);
    let mut known = broker.connect(Connect::v5("known"));
    // More than the sockets hold, and 4 MiB for which it is not scarce yet.
    let bytes: Vec<u8> = Publish::new("t", vec![b'x'; 100_000]).bytes(support::mqtt::Version::V5);
    let began = Instant::now();
    while value(&broker, "millstream_mqtt_memory_pressure", &[]) < 2.0 {
        assert!(began.elapsed() < support::PATIENCE, "it never is too much");
        known.send(&bytes);
    }
    let told = refused(&broker, Connect::v5("new"));
    assert_eq!(told.code, 0x89, "{told:?}");
    assert_eq!(refused(&broker, Connect::v311("new")).code, 3);
    super::reached(&broker, "max_buffered_bytes", 2);
    broker.log_line(&["WARN", "new clients are refused"]);
    // Who is there may come again, and messages for who does not read are dropped.
    let mut known = broker.connect(Connect::v5("known"));
    let before = dropped(&broker, "memory_qos0");
    known.send(&bytes);
    known.ping();
    assert_eq!(dropped(&broker, "memory_qos0"), before + 1.0);
    // It reads, and all is well.
    while deaf.try_recv(Duration::from_millis(500)).is_ok() {}
    metric(&broker, "millstream_mqtt_memory_pressure", &[], 0.0);
    broker.connect(Connect::v5("new"));
}
