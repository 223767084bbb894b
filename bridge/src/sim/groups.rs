//! A consumer group over crashes: members join, divide partitions, fetch where to go on, commit, fall silent and commit
//! all the same. An offset that was answered never steps back, whoever commits next.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::disk::{End, SimulatedDisk};
use super::random::Random;
use super::steps::{Failed, Steps};
use super::world::World;
use crate::JournalFailed;
use crate::group::{Coordinator, Join, Joined, Limits, Membership, Protocol, Reply, Sync, Token};
use crate::kafka::offsets::{Committed, Offsets, Place};
use crate::log::Now;

const GROUP: &str = "g";
const TOPIC: &str = "t";
const MEMBERS: usize = 3;
const PARTITIONS: u32 = 3;
const STARTS: u64 = 3;
const STEPS_MAX: u64 = 200;
const SESSION_MS: u64 = 6_000;

type Answer<T> = Pin<Box<dyn Future<Output = Result<T, JournalFailed>>>>;

/// What was done, for the record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub commits: u64,
    pub refused: u64,
    pub fetches: u64,
    pub generations: u64,
}

pub struct GroupWorld {
    random: Random,
    disk: SimulatedDisk,
    now_ms: u64,
    topic: Option<u32>,
    /// What was answered, and what was asked for since and may be there.
    answered: BTreeMap<u32, i64>,
    asked: BTreeMap<u32, BTreeSet<i64>>,
    counts: Counts,
}

/// One process and the members' connections to it.
struct Run {
    steps: Steps,
    offsets: Arc<Offsets>,
    groups: Coordinator,
    tokens: u64,
    members: Vec<Member>,
    commits: Vec<(BTreeMap<u32, i64>, Answer<()>)>,
}

#[derive(Default)]
enum Member {
    #[default]
    Out,
    Joining(Token),
    Syncing(Token, Joined),
    /// Its part, and what it was told of where to go on; what was answered by the time it asked.
    Fetching(Joined, BTreeMap<u32, i64>, Answer<BTreeMap<u32, i64>>),
    /// Partitions and how far it is.
    Works(Joined, BTreeMap<u32, i64>),
}

impl GroupWorld {
    pub fn new(seed: u64) -> GroupWorld {
        let mut random = Random::new(seed);
        let disk = SimulatedDisk::new(random.number());
        GroupWorld {
            random,
            disk,
            now_ms: 0,
            topic: None,
            answered: BTreeMap::new(),
            asked: BTreeMap::new(),
            counts: Counts::default(),
        }
    }

    pub fn run(mut self) -> Result<Counts, String> {
        for start in 0..=STARTS {
            let Some(mut run) = self.start().map_err(|wrong| format!("group, start {start}: {wrong}"))? else {
                self.end();
                continue;
            };
            self.disk.end_after(self.random.below(300));
            let worked = self.work(&mut run);
            self.counts.generations += run.groups.rebalances();
            run.steps.end(&self.disk);
            worked.map_err(|wrong| format!("group, after start {start}: {wrong}"))?;
            self.end();
        }
        Ok(self.counts)
    }

    fn end(&mut self) {
        let end = if self.random.one_in(3) { End::Killed } else { End::PowerCut };
        self.disk = self.disk.clone().next(end);
    }

    fn start(&mut self) -> Result<Option<Run>, String> {
        let (bridge, mut steps) = Steps::open(&self.disk, World::options()).map_err(|error| error.to_string())?;
        if self.topic.is_none() {
            let lane = bridge.lane();
            let made = match bridge.topic(TOPIC) {
                Some(topic) => topic.id,
                None => {
                    let made = bridge.create_topic(&lane, TOPIC, PARTITIONS, BTreeMap::new());
                    made.map_err(|error| error.to_string())?.0.id
                }
            };
            if steps.commit().is_err() {
                steps.end(&self.disk);
                return Ok(None);
            }
            self.topic = Some(made);
        }
        let offsets = Arc::new(Offsets::recover(&bridge));
        let limits = Limits {
            session_timeout_min_ms: SESSION_MS,
            session_timeout_max_ms: SESSION_MS,
            initial_rebalance_delay_ms: 0,
            groups_max: 3,
            members_max: 4,
            metadata_bytes_max: 1_000,
            total_bytes_max: 5_000,
        };
        let groups = Coordinator::new(limits, self.random.number());
        let members = (0..MEMBERS).map(|_| Member::Out).collect();
        let run = Run { steps, offsets, groups, tokens: 0, members, commits: Vec::new() };
        self.check(&run)?;
        Ok(Some(run))
    }

