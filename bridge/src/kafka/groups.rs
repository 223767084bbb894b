//! Drives the group coordinator: brings it the time, and lets its answers find their requests.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use kafka_protocol::ResponseError;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep_until},
};

use super::metrics::Metrics;
use crate::group::{
    Coordinator, Description, GroupError, Join, JoinRefused, Joined, Leaver, Limits, Membership, Millis, Overview,
    Reply, Sync, Synced, Token,
};

type JoinOutcome = Result<Joined, JoinRefused>;
type SyncOutcome = Result<Synced, GroupError>;

/// Every consumer group, for all connections.
pub(super) struct Groups {
    started: Instant,
    desk: Mutex<Desk>,
    /// The next deadline came nearer.
    sooner: Notify,
    metrics: Arc<Metrics>,
}

struct Desk {
    coordinator: Coordinator,
    waiting: HashMap<Token, Waiter>,
    tokens: u64,
}

enum Waiter {
    Join(oneshot::Sender<JoinOutcome>),
    Sync(oneshot::Sender<SyncOutcome>),
}

/// Tells the coordinator when a request is dropped before its answer.
struct Abandon<'a> {
    groups: &'a Groups,
    group: &'a str,
    token: Token,
}

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        let Abandon { groups, group, token } = *self;
        groups.event(|desk, now| {
            if desk.waiting.remove(&token).is_some() {
                desk.coordinator.abandon(now, group, token);
            }
        });
    }
}

impl Groups {
    pub fn new(limits: Limits, metrics: Arc<Metrics>) -> Groups {
        // Without randomness ids only repeat after a restart, and clients of then are unknown anyway.
        let seed = getrandom::u64().unwrap_or(0);
        Groups {
            started: Instant::now(),
            desk: Mutex::new(Desk { coordinator: Coordinator::new(limits, seed), waiting: HashMap::new(), tokens: 0 }),
            sooner: Notify::new(),
            metrics,
        }
    }

    /// Joins a group; waits until the next generation begins. Dropping it is hanging up.
    pub async fn join(&self, group: &str, join: Join) -> JoinOutcome {
        let (answer, answered) = oneshot::channel();
        let asked = join.member_id.clone();
        let token = self.event(|desk, now| {
            let token = desk.token(Waiter::Join(answer));
            desk.coordinator.join(now, token, group, join);
            token
        });
        let _abandon = Abandon { groups: self, group, token };
        // The sender lives in `self` until it has sent.
        let gone = JoinRefused { error: GroupError::UnknownMember, member_id: asked };
        answered.await.unwrap_or(Err(gone))
    }

    /// Asks for a member's part; waits until the leader has divided. Dropping it is hanging up.
    pub async fn sync(&self, group: &str, sync: Sync) -> SyncOutcome {
        let (answer, answered) = oneshot::channel();
        let token = self.event(|desk, now| {
            let token = desk.token(Waiter::Sync(answer));
            desk.coordinator.sync(now, token, group, sync);
            token
        });
        let _abandon = Abandon { groups: self, group, token };
        answered.await.unwrap_or(Err(GroupError::UnknownMember))
    }

    pub fn heartbeat(&self, group: &str, who: &Membership) -> Result<(), GroupError> {
        self.event(|desk, now| desk.coordinator.heartbeat(now, group, who))
    }

    pub fn may_commit(&self, group: &str, who: &Membership) -> Result<(), GroupError> {
        self.event(|desk, now| desk.coordinator.may_commit(now, group, who))
    }

    pub fn leave(&self, group: &str, leavers: &[Leaver]) -> Vec<Result<(), GroupError>> {
        self.event(|desk, now| desk.coordinator.leave(now, group, leavers))
    }

    pub fn describe(&self, group: &str) -> Option<Description> {
        self.desk.lock().coordinator.describe(group)
    }

    pub fn list(&self) -> Vec<Overview> {
        self.desk.lock().coordinator.list()
    }

    pub fn is_in_use(&self, group: &str) -> bool {
        self.desk.lock().coordinator.is_in_use(group)
    }

    /// Lets time pass, for ever.
    pub async fn run_timers(&self) {
        loop {
            let next = self.desk.lock().coordinator.next_deadline();
            match next {
                Some(due) => {
                    let due = self.started + Duration::from_millis(due);
                    tokio::select! {
                        () = sleep_until(due) => {}
                        () = self.sooner.notified() => continue,
                    }
                }
                None => {
                    self.sooner.notified().await;
                    continue;
                }
            }
            self.event(|desk, now| desk.coordinator.tick(now));
        }
    }

    /// One event, and the delivery of what became ready by it.
    fn event<R>(&self, event: impl FnOnce(&mut Desk, Millis) -> R) -> R {
        let mut desk = self.desk.lock();
        let before = desk.coordinator.next_deadline();
        // 584 million years of milliseconds fit.
        let now = self.started.elapsed().as_millis() as Millis;
        let outcome = event(&mut desk, now);
        desk.deliver();
        let rebalances = desk.coordinator.rebalances();
        self.metrics.group_rebalances.store(rebalances, Ordering::Relaxed);
        let after = desk.coordinator.next_deadline();
        drop(desk);
        if after.is_some_and(|after| before.is_none_or(|before| after < before)) {
            self.sooner.notify_one();
        }
        outcome
    }
}

impl Desk {
    fn token(&mut self, waiter: Waiter) -> Token {
        self.tokens += 1;
        let token = Token(self.tokens);
        self.waiting.insert(token, waiter);
        token
    }

    /// A request that is gone by now has no use for its answer: send() may fail.
    fn deliver(&mut self) {
        for reply in self.coordinator.take_replies() {
            match reply {
                Reply::Join(token, outcome) => {
                    if let Some(Waiter::Join(answer)) = self.waiting.remove(&token) {
                        answer.send(outcome).ok();
                    }
                }
                Reply::Sync(token, outcome) => {
                    if let Some(Waiter::Sync(answer)) = self.waiting.remove(&token) {
                        answer.send(outcome).ok();
                    }
                }
            }
        }
    }
}

/// Kafka's number for what a group said.
pub(super) fn error_code(error: GroupError) -> i16 {
    let error = match error {
        GroupError::InvalidGroupId => ResponseError::InvalidGroupId,
        GroupError::InvalidSessionTimeout => ResponseError::InvalidSessionTimeout,
        GroupError::InconsistentProtocol => ResponseError::InconsistentGroupProtocol,
        GroupError::MemberIdRequired => ResponseError::MemberIdRequired,
        GroupError::UnknownMember => ResponseError::UnknownMemberId,
        GroupError::FencedInstance => ResponseError::FencedInstanceId,
        GroupError::IllegalGeneration => ResponseError::IllegalGeneration,
        GroupError::RebalanceInProgress => ResponseError::RebalanceInProgress,
        GroupError::Full => ResponseError::GroupMaxSizeReached,
    };
    error.code()
}

/// The same for an outcome: 0 is success.
pub(super) fn outcome_code(outcome: Result<(), GroupError>) -> i16 {
    outcome.map_or_else(error_code, |()| 0)
}
