//! Sessions that outlive their connection, the broker's end, and its death.

use std::time::{Duration, Instant};

use support::broker::Broker;
use support::eventually;
use support::mqtt::{AckKind, Client, Connect, Prop, Publish, VERSIONS, Version};
use support::prometheus::Scrape;

/// The ways a broker comes back.
const COMEBACKS: [fn(&mut Broker); 3] = [|_not_gone| {}, Broker::restart_gracefully, Broker::kill9_and_restart];

#[test]
fn subscriptions_and_queue_survive() {
    for version in VERSIONS {
        for come_back in COMEBACKS {
            let mut broker = Broker::start();
            let mut client = broker.connect(Connect::new(version, "absent").durable());
            assert!(!client.connack.session_present);
            client.subscribe_with(&[("a/+", 1), ("b", 2)], &[]);
            client.disconnect();
            for (topic, payload, qos) in [("a/1", "1", 1), ("b", "2", 2), ("a/2", "3", 1)] {
                broker.publish(Publish::new(topic, payload).qos(qos));
            }
            come_back(&mut broker);
            let mut client = broker.connect(Connect::new(version, "absent").durable());
            assert!(client.connack.session_present);
            let got = [client.take(), client.take(), client.take()];
            let told = got.each_ref().map(|p| (p.topic.as_str(), p.text(), p.qos));
            let due = [("a/1", "1", 1), ("b", "2", 2), ("a/2", "3", 1)];
            let due = due.map(|(topic, payload, qos)| (topic, payload.to_owned(), qos));
            assert_eq!(told, due, "{version:?}");
            broker.publish(Publish::new("b", "end").qos(1));
            assert!(client.take_until("end").is_empty());
        }
    }
}

#[test]
fn what_was_acknowledged_does_not_come_again() {
    for come_back in COMEBACKS {
        let mut broker = Broker::start();
        let mut client = broker.connect(Connect::v5("a").durable());
        client.subscribe("t", 2);
        for (n, qos) in [(1, 1), (2, 2), (3, 1)] {
            broker.publish(Publish::new("t", n.to_string()).qos(qos));
            assert_eq!(client.take().text(), n.to_string());
        }
        client.disconnect();
        come_back(&mut broker);
        let mut client = broker.connect(Connect::v5("a").durable());
        broker.publish(Publish::new("t", "end").qos(1));
        let again = client.take_until("end");
        // A client's PUBACK rides along with the next commit, so only a kill may undo it;
        // PUBCOMP may be undone too, but then only PUBREL comes again, never the message.
        assert!(!again.contains(&"2".to_owned()), "QoS 2 again: {again:?}");
        if again != ["3"] {
            assert!(again.is_empty(), "{again:?}");
        }
    }
}

#[test]
fn a_clean_start_wipes() {
    for version in VERSIONS {
        for come_back in COMEBACKS {
            let mut broker = Broker::start();
            let mut client = broker.connect(Connect::new(version, "a").durable());
            client.subscribe("t", 1);
            client.disconnect();
            broker.publish(Publish::new("t", "1").qos(1));
            let clean = broker.connect(Connect::new(version, "a"));
            assert!(!clean.connack.session_present);
            clean.disconnect();
            come_back(&mut broker);
            let mut client = broker.connect(Connect::new(version, "a").durable());
            assert!(!client.connack.session_present);
            client.subscribe("end", 1);
            broker.publish(Publish::new("t", "2").qos(1));
            broker.publish(Publish::new("end", "end").qos(1));
            assert!(client.take_until("end").is_empty());
        }
    }
}

#[test]
fn a_clean_session_leaves_nothing_behind() {
    for version in VERSIONS {
        let broker = Broker::start();
        let mut client = broker.connect(Connect::new(version, "a"));
        client.subscribe("t", 1);
        client.disconnect();
        let client = broker.connect(Connect::new(version, "a").durable());
        assert!(!client.connack.session_present);
    }
}

#[test]
fn an_unsubscribe_survives() {
    for come_back in COMEBACKS {
        let mut broker = Broker::start();
        let mut client = broker.connect(Connect::v311("a").durable());
        client.subscribe_with(&[("t", 1), ("end", 1)], &[]);
        client.unsubscribe("t");
        drop(client);
        come_back(&mut broker);
        broker.publish(Publish::new("t", "1").qos(1));
        broker.publish(Publish::new("end", "end").qos(1));
        let mut client = broker.connect(Connect::v311("a").durable());
        assert!(client.connack.session_present);
        assert!(client.take_until("end").is_empty());
    }
}