    fn place(&self, partition: u32) -> Place {
        Place { topic_id: self.topic.unwrap_or_default(), partition }
    }

    /// What a start found: what was answered, or was asked for after it.
    fn check(&mut self, run: &Run) -> Result<(), String> {
        let asked = std::mem::take(&mut self.asked);
        for partition in 0..PARTITIONS {
            let found = run.offsets.get(GROUP, self.place(partition)).map(|committed| committed.offset);
            let answered = self.answered.get(&partition).copied();
            let may_be = asked.get(&partition).is_some_and(|asked| found.is_some_and(|found| asked.contains(&found)));
            if found != answered && !may_be {
                return Err(format!("partition {partition}: {found:?} is committed, {answered:?} was answered"));
            }
            if let Some(found) = found {
                self.answered.insert(partition, found);
            }
        }
        Ok(())
    }

    fn work(&mut self, run: &mut Run) -> Result<(), String> {
        for _ in 0..self.random.below(STEPS_MAX) {
            match self.random.below(16) {
                0..=8 => self.member_acts(run)?,
                9..=11 => {
                    if run.steps.commit().is_err() || self.disk.has_ended() {
                        // The process says so and exits; nobody is answered.
                        return Ok(());
                    }
                    self.hear(run)?;
                }
                12 => drop(run.steps.apply()?),
                13 if self.checkpoint(run).is_err() => return Ok(()),
                13 => {}
                14 => {
                    self.now_ms += self.random.below(SESSION_MS);
                    run.groups.tick(self.now_ms);
                }
                _ if self.random.one_in(8) => self.disk.fail_a_sync(self.random.below(6)),
                _ => {}
            }
            self.replies(run)?;
            if self.disk.has_ended() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn checkpoint(&mut self, run: &mut Run) -> Result<(), Failed> {
        if self.random.one_in(3) {
            let up = std::time::Duration::from_millis(self.now_ms);
            run.steps.start_checkpoint(Now { wall_ms: self.now_ms as i64, up });
            return Ok(());
        }
        run.steps.checkpoint(1 + self.random.below(12)).map(drop)
    }

    fn member_acts(&mut self, run: &mut Run) -> Result<(), String> {
        let index = self.random.below(MEMBERS as u64) as usize;
        let now_ms = self.now_ms;
        match std::mem::take(&mut run.members[index]) {
            Member::Out => run.members[index] = Member::Joining(join(run, now_ms, index, "".into())),
            Member::Works(joined, mut at) => {
                let who = membership(&joined);
                if self.random.one_in(3) && run.groups.heartbeat(now_ms, GROUP, &who).is_err() {
                    // It comes back with the id it has.
                    run.members[index] = Member::Joining(join(run, now_ms, index, joined.member_id));
                    return Ok(());
                }
                at.values_mut().for_each(|offset| *offset += self.random.below(3) as i64);
                if self.random.one_in(2) && !at.is_empty() {
                    self.commit(run, &who, &at)?;
                }
                run.members[index] = Member::Works(joined, at);
            }
            waits => run.members[index] = waits,
        }
        Ok(())
    }

    /// As OffsetCommit does.
    fn commit(&mut self, run: &mut Run, who: &Membership, at: &BTreeMap<u32, i64>) -> Result<(), String> {
        if run.groups.may_commit(self.now_ms, GROUP, who).is_err() {
            self.counts.refused += 1;
            return Ok(());
        }
        let committed = |offset: i64| Committed { offset, leader_epoch: 1, committed_at_ms: 1, metadata: "".into() };
        let all = at.iter().map(|(partition, offset)| (self.place(*partition), committed(*offset))).collect();
        for (partition, offset) in at {
            self.asked.entry(*partition).or_default().insert(*offset);
        }
        let offsets = run.offsets.clone();
        let mut answer: Answer<()> = Box::pin(async move {
            let taken = offsets.commit(&GROUP.into(), all).await?;
            assert!(taken.is_ok(), "there is room");
            Ok(())
        });
        // It is on its lane with this.
        match poll(&mut answer) {
            Some(_) => self.note_answered(at),
            None => {
                run.commits.push((at.clone(), answer));
                Ok(())
            }
        }
    }

    /// Answers to commits and fetches.
    fn hear(&mut self, run: &mut Run) -> Result<(), String> {
        for (offsets, mut answer) in std::mem::take(&mut run.commits) {
            match poll(&mut answer) {
                Some(Ok(())) => self.note_answered(&offsets)?,
                Some(Err(failed)) => return Err(failed.to_string()),
                None => run.commits.push((offsets, answer)),
            }
        }
        for member in &mut run.members {
            if let Member::Fetching(joined, least, answer) = member
                && let Some(at) = poll(answer)
            {
                let at = at.map_err(|failed| failed.to_string())?;
                if let Some((partition, _)) = least.iter().find(|(partition, offset)| at[*partition] < **offset) {
                    return Err(format!("partition {partition}: fetched {at:?} after {least:?} was answered"));
                }
                self.counts.fetches += 1;
                *member = Member::Works(joined.clone(), at);
            }
        }
        Ok(())
    }

    fn note_answered(&mut self, offsets: &BTreeMap<u32, i64>) -> Result<(), String> {
        self.counts.commits += 1;
        for (partition, offset) in offsets {
            let before = self.answered.insert(*partition, *offset);
            if before.is_some_and(|before| before > *offset) {
                return Err(format!("partition {partition}: {offset} is committed behind {before:?}"));
            }
            if let Some(asked) = self.asked.get_mut(partition) {
                asked.retain(|other| other > offset);
            }
        }
        Ok(())
    }

    /// What the coordinator says to those that wait.
    fn replies(&mut self, run: &mut Run) -> Result<(), String> {
        loop {
            let replies = run.groups.take_replies();
            if replies.is_empty() {
                return Ok(());
            }
            for reply in replies {
                let (Reply::Join(token, _) | Reply::Sync(token, _)) = &reply;
                let waits = |member: &Member| match member {
                    Member::Joining(own) | Member::Syncing(own, _) => own == token,
                    _ => false,
                };
                let Some(index) = run.members.iter().position(waits) else { continue };
                let member = std::mem::take(&mut run.members[index]);
                run.members[index] = match (member, reply) {
                    (Member::Joining(_), Reply::Join(_, Ok(joined))) => sync(run, self.now_ms, joined),
                    (Member::Syncing(_, joined), Reply::Sync(_, Ok(synced))) => {
                        self.fetch(run, joined, &synced.assignment)
                    }
                    // It begins anew.
                    _ => Member::Out,
                };
            }
        }
    }

    /// As OffsetFetch does.
    fn fetch(&self, run: &Run, joined: Joined, assignment: &Bytes) -> Member {
        let places: Vec<(u32, Place)> =
            assignment.iter().map(|partition| ((*partition).into(), self.place((*partition).into()))).collect();
        let least =
            places.iter().filter_map(|(partition, _)| Some((*partition, *self.answered.get(partition)?))).collect();
        let offsets = run.offsets.clone();
        let mut answer: Answer<BTreeMap<u32, i64>> = Box::pin(async move {
            offsets.settle().await?;
            let at = |place| offsets.get(GROUP, place).map_or(0, |committed| committed.offset);
            Ok(places.into_iter().map(|(partition, place)| (partition, at(place))).collect())
        });
        match poll(&mut answer) {
            Some(Ok(at)) => Member::Works(joined, at),
            _ => Member::Fetching(joined, least, answer),
        }
    }
}

fn poll<T>(answer: &mut Answer<T>) -> Option<Result<T, JournalFailed>> {
    match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answered) => Some(answered),
        Poll::Pending => None,
    }
}

