//! What goes and what stays, as users of the crate see it. Each was found by review.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bridge::disk::Folder;
use bridge::log::{Ages, Extent, Now};
use bridge::state::Change;
use bridge::{Bridge, Durability, Fetched, Lane, Options, Partition, Settings, Space, Target, batch};

const NOW_MS: i64 = 1_790_000_000_000;

fn options(folder: &Path) -> Options {
    Options {
        data_dir: folder.to_owned(),
        durability: Durability::Fsync,
        commit_interval: Duration::ZERO,
        topic_defaults: Settings { segment_bytes: 64 << 10, retention_ms: None, ..Settings::default() },
        checkpoint_bytes: 256 << 10,
        checkpoint_interval: Duration::from_millis(50),
        reserve_bytes: 0,
    }
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        std::thread::yield_now();
    }
}

fn submit(lane: &Lane, fill: impl FnOnce(&mut bridge::Operation<'_>)) {
    let mut operation = lane.begin();
    fill(&mut operation);
    let ticket = operation.submit();
    lane.flush();
    until("durable", || lane.durable() >= ticket);
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

fn records(base: i64, stamps: &[i64]) -> Vec<u8> {
    let mut builder = batch::Builder::default();
    builder.restart(base);
    for ms in stamps {
        let mut body = Vec::new();
        batch::encode_body(&mut body, None, Some(b"value"), std::iter::empty());
        builder.push(*ms, &body);
    }
    builder.finish(1).to_vec()
}

fn partition(home: &Path) -> Partition {
    Partition::open(Folder::open(home).unwrap(), (20, 0), Extent::default(), 1 << 20).unwrap()
}

fn offset_at(partition: &Partition, ms: i64) -> Option<(i64, i64)> {
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    runtime.block_on(partition.offset_for_timestamp(ms)).unwrap()
}

#[test]
fn a_pointer_that_moves_between_queues_leads_somewhere_over_a_checkpoint() {
    let home = tempfile::tempdir().unwrap();
    let bridge = Bridge::open(options(home.path())).unwrap();
    let lane = bridge.lane();
    for change in [Change::Open(1), Change::Close(1), Change::Open(2)] {
        submit(&lane, |operation| operation.change(change));
    }
    append(&lane, bridge.hidden(), NOW_MS, &[Target { queue: 1, tag: 5, expires_s: 0 }]);
    let late = lane.take_deliveries().pop().unwrap();
    checkpoint(&bridge, &lane);
    let target = Target { queue: 2, tag: 5, expires_s: 0 };
    submit(&lane, |operation| operation.requeue(late.entry.pointer, target));
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
        submit(&lane, |operation| operation.move_entry((1, held.sequence), held.entry, target));
        let (back, moved) = (lane.take_deliveries(), other.take_deliveries());
        if target_is_there {
            assert!(back.is_empty() && moved.len() == 1 && moved[0].entry.tag == 4);
        } else {
            assert!(moved.is_empty() && back.len() == 1);
            assert_eq!((back[0].queue, back[0].sequence, back[0].entry), (1, held.sequence, held.entry));
        }
        close(bridge);
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

/// Its clock is 1970 when a record is stamped, and right at the first checkpoint.
#[test]
fn a_clock_that_is_learnt_after_the_start_takes_nothing() {
    let home = tempfile::tempdir().unwrap();
    let partition = partition(home.path());
    partition.append(&records(0, &[20_000])).unwrap();
    let mut ages = Ages::default();
    ages.look(Now { wall_ms: 10_000, up: Duration::ZERO });
    ages.look(Now { wall_ms: NOW_MS, up: Duration::from_secs(60) });
    partition.expire(&Settings::default(), &ages);
    assert_eq!(partition.log_start(), 0);
}

#[test]
fn records_without_a_time_stay() {
    let home = tempfile::tempdir().unwrap();
    let partition = partition(home.path());
    partition.append(&records(0, &[-1])).unwrap();
    let mut ages = Ages::default();
    ages.look(Now { wall_ms: NOW_MS, up: Duration::ZERO });
    partition.expire(&Settings::default(), &ages);
    assert_eq!(partition.log_start(), 0);
}

#[test]
fn a_time_is_found_behind_the_log_start() {
    let home = tempfile::tempdir().unwrap();
    let compressed = partition(home.path());
    let mut bytes = records(0, &[10, 20, 30]);
    bytes[22] |= 1; // gzip, by its header
    compressed.append(&bytes).unwrap();
    compressed.raise_log_start(2);
    assert_eq!(offset_at(&compressed, 15).unwrap().0, 2);

    let home = tempfile::tempdir().unwrap();
    let falling = partition(home.path());
    let mut bytes = records(0, &[100, 100]);
    // The second record's time, a signed delta in one byte behind length and attributes, is before the first's.
    let second = batch::HEADER_BYTES + 1 + usize::from(bytes[batch::HEADER_BYTES] >> 1);
    bytes[second + 2] = 127;
    falling.append(&bytes).unwrap();
    falling.append(&records(2, &[100])).unwrap();
    falling.raise_log_start(1);
    assert_eq!(offset_at(&falling, 90), Some((2, 100)));
}
