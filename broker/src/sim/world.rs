//! What clients do, what the broker and its disk do meanwhile, and when it crashes.

use std::collections::BTreeMap;

use bridge::sim::disk::{End, SimulatedDisk};
use bridge::sim::random::Random;

use super::client::Client;
use super::clock::Clock;
use super::model::{Model, Number, number_in};
use super::process::{NotUp, Process, Settings};
use super::{say, set_few_packet_ids};

const STARTS: u64 = 4;
const STEPS_MAX: u64 = 260;
/// Rounds in which the end comes to rest, at most.
const LAST_ROUNDS: usize = 400;

/// What was done, for the record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub starts: u64,
    pub kills: u64,
    pub power_cuts: u64,
    pub failed_journals: u64,
    pub disk_operations: u64,
    pub published: u64,
    pub acknowledged: u64,
    pub delivered: u64,
    pub checkpoints: u64,
    pub wills: u64,
    trace: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.starts += other.starts;
        self.kills += other.kills;
        self.power_cuts += other.power_cuts;
        self.failed_journals += other.failed_journals;
        self.disk_operations += other.disk_operations;
        self.published += other.published;
        self.acknowledged += other.acknowledged;
        self.delivered += other.delivered;
        self.checkpoints += other.checkpoints;
        self.wills += other.wills;
    }
}

pub struct World {
    random: Random,
    disk: SimulatedDisk,
    clock: Clock,
    settings: Settings,
    model: Model,
    clients: Vec<Client>,
    counts: Counts,
}

