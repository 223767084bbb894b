//! Random damage to one file of a folder, anywhere: the folder opens, nothing is served that nobody sent, and everything
//! outside the damage is there. `MILLSTREAM_DAMAGE_SEEDS` (as `0..5000`, by default `0..40`) says which.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bridge::state::Change;
use bridge::{Bridge, Fetched, Space, Target, batch};

mod shared;

use shared::{copy, options, until, wait};

const STATE: Space = Space(16);
const QUEUE: u64 = 77;

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) % bound
    }
}

fn payload(partition: u32, number: i64) -> Vec<u8> {
    format!("{partition}/{number}/{}", "x".repeat((number as usize * 37) % 700)).into_bytes()
}

/// Everything that can be read, by partition and offset; each record must be the one that was sent.
fn records(bridge: &Bridge, what: &str) -> BTreeMap<(u32, i64), Vec<u8>> {
    let mut found = BTreeMap::new();
    let topic = bridge.topics().into_iter().next().unwrap_or_else(|| panic!("{what}: no topic"));
    for partition in &topic.partitions {
        let mut offset = partition.log_start();
        while offset < partition.high_watermark() {
            let bytes = partition.read_blocking(offset, 30_000).unwrap();
            if bytes.is_empty() {
                break;
            }
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let header = batch::Header::parse(rest).unwrap();
                let whole = &rest[..header.total_bytes()];
                assert!(batch::crc_ok(&header, whole));
                let mut records = batch::records(whole, &header);
                while let Some(record) = records.next().unwrap() {
                    let value = record.value.unwrap().to_vec();
                    assert_eq!(value, payload(partition.index, record.offset), "nobody sent it there");
                    found.insert((partition.index, record.offset), value);
                }
                rest = &rest[whole.len()..];
                offset = header.last_offset() + 1;
            }
        }
    }
    found
}

fn state(bridge: &Bridge) -> BTreeMap<Vec<u8>, Vec<u8>> {
    bridge.take_recovered(STATE).into_iter().map(|(key, value)| (key.into_vec(), value.into_vec())).collect()
}

/// A folder as a crash leaves it: checkpoints, and a journal behind the last.
fn fill(folder: &Path, copied: &Path) {
    let bridge = Bridge::open(options(folder)).unwrap();
    let lane = bridge.lane();
    let (topic, _) = bridge.create_topic(&lane, "mqtt", 2, BTreeMap::new()).unwrap();
    let mut operation = lane.begin();
    operation.change(Change::Open(QUEUE));
    operation.submit();
    for number in 0..1_200i64 {
        for partition in 0..2 {
            let mut operation = lane.begin();
            let target = Target { queue: QUEUE, tag: 5, expires_s: 0 };
            let targets = if partition == 0 { vec![target] } else { vec![] };
            operation.append((topic.id, partition), 1_000 + number, targets.into_iter(), |out| {
                batch::encode_body(out, Some(b"k"), Some(&payload(partition, number)), std::iter::empty());
            });
            operation.change(Change::Put(STATE, format!("{}", number % 90).as_bytes(), &number.to_be_bytes()));
            if partition == 0 && number > 20 {
                operation.change(Change::Remove(QUEUE, number as u64 - 20));
            }
            operation.submit();
        }
        if number % 4 == 0 {
            lane.flush();
            wait(&lane, lane.submitted());
        }
    }
    lane.flush();
    wait(&lane, lane.submitted());
    until("apply", || topic.partitions.iter().all(|partition| partition.high_watermark() == 1_200));
    until("checkpoint", || bridge.uncheckpointed_bytes() < 256 << 10);
    copy(folder, copied);
}

