//! The log: topics, their partitions, segments and indexes.

pub mod index;
pub mod partition;
pub mod segment;
pub mod topic;

pub use partition::{Extent, Partition, ReadError};
pub use topic::{Topic, Topics};