/// The process goes on, or not.
#[derive(PartialEq, Eq)]
enum Step {
    Goes,
    Ends,
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut random = Random::new(seed);
        let disk = SimulatedDisk::new(random.number());
        let few = random.one_in(3);
        set_few_packet_ids(random.one_in(2).then(|| 3 + random.below(5)));
        let settings = Settings {
            shards: 1 + random.below(2) as usize,
            max_queued_messages: if few { 4 } else { 1_000 },
            drops_oldest: random.one_in(2),
            dead_letters: random.one_in(2),
            max_inflight_messages: [1, 2, 5, 100][random.below(4) as usize],
        };
        let model = Model::new(few);
        let (in_group, clients) = (random.one_in(4), 3 + random.below(3) as usize);
        let clients = (0..clients).map(|index| Client::new(index, in_group, &mut random)).collect();
        World { random, disk, clock: Clock::new(), settings, model, clients, counts: Counts::default() }
    }

    pub fn run(mut self) -> Result<Counts, String> {
        for start in 0..STARTS {
            let mut process = self.start(false).map_err(|wrong| format!("start {start}: {wrong}"))?;
            if !self.random.one_in(4) {
                self.disk.end_after(self.random.below(500));
            }
            let worked = self.work(&mut process);
            let worked = worked.and_then(|()| self.look_into_log(&process, false));
            process.end(&self.disk);
            worked.map_err(|wrong| format!("after start {start}: {wrong}"))?;
            self.end();
        }
        let mut process = self.start(true).map_err(|wrong| format!("last start: {wrong}"))?;
        let rested = self.rest(&mut process).and_then(|()| self.look_into_log(&process, true));
        process.end(&self.disk);
        rested.map_err(|wrong| format!("at the end: {wrong}"))?;
        self.model.check_owed().map_err(|wrong| format!("at the end: {wrong}"))?;
        let (operations, _, trace) = self.disk.counts();
        (self.counts.disk_operations, self.counts.trace) = (operations, trace);
        self.counts.published = self.model.messages.len() as u64;
        self.counts.acknowledged = self.model.messages.iter().filter(|message| message.acknowledged).count() as u64;
        self.counts.delivered = self.model.deliveries;
        Ok(self.counts.clone())
    }

    fn end(&mut self) {
        let end = if self.random.one_in(3) { End::Killed } else { End::PowerCut };
        match end {
            End::Killed => self.counts.kills += 1,
            End::PowerCut | End::PowerCutLosingAll => self.counts.power_cuts += 1,
        }
        say(|| format!("{} ==== {end:?}", self.clock.passed_ms));
        self.disk = self.disk.clone().next(end);
    }

    /// Starts a process, which may end while it starts, and compares.
    fn start(&mut self, is_last: bool) -> Result<Process, String> {
        let crashed_ms = self.clock.passed_ms;
        for attempt in 0.. {
            if attempt < 3 && !is_last && self.random.one_in(3) {
                self.disk.end_after(self.random.below(60));
            }
            self.counts.starts += 1;
            self.down();
            self.clock.start();
            match Process::start(&self.disk, &self.settings) {
                Ok(process) if !self.disk.has_ended() => {
                    let now_ms = self.clock.passed_ms;
                    say(|| format!("{now_ms} ==== up, it crashed at {crashed_ms}"));
                    self.clients.iter_mut().for_each(|client| client.crashed(&mut self.model, crashed_ms, now_ms));
                    self.model.check_retained(&retained(&process))?;
                    self.look_into_log(&process, true)?;
                    return Ok(process);
                }
                Ok(process) => process.end(&self.disk),
                Err(NotUp::Ended) => {}
                Err(NotUp::Wrong(error)) => return Err(format!("it does not come up: {error}")),
            }
            self.end();
        }
        unreachable!("attempts are counted for ever")
    }

    /// Time passes while it is not running, and somebody may set the clock.
    fn down(&mut self) {
        self.clock.pass(self.random.below(2_000));
        if self.random.one_in(4) {
            let hours = self.random.below(48) as i64 - 24;
            self.clock.set_wall(hours * 3_600_000);
        }
    }

    fn look_into_log(&mut self, process: &Process, is_whole: bool) -> Result<(), String> {
        if self.disk.has_ended() {
            return Ok(());
        }
        self.model.check_log(&process.bridge, is_whole, self.clock.passed_ms)
    }

    fn work(&mut self, process: &mut Process) -> Result<(), String> {
        for _ in 0..self.random.below(STEPS_MAX) {
            let step = match self.random.below(30) {
                0..=13 => self.client_acts(process)?,
                14..=18 => {
                    process.run(1 + self.random.below(4));
                    Step::Goes
                }
                19..=22 => self.commit(process)?,
                23..=25 => {
                    process.steps.apply()?;
                    Step::Goes
                }
                26 => self.checkpoint(process),
                27 => self.pass(process)?,
                28 => self.settle(process)?,
                _ => self.disturb(),
            };
            if step == Step::Ends || self.disk.has_ended() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn client_acts(&mut self, process: &Process) -> Result<Step, String> {
        let index = self.random.below(self.clients.len() as u64) as usize;
        let now_ms = self.clock.passed_ms;
        let (client, model, random) = (&mut self.clients[index], &mut self.model, &mut self.random);
        client.read(model, now_ms)?;
        if !client.is_connected() {
            if random.one_in(2) {
                client.connect(process, model, random, now_ms, false)?;
            }
            return Ok(Step::Goes);
        }
        match random.below(24) {
            0..=9 => {
                for _ in 0..=random.below(3) {
                    client.publish(model, random);
                }
            }
            10..=16 => client.acknowledge(1 + random.below(3)),
            17..=19 => client.subscribe(model, random),
            20 => client.unsubscribe(model, random),
            21 => client.lose(model, now_ms, random.below(2) * random.below(60)),
            22 if random.one_in(2) => client.disconnect(model, now_ms),
            22 => client.connect(process, model, random, now_ms, false)?,
            _ => {}
        }
        Ok(Step::Goes)
    }

    fn commit(&mut self, process: &mut Process) -> Result<Step, String> {
        say(|| "commit".to_owned());
        if process.steps.commit().is_ok() {
            return Ok(Step::Goes);
        }
        if !self.disk.has_ended() {
            // It says so before it exits; nobody may be told that anything is durable.
            self.counts.failed_journals += 1;
            process.run(4);
            self.everyone_reads()?;
        }
        Ok(Step::Ends)
    }

    fn checkpoint(&mut self, process: &mut Process) -> Step {
        match self.random.below(4) {
            0 => process.steps.start_checkpoint(self.clock.now()),
            1 => process.steps.make_spares(false),
            _ => match process.steps.checkpoint(1 + self.random.below(24)) {
                Ok(done) => self.counts.checkpoints += u64::from(done),
                Err(_) => return Step::Ends,
            },
        }
        Step::Goes
    }

    fn pass(&mut self, process: &Process) -> Result<Step, String> {
        // What is there by now was there before.
        self.look_into_log(process, false)?;
        let ms = match self.random.below(8) {
            0..=3 => 60,
            4 | 5 => 1_000 + self.random.below(1_000),
            6 => 16_000,
            _ => 45_000,
        };
        say(|| format!("{} ms pass after {}", ms, self.clock.passed_ms));
        self.clock.pass(ms);
        if self.random.one_in(6) {
            self.clock.set_wall(self.random.below(7_200_000) as i64 - 3_600_000);
        }
        process.pass(ms);
        Ok(Step::Goes)
    }

    /// What was said is taken in, committed and answered.
    fn settle(&mut self, process: &mut Process) -> Result<Step, String> {
        for _ in 0..2 {
            process.run(4);
            if self.commit(process)? == Step::Ends || self.disk.has_ended() {
                return Ok(Step::Ends);
            }
            process.run(4);
            self.everyone_reads()?;
        }
        Ok(self.look_whether_durable(process))
    }

    /// When all that was sent has been taken in and is durable, a start has to find it all.
    fn look_whether_durable(&mut self, process: &Process) -> Step {
        for _ in 0..2 {
            process.run(4);
            if !process.is_durable() || !self.clients.iter().all(Client::is_heard) {
                return Step::Goes;
            }
        }
        self.clients.iter_mut().for_each(Client::all_is_durable);
        self.model.all_is_durable(&retained(process));
        Step::Goes
    }

    fn disturb(&mut self) -> Step {
        if self.random.one_in(8) {
            self.disk.fail_a_sync(self.random.below(6));
        }
        Step::Goes
    }

    fn everyone_reads(&mut self) -> Result<(), String> {
        let now_ms = self.clock.passed_ms;
        self.clients.iter_mut().try_for_each(|client| client.read(&mut self.model, now_ms))
    }

    /// Everybody comes back, and everything is said and heard.
    fn rest(&mut self, process: &mut Process) -> Result<(), String> {
        if self.random.one_in(3) {
            self.wait_for_wills(process)?;
        }
        let (mut quiet, mut heard) = (0, 0);
        for _ in 0..LAST_ROUNDS {
            for client in &mut self.clients {
                let now_ms = self.clock.passed_ms;
                client.read(&mut self.model, now_ms)?;
                if !client.is_connected() {
                    client.connect(process, &mut self.model, &mut self.random, now_ms, true)?;
                }
                client.acknowledge(u64::MAX);
            }
            self.go_on(process, 60)?;
            let before = std::mem::replace(&mut heard, self.clients.iter().map(|client| client.heard).sum());
            let is_quiet = before == heard && process.is_durable() && !self.clients.iter().any(Client::is_busy);
            quiet = if is_quiet { quiet + 1 } else { 0 };
            if quiet == 4 {
                return Ok(());
            }
        }
        let busy: Vec<&Client> = self.clients.iter().filter(|client| client.is_busy()).collect();
        Err(format!("it never comes to rest: {busy:?}"))
    }

    /// The threads do what there is to do.
    fn go_on(&mut self, process: &mut Process, ms: u64) -> Result<(), String> {
        self.clock.pass(ms);
        process.pass(ms);
        for _ in 0..3 {
            process.run(4);
            process.steps.commit().map_err(|_| "the journal fails on a disk that is well")?;
            process.steps.apply()?;
            process.steps.apply()?;
        }
        process.run(4);
        Ok(())
    }

    /// Nobody comes back: the wills that the broker had for sure are published.
    fn wait_for_wills(&mut self, process: &mut Process) -> Result<(), String> {
        for _ in 0..100 {
            self.go_on(process, 1_000)?;
        }
        self.look_into_log(process, true)?;
        for client in &mut self.clients {
            let Some(will) = client.will.take_if(|will| will.is_armed && will.is_due) else { continue };
            if client.expiry_s > 0 && !self.model.is_in_log("w", will.number) {
                return Err(format!("will {} was never published", will.number));
            }
            self.counts.wills += 1;
        }
        Ok(())
    }
}

fn retained(process: &Process) -> BTreeMap<String, Number> {
    let kept = process.router.retained.matching("r/#", 0);
    // Somebody else's payload is no number, and is told by that.
    kept.iter().map(|one| (one.topic.to_string(), number_in(&one.payload).unwrap_or(Number::MAX))).collect()
}
