use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::batch::{self, Builder, Header};
use crate::compression::{self, Codec};
use crate::damage::Damage;
use crate::disk::Folder;
use crate::log::{Extent, Now, Trust};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;
const NOW_MS: i64 = 20_000 * DAY_MS;
/// When the first record was made.
const FIRST_MS: i64 = NOW_MS - 100 * DAY_MS;
const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

/// Offset to key, value and timestamp.
type Records = BTreeMap<i64, (Option<String>, Option<String>, i64)>;

struct Bench {
    home: tempfile::TempDir,
    partition: Arc<Partition>,
    settings: Settings,
    ages: Ages,
}

impl Bench {
    fn new() -> Bench {
        let home = tempfile::tempdir().expect("a folder");
        let partition = Arc::new(open(home.path(), Extent::default()));
        let config = [("cleanup.policy", "compact"), ("segment.bytes", "1024"), ("min.cleanable.dirty.ratio", "0")];
        let config = config.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let settings = Settings::default().with(&config).expect("settings");
        let mut bench = Bench { home, partition, settings, ages: Ages::default() };
        bench.days_later(0);
        bench
    }

    fn days_later(&mut self, days: i64) {
        let up = Duration::from_millis((days * DAY_MS) as u64);
        self.ages.look(Now { wall_ms: NOW_MS + days * DAY_MS, up });
    }

    /// One batch; `None` deletes its key.
    fn append(&self, codec: Codec, records: &[(&str, Option<&str>)]) {
        let base = self.partition.high_watermark();
        self.partition.append(&pack(base, codec, records)).expect("written");
    }

    /// Closes the segment that is appended to.
    fn close(&self) {
        self.partition.roll().expect("rolls");
        self.append(Codec::None, &[("last of all", Some("one"))]);
    }

    fn task(&self, pinned: &[(i64, i64)]) -> Task {
        let mut task = Task::new(&self.partition, &self.settings, &self.ages);
        task.pin(pinned);
        task
    }

    fn clean(&self, pinned: &[(i64, i64)]) -> u64 {
        let stop = AtomicBool::new(false);
        let mut pace = Pace::new(&stop, |_| {});
        for group in clean(&self.task(pinned), &mut pace).expect("cleans") {
            for name in self.partition.replace(&group.old, group.new) {
                self.partition.folder().remove(&name).expect("removed");
            }
        }
        pace.written_bytes
    }

    fn records(&self) -> Records {
        records(&self.partition)
    }

    /// Keys of what is there, in order.
    fn keys(&self) -> Vec<String> {
        self.records().into_values().map(|(key, ..)| key.unwrap_or_default()).collect()
    }

    fn generations(&self) -> Vec<(i64, u32)> {
        self.partition.extent().0.segments.iter().map(|segment| (segment.base, segment.generation)).collect()
    }
}

fn open(home: &Path, extent: Extent) -> Partition {
    let folder = Folder::open(home).expect("opens");
    let damage = Damage::new(&folder, false);
    Partition::open(folder, (20, 0), extent, 1024, Trust::checkpoint(&damage)).expect("opens")
}

fn pack(base: i64, codec: Codec, records: &[(&str, Option<&str>)]) -> Vec<u8> {
    let mut builder = Builder::default();
    builder.restart(base);
    for (n, (key, value)) in records.iter().enumerate() {
        let mut body = Vec::new();
        let key = (!key.is_empty()).then_some(key.as_bytes());
        batch::encode_body(&mut body, key, value.map(str::as_bytes), std::iter::once((&b"h"[..], &b"1"[..])));
        builder.push(FIRST_MS + 1_000 * base + n as i64, &body);
    }
    let bytes = builder.finish(3).to_vec();
    let header = Header::parse(&bytes).expect("a batch");
    let header = Header { attributes: codec as i16, producer_id: 9, producer_epoch: 1, base_sequence: 5, ..header };
    let mut out = Vec::new();
    header.write(&codec.pack(&bytes[batch::HEADER_BYTES..]).expect("packs"), &mut out);
    assert_eq!(batch::validate_produced(&out).map(|header| header.base_offset), Ok(base));
    out
}

