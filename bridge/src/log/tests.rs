//! A partition by itself, on a real folder.

use std::path::Path;
use std::time::Duration;

use super::{Ages, Extent, Now, Partition, Settings, Trust};
use crate::batch::{self, Header};
use crate::damage::Damage;
use crate::disk::Folder;

const NOW_MS: i64 = 1_790_000_000_000;

fn batch(base: i64) -> Vec<u8> {
    let mut body = Vec::new();
    batch::encode_body(&mut body, None, Some(b"value"), std::iter::empty());
    let mut builder = batch::Builder::default();
    builder.restart(base);
    builder.push(1, &body);
    builder.finish(1).to_vec()
}

#[test]
fn offsets_too_far_apart_for_an_index_get_segments_of_their_own() {
    let home = tempfile::tempdir().expect("a folder");
    let partition = partition(home.path());
    let mut bases = Vec::new();
    for _ in 0..9 {
        let base = partition.high_watermark();
        let mut bytes = batch(base);
        bytes.resize(5000, 0); // far enough apart for an entry each
        bytes[8..12].copy_from_slice(&(5000i32 - 12).to_be_bytes());
        bytes[23..27].copy_from_slice(&(i32::MAX - 1).to_be_bytes());
        let crc = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        partition.append(&bytes).expect("written");
        bases.push(base);
    }
    for base in bases {
        let read = partition.read_blocking(base, 1).expect("reads");
        assert_eq!(Header::parse(&read).expect("a batch").base_offset, base);
    }
}

/// Found by seeds 466 and 2723 of the simulation: index files are not synced, and a power cut may leave anything.
#[test]
fn an_index_that_leads_astray_is_found_out_and_what_it_has_too_much_is_gone() {
    let home = tempfile::tempdir().expect("a folder");
    let open = |extent| open(home.path(), extent);
    let partition = open(Extent::default());
    for base in 0..100 {
        partition.append(&batch(base)).expect("written");
    }
    partition.settle().expect("written");
    let (extent, _) = partition.extent();
    let path = home.path().join("00000000000000000000.index");
    let times = path.with_extension("timeindex");
    let (right, times_right) = (std::fs::read(&path).expect("an index"), std::fs::read(&times).expect("one"));
    let entry = |offset: u32, position: u32| [offset.to_be_bytes(), position.to_be_bytes()].concat();
    let bytes = extent.segments[0].bytes as u32;
    // One that is no batch's, one beyond the log.
    for (last, kept) in [(entry(98, bytes - 7), 0), (entry(200, bytes + 1), right.len())] {
        std::fs::write(&path, [&right[..], &last].concat()).expect("written");
        std::fs::write(&times, &times_right).expect("written");
        let partition = open(extent.clone());
        for base in 0..100 {
            let read = partition.read_blocking(base, 1).expect("reads");
            assert_eq!(Header::parse(&read).expect("a batch").base_offset, base);
        }
        assert_eq!(std::fs::read(&path).expect("an index").len(), kept);
    }
}

#[test]
fn rolling_twice_leaves_one_segment_and_the_partition_opens_again() {
    let home = tempfile::tempdir().expect("a folder");
    let open = |extent| open(home.path(), extent);
    let partition = open(Extent::default());
    partition.append(&batch(0)).expect("written");
    // A compaction that the disk refused, and its retry.
    partition.roll().expect("rolls");
    partition.roll().expect("rolls");
    partition.append(&batch(1)).expect("written");
    let (extent, _) = partition.extent();
    assert_eq!(extent.segments.len(), 2);
    assert_eq!(open(extent).read_blocking(1, 1).expect("reads"), batch(1));
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
    open(home, Extent::default())
}

fn open(home: &Path, extent: Extent) -> Partition {
    let folder = Folder::open(home).expect("opens");
    let damage = Damage::new(&folder, false);
    Partition::open(folder, (20, 0), extent, 1 << 20, Trust::checkpoint(&damage)).expect("opens")
}

