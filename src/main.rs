//! Millstream: MQTT in, a persistent partitioned log that Kafka clients read out.
fn main() {}
