//! QoS 2, step by step, in both directions.

use support::broker::Broker;
use support::kafka::Kafka;
use support::mqtt::{AckKind, Client, Connect, Packet, Publish, VERSIONS, Version};

fn durable(broker: &Broker, version: Version, id: &str) -> Client {
    broker.connect(Connect::new(version, id).durable())
}

/// What the reason code of a PUBCOMP for an id nobody knows is.
fn unknown_id(version: Version) -> u8 {
    match version {
        Version::V311 => 0,
        Version::V5 => 0x92,
    }
}

#[test]
fn a_resent_publish_is_not_delivered_twice() {
    for version in VERSIONS {
        let broker = Broker::start();
        let mut to = broker.connect(Connect::new(version, "to"));
        to.subscribe("t", 2);
        let mut from = broker.connect(Connect::new(version, "from"));
        let message = Publish::new("t", "once").qos(2).id(7);
        from.send_publish(&message);
        assert_eq!(from.expect_ack(AckKind::PubRec, 7), 0);
        for _ in 0..2 {
            from.send_publish(&message.clone().dup());
            // 5.0 has a reason code for it: the id is in use.
            let reason = from.expect_ack(AckKind::PubRec, 7);
            assert!(reason == 0 || reason == 0x91, "{reason:#04x}");
        }
        from.send_ack(AckKind::PubRel, 7);
        assert_eq!(from.expect_ack(AckKind::PubComp, 7), 0);
        from.publish(Publish::new("t", "end").qos(2).id(7));
        assert_eq!(to.take_until("end"), ["once"]);
        assert_eq!(Kafka::at(broker.kafka()).texts("mqtt", 2), ["once", "end"]);
    }
}

#[test]
fn a_publish_resent_on_a_new_connection_is_not_delivered_twice() {
    for version in VERSIONS {
        for killed in [false, true] {
            let mut broker = Broker::start();
            let mut to = durable(&broker, version, "to");
            to.subscribe("t", 2);
            let mut from = durable(&broker, version, "from");
            let message = Publish::new("t", "once").qos(2).id(7);
            from.send_publish(&message);
            from.expect_ack(AckKind::PubRec, 7);
            drop(from);
            if killed {
                broker.kill9_and_restart();
                to = durable(&broker, version, "to");
            }
            let mut from = durable(&broker, version, "from");
            assert!(from.connack.session_present);
            from.send_publish(&message.dup());
            from.expect_ack(AckKind::PubRec, 7);
            from.send_ack(AckKind::PubRel, 7);
            assert_eq!(from.expect_ack(AckKind::PubComp, 7), 0);
            from.publish(Publish::new("t", "end").qos(2).id(8));
            assert_eq!(to.take_until("end"), ["once"], "killed: {killed}");
            assert_eq!(Kafka::at(broker.kafka()).texts("mqtt", 2), ["once", "end"]);
        }
    }
}

#[test]
fn an_id_is_free_again_after_pubcomp() {
    for killed in [false, true] {
        let mut broker = Broker::start();
        let mut from = durable(&broker, Version::V5, "from");
        from.publish(Publish::new("t", "1").qos(2).id(7));
        if killed {
            drop(from);
            broker.kill9_and_restart();
            from = durable(&broker, Version::V5, "from");
        }
        from.publish(Publish::new("t", "2").qos(2).id(7));
        assert_eq!(Kafka::at(broker.kafka()).texts("mqtt", 2), ["1", "2"]);
    }
}

#[test]
fn pubrel_of_an_unknown_id_is_answered() {
    for version in VERSIONS {
        let broker = Broker::start();
        let mut client = broker.connect(Connect::new(version, "a"));
        client.send_ack(AckKind::PubRel, 99);
        let reason = client.expect_ack(AckKind::PubComp, 99);
        assert_eq!(reason, unknown_id(version));
    }
}

