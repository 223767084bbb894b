//! Retained messages: the newest per topic, shared by all shards. Looked up by filter without reading topics that
//! cannot match; removed when they expire without reading those that do not.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use ahash::HashMap;
use parking_lot::RwLock;

use crate::codec::QoS;
use crate::limits;

/// A retained message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retained {
    /// Topic name.
    pub topic: Box<str>,
    /// As published.
    pub qos: QoS,
    /// Encoded 5.0 properties to forward.
    pub properties: Box<[u8]>,
    /// Never empty.
    pub payload: Box<[u8]>,
    /// Seconds since 1970 when it expires; 0 never.
    pub expires_s: u32,
    /// Who published it.
    pub client_id: Box<str>,
    /// Its place in the order of all changes, which the store gives.
    pub order: u64,
}

/// How much may be retained; 0: without limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bounds {
    /// Messages.
    pub messages: usize,
    /// Their bytes, as [`RetainedStore::size`] has them.
    pub bytes: usize,
}

/// Why a message is not retained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// There are too many.
    Messages,
    /// They are too large.
    Bytes,
}

impl Full {
    /// The name of the setting.
    pub fn key(self) -> &'static str {
        match self {
            Full::Messages => "max_retained_messages",
            Full::Bytes => "max_retained_bytes",
        }
    }
}

#[derive(Debug, Default)]
struct Node {
    /// Boxed: most nodes are leaves.
    children: Option<Box<HashMap<Box<str>, Node>>>,
    message: Option<Arc<Retained>>,
}

/// All of them.
#[derive(Debug, Default)]
pub struct RetainedStore {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    root: Node,
    count: usize,
    /// Of messages and of the tree.
    bytes: usize,
    /// Those that can expire, the next first.
    expiring: BTreeSet<Due>,
    /// Changes so far.
    order: u64,
}

/// A message by the time when it expires.
#[derive(Debug)]
struct Due(Arc<Retained>);

impl Ord for Due {
    fn cmp(&self, other: &Due) -> Ordering {
        let key = |Due(message): &Due| message.expires_s;
        key(self).cmp(&key(other)).then_with(|| self.0.topic.cmp(&other.0.topic))
    }
}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Due) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Due {
    fn eq(&self, other: &Due) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Due {}

impl RetainedStore {
    /// Sets a topic's message. Gives it back with its place in the order of all changes, which the journal keeps
    /// whichever shard submits first.
    pub fn set(&self, message: Retained) -> Arc<Retained> {
        self.inner.write().set(message)
    }

    /// The same, unless that were more than may be. What replaces a message and is no larger always may.
    pub fn set_within(&self, bounds: Bounds, message: Retained) -> Result<Arc<Retained>, Full> {
        let mut inner = self.inner.write();
        inner.check(bounds, &message)?;
        Ok(inner.set(message))
    }

    /// The same, and where the message has no place the older one of its topic goes: nobody is to take that for the
    /// newest. Its removal's place in the order comes with the reason, if there was one.
    pub fn set_or_clear(&self, bounds: Bounds, message: Retained) -> Result<Arc<Retained>, (Full, Option<u64>)> {
        let mut inner = self.inner.write();
        match inner.check(bounds, &message) {
            Ok(()) => Ok(inner.set(message)),
            Err(full) => Err((full, inner.remove(&message.topic))),
        }
    }

    /// Forgets all of them.
    pub fn clear(&self) {
        *self.inner.write() = Inner::default();
    }

    /// Removes a topic's message, if there is one. Gives the change's place in the order.
    pub fn remove(&self, topic: &str) -> u64 {
        let mut inner = self.inner.write();
        inner.remove(topic).unwrap_or_else(|| inner.next_order())
    }

    /// The same for many; gives the places of those that were there.
    pub fn remove_all<'a>(&self, topics: impl Iterator<Item = &'a str>) -> Vec<(&'a str, u64)> {
        let mut inner = self.inner.write();
        topics.filter_map(|topic| Some((topic, inner.remove(topic)?))).collect()
    }

    /// Every message whose topic matches a filter and that has not expired.
    pub fn matching(&self, filter: &str, now_s: u32) -> Vec<Arc<Retained>> {
        self.first_matching(filter, now_s, usize::MAX)
    }

    /// As many of them as `max`, in no order.
    pub fn first_matching(&self, filter: &str, now_s: u32, max: usize) -> Vec<Arc<Retained>> {
        let levels: Vec<&str> = filter.split('/').collect();
        let mut found = Vec::new();
        let mut take = |message: &Arc<Retained>| {
            if found.len() == max {
                return ControlFlow::Break(());
            }
            if !message.has_expired(now_s) {
                found.push(message.clone());
            }
            ControlFlow::Continue(())
        };
        // Broken off or not: what was found is what there is.
        let _ = self.inner.read().root.visit(&levels, true, &mut take);
        found
    }

    /// Removes what has expired, or as much of it as is removed at once; gives the topics and the changes' places in
    /// the order.
    pub fn expire(&self, now_s: u32) -> Vec<(Arc<Retained>, u64)> {
        let none = |inner: &Inner| inner.expiring.first().is_none_or(|Due(next)| !next.has_expired(now_s));
        if none(&self.inner.read()) {
            return Vec::new();
        }
        let mut expired = Vec::new();
        let mut inner = self.inner.write();
        while !none(&inner) && expired.len() < limits::RETAINED_EXPIRED_AT_ONCE_MAX {
            let Some(Due(message)) = inner.expiring.first() else { break };
            let message = message.clone();
            let Some(order) = inner.remove(&message.topic) else { break };
            expired.push((message, order));
        }
        expired
    }

    /// How many there are, and the memory they take, with that of the tree they are in.
    pub fn size(&self) -> (usize, usize) {
        let inner = self.inner.read();
        (inner.count, inner.bytes)
    }
}

