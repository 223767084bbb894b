//! What each request looks like on the wire.
//!
//! The codec makes room for as many elements as an array claims to have, before it has seen one: 20
//! bytes from anywhere could ask for hundreds of gigabytes. So each request is walked first,
//! without making anything: afterwards its lengths are known to be true, and the number of its
//! elements bounded. The walk costs a few nanoseconds per element and looks at no payload.

/// A field of a request, and the versions that have it.
pub(super) struct Field {
    from: i16,
    to: i16,
    kind: Kind,
}

/// How a field is encoded.
pub(super) enum Kind {
    /// So many bytes.
    Fixed(usize),
    /// Length (i16, or compact), then bytes; null is a length too.
    Text,
    /// Length (i32, or compact), then bytes.
    Bytes,
    /// Count, then as many of one plain kind.
    List(&'static Kind),
    /// Count, then as many structs.
    Structs(&'static [Field]),
}

use Kind::{Bytes, Fixed, List, Structs, Text};

const fn since(from: i16, kind: Kind) -> Field {
    between(from, i16::MAX, kind)
}

const fn between(from: i16, to: i16, kind: Kind) -> Field {
    Field { from, to, kind }
}

const BOOL: Kind = Fixed(1);
const I8: Kind = Fixed(1);
const I16: Kind = Fixed(2);
const I32: Kind = Fixed(4);
const I64: Kind = Fixed(8);
const UUID: Kind = Fixed(16);

pub(super) const PRODUCE: &[Field] = &[
    since(3, Text), // transactional_id
    since(0, I16),  // acks
    since(0, I32),  // timeout_ms
    since(0, Structs(&[since(0, Text), since(0, Structs(&[since(0, I32), since(0, Bytes)]))])),
];

pub(super) const FETCH: &[Field] = &[
    since(0, I32), // replica_id
    since(0, I32), // max_wait_ms
    since(0, I32), // min_bytes
    since(3, I32), // max_bytes
    since(4, I8),  // isolation_level
    since(7, I32), // session_id
    since(7, I32), // session_epoch
    since(
        0,
        Structs(&[
            since(0, Text),
            since(
                0,
                Structs(&[
                    since(0, I32),  // partition
                    since(9, I32),  // current_leader_epoch
                    since(0, I64),  // fetch_offset
                    since(12, I32), // last_fetched_epoch
                    since(5, I64),  // log_start_offset
                    since(0, I32),  // partition_max_bytes
                ]),
            ),
        ]),
    ),
    since(7, Structs(&[since(0, Text), since(0, List(&I32))])), // forgotten
    since(11, Text),                                            // rack_id
];

pub(super) const LIST_OFFSETS: &[Field] = &[
    since(0, I32), // replica_id
    since(2, I8),  // isolation_level
    since(
        0,
        Structs(&[
            since(0, Text),
            since(
                0,
                Structs(&[
                    since(0, I32), // partition_index
                    since(4, I32), // current_leader_epoch
                    since(0, I64), // timestamp
                ]),
            ),
        ]),
    ),
];

pub(super) const METADATA: &[Field] = &[
    since(0, Structs(&[since(10, UUID), since(0, Text)])),
    since(4, BOOL),       // allow_auto_topic_creation
    between(8, 10, BOOL), // include_cluster_authorized_operations
    since(8, BOOL),       // include_topic_authorized_operations
];

pub(super) const OFFSET_COMMIT: &[Field] = &[
    since(0, Text),     // group_id
    since(1, I32),      // generation_id
    since(1, Text),     // member_id
    since(7, Text),     // group_instance_id
    between(2, 4, I64), // retention_time_ms
    since(
        0,
        Structs(&[
            since(0, Text),
            since(
                0,
                Structs(&[
                    since(0, I32),  // partition_index
                    since(0, I64),  // committed_offset
                    since(6, I32),  // committed_leader_epoch
                    since(0, Text), // committed_metadata
                ]),
            ),
        ]),
    ),
];

const TOPIC_AND_PARTITIONS: &[Field] = &[since(0, Text), since(0, List(&I32))];

pub(super) const OFFSET_FETCH: &[Field] = &[
    between(0, 7, Text), // group_id
    between(0, 7, Structs(TOPIC_AND_PARTITIONS)),
    since(8, Structs(&[since(0, Text), since(0, Structs(TOPIC_AND_PARTITIONS))])),
    since(7, BOOL), // require_stable
];

pub(super) const FIND_COORDINATOR: &[Field] = &[
    between(0, 3, Text), // key
    since(1, I8),        // key_type
    since(4, List(&Text)),
];

pub(super) const JOIN_GROUP: &[Field] = &[
    since(0, Text), // group_id
    since(0, I32),  // session_timeout_ms
    since(1, I32),  // rebalance_timeout_ms
    since(0, Text), // member_id
    since(5, Text), // group_instance_id
    since(0, Text), // protocol_type
    since(0, Structs(&[since(0, Text), since(0, Bytes)])),
    since(8, Text), // reason
];

pub(super) const HEARTBEAT: &[Field] = &[
    since(0, Text), // group_id
    since(0, I32),  // generation_id
    since(0, Text), // member_id
    since(3, Text), // group_instance_id
];

pub(super) const LEAVE_GROUP: &[Field] = &[
    since(0, Text),      // group_id
    between(0, 2, Text), // member_id
    since(3, Structs(&[since(0, Text), since(3, Text), since(5, Text)])),
];

pub(super) const SYNC_GROUP: &[Field] = &[
    since(0, Text), // group_id
    since(0, I32),  // generation_id
    since(0, Text), // member_id
    since(3, Text), // group_instance_id
    since(5, Text), // protocol_type
    since(5, Text), // protocol_name
    since(0, Structs(&[since(0, Text), since(0, Bytes)])),
];

pub(super) const DESCRIBE_GROUPS: &[Field] = &[since(0, List(&Text)), since(3, BOOL)];

pub(super) const LIST_GROUPS: &[Field] = &[since(4, List(&Text)), since(5, List(&Text))];

pub(super) const API_VERSIONS: &[Field] = &[since(3, Text), since(3, Text)];

pub(super) const SASL_HANDSHAKE: &[Field] = &[since(0, Text)];

pub(super) const SASL_AUTHENTICATE: &[Field] = &[since(0, Bytes)];

pub(super) const CREATE_TOPICS: &[Field] = &[
    since(
        0,
        Structs(&[
            since(0, Text), // name
            since(0, I32),  // num_partitions
            since(0, I16),  // replication_factor
            since(0, Structs(&[since(0, I32), since(0, List(&I32))])),
            since(0, Structs(&[since(0, Text), since(0, Text)])),
        ]),
    ),
    since(0, I32),  // timeout_ms
    since(1, BOOL), // validate_only
];

pub(super) const DELETE_TOPICS: &[Field] = &[
    since(6, Structs(&[since(6, Text), since(6, UUID)])),
    between(1, 5, List(&Text)),
    since(1, I32), // timeout_ms
];

pub(super) const DELETE_RECORDS: &[Field] = &[
    since(0, Structs(&[since(0, Text), since(0, Structs(&[since(0, I32), since(0, I64)]))])),
    since(0, I32), // timeout_ms
];

pub(super) const INIT_PRODUCER_ID: &[Field] = &[
    since(0, Text), // transactional_id
    since(0, I32),  // transaction_timeout_ms
    since(3, I64),  // producer_id
    since(3, I16),  // producer_epoch
];

pub(super) const LEADER_EPOCH: &[Field] = &[
    since(3, I32), // replica_id
    since(
        0,
        Structs(&[
            since(0, Text),
            since(
                0,
                Structs(&[
                    since(0, I32), // partition
                    since(2, I32), // current_leader_epoch
                    since(0, I32), // leader_epoch
                ]),
            ),
        ]),
    ),
];

pub(super) const DESCRIBE_CONFIGS: &[Field] = &[
    since(
        0,
        Structs(&[
            since(0, I8),   // resource_type
            since(0, Text), // resource_name
            since(0, List(&Text)),
        ]),
    ),
    since(1, BOOL), // include_synonyms
    since(3, BOOL), // include_documentation
];

pub(super) const ALTER_CONFIGS: &[Field] = &[
    since(
        0,
        Structs(&[
            since(0, I8),   // resource_type
            since(0, Text), // resource_name
            since(0, Structs(&[since(0, Text), since(0, Text)])),
        ]),
    ),
    since(0, BOOL), // validate_only
];

pub(super) const INCREMENTAL_ALTER_CONFIGS: &[Field] = &[
    since(
        0,
        Structs(&[
            since(0, I8),   // resource_type
            since(0, Text), // resource_name
            since(
                0,
                Structs(&[
                    since(0, Text), // name
                    since(0, I8),   // config_operation
                    since(0, Text), // value
                ]),
            ),
        ]),
    ),
    since(0, BOOL), // validate_only
];

pub(super) const DELETE_GROUPS: &[Field] = &[since(0, List(&Text))];

pub(super) const DESCRIBE_CLUSTER: &[Field] = &[since(0, BOOL), since(1, I8)];

/// Elements and tagged fields of one request, over all its arrays. A decoded element takes up to
/// some 150 bytes, so a request makes at most 15 MB besides itself.
const ELEMENTS_MAX: usize = 100_000;

/// What is wrong with the shape of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ShapeError {
    #[error("it ends too early")]
    Short,
    #[error("a length is negative")]
    Negative,
    #[error("a compact length has more than 5 bytes")]
    Varint,
    #[error("more than {ELEMENTS_MAX} elements")]
    TooMany,
}

/// Walks the body of a request; gives the number of bytes it takes.
pub(super) fn check(body: &[u8], request: &[Field], version: i16, flexible: bool) -> Result<usize, ShapeError> {
    let mut walk = Walk { rest: body, version, flexible, elements_left: ELEMENTS_MAX };
    walk.fields(request)?;
    Ok(body.len() - walk.rest.len())
}

/// Walks a section of tagged fields, as in a request header.
pub(super) fn check_tags(bytes: &[u8]) -> Result<usize, ShapeError> {
    check(bytes, &[], 0, true)
}

struct Walk<'a> {
    rest: &'a [u8],
    version: i16,
    flexible: bool,
    elements_left: usize,
}

