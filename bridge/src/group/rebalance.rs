//! What a group does between two generations, and when time passes.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    GroupError, Millis, Reply, Token,
    classic::{Context, Group, Phase, Window, refuse},
    member::{Member, Waiting, vote},
};

impl Group {
    /// Asks everyone to join again, unless that is under way.
    pub fn prepare_rebalance(&mut self, cx: &mut Context) {
        let timeout_ms = self.rebalance_timeout_ms();
        match self.phase {
            Phase::Preparing(_) => {}
            Phase::Empty => {
                let delay_ms = cx.limits.initial_rebalance_delay_ms;
                self.open_window(cx.now, delay_ms, Some(cx.now.saturating_add(timeout_ms)));
            }
            Phase::Completing => {
                for (id, member) in &mut self.members {
                    if !member.waits_to_join() {
                        refuse(cx, member, id, GroupError::RebalanceInProgress);
                    }
                    member.assignment = Bytes::new();
                }
                self.open_window(cx.now, timeout_ms, None);
            }
            Phase::Stable => self.open_window(cx.now, timeout_ms, None),
        }
        self.try_complete_join(cx);
    }

    fn open_window(&mut self, now: Millis, wait_ms: u64, gathering_until: Option<Millis>) {
        self.sync_deadline = None;
        self.phase = Phase::Preparing(Window { deadline: now.saturating_add(wait_ms), gathering_until, grown: false });
    }

    fn rebalance_timeout_ms(&self) -> u64 {
        let timeouts = self.members.values().map(|m| m.rebalance_timeout_ms);
        // At least 1, so that a window is never over before the time has moved.
        timeouts.max().unwrap_or(0).max(1)
    }

    /// Starts the next generation if everyone is here, or those who are not had their time.
    fn try_complete_join(&mut self, cx: &mut Context) {
        let Phase::Preparing(window) = &mut self.phase else {
            return;
        };
        let late = cx.now >= window.deadline;
        if let Some(until) = window.gathering_until {
            let longer = cx.now.saturating_add(cx.limits.initial_rebalance_delay_ms);
            if late && window.grown && longer.min(until) > cx.now {
                window.deadline = longer.min(until);
                window.grown = false;
            } else if late || self.members.is_empty() {
                self.complete_join(cx);
            }
        } else {
            let everyone = self.members.values().all(Member::waits_to_join);
            if late || (everyone && self.pending.is_empty()) {
                self.complete_join(cx);
            }
        }
    }

    fn complete_join(&mut self, cx: &mut Context) {
        self.remove_late_joiners(cx);
        if self.members.is_empty() {
            self.become_empty();
            return;
        }
        if !self.members.values().any(Member::waits_to_join) {
            // Only static members are left and none is back yet: their sessions decide.
            self.open_window(cx.now, self.rebalance_timeout_ms(), None);
            return;
        }
        self.elect_leader();
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        // Never the default: see check_protocols.
        self.protocol = vote(&self.members).unwrap_or_default();
        self.phase = Phase::Completing;
        self.sync_deadline = Some(cx.now.saturating_add(self.rebalance_timeout_ms()));
        self.announce_generation(cx);
    }

    /// Dynamic members that did not come are out; static ones keep their place until their session ends.
    fn remove_late_joiners(&mut self, cx: &mut Context) {
        let late = |m: &Member| !m.waits_to_join() && !m.is_static();
        let late: Vec<_> = self.ids_of(late);
        for id in late {
            tracing::info!(group = %self.id, member = %id, "member did not join in time, removed");
            self.remove_member(cx, &id);
        }
    }

    fn become_empty(&mut self) {
        tracing::info!(group = %self.id, generation = self.generation, "group is empty");
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.protocol = "".into();
        self.leader = None;
        self.sync_deadline = None;
        self.phase = Phase::Empty;
    }

    fn elect_leader(&mut self) {
        let current = self.leader.as_ref().and_then(|id| self.members.get(id));
        if !current.is_some_and(Member::waits_to_join) {
            let mut here = self.members.iter().filter(|(_, m)| m.waits_to_join());
            self.leader = here.next().map(|(id, _)| id.clone());
        }
    }

