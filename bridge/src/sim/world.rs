//! What is done to the disk, and when the process ends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::compacted::DELETE_RETENTION_MS;
use super::disk::{End, SimulatedDisk};
use super::model::{Deed, Key, LaneModel, Model, Place, Told, key_of, payload, place_of_delivery, read_all, read_from};
use super::random::Random;
use super::steps::{Steps, UNAPPLIED_MAX};
use crate::batch::{self, Builder};
use crate::journal::commit::TopicChange;
use crate::log::Now;
use crate::state::{Change, Pointer, Space};
use crate::{Bridge, Durability, Lane, Options, ProduceSlot, Produced, Settings, Target};

/// The lanes' markers, and keys of theirs.
pub const MARKERS: Space = Space(17);
pub const STATE: Space = Space(16);

const LANES: usize = 3;
/// The producer's own lane comes behind them.
const PRODUCER: i64 = 77;
/// One for ever, one that lets go of what is too much, one that is deleted and made again, and two that are compacted, of
/// which the last lets go of what is too much, too.
const TOPICS: [&str; 5] = ["first", "second", "third", "fourth", "fifth"];
const COMPACTED: [&str; 2] = ["fourth", "fifth"];
/// Keys in them: more than compaction has room for.
const KEYS: u64 = 10;
const PARTITIONS: u32 = 2;
const STARTS: u64 = 6;
const STEPS_MAX: u64 = 400;
/// About what the spare journal file takes.
const RESERVE_BYTES: u64 = 16 << 10;

/// What was done, for the record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub starts: u64,
    pub kills: u64,
    pub power_cuts: u64,
    pub disk_operations: u64,
    pub operations: u64,
    pub acknowledged: u64,
    pub checkpoints: u64,
    pub failed_syncs: u64,
    pub disk_full: u64,
    pub compactions: u64,
    pub records_gone: u64,
    /// Groups that had to wait for room, each time they did.
    pub waited: u64,
    /// Operations that were not taken because of it.
    pub refused: u64,
    /// Starts for which there was no journal file, and no room for one.
    pub no_room: u64,
    /// Starts that took for damage what a crash had left: too much is said then, and nothing is lost.
    pub called_damage: u64,
    /// Starts that found more in the journal than there was room for in the log.
    pub late: u64,
    /// Runs that went on until everything was written and taken again.
    pub healed: u64,
    trace: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.starts += other.starts;
        self.kills += other.kills;
        self.power_cuts += other.power_cuts;
        self.disk_operations += other.disk_operations;
        self.operations += other.operations;
        self.acknowledged += other.acknowledged;
        self.checkpoints += other.checkpoints;
        self.failed_syncs += other.failed_syncs;
        self.disk_full += other.disk_full;
        self.compactions += other.compactions;
        self.records_gone += other.records_gone;
        self.waited += other.waited;
        self.refused += other.refused;
        self.no_room += other.no_room;
        self.called_damage += other.called_damage;
        self.late += other.late;
        self.healed += other.healed;
    }
}

pub struct World {
    random: Random,
    disk: SimulatedDisk,
    model: Model,
    /// (queue, place) that exist or may come to exist: no message is put into a queue twice.
    placed: BTreeSet<(u64, Place)>,
    /// Topics that were asked for and may be there, by id; those that are acknowledged.
    topics: BTreeMap<u32, (&'static str, bool)>,
    next_queue: u64,
    clock_ms: i64,
    up_ms: u64,
    /// Nobody in this process has looked at the clock.
    is_first_look: bool,
    counts: Counts,
}

/// One process.
struct Run {
    bridge: Bridge,
    steps: Steps,
    lanes: Vec<Lane>,
    /// Tickets of each lane and the operation each stands for.
    tickets: Vec<Vec<(u64, u64)>>,
    /// Topics made and not acknowledged: lane, ticket, id.
    making: Vec<(usize, u64, u32)>,
    producing: Option<(u64, ProduceSlot)>,
    /// Open queues that are known to be durable, by owner.
    open: BTreeMap<u64, usize>,
}

/// The process goes on, or not.
enum Step {
    Goes,
    Ends,
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut random = Random::new(seed);
        let disk = SimulatedDisk::new(random.number());
        let model = Model { lanes: vec![LaneModel::default(); LANES], ..Model::default() };
        World {
            random,
            disk,
            model,
            placed: BTreeSet::new(),
            topics: BTreeMap::new(),
            next_queue: 1,
            clock_ms: 1_700_000_000_000,
            up_ms: 0,
            is_first_look: true,
            counts: Counts::default(),
        }
    }

