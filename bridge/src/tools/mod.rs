//! Tools for a folder that no broker has open: [`verify()`] looks at everything, [`Contents`] shows it, [`repair()`] and
//! [`rebuild()`] put it right. They find what a start finds, by the same code.

mod contents;
mod repair;
mod verify;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::OpenError;
use crate::damage::Damage;
use crate::disk::{Folder, Lock};
use crate::journal::changes::Whole;
use crate::journal::checkpoint::Checkpoint;
use crate::journal::recovery::Journal;
use crate::journal::survey::{Appended, Survey};
use crate::keyed::KeyedLogs;
use crate::log::{Settings, Topics, Trust};
use crate::machine::Opener;
use crate::salvage::{self, Named, Standing};

pub use crate::damage::Finding;
pub use contents::{Contents, FrameLine, Line};
pub use repair::{Repaired, rebuild, repair};
pub use verify::{Verified, verify};

/// A folder that is looked at and not changed.
struct Look {
    damage: Damage,
    checkpoint: Checkpoint,
    journal: Journal,
    survey: Survey,
    /// Keyed state at the checkpoint.
    whole: Whole,
    topics: Arc<Topics>,
    topics_folder: Folder,
    _lock: Lock,
}

impl Look {
    /// Opens a folder as a start would; `tails` with what segments have behind the checkpoint.
    fn at(data_dir: &Path, tails: bool) -> Result<Look, OpenError> {
        if !data_dir.is_dir() {
            return Err(OpenError::Missing(data_dir.to_owned()));
        }
        let folder = Folder::open(data_dir)?;
        let lock = folder.lock()?.ok_or_else(|| OpenError::InUse(data_dir.to_owned()))?;
        for name in ["journal", "topics"] {
            if !folder.has(name)? {
                return Err(OpenError::NotOurs(data_dir.to_owned(), name));
            }
        }
        let damage = Damage::new(&folder, true);
        let topics_folder = folder.folder("topics")?;
        let mut journal = Journal::look(folder.folder("journal")?)?;
        let (checkpoint, is_lost) = match Standing::of(&folder, &topics_folder, &journal, &damage)? {
            Standing::Known(checkpoint) => (checkpoint, false),
            Standing::New => (Checkpoint::default(), false),
            Standing::Lost => (Checkpoint::default(), true),
        };
        let in_journal = damage.count();
        journal.find_missing((checkpoint.lsn, &checkpoint.journal_files), &damage);
        if !journal.is_used() && salvage::has_records(&topics_folder)? {
            damage.found(journal.folder.path(), 0..0, "no file in it is or was in use; what they held is lost");
        }
        let journal_is_whole = damage.count() == in_journal;
        let trust = if is_lost { Trust::batches(&damage) } else { Trust::checkpoint(&damage) };
        let (whole, stamps) = KeyedLogs::open(&topics_folder, &checkpoint.extents, trust)?.load(&damage)?;
        let survey = match is_lost {
            false => Survey::behind(checkpoint.lsn, checkpoint.cluster_id, &mut journal)?,
            true => Survey::alone(stamps.lsn, checkpoint.cluster_id, &mut journal)?,
        };
        survey.report(&journal, &damage);
        let is_readable = journal.find_unreadable(&damage);
        let appended = Appended::behind(survey.from_lsn, &mut journal)?;
        let topics = Arc::new(Topics::after(checkpoint.next_topic_id));
        let as_far_as_whole = tails || is_lost || !journal_is_whole || !is_readable || !survey.missing.is_empty();
        let defaults = Settings::default();
        let trust = Trust { as_far_as_whole, ..Trust::checkpoint(&damage) };
        let opener =
            Opener { topics: &topics, folder: &topics_folder, defaults: &defaults, trust, appended: &appended };
        opener.open_known(&whole, &checkpoint)?;
        let named = if is_lost { Named::Folders } else { Named::Frames };
        let undefined = salvage::undefined(&topics_folder, named, &appended.topics(), &topics)?;
        if is_lost {
            let mut none = crate::journal::apply::Applied::new(
                topics.clone(),
                0,
                crate::journal::pins::Pins::default(),
                crate::log::Ages::default(),
            );
            opener.open_undefined(undefined, &BTreeMap::new(), &mut none)?;
        }
        Ok(Look { damage, checkpoint, journal, survey, whole, topics, topics_folder, _lock: lock })
    }
}
