//! What any MQTT client may rely on: the built binary against scripted raw clients, read as
//! transcripts of what the OASIS standards of 3.1.1 and 5.0 demand.

mod connection;
mod delivery;
mod durable;
mod qos2;
mod retained;
mod shared;
mod v5;
mod wills;
