//! One member of a group, and the vote for a protocol.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{Join, Millis, Protocol, Token};

/// The request of a member that waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    Nothing,
    Join(Token),
    Sync(Token),
}

#[derive(Debug)]
pub(super) struct Member {
    pub instance_id: Option<Arc<str>>,
    pub client_id: Arc<str>,
    pub client_host: Arc<str>,
    pub session_timeout_ms: u64,
    pub rebalance_timeout_ms: u64,
    pub protocols: Vec<Protocol>,
    pub assignment: Bytes,
    pub waiting: Waiting,
    /// When it is taken for dead; void while it waits for an answer of ours.
    pub session_deadline: Millis,
    /// It asked for its part in this generation.
    pub synced: bool,
    /// Its client knows the member id. One that does not can never come back.
    pub knows_its_id: bool,
}

impl Member {
    pub fn new(join: Join, knows_its_id: bool, now: Millis) -> Member {
        Member {
            session_deadline: now.saturating_add(join.session_timeout_ms),
            instance_id: join.instance_id,
            client_id: join.client_id,
            client_host: join.client_host,
            session_timeout_ms: join.session_timeout_ms,
            rebalance_timeout_ms: join.rebalance_timeout_ms,
            protocols: join.protocols,
            assignment: Bytes::new(),
            waiting: Waiting::Nothing,
            synced: false,
            knows_its_id,
        }
    }

    /// Takes over what a new join of the same member says.
    pub fn update(&mut self, join: Join) {
        self.client_id = join.client_id;
        self.client_host = join.client_host;
        self.session_timeout_ms = join.session_timeout_ms;
        self.rebalance_timeout_ms = join.rebalance_timeout_ms;
        self.protocols = join.protocols;
    }

    pub fn is_static(&self) -> bool {
        self.instance_id.is_some()
    }

    pub fn waits_to_join(&self) -> bool {
        matches!(self.waiting, Waiting::Join(_))
    }

    /// It was heard of, or answered.
    pub fn touch(&mut self, now: Millis) {
        self.session_deadline = now.saturating_add(self.session_timeout_ms);
    }

    /// When to look whether it is dead; never while it waits for us.
    pub fn deadline(&self) -> Option<Millis> {
        (self.waiting == Waiting::Nothing).then_some(self.session_deadline)
    }

    pub fn metadata(&self, protocol: &str) -> Bytes {
        let found = self.protocols.iter().find(|p| &*p.name == protocol);
        found.map(|p| p.metadata.clone()).unwrap_or_default()
    }

    pub fn supports(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|p| &*p.name == protocol)
    }

    /// What it costs to keep.
    pub fn bytes(&self) -> usize {
        protocols_bytes(&self.protocols) + self.assignment.len()
    }
}

pub(super) fn protocols_bytes(protocols: &[Protocol]) -> usize {
    let each = |p: &Protocol| p.name.len() + p.metadata.len();
    protocols.iter().map(each).sum()
}

/// The protocol most members prefer among those all of them have. A tie goes to the one that the
/// first member prefers, so the choice does not change from one generation to the next.
pub(super) fn vote(members: &BTreeMap<Arc<str>, Member>) -> Option<Arc<str>> {
    let first = members.values().next()?;
    let everyone_has = |p: &&Protocol| members.values().all(|m| m.supports(&p.name));
    let mut candidates: Vec<(Arc<str>, usize)> =
        first.protocols.iter().filter(everyone_has).map(|p| (p.name.clone(), 0)).collect();
    for member in members.values() {
        let candidate = |p: &Protocol| candidates.iter().position(|(name, _)| *name == p.name);
        if let Some(choice) = member.protocols.iter().find_map(candidate) {
            candidates[choice].1 += 1;
        }
    }
    // max_by_key takes the last of equals: turned round, that is the first.
    let winner = candidates.into_iter().rev().max_by_key(|(_, votes)| *votes);
    winner.map(|(name, _)| name)
}
