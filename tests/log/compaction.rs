//! Compacted topics, as Kafka's producers fill them and its consumers read them.

use std::collections::BTreeMap;
use std::time::Instant;

use support::PATIENCE;
use support::broker::Broker;
use support::kafka::{Kafka, Record};
use support::prometheus::Scrape;

const CONFIG: &str = "[bridge]\ncheckpoint_interval_s = 1\n";
const SETTINGS: [(&str, &str); 3] =
    [("cleanup.policy", "compact"), ("segment.bytes", "65536"), ("min.cleanable.dirty.ratio", "0.1")];
const KEYS: usize = 50;
const ROUNDS: usize = 40;

fn last_values(records: &[Record]) -> BTreeMap<String, String> {
    records.iter().map(|record| (record.key_text(), record.text())).collect()
}

#[test]
fn of_each_key_the_last_value_is_read_from_the_beginning() {
    let mut broker = Broker::with_config(CONFIG);
    let kafka = Kafka::at(broker.kafka());
    let codecs = ["none", "snappy", "lz4"];
    // What does not pack well, so that segments fill with every codec.
    let mut seed = 7u64;
    let mut noise = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        format!("{seed:016x}")
    };
    let mut expected = BTreeMap::new();
    let mut records = Vec::new();
    for round in 0..ROUNDS {
        for key in 0..KEYS {
            let (key, value) =
                (format!("key {key}"), format!("{round} {}", (0..8).map(|_| noise()).collect::<String>()));
            expected.insert(key.clone(), value.clone());
            records.push((key, value));
        }
    }
    let records: Vec<_> = records.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    for codec in codecs {
        kafka.create_topic(codec, 1, &SETTINGS).expect("created");
        let settings = [("compression.type", codec), ("linger.ms", "20"), ("batch.num.messages", "100")];
        kafka.produce(codec, &records, &settings);
    }
    // It waits for ten seconds, lest a queue's pointer be on its way.
    let began = Instant::now();
    for codec in codecs {
        // What is in the segment that is appended to stays.
        let read = loop {
            let read = kafka.read(codec, 0);
            if read.len() < records.len() * 2 / 3 {
                break read;
            }
            assert!(began.elapsed() < 6 * PATIENCE, "{codec} is not compacted: {} records", read.len());
        };
        assert_eq!(last_values(&read), expected, "{codec}");
        assert_eq!(kafka.watermarks(codec, 0), (0, records.len() as i64), "{codec}");
        for record in &read {
            let (key, value) = records[record.offset as usize];
            assert_eq!((record.key_text().as_str(), record.text().as_str()), (key, value), "{codec}");
        }
    }
    let scrape = Scrape::of(broker.admin());
    let gone = scrape.value("millstream_log_compacted_records_total", &[]).expect("a count");
    assert!(gone >= records.len() as f64, "{gone}");
    assert_eq!(scrape.value("millstream_log_compactions_total", &[("outcome", "failed")]), Some(0.0));
    broker.kill9_and_restart();
    for codec in codecs {
        assert_eq!(last_values(&kafka.read(codec, 0)), expected, "{codec}");
    }
}
