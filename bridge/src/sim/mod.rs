//! A simulation of everything that must survive a crash: the journal, the log, keyed state, queues and producers
//! run step by step on a disk that forgets, tears and fails, all of it from one seed; a model knows what has to be
//! there afterwards.
//!
//! - [`disk`]: the disk; [`baton`]: a checkpoint goes on between other steps
//! - [`world`]: what is done, and when it crashes
//! - [`model`]: what must be found
//! - [`mutation`]: the rules that can be switched off, to see that it notices
//!
//! `cargo test -p millstream-bridge sim` runs the seeds of `MILLSTREAM_SIM_SEEDS` (as `7` or `0..20000`, by default
//! `0..300`). A seed that fails is named; it does the same again.

mod baton;
mod disk;
mod model;
pub(crate) mod mutation;
mod random;
mod world;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::batch;
use crate::disk::Folder;
use crate::{Lane, Machine, OpenError, Space};

use disk::{End, SimulatedDisk};
use mutation::Mutation;
use world::{Counts, World};

/// Runs one seed; what it did, or what was wrong.
fn run(seed: u64) -> Result<Counts, String> {
    let outcome = std::panic::catch_unwind(|| World::new(seed).run());
    match outcome {
        Ok(ran) => ran,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(text.unwrap_or_else(|| "it panicked".to_owned()))
        }
    }
}

fn seeds() -> std::ops::Range<u64> {
    let wanted = std::env::var("MILLSTREAM_SIM_SEEDS").unwrap_or_else(|_| "0..300".to_owned());
    let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("MILLSTREAM_SIM_SEEDS={wanted} is no range"));
    match wanted.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => number(&wanted)..number(&wanted) + 1,
    }
}

#[test]
fn nothing_acknowledged_is_lost_whatever_happens() {
    let mut sum = Counts::default();
    for seed in seeds() {
        match run(seed) {
            Ok(counts) => sum.add(&counts),
            Err(wrong) => {
                panic!("seed {seed}: {wrong}\nagain: MILLSTREAM_SIM_SEEDS={seed} cargo test -p millstream-bridge sim")
            }
        }
    }
    println!("{sum:?}");
    let is_one = seeds().count() == 1;
    assert!(is_one || sum.acknowledged > 0 && sum.power_cuts > 0 && sum.kills > 0, "{sum:?}");
    let full = [sum.waited, sum.refused, sum.late, sum.healed];
    assert!(is_one || full.iter().all(|count| *count > 0), "{sum:?}");
}

#[test]
fn a_seed_does_the_same_again() {
    for seed in [1, 2, 3] {
        assert_eq!(run(seed).expect("runs"), run(seed).expect("runs"));
    }
}

/// Found by seed 1232: a folder that was there was taken to be durable, but a process that was killed had made it.
#[test]
fn a_start_that_was_killed_leaves_no_name_in_memory_only() {
    for killed_at in 0..60 {
        let disk = SimulatedDisk::new(killed_at);
        let open = |disk: &SimulatedDisk| {
            let folder = Folder::open_in(Arc::new(disk.clone()), Path::new("/data"));
            folder.map_err(OpenError::Disk).and_then(|folder| Machine::open(World::options(), folder))
        };
        disk.end_after(killed_at);
        drop(open(&disk));
        let disk = disk.next(End::Killed);
        let mut machine = open(&disk).expect("starts");
        let lane = machine.bridge.lane();
        lane.put_all(&[(Space(16), b"key", Some(b"value"))]);
        machine.committer.commit_group().expect("written");
        assert_eq!(lane.durable(), 1);
        drop(machine);
        let disk = disk.next(End::PowerCutLosingAll);
        let found = open(&disk).expect("starts").bridge.take_recovered(Space(16));
        assert_eq!(found, [((*b"key").into(), (*b"value").into())], "killed at operation {killed_at}");
    }
}

/// What was committed and found no room in the log stays in the journal, over a start on a disk that is still full, and
/// what is committed then comes behind it.
#[test]
fn a_start_on_a_full_disk_goes_on_where_the_log_will_end() {
    let disk = SimulatedDisk::new(1);
    let open = |disk: &SimulatedDisk| {
        let folder = Folder::open_in(Arc::new(disk.clone()), Path::new("/data")).expect("a folder");
        Machine::open(World::options(), folder).expect("starts")
    };
    let append = |machine: &mut Machine, lane: &Lane, text: &str| {
        let mut operation = lane.begin();
        operation.append(machine.bridge.hidden(), 1, std::iter::empty(), |out| {
            batch::encode_body(out, None, Some(text.as_bytes()), std::iter::empty());
        });
        let ticket = operation.submit();
        machine.committer.commit_group().expect("the journal has a file");
        assert_eq!(lane.durable(), ticket);
    };
    let mut machine = open(&disk);
    machine.checkpointer.files.ensure_spares(false).expect("made");
    let lane = machine.bridge.lane();
    append(&mut machine, &lane, "0");
    machine.checkpointer.files.ensure_spares(false).expect("made");
    disk.set_room(Some(0));
    append(&mut machine, &lane, "1");
    append(&mut machine, &lane, "2");
    let frame = machine.applier.frames.try_recv().expect("committed");
    assert!(machine.applier.try_apply(&frame).is_err(), "there is no room");
    drop(machine);

    let disk = disk.next(End::PowerCut);
    let mut machine = open(&disk);
    assert!(!machine.bridge.is_open() && machine.applier.late.len() > 1);
    let lane = machine.bridge.lane();
    append(&mut machine, &lane, "3");
    let hidden = machine.bridge.hidden();
    assert_eq!(model::read_all(&machine.bridge, hidden), Ok(BTreeMap::new()), "none of it can be read yet");
    disk.set_room(None);
    let late = std::mem::take(&mut machine.applier.late);
    for frame in late.into_iter().chain(machine.applier.frames.try_iter().collect::<Vec<_>>()) {
        machine.applier.try_apply(&frame).expect("there is room");
    }
    let due = (0..4).map(|offset| (offset, offset.to_string()));
    assert_eq!(model::read_all(&machine.bridge, hidden), Ok(due.collect()));
}

/// A check that cannot fail proves nothing: without the rule, some seed must show it.
#[test]
fn without_one_of_the_rules_it_is_noticed() {
    for mutation in Mutation::ALL {
        let _switched_off = mutation.switch_off();
        let caught = (0..2_000).find(|seed| run(*seed).is_err());
        println!("{mutation:?}: {caught:?}");
        assert!(caught.is_some(), "{mutation:?} is not noticed");
    }
}
