//! The codec, with the client's side of it as its own tests have it.

pub use broker::codec::*;

#[allow(dead_code, reason = "the targets need half of it")]
#[path = "../../broker/src/codec/mirror.rs"]
pub mod mirror;
