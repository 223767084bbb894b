//! What all connections of a listener have in common, and its limits on them: how many there are, of whom, and how
//! fast they come. What is refused here is counted, and said in the log as often as a log can take.

use std::collections::HashMap;
use std::fmt::Display;
use std::io;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Carrier;
use crate::stats::Counts;
use crate::{ListenerConfig, limits};

/// Why a listener turns connections away, or has them wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bite {
    /// Connections leave too few open files.
    Files,
    /// Too many have not sent their CONNECT.
    Handshakes,
    /// Too many of them are of this address.
    HandshakesOfAddress,
    /// Too many connections are of this address.
    ConnectionsOfAddress,
    /// Too many came in a second, most of them of this address.
    Rate,
    /// Too many came in a second: this one waited.
    Delay,
    /// As many clients are connected as may be, there or in all.
    Full,
    /// It is none of the proxies.
    NoProxy,
}

impl Bite {
    const COUNT: usize = Bite::NoProxy as usize + 1;

    fn told(self) -> &'static str {
        match self {
            Bite::Files => "refused: the limit of open files (ulimit -n) is near",
            Bite::Handshakes => "refused: too many connections have not sent their CONNECT (max_handshakes)",
            Bite::HandshakesOfAddress => {
                "refused: too many connections of its address have not sent their CONNECT (max_handshakes_per_address)"
            }
            Bite::ConnectionsOfAddress => {
                "refused: its address has as many connections as one may (max_connections_per_address)"
            }
            Bite::Rate => "refused: more connect than max_connection_rate lets in, and most of them are of its address",
            Bite::Delay => "connections wait: more come than max_connection_rate lets in",
            Bite::Full => "refused: as many clients are connected as may be",
            Bite::NoProxy => "refused: proxy_protocol is on here, and proxy_trusted does not name its address",
        }
    }

    /// What counts it; `None` where its client is told, and counted by that.
    fn count(self, counts: &mut Counts) -> Option<&mut u64> {
        match self {
            Bite::Files | Bite::Handshakes => Some(&mut counts.refused_busy),
            Bite::HandshakesOfAddress | Bite::ConnectionsOfAddress => Some(&mut counts.refused_address),
            Bite::Rate => Some(&mut counts.refused_rate),
            Bite::Delay => Some(&mut counts.delayed),
            Bite::NoProxy => Some(&mut counts.refused_proxy),
            Bite::Full => None,
        }
    }
}

/// What all connections of a listener have in common.
pub struct Door {
    /// As it was set at the start.
    pub config: Arc<ListenerConfig>,
    /// What is spoken there.
    pub carrier: Carrier,
    /// Only this machine reaches it.
    pub loopback: bool,
    /// Connections accepted whose CONNECT is not there yet.
    handshakes: AtomicUsize,
    clients: AtomicUsize,
    /// See [`limits::STRANGERS_BYTES_MAX`].
    strangers_bytes: AtomicUsize,
    /// As many at most as there are connections.
    addresses: Mutex<HashMap<NonZeroU64, OfAddress>>,
    said: Mutex<[Said; Bite::COUNT]>,
    /// On clients that were refused: without a word, and with one.
    refused_said: Mutex<[Said; 2]>,
}

/// Connections of one address.
#[derive(Default)]
struct OfAddress {
    connections: u32,
    handshakes: u32,
}

impl Door {
    /// One that nobody came through.
    pub fn new(config: Arc<ListenerConfig>, carrier: Carrier, loopback: bool) -> Door {
        Door {
            config,
            carrier,
            loopback,
            handshakes: AtomicUsize::new(0),
            clients: AtomicUsize::new(0),
            strangers_bytes: AtomicUsize::new(0),
            addresses: Mutex::default(),
            said: Mutex::default(),
            refused_said: Mutex::default(),
        }
    }

    /// The listener's name.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// Clients that are connected.
    pub fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    /// Counts one that is refused or waits, and says so.
    pub fn bites(&self, bite: Bite, counts: &mut Counts, peer: &dyn Display) {
        if let Some(count) = bite.count(counts) {
            *count += 1;
        }
        self.say(bite, bite.told(), peer);
    }

    /// Says in the log what became of one, if the like was not said a moment ago.
    pub fn say(&self, bite: Bite, what: &str, peer: &dyn Display) {
        let Some(untold) = self.said.lock()[bite as usize].say(Instant::now(), 1) else { return };
        let listener = self.name();
        match untold {
            0 => tracing::warn!(listener, %peer, "{what}"),
            _ => tracing::warn!(listener, %peer, "{what}; {untold} more since this was last said"),
        }
    }

