//! What the broker counts. Each shard counts in plain numbers and shows them once a turn.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// A shard's own counts.
        #[derive(Clone, Copy, Debug, Default)]
        pub struct Counts { $($(#[$doc])* pub $name: u64),* }

        /// The counts as others may read them.
        #[derive(Debug, Default)]
        pub struct Shown { $($(#[$doc])* pub $name: AtomicU64),* }

        impl Shown {
            /// Makes a shard's counts visible.
            pub fn show(&self, counts: &Counts) {
                $(self.$name.store(counts.$name, Ordering::Relaxed);)*
            }

            /// Adds what is visible to `sum`.
            pub fn add_to(&self, sum: &mut Counts) {
                $(sum.$name += self.$name.load(Ordering::Relaxed);)*
            }
        }
    };
}

counts! {
    /// Clients connected now.
    connected,
    /// CONNECTs accepted.
    connects,
    /// Connections closed for a fault of the client's.
    faults,
    /// Sessions, connected or not.
    sessions,
    /// PUBLISH packets received, QoS 0.
    received_qos0,
    /// PUBLISH packets received, QoS 1.
    received_qos1,
    /// PUBLISH packets received, QoS 2.
    received_qos2,
    /// PUBLISH packets sent, QoS 0.
    sent_qos0,
    /// PUBLISH packets sent, QoS 1 and 2.
    sent_qos12,
    /// Bytes read from clients.
    bytes_in,
    /// Bytes written to clients.
    bytes_out,
    /// Messages appended to the log.
    appended,
    /// Dropped: QoS 0 for a client that does not read.
    dropped_slow,
    /// Dropped: a queue was full.
    dropped_queue_full,
    /// Dropped: it expired in a queue.
    dropped_expired,
    /// Dropped: larger than the client takes.
    dropped_too_large,
    /// Dropped: what a queue pointed to could not be read.
    dropped_unreadable,
    /// Dropped: its publisher may not publish there.
    dropped_not_authorized,
}