impl Inner {
    fn check(&self, bounds: Bounds, message: &Retained) -> Result<(), Full> {
        let (before, branch_bytes) = self.root.get(&message.topic);
        if before.is_none() && bounds.messages != 0 && self.count >= bounds.messages {
            return Err(Full::Messages);
        }
        let (bytes, freed) = (message.bytes() + branch_bytes, before.map_or(0, Retained::bytes));
        if bytes > freed && bounds.bytes != 0 && self.bytes - freed + bytes > bounds.bytes {
            return Err(Full::Bytes);
        }
        Ok(())
    }

    fn set(&mut self, mut message: Retained) -> Arc<Retained> {
        message.order = self.next_order();
        let message = Arc::new(message);
        let mut node = &mut self.root;
        for level in message.topic.split('/') {
            if node.children.is_none() {
                self.bytes += limits::RETAINED_BRANCH_BYTES;
            }
            let children = node.children.get_or_insert_default();
            // Looked up first: the entry call would allocate the name each time.
            if !children.contains_key(level) {
                children.insert(level.into(), Node::default());
                self.bytes += limits::RETAINED_NODE_BYTES;
            }
            // PROOF: it is there, or was just inserted.
            node = children.get_mut(level).expect("inserted above");
        }
        if let Some(before) = node.message.replace(message.clone()) {
            self.forget(before);
        }
        self.count += 1;
        self.bytes += message.bytes();
        if message.expires_s != 0 {
            self.expiring.insert(Due(message.clone()));
        }
        message
    }

    fn remove(&mut self, topic: &str) -> Option<u64> {
        let levels: Vec<&str> = topic.split('/').collect();
        let (before, pruned_bytes) = self.root.remove(&levels)?;
        self.bytes -= pruned_bytes;
        self.forget(before);
        Some(self.next_order())
    }

    fn forget(&mut self, message: Arc<Retained>) {
        self.count -= 1;
        self.bytes -= message.bytes();
        if message.expires_s != 0 {
            self.expiring.remove(&Due(message));
        }
    }

    fn next_order(&mut self) -> u64 {
        self.order += 1;
        self.order
    }
}

impl Retained {
    /// Memory it takes, besides its place in the tree.
    pub fn bytes(&self) -> usize {
        let Retained { topic, payload, properties, client_id, .. } = self;
        limits::RETAINED_MESSAGE_BYTES + topic.len() + payload.len() + properties.len() + client_id.len()
    }

    fn has_expired(&self, now_s: u32) -> bool {
        self.expires_s != 0 && self.expires_s <= now_s
    }
}

/// What is done with each message that is found.
type Take<'a> = dyn FnMut(&Arc<Retained>) -> ControlFlow<()> + 'a;

