//! The PROXY header: however it arrives, it is read to its last byte and no further, and its end is where the client
//! begins.

#![no_main]

use broker::listener::proxy::{missing, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let whole = parse(input);
    if let Ok(Some((header, length))) = whole {
        assert!(length <= input.len());
        assert_eq!(parse(&input[..length]), Ok(Some((header, length))), "what follows is the client's");
        for cut in 0..length {
            assert_eq!(parse(&input[..cut]), Ok(None), "cut at {cut}");
        }
    }
    // Read as a listener reads it: never more than what must still come.
    let mut read = 0;
    while read < input.len() {
        read = input.len().min(read + missing(&input[..read]));
        match parse(&input[..read]) {
            Ok(None) => {}
            Ok(Some((_, length))) => {
                assert_eq!(length, read, "not a byte beyond it");
                break;
            }
            Err(_) => break,
        }
    }
});
