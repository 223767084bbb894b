//! What is about time: keep alive, will delay, expiry. All of it runs side by side, begun by the first of these
//! tests, so that it takes as long as the longest.

use crate::script::{V5, V311, broker, fresh, join, join_as, publish, told};
use std::collections::HashMap;
use std::sync::{Mutex, OnceLock};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};
use support::mqtt::{AckKind, Client, Connect, Lost, Prop, Publish, Version};

const SCENARIOS: [(&str, fn()); 15] = [
    ("mqtt5_3_1_2_8", || a_will_waits(2, 60)),
    ("mqtt5_3_1_2_8_with_the_session", || a_will_waits(3600, 2)),
    ("mqtt5_3_1_2_8_taken_back", a_will_without_delay_or_taken_back),
    ("mqtt5_3_1_3_9", coming_back_takes_the_will_back),
    ("mqtt5_3_1_2_22", || silence_ends_a_connection(V5)),
    ("mqtt311_3_1_2_24", || silence_ends_a_connection(V311)),
    ("mqtt5_3_2_2_22", the_clients_keep_alive_counts),
    ("mqtt5_3_3_2_5", expired_messages_are_deleted),
    ("mqtt5_3_3_2_6", the_expiry_is_counted_down),
    ("mqtt5_4_1_0_1", || an_open_connection_keeps_its_session(V5)),
    ("mqtt311_4_1_0_2", || an_open_connection_keeps_its_session(V311)),
    ("mqtt5_4_1_0_2", a_session_expires),
    ("mqtt5_3_1_2_23_not_sooner", a_session_lasts_as_long_as_it_says),
    ("mqtt5_4_3_3_7", what_was_sent_does_not_expire),
    ("mqtt5_4_3_3_13", an_expired_message_is_released_all_the_same),
];

/// Starts all, unless they run, and waits for this one.
fn outcome(name: &str) {
    static RUNNING: OnceLock<Mutex<HashMap<&str, JoinHandle<()>>>> = OnceLock::new();
    let start = || {
        broker();
        Mutex::new(SCENARIOS.into_iter().map(|(name, scenario)| (name, thread::spawn(scenario))).collect())
    };
    let running = RUNNING.get_or_init(start).lock().expect("no one panics with it").remove(name);
    if let Err(panic) = running.expect("a scenario of this name").join() {
        let said = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        panic!("{}", said.unwrap_or("it panicked"));
    }
}

#[test]
fn mqtt5_3_1_2_8() {
    outcome("mqtt5_3_1_2_8");
}

#[test]
fn mqtt5_3_1_2_8_with_the_session() {
    outcome("mqtt5_3_1_2_8_with_the_session");
}

#[test]
fn mqtt5_3_1_2_8_taken_back() {
    outcome("mqtt5_3_1_2_8_taken_back");
}

#[test]
fn mqtt5_3_1_3_9() {
    outcome("mqtt5_3_1_3_9");
}

#[test]
fn mqtt5_3_1_2_22() {
    outcome("mqtt5_3_1_2_22");
}

#[test]
fn mqtt311_3_1_2_24() {
    outcome("mqtt311_3_1_2_24");
}

#[test]
fn mqtt5_3_2_2_22() {
    outcome("mqtt5_3_2_2_22");
}

#[test]
fn mqtt5_3_3_2_5() {
    outcome("mqtt5_3_3_2_5");
}

#[test]
fn mqtt5_3_3_2_6() {
    outcome("mqtt5_3_3_2_6");
}

#[test]
fn mqtt5_4_1_0_1() {
    outcome("mqtt5_4_1_0_1");
}

#[test]
fn mqtt311_4_1_0_2() {
    outcome("mqtt311_4_1_0_2");
}

#[test]
fn mqtt5_4_1_0_2() {
    outcome("mqtt5_4_1_0_2");
}

#[test]
fn mqtt5_3_1_2_23_not_sooner() {
    outcome("mqtt5_3_1_2_23_not_sooner");
}

#[test]
fn mqtt5_4_3_3_7() {
    outcome("mqtt5_4_3_3_7");
}

#[test]
fn mqtt5_4_3_3_13() {
    outcome("mqtt5_4_3_3_13");
}

fn seconds(seconds: f32) -> Duration {
    Duration::from_secs_f32(seconds)
}

// ---- wills ----

fn watcher(topic: &str) -> Client {
    let mut watcher = join(V5);
    watcher.subscribe(topic, 1);
    watcher
}

/// A client with a will of this delay, whose session lasts this long.
fn with_will(topic: &str, delay_s: u32, session_s: u32) -> Connect {
    let will = Publish::new(topic, "will").qos(1).with(Prop::WillDelayS(delay_s));
    Connect::v5(&fresh()).clean(false).with(Prop::SessionExpiryS(session_s)).will(will)
}

