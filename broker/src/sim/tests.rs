//! The seeds, what they found, and that they notice.

use bridge::sim::{panic_text, seeds};

use super::mutation::Mutation;
use super::set_few_packet_ids;
use super::world::{Counts, World};

/// Runs one seed; what it did, or what was wrong.
fn run(seed: u64) -> Result<Counts, String> {
    let outcome = std::panic::catch_unwind(|| World::new(seed).run());
    set_few_packet_ids(None);
    outcome.unwrap_or_else(|panic| Err(panic_text(&*panic)))
}

#[test]
fn what_clients_were_told_is_so_whatever_happens() {
    let mut sum = Counts::default();
    for seed in seeds(300) {
        match run(seed) {
            Ok(counts) => sum.add(&counts),
            Err(wrong) => {
                panic!("seed {seed}: {wrong}\nagain: MILLSTREAM_SIM_SEEDS={seed} cargo test -p millstream-broker sim")
            }
        }
    }
    println!("{sum:?}");
    let is_one = seeds(300).count() == 1;
    assert!(is_one || sum.delivered > 0 && sum.power_cuts > 0 && sum.kills > 0 && sum.wills > 0, "{sum:?}");
}

#[test]
fn a_seed_does_the_same_again() {
    for seed in [1, 2, 3] {
        assert_eq!(run(seed), run(seed));
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