    fn announce_generation(&mut self, cx: &mut Context) {
        *cx.rebalances += 1;
        tracing::info!(
            group = %self.id,
            generation = self.generation,
            members = self.members.len(),
            protocol = %self.protocol,
            leader = self.leader.as_deref().unwrap_or(""),
            "rebalanced"
        );
        for id in self.ids_of(Member::waits_to_join) {
            let joined = self.joined(&id);
            if let Some(member) = self.members.get_mut(&id)
                && let Waiting::Join(token) = member.waiting
            {
                member.waiting = Waiting::Nothing;
                member.knows_its_id = true;
                member.touch(cx.now);
                cx.replies.push(Reply::Join(token, Ok(joined)));
            }
        }
        for member in self.members.values_mut() {
            member.synced = false;
        }
    }

    fn ids_of(&self, wanted: impl Fn(&Member) -> bool) -> Vec<Arc<str>> {
        let wanted = self.members.iter().filter(|(_, m)| wanted(m));
        wanted.map(|(id, _)| id.clone()).collect()
    }

    /// Takes a member out; [`Group::after_removal`] draws the consequences.
    pub fn remove_member(&mut self, cx: &mut Context, id: &Arc<str>) {
        let Some(mut member) = self.members.remove(id) else {
            return;
        };
        refuse(cx, &mut member, id, GroupError::UnknownMember);
        if let Some(instance) = &member.instance_id {
            self.static_members.remove(instance);
        }
        if self.leader.as_ref() == Some(id) {
            self.leader = self.members.keys().next().cloned();
        }
        if matches!(self.phase, Phase::Completing | Phase::Stable) {
            self.removed = true;
        }
    }

    /// After members left, died or gave up: rebalance if that matters to the others.
    pub fn after_removal(&mut self, cx: &mut Context) {
        if std::mem::take(&mut self.removed) {
            self.prepare_rebalance(cx);
        } else {
            self.try_complete_join(cx);
        }
    }

    /// Nobody waits for the answer of `token` any more: its connection is gone.
    pub fn abandon(&mut self, cx: &mut Context, token: Token) {
        let waiting = [Waiting::Join(token), Waiting::Sync(token)];
        let found = self.members.iter_mut().find(|(_, m)| waiting.contains(&m.waiting));
        let Some((id, member)) = found else {
            return;
        };
        member.waiting = Waiting::Nothing;
        member.touch(cx.now);
        if !member.knows_its_id && !member.is_static() {
            let id = id.clone();
            tracing::info!(group = %self.id, member = %id, "member went away while joining, removed");
            self.remove_member(cx, &id);
            self.after_removal(cx);
        }
    }

    /// Lets time pass up to `cx.now`.
    pub fn tick(&mut self, cx: &mut Context) {
        let now = cx.now;
        self.pending.retain(|_, until| *until > now);
        let silent = |m: &Member| m.deadline().is_some_and(|deadline| deadline <= now);
        for id in self.ids_of(silent) {
            tracing::info!(group = %self.id, member = %id, "member's session timed out, removed");
            self.remove_member(cx, &id);
        }
        if self.sync_deadline.is_some_and(|deadline| deadline <= now) {
            self.sync_deadline = None;
            for id in self.ids_of(|m| !m.synced) {
                tracing::info!(group = %self.id, member = %id, "member did not sync in time, removed");
                self.remove_member(cx, &id);
            }
        }
        self.after_removal(cx);
    }

    /// When [`Group::tick`] has something to do next.
    pub fn next_deadline(&self) -> Option<Millis> {
        let window = match &self.phase {
            Phase::Preparing(window) => Some(window.deadline),
            _ => None,
        };
        let members = self.members.values().filter_map(Member::deadline);
        let pending = self.pending.values().copied();
        let others = window.into_iter().chain(self.sync_deadline);
        members.chain(pending).chain(others).min()
    }
}
