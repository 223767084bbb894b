//! The conformance suite: a test for each normative statement of MQTT 5.0 and 3.1.1 that binds a server and can
//! be seen from outside, named by its number: `mqtt5_3_1_2_24` is [MQTT-3.1.2-24] of 5.0, `mqtt311_3_1_4_2` is
//! [MQTT-3.1.4-2] of 3.1.1. `TABLE.md` says of every statement which test it has, or why it has none; [`table`]
//! holds it to the truth.
//!
//! Each test reads as a transcript: these bytes go out, these have to come. All of them share one broker, with
//! client identifiers and topics of their own, so whatever one of them does the others have to survive it. What
//! is about time is run side by side, in [`time`]. 3.1, which has no numbered statements, is in [`v31`].

mod acks;
mod auth;
mod connack;
mod connect;
mod disconnect;
mod flow;
mod limits;
mod packets;
mod publish;
mod qos1;
mod qos2;
mod retained;
mod script;
mod sessions;
mod shared;
mod subscribe;
mod table;
mod time;
mod topics;
mod unsubscribe;
mod users;
mod v31;
mod websocket;
mod wills;
