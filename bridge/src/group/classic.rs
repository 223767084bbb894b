//! One group, as the requests of its members see it.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

use super::{
    DescribedMember, Description, GroupError, Join, JoinRefused, Joined, JoinedMember, Leaver, Limits, Membership,
    Millis, Reply, State, Sync, Synced, Token,
    member::{Member, Waiting, protocols_bytes, vote},
};

/// What a group needs from outside while it handles one event.
pub(super) struct Context<'a> {
    pub now: Millis,
    pub limits: &'a Limits,
    pub replies: &'a mut Vec<Reply>,
    pub rebalances: &'a mut u64,
    /// Bytes that members of all groups may still add.
    pub bytes_left: usize,
    /// Makes member ids unlike any given before.
    pub new_member_id: &'a mut dyn FnMut(&str) -> Arc<str>,
}

/// Where the group stands, with what only that stage needs.
#[derive(Debug)]
pub(super) enum Phase {
    Empty,
    Preparing(Window),
    Completing,
    Stable,
}

/// How long members may still join.
#[derive(Debug)]
pub(super) struct Window {
    pub deadline: Millis,
    /// Set while the first members of an empty group gather: the window grows up to this.
    pub gathering_until: Option<Millis>,
    /// Someone new came since the window was last set.
    pub grown: bool,
}

#[derive(Debug)]
pub(super) struct Group {
    pub id: Arc<str>,
    pub phase: Phase,
    pub generation: i32,
    pub protocol_type: Arc<str>,
    pub protocol: Arc<str>,
    pub leader: Option<Arc<str>>,
    pub members: BTreeMap<Arc<str>, Member>,
    /// Instance id to member id.
    pub static_members: BTreeMap<Arc<str>, Arc<str>>,
    /// Ids given out with MEMBER_ID_REQUIRED and not come back with yet, and until when they may.
    pub pending: BTreeMap<Arc<str>, Millis>,
    /// Members that have not asked for their part by then are taken for dead.
    pub sync_deadline: Option<Millis>,
    /// A member of the current generation was taken out, and the others do not know yet.
    pub removed: bool,
}

impl Group {
    pub fn new(id: Arc<str>) -> Group {
        Group {
            id,
            phase: Phase::Empty,
            generation: 0,
            protocol_type: "".into(),
            protocol: "".into(),
            leader: None,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            pending: BTreeMap::new(),
            sync_deadline: None,
            removed: false,
        }
    }

    /// Nothing to remember: the coordinator may forget it.
    pub fn is_forgettable(&self) -> bool {
        self.members.is_empty() && self.pending.is_empty()
    }

    pub fn bytes(&self) -> usize {
        self.members.values().map(Member::bytes).sum()
    }

    // ---- join

    pub fn join(&mut self, cx: &mut Context, token: Token, join: Join) {
        let member_id = join.member_id.clone();
        if let Err(refused) = self.try_join(cx, token, join) {
            let member_id = match refused {
                Refusal::Plain(_) => member_id,
                Refusal::WithId(ref id) => id.clone(),
            };
            let error = refused.error();
            let refused = JoinRefused { error, member_id };
            cx.replies.push(Reply::Join(token, Err(refused)));
        }
    }

    fn try_join(&mut self, cx: &mut Context, token: Token, join: Join) -> Result<(), Refusal> {
        if protocols_bytes(&join.protocols) > cx.limits.metadata_bytes_max.min(cx.bytes_left) {
            return Err(GroupError::Full.into());
        }
        let known_as = self.identify(&join)?;
        self.check_protocols(&join, known_as.as_ref())?;
        match known_as {
            None => self.join_new(cx, token, join),
            Some(id) if join.member_id.is_empty() => {
                self.replace_static(cx, token, join, id);
                Ok(())
            }
            Some(id) => {
                self.rejoin(cx, token, join, id);
                Ok(())
            }
        }
    }

    /// The member this is, if it is one already.
    fn identify(&self, join: &Join) -> Result<Option<Arc<str>>, GroupError> {
        if join.member_id.is_empty() {
            let instance = join.instance_id.as_ref();
            return Ok(instance.and_then(|i| self.static_members.get(i)).cloned());
        }
        if self.pending.contains_key(&join.member_id) {
            return Ok(None);
        }
        self.check_member(&join.member_id, join.instance_id.as_deref())?;
        Ok(Some(join.member_id.clone()))
    }

