//! The Kafka protocol server: any Kafka client reads, and may write, the log.
//!
//! In data order:
//!
//! - [`Server`]: what all connections share; `serve` one connection, `run_timers` once;
//! - `connection`: bytes to requests, answers to bytes, in order;
//! - `shape`: what a request looks like, checked before the codec believes its lengths;
//! - `call`: one request on its way: decode, answer;
//! - this file: `APIS`, the one table of what is served;
//! - a file for each API or small family: `api_versions`, `metadata`, `topics` (CreateTopics), `delete_topics`,
//!   `delete_records`, `configs` (DescribeConfigs), `alter_configs`, `produce`, `producer_id`, `fetch`,
//!   `list_offsets`, `leader_epoch`, `coordinator` (FindCoordinator, DescribeCluster), `membership` (Join, Sync,
//!   Heartbeat, Leave), `offset_commit`, `offset_fetch`, `group_admin`, `sasl`;
//! - `settings`: what topics may be given, and what is in force;
//! - `access`: who a client is and what it may do, to be asked of whoever knows the users;
//! - `groups` drives [`crate::group::Coordinator`], `offsets` keeps what groups committed.
//!
//! One request of a connection is worked on at a time, as Kafka does, with one exception: a Produce
//! is submitted when it is read, so that several of them can share a commit to disk. Nothing is read
//! behind a request that decides who the client is.

mod access;
mod alter_configs;
mod api_versions;
mod call;
mod configs;
mod connection;
mod coordinator;
mod delete_records;
mod delete_topics;
mod fetch;
#[cfg(fuzzing)]
pub mod fuzzing;
mod group_admin;
mod groups;
mod leader_epoch;
mod list_offsets;
mod membership;
mod metadata;
mod metrics;
mod offset_commit;
mod offset_fetch;
pub(crate) mod offsets;
mod produce;
mod producer_id;
mod sasl;
mod server;
mod settings;
mod shape;
#[cfg(test)]
mod tests;
mod topics;

use kafka_protocol::messages::ApiKey;

pub use access::{Access, Authentication, AuthenticationError, Open, Operation, Principal};
pub use call::ConnectionError;
pub use metrics::Metrics;
pub use server::{Config, Entry, Lag, Server};

use call::{Call, Work};
use shape::Field;

/// An API that is served, and how.
struct Api {
    key: ApiKey,
    /// Versions served, both included. Never raise a minimum: old librdkafka switches features by
    /// testing for single versions, far below those it then uses.
    min: i16,
    max: i16,
    /// First version with compact lengths and tagged fields.
    flexible_from: i16,
    request: &'static [Field],
    handler: fn(Call) -> Work,
    /// Its work may last until something happens; it ends when the client hangs up.
    parks: bool,
    /// Decides who the client is: nothing that comes behind it is looked at before it is answered.
    decides_who: bool,
}

/// Everything that is served. Produce 0 to 2 are in the table for librdkafka before 2.11.1, which
/// sends no compression without them; what they carry is answered with UNSUPPORTED_VERSION.
static APIS: [Api; 26] = [
    api(ApiKey::Produce, 0, 9, 9, shape::PRODUCE, produce::produce),
    parking(api(ApiKey::Fetch, 4, 12, 12, shape::FETCH, fetch::fetch)),
    api(ApiKey::ListOffsets, 1, 7, 6, shape::LIST_OFFSETS, list_offsets::list_offsets),
    api(ApiKey::Metadata, 0, 12, 9, shape::METADATA, metadata::metadata),
    api(ApiKey::OffsetCommit, 2, 9, 8, shape::OFFSET_COMMIT, offset_commit::offset_commit),
    api(ApiKey::OffsetFetch, 1, 8, 6, shape::OFFSET_FETCH, offset_fetch::offset_fetch),
    api(ApiKey::FindCoordinator, 0, 4, 3, shape::FIND_COORDINATOR, coordinator::find_coordinator),
    parking(api(ApiKey::JoinGroup, 0, 9, 6, shape::JOIN_GROUP, membership::join_group)),
    api(ApiKey::Heartbeat, 0, 4, 4, shape::HEARTBEAT, membership::heartbeat),
    api(ApiKey::LeaveGroup, 0, 5, 4, shape::LEAVE_GROUP, membership::leave_group),
    parking(api(ApiKey::SyncGroup, 0, 5, 4, shape::SYNC_GROUP, membership::sync_group)),
    api(ApiKey::DescribeGroups, 0, 5, 5, shape::DESCRIBE_GROUPS, group_admin::describe_groups),
    api(ApiKey::ListGroups, 0, 5, 3, shape::LIST_GROUPS, group_admin::list_groups),
    deciding_who(api(ApiKey::SaslHandshake, 0, 1, 2, shape::SASL_HANDSHAKE, sasl::sasl_handshake)),
    api(ApiKey::ApiVersions, 0, 4, 3, shape::API_VERSIONS, api_versions::api_versions),
    api(ApiKey::CreateTopics, 2, 7, 5, shape::CREATE_TOPICS, topics::create_topics),
    api(ApiKey::DeleteTopics, 1, 6, 4, shape::DELETE_TOPICS, delete_topics::delete_topics),
    api(ApiKey::DeleteRecords, 0, 2, 2, shape::DELETE_RECORDS, delete_records::delete_records),
    api(ApiKey::InitProducerId, 0, 4, 2, shape::INIT_PRODUCER_ID, producer_id::init_producer_id),
    api(ApiKey::OffsetForLeaderEpoch, 2, 4, 4, shape::LEADER_EPOCH, leader_epoch::leader_epoch),
    api(ApiKey::DescribeConfigs, 1, 4, 4, shape::DESCRIBE_CONFIGS, configs::describe_configs),
    api(ApiKey::AlterConfigs, 0, 2, 2, shape::ALTER_CONFIGS, alter_configs::alter_configs),
    deciding_who(api(ApiKey::SaslAuthenticate, 0, 2, 2, shape::SASL_AUTHENTICATE, sasl::sasl_authenticate)),
    api(ApiKey::DeleteGroups, 0, 2, 2, shape::DELETE_GROUPS, group_admin::delete_groups),
    api(
        ApiKey::IncrementalAlterConfigs,
        0,
        1,
        1,
        shape::INCREMENTAL_ALTER_CONFIGS,
        alter_configs::incremental_alter_configs,
    ),
    api(ApiKey::DescribeCluster, 0, 1, 0, shape::DESCRIBE_CLUSTER, coordinator::describe_cluster),
];

const fn api(
    key: ApiKey,
    min: i16,
    max: i16,
    flexible_from: i16,
    request: &'static [Field],
    handler: fn(Call) -> Work,
) -> Api {
    Api { key, min, max, flexible_from, request, handler, parks: false, decides_who: false }
}

const fn parking(mut api: Api) -> Api {
    api.parks = true;
    api
}

const fn deciding_who(mut api: Api) -> Api {
    api.decides_who = true;
    api
}

fn find_api(key: i16) -> Option<&'static Api> {
    APIS.iter().find(|api| api.key as i16 == key)
}
