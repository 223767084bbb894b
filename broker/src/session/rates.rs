//! How fast a client may go. Pure: buckets that fill with time, by what is allowed per second. While one of them is empty
//! its client is not read: it waits, and nothing is lost.

use crate::config::ClientLimits;
use crate::limits::PAUSE_MS_MIN;
use crate::stats::Limit;

/// What a message takes, in a bucket's thousandths.
const ONE: i64 = 1_000;

/// What may still come. It holds what comes in one second, in thousandths: a millisecond adds `per_s` of them.
#[derive(Debug)]
struct Bucket {
    /// 0: no limit.
    per_s: u32,
    size: i64,
    level: i64,
    filled_ms: u64,
}

impl Bucket {
    fn full(per_s: u32, size: u32, now_ms: u64) -> Bucket {
        let size = ONE * i64::from(size);
        Bucket { per_s, size, level: size, filled_ms: now_ms }
    }

    fn fill(&mut self, now_ms: u64) {
        let passed_ms = now_ms.saturating_sub(self.filled_ms);
        let more = i64::try_from(passed_ms).unwrap_or(i64::MAX).saturating_mul(self.per_s.into());
        self.level = self.level.saturating_add(more).min(self.size);
        self.filled_ms = self.filled_ms.max(now_ms);
    }

    /// What has come cannot be turned back: the level may fall below nothing, and is made up for by waiting.
    fn take(&mut self, amount: i64) {
        if self.per_s > 0 {
            self.level -= amount;
        }
    }

    /// Milliseconds until there is so much in it; 0 when there is.
    fn wait_ms(&self, amount: i64) -> u64 {
        let missing = amount - self.level;
        if self.per_s == 0 || missing <= 0 {
            return 0;
        }
        (missing as u64).div_ceil(self.per_s.into()).max(PAUSE_MS_MIN)
    }
}

/// The rates that one connection is held to.
#[derive(Debug)]
pub struct Rates {
    messages: Bucket,
    bytes: Bucket,
    /// A PUBLISH is there and has to wait.
    waits: bool,
    paused_since_ms: Option<u64>,
    /// Someone sleeps and wakes it then.
    pub is_timed: bool,
}

impl Rates {
    /// Of a client; `None` where it may go as fast as it likes.
    pub fn of(limits: &ClientLimits, now_ms: u64) -> Option<Box<Rates>> {
        let (messages, bytes) = (limits.max_message_rate, limits.max_byte_rate);
        (messages > 0 || bytes > 0).then(|| {
            Box::new(Rates {
                messages: Bucket::full(messages, messages, now_ms),
                bytes: Bucket::full(bytes, bytes, now_ms),
                waits: false,
                paused_since_ms: None,
                is_timed: false,
            })
        })
    }

    /// Bytes were read.
    pub fn read(&mut self, bytes: usize, now_ms: u64) {
        self.bytes.fill(now_ms);
        self.bytes.take(i64::try_from(bytes).unwrap_or(i64::MAX).saturating_mul(ONE));
    }

    /// Whether the PUBLISH that is there has to wait.
    pub fn holds_up(&mut self, now_ms: u64) -> bool {
        self.messages.fill(now_ms);
        self.waits = self.messages.wait_ms(ONE) > 0;
        self.waits
    }

    /// A PUBLISH was taken.
    pub fn took_message(&mut self) {
        self.messages.take(ONE);
    }

    /// How long nothing is to be read, in milliseconds, and for which limit's sake.
    pub fn pause(&mut self, now_ms: u64) -> Option<(Limit, u64)> {
        self.messages.fill(now_ms);
        self.bytes.fill(now_ms);
        let message_ms = if self.waits { self.messages.wait_ms(ONE) } else { 0 };
        let byte_ms = self.bytes.wait_ms(1);
        match message_ms.max(byte_ms) {
            0 => None,
            ms if ms == message_ms => Some((Limit::MaxMessageRate, ms)),
            ms => Some((Limit::MaxByteRate, ms)),
        }
    }

    /// It is not read from now on; whether it was before.
    pub fn begin_pause(&mut self, now_ms: u64) -> bool {
        let begins = self.paused_since_ms.is_none();
        self.paused_since_ms.get_or_insert(now_ms);
        begins
    }

    /// It is read again; how long it was not, in milliseconds, if it was not.
    pub fn end_pause(&mut self, now_ms: u64) -> Option<u64> {
        self.paused_since_ms.take().map(|since_ms| now_ms.saturating_sub(since_ms))
    }

    /// Whether it is not read now.
    pub fn is_paused(&self) -> bool {
        self.paused_since_ms.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rates(messages: u32, bytes: u32, packet: u32) -> Rates {
        let (messages, size) = (Bucket::full(messages, messages, 0), bytes.max(packet));
        Rates { messages, bytes: Bucket::full(bytes, size, 0), waits: false, paused_since_ms: None, is_timed: false }
    }

    /// Takes messages as fast as it may from `now_ms` on; when the last one was taken.
    fn take(rates: &mut Rates, messages: usize, mut now_ms: u64) -> u64 {
        for _ in 0..messages {
            while rates.holds_up(now_ms) {
                now_ms += rates.pause(now_ms).expect("it is held up").1;
            }
            rates.took_message();
        }
        now_ms
    }

    #[test]
    fn a_second_s_worth_at_once_then_at_the_rate() {
        let mut rates = rates(10, 0, 100);
        assert_eq!(take(&mut rates, 10, 0), 0);
        assert_eq!(rates.pause(0), None, "other packets may come");
        assert_eq!(take(&mut rates, 1, 0), 100);
        assert_eq!(take(&mut rates, 20, 100), 2_100);
        assert_eq!(take(&mut rates, 11, 1 << 40), (1 << 40) + 100, "no more than a second's worth is saved up");
    }

    #[test]
    fn the_largest_packet_may_come_and_is_made_up_for() {
        let mut rates = rates(0, 100, 1_000);
        rates.read(1_000, 0);
        let (limit, wait_ms) = rates.pause(0).expect("a pause");
        assert_eq!((limit, wait_ms), (Limit::MaxByteRate, PAUSE_MS_MIN));
        rates.read(1_000, 20);
        assert_eq!(rates.pause(20), Some((Limit::MaxByteRate, 9_981)));
        assert_eq!(rates.pause(10_001), None);
        assert!(!rates.holds_up(0), "messages are not counted");
    }

    #[test]
    fn a_pause_is_counted_once_until_it_ends() {
        let mut rates = rates(1, 0, 1);
        assert!(rates.begin_pause(5) && !rates.begin_pause(6) && rates.is_paused());
        assert_eq!((rates.end_pause(9), rates.end_pause(10)), (Some(4), None));
    }

    proptest! {
        /// However it is paced, no more comes than the rate allows, and at full speed no less.
        #[test]
        fn the_rate_holds(per_s in 1_u32..100_000, count in 1_usize..2_000, at in any::<u32>()) {
            let mut rates = rates(per_s, 0, 1);
            let began = u64::from(at);
            rates.messages.filled_ms = began;
            let took_ms = take(&mut rates, count, began) - began;
            let due_ms = 1_000 * (count as u64).saturating_sub(per_s.into()) / u64::from(per_s);
            prop_assert!((due_ms..=due_ms + PAUSE_MS_MIN + 1).contains(&took_ms), "{} for {}", took_ms, due_ms);
        }
    }
}
