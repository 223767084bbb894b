//! Wills.

use std::time::{Duration, Instant};
use support::broker::Broker;
use support::mqtt::{Client, Connect, Lost, Prop, Publish, VERSIONS, Version};

fn will() -> Publish {
    Publish::new("gone", "client").qos(1)
}

#[test]
fn it_is_sent_when_the_connection_is_lost() {
    for version in VERSIONS {
        let broker = Broker::start();
        let mut watcher = broker.connect(Connect::new(version, "watcher"));
        watcher.subscribe("gone", 1);
        drop(broker.connect(Connect::new(version, "client").will(will())));
        let got = watcher.take();
        assert_eq!((got.text().as_str(), got.qos, got.retain), ("client", 1, false));
    }
}

#[test]
fn it_is_not_sent_after_disconnect() {
    for version in VERSIONS {
        let broker = Broker::start();
        let mut watcher = broker.connect(Connect::new(version, "watcher"));
        watcher.subscribe("gone", 1);
        broker.connect(Connect::new(version, "client").will(will())).disconnect();
        broker.publish(Publish::new("gone", "end").qos(1));
        assert!(watcher.take_until("end").is_empty());
    }
}

#[test]
fn a_v5_client_may_leave_with_it() {
    let broker = Broker::start();
    let mut watcher = broker.connect(Connect::v5("watcher"));
    watcher.subscribe("gone", 1);
    broker.connect(Connect::v5("client").will(will())).disconnect_with(0x04, &[]);
    assert_eq!(watcher.take().text(), "client");
}

#[test]
fn it_is_sent_after_a_protocol_violation_and_a_missed_keep_alive() {
    let broker = Broker::start();
    let mut watcher = broker.connect(Connect::v311("watcher"));
    watcher.subscribe("gone", 1);
    let mut violator = broker.connect(Connect::v311("violator").will(will()));
    violator.send(b"\x00\x00");
    violator.expect_closed();
    assert_eq!(watcher.take().text(), "client");
    let mut silent = broker.connect(Connect::v311("silent").keep_alive_s(1).will(will()));
    assert_eq!(watcher.take().text(), "client");
    silent.expect_closed();
}

#[test]
fn it_is_sent_when_another_takes_over() {
    let broker = Broker::start();
    let mut watcher = broker.connect(Connect::v311("watcher"));
    watcher.subscribe("gone", 1);
    let mut first = broker.connect(Connect::v311("same").will(will()));
    let _second = broker.connect(Connect::v311("same"));
    assert_eq!(watcher.take().text(), "client");
    first.expect_closed();
}

#[test]
fn it_may_be_retained_and_mapped_like_any_message() {
    let broker = Broker::start();
    drop(broker.connect(Connect::v311("client").will(will().retain())));
    let records = support::kafka::Kafka::at(broker.kafka()).read("mqtt", 1);
    assert_eq!(records[0].key_text(), "gone");
    assert_eq!(records[0].text(), "client");
    assert_eq!(records[0].header("mqtt.client_id"), ["client"]);
    let mut late = broker.connect(Connect::v311("late"));
    late.subscribe("gone", 1);
    let got = late.take();
    assert!(got.retain && got.text() == "client", "{got:?}");
}

#[test]
fn its_delay_is_waited_for() {
    let broker = Broker::start();
    let mut watcher = broker.connect(Connect::v5("watcher"));
    watcher.subscribe("gone", 1);
    let connect = Connect::v5("client").with(Prop::SessionExpiryS(60)).will(will().with(Prop::WillDelayS(2)));
    drop(broker.connect(connect));
    let lost = Instant::now();
    let early = watcher.try_recv(Duration::from_millis(1500));
    assert_eq!(early, Err(Lost::Silent), "before its time");
    assert_eq!(watcher.take().text(), "client");
    let elapsed = lost.elapsed();
    assert!(elapsed < Duration::from_secs(5), "after {elapsed:?}");
}

#[test]
fn coming_back_within_the_delay_takes_it_back() {
    let broker = Broker::start();
    let mut watcher = broker.connect(Connect::v5("watcher"));
    watcher.subscribe("gone", 1);
    let connect = Connect::v5("client").with(Prop::SessionExpiryS(60)).clean(false);
    let with_will = connect.clone().will(will().with(Prop::WillDelayS(1)));
    drop(broker.connect(with_will));
    let back = broker.connect(connect);
    assert!(back.connack.session_present);
    let silence = watcher.try_recv(Duration::from_millis(2500));
    assert_eq!(silence, Err(Lost::Silent));
}

#[test]
fn the_end_of_the_session_cuts_the_delay_short() {
    let broker = Broker::start();
    let mut watcher = broker.connect(Connect::v5("watcher"));
    watcher.subscribe("gone", 1);
    let connect = Connect::v5("client").with(Prop::SessionExpiryS(1)).will(will().with(Prop::WillDelayS(3600)));
    drop(broker.connect(connect));
    assert_eq!(watcher.take().text(), "client");
}

#[test]
fn its_topic_is_held_to_the_same_rules_as_a_publish() {
    let mut broker = Broker::start();
    for (topic, reason) in [("/".repeat(60_000), 0x90), ("$SYS/broker/version".to_owned(), 0x87)] {
        for version in VERSIONS {
            let connect = Connect::new(version, "client").will(Publish::new(&topic, "x").retain());
            match (version, Client::try_connect(broker.mqtt(), &connect)) {
                (Version::V5, client) => assert_eq!(client.expect("a CONNACK").connack.code, reason),
                // 3.1.1 has a word for the one and none for the other.
                (_, client) => assert!(client.is_err_and(|lost| lost == Lost::Closed) || reason == 0x87),
            }
        }
    }
    // A retained one would be found a level at a time by this.
    broker.connect(Connect::v5("watcher")).subscribe("#", 0);
    assert!(broker.is_running());
}
