//! Kafka record batch, version 2 (magic 2): stored bytes = served bytes.
//!
//! [`Builder`] makes a batch out of records whose key, value and headers were encoded elsewhere
//! ([`encode_body`]); [`records`] walks an uncompressed one; [`validate_produced`] is the border
//! control for what Kafka producers send. Layout: <https://kafka.apache.org/documentation/#recordbatch>.

/// Bytes of a batch before its first record.
pub const HEADER_BYTES: usize = 61;

/// Bytes from the batch's start that `length` does not count (base offset and length itself).
const BEFORE_LENGTH: usize = 12;
/// The CRC covers everything from here to the end.
const CRC_FROM: usize = 21;

const CODEC_MASK: i16 = 0b111;
const STAMPED_BY_BROKER: i16 = 0b1000;
const TRANSACTIONAL: i16 = 0b1_0000;
const CONTROL: i16 = 0b10_0000;
/// The base timestamp is the time from which compaction takes the batch's tombstones (KIP-534).
const DELETE_HORIZON: i16 = 0b100_0000;

/// The fixed part of a batch. Field names as in Kafka's documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Header {
    pub base_offset: i64,
    /// Bytes after this field: the batch takes 12 more.
    pub length: i32,
    pub leader_epoch: i32,
    pub crc: u32,
    pub attributes: i16,
    pub last_offset_delta: i32,
    pub base_timestamp: i64,
    pub max_timestamp: i64,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub record_count: i32,
}

/// What is wrong with a batch; the peer's fault, or the disk's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BatchError {
    /// Kafka's CORRUPT_MESSAGE.
    #[error("record batch: {0}")]
    Corrupt(&'static str),
    /// Kafka's UNSUPPORTED_FOR_MESSAGE_FORMAT.
    #[error("record batch: magic {0}, only 2 is taken")]
    Magic(i8),
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

impl Header {
    /// Reads the fixed part; checks magic and that `length` covers a header, not the CRC.
    pub fn parse(bytes: &[u8]) -> Result<Header, BatchError> {
        Self::read(bytes).ok_or(BatchError::Corrupt("shorter than its header")).and_then(
            |(header, magic)| match magic {
                2 if header.length as i64 >= (HEADER_BYTES - BEFORE_LENGTH) as i64 => Ok(header),
                2 => Err(BatchError::Corrupt("length is less than a header")),
                other => Err(BatchError::Magic(other)),
            },
        )
    }

    fn read(b: &[u8]) -> Option<(Header, i8)> {
        let header = Header {
            base_offset: i64::from_be_bytes(array(b, 0)?),
            length: i32::from_be_bytes(array(b, 8)?),
            leader_epoch: i32::from_be_bytes(array(b, 12)?),
            crc: u32::from_be_bytes(array(b, 17)?),
            attributes: i16::from_be_bytes(array(b, 21)?),
            last_offset_delta: i32::from_be_bytes(array(b, 23)?),
            base_timestamp: i64::from_be_bytes(array(b, 27)?),
            max_timestamp: i64::from_be_bytes(array(b, 35)?),
            producer_id: i64::from_be_bytes(array(b, 43)?),
            producer_epoch: i16::from_be_bytes(array(b, 51)?),
            base_sequence: i32::from_be_bytes(array(b, 53)?),
            record_count: i32::from_be_bytes(array(b, 57)?),
        };
        Some((header, b[16] as i8))
    }

    /// Bytes of the whole batch.
    pub fn total_bytes(&self) -> usize {
        self.length as usize + BEFORE_LENGTH
    }

    /// Offset of its last record.
    pub fn last_offset(&self) -> i64 {
        self.base_offset.saturating_add(self.last_offset_delta.into())
    }

    /// Whether its records are compressed by any codec.
    pub fn compressed(&self) -> bool {
        self.codec() != 0
    }

    pub(crate) fn codec(&self) -> i16 {
        self.attributes & CODEC_MASK
    }

    /// The time from which compaction takes its tombstones, when it has seen them.
    pub(crate) fn delete_horizon_ms(&self) -> Option<i64> {
        (self.attributes & DELETE_HORIZON != 0).then_some(self.base_timestamp)
    }

    /// Compaction saw its tombstones: the same with the time from which it takes them.
    pub(crate) fn with_delete_horizon(self, base_timestamp: i64) -> Header {
        Header { attributes: self.attributes | DELETE_HORIZON, base_timestamp, ..self }
    }

    /// Whether all its records have the greatest timestamp.
    pub(crate) fn is_stamped_by_broker(&self) -> bool {
        self.attributes & STAMPED_BY_BROKER != 0
    }

    /// Appends it to `out` with these records in it, packed as its attributes say; length and CRC come out right.
    pub(crate) fn write(&self, records: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.base_offset.to_be_bytes());
        out.extend_from_slice(&((HEADER_BYTES - BEFORE_LENGTH + records.len()) as i32).to_be_bytes());
        out.extend_from_slice(&self.leader_epoch.to_be_bytes());
        out.push(2);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.attributes.to_be_bytes());
        out.extend_from_slice(&self.last_offset_delta.to_be_bytes());
        out.extend_from_slice(&self.base_timestamp.to_be_bytes());
        out.extend_from_slice(&self.max_timestamp.to_be_bytes());
        out.extend_from_slice(&self.producer_id.to_be_bytes());
        out.extend_from_slice(&self.producer_epoch.to_be_bytes());
        out.extend_from_slice(&self.base_sequence.to_be_bytes());
        out.extend_from_slice(&self.record_count.to_be_bytes());
        out.extend_from_slice(records);
        let crc = crc32c::crc32c(&out[start + CRC_FROM..]);
        out[start + CRC_FROM - 4..start + CRC_FROM].copy_from_slice(&crc.to_be_bytes());
    }
}

