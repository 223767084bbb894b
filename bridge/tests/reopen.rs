//! What was durable is there when the folder is opened again: after a close, and from a copy taken while the
//! first owner still had it open, which is what a crash leaves.
#![allow(missing_docs, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use bridge::state::Change;
use bridge::{Bridge, Delivery, Durability, Fetched, Lane, Options, Partition, Space, Target, batch};

mod shared;

use shared::{copy, options, until, wait};

const STATE: Space = Space(16);

fn append(lane: &Lane, place: (u32, u32), value: &str, targets: &[Target]) -> u64 {
    let mut operation = lane.begin();
    operation.append(place, 1_000, targets.iter().copied(), |out| {
        batch::encode_body(out, Some(b"k"), Some(value.as_bytes()), std::iter::empty());
    });
    let ticket = operation.submit();
    lane.flush();
    ticket
}

fn timestamps(partition: &Partition) -> Vec<i64> {
    let bytes = partition.read_blocking(0, 10_000).unwrap();
    let (mut rest, mut found) = (&bytes[..], Vec::new());
    while !rest.is_empty() {
        let header = batch::Header::parse(rest).unwrap();
        let mut records = batch::records(&rest[..header.total_bytes()], &header);
        while let Some(record) = records.next().unwrap() {
            found.push(record.timestamp_ms);
        }
        rest = &rest[header.total_bytes()..];
    }
    found
}

/// R5: a gateway without a clock of its own starts in 1970 again.
#[test]
fn a_clock_that_went_back_over_a_restart_makes_no_record_older() {
    let home = tempfile::tempdir().unwrap();
    let mut stamps = Vec::new();
    for clock_ms in [1_000_000, 5, 1_000_007, 2_000_000] {
        let bridge = Bridge::open(options(home.path())).unwrap();
        let lane = bridge.lane();
        let topic = bridge
            .topic("clocked")
            .unwrap_or_else(|| bridge.create_topic(&lane, "clocked", 1, BTreeMap::new()).unwrap().0);
        let mut operation = lane.begin();
        operation.append((topic.id, 0), clock_ms, std::iter::empty(), |out| {
            batch::encode_body(out, None, Some(b"value"), std::iter::empty());
        });
        let ticket = operation.submit();
        lane.flush();
        wait(&lane, ticket);
        assert!(bridge.close(Instant::now() + Duration::from_secs(20)));
        stamps = timestamps(&topic.partitions[0]);
    }
    assert_eq!(stamps, [1_000_000, 1_000_000, 1_000_007, 2_000_000]);
}

fn values(partition: &Partition) -> Vec<String> {
    let mut values = Vec::new();
    let mut offset = partition.log_start();
    while offset < partition.high_watermark() {
        let bytes = partition.read_blocking(offset, 10_000).unwrap();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let header = batch::Header::parse(rest).unwrap();
            let whole = &rest[..header.total_bytes()];
            assert!(batch::crc_ok(&header, whole));
            let mut records = batch::records(whole, &header);
            while let Some(record) = records.next().unwrap() {
                assert_eq!(record.offset, values.len() as i64);
                values.push(String::from_utf8(record.value.unwrap().to_vec()).unwrap());
            }
            rest = &rest[whole.len()..];
            offset = header.last_offset() + 1;
        }
    }
    values
}

