//! What gives way when there is too much: the oldest in a full queue, and, above the budget of all memory in which
//! messages wait for clients, first QoS 0 for who has a backlog, then QoS 1 and 2 beyond a fair share, then new clients.
//! Durable queues are in the log and not part of it.

use bridge::state::Change;

use crate::config::Config;
use crate::limits;
use crate::session::Out;
use crate::session::window::Bounds;
use crate::stats::{Dropped, Limit};

use super::Shard;

/// How much may wait for a client now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    /// What waits is above the budget.
    is_scarce: bool,
    /// It is above twice the budget.
    is_full: bool,
    /// Bytes waiting to be written above which QoS 0 is dropped.
    pub qos0_bytes_max: usize,
    /// And above which nothing is taken out of its queue.
    pub outbox_bytes_max: usize,
    /// Bytes of QoS 1 and 2 that wait for one client.
    share_bytes: usize,
}

impl Default for Room {
    fn default() -> Room {
        Room {
            is_scarce: false,
            is_full: false,
            qos0_bytes_max: limits::OUTBOX_QOS0_BYTES_MAX,
            outbox_bytes_max: limits::OUTBOX_BYTES_MAX,
            share_bytes: usize::MAX,
        }
    }
}

impl Room {
    /// Where so many bytes wait for so many clients. What is scarce stays so until there is clearly less.
    fn of(self, buffered_bytes: u64, clients: u64, budget_bytes: u64) -> Room {
        let mark = if self.is_scarce { budget_bytes / 4 * 3 } else { budget_bytes };
        if buffered_bytes <= mark {
            return Room::default();
        }
        let share = budget_bytes / clients.max(1);
        Room {
            is_scarce: true,
            is_full: buffered_bytes > budget_bytes.saturating_mul(2),
            qos0_bytes_max: limits::OUTBOX_SCARCE_BYTES_MAX,
            outbox_bytes_max: limits::OUTBOX_SCARCE_BYTES_MAX,
            share_bytes: usize::try_from(share).unwrap_or(usize::MAX),
        }
    }

    /// What QoS 1 and 2 is dropped for that these bounds leave no room for.
    pub fn overflow(&self) -> Dropped {
        if self.is_scarce { Dropped::MemoryQueued } else { Dropped::QueueFull }
    }

    /// What QoS 0 is dropped for that finds no room in an outbox.
    pub fn slow(&self) -> Dropped {
        if self.is_scarce { Dropped::MemoryQos0 } else { Dropped::SlowClient }
    }

    /// How much QoS 1 and 2 may wait for one client whose session ends with its connection.
    pub fn bounds(&self, config: &Config) -> Bounds {
        Bounds {
            messages_max: config.max_queued_messages,
            bytes_max: config.max_queued_bytes.min(self.share_bytes),
            drops_oldest: config.drops_oldest,
        }
    }
}

impl Shard {
    /// Once a second, after depths were summed up: the others' are a second old at most.
    pub(super) fn weigh(&mut self) {
        let (mut buffered, mut clients) = (0, 0);
        for (shard, mailbox) in self.mailboxes.iter().enumerate() {
            let counts = if shard == self.index { self.counts } else { mailbox.shown.read() };
            buffered += counts.outbox_bytes + counts.queued_passing_bytes;
            clients += counts.buffering;
        }
        let (before, now) = (self.room, self.room.of(buffered, clients, self.config.max_buffered_bytes));
        self.room = now;
        self.counts.pressure = u64::from(now.is_scarce) + u64::from(now.is_full);
        if now.is_scarce {
            self.cut_to_share();
        }
        if (before.is_scarce, before.is_full) != (now.is_scarce, now.is_full) {
            self.say_pressure(buffered);
        }
    }