fn records(partition: &Partition) -> Records {
    let mut found = Records::new();
    let mut offset = partition.log_start();
    while offset < partition.high_watermark() {
        let bytes = partition.read_blocking(offset, 1).expect("reads");
        let header = Header::parse(&bytes).expect("a batch");
        assert!(batch::crc_ok(&header, &bytes) && header.last_offset() >= offset);
        assert_eq!((header.leader_epoch, header.producer_id, header.base_sequence), (3, 9, 5));
        let unpacked = compression::records_of(&header, &bytes).expect("unpacks");
        let mut walk = batch::unpacked_records(&unpacked, &header);
        let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let mut newest_ms = i64::MIN;
        while let Some(record) = walk.next().expect("parses") {
            newest_ms = newest_ms.max(record.timestamp_ms);
            assert_eq!(record.headers.collect::<Vec<_>>(), [(&b"h"[..], Some(&b"1"[..]))]);
            let found_before = found.insert(record.offset, (text(record.key), text(record.value), record.timestamp_ms));
            assert_eq!(found_before, None);
        }
        assert_eq!(header.max_timestamp, newest_ms);
        offset = header.last_offset() + 1;
    }
    found
}

#[test]
fn of_each_key_the_newest_record_stays_as_it_was_whatever_the_codec() {
    for codec in CODECS {
        let bench = Bench::new();
        for n in 0..6 {
            let (value, filling) = (format!("value {n}"), "x".repeat(200));
            let own = format!("own {n}");
            bench.append(
                codec,
                &[("a", Some(&value)), (&own, Some(&filling)), ("b", Some(&value)), ("", Some("keyless"))],
            );
        }
        bench.close();
        let before = bench.records();
        bench.clean(&[]);
        let after = bench.records();
        let mut expected = before.clone();
        let goes = |key: &Option<String>, offset| matches!(key.as_deref(), Some("a" | "b")) && offset < 20;
        expected.retain(|offset, (key, ..)| !goes(key, *offset));
        assert_eq!(after, expected, "{codec:?}");
        // What was compacted away is followed by the next there is, also after a start.
        let (extent, _) = bench.partition.extent();
        let opened = open(bench.home.path(), extent);
        for partition in [&opened, &bench.partition] {
            let header = Header::parse(&partition.read_blocking(0, 1).expect("reads")).expect("a batch");
            assert_eq!((header.base_offset, header.last_offset(), header.record_count), (0, 3, 2), "{codec:?}");
            assert_eq!(header.codec(), codec as i16);
        }
        assert_eq!(records(&opened), expected, "{codec:?}");
    }
}

#[tokio::test]
async fn a_time_leads_to_the_first_record_left_that_reaches_it() {
    for codec in CODECS {
        let bench = Bench::new();
        bench.append(codec, &[("a", Some("1")), ("b", Some("1"))]);
        bench.append(codec, &[("a", None), ("c", Some("1")), ("c", Some("2"))]);
        bench.close();
        bench.clean(&[]);
        assert_eq!(bench.keys(), ["b", "a", "c", "last of all"]);
        for (time, found) in [(-FIRST_MS, (1, 1)), (2, (2, 2_000)), (2_001, (4, 2_002)), (2_003, (5, 5_000))] {
            let offset = bench.partition.offset_for_timestamp(FIRST_MS + time).await.expect("reads");
            assert_eq!(offset.map(|(at, ms)| (at, ms - FIRST_MS)), Some(found), "{codec:?} at {time}");
        }
    }
}

#[test]
fn more_keys_than_there_is_room_for_are_cleaned_in_turns() {
    let bench = Bench::new();
    // All in one segment but for the last.
    for round in 0..2 {
        for key in 0..10 {
            bench.append(Codec::None, &[(&format!("{key}"), Some(&round.to_string()))]);
        }
    }
    bench.partition.limit_segments(100_000);
    bench.close();
    let mut turns = 0;
    while bench.task(&[]).is_due() {
        bench.clean(&[]);
        turns += 1;
        assert!(turns < 10, "it does not get on: {:?}", bench.generations());
    }
    assert!(turns > 1);
    let left: Vec<_> = bench.records().into_values().map(|(key, value, _)| (key, value)).collect();
    let newest = (0..10).map(|key| (Some(key.to_string()), Some("1".to_owned())));
    assert_eq!(left[..10], newest.collect::<Vec<_>>(), "{left:?}");
    assert_eq!(records(&open(bench.home.path(), bench.partition.extent().0)), bench.records());
}