/// Whether the stored CRC is right. `bytes` is exactly one batch.
pub fn crc_ok(header: &Header, bytes: &[u8]) -> bool {
    bytes.get(CRC_FROM..).is_some_and(|covered| crc32c::crc32c(covered) == header.crc)
}

/// Checks what a producer sent: exactly one whole batch with a right CRC, a known codec, counts that agree
/// (and, when uncompressed, records that parse and end exactly); not a control or transactional batch.
pub fn validate_produced(bytes: &[u8]) -> Result<Header, BatchError> {
    let header = Header::parse(bytes)?;
    if header.total_bytes() != bytes.len() {
        return Err(BatchError::Corrupt("length does not match the bytes sent"));
    }
    if !crc_ok(&header, bytes) {
        return Err(BatchError::Corrupt("CRC does not match"));
    }
    if header.attributes & CODEC_MASK > 4 {
        return Err(BatchError::Corrupt("unknown compression codec"));
    }
    if header.attributes & (CONTROL | TRANSACTIONAL) != 0 {
        return Err(BatchError::Corrupt("control and transactional batches are not taken"));
    }
    if header.record_count < 1 || header.last_offset_delta.checked_add(1) != Some(header.record_count) {
        return Err(BatchError::Corrupt("record count and last offset delta disagree"));
    }
    if !header.compressed() {
        let mut walk = records(bytes, &header);
        // From 0: what the producer wrote as base offset means nothing.
        walk.base_offset = 0;
        let mut next = 0;
        while let Some(record) = walk.next()? {
            if record.offset != next {
                return Err(BatchError::Corrupt("offset deltas are not 0, 1, 2, …"));
            }
            next += 1;
        }
    }
    Ok(header)
}

/// Sets what the broker decides about a produced batch; neither is covered by the CRC.
pub fn place(bytes: &mut [u8], base_offset: i64, leader_epoch: i32) {
    bytes[..8].copy_from_slice(&base_offset.to_be_bytes());
    bytes[12..16].copy_from_slice(&leader_epoch.to_be_bytes());
}