#[test]
fn records_state_and_queues_are_there_after_a_crash_and_after_many() {
    let home = tempfile::tempdir().unwrap();
    let mut expected = Vec::new();
    let mut removed = 0;
    for round in 0..6 {
        let folder = home.path().join(round.to_string());
        let bridge = Bridge::open(options(&folder)).unwrap();
        assert_eq!(bridge.epoch(), round + 1);
        let lane = bridge.lane();
        let state: BTreeMap<_, _> = bridge.take_recovered(STATE).into_iter().collect();
        let queues = bridge.take_recovered_queues();
        if round == 0 {
            let (topic, _) = bridge.create_topic(&lane, "mqtt", 2, BTreeMap::new()).unwrap();
            assert_eq!(topic.id, 16);
            let mut operation = lane.begin();
            operation.change(Change::Open(77));
            operation.submit();
        } else {
            assert_eq!(&*state[&b"round"[..]], (round - 1).to_string().as_bytes());
            assert!(!state.contains_key(&b"gone"[..]));
            let queue = &queues[&77];
            assert_eq!(queue.next, expected.len() as u64);
            let sequences: Vec<u64> = queue.entries.keys().copied().collect();
            assert_eq!(sequences, (removed..expected.len() as u64).collect::<Vec<_>>());
            let mut reader = bridge.reader();
            for (sequence, entry) in &queue.entries {
                let Fetched::Record(record) = reader.get(&entry.pointer).unwrap() else { panic!("record {sequence}") };
                assert_eq!(record.value.unwrap(), expected[*sequence as usize]);
                assert_eq!(entry.tag, 5);
            }
            let mut operation = lane.begin();
            operation.attach(77);
            operation.submit();
        }
        let topic = bridge.topic("mqtt").unwrap();
        until("apply", || topic.partitions[1].high_watermark() == expected.len() as i64);
        let known: Vec<_> = values(&topic.partitions[1]).into_iter().map(String::into_bytes).collect();
        assert_eq!(known, expected);

        let mut last = 0;
        for i in 0..400 {
            let value = format!("{round}/{i}/{}", "x".repeat(i * 5));
            let target = Target { queue: 77, tag: 5, expires_s: 0 };
            last = append(&lane, (topic.id, 1), &value, &[target, Target { queue: 1, ..target }]);
            expected.push(value.into_bytes());
        }
        let mut operation = lane.begin();
        for sequence in removed..expected.len() as u64 - 50 {
            operation.change(Change::Remove(77, sequence));
        }
        operation.change(Change::Put(STATE, b"gone", b"1"));
        operation.change(Change::Put(STATE, b"round", round.to_string().as_bytes()));
        operation.change(Change::Delete(STATE, b"gone"));
        last = last.max(operation.submit());
        lane.flush();
        removed = expected.len() as u64 - 50;
        wait(&lane, last);
        let deliveries = lane.take_deliveries();
        assert_eq!(deliveries.len(), 400, "queue 1 was never opened");
        assert_eq!(deliveries[7].record().unwrap().value.unwrap(), expected[expected.len() - 400 + 7]);
        if round % 2 == 0 {
            until("checkpoint", || bridge.uncheckpointed_bytes() < 256 << 10);
            copy(&folder, &home.path().join((round + 1).to_string()));
        } else {
            assert!(bridge.close(Instant::now() + Duration::from_secs(20)));
            assert_eq!(bridge.uncheckpointed_bytes(), 0);
            drop(bridge);
            copy(&folder, &home.path().join((round + 1).to_string()));
        }
    }
}

#[test]
fn an_entry_moves_to_another_queue_in_the_frame_that_closes_its_own() {
    let home = tempfile::tempdir().unwrap();
    let (folder, after) = (home.path().join("a"), home.path().join("b"));
    let bridge = Bridge::open(options(&folder)).unwrap();
    let lane = bridge.lane();
    let (topic, _) = bridge.create_topic(&lane, "mqtt", 1, BTreeMap::new()).unwrap();
    for queue in [1, 2] {
        let mut operation = lane.begin();
        operation.change(Change::Open(queue));
        operation.submit();
    }
    let target = Target { queue: 1, tag: 5, expires_s: 0 };
    append(&lane, (topic.id, 0), "before", &[Target { queue: 2, ..target }]);
    let ticket = append(&lane, (topic.id, 0), "moved", &[target]);
    lane.flush();
    wait(&lane, ticket);
    let Delivery { sequence, entry, .. } = lane.take_deliveries().pop().unwrap();
    let mut operation = lane.begin();
    operation.move_entry((1, sequence), entry.pointer, Target { queue: 2, tag: 6, expires_s: 9 });
    operation.change(Change::Close(1));
    let ticket = operation.submit();
    lane.flush();
    wait(&lane, ticket);
    let moved = lane.take_deliveries().pop().unwrap();
    assert_eq!((moved.queue, moved.sequence, moved.entry.tag, moved.entry.expires_s), (2, 1, 6, 9));
    assert!(moved.entry.pointer == entry.pointer && moved.record().is_none(), "to be read from the log");
    copy(&folder, &after);
    let queues = Bridge::open(options(&after)).unwrap().take_recovered_queues();
    assert!(!queues.contains_key(&1));
    assert_eq!(queues[&2].entries.values().map(|entry| entry.tag).collect::<Vec<_>>(), [5, 6]);
    assert_eq!(queues[&2].entries[&1].pointer, entry.pointer);
}

