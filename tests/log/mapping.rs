//! From an MQTT message to a record: topic, key, partition, value, headers.

use std::collections::HashSet;
use std::time::{SystemTime, UNIX_EPOCH};
use support::broker::Broker;
use support::kafka::Kafka;
use support::mqtt::{Connect, Prop, Publish, VERSIONS};

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_millis() as i64
}

#[test]
fn a_message_is_a_record_with_key_and_headers() {
    let broker = Broker::start();
    for (n, version) in VERSIONS.into_iter().enumerate() {
        let mut client = broker.connect(Connect::new(version, "oven-7"));
        let before = now_ms();
        for qos in [0, 1, 2] {
            let topic = format!("sensors/{n}/{qos}");
            let message = Publish::new(&topic, "21.5").qos(qos);
            client.publish(if qos == 1 { message.retain() } else { message });
        }
        let records = Kafka::at(broker.kafka()).read("mqtt", 3 * (n + 1));
        let after = now_ms();
        for qos in [0, 1, 2] {
            let topic = format!("sensors/{n}/{qos}");
            let record = records.iter().find(|record| record.key_text() == topic);
            let record = record.unwrap_or_else(|| panic!("{topic} in {records:?}"));
            assert_eq!(record.value.as_deref(), Some(&b"21.5"[..]));
            assert_eq!(record.header("mqtt.topic"), [topic]);
            assert_eq!(record.header("mqtt.client_id"), ["oven-7"]);
            assert_eq!(record.header("mqtt.qos"), [qos.to_string()]);
            let retain = if qos == 1 { "1" } else { "0" };
            assert_eq!(record.header("mqtt.retain"), [retain]);
            let stamp = record.timestamp_ms.expect("a timestamp");
            assert!((before..=after).contains(&stamp), "{before} {stamp} {after}");
        }
    }
}

#[test]
fn properties_become_headers() {
    let broker = Broker::start();
    let mut client = broker.connect(Connect::v5("a"));
    let message = Publish::new("t", "x")
        .qos(1)
        .with(Prop::PayloadFormat(1))
        .with(Prop::MessageExpiryS(600))
        .with(Prop::ContentType("text/plain".into()))
        .with(Prop::ResponseTopic("answer/here".into()))
        .with(Prop::CorrelationData(vec![0xFF, 0, 7]))
        .with(Prop::user("unit", "C"))
        .with(Prop::user("site", "north"))
        .with(Prop::user("unit", "K"))
        .with(Prop::user("mqtt.topic", "forged"));
    client.publish(message);
    let record = &Kafka::at(broker.kafka()).read("mqtt", 1)[0];
    assert_eq!(record.header("unit"), ["C", "K"]);
    assert_eq!(record.header("site"), ["north"]);
    assert_eq!(record.header("mqtt.payload_format"), ["1"]);
    assert_eq!(record.header("mqtt.expiry_s"), ["600"]);
    assert_eq!(record.header("mqtt.topic"), ["t"], "a device cannot forge it");
    let values: Vec<_> = record.headers.iter().map(|(_, value)| value).collect();
    for due in [&b"text/plain"[..], b"answer/here", &[0xFF, 0, 7], b"forged"] {
        let found = values.iter().any(|value| value.as_deref() == Some(due));
        assert!(found, "{due:?} in {:?}", record.headers);
    }
}

#[test]
fn an_empty_payload_is_an_empty_value() {
    let broker = Broker::start();
    broker.publish(Publish::new("t", "").qos(1));
    let records = Kafka::at(broker.kafka()).read("mqtt", 1);
    assert_eq!(records[0].value.as_deref(), Some(&b""[..]));
}

#[test]
fn bytes_of_any_kind_and_size_pass_untouched() {
    let broker = Broker::start();
    let every_byte: Vec<u8> = (0..=255).collect();
    let large = support::random::Random::seeded(1).bytes(900_000);
    for payload in [&every_byte, &large] {
        broker.publish(Publish::new("t", payload).qos(1));
    }
    let records = Kafka::at(broker.kafka()).read("mqtt", 2);
    assert!(records[0].value.as_ref() == Some(&every_byte));
    assert!(records[1].value.as_ref() == Some(&large));
}

