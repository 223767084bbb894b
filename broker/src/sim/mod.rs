//! A simulation of the broker over crashes: clients that do as the standard says talk to the shards, the router and
//! what recovers them, on the bridge's threads taken step by step and a disk that forgets, tears and fails; one thread, no
//! socket, no clock but a simulated one, all of it from one seed. A model knows what clients were told and must therefore
//! get.
//!
//! - [`process`]: one run of the broker; [`pipe`]: its connections; [`clock`]: its time
//! - [`client`]: what a client does and keeps; [`wire`]: its packets
//! - [`world`]: what is done, and when it crashes
//! - [`model`]: what must be so
//! - [`mutation`]: the rules that can be switched off, to see that it notices
//!
//! `cargo test -p millstream-broker sim` runs the seeds of `MILLSTREAM_SIM_SEEDS` (as `7` or `0..20000`, by default
//! `0..300`). A seed that fails is named; it does the same again, and with `MILLSTREAM_SIM_TALK` says what happens.

mod client;
pub mod clock;
mod model;
pub mod mutation;
mod pipe;
mod process;
mod tests;
mod wire;
mod world;

use std::cell::Cell;

thread_local! {
    static FEW_PACKET_IDS: Cell<Option<u64>> = const { Cell::new(None) };
}

/// How many packet identifiers there are, if few: they come round then.
pub fn few_packet_ids() -> Option<u64> {
    FEW_PACKET_IDS.get()
}

fn set_few_packet_ids(few: Option<u64>) {
    FEW_PACKET_IDS.set(few);
}

/// What happens, for who looks into one seed.
fn say(what: impl FnOnce() -> String) {
    thread_local! {
        static TALKS: bool = std::env::var_os("MILLSTREAM_SIM_TALK").is_some();
    }
    if TALKS.with(|talks| *talks) {
        println!("{}", what());
    }
}
