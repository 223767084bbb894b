//! The seeds, what they found, and that they notice.

use crate::Space;

use super::disk::{End, SimulatedDisk};
use super::groups::{self, GroupWorld};
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
    assert!(is_one || sum.acknowledged > 0 && sum.power_cuts > 0 && sum.kills > 0, "{sum:?}");
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
