//! A broker, clients that behave and go on behaving, and what they and the kernel say of it.

use std::fs;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use support::broker::Broker;
use support::eventually;
use support::mqtt::{Client, Connect, Publish};
use support::prometheus::Scrape;

/// Bytes of a mebibyte.
pub const MIB: u64 = 1 << 20;

/// What may stay: slabs and tables that are as large as they had to be, pages with something else on them.
pub const SLACK: u64 = 8 * MIB;
/// The same behind messages at volume: the journal's buffers are as large as their bounds have let them grow, two of
/// some megabytes for each lane, and glibc keeps the top of each thread's heap, some megabytes again.
pub const VOLUME: u64 = 32 * MIB;
/// glibc's free memory goes back to the system every three seconds, when there is little to do; when memory is to be
/// seen as it stays, not only as it has to be, some of those have to pass.
const SETTLED_AFTER: Duration = Duration::from_secs(11);

/// Pairs of each QoS: enough for publishers and subscribers on every shard.
const PAIRS: usize = 4;
/// Between two messages of a citizen.
const PAUSE: Duration = Duration::from_millis(4);
/// Messages that a median is taken of.
const SAMPLES: usize = 100;
/// What the median may be afterwards, whatever it was before: two cores are shared with other tests' compilers.
const LATENCY_FLOOR: Duration = Duration::from_millis(20);
/// And how many times what it was before.
const LATENCY_FACTOR: u32 = 5;

/// The figure that `cargo test` has time for, or with `MILLSTREAM_ADVERSARIES=full` the one the issue asks for.
pub fn size(quick: usize, full: usize) -> usize {
    if is_full() { full } else { quick }
}

fn is_full() -> bool {
    std::env::var("MILLSTREAM_ADVERSARIES").is_ok_and(|value| value == "full")
}

/// One message of a citizen, from its PUBLISH until its subscriber has it and its publisher the acknowledgement.
#[derive(Clone, Copy)]
struct Sample {
    began: Instant,
    took: Duration,
}

/// What went on since the citizens came.
#[derive(Default)]
struct Record {
    samples: Mutex<Vec<Sample>>,
    peak_bytes: AtomicU64,
    over: AtomicBool,
}

/// A broker with its citizens, one town at a time: latency and memory are of the one that is looked at.
pub struct Town {
    /// The broker.
    pub broker: Broker,
    name: &'static str,
    record: Arc<Record>,
    citizens: Vec<JoinHandle<()>>,
    before: Scrape,
    before_bytes: u64,
    /// First to last moment of the attack.
    attack: Option<(Instant, Instant)>,
    /// Counters that were asked for, with how far they moved.
    told: Vec<String>,
    _turn: MutexGuard<'static, ()>,
}

impl Town {
    /// Starts a broker and its citizens, and waits until what they say is steady.
    #[track_caller]
    pub fn founded(name: &'static str, broker: Broker) -> Town {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut broker = broker;
        broker.restart();
        let record = Arc::new(Record::default());
        let mut citizens: Vec<_> = [0, 1].map(|qos| live(&broker, qos, record.clone())).into();
        citizens.push(meter(broker.id(), record.clone()));
        let before = Scrape::of(broker.admin());
        let mut town = Town {
            broker,
            name,
            record,
            citizens,
            before,
            before_bytes: 0,
            attack: None,
            told: Vec::new(),
            _turn: turn,
        };
        town.wait_for_samples(Instant::now());
        town.before = Scrape::of(town.broker.admin());
        town.before_bytes = anonymous_bytes(town.broker.id());
        town
    }

    /// What the citizens live through.
    #[track_caller]
    pub fn attacked<T>(&mut self, attack: impl FnOnce(&Broker) -> T) -> T {
        self.record.peak_bytes.store(0, Ordering::Relaxed);
        let began = Instant::now();
        let result = attack(&self.broker);
        self.attack = Some((began, Instant::now()));
        result
    }

    /// Waits until this counter has risen by so much since the attack began.
    #[track_caller]
    pub fn told(&mut self, name: &str, labels: &[(&str, &str)], at_least: usize) {
        let of = |scrape: &Scrape| match labels {
            [] => scrape.sum(name),
            labels => scrape.value(name, labels).unwrap_or_else(|| panic!("no {name} {labels:?}")),
        };
        let what = format!("{name} {labels:?} to rise by {at_least}");
        let rise = eventually(&what, || {
            let rise = of(&Scrape::of(self.broker.admin())) - of(&self.before);
            (rise >= at_least as f64).then_some(rise)
        });
        let short = name.trim_start_matches("millstream_");
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        self.told.push(format!("{short}{{{}}} +{rise}", labels.join(",")));
    }

    /// Waits until this gauge says what it said before.
    #[track_caller]
    pub fn is_again(&self, name: &str) {
        let before = self.before.sum(name);
        eventually(&format!("{name} to be {before} again"), || {
            (Scrape::of(self.broker.admin()).sum(name) == before).then_some(())
        });
    }

    /// Memory was never more than this above what it was before.
    #[track_caller]
    pub fn peaked_below(&self, above: u64) {
        let grown = self.record.peak_bytes.load(Ordering::Relaxed).saturating_sub(self.before_bytes);
        assert!(grown <= above, "memory grew by {} MiB, {} MiB are its bound", grown / MIB, above / MIB);
    }