#[test]
fn a_release_repeated_on_a_new_connection_is_answered() {
    for version in VERSIONS {
        for killed in [false, true] {
            let mut broker = Broker::start();
            let mut from = durable(&broker, version, "from");
            from.send_publish(&Publish::new("t", "once").qos(2).id(7));
            from.expect_ack(AckKind::PubRec, 7);
            from.send_ack(AckKind::PubRel, 7);
            from.expect_ack(AckKind::PubComp, 7);
            drop(from);
            if killed {
                broker.kill9_and_restart();
            }
            let mut from = durable(&broker, version, "from");
            from.send_ack(AckKind::PubRel, 7);
            let reason = from.expect_ack(AckKind::PubComp, 7);
            assert_eq!(reason, unknown_id(version));
        }
    }
}

#[test]
fn the_server_resends_publish_then_pubrel_with_one_id() {
    for version in VERSIONS {
        for killed in [false, true] {
            let mut broker = Broker::start();
            let mut client = durable(&broker, version, "a");
            client.subscribe("t", 2);
            broker.publish(Publish::new("t", "once").qos(2));
            let first = client.expect_publish();
            assert_eq!((first.qos, first.dup), (2, false));

            let come_back = |broker: &mut Broker, client: Client| {
                drop(client);
                if killed {
                    broker.kill9_and_restart();
                }
                let client = durable(broker, version, "a");
                assert!(client.connack.session_present);
                client
            };
            // Not answered: the same message again, marked.
            let mut client = come_back(&mut broker, client);
            let again = client.expect_publish();
            assert_eq!((again.id, again.dup, again.text()), (first.id, true, "once".into()));
            client.send_ack(AckKind::PubRec, first.id);
            client.expect_ack(AckKind::PubRel, first.id);

            // Answered and released: only the release again.
            let mut client = come_back(&mut broker, client);
            let Packet::Ack(release) = client.recv() else {
                panic!("PUBREL was due");
            };
            assert_eq!((release.kind, release.id), (AckKind::PubRel, first.id));
            client.send_ack(AckKind::PubComp, first.id);
            broker.publish(Publish::new("t", "end").qos(2));
            assert!(client.take_until("end").is_empty());
        }
    }
}

#[test]
fn a_pubrec_twice_is_released_twice() {
    let broker = Broker::start();
    let mut client = broker.connect(Connect::v5("a"));
    client.subscribe("t", 2);
    broker.publish(Publish::new("t", "once").qos(2));
    let got = client.expect_publish();
    client.send_ack(AckKind::PubRec, got.id);
    client.expect_ack(AckKind::PubRel, got.id);
    client.send_ack(AckKind::PubRec, got.id);
    client.expect_ack(AckKind::PubRel, got.id);
    client.send_ack(AckKind::PubComp, got.id);
    broker.publish(Publish::new("t", "end").qos(2));
    assert!(client.take_until("end").is_empty());
}

#[test]
fn handshakes_of_several_messages_cross() {
    let broker = Broker::start();
    let mut from = broker.connect(Connect::v311("from"));
    for id in [3, 1, 2] {
        from.send_publish(&Publish::new("t", id.to_string()).qos(2).id(id));
    }
    // PUBREC comes in the order of the PUBLISHes, PUBCOMP in the order of the PUBRELs.
    let mut expect_in_order = |kind, ids: [u16; 3]| {
        for id in ids {
            match from.recv() {
                Packet::Ack(ack) => assert_eq!((ack.kind, ack.id), (kind, id)),
                other => panic!("{kind:?} {id} was due, came {other:?}"),
            }
        }
    };
    expect_in_order(AckKind::PubRec, [3, 1, 2]);
    let mut from = from;
    for id in [1, 2, 3] {
        from.send_ack(AckKind::PubRel, id);
    }
    for id in [1, 2, 3] {
        assert_eq!(from.expect_ack(AckKind::PubComp, id), 0);
    }
}
