//! What the tests that open folders have in common. Each uses a part of it.
#![allow(dead_code)]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use bridge::{Durability, Lane, Options, Settings};

/// Small segments and checkpoints, of which none comes by time alone. Nothing goes because it is old: records may be stamped
/// as if it were 1970.
pub fn options(folder: &Path) -> Options {
    Options {
        data_dir: folder.to_owned(),
        durability: Durability::Fsync,
        commit_interval: Duration::ZERO,
        topic_defaults: Settings { segment_bytes: 64 << 10, retention_ms: None, ..Settings::default() },
        checkpoint_bytes: 256 << 10,
        checkpoint_interval: Duration::from_secs(60),
        reserve_bytes: 0,
    }
}

/// Waits until everything up to a ticket is durable.
pub fn wait(lane: &Lane, ticket: u64) {
    until("durable", || {
        assert!(lane.failure().is_none(), "{:?}", lane.failure());
        lane.durable() >= ticket
    });
}

/// Waits until it is done.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        std::thread::yield_now();
    }
}

/// Copies a folder with all that is in it.
pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to.join(entry.file_name())),
            false => drop(fs::copy(entry.path(), to.join(entry.file_name())).unwrap()),
        }
    }
}