#[test]
fn keys_choose_partitions_as_the_java_client_does() {
    let broker = Broker::start();
    let kafka = Kafka::at(broker.kafka());
    let mut client = broker.connect(Connect::v5("a"));
    let topics: Vec<String> = (0..40).map(|n| format!("sensors/{n}/temp")).collect();
    for topic in &topics {
        client.publish(Publish::new(topic, "mqtt").qos(1));
    }
    assert_eq!(kafka.partitions("mqtt"), 4);
    // The same keys from a Kafka producer with Java's partitioner land in the same places.
    let records: Vec<_> = topics.iter().map(|topic| (topic.as_str(), "kafka")).collect();
    kafka.produce("mqtt", &records, &[("partitioner", "murmur2_random")]);
    let records = kafka.read("mqtt", 80);
    let places = |text: &str| -> HashSet<(String, i32)> {
        let of = records.iter().filter(|record| record.text() == text);
        of.map(|record| (record.key_text(), record.partition)).collect()
    };
    assert_eq!(places("mqtt").len(), 40);
    assert_eq!(places("mqtt"), places("kafka"));
    let used: HashSet<i32> = records.iter().map(|record| record.partition).collect();
    assert_eq!(used.len(), 4, "40 keys over 4 partitions");
}

const RULES: &str = r##"
[[bridge.rule]]
filter = "sensors/+/temp"
topic = "temps"
key = "{2}"
partitions = 2

[[bridge.rule]]
filter = "sensors/#"
topic = "sensors"
key = "{client_id}"
partitions = 3

[[bridge.rule]]
filter = "mixed/#"
topic = "mixed"
key = "{1}-{user_property:serial}-{topic}"
partitions = 1
"##;

#[test]
fn the_first_rule_that_matches_wins() {
    let broker = Broker::with_config(RULES);
    let mut client = broker.connect(Connect::v5("gateway"));
    for topic in ["sensors/oven/temp", "sensors/oven/humidity", "sensors", "other"] {
        client.publish(Publish::new(topic, topic).qos(1));
    }
    let message = Publish::new("mixed/x", "mixed").qos(1);
    client.publish(message.with(Prop::user("serial", "42")));
    let kafka = Kafka::at(broker.kafka());
    let only = |topic: &str| {
        let records = kafka.read(topic, 1);
        let told = records.iter().map(|record| (record.key_text(), record.text()));
        told.collect::<HashSet<_>>()
    };
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(only("temps"), HashSet::from([pair("oven", "sensors/oven/temp")]));
    let rest = ["sensors", "sensors/oven/humidity"];
    assert_eq!(only("sensors"), rest.map(|value| pair("gateway", value)).into());
    assert_eq!(only("mixed"), HashSet::from([pair("mixed-42-mixed/x", "mixed")]));
    let partitions = ["temps", "sensors", "mixed"].map(|topic| kafka.partitions(topic));
    assert_eq!(partitions, [2, 3, 1]);
    assert!(!kafka.topics().contains_key("mqtt"), "rules replace the default");
}

/// Nothing is mapped, and MQTT with all its durability is as ever.
#[track_caller]
fn nothing_is_mapped(mut broker: Broker) {
    let mut client = broker.connect(Connect::v5("a").durable());
    client.subscribe("t", 2);
    client.disconnect();
    broker.publish(Publish::new("t", "kept").qos(2));
    broker.kill9_and_restart();
    let mut client = broker.connect(Connect::v5("a").durable());
    assert!(client.connack.session_present);
    assert_eq!(client.take().text(), "kept");
    let topics = Kafka::at(broker.kafka()).topics();
    for (topic, _) in topics.iter().filter(|(name, _)| !name.starts_with("__")) {
        assert!(Kafka::at(broker.kafka()).read(topic, 0).is_empty(), "{topic}");
    }
}

#[test]
fn a_bridge_switched_off_maps_nothing() {
    nothing_is_mapped(Broker::with_config("[bridge]\nenabled = false\n"));
}

#[test]
fn the_environment_switches_it_off_too() {
    nothing_is_mapped(Broker::with_environment(&[("MILLSTREAM__BRIDGE__ENABLED", "false")]));
}

#[test]
fn the_environment_wins_over_the_file() {
    let mut broker = Broker::prepared().config("[bridge]\nenabled = true\n");
    broker.set_environment(&[("MILLSTREAM__BRIDGE__ENABLED", "false")]);
    broker.restart();
    nothing_is_mapped(broker);
}
