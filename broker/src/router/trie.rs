//! The subscription trie: topic filters to who subscribed, a level at a time.

use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ahash::HashMap;
use parking_lot::RwLock;
use smallvec::SmallVec;

use crate::codec::QoS;
use crate::session::share_key;

use super::{SessionRef, shrink};

/// One subscription of one session.
#[derive(Clone, Debug)]
pub struct Subscriber {
    /// Whose.
    pub session: Arc<SessionRef>,
    /// Maximum QoS granted.
    pub qos: QoS,
    /// Not to whom published it.
    pub no_local: bool,
    /// Keep the retain flag.
    pub retain_as_published: bool,
    /// 5.0's Subscription Identifier.
    pub id: Option<u32>,
}

/// Members of one `$share/{group}/{filter}`.
#[derive(Debug)]
pub struct SharedGroup {
    name: Box<str>,
    /// Its [`share_key`], for those who queue what came by it.
    pub key: u32,
    /// Changed under the trie's lock; read by publishers.
    members: RwLock<Vec<Subscriber>>,
    turn: AtomicUsize,
}

impl SharedGroup {
    /// Its share name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The member whose turn it is among those that `may` have it: connected ones first, else one that keeps
    /// a queue.
    pub fn pick(&self, may: impl Fn(&SessionRef) -> bool) -> Option<Subscriber> {
        let members = self.members.read();
        let start = self.turn.fetch_add(1, Ordering::Relaxed);
        let all = || (0..members.len()).map(|i| &members[(start.wrapping_add(i)) % members.len()]);
        let in_turn = || all().filter(|member| may(&member.session));
        in_turn()
            .find(|member| member.session.is_open())
            .or_else(|| in_turn().find(|member| member.session.is_connected()))
            .or_else(|| in_turn().find(|member| member.session.durable && member.qos > QoS::AtMostOnce))
            .cloned()
    }

    /// Whether any member keeps a queue.
    pub fn has_durable(&self) -> bool {
        self.members.read().iter().any(|member| member.session.durable)
    }
}

#[derive(Debug, Default)]
struct Node {
    children: HashMap<Box<str>, Node>,
    /// Filters that end here.
    exact: Here,
    /// Filters that end with `#` here.
    rest: Here,
}

#[derive(Debug, Default)]
struct Here {
    own: Vec<Subscriber>,
    shared: Vec<Arc<SharedGroup>>,
}

/// The trie. `+` is a child like any other, found by its name.
#[derive(Debug, Default)]
pub struct Trie {
    root: Node,
    /// Every shared subscription by its [`share_key`]: hardly ever two have the same.
    groups: HashMap<u32, SmallVec<[Arc<SharedGroup>; 1]>>,
}

/// What a topic name matches.
#[derive(Debug, Default)]
pub struct Matches {
    /// A session may be here several times.
    pub own: Vec<Subscriber>,
    /// Each is to get one copy.
    pub shared: Vec<Arc<SharedGroup>>,
}

impl Trie {
    /// Adds a subscription or replaces the session's options of the same filter. The filter is valid;
    /// `group` is its share name.
    pub fn subscribe(&mut self, filter: &str, group: Option<&str>, subscriber: Subscriber) {
        let mut node = &mut self.root;
        let mut end = filter.split('/').peekable();
        let here = loop {
            match end.next() {
                None => break &mut node.exact,
                Some("#") if end.peek().is_none() => break &mut node.rest,
                Some(level) => node = node.children.entry(level.into()).or_default(),
            }
        };
        match group {
            None => put(&mut here.own, subscriber),
            Some(name) => match here.shared.iter().find(|group| *group.name == *name) {
                Some(group) => put(&mut group.members.write(), subscriber),
                None => {
                    let (name, key) = (name.into(), share_key(name, filter));
                    let (members, turn) = (RwLock::new(vec![subscriber]), AtomicUsize::new(0));
                    let group = Arc::new(SharedGroup { name, key, members, turn });
                    self.groups.entry(key).or_default().push(group.clone());
                    here.shared.push(group);
                }
            },
        }
    }

    /// Removes a session's subscription, and the branch when nothing is left on it.
    pub fn unsubscribe(&mut self, filter: &str, group: Option<&str>, session: u64) {
        let levels: Vec<&str> = filter.split('/').collect();
        self.root.remove(&levels, group, session);
        if let Some(name) = group
            && let Entry::Occupied(mut found) = self.groups.entry(share_key(name, filter))
        {
            found.get_mut().retain(|group| !group.members.read().is_empty());
            if found.get().is_empty() {
                found.remove();
            }
        }
    }

