//! SIGHUP: what changes, for whom, and what a broken file does (nothing).

use crate::{accepted, certs, code, of, talks_to_itself};
use rdkafka::consumer::{BaseConsumer, Consumer};
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use support::broker::{Broker, Way};
use support::certs::Certs;
use support::kafka::Kafka;
use support::kafka_wire::KafkaWire;
use support::mqtt::{Client, Connect, Prop, Publish, VERSIONS, Version};
use support::passwords;
use support::stream::tcp;
use support::tls::Tls;

/// SIGHUP that must take everything.
#[track_caller]
fn reload(broker: &mut Broker) -> String {
    let said = broker.reload();
    assert!(said.lines().any(|line| line.ends_with("INFO  reloaded")) && !said.contains("ERROR"), "{said}");
    said
}

fn users(broker: &Broker, users: &[(&str, &str)]) {
    passwords::write(&broker.folder().join("passwd"), users);
}

#[track_caller]
fn client(broker: &Broker, version: Version, id: &str, user: &str, password: &str) -> Client {
    accepted(Client::connect(broker.mqtt(), &of(version, id, user, password)))
}

/// A Kafka connection of this user.
#[track_caller]
fn wire(broker: &Broker, user: &str, password: &str) -> KafkaWire<TcpStream> {
    let mut wire = KafkaWire::on(tcp(broker.kafka()));
    assert_eq!(wire.sasl_plain(user, password).expect("an answer"), 0);
    wire.metadata(None).expect("it came in");
    wire
}

fn replace(folder: &Path, by: &Certs) {
    for name in ["ca.crt", "server.crt", "server.key"] {
        fs::copy(by.file(name), folder.join(name)).expect("a writable folder");
    }
}

#[test]
fn new_connections_get_the_new_certificate_and_old_ones_stay() {
    let broker = Broker::prepared().listen(&[Way::MqttTls, Way::KafkaTls]);
    let (first, second) = (certs(&broker, "first"), certs(&broker, "second"));
    let folder = broker.folder().join("used");
    fs::create_dir(&folder).expect("a writable folder");
    replace(&folder, &first);
    let mut broker = broker.certs(&folder);
    broker.restart();
    let mqtt =
        |broker: &Broker, tls: Tls| accepted(Client::over(tls.connect(broker.at(Way::MqttTls)), &Connect::v5("")));
    let mut old = mqtt(&broker, Tls::trusting(&first));
    let mut old_kafka = KafkaWire::on(Tls::trusting(&first).connect(broker.at(Way::KafkaTls)));
    replace(&folder, &second);
    // Not before it is told to.
    mqtt(&broker, Tls::trusting(&first));
    reload(&mut broker);
    mqtt(&broker, Tls::trusting(&second)).ping();
    mqtt(&broker, Tls::trusting(&second).showing(&second, "client")).ping();
    KafkaWire::on(Tls::trusting(&second).connect(broker.at(Way::KafkaTls))).metadata(None).expect("an answer");
    for way in [Way::MqttTls, Way::KafkaTls] {
        assert!(Tls::trusting(&first).on(tcp(broker.at(way))).is_err(), "{way:?}");
    }
    // Nor is the old CA believed.
    let stranger = Tls::trusting(&second).showing(&first, "client").on(tcp(broker.at(Way::MqttTls)));
    assert!(!matches!(stranger.map(|stream| Client::try_over(stream, &Connect::v5("x"))), Ok(Ok(_))));
    talks_to_itself(&mut old, "still/here");
    old_kafka.metadata(None).expect("an answer");

    // A key that does not belong to it changes nothing.
    fs::copy(first.file("server.key"), folder.join("server.key")).expect("a writable folder");
    let said = broker.reload();
    assert!(said.contains("ERROR") && said.contains("server.key"), "{said}");
    mqtt(&broker, Tls::trusting(&second)).ping();
}

