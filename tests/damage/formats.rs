//! Folders as released versions left them. A new one, at each release, with the released binary:
//!
//! ```text
//! MILLSTREAM_BIN=path/to/millstream MILLSTREAM_WRITE_FIXTURE=tests/fixtures/format-N.tar.gz \
//!     cargo test --test damage formats::write -- --ignored
//! ```

use std::path::Path;
use std::process::Command;

use support::broker::Broker;

use super::folder::{self, CONFIG, Lost};

fn tar(arguments: &[&str]) {
    let done = Command::new("tar").args(arguments).status().expect("tar is there");
    assert!(done.success(), "tar {arguments:?}");
}

#[test]
#[ignore = "writes a fixture"]
fn write() {
    let to = std::env::var("MILLSTREAM_WRITE_FIXTURE").expect("MILLSTREAM_WRITE_FIXTURE says where to");
    let mut broker = Broker::with_config(CONFIG);
    folder::fill(&mut broker);
    let data = broker.data_dir().to_str().expect("UTF-8").to_owned();
    let to = Path::new(env!("CARGO_MANIFEST_DIR")).join(to);
    // Journal files are mostly zeros.
    tar(&["--sparse", "-C", &data, "-czf", to.to_str().expect("UTF-8"), "."]);
}

/// Opens what a version left, and again what this one made of it.
fn opens(fixture: &str) {
    let mut broker = Broker::prepared().config(CONFIG);
    let data = broker.data_dir().to_str().expect("UTF-8").to_owned();
    std::fs::create_dir_all(&data).expect("a folder");
    tar(&["-C", &data, "-xzf", &format!("{}/tests/fixtures/{fixture}", env!("CARGO_MANIFEST_DIR"))]);
    broker.restart();
    assert!(!broker.stderr().contains("damage:"), "{}", broker.stderr());
    folder::check(&broker, Lost::default(), fixture);
    broker.restart_gracefully();
    assert!(!broker.stderr().contains("damage:"), "{}", broker.stderr());
}

#[test]
fn format_1() {
    opens("format-1.tar.gz");
}

#[test]
fn format_2() {
    opens("format-2.tar.gz");
}
