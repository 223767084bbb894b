//! `/metrics`: what was sent is what is counted, and METRICS.md says what there is.

use rdkafka::consumer::{CommitMode, Consumer};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use support::broker::Broker;
use support::kafka::{Kafka, poll_records};
use support::mqtt::{Client, Connect, Prop, Publish, Version};
use support::prometheus::Scrape;

/// One shard: a queue's length is then known before the next message comes.
const CONFIG: &str = "shards = 1\n[mqtt]\nmax_queued_messages = 10\nmax_packet_size = 1048576\n\
                      [[bridge.rule]]\nfilter = \"sensors/#\"\ntopic = \"sensors\"\npartitions = 1\n";

type Expected<'a> = (&'a str, &'a [(&'a str, &'a str)], f64);

/// Scrapes until all of these are so; some are summed up once a second only.
#[track_caller]
fn expect(broker: &Broker, expected: &[Expected<'_>]) -> Scrape {
    let deadline = Instant::now() + support::PATIENCE;
    loop {
        let scrape = Scrape::of(broker.admin());
        let differs = |(name, labels, value): &&Expected<'_>| scrape.value(name, labels) != Some(*value);
        let wrong: Vec<_> = expected.iter().filter(differs).collect();
        if wrong.is_empty() {
            return scrape;
        }
        if Instant::now() >= deadline {
            let found: Vec<_> = wrong.iter().map(|(name, labels, _)| scrape.value(name, labels)).collect();
            panic!("expected {wrong:#?}\nfound {found:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn qos(n: u8) -> [(&'static str, &'static str); 1] {
    [("qos", ["0", "1", "2"][usize::from(n)])]
}

/// A session that outlives its client, with one subscription at QoS 1.
fn away(broker: &Broker, name: &str, filter: &str) {
    let mut client = broker.connect(Connect::v5(name).durable());
    client.subscribe(filter, 1);
    client.disconnect();
}

#[test]
fn messages_sessions_and_queues_are_counted() {
    let broker = Broker::with_config(CONFIG);
    away(&broker, "away", "queue/#");
    away(&broker, "gone", "gone/#");
    let mut live = broker.connect(Connect::v5("live"));
    live.subscribe("live/#", 2);
    let mut small = broker.connect(Connect::v5("small").with(Prop::MaximumPacketBytes(50)));
    small.subscribe("big/#", 0);
    let mut holder = broker.connect(Connect::v5("holder").with(Prop::ReceiveMaximum(2)));
    holder.subscribe("hold/#", 1);

    let mut publisher = broker.connect(Connect::v5("publisher"));
    publisher.publish(Publish::new("live/0", "a"));
    for _ in 0..2 {
        publisher.publish(Publish::new("live/1", "bb").qos(1));
    }
    for _ in 0..3 {
        publisher.publish(Publish::new("live/2", "ccc").qos(2));
    }
    for _ in 0..6 {
        live.take();
    }
    // Its lifetime is over before it can be sent.
    publisher.publish(Publish::new("queue/x", "d").qos(1).with(Prop::MessageExpiryS(0)));
    for _ in 0..12 {
        publisher.publish(Publish::new("queue/x", "d").qos(1));
    }
    for _ in 0..4 {
        publisher.publish(Publish::new("gone/x", "e").qos(1));
    }
    for _ in 0..5 {
        publisher.publish(Publish::new("hold/x", "f").qos(1));
    }
    for _ in 0..5 {
        publisher.publish(Publish::new("sensors/x", "gg").qos(1));
    }
    publisher.publish(Publish::new("keep/1", "hhh").qos(1).retain());
    publisher.publish(Publish::new("keep/2", "hhh").qos(1).retain());
    publisher.publish(Publish::new("keep/1", "").qos(1).retain());
    publisher.publish(Publish::new("keep/3", "hh").qos(1).retain().with(Prop::MessageExpiryS(1)));
    publisher.publish(Publish::new("big/x", [b'i'; 100]));
    publisher.publish(Publish::new("$SYS/x", "j"));
    // What is behind its answer has been counted.
    publisher.ping();
    live.subscribe("keep/2", 1);
    assert_eq!(live.take().text(), "hhh");
    let gone = broker.connect(Connect::v5("gone"));
    let mut bare = Client::bare(broker.mqtt(), Version::V311);
    bare.send(b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(bare.expect_closed(), None);
    let mut old = Client::bare(broker.mqtt(), Version::V5);
    old.send(b"\x10\x0D\0\x04MQTT\x09\x02\0\x3C\0\x01a");
    old.recv();
    drop(old);
    let mut wrong = broker.connect(Connect::v311("wrong"));
    wrong.send(b"\x00\x00");
    assert_eq!(wrong.expect_closed(), None);

    let name = |of| format!("millstream_mqtt_{of}");
    let (received, sent) = (name("received_messages_total"), name("sent_messages_total"));
    let (received_bytes, sent_bytes) = (name("received_payload_bytes_total"), name("sent_payload_bytes_total"));
    let (refused, dropped) = (name("refused_connections_total"), name("dropped_messages_total"));
    let closed = name("closed_connections_total");
    let (sessions, queued) = (name("sessions"), name("queued_messages"));
    let scrape = expect(
        &broker,
        &[
            (&received, &qos(0), 3.0),
            (&received, &qos(1), 2.0 + 13.0 + 4.0 + 5.0 + 5.0 + 4.0),
            (&received, &qos(2), 3.0),
            (&received_bytes, &qos(0), 102.0),
            (&received_bytes, &qos(1), 4.0 + 13.0 + 4.0 + 5.0 + 10.0 + 8.0),
            (&received_bytes, &qos(2), 9.0),
            (&sent, &qos(0), 1.0),
            (&sent, &qos(1), 2.0 + 2.0 + 1.0),
            (&sent, &qos(2), 3.0),
            (&sent_bytes, &qos(0), 1.0),
            (&sent_bytes, &qos(1), 4.0 + 2.0 + 3.0),
            (&sent_bytes, &qos(2), 9.0),
            ("millstream_mqtt_refused_messages_total", &[("reason", "topic")], 1.0),
            ("millstream_mqtt_mapped_messages_total", &[], 5.0),
            (&dropped, &[("reason", "queue_full")], 3.0),
            (&dropped, &[("reason", "too_large")], 1.0),
            (&dropped, &[("reason", "session_ended")], 4.0),
            (&dropped, &[("reason", "expired")], 0.0),
            (&dropped, &[("reason", "slow_client")], 0.0),
            (&dropped, &[("reason", "unreadable")], 0.0),
            ("millstream_mqtt_connections", &[], 5.0),
            ("millstream_mqtt_connects_total", &[], 8.0),
            (&closed, &[("reason", "client")], 2.0),
            (&closed, &[("reason", "protocol_error")], 1.0),
            (&closed, &[("reason", "keep_alive")], 0.0),
            (&refused, &[("reason", "no_connect")], 1.0),
            (&refused, &[("reason", "version")], 1.0),
            (&refused, &[("reason", "timeout")], 0.0),
            ("millstream_mqtt_protocol_errors_total", &[], 1.0),
            (&sessions, &[("durable", "true"), ("connected", "false")], 1.0),
            (&sessions, &[("durable", "true"), ("connected", "true")], 0.0),
            (&sessions, &[("durable", "false"), ("connected", "true")], 5.0),
            ("millstream_mqtt_subscriptions", &[], 5.0),
            (&queued, &[("durable", "true")], 10.0),
            (&queued, &[("durable", "false")], 3.0),
            // A fixed header of 2, the topic with its length, a packet id, no properties, the payload.
            ("millstream_mqtt_queued_bytes", &[], 3.0 * (2.0 + 8.0 + 2.0 + 1.0 + 1.0)),
            ("millstream_mqtt_longest_queue_messages", &[], 10.0),
            ("millstream_mqtt_inflight_messages", &[], 2.0),
            ("millstream_mqtt_outbox_bytes", &[], 0.0),
            ("millstream_mqtt_retained_messages", &[], 1.0),
            // Topic, payload and client id, what each message takes, two levels of the topic and what is above each.
            ("millstream_mqtt_retained_bytes", &[], 9.0 + 9.0 + 176.0 + 2.0 * 80.0 + 2.0 * 192.0),
            ("millstream_mqtt_not_retained_messages_total", &[("reason", "messages")], 0.0),
            ("millstream_mqtt_not_retained_messages_total", &[("reason", "bytes")], 0.0),
            ("millstream_mqtt_refused_messages_total", &[("reason", "retained")], 0.0),
            ("millstream_mqtt_retained_expired_messages_total", &[], 1.0),
            ("millstream_log_end_offset", &[("topic", "sensors"), ("partition", "0")], 5.0),
            // What queues need: the dropped ones are not there.
            ("millstream_log_end_offset", &[("topic", "__mqtt"), ("partition", "0")], 14.0),
            ("millstream_journal_commit_records_sum", &[], 19.0),
            ("millstream_journal_backlog_bytes", &[], 0.0),
        ],
    );
    assert!(scrape.sum(&name("received_bytes_total")) > scrape.sum(&received_bytes));
    drop(gone);

    let mut back = broker.connect(Connect::v5("away").durable());
    for _ in 0..9 {
        assert_eq!(back.take().text(), "d");
    }
    for _ in 0..5 {
        holder.take();
    }
    expect(
        &broker,
        &[
            (&dropped, &[("reason", "expired")], 1.0),
            (&sent, &qos(1), 5.0 + 9.0 + 3.0),
            (&queued, &[("durable", "true")], 0.0),
            (&queued, &[("durable", "false")], 0.0),
            ("millstream_mqtt_queued_bytes", &[], 0.0),
            ("millstream_mqtt_longest_queue_messages", &[], 0.0),
            ("millstream_mqtt_inflight_messages", &[], 0.0),
            ("millstream_mqtt_connections", &[], 5.0),
            (&sessions, &[("durable", "true"), ("connected", "true")], 1.0),
            (&sessions, &[("durable", "true"), ("connected", "false")], 0.0),
            (&sessions, &[("durable", "false"), ("connected", "true")], 4.0),
        ],
    );
}

#[test]
fn packets_of_all_kinds_are_counted() {
    let broker = Broker::with_config(CONFIG);
    let mut sessions = 0.0;
    for connect in [Connect::v5("passing"), Connect::v5("durable").durable()] {
        let mut client = broker.connect(connect);
        client.subscribe("t", 2);
        // In: PUBLISH, PUBACK. Out: PUBACK, PUBLISH.
        client.publish(Publish::new("t", "1").qos(1));
        assert_eq!(client.take().qos, 1);
        // In: PUBLISH, PUBREL, PUBREC, PUBCOMP. Out: PUBREC, PUBCOMP, PUBLISH, PUBREL.
        client.publish(Publish::new("t", "2").qos(2));
        assert_eq!(client.take().qos, 2);
        client.ping();
        client.unsubscribe("t");
        // Which is no packet; the answer is a DISCONNECT.
        client.send(b"\x00\x00");
        assert_eq!(client.expect_closed(), Some(0x81));
        sessions += 1.0;
        let (received, sent) = (1.0 + 1.0 + 2.0 + 4.0 + 1.0 + 1.0, 1.0 + 1.0 + 2.0 + 4.0 + 1.0 + 1.0 + 1.0);
        let scrape = expect(
            &broker,
            &[
                ("millstream_mqtt_received_packets_total", &[], sessions * received),
                ("millstream_mqtt_sent_packets_total", &[], sessions * sent),
            ],
        );
        assert!(scrape.sum("millstream_mqtt_sent_messages_total") < sessions * sent);
    }
    // Taken over: CONNECT and CONNACK twice, one DISCONNECT.
    let mut first = broker.connect(Connect::v5("twice"));
    let _second = broker.connect(Connect::v5("twice"));
    assert_eq!(first.expect_closed(), Some(0x8E));
    expect(
        &broker,
        &[
            ("millstream_mqtt_received_packets_total", &[], 22.0),
            ("millstream_mqtt_sent_packets_total", &[], 25.0),
            ("millstream_mqtt_expired_sessions_total", &[], 0.0),
        ],
    );
}

/// On both shards, so some hear of it in a burst from the other.
#[test]
fn a_drop_is_counted_wherever_its_subscriber_is() {
    let broker = Broker::with_config("shards = 2\n[bridge]\nenabled = false\n");
    let mut publisher = broker.connect(Connect::v5("publisher"));
    let big = |topic: &str| Publish::new(topic, [b'x'; 100]).qos(1);
    publisher.publish(big("t/kept").retain());
    let small = |name: &str| Connect::v5(name).with(Prop::MaximumPacketBytes(50));
    let subscribe = |connect: Connect| {
        let mut client = broker.connect(connect);
        client.subscribe("t/#", 1);
        client
    };
    let names = (0..8).map(|n| format!("small-{n}"));
    let mut clients: Vec<Client> = names.map(|name| subscribe(small(&name))).collect();
    clients.push(subscribe(small("durable").durable()));
    publisher.publish(big("t/now"));
    publisher.publish(big("t/now"));
    let name = "millstream_mqtt_dropped_messages_total";
    let expected: [Expected<'_>; 3] = [
        (name, &[("reason", "too_large")], 3.0 * 9.0),
        ("millstream_mqtt_sent_messages_total", &[("qos", "1")], 0.0),
        ("millstream_mqtt_queued_messages", &[("durable", "true")], 0.0),
    ];
    let scrape = expect(&broker, &expected);
    assert_eq!(scrape.sum(name), 3.0 * 9.0, "once each");
    publisher.publish(Publish::new("t/now", "y").qos(1));
    assert!(clients.iter_mut().all(|client| client.take().text() == "y"));
    expect(&broker, &[("millstream_mqtt_sent_messages_total", &[("qos", "1")], 9.0)]);
}

#[test]
fn a_subscriber_that_does_not_read_is_a_slow_client() {
    let broker = Broker::with_config(CONFIG);
    let mut slow = broker.connect(Connect::v311("slow"));
    slow.subscribe("#", 0);
    let mut publisher = broker.connect(Connect::v311("publisher"));
    let payload = vec![0; 1 << 20 >> 1];
    let dropped = |broker: &Broker| {
        Scrape::of(broker.admin()).value("millstream_mqtt_dropped_messages_total", &[("reason", "slow_client")])
    };
    // The kernel takes some of it, too.
    let mut sent = 0.0;
    support::eventually("a drop", || {
        publisher.publish(Publish::new("t", &payload));
        publisher.ping();
        sent += 1.0;
        dropped(&broker).filter(|count| *count > 0.0)
    });
    let backlog = |broker: &Broker| Scrape::of(broker.admin()).value("millstream_mqtt_outbox_bytes", &[]);
    support::eventually("the backlog", || backlog(&broker).filter(|bytes| *bytes > 4_194_304.0));
    // Its answer stands behind what was not dropped.
    let got = slow.sent_so_far();
    assert!(got.iter().all(|publish| publish.payload.len() == payload.len()));
    let drops = sent - got.len() as f64;
    expect(
        &broker,
        &[
            ("millstream_mqtt_dropped_messages_total", &[("reason", "slow_client")], drops),
            ("millstream_mqtt_sent_messages_total", &qos(0), got.len() as f64),
            ("millstream_mqtt_outbox_bytes", &[], 0.0),
        ],
    );
}

#[test]
fn the_log_its_groups_and_the_disk_are_told() {
    let before_s = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
    let broker = Broker::with_config(&format!("{CONFIG}[kafka]\ngroup_initial_rebalance_delay_ms = 0\n"));
    let fresh = Scrape::of(broker.admin());
    assert!(fresh.value("millstream_written_bytes_per_received_byte", &[]).is_some_and(f64::is_nan));
    let kafka = Kafka::at(broker.kafka());
    kafka.create_topic("t", 1, &[]).expect("created");
    let records: Vec<(&str, &str)> = vec![("key", "value"); 7];
    kafka.produce("t", &records, &[]);
    let member = kafka.join("backend", "t");
    poll_records(&member, 3);
    member.commit_consumer_state(CommitMode::Sync).expect("committed");
    let (t, backend) = ([("topic", "t"), ("partition", "0")], [("group", "backend")]);
    let lag = [("group", "backend"), ("topic", "t"), ("partition", "0")];
    let state = |state| [("group", "backend"), ("state", state)];
    let scrape = expect(
        &broker,
        &[
            ("millstream_log_start_offset", &t, 0.0),
            ("millstream_log_end_offset", &t, 7.0),
            ("millstream_kafka_produced_records_total", &[], 7.0),
            ("millstream_journal_commit_records_sum", &[], 7.0),
            ("millstream_kafka_group_lag_records", &lag, 4.0),
            ("millstream_kafka_group_members", &backend, 1.0),
            ("millstream_kafka_group_state", &state("Stable"), 1.0),
            ("millstream_kafka_group_rebalances_total", &[], 1.0),
            ("millstream_metrics_left_out", &[("of", "partitions")], 0.0),
            ("millstream_metrics_left_out", &[("of", "group_partitions")], 0.0),
            ("millstream_metrics_left_out", &[("of", "groups")], 0.0),
            ("millstream_journal_files", &[("state", "in_use")], 1.0),
            ("millstream_journal_files", &[("state", "full")], 0.0),
        ],
    );
    assert!(scrape.value("millstream_kafka_connections", &[]).is_some_and(|count| count >= 1.0));

    let size = |topic: &str, partition: &str, name: &str| {
        fs::metadata(broker.data_dir().join(format!("topics/{topic}/{partition}/{name}.log"))).map(|found| found.len())
    };
    let on_disk = size("t.17", "0", "00000000000000000000").expect("the segment of the second topic");
    assert_eq!(scrape.value("millstream_log_size_bytes", &t), Some(on_disk as f64));
    let written = |file| scrape.value("millstream_disk_written_bytes_total", &[("file", file)]).expect("a file");
    assert_eq!(written("log"), on_disk as f64, "and nothing else was written to topics");
    assert!(written("zeros") >= 4_194_304.0);
    assert!(written("journal") >= 1024.0 && written("journal") % 512.0 == 0.0);
    assert!(written("checkpoint") > 0.0);
    assert_eq!(scrape.sum("millstream_disk_errors_total"), 0.0);
    let syncs = scrape.value("millstream_disk_syncs_total", &[("file", "journal")]).expect("a count");
    let commits = scrape.value("millstream_journal_commit_seconds_count", &[]).expect("a count");
    assert!(syncs >= commits && commits >= 3.0, "{syncs} syncs, {commits} commits");
    // Between the two a heartbeat may be counted.
    support::eventually("the ratio is that of the counters", || {
        let scrape = Scrape::of(broker.admin());
        let zeros = scrape.value("millstream_disk_written_bytes_total", &[("file", "zeros")])?;
        let written = scrape.sum("millstream_disk_written_bytes_total") - zeros;
        let received = ["mqtt", "kafka"]
            .map(|of| scrape.sum(&format!("millstream_{of}_received_bytes_total")))
            .iter()
            .sum::<f64>();
        (scrape.value("millstream_written_bytes_per_received_byte", &[]) == Some(written / received)).then_some(())
    });

    let alone = |name: &str| scrape.value(name, &[]).unwrap_or_else(|| panic!("{name}"));
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
    // The kernel's clock since boot counts in whole seconds.
    assert!((before_s - 2.0..now_s + 2.0).contains(&alone("process_start_time_seconds")));
    assert!((10.0..alone("process_max_fds")).contains(&alone("process_open_fds")));
    assert!((1e6..alone("process_virtual_memory_bytes")).contains(&alone("process_resident_memory_bytes")));
    assert!((0.001..60.0).contains(&alone("process_cpu_seconds_total")));
    assert!((1.0..alone("millstream_data_dir_size_bytes")).contains(&alone("millstream_data_dir_free_bytes")));

    // The state is kept by checkpoints alone; a group that nobody is in is still behind.
    drop(member);
    expect(
        &broker,
        &[
            ("millstream_kafka_group_lag_records", &lag, 4.0),
            ("millstream_kafka_group_members", &backend, 0.0),
            ("millstream_kafka_group_state", &state("Empty"), 1.0),
        ],
    );
}

#[test]
fn checkpoints_are_told() {
    let broker = Broker::with_config("[bridge]\ncheckpoint_interval_s = 1\n");
    broker.publish(Publish::new("t", "kept").qos(1).retain());
    let scrape = support::eventually("a checkpoint that covers it", || {
        let scrape = Scrape::of(broker.admin());
        let written = scrape.value("millstream_disk_written_bytes_total", &[("file", "state")])?;
        let uncovered = scrape.value("millstream_journal_uncheckpointed_bytes", &[])?;
        (written > 0.0 && uncovered == 0.0).then_some(scrape)
    });
    let alone = |name: &str| scrape.value(name, &[]).unwrap_or_else(|| panic!("{name}"));
    assert!(alone("millstream_checkpoint_seconds_count") >= 1.0);
    assert!((1e-6..60.0).contains(&alone("millstream_checkpoint_seconds_sum")));
    for file in ["log", "state", "index", "checkpoint", "folder"] {
        let synced = scrape.value("millstream_disk_syncs_total", &[("file", file)]);
        // Indexes are derived, so nobody waits for them.
        assert_eq!(synced > Some(0.0), file != "index", "{file}: {synced:?}");
    }
}

/// Type and labels of each family, by its name, as METRICS.md has them.
fn documented() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("METRICS.md")).expect("METRICS.md");
    let mut families = BTreeMap::new();
    for row in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, kind, labels, unit, meaning] = cells[..] else { panic!("not five cells: {row}") };
        assert!(meaning.ends_with('.'), "{row}");
        let suffix =
            ["bytes", "seconds", "records", "messages"].into_iter().find(|unit| name.contains(&format!("_{unit}")));
        assert!(suffix.is_none_or(|suffix| suffix == unit || unit == "ratio"), "the unit of {row}");
        let labels = labels.split(',').map(|label| label.trim().trim_matches('`').to_owned());
        let labels = labels.filter(|label| !label.is_empty()).collect();
        let before = families.insert(name.trim_matches('`').to_owned(), (kind.to_owned(), labels));
        assert!(before.is_none(), "twice: {name}");
    }
    families
}

#[test]
fn every_family_is_documented_and_every_documented_one_is_there() {
    let certs = tempfile::tempdir().expect("a temporary folder");
    let made = std::process::Command::new(support::broker::binary()).arg("certs").arg(certs.path()).output();
    assert!(made.expect("the binary is built").status.success());
    let with_tls = format!("[mqtt]\ntls = \"127.0.0.1:0\"\n[tls]\ncerts = {:?}\n", certs.path());
    let broker = Broker::with_config(&with_tls);
    broker.publish(Publish::new("t", "x").qos(1));
    let kafka = Kafka::at(broker.kafka());
    let member = kafka.join("backend", "mqtt");
    poll_records(&member, 1);
    member.commit_consumer_state(CommitMode::Sync).expect("committed");
    let scrape = Scrape::of(broker.admin());
    let owned = |labels: BTreeSet<&str>| labels.into_iter().map(str::to_owned).collect::<BTreeSet<String>>();
    let told: BTreeMap<_, _> = (scrape.families.iter())
        .map(|family| (family.name.clone(), (family.kind.clone(), owned(family.label_names()))))
        .collect();
    let documented = documented();
    for (name, family) in &told {
        assert_eq!(documented.get(name), Some(family), "{name}, in METRICS.md and as it is");
    }
    for name in documented.keys() {
        assert!(told.contains_key(name), "{name} is in METRICS.md and nowhere else");
    }
    // What its queries name is there, too.
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("METRICS.md")).expect("METRICS.md");
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let samples: BTreeSet<&str> = scrape.families.iter().flat_map(|f| &f.samples).map(|s| &*s.name).collect();
    for word in text.split(|c| !is_part(c)).filter(|word| word.starts_with("millstream_")) {
        assert!(told.contains_key(word) || samples.contains(word), "{word} is in METRICS.md and nowhere else");
    }
}