impl Walk<'_> {
    fn fields(&mut self, fields: &[Field]) -> Result<(), ShapeError> {
        for field in fields {
            if (field.from..=field.to).contains(&self.version) {
                self.kind(&field.kind)?;
            }
        }
        if self.flexible { self.tags() } else { Ok(()) }
    }

    fn kind(&mut self, kind: &Kind) -> Result<(), ShapeError> {
        match kind {
            Fixed(bytes) => self.skip(*bytes),
            Text => {
                let bytes = self.length(2)?;
                self.skip(bytes)
            }
            Bytes => {
                let bytes = self.length(4)?;
                self.skip(bytes)
            }
            List(kind) => self.elements(|walk| walk.kind(kind)),
            Structs(fields) => self.elements(|walk| walk.fields(fields)),
        }
    }

    fn elements(&mut self, mut element: impl FnMut(&mut Self) -> Result<(), ShapeError>) -> Result<(), ShapeError> {
        let count = self.length(4)?;
        self.count(count)?;
        (0..count).try_for_each(|_| element(self))
    }

    fn tags(&mut self) -> Result<(), ShapeError> {
        let count = self.varint()?;
        self.count(count)?;
        for _ in 0..count {
            self.varint()?; // tag
            let bytes = self.varint()?;
            self.skip(bytes)?;
        }
        Ok(())
    }

    /// Takes `elements` from what a request may have, and none that cannot be there.
    fn count(&mut self, elements: usize) -> Result<(), ShapeError> {
        if elements > self.rest.len() {
            return Err(ShapeError::Short);
        }
        let left = self.elements_left.checked_sub(elements);
        self.elements_left = left.ok_or(ShapeError::TooMany)?;
        Ok(())
    }

    /// A length of `width` bytes, or compact where the version has that; null counts as 0.
    fn length(&mut self, width: usize) -> Result<usize, ShapeError> {
        if self.flexible {
            return Ok(self.varint()?.saturating_sub(1));
        }
        let value = match *self.take(width)? {
            [a, b] => i32::from(i16::from_be_bytes([a, b])),
            [a, b, c, d] => i32::from_be_bytes([a, b, c, d]),
            _ => return Err(ShapeError::Short),
        };
        match value {
            -1 => Ok(0),
            value => usize::try_from(value).map_err(|_| ShapeError::Negative),
        }
    }

    fn varint(&mut self) -> Result<usize, ShapeError> {
        let mut value = 0_u64;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                // Five groups of seven bits can pass 32, and the codec would cut them off.
                let value = u32::try_from(value).map_err(|_| ShapeError::Varint)?;
                return Ok(value as usize);
            }
        }
        Err(ShapeError::Varint)
    }

    fn skip(&mut self, bytes: usize) -> Result<(), ShapeError> {
        self.take(bytes).map(|_| ())
    }

    fn take(&mut self, bytes: usize) -> Result<&[u8], ShapeError> {
        let (taken, rest) = self.rest.split_at_checked(bytes).ok_or(ShapeError::Short)?;
        self.rest = rest;
        Ok(taken)
    }
}
