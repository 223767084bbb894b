//! Dead letters of durable queues. What is to be given up stays in its queue until its record is read and the journal has
//! caught up; the letter and the entry's removal are one operation, so that a crash neither loses nor doubles it.

use bridge::state::{Change, Entry, Pointer};
use bridge::{Fetched, ReadError};

use crate::dead_letter::{Label, Reason};
use crate::limits;
use crate::message::Message;
use crate::session::Out;
use crate::stats::Dropped;

use super::Shard;

/// The entry of a queue that is to be given up.
#[derive(Clone, Copy)]
struct Doomed {
    slot: u32,
    sequence: u64,
    entry: Entry,
    why: Dropped,
}

impl Doomed {
    fn is_with(&self, other: &Doomed) -> bool {
        self.entry.pointer == other.entry.pointer && self.why == other.why
    }
}

impl Shard {
    /// A queue has entries to give up.
    pub(super) fn doom(&mut self, slot: u32) {
        self.letters.doomed.insert(slot);
        self.schedule_turn();
    }

    /// Gives up what queues have to, as far as that takes no waiting. Entries that point to one record are one letter.
    pub(super) fn post_doomed(&mut self, shared: &super::Shared) {
        if self.letters.doomed.is_empty() || self.letters.reading {
            return;
        }
        if !self.letters.are_on() || !self.bridge.is_open() {
            return self.drop_doomed();
        }
        let mut left = limits::LETTERS_PER_TURN;
        while left > 0 {
            let doomed = self.find_doomed();
            if doomed.is_empty() {
                return;
            }
            for alike in doomed.chunk_by(Doomed::is_with) {
                if !self.takes_letters(limits::BACKLOG_BYTES_MAX) {
                    // The next commit brings another turn.
                    self.awaited = true;
                    return;
                }
                if !self.post_alike(shared, alike) {
                    return;
                }
                left = left.saturating_sub(1);
            }
        }
        self.schedule_turn();
    }

    /// There are no letters any more, or no room for them: what is in the way goes as it does then.
    fn drop_doomed(&mut self) {
        let slots: Vec<u32> = std::mem::take(&mut self.letters.doomed).into_iter().collect();
        if self.config.drops_oldest {
            self.drop_oldest(&slots);
        }
        slots.into_iter().for_each(|slot| self.pump(slot));
    }

    /// The next entry of each queue that has one to give up, in the order of the log. The other queues go on.
    fn find_doomed(&mut self) -> Vec<Doomed> {
        let len_max = if self.config.drops_oldest { self.config.max_queued_messages } else { usize::MAX };
        let (mut found, mut done) = (Vec::new(), Vec::new());
        for &slot in &self.letters.doomed {
            let next = self.sessions.get(slot as usize).and_then(|session| match &session.out {
                Out::Queue(queue) => queue.doomed(session.link.is_none(), len_max, self.now.unix_s),
                Out::Window(_) => None,
            });
            match next {
                Some((sequence, entry, why)) => found.push(Doomed { slot, sequence, entry, why }),
                None => done.push(slot),
            }
        }
        for slot in done {
            self.letters.doomed.remove(&slot);
            self.pump(slot);
        }
        found.sort_unstable_by_key(|doomed| {
            let Pointer { topic, partition, offset } = doomed.entry.pointer;
            (topic, partition, offset, doomed.why as u8)
        });
        found
    }

    /// Gives up entries that point to one record; whether to go on with others.
    fn post_alike(&mut self, shared: &super::Shared, alike: &[Doomed]) -> bool {
        let Some(Doomed { entry, .. }) = alike.first() else { return true };
        // The reader leaves the shard while a record borrowed from it is written.
        let mut reader = std::mem::replace(&mut self.reader, self.bridge.reader());
        let mut scratch = std::mem::take(&mut self.record_scratch);
        let goes_on = match reader.get(&entry.pointer) {
            Ok(Fetched::Record(record)) => {
                let message = Message::from_record(&record, &mut scratch);
                let message = message.map(|message| Message { expires_s: entry.expires_s, ..message });
                self.give_up_alike(alike, message.as_ref());
                true
            }
            Ok(Fetched::Cold) => {
                self.letters.reading = true;
                let (fetch, shared, pointer) = (reader.fetch(&entry.pointer), shared.clone(), entry.pointer);
                tokio::task::spawn_local(async move {
                    let fetched = fetch.await;
                    let mut shard = shared.borrow_mut();
                    shard.letters.reading = false;
                    match fetched {
                        Ok(chunk) => shard.reader.install(&pointer, chunk),
                        // They stay where they are for the next start.
                        Err(ReadError::Stopping) => return,
                        Err(error) => shard.unreadable_doomed(&pointer, &error),
                    }
                    // At once: the next queue that is read takes the reader's place in the log.
                    shard.post_doomed(&shared);
                });
                false
            }
            Ok(Fetched::Gone) => {
                tracing::error!(pointer = ?entry.pointer, "a queued message is not in the log any more");
                self.give_up_alike(alike, None);
                true
            }
            Err(error) => {
                tracing::error!(%error, "a queued message cannot be read");
                self.give_up_alike(alike, None);
                true
            }
        };
        (self.reader, self.record_scratch) = (reader, scratch);
        goes_on
    }

    fn unreadable_doomed(&mut self, pointer: &Pointer, error: &ReadError) {
        tracing::error!(%error, "a queued message cannot be read");
        let mut doomed = self.find_doomed();
        doomed.retain(|doomed| doomed.entry.pointer == *pointer);
        self.give_up_alike(&doomed, None);
    }

    /// One operation: the letter, unless there is nothing to write into it, and the removals that it stands for.
    fn give_up_alike(&mut self, alike: &[Doomed], message: Option<&Message<'_>>) {
        let mut clients = Vec::with_capacity(alike.len());
        let mut operation = self.lane.begin();
        for &Doomed { slot, sequence, why, .. } in alike {
            let Some(session) = self.sessions.get_mut(slot as usize) else { continue };
            let Out::Queue(queue) = &mut session.out else { continue };
            queue.drop_one(sequence);
            session.me.set_queued(queue.len());
            self.counts.dropped(if message.is_some() { why } else { Dropped::Unreadable }, &session.me);
            operation.change(Change::Remove(session.me.id, sequence));
            clients.push(session.me.client_id.clone());
        }
        if let (Some(message), Some(reason)) = (message, alike.first().and_then(|doomed| Reason::of(doomed.why))) {
            for some in clients.chunks(limits::LETTER_RECIPIENTS_MAX) {
                let recipients: Vec<&str> = some.iter().map(|client| &**client).collect();
                let label = Label { reason, limit: None, recipients: &recipients, time_ms: self.now.unix_ms };
                self.letters.append(&mut operation, message, label, &mut self.counts);
            }
        }
        let ticket = operation.submit();
        for doomed in alike {
            let session = self.sessions.get_mut(doomed.slot as usize);
            if let Some(Out::Queue(queue)) = session.map(|session| &mut session.out) {
                queue.note_removals(ticket);
            }
        }
        self.schedule_turn();
    }
}
