//! Who said what, who heard it: every message has its sensor and number.

use std::collections::HashMap;
use std::fmt;
use std::sync::Mutex;

/// A message: sensor and its number there.
pub type Message = (u32, u64);

/// What became of all messages.
#[derive(Default)]
pub struct Account {
    messages: Mutex<HashMap<Message, Fate>>,
}

#[derive(Default)]
struct Fate {
    sent: bool,
    acknowledged: bool,
    consumed: u32,
}

/// The sum of it.
#[derive(Debug, Default)]
pub struct Count {
    pub sent: usize,
    pub acknowledged: usize,
    pub consumed: usize,
    /// Acknowledged and not consumed.
    pub lost: usize,
    /// Consumed more than once.
    pub doubled: usize,
}

impl Account {
    /// A sensor wrote it to its connection.
    pub fn sent(&self, message: Message) {
        self.with(message, |fate| fate.sent = true);
    }

    /// The broker acknowledged it.
    pub fn acknowledged(&self, message: Message) {
        self.with(message, |fate| fate.acknowledged = true);
    }

    /// A member of the group read it.
    pub fn consumed(&self, message: Message) {
        self.with(message, |fate| fate.consumed += 1);
    }

    /// Acknowledged and not consumed yet.
    pub fn outstanding(&self) -> usize {
        self.count().lost
    }

    /// The sum as it stands.
    pub fn count(&self) -> Count {
        let messages = self.messages.lock().expect("nobody panics while counting");
        let mut count = Count::default();
        for fate in messages.values() {
            count.sent += usize::from(fate.sent);
            count.acknowledged += usize::from(fate.acknowledged);
            count.consumed += usize::from(fate.consumed > 0);
            count.lost += usize::from(fate.acknowledged && fate.consumed == 0);
            count.doubled += usize::from(fate.consumed > 1);
        }
        count
    }

    fn with(&self, message: Message, change: impl FnOnce(&mut Fate)) {
        let mut messages = self.messages.lock().expect("nobody panics while counting");
        change(messages.entry(message).or_default());
    }
}

impl Count {
    /// Everything sent was acknowledged, everything acknowledged was read, once.
    pub fn is_clean(&self) -> bool {
        self.sent > 0 && self.acknowledged == self.sent && self.lost == 0 && self.doubled == 0
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Count { sent, acknowledged, consumed, lost, doubled } = self;
        write!(f, "sent {sent}, acknowledged {acknowledged}, consumed {consumed}, lost {lost}, doubled {doubled}")
    }
}