#[test]
fn users_come_go_and_change_their_passwords() {
    let mut broker = Broker::prepared().config("password_file = \"passwd\"");
    users(&broker, &[("alice", "a"), ("bob", "b"), ("dave", "d")]);
    broker.restart();
    let each = |broker: &Broker, user: &str| {
        let mqtt = VERSIONS.map(|version| {
            let id = format!("{user}-{version:?}");
            client(broker, version, &id, user, &user[..1])
        });
        (mqtt, wire(broker, user, &user[..1]))
    };
    let (alice, bob, dave) = (each(&broker, "alice"), each(&broker, "bob"), each(&broker, "dave"));
    assert_eq!(code(&broker, of(Version::V5, "carol", "carol", "c")), 0x86);

    // Bob is gone, alice has another password, carol is new.
    users(&broker, &[("alice", "A"), ("carol", "c"), ("dave", "d")]);
    reload(&mut broker);
    for ([mut old, mut new], mut kafka) in [alice, bob] {
        assert_eq!(old.expect_closed(), None);
        assert_eq!(new.expect_closed(), Some(0x87));
        assert!(kafka.metadata(None).is_err(), "it is still served");
    }
    let ([mut old, mut new], mut kafka) = dave;
    talks_to_itself(&mut old, "dave/old");
    talks_to_itself(&mut new, "dave/new");
    kafka.metadata(None).expect("an answer");
    for (user, password, expected) in
        [("alice", "a", 0x86), ("alice", "A", 0), ("bob", "b", 0x86), ("carol", "c", 0), ("dave", "d", 0)]
    {
        assert_eq!(code(&broker, of(Version::V5, "x", user, password)), expected, "{user}, {password}");
        let mut kafka = KafkaWire::on(tcp(broker.kafka()));
        let came_in = kafka.sasl_plain(user, password).expect("an answer") == 0;
        assert_eq!(came_in, expected == 0, "{user}, {password}");
    }
}

#[test]
fn a_silent_kafka_connection_of_a_removed_user_is_closed() {
    let mut broker = Broker::prepared().config("password_file = \"passwd\"");
    users(&broker, &[("alice", "a"), ("bob", "b")]);
    broker.restart();
    let (mut alice, mut bob) = (wire(&broker, "alice", "a"), wire(&broker, "bob", "b"));
    users(&broker, &[("alice", "a")]);
    reload(&mut broker);
    alice.metadata(None).expect("an answer");
    assert!(bob.is_closed(), "it is open until its next request");
}

#[test]
fn a_durable_session_outlives_its_users_new_password() {
    let mut broker = Broker::prepared().config("password_file = \"passwd\"");
    users(&broker, &[("alice", "a"), ("dave", "d")]);
    broker.restart();
    let connect = |password| of(Version::V5, "hers", "alice", password).durable();
    let mut alice = accepted(Client::connect(broker.mqtt(), &connect("a")));
    alice.subscribe("t", 1);
    users(&broker, &[("alice", "A"), ("dave", "d")]);
    reload(&mut broker);
    assert_eq!(alice.expect_closed(), Some(0x87));
    let mut dave = client(&broker, Version::V5, "dave", "dave", "d");
    assert_eq!(dave.publish(Publish::new("t", "kept").qos(1)), 0);
    let mut alice = accepted(Client::connect(broker.mqtt(), &connect("A")));
    assert!(alice.connack.session_present);
    assert_eq!(alice.take().text(), "kept");
}

#[test]
fn anonymous_clients_go_when_they_are_no_longer_welcome() {
    let mut broker = Broker::prepared().config("");
    broker.restart();
    let mut anonymous = broker.connect(Connect::v5("a"));
    users(&broker, &[("alice", "a")]);
    broker.write_config("password_file = \"passwd\"");
    reload(&mut broker);
    assert_eq!(anonymous.expect_closed(), Some(0x87));
    assert_eq!(code(&broker, Connect::v5("a")), 0x87);
    client(&broker, Version::V5, "a", "alice", "a").ping();
}

#[test]
fn anonymous_kafka_clients_go_too() {
    for (before, after) in
        [("", "password_file = \"passwd\""), ("[kafka]\nallow_anonymous = true", "[kafka]\nallow_anonymous = false")]
    {
        let mut broker = Broker::prepared().config(before);
        users(&broker, &[("alice", "a")]);
        broker.restart();
        let mut kafka = KafkaWire::on(tcp(broker.kafka()));
        kafka.metadata(None).expect("an answer");
        broker.write_config(after);
        reload(&mut broker);
        assert!(KafkaWire::on(tcp(broker.kafka())).metadata(None).is_err(), "a new one comes in");
        assert!(kafka.metadata(None).is_err(), "the old one is still served");
    }
}

