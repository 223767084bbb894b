//! The bodies of Kafka requests: the walk that bounds them, then the codec.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| bridge::kafka::fuzzing::request(input));
