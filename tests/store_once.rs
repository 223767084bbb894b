//! A message for many absent sessions is one record and a few bytes for each.

use support::broker::Broker;
use support::mqtt::{Connect, Publish};
use support::prometheus::Scrape;
use support::{PATIENCE, eventually, within};

const SESSIONS: usize = 1_000;
const MESSAGES: usize = 20;
const PAYLOAD_BYTES: usize = 50_000;
/// An entry takes 13 to 20 bytes in a frame, and about 35 and its share of a batch where checkpoints keep it.
const ENTRY_BYTES_MAX: f64 = 80.0;

fn written(broker: &Broker, file: &str) -> f64 {
    Scrape::of(broker.admin()).value("millstream_disk_written_bytes_total", &[("file", file)]).unwrap_or(0.0)
}

#[test]
fn a_message_for_a_thousand_absent_sessions_is_stored_once() {
    // Not mapped: only the queues need it, and so does nobody but the hidden topic.
    let mut broker = Broker::with_config("[bridge]\nenabled = false\ncheckpoint_interval_s = 1\n");
    let absent = |number: usize| Connect::v5(&format!("absent-{number}")).durable();
    for number in 0..SESSIONS {
        let mut client = broker.connect(absent(number));
        client.subscribe("all", 1);
        client.disconnect();
    }
    eventually("a checkpoint with the sessions", || (written(&broker, "state") > 0.0).then_some(()));
    let (log, journal, state) = (written(&broker, "log"), written(&broker, "journal"), written(&broker, "state"));
    let mut publisher = broker.connect(Connect::v311("publisher"));
    for number in 0..MESSAGES {
        publisher.publish(Publish::new("all", format!("{number} {}", "x".repeat(PAYLOAD_BYTES))).qos(1));
    }
    let payloads = (MESSAGES * PAYLOAD_BYTES) as f64;
    let entries = (MESSAGES * SESSIONS) as f64;
    eventually("a checkpoint with the queues", || (written(&broker, "state") > state + 20.0 * entries).then_some(()));
    let log = written(&broker, "log") - log;
    assert!(log > payloads && log < 1.1 * payloads, "{log} bytes of log for {payloads} of payloads");
    for (file, before) in [("journal", journal), ("state", state)] {
        let more = written(&broker, file) - before - if file == "journal" { payloads } else { 0.0 };
        assert!(more < 1.1 * ENTRY_BYTES_MAX * entries, "{} bytes of {file} for each entry", more / entries);
    }
    broker.kill9_and_restart();
    // And each gets all of it, whoever comes first or last.
    for number in [0, 1, SESSIONS / 2, SESSIONS - 1] {
        let mut client = broker.connect(absent(number));
        for due in 0..MESSAGES {
            assert!(client.take().text().starts_with(&format!("{due} x")));
        }
        client.disconnect();
    }
    // When nobody needs it any more, it is gone.
    for number in 0..SESSIONS {
        broker.connect(Connect::v5(&format!("absent-{number}"))).disconnect();
    }
    let held = || Scrape::of(broker.admin()).sum("millstream_log_size_bytes");
    // Ten seconds after the last pointer, with the checkpoint that follows.
    within(4 * PATIENCE, "the hidden topic shrinks", || (held() == 0.0).then_some(()));
}
