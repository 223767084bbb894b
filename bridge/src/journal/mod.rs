//! The one durable path: lanes → gather → frame → fdatasync → apply → checkpoint, and back at recovery.

pub mod lane;

pub(crate) mod apply;
pub(crate) mod changes;
pub(crate) mod checkpoint;
pub(crate) mod cleaning;
pub(crate) mod commit;
pub(crate) mod files;
pub mod frame;
pub(crate) mod gather;
pub(crate) mod pins;
pub(crate) mod recovery;
pub(crate) mod retention;
pub(crate) mod survey;