    pub fn run(mut self) -> Result<Counts, String> {
        for start in 0..STARTS {
            let mut run = self.start().map_err(|wrong| format!("start {start}: {wrong}"))?;
            if self.random.one_in(4) {
                // Ends between two steps.
                self.work(&mut run).map_err(|wrong| format!("after start {start}: {wrong}"))?;
            } else {
                self.disk.end_after(self.random.below(1_000));
                self.work(&mut run).map_err(|wrong| format!("after start {start}: {wrong}"))?;
            }
            self.note_what_is_seen(&run).map_err(|wrong| format!("after start {start}: {wrong}"))?;
            let compaction = &run.bridge.metrics().compaction;
            self.counts.compactions += compaction.runs.load(Ordering::Relaxed);
            self.counts.records_gone += compaction.records_gone.load(Ordering::Relaxed);
            run.steps.end(&self.disk);
            self.end();
        }
        self.start().map_err(|wrong| format!("last start: {wrong}"))?;
        let (operations, failed_syncs, trace) = self.disk.counts();
        (self.counts.disk_operations, self.counts.failed_syncs, self.counts.trace) = (operations, failed_syncs, trace);
        Ok(self.counts)
    }

    fn end(&mut self) {
        let end = if self.random.one_in(3) { End::Killed } else { End::PowerCut };
        match end {
            End::Killed => self.counts.kills += 1,
            End::PowerCut | End::PowerCutLosingAll => self.counts.power_cuts += 1,
        }
        self.disk = self.disk.clone().next(end);
    }

    pub fn options() -> Options {
        Options {
            data_dir: "/data".into(),
            durability: Durability::Fsync,
            commit_interval: Duration::ZERO,
            topic_defaults: Settings { segment_bytes: 8 << 10, ..Settings::default() },
            checkpoint_bytes: 24 << 10,
            checkpoint_interval: Duration::from_secs(60),
            reserve_bytes: RESERVE_BYTES,
        }
    }

    /// Starts a process, which may end while it starts, and compares.
    fn start(&mut self) -> Result<Run, String> {
        for attempt in 0.. {
            if attempt < 3 && self.random.one_in(3) {
                self.disk.end_after(self.random.below(60));
            }
            self.counts.starts += 1;
            let opened = Steps::open(&self.disk, World::options());
            let opened = opened.map(|(bridge, steps)| (bridge, self.apply_late(steps)));
            match opened {
                Ok((bridge, steps)) if !self.disk.has_ended() => {
                    self.counts.called_damage += u64::from(!bridge.summary().contains(", 0 damaged ranges,"));
                    return self.check(bridge, steps);
                }
                _ if self.disk.has_ended() => self.end(),
                Ok(_) => return Err("it came up on a disk that has ended".to_owned()),
                // Its predecessors used up the spare file, and none could be made.
                Err(error) if error.to_string().ends_with(".journal: no storage space") => {
                    self.counts.no_room += 1;
                    self.disk.set_room(None);
                }
                Err(error) => return Err(format!("it does not come up: {error}")),
            }
        }
        unreachable!("attempts are counted for ever")
    }

    /// There is room again for what the start found none for.
    fn apply_late(&mut self, mut steps: Steps) -> Steps {
        if steps.has_late() {
            self.counts.late += 1;
            self.disk.set_room(None);
            assert!(steps.apply_late() || self.disk.has_ended());
        }
        steps
    }

