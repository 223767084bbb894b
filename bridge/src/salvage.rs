//! A start without all that a start needs: no checkpoint, no definition of a topic (R3).

use std::collections::{BTreeMap, BTreeSet};

use crate::damage::Damage;
use crate::disk::{DiskError, Folder};
use crate::journal::changes::Whole;
use crate::journal::checkpoint::{self, Checkpoint, Extents, Unreadable};
use crate::journal::recovery::Journal;
use crate::log::Topics;
use crate::log::topic::{FIRST_PUBLIC_ID, PARTITIONS_MAX, name_ok};
use crate::{HIDDEN, OpenError, random};

/// What the checkpoint file gave.
pub(crate) enum Standing {
    Known(Checkpoint),
    /// There is none yet.
    New,
    /// There was one.
    Lost,
}

impl Standing {
    /// Reads the checkpoint. Where there is none, a folder with anything in it has lost it: the first start writes it
    /// durably before it makes anything else.
    pub(crate) fn of(folder: &Folder, topics: &Folder, journal: &Journal, damage: &Damage) -> Result<Self, OpenError> {
        let path = folder.join(checkpoint::FILE_NAME);
        let bytes = folder.read(checkpoint::FILE_NAME);
        let size = bytes.as_ref().map_or(0, |bytes| bytes.as_ref().map_or(0, |bytes| bytes.len() as u64));
        let why = match bytes.map(|bytes| bytes.map(|bytes| Checkpoint::decode(&bytes))) {
            Ok(Some(Ok(checkpoint))) => return Ok(Standing::Known(checkpoint)),
            Ok(Some(Err(Unreadable::Newer(version)))) => return Err(OpenError::Checkpoint(path, version)),
            Ok(None) if !journal.is_used() && topics.names()?.is_empty() => return Ok(Standing::New),
            Ok(None) => "missing".to_owned(),
            Ok(Some(Err(Unreadable::Damaged))) => "damaged".to_owned(),
            Err(error) if error.is_denied() => return Err(error.into()),
            Err(error) => error.to_string(),
        };
        let what = format!("{why}; the state is taken from the batches and the journal");
        damage.found(&path, 0..size, what);
        damage.set_aside(folder, checkpoint::FILE_NAME);
        Ok(Standing::Lost)
    }

    /// The checkpoint to go on from. A new folder's is written: the cluster id must be there before anyone is told it.
    pub(crate) fn checkpoint(self, folder: &Folder, journal: &Journal) -> Result<Checkpoint, DiskError> {
        match self {
            Standing::Known(checkpoint) => {
                // Its rename may be in memory only, from a process that was killed there. What it frees is
                // overwritten from here on: a power cut must not bring the one before back.
                folder.sync()?;
                Ok(checkpoint)
            }
            Standing::New => {
                let fresh = Checkpoint { cluster_id: random(), ..Checkpoint::default() };
                folder.replace(checkpoint::FILE_NAME, &fresh.encode())?;
                Ok(fresh)
            }
            Standing::Lost => {
                let cluster_id = journal.note().map_or_else(random, |note| note.cluster_id);
                Ok(Checkpoint { cluster_id, ..Checkpoint::default() })
            }
        }
    }
}

/// A topic whose definition is lost.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Undefined {
    pub(crate) id: u32,
    pub(crate) name: String,
    pub(crate) partitions: u32,
}

/// Who says, besides frames, which topics there are.
pub(crate) enum Named<'a> {
    Frames,
    Folders,
    Checkpoint(&'a Extents),
}

/// Topics that are named or that frames append to, without those that are defined.
pub(crate) fn undefined(
    topics_folder: &Folder,
    named: Named<'_>,
    appended: &BTreeMap<u32, u32>,
    defined: &Topics,
) -> Result<Vec<Undefined>, DiskError> {
    if matches!(named, Named::Frames) && appended.is_empty() {
        return Ok(Vec::new());
    }
    let folders = topic_folders(topics_folder)?;
    let mut partitions = appended.clone();
    if let Named::Checkpoint(extents) = named {
        for ((id, index), _) in extents.iter().filter(|(_, extent)| extent.end > 0) {
            let count = partitions.entry(*id).or_insert(0);
            *count = (*count).max(index + 1);
        }
    }
    for (id, (_, count)) in &folders {
        if matches!(named, Named::Folders) {
            partitions.entry(*id).or_insert(0);
        }
        if let Some(known) = partitions.get_mut(id) {
            *known = (*known).max(*count);
        }
    }
    let mut names: BTreeSet<String> = defined.all().iter().map(|topic| topic.name.clone()).collect();
    let mut found = Vec::new();
    // The newest of a name keeps it.
    for (id, partitions) in partitions.into_iter().rev() {
        if id < FIRST_PUBLIC_ID || defined.with_id(id).is_some() || !(1..=PARTITIONS_MAX).contains(&partitions) {
            continue;
        }
        let name = folders.get(&id).map_or_else(|| format!("recovered-{id}"), |(name, _)| name.clone());
        if names.insert(name.clone()) {
            found.push(Undefined { id, name, partitions });
        }
    }
    Ok(found)
}

/// By id: name and number of partitions of every folder with a segment in it.
fn topic_folders(topics_folder: &Folder) -> Result<BTreeMap<u32, (String, u32)>, DiskError> {
    let mut found = BTreeMap::new();
    for folder_name in topics_folder.names()? {
        let parsed = folder_name.rsplit_once('.').and_then(|(name, id)| Some((name, id.parse::<u32>().ok()?)));
        let Some((name, id)) = parsed.filter(|(name, _)| name_ok(name)) else { continue };
        let Ok(folder) = topics_folder.folder(&folder_name) else { continue };
        let Ok(names) = folder.names() else { continue };
        let indexes: Vec<u32> = names.iter().filter_map(|name| name.parse().ok()).collect();
        let has_segments = indexes.iter().any(|index| {
            let names = folder.folder(&index.to_string()).and_then(|partition| partition.names());
            names.is_ok_and(|names| names.iter().any(|name| name.ends_with(".log")))
        });
        if let Some(last) = indexes.into_iter().max().filter(|_| has_segments) {
            found.insert(id, (name.to_owned(), last.saturating_add(1)));
        }
    }
    Ok(found)
}

/// Whether there are segments of public topics or the hidden one: those are written after the journal.
pub(crate) fn has_records(topics_folder: &Folder) -> Result<bool, DiskError> {
    Ok(topic_folders(topics_folder)?.into_keys().any(|id| id >= HIDDEN.1))
}

/// What queues point to was there: its offset is not given again, or the pointer would lead to another record.
pub(crate) fn raise_ends(topics: &Topics, whole: &Whole) {
    let entries = whole.queues.values().flat_map(|queue| queue.entries.values());
    for pointer in entries.filter(|entry| !entry.released).map(|entry| entry.pointer) {
        let topic = topics.with_id(pointer.topic);
        if let Some(partition) = topic.as_ref().and_then(|topic| topic.partitions.get(pointer.partition as usize)) {
            partition.raise_end(pointer.offset.saturating_add(1));
        }
    }
}
