//! What the threads of a run tell each other.

use crate::mqtt::{Client, Connect, Lost};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long a broker may be away; longer is a failed restart.
const ABSENCE_LIMIT: Duration = Duration::from_secs(60);

/// The state of a run. Each flag is set once and stays.
#[derive(Debug, Default)]
pub struct Run {
    drains: AtomicBool,
    finished: AtomicBool,
    aborted: AtomicBool,
}

impl Run {
    /// Publishers start nothing new and complete what is under way.
    pub fn drain(&self) {
        self.drains.store(true, Ordering::SeqCst);
    }

    /// Whether publishers complete what is under way.
    pub fn is_draining(&self) -> bool {
        self.drains.load(Ordering::SeqCst)
    }

    /// All has been seen that there is to see.
    pub fn finish(&self) {
        self.finished.store(true, Ordering::SeqCst);
    }

    /// Whether all has been seen, or the run is given up.
    pub fn is_over(&self) -> bool {
        self.finished.load(Ordering::SeqCst) || self.is_aborted()
    }

    /// Whether some thread failed.
    pub fn is_aborted(&self) -> bool {
        self.aborted.load(Ordering::SeqCst)
    }

    /// Lets all threads end when the one that holds this panics; without it they would wait
    /// for each other for ever.
    pub fn abort_on_panic(&self) -> AbortOnPanic<'_> {
        AbortOnPanic(self)
    }

    /// Connects, as often as it takes; `Err` when the run is given up.
    pub fn connect(&self, address: SocketAddr, connect: &Connect) -> Result<Client, Aborted> {
        let deadline = Instant::now() + ABSENCE_LIMIT;
        while !self.is_aborted() {
            match Client::try_connect(address, connect) {
                Ok(client) if client.connack.code == 0 => return Ok(client),
                Ok(client) => panic!("refused: {:?}", client.connack),
                Err(Lost::Silent) => panic!("connected, and no CONNACK"),
                Err(Lost::Closed) => thread::sleep(Duration::from_millis(10)),
            }
            assert!(Instant::now() < deadline, "away for {ABSENCE_LIMIT:?}");
        }
        Err(Aborted)
    }
}

/// Some thread failed, and the run is given up.
#[derive(Debug)]
pub struct Aborted;

/// See [`Run::abort_on_panic`].
#[derive(Debug)]
pub struct AbortOnPanic<'a>(&'a Run);

impl Drop for AbortOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.aborted.store(true, Ordering::SeqCst);
        }
    }
}