#[test]
fn unacknowledged_messages_come_again_in_order_with_their_ids() {
    for version in VERSIONS {
        for come_back in COMEBACKS {
            let mut broker = Broker::start();
            let mut client = broker.connect(Connect::new(version, "a").durable());
            client.subscribe("t", 1);
            for n in 0..5 {
                broker.publish(Publish::new("t", n.to_string()).qos(1));
            }
            let first: Vec<_> = (0..5).map(|_| client.expect_publish()).collect();
            assert!(first.iter().all(|publish| !publish.dup));
            // The second is acknowledged, and certainly so: a further message is durable
            // only with it.
            client.send_ack(AckKind::PubAck, first[1].id);
            client.ping();
            broker.publish(Publish::new("unrelated", "").qos(1));
            drop(client);
            come_back(&mut broker);

            let mut client = broker.connect(Connect::new(version, "a").durable());
            let again: Vec<_> = (0..4).map(|_| client.take()).collect();
            let told = |publish: &Publish| (publish.id, publish.text());
            let due = [0, 2, 3, 4].map(|n: usize| told(&first[n]));
            assert_eq!(again.iter().map(told).collect::<Vec<_>>(), due);
            assert!(again.iter().all(|publish| publish.dup), "{again:?}");
            broker.publish(Publish::new("t", "end").qos(1));
            assert!(client.take_until("end").is_empty());
        }
    }
}

#[test]
fn qos_0_is_not_kept_for_the_absent() {
    let broker = Broker::start();
    let mut client = broker.connect(Connect::v311("a").durable());
    client.subscribe("t", 1);
    client.disconnect();
    let mut from = broker.connect(Connect::v311("from"));
    from.publish(Publish::new("t", "lost"));
    from.publish(Publish::new("t", "end").qos(1));
    let mut client = broker.connect(Connect::v311("a").durable());
    assert!(client.take_until("end").is_empty());
}

#[test]
fn a_long_queue_comes_whole_and_in_order() {
    let mut broker = Broker::start();
    let mut client = broker.connect(Connect::v5("a").durable());
    client.subscribe("t", 1);
    drop(client);
    let mut from = broker.connect(Connect::v5("from").with(Prop::ReceiveMaximum(100)));
    for n in 0..2000 {
        from.publish(Publish::new("t", n.to_string()).qos(1).id(1));
    }
    broker.kill9_and_restart();
    let mut client = broker.connect(Connect::v5("a").durable());
    for n in 0..2000 {
        assert_eq!(client.take().text(), n.to_string());
    }
}

#[test]
fn a_v311_session_is_taken_up_in_v5_and_back() {
    let broker = Broker::start();
    let connect = |version| broker.connect(Connect::new(version, "a").durable());
    let mut client = connect(Version::V311);
    client.subscribe("t", 1);
    client.disconnect();
    for version in [Version::V5, Version::V311] {
        broker.publish(Publish::new("t", "1").qos(1));
        let mut client = connect(version);
        assert!(client.connack.session_present);
        assert_eq!(client.take().text(), "1");
        client.disconnect();
    }
}

/// Found by review: after a crash all that came later counted as what it may have been sent, for ever.
#[test]
fn what_came_after_a_crash_was_never_sent_to_who_was_there_before_it() {
    let mut broker = Broker::start();
    let mut client = broker.connect(Connect::v5("a").durable());
    client.subscribe_with(&[("t", 2), ("end", 1)], &[]);
    broker.kill9_and_restart();
    // The first 16 may be under way to a client that is back.
    let numbers: Vec<_> = (0..20).map(|number| number.to_string()).collect();
    for number in &numbers {
        broker.publish(Publish::new("t", number).qos(2).with(Prop::MessageExpiryS(1)));
    }
    let expires = Instant::now() + Duration::from_millis(2100);
    broker.restart_gracefully();
    support::within(Duration::from_secs(5), "it expires", || (Instant::now() > expires).then_some(()));
    broker.publish(Publish::new("end", "end").qos(1));
    let mut client = broker.connect(Connect::v5("a").durable());
    assert!(client.connack.session_present);
    assert_eq!(client.take_until("end"), numbers[..16]);
}

/// A CONNACK that says there is a session says that it is on the disk, also to who comes twice before its commit.
#[test]
fn a_session_that_a_connack_told_of_is_there_after_a_crash() {
    // Nothing is durable before all of it was said.
    let mut broker = Broker::with_config("commit_interval_ms = 400\n");
    let connect = || Connect::v5("twice").durable();
    let mut first = Client::bare(broker.mqtt(), Version::V5);
    first.send(&connect().bytes());
    eventually("the first is let in", || {
        Scrape::of(broker.admin()).value("millstream_mqtt_connects_total", &[]).filter(|count| *count > 0.0)
    });
    let second = broker.connect(connect());
    assert!(second.connack.session_present);
    broker.kill9_and_restart();
    assert!(broker.connect(connect()).connack.session_present);
}
