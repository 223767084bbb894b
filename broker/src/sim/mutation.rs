//! Rules that can be switched off, one at a time and in this thread only, to see that the simulation notices.

use std::cell::Cell;

thread_local! {
    static OFF: Cell<Option<Mutation>> = const { Cell::new(None) };
}

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// J6: PUBACK and PUBREC wait for their commit.
    AckWaits,
    /// [MQTT-4.6.0-2]: acknowledgements keep the order of the messages, also of those that wait for nothing.
    AckOrder,
    /// J6: SUBACK and UNSUBACK wait for their commit.
    SubAckWaits,
    /// J6: a CONNACK that changed durable state waits for it.
    ConnAckWaits,
    /// J6, S3: PUBREL waits until the release is durable.
    ReleaseWaits,
    /// S4: a received identifier is in the frame of its record.
    InboundInFrame,
    /// S4: it is durably gone before PUBCOMP.
    ClearBeforeComp,
    /// S3: an identifier is used again only when its last use is durably gone.
    SettledBeforeReuse,
    /// S5: retained messages are kept in the order in which memory took them.
    RetainedOrder,
    /// S8: a will's publication and its removal are in one frame.
    WillInFrame,
    /// R5: sessions do not end sooner after a restart because the wall clock says so.
    ExpiryAfterStart,
    /// R5: wills wait after a restart.
    WillAfterStart,
    /// S7: what a session leaves to others moves in the frame that ends it.
    MoveInFrame,
    /// S7: its queue stays until nothing is on its way to it.
    QueueLingers,
}

impl Mutation {
    pub const ALL: [Mutation; 14] = [
        Mutation::AckWaits,
        Mutation::AckOrder,
        Mutation::SubAckWaits,
        Mutation::ConnAckWaits,
        Mutation::ReleaseWaits,
        Mutation::InboundInFrame,
        Mutation::ClearBeforeComp,
        Mutation::SettledBeforeReuse,
        Mutation::RetainedOrder,
        Mutation::WillInFrame,
        Mutation::ExpiryAfterStart,
        Mutation::WillAfterStart,
        Mutation::MoveInFrame,
        Mutation::QueueLingers,
    ];

    /// Switches it off until the guard is dropped.
    pub fn switch_off(self) -> SwitchedOff {
        OFF.set(Some(self));
        SwitchedOff
    }

    /// Whether it is.
    pub fn is_off(self) -> bool {
        OFF.get() == Some(self)
    }
}

pub struct SwitchedOff;

impl Drop for SwitchedOff {
    fn drop(&mut self) {
        OFF.set(None);
    }
}
