//! The committer: one thread that gathers what the lanes hold, writes it as one frame, syncs once and
//! tells who waits (J1, J5). While the disk works, the lanes fill.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::admission::{Admission, Waiting};
use crate::disk::DiskError;
use crate::log::Topic;
use crate::metrics::Metrics;
use crate::stall::{Stalls, tell_of_this_thread};
use crate::state::{Change, Space};
use crate::{Durability, Options};

use super::files::Writer;
use super::frame::Frame;
use super::gather::Gather;
use super::lane::{Delivery, Lanes, Pending, Ticket};

/// A group takes lanes in rotation until it holds this much; the rest goes into the next (J1).
const GROUP_BYTES_MAX: usize = 1 << 20;
/// How often durability "os" syncs (J7).
const OS_SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// How long a group waits that the disk has no room for.
const RETRY: Duration = Duration::from_millis(250);
/// How long an idle committer sleeps at most before it looks again.
const IDLE: Duration = Duration::from_secs(3600);

/// What others tell the committer, and what it publishes.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) lanes: Arc<Lanes>,
    /// Topics made and deleted since the last group, in order. Read after the lanes were taken: whoever appends to a topic
    /// found it after it was put here.
    pub(crate) topic_changes: Mutex<Vec<TopicChange>>,
    pub(crate) stopping: AtomicBool,
    /// Everything up to here has reached the disk itself, in either durability.
    pub(crate) synced_lsn: AtomicU64,
    /// Journal bytes that no checkpoint covers.
    pub(crate) uncheckpointed_bytes: AtomicU64,
    /// Whether more is taken that has to be written.
    pub(crate) admission: Admission,
    pub(crate) stalls: Stalls,
    pub(crate) metrics: Metrics,
}

/// What becomes of a topic.
#[derive(Debug)]
pub(crate) enum TopicChange {
    Made(Arc<Topic>),
    Deleted(u32),
}

impl Shared {
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.lanes.signal.ring();
    }

    /// Nothing more becomes durable (J8).
    pub(crate) fn fail(&self, why: &str) {
        // In this order: whoever hears of it is not asked to take more.
        self.admission.fail();
        self.lanes.fail(why);
    }
}

pub(crate) struct Committer {
    shared: Arc<Shared>,
    gather: Gather,
    writer: Writer,
    applier: SyncSender<Arc<Frame>>,
    options: Options,
    last_sync: Instant,
    /// The lane to begin the next group with.
    first_lane: usize,
    /// Empty lane buffers, to be swapped for full ones.
    buffers: Vec<Pending>,
    /// A group that the disk has no room for yet (J9).
    unwritten: Option<Group>,
}

/// What was gathered, and is to be written in one frame.
struct Group {
    frame: Frame,
    /// There is something in it.
    is_filled: bool,
    shares: Vec<Share>,
    records: u64,
    began: Instant,
    /// Some lanes were left for the next.
    more: bool,
}

/// What one lane has in the group.
#[derive(Default)]
struct Share {
    lane: usize,
    ticket: Ticket,
    bytes: usize,
    deliveries: Vec<Delivery>,
}

