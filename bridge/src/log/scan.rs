//! Looks at every batch of a segment, CRC and all, and finds the whole ones behind a broken one.
//!
//! A payload may hold anything, a batch with a right CRC too. So what lies behind damage counts as a batch only when
//! batch follows batch from there to a place that is known to be one's: where an index points, or the end.

use std::collections::BTreeSet;
use std::ops::Range;

use bytes::Bytes;

use crate::batch::{self, Header};
use crate::disk::File;

/// Bytes read at a time.
const WINDOW_BYTES: usize = 1 << 20;

/// What is known of a segment from elsewhere.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Bytes of batches.
    pub bytes: u64,
    /// Its offsets: from its base to the next segment's, or the partition's end.
    pub offsets: Range<i64>,
    /// Positions of batches, as its index says, ascending.
    pub marks: Vec<u64>,
    /// What is behind damage from this offset on is had from elsewhere, whole.
    pub elsewhere_from: i64,
}

/// A range that holds no whole batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// In the file.
    pub bytes: Range<u64>,
    /// Offsets that were there, at most.
    pub offsets: Range<i64>,
}

/// Calls `good` with the header and position of every whole batch; gives what is in between.
pub fn scan(file: &File, expected: &Expected, good: impl FnMut(&Header, u64)) -> Vec<Gap> {
    let window = Window { file, from: 0, bytes: Bytes::new() };
    let scan = Scan { ahead: Window { bytes: Bytes::new(), ..window }, window, expected, astray: BTreeSet::new() };
    scan.run(good)
}

struct Scan<'a> {
    window: Window<'a>,
    /// For looking ahead without losing what is at hand.
    ahead: Window<'a>,
    expected: &'a Expected,
    /// Positions from which no chain leads to a known place.
    astray: BTreeSet<u64>,
}

/// Part of a file in memory.
struct Window<'a> {
    file: &'a File,
    from: u64,
    bytes: Bytes,
}

impl Window<'_> {
    /// So many bytes, fewer at the end of the file.
    fn get(&mut self, position: u64, count: usize) -> &[u8] {
        let is_there = position >= self.from && position + count as u64 <= self.from + self.bytes.len() as u64;
        if !is_there {
            self.bytes = self.file.read_lossy(position, count.max(WINDOW_BYTES));
            self.from = position;
        }
        let at = (position - self.from) as usize;
        &self.bytes[at..self.bytes.len().min(at + count)]
    }
}

impl Scan<'_> {
    fn run(mut self, mut good: impl FnMut(&Header, u64)) -> Vec<Gap> {
        let end = self.expected.bytes;
        let (mut at, mut next) = (0, self.expected.offsets.start);
        let mut gaps: Vec<Gap> = Vec::new();
        while at < end {
            let header = self.header(at, next);
            let after = header.map(|header| (at + header.total_bytes() as u64, header.last_offset() + 1));
            if let Some((header, (to, offset))) = header.zip(after)
                && self.crc_is_right(&header, at)
                // Neither base offset nor length are covered by the CRC.
                && (header.base_offset == next || self.is_known(at) || self.goes_on(to, offset))
            {
                if let Some(gap) = gaps.last_mut().filter(|gap| gap.bytes.end == at) {
                    gap.offsets.end = header.base_offset;
                }
                good(&header, at);
                (at, next) = (to, offset);
                continue;
            }
            // A broken body leaves the lengths, and so the way on, as they were.
            let (from, lost_from) = (at, next);
            (at, next) = match after.filter(|(to, offset)| self.goes_on(*to, *offset)) {
                _ if lost_from >= self.expected.elsewhere_from => (end, next),
                Some(after) => after,
                None => (self.found_again(at + 1, next), next),
            };
            match gaps.last_mut().filter(|gap| gap.bytes.end == from) {
                Some(gap) => gap.bytes.end = at,
                None => gaps.push(Gap { bytes: from..at, offsets: lost_from..self.expected.offsets.end }),
            }
        }
        gaps
    }

    /// A header that may stand there, behind offsets up to `next`.
    fn header(&mut self, position: u64, next: i64) -> Option<Header> {
        plausible(self.window.get(position, batch::HEADER_BYTES), position, next, self.expected)
    }

    fn crc_is_right(&mut self, header: &Header, position: u64) -> bool {
        batch::crc_ok(header, self.window.get(position, header.total_bytes()))
    }

    fn is_known(&self, position: u64) -> bool {
        self.expected.marks.binary_search(&position).is_ok()
    }

    /// Whether this is the end, or another batch may begin here.
    fn goes_on(&mut self, position: u64, next: i64) -> bool {
        position == self.expected.bytes
            || plausible(self.ahead.get(position, batch::HEADER_BYTES), position, next, self.expected).is_some()
    }

    /// The first position from here on where a whole batch begins; the end when there is none.
    fn found_again(&mut self, from: u64, next: i64) -> u64 {
        let end = self.expected.bytes;
        for position in from..end {
            let Some(header) = self.header(position, next) else { continue };
            if self.leads_home(position, next) && self.crc_is_right(&header, position) {
                return position;
            }
        }
        end
    }

    /// Whether batch follows batch from here to a place that is known.
    fn leads_home(&mut self, from: u64, mut next: i64) -> bool {
        let (mut position, mut passed) = (from, Vec::new());
        loop {
            if position == self.expected.bytes || self.is_known(position) {
                return true;
            }
            passed.push(position);
            let header = match self.astray.contains(&position) {
                true => None,
                false => plausible(self.ahead.get(position, batch::HEADER_BYTES), position, next, self.expected),
            };
            let Some(header) = header else {
                self.astray.extend(passed);
                return false;
            };
            (position, next) = (position + header.total_bytes() as u64, header.last_offset() + 1);
        }
    }
}

