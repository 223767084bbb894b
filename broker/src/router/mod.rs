//! Who gets a message: subscriptions, shared groups, mapping rules and retained messages, shared by all
//! shards. A topic's answer is worked out once and kept by each shard until a subscription changes.

pub mod retained;
pub mod trie;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use ahash::HashMap;
use bridge::Topic;
use parking_lot::{Mutex, RwLock};

use crate::auth::{Access, Identity};
use crate::codec::QoS;
use crate::limits;
use crate::mapping::{Origin, Rule, partition_of};
use crate::session::Tag;
use crate::stats::Drops;

use retained::RetainedStore;
use trie::{SharedGroup, Subscriber, Trie};

/// What every shard may know of a session.
#[derive(Debug)]
pub struct SessionRef {
    /// Never given twice in a data folder; also the number of its queue.
    pub id: u64,
    /// The shard it lives on.
    pub shard: usize,
    /// Its place there.
    pub slot: u32,
    /// Its client.
    pub client_id: Arc<str>,
    /// It keeps subscriptions and a queue while its client is away (S1).
    pub durable: bool,
    /// Whose it is, as far as that was proved.
    identity: Mutex<Identity>,
    connected: AtomicBool,
    open: AtomicBool,
    queued: AtomicUsize,
    /// Messages that were due to it and were never sent.
    pub drops: Drops,
}

impl SessionRef {
    /// A session that is not connected yet, of nobody in particular.
    pub fn new(id: u64, shard: usize, slot: u32, client_id: Arc<str>, durable: bool) -> SessionRef {
        let (connected, open) = (AtomicBool::new(false), AtomicBool::new(false));
        let identity = Mutex::new(Identity::Anonymous);
        let (queued, drops) = (AtomicUsize::new(0), Drops::default());
        SessionRef { id, shard, slot, client_id, durable, identity, connected, open, queued, drops }
    }

    /// Whose it is.
    pub fn identity(&self) -> Identity {
        self.identity.lock().clone()
    }

    /// Said by its shard; whether that is another user than before, however it was proved.
    pub fn set_identity(&self, identity: Identity) -> bool {
        let mut known = self.identity.lock();
        let changed = known.name() != identity.name();
        *known = identity;
        changed
    }

    /// Its client is there.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Its client is there and takes more (S7).
    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    /// Said by its shard.
    pub fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
        self.open.store(connected, Ordering::Relaxed);
    }

    /// Said by its shard; stored only when it changes.
    pub fn set_open(&self, open: bool) {
        if self.is_open() != open {
            self.open.store(open, Ordering::Relaxed);
        }
    }

    /// Entries in its queue, as its shard last counted.
    pub fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// Said by its shard.
    pub fn set_queued(&self, entries: usize) {
        self.queued.store(entries, Ordering::Relaxed);
    }
}

/// Whose messages a target gets: No Local tells a session's own from those of others [MQTT-3.8.3-3].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Whoever published them.
    Anyones,
    /// Not those it published itself.
    Others,
    /// Those alone: where only some of its subscriptions have No Local.
    Own,
}

impl Whose {
    /// Whether a message is among them.
    pub fn includes(self, own: bool) -> bool {
        match self {
            Whose::Anyones => true,
            Whose::Others => !own,
            Whose::Own => own,
        }
    }
}

/// A session that gets a message at once, on the shard it lives on.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its place on its shard.
    pub slot: u32,
    /// Who should be there.
    pub session: u64,
    /// Greatest QoS of its subscriptions that match.
    pub qos: QoS,
    /// Only what is QoS 0 for it goes this way; the rest is queued.
    pub durable: bool,
    /// Whose messages it gets this way.
    pub whose: Whose,
    /// Keep the retain flag.
    pub retain_as_published: bool,
    /// Subscription identifiers, all of them.
    pub ids: Box<[u32]>,
}