/// Found by the property below: tombstones that were seen before left no room for the first new batch, and what was not known
/// of it was to be written into the very file that it was read from.
#[test]
fn tombstones_leave_room_for_what_is_new() {
    let bench = Bench::new();
    for keys in [["0", "1", "2", "3"], ["4", "5", "6", "7"]] {
        bench.append(Codec::None, &keys.map(|key| (key, None)));
        bench.partition.roll().expect("rolls");
    }
    bench.close();
    while bench.task(&[]).is_due() {
        bench.clean(&[]);
    }
    bench.append(Codec::None, &["8", "9", "10", "11"].map(|key| (key, Some("1"))));
    bench.close();
    let before = bench.records();
    for _ in 0..3 {
        bench.clean(&[]);
    }
    assert!(!bench.task(&[]).is_due());
    assert_eq!(bench.records(), before);
    assert_eq!(records(&open(bench.home.path(), bench.partition.extent().0)), bench.records());
}

#[test]
fn a_tombstone_stays_for_its_time_after_it_was_first_seen() {
    let mut bench = Bench::new();
    bench.append(Codec::None, &[("a", Some("1")), ("b", Some("1"))]);
    bench.append(Codec::Lz4, &[("a", None), ("c", Some("1"))]);
    bench.close();
    bench.days_later(30);
    let before = bench.records();
    bench.clean(&[]);
    assert_eq!(bench.keys(), ["b", "a", "c", "last of all"], "however old it is");
    assert!(bench.records().iter().all(|(offset, record)| before[offset] == *record), "timestamps as they were");
    bench.days_later(31);
    bench.clean(&[]);
    assert_eq!(bench.keys(), ["b", "a", "c", "last of all"], "a day is not over a day");
    bench.days_later(32);
    bench.clean(&[]);
    assert_eq!(bench.keys(), ["b", "c", "last of all"]);
}

#[test]
fn a_tombstone_does_not_go_before_the_record_that_a_queue_holds() {
    let mut bench = Bench::new();
    bench.append(Codec::None, &[("a", Some("1"))]);
    bench.append(Codec::None, &[("a", None)]);
    bench.close();
    for days in [0, 5, 10] {
        bench.days_later(days);
        bench.clean(&[(0, 0)]);
        assert_eq!(bench.keys(), ["a", "a", "last of all"], "the deletion is still to be seen");
    }
    bench.clean(&[]);
    assert_eq!(bench.keys(), ["last of all"]);
}

#[test]
fn what_cannot_be_unpacked_stays_and_tombstones_behind_it_too() {
    let mut bench = Bench::new();
    bench.append(Codec::None, &[("a", Some("1"))]);
    let mut garbage = Vec::new();
    let header = Header::parse(&pack(1, Codec::None, &[("a", Some("2"))])).expect("a batch");
    Header { attributes: Codec::Gzip as i16, ..header }.write(b"no gzip", &mut garbage);
    bench.partition.append(&garbage).expect("written");
    bench.append(Codec::None, &[("a", None)]);
    bench.close();
    for days in [0, 5] {
        bench.days_later(days);
        bench.clean(&[]);
        let read = |offset| bench.partition.read_blocking(offset, 1).expect("reads");
        assert_eq!(read(0), garbage, "after {days} days");
        assert_eq!(Header::parse(&read(2)).expect("a batch").base_offset, 2, "after {days} days");
    }
}

#[test]
fn what_is_clean_is_not_written_again() {
    let bench = Bench::new();
    for n in 0..8 {
        bench.append(Codec::None, &[(&format!("{n}"), Some(&"x".repeat(300)))]);
    }
    bench.close();
    assert!(bench.clean(&[]) > 0);
    let before = bench.generations();
    assert!(!bench.task(&[]).is_due());
    assert_eq!((bench.clean(&[]), bench.generations()), (0, before));
}

#[test]
fn what_is_too_new_stays() {
    let mut bench = Bench::new();
    bench.settings.min_compaction_lag_ms = (NOW_MS - FIRST_MS - 4_000) as u64;
    for n in 0..8 {
        bench.append(Codec::None, &[("a", Some(&format!("{n}{}", "x".repeat(600))))]);
    }
    bench.close();
    bench.clean(&[]);
    // A second apart, a segment each: what is newer than four seconds behind the first is not even looked at.
    let offsets: Vec<i64> = bench.records().into_keys().collect();
    assert_eq!(offsets, [3, 4, 5, 6, 7, 8]);
}