fn join(run: &mut Run, now_ms: u64, index: usize, member_id: Arc<str>) -> Token {
    run.tokens += 1;
    let join = Join {
        member_id,
        instance_id: None,
        client_id: format!("member-{index}").into(),
        client_host: "/127.0.0.1".into(),
        session_timeout_ms: SESSION_MS,
        rebalance_timeout_ms: SESSION_MS,
        protocol_type: "consumer".into(),
        protocols: vec![Protocol { name: "range".into(), metadata: Bytes::new() }],
        can_retry_with_id: false,
        can_skip_assignment: false,
    };
    run.groups.join(now_ms, Token(run.tokens), GROUP, join);
    Token(run.tokens)
}

/// The leader gives each member its partitions, in turn.
fn sync(run: &mut Run, now_ms: u64, joined: Joined) -> Member {
    run.tokens += 1;
    let parts = joined.members.iter().enumerate().map(|(index, member)| {
        let mine = (0..PARTITIONS as u8).filter(|partition| usize::from(*partition) % joined.members.len() == index);
        (member.member_id.clone(), mine.collect::<Bytes>())
    });
    let assignments = parts.collect();
    let sync = Sync { member: membership(&joined), protocol_type: None, protocol: None, assignments };
    let token = Token(run.tokens);
    // The answer may come at once: it has to find who waits.
    run.groups.sync(now_ms, token, GROUP, sync);
    Member::Syncing(token, joined)
}

fn membership(joined: &Joined) -> Membership {
    Membership { member_id: joined.member_id.clone(), instance_id: None, generation: joined.generation }
}
