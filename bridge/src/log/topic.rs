//! Topics and their registry.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Buf;
use parking_lot::RwLock;

use super::{Partition, Settings};
use crate::disk::Folder;

/// Internal topics, which hold keyed state, and the hidden one have fixed ids below this.
pub const FIRST_PUBLIC_ID: u32 = 16;

/// Most partitions of a topic: each is a folder and open files.
pub const PARTITIONS_MAX: u32 = 10_000;

/// A topic: a name and its partitions.
#[derive(Debug)]
pub struct Topic {
    /// Never given twice in a data folder; stored in journal and offsets.
    pub id: u32,
    /// Kafka's topic id.
    pub uuid: [u8; 16],
    /// As Kafka clients see it.
    pub name: String,
    /// By index.
    pub partitions: Vec<Arc<Partition>>,
    pub(crate) folder: Folder,
    config: RwLock<Arc<Config>>,
    gone: AtomicBool,
    deleted: AtomicBool,
}

/// A topic's settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// What was given for this topic, as it was given.
    pub given: BTreeMap<String, String>,
    /// What holds.
    pub settings: Settings,
}

impl Topic {
    pub(crate) fn new(
        id: u32,
        definition: Definition,
        folder: Folder,
        partitions: Vec<Arc<Partition>>,
        settings: Settings,
    ) -> Topic {
        let Definition { uuid, name, config: given, .. } = definition;
        let config = RwLock::new(Arc::new(Config { given, settings }));
        let (gone, deleted) = (AtomicBool::new(false), AtomicBool::new(false));
        Topic { id, uuid, name, partitions, folder, config, gone, deleted }
    }

    /// Its settings as they are now.
    pub fn config(&self) -> Arc<Config> {
        self.config.read().clone()
    }

    /// Puts others in force.
    pub(crate) fn configure(&self, given: BTreeMap<String, String>, settings: Settings) {
        for partition in &self.partitions {
            partition.limit_segments(settings.segment_bytes_max());
        }
        *self.config.write() = Arc::new(Config { given, settings });
    }

    /// Whether its name is free: clients know it no more, from the moment that it is to be deleted.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Whether it was deleted, durably, and stays for queues that point into it (S6).
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    pub(crate) fn definition(&self) -> Definition {
        Definition {
            uuid: self.uuid,
            name: self.name.clone(),
            partitions: self.partitions.len() as u32,
            config: self.config().given.clone(),
        }
    }
}

/// What of a topic is stored as keyed state, under its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Kafka's topic id.
    pub uuid: [u8; 16],
    /// As Kafka clients see it.
    pub name: String,
    /// How many.
    pub partitions: u32,
    /// What CreateTopics gave.
    pub config: BTreeMap<String, String>,
}

impl Definition {
    /// As stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.uuid.to_vec();
        out.extend_from_slice(&self.partitions.to_be_bytes());
        let config = self.config.iter().flat_map(|(key, value)| [key, value]);
        for text in std::iter::once(&self.name).chain(config) {
            out.extend_from_slice(&(text.len() as u32).to_be_bytes());
            out.extend_from_slice(text.as_bytes());
        }
        out
    }

    /// From what was stored; `None` when it is not one.
    pub fn decode(mut bytes: &[u8]) -> Option<Definition> {
        let mut uuid = [0; 16];
        bytes.try_copy_to_slice(&mut uuid).ok()?;
        let partitions = bytes.try_get_u32().ok().filter(|n| (1..=PARTITIONS_MAX).contains(n))?;
        let name = text(&mut bytes)?;
        let mut config = BTreeMap::new();
        while !bytes.is_empty() {
            config.insert(text(&mut bytes)?, text(&mut bytes)?);
        }
        Some(Definition { uuid, name, partitions, config })
    }
}

fn text(bytes: &mut &[u8]) -> Option<String> {
    let length = bytes.try_get_u32().ok()? as usize;
    let (text, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    String::from_utf8(text.to_vec()).ok()
}

/// Whether Kafka allows this name.
pub fn name_ok(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=249).contains(&name.len()) && name != "." && name != ".." && name.bytes().all(allowed)
}

/// Every topic, by name and by id.
#[derive(Debug, Default)]
pub struct Topics {
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_name: BTreeMap<String, Arc<Topic>>,
    by_id: BTreeMap<u32, Arc<Topic>>,
    /// The greatest that was given.
    last_id: u32,
}

impl Topics {
    /// None yet; new ones have ids from `next_id` on.
    pub(crate) fn after(next_id: u32) -> Topics {
        Topics { inner: RwLock::new(Inner { last_id: next_id.saturating_sub(1), ..Inner::default() }) }
    }

    /// A public topic by name.
    pub fn named(&self, name: &str) -> Option<Arc<Topic>> {
        self.inner.read().by_name.get(name).cloned()
    }

    /// Any topic by id, hidden and internal ones too.
    pub fn with_id(&self, id: u32) -> Option<Arc<Topic>> {
        self.inner.read().by_id.get(&id).cloned()
    }

    /// Public topics in the order of their names.
    pub fn public(&self) -> Vec<Arc<Topic>> {
        self.inner.read().by_name.values().cloned().collect()
    }

    /// Every topic, hidden and internal ones too.
    pub fn all(&self) -> Vec<Arc<Topic>> {
        self.inner.read().by_id.values().cloned().collect()
    }

    /// Adds one; public from [`FIRST_PUBLIC_ID`] on.
    pub fn insert(&self, topic: Arc<Topic>) {
        let mut inner = self.inner.write();
        inner.last_id = inner.last_id.max(topic.id);
        if topic.id >= FIRST_PUBLIC_ID {
            inner.by_name.insert(topic.name.clone(), topic.clone());
        }
        inner.by_id.insert(topic.id, topic);
    }

    /// One is deleted, and that is durable: its name is free.
    pub(crate) fn delete(&self, id: u32) {
        let Some(topic) = self.with_id(id) else { return };
        topic.deleted.store(true, Ordering::Release);
        self.hide(&topic);
    }

    /// One is to be deleted: its name is free. Until that is durable it keeps what it has.
    pub(crate) fn hide(&self, topic: &Topic) {
        topic.gone.store(true, Ordering::Release);
        let mut inner = self.inner.write();
        if inner.by_name.get(&topic.name).is_some_and(|named| named.id == topic.id) {
            inner.by_name.remove(&topic.name);
        }
    }

    /// Forgets one that was deleted and that no queue points into.
    pub(crate) fn forget(&self, id: u32) {
        self.inner.write().by_id.remove(&id);
    }

    /// No topic has had this id, nor any after it.
    pub(crate) fn next_id(&self) -> u32 {
        (self.inner.read().last_id + 1).max(FIRST_PUBLIC_ID)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_comes_back_and_a_cut_one_does_not() {
        let definition = Definition {
            uuid: [7; 16],
            name: "mqtt".into(),
            partitions: 4,
            config: BTreeMap::from([("cleanup.policy".into(), "delete".into())]),
        };
        let bytes = definition.encode();
        assert_eq!(Definition::decode(&bytes), Some(definition));
        assert_eq!(Definition::decode(&bytes[..bytes.len() - 1]), None);
    }

    #[test]
    fn names_follow_kafka() {
        assert!(name_ok("a.b_c-D9"));
        for bad in ["", ".", "..", "a/b", "ü", &"x".repeat(250)] {
            assert!(!name_ok(bad), "{bad}");
        }
    }
}