/// A record's parts, borrowed from its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Absolute.
    pub offset: i64,
    /// Milliseconds since 1970.
    pub timestamp_ms: i64,
    /// `None` is Kafka's null.
    pub key: Option<&'a [u8]>,
    /// `None` is Kafka's null: a tombstone in a compacted topic.
    pub value: Option<&'a [u8]>,
    /// Encoded headers, after their count.
    pub headers: Headers<'a>,
}

/// Header pairs, in order, duplicates kept. The encoding was checked when the record was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers<'a> {
    bytes: &'a [u8],
    count: usize,
}

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        self.count = self.count.checked_sub(1)?;
        let key = take_slice(&mut self.bytes)??;
        let value = take_slice(&mut self.bytes)?;
        Some((key, value))
    }
}

/// Walks the records of one uncompressed batch.
pub struct Records<'a> {
    bytes: &'a [u8],
    left: i32,
    base_offset: i64,
    base_timestamp: i64,
    /// Where positions count from.
    start: *const u8,
}

/// The records of `bytes`, which is exactly the batch that `header` was parsed from and not compressed.
pub fn records<'a>(bytes: &'a [u8], header: &Header) -> Records<'a> {
    Records { start: bytes.as_ptr(), ..unpacked_records(bytes.get(HEADER_BYTES..).unwrap_or_default(), header) }
}

/// The same of a batch's records alone, unpacked.
pub(crate) fn unpacked_records<'a>(records: &'a [u8], header: &Header) -> Records<'a> {
    Records {
        bytes: records,
        left: header.record_count,
        base_offset: header.base_offset,
        base_timestamp: header.base_timestamp,
        start: records.as_ptr(),
    }
}

impl<'a> Records<'a> {
    /// The next record; `None` after the last, when the batch also ended exactly there.
    #[allow(clippy::should_implement_trait)] // it fails, and its caller stops then
    pub fn next(&mut self) -> Result<Option<Record<'a>>, BatchError> {
        if self.left == 0 {
            return if self.bytes.is_empty() {
                Ok(None)
            } else {
                Err(BatchError::Corrupt("bytes after its last record"))
            };
        }
        if self.left < 0 {
            return Err(BatchError::Corrupt("record count is negative"));
        }
        self.left -= 1;
        let record = take_record(&mut self.bytes, self.base_offset, self.base_timestamp);
        record.ok_or(BatchError::Corrupt("a record does not parse")).map(Some)
    }

    /// Where the next record starts, in bytes from the start of what was given.
    pub fn position(&self) -> usize {
        self.bytes.as_ptr() as usize - self.start as usize
    }
}

/// Reads one record at the front of `bytes`, with the offset and timestamp its batch starts from.
pub fn read_record(mut bytes: &[u8], base_offset: i64, base_timestamp: i64) -> Option<Record<'_>> {
    take_record(&mut bytes, base_offset, base_timestamp)
}

/// Reads the record at the front of `bytes` and moves behind it.
pub(crate) fn next_record<'a>(bytes: &mut &'a [u8], base_offset: i64, base_timestamp: i64) -> Option<Record<'a>> {
    take_record(bytes, base_offset, base_timestamp)
}

fn take_record<'a>(bytes: &mut &'a [u8], base_offset: i64, base_timestamp: i64) -> Option<Record<'a>> {
    let length = usize::try_from(take_varint(bytes)?).ok()?;
    let (mut body, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    let (_attributes, after) = body.split_first()?;
    body = after;
    let timestamp_ms = base_timestamp.checked_add(take_varint(&mut body)?)?;
    let offset = base_offset.checked_add(take_varint(&mut body)?)?;
    let key = take_slice(&mut body)?;
    let value = take_slice(&mut body)?;
    let count = usize::try_from(take_varint(&mut body)?).ok()?;
    let headers = Headers { bytes: body, count };
    for _ in 0..count {
        take_slice(&mut body)??;
        take_slice(&mut body)?;
    }
    body.is_empty().then_some(Record { offset, timestamp_ms, key, value, headers })
}

