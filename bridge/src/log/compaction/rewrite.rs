//! What is left of one batch: some records, with their offsets, timestamps and bytes as they were. The batch keeps its
//! first and last offset, its epoch and its producer, as Kafka's do.

use std::borrow::Cow;
use std::ops::Range;

use crate::batch::{self, Header, Record};
use crate::compression::{self, Codec};

use super::newest::KEYS_MAX;

/// A batch whose records can be looked at.
pub(super) struct Opened<'a> {
    header: Header,
    records: Cow<'a, [u8]>,
}

/// What is left of a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// It as it is.
    All,
    Nothing,
    /// This batch in its place.
    Some(Vec<u8>),
}

impl Left {
    pub(super) fn records_gone(&self, before: &Header) -> u64 {
        let left = match self {
            Left::All => before.record_count,
            Left::Nothing => 0,
            Left::Some(batch) => Header::parse(batch).map_or(before.record_count, |left| left.record_count),
        };
        before.record_count.abs_diff(left).into()
    }
}

/// What is to be done with tombstones that stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stamp {
    /// They were seen before.
    Keep,
    /// They go when it is this time.
    DeleteFrom(i64),
}

impl<'a> Opened<'a> {
    /// `None` for one whose records its producer packed so that they cannot be read here, or that has more of them than there
    /// is room for: it stays as it is.
    pub(super) fn new(header: Header, bytes: &'a [u8]) -> Option<Opened<'a>> {
        if usize::try_from(header.record_count).ok()? > KEYS_MAX / 2 {
            return None;
        }
        let opened = Opened { header, records: compression::records_of(&header, bytes).ok()? };
        let mut records = opened.records();
        let mut last = None;
        while let Some(record) = records.next().ok()? {
            // Theirs are given by their places where the producer packed them.
            let least = last.map_or(header.base_offset, |last| last + 1);
            if !(least..=header.last_offset()).contains(&record.offset) {
                return None;
            }
            last = Some(record.offset);
        }
        Some(opened)
    }

    pub(super) fn records(&self) -> batch::Records<'_> {
        batch::unpacked_records(&self.records, &self.header)
    }

    /// What is left when only some records stay.
    pub(super) fn rewrite(&self, stamp: Stamp, mut stays: impl FnMut(&Record<'_>) -> bool) -> Left {
        let mut kept: Vec<Range<usize>> = Vec::new();
        let (mut count, mut newest_ms, mut has_tombstone) = (0, i64::MIN, false);
        let mut records = self.records();
        let mut at = 0;
        // It parsed to its end when it was opened.
        while let Ok(Some(record)) = records.next() {
            let range = at..records.position();
            at = range.end;
            if stays(&record) {
                kept.push(range);
                count += 1;
                newest_ms = newest_ms.max(record.timestamp_ms);
                has_tombstone |= record.value.is_none() && record.key.is_some();
            }
        }
        if count == 0 {
            return Left::Nothing;
        }
        let mut header = Header { record_count: count, ..self.header };
        if !header.is_stamped_by_broker() {
            header.max_timestamp = newest_ms;
        }
        let stamped = match stamp {
            Stamp::DeleteFrom(horizon_ms) if has_tombstone => self.stamp(&kept, horizon_ms),
            _ => None,
        };
        let records = match stamped {
            Some((horizon_ms, records)) => {
                header = header.with_delete_horizon(horizon_ms);
                records
            }
            None if count == self.header.record_count => return Left::All,
            None => kept.into_iter().flat_map(|range| &self.records[range]).copied().collect(),
        };
        self.pack(&header, &records)
    }

    /// The records that stay with their timestamps counted from the horizon; `None` where a producer's are so far from any
    /// time that they cannot be.
    fn stamp(&self, kept: &[Range<usize>], horizon_ms: i64) -> Option<(i64, Vec<u8>)> {
        let earlier_ms = self.header.base_timestamp.checked_sub(horizon_ms)?;
        let mut out = Vec::with_capacity(self.records.len());
        for range in kept {
            batch::push_shifted(&mut out, &self.records[range.clone()], earlier_ms)?;
        }
        Some((horizon_ms, out))
    }

    fn pack(&self, header: &Header, records: &[u8]) -> Left {
        let codec = Codec::of(header).unwrap_or(Codec::None);
        // Packing into memory does not fail; if it does, nothing is lost by leaving it.
        let Ok(packed) = codec.pack(records) else { return Left::All };
        let mut out = Vec::with_capacity(batch::HEADER_BYTES + packed.len());
        header.write(&packed, &mut out);
        Left::Some(out)
    }
}