    /// Its type is the group's, and one of its protocols is everyone else's too. This holds after
    /// every join, so the vote always finds a protocol.
    fn check_protocols(&self, join: &Join, itself: Option<&Arc<str>>) -> Result<(), GroupError> {
        let others = || self.members.iter().filter(|(id, _)| Some(*id) != itself);
        let shared = |name: &str| others().all(|(_, m)| m.supports(name));
        let same_type = others().next().is_none() || self.protocol_type == join.protocol_type;
        if same_type && join.protocols.iter().any(|p| shared(&p.name)) {
            Ok(())
        } else {
            Err(GroupError::InconsistentProtocol)
        }
    }

    fn join_new(&mut self, cx: &mut Context, token: Token, join: Join) -> Result<(), Refusal> {
        let pending = self.pending.contains_key(&join.member_id);
        if !pending && self.members.len() + self.pending.len() >= cx.limits.members_max {
            return Err(GroupError::Full.into());
        }
        if join.member_id.is_empty() && join.can_retry_with_id && join.instance_id.is_none() {
            let id = (cx.new_member_id)(&join.client_id);
            let until = cx.now.saturating_add(join.session_timeout_ms);
            self.pending.insert(id.clone(), until);
            return Err(Refusal::WithId(id));
        }
        let id = match pending {
            true => join.member_id.clone(),
            false => (cx.new_member_id)(&join.client_id),
        };
        self.pending.remove(&id);
        if let Some(instance) = join.instance_id.clone() {
            self.static_members.insert(instance, id.clone());
        }
        if self.members.is_empty() {
            self.protocol_type = join.protocol_type.clone();
        }
        let mut member = Member::new(join, pending, cx.now);
        member.waiting = Waiting::Join(token);
        self.members.insert(id.clone(), member);
        self.leader.get_or_insert(id);
        if let Phase::Preparing(window) = &mut self.phase {
            window.grown = true;
        }
        self.prepare_rebalance(cx);
        Ok(())
    }

    /// A member comes again: for a new generation, or because the last answer was lost.
    fn rejoin(&mut self, cx: &mut Context, token: Token, join: Join, id: Arc<str>) {
        let is_leader = self.leader.as_ref() == Some(&id);
        let Some(member) = self.members.get_mut(&id) else {
            return; // identify() found it
        };
        let same = member.protocols == join.protocols;
        let stands = match self.phase {
            Phase::Completing => same,
            // A leader that joins again wants to divide again.
            Phase::Stable => same && !is_leader,
            Phase::Empty | Phase::Preparing(_) => false,
        };
        member.update(join);
        if stands {
            member.touch(cx.now);
            let joined = self.joined(&id);
            cx.replies.push(Reply::Join(token, Ok(joined)));
        } else {
            self.wait_to_join(cx, &id, token);
            self.prepare_rebalance(cx);
        }
    }

    /// A static member restarted: it gets a new member id and keeps its part of the work.
    fn replace_static(&mut self, cx: &mut Context, token: Token, join: Join, old: Arc<str>) {
        let Some(mut member) = self.members.remove(&old) else {
            return; // identify() found it
        };
        let id = (cx.new_member_id)(&join.client_id);
        refuse(cx, &mut member, &old, GroupError::FencedInstance);
        let can_skip = join.can_skip_assignment;
        if let Some(instance) = join.instance_id.clone() {
            self.static_members.insert(instance, id.clone());
        }
        member.update(join);
        member.knows_its_id = false;
        member.touch(cx.now);
        self.members.insert(id.clone(), member);
        let led_by = self.leader.clone();
        if led_by.as_ref() == Some(&old) {
            self.leader = Some(id.clone());
        }
        tracing::info!(group = %self.id, member = %id, replaces = %old, "static member is back");

        let stands = vote(&self.members).as_ref() == Some(&self.protocol);
        if matches!(self.phase, Phase::Stable) && stands {
            let mut joined = self.joined(&id);
            if !can_skip {
                // An old client that hears it leads would divide again: it hears the old name.
                joined.members.clear();
                joined.leader = led_by.unwrap_or_default();
            } else {
                joined.skip_assignment = joined.leader == id;
            }
            if let Some(member) = self.members.get_mut(&id) {
                member.knows_its_id = true;
            }
            cx.replies.push(Reply::Join(token, Ok(joined)));
        } else {
            self.wait_to_join(cx, &id, token);
            self.prepare_rebalance(cx);
        }
    }

