//! Every group: bounds, deadlines, and the way from a request to its group.

use std::{
    collections::{BTreeSet, HashMap},
    mem,
    sync::Arc,
};

use super::{
    Description, GroupError, Join, JoinRefused, Leaver, Limits, Membership, Millis, Overview, Reply, Sync, Token,
    classic::{Context, Group},
};

/// Longest group id. Kafka has no bound below its string's; nobody needs more.
const GROUP_ID_BYTES_MAX: usize = 1024;
/// Most protocols one member may offer.
const PROTOCOLS_MAX: usize = 64;
/// A member id begins with this much of the client id.
const CLIENT_ID_BYTES_KEPT: usize = 255;

/// The state of every group. Answers that may have to wait come out of [`Coordinator::take_replies`].
pub struct Coordinator {
    limits: Limits,
    groups: HashMap<Arc<str>, Slot>,
    /// When to look at which group; never later than its next deadline.
    alarms: BTreeSet<(Millis, Arc<str>)>,
    replies: Vec<Reply>,
    /// Bytes of all members' protocols and assignments.
    bytes: usize,
    member_ids: MemberIds,
    rebalances: u64,
}

struct Slot {
    group: Group,
    alarm: Option<Millis>,
}

/// Ids that no other start of the broker gives, since it has another seed.
struct MemberIds {
    seed: u64,
    next: u64,
}

impl MemberIds {
    fn next(&mut self, client_id: &str) -> Arc<str> {
        self.next += 1;
        let mut kept = client_id.len().min(CLIENT_ID_BYTES_KEPT);
        while !client_id.is_char_boundary(kept) {
            kept -= 1;
        }
        let (client_id, seed, next) = (&client_id[..kept], self.seed, self.next);
        format!("{client_id}-{seed:016x}-{next:x}").into()
    }
}

impl Coordinator {
    /// No groups yet. `seed` is random, and goes into the member ids given.
    pub fn new(limits: Limits, seed: u64) -> Coordinator {
        Coordinator {
            limits,
            groups: HashMap::new(),
            alarms: BTreeSet::new(),
            replies: Vec::new(),
            bytes: 0,
            member_ids: MemberIds { seed, next: 0 },
            rebalances: 0,
        }
    }

    /// A member joins, or joins again. Answered with [`Reply::Join`], now or later.
    pub fn join(&mut self, now: Millis, token: Token, group: &str, join: Join) {
        if let Err(error) = self.check_join(group, &join) {
            let member_id = join.member_id;
            let refused = JoinRefused { error, member_id };
            self.replies.push(Reply::Join(token, Err(refused)));
            return;
        }
        if !self.groups.contains_key(group) {
            let id: Arc<str> = group.into();
            let group = Group::new(id.clone());
            self.groups.insert(id, Slot { group, alarm: None });
        }
        self.with_group(now, group, |group, cx| group.join(cx, token, join));
    }

    fn check_join(&self, group: &str, join: &Join) -> Result<(), GroupError> {
        let Limits { session_timeout_min_ms, session_timeout_max_ms, .. } = self.limits;
        if group.is_empty() || group.len() > GROUP_ID_BYTES_MAX {
            return Err(GroupError::InvalidGroupId);
        }
        if !(session_timeout_min_ms..=session_timeout_max_ms).contains(&join.session_timeout_ms) {
            return Err(GroupError::InvalidSessionTimeout);
        }
        if join.protocol_type.is_empty() || join.protocols.is_empty() {
            return Err(GroupError::InconsistentProtocol);
        }
        if join.protocols.len() > PROTOCOLS_MAX {
            return Err(GroupError::Full);
        }
        match self.groups.contains_key(group) {
            true => Ok(()),
            false if !join.member_id.is_empty() => Err(GroupError::UnknownMember),
            false if self.groups.len() >= self.limits.groups_max => Err(GroupError::Full),
            false => Ok(()),
        }
    }

    /// A member asks for its part of the work. Answered with [`Reply::Sync`], now or later.
    pub fn sync(&mut self, now: Millis, token: Token, group: &str, sync: Sync) {
        let found = self.with_group(now, group, |group, cx| group.sync(cx, token, sync));
        if found.is_none() {
            let error = GroupError::UnknownMember;
            self.replies.push(Reply::Sync(token, Err(error)));
        }
    }