    fn check(&mut self, bridge: Bridge, steps: Steps) -> Result<Run, String> {
        let producer_at = bridge.topic(TOPICS[0]).map(|topic| (topic.id, 0));
        self.model.check(&bridge, producer_at)?;
        for (id, (name, acknowledged)) in std::mem::take(&mut self.topics) {
            let is_there = bridge.topic(name).is_some_and(|topic| topic.id == id);
            match self.model.is_deleted(id) {
                true if is_there => return Err(format!("topic {name} was deleted and is there")),
                false if acknowledged && !is_there => {
                    return Err(format!("topic {name} was acknowledged and is not there"));
                }
                _ if is_there => drop(self.topics.insert(id, (name, true))),
                _ => {}
            }
        }
        self.placed.clear();
        for ((queue, _), told) in &self.model.told {
            self.placed.insert((*queue, told.place));
        }
        for (index, lane) in self.model.lanes.iter().enumerate() {
            for (deed, number) in lane.deeds.iter().zip(1..) {
                if let Deed::Append { queues, .. } = deed {
                    self.placed.extend(queues.iter().map(|queue| (*queue, (index, number))));
                }
            }
        }
        let mut lanes: Vec<Lane> = (0..LANES).map(|_| bridge.lane()).collect();
        lanes.push(bridge.lane());
        self.is_first_look = true;
        let mut run = Run {
            bridge,
            steps,
            lanes,
            tickets: vec![Vec::new(); LANES],
            making: Vec::new(),
            producing: None,
            open: BTreeMap::new(),
        };
        for (queue, owner) in self.live_queues() {
            let mut operation = run.lanes[owner].begin();
            operation.attach(queue);
            let ticket = operation.submit();
            let number = self.model.lanes[owner].deeds.len() as u64;
            run.tickets[owner].push((ticket, number));
            run.open.insert(queue, owner);
        }
        Ok(run)
    }

    fn live_queues(&self) -> Vec<(u64, usize)> {
        let mut live = BTreeMap::new();
        for (owner, lane) in self.model.lanes.iter().enumerate() {
            for deed in &lane.deeds {
                match deed {
                    Deed::Open(queue) => drop(live.insert(*queue, owner)),
                    Deed::Close { queue, .. } => drop(live.remove(queue)),
                    _ => {}
                }
            }
        }
        live.into_iter().collect()
    }

    /// What readers have seen must be there ever after: it was applied, so it was durable.
    fn note_what_is_seen(&mut self, run: &Run) -> Result<(), String> {
        if self.disk.has_ended() {
            return Ok(());
        }
        for topic in run.bridge.topics_and_hidden() {
            for partition in &topic.partitions {
                let at = (topic.id, partition.index);
                let values = read_all(&run.bridge, at)?;
                if COMPACTED.contains(&topic.name.as_str()) {
                    self.model.check_compacted(at, partition.log_start(), &values)?;
                } else if !values.is_empty() {
                    self.model.seen.entry(at).or_default().extend(values);
                }
            }
        }
        Ok(())
    }

    fn work(&mut self, run: &mut Run) -> Result<(), String> {
        for _ in 0..self.random.below(STEPS_MAX) {
            let step = match self.random.below(32) {
                0..=10 => self.submit(run),
                11..=14 => self.commit(run)?,
                15..=17 => self.apply(run)?,
                18..=19 => self.start_checkpoint(run),
                20..=23 => self.checkpoint(run),
                24 => self.produce(run),
                25 => self.make_topic(run),
                26..=29 => self.clean(run),
                30 => self.look(run),
                _ => self.disturb(),
            };
            if matches!(step, Step::Ends) {
                return Ok(());
            }
        }
        self.heal(run)
    }

    /// There is room again, and nothing fails: then everything is written and acknowledged, and everything is taken.
    fn heal(&mut self, run: &mut Run) -> Result<(), String> {
        self.disk.set_room(None);
        self.disk.fail_no_sync();
        // More than can stand in lanes, frames and a checkpoint.
        for _ in 0..2 * UNAPPLIED_MAX {
            let steps = [self.commit(run)?, self.apply(run)?, self.checkpoint(run), self.look(run)];
            if steps.iter().any(|step| matches!(step, Step::Ends)) {
                return Ok(());
            }
        }
        let waits = |lane: &Lane| lane.durable() < lane.submitted();
        if run.lanes.iter().any(waits) || !run.bridge.is_open() {
            return Err(format!("it does not heal: {:?}", run.bridge.trouble()));
        }
        self.counts.healed += 1;
        Ok(())
    }

    /// What the watch and the checkpoint thread do now and then.
    fn look(&mut self, run: &mut Run) -> Step {
        run.steps.look_at_room();
        run.steps.make_spares(!run.bridge.is_open());
        self.goes()
    }

