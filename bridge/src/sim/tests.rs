//! The seeds, what they found, and that they notice.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::batch;
use crate::disk::Folder;
use crate::{Lane, Machine, Space};

use super::disk::{End, SimulatedDisk};
use super::groups::{self, GroupWorld};
use super::model;
use super::mutation::Mutation;
use super::steps::Steps;
use super::world::{Counts, World};
use super::written::WrittenWorld;
use super::{panic_text, seeds};

/// Runs one seed; what it did, or what was wrong.
fn run(seed: u64) -> Result<(Counts, groups::Counts, u64), String> {
    let all = || Ok((World::new(seed).run()?, GroupWorld::new(seed).run()?, WrittenWorld::new(seed).run()?.losses));
    std::panic::catch_unwind(all).unwrap_or_else(|panic| Err(panic_text(&*panic)))
}

#[test]
fn nothing_acknowledged_is_lost_whatever_happens() {
    let (mut sum, mut commits, mut refused, mut losses) = (Counts::default(), 0, 0, 0);
    for seed in seeds(300) {
        match run(seed) {
            Ok((counts, of_groups, lost)) => {
                losses += lost;
                sum.add(&counts);
                commits += of_groups.commits;
                refused += of_groups.refused;
            }
            Err(wrong) => {
                panic!("seed {seed}: {wrong}\nagain: MILLSTREAM_SIM_SEEDS={seed} cargo test -p millstream-bridge sim")
            }
        }
    }
    println!("{sum:?}, {commits} offsets committed, {refused} refused, {losses} losses at durability os");
    let is_one = seeds(300).count() == 1;
    assert!(is_one || commits > 0 && refused > 0 && losses > 0);
    assert!(is_one || sum.called_damage * 1_000 <= sum.starts, "crashes are taken for damage: {sum:?}");
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
        let open = |disk: &SimulatedDisk| Steps::open(disk, World::options());
        disk.end_after(killed_at);
        drop(open(&disk));
        let disk = disk.next(End::Killed);
        let (bridge, mut steps) = open(&disk).expect("starts");
        let lane = bridge.lane();
        lane.put_all(&[(Space(16), b"key", Some(b"value"))]);
        steps.commit().expect("written");
        assert_eq!(lane.durable(), 1);
        drop((bridge, steps));
        let disk = disk.next(End::PowerCutLosingAll);
        let found = open(&disk).expect("starts").0.take_recovered(Space(16));
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
    machine.watch.look_at_room();
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
