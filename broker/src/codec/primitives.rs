//! Integers, strings and binary data (1.5): a reader over a slice, and writers onto a `Vec`.

use super::DecodeError;

/// The largest variable byte integer.
pub(super) const VARINT_MAX: u32 = 268_435_455;

/// Takes fields off the front of a slice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    /// What is left.
    #[inline]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Nothing may be left.
    #[inline]
    pub fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::LeftOver) }
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (array, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*array)
    }

    #[inline]
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    #[inline]
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    #[inline]
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    /// A packet identifier: a `u16` that is not 0.
    #[inline]
    pub fn packet_id(&mut self) -> Result<u16, DecodeError> {
        match self.u16()? {
            0 => Err(DecodeError::PacketIdZero),
            id => Ok(id),
        }
    }

    /// A variable byte integer in its shortest form.
    #[inline]
    pub fn varint(&mut self) -> Result<u32, DecodeError> {
        let mut value = 0;
        for index in 0..4 {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7F) << (7 * index);
            if byte < 0x80 {
                let needless = byte == 0 && index > 0;
                return if needless { Err(DecodeError::VariableByteInteger) } else { Ok(value) };
            }
        }
        Err(DecodeError::VariableByteInteger)
    }

    #[inline]
    pub fn bytes(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// Binary data: a length, then that many bytes.
    #[inline]
    pub fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.u16()?;
        self.bytes(usize::from(length))
    }

    /// A string: UTF-8 without U+0000.
    pub fn string(&mut self) -> Result<&'a str, DecodeError> {
        let text = std::str::from_utf8(self.binary()?).map_err(|_| DecodeError::Utf8)?;
        if text.as_bytes().contains(&0) { Err(DecodeError::Nul) } else { Ok(text) }
    }

    /// The properties of a packet, without their length.
    #[inline]
    pub fn properties(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.varint()?;
        self.bytes(length as usize)
    }
}

pub(super) fn put_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_be_bytes());
}

pub(super) fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// At most 65,535 bytes.
pub(super) fn put_binary(out: &mut Vec<u8>, bytes: &[u8]) {
    debug_assert!(bytes.len() <= usize::from(u16::MAX), "field of {} bytes", bytes.len());
    put_u16(out, bytes.len() as u16);
    out.extend_from_slice(bytes);
}

/// The bytes of a variable byte integer, and how many of them count.
#[inline]
fn varint_bytes(mut value: u32) -> ([u8; 4], usize) {
    debug_assert!(value <= VARINT_MAX, "{value} is no variable byte integer");
    let mut bytes = [0; 4];
    let mut count = 0;
    for byte in &mut bytes {
        *byte = (value & 0x7F) as u8;
        value >>= 7;
        count += 1;
        if value == 0 {
            break;
        }
        *byte |= 0x80;
    }
    (bytes, count)
}

/// At most [`VARINT_MAX`].
#[inline]
pub(super) fn put_varint(out: &mut Vec<u8>, value: u32) {
    let (bytes, count) = varint_bytes(value);
    out.extend_from_slice(&bytes[..count]);
}

/// How many bytes `value` takes as a variable byte integer.
#[inline]
pub fn varint_length(value: usize) -> usize {
    match value {
        0..=0x7F => 1,
        0x80..=0x3FFF => 2,
        0x4000..=0x1F_FFFF => 3,
        _ => 4,
    }
}

/// Puts the length of `out[at..]` in front of it. Saves counting beforehand where speed does not matter.
pub(super) fn insert_length(out: &mut Vec<u8>, at: usize) {
    let (bytes, count) = varint_bytes((out.len() - at) as u32);
    out.extend_from_slice(&bytes[..count]);
    out[at..].rotate_right(count);
}

#[cfg(test)]
mod tests {
    use super::{DecodeError, Reader, VARINT_MAX, insert_length, put_varint, varint_length};

    #[test]
    fn varints_at_the_borders_of_1_5_5() {
        let cases: [(u32, &[u8]); 8] = [
            (0, &[0]),
            (127, &[0x7F]),
            (128, &[0x80, 1]),
            (16_383, &[0xFF, 0x7F]),
            (16_384, &[0x80, 0x80, 1]),
            (2_097_151, &[0xFF, 0xFF, 0x7F]),
            (2_097_152, &[0x80, 0x80, 0x80, 1]),
            (VARINT_MAX, &[0xFF, 0xFF, 0xFF, 0x7F]),
        ];
        for (value, bytes) in cases {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out, bytes);
            assert_eq!(varint_length(value as usize), bytes.len());
            let mut reader = Reader::new(bytes);
            assert_eq!(reader.varint(), Ok(value));
            assert_eq!(reader.finish(), Ok(()));
        }
    }

    #[test]
    fn varints_too_long_or_cut_off() {
        let read = |bytes: &[u8]| Reader::new(bytes).varint();
        assert_eq!(read(&[0x80, 0]), Err(DecodeError::VariableByteInteger));
        assert_eq!(read(&[0x80, 0x80, 0x80, 0x80, 1]), Err(DecodeError::VariableByteInteger));
        assert_eq!(read(&[0x80]), Err(DecodeError::Truncated));
    }

    #[test]
    fn strings_of_1_5_4() {
        let read = |bytes: &'static [u8]| Reader::new(bytes).string();
        assert_eq!(read(b"\x00\x00"), Ok(""));
        assert_eq!(read("\x00\x05A\u{2A6D4}".as_bytes()), Ok("A\u{2A6D4}"));
        assert_eq!(read(b"\x00\x03\xEF\xBB\xBF"), Ok("\u{FEFF}"), "kept [MQTT-1.5.4-3]");
        assert_eq!(read(b"\x00\x02\x01\x7F"), Ok("\u{1}\u{7F}"), "control characters are accepted");
        assert_eq!(read(b"\x00\x03\xEF\xBF\xBF"), Ok("\u{FFFF}"), "non-characters are accepted");
        assert_eq!(read(b"\x00\x03\xED\xA0\x80"), Err(DecodeError::Utf8), "surrogate");
        assert_eq!(read(b"\x00\x02\xC0\x80"), Err(DecodeError::Utf8), "overlong NUL");
        assert_eq!(read(b"\x00\x02a\x00"), Err(DecodeError::Nul));
        assert_eq!(read(b"\x00\x02a"), Err(DecodeError::Truncated));
    }

    #[test]
    fn a_length_inserted_afterwards() {
        let mut out = vec![9];
        out.extend_from_slice(&[7; 200]);
        insert_length(&mut out, 1);
        assert_eq!(out[..4], [9, 0xC8, 1, 7]);
        assert_eq!(out.len(), 203);
    }
}
