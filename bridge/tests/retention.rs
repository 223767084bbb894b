//! What goes and what stays, as users of the crate see it. Each was found by review.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bridge::state::Change;
use bridge::{Bridge, Fetched, Lane, Options, Space, Target, batch};

mod shared;

use shared::{until, wait};

const NOW_MS: i64 = 1_790_000_000_000;

fn options(folder: &Path) -> Options {
    Options { checkpoint_interval: Duration::from_millis(50), ..shared::options(folder) }
}

fn submit(lane: &Lane, fill: impl FnOnce(&mut bridge::Operation<'_>)) {
    let mut operation = lane.begin();
    fill(&mut operation);
    let ticket = operation.submit();
    lane.flush();
    wait(lane, ticket);
}

fn append(lane: &Lane, place: (u32, u32), ms: i64, targets: &[Target]) {
    submit(lane, |operation| {
        operation.append(place, ms, targets.iter().copied(), |out| {
            batch::encode_body(out, Some(b"k"), Some(b"value"), std::iter::empty());
        });
    });
}

/// One that begins after everything before.
fn checkpoint(bridge: &Bridge, lane: &Lane) {
    let done = || bridge.metrics().checkpoint_us.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum::<u64>();
    for _ in 0..2 {
        let before = done();
        submit(lane, |operation| operation.change(Change::Put(Space(16), b"any", b"thing")));
        until("a checkpoint", || done() > before);
    }
}

fn close(bridge: Bridge) {
    assert!(bridge.close(Instant::now() + Duration::from_secs(20)));
}

#[test]
fn an_entry_that_moves_between_queues_leads_somewhere_over_checkpoints() {
    let home = tempfile::tempdir().unwrap();
    let bridge = Bridge::open(options(home.path())).unwrap();
    let lane = bridge.lane();
    for queue in [1, 2, 3] {
        submit(&lane, |operation| operation.change(Change::Open(queue)));
    }
    append(&lane, bridge.hidden(), NOW_MS, &[Target { queue: 1, tag: 5, expires_s: 0 }]);
    for queue in [1, 2] {
        let held = lane.take_deliveries().pop().unwrap();
        checkpoint(&bridge, &lane);
        let target = Target { queue: queue + 1, tag: 5, expires_s: 0 };
        submit(&lane, |operation| {
            operation.move_entry((queue, held.sequence), held.entry.pointer, target);
            operation.change(Change::Close(queue));
        });
        checkpoint(&bridge, &lane);
    }
    let entry = lane.take_deliveries().pop().unwrap().entry;
    assert!(matches!(bridge.reader().get(&entry.pointer).unwrap(), Fetched::Record(_) | Fetched::Cold));
    close(bridge);
}

#[test]
fn an_entry_that_cannot_move_stays_where_it_was() {
    for target_is_there in [true, false] {
        let home = tempfile::tempdir().unwrap();
        let bridge = Bridge::open(options(home.path())).unwrap();
        let (lane, other) = (bridge.lane(), bridge.lane());
        submit(&lane, |operation| operation.change(Change::Open(1)));
        submit(&other, |operation| operation.change(Change::Open(2)));
        if !target_is_there {
            submit(&other, |operation| operation.change(Change::Close(2)));
        }
        append(&lane, bridge.hidden(), NOW_MS, &[Target { queue: 1, tag: 5, expires_s: 7 }]);
        let held = lane.take_deliveries().pop().unwrap();
        let target = Target { queue: 2, tag: 4, expires_s: 7 };
        submit(&lane, |operation| operation.move_entry((1, held.sequence), held.entry.pointer, target));
        close(bridge);
        let moved = other.take_deliveries();
        assert!(lane.take_deliveries().is_empty() && moved.len() == usize::from(target_is_there));
        assert!(moved.iter().all(|moved| moved.entry.tag == 4));
        let queues = Bridge::open(options(home.path())).unwrap().take_recovered_queues();
        let held = |queue| queues.get(&queue).map_or(0, |held| held.entries.len());
        assert_eq!((held(1), held(2)), if target_is_there { (0, 1) } else { (1, 0) });
    }
}

/// A consumer that read everything of epoch 1 and comes back in epoch 2, after what it read is gone.
#[test]
fn who_read_all_of_an_epoch_is_told_where_the_next_begins() {
    let home = tempfile::tempdir().unwrap();
    let bridge = Bridge::open(options(home.path())).unwrap();
    let lane = bridge.lane();
    let (topic, _) = bridge.create_topic(&lane, "t", 1, BTreeMap::new()).unwrap();
    for _ in 0..10 {
        append(&lane, (topic.id, 0), NOW_MS, &[]);
    }
    close(bridge);
    let bridge = Bridge::open(options(home.path())).unwrap();
    let lane = bridge.lane();
    let partition = bridge.topic("t").unwrap().partitions[0].clone();
    append(&lane, (topic.id, 0), NOW_MS, &[]);
    until("applied", || partition.high_watermark() == 11);
    assert_eq!(partition.end_of_epoch(1), Some((1, 10)));
    let (_, ticket) = bridge.delete_records(&lane, &partition, 10);
    until("durable", || lane.durable() >= ticket && partition.log_start() == 10);
    assert_eq!(partition.end_of_epoch(1), Some((1, 10)));
    close(bridge);
}
