//! Lanes: how operations reach the committer, and how it answers.
//!
//! A lane is a buffer that a thread fills and the committer takes whole, operations in order. Between
//! [`Lane::begin`] and [`Operation::submit`] stands one operation: all of it is in one frame or none.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;

use parking_lot::{Mutex, MutexGuard, RwLock};
use tokio::sync::Notify;

use crate::batch;
use crate::log::Partition;
use crate::state::{Change, Entry, Pointer, Space};

use super::frame::{Frame, u32_at, u64_at};

/// Number of an operation on its [`Lane`], counting from 1; see [`Lane::durable`].
pub type Ticket = u64;

/// The journal could not be written or synced; nothing more becomes durable (J8).
#[derive(Debug, Clone, thiserror::Error)]
#[error("the journal failed and takes no more: {0}")]
pub struct JournalFailed(pub Arc<str>);

/// What became of a produced batch; to be read once its ticket is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Produced {
    /// It is in the log.
    Appended {
        /// Offset of the batch's first record.
        base_offset: i64,
        /// A repeat of an idempotent producer's batch: the offset is the original's (K1).
        duplicate: bool,
    },
    /// Its sequence does not follow the last one of this producer.
    OutOfOrderSequence,
    /// A newer epoch of this producer is known.
    InvalidProducerEpoch,
    /// The topic was deleted while the batch waited.
    UnknownTopic,
}

/// A place where [`Produced`] appears.
#[derive(Clone, Debug, Default)]
pub struct ProduceSlot(Arc<OnceLock<Produced>>);

impl ProduceSlot {
    /// The outcome; `None` until the batch was gathered.
    pub fn get(&self) -> Option<Produced> {
        self.0.get().copied()
    }

    pub(crate) fn set(&self, produced: Produced) {
        // Only the committer sets it, once, when it takes the batch.
        let _ = self.0.set(produced);
    }
}

/// A key of a space and its new value; `None` deletes it.
pub type KeyedChange<'a> = (Space, &'a [u8], Option<&'a [u8]>);

/// A queue that gets a pointer to an appended record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Which.
    pub queue: u64,
    /// Kept with the entry for its owner.
    pub tag: u32,
    /// Seconds since 1970 when the entry is dropped; 0 never.
    pub expires_s: u32,
}

impl Target {
    /// Bytes of one in a lane.
    pub(crate) const BYTES: usize = 16;

    fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.queue.to_le_bytes());
        out.extend_from_slice(&self.tag.to_le_bytes());
        out.extend_from_slice(&self.expires_s.to_le_bytes());
    }

    pub(crate) fn take(bytes: &[u8]) -> Target {
        Target { queue: u64_at(bytes, 0), tag: u32_at(bytes, 8), expires_s: u32_at(bytes, 12) }
    }
}

/// A durable queue entry on its way to the queue's owner, in gather order (S3).
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Which queue.
    pub queue: u64,
    /// Its sequence in the queue.
    pub sequence: u64,
    /// What was queued.
    pub entry: Entry,
    /// Where its record still is in memory.
    record: Option<(Arc<Frame>, u32)>,
}

impl Delivery {
    pub(crate) fn new((queue, sequence): (u64, u64), entry: Entry, at: Option<(Arc<Frame>, usize)>) -> Delivery {
        // A frame is bounded far below 4 GiB: a group and one operation above its bound.
        Delivery { queue, sequence, entry, record: at.map(|(frame, position)| (frame, position as u32)) }
    }

    /// The record itself, while it is still in memory; offset and timestamp are relative and not to be used.
    pub fn record(&self) -> Option<batch::Record<'_>> {
        let (frame, position) = self.record.as_ref()?;
        batch::read_record(&frame.bytes()[*position as usize..], 0, 0)
    }
}

/// Wakes the committer; costs a system call only when it sleeps.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    thread: OnceLock<Thread>,
    pending: AtomicBool,
}

impl Signal {
    pub(crate) fn attach_current_thread(&self) {
        let _ = self.thread.set(std::thread::current());
    }

    pub(crate) fn ring(&self) {
        if !self.pending.swap(true, Ordering::AcqRel)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    /// Whether it rang since it was last taken.
    pub(crate) fn rang(&self) -> bool {
        self.pending.load(Ordering::Acquire)
    }

    /// The same, and takes it.
    pub(crate) fn take(&self) -> bool {
        self.pending.swap(false, Ordering::AcqRel)
    }
}

/// What all lanes and the committer share.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    pub(crate) list: RwLock<Vec<Lane>>,
    pub(crate) signal: Signal,
    failed: OnceLock<JournalFailed>,
}

impl Lanes {
    pub(crate) fn add(self: &Arc<Self>, doorbell: Option<Arc<Notify>>) -> Lane {
        let mut list = self.list.write();
        let lane = Lane(Arc::new(Inner {
            index: list.len(),
            pending: Mutex::default(),
            submitted: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            backlog_bytes: AtomicUsize::new(0),
            deliveries: Mutex::default(),
            committed: Notify::new(),
            doorbell,
            lanes: self.clone(),
        }));
        list.push(lane.clone());
        lane
    }

