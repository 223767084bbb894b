//! `$SYS/broker/…`: what Mosquitto's users look for, and that it costs the log nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use support::broker::Broker;
use support::http;
use support::mqtt::{Client, Connect, Publish};

/// Topics of Mosquitto's manual with a number, bridges excepted.
const MOSQUITTO: [&str; 25] = [
    "bytes/received",
    "bytes/sent",
    "clients/active",
    "clients/connected",
    "clients/disconnected",
    "clients/expired",
    "clients/inactive",
    "clients/maximum",
    "clients/total",
    "heap/current",
    "heap/maximum",
    "messages/inflight",
    "messages/received",
    "messages/sent",
    "messages/stored",
    "publish/bytes/received",
    "publish/bytes/sent",
    "publish/messages/dropped",
    "publish/messages/received",
    "publish/messages/sent",
    "retained messages/count",
    "shared_subscriptions/count",
    "store/messages/bytes",
    "store/messages/count",
    "subscriptions/count",
];

/// What it tells averages of.
const LOADS: [&str; 9] = [
    "bytes/received",
    "bytes/sent",
    "connections",
    "messages/received",
    "messages/sent",
    "publish/dropped",
    "publish/received",
    "publish/sent",
    "sockets",
];

/// What is told from now on, until `enough`.
#[track_caller]
fn told_until(client: &mut Client, enough: impl Fn(&BTreeMap<String, String>) -> bool) -> BTreeMap<String, String> {
    let mut told = BTreeMap::new();
    let deadline = Instant::now() + support::PATIENCE;
    while !enough(&told) {
        assert!(Instant::now() < deadline, "only {told:?}");
        let message = client.take();
        told.insert(message.topic.clone(), message.text());
    }
    told
}

#[track_caller]
fn commits(broker: &Broker) -> String {
    let metrics = http::get(broker.admin(), "/metrics").expect("metrics").body;
    let line = metrics.lines().find(|line| line.starts_with("millstream_journal_commit_seconds_count"));
    line.expect("the count of commits").to_owned()
}

#[test]
fn the_broker_tells_how_it_does() {
    let mut broker = Broker::with_config("[mqtt]\nsys_interval_s = 1\n");
    let mut away = broker.connect(Connect::v5("away").durable());
    assert_eq!(away.subscribe("$SYS/broker/#", 1), 1);
    away.disconnect();
    let mut everything = broker.connect(Connect::v311("everything"));
    everything.subscribe("#", 0);
    broker.publish(Publish::new("t", "12345").qos(1));
    assert_eq!(everything.take().text(), "12345");

    let mut watcher = broker.connect(Connect::v311("watcher"));
    watcher.subscribe("$SYS/broker/#", 2);
    let is = |name: &str, value: &str| {
        let (topic, value) = (format!("$SYS/broker/{name}"), value.to_owned());
        move |told: &BTreeMap<String, String>| told.get(&topic) == Some(&value)
    };
    let (connected, absent) = (is("clients/connected", "2"), is("clients/disconnected", "1"));
    let (received, bytes) = (is("publish/messages/received", "1"), is("publish/bytes/received", "5"));
    let told = told_until(&mut watcher, |told| connected(told) && absent(told) && received(told) && bytes(told));
    // The rest of the tree, for who comes later: it is kept.
    let mut late = broker.connect(Connect::v311("late"));
    late.subscribe("$SYS/broker/version", 0);
    let version = late.take();
    assert!(version.retain && version.text().starts_with("millstream "), "{version:?}");
    assert!(told.values().all(|value| !value.is_empty()));

    // What Mosquitto's users look for is there, all of it with a number.
    let spans = |of: &&str| ["1min", "5min", "15min"].map(|span| format!("load/{of}/{span}"));
    let names: Vec<String> =
        MOSQUITTO.iter().map(|name| (*name).to_owned()).chain(LOADS.iter().flat_map(spans)).collect();
    watcher.subscribe("$SYS/broker/#", 0);
    let told =
        told_until(&mut watcher, |told| names.iter().all(|name| told.contains_key(&format!("$SYS/broker/{name}"))));
    for name in names {
        let value = &told[&format!("$SYS/broker/{name}")];
        assert!(value.parse::<f64>().is_ok_and(|number| number >= 0.0), "{name}: {value}");
    }

    // Nothing of it was for who was away, for who wants everything, or for the journal.
    let before = commits(&broker);
    let uptime = |told: &BTreeMap<String, String>| told.keys().filter(|topic| topic.ends_with("/uptime")).count() == 1;
    told_until(&mut watcher, uptime);
    told_until(&mut watcher, uptime);
    assert_eq!(commits(&broker), before);
    everything.ping();
    let mut away = broker.connect(Connect::v5("away").durable());
    assert!(away.connack.session_present);
    broker.publish(Publish::new("$other", "x").qos(1));
    away.subscribe("$other", 1);
    broker.publish(Publish::new("$other", "end").qos(1));
    let end = loop {
        let message = away.take();
        if !message.topic.starts_with("$SYS/") {
            break message;
        }
        assert_eq!(message.qos, 0, "told live, never queued");
    };
    assert_eq!(end.text(), "end");

    // What was retained by clients comes back after a restart; this is told anew.
    broker.kill9_and_restart();
    let mut watcher = broker.connect(Connect::v311("watcher"));
    watcher.subscribe("$SYS/broker/uptime", 0);
    let seconds: u64 = watcher.take().text().trim_end_matches(" seconds").parse().expect("seconds");
    assert!(Duration::from_secs(seconds) < support::PATIENCE);
}

#[test]
fn it_can_be_switched_off() {
    let broker = Broker::with_config("[mqtt]\nsys_interval_s = 0\n");
    let mut watcher = broker.connect(Connect::v311("watcher"));
    watcher.subscribe("$SYS/#", 0);
    watcher.subscribe("t", 0);
    broker.publish(Publish::new("t", "the first that comes"));
    assert_eq!(watcher.take().text(), "the first that comes");
}
