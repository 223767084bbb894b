//! The log: topics, their partitions, segments and indexes.

pub mod ages;
pub(crate) mod compaction;
pub mod index;
pub mod partition;
pub(crate) mod scan;
pub mod segment;
pub mod settings;
#[cfg(test)]
mod tests;
pub mod topic;

pub use ages::{Ages, Now};
pub(crate) use partition::Trust;
pub use partition::{Extent, Partition, ReadError};
pub use settings::{SettingError, Settings};
pub use topic::{Topic, Topics};