    /// Tells everyone that nothing more becomes durable; what stands in the lanes is given up.
    pub(crate) fn fail(&self, why: &str) {
        let _ = self.failed.set(JournalFailed(why.into()));
        for lane in self.list.read().iter() {
            lane.0.pending.lock().clear();
            lane.wake();
        }
    }

    pub(crate) fn failure(&self) -> Option<&JournalFailed> {
        self.failed.get()
    }

    /// Bytes of all lanes, submitted and not durable.
    pub(crate) fn backlog_bytes(&self) -> usize {
        self.list.read().iter().map(Lane::backlog_bytes).sum()
    }
}

/// What a lane holds for the committer.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    pub(crate) bytes: Vec<u8>,
    pub(crate) slots: Vec<ProduceSlot>,
    pub(crate) last_ticket: Ticket,
}

impl Pending {
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.slots.clear();
    }
}

/// An ordered way into the journal. Cheap to clone; any thread may use it.
#[derive(Clone, Debug)]
pub struct Lane(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    index: usize,
    pending: Mutex<Pending>,
    submitted: AtomicU64,
    durable: AtomicU64,
    backlog_bytes: AtomicUsize,
    deliveries: Mutex<Vec<Delivery>>,
    committed: Notify,
    doorbell: Option<Arc<Notify>>,
    lanes: Arc<Lanes>,
}

/// Kinds of lane entries that are not a [`Change`]; the committer turns them into batches and changes.
pub(crate) const APPEND: u8 = 32;
pub(crate) const BATCH: u8 = 33;
pub(crate) const ATTACH: u8 = 34;
pub(crate) const ORDERED: u8 = 35;
pub(crate) const UNLESS_NEWER: u8 = 36;
pub(crate) const MOVE: u8 = 37;

impl Lane {
    /// Starts an operation. The committer waits while one is open: fill it and submit it without pausing.
    pub fn begin(&self) -> Operation<'_> {
        let pending = self.0.pending.lock();
        let (start, slots) = (pending.bytes.len(), pending.slots.len());
        Operation { lane: self, pending, start, slots }
    }

    /// Wakes the committer for what was submitted; once per loop turn is enough.
    pub fn flush(&self) {
        self.0.lanes.signal.ring();
    }

    /// Submits one validated record batch as an operation of its own and flushes.
    pub fn produce(&self, partition: &Partition, bytes: &[u8]) -> (ProduceSlot, Ticket) {
        let slot = ProduceSlot::default();
        let mut operation = self.begin();
        operation.pending.slots.push(slot.clone());
        let out = &mut operation.pending.bytes;
        out.push(BATCH);
        out.extend_from_slice(&partition.topic_id.to_le_bytes());
        out.extend_from_slice(&partition.index.to_le_bytes());
        out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        out.extend_from_slice(bytes);
        let ticket = operation.submit();
        self.flush();
        (slot, ticket)
    }

    /// Submits puts (value) and deletes (None) of keyed state as one operation and flushes.
    pub fn put_all(&self, changes: &[KeyedChange<'_>]) -> Ticket {
        let mut operation = self.begin();
        for (space, key, value) in changes {
            operation.change(match value {
                Some(value) => Change::Put(*space, key, value),
                None => Change::Delete(*space, key),
            });
        }
        let ticket = operation.submit();
        self.flush();
        ticket
    }

    /// The ticket of the newest operation; durable when everything submitted so far is.
    pub fn submitted(&self) -> Ticket {
        self.0.submitted.load(Ordering::Acquire)
    }

    /// Every operation up to this ticket is durable.
    pub fn durable(&self) -> Ticket {
        self.0.durable.load(Ordering::Acquire)
    }

    /// Bytes submitted and not yet durable: who submits more should wait above some bound. None are, once nothing more
    /// becomes durable.
    pub fn backlog_bytes(&self) -> usize {
        if self.failure().is_some() { 0 } else { self.0.backlog_bytes.load(Ordering::Relaxed) }
    }

    /// Why nothing more becomes durable, if so.
    pub fn failure(&self) -> Option<&JournalFailed> {
        self.0.lanes.failure()
    }

    /// Entries of the queues attached to this lane that became durable, in order.
    pub fn take_deliveries(&self) -> Vec<Delivery> {
        std::mem::take(&mut *self.0.deliveries.lock())
    }

    /// Waits until everything up to `ticket` is durable.
    pub async fn wait(&self, ticket: Ticket) -> Result<(), JournalFailed> {
        loop {
            let committed = self.0.committed.notified();
            if self.durable() >= ticket {
                return Ok(());
            }
            if let Some(failed) = self.failure() {
                return Err(failed.clone());
            }
            committed.await;
        }
    }

    pub(crate) fn index(&self) -> usize {
        self.0.index
    }

    /// Takes everything submitted so far, leaving `empty` (cleared, capacity kept) in its place.
    pub(crate) fn take(&self, empty: &mut Pending) -> bool {
        let mut pending = self.0.pending.lock();
        if pending.bytes.is_empty() && pending.last_ticket == self.durable() {
            return false;
        }
        empty.last_ticket = pending.last_ticket;
        std::mem::swap(&mut *pending, empty);
        true
    }

    /// Publishes what became durable and wakes who waits (J5).
    pub(crate) fn publish(&self, ticket: Ticket, bytes: usize, deliveries: &mut Vec<Delivery>) {
        if !deliveries.is_empty() {
            self.0.deliveries.lock().append(deliveries);
        }
        self.0.backlog_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.0.durable.fetch_max(ticket, Ordering::AcqRel);
        self.wake();
    }

    fn wake(&self) {
        self.0.committed.notify_waiters();
        if let Some(doorbell) = &self.0.doorbell {
            doorbell.notify_one();
        }
    }
}

