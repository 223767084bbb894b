//! A backend in Rust, with rdkafka: a member of a consumer group that commits what it has dealt with.
//!
//!     cargo run --example consumer
//!     cargo run --example consumer -- --broker gateway.local:9092 --user backend --password-file secret
//!
//! Start it several times: members share the partitions, and take over from one that goes. `--count N` ends it after N
//! records. For TLS build rdkafka with its feature `ssl` (which takes OpenSSL) and set `ssl.ca.location`.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use rdkafka::Message;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};

#[derive(Parser)]
struct Arguments {
    /// Where Millstream takes Kafka clients
    #[arg(long, default_value = "127.0.0.1:9092")]
    broker: String,
    /// User name, and the file with the password
    #[arg(long, requires = "password_file")]
    user: Option<String>,
    #[arg(long)]
    password_file: Option<PathBuf>,
    /// The group
    #[arg(long, default_value = "backend")]
    group: String,
    /// The Kafka topic; without mapping rules everything is in this one
    #[arg(long, default_value = "mqtt")]
    topic: String,
    /// Ends after this many records
    #[arg(long)]
    count: Option<u64>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &arguments.broker)
        .set("group.id", &arguments.group)
        // A group that is new reads from the beginning.
        .set("auto.offset.reset", "earliest")
        // Committed by hand, below, when the record has been dealt with.
        .set("enable.auto.commit", "false");
    if let (Some(user), Some(file)) = (&arguments.user, &arguments.password_file) {
        config
            .set("security.protocol", "sasl_plaintext")
            .set("sasl.mechanisms", "PLAIN")
            .set("sasl.username", user)
            .set("sasl.password", std::fs::read_to_string(file)?.trim_end());
    }
    let consumer: BaseConsumer = config.create()?;
    consumer.subscribe(&[&arguments.topic])?;
    let mut dealt_with = 0;
    while arguments.count.is_none_or(|count| dealt_with < count) {
        let record = match consumer.poll(Duration::from_secs(1)) {
            None => continue,
            Some(Ok(record)) => record,
            Some(Err(error)) => {
                eprintln!("{error}");
                continue;
            }
        };
        let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
        let (partition, offset) = (record.partition(), record.offset());
        println!("{} = {}   (partition {partition}, offset {offset})", text(record.key()), text(record.payload()));
        // Synchronously, which costs a round trip per record; asynchronously, a crash repeats a few.
        consumer.commit_message(&record, CommitMode::Sync)?;
        dealt_with += 1;
    }
    Ok(())
}
