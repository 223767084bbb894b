//! Keyed state: blind puts and deletes by space and key.

/// A family of keys. `bridge` owns those below 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Space(pub u8);

impl Space {
    /// Committed consumer group offsets (kafka::offsets).
    pub const OFFSETS: Space = Space(2);
}
