//! MQTT 3.1: protocol name MQIsdp, level 3. It has no numbered statements, so the tests say what they show; where it
//! leaves something open, or clients are known to differ, the broker does as Mosquitto.
//!
//! Past CONNECT its packets are those of 3.1.1, but for the DUP flag, which more of them have.

use crate::script::{V5, V311, bare, broker, closed_for, field, fresh, join, packet, publish, refusal, refused_for};
use crate::users::with_users;
use support::mqtt::{AckKind, Client, Packet, Publish};

const CLEAN: u8 = 0x02;

/// CONNECT of 3.1 with these flags, this identifier, and what comes behind it.
fn connect(flags: u8, id: &str, behind_id: &[&[u8]]) -> Vec<u8> {
    packet(0x10, &[b"\0\x06MQIsdp\x03", &[flags, 0, 60], &field(id), &behind_id.concat()])
}

/// A client that this CONNECT makes.
#[track_caller]
fn join_by(connect: &[u8]) -> Client {
    let mut client = bare(V311);
    client.send(connect);
    // It has no Session Present: the first byte is reserved.
    client.expect_bytes(b"\x20\x02\0\0");
    client
}

/// A fresh client, clean.
#[track_caller]
fn join_31() -> Client {
    join_by(&connect(CLEAN, &fresh(), &[]))
}

// ---- CONNECT ----

#[test]
fn only_level_3_is_called_mqisdp() {
    for (name, level) in [("MQIsdp", 2), ("MQIsdp", 4), ("MQIsdp", 5), ("MQTT", 3), ("mqisdp", 3)] {
        let bytes = packet(0x10, &[&field(name), &[level, CLEAN, 0, 60], &field(fresh())]);
        assert_eq!(refused_for(V311, &bytes), Some(1), "{name} {level}");
    }
}

#[test]
fn client_identifiers() {
    // Longer than its 23 characters: taken.
    for id in ["x".repeat(23), "x".repeat(24), "x".repeat(1000), "é / ü".to_owned()] {
        join_by(&connect(CLEAN, &id, &[])).ping();
    }
    // None at all was not yet allowed.
    for flags in [0, CLEAN] {
        assert_eq!(refused_for(V311, &connect(flags, "", &[])), Some(2));
    }
}

#[test]
fn flags_it_does_not_speak_of_are_disregarded() {
    // Bit 0, and will QoS and will retain without a will.
    for flags in [0x01, 0x08, 0x10, 0x18, 0x20] {
        join_by(&connect(CLEAN | flags, &fresh(), &[])).ping();
    }
}

#[test]
fn user_name_and_password_may_be_missing_behind_their_flags() {
    for behind_id in [&[][..], &[&b"\0\x01u"[..]], &[b"\0\x01u", b"\0\x01p"]] {
        join_by(&connect(CLEAN | 0xC0, &fresh(), behind_id)).ping();
    }
    // A password without a user name is none.
    assert_eq!(refused_for(V311, &connect(CLEAN | 0x40, &fresh(), &[b"\0\x01p"])), None);
    // Nor is there anything behind them.
    assert_eq!(refused_for(V311, &connect(CLEAN, &fresh(), &[b"x"])), None);
}

#[test]
fn who_is_refused_is_told_by_a_return_code() {
    let broker = with_users();
    let said = |behind_flags: u8, behind_id: &[&[u8]]| {
        let mut client = Client::bare(broker.mqtt(), V311);
        client.send(&connect(CLEAN | behind_flags, &fresh(), behind_id));
        client
    };
    assert_eq!(refusal(&mut said(0xC0, &[&field("alice"), &field("wrong")])), Some(4));
    assert_eq!(refusal(&mut said(0, &[])), Some(5));
    let mut alice = said(0xC0, &[&field("alice"), &field("alice's")]);
    alice.expect_bytes(b"\x20\x02\0\0");
    alice.ping();
}

// ---- sessions and wills ----

