//! Keyed state and queues: what the journal changes besides partitions, as blind puts and deletes (J4),
//! and how it is written into frames.

/// A family of keys. `bridge` owns those below 16, its user the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Space(pub u8);

impl Space {
    /// Topics that are deleted and that queues point into, by id.
    pub const DELETED: Space = Space(0);
    /// Topic definitions by id.
    pub const TOPICS: Space = Space(1);
    /// Committed consumer group offsets (kafka::offsets).
    pub const OFFSETS: Space = Space(2);
    /// Idempotent producers by topic, partition and id.
    pub const PRODUCERS: Space = Space(3);
    /// Counters.
    pub const META: Space = Space(4);
    /// Queues: by (queue) the next sequence, by (queue, sequence) an entry.
    pub const QUEUES: Space = Space(5);
}

/// Where a record lies in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pointer {
    /// Topic id.
    pub topic: u32,
    /// Partition index.
    pub partition: u32,
    /// Offset.
    pub offset: i64,
}

/// One entry of a queue (S2): 32 bytes in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The record; meaningless once released.
    pub pointer: Pointer,
    /// What the queue's owner keeps with it.
    pub tag: u32,
    /// When it is dropped, in seconds since 1970; 0 never.
    pub expires_s: u32,
    /// The record is delivered, only the entry's sequence is still in use (S3, S8: QoS 2 awaiting PUBCOMP).
    pub released: bool,
}

/// A change of keyed state or of a queue, as it stands in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// Sets a key.
    Put(Space, &'a [u8], &'a [u8]),
    /// Removes a key.
    Delete(Space, &'a [u8]),
    /// A queue begins; its sequence at 0.
    Open(u64),
    /// A queue ends, with all its entries.
    Close(u64),
    /// (queue, sequence, entry)
    Enqueue(u64, u64, Entry),
    /// (queue, sequence)
    Remove(u64, u64),
    /// (queue, sequence)
    Release(u64, u64),
    /// Kafka clients see nothing below this any more (DeleteRecords). Not stored: a checkpoint names each log start.
    Trim(Pointer),
}

impl Change<'_> {
    /// Appends its encoding: a kind byte, then LEB128 numbers and bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Change::Put(space, key, value) => {
                out.extend_from_slice(&[1, space.0]);
                put_bytes(out, key);
                put_bytes(out, value);
            }
            Change::Delete(space, key) => {
                out.extend_from_slice(&[2, space.0]);
                put_bytes(out, key);
            }
            Change::Open(queue) => put_numbers(out, 3, &[*queue]),
            Change::Close(queue) => put_numbers(out, 4, &[*queue]),
            Change::Enqueue(queue, sequence, entry) => {
                let Pointer { topic, partition, offset } = entry.pointer;
                put_numbers(out, if entry.released { 8 } else { 5 }, &[*queue, *sequence, topic.into()]);
                for number in [partition.into(), offset as u64, entry.tag.into(), entry.expires_s.into()] {
                    put_number(out, number);
                }
            }
            Change::Remove(queue, sequence) => put_numbers(out, 6, &[*queue, *sequence]),
            Change::Release(queue, sequence) => put_numbers(out, 7, &[*queue, *sequence]),
            Change::Trim(Pointer { topic, partition, offset }) => {
                put_numbers(out, 9, &[(*topic).into(), (*partition).into(), *offset as u64]);
            }
        }
    }
}

impl<'a> Change<'a> {
    /// Reads one from the front; `None` when it is not one.
    pub fn decode(bytes: &mut &'a [u8]) -> Option<Change<'a>> {
        let (kind, rest) = bytes.split_first()?;
        *bytes = rest;
        Some(match kind {
            1 => Change::Put(take_space(bytes)?, take_bytes(bytes)?, take_bytes(bytes)?),
            2 => Change::Delete(take_space(bytes)?, take_bytes(bytes)?),
            3 => Change::Open(take_number(bytes)?),
            4 => Change::Close(take_number(bytes)?),
            5 | 8 => {
                let (queue, sequence) = (take_number(bytes)?, take_number(bytes)?);
                let pointer = Pointer {
                    topic: take_u32(bytes)?,
                    partition: take_u32(bytes)?,
                    offset: i64::try_from(take_number(bytes)?).ok()?,
                };
                let (tag, expires_s) = (take_u32(bytes)?, take_u32(bytes)?);
                Change::Enqueue(queue, sequence, Entry { pointer, tag, expires_s, released: *kind == 8 })
            }
            6 => Change::Remove(take_number(bytes)?, take_number(bytes)?),
            7 => Change::Release(take_number(bytes)?, take_number(bytes)?),
            9 => Change::Trim(Pointer {
                topic: take_u32(bytes)?,
                partition: take_u32(bytes)?,
                offset: i64::try_from(take_number(bytes)?).ok()?,
            }),
            _ => return None,
        })
    }
}

fn put_numbers(out: &mut Vec<u8>, kind: u8, numbers: &[u64]) {
    out.push(kind);
    for number in numbers {
        put_number(out, *number);
    }
}

/// Appends a number as LEB128.
pub fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Reads a LEB128 number from the front; `None` when it is cut or over 64 bits.
pub fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for (i, byte) in bytes.iter().take(10).enumerate() {
        if i == 9 && *byte > 1 {
            return None;
        }
        number |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            *bytes = &bytes[i + 1..];
            return Some(number);
        }
    }
    None
}

/// Reads a LEB128 number that fits 32 bits.
pub fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    take_number(bytes)?.try_into().ok()
}

/// Appends bytes behind their length.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads bytes behind their length.
pub fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_number(bytes)?).ok()?;
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

fn take_space(bytes: &mut &[u8]) -> Option<Space> {
    let (space, rest) = bytes.split_first()?;
    *bytes = rest;
    Some(Space(*space))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn changes() -> impl Strategy<Value = (u8, Vec<u8>, Vec<u8>, u64, u64, u32)> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..200);
        (0u8..7, bytes(), bytes(), any::<u64>(), any::<u64>(), any::<u32>())
    }

    proptest! {
        #[test]
        fn a_change_comes_back_as_it_went((kind, key, value, queue, sequence, number) in changes()) {
            let pointer = Pointer { topic: number, partition: number / 3, offset: (sequence >> 1) as i64 };
            let entry = Entry { pointer, tag: number, expires_s: number / 7, released: number & 1 == 1 };
            let change = match kind {
                0 => Change::Put(Space(9), &key, &value),
                1 => Change::Delete(Space(9), &key),
                2 => Change::Open(queue),
                3 => Change::Close(queue),
                4 => Change::Enqueue(queue, sequence, entry),
                5 => Change::Remove(queue, sequence),
                _ => Change::Release(queue, sequence),
            };
            let mut out = Vec::new();
            change.encode(&mut out);
            let mut rest = &out[..];
            prop_assert_eq!(Change::decode(&mut rest), Some(change));
            prop_assert!(rest.is_empty());
            for cut in 0..out.len() {
                prop_assert_eq!(Change::decode(&mut &out[..cut]), None);
            }
        }

        #[test]
        fn any_bytes_decode_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut rest = &bytes[..];
            while Change::decode(&mut rest).is_some() {}
        }
    }
}