/// After the delay, or with the end of the session, whichever is first.
fn a_will_waits(delay_s: u32, session_s: u32) {
    let topic = fresh();
    let mut watcher = watcher(&topic);
    let client = join_as(&with_will(&topic, delay_s, session_s));
    let lost = Instant::now();
    drop(client);
    assert_eq!(watcher.try_recv(seconds(1.9)), Err(Lost::Silent), "before its time");
    assert_eq!(watcher.take().text(), "will");
    let elapsed = lost.elapsed();
    assert!(elapsed < seconds(5.0), "after {elapsed:?}");
}

fn a_will_without_delay_or_taken_back() {
    let topic = fresh();
    let mut watcher = watcher(&topic);
    join_as(&with_will(&topic, 1, 60)).disconnect();
    drop(join_as(&with_will(&topic, 0, 60)));
    assert_eq!(watcher.take().text(), "will");
    assert_eq!(watcher.try_recv(seconds(2.5)), Err(Lost::Silent));
}

fn coming_back_takes_the_will_back() {
    let topic = fresh();
    let mut watcher = watcher(&topic);
    let connect = with_will(&topic, 1, 60);
    drop(join_as(&connect));
    let mut back = join_as(&connect);
    assert!(back.connack.session_present);
    assert_eq!(watcher.try_recv(seconds(3.0)), Err(Lost::Silent));
    back.ping();
}

// ---- keep alive ----

fn silence_ends_a_connection(version: Version) {
    let topic = fresh();
    let mut watcher = watcher(&topic);
    let connect = Connect::new(version, &fresh()).keep_alive_s(2).will(Publish::new(&topic, "will").qos(1));
    let mut silent = join_as(&connect);
    let mut talker = join_as(&Connect::new(version, &fresh()).keep_alive_s(2));
    let since = Instant::now();
    while since.elapsed() < seconds(2.6) {
        assert_eq!(silent.try_recv(seconds(0.3)), Err(Lost::Silent), "too soon");
        talker.ping();
    }
    assert_eq!(silent.expect_closed(), told(version, 0x8D));
    let elapsed = since.elapsed();
    assert!(elapsed < seconds(5.0), "after {elapsed:?}");
    // As if the network had failed.
    assert_eq!(watcher.take().text(), "will");
    talker.ping();
}

fn the_clients_keep_alive_counts() {
    let mut one = join_as(&Connect::v5(&fresh()).keep_alive_s(1));
    let none_given = |client: &Client| !client.connack.props.iter().any(|p| matches!(p, Prop::ServerKeepAliveS(_)));
    assert!(none_given(&one));
    let since = Instant::now();
    let mut ten = join_as(&Connect::v5(&fresh()).keep_alive_s(10));
    let mut none = join_as(&Connect::v5(&fresh()).keep_alive_s(0));
    assert!(none_given(&ten) && none_given(&none));
    assert_eq!(one.expect_closed(), Some(0x8D));
    assert!(since.elapsed() < seconds(3.5));
    ten.ping();
    none.ping();
}

// ---- message expiry ----

fn expired_messages_are_deleted() {
    let topic = fresh();
    let short_lived = Publish::new(&topic, "short-lived").qos(1).with(Prop::MessageExpiryS(1));
    // One who is away, one whose window is closed, one who comes later to a retained message.
    let absent = Connect::v5(&fresh()).durable();
    join_as(&absent).subscribe(&topic, 1);
    let mut busy = join_as(&Connect::v5(&fresh()).with(Prop::ReceiveMaximum(1)));
    busy.subscribe(&topic, 1);
    publish(&topic, "first");
    let first = busy.expect_publish();
    broker().publish(short_lived.clone().retain());
    broker().publish(short_lived.clone());
    // Who is there gets it.
    let mut present = join(V5);
    present.subscribe(&topic, 1);
    assert_eq!(present.take().text(), "short-lived");
    sleep(seconds(2.2));
    publish(&topic, "end");
    assert_eq!(join_as(&absent).take_until("end"), ["first"]);
    busy.send_ack(AckKind::PubAck, first.id);
    assert!(busy.take_until("end").is_empty());
    let mut late = join(V5);
    late.subscribe(&topic, 1);
    publish(&topic, "end");
    assert!(late.take_until("end").is_empty());
}

fn expiry_s(publish: &Publish) -> u32 {
    let expiry = publish.props.iter().find_map(|prop| match prop {
        Prop::MessageExpiryS(seconds) => Some(*seconds),
        _ => None,
    });
    expiry.expect("what is left of its life")
}

