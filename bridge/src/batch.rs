//! Kafka record batch, version 2 (magic 2): stored bytes = served bytes.

/// Bytes of a batch before its first record.
pub const HEADER_BYTES: usize = 61;

/// The fixed part of a batch.
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
    /// Kafka's UNSUPPORTED_FOR_MESSAGE_FORMAT / INVALID_RECORD.
    #[error("record batch: magic {0}, only 2 is taken")]
    Magic(i8),
}

impl Header {
    /// Reads the fixed part; checks magic and that `length` covers a header, not the CRC.
    pub fn parse(_bytes: &[u8]) -> Result<Header, BatchError> {
        unimplemented!()
    }
    /// Bytes of the whole batch.
    pub fn total_bytes(&self) -> usize {
        self.length as usize + 12
    }
}

/// Checks what a producer sent: exactly one whole batch with a right CRC, a known codec, counts that agree
/// (and, when uncompressed, records that parse and end exactly); not a control or transactional batch.
pub fn validate_produced(_bytes: &[u8]) -> Result<Header, BatchError> {
    unimplemented!()
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

/// Header pairs, in order, duplicates kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers<'a> {
    /// Encoded pairs.
    pub bytes: &'a [u8],
    /// How many are left.
    pub count: usize,
}