/// A length-prefixed slice: outer `None` when malformed, inner when null.
fn take_slice<'a>(bytes: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let length = take_varint(bytes)?;
    if length == -1 {
        return Some(None);
    }
    let (slice, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    *bytes = rest;
    Some(Some(slice))
}

fn take_varint(bytes: &mut &[u8]) -> Option<i64> {
    let mut value = 0u64;
    for (i, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            *bytes = &bytes[i + 1..];
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
    while zigzag >= 0x80 {
        out.push(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

fn varint_bytes(value: i64) -> usize {
    let zigzag = ((value << 1) ^ (value >> 63)) as u64;
    (64 - (zigzag | 1).leading_zeros() as usize).div_ceil(7)
}

fn put_slice(out: &mut Vec<u8>, slice: Option<&[u8]>) {
    match slice {
        None => put_varint(out, -1),
        Some(slice) => {
            put_varint(out, slice.len() as i64);
            out.extend_from_slice(slice);
        }
    }
}

/// Appends an encoded record, its timestamp counted from a time that is `earlier_ms` earlier than before; `None` when there
/// is no such number.
pub(crate) fn push_shifted(out: &mut Vec<u8>, mut record: &[u8], earlier_ms: i64) -> Option<()> {
    take_varint(&mut record)?;
    let (attributes, mut record) = record.split_first()?;
    let timestamp_delta = take_varint(&mut record)?.checked_add(earlier_ms)?;
    put_varint(out, (1 + varint_bytes(timestamp_delta) + record.len()) as i64);
    out.push(*attributes);
    put_varint(out, timestamp_delta);
    out.extend_from_slice(record);
    Some(())
}

/// Appends what of a record does not depend on its place in a batch: key, value, headers.
pub fn encode_body<'h>(
    out: &mut Vec<u8>,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: impl ExactSizeIterator<Item = (&'h [u8], &'h [u8])>,
) {
    put_slice(out, key);
    put_slice(out, value);
    put_varint(out, headers.len() as i64);
    for (name, value) in headers {
        put_slice(out, Some(name));
        put_slice(out, Some(value));
    }
}

/// Grows one uncompressed batch.
#[derive(Debug, Default)]
pub struct Builder {
    bytes: Vec<u8>,
    base_offset: i64,
    base_timestamp: i64,
    max_timestamp: i64,
    count: i32,
}

impl Builder {
    /// Starts over at `base_offset`, keeping the buffer.
    pub fn restart(&mut self, base_offset: i64) {
        self.bytes.clear();
        self.bytes.resize(HEADER_BYTES, 0);
        self.base_offset = base_offset;
        self.count = 0;
    }

    /// Whether nothing was pushed since the restart.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes so far, header included.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Adds a record; gives its offset and its position in the batch. Timestamps may not fall.
    pub fn push(&mut self, timestamp_ms: i64, body: &[u8]) -> (i64, usize) {
        if self.count == 0 {
            self.base_timestamp = timestamp_ms;
        }
        self.max_timestamp = timestamp_ms;
        let position = self.bytes.len();
        let timestamp_delta = timestamp_ms - self.base_timestamp;
        let offset_delta = i64::from(self.count);
        let length = 1 + varint_bytes(timestamp_delta) + varint_bytes(offset_delta) + body.len();
        put_varint(&mut self.bytes, length as i64);
        self.bytes.push(0);
        put_varint(&mut self.bytes, timestamp_delta);
        put_varint(&mut self.bytes, offset_delta);
        self.bytes.extend_from_slice(body);
        self.count += 1;
        (self.base_offset + offset_delta, position)
    }

    /// Fills in the header and gives the whole batch; not to be called when empty.
    pub fn finish(&mut self, leader_epoch: i32) -> &[u8] {
        let length = (self.bytes.len() - BEFORE_LENGTH) as i32;
        let b = &mut self.bytes;
        b[0..8].copy_from_slice(&self.base_offset.to_be_bytes());
        b[8..12].copy_from_slice(&length.to_be_bytes());
        b[12..16].copy_from_slice(&leader_epoch.to_be_bytes());
        b[16] = 2;
        b[21..23].copy_from_slice(&0i16.to_be_bytes());
        b[23..27].copy_from_slice(&(self.count - 1).to_be_bytes());
        b[27..35].copy_from_slice(&self.base_timestamp.to_be_bytes());
        b[35..43].copy_from_slice(&self.max_timestamp.to_be_bytes());
        b[43..51].copy_from_slice(&(-1i64).to_be_bytes());
        b[51..53].copy_from_slice(&(-1i16).to_be_bytes());
        b[53..57].copy_from_slice(&(-1i32).to_be_bytes());
        b[57..61].copy_from_slice(&self.count.to_be_bytes());
        let crc = crc32c::crc32c(&b[CRC_FROM..]);
        b[17..21].copy_from_slice(&crc.to_be_bytes());
        b
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn body(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        encode_body(&mut out, key, value, headers.iter().copied());
        out
    }

    #[test]
    fn a_built_batch_passes_border_control_and_gives_its_records_back() {
        let mut builder = Builder::default();
        builder.restart(40);
        builder.push(1_000, &body(Some(b"k"), Some(b"21.5"), &[(b"a", b"1"), (b"a", b"2")]));
        builder.push(1_007, &body(None, None, &[]));
        let bytes = builder.finish(3).to_vec();
        let header = validate_produced(&bytes).expect("valid");
        assert_eq!((header.base_offset, header.last_offset(), header.leader_epoch), (40, 41, 3));
        assert_eq!((header.base_timestamp, header.max_timestamp), (1_000, 1_007));
        let mut walk = records(&bytes, &header);
        let first = walk.next().expect("parses").expect("first");
        assert_eq!(
            (first.offset, first.timestamp_ms, first.key, first.value),
            (40, 1_000, Some(&b"k"[..]), Some(&b"21.5"[..]))
        );
        let pairs: Vec<_> = first.headers.collect();
        assert_eq!(pairs, [(&b"a"[..], Some(&b"1"[..])), (&b"a"[..], Some(&b"2"[..]))]);
        let second = walk.next().expect("parses").expect("second");
        assert_eq!((second.offset, second.timestamp_ms, second.key, second.value), (41, 1_007, None, None));
        assert_eq!(walk.next(), Ok(None));
    }

    #[test]
    fn fewer_than_no_records_are_none() {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[8..12].copy_from_slice(&49i32.to_be_bytes());
        bytes[16] = 2;
        for count in [-1, i32::MIN] {
            bytes[57..61].copy_from_slice(&count.to_be_bytes());
            let header = Header::parse(&bytes).expect("a header");
            assert_eq!(records(&bytes, &header).next(), Err(BatchError::Corrupt("record count is negative")));
        }
    }

    #[test]
    fn a_flipped_bit_is_found() {
        let mut builder = Builder::default();
        builder.restart(0);
        builder.push(5, &body(Some(b"key"), Some(b"value"), &[]));
        let good = builder.finish(1).to_vec();
        for at in (8..12).chain(16..good.len()) {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(validate_produced(&bad).is_err(), "byte {at}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = validate_produced(&bytes);
            if let Ok(header) = Header::parse(&bytes) {
                let mut walk = records(&bytes, &header);
                for _ in 0..400 { if !matches!(walk.next(), Ok(Some(_))) { break } }
            }
        }

        #[test]
        fn varints_round_trip(value in any::<i64>()) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            prop_assert_eq!(out.len(), varint_bytes(value));
            prop_assert_eq!(take_varint(&mut &out[..]), Some(value));
        }
    }
}