    /// Says why a client was refused, but not of thousands.
    pub fn refuses(&self, is_told: bool, why: &str, peer: &str) {
        let said = &mut self.refused_said.lock()[usize::from(is_told)];
        let Some(untold) = said.say(Instant::now(), limits::REFUSALS_SAID_MAX) else { return };
        let listener = self.name();
        match untold {
            0 => tracing::info!(peer, listener, "refused: {why}"),
            _ => tracing::info!(peer, listener, "refused: {why}; before it {untold} of which nothing was said"),
        }
    }
}

/// How often something was said lately, and how often it was not.
#[derive(Default)]
struct Said {
    /// When it was first said of late.
    since: Option<Instant>,
    times: u32,
    untold: u64,
}

impl Said {
    /// Whether to say it now, as it may be said so many times in a while; then how often it was not before.
    fn say(&mut self, now: Instant, times_max: u32) -> Option<u64> {
        let again = Duration::from_secs(limits::SAY_AGAIN_S);
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= again) {
            (self.since, self.times) = (Some(now), 0);
        }
        if self.times >= times_max {
            self.untold += 1;
            return None;
        }
        self.times += 1;
        Some(std::mem::take(&mut self.untold))
    }
}

/// Whose connections are counted together: an IPv4 address, or the 64 bits of IPv6 that one customer has at least.
/// The former are put where no IPv6 address is, below ::/32.
fn address_of(ip: IpAddr) -> Option<NonZeroU64> {
    NonZeroU64::new(match ip.to_canonical() {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => (u128::from(ip) >> 64) as u64,
    })
}

/// A connection's place among those of its listener, until it is dropped.
pub struct Visit {
    door: Arc<Door>,
    /// As the listener counts it; `None`: not at all.
    address: Option<NonZeroU64>,
    /// Bytes that it sent before it was let in.
    sent: u32,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Stranger,
    LetIn,
    Client,
}

impl Visit {
    /// Of a connection that has said nothing yet, if there is room for one.
    pub fn begin(door: &Arc<Door>, config: &ListenerConfig) -> Result<Visit, Bite> {
        if door.handshakes.load(Ordering::Relaxed) >= config.max_handshakes as usize {
            return Err(Bite::Handshakes);
        }
        door.handshakes.fetch_add(1, Ordering::Relaxed);
        Ok(Visit { door: door.clone(), address: None, sent: 0, stage: Stage::Stranger })
    }

    /// The listener it came to.
    pub fn door(&self) -> &Arc<Door> {
        &self.door
    }

    /// It turns out where it is from.
    pub fn is_from(&mut self, ip: IpAddr, config: &ListenerConfig) -> Result<(), Bite> {
        let Some(address) = address_of(ip) else { return Ok(()) };
        let mut addresses = self.door.addresses.lock();
        let of_address = addresses.entry(address).or_default();
        let max = config.max_connections_per_address;
        if max > 0 && of_address.connections >= max {
            return Err(Bite::ConnectionsOfAddress);
        }
        if of_address.handshakes >= config.max_handshakes_per_address {
            return Err(Bite::HandshakesOfAddress);
        }
        of_address.connections += 1;
        of_address.handshakes += 1;
        self.address = Some(address);
        Ok(())
    }

    /// What a client sends before it is let in lies in memory until then, most of it.
    pub fn sent(&mut self, bytes: usize) -> io::Result<()> {
        if self.stage != Stage::Stranger {
            return Ok(());
        }
        let before = self.beyond();
        self.sent = self.sent.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        let more = self.beyond() - before;
        let taken = &self.door.strangers_bytes;
        if more > 0 && taken.fetch_add(more, Ordering::Relaxed) + more > limits::STRANGERS_BYTES_MAX {
            return Err(io::Error::other("too much has come of clients that are not let in yet; it sent much itself"));
        }
        Ok(())
    }

    /// Of what it sent, beyond what each may send for nothing.
    fn beyond(&self) -> usize {
        (self.sent as usize).saturating_sub(limits::STRANGER_BYTES_FREE)
    }

    /// Its CONNECT is there and it proved who it is: from here on its bytes are the session's affair.
    pub fn let_in(&mut self) {
        if self.stage != Stage::Stranger {
            return;
        }
        self.door.strangers_bytes.fetch_sub(self.beyond(), Ordering::Relaxed);
        self.door.handshakes.fetch_sub(1, Ordering::Relaxed);
        if let Some(address) = self.address
            && let Some(of_address) = self.door.addresses.lock().get_mut(&address)
        {
            of_address.handshakes -= 1;
        }
        self.stage = Stage::LetIn;
    }