    fn wait_to_join(&mut self, cx: &mut Context, id: &Arc<str>, token: Token) {
        if let Some(member) = self.members.get_mut(id) {
            // An earlier request of the same member, most likely of a connection that broke.
            refuse(cx, member, id, GroupError::RebalanceInProgress);
            member.waiting = Waiting::Join(token);
        }
    }

    /// Membership of the current generation, as `id` is told.
    pub fn joined(&self, id: &Arc<str>) -> Joined {
        let leader = self.leader.clone().unwrap_or_default();
        let everyone = self.members.iter().map(|(id, member)| JoinedMember {
            member_id: id.clone(),
            instance_id: member.instance_id.clone(),
            metadata: member.metadata(&self.protocol),
        });
        Joined {
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            members: if leader == *id { everyone.collect() } else { Vec::new() },
            leader,
            member_id: id.clone(),
            skip_assignment: false,
        }
    }

    // ---- sync

    pub fn sync(&mut self, cx: &mut Context, token: Token, sync: Sync) {
        if let Err(error) = self.try_sync(cx, token, sync) {
            cx.replies.push(Reply::Sync(token, Err(error)));
        }
    }

    fn try_sync(&mut self, cx: &mut Context, token: Token, sync: Sync) -> Result<(), GroupError> {
        let id = sync.member.member_id.clone();
        self.check_generation(&sync.member)?;
        let differs = |told: &Option<Arc<str>>, is| told.as_ref().is_some_and(|t| t != is);
        match self.phase {
            Phase::Empty => return Err(GroupError::UnknownMember),
            Phase::Preparing(_) => return Err(GroupError::RebalanceInProgress),
            Phase::Completing | Phase::Stable => {}
        }
        if differs(&sync.protocol_type, &self.protocol_type) || differs(&sync.protocol, &self.protocol) {
            return Err(GroupError::InconsistentProtocol);
        }
        let divides = matches!(self.phase, Phase::Completing) && self.leader.as_ref() == Some(&id);
        if divides {
            check_assignments(cx, &sync.assignments)?;
        }
        if let Some(member) = self.members.get_mut(&id) {
            refuse(cx, member, &id, GroupError::RebalanceInProgress);
            member.waiting = Waiting::Sync(token);
            member.synced = true;
        }
        if divides {
            self.assign(sync.assignments);
            self.phase = Phase::Stable;
        }
        if matches!(self.phase, Phase::Stable) {
            self.answer_syncs(cx);
        }
        if self.members.values().all(|m| m.synced) {
            self.sync_deadline = None;
        }
        Ok(())
    }

    fn assign(&mut self, assignments: Vec<(Arc<str>, Bytes)>) {
        for member in self.members.values_mut() {
            member.assignment = Bytes::new();
        }
        for (id, assignment) in assignments {
            if let Some(member) = self.members.get_mut(&id) {
                member.assignment = assignment;
            }
        }
    }

    fn answer_syncs(&mut self, cx: &mut Context) {
        for member in self.members.values_mut() {
            if let Waiting::Sync(token) = member.waiting {
                member.waiting = Waiting::Nothing;
                member.touch(cx.now);
                let synced = Synced {
                    protocol_type: self.protocol_type.clone(),
                    protocol: self.protocol.clone(),
                    assignment: member.assignment.clone(),
                };
                cx.replies.push(Reply::Sync(token, Ok(synced)));
            }
        }
    }

    // ---- heartbeat, commit, leave

    pub fn heartbeat(&mut self, now: Millis, who: &Membership) -> Result<(), GroupError> {
        self.check_generation(who)?;
        self.touch(now, &who.member_id);
        match self.phase {
            Phase::Preparing(_) => Err(GroupError::RebalanceInProgress),
            _ => Ok(()),
        }
    }

    /// Whether this member may commit offsets now.
    pub fn may_commit(&mut self, now: Millis, who: &Membership) -> Result<(), GroupError> {
        if who.generation < 0 && self.members.is_empty() {
            return Ok(()); // a consumer that assigns itself and only keeps its offsets here
        }
        if !off!(Generations) {
            self.check_generation(who)?;
        }
        self.touch(now, &who.member_id);
        match self.phase {
            Phase::Completing => Err(GroupError::RebalanceInProgress),
            _ => Ok(()),
        }
    }