    fn goes(&self) -> Step {
        if self.disk.has_ended() { Step::Ends } else { Step::Goes }
    }

    fn disturb(&mut self) -> Step {
        match self.random.below(6) {
            0 => self.disk.fail_a_sync(self.random.below(6)),
            1 | 2 => {
                self.counts.disk_full += 1;
                self.disk.set_room(Some(self.random.below(48 << 10) as usize));
            }
            _ => self.disk.set_room(None),
        }
        Step::Goes
    }

    /// An operation of some lane: its deed and its marker.
    fn submit(&mut self, run: &mut Run) -> Step {
        let lane = self.random.below(LANES as u64) as usize;
        let Some(deed) = self.deed(run, lane) else { return Step::Goes };
        if !deed.draws_on_the_reserve() && !run.bridge.is_open() {
            self.counts.refused += 1;
            return Step::Goes;
        }
        let number = self.model.lanes[lane].deeds.len() as u64 + 1;
        let place = (lane, number);
        let mut operation = run.lanes[lane].begin();
        operation.change(Change::Put(MARKERS, &[lane as u8], &number.to_be_bytes()));
        match &deed {
            Deed::Append { to, key, queues } => {
                let targets = queues.iter().map(|queue| Target { queue: *queue, tag: lane as u32, expires_s: 0 });
                let targets: Vec<Target> = targets.collect();
                operation.append(*to, self.clock_ms, targets.into_iter(), |out| {
                    encode_record(out, *key, payload(place).as_bytes());
                });
            }
            Deed::Open(queue) => operation.change(Change::Open(*queue)),
            Deed::Close { queue, moved } => {
                for (sequence, to) in moved {
                    let pointer = self.model.told[&(*queue, *sequence)].pointer;
                    let target = Target { queue: *to, tag: lane as u32, expires_s: 0 };
                    operation.move_entry((*queue, *sequence), pointer, target);
                }
                operation.change(Change::Close(*queue));
            }
            Deed::Remove(queue, sequence) => operation.change(Change::Remove(*queue, *sequence)),
            Deed::Release(queue, sequence) => operation.change(Change::Release(*queue, *sequence)),
            Deed::Set(key, Some(value)) => {
                operation.change(Change::Put(STATE, &key_of(lane, *key), &value.to_be_bytes()));
            }
            Deed::Set(key, None) => operation.change(Change::Delete(STATE, &key_of(lane, *key))),
            Deed::Trim((topic, partition), offset) => {
                operation.change(Change::Trim(Pointer { topic: *topic, partition: *partition, offset: *offset }));
            }
            Deed::Delete(id) => {
                // As Bridge::delete_topic does, in one operation with the marker.
                run.bridge.0.shared.topic_changes.lock().push(TopicChange::Deleted(*id));
                let topics = &run.bridge.0.topics;
                topics.with_id(*id).iter().for_each(|topic| topics.hide(topic));
            }
        }
        let ticket = operation.submit();
        run.tickets[lane].push((ticket, number));
        if let Deed::Append { queues, .. } = &deed {
            self.placed.extend(queues.iter().map(|queue| (*queue, place)));
        }
        self.model.lanes[lane].deeds.push(deed);
        self.counts.operations += 1;
        Step::Goes
    }