#[test]
fn when_retention_took_a_segment_meanwhile_its_neighbours_stay_as_they_were() {
    let bench = Bench::new();
    for n in 0..8 {
        bench.append(Codec::None, &[("a", Some(&format!("{n}")))]);
        bench.partition.roll().expect("rolls");
    }
    bench.close();
    let stop = AtomicBool::new(false);
    let groups = clean(&bench.task(&[]), &mut Pace::new(&stop, |_| {})).expect("cleans");
    bench.partition.raise_log_start(1);
    bench.partition.forget_unseen(&[]);
    let before = (bench.records(), bench.generations());
    for group in groups {
        let made: Vec<String> = group.new.iter().flat_map(Segment::file_names).collect();
        let gone = bench.partition.replace(&group.old, group.new);
        assert!(group.old[0].0 > 0 || gone == made);
    }
    assert_eq!((bench.records(), bench.generations()), before);
}

#[test]
fn damage_and_a_stop_leave_everything_as_it_was() {
    let bench = Bench::new();
    for n in 0..8 {
        bench.append(Codec::None, &[("a", Some(&format!("{n}{}", "x".repeat(600))))]);
    }
    bench.close();
    let names = || Folder::open(bench.home.path()).expect("opens").names().expect("names");
    let before = names();
    let path = bench.home.path().join("00000000000000000005.log");
    let right = std::fs::read(&path).expect("there");
    let mut wrong = right.clone();
    wrong[200] ^= 1;
    std::fs::write(&path, &wrong).expect("written");
    let go_on = AtomicBool::new(false);
    let outcome = clean(&bench.task(&[]), &mut Pace::new(&go_on, |_| {}));
    assert!(matches!(outcome, Err(CleanError::Damaged(_))), "{outcome:?}");
    std::fs::write(&path, &right).expect("written");
    let stop = AtomicBool::new(true);
    let outcome = clean(&bench.task(&[]), &mut Pace::new(&stop, |_| {}));
    assert!(matches!(outcome, Err(CleanError::Stopping)), "{outcome:?}");
    assert_eq!(names(), before);
}

/// A key, or its deletion when `false`.
type Step = (u8, bool);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Whatever is written, pinned and compacted in between: of each key the last record is there, as it was, but for a
    /// tombstone whose time is over, and with it everything before it that no queue holds.
    #[test]
    fn the_last_record_of_each_key_is_there(
        rounds in proptest::collection::vec(
            (
                proptest::collection::vec((0usize..5, proptest::collection::vec((0u8..12, any::<bool>()), 1..6)), 1..12),
                proptest::collection::vec((1i64..30, 0i64..4), 0..3),
                0i64..3,
            ),
            1..5,
        ),
    ) {
        let mut bench = Bench::new();
        let (mut written, mut day) = (Records::new(), 0);
        for (batches, pins, days) in rounds {
            for (codec, steps) in batches {
                let steps: Vec<Step> = steps;
                let keys: Vec<String> = steps.iter().map(|(key, _)| format!("key {key}")).collect();
                let filling = "y".repeat(90);
                let value = |set: bool| set.then_some(filling.as_str());
                let records: Vec<_> = keys.iter().zip(&steps).map(|(key, (_, set))| (key.as_str(), value(*set))).collect();
                bench.append(CODECS[codec], &records);
            }
            bench.close();
            // Queues point to what is there.
            let before = bench.records();
            written.extend(before.clone());
            let mut end = 0;
            let mut apart = |(gap, more)| {
                let first = end + gap;
                end = first + more;
                (first, end)
            };
            let pinned: Vec<_> = pins.into_iter().map(&mut apart).collect();
            day += days;
            bench.days_later(day);
            bench.clean(&pinned);
            let after = bench.records();
            prop_assert!(after.iter().all(|(offset, record)| before.get(offset) == Some(record)));
            let is_pinned = |offset: &i64| pinned.iter().any(|(first, last)| (*first..=*last).contains(offset));
            prop_assert!(before.keys().filter(|offset| is_pinned(offset)).all(|offset| after.contains_key(offset)));
            let mut last: BTreeMap<&str, (i64, bool)> = BTreeMap::new();
            for (offset, (key, value, _)) in &written {
                last.insert(key.as_deref().unwrap_or_default(), (*offset, value.is_none()));
            }
            for (key, (offset, is_tombstone)) in last {
                let left: Vec<_> = after.iter().filter(|(_, (of, ..))| of.as_deref() == Some(key)).collect();
                if !after.contains_key(&offset) {
                    prop_assert!(is_tombstone && left.is_empty(), "{key}: its last at {offset} is gone, left {left:?}");
                }
            }
            let opened = open(bench.home.path(), bench.partition.extent().0);
            prop_assert_eq!(records(&opened), after);
        }
    }
}