fn offset_at(partition: &Partition, ms: i64) -> Option<(i64, i64)> {
    let runtime = tokio::runtime::Builder::new_multi_thread().build().expect("works");
    runtime.block_on(partition.offset_for_timestamp(ms)).expect("works")
}

/// Its clock is 1970 when a record is stamped, and right at the first checkpoint.
#[test]
fn a_clock_that_is_learnt_after_the_start_takes_nothing() {
    let home = tempfile::tempdir().expect("works");
    let partition = partition(home.path());
    partition.append(&records(0, &[20_000])).expect("works");
    let mut ages = Ages::default();
    ages.look(Now { wall_ms: 10_000, up: Duration::ZERO });
    ages.look(Now { wall_ms: NOW_MS, up: Duration::from_secs(60) });
    partition.expire(&Settings::default(), &ages);
    assert_eq!(partition.log_start(), 0);
}

#[test]
fn records_without_a_time_stay() {
    let home = tempfile::tempdir().expect("works");
    let partition = partition(home.path());
    partition.append(&records(0, &[-1])).expect("works");
    let mut ages = Ages::default();
    ages.look(Now { wall_ms: NOW_MS, up: Duration::ZERO });
    partition.expire(&Settings::default(), &ages);
    assert_eq!(partition.log_start(), 0);
}

#[test]
fn a_time_is_found_behind_the_log_start() {
    let home = tempfile::tempdir().expect("works");
    let compressed = partition(home.path());
    let mut bytes = records(0, &[10, 20, 30]);
    bytes[22] |= 1; // gzip, by its header
    compressed.append(&bytes).expect("works");
    compressed.raise_log_start(2);
    assert_eq!(offset_at(&compressed, 15).expect("works").0, 2);

    let home = tempfile::tempdir().expect("works");
    let falling = partition(home.path());
    let mut bytes = records(0, &[100, 100]);
    // The second record's time, a signed delta in one byte behind length and attributes, is before the first's.
    let second = batch::HEADER_BYTES + 1 + usize::from(bytes[batch::HEADER_BYTES] >> 1);
    bytes[second + 2] = 127;
    falling.append(&bytes).expect("works");
    falling.append(&records(2, &[100])).expect("works");
    falling.raise_log_start(1);
    assert_eq!(offset_at(&falling, 90), Some((2, 100)));
}

/// Found by review: a start looks at an index from its last entry on, and a wrong one before that was an error for ever.
#[test]
fn an_index_that_is_wrong_in_the_middle_is_made_anew_by_the_first_read_that_it_leads_astray() {
    let home = tempfile::tempdir().expect("a folder");
    let open = |extent| open(home.path(), extent);
    let partition = open(Extent::default());
    for base in 0..100 {
        partition.append(&batch(base)).expect("written");
    }
    partition.settle().expect("written");
    let path = home.path().join("00000000000000000000.index");
    let mut index = std::fs::read(&path).expect("an index");
    let middle = index.len() / 8 / 2 * 8;
    index[middle + 7] ^= 1;
    std::fs::write(&path, index).expect("written");
    let partition = open(partition.extent().0);
    for base in 0..100 {
        let read = partition.read_blocking(base, 1).expect("reads");
        assert_eq!(Header::parse(&read).expect("a batch").base_offset, base);
    }
    assert!(partition.gaps().is_empty(), "the batches are as they were");
}

/// Found by review: a file that is shorter than its segment was asked for more for ever.
#[test]
fn a_file_that_was_cut_ends_a_read() {
    let home = tempfile::tempdir().expect("a folder");
    let partition = partition(home.path());
    for base in 0..10 {
        partition.append(&batch(base)).expect("written");
    }
    let path = home.path().join("00000000000000000000.log");
    let whole = std::fs::metadata(&path).expect("a file").len();
    std::fs::OpenOptions::new().write(true).open(&path).expect("opens").set_len(whole - 30).expect("cut");
    assert!(partition.read_blocking(8, 1).is_ok_and(|bytes| !bytes.is_empty()));
    assert!(partition.read_blocking(9, 1).is_ok_and(|bytes| bytes.is_empty()), "the last one is a hole");
}