    /// A member says that it lives.
    pub fn heartbeat(&mut self, now: Millis, group: &str, who: &Membership) -> Result<(), GroupError> {
        let slot = self.groups.get_mut(group);
        // Life only moves deadlines away: the alarm may stay.
        slot.map_or(Err(GroupError::UnknownMember), |s| s.group.heartbeat(now, who))
    }

    /// Whether this member may commit offsets; one without generation may while the group is empty.
    pub fn may_commit(&mut self, now: Millis, group: &str, who: &Membership) -> Result<(), GroupError> {
        if group.len() > GROUP_ID_BYTES_MAX {
            return Err(GroupError::InvalidGroupId);
        }
        match self.groups.get_mut(group) {
            Some(slot) => slot.group.may_commit(now, who),
            None if who.generation < 0 => Ok(()),
            None => Err(GroupError::IllegalGeneration),
        }
    }

    /// Members leave; an outcome for each.
    pub fn leave(&mut self, now: Millis, group: &str, leavers: &[Leaver]) -> Vec<Result<(), GroupError>> {
        let outcome = self.with_group(now, group, |group, cx| group.leave(cx, leavers));
        outcome.unwrap_or_else(|| vec![Err(GroupError::UnknownMember); leavers.len()])
    }

    /// The answer to `token` has no taker any more.
    pub fn abandon(&mut self, now: Millis, group: &str, token: Token) {
        self.with_group(now, group, |group, cx| group.abandon(cx, token));
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Millis) {
        while let Some((due, id)) = self.alarms.first().cloned()
            && due <= now
        {
            self.alarms.pop_first();
            if let Some(slot) = self.groups.get_mut(&id) {
                slot.alarm = None;
            }
            self.with_group(now, &id, |group, cx| group.tick(cx));
        }
    }

    /// When [`Coordinator::tick`] wants to be called next.
    pub fn next_deadline(&self) -> Option<Millis> {
        self.alarms.first().map(|(due, _)| *due)
    }

    /// Answers that became ready since the last call.
    pub fn take_replies(&mut self) -> Vec<Reply> {
        mem::take(&mut self.replies)
    }

    /// Generations begun since the start, over all groups.
    pub fn rebalances(&self) -> u64 {
        self.rebalances
    }

    /// A group that has or expects members.
    pub fn describe(&self, group: &str) -> Option<Description> {
        self.groups.get(group).map(|slot| slot.group.describe())
    }

    /// Every group that has or expects members.
    pub fn list(&self) -> Vec<Overview> {
        let overview = |slot: &Slot| Overview {
            group: slot.group.id.clone(),
            protocol_type: slot.group.protocol_type.clone(),
            state: slot.group.state(),
            members: slot.group.members.len(),
        };
        self.groups.values().map(overview).collect()
    }

    /// Whether anyone is in it, or about to be.
    pub fn is_in_use(&self, group: &str) -> bool {
        self.groups.contains_key(group)
    }

    /// Runs one event on a group and settles what follows from it: bytes, alarm, end of the group.
    fn with_group<R>(&mut self, now: Millis, id: &str, event: impl FnOnce(&mut Group, &mut Context) -> R) -> Option<R> {
        let slot = self.groups.get_mut(id)?;
        let group = &mut slot.group;
        self.bytes -= group.bytes();
        let member_ids = &mut self.member_ids;
        let mut cx = Context {
            now,
            limits: &self.limits,
            replies: &mut self.replies,
            rebalances: &mut self.rebalances,
            bytes_left: self.limits.total_bytes_max.saturating_sub(self.bytes + group.bytes()),
            new_member_id: &mut |client_id| member_ids.next(client_id),
        };
        let outcome = event(group, &mut cx);
        self.bytes += group.bytes();

        let next = match group.is_forgettable() {
            true => None,
            false => group.next_deadline(),
        };
        if slot.alarm != next {
            let id = group.id.clone();
            if let Some(alarm) = mem::replace(&mut slot.alarm, next) {
                self.alarms.remove(&(alarm, id.clone()));
            }
            self.alarms.extend(next.map(|due| (due, id)));
        }
        if slot.group.is_forgettable() {
            self.groups.remove(id);
        }
        Some(outcome)
    }
}