    /// The citizens are served as before and memory is what it was, but for `slack` bytes. Says what was seen.
    #[track_caller]
    pub fn recovers(mut self, slack: u64) {
        let (began, ended) = self.attack.expect("there was an attack");
        let before = self.percentiles(|at| at < began);
        let bound = (before.0 * LATENCY_FACTOR).max(LATENCY_FLOOR);
        let mut from = ended;
        let mut after = Latency::default();
        eventually("a median as before", || {
            self.wait_for_samples(from);
            after = self.percentiles(|at| at >= from);
            from = Instant::now();
            (after.0 <= bound).then_some(())
        });
        let id = self.broker.id();
        let mut after_bytes = u64::MAX;
        let allowed = self.before_bytes + slack;
        let deadline = Instant::now() + 2 * support::PATIENCE;
        while (after_bytes > allowed && Instant::now() < deadline) || (is_full() && ended.elapsed() < SETTLED_AFTER) {
            after_bytes = anonymous_bytes(id);
            thread::sleep(Duration::from_millis(10));
        }
        self.record.over.store(true, Ordering::Relaxed);
        for citizen in self.citizens.drain(..) {
            citizen.join().unwrap_or_else(|panic| resume_unwind(panic));
        }
        let during = self.percentiles(|at| at >= began && at < ended);
        let [before, during, after] = [before, during, after]
            .map(|Latency(p50, p99)| format!("{:.1}/{:.1}", p50.as_secs_f64() * 1e3, p99.as_secs_f64() * 1e3));
        let [start, peak, end] = [self.before_bytes, self.record.peak_bytes.load(Ordering::Relaxed), after_bytes]
            .map(|bytes| format!("{:.1}", bytes as f64 / MIB as f64));
        let (name, told, took_s) = (self.name, self.told.join(", "), (ended - began).as_secs_f64());
        println!("| {name} | {took_s:.1} | {before} | {during} | {after} | {start} | {peak} | {end} | {told} |");
        assert!(after_bytes <= allowed, "memory was {start} MiB before, {peak} at most, {end} MiB after {name}");
        assert!(self.broker.is_running() && !self.broker.stderr().contains("panicked"));
    }

    fn percentiles(&self, when: impl Fn(Instant) -> bool) -> Latency {
        let samples = self.record.samples.lock().expect("no panic while it is held");
        let mut took: Vec<Duration> = samples.iter().filter(|s| when(s.began)).map(|s| s.took).collect();
        took.sort_unstable();
        let at = |part: usize| took.get((took.len() * part / 100).min(took.len().saturating_sub(1)));
        Latency(at(50).copied().unwrap_or_default(), at(99).copied().unwrap_or_default())
    }

    /// Until the citizens have exchanged enough messages that began after `from`.
    #[track_caller]
    fn wait_for_samples(&mut self, from: Instant) {
        let record = self.record.clone();
        eventually("messages of the citizens", || {
            if let Some(gone) = self.citizens.iter().position(JoinHandle::is_finished) {
                // It was not served.
                self.citizens.remove(gone).join().unwrap_or_else(|panic| resume_unwind(panic));
                panic!("a citizen left");
            }
            let samples = record.samples.lock().expect("no panic while it is held");
            (samples.iter().rev().take_while(|sample| sample.began >= from).count() >= SAMPLES).then_some(())
        });
    }
}

/// The median and the slowest of a hundred.
#[derive(Clone, Copy, Default)]
struct Latency(Duration, Duration);

/// Publishers and their subscribers, each pair in its turn.
fn live(broker: &Broker, qos: u8, record: Arc<Record>) -> JoinHandle<()> {
    let citizen = |what: &str, n: usize| {
        let name = format!("citizen-{what}-{qos}-{n}");
        broker.connect(Connect::v5(&name).keep_alive_s(0))
    };
    let pair = |n| {
        let mut subscriber = citizen("subscriber", n);
        subscriber.subscribe(&format!("town/{qos}/{n}"), qos);
        (citizen("publisher", n), subscriber)
    };
    let mut pairs: Vec<(Client, Client)> = (0..PAIRS).map(pair).collect();
    let work = move || {
        for n in (0..usize::MAX).take_while(|_| !record.over.load(Ordering::Relaxed)) {
            let (publisher, subscriber) = &mut pairs[n % PAIRS];
            let message = Publish::new(&format!("town/{qos}/{}", n % PAIRS), n.to_string());
            let began = Instant::now();
            assert_eq!(publisher.publish(message.qos(qos).id(u16::from(qos))), 0);
            assert_eq!(subscriber.take().text(), n.to_string());
            let sample = Sample { began, took: began.elapsed() };
            record.samples.lock().expect("no panic while it is held").push(sample);
            thread::sleep(PAUSE);
        }
    };
    thread::spawn(work)
}

fn meter(process: u32, record: Arc<Record>) -> JoinHandle<()> {
    let work = move || {
        while !record.over.load(Ordering::Relaxed) {
            record.peak_bytes.fetch_max(anonymous_bytes(process), Ordering::Relaxed);
            thread::sleep(Duration::from_millis(10));
        }
    };
    thread::spawn(work)
}

/// Resident memory of a process that no file can give back: what it allocated.
fn anonymous_bytes(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    // A process that is going away has none.
    kib.unwrap_or_default() << 10
}
