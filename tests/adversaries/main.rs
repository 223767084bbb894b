//! Clients that mean harm, or might as well: the built binary under one of them at a time, and under others who go
//! on as if nothing were. After each of them the others are served as before, memory is what it was, and a metric
//! says what happened.
//!
//! Sized to take a minute together. With `MILLSTREAM_ADVERSARIES=full` they are what the issue asks for, and with
//! `--nocapture` each one's figures are a line of this table:
//!
//! | adversary | s | ms before (p50/p99) | during | after | MiB before | peak | after | told |

mod flood;
mod town;

mod readers;
mod silence;
mod strangers;
mod subscriptions;
mod takeover;
mod topics;