/// One operation being filled; dropped unsubmitted, it never was.
pub struct Operation<'a> {
    lane: &'a Lane,
    pending: MutexGuard<'a, Pending>,
    start: usize,
    slots: usize,
}

impl Operation<'_> {
    /// Appends a record to a partition and a pointer to it to each target queue. `body` writes the record's
    /// body as [`batch::encode_body`] does.
    pub fn append(
        &mut self,
        (topic_id, partition): (u32, u32),
        timestamp_ms: i64,
        targets: impl ExactSizeIterator<Item = Target>,
        body: impl FnOnce(&mut Vec<u8>),
    ) {
        let out = &mut self.pending.bytes;
        out.push(APPEND);
        out.extend_from_slice(&topic_id.to_le_bytes());
        out.extend_from_slice(&partition.to_le_bytes());
        out.extend_from_slice(&timestamp_ms.to_le_bytes());
        out.extend_from_slice(&(targets.len() as u32).to_le_bytes());
        targets.for_each(|target| target.put(out));
        let length_at = out.len();
        out.extend_from_slice(&[0; 4]);
        body(out);
        let length = (out.len() - length_at - 4) as u32;
        out[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    }

    /// Moves an entry that a queue holds to another one, with the pointer it has (S7). It stays when that one has ended.
    pub fn move_entry(&mut self, (queue, sequence): (u64, u64), pointer: Pointer, target: Target) {
        let out = &mut self.pending.bytes;
        out.push(MOVE);
        out.extend_from_slice(&queue.to_le_bytes());
        out.extend_from_slice(&sequence.to_le_bytes());
        out.extend_from_slice(&pointer.topic.to_le_bytes());
        out.extend_from_slice(&pointer.partition.to_le_bytes());
        out.extend_from_slice(&pointer.offset.to_le_bytes());
        target.put(out);
    }

    /// Adds a change of keyed state or of a queue. `Enqueue` is the committer's own.
    pub fn change(&mut self, change: Change<'_>) {
        debug_assert!(!matches!(change, Change::Enqueue(..)), "only the committer gives sequences");
        change.encode(&mut self.pending.bytes);
    }

    /// The same for a put or delete of a key that several lanes change: `order` rises with every change of any
    /// such key in its space, and one that was overtaken on its way is left out. It is the caller's, from
    /// under the lock that decides which change is the newer.
    pub fn change_in_order(&mut self, order: u64, change: Change<'_>) {
        self.pending.bytes.push(ORDERED);
        self.pending.bytes.extend_from_slice(&order.to_le_bytes());
        self.change(change);
    }

    /// Has the append that follows left out if by then a newer change of this key has been gathered, whichever lane it
    /// came by: what the append says of the key is out of date. See [`Operation::change_in_order`].
    pub fn unless_newer(&mut self, order: u64, space: Space, key: &[u8]) {
        let out = &mut self.pending.bytes;
        out.push(UNLESS_NEWER);
        out.extend_from_slice(&order.to_le_bytes());
        out.push(space.0);
        out.extend_from_slice(&(key.len() as u32).to_le_bytes());
        out.extend_from_slice(key);
    }

    /// Makes this lane the one that gets a recovered queue's deliveries; `Change::Open` does it for new ones.
    pub fn attach(&mut self, queue: u64) {
        self.pending.bytes.push(ATTACH);
        self.pending.bytes.extend_from_slice(&queue.to_le_bytes());
    }

    /// Ends the operation; it is durable when [`Lane::durable`] reaches the ticket, which is never once the journal
    /// has failed.
    pub fn submit(mut self) -> Ticket {
        self.pending.last_ticket += 1;
        let ticket = self.pending.last_ticket;
        if self.lane.failure().is_some() {
            // Nobody comes for it (J8): it would only take up memory.
            self.lane.0.submitted.store(ticket, Ordering::Release);
            return ticket;
        }
        let bytes = self.pending.bytes.len() - self.start;
        self.lane.0.backlog_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.lane.0.submitted.store(ticket, Ordering::Release);
        self.start = self.pending.bytes.len();
        self.slots = self.pending.slots.len();
        ticket
    }
}

impl Drop for Operation<'_> {
    fn drop(&mut self) {
        self.pending.bytes.truncate(self.start);
        self.pending.slots.truncate(self.slots);
    }
}

/// A pointer and the record behind it, for those who read queues back.
pub(crate) fn entry(pointer: Pointer, target: &Target) -> Entry {
    Entry { pointer, tag: target.tag, expires_s: target.expires_s, released: false }
}