    /// The members of the shared subscription that has this [`share_key`], if one and only one has.
    pub fn group_with_key(&self, key: u32) -> Option<Arc<SharedGroup>> {
        match &self.groups.get(&key)?[..] {
            [group] => Some(group.clone()),
            _ => None,
        }
    }

    /// The members of a shared subscription, while it has any.
    pub fn group(&self, filter: &str, name: &str) -> Option<Arc<SharedGroup>> {
        let mut node = &self.root;
        let mut levels = filter.split('/').peekable();
        let here = loop {
            match levels.next() {
                None => break &node.exact,
                Some("#") if levels.peek().is_none() => break &node.rest,
                Some(level) => node = node.children.get(level)?,
            }
        };
        here.shared.iter().find(|group| *group.name == *name).cloned()
    }

    /// Everyone whose filter matches.
    pub fn matches(&self, topic: &str) -> Matches {
        let mut found = Matches::default();
        let levels: Vec<&str> = topic.split('/').collect();
        // [MQTT-4.7.2-1]: wildcards at the first level do not match a name that begins with $.
        if topic.starts_with('$') {
            if let Some(child) = self.root.children.get(levels[0]) {
                child.collect(&levels[1..], &mut found);
            }
        } else {
            self.root.collect(&levels, &mut found);
        }
        found
    }

    /// Filters with nobody on them leave nothing behind.
    pub fn is_empty(&self) -> bool {
        self.root.is_empty() && self.groups.is_empty()
    }
}

fn put(list: &mut Vec<Subscriber>, subscriber: Subscriber) {
    match list.iter_mut().find(|known| known.session.id == subscriber.session.id) {
        Some(known) => *known = subscriber,
        None => list.push(subscriber),
    }
}

impl Node {
    fn collect(&self, levels: &[&str], found: &mut Matches) {
        self.rest.add_to(found);
        let Some((level, below)) = levels.split_first() else {
            return self.exact.add_to(found);
        };
        if let Some(child) = self.children.get(*level) {
            child.collect(below, found);
        }
        if let Some(child) = self.children.get("+") {
            child.collect(below, found);
        }
    }

