//! Kafka record batches as producers send them. Length, magic and CRC are put right, or nothing else would be tried.

#![no_main]

use bridge::batch::{Header, place, records, validate_produced};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let _ = validate_produced(input);
    walk(input);
    let mut batch = input.to_vec();
    if batch.len() < 61 {
        return;
    }
    let length = batch.len() as i32 - 12;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[16] = 2;
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    let walked = walk(&batch);
    let Ok(header) = validate_produced(&batch) else { return };
    if !header.compressed() {
        assert_eq!(walked, header.record_count as usize);
    }
    place(&mut batch, 7, 3);
    let placed = validate_produced(&batch).expect("only its place has changed");
    assert_eq!((placed.base_offset, placed.leader_epoch), (7, 3));
    assert_eq!(placed.last_offset(), 6 + i64::from(header.record_count));
});

/// How many records there are up to the first bad one.
fn walk(batch: &[u8]) -> usize {
    let Ok(header) = Header::parse(batch) else { return 0 };
    let mut walk = records(batch, &header);
    let mut count = 0;
    while let Ok(Some(record)) = walk.next() {
        assert!(walk.position() <= batch.len());
        let headers = record.headers;
        headers.for_each(|(name, value)| assert!(name.len() + value.map_or(0, <[u8]>::len) <= batch.len()));
        count += 1;
    }
    count
}
