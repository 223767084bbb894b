//! What the black-box tests share. Nothing here knows the product's code: the binary is a
//! child process, MQTT is spoken by a codec of the tests' own (a second opinion on the wire)
//! and Kafka by librdkafka.
//!
//! A test reads as a transcript, so everything here panics, at the caller's line, when the
//! binary does not do what the script says.

pub mod broker;
pub mod certs;
pub mod http;
pub mod kafka;
pub mod kafka_wire;
pub mod load;
pub mod mqtt;
pub mod passwords;
pub mod ports;
pub mod prometheus;
pub mod random;
pub mod stream;
pub mod tls;
pub mod websocket;

use std::time::{Duration, Instant};

/// How long anything that must happen may take on a busy two-core machine.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Asks again and again until the answer is there; panics with `what` when patience ends.
#[track_caller]
pub fn eventually<T>(what: &str, attempt: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, attempt)
}

/// The same for what takes its time by design.
#[track_caller]
pub fn within<T>(patience: Duration, what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
