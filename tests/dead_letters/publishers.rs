//! What was not taken from a publisher, or has no place in the log.

use super::{all_told, away, letters, toml, value};
use support::broker::Broker;
use support::kafka::Kafka;
use support::mqtt::{AckKind, Connect, Prop, Publish, Version};
use support::passwords;

const RULES: &str = "\
[[bridge.rule]]
filter = \"serials/#\"
topic = \"serials\"
key = \"{user_property:serial}\"

[[bridge.rule]]
filter = \"levels/#\"
topic = \"levels\"
key = \"{3}\"

[[bridge.rule]]
filter = \"users/#\"
topic = \"users\"
key = \"{user}\"
";

#[test]
fn what_lacks_a_part_of_its_key_is_a_letter_and_reaches_subscribers() {
    let mut broker = Broker::with_config(&(toml("") + RULES));
    away(&broker, Connect::v5("away"), "#");
    let mut here = broker.connect(Connect::v5("here"));
    here.subscribe("#", 0);
    let mut oven = broker.connect(Connect::v5("oven"));
    let with = Publish::new("serials/1", "has one").qos(1).with(Prop::user("serial", ""));
    for message in [
        with,
        Publish::new("serials/1", "has none").qos(1),
        Publish::new("levels/a", "too few").qos(2),
        Publish::new("levels/a/", "enough").qos(1),
        Publish::new("users/1", "nobody").qos(0),
        Publish::new("other", "is in no rule").qos(1),
    ] {
        assert_eq!(oven.publish(message), 0);
    }
    let due = ["has none", "too few", "nobody"].map(|text| format!("oven: {text} (unmapped) for "));
    assert_eq!(all_told(&broker, 3), due);
    let all = ["has one", "has none", "too few", "enough", "nobody", "is in no rule"];
    let got: Vec<_> = here.sent_so_far().iter().map(Publish::text).collect();
    assert_eq!(got, all);
    let kafka = Kafka::at(broker.kafka());
    assert_eq!(kafka.texts("serials", 1), ["has one"]);
    assert_eq!(kafka.texts("levels", 1), ["enough"]);
    assert_eq!(kafka.topics()["users"], 4);
    assert_eq!(value(&broker, "millstream_mqtt_mapped_messages_total", &[]), 2.0);
    broker.kill9_and_restart();
    let mut away = broker.connect(Connect::v5("away").durable());
    let queued: Vec<_> = (0..5).map(|_| away.take().text()).collect();
    assert_eq!(queued, ["has one", "has none", "too few", "enough", "is in no rule"]);
    letters(&broker, 3);
}

#[test]
fn without_a_topic_for_them_a_part_that_is_missing_is_left_empty() {
    let broker = Broker::with_config(RULES);
    broker.publish(Publish::new("serials/1", "has none").qos(1));
    let kafka = Kafka::at(broker.kafka());
    let records = kafka.read("serials", 1);
    assert_eq!((records[0].key_text(), records[0].text()), (String::new(), "has none".to_owned()));
    let mut topics: Vec<_> = kafka.topics().into_keys().collect();
    topics.sort();
    assert_eq!(topics, ["levels", "serials", "users"]);
}

const LIMITS: &str = "\
[mqtt]
max_topic_bytes = 20
max_topic_levels = 3
max_retained_messages = 1
check_payload_format = true
";

#[test]
fn what_a_limit_refuses_is_a_letter_that_names_it() {
    let broker = Broker::with_config(&toml(LIMITS));
    let mut oven = broker.connect(Connect::v5("oven"));
    let mut old = broker.connect(Connect::v311("old"));
    let (long, deep) = ("t".repeat(21), "a/b/c/d");
    assert_eq!(oven.publish(Publish::new(&long, "1").qos(1)), 0x90);
    assert_eq!(oven.publish(Publish::new(deep, "2").qos(2)), 0x90);
    oven.publish(Publish::new(deep, "3"));
    // It has no answer but that all is well.
    assert_eq!(old.publish(Publish::new(deep, "4").qos(1)), 0);
    assert_eq!(old.publish(Publish::new(deep, "5").qos(2)), 0);
    oven.publish(Publish::new("a", "kept").qos(1).retain());
    assert_eq!(oven.publish(Publish::new("b", "6").qos(1).retain()), 0x97);
    let text = |qos| Publish::new("b", b"\xFF").qos(qos).with(Prop::PayloadFormat(1));
    assert_eq!(oven.publish(text(1)), 0x99);
    oven.send_publish(&text(0));
    assert_eq!(oven.expect_closed(), Some(0x99));
    let due = [
        "oven: 1 (limit max_topic_bytes) for ",
        "oven: 2 (limit max_topic_levels) for ",
        "oven: 3 (limit max_topic_levels) for ",
        "old: 4 (limit max_topic_levels) for ",
        "old: 5 (limit max_topic_levels) for ",
        "oven: 6 (limit max_retained_messages) for ",
        "oven: \u{fffd} (limit check_payload_format) for ",
        "oven: \u{fffd} (limit check_payload_format) for ",
    ];
    assert_eq!(all_told(&broker, due.len()), due);
    assert_eq!(value(&broker, "millstream_dead_letters_total", &[("reason", "limit")]), 8.0);
}

#[test]
fn what_is_refused_at_qos_2_and_said_to_be_taken_is_one_letter_however_often_it_comes() {
    let mut broker = Broker::with_config(&toml(LIMITS));
    let connect = || Connect::v311("old").durable();
    let publish = |text: &str| Publish::new("a/b/c/d", text).qos(2).id(7);
    let mut old = broker.connect(connect());
    for message in [publish("x"), publish("x").dup()] {
        old.send_publish(&message);
        old.expect_ack(AckKind::PubRec, 7);
    }
    broker.kill9_and_restart();
    let mut old = broker.connect(connect());
    old.send_publish(&publish("x").dup());
    old.expect_ack(AckKind::PubRec, 7);
    letters(&broker, 1);
    old.send_ack(AckKind::PubRel, 7);
    old.expect_ack(AckKind::PubComp, 7);
    old.send_publish(&publish("y"));
    old.expect_ack(AckKind::PubRec, 7);
    let due = ["x", "y"].map(|text| format!("old: {text} (limit max_topic_levels) for "));
    assert_eq!(all_told(&broker, 2), due);
}

#[test]
fn who_may_not_publish_writes_no_letters() {
    let files = "password_file = \"passwd\"\nacl_file = \"acl\"\n";
    let mut broker = Broker::prepared().config(&toml(&format!("{files}{LIMITS}allow_anonymous = true\n")));
    passwords::write(&broker.folder().join("passwd"), &[("ann", "ann")]);
    broker.write("acl", "topic write mine/#\n\nuser ann\nkafka read lost\n");
    broker.restart();
    let mut nobody = broker.connect(Connect::new(Version::V5, "nobody"));
    for qos in [0, 1, 2] {
        nobody.publish(Publish::new("mine/b/c/d", "letter").qos(qos));
        for topic in ["theirs", "theirs/b/c/d", "$SYS/x"] {
            nobody.publish(Publish::new(topic, "refused").qos(qos));
        }
    }
    let ann = Kafka::at(broker.kafka()).as_user("ann", "ann");
    let found = ann.texts("lost", 3);
    assert_eq!(found, ["letter", "letter", "letter"]);
}
