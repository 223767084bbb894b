//! Starts the shards with what recovery found, and stops them.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bridge::state::Change;
use bridge::{Bridge, ConfigureTopicError, CreateTopicError, Lane, RecoveredQueue, Topic};
use parking_lot::Mutex;

use crate::auth::Access;
use crate::config::Config;
use crate::limits;
use crate::listener::Listener;
use crate::mapping::{Mapping, Rule};
use crate::router::{Router, RuleTarget};
use crate::session::{Options, Tag};
use crate::shard::{self, Job, Mail, Mailbox, RecoveredSession, Shard, Visit};
use crate::stats::Counts;
use crate::store::{self, Record};

/// Why the broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A rule's log topic cannot be made.
    #[error("rule for {filter:?}: {error}")]
    Topic {
        /// The rule's filter.
        filter: String,
        /// Why.
        error: CreateTopicError,
    },
    /// A rule's log topic cannot have its settings.
    #[error("rule for {filter:?}: {error}")]
    TopicConfig {
        /// The rule's filter.
        filter: String,
        /// Why.
        error: ConfigureTopicError,
    },
    /// The topic of dead letters cannot be made.
    #[error("bridge.dead_letter_topic: {0}")]
    DeadLetters(CreateTopicError),
    /// The log did not take the topics.
    #[error(transparent)]
    Journal(#[from] bridge::JournalFailed),
    /// A thread or its runtime could not be made.
    #[error("the operating system gives no thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// A running broker.
pub struct Broker {
    mailboxes: Arc<[Mailbox]>,
    router: Arc<Router>,
    /// Log topics that messages go to.
    mapped: Mutex<Vec<String>>,
    /// What administrators change.
    admin_lane: Lane,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Broker {
    /// Restores sessions and retained messages and starts the shards.
    pub fn start(config: Config, bridge: &Bridge, mapping: Mapping, access: Arc<Access>) -> Result<Broker, StartError> {
        let mapped = mapping.topics();
        bridge.set_mapped_topics(mapped.iter().cloned());
        let (rules, dead_letters) = open_topics(bridge, mapping)?;
        let Recovered { router, config, mailboxes, sessions: mut found, mut ended } =
            Recovered::new(config, bridge, rules, access);
        let mut threads = Vec::new();
        let (ready, started) = mpsc::channel::<Result<(), StartError>>();
        for index in (0..config.shards).rev() {
            let sessions = found.pop().unwrap_or_default();
            let ended = std::mem::take(&mut ended);
            let (bridge, router, config) = (bridge.clone(), router.clone(), config.clone());
            let (mailboxes, ready, dead_letters) = (mailboxes.clone(), ready.clone(), dead_letters.clone());
            let run = move || {
                let mut builder = tokio::runtime::Builder::new_current_thread();
                builder.max_blocking_threads(limits::BLOCKING_THREADS_MAX);
                let runtime = match builder.enable_all().build() {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(ready.send(Err(StartError::Thread(error)))),
                };
                let mut shard = Shard::new(index, bridge, router, config, mailboxes, dead_letters);
                sessions.into_iter().for_each(|session| shard.recover(session));
                ended.into_iter().for_each(|(queue, held)| shard.recover_ended(queue, held));
                let attached = runtime.block_on(shard.recovered());
                if let Err(failed) = attached {
                    return drop(ready.send(Err(failed.into())));
                }
                let shared = Rc::new(RefCell::new(shard));
                let _ = ready.send(Ok(()));
                tokio::task::LocalSet::new().block_on(&runtime, shard::run(shared));
                runtime.shutdown_timeout(Duration::from_millis(100));
            };
            threads.push(thread::Builder::new().name(format!("shard-{index}")).spawn(run)?);
        }
        for _ in 0..threads.len() {
            // PROOF: each thread sends once before it drops its sender.
            started.recv().unwrap_or(Ok(()))?;
        }
        let (mapped, threads) = (Mutex::new(mapped), Mutex::new(threads));
        Ok(Broker { mailboxes, router, mapped, admin_lane: bridge.lane(), threads })
    }

    /// Serves MQTT clients of a listener.
    pub fn listen(&self, listener: Listener) {
        self.mailboxes[0].send(Mail::Listen(listener));
    }

    /// Puts other settings in force, and what its [`Access`] has read since. The number of shards stays.
    /// Clients whose user is gone are closed.
    pub fn reload(&self, config: Config) {
        let config = Arc::new(Config { shards: self.mailboxes.len(), ..config });
        self.router.forget_matches();
        self.mailboxes.iter().for_each(|mailbox| mailbox.send(Mail::Reload(config.clone())));
    }

    /// Puts other rules in force. Waits for the disk when a new topic is needed, or one needs other settings.
    pub fn set_mapping(&self, bridge: &Bridge, mapping: Mapping) -> Result<(), StartError> {
        let mut mapped = self.mapped.lock();
        let after = mapping.topics();
        // None is deleted before messages stop going there, nor when they already do.
        bridge.set_mapped_topics(mapped.iter().chain(&after).cloned());
        let opened = open_topics(bridge, mapping);
        let outcome = opened.map(|(rules, dead_letters)| {
            self.router.set_rules(rules);
            self.mailboxes.iter().for_each(|mailbox| mailbox.send(Mail::DeadLetters(dead_letters.clone())));
            *mapped = after;
        });
        bridge.set_mapped_topics(mapped.iter().cloned());
        outcome
    }

    /// Runs work on one of the shards' threads.
    pub fn run_on(&self, shard: usize, job: Job) {
        self.mailboxes[shard % self.mailboxes.len()].send(Mail::Job(job));
    }

    /// Has a shard's thread look at the shard.
    pub(crate) fn visit(&self, shard: usize, visit: Visit) {
        self.mailboxes[shard].send(Mail::Visit(visit));
    }

    pub(crate) fn shards(&self) -> usize {
        self.mailboxes.len()
    }

    pub(crate) fn router(&self) -> &Router {
        &self.router
    }

    pub(crate) fn admin_lane(&self) -> &Lane {
        &self.admin_lane
    }

    /// Acknowledges what was received, closes every client and ends the threads, as far as `deadline` lets.
    pub fn stop(&self, deadline: Instant) {
        self.mailboxes.iter().for_each(|mailbox| mailbox.send(Mail::Stop));
        let threads = self.threads.lock();
        while !threads.iter().all(JoinHandle::is_finished) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// The counts of all shards.
    pub fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        self.mailboxes.iter().for_each(|mailbox| mailbox.shown.add_to(&mut sum));
        sum
    }

    /// Subscriptions, retained messages and their bytes.
    pub fn sizes(&self) -> (usize, usize, usize) {
        let (retained, bytes) = self.router.retained.size();
        (self.router.subscriptions(), retained, bytes)
    }
}

/// What the shards share, with what was found for each.
pub(crate) struct Recovered {
    pub(crate) router: Arc<Router>,
    pub(crate) config: Arc<Config>,
    pub(crate) mailboxes: Arc<[Mailbox]>,
    pub(crate) sessions: Vec<Vec<RecoveredSession>>,
    /// Queues of sessions that had ended, with entries for others.
    pub(crate) ended: Vec<(u64, RecoveredQueue)>,
}

impl Recovered {
    /// Takes what the bridge has recovered.
    pub(crate) fn new(config: Config, bridge: &Bridge, rules: Vec<Arc<RuleTarget>>, access: Arc<Access>) -> Recovered {
        let router = Arc::new(Router::new(config.shards, rules, access));
        for (topic, value) in bridge.take_recovered(store::RETAINED) {
            match store::decode_retained(&topic, &value) {
                Some(message) => {
                    router.retained.set(message);
                }
                None => tracing::error!("a stored retained message does not parse and is left out"),
            }
        }
        let (sessions, ended) = recovered_sessions(bridge, config.shards);
        let mailboxes = (0..config.shards).map(|_| Mailbox::new()).collect();
        Recovered { router, config: Arc::new(config), mailboxes, sessions, ended }
    }
}

/// Rules with their log topics, and where dead letters go.
pub(crate) type Opened = (Vec<Arc<RuleTarget>>, Option<Arc<Topic>>);

/// The log topics, made where they are not there yet, with the settings that their rules name.
fn open_topics(bridge: &Bridge, mapping: Mapping) -> Result<Opened, StartError> {
    let lane = bridge.lane();
    let opened = make_topics(bridge, &lane, mapping)?;
    while lane.durable() < lane.submitted() {
        if let Some(failed) = lane.failure() {
            return Err(failed.clone().into());
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(opened)
}

/// The same, which are there for good once everything on the lane is durable.
pub(crate) fn make_topics(bridge: &Bridge, lane: &Lane, mapping: Mapping) -> Result<Opened, StartError> {
    let open = |name: &str, partitions, config: &BTreeMap<_, _>| match bridge.topic(name) {
        Some(topic) => Ok(topic),
        None => bridge.create_topic(lane, name, partitions, config.clone()).map(|(topic, _)| topic),
    };
    let mut targets = Vec::new();
    for rule in mapping.rules {
        let topic = open(&rule.topic, rule.partitions, &rule.topic_config);
        let topic = topic.map_err(|error| StartError::Topic { filter: rule.filter().to_owned(), error })?;
        configure(bridge, lane, &topic, &rule)?;
        targets.push(Arc::new(RuleTarget { rule, topic }));
    }
    let dead_letters = mapping
        .dead_letters
        .map(|name| open(&name, 1, &BTreeMap::new()))
        .transpose()
        .map_err(StartError::DeadLetters)?;
    let rules = targets.iter().map(|target| &target.topic);
    bridge.set_mapped_topics(rules.chain(&dead_letters).map(|topic| topic.name.clone()));
    Ok((targets, dead_letters))
}

/// What a rule names holds over what its topic was given; what it does not name stays.
fn configure(bridge: &Bridge, lane: &Lane, topic: &Topic, rule: &Rule) -> Result<(), StartError> {
    let config = topic.config();
    if rule.topic_config.iter().all(|(name, value)| config.given.get(name) == Some(value)) {
        return Ok(());
    }
    tracing::info!(topic = topic.name, given = ?rule.topic_config, "topic settings changed by a rule");
    let edit = |given: &mut BTreeMap<String, String>| given.extend(rule.topic_config.clone());
    let failed = |error| StartError::TopicConfig { filter: rule.filter().to_owned(), error };
    bridge.configure_topic(lane, topic, edit).map(drop).map_err(failed)
}

/// Sessions by the shard that is to have them, and queues with something for others than their session, which is no more. What
/// belongs to nobody is removed.
fn recovered_sessions(bridge: &Bridge, shards: usize) -> (Vec<Vec<RecoveredSession>>, Vec<(u64, RecoveredQueue)>) {
    let mut subscriptions: HashMap<u64, Vec<(Box<str>, Options)>> = HashMap::new();
    for (key, value) in bridge.take_recovered(store::SUBSCRIPTIONS) {
        let parsed = store::split_key(&key).and_then(|(session, filter)| {
            Some((session, std::str::from_utf8(filter).ok()?.into(), store::decode_options(&value)?))
        });
        match parsed {
            Some((session, filter, options)) => subscriptions.entry(session).or_default().push((filter, options)),
            None => tracing::error!("a stored subscription does not parse and is left out"),
        }
    }
    let mut inbound: HashMap<u64, Vec<u16>> = HashMap::new();
    for (key, _) in bridge.take_recovered(store::INBOUND) {
        if let Some((session, id)) = store::split_key(&key)
            && let Ok(id) = id.try_into().map(u16::from_be_bytes)
        {
            inbound.entry(session).or_default().push(id);
        }
    }
    let mut queues = bridge.take_recovered_queues();
    let lane = bridge.lane();
    let mut found: Vec<Vec<RecoveredSession>> = (0..shards).map(|_| Vec::new()).collect();
    for (key, value) in bridge.take_recovered(store::SESSIONS) {
        let (Some((id, _)), Some(record)) = (store::split_key(&key), Record::decode(&value)) else {
            tracing::error!("a stored session does not parse and is left out");
            continue;
        };
        let shard = shard::shard_of(&record.client_id, shards);
        let queue = queues.remove(&id).unwrap_or_else(|| {
            // Damage took it: without one nothing would ever be queued for this session.
            let mut operation = lane.begin();
            operation.change(Change::Open(id));
            operation.submit();
            RecoveredQueue::default()
        });
        found[shard].push(RecoveredSession {
            id,
            subscriptions: subscriptions.remove(&id).unwrap_or_default(),
            inbound: inbound.remove(&id).unwrap_or_default(),
            queue,
            record,
        });
    }
    lane.flush();
    // A queue is there before the shard whose it is says so.
    while lane.durable() < lane.submitted() && lane.failure().is_none() {
        thread::sleep(Duration::from_millis(1));
    }
    let is_shared = |held: &RecoveredQueue| held.entries.values().any(|entry| Tag(entry.tag).share().is_some());
    let (ended, bare): (Vec<_>, Vec<_>) = queues.into_iter().partition(|(_, held)| is_shared(held));
    for (queue, _) in bare {
        let mut operation = lane.begin();
        operation.change(Change::Close(queue));
        operation.submit();
    }
    lane.flush();
    (found, ended)
}