fn damage(path: &Path, random: &mut Random) -> String {
    let mut bytes = fs::read(path).unwrap();
    let size = bytes.len() as u64;
    let kind = random.below(6);
    match kind {
        0 => fs::remove_file(path).unwrap(),
        1 => fs::write(path, vec![0; bytes.len()]).unwrap(),
        2 => fs::write(path, &bytes[..random.below(size + 1) as usize]).unwrap(),
        _ if size == 0 => {}
        3 => {
            for _ in 0..1 + random.below(4) {
                bytes[random.below(size) as usize] ^= 1 << random.below(8);
            }
            fs::write(path, bytes).unwrap();
        }
        _ => {
            let from = random.below(size);
            let to = (from + 1 + random.below(8_000)).min(size);
            for byte in &mut bytes[from as usize..to as usize] {
                *byte = if kind == 4 { 0 } else { random.below(256) as u8 };
            }
            fs::write(path, bytes).unwrap();
        }
    }
    format!("{}: kind {kind}", path.display())
}

fn seeds() -> Range<u64> {
    let wanted = std::env::var("MILLSTREAM_DAMAGE_SEEDS").unwrap_or_else(|_| "0..40".to_owned());
    let (from, to) = wanted.split_once("..").expect("a range, as 0..150");
    from.parse().unwrap()..to.parse().unwrap()
}

#[test]
fn whatever_is_damaged_the_rest_is_served() {
    let home = tempfile::tempdir().unwrap();
    let whole = home.path().join("whole");
    fill(&home.path().join("first"), &whole);
    let opened = {
        let again = home.path().join("again");
        copy(&whole, &again);
        Bridge::open(options(&again)).unwrap()
    };
    let (all, state_due) = (records(&opened, "whole"), state(&opened));
    assert_eq!(all.len(), 2_400);
    let names: Vec<PathBuf> = files(&whole).iter().map(|path| path.strip_prefix(&whole).unwrap().to_owned()).collect();
    for seed in seeds() {
        let mut random = Random(seed);
        random.below(2);
        let name = &names[(seed % names.len() as u64) as usize];
        let folder = home.path().join(format!("seed-{seed}"));
        copy(&whole, &folder);
        let what = format!("seed {seed}, {}", damage(&folder.join(name), &mut random));
        let text = name.to_string_lossy().into_owned();
        for start in 0..2 {
            let bridge = Bridge::open(options(&folder)).unwrap_or_else(|error| panic!("{what}: {error}"));
            let found = records(&bridge, &what);
            let lost: Vec<_> = all.keys().filter(|at| !found.contains_key(at)).copied().collect();
            let (is_journal, is_log) =
                (text.starts_with("journal"), text.ends_with(".log") && text.contains("mqtt.16"));
            if !is_journal {
                let partition = text.split('/').nth(2).and_then(|index| index.parse().ok());
                let in_it = |at: &&(u32, i64)| is_log && Some(at.0) == partition;
                assert_eq!(lost.iter().filter(|at| !in_it(at)).count(), 0, "{what}: lost elsewhere {lost:?}");
                assert!(lost.len() < 350, "{what}: {} lost, a segment holds fewer", lost.len());
                for partition in &bridge.topic("mqtt").unwrap().partitions {
                    assert_eq!(partition.high_watermark(), 1_200, "{what}");
                }
            } else {
                // What no later frame speaks of may be gone from the end.
                for partition in 0..2 {
                    let first = lost.iter().find(|at| at.0 == partition).map_or(1_200, |at| at.1);
                    let gone = lost.iter().filter(|at| at.0 == partition).count() as i64;
                    assert_eq!(gone, 1_200 - first, "{what}: lost in the middle {lost:?}");
                }
            }
            if !is_journal && !text.contains("__sessions") {
                assert_eq!(state(&bridge), state_due, "{what}");
            }
            let mut reader = bridge.reader();
            for held in bridge.take_recovered_queues().values() {
                for entry in held.entries.values() {
                    if let Fetched::Record(record) = reader.get(&entry.pointer).unwrap() {
                        assert_eq!(record.value.unwrap(), payload(entry.pointer.partition, entry.pointer.offset));
                    }
                }
            }
            if start == 0 {
                assert!(bridge.close(Instant::now() + Duration::from_secs(20)), "{what}");
            }
        }
        fs::remove_dir_all(&folder).unwrap();
    }
}