/// A session whose queue gets a pointer.
#[derive(Clone, Debug)]
pub struct QueueTarget {
    /// Which.
    pub session: Arc<SessionRef>,
    /// Greatest QoS of its subscriptions that match; not 0.
    pub qos: QoS,
    /// Whose messages it gets this way.
    pub whose: Whose,
    /// Keep the retain flag.
    pub retain_as_published: bool,
    /// Subscription identifier; 0 none. One copy is queued for each. Of a shared subscription its key.
    pub id: u32,
    /// It is a shared one.
    pub shared: bool,
}

impl QueueTarget {
    /// What its entry says of a message published like this.
    pub fn tag(&self, qos: QoS, retain: bool) -> Tag {
        let (qos, retain) = (qos.min(self.qos), retain && self.retain_as_published);
        if self.shared { Tag::shared(qos, retain, self.id) } else { Tag::new(qos, retain, self.id) }
    }
}

/// Where in the log a topic's messages go.
#[derive(Clone, Debug)]
pub struct LogTarget {
    /// The rule that says so.
    pub target: Arc<RuleTarget>,
    /// How many partitions it has.
    pub partitions: u32,
    /// Key and partition, when the MQTT topic alone decides them.
    pub fixed: Option<FixedKey>,
}

/// The key of every message on one topic.
#[derive(Clone, Debug)]
pub struct FixedKey {
    /// The key.
    pub key: Box<[u8]>,
    /// Its partition.
    pub partition: u32,
    /// The topic has all that the rule's key names.
    pub is_whole: bool,
}

/// Everything about a topic name, until a subscription changes.
#[derive(Debug, Default)]
pub struct MatchSet {
    /// By shard.
    pub direct: Vec<Vec<Target>>,
    /// Durable sessions that subscribed at QoS 1 or 2.
    pub queued: Vec<QueueTarget>,
    /// One member of each gets it.
    pub shared: Vec<Arc<SharedGroup>>,
    /// The mapping rule's place in the log.
    pub log: Option<LogTarget>,
}

/// A rule and the log topic it leads to.
#[derive(Debug)]
pub struct RuleTarget {
    /// What it says.
    pub rule: Rule,
    /// Where it leads.
    pub topic: Arc<Topic>,
}

/// Shared by all shards.
pub struct Router {
    trie: RwLock<Trie>,
    generation: AtomicU64,
    subscriptions: AtomicUsize,
    /// The shared ones among them.
    shared_subscriptions: AtomicUsize,
    /// Retained messages.
    pub retained: RetainedStore,
    /// When it may be said again that there is no place for more, in milliseconds of the process.
    retained_warning_ms: AtomicU64,
    /// The newest of `$SYS`, which is nobody's to retain and is not journaled (S8).
    pub sys: RetainedStore,
    /// Who may do what.
    pub access: Arc<Access>,
    /// In order; empty when nothing is mapped.
    rules: RwLock<Vec<Arc<RuleTarget>>>,
    shards: usize,
    /// Sessions begun since the start.
    sessions: AtomicU64,
    /// Shards whose sessions of before the start have their subscriptions here.
    recovered: AtomicUsize,
}

impl Router {
    /// A router without subscriptions.
    pub fn new(shards: usize, rules: Vec<Arc<RuleTarget>>, access: Arc<Access>) -> Router {
        Router {
            trie: RwLock::default(),
            generation: AtomicU64::new(1),
            subscriptions: AtomicUsize::new(0),
            shared_subscriptions: AtomicUsize::new(0),
            retained: RetainedStore::default(),
            retained_warning_ms: AtomicU64::new(0),
            sys: RetainedStore::default(),
            access,
            rules: RwLock::new(rules),
            shards,
            sessions: AtomicU64::new(0),
            recovered: AtomicUsize::new(0),
        }
    }

