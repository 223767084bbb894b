//! Transcripts: what members say, at which second, and what they hear.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Coordinator, GroupError, Join, JoinRefused, Joined, Leaver, Limits, Membership, Protocol, Reply, State, Sync, Token,
};

const SESSION_MS: u64 = 10_000;
const REBALANCE_MS: u64 = 60_000;

fn limits() -> Limits {
    Limits {
        session_timeout_min_ms: 6_000,
        session_timeout_max_ms: 1_800_000,
        initial_rebalance_delay_ms: 0,
        groups_max: 3,
        members_max: 4,
        metadata_bytes_max: 1_000,
        total_bytes_max: 5_000,
    }
}

/// A coordinator, a clock, and the answers not looked at yet.
struct Script {
    groups: Coordinator,
    now: u64,
    tokens: u64,
    heard: Vec<Reply>,
}

fn script() -> Script {
    script_with(limits())
}

fn script_with(limits: Limits) -> Script {
    Script { groups: Coordinator::new(limits, 0), now: 0, tokens: 0, heard: Vec::new() }
}

fn join() -> Join {
    Join {
        member_id: "".into(),
        instance_id: None,
        client_id: "c".into(),
        client_host: "/127.0.0.1".into(),
        session_timeout_ms: SESSION_MS,
        rebalance_timeout_ms: REBALANCE_MS,
        protocol_type: "consumer".into(),
        protocols: vec![protocol("range", "topics")],
        can_retry_with_id: false,
        can_skip_assignment: false,
    }
}

fn protocol(name: &str, metadata: &str) -> Protocol {
    Protocol { name: name.into(), metadata: Bytes::copy_from_slice(metadata.as_bytes()) }
}

fn again(joined: &Joined) -> Join {
    Join { member_id: joined.member_id.clone(), ..join() }
}

fn instance(name: &str) -> Join {
    Join { instance_id: Some(name.into()), ..join() }
}

fn member(joined: &Joined) -> Membership {
    let member_id = joined.member_id.clone();
    Membership { member_id, instance_id: None, generation: joined.generation }
}

impl Script {
    fn join(&mut self, join: Join) -> Token {
        self.join_group("g", join)
    }

    fn join_group(&mut self, group: &str, join: Join) -> Token {
        self.tokens += 1;
        let token = Token(self.tokens);
        self.groups.join(self.now, token, group, join);
        token
    }