fn the_expiry_is_counted_down() {
    let topic = fresh();
    let message = Publish::new(&topic, "x").qos(1).with(Prop::MessageExpiryS(100));
    let absent = Connect::v5(&fresh()).durable();
    join_as(&absent).subscribe(&topic, 1);
    let mut live = join_as(&Connect::v5(&fresh()).with(Prop::ReceiveMaximum(1)));
    live.subscribe(&topic, 1);
    let published = Instant::now();
    broker().publish(message.clone().retain());
    let first = live.expect_publish();
    assert!((99..=100).contains(&expiry_s(&first)), "{first:?}");
    broker().publish(message);
    sleep(seconds(2.1));
    live.send_ack(AckKind::PubAck, first.id);
    let mut late = join(V5);
    late.subscribe(&topic, 1);
    for got in [live.take(), late.take(), join_as(&absent).take()] {
        let at_least = 100 - published.elapsed().as_secs() as u32 - 1;
        assert!((at_least..=98).contains(&expiry_s(&got)), "{got:?} after {:?}", published.elapsed());
    }
}

fn what_was_sent_does_not_expire() {
    let (connect, topic) = (Connect::v5(&fresh()).durable(), fresh());
    let mut client = join_as(&connect);
    client.subscribe(&topic, 2);
    broker().publish(Publish::new(&topic, "x").qos(2).with(Prop::MessageExpiryS(1)));
    let first = client.expect_publish();
    drop(client);
    sleep(seconds(2.2));
    let mut client = join_as(&connect);
    let again = client.expect_publish();
    assert_eq!((again.id, again.dup, again.text()), (first.id, true, "x".into()));
    client.send_ack(AckKind::PubRec, first.id);
    assert_eq!(client.expect_ack(AckKind::PubRel, first.id), 0);
    client.send_ack(AckKind::PubComp, first.id);
    client.ping();
}

fn an_expired_message_is_released_all_the_same() {
    let (absent, topic) = (Connect::v5(&fresh()).durable(), fresh());
    join_as(&absent).subscribe(&topic, 2);
    let mut from = join(V5);
    let message = Publish::new(&topic, "x").qos(2).id(7).with(Prop::MessageExpiryS(1));
    from.send_publish(&message);
    assert_eq!(from.expect_ack(AckKind::PubRec, 7), 0);
    sleep(seconds(2.2));
    publish(&topic, "end");
    assert!(join_as(&absent).take_until("end").is_empty(), "it expired");
    // A repeat is still one, and the exchange ends as any.
    from.send_publish(&message.dup());
    from.expect_ack(AckKind::PubRec, 7);
    from.send_ack(AckKind::PubRel, 7);
    assert_eq!(from.expect_ack(AckKind::PubComp, 7), 0);
}

// ---- sessions ----

fn an_open_connection_keeps_its_session(version: Version) {
    let (connect, topic) = (Connect::new(version, &fresh()), fresh());
    let mut client = join_as(&connect);
    client.subscribe(&topic, 1);
    let (expiring, expiring_topic) = (Connect::new(version, &fresh()), fresh());
    let mut other = match version {
        V5 => join_as(&expiring.with(Prop::SessionExpiryS(1))),
        V311 => join_as(&expiring),
    };
    other.subscribe(&expiring_topic, 1);
    sleep(seconds(2.5));
    for (client, topic) in [(&mut client, topic), (&mut other, expiring_topic)] {
        publish(&topic, "still there");
        assert_eq!(client.take().text(), "still there");
    }
}

fn a_session_expires() {
    let connect = Connect::v5(&fresh()).clean(false).with(Prop::SessionExpiryS(1));
    let topic = fresh();
    let mut client = join_as(&connect);
    client.subscribe(&topic, 1);
    drop(client);
    publish(&topic, "goes with it");
    sleep(seconds(2.2));
    let mut client = join_as(&connect);
    assert!(!client.connack.session_present);
    publish(&topic, "nor is it subscribed");
    assert!(client.sent_so_far().is_empty());
    // An expiry of 0 is the connection's end.
    let connect = Connect::v5(&fresh()).clean(false);
    join_as(&connect).disconnect();
    assert!(!join_as(&connect).connack.session_present);
}

/// An expiry of a second is no less than that, wherever the clock's seconds begin.
fn a_session_lasts_as_long_as_it_says() {
    let connect = Connect::v5(&fresh()).clean(false).with(Prop::SessionExpiryS(1));
    join_as(&connect).disconnect();
    for step in 0..5 {
        let left = Instant::now();
        sleep(seconds(0.55 + 0.07 * step as f32));
        let client = join_as(&connect);
        // On a machine that is too busy the second may have passed.
        assert!(client.connack.session_present || left.elapsed() > seconds(0.98), "after {:?}", left.elapsed());
        client.disconnect();
    }
}