#[test]
fn a_session_is_kept_unless_it_is_clean() {
    let (id, topic) = (fresh(), fresh());
    let mut client = join_by(&connect(0, &id, &[]));
    client.subscribe(&topic, 1);
    client.disconnect();
    publish(&topic, "kept");
    let mut client = join_by(&connect(0, &id, &[]));
    assert_eq!(client.take().text(), "kept");
    client.disconnect();
    join_by(&connect(CLEAN, &id, &[])).disconnect();
    publish(&topic, "for nobody");
    let mut client = join_by(&connect(0, &id, &[]));
    assert!(client.sent_so_far().is_empty());
}

#[test]
fn the_older_connection_of_an_identifier_is_closed() {
    let id = fresh();
    let mut older = join_by(&connect(CLEAN, &id, &[]));
    let mut newer = join_by(&connect(CLEAN, &id, &[]));
    assert_eq!(older.expect_closed(), None);
    newer.ping();
}

#[test]
fn a_will_is_published_when_a_client_is_lost() {
    let (topic, mut watcher) = (fresh(), join(V5));
    watcher.subscribe(&topic, 2);
    let will = [&field(&topic)[..], &field("will")].concat();
    // Will flag, will QoS 1, will retain.
    let flags = CLEAN | 0x04 | 0x08 | 0x20;
    join_by(&connect(flags, &fresh(), &[&will])).disconnect();
    drop(join_by(&connect(flags, &fresh(), &[&will])));
    let got = watcher.take();
    assert_eq!((got.text().as_str(), got.qos, got.retain), ("will", 1, false));
    publish(&topic, "end");
    assert!(watcher.take_until("end").is_empty(), "none after DISCONNECT");
    let mut late = join_31();
    late.subscribe(&topic, 2);
    let got = late.take();
    assert_eq!((got.text().as_str(), got.retain), ("will", true));
}

// ---- PUBLISH ----

#[test]
fn messages_of_every_qos_go_between_3_1_and_5_0() {
    let topic = fresh();
    let (mut old, mut new) = (join_31(), join(V5));
    old.subscribe(&topic, 2);
    new.subscribe(&topic, 2);
    for qos in [0, 1, 2] {
        for from_old in [true, false] {
            let text = format!("{qos} {from_old}");
            let message = Publish::new(&topic, &*text).qos(qos);
            assert!(if from_old { old.publish(message) } else { new.publish(message) } < 0x80);
            for got in [old.take(), new.take()] {
                assert_eq!((got.text(), got.qos, got.dup, got.retain), (text.clone(), qos, false, false));
            }
        }
    }
}

#[test]
fn properties_stay_behind() {
    let topic = fresh();
    let mut old = join_31();
    old.subscribe(&topic, 1);
    let properties = b"\x09\x01\x01\x26\0\x01a\0\x01b";
    join(V5).send(&packet(0x30, &[&field(&topic), properties, b"x"]));
    old.expect_bytes(&packet(0x30, &[&field(&topic), b"x"]));
}

#[test]
fn retained_messages() {
    let topic = fresh();
    let mut client = join_31();
    client.publish(Publish::new(&topic, "kept").qos(1).retain());
    client.subscribe(&topic, 1);
    let got = client.take();
    assert_eq!((got.text().as_str(), got.retain), ("kept", true));
    client.publish(Publish::new(&topic, "").qos(1).retain());
    assert!(!client.take().retain, "established, it gets it as it came");
    let mut late = join_31();
    late.subscribe(&topic, 1);
    assert!(late.sent_so_far().is_empty());
}

#[test]
fn what_a_client_sends_again_is_delivered_once() {
    let topic = fresh();
    let (mut watcher, mut client) = (join(V5), join_31());
    watcher.subscribe(&topic, 2);
    let message = Publish::new(&topic, "once").qos(2).id(7);
    client.send_publish(&message);
    client.expect_ack(AckKind::PubRec, 7);
    client.send_publish(&Publish { dup: true, ..message });
    client.expect_ack(AckKind::PubRec, 7);
    // PUBREL has a DUP flag here.
    for first_byte in [0x62, 0x6A] {
        client.send(&packet(first_byte, &[b"\0\x07"]));
        client.expect_ack(AckKind::PubComp, 7);
    }
    publish(&topic, "end");
    assert_eq!(watcher.take_until("end"), ["once"]);
}