    fn deed(&mut self, run: &mut Run, lane: usize) -> Option<Deed> {
        let bridge = &run.bridge;
        Some(match self.random.below(18) {
            0..=5 if self.random.one_in(2) => {
                let topics = COMPACTED.map(|name| bridge.topic(name));
                let to = (pick(&mut self.random, &topics)??.id, 0);
                // Some much more often than others.
                let key = self.random.below(KEYS);
                let key = self.random.below(key + 1);
                let key = if self.random.one_in(3) { Key::Delete(key) } else { Key::Set(key) };
                let random = &mut self.random;
                let queues = run.open.keys().copied().filter(|_| random.one_in(6)).collect();
                Deed::Append { to, key, queues }
            }
            0..=5 => {
                let mut topics = bridge.topics();
                topics.retain(|topic| !COMPACTED.contains(&topic.name.as_str()));
                let hidden = bridge.hidden();
                let to = match self.random.below(topics.len() as u64 + 1) as usize {
                    0 => hidden,
                    // The producer has partition 0 of the first to itself.
                    n if topics[n - 1].name == TOPICS[0] => (topics[n - 1].id, 1),
                    n => (topics[n - 1].id, self.random.below(PARTITIONS.into()) as u32),
                };
                let random = &mut self.random;
                let queues: Vec<u64> = run.open.keys().copied().filter(|_| random.one_in(2)).collect();
                Deed::Append { to, key: Key::None, queues }
            }
            6 | 7 if run.open.len() < 4 => {
                let queue = self.next_queue;
                self.next_queue += 1;
                Deed::Open(queue)
            }
            8 => {
                let mine = run.open.iter().filter(|(_, owner)| **owner == lane).map(|(queue, _)| *queue);
                let queue = pick(&mut self.random, &mine.collect::<Vec<_>>())?;
                run.open.remove(&queue);
                Deed::Close { queue, moved: self.moves(run, queue) }
            }
            9..=11 => {
                let (queue, sequence) = self.some_entry(run, lane)?;
                Deed::Remove(queue, sequence)
            }
            12 => {
                let (queue, sequence) = self.some_entry(run, lane)?;
                Deed::Release(queue, sequence)
            }
            13 => {
                let topic = pick(&mut self.random, &bridge.topics())?;
                let partition = self.random.below(PARTITIONS.into()) as u32;
                let end = topic.partitions[partition as usize].high_watermark();
                Deed::Trim((topic.id, partition), self.random.below(end as u64 + 1) as i64)
            }
            14 if self.random.one_in(3) => Deed::Delete(bridge.topic(TOPICS[2])?.id),
            n => Deed::Set(self.random.below(6), (n != 15).then(|| self.random.number())),
        })
    }

    /// Entries of a queue that closes, to another one.
    fn moves(&mut self, run: &Run, queue: u64) -> Vec<(u64, u64)> {
        let others: Vec<u64> = run.open.keys().copied().collect();
        let Some(to) = pick(&mut self.random, &others) else { return Vec::new() };
        let live = self.live_entries(queue);
        let fresh = live.into_iter().filter(|(_, place)| self.placed.insert((to, *place)));
        fresh.map(|(sequence, _)| (sequence, to)).collect()
    }

    /// Entries the owner was told of and has neither removed nor released.
    fn live_entries(&self, queue: u64) -> Vec<(u64, Place)> {
        let over: BTreeSet<u64> = self
            .model
            .lanes
            .iter()
            .flat_map(|lane| &lane.deeds)
            .filter_map(|deed| match deed {
                Deed::Remove(of, sequence) | Deed::Release(of, sequence) if *of == queue => Some(*sequence),
                _ => None,
            })
            .collect();
        let told = self.model.told.range((queue, 0)..=(queue, u64::MAX));
        let live = told.filter(|((_, sequence), _)| !over.contains(sequence));
        live.map(|((_, sequence), told)| (*sequence, told.place)).collect()
    }

    fn some_entry(&mut self, run: &Run, lane: usize) -> Option<(u64, u64)> {
        let mine: Vec<u64> = run.open.iter().filter(|(_, owner)| **owner == lane).map(|(queue, _)| *queue).collect();
        let queue = pick(&mut self.random, &mine)?;
        let live = self.live_entries(queue);
        Some((queue, pick(&mut self.random, &live)?.0))
    }

    fn make_topic(&mut self, run: &mut Run) -> Step {
        let missing = TOPICS.into_iter().find(|name| run.bridge.topic(name).is_none());
        let config = |name| match name {
            "first" => vec![("retention.ms", "-1"), ("retention.bytes", "-1")],
            "second" => vec![("retention.ms", "60000"), ("retention.bytes", "16384")],
            "third" => vec![("retention.ms", "600000"), ("retention.bytes", "-1")],
            "fourth" => vec![("cleanup.policy", "compact")],
            _ => vec![("cleanup.policy", "compact,delete"), ("retention.bytes", "16384"), ("retention.ms", "-1")],
        };
        let delete_retention = DELETE_RETENTION_MS.to_string();
        let compaction = [
            ("segment.bytes", "1024"),
            ("min.cleanable.dirty.ratio", "0.2"),
            ("delete.retention.ms", &delete_retention),
        ];
        if let Some(name) = missing
            && self.model.lanes.iter().all(|lane| !lane.deeds.is_empty())
        {
            let mut config = config(name);
            if COMPACTED.contains(&name) {
                config.extend(compaction);
            }
            let config = config.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
            if let Ok((topic, ticket)) = run.bridge.create_topic(&run.lanes[0], name, PARTITIONS, config) {
                self.topics.insert(topic.id, (name, false));
                // Ids of topics that never became durable are given again.
                match [TOPICS[0], COMPACTED[0]].contains(&name) {
                    true => self.model.let_go.remove(&topic.id),
                    false => self.model.let_go.insert(topic.id),
                };
                run.making.push((0, ticket, topic.id));
                let number = self.model.lanes[0].deeds.len() as u64;
                run.tickets[0].push((ticket, number));
            }
        }
        self.goes()
    }

