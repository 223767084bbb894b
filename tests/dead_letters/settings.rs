//! Where they go, and when they do.

use super::{all_told, away, letters, publish, toml, value};
use rdkafka::error::RDKafkaErrorCode;
use support::broker::Broker;
use support::kafka::Kafka;
use support::mqtt::{Connect, Prop, Publish};

#[test]
fn a_reload_begins_and_ends_them() {
    let settings = "shards = 1\n[mqtt]\nmax_queued_messages = 3\nqueue_full = \"drop_oldest\"\n";
    let with = format!("{settings}[bridge]\ndead_letter_topic = \"lost\"\n");
    let mut broker = Broker::with_config(settings);
    away(&broker, Connect::v5("away"), "t");
    publish(&broker, "t", 1..=5);
    assert!(!Kafka::at(broker.kafka()).topics().contains_key("lost"));
    broker.write_config(&with);
    assert!(!broker.reload().contains("restart"));
    publish(&broker, "t", 6..=7);
    let due = [3, 4].map(|n| format!("publisher: {n} (queue_full) for away"));
    assert_eq!(all_told(&broker, 2), due);
    broker.write_config(settings);
    broker.reload();
    publish(&broker, "t", 8..=9);
    support::eventually("four are dropped", || {
        let dropped = value(&broker, "millstream_mqtt_dropped_messages_total", &[("reason", "queue_full")]);
        (dropped == 6.0).then_some(())
    });
    letters(&broker, 2);
    // What expires meanwhile goes as it did before.
    let mut publisher = broker.connect(Connect::v5("publisher"));
    publisher.publish(Publish::new("t", "expires").qos(1).with(Prop::MessageExpiryS(1)));
    let mut client = broker.connect(Connect::v5("away").durable());
    assert_eq!((0..3).map(|_| client.take().text()).collect::<Vec<_>>(), ["8", "9", "expires"]);
    letters(&broker, 2);
}

#[test]
fn a_topic_that_is_there_keeps_its_partitions() {
    let broker = Broker::start();
    let kafka = Kafka::at(broker.kafka());
    kafka.create_topic("lost", 3, &[]).expect("made");
    let mut broker = broker;
    broker.write_config(&toml("[mqtt]\nmax_queued_messages = 1\n"));
    broker.restart_gracefully();
    away(&broker, Connect::v5("away"), "#");
    let mut publisher = broker.connect(Connect::v5("oven"));
    for n in 0..20 {
        publisher.publish(Publish::new(&format!("t/{n}"), "x").qos(1));
    }
    let used: std::collections::HashSet<_> = letters(&broker, 19).iter().map(|letter| letter.partition).collect();
    assert_eq!(used.len(), 3);
}

#[test]
fn a_topic_that_something_goes_to_is_not_deleted() {
    let mut broker = Broker::with_config(&toml(""));
    let kafka = Kafka::at(broker.kafka());
    for topic in ["lost", "mqtt"] {
        assert_eq!(kafka.delete_topic(topic), Err(RDKafkaErrorCode::PolicyViolation), "{topic}");
    }
    broker.write_config("[[bridge.rule]]\nfilter = \"#\"\ntopic = \"all\"\n");
    broker.reload();
    for topic in ["lost", "mqtt"] {
        assert_eq!(kafka.delete_topic(topic), Ok(()), "{topic}");
    }
    assert_eq!(kafka.delete_topic("all"), Err(RDKafkaErrorCode::PolicyViolation));
}

#[test]
fn the_topic_of_a_rule_is_refused() {
    let toml = "[bridge]\ndead_letter_topic = \"temps\"\n[[bridge.rule]]\nfilter = \"a\"\ntopic = \"temps\"\n";
    let said = Broker::prepared().config(toml).fails_to_start();
    assert!(said.contains("bridge.dead_letter_topic") && said.contains("need one of their own"), "{said}");
    let said = Broker::prepared().config("[bridge]\ndead_letter_topic = \"mqtt\"\n").fails_to_start();
    assert!(said.contains("is the topic of the rule for \"#\""), "{said}");
    let said = Broker::prepared().config("[bridge]\ndead_letter_topic = \"__lost\"\n").fails_to_start();
    assert!(said.contains("bridge.dead_letter_topic") && said.contains("not beginning with __"), "{said}");
}