impl Committer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        gather: Gather,
        writer: Writer,
        applier: SyncSender<Arc<Frame>>,
        options: Options,
    ) -> Committer {
        let (last_sync, buffers) = (Instant::now(), Vec::new());
        Committer { shared, gather, writer, applier, options, last_sync, first_lane: 0, buffers, unwritten: None }
    }

    /// Runs until stopped; then everything submitted before is durable and the applier's channel closes.
    pub(crate) fn run(mut self) {
        self.shared.lanes.signal.attach_current_thread();
        tell_of_this_thread(&self.shared.stalls.commit);
        if let Err(error) = self.commit_until_stopped() {
            tracing::error!(%error, "the journal cannot be written: nothing more is acknowledged");
            self.shared.fail(&error.to_string());
        }
    }

    fn commit_until_stopped(&mut self) -> Result<(), DiskError> {
        loop {
            // Read before gathering: what was submitted before the stop is in the last group.
            let stopping = self.shared.stopping.load(Ordering::Acquire);
            let rang = self.shared.lanes.signal.take();
            if rang && !stopping {
                self.wait_for_company();
            }
            let more = self.commit_or_wait()?;
            if self.shared.lanes.failure().is_some() {
                // Elsewhere. What was promised since is not kept.
                return Ok(());
            }
            if self.writer.dirty() && (stopping || self.last_sync.elapsed() >= OS_SYNC_INTERVAL) {
                self.sync()?;
            }
            if stopping && (!more || self.unwritten.is_some()) {
                return Ok(());
            }
            if self.unwritten.is_some() {
                thread::sleep(RETRY);
                continue;
            }
            // Also with more to gather: under load there always is.
            self.wait_for_checkpoint()?;
            if more {
                continue;
            }
            // A ring that an earlier park swallowed still stands in the signal.
            if self.shared.lanes.signal.rang() {
                continue;
            }
            thread::park_timeout(if self.writer.dirty() { OS_SYNC_INTERVAL } else { IDLE });
        }
    }

    /// `commit_interval_ms`: lets a group grow before it is written.
    fn wait_for_company(&self) {
        let until = Instant::now() + self.options.commit_interval;
        while let Some(left) = until.checked_duration_since(Instant::now()).filter(|d| !d.is_zero()) {
            if self.shared.stopping.load(Ordering::Acquire) {
                return;
            }
            thread::park_timeout(left);
        }
    }

    /// C3: publishers wait when checkpoints fall behind.
    fn wait_for_checkpoint(&mut self) -> Result<(), DiskError> {
        let bound = self.options.checkpoint_bytes.saturating_mul(2);
        if self.shared.uncheckpointed_bytes.load(Ordering::Acquire) > bound && self.writer.dirty() {
            // J7: the checkpoint waits for the sync of the last frame it covers.
            self.sync()?;
        }
        while self.shared.uncheckpointed_bytes.load(Ordering::Acquire) > bound
            && self.shared.lanes.failure().is_none()
            && !self.shared.stopping.load(Ordering::Acquire)
        {
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Commits a group. One that the disk has no room for waits: of a write that was refused nothing is unknown, so the
    /// same frame is written again (J9).
    fn commit_or_wait(&mut self) -> Result<bool, DiskError> {
        match self.commit_group() {
            Err(error) if error.is_full() => {
                if self.shared.admission.refused(Waiting::Commit, &error) {
                    tracing::error!(%error, "the journal waits for room, and so does who waits for it");
                }
                Ok(true)
            }
            committed => {
                self.shared.admission.written(Waiting::Commit);
                committed
            }
        }
    }

    /// Writes one group, which may be the last one again; whether there may be more to gather at once.
    pub(crate) fn commit_group(&mut self) -> Result<bool, DiskError> {
        let mut group = match self.unwritten.take() {
            Some(again) => again,
            None => self.gather_group(),
        };
        let more = group.more;
        if self.shared.lanes.failure().is_some() {
            // J8, found elsewhere: lanes may have been emptied of what they had promised.
            return Ok(false);
        }
        if !group.is_filled {
            // Moves that came to nothing change nothing, and whose they were is to know.
            let Group { frame, mut shares, .. } = group;
            self.deliver(&Arc::new(frame), &mut shares);
            self.publish(shares);
            return Ok(more);
        }
        let bytes = match self.writer.write(&mut group.frame) {
            Err(error) if error.is_full() => {
                self.unwritten = Some(group);
                return Err(error);
            }
            written => written?,
        };
        self.shared.uncheckpointed_bytes.fetch_add(bytes, Ordering::AcqRel);
        if self.options.durability == Durability::Fsync {
            self.sync()?;
        }
        self.tell(group)?;
        Ok(more)
    }

    /// The group is durable: who waits hears of it, and it is handed on to be applied.
    fn tell(&mut self, group: Group) -> Result<(), DiskError> {
        let Group { frame, mut shares, records, began, .. } = group;
        self.shared.metrics.commit(began.elapsed(), records);
        let frame = Arc::new(frame);
        self.deliver(&frame, &mut shares);
        self.publish(shares);
        if self.options.durability == Durability::Os {
            return self.hand_on_unsynced(frame);
        }
        // An applier that is gone has failed the lanes already.
        let _ = self.applier.send(frame);
        Ok(())
    }

    /// J7: what was told is synced within a second, also while the applier waits for room.
    fn hand_on_unsynced(&mut self, mut frame: Arc<Frame>) -> Result<(), DiskError> {
        while let Err(TrySendError::Full(back)) = self.applier.try_send(frame) {
            frame = back;
            if self.last_sync.elapsed() >= OS_SYNC_INTERVAL {
                self.sync()?;
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Makes one frame of what the lanes hold.
    fn gather_group(&mut self) -> Group {
        let began = Instant::now();
        let (taken, more) = self.take_lanes();
        let topic_changes = std::mem::take(&mut *self.shared.topic_changes.lock());
        for change in topic_changes {
            match change {
                TopicChange::Made(topic) => self.add_topic(&topic),
                TopicChange::Deleted(id) => self.gather.delete_topic(id),
            }
        }
        let mut shares: Vec<Share> = Vec::with_capacity(taken.len());
        for (lane, mut pending) in taken {
            self.gather.take_in(lane, &pending);
            shares.push(Share { lane, ticket: pending.last_ticket, bytes: pending.bytes.len(), ..Share::default() });
            pending.clear();
            self.buffers.push(pending);
        }
        let mut frame = Frame::new(Vec::new());
        let records = self.gather.take_records();
        let is_filled = self.gather.finish(&mut frame);
        Group { frame, is_filled, shares, records, began, more }
    }

    /// Takes whole lane buffers in rotation, up to a group's size; whether some were left.
    fn take_lanes(&mut self) -> (Vec<(usize, Pending)>, bool) {
        let lanes = self.shared.lanes.list.read();
        let mut taken = Vec::new();
        let mut bytes = 0;
        for i in 0..lanes.len() {
            let lane = &lanes[(self.first_lane + i) % lanes.len()];
            if bytes >= GROUP_BYTES_MAX {
                self.first_lane = lane.index();
                return (taken, true);
            }
            let mut buffer = self.buffers.pop().unwrap_or_default();
            if lane.take(&mut buffer) {
                bytes += buffer.bytes.len();
                taken.push((lane.index(), buffer));
            } else {
                self.buffers.push(buffer);
            }
        }
        (taken, false)
    }

    fn add_topic(&mut self, topic: &Topic) {
        self.gather.add_topic(topic);
        let definition = topic.definition().encode();
        self.gather.change(Change::Put(Space::TOPICS, &topic.id.to_be_bytes(), &definition));
    }

    fn deliver(&mut self, frame: &Arc<Frame>, shares: &mut Vec<Share>) {
        self.gather.deliveries(frame, |lane, delivery| match shares.iter_mut().find(|share| share.lane == lane) {
            Some(share) => share.deliveries.push(delivery),
            None => shares.push(Share { lane, deliveries: vec![delivery], ..Share::default() }),
        });
    }

    fn publish(&self, shares: Vec<Share>) {
        let lanes = self.shared.lanes.list.read();
        for mut share in shares {
            lanes[share.lane].publish(share.ticket, share.bytes, &mut share.deliveries);
        }
    }

    /// What was written and not synced, if anything, is synced.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn sync_written(&mut self) -> Result<(), DiskError> {
        if self.writer.dirty() { self.sync() } else { Ok(()) }
    }

    fn sync(&mut self) -> Result<(), DiskError> {
        let synced = self.writer.sync()?;
        self.last_sync = Instant::now();
        self.shared.synced_lsn.store(synced, Ordering::Release);
        Ok(())
    }
}