    /// The idempotent producer's next batch, which may be one that it had no answer to.
    fn produce(&mut self, run: &mut Run) -> Step {
        let Some(topic) = run.bridge.topic(TOPICS[0]) else { return Step::Goes };
        if run.producing.is_some() || !run.bridge.is_open() {
            return Step::Goes;
        }
        let sequence = self.model.produced.1;
        let mut body = Vec::new();
        batch::encode_body(&mut body, None, Some(format!("produced {sequence}").as_bytes()), std::iter::empty());
        let mut builder = Builder::default();
        builder.restart(0);
        builder.push(self.clock_ms, &body);
        let mut bytes = builder.finish(0).to_vec();
        set_producer(&mut bytes, sequence);
        self.model.produced.0 = sequence + 1;
        let (slot, ticket) = run.lanes[LANES].produce(&topic.partitions[0], &bytes);
        run.producing = Some((ticket, slot));
        Step::Goes
    }

    fn commit(&mut self, run: &mut Run) -> Result<Step, String> {
        match run.steps.commit() {
            Ok(true) => {}
            Ok(false) => {
                self.counts.waited += 1;
                return Ok(Step::Goes);
            }
            // The journal failed: the process says so and exits.
            Err(failed) if failed.is_sync || self.disk.has_ended() => return Ok(Step::Ends),
            Err(failed) => return Err(format!("the journal failed: {}", failed.why)),
        }
        // Also when the disk ended with this very operation: nobody was told.
        if self.disk.has_ended() {
            return Ok(Step::Ends);
        }
        self.hear(run)?;
        Ok(Step::Goes)
    }

    /// Acknowledgements and deliveries of the last commit.
    fn hear(&mut self, run: &mut Run) -> Result<(), String> {
        for lane in 0..LANES {
            let durable = run.lanes[lane].durable();
            let heard = run.tickets[lane].iter().take_while(|(ticket, _)| *ticket <= durable).count();
            for (_, number) in run.tickets[lane].drain(..heard) {
                let model = &mut self.model.lanes[lane];
                if number > model.acknowledged {
                    self.counts.acknowledged += number - model.acknowledged;
                    model.acknowledged = number;
                }
                if let Some(Deed::Open(queue)) = number.checked_sub(1).and_then(|at| model.deeds.get(at as usize)) {
                    run.open.insert(*queue, lane);
                }
            }
            let (made, making) = std::mem::take(&mut run.making)
                .into_iter()
                .partition(|(of, ticket, _)| *of == lane && *ticket <= durable);
            run.making = making;
            let made: Vec<(usize, u64, u32)> = made;
            for (_, _, id) in made {
                self.topics.entry(id).and_modify(|(_, acknowledged)| *acknowledged = true);
            }
            for delivery in run.lanes[lane].take_deliveries() {
                let place = match delivery.record() {
                    Some(record) => place_of_delivery(&record)?,
                    None => {
                        let moved = self.model.told.values().find(|told| told.pointer == delivery.entry.pointer);
                        moved.ok_or("an entry was moved that nobody was told of")?.place
                    }
                };
                let told = Told { place, pointer: delivery.entry.pointer };
                if self.model.told.insert((delivery.queue, delivery.sequence), told).is_some() {
                    return Err(format!("queue {}: {} was delivered twice", delivery.queue, delivery.sequence));
                }
            }
        }
        // A queue that was closed again before its opening was heard of is not open.
        let live: BTreeSet<u64> = self.live_queues().into_iter().map(|(queue, _)| queue).collect();
        run.open.retain(|queue, _| live.contains(queue));
        if let Some((ticket, slot)) = &run.producing
            && *ticket <= run.lanes[LANES].durable()
        {
            let sequence = self.model.produced.1;
            match slot.get() {
                Some(Produced::Appended { base_offset, .. }) if base_offset == i64::from(sequence) => {}
                other => return Err(format!("the producer's {sequence} was answered {other:?}")),
            }
            self.model.produced.1 = sequence + 1;
            run.producing = None;
        }
        Ok(())
    }