#[test]
fn what_was_not_acknowledged_is_sent_again() {
    let (id, topic) = (fresh(), fresh());
    let mut client = join_by(&connect(0, &id, &[]));
    client.subscribe(&topic, 2);
    publish(&topic, "1");
    broker().publish(Publish::new(&topic, "2").qos(2));
    let (one, two) = (client.expect_publish(), client.expect_publish());
    client.send_ack(AckKind::PubRec, two.id);
    client.expect_ack(AckKind::PubRel, two.id);
    drop(client);
    let mut client = join_by(&connect(0, &id, &[]));
    assert_eq!(client.expect_publish(), Publish { dup: true, ..one.clone() });
    client.expect_ack(AckKind::PubRel, two.id);
    client.send_ack(AckKind::PubAck, one.id);
    client.send_ack(AckKind::PubComp, two.id);
    assert!(client.sent_so_far().is_empty());
}

#[test]
fn bad_publishes_close_without_a_word() {
    for bytes in [&b"\x30\x03\0\x01+"[..], b"\x30\x02\0\0", b"\x36\x05\0\x01a\0\x01", b"\x32\x05\0\x01a\0\0"] {
        let mut client = join_31();
        client.send(bytes);
        assert_eq!(client.expect_closed(), None, "{bytes:02x?}");
    }
}

// ---- SUBSCRIBE ----

#[test]
fn a_subscription_cannot_be_refused() {
    // Too deep. Return code 0x80 came with 3.1.1; 3.1 wants a positive answer, and nothing is delivered.
    let deep = "/".repeat(300);
    let (mut client, topic) = (join_31(), fresh());
    assert_eq!(client.subscribe_with(&[(&topic, 2), (&deep, 1), (&topic, 1)], &[]), [2, 0, 1]);
    assert_eq!(join(V311).subscribe(&deep, 1), 0x80);
}

#[test]
fn subscribe_and_unsubscribe_have_a_dup_flag() {
    let (mut client, topic) = (join_31(), fresh());
    for first_byte in [0x82, 0x8A] {
        client.send(&packet(first_byte, &[b"\0\x01", &field(&topic), b"\x01"]));
        client.expect_bytes(b"\x90\x03\0\x01\x01");
    }
    publish(&topic, "x");
    assert_eq!(client.take().text(), "x");
    for first_byte in [0xA2, 0xAA] {
        client.send(&packet(first_byte, &[b"\0\x02", &field(&topic)]));
        client.expect_bytes(b"\xB0\x02\0\x02");
    }
    publish(&topic, "x");
    assert!(client.sent_so_far().is_empty());
    // Not in 3.1.1.
    assert_eq!(closed_for(V311, &packet(0x8A, &[b"\0\x01", &field(&topic), b"\x01"])), None);
}

#[test]
fn wildcards() {
    let (mut client, root) = (join_31(), fresh());
    let filters = [format!("{root}/+/x"), format!("{root}/#")];
    assert_eq!(client.subscribe(&filters[0], 1), 1);
    publish(&format!("{root}/a/x"), "one level");
    publish(&format!("{root}/a/b/x"), "two levels");
    client.unsubscribe(&filters[0]);
    client.subscribe(&filters[1], 1);
    publish(&root, "the parent too");
    publish(&format!("{root}/a/b"), "end");
    assert_eq!(client.take_until("end"), ["one level", "the parent too"]);
    for filter in ["a#", "#/a", "a+", ""] {
        let mut client = join_31();
        client.send(&packet(0x82, &[b"\0\x01", &field(filter), b"\0"]));
        assert_eq!(client.expect_closed(), None, "{filter:?}");
    }
}

// ---- the rest ----

#[test]
fn pings_and_goodbyes() {
    let mut client = join_31();
    client.send(b"\xC0\0");
    assert_eq!(client.recv(), Packet::PingResp);
    client.disconnect();
    // AUTH came with 5.0; a second CONNECT was never allowed.
    for bytes in [packet(0xF0, &[]), connect(CLEAN, &fresh(), &[])] {
        let mut client = join_31();
        client.send(&bytes);
        assert_eq!(client.expect_closed(), None);
    }
}
