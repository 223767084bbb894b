//! What clients are held to by the configuration: told where the protocol has a word for it, refused with the code that
//! it has for it, counted, and in the log.

mod kinds;
mod memory;
mod queue;
mod rates;
mod sizes;
mod told;

use support::broker::Broker;
use support::mqtt::{Client, ConnAck, Connect};
use support::prometheus::Scrape;

/// A client that the broker does not let in; what it is told.
#[track_caller]
fn refused(broker: &Broker, connect: Connect) -> ConnAck {
    let mut client = Client::connect(broker.mqtt(), &connect);
    let connack = client.connack.clone();
    assert_ne!(connack.code, 0, "{connack:?}");
    assert_eq!(client.expect_closed(), None);
    connack
}

/// Waits until this limit has been reached so often.
#[track_caller]
fn reached(broker: &Broker, limit: &str, times: u32) {
    metric(broker, "millstream_mqtt_limits_reached_total", &[("limit", limit)], f64::from(times));
}

/// Waits until a metric has this value.
#[track_caller]
fn metric(broker: &Broker, name: &str, labels: &[(&str, &str)], value: f64) {
    support::eventually(&format!("{name} {labels:?} of {value}"), || {
        (Scrape::of(broker.admin()).value(name, labels) == Some(value)).then_some(())
    });
}
