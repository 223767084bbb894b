//! A frame: what one group commit writes (J2).
//!
//! ```text
//! magic u32 | crc u32 | lsn u64 | durable lsn u64 | body length u32 | body …   (little endian)
//! ```
//! The CRC is CRC-32C, seeded with its file's salt, of everything behind it. A frame starts on a 512-byte
//! boundary. The body is sections: a batch for a partition, or a run of changes.

use std::ops::RangeInclusive;

use crate::state::{put_number, take_bytes, take_number, take_u32};

/// Frames start on multiples of this, in bytes.
pub const BOUNDARY_BYTES: usize = 512;
/// Bytes before a frame's body.
pub const HEADER_BYTES: usize = 28;

const MAGIC: u32 = 0x4d53_4652;
const SECTION_BATCH: u8 = 1;
const SECTION_CHANGES: u8 = 2;

/// The bytes of a frame, header included, without padding.
#[derive(Debug, Default)]
pub struct Frame {
    bytes: Vec<u8>,
    /// Its number, one more than the frame's before.
    pub lsn: u64,
}

/// A frame found in a journal file.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// Its number.
    pub lsn: u64,
    /// What was known durable before it was written.
    pub durable_lsn: u64,
    /// Its sections.
    pub body: &'a [u8],
}

/// A part of a frame's body.
#[derive(Debug, PartialEq, Eq)]
pub enum Section<'a> {
    /// One record batch; its base offset is in it.
    Batch {
        /// Topic id.
        topic: u32,
        /// Partition index.
        partition: u32,
        /// The batch.
        bytes: &'a [u8],
    },
    /// Changes, to be read by `Change::decode`.
    Changes(&'a [u8]),
}

/// Bytes on disk of a frame with such a body.
pub fn padded_bytes(body_bytes: usize) -> usize {
    (HEADER_BYTES + body_bytes).next_multiple_of(BOUNDARY_BYTES)
}

impl Frame {
    /// An empty one that reuses a buffer.
    pub fn new(mut buffer: Vec<u8>) -> Frame {
        buffer.clear();
        buffer.resize(HEADER_BYTES, 0);
        Frame { bytes: buffer, lsn: 0 }
    }

    /// Its bytes so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Everything behind the header.
    pub fn body(&self) -> &[u8] {
        &self.bytes[HEADER_BYTES..]
    }

    /// Adds a batch; gives its position in the frame's bytes.
    pub fn push_batch(&mut self, topic: u32, partition: u32, batch: &[u8]) -> usize {
        self.bytes.push(SECTION_BATCH);
        for number in [topic.into(), partition.into(), batch.len() as u64] {
            put_number(&mut self.bytes, number);
        }
        let position = self.bytes.len();
        self.bytes.extend_from_slice(batch);
        position
    }

    /// Adds a run of changes.
    pub fn push_changes(&mut self, changes: &[u8]) {
        if !changes.is_empty() {
            self.bytes.push(SECTION_CHANGES);
            put_number(&mut self.bytes, changes.len() as u64);
            self.bytes.extend_from_slice(changes);
        }
    }

    /// A frame with a body as it was found.
    pub fn with_body(body: &[u8]) -> Frame {
        let mut frame = Frame::new(Vec::with_capacity(HEADER_BYTES + body.len()));
        frame.bytes.extend_from_slice(body);
        frame
    }

    /// Fills in the header, pads, and gives what is to be written.
    pub fn seal(&mut self, lsn: u64, durable_lsn: u64, salt: u32) -> &[u8] {
        let body_bytes = (self.bytes.len() - HEADER_BYTES) as u32;
        self.lsn = lsn;
        let b = &mut self.bytes;
        b[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        b[8..16].copy_from_slice(&lsn.to_le_bytes());
        b[16..24].copy_from_slice(&durable_lsn.to_le_bytes());
        b[24..28].copy_from_slice(&body_bytes.to_le_bytes());
        let crc = crc32c::crc32c_append(salt, &b[8..]);
        b[4..8].copy_from_slice(&crc.to_le_bytes());
        b.resize(b.len().next_multiple_of(BOUNDARY_BYTES), 0);
        b
    }

    /// Takes the padding off again, after the write.
    pub fn unpad(&mut self) {
        let body_bytes = u32_at(&self.bytes, 24) as usize;
        self.bytes.truncate(HEADER_BYTES + body_bytes);
    }
}

/// Whether a frame may begin there, under some salt.
pub fn may_be(bytes: &[u8]) -> bool {
    bytes.len() >= HEADER_BYTES && u32_at(bytes, 0) == MAGIC
}

/// Reads a frame at the front of `bytes` whose number is one of `lsns`; `None` when there is no whole and right one.
pub fn find(bytes: &[u8], salt: u32, lsns: RangeInclusive<u64>) -> Option<Found<'_>> {
    // The number first: what looks like many long frames must not cost a CRC each.
    if !may_be(bytes) || !lsns.contains(&u64_at(bytes, 8)) {
        return None;
    }
    let end = HEADER_BYTES.checked_add(u32_at(bytes, 24) as usize)?;
    let covered = bytes.get(8..end)?;
    if crc32c::crc32c_append(salt, covered) != u32_at(bytes, 4) && !off!(FrameCrc) {
        return None;
    }
    Some(Found { lsn: u64_at(bytes, 8), durable_lsn: u64_at(bytes, 16), body: &bytes[HEADER_BYTES..end] })
}

/// Reads the next section of a body; `None` at its end or when it does not parse.
pub fn next_section<'a>(body: &mut &'a [u8]) -> Option<Section<'a>> {
    let (kind, rest) = body.split_first()?;
    *body = rest;
    match *kind {
        SECTION_BATCH => {
            let (topic, partition) = (take_u32(body)?, take_u32(body)?);
            Some(Section::Batch { topic, partition, bytes: take_bytes(body)? })
        }
        SECTION_CHANGES => {
            let length = usize::try_from(take_number(body)?).ok()?;
            let (changes, rest) = body.split_at_checked(length)?;
            *body = rest;
            Some(Section::Changes(changes))
        }
        _ => None,
    }
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_frame_is_found_whole_under_its_salt_only() {
        let mut frame = Frame::new(Vec::new());
        frame.push_changes(b"changes");
        let position = frame.push_batch(7, 2, b"batch");
        assert_eq!(&frame.bytes()[position..position + 5], b"batch");
        let written = frame.seal(41, 40, 99).to_vec();
        assert_eq!(written.len() % BOUNDARY_BYTES, 0);
        let found = find(&written, 99, 41..=41).expect("whole");
        assert_eq!((found.lsn, found.durable_lsn), (41, 40));
        let mut body = found.body;
        assert_eq!(next_section(&mut body), Some(Section::Changes(b"changes")));
        assert_eq!(next_section(&mut body), Some(Section::Batch { topic: 7, partition: 2, bytes: b"batch" }));
        assert_eq!(next_section(&mut body), None);
        assert!(find(&written, 98, 0..=u64::MAX).is_none(), "another salt");
        assert!(find(&written, 99, 42..=50).is_none(), "another number");
        for cut in 0..HEADER_BYTES + found.body.len() {
            assert!(find(&written[..cut], 99, 0..=u64::MAX).is_none(), "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = find(&bytes, 1, 0..=u64::MAX);
            let mut body = &bytes[..];
            while next_section(&mut body).is_some() {}
        }
    }
}