    /// It has a session.
    pub fn is_client(&mut self) {
        self.let_in();
        if self.stage == Stage::LetIn {
            self.door.clients.fetch_add(1, Ordering::Relaxed);
            self.stage = Stage::Client;
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if self.stage == Stage::Client {
            self.door.clients.fetch_sub(1, Ordering::Relaxed);
        }
        self.let_in();
        let Some(address) = self.address else { return };
        let mut addresses = self.door.addresses.lock();
        if let Some(of_address) = addresses.get_mut(&address) {
            of_address.connections -= 1;
            if of_address.connections == 0 {
                addresses.remove(&address);
            }
        }
    }
}

/// How fast connections come, as a listener's acceptor sees it.
pub struct Rate {
    /// Connections that may be taken in now, a second's worth at most.
    tokens: f64,
    filled: Instant,
    /// Of this second, by address.
    window: Instant,
    taken: HashMap<NonZeroU64, u32>,
}

/// What becomes of a connection when it comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// It is taken in.
    Now,
    /// It, and all behind it, after this time.
    After(Duration),
    /// Its address had its share of this second, and others wait.
    Never,
}

impl Rate {
    /// Full of tokens.
    pub fn new(now: Instant) -> Rate {
        Rate { tokens: f64::INFINITY, filled: now, window: now, taken: HashMap::new() }
    }

    /// A connection came from here. `None`: from where the address does not say whose it is.
    pub fn comes(&mut self, ip: Option<IpAddr>, per_second: u32, now: Instant) -> Pace {
        if per_second == 0 {
            return Pace::Now;
        }
        let address = ip.and_then(address_of);
        if now.saturating_duration_since(self.window) >= Duration::from_secs(1) {
            self.window = now;
            self.taken.clear();
        }
        let rate = f64::from(per_second);
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        self.filled = now;
        self.tokens = (self.tokens + passed * rate).min(rate);
        // Half of them, so that nobody alone keeps the others waiting.
        let share = (per_second / 2).max(1);
        let has_share = address.and_then(|address| self.taken.get(&address)).is_some_and(|taken| *taken >= share);
        if self.tokens < 1.0 && has_share {
            return Pace::Never;
        }
        // What is owed is waited for before the next one is looked at.
        self.tokens -= 1.0;
        if let Some(address) = address {
            *self.taken.entry(address).or_default() += 1;
        }
        match self.tokens < 0.0 {
            true => Pace::After(Duration::from_secs_f64(-self.tokens / rate)),
            false => Pace::Now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const GREEDY: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7)));
    const MODEST: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 8)));

    #[test]
    fn as_many_are_taken_in_as_may_be_and_a_second_of_them_at_once() {
        let start = Instant::now();
        for from in [None, GREEDY] {
            let (mut rate, mut now, mut taken) = (Rate::new(start), start, 0);
            while now < start + Duration::from_secs(10) {
                match rate.comes(from, 50, now) {
                    Pace::Now => taken += 1,
                    Pace::After(wait) => {
                        now += wait;
                        taken += 1;
                    }
                    Pace::Never => now += Duration::from_micros(50),
                }
            }
            assert!((540..=551).contains(&taken), "{taken} in ten seconds from {from:?}");
        }
    }

    #[test]
    fn one_address_does_not_keep_the_others_waiting() {
        let start = Instant::now();
        let (mut rate, mut now) = (Rate::new(start), start);
        let mut refused = 0;
        for round in 0..20 {
            // Three times a second one of the other, and before it hundreds of the one.
            now = now.max(start + Duration::from_millis(333 * round));
            for _ in 0..300 {
                match rate.comes(GREEDY, 10, now) {
                    Pace::After(wait) => now += wait,
                    Pace::Now => {}
                    Pace::Never => refused += 1,
                }
            }
            let arrived = now;
            match rate.comes(MODEST, 10, now) {
                Pace::After(wait) => now += wait,
                Pace::Now => {}
                Pace::Never => panic!("the other one is refused"),
            }
            assert!(now - arrived <= Duration::from_millis(101), "it waits {:?}", now - arrived);
        }
        assert!(refused > 5_700, "{refused}");
    }

    #[test]
    fn what_is_said_often_is_said_now_and_then() {
        let start = Instant::now();
        let (mut once, mut thrice) = (Said::default(), Said::default());
        let spoken = |said: &mut Said, times| {
            (0..100).filter(|ms| said.say(start + Duration::from_millis(*ms), times).is_some()).count()
        };
        assert_eq!((spoken(&mut once, 1), spoken(&mut thrice, 3)), (1, 3));
        let later = start + Duration::from_secs(limits::SAY_AGAIN_S);
        assert_eq!((once.say(later, 1), once.say(later, 1)), (Some(99), None));
        assert_eq!((thrice.say(later, 3), thrice.say(later, 3)), (Some(97), Some(0)));
    }

    #[test]
    fn an_address_is_counted_as_whoever_has_it() {
        let of = |ip: &str| address_of(ip.parse().expect("an address"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.2"), of("10.0.0.1"));
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff::"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
    }
}
