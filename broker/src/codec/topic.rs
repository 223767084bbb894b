//! Topic names and topic filters (4.7, 4.8.2).

use super::DecodeError;

/// The longest topic name or filter, in bytes [MQTT-4.7.3-3].
pub const MAX_TOPIC_BYTES: usize = u16::MAX as usize;

const SHARE_PREFIX: &str = "$share/";

/// Checks a topic name: not empty, no wildcard, no U+0000, at most [`MAX_TOPIC_BYTES`].
pub fn validate_topic_name(name: &str) -> Result<(), DecodeError> {
    if name.is_empty() || name.len() > MAX_TOPIC_BYTES {
        return Err(DecodeError::TopicName);
    }
    check_characters(name.as_bytes())
}

/// A topic name off the wire, or nothing at all (a PUBLISH that relies on its topic alias).
#[inline]
pub(super) fn name_or_empty(bytes: &[u8]) -> Result<&str, DecodeError> {
    let name = std::str::from_utf8(bytes).map_err(|_| DecodeError::Utf8)?;
    check_characters(bytes)?;
    Ok(name)
}

/// Refuses U+0000 and wildcards, eight bytes at a time, as it runs for every PUBLISH.
#[inline]
fn check_characters(name: &[u8]) -> Result<(), DecodeError> {
    let (words, _) = name.as_chunks::<8>();
    let mut suspicious = words.iter().any(|&word| word_has_bad(word));
    suspicious |= match name.last_chunk::<8>() {
        // Overlaps the last whole word: cheaper than its bytes one by one.
        Some(&last) => word_has_bad(last),
        None => name.iter().any(|byte| matches!(byte, 0 | b'+' | b'#')),
    };
    if suspicious {
        return Err(if name.contains(&0) { DecodeError::Nul } else { DecodeError::TopicName });
    }
    Ok(())
}

/// Whether one of eight bytes is 0, `+` or `#`; the latter two differ in bit 3 alone.
#[inline]
fn word_has_bad(word: [u8; 8]) -> bool {
    const EACH: u64 = u64::from_ne_bytes([1; 8]);
    // The high bit of some byte ends up set if, and only if, some byte is 0.
    let zeroes = |word: u64| word.wrapping_sub(EACH) & !word & (EACH * 0x80);
    let word = u64::from_ne_bytes(word);
    let wildcards_as_0 = (word | (EACH * 0x08)) ^ (EACH * 0x2B);
    zeroes(word) | zeroes(wildcards_as_0) != 0
}

/// Checks a topic filter: not empty, at most [`MAX_TOPIC_BYTES`], no U+0000, `+` only as a whole level, `#` only
/// as the whole last level; and if it starts with `$share/`, that it is a well-formed shared subscription.
pub fn validate_filter(filter: &str) -> Result<(), DecodeError> {
    if filter.len() > MAX_TOPIC_BYTES {
        return Err(DecodeError::TopicFilter);
    }
    if filter.as_bytes().contains(&0) {
        return Err(DecodeError::Nul);
    }
    match filter.strip_prefix(SHARE_PREFIX) {
        None => validate_levels(filter),
        Some(shared) => {
            let (name, filter) = shared.split_once('/').ok_or(DecodeError::SharedFilter)?;
            if name.is_empty() || name.contains(['+', '#']) || filter.is_empty() {
                return Err(DecodeError::SharedFilter);
            }
            validate_levels(filter)
        }
    }
}

fn validate_levels(filter: &str) -> Result<(), DecodeError> {
    if filter.is_empty() {
        return Err(DecodeError::TopicFilter);
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let good = match level {
            "+" => true,
            "#" => levels.peek().is_none(),
            _ => !level.contains(['+', '#']),
        };
        if !good {
            return Err(DecodeError::TopicFilter);
        }
    }
    Ok(())
}

/// Splits `$share/{name}/{filter}` into name and filter; `None` for what is no valid shared subscription.
pub fn split_share(filter: &str) -> Option<(&str, &str)> {
    let shared = filter.strip_prefix(SHARE_PREFIX)?;
    validate_filter(filter).ok()?;
    shared.split_once('/')
}

#[cfg(test)]
mod tests {
    use super::{DecodeError, split_share, validate_filter, validate_topic_name};

    #[test]
    fn names() {
        for good in ["a", "/", "//", " ", "a/b/c", "$SYS/x", "é/ü", "$share/a/b"] {
            assert_eq!(validate_topic_name(good), Ok(()), "{good}");
        }
        for bad in ["", "+", "#", "a/+", "a#", "a+b"] {
            assert_eq!(validate_topic_name(bad), Err(DecodeError::TopicName), "{bad}");
        }
        assert_eq!(validate_topic_name("a\0"), Err(DecodeError::Nul));
        assert_eq!(validate_topic_name(&"x".repeat(65_535)), Ok(()));
        assert_eq!(validate_topic_name(&"x".repeat(65_536)), Err(DecodeError::TopicName));
    }

    #[test]
    fn a_bad_byte_is_found_wherever_it_stands_and_no_other_byte_is_bad() {
        for length in 1..=40 {
            for at in 0..length {
                for byte in 0..=0x7F_u8 {
                    let mut name = vec![b'x'; length];
                    name[at] = byte;
                    let found = super::check_characters(&name);
                    let expected = match byte {
                        0 => Err(DecodeError::Nul),
                        b'+' | b'#' => Err(DecodeError::TopicName),
                        _ => Ok(()),
                    };
                    assert_eq!(found, expected, "{byte:#04x} at {at} of {length}");
                }
            }
        }
        for byte in 0x80..=0xFF {
            assert_eq!(super::check_characters(&[byte; 9]), Ok(()));
        }
    }

    #[test]
    fn filters() {
        for good in ["#", "+", "/", "a", "a/#", "+/#", "/+", "+/+/", "a/+/b", "$SYS/#", "$share", "é/+"] {
            assert_eq!(validate_filter(good), Ok(()), "{good}");
        }
        for bad in ["", "a#", "#/a", "a/#/", "##", "a+", "+a/b", "a/b+", "++"] {
            assert_eq!(validate_filter(bad), Err(DecodeError::TopicFilter), "{bad}");
        }
        assert_eq!(validate_filter("a\0"), Err(DecodeError::Nul));
        assert_eq!(validate_filter(&"x".repeat(65_536)), Err(DecodeError::TopicFilter));
    }

    #[test]
    fn shared_subscriptions() {
        assert_eq!(split_share("$share/g/a/+"), Some(("g", "a/+")));
        assert_eq!(split_share("$share/g//"), Some(("g", "/")));
        assert_eq!(split_share("$share/g/$share/h/a"), Some(("g", "$share/h/a")));
        assert_eq!(split_share("$shared/g/a"), None);
        assert_eq!(split_share("a/b"), None);
        for bad in ["$share/", "$share/g", "$share/g/", "$share//a", "$share/+/a", "$share/g#/a"] {
            assert_eq!(validate_filter(bad), Err(DecodeError::SharedFilter), "{bad}");
            assert_eq!(split_share(bad), None, "{bad}");
        }
        assert_eq!(validate_filter("$share/g/a#"), Err(DecodeError::TopicFilter));
        assert_eq!(split_share("$share/g/a#"), None);
    }
}