    /// A session begins; which one since the start, from 1.
    pub fn count_session(&self) -> u64 {
        self.sessions.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A shard has taken in the sessions that the start found.
    pub fn note_recovered(&self) {
        self.recovered.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether all have.
    pub fn is_recovered(&self) -> bool {
        self.recovered.load(Ordering::Acquire) == self.shards
    }

    /// Rises with every change of a subscription, rule or right: older [`MatchSet`]s are out of date.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Rights have changed, or whose a session is.
    pub fn forget_matches(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Other mapping rules are in force.
    pub fn set_rules(&self, rules: Vec<Arc<RuleTarget>>) {
        *self.rules.write() = rules;
        self.forget_matches();
    }

    /// Whether a session may get messages on a topic.
    pub fn may_receive(&self, session: &SessionRef, topic: &str) -> bool {
        !self.access.has_acl() || self.access.may_receive(&session.identity.lock(), &session.client_id, topic)
    }

    /// Adds or replaces a subscription. `fresh` when the session had none on this filter.
    pub fn subscribe(&self, filter: &str, subscriber: Subscriber, fresh: bool) {
        let (group, filter) = split(filter);
        self.trie.write().subscribe(filter, group, subscriber);
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.subscriptions.fetch_add(usize::from(fresh), Ordering::Relaxed);
        self.shared_subscriptions.fetch_add(usize::from(fresh && group.is_some()), Ordering::Relaxed);
    }

    /// Removes subscriptions of a session.
    pub fn unsubscribe<'a>(&self, filters: impl Iterator<Item = &'a str>, session: u64) {
        let mut trie = self.trie.write();
        for filter in filters {
            let (group, filter) = split(filter);
            trie.unsubscribe(filter, group, session);
            self.subscriptions.fetch_sub(1, Ordering::Relaxed);
            self.shared_subscriptions.fetch_sub(usize::from(group.is_some()), Ordering::Relaxed);
        }
        self.generation.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether it is time to say once more that there is no place for more retained messages.
    pub fn may_warn_of_retained(&self, now_ms: u64) -> bool {
        let due = |next| (next <= now_ms).then(|| now_ms + 1000 * limits::RETAINED_WARNING_S);
        self.retained_warning_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due).is_ok()
    }

    /// The members of a shared subscription, while it has any.
    pub fn group(&self, filter: &str, name: &str) -> Option<Arc<SharedGroup>> {
        self.trie.read().group(filter, name)
    }

    /// Those of the one that has this [`share_key`](crate::session::share_key), if only one has.
    pub fn group_with_key(&self, key: u32) -> Option<Arc<SharedGroup>> {
        self.trie.read().group_with_key(key)
    }

    /// Subscriptions of all sessions.
    pub fn subscriptions(&self) -> usize {
        self.subscriptions.load(Ordering::Relaxed)
    }

    /// Shared subscriptions among them.
    pub fn shared_subscriptions(&self) -> usize {
        self.shared_subscriptions.load(Ordering::Relaxed)
    }

    /// Works out who gets messages on a topic.
    pub fn resolve(&self, topic: &str) -> MatchSet {
        let mut found = self.trie.read().matches(topic);
        if self.access.has_acl() {
            found.own.retain(|subscriber| self.may_receive(&subscriber.session, topic));
        }
        let mut set = MatchSet { direct: vec![Vec::new(); self.shards], ..MatchSet::default() };
        let mut by_session: HashMap<u64, Vec<&Subscriber>> = HashMap::default();
        for subscriber in &found.own {
            by_session.entry(subscriber.session.id).or_default().push(subscriber);
        }
        // In the trie's order: delivery then does not depend on a hash.
        for first in &found.own {
            if let Some(all) = by_session.remove(&first.session.id) {
                set.add_session(&all);
            }
        }
        set.shared = found.shared;
        set.log = self.log_target(topic);
        set
    }

    fn log_target(&self, topic: &str) -> Option<LogTarget> {
        // $SYS is never journaled (S8), nor is any other topic of the server's own.
        if topic.starts_with('$') {
            return None;
        }
        let target = self.rules.read().iter().find(|target| target.rule.matches(topic))?.clone();
        let partitions = target.topic.partitions.len() as u32;
        let fixed = target.rule.key_is_fixed_by_topic().then(|| {
            let mut key = Vec::new();
            let origin = Origin { topic, client_id: "", user: None };
            let is_whole = target.rule.key(&mut key, origin, std::iter::empty());
            let partition = partition_of(&key, partitions);
            FixedKey { key: key.into(), partition, is_whole }
        });
        Some(LogTarget { target, partitions, fixed })
    }
}

impl MatchSet {
    /// Memory it takes, about.
    pub fn bytes(&self) -> usize {
        let direct: usize = self.direct.iter().map(Vec::len).sum();
        let key = self.log.as_ref().and_then(|log| log.fixed.as_ref()).map_or(0, |fixed| fixed.key.len());
        direct * size_of::<Target>() + self.queued.len() * size_of::<QueueTarget>() + self.shared.len() * 8 + key
    }

    /// One session's overlapping subscriptions: one copy at the greatest QoS with every identifier; in a
    /// queue, one copy for each identifier (an entry has room for one) [MQTT-3.3.4-2].
    fn add_session(&mut self, all: &[&Subscriber]) {
        let local: Vec<&Subscriber> = all.iter().copied().filter(|s| !s.no_local).collect();
        if local.len() == all.len() {
            return self.add_targets(all, Whose::Anyones);
        }
        self.add_targets(all, Whose::Others);
        if !local.is_empty() {
            self.add_targets(&local, Whose::Own);
        }
    }

    fn add_targets(&mut self, all: &[&Subscriber], whose: Whose) {
        let session = &all[0].session;
        let qos = all.iter().map(|s| s.qos).max().unwrap_or(QoS::AtMostOnce);
        let retain_as_published = all.iter().any(|s| s.retain_as_published);
        let ids: Box<[u32]> = all.iter().filter_map(|s| s.id).collect();
        if session.durable && qos > QoS::AtMostOnce {
            let id_of =
                |id| QueueTarget { session: session.clone(), qos, whose, retain_as_published, id, shared: false };
            match ids.is_empty() {
                true => self.queued.push(id_of(0)),
                false => self.queued.extend(ids.iter().copied().map(id_of)),
            }
        }
        let target = direct(session, qos, whose, retain_as_published, ids);
        self.direct[session.shard].push(target);
    }
}

fn direct(session: &SessionRef, qos: QoS, whose: Whose, retain_as_published: bool, ids: Box<[u32]>) -> Target {
    let (slot, durable) = (session.slot, session.durable);
    Target { slot, session: session.id, qos, durable, whose, retain_as_published, ids }
}

/// A shared group's member as the one target of a message.
pub fn picked(member: &Subscriber) -> Target {
    let ids = member.id.into_iter().collect();
    direct(&member.session, member.qos, Whose::Anyones, member.retain_as_published, ids)
}

/// The same, for its queue.
pub fn picked_queue(member: &Subscriber, key: u32) -> QueueTarget {
    QueueTarget {
        session: member.session.clone(),
        qos: member.qos,
        whose: Whose::Anyones,
        retain_as_published: member.retain_as_published,
        id: key,
        shared: true,
    }
}

/// Gives back the room of what was removed: a table keeps it otherwise, for as long as its branch stands. Called after
/// each removal, does something when another half is gone. (What stood where is not free again in `capacity`.)
fn shrink<V>(children: &mut HashMap<Box<str>, V>) {
    if children.len().is_power_of_two() {
        children.shrink_to(2 * children.len());
    }
}

fn split(filter: &str) -> (Option<&str>, &str) {
    match crate::codec::topic::split_share(filter) {
        Some((group, filter)) => (Some(group), filter),
        None => (None, filter),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Proof, User};

    #[test]
    fn a_name_proved_in_another_way_is_the_same_user() {
        let session = SessionRef::new(1, 0, 0, "c".into(), true);
        let alice = |proof| Identity::User(User { name: "alice".into(), proof });
        assert!(session.set_identity(alice(Proof::Certificate)));
        assert!(!session.set_identity(alice(Proof::Password(1))));
        assert_eq!(session.identity(), alice(Proof::Password(1)), "kept: a reload asks how");
        assert!(session.set_identity(Identity::Anonymous));
    }
}