    fn sync(&mut self, joined: &Joined, parts: &[(&Joined, &'static str)]) -> Token {
        self.tokens += 1;
        let token = Token(self.tokens);
        let part = |(who, part): &(&Joined, &'static str)| (who.member_id.clone(), Bytes::from_static(part.as_bytes()));
        let sync = Sync {
            member: member(joined),
            protocol_type: None,
            protocol: None,
            assignments: parts.iter().map(part).collect(),
        };
        self.groups.sync(self.now, token, "g", sync);
        token
    }

    fn heartbeat(&mut self, joined: &Joined) -> Result<(), GroupError> {
        self.groups.heartbeat(self.now, "g", &member(joined))
    }

    fn leave(&mut self, joined: &Joined) -> Result<(), GroupError> {
        let leaver = Leaver { member_id: joined.member_id.clone(), instance_id: None };
        self.groups.leave(self.now, "g", &[leaver])[0]
    }

    /// Lets time pass, with every alarm on its way.
    fn pass(&mut self, ms: u64) {
        let until = self.now + ms;
        while let Some(due) = self.groups.next_deadline().filter(|due| *due <= until) {
            assert!(due >= self.now, "an alarm in the past");
            self.now = due;
            self.groups.tick(due);
        }
        self.now = until;
    }

    fn hear(&mut self, token: Token) -> Option<Reply> {
        self.heard.extend(self.groups.take_replies());
        let mine = |r: &Reply| matches!(r, Reply::Join(t, _) | Reply::Sync(t, _) if *t == token);
        let found = self.heard.iter().position(mine)?;
        Some(self.heard.remove(found))
    }

    fn joined(&mut self, token: Token) -> Joined {
        match self.hear(token) {
            Some(Reply::Join(_, Ok(joined))) => joined,
            other => panic!("expected to have joined, heard {other:?}"),
        }
    }

    fn refused(&mut self, token: Token) -> JoinRefused {
        match self.hear(token) {
            Some(Reply::Join(_, Err(refused))) => refused,
            other => panic!("expected a refusal, heard {other:?}"),
        }
    }

    fn synced(&mut self, token: Token) -> Result<Bytes, GroupError> {
        match self.hear(token) {
            Some(Reply::Sync(_, outcome)) => outcome.map(|s| s.assignment),
            other => panic!("expected an answer to sync, heard {other:?}"),
        }
    }

    fn state(&self) -> Option<State> {
        self.groups.describe("g").map(|d| d.state)
    }

    /// One member, stable, that has the part "all".
    fn alone(&mut self, join: Join) -> Joined {
        let token = self.join(join);
        let joined = self.joined(token);
        let token = self.sync(&joined, &[(&joined, "all")]);
        assert_eq!(self.synced(token), Ok(Bytes::from("all")));
        joined
    }

    /// Two members, stable: the leader has "left", the other "right".
    fn two(&mut self, first: Join, second: Join) -> (Joined, Joined) {
        let a = self.alone(first);
        let second = self.join(second);
        let first = self.join(Join { instance_id: None, ..again(&a) });
        let (a, b) = (self.joined(first), self.joined(second));
        let part = self.sync(&b, &[]);
        let parts = self.sync(&a, &[(&a, "left"), (&b, "right")]);
        assert_eq!(self.synced(parts), Ok(Bytes::from("left")));
        assert_eq!(self.synced(part), Ok(Bytes::from("right")));
        (a, b)
    }
}

#[test]
fn one_member_joins_syncs_and_lives() {
    let mut s = script();
    let token = s.join(join());
    let a = s.joined(token);
    assert_eq!((a.generation, &*a.protocol, &a.leader), (1, "range", &a.member_id));
    assert_eq!(a.members.len(), 1);
    assert_eq!(s.state(), Some(State::CompletingRebalance));
    assert_eq!(s.heartbeat(&a), Ok(()));
    let token = s.sync(&a, &[(&a, "all")]);
    assert_eq!(s.synced(token), Ok(Bytes::from("all")));
    assert_eq!(s.state(), Some(State::Stable));
    for _ in 0..5 {
        s.pass(SESSION_MS - 1);
        assert_eq!(s.heartbeat(&a), Ok(()));
    }
    assert_eq!(s.groups.rebalances(), 1);
}

#[test]
fn a_client_that_can_is_told_its_id_first() {
    let mut s = script();
    let polite = Join { can_retry_with_id: true, ..join() };
    let token = s.join(polite.clone());
    let refused = s.refused(token);
    assert_eq!(refused.error, GroupError::MemberIdRequired);
    assert!(refused.member_id.starts_with("c-"));
    let id = refused.member_id;
    let token = s.join(Join { member_id: id.clone(), ..polite.clone() });
    assert_eq!(s.joined(token).member_id, id);
    // A made-up id is not an introduction.
    let token = s.join(Join { member_id: "c-made-up".into(), ..polite });
    assert_eq!(s.refused(token).error, GroupError::UnknownMember);
}

#[test]
fn an_id_not_used_in_time_is_forgotten() {
    let mut s = script();
    let polite = Join { can_retry_with_id: true, ..join() };
    let token = s.join(polite.clone());
    let id = s.refused(token).member_id;
    s.pass(SESSION_MS);
    assert_eq!(s.state(), None);
    let token = s.join(Join { member_id: id, ..polite });
    assert_eq!(s.refused(token).error, GroupError::UnknownMember);
}

#[test]
fn a_second_member_makes_everyone_join_again() {
    let mut s = script();
    let a = s.alone(join());
    let second = s.join(join());
    assert_eq!(s.hear(second), None, "waits for the first");
    assert_eq!(s.heartbeat(&a), Err(GroupError::RebalanceInProgress));
    let first = s.join(again(&a));
    let (a, b) = (s.joined(first), s.joined(second));
    assert_eq!((a.generation, b.generation), (2, 2));
    assert_eq!(b.leader, a.member_id);
    assert_eq!((a.members.len(), b.members.len()), (2, 0));
    // The follower waits for the leader's word.
    let part = s.sync(&b, &[]);
    assert_eq!(s.hear(part), None);
    s.sync(&a, &[(&a, "left"), (&b, "right")]);
    assert_eq!(s.synced(part), Ok(Bytes::from("right")));
}

#[test]
fn simultaneous_joins_share_one_generation() {
    let mut s = script_with(Limits { initial_rebalance_delay_ms: 100, ..limits() });
    let first = s.join(join());
    s.pass(60);
    let second = s.join(join());
    assert_eq!((s.hear(first), s.hear(second)), (None, None));
    // The second came within the delay: it is extended once, to 200.
    s.pass(139);
    assert_eq!(s.hear(first), None);
    s.pass(1);
    let (a, b) = (s.joined(first), s.joined(second));
    assert_eq!((a.generation, b.generation), (1, 1));
    assert_eq!(s.groups.rebalances(), 1);
}

#[test]
fn the_gathering_of_first_members_ends() {
    let mut s = script_with(Limits { initial_rebalance_delay_ms: 3_000, members_max: 100, ..limits() });
    let quick = || Join { rebalance_timeout_ms: 7_000, ..join() };
    let first = s.join(quick());
    for _ in 0..3 {
        s.pass(2_000);
        s.join(quick());
        assert_eq!(s.hear(first), None);
    }
    s.pass(1_000);
    assert_eq!(s.joined(first).members.len(), 4, "at the rebalance timeout, whoever else might come");
}

#[test]
fn the_leader_leaves_and_another_leads() {
    let mut s = script();
    let (a, b) = s.two(join(), join());
    assert_eq!(s.leave(&a), Ok(()));
    assert_eq!(s.heartbeat(&b), Err(GroupError::RebalanceInProgress));
    assert_eq!(s.heartbeat(&a), Err(GroupError::UnknownMember));
    let token = s.join(again(&b));
    let b = s.joined(token);
    assert_eq!((b.generation, &b.leader, b.members.len()), (3, &b.member_id, 1));
    assert_eq!(s.leave(&b), Ok(()));
    assert_eq!(s.state(), None, "an empty group is forgotten");
}

#[test]
fn a_silent_member_dies_and_the_others_rebalance() {
    let mut s = script();
    let (a, b) = s.two(join(), join());
    s.pass(SESSION_MS - 1);
    assert_eq!(s.heartbeat(&a), Ok(()));
    s.pass(1);
    assert_eq!(s.heartbeat(&a), Err(GroupError::RebalanceInProgress));
    assert_eq!(s.heartbeat(&b), Err(GroupError::UnknownMember));
    let token = s.join(again(&a));
    assert_eq!(s.joined(token).members.len(), 1);
}

#[test]
fn a_member_that_does_not_join_again_is_left_behind() {
    let mut s = script();
    let a = s.alone(Join { session_timeout_ms: 1_800_000, ..join() });
    let second = s.join(join());
    s.pass(REBALANCE_MS - 1);
    assert_eq!(s.hear(second), None);
    s.pass(1);
    let b = s.joined(second);
    assert_eq!((&b.leader, b.members.len()), (&b.member_id, 1));
    assert_eq!(s.heartbeat(&a), Err(GroupError::UnknownMember));
}

#[test]
fn a_leader_that_never_divides_is_left_behind() {
    let mut s = script();
    let a = s.alone(join());
    let second = s.join(join());
    let first = s.join(again(&a));
    let (a, b) = (s.joined(first), s.joined(second));
    let part = s.sync(&b, &[]);
    for _ in 0..REBALANCE_MS / 5_000 {
        assert_eq!(s.hear(part), None);
        assert_eq!(s.heartbeat(&a), Ok(()));
        s.pass(5_000);
    }
    assert_eq!(s.synced(part), Err(GroupError::RebalanceInProgress));
    assert_eq!(s.heartbeat(&a), Err(GroupError::UnknownMember));
    let token = s.join(again(&b));
    assert_eq!(s.joined(token).leader, b.member_id);
}

#[test]
fn a_stale_generation_is_refused() {
    let mut s = script();
    let a = s.alone(join());
    let stale = Joined { generation: a.generation - 1, ..a.clone() };
    assert_eq!(s.heartbeat(&stale), Err(GroupError::IllegalGeneration));
    let token = s.sync(&stale, &[]);
    assert_eq!(s.synced(token), Err(GroupError::IllegalGeneration));
    let commit = s.groups.may_commit(s.now, "g", &member(&stale));
    assert_eq!(commit, Err(GroupError::IllegalGeneration));
}

#[test]
fn a_lost_answer_is_given_again() {
    let mut s = script();
    let (_, b) = s.two(join(), join());
    let token = s.join(again(&b));
    assert_eq!(s.joined(token).generation, b.generation);
    let token = s.sync(&b, &[]);
    assert_eq!(s.synced(token), Ok(Bytes::from("right")));
    assert_eq!(s.state(), Some(State::Stable));
}

#[test]
fn a_new_subscription_rebalances() {
    let mut s = script();
    let (_, b) = s.two(join(), join());
    let protocols = vec![protocol("range", "more topics")];
    let token = s.join(Join { protocols, ..again(&b) });
    assert_eq!(s.hear(token), None);
    assert_eq!(s.state(), Some(State::PreparingRebalance));
}

#[test]
fn the_protocol_everyone_has_wins() {
    let mut s = script();
    let both = vec![protocol("sticky", ""), protocol("range", "")];
    let a = s.alone(Join { protocols: both.clone(), ..join() });
    assert_eq!(&*a.protocol, "sticky");
    let second = s.join(join());
    let first = s.join(Join { protocols: both, ..again(&a) });
    assert_eq!(&*s.joined(first).protocol, "range");
    s.joined(second);
    let odd = s.join(Join { protocols: vec![protocol("sticky", "")], ..join() });
    assert_eq!(s.refused(odd).error, GroupError::InconsistentProtocol);
    let connect = s.join(Join { protocol_type: "connect".into(), ..join() });
    assert_eq!(s.refused(connect).error, GroupError::InconsistentProtocol);
}

#[test]
fn a_static_member_comes_back_to_its_part() {
    let mut s = script();
    let (a, b) = s.two(join(), instance("box"));
    let token = s.join(instance("box"));
    let back = s.joined(token);
    assert_ne!(back.member_id, b.member_id);
    assert_eq!((back.generation, &back.leader), (b.generation, &a.member_id));
    let token = s.sync(&back, &[]);
    assert_eq!(s.synced(token), Ok(Bytes::from("right")));
    assert_eq!(s.heartbeat(&a), Ok(()), "nobody else noticed");
    // The one it replaced is told so.
    let old = Membership { instance_id: Some("box".into()), ..member(&b) };
    assert_eq!(s.groups.heartbeat(s.now, "g", &old), Err(GroupError::FencedInstance));
}

#[test]
fn a_static_leader_comes_back_without_dividing_again() {
    let mut s = script();
    let a = s.alone(instance("box"));
    let token = s.join(Join { can_skip_assignment: true, ..instance("box") });
    let new = s.joined(token);
    assert!(new.skip_assignment);
    assert_eq!((&new.leader, new.members.len()), (&new.member_id, 1));
    let token = s.join(instance("box"));
    let old = s.joined(token);
    assert!(!old.skip_assignment);
    assert_eq!((&old.leader, old.members.len()), (&new.member_id, 0));
    assert_ne!(old.member_id, a.member_id);
    let token = s.sync(&old, &[]);
    assert_eq!(s.synced(token), Ok(Bytes::from("all")));
}

#[test]
fn a_static_member_keeps_its_place_through_a_rebalance() {
    let mut s = script();
    let a = s.alone(Join { session_timeout_ms: 600_000, ..instance("box") });
    let second = s.join(join());
    s.pass(REBALANCE_MS);
    let b = s.joined(second);
    assert_eq!(b.members.len(), 2, "the absent box is still counted");
    assert_eq!(b.leader, b.member_id, "but does not lead");
    s.sync(&b, &[(&b, "left"), (&a, "right")]);
    let token = s.join(instance("box"));
    let back = s.joined(token);
    let token = s.sync(&back, &[]);
    assert_eq!(s.synced(token), Ok(Bytes::from("right")));
}

#[test]
fn a_static_member_ends_with_its_session() {
    let mut s = script();
    s.alone(instance("box"));
    s.pass(SESSION_MS);
    assert_eq!(s.state(), None);
}

#[test]
fn an_administrator_removes_a_static_member_by_its_instance() {
    let mut s = script();
    s.alone(instance("box"));
    let by_name = |name: &str| Leaver { member_id: "".into(), instance_id: Some(name.into()) };
    let outcome = s.groups.leave(s.now, "g", &[by_name("other"), by_name("box")]);
    assert_eq!(outcome, [Err(GroupError::UnknownMember), Ok(())]);
    assert_eq!(s.state(), None);
}

#[test]
fn a_joining_client_that_hangs_up_is_not_waited_for() {
    let mut s = script();
    let a = s.alone(join());
    let second = s.join(join());
    let first = s.join(again(&a));
    s.joined(second);
    let a = s.joined(first);
    // A third comes and goes before the others are back: they need not wait for it.
    let third = s.join(join());
    s.groups.abandon(s.now, "g", third);
    let token = s.join(again(&a));
    assert_eq!(s.hear(token), None, "the second is awaited");
    s.pass(REBALANCE_MS);
    assert_eq!(s.joined(token).members.len(), 1);
}

#[test]
fn a_waiting_member_that_hangs_up_dies_of_silence() {
    let mut s = script();
    let (a, b) = s.two(join(), join());
    let token = s.join(again(&a));
    assert_eq!(s.state(), Some(State::PreparingRebalance), "a leader that joins wants to divide");
    s.groups.abandon(s.now, "g", token);
    let other = s.join(again(&b));
    s.pass(SESSION_MS);
    assert_eq!(s.joined(other).members.len(), 1);
}

#[test]
fn a_consumer_without_a_group_commits_into_an_empty_one() {
    let mut s = script();
    let nobody = Membership { member_id: "".into(), instance_id: None, generation: -1 };
    assert_eq!(s.groups.may_commit(0, "g", &nobody), Ok(()));
    let a = s.alone(join());
    assert_eq!(s.groups.may_commit(0, "g", &nobody), Err(GroupError::UnknownMember));
    assert_eq!(s.groups.may_commit(0, "g", &member(&a)), Ok(()));
    assert_eq!(s.groups.may_commit(0, "h", &member(&a)), Err(GroupError::IllegalGeneration));
}

#[test]
fn commits_stop_while_the_leader_divides() {
    let mut s = script();
    let a = s.alone(join());
    let second = s.join(join());
    assert_eq!(s.groups.may_commit(0, "g", &member(&a)), Ok(()), "what it worked on before");
    let first = s.join(again(&a));
    let (a, _) = (s.joined(first), s.joined(second));
    let commit = s.groups.may_commit(0, "g", &member(&a));
    assert_eq!(commit, Err(GroupError::RebalanceInProgress));
}

#[test]
fn groups_members_and_bytes_are_bounded() {
    let mut s = script_with(Limits { initial_rebalance_delay_ms: 10, ..limits() });
    for _ in 0..4 {
        s.join(join());
    }
    let fifth = s.join(join());
    assert_eq!(s.refused(fifth).error, GroupError::Full);
    s.join_group("h", join());
    s.join_group("i", join());
    let fourth_group = s.join_group("j", join());
    assert_eq!(s.refused(fourth_group).error, GroupError::Full);
    let long = "x".repeat(1_001);
    let heavy = s.join_group("h", Join { protocols: vec![protocol("range", &long)], ..join() });
    assert_eq!(s.refused(heavy).error, GroupError::Full);
    let nameless = s.join_group("", join());
    assert_eq!(s.refused(nameless).error, GroupError::InvalidGroupId);
    let hasty = s.join_group("h", Join { session_timeout_ms: 5_999, ..join() });
    assert_eq!(s.refused(hasty).error, GroupError::InvalidSessionTimeout);
}

#[test]
fn total_bytes_are_given_back() {
    let mut s = script_with(Limits { total_bytes_max: 1_500, ..limits() });
    let heavy = || Join { protocols: vec![protocol("range", &"x".repeat(900))], ..join() };
    let token = s.join(heavy());
    let a = s.joined(token);
    let refused = s.join_group("h", heavy());
    assert_eq!(s.refused(refused).error, GroupError::Full);
    assert_eq!(s.leave(&a), Ok(()));
    let token = s.join_group("h", heavy());
    s.joined(token);
}

#[test]
fn a_protocol_tie_is_stable() {
    let names: Vec<Arc<str>> = (0..3)
        .map(|_| {
            let mut s = script();
            let a = s.alone(Join { protocols: vec![protocol("a", ""), protocol("b", "")], ..join() });
            let second = s.join(Join { protocols: vec![protocol("b", ""), protocol("a", "")], ..join() });
            let first = s.join(Join { protocols: vec![protocol("a", ""), protocol("b", "")], ..again(&a) });
            s.joined(second);
            s.joined(first).protocol
        })
        .collect();
    assert!(names.iter().all(|n| **n == *"a"), "{names:?}");
}