#[test]
fn a_folder_in_use_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let _first = Bridge::open(options(home.path())).unwrap();
    let error = Bridge::open(options(home.path())).err().expect("locked").to_string();
    assert!(error.contains("in use by another process"), "{error}");
}

#[test]
fn a_torn_last_frame_is_cut_and_the_next_start_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let first = home.path().join("a");
    let bridge = Bridge::open(options(&first)).unwrap();
    let lane = bridge.lane();
    let (topic, _) = bridge.create_topic(&lane, "t", 1, BTreeMap::new()).unwrap();
    wait(&lane, append(&lane, (topic.id, 0), "kept", &[]));
    wait(&lane, append(&lane, (topic.id, 0), "torn", &[]));
    let second = home.path().join("b");
    copy(&first, &second);
    // Tear the last frame: flip one byte of its value, as if the disk had only written part of it.
    let journal = second.join("journal");
    for entry in fs::read_dir(&journal).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(4).position(|w| w == b"torn") {
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
    }
    for round in 0..3 {
        let bridge = Bridge::open(options(&second)).unwrap();
        let lane = bridge.lane();
        let topic = bridge.topic("t").unwrap();
        let known = values(&topic.partitions[0]);
        assert_eq!(known.len(), 1 + round, "{known:?}");
        assert_eq!(known[0], "kept");
        wait(&lane, append(&lane, (topic.id, 0), "after", &[]));
        assert!(bridge.close(Instant::now() + Duration::from_secs(20)));
    }
}