    fn apply(&mut self, run: &mut Run) -> Result<Step, String> {
        if run.steps.apply()? {
            self.note_what_is_new(run)?;
        }
        Ok(self.goes())
    }

    /// What is new in compacted partitions must be seen before compaction may take it.
    fn note_what_is_new(&mut self, run: &Run) -> Result<(), String> {
        if self.disk.has_ended() {
            return Ok(());
        }
        for topic in COMPACTED.iter().filter_map(|name| run.bridge.topic(name)) {
            let at = (topic.id, 0);
            let seen = self.model.seen.entry(at).or_default();
            let from = seen.last_key_value().map_or(0, |(offset, _)| offset + 1);
            for (offset, text) in read_from(&run.bridge, at, from)? {
                seen.insert(offset, text);
                self.model.seen_since.insert((at, offset), self.model.steady_ms);
            }
        }
        Ok(())
    }

    /// Time goes by; now and then the clock is set. Nobody knows of that who sees it for the first time, or if it is set by
    /// less than an hour.
    fn now(&mut self) -> Now {
        let passed_ms = self.random.below(20_000) as i64;
        self.clock_ms += passed_ms;
        self.model.steady_ms += passed_ms;
        if self.random.one_in(50) {
            let set_by_ms = (self.random.below(1_000_000_000) as i64) - 300_000_000;
            self.clock_ms += set_by_ms;
            if self.is_first_look || set_by_ms < 3_630_000 {
                self.model.steady_ms += set_by_ms.max(0);
            }
        }
        self.is_first_look = false;
        self.up_ms += 10_000;
        Now { wall_ms: self.clock_ms, up: Duration::from_millis(self.up_ms) }
    }

    fn start_checkpoint(&mut self, run: &mut Run) -> Step {
        // It looks at the clock when none is under way.
        if run.steps.may_start_checkpoint() {
            let now = self.now();
            run.steps.start_checkpoint(now);
        }
        Step::Goes
    }

    /// Compaction goes on for a few operations of the disk; the thread may be long in coming.
    fn clean(&mut self, run: &mut Run) -> Step {
        run.steps.clean(self.random.one_in(5), 1 + self.random.below(24));
        self.goes()
    }

    /// A checkpoint goes on for a few operations of the disk.
    fn checkpoint(&mut self, run: &mut Run) -> Step {
        match run.steps.checkpoint(1 + self.random.below(16)) {
            Ok(done) => self.counts.checkpoints += u64::from(done),
            // The process exits.
            Err(_) => return Step::Ends,
        }
        self.goes()
    }
}

/// A record of an operation, whose place stands in its value, or in a header where it has none.
fn encode_record(out: &mut Vec<u8>, key: Key, place: &[u8]) {
    match key {
        Key::None => batch::encode_body(out, None, Some(place), std::iter::empty()),
        Key::Set(key) => batch::encode_body(out, Some(&key.to_be_bytes()), Some(place), std::iter::empty()),
        Key::Delete(key) => {
            batch::encode_body(out, Some(&key.to_be_bytes()), None, std::iter::once((&b"place"[..], place)));
        }
    }
}

/// Makes a batch the producer's; the layout is Kafka's.
fn set_producer(bytes: &mut [u8], sequence: i32) {
    bytes[43..51].copy_from_slice(&PRODUCER.to_be_bytes());
    bytes[51..53].copy_from_slice(&0i16.to_be_bytes());
    bytes[53..57].copy_from_slice(&sequence.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
}

fn pick<T: Clone>(random: &mut Random, from: &[T]) -> Option<T> {
    (!from.is_empty()).then(|| from[random.below(from.len() as u64) as usize].clone())
}
