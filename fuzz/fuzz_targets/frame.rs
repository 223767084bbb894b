//! The fixed header: however the bytes of a packet come, the same is made of them.

#![no_main]

use broker::codec::{MAX_PACKET_SIZE, frame, header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((limit, bytes)) = input.split_first_chunk() else { return };
    let limit = u32::from_be_bytes(*limit) % (MAX_PACKET_SIZE + 1);
    let whole = frame(bytes, limit);
    match header(bytes, limit) {
        Err(error) => assert_eq!(whole, Err(error)),
        Ok(None) => assert_eq!(whole, Ok(None)),
        Ok(Some(header)) => {
            assert!((2..=5).contains(&header.header_length) && header.packet_length() <= limit as usize);
            assert_eq!(whole.expect("the header is good").is_some(), header.packet_length() <= bytes.len());
        }
    }
    // The first prefix that is anything is what the whole is.
    let first = (0..=bytes.len()).find_map(|end| match frame(&bytes[..end], limit) {
        Ok(None) => None,
        found => Some(found),
    });
    assert_eq!(first.unwrap_or(Ok(None)), whole);
    if let Ok(Some(frame)) = whole {
        assert!(frame.length <= bytes.len() && bytes[..frame.length].ends_with(frame.body));
    }
});
