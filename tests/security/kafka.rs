//! The same users, certificates and rights on the Kafka side.

use crate::{certs, of};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::Duration;
use support::broker::{Broker, Way};
use support::certs::Certs;
use support::eventually;
use support::kafka::{Kafka, poll_records};
use support::kafka_wire::{KafkaWire, Topic};
use support::mqtt::{Client, Connect, Publish, Version};
use support::passwords;
use support::stream::{Duplex, tcp};
use support::tls::Tls;

/// Codes of the protocol.
const TOPIC_AUTHORIZATION_FAILED: i16 = 29;
const GROUP_AUTHORIZATION_FAILED: i16 = 30;
const UNSUPPORTED_SASL_MECHANISM: i16 = 33;
const SASL_AUTHENTICATION_FAILED: i16 = 58;

const ACL: &str = "\
user device
topic #

user reader
kafka read mqtt

user writer
kafka write orders

user app
kafka app.*
kafka deny app.secret

user nothing
topic read #

user client
kafka read mqtt
";

/// A broker with these users and rights; each user's password is its name. Its log has `hello` in `mqtt`.
#[track_caller]
fn start() -> Broker {
    let broker = Broker::prepared().config("password_file = \"passwd\"\nacl_file = \"acl\"");
    let users = ["device", "reader", "writer", "app", "nothing"].map(|name| (name, name));
    passwords::write(&broker.folder().join("passwd"), &users);
    broker.write("acl", ACL);
    let certs = certs(&broker, "certs");
    certs.client("stranger");
    let mut broker = broker.listen(&[Way::KafkaTls]).certs(certs.folder());
    broker.restart();
    let mut device = Client::connect(broker.mqtt(), &of(Version::V5, "device", "device", "device"));
    assert_eq!(device.publish(Publish::new("t", "hello").qos(1)), 0);
    broker
}

#[track_caller]
fn as_user(broker: &Broker, user: &'static str) -> Kafka {
    Kafka::at(broker.kafka()).as_user(user, user)
}

/// A connection that has authenticated as this user.
#[track_caller]
fn wire(broker: &Broker, user: &str) -> KafkaWire<TcpStream> {
    let mut wire = KafkaWire::on(tcp(broker.kafka()));
    assert_eq!(wire.sasl_plain(user, user).expect("an answer"), 0);
    wire
}

/// Polls until the consumer is told this; records must not come.
#[track_caller]
fn is_told(consumer: &BaseConsumer, wanted: RDKafkaErrorCode) {
    eventually(&format!("{wanted:?}"), || match consumer.poll(Duration::from_millis(100)) {
        Some(Ok(message)) => panic!("a record came: {message:?}"),
        Some(Err(KafkaError::MessageConsumption(code))) if code == wanted => Some(()),
        _ => None,
    });
}

#[track_caller]
fn assigned(kafka: &Kafka, topic: &str) -> BaseConsumer {
    let consumer: BaseConsumer = kafka.config().set("group.id", "assigned").create().expect("a consumer");
    let mut all = TopicPartitionList::new();
    all.add_partition_offset(topic, 0, Offset::Beginning).expect("a partition");
    consumer.assign(&all).expect("an assignment");
    consumer
}

#[test]
fn sasl_plain_takes_the_right_password_only() {
    let broker = start();
    assert_eq!(as_user(&broker, "reader").texts("mqtt", 1), ["hello"]);
    let wrong = Kafka::at(broker.kafka()).as_user("reader", "writer").config();
    let client: BaseConsumer = wrong.create().expect("a consumer");
    assert!(client.fetch_metadata(None, Duration::from_secs(1)).is_err(), "a wrong password came in");
    drop(client);
    for (user, password, told) in [
        ("reader", "Reader", "user \\\"reader\\\" was not authenticated"),
        ("mallory", "reader", "user \\\"mallory\\\" was not authenticated"),
        ("reader", "", "empty"),
        ("", "", "empty"),
    ] {
        let mut wire = KafkaWire::on(tcp(broker.kafka()));
        assert_eq!(wire.sasl_plain(user, password).expect("an answer"), SASL_AUTHENTICATION_FAILED, "{user}");
        assert!(wire.metadata(None).is_err(), "{user} came in after all");
        broker.log_line(&[&wire.peer(), told]);
    }
    let mut scram = KafkaWire::on(tcp(broker.kafka()));
    assert_eq!(scram.sasl_handshake("SCRAM-SHA-256").expect("an answer"), UNSUPPORTED_SASL_MECHANISM);
    // Authenticated once is for the whole connection.
    let mut wire = wire(&broker, "reader");
    for _ in 0..3 {
        assert_eq!(wire.metadata(None).expect("an answer").1[0].name, "mqtt");
    }
}

#[test]
fn without_sasl_a_client_is_closed_and_told_of_in_the_log() {
    let broker = start();
    let mut wire = KafkaWire::on(tcp(broker.kafka()));
    // Which versions there are, anyone may ask.
    wire.ask(18, 0, &[]).expect("ApiVersions");
    assert!(wire.metadata(None).is_err(), "it came in");
    let line = broker.log_line(&[&wire.peer()]);
    assert!(line.contains("SASL"), "{line}");
    let client: BaseConsumer = Kafka::at(broker.kafka()).config().create().expect("a consumer");
    assert!(client.fetch_metadata(None, Duration::from_secs(1)).is_err());
}