    /// A line in the log, once a second at most: each shard sees the others' a little late, and one may not see at all
    /// what another has seen to.
    fn say_pressure(&self, buffered_bytes: u64) {
        let (shard, max_buffered_bytes) = (self.index, self.config.max_buffered_bytes);
        match (self.room.is_scarce, self.room.is_full) {
            (false, _) => {
                tracing::info!(shard, buffered_bytes, "little enough waits for clients again: nothing is dropped")
            }
            (true, false) => tracing::warn!(
                shard,
                buffered_bytes,
                max_buffered_bytes,
                "too much waits for clients that do not keep up: messages for them are dropped"
            ),
            (true, true) => tracing::warn!(
                shard,
                buffered_bytes,
                max_buffered_bytes,
                "twice too much waits for clients that do not keep up: new clients are refused"
            ),
        }
    }

    /// Gives up what waits beyond a client's fair share.
    fn cut_to_share(&mut self) {
        let mut all = Vec::new();
        for (_, session) in &mut self.sessions {
            if let Out::Window(window) = &mut session.out {
                let dropped = window.shrink_to(self.room.share_bytes, self.config.drops_oldest);
                if !dropped.is_empty() {
                    all.push((session.me.clone(), dropped));
                }
            }
        }
        for (me, dropped) in all {
            self.give_up_waiting(Dropped::MemoryQueued, &me, &dropped);
        }
    }

    /// Whether no new client is let in for lack of memory; counted.
    pub(super) fn is_out_of_memory(&mut self) -> bool {
        self.counts.limits[Limit::MaxBufferedBytes as usize] += u64::from(self.room.is_full);
        self.room.is_full
    }

    /// Whether a durable queue has no place for one more. Where the oldest goes, there is one: its owner makes room
    /// when the message is durable. Until then what is on its way is bounded as the journal's backlog is; what waits in
    /// it to become a dead letter, by a number.
    pub(super) fn is_queue_full(&self, queued: usize) -> bool {
        let overhang = if self.config.drops_oldest { limits::QUEUE_OVERHANG_MAX } else { 0 };
        queued >= self.config.max_queued_messages.saturating_add(overhang)
    }

    /// Drops what is oldest in these queues, by slot, as far as they hold more than they may; in the journal too.
    pub(super) fn drop_oldest(&mut self, slots: &[u32]) {
        let mut gone = Vec::new();
        for &slot in slots {
            let Some(session) = self.sessions.get_mut(slot as usize) else { continue };
            let (is_away, id) = (session.link.is_none(), session.me.id);
            let Out::Queue(queue) = &mut session.out else { continue };
            let before = gone.len();
            while let Some(sequence) = queue.drop_oldest(is_away, self.config.max_queued_messages) {
                gone.push((id, sequence));
            }
            session.me.set_queued(queue.len());
            self.counts.dropped_many(Dropped::QueueFull, gone.len() - before, &session.me);
        }
        if gone.is_empty() {
            return;
        }
        let mut operation = self.lane.begin();
        gone.iter().for_each(|&(id, sequence)| operation.change(Change::Remove(id, sequence)));
        let ticket = operation.submit();
        for &slot in slots {
            if let Some(Out::Queue(queue)) = self.sessions.get_mut(slot as usize).map(|session| &mut session.out) {
                queue.note_removals(ticket);
            }
        }
        self.schedule_turn();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_scarce_is_shared_until_there_is_clearly_less() {
        let plenty = Room::default();
        assert!(!plenty.of(1_000, 2, 1_000).is_scarce);
        let scarce = plenty.of(1_001, 4, 1_000);
        assert!(scarce.is_scarce && !scarce.is_full);
        assert_eq!((scarce.share_bytes, scarce.qos0_bytes_max), (250, limits::OUTBOX_SCARCE_BYTES_MAX));
        let full = scarce.of(2_001, 0, 1_000);
        assert!(full.is_full && full.share_bytes == 1_000);
        assert!(full.of(2_000, 1, 1_000).is_scarce && !full.of(2_000, 1, 1_000).is_full);
        assert!(scarce.of(751, 1, 1_000).is_scarce && !plenty.of(751, 1, 1_000).is_scarce);
        assert_eq!(scarce.of(750, 1, 1_000).share_bytes, usize::MAX);
    }
}
