//! The access control list, and what it answers. Its users, and the names it is asked about, are its own words.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let users: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("user ")).take(4).collect();
    let topics = text.lines().filter_map(|line| line.rsplit(' ').next()).take(8);
    broker::auth::fuzzing::acl_file(text, &users, topics);
});
