//! The MQTT half of Millstream. It knows no Kafka: what it maps to the log it hands to `bridge` as records.
//!
//! # Life of a publish
//!
//! ```text
//! socket → codec → session → router ─┬─▶ sessions without durable state: at once
//!                                    └─▶ bridge ─┬─▶ PUBACK / PUBREC
//!                                      (commit)  ├─▶ durable sessions' queues
//!                                                └─▶ partitions
//! ```
//!
//! - [`listener`] carries TCP, TLS and WebSocket, reads a CONNECT and brings the client to its [`shard`];
//!   [`auth`] knows users and what they may do
//! - [`connection`] moves bytes: one task per client
//! - [`codec`] turns them into packets and back; pure
//! - [`shard`] owns sessions: `packets` handles what a client sends, `publish` is the hot path,
//!   `lifecycle` begins and ends sessions
//! - [`session`]: windows and queues; pure state machines
//! - [`router`]: who gets a topic's messages; [`mapping`]: where they go in the log
//! - [`message`]: what a message looks like there; [`dead_letter`]: one that was given up
//! - [`store`]: what is kept of sessions
//! - [`auth`]: who a client is and what it may do
//! - [`admin`]: what an administrator may ask
//! - [`response_information`]: where a client is told that answers may go
//! - [`stats`]: what is counted; [`sys`]: the same, told by MQTT
//! - [`config`]: what can be set; [`limits`]: every other bound
//!
//! Rules cited as S1, J6, R5 … are numbered in ARCHITECTURE.md.

/// Whether a rule is switched off, which happens in the simulation alone: it must notice.
macro_rules! off {
    ($rule:ident) => {{
        #[cfg(test)]
        let off = crate::sim::mutation::Mutation::$rule.is_off();
        #[cfg(not(test))]
        let off = false;
        off
    }};
}

pub mod admin;
pub mod auth;
pub mod codec;
pub mod config;
pub mod connection;
pub mod dead_letter;
pub mod limits;
pub mod listener;
pub mod mapping;
pub mod message;
pub mod response_information;
pub mod router;
pub mod session;
pub mod shard;
pub mod stats;
pub mod store;
pub mod sys;

#[cfg(test)]
mod sim;
mod start;

pub use config::{ClientLimits, Config, ListenerConfig};
pub use start::{Broker, StartError};
