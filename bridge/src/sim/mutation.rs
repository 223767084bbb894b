//! Rules that can be switched off, one at a time and in this thread only, to see that the simulation notices.

use std::cell::Cell;

thread_local! {
    static OFF: Cell<Option<Mutation>> = const { Cell::new(None) };
}

/// A rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// J1: the journal is synced before anyone is told.
    JournalSync,
    /// J2: a frame's CRC is checked.
    FrameCrc,
    /// J3: the name of a new journal file is made durable.
    JournalName,
    /// R2: what was found and not declared durable is written again.
    TailAgain,
    /// C1: a checkpoint names what was there at its LSN.
    CheckpointCut,
    /// C2: segments are synced before the checkpoint names them.
    SegmentSync,
    /// C2: journal files are used again only after the checkpoint.
    RecycleAfter,
    /// K1: a producer's repeated batch is noticed.
    ProducerRepeat,
    /// S6: a segment stays while a queue points into it.
    Pins,
    /// S6: a record stays, whatever its key, while a queue points to it.
    CleanPins,
    /// S6: only what was below the checkpoint that the pins are of is cleaned.
    CleanBelow,
    /// C2: what was rewritten is synced before a checkpoint names it.
    CleanSync,
    /// C2: what was rewritten is unlinked after the checkpoint that names it no more.
    UnlinkAfter,
    /// J6: a committed offset is answered when it is durable.
    OffsetWaits,
    /// A member of a generation that is over commits nothing.
    Generations,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Mutation; 15] = [
        Mutation::JournalSync,
        Mutation::FrameCrc,
        Mutation::JournalName,
        Mutation::TailAgain,
        Mutation::CheckpointCut,
        Mutation::SegmentSync,
        Mutation::RecycleAfter,
        Mutation::ProducerRepeat,
        Mutation::Pins,
        Mutation::CleanPins,
        Mutation::CleanBelow,
        Mutation::CleanSync,
        Mutation::UnlinkAfter,
        Mutation::OffsetWaits,
        Mutation::Generations,
    ];

    /// Switches it off until the guard is dropped.
    pub fn switch_off(self) -> SwitchedOff {
        OFF.set(Some(self));
        SwitchedOff
    }

    /// Which one is, in this thread.
    pub fn which_is_off() -> Option<Mutation> {
        OFF.get()
    }

    /// Whether it is.
    pub fn is_off(self) -> bool {
        OFF.get() == Some(self)
    }
}

/// While it lives a rule is off.
pub struct SwitchedOff;

impl Drop for SwitchedOff {
    fn drop(&mut self) {
        OFF.set(None);
    }
}
