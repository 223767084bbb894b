//! What `fuzz/` drives, and nothing else: built with `--cfg fuzzing` only.

use bytes::Bytes;
use kafka_protocol::messages::{ApiKey, RequestKind};

use super::{APIS, shape};

/// Walks and decodes a request's body, as a [`Call`](super::call::Call) does, of an API and in a version that the
/// first two bytes choose. What was walked is what the codec then takes.
pub fn request(bytes: &[u8]) {
    let [api, version, body @ ..] = bytes else { return };
    let api = &APIS[usize::from(*api) % APIS.len()];
    let version = api.min + i16::from(*version) % (api.max - api.min + 1);
    let _ = shape::check_tags(body);
    let Ok(walked) = shape::check(body, api.request, version, version >= api.flexible_from) else { return };
    let mut rest = Bytes::copy_from_slice(body);
    let decoded = RequestKind::decode(api.key, &mut rest, version).is_ok();
    // Fetch 12 has a tagged field of its own, a string: the codec takes its length for true, and not its tag's.
    // Behind it are only tagged fields, and what the codec makes of them is bounded by what is there.
    if decoded && (api.key, version) != (ApiKey::Fetch, 12) {
        assert_eq!(body.len() - rest.len(), walked, "{:?} version {version}: the shape is not the codec's", api.key);
    }
}