#[test]
fn rights_change_on_open_connections() {
    let mut broker = Broker::prepared().config("password_file = \"passwd\"\nacl_file = \"acl\"");
    users(&broker, &[("alice", "a"), ("root", "r")]);
    let root = "user root\ntopic #\n";
    broker.write("acl", &format!("{root}user alice\ntopic write says/one\ntopic read hears/one\nkafka read mqtt\n"));
    broker.restart();
    let mut root_client = client(&broker, Version::V5, "root", "root", "r");
    let mut clients = VERSIONS.map(|version| client(&broker, version, &format!("{version:?}"), "alice", "a"));
    for client in &mut clients {
        assert_eq!(client.subscribe("hears/#", 1), 1);
    }
    let mut kafka = wire(&broker, "alice", "a");
    assert_eq!(kafka.metadata(Some(&["mqtt"])).expect("an answer").1[0].error, 0);
    let mut check = |publishes: [(&str, bool); 2], hears: &str| {
        for client in &mut clients {
            let is_v5 = !client.connack.props.is_empty();
            for (topic, allowed) in publishes {
                let refused = client.publish(Publish::new(topic, "x").qos(1)) == 0x87;
                assert_eq!(refused, is_v5 && !allowed, "{topic}");
            }
        }
        for topic in ["hears/one", "hears/two"] {
            for qos in [0, 1, 2] {
                assert!(root_client.publish(Publish::new(topic, topic).qos(qos)) < 0x80);
            }
        }
        for client in &mut clients {
            (0..3).for_each(|_| assert_eq!(client.take().topic, hears));
            assert!(client.sent_so_far().is_empty());
        }
    };
    check([("says/one", true), ("says/two", false)], "hears/one");

    broker.write("acl", &format!("{root}user alice\ntopic write says/two\ntopic read hears/two\nkafka read other\n"));
    reload(&mut broker);
    check([("says/one", false), ("says/two", true)], "hears/two");
    let (_, topics) = kafka.metadata(Some(&["mqtt"])).expect("an answer");
    assert_eq!(topics[0].error, 29, "TOPIC_AUTHORIZATION_FAILED");
}

#[test]
fn a_rule_maps_from_then_on() {
    let mut broker = Broker::prepared().config("[[bridge.rule]]\nfilter = \"#\"\ntopic = \"all\"\n");
    broker.restart();
    let mut client = broker.connect(Connect::v5("a"));
    let mut say = |text: &str| assert!(client.publish(Publish::new("plant/1", text).qos(1)) < 0x80);
    say("before");
    broker.write_config(
        "[[bridge.rule]]\nfilter = \"plant/+\"\ntopic = \"plants\"\nkey = \"{2}\"\npartitions = 2\n\
         [[bridge.rule]]\nfilter = \"#\"\ntopic = \"all\"\n",
    );
    reload(&mut broker);
    say("after");
    let kafka = Kafka::at(broker.kafka());
    let plants = kafka.read("plants", 1);
    assert_eq!((plants.len(), plants[0].text(), plants[0].key_text()), (1, "after".into(), "1".into()));
    assert_eq!(kafka.partitions("plants"), 2);
    assert_eq!(kafka.texts("all", 1), ["before"]);
    // Nothing is mapped any more.
    broker.write_config("[bridge]\nenabled = false");
    reload(&mut broker);
    say("unmapped");
    let seen: BaseConsumer = kafka.config().create().expect("a consumer");
    let high = |topic: &str| -> i64 {
        let of = |partition| seen.fetch_watermarks(topic, partition, support::PATIENCE).expect("watermarks").1;
        (0..kafka.partitions(topic)).map(of).sum()
    };
    assert_eq!((high("plants"), high("all")), (1, 1));
}

