//! What the targets share.

pub mod codec;

use broker::codec::Version;

/// The version that a byte chooses.
pub fn version(byte: u8) -> Version {
    [Version::V3_1, Version::V3_1_1, Version::V5][usize::from(byte) % 3]
}

/// Input as the targets of packets take it: which version, the first byte of a packet, its body. A Remaining Length
/// that fits is put in, or the fuzzer would try little else.
pub fn version_and_packet(input: &[u8]) -> Option<(Version, Vec<u8>)> {
    let [chosen, first_byte, body @ ..] = input else { return None };
    Some((version(*chosen), codec::mirror::packet(*first_byte, body)))
}
