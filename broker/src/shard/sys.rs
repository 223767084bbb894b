//! `$SYS` is told: from the counts of all shards, by one of them.

use std::time::Duration;

use rustix::param::page_size;

use crate::codec::QoS;
use crate::message::Message;
use crate::router::retained::Retained;
use crate::stats::Counts;
use crate::sys::{Sizes, Tree};

use super::{Shard, Shared};

/// Tells `$SYS` (S8), on one shard for all.
pub(super) async fn tell(shared: Shared) {
    let mut tree = Tree::default();
    loop {
        let mut interval = shared.borrow().config.sys_interval;
        if interval.is_zero() {
            shared.borrow().router.sys.clear();
            tree = Tree::default();
            // A reload may switch it on again.
            interval = Duration::from_secs(10);
        } else {
            shared.borrow_mut().tell_sys(&mut tree);
        }
        tokio::time::sleep(interval).await;
    }
}

impl Shard {
    fn tell_sys(&mut self, tree: &mut Tree) {
        self.read_clock();
        let mut counts = Counts::default();
        self.mailboxes.iter().for_each(|mailbox| mailbox.shown.add_to(&mut counts));
        let (retained, retained_bytes) = self.router.retained.size();
        let shared_subscriptions = self.router.shared_subscriptions();
        let subscriptions = self.router.subscriptions().saturating_sub(shared_subscriptions);
        let heap_bytes = heap_bytes();
        let sizes = Sizes { subscriptions, shared_subscriptions, retained, retained_bytes, heap_bytes };
        for (topic, value) in tree.update(&counts, sizes, self.now.up_ms) {
            self.tell(&topic, value.as_bytes());
        }
        self.schedule_turn();
    }

    /// Says something of the server's own, at QoS 0: to who listens now, and to who subscribes later.
    fn tell(&mut self, topic: &str, payload: &[u8]) {
        let (qos, expires_s) = (QoS::AtMostOnce, 0);
        let kept = Retained {
            topic: topic.into(),
            qos,
            properties: [].into(),
            payload: payload.into(),
            expires_s,
            client_id: "".into(),
            order: 0,
        };
        self.router.sys.set(kept);
        let (publisher, client_id) = (0, "");
        let message = Message { topic, qos, retain: false, properties: &[], expires_s, payload, publisher, client_id };
        self.route(&message, None, None, &[]);
    }
}

/// What is resident of the process's own memory: heap, stacks and little else.
fn heap_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    let mut pages = text.split_ascii_whitespace().skip(1).map(|number| number.parse::<u64>().ok());
    let (resident, of_files) = (pages.next()??, pages.next()??);
    Some(resident.saturating_sub(of_files) * page_size() as u64)
}
