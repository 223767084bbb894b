//! Consumer groups, the "classic" protocol: who is a member, which generation, who leads.
//!
//! A pure state machine. Nothing here reads a clock, waits or writes: the driver (`kafka::groups`)
//! brings the time and a [`Token`] for each request that may have to wait, and carries the
//! [`Reply`]s back. What members say to each other (subscriptions, assignments) is opaque bytes,
//! so Kafka Connect's groups work as consumers' do.
//!
//! In data order:
//!
//! - [`Coordinator`]: every group, bounds, deadlines;
//! - `classic`: one group as requests see it (join, sync, heartbeat, leave);
//! - `rebalance`: what a group does between two generations, and when time passes;
//! - `member`: one member, and the vote for a protocol.
//!
//! Committed offsets are not here: they are keyed state, see `kafka::offsets`.

mod classic;
mod coordinator;
mod member;
mod rebalance;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;

pub use coordinator::Coordinator;

/// Milliseconds on a clock that never goes back, from a start of the driver's choice.
pub type Millis = u64;

/// Stands for one waiting request; the driver never gives one twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(pub u64);

/// The bounds of groups.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Shortest session timeout a member may ask for.
    pub session_timeout_min_ms: u64,
    /// Longest session timeout a member may ask for.
    pub session_timeout_max_ms: u64,
    /// How long an empty group waits for more members after the first.
    pub initial_rebalance_delay_ms: u64,
    /// Groups with members, at once.
    pub groups_max: usize,
    /// Members of one group, joined or about to.
    pub members_max: usize,
    /// Bytes of one member's protocols, and of one assignment.
    pub metadata_bytes_max: usize,
    /// Bytes of all members' protocols and assignments together.
    pub total_bytes_max: usize,
}

/// Why a group said no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// An empty group id, or one that is too long.
    #[error("peer: group id is empty or too long")]
    InvalidGroupId,
    /// Outside [`Limits::session_timeout_min_ms`] and its maximum.
    #[error("peer: session timeout is out of range")]
    InvalidSessionTimeout,
    /// No protocol that every other member has too, or another protocol type.
    #[error("peer: protocols do not match the group's")]
    InconsistentProtocol,
    /// Join again with the member id that came with this.
    #[error("peer: a member id is required")]
    MemberIdRequired,
    /// Nobody of this id is in the group.
    #[error("peer: unknown member")]
    UnknownMember,
    /// Another member has taken over this `group.instance.id`.
    #[error("peer: fenced by another member of the same instance id")]
    FencedInstance,
    /// The generation is over.
    #[error("peer: generation is not the current one")]
    IllegalGeneration,
    /// Join again.
    #[error("the group is rebalancing")]
    RebalanceInProgress,
    /// A bound on groups, members or their bytes is reached.
    #[error("limit: too many groups, members or metadata bytes")]
    Full,
}

/// One way of dividing the work, as a member offers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// "range", "cooperative-sticky", …
    pub name: Arc<str>,
    /// The member's subscription; opaque.
    pub metadata: Bytes,
}

/// A wish to be a member of the next generation.
#[derive(Clone, Debug)]
pub struct Join {
    /// Empty at the first contact.
    pub member_id: Arc<str>,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<Arc<str>>,
    /// From the request header; member ids begin with it.
    pub client_id: Arc<str>,
    /// Where the member is, for people to read.
    pub client_host: Arc<str>,
    /// Silence after which the member is taken for dead.
    pub session_timeout_ms: u64,
    /// How long the group waits for this member to join again.
    pub rebalance_timeout_ms: u64,
    /// "consumer", "connect", …
    pub protocol_type: Arc<str>,
    /// In order of preference.
    pub protocols: Vec<Protocol>,
    /// The client understands [`GroupError::MemberIdRequired`] (JoinGroup v4 and later).
    pub can_retry_with_id: bool,
    /// The client understands [`Joined::skip_assignment`] (JoinGroup v9 and later).
    pub can_skip_assignment: bool,
}

