//! A disk that is full, slow or failing, under the built binary: what goes on, what is turned away, and that nothing
//! acknowledged is lost.
//!
//! - [`small`]: a file system of a few MiB, in memory, for this test alone
//! - [`sick`]: a library that has syncs hang or fail
//! - [`full`], [`slow`], [`failing`]: the tests

mod failing;
mod full;
mod sick;
mod slow;
mod small;

use support::broker::Broker;
use support::prometheus::Scrape;
use support::{eventually, http};

/// MQTT 5's word for it.
const QUOTA_EXCEEDED: u8 = 0x97;

/// What a series of the scrape is worth now.
fn metric(broker: &Broker, name: &str, labels: &[(&str, &str)]) -> f64 {
    let value = Scrape::of(broker.admin()).value(name, labels);
    value.unwrap_or_else(|| panic!("no {name} {labels:?}"))
}

/// Waits until `/ready` answers with this status and words.
#[track_caller]
fn wait_for_ready(broker: &Broker, status: u16, words: &str) {
    eventually(&format!("/ready says {status}, {words}"), || {
        let answer = http::get(broker.admin(), "/ready").ok()?;
        (answer.status == status && answer.body.contains(words)).then_some(())
    });
}
