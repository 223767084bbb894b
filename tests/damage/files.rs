//! Each kind of file, zeroed, cut, with flipped bits, missing.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use support::broker::Broker;
use support::prometheus::Scrape;
use tempfile::TempDir;

use super::folder::{self, CONFIG, Lost, copy};

/// One folder, killed while it was in use; each case has a copy.
pub static FILLED: LazyLock<TempDir> = LazyLock::new(|| {
    let mut broker = Broker::with_config(CONFIG);
    folder::fill(&mut broker);
    let kept = tempfile::tempdir().expect("a folder");
    copy(broker.data_dir(), kept.path());
    kept
});

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Zeroed,
    Cut,
    Flipped,
    Missing,
}

const KINDS: [Kind; 4] = [Kind::Zeroed, Kind::Cut, Kind::Flipped, Kind::Missing];

/// Bytes up to the last that is not zero: journal files are longer than what was written.
fn used(bytes: &[u8]) -> usize {
    // The copy of the header stands in the last 512.
    let body = if bytes.len() < 4 << 20 { bytes } else { &bytes[..bytes.len() - 512] };
    body.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

pub fn damage(path: &Path, kind: Kind) {
    let mut bytes = fs::read(path).expect("a file");
    let mut at = used(&bytes) * 4 / 5;
    if path.extension().is_some_and(|extension| extension == "journal") {
        // Not in what fills a frame's last 512 bytes up, where nothing is lost.
        at = at / 512 * 512 + 30;
    }
    match kind {
        Kind::Missing => return fs::remove_file(path).expect("removed"),
        Kind::Zeroed => bytes.fill(0),
        Kind::Cut => bytes.truncate(at),
        Kind::Flipped => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= 0x10;
            }
        }
    }
    fs::write(path, bytes).expect("written");
}

/// The file of the folder whose path ends so, and which has the most in it.
pub fn find(data: &Path, ending: &str) -> PathBuf {
    let mut found: Vec<PathBuf> =
        all(data).into_iter().filter(|path| path.to_string_lossy().contains(ending)).collect();
    found.sort_by_key(|path| fs::read(path).map_or(0, |bytes| used(&bytes)));
    found.pop().unwrap_or_else(|| panic!("{ending} in {}", data.display()))
}

fn all(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => found.extend(all(&path)),
            false => found.push(path),
        }
    }
    found
}

/// Every kind of damage to a file; `says` whether the log has to speak of it.
fn each_kind(ending: &str, lost: Lost, says: bool) {
    for kind in KINDS {
        let what = format!("{ending} {kind:?}");
        let mut broker = Broker::prepared().config(CONFIG);
        copy(FILLED.path(), broker.data_dir());
        let path = find(broker.data_dir(), ending);
        damage(&path, kind);
        broker.restart();
        if says {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            let said = broker.log_line(&["damage:", &name]);
            assert!(said.contains("ERROR"), "{what}: {said}");
            let counted = Scrape::of(broker.admin()).sum("millstream_disk_damaged_ranges_total");
            assert!(counted >= 1.0, "{what}: {counted}");
        }
        folder::check(&broker, lost, &what);
        // What it was, is over.
        broker.restart_gracefully();
        assert!(broker.stderr().matches("log opened").count() == 2, "{what}");
    }
}

#[test]
fn checkpoint() {
    each_kind("checkpoint", Lost::default(), true);
}

#[test]
fn journal() {
    // What segments have of it is there; what the queue was told in lost frames is not.
    each_kind(".journal", Lost { queue: true, ..Lost::default() }, true);
}

#[test]
fn segments() {
    each_kind("mqtt.16/", Lost { mqtt: true, ..Lost::default() }, false);
    each_kind("mqtt.16/0/00000000000000000000.log", Lost { mqtt: true, ..Lost::default() }, false);
}

#[test]
fn indexes_and_lock() {
    for ending in [".index", ".timeindex", "data/lock"] {
        each_kind(ending, Lost::default(), false);
    }
}

#[test]
fn topic_definitions() {
    each_kind("__meta.1/0/00000000000000000000.log", Lost::default(), true);
}

#[test]
fn sessions_and_queues() {
    each_kind("__sessions.4/0/00000000000000000000.log", Lost { session: true, ..Lost::default() }, true);
    each_kind("__queues.3/0/00000000000000000000.log", Lost { queue: true, ..Lost::default() }, true);
}

#[test]
fn retained_and_offsets() {
    each_kind("__retained.5/0/00000000000000000000.log", Lost { retained: true, ..Lost::default() }, true);
    each_kind("__consumer_offsets.2/0/00000000000000000000.log", Lost { offsets: true, ..Lost::default() }, true);
}
