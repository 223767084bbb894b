//! The log: topics, their partitions, segments and indexes.

pub mod ages;
pub mod index;
pub mod partition;
pub mod segment;
pub mod settings;
pub mod topic;

pub use ages::{Ages, Now};
pub use partition::{Extent, Partition, ReadError};
pub use settings::{SettingError, Settings};
pub use topic::{Topic, Topics};