#[test]
fn keyed_state_is_compacted_and_stays_right() {
    let home = tempfile::tempdir().unwrap();
    let open = || Bridge::open(Options { checkpoint_bytes: 1 << 20, ..options(home.path()) }).unwrap();
    let bridge = open();
    let lane = bridge.lane();
    for round in 0..40u32 {
        let mut operation = lane.begin();
        for key in 0..200u32 {
            let value = [&round.to_be_bytes()[..], &[7; 4000]].concat();
            operation.change(Change::Put(STATE, &key.to_be_bytes(), &value));
        }
        let ticket = operation.submit();
        lane.flush();
        wait(&lane, ticket);
        until("checkpoint", || bridge.uncheckpointed_bytes() < 1 << 20);
    }
    assert!(bridge.close(Instant::now() + Duration::from_secs(20)));
    drop(bridge);
    let bytes: u64 = fs::read_dir(home.path().join("topics/__sessions.4/0"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(bytes < 20 << 20, "{bytes} bytes for 0.8 MB of state written 40 times");
    let state = open().take_recovered(STATE);
    assert_eq!(state.len(), 200);
    assert!(state.iter().all(|(_, value)| value[..4] == 39u32.to_be_bytes()));
}

/// Sequence: an acknowledged frame that no later one declares durable; a start that copies it into a fresh
/// file and is cut off between that file's header and the copy; another start.
#[test]
fn a_start_that_ends_before_it_copied_the_last_frame_loses_nothing() {
    let home = tempfile::tempdir().unwrap();
    let (first, second, third) = (home.path().join("a"), home.path().join("b"), home.path().join("c"));
    let bridge = Bridge::open(options(&first)).unwrap();
    let lane = bridge.lane();
    let (topic, _) = bridge.create_topic(&lane, "t", 1, BTreeMap::new()).unwrap();
    wait(&lane, append(&lane, (topic.id, 0), "first", &[]));
    wait(&lane, append(&lane, (topic.id, 0), "acknowledged", &[]));
    copy(&first, &second);
    let _cut_off = Bridge::open(options(&second)).unwrap();
    copy(&second, &third);
    let mut headers = 0;
    for entry in fs::read_dir(third.join("journal")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        // Epoch 2 is in the header's second field; a spare may be in the making, and empty.
        if bytes.get(8) == Some(&2) {
            headers += 1;
            bytes[512..].fill(0);
            fs::write(&path, bytes).unwrap();
        }
    }
    assert_eq!(headers, 1);
    for start in 0..2 {
        let bridge = Bridge::open(options(&third)).unwrap();
        let known = values(&bridge.topic("t").unwrap().partitions[0]);
        let expected = [&["first", "acknowledged"][..], &vec!["later"; start]].concat();
        assert_eq!(known, expected);
        let lane = bridge.lane();
        wait(&lane, append(&lane, (topic.id, 0), "later", &[]));
        assert!(bridge.close(Instant::now() + Duration::from_secs(20)));
    }
}

/// With durability "os" a checkpoint waits for the sync of its last frame: the committer must not wait for
/// that checkpoint with the frame unsynced.
#[test]
fn durability_os_goes_on_when_checkpoints_fall_behind() {
    let home = tempfile::tempdir().unwrap();
    let bridge =
        Bridge::open(Options { durability: Durability::Os, checkpoint_bytes: 64 << 10, ..options(home.path()) })
            .unwrap();
    let lane = bridge.lane();
    let (topic, _) = bridge.create_topic(&lane, "t", 1, BTreeMap::new()).unwrap();
    let value = "x".repeat(100_000);
    for _ in 0..20 {
        wait(&lane, append(&lane, (topic.id, 0), &value, &[]));
    }
}

#[test]
fn of_two_changes_the_newer_stays_in_whatever_order_they_are_submitted() {
    let home = tempfile::tempdir().unwrap();
    let bridge = Bridge::open(options(home.path())).unwrap();
    let (first, second) = (bridge.lane(), bridge.lane());
    let submit = |lane: &Lane, order, change| {
        let mut operation = lane.begin();
        operation.change_in_order(order, change);
        let ticket = operation.submit();
        lane.flush();
        wait(lane, ticket);
    };
    submit(&second, 2, Change::Delete(STATE, b"command"));
    submit(&first, 1, Change::Put(STATE, b"command", b"open"));
    submit(&first, 3, Change::Put(STATE, b"other", b"1"));
    submit(&second, 4, Change::Put(STATE, b"other", b"2"));
    assert!(bridge.close(Instant::now() + Duration::from_secs(20)));
    drop(bridge);
    let state = Bridge::open(options(home.path())).unwrap().take_recovered(STATE);
    assert_eq!(state, [((*b"other").into(), (*b"2").into())]);
}

#[test]
fn an_append_that_a_newer_change_overtook_is_left_out() {
    let home = tempfile::tempdir().unwrap();
    let bridge = Bridge::open(options(home.path())).unwrap();
    let (first, second) = (bridge.lane(), bridge.lane());
    let (topic, _) = bridge.create_topic(&first, "t", 1, BTreeMap::new()).unwrap();
    let tell = |order, key: &[u8], value: &str| {
        let mut operation = first.begin();
        operation.unless_newer(order, STATE, key);
        operation.append((topic.id, 0), 1_000, std::iter::empty(), |out| {
            batch::encode_body(out, Some(b"k"), Some(value.as_bytes()), std::iter::empty());
        });
        // What stands behind it is read all the same.
        operation.change_in_order(order, Change::Put(STATE, value.as_bytes(), b""));
        let ticket = operation.submit();
        first.flush();
        wait(&first, ticket);
    };
    let change = |order, change| {
        let mut operation = second.begin();
        operation.change_in_order(order, change);
        let ticket = operation.submit();
        second.flush();
        wait(&second, ticket);
    };
    change(2, Change::Put(STATE, b"key", b"2"));
    tell(1, b"key", "overtaken");
    tell(2, b"key", "as it is");
    tell(1, b"other", "never changed");
    change(3, Change::Delete(STATE, b"key"));
    tell(2, b"key", "removed meanwhile");
    assert!(bridge.close(Instant::now() + Duration::from_secs(20)));
    drop(bridge);
    let bridge = Bridge::open(options(home.path())).unwrap();
    assert_eq!(values(&bridge.topic("t").unwrap().partitions[0]), ["as it is", "never changed"]);
    let mut keys: Vec<_> = bridge.take_recovered(STATE);
    keys.sort();
    let keys: Vec<&[u8]> = keys.iter().map(|(key, _)| &**key).collect();
    assert_eq!(keys, [&b"as it is"[..], b"never changed", b"overtaken", b"removed meanwhile"]);
}