#[test]
fn a_limit_changes_for_new_connections() {
    let mut broker = Broker::prepared().config("[mqtt]\nmax_packet_size = 4096");
    broker.restart();
    let told = |client: &Client| {
        client.connack.props.iter().find_map(|prop| match prop {
            Prop::MaximumPacketBytes(bytes) => Some(*bytes),
            _ => None,
        })
    };
    let of_bytes = |bytes: usize| Publish::new("t", vec![b'x'; bytes]).qos(1);
    let mut first = broker.connect(Connect::v5("first"));
    assert_eq!(told(&first), Some(4096));
    assert!(first.publish(of_bytes(3000)) < 0x80);
    broker.write_config("[mqtt]\nmax_packet_size = 1024");
    reload(&mut broker);
    let mut second = broker.connect(Connect::v5("second"));
    assert_eq!(told(&second), Some(1024));
    assert!(second.publish(of_bytes(900)) < 0x80);
    second.send_publish(&of_bytes(3000).id(9));
    assert_eq!(second.expect_closed(), Some(0x95));
    // What a client was told holds for its connection.
    assert!(first.publish(of_bytes(3000)) < 0x80);
    broker.write_config("[mqtt]\nmax_packet_size = 100000");
    reload(&mut broker);
    assert!(broker.connect(Connect::v5("third")).publish(of_bytes(90_000)) < 0x80);
}

#[test]
fn a_broken_file_changes_nothing() {
    let config = "password_file = \"passwd\"\nacl_file = \"acl\"\n";
    let mut broker = Broker::prepared().config(config);
    users(&broker, &[("alice", "a")]);
    let passwd = fs::read_to_string(broker.folder().join("passwd")).expect("just written");
    let acl = "user alice\ntopic t\n";
    broker.write("acl", acl);
    broker.restart();
    let mut alice = client(&broker, Version::V5, "alice", "alice", "a");
    let mut unchanged = |broker: &Broker| {
        assert_eq!(alice.publish(Publish::new("t", "x").qos(1)) & 0x80, 0);
        assert_eq!(alice.publish(Publish::new("u", "x").qos(1)), 0x87);
        alice.ping();
        assert_eq!(code(broker, of(Version::V5, "x", "alice", "a")), 0);
        assert_eq!(code(broker, of(Version::V5, "x", "bob", "b")), 0x86);
    };
    let broken = |broker: &mut Broker, named: &str| {
        let said = broker.reload();
        let tells = |line: &str| line.contains("ERROR") && line.contains(named);
        assert!(said.lines().any(tells), "{named} in\n{said}");
        assert!(!said.lines().any(|line| line.ends_with("INFO  reloaded")), "{said}");
    };
    // Beside each broken file is one that would change something.
    users(&broker, &[("alice", "other"), ("bob", "b")]);
    broker.write("acl", "user alice\ntopic u\ntopic reed t\n"); // sic
    broken(&mut broker, "acl:3: ");
    unchanged(&broker);
    broker.write("acl", "user alice\ntopic u\n");
    broker.write("passwd", &format!("{passwd}bob\n"));
    broken(&mut broker, "passwd:2: ");
    unchanged(&broker);
    broker.write("passwd", &passwd);
    broker.write_config(&format!("{config}[mqtt]\nmax_packet_bytes = 100\n"));
    broken(&mut broker, "millstream.toml:4: ");
    unchanged(&broker);
    broker.write_config(&format!("{config}[mqtt\n"));
    broken(&mut broker, "millstream.toml");
    unchanged(&broker);
    broker.write_config(config);
    fs::remove_file(broker.folder().join("acl")).expect("just written");
    broken(&mut broker, "acl");
    unchanged(&broker);
    // And it can still be done right.
    broker.write("acl", "user alice\ntopic u\n");
    reload(&mut broker);
    assert_eq!(alice.publish(Publish::new("u", "x").qos(1)) & 0x80, 0);
}

#[test]
fn what_takes_a_restart_is_named() {
    let mut broker = Broker::prepared().config("");
    broker.restart();
    let mut client = broker.connect(Connect::v5("a"));
    broker.write_config("shards = 1\ncommit_interval_ms = 7\n[kafka]\nnode_id = 9\n[mqtt]\nmax_packet_size = 2000");
    let said = reload(&mut broker);
    for key in ["shards", "commit_interval_ms", "kafka.node_id"] {
        let tells = |line: &str| line.contains("WARN") && line.contains(key) && line.contains("restart");
        assert!(said.lines().any(tells), "{key} in\n{said}");
    }
    assert!(!said.contains("max_packet_size"), "{said}");
    talks_to_itself(&mut client, "t");
    // What needs none is in force.
    let told = broker.connect(Connect::v5("b")).connack.props;
    assert!(told.contains(&Prop::MaximumPacketBytes(2000)), "{told:?}");
}
