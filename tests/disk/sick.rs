//! Has the syncs of a process hang or fail: a library between it and libc, built here and steered by a file.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use support::broker::Broker;
use tempfile::TempDir;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/disk/sick.c");

/// The library, and what it goes by.
pub struct SickDisk {
    folder: TempDir,
}

impl SickDisk {
    /// One that is well.
    pub fn new() -> SickDisk {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let disk = SickDisk { folder };
        let mut compile = Command::new("cc");
        compile.args(["-O1", "-shared", "-fPIC", "-o"]).arg(disk.library()).arg(SOURCE).arg("-ldl");
        assert!(compile.status().expect("a C compiler, as Rust's linker needs").success(), "{SOURCE}");
        disk
    }

    fn library(&self) -> PathBuf {
        self.folder.path().join("sick.so")
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// A broker on it, not started.
    pub fn broker(&self, config: &str) -> Broker {
        let mut broker = Broker::prepared().config(config);
        let (library, state) = (self.library(), self.state());
        let preload = library.to_str().expect("UTF-8");
        let state = state.to_str().expect("UTF-8");
        broker.set_environment(&[("LD_PRELOAD", preload), ("SICK_DISK", state)]);
        broker
    }

    /// `hang`: syncs of the journal do not return; `fail`: they fail; `e` and a number: that byte of it cannot be read.
    pub fn set(&self, state: &str) {
        // At once: the library never reads half of it.
        let new = self.folder.path().join("new");
        fs::write(&new, state).expect("a writable folder");
        fs::rename(new, self.state()).expect("a writable folder");
    }

    /// It works as it should.
    pub fn heal(&self) {
        self.set("well");
    }
}