impl Node {
    /// A topic's message, and the memory of what is missing of the way there.
    fn get(&self, topic: &str) -> (Option<&Retained>, usize) {
        let (mut node, mut missing_bytes) = (Some(self), 0);
        for level in topic.split('/') {
            let children = node.and_then(|node| node.children.as_ref());
            if children.is_none() {
                missing_bytes += limits::RETAINED_BRANCH_BYTES;
            }
            node = children.and_then(|children| children.get(level));
            if node.is_none() {
                missing_bytes += limits::RETAINED_NODE_BYTES;
            }
        }
        (node.and_then(|node| node.message.as_deref()), missing_bytes)
    }

    /// Its children, without those that a wildcard at the first level does not match [MQTT-4.7.2-1].
    fn matched_children(&self, first: bool) -> impl Iterator<Item = &Node> {
        let all = self.children.iter().flat_map(|children| children.iter());
        all.filter(move |(level, _)| !(first && level.starts_with('$'))).map(|(_, child)| child)
    }

    fn visit(&self, levels: &[&str], first: bool, take: &mut Take<'_>) -> ControlFlow<()> {
        match levels {
            [] => self.message.as_ref().map_or(ControlFlow::Continue(()), take),
            ["#"] => self.visit_all(first, take),
            ["+", below @ ..] => self.matched_children(first).try_for_each(|child| child.visit(below, false, take)),
            [level, below @ ..] => match self.children.as_ref().and_then(|children| children.get(*level)) {
                Some(child) => child.visit(below, false, take),
                None => ControlFlow::Continue(()),
            },
        }
    }

    fn visit_all(&self, first: bool, take: &mut Take<'_>) -> ControlFlow<()> {
        self.message.as_ref().map_or(ControlFlow::Continue(()), &mut *take)?;
        self.matched_children(first).try_for_each(|child| child.visit_all(false, take))
    }

