//! How other threads reach a shard: mail, and a bell that wakes it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bridge::Topic;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::listener::{Arrival, Incoming, Listener};
use crate::stats::Shown;
use crate::{Config, limits};

use super::Shared;
use super::publish::Burst;

/// Work of any kind for a shard's thread, such as a Kafka connection.
pub type Job = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// Work that looks at the shard itself. No borrow of it may be held over an await.
pub type Visit = Box<dyn FnOnce(Shared) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// What reaches a shard from other threads.
pub enum Mail {
    /// Messages for its sessions.
    Burst(Burst),
    /// A connection accepted elsewhere.
    Incoming(Box<Incoming>),
    /// A client whose CONNECT was read elsewhere.
    Arrival(Box<Arrival>),
    /// Work.
    Job(Job),
    /// Work on its sessions.
    Visit(Visit),
    /// A listener to accept clients from.
    Listen(Listener),
    /// Other settings, users or rights are in force.
    Reload(Arc<Config>),
    /// Dead letters go there from now on, or nowhere.
    DeadLetters(Option<Arc<Topic>>),
    /// Close every connection and end.
    Stop,
}

/// How other threads reach a shard.
pub struct Mailbox {
    pub(super) mail: Mutex<Vec<Mail>>,
    pub(super) doorbell: Arc<Notify>,
    /// Of bursts that its shard has not taken in.
    pub(super) burst_bytes: AtomicUsize,
    /// Its counts.
    pub shown: Shown,
}

impl Mailbox {
    /// An empty one.
    pub fn new() -> Mailbox {
        let burst_bytes = AtomicUsize::new(0);
        Mailbox { mail: Mutex::default(), doorbell: Arc::default(), burst_bytes, shown: Shown::default() }
    }

    /// Whether its shard is behind with what others published: they wait for it.
    pub(super) fn is_full(&self) -> bool {
        self.burst_bytes.load(Ordering::Relaxed) > limits::BURST_BYTES_MAX
    }

    /// Puts one in and wakes the shard.
    pub fn send(&self, mail: Mail) {
        self.mail.lock().push(mail);
        self.doorbell.notify_one();
    }
}

impl Default for Mailbox {
    fn default() -> Mailbox {
        Mailbox::new()
    }
}