    pub fn leave(&mut self, cx: &mut Context, leavers: &[Leaver]) -> Vec<Result<(), GroupError>> {
        let outcome = leavers.iter().map(|l| self.leave_one(cx, l)).collect();
        self.after_removal(cx);
        outcome
    }

    fn leave_one(&mut self, cx: &mut Context, leaver: &Leaver) -> Result<(), GroupError> {
        let id = match &leaver.instance_id {
            // An administrator may name the instance alone.
            Some(instance) if leaver.member_id.is_empty() => {
                let id = self.static_members.get(instance);
                id.cloned().ok_or(GroupError::UnknownMember)?
            }
            instance => {
                if self.pending.remove(&leaver.member_id).is_some() {
                    return Ok(());
                }
                self.check_member(&leaver.member_id, instance.as_deref())?;
                leaver.member_id.clone()
            }
        };
        self.remove_member(cx, &id);
        tracing::info!(group = %self.id, member = %id, "member left");
        Ok(())
    }

    fn touch(&mut self, now: Millis, id: &str) {
        if let Some(member) = self.members.get_mut(id) {
            member.touch(now);
        }
    }

    fn check_generation(&self, who: &Membership) -> Result<(), GroupError> {
        self.check_member(&who.member_id, who.instance_id.as_deref())?;
        match who.generation == self.generation {
            true => Ok(()),
            false => Err(GroupError::IllegalGeneration),
        }
    }

    fn check_member(&self, id: &str, instance: Option<&str>) -> Result<(), GroupError> {
        if let Some(instance) = instance {
            let owner = self.static_members.get(instance);
            let owner = owner.ok_or(GroupError::UnknownMember)?;
            if **owner != *id {
                return Err(GroupError::FencedInstance);
            }
        }
        match self.members.contains_key(id) {
            true => Ok(()),
            false => Err(GroupError::UnknownMember),
        }
    }

    // ---- for tools

    pub fn state(&self) -> State {
        match self.phase {
            Phase::Empty => State::Empty,
            Phase::Preparing(_) => State::PreparingRebalance,
            Phase::Completing => State::CompletingRebalance,
            Phase::Stable => State::Stable,
        }
    }

    pub fn describe(&self) -> Description {
        let stable = matches!(self.phase, Phase::Stable);
        let when_stable = |bytes: Bytes| if stable { bytes } else { Bytes::new() };
        let members = self.members.iter().map(|(id, m)| DescribedMember {
            member_id: id.clone(),
            instance_id: m.instance_id.clone(),
            client_id: m.client_id.clone(),
            client_host: m.client_host.clone(),
            metadata: when_stable(m.metadata(&self.protocol)),
            assignment: when_stable(m.assignment.clone()),
        });
        Description {
            state: self.state(),
            protocol_type: self.protocol_type.clone(),
            protocol: if stable { self.protocol.clone() } else { "".into() },
            members: members.collect(),
        }
    }
}

/// Why a join failed, with the id the client shall use from now on if it got one.
enum Refusal {
    Plain(GroupError),
    WithId(Arc<str>),
}

impl Refusal {
    fn error(&self) -> GroupError {
        match self {
            Refusal::Plain(error) => *error,
            Refusal::WithId(_) => GroupError::MemberIdRequired,
        }
    }
}

impl From<GroupError> for Refusal {
    fn from(error: GroupError) -> Refusal {
        Refusal::Plain(error)
    }
}

/// Ends the waiting of a member, if it waits, with an error.
pub(super) fn refuse(cx: &mut Context, member: &mut Member, id: &Arc<str>, error: GroupError) {
    let reply = match std::mem::replace(&mut member.waiting, Waiting::Nothing) {
        Waiting::Nothing => return,
        Waiting::Join(token) => {
            let member_id = id.clone();
            Reply::Join(token, Err(JoinRefused { error, member_id }))
        }
        Waiting::Sync(token) => Reply::Sync(token, Err(error)),
    };
    member.touch(cx.now);
    cx.replies.push(reply);
}

fn check_assignments(cx: &Context, assignments: &[(Arc<str>, Bytes)]) -> Result<(), GroupError> {
    let total: usize = assignments.iter().map(|(_, bytes)| bytes.len()).sum();
    let too_long = |(_, bytes): &(_, Bytes)| bytes.len() > cx.limits.metadata_bytes_max;
    match total > cx.bytes_left || assignments.iter().any(too_long) {
        true => Err(GroupError::Full),
        false => Ok(()),
    }
}
