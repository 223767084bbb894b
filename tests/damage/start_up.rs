//! How long a start takes that finds a gibibyte. Run by hand, with a release build:
//!
//! ```text
//! MILLSTREAM_BIN=target/release/millstream cargo test --test damage start_up -- --ignored --nocapture --test-threads=1
//! ```

use std::time::{Duration, Instant};

use support::broker::Broker;
use support::kafka::Kafka;

const LIMIT: Duration = Duration::from_secs(2);

/// Fills a folder, kills the broker, and starts it again.
fn measure(what: &str, config: &str, mebibytes: usize) {
    let mut broker = Broker::with_config(config);
    let kafka = Kafka::at(broker.kafka());
    kafka.create_topic("t", 4, &[]).expect("created");
    let value = "x".repeat(10_000);
    let keys: Vec<String> = (0..100).map(|key| key.to_string()).collect();
    let records: Vec<(&str, &str)> = keys.iter().map(|key| (key.as_str(), value.as_str())).collect();
    let round: Vec<(&str, &str)> = (0..40).flat_map(|_| records.iter().copied()).collect();
    for _ in 0..mebibytes / 38 {
        kafka.produce("t", &round, &[("linger.ms", "20")]);
    }
    broker.kill9();
    // What the operating system still has to write is not the start's.
    sync();
    let mut took = Vec::new();
    for _ in 0..3 {
        let began = Instant::now();
        broker.restart();
        took.push(began.elapsed());
        broker.kill9();
    }
    let opened: Vec<String> =
        broker.stderr().lines().filter(|line| line.contains("log opened")).map(str::to_owned).collect();
    println!("{what}: {took:?}\n{}", opened.join("\n"));
    assert!(took.iter().min().is_some_and(|took| *took < LIMIT), "{what}: {took:?}");
}

fn sync() {
    std::process::Command::new("sync").status().expect("sync is there");
}

#[test]
#[ignore = "a gibibyte, and a release build"]
fn a_gibibyte_of_segments() {
    measure("segments", "[bridge]\ncheckpoint_interval_s = 1\n", 1_024);
}

#[test]
#[ignore = "a gibibyte, and a release build"]
fn the_largest_journal() {
    measure("journal", "[bridge]\ncheckpoint_interval_s = 3600\ncheckpoint_bytes = 536870912\n", 500);
}