    /// A message below, and the memory of what led to nothing else.
    fn remove(&mut self, levels: &[&str]) -> Option<(Arc<Retained>, usize)> {
        let Some((level, below)) = levels.split_first() else { return Some((self.message.take()?, 0)) };
        let children = self.children.as_mut()?;
        let child = children.get_mut(*level)?;
        let (removed, mut pruned_bytes) = child.remove(below)?;
        if child.message.is_none() && child.children.is_none() {
            children.remove(*level);
            pruned_bytes += limits::RETAINED_NODE_BYTES;
            if children.is_empty() {
                self.children = None;
                pruned_bytes += limits::RETAINED_BRANCH_BYTES;
            } else {
                super::shrink(children);
            }
        }
        Some((removed, pruned_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const NO_BOUNDS: Bounds = Bounds { messages: 0, bytes: 0 };

    /// What the store takes for these, worked out another way: each prefix is a node.
    fn bytes_of(messages: &BTreeMap<&str, (u32, usize)>) -> usize {
        let mut nodes = BTreeSet::new();
        let mut branches = BTreeSet::new();
        for topic in messages.keys() {
            let levels: Vec<&str> = topic.split('/').collect();
            for depth in 1..=levels.len() {
                nodes.insert(levels[..depth].to_vec());
                branches.insert(levels[..depth - 1].to_vec());
            }
        }
        let tree = nodes.len() * limits::RETAINED_NODE_BYTES + branches.len() * limits::RETAINED_BRANCH_BYTES;
        let each = |(topic, (_, payload)): (&&str, &(u32, usize))| {
            limits::RETAINED_MESSAGE_BYTES + topic.len() + payload + "c".len()
        };
        tree + messages.iter().map(each).sum::<usize>()
    }

    fn sized(topic: &str, expires_s: u32, payload_bytes: usize) -> Retained {
        Retained {
            topic: topic.into(),
            qos: QoS::AtLeastOnce,
            properties: [].into(),
            payload: vec![b'x'; payload_bytes].into(),
            expires_s,
            client_id: "c".into(),
            order: 0,
        }
    }

    fn message(topic: &str, expires_s: u32) -> Retained {
        sized(topic, expires_s, 1)
    }

    fn topics(store: &RetainedStore, filter: &str, now_s: u32) -> Vec<String> {
        let mut topics: Vec<_> = store.matching(filter, now_s).iter().map(|m| m.topic.to_string()).collect();
        topics.sort();
        topics
    }

    #[test]
    fn wildcards_find_what_they_match() {
        let store = RetainedStore::default();
        for topic in ["a", "a/b", "a/c", "a/b/d", "$SYS/x", "/a"] {
            store.set(message(topic, 0));
        }
        assert_eq!(topics(&store, "#", 1), ["/a", "a", "a/b", "a/b/d", "a/c"]);
        assert_eq!(topics(&store, "a/#", 1), ["a", "a/b", "a/b/d", "a/c"]);
        assert_eq!(topics(&store, "a/+", 1), ["a/b", "a/c"]);
        assert_eq!(topics(&store, "+/x", 1), [""; 0]);
        assert_eq!(topics(&store, "$SYS/#", 1), ["$SYS/x"]);
        assert_eq!(topics(&store, "+/a", 1), ["/a"]);
        for (filter, max, found) in [("#", 2, 2), ("#", 5, 5), ("#", 6, 5), ("a/+", 1, 1), ("#", 0, 0)] {
            assert_eq!(store.first_matching(filter, 1, max).len(), found, "{filter} {max}");
        }
    }

    #[test]
    fn setting_replaces_and_removing_leaves_nothing() {
        let store = RetainedStore::default();
        store.set(message("a/b", 0));
        store.set(message("a/b", 9));
        assert_eq!(store.size(), (1, bytes_of(&BTreeMap::from([("a/b", (9, 1))]))));
        let before = store.remove("a");
        assert_eq!(store.size().0, 1, "a is not a/b");
        assert!(store.remove("a/b") > before, "changes have an order");
        assert_eq!(store.size(), (0, 0));
        let inner = store.inner.read();
        assert!(inner.root.children.is_none() && inner.expiring.is_empty());
    }

    #[test]
    fn what_expired_is_not_found_and_can_be_collected() {
        let store = RetainedStore::default();
        store.set(message("a", 10));
        store.set(message("b", 20));
        assert_eq!(topics(&store, "#", 10), ["b"]);
        store.set(message("b", 30));
        let expired = |now_s| -> Vec<Box<str>> { store.expire(now_s).iter().map(|(m, _)| m.topic.clone()).collect() };
        assert_eq!(expired(20), ["a".into()], "b was set anew");
        assert_eq!(store.size().0, 1);
        assert_eq!(expired(29), []);
        assert_eq!(expired(30), ["b".into()]);
    }

    #[test]
    fn bounds_hold_but_for_what_is_no_larger_than_before() {
        let store = RetainedStore::default();
        let bounds = Bounds { messages: 2, bytes: bytes_of(&BTreeMap::from([("a", (0, 10)), ("b", (0, 10))])) };
        assert!(store.set_within(bounds, sized("a", 0, 5)).is_ok());
        assert!(store.set_within(bounds, sized("b", 0, 10)).is_ok());
        assert_eq!(store.set_within(bounds, sized("c", 0, 1)), Err(Full::Messages));
        assert_eq!(store.set_within(bounds, sized("a", 0, 16)), Err(Full::Bytes));
        assert!(store.set_within(bounds, sized("a", 0, 10)).is_ok());
        let tighter = Bounds { messages: 1, bytes: 1 };
        assert!(store.set_within(tighter, sized("a", 0, 10)).is_ok(), "no larger, whatever a reload brought");
        assert_eq!(store.set_within(tighter, sized("a", 0, 11)), Err(Full::Bytes));
        assert_eq!(store.set_or_clear(tighter, sized("c", 0, 1)), Err((Full::Messages, None)));
        assert_eq!(topics(&store, "#", 1), ["a", "b"]);
        assert!(matches!(store.set_or_clear(tighter, sized("a", 0, 11)), Err((Full::Bytes, Some(_)))));
        assert_eq!(topics(&store, "#", 1), ["b"], "the older one is not taken for the newest");
        assert!(store.set_within(NO_BOUNDS, sized("c", 0, 100)).is_ok());
    }

    /// One step of a life.
    #[derive(Clone, Debug)]
    enum Step {
        Set(&'static str, u32, usize),
        Remove(&'static str),
        RemoveAll(Vec<&'static str>),
        Pass(u32),
        Clear,
    }

    fn step() -> impl Strategy<Value = Step> {
        let topic = || prop::sample::select(vec!["a", "a/b", "a/b/c", "b", "/", "$x", "$x/b"]);
        prop_oneof![
            6 => (topic(), 0..20u32, 0..4usize).prop_map(|(topic, lifetime_s, bytes)| Step::Set(topic, lifetime_s, bytes)),
            2 => topic().prop_map(Step::Remove),
            1 => prop::collection::vec(topic(), 0..4).prop_map(Step::RemoveAll),
            3 => (0..8u32).prop_map(Step::Pass),
            1 => Just(Step::Clear),
        ]
    }

    proptest! {
        /// Against a map that is looked through whole.
        #[test]
        fn it_does_what_a_naive_one_does(
            steps in prop::collection::vec(step(), 0..60),
            bounds in (0..5usize, 0..3usize).prop_map(|(messages, of)| {
                Bounds { messages, bytes: of * 2 * limits::RETAINED_MESSAGE_BYTES }
            }),
        ) {
            let store = RetainedStore::default();
            let mut naive: BTreeMap<&str, (u32, usize)> = BTreeMap::new();
            let (mut now_s, mut last_order) = (100, 0);
            for step in steps {
                match step {
                    Step::Set(topic, lifetime_s, bytes) => {
                        let expires_s = if lifetime_s == 0 { 0 } else { now_s + lifetime_s };
                        let before = naive.get(topic).copied();
                        let mut after = naive.clone();
                        after.insert(topic, (expires_s, bytes));
                        let grows = before.is_none_or(|(_, before)| bytes > before);
                        let too_many = before.is_none() && bounds.messages != 0 && after.len() > bounds.messages;
                        let too_large = grows && bounds.bytes != 0 && bytes_of(&after) > bounds.bytes;
                        let fits = !too_many && !too_large;
                        let set = store.set_within(bounds, sized(topic, expires_s, bytes));
                        prop_assert_eq!(set.is_ok(), fits);
                        if let Ok(set) = set {
                            prop_assert!(set.order > last_order);
                            last_order = set.order;
                            naive = after;
                        }
                    }
                    Step::Remove(topic) => {
                        naive.remove(topic);
                        let order = store.remove(topic);
                        prop_assert!(order > last_order);
                        last_order = order;
                    }
                    Step::RemoveAll(topics) => {
                        let removed = store.remove_all(topics.iter().copied());
                        let expected: Vec<_> = topics.into_iter().filter(|topic| naive.remove(topic).is_some()).collect();
                        prop_assert_eq!(removed.iter().map(|(topic, _)| *topic).collect::<Vec<_>>(), expected);
                        last_order = removed.last().map_or(last_order, |(_, order)| *order);
                    }
                    Step::Pass(seconds) => {
                        now_s += seconds;
                        let mut expired: Vec<_> =
                            store.expire(now_s).into_iter().map(|(message, order)| (order, message)).collect();
                        prop_assert!(expired.is_sorted_by(|a, b| a.0 < b.0 && a.1.expires_s <= b.1.expires_s));
                        last_order = expired.last().map_or(last_order, |(order, _)| *order);
                        let mut expired: Vec<_> = expired.drain(..).map(|(_, message)| message.topic.to_string()).collect();
                        expired.sort();
                        let due = |expires_s: u32| expires_s != 0 && expires_s <= now_s;
                        let expected: Vec<_> =
                            naive.iter().filter(|(_, (at, _))| due(*at)).map(|(topic, _)| topic.to_string()).collect();
                        naive.retain(|_, (at, _)| !due(*at));
                        prop_assert_eq!(expired, expected);
                    }
                    Step::Clear => {
                        store.clear();
                        naive.clear();
                        last_order = 0;
                    }
                }
                prop_assert_eq!(store.size(), (naive.len(), bytes_of(&naive)));
                let mut found = topics(&store, "#", 1);
                found.extend(topics(&store, "$x/#", 1));
                found.sort();
                prop_assert_eq!(found, naive.keys().map(|topic| topic.to_string()).collect::<Vec<_>>());
                let expiring = naive.values().filter(|(at, _)| *at != 0).count();
                prop_assert_eq!(store.inner.read().expiring.len(), expiring);
            }
        }
    }
}
