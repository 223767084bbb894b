//! What devices say, as any Kafka client reads it.

mod compaction;
mod groups_resume;
mod mapping;
mod offsets;
mod produce;
