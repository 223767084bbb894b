//! What durability costs a flash card, by `commit_interval_ms`: the README's table. A measurement, of 13 minutes:
//! `MILLSTREAM_BIN=target/release/millstream cargo test --release --test wear -- --ignored --nocapture`

use std::thread;
use std::time::{Duration, Instant};

use support::broker::Broker;
use support::mqtt::{Client, Connect, Publish};
use support::prometheus::Scrape;

const DEVICES: u32 = 100;
const PERIOD: Duration = Duration::from_secs(1);
const PAYLOAD_BYTES: usize = 64;
/// The first checkpoint, after a minute, and the first journal files are over by then.
const WARM_UP: Duration = Duration::from_secs(70);

/// A device that publishes once a second, at QoS 1, from its own point of the second on; how long each acknowledgement
/// took after the warm-up.
fn device(broker: &Broker, number: u32, begins: Instant, ends: Instant) -> Vec<Duration> {
    let mut client: Client = broker.connect(Connect::v311(&format!("device-{number}")));
    let mut next = begins + PERIOD * number / DEVICES;
    let mut took = Vec::new();
    while next < ends {
        thread::sleep(next.saturating_duration_since(Instant::now()));
        let sent = Instant::now();
        client.publish(Publish::new(&format!("sensors/{number}/state"), "x".repeat(PAYLOAD_BYTES)).qos(1));
        if sent >= begins + WARM_UP {
            took.push(sent.elapsed());
        }
        next += PERIOD;
    }
    took
}

struct Written {
    bytes: f64,
    syncs: f64,
    received: f64,
}

fn written(broker: &Broker) -> Written {
    let scrape = Scrape::of(broker.admin());
    Written {
        // Without the zeros of journal files made in advance, which ends when there are enough.
        bytes: scrape.sum("millstream_disk_written_bytes_total")
            - scrape.value("millstream_disk_written_bytes_total", &[("file", "zeros")]).unwrap_or(0.0),
        syncs: scrape.sum("millstream_disk_syncs_total"),
        received: scrape.sum("millstream_mqtt_received_bytes_total"),
    }
}

fn measure(commit_interval_ms: u32, lasts: Duration) -> String {
    let broker = Broker::with_config(&format!("commit_interval_ms = {commit_interval_ms}\n"));
    let begins = Instant::now() + Duration::from_secs(1);
    let ends = begins + WARM_UP + lasts;
    let (before, after, mut took) = thread::scope(|scope| {
        let broker = &broker;
        let devices = (0..DEVICES).map(|number| scope.spawn(move || device(broker, number, begins, ends)));
        let devices: Vec<_> = devices.collect();
        thread::sleep((begins + WARM_UP).saturating_duration_since(Instant::now()));
        let before = written(broker);
        thread::sleep(ends.saturating_duration_since(Instant::now()));
        let after = written(broker);
        let took = devices.into_iter().flat_map(|device| device.join().expect("a device that was served"));
        (before, after, took.collect::<Vec<Duration>>())
    });
    let minutes = lasts.as_secs_f64() / 60.0;
    took.sort();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    let (bytes, received) = (after.bytes - before.bytes, after.received - before.received);
    assert!(
        took.len() as f64 > 0.9 * f64::from(DEVICES) * lasts.as_secs_f64(),
        "only {} were acknowledged",
        took.len()
    );
    format!(
        "| {commit_interval_ms} | {:.1} / {:.1} | {:.2} | {:.1} | {:.0} |",
        at(0.5),
        at(0.99),
        bytes / minutes / 1e6,
        bytes / received,
        (after.syncs - before.syncs) / minutes
    )
}

#[test]
#[ignore = "a measurement: it takes 13 minutes, and the figures are for the README"]
fn wear_by_commit_interval() {
    let seconds = std::env::var("MILLSTREAM_WEAR_S").ok().map(|s| s.parse().expect("MILLSTREAM_WEAR_S=seconds"));
    let lasts = Duration::from_secs(seconds.unwrap_or(120));
    println!(
        "| `commit_interval_ms` | acknowledged after, p50 / p99 ms | MB written a minute | bytes per byte received | syncs a minute |"
    );
    println!("|-|-|-|-|-|");
    for commit_interval_ms in [0, 20, 100, 1000] {
        println!("{}", measure(commit_interval_ms, lasts));
    }
}