    fn remove(&mut self, levels: &[&str], group: Option<&str>, session: u64) {
        match levels {
            [] => self.exact.remove(group, session),
            ["#"] => self.rest.remove(group, session),
            [level, below @ ..] => {
                if let Some(child) = self.children.get_mut(*level) {
                    child.remove(below, group, session);
                    if child.is_empty() {
                        self.children.remove(*level);
                        shrink(&mut self.children);
                    }
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.children.is_empty() && self.exact.is_empty() && self.rest.is_empty()
    }
}

impl Here {
    fn add_to(&self, found: &mut Matches) {
        found.own.extend(self.own.iter().cloned());
        found.shared.extend(self.shared.iter().cloned());
    }

    fn remove(&mut self, group: Option<&str>, session: u64) {
        match group {
            None => self.own.retain(|known| known.session.id != session),
            Some(name) => self.shared.retain(|group| {
                let mut members = group.members.write();
                if *group.name == *name {
                    members.retain(|known| known.session.id != session);
                }
                !members.is_empty()
            }),
        }
    }

    fn is_empty(&self) -> bool {
        self.own.is_empty() && self.shared.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::filter_matches;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn subscriber(id: u64) -> Subscriber {
        let session = Arc::new(SessionRef::new(id, 0, 0, "c".into(), false));
        Subscriber { session, qos: QoS::AtMostOnce, no_local: false, retain_as_published: false, id: None }
    }

    #[test]
    fn a_branch_that_stays_gives_back_the_room_of_those_that_went() {
        let mut trie = Trie::default();
        let filters: Vec<String> = (0..10_000).map(|n| format!("device/{n}")).collect();
        filters.iter().for_each(|filter| trie.subscribe(filter, None, subscriber(1)));
        filters[3..].iter().for_each(|filter| trie.unsubscribe(filter, None, 1));
        let branch = &trie.root.children["device"].children;
        assert!(branch.len() == 3 && branch.capacity() < 20, "room for {}", branch.capacity());
    }

    fn level() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["", "a", "b", "$s", "é"])
    }

    fn filter() -> impl Strategy<Value = String> {
        let level = prop_oneof![3 => level(), 1 => Just("+")];
        (prop::collection::vec(level, 1..5), any::<bool>()).prop_map(|(mut levels, hash)| {
            if hash {
                levels.push("#");
            }
            levels.join("/")
        })
    }

    fn group() -> impl Strategy<Value = Option<&'static str>> {
        prop::sample::select(vec![None, None, Some("g"), Some("h")])
    }

    proptest! {
        #[test]
        fn it_finds_what_a_naive_matcher_finds_and_forgets_what_is_removed(
            subscriptions in prop::collection::vec((filter(), group()), 1..20),
            topics in prop::collection::vec(prop::collection::vec(level(), 1..6), 1..10),
        ) {
            let mut trie = Trie::default();
            let numbered = || (0..).zip(&subscriptions);
            for (id, (filter, group)) in numbered() {
                trie.subscribe(filter, *group, subscriber(id));
            }
            for topic in topics {
                let topic = topic.join("/");
                let found = trie.matches(&topic);
                let mut own: Vec<_> = found.own.iter().map(|s| s.session.id).collect();
                own.sort_unstable();
                let matching = || numbered().filter(|(_, (filter, _))| filter_matches(filter, &topic));
                let expected = matching().filter(|(_, (_, group))| group.is_none()).map(|(id, _)| id);
                prop_assert_eq!(own, expected.collect::<Vec<_>>(), "topic {}", topic);
                // Each group of a filter once, with all who share it.
                let ids = |group: &Arc<SharedGroup>| group.members.read().iter().map(|s| s.session.id).collect();
                let mut shared: Vec<(Vec<u64>, &str)> = found.shared.iter().map(|g| (ids(g), &*g.name)).collect();
                shared.sort_unstable();
                let mut expected = BTreeMap::<_, Vec<u64>>::new();
                for (id, (filter, group)) in matching() {
                    group.iter().for_each(|group| expected.entry((filter, *group)).or_default().push(id));
                }
                let mut expected: Vec<_> = expected.into_iter().map(|((_, group), ids)| (ids, group)).collect();
                expected.sort_unstable();
                prop_assert_eq!(shared, expected, "topic {}", topic);
            }
            for (id, (filter, group)) in numbered() {
                trie.unsubscribe(filter, *group, id);
            }
            prop_assert!(trie.is_empty());
        }
    }

    #[test]
    fn a_shared_group_takes_turns_and_prefers_who_is_connected() {
        let mut trie = Trie::default();
        for id in 0..3 {
            trie.subscribe("a/+", Some("g"), subscriber(id));
        }
        let group = trie.matches("a/b").shared[0].clone();
        assert!(Arc::ptr_eq(&group, &trie.group("a/+", "g").expect("found by its name")));
        assert!(Arc::ptr_eq(&group, &trie.group_with_key(share_key("g", "a/+")).expect("found by its key")));
        assert!(trie.group("a/+", "h").is_none() && trie.group("a/#", "g").is_none() && trie.group("b", "g").is_none());
        assert!(group.pick(|_| true).is_none(), "nobody is connected and nobody keeps a queue");
        for member in group.members.read().iter().filter(|m| m.session.id != 1) {
            member.session.set_connected(true);
        }
        let picked: Vec<_> = (0..4).filter_map(|_| group.pick(|_| true)).map(|m| m.session.id).collect();
        assert!(picked.contains(&0) && picked.contains(&2) && !picked.contains(&1), "{picked:?}");
        let away = |id: u64, qos| {
            let session = Arc::new(SessionRef::new(id, 0, 0, "c".into(), true));
            Subscriber { session, qos, no_local: false, retain_as_published: false, id: None }
        };
        group.members.read().iter().for_each(|member| member.session.set_connected(false));
        trie.subscribe("a/+", Some("g"), away(3, QoS::AtMostOnce));
        trie.subscribe("a/+", Some("g"), away(4, QoS::AtLeastOnce));
        assert!((0..5).all(|_| group.pick(|_| true).is_some_and(|member| member.session.id == 4)), "it keeps a queue");
        for id in 0..5 {
            trie.unsubscribe("a/+", Some("g"), id);
        }
        assert!(trie.is_empty());
    }
}
