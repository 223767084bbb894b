//! ApiVersions: what is served. Every client asks this first.

use bytes::{BufMut, Bytes};
use kafka_protocol::{
    ResponseError,
    messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse, api_versions_response::ApiVersion},
};

use super::{
    APIS, Api,
    call::{Call, Work, finish_frame, start_frame},
};

pub(super) fn api_versions(mut call: Call) -> Work {
    Box::pin(async move {
        let request: ApiVersionsRequest = call.decode()?;
        let named =
            is_software_word(&request.client_software_name) && is_software_word(&request.client_software_version);
        let response = if call.version >= 3 && !named {
            ApiVersionsResponse::default().with_error_code(ResponseError::InvalidRequest.code())
        } else {
            tracing::debug!(
                peer = %call.client.peer,
                client_id = %call.client_id,
                software = %request.client_software_name,
                software_version = %request.client_software_version,
                "kafka client"
            );
            ApiVersionsResponse::default().with_api_keys(APIS.iter().map(range).collect())
        };
        call.answer(&response)
    })
}

fn range(api: &Api) -> ApiVersion {
    ApiVersion::default().with_api_key(api.key as i16).with_min_version(api.min).with_max_version(api.max)
}

/// Letters and digits; `-` and `.` inside.
fn is_software_word(word: &str) -> bool {
    let plain = |b: &u8| b.is_ascii_alphanumeric();
    let inside = |b: u8| plain(&b) || b == b'-' || b == b'.';
    let bytes = word.as_bytes();
    bytes.first().is_some_and(plain) && bytes.last().is_some_and(plain) && word.bytes().all(inside)
}

/// The answer to a version that is not known: version 0, with an error and the range of this very
/// API, so that the client can ask again.
pub(super) fn unknown_version(correlation_id: i32) -> Bytes {
    let mut frame = start_frame(correlation_id, 12);
    frame.put_i16(ResponseError::UnsupportedVersion.code());
    let own = APIS.iter().filter(|api| api.key == ApiKey::ApiVersions);
    frame.put_i32(own.clone().count() as i32);
    own.for_each(|api| {
        frame.put_i16(api.key as i16);
        frame.put_i16(api.min);
        frame.put_i16(api.max);
    });
    finish_frame(frame)
}
