//! Retained messages: the newest per topic, shared by all shards. Looked up by filter without reading
//! topics that cannot match.

use std::sync::Arc;

use ahash::HashMap;
use parking_lot::RwLock;

use crate::codec::QoS;

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
}

#[derive(Debug, Default)]
struct Node {
    children: HashMap<Box<str>, Node>,
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
    bytes: usize,
    /// How many can expire.
    expiring: usize,
    /// Changes so far.
    order: u64,
}

impl RetainedStore {
    /// Sets a topic's message. Gives the change's place in the order of all changes, which the journal keeps
    /// whichever shard submits first.
    pub fn set(&self, message: Retained) -> u64 {
        let mut inner = self.inner.write();
        inner.order += 1;
        let order = inner.order;
        let mut node = &mut inner.root;
        for level in message.topic.split('/') {
            // Looked up first: the entry call would allocate the name each time.
            if !node.children.contains_key(level) {
                node.children.insert(level.into(), Node::default());
            }
            // PROOF: it is there, or was just inserted.
            node = node.children.get_mut(level).expect("inserted above");
        }
        let (bytes, expiring) = (size(&message), usize::from(message.expires_s != 0));
        let before = node.message.replace(Arc::new(message));
        inner.count += 1;
        inner.bytes += bytes;
        inner.expiring += expiring;
        if let Some(before) = before {
            inner.forget(&before);
        }
        order
    }

    /// Forgets all of them.
    pub fn clear(&self) {
        *self.inner.write() = Inner::default();
    }

    /// Removes a topic's message, if there is one. Gives the change's place as [`RetainedStore::set`] does.
    pub fn remove(&self, topic: &str) -> u64 {
        let mut inner = self.inner.write();
        inner.remove(topic);
        inner.order += 1;
        inner.order
    }

    /// Every message whose topic matches a filter and that has not expired.
    pub fn matching(&self, filter: &str, now_s: u32) -> Vec<Arc<Retained>> {
        let levels: Vec<&str> = filter.split('/').collect();
        let mut found = Vec::new();
        self.inner.read().root.collect(&levels, true, &mut found);
        found.retain(|message| message.expires_s == 0 || message.expires_s > now_s);
        found
    }

    /// Removes what has expired; gives the topics and the changes' places in the order.
    pub fn expire(&self, now_s: u32) -> Vec<(Box<str>, u64)> {
        let mut expired = Vec::new();
        if self.inner.read().expiring > 0 {
            self.inner.read().root.expired(now_s, &mut expired);
        }
        // Another shard may have set a new one since.
        let remove = |topic: Box<str>| self.remove_expired(&topic, now_s).map(|order| (topic, order));
        expired.into_iter().filter_map(remove).collect()
    }

    fn remove_expired(&self, topic: &str, now_s: u32) -> Option<u64> {
        let mut inner = self.inner.write();
        inner.root.get(topic.split('/')).filter(|message| message.has_expired(now_s))?;
        inner.remove(topic);
        inner.order += 1;
        Some(inner.order)
    }

    /// How many there are, and their bytes.
    pub fn size(&self) -> (usize, usize) {
        let inner = self.inner.read();
        (inner.count, inner.bytes)
    }
}

impl Inner {
    fn remove(&mut self, topic: &str) {
        let levels: Vec<&str> = topic.split('/').collect();
        if let Some(before) = self.root.remove(&levels) {
            self.forget(&before);
        }
    }

    fn forget(&mut self, message: &Retained) {
        self.count -= 1;
        self.bytes -= size(message);
        self.expiring -= usize::from(message.expires_s != 0);
    }
}

fn size(message: &Retained) -> usize {
    message.topic.len() + message.payload.len() + message.properties.len()
}

impl Retained {
    fn has_expired(&self, now_s: u32) -> bool {
        self.expires_s != 0 && self.expires_s <= now_s
    }
}

impl Node {
    fn get<'a>(&self, levels: impl Iterator<Item = &'a str>) -> Option<&Retained> {
        let mut node = self;
        for level in levels {
            node = node.children.get(level)?;
        }
        node.message.as_deref()
    }

    fn collect(&self, levels: &[&str], first: bool, found: &mut Vec<Arc<Retained>>) {
        match levels {
            [] => found.extend(self.message.clone()),
            ["#"] => self.collect_all(first, found),
            ["+", below @ ..] => {
                for (level, child) in &self.children {
                    if !(first && level.starts_with('$')) {
                        child.collect(below, false, found);
                    }
                }
            }
            [level, below @ ..] => {
                if let Some(child) = self.children.get(*level) {
                    child.collect(below, false, found);
                }
            }
        }
    }

    fn collect_all(&self, first: bool, found: &mut Vec<Arc<Retained>>) {
        found.extend(self.message.clone());
        for (level, child) in &self.children {
            if !(first && level.starts_with('$')) {
                child.collect_all(false, found);
            }
        }
    }

    fn expired(&self, now_s: u32, found: &mut Vec<Box<str>>) {
        if let Some(message) = &self.message
            && message.has_expired(now_s)
        {
            found.push(message.topic.clone());
        }
        for child in self.children.values() {
            child.expired(now_s, found);
        }
    }

    fn remove(&mut self, levels: &[&str]) -> Option<Arc<Retained>> {
        let Some((level, below)) = levels.split_first() else { return self.message.take() };
        let child = self.children.get_mut(*level)?;
        let removed = child.remove(below);
        if child.message.is_none() && child.children.is_empty() {
            self.children.remove(*level);
            super::shrink(&mut self.children);
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(topic: &str, expires_s: u32) -> Retained {
        Retained {
            topic: topic.into(),
            qos: QoS::AtLeastOnce,
            properties: [].into(),
            payload: (*b"x").into(),
            expires_s,
            client_id: "c".into(),
        }
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
    }

    #[test]
    fn setting_replaces_and_removing_leaves_nothing() {
        let store = RetainedStore::default();
        store.set(message("a/b", 0));
        store.set(message("a/b", 0));
        assert_eq!(store.size(), (1, 4));
        let before = store.remove("a");
        assert_eq!(store.size().0, 1, "a is not a/b");
        assert!(store.remove("a/b") > before, "changes have an order");
        assert_eq!(store.size(), (0, 0));
        assert!(store.inner.read().root.children.is_empty());
    }

    #[test]
    fn what_expired_is_not_found_and_can_be_collected() {
        let store = RetainedStore::default();
        store.set(message("a", 10));
        store.set(message("b", 20));
        assert_eq!(topics(&store, "#", 10), ["b"]);
        let expired: Vec<_> = store.expire(10).into_iter().map(|(topic, _)| topic).collect();
        assert_eq!(expired, ["a".into()]);
        assert_eq!(store.size().0, 1);
        store.set(message("b", 30));
        assert!(store.remove_expired("b", 20).is_none(), "set anew since it was found expired");
        assert!(store.remove_expired("b", 30).is_some());
    }
}