#[test]
fn rights_are_those_of_the_kafka_lines() {
    let broker = start();
    let failed = |user, topic| as_user(&broker, user).try_produce(topic, &[("k", "v")], &[]);
    let refused = |user, topic| failed(user, topic).join(" ").contains("TopicAuthorizationFailed");
    // Read only.
    let reader = as_user(&broker, "reader");
    assert_eq!(reader.texts("mqtt", 1), ["hello"]);
    assert!(refused("reader", "mqtt"));
    assert!(refused("reader", "orders"));
    // Write only.
    assert_eq!(failed("writer", "orders"), [""; 0]);
    assert!(refused("writer", "mqtt"));
    is_told(&assigned(&as_user(&broker, "writer"), "orders"), RDKafkaErrorCode::TopicAuthorizationFailed);
    // By the beginning of the name, but for one.
    let app = as_user(&broker, "app");
    app.produce("app.a", &[("k", "v")], &[]);
    assert_eq!(app.texts("app.a", 1), ["v"]);
    assert!(refused("app", "app.secret"));
    assert!(refused("app", "apps"));
    assert_eq!(app.create_topic("app.b", 1, &[]), Ok(()));
    assert!(app.create_topic("other", 1, &[]).is_err());

    // Each sees its own.
    let seen = |user| {
        let (_, topics) = wire(&broker, user).metadata(None).expect("an answer");
        let mut names: Vec<String> = topics.into_iter().map(|topic| topic.name).collect();
        names.sort();
        names
    };
    assert_eq!(seen("reader"), ["mqtt"]);
    assert_eq!(seen("writer"), ["orders"]);
    assert_eq!(seen("app"), ["app.a", "app.b"]);
    assert_eq!(seen("nothing"), [""; 0]);
    // By name, a forbidden topic looks the same whether it is there or not.
    let (_, asked) = wire(&broker, "nothing").metadata(Some(&["mqtt", "not.there"])).expect("an answer");
    let forbidden = |name: &str| Topic { error: TOPIC_AUTHORIZATION_FAILED, name: name.into(), partitions: 0 };
    assert_eq!(asked, [forbidden("mqtt"), forbidden("not.there")]);
    assert_eq!(seen("app"), ["app.a", "app.b"], "and is not made by asking");
}

#[test]
fn groups_are_for_who_may_read() {
    let broker = start();
    let consumer = as_user(&broker, "reader").join("group", "mqtt");
    assert_eq!(poll_records(&consumer, 1)[0].text(), "hello");
    for user in ["nothing", "writer"] {
        is_told(&as_user(&broker, user).join("group", "mqtt"), RDKafkaErrorCode::GroupAuthorizationFailed);
    }
    // FindCoordinator says so itself.
    let answer = wire(&broker, "nothing").ask(10, 0, b"\0\x05group").expect("an answer");
    assert_eq!(answer[..2], GROUP_AUTHORIZATION_FAILED.to_be_bytes());
}

#[test]
fn over_tls_a_certificate_is_the_principal() {
    let broker = start();
    let certs = Certs::at(&broker.folder().join("certs"));
    let tls = Tls::trusting(&certs);
    let over = |tls: Tls| KafkaWire::on(tls.connect(broker.at(Way::KafkaTls)));
    for tls in [tls.clone().v12(), tls.clone().v13()] {
        let (ports, topics) = over(tls.clone().showing(&certs, "client")).metadata(None).expect("an answer");
        assert_eq!(ports, [i32::from(broker.at(Way::KafkaTls).port())], "clients come back by TLS");
        assert_eq!(topics.len(), 1);
        assert_eq!((topics[0].name.as_str(), topics[0].error), ("mqtt", 0));
        // A name without a line sees nothing.
        let (_, topics) = over(tls.showing(&certs, "stranger")).metadata(None).expect("an answer");
        assert_eq!(topics, []);
    }
    // Without a certificate: SASL, or nothing.
    let mut with_password = over(tls.clone());
    assert_eq!(with_password.sasl_plain("reader", "reader").expect("an answer"), 0);
    assert_eq!(with_password.metadata(None).expect("an answer").1[0].name, "mqtt");
    let mut nobody = over(tls);
    assert!(nobody.metadata(None).is_err(), "it came in");
    broker.log_line(&[&nobody.peer(), "SASL"]);
    // And by TCP the port of TCP is told.
    let (ports, _) = wire(&broker, "reader").metadata(None).expect("an answer");
    assert_eq!(ports, [i32::from(broker.kafka().port())]);
}

#[test]
fn the_wrong_protocol_is_closed_and_named() {
    let broker = start();
    let consumer = as_user(&broker, "reader").join("undisturbed", "mqtt");
    assert_eq!(poll_records(&consumer, 1)[0].text(), "hello");
    let mut plain = KafkaWire::on(tcp(broker.at(Way::KafkaTls)));
    assert!(plain.ask(18, 0, &[]).is_err());
    let line = broker.log_line(&[&plain.peer()]);
    assert!(line.contains("TLS"), "{line}");

    let certs = Certs::at(&broker.folder().join("certs"));
    let socket = tcp(broker.kafka());
    let peer = socket.peer();
    assert!(Tls::trusting(&certs).on(socket).is_err());
    let line = broker.log_line(&[&peer]);
    assert!(line.contains("TLS"), "{line}");

    for bytes in [&b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], &Connect::v5("mqtt").bytes()] {
        let mut wire = KafkaWire::on(tcp(broker.kafka()));
        wire.stream().write_all(bytes).expect("open");
        // A short packet of MQTT may look like the beginning of something long.
        wire.stream().shutdown(Shutdown::Write).expect("open");
        assert!(wire.is_closed());
        broker.log_line(&[&wire.peer()]);
    }
    let mut device = Client::connect(broker.mqtt(), &of(Version::V5, "device", "device", "device"));
    assert_eq!(device.publish(Publish::new("t", "still here").qos(1)), 0);
    assert_eq!(poll_records(&consumer, 1)[0].text(), "still here");
}