fn plausible(bytes: &[u8], position: u64, next: i64, expected: &Expected) -> Option<Header> {
    let header = Header::parse(bytes).ok()?;
    let fits = position + header.total_bytes() as u64 <= expected.bytes
        && header.base_offset >= next
        && header.last_offset_delta >= 0
        && header.base_offset.checked_add(header.last_offset_delta.into())? < expected.offsets.end;
    fits.then_some(header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Folder;
    use proptest::prelude::*;

    fn batch_of(base: i64, value: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        batch::encode_body(&mut body, None, Some(value), std::iter::empty());
        let mut builder = batch::Builder::default();
        builder.restart(base);
        builder.push(1, &body);
        builder.finish(1).to_vec()
    }

    fn look(bytes: &[u8], end: u64, marks: Vec<u64>, offsets: Range<i64>) -> (Vec<i64>, Vec<Range<u64>>) {
        let home = tempfile::tempdir().expect("a folder");
        let file = Folder::open(home.path()).expect("opens").file("x").expect("opens");
        file.write_at(bytes, 0).expect("written");
        let mut good = Vec::new();
        let gaps = scan(&file, &Expected { bytes: end, offsets, marks, elsewhere_from: i64::MAX }, |header, _| {
            good.push(header.base_offset)
        });
        (good, gaps.into_iter().map(|gap| gap.bytes).collect())
    }

    #[test]
    fn a_batch_in_a_payload_is_none() {
        // A message that holds batches, the last of which ends where the message does.
        let forged = [batch_of(1, b"forged"), batch_of(2, b"forged")].concat();
        let batches = [batch_of(0, b"first"), batch_of(1, &forged), batch_of(2, b"last")];
        let mut bytes = batches.concat();
        let (from, to) = (batches[0].len(), batches[0].len() + batches[1].len());
        bytes[from..from + 40].fill(0);
        let (good, gaps) = look(&bytes, bytes.len() as u64, vec![], 0..3);
        assert_eq!((good, gaps.len(), &gaps[0]), (vec![0, 2], 1, &(from as u64..to as u64)));
        // Cut in the middle of what follows: nothing says that there is a batch.
        let cut = bytes.len() - 3;
        assert_eq!(look(&bytes[..cut], cut as u64, vec![], 0..3).0, [0]);
        // But an index may.
        let more = [&bytes[..], &batch_of(3, b"torn")[..20]].concat();
        let (good, _) = look(&more, more.len() as u64, vec![to as u64], 0..9);
        assert_eq!(good, [0, 2]);
    }

    #[test]
    fn an_offset_that_was_flipped_takes_its_own_batch_along_only() {
        let batches: Vec<Vec<u8>> = (0..4).map(|base| batch_of(base, b"value")).collect();
        let mut bytes = batches.concat();
        bytes[batches[0].len() + 5] ^= 4;
        assert_eq!(look(&bytes, bytes.len() as u64, vec![], 0..1 << 40).0, [0, 2, 3]);
    }

    proptest! {
        #[test]
        fn everything_outside_the_damage_is_found(
            at in 0usize..4000, count in 1usize..700, value in any::<u8>(), seed in any::<u64>(),
        ) {
            let batches: Vec<Vec<u8>> =
                (0..40).map(|base| batch_of(base, &vec![7; (seed.rotate_left(base as u32) % 90) as usize])).collect();
            let whole = batches.concat();
            let (at, mut bytes) = (at % whole.len(), whole.clone());
            let end = (at + count).min(bytes.len());
            bytes[at..end].fill(value);
            let (good, gaps) = look(&bytes, bytes.len() as u64, vec![], 0..40);
            let mut position = 0;
            for (base, one) in batches.iter().enumerate() {
                let range = position..position + one.len();
                position = range.end;
                let is_whole = bytes[range.clone()] == whole[range.clone()];
                // The leader epoch is under no CRC.
                let epoch = range.start + 12..range.start + 16;
                let but_epoch = range.clone().all(|i| bytes[i] == whole[i] || epoch.contains(&i));
                prop_assert!(!is_whole || good.contains(&(base as i64)), "{base} {gaps:?}");
                prop_assert!(but_epoch || !good.contains(&(base as i64)), "{base} {gaps:?}");
            }
        }
    }
}
