//! The codecs that producers compress record batches with. Batches are stored and served as they came; only compaction
//! and queries by time look inside.

use std::borrow::Cow;
use std::io::{self, Read, Write};

use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use lz4_flex::frame::{FrameDecoder, FrameEncoder};
use ruzstd::decoding::StreamingDecoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use crate::batch::{self, Header};

/// Most bytes that the records of one batch are unpacked to: a producer can send a thousand times as many.
pub(crate) const UNPACKED_BYTES_MAX: usize = if cfg!(test) { 1 << 20 } else { 32 << 20 };

/// What the first bytes of Snappy are when snappy-java framed it: blocks with their lengths follow.
const XERIAL_MAGIC: &[u8; 8] = b"\x82SNAPPY\0";
const XERIAL_HEADER_BYTES: usize = 16;

/// How the records of a batch are compressed, by the number in its attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Codec {
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

impl Codec {
    /// `None` for a number that Kafka has given to none.
    pub(crate) fn of(header: &Header) -> Option<Codec> {
        Some(match header.codec() {
            0 => Codec::None,
            1 => Codec::Gzip,
            2 => Codec::Snappy,
            3 => Codec::Lz4,
            4 => Codec::Zstd,
            _ => return None,
        })
    }

    /// Packs records.
    pub(crate) fn pack<'a>(self, records: &'a [u8]) -> io::Result<Cow<'a, [u8]>> {
        Ok(match self {
            Codec::None => Cow::Borrowed(records),
            Codec::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(records)?;
                encoder.finish()?.into()
            }
            Codec::Snappy => snap::raw::Encoder::new().compress_vec(records).map_err(io::Error::other)?.into(),
            Codec::Lz4 => {
                let mut encoder = FrameEncoder::new(Vec::new());
                encoder.write_all(records)?;
                encoder.finish().map_err(io::Error::other)?.into()
            }
            Codec::Zstd => compress_to_vec(records, CompressionLevel::Fastest).into(),
        })
    }

    /// Unpacks what [`Codec::pack`], or a producer, packed; an error when that is damaged or more than
    /// [`UNPACKED_BYTES_MAX`].
    fn unpack(self, packed: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Codec::None => Ok(packed.to_vec()),
            Codec::Gzip => read_bounded(MultiGzDecoder::new(packed)),
            Codec::Snappy => unpack_snappy(packed),
            Codec::Lz4 => read_bounded(FrameDecoder::new(packed)),
            Codec::Zstd => read_bounded(StreamingDecoder::new(packed).map_err(io::Error::other)?),
        }
    }
}

fn too_much() -> io::Error {
    io::Error::other("it unpacks to too much")
}

fn read_bounded(reader: impl Read) -> io::Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    reader.take(UNPACKED_BYTES_MAX as u64 + 1).read_to_end(&mut unpacked)?;
    if unpacked.len() > UNPACKED_BYTES_MAX { Err(too_much()) } else { Ok(unpacked) }
}

/// One block, as librdkafka sends it, or several in snappy-java's frame.
fn unpack_snappy(packed: &[u8]) -> io::Result<Vec<u8>> {
    let mut unpacked = Vec::new();
    if !packed.starts_with(XERIAL_MAGIC) {
        unpack_block(packed, &mut unpacked)?;
        return Ok(unpacked);
    }
    let cut = || io::Error::other("a cut block");
    let mut rest = packed.get(XERIAL_HEADER_BYTES..).ok_or_else(cut)?;
    while !rest.is_empty() {
        let (length, after) = rest.split_first_chunk().ok_or_else(cut)?;
        let (block, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or_else(cut)?;
        unpack_block(block, &mut unpacked)?;
        rest = after;
    }
    Ok(unpacked)
}

fn unpack_block(block: &[u8], unpacked: &mut Vec<u8>) -> io::Result<()> {
    let bytes = snap::raw::decompress_len(block).map_err(io::Error::other)?;
    let at = unpacked.len();
    if bytes > UNPACKED_BYTES_MAX - at {
        return Err(too_much());
    }
    unpacked.resize(at + bytes, 0);
    snap::raw::Decoder::new().decompress(block, &mut unpacked[at..]).map_err(io::Error::other)?;
    Ok(())
}

/// The records of one whole batch, one after the other. An error, which is its producer's fault, when they do not unpack.
pub(crate) fn records_of<'a>(header: &Header, bytes: &'a [u8]) -> io::Result<Cow<'a, [u8]>> {
    let packed = bytes.get(batch::HEADER_BYTES..).unwrap_or_default();
    match Codec::of(header) {
        None => Err(io::Error::other("an unknown codec")),
        Some(Codec::None) => Ok(packed.into()),
        Some(codec) => codec.unpack(packed).map(Cow::Owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

    proptest! {
        #[test]
        fn what_was_packed_is_unpacked(
            pieces in proptest::collection::vec((any::<u8>(), 1usize..3_000, 1usize..40), 0..30),
        ) {
            // Noise and repetition in turn.
            let mut records = Vec::new();
            for (seed, bytes, step) in pieces {
                records.extend((0..bytes).map(|at| if step < 20 { (at / step) as u8 ^ seed } else { seed }));
            }
            for codec in CODECS {
                let packed = codec.pack(&records).expect("packs");
                prop_assert_eq!(&codec.unpack(&packed).expect("unpacks"), &records, "{:?}", codec);
            }
        }

        #[test]
        fn what_is_damaged_is_an_error_or_something_else_and_no_panic(
            at in any::<prop::sample::Index>(), flip in 1u8.., cut in any::<prop::sample::Index>(),
        ) {
            let records: Vec<u8> = (0..4_000u32).flat_map(|n| (n * n / 7).to_be_bytes()).collect();
            for codec in CODECS {
                let mut packed = codec.pack(&records).expect("packs").into_owned();
                let _ = codec.unpack(&packed[..cut.index(packed.len())]);
                let at = at.index(packed.len());
                packed[at] ^= flip;
                let _ = codec.unpack(&packed);
            }
        }
    }

    #[test]
    fn what_unpacks_to_too_much_is_refused() {
        let zeros = vec![0; UNPACKED_BYTES_MAX + 1];
        for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let packed = codec.pack(&zeros).expect("packs");
            assert!(packed.len() < zeros.len() / 10, "{codec:?}");
            assert!(codec.unpack(&packed).is_err(), "{codec:?}");
            let fits = codec.pack(&zeros[1..]).expect("packs");
            assert_eq!(codec.unpack(&fits).map(|unpacked| unpacked.len()).ok(), Some(UNPACKED_BYTES_MAX), "{codec:?}");
        }
    }

    #[test]
    fn snappy_in_blocks_is_unpacked() {
        let mut packed = XERIAL_MAGIC.to_vec();
        packed.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1]);
        for block in [&b"one and "[..], b"another"] {
            let block = Codec::Snappy.pack(block).expect("packs");
            packed.extend_from_slice(&(block.len() as u32).to_be_bytes());
            packed.extend_from_slice(&block);
        }
        assert_eq!(Codec::Snappy.unpack(&packed).expect("unpacks"), b"one and another");
        assert!(Codec::Snappy.unpack(&packed[..packed.len() - 1]).is_err());
    }
}
