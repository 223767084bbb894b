//! `millstream log` and `millstream state` on folders that are whole, and that are not.

use std::path::Path;
use std::process::{Command, Output};

use support::broker::{Broker, binary};

use super::files::{FILLED, Kind, damage, find};
use super::folder::{self, CONFIG, Lost, copy};

fn run(data: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(arguments).arg("--data-dir").arg(data);
    command.output().expect("the binary is built")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_whole_folder_is_called_so_and_shown() {
    let broker = Broker::prepared();
    copy(FILLED.path(), broker.data_dir());
    let verified = run(broker.data_dir(), &["log", "verify"]);
    assert!(verified.status.success() && text(&verified).contains("nothing is damaged"), "{}", text(&verified));
    let dumped = text(&run(broker.data_dir(), &["log", "dump", "t", "0", "--max", "3"]));
    assert_eq!(dumped.lines().count(), 3, "{dumped}");
    assert!(dumped.starts_with("0 0 20") && dumped.contains("key=\"") && dumped.contains("value=\""), "{dumped}");
    let later = text(&run(broker.data_dir(), &["log", "dump", "t", "0", "--from", "2", "--max", "1"]));
    assert!(later.starts_with("0 2 "), "{later}");
    let devices = text(&run(broker.data_dir(), &["log", "dump", "mqtt"]));
    assert_eq!(devices.lines().count(), 61, "{devices}");
    assert!(devices.contains("mqtt.client_id=\"device\""), "{devices}");
    let sessions = text(&run(broker.data_dir(), &["log", "dump", "__sessions"]));
    assert!(sessions.contains("space=16"), "{sessions}");
    let frames = text(&run(broker.data_dir(), &["log", "dump", "journal", "--max", "5"]));
    assert!(frames.contains("batch: topic") || frames.contains("put "), "{frames}");
    let none = run(broker.data_dir(), &["log", "dump", "nothing"]);
    assert!(!none.status.success() && text(&none).contains("there are: "), "{}", text(&none));
}

#[test]
fn a_folder_in_use_or_none_is_told() {
    let broker = Broker::start();
    let told = run(broker.data_dir(), &["log", "verify"]);
    assert!(!told.status.success() && text(&told).contains("in use by another process"), "{}", text(&told));
    let told = run(&broker.data_dir().join("nothing"), &["log", "verify"]);
    assert!(!told.status.success() && text(&told).contains("there is no data folder"), "{}", text(&told));
    let told = run(broker.folder(), &["log", "repair"]);
    assert!(!told.status.success() && text(&told).contains("is no data folder"), "{}", text(&told));
}

#[test]
fn damage_is_named_and_repaired() {
    let mut broker = Broker::prepared().config(CONFIG);
    copy(FILLED.path(), broker.data_dir());
    // Closed properly, all of it is in segments.
    broker.restart();
    broker.sigterm_and_wait();
    let log = find(broker.data_dir(), "mqtt.16/0/00000000000000000000.log");
    damage(&log, Kind::Flipped);
    damage(&find(broker.data_dir(), "__queues.3/0/00000000000000000000.log"), Kind::Flipped);
    let verified = run(broker.data_dir(), &["log", "verify"]);
    assert_eq!(verified.status.code(), Some(1));
    let said = text(&verified);
    assert!(said.contains("damaged: topics/mqtt.16/0/00000000000000000000.log, bytes "), "{said}");
    assert!(said.contains("damaged: topics/__queues.3/0/"), "{said}");
    let would = text(&run(broker.data_dir(), &["log", "repair"]));
    assert!(would.contains("would: ") && would.contains("nothing was changed"), "{would}");
    assert_eq!(run(broker.data_dir(), &["log", "verify"]).status.code(), Some(1), "it changed nothing");
    let repaired = run(broker.data_dir(), &["log", "repair", "--yes"]);
    assert!(repaired.status.success(), "{}", text(&repaired));
    let verified = run(broker.data_dir(), &["log", "verify"]);
    assert!(verified.status.success(), "{}", text(&verified));
    assert!(broker.data_dir().join("damaged").is_dir() && !log.exists(), "the next generation is in its place");
    broker.restart();
    folder::check(&broker, Lost { mqtt: true, queue: true, ..Lost::default() }, "repaired");
}

#[test]
fn state_is_rebuilt() {
    let mut broker = Broker::prepared().config(CONFIG);
    copy(FILLED.path(), broker.data_dir());
    let rebuilt = run(broker.data_dir(), &["state", "rebuild"]);
    assert!(rebuilt.status.success() && text(&rebuilt).contains("rebuilt: "), "{}", text(&rebuilt));
    let verified = run(broker.data_dir(), &["log", "verify"]);
    assert!(verified.status.success(), "{}", text(&verified));
    broker.restart();
    folder::check(&broker, Lost::default(), "rebuilt");
}