/// Membership of a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Number of the generation.
    pub generation: i32,
    /// As the members gave it.
    pub protocol_type: Arc<str>,
    /// The protocol chosen.
    pub protocol: Arc<str>,
    /// Who divides the work.
    pub leader: Arc<str>,
    /// The member that joined.
    pub member_id: Arc<str>,
    /// To the leader, everyone; to the others, nobody.
    pub members: Vec<JoinedMember>,
    /// The leader is back and the assignment stands: it need not divide again.
    pub skip_assignment: bool,
}

/// What the leader learns of a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedMember {
    /// Its id.
    pub member_id: Arc<str>,
    /// Its `group.instance.id`.
    pub instance_id: Option<Arc<str>>,
    /// Its subscription under the protocol chosen.
    pub metadata: Bytes,
}

/// A join that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinRefused {
    /// Why.
    pub error: GroupError,
    /// With [`GroupError::MemberIdRequired`], the id to come back with; else what the client sent.
    pub member_id: Arc<str>,
}

/// Who speaks, in requests of a member.
#[derive(Clone, Debug)]
pub struct Membership {
    /// Its id.
    pub member_id: Arc<str>,
    /// Its `group.instance.id`, when it has one.
    pub instance_id: Option<Arc<str>>,
    /// The generation it believes in.
    pub generation: i32,
}

/// A member asks for its part of the work; the leader brings everyone's.
#[derive(Clone, Debug)]
pub struct Sync {
    /// Who asks.
    pub member: Membership,
    /// Checked when given.
    pub protocol_type: Option<Arc<str>>,
    /// Checked when given.
    pub protocol: Option<Arc<str>>,
    /// Member id and assignment; only the leader's count.
    pub assignments: Vec<(Arc<str>, Bytes)>,
}

/// A member's part of the work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    /// As in [`Joined`].
    pub protocol_type: Arc<str>,
    /// As in [`Joined`].
    pub protocol: Arc<str>,
    /// Opaque; empty when the leader gave this member nothing.
    pub assignment: Bytes,
}

/// Who goes: by member id, by instance id, or by both when they belong together.
#[derive(Clone, Debug)]
pub struct Leaver {
    /// May be empty when an instance id is given.
    pub member_id: Arc<str>,
    /// Of a static member.
    pub instance_id: Option<Arc<str>>,
}

/// An answer to a request that may have waited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To [`Coordinator::join`].
    Join(Token, Result<Joined, JoinRefused>),
    /// To [`Coordinator::sync`].
    Sync(Token, Result<Synced, GroupError>),
}

/// Where a group stands, by Kafka's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No members.
    Empty,
    /// Members are joining.
    PreparingRebalance,
    /// The leader divides the work.
    CompletingRebalance,
    /// Everyone works.
    Stable,
}

impl State {
    /// The name that tools show.
    pub fn name(self) -> &'static str {
        match self {
            State::Empty => "Empty",
            State::PreparingRebalance => "PreparingRebalance",
            State::CompletingRebalance => "CompletingRebalance",
            State::Stable => "Stable",
        }
    }
}

/// A group, for tools.
#[derive(Clone, Debug)]
pub struct Description {
    /// Where it stands.
    pub state: State,
    /// As in [`Joined`]; empty when the group is.
    pub protocol_type: Arc<str>,
    /// The protocol chosen; empty unless the group is stable.
    pub protocol: Arc<str>,
    /// Everyone, by member id.
    pub members: Vec<DescribedMember>,
}

/// A member, for tools.
#[derive(Clone, Debug)]
pub struct DescribedMember {
    /// Its id.
    pub member_id: Arc<str>,
    /// Its `group.instance.id`.
    pub instance_id: Option<Arc<str>>,
    /// From its request header.
    pub client_id: Arc<str>,
    /// Where it is.
    pub client_host: Arc<str>,
    /// Its subscription; empty unless the group is stable.
    pub metadata: Bytes,
    /// Its part of the work; empty unless the group is stable.
    pub assignment: Bytes,
}

/// A group's line in a list.
#[derive(Clone, Debug)]
pub struct Overview {
    /// Its id.
    pub group: Arc<str>,
    /// As in [`Joined`].
    pub protocol_type: Arc<str>,
    /// Where it stands.
    pub state: State,
    /// How many have joined.
    pub members: usize,
}
