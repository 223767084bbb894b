//! `millstream log repair` and `millstream state rebuild`: a start, and then what a start leaves as it is.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::damage::Damage;
use crate::disk::Folder;
use crate::journal::checkpoint;
use crate::state::Change;
use crate::{Bridge, OpenError, Options, Space};

use super::verify::verify;

/// Longest wait for the last checkpoint.
const CLOSE_LIMIT: Duration = Duration::from_secs(600);

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Repaired {
    /// What the start said.
    pub summary: String,
    /// Segments written anew; the damaged files are in the folder `damaged`.
    pub segments: Vec<PathBuf>,
    /// Entries taken out of queues, which led to no record.
    pub dangling: usize,
}

/// Brings a folder to where it needs no salvage any more.
pub fn repair(options: Options) -> Result<Repaired, OpenError> {
    let root = options.data_dir.clone();
    let found = verify(&root)?;
    let folder = Folder::open(&root)?;
    // An index that leads astray is made from its batches.
    for finding in found.findings.iter().filter(|finding| finding.file.extension().is_some_and(|e| e == "index")) {
        folder.remove(&finding.file.to_string_lossy())?;
        folder.remove(&finding.file.with_extension("timeindex").to_string_lossy())?;
    }
    let bridge = Bridge::open(options)?;
    let damage = Damage::new(&folder, false);
    damage.set_start(bridge.epoch() as u64);
    let mut repaired = Repaired { summary: bridge.summary().to_owned(), ..Repaired::default() };
    let mut outdated = Vec::new();
    for topic in bridge.0.topics.all() {
        for partition in &topic.partitions {
            partition.look_through();
            for name in partition.rewrite_damaged()? {
                if name.ends_with(".log") {
                    damage.set_aside(partition.folder(), &name);
                    repaired.segments.push(partition.folder().join(&name));
                }
                outdated.push((partition.folder().clone(), name));
            }
        }
    }
    let lane = bridge.lane();
    let queues = bridge.take_recovered_queues();
    for (queue, sequence) in &found.dangling {
        if queues.get(queue).is_some_and(|held| held.entries.contains_key(sequence)) {
            let mut operation = lane.begin();
            operation.change(Change::Remove(*queue, *sequence));
            operation.submit();
            repaired.dangling += 1;
        }
    }
    close(&bridge)?;
    // The checkpoint names the new ones now.
    for (folder, name) in outdated {
        folder.remove(&name)?;
    }
    Ok(repaired)
}

/// Makes keyed state and the checkpoint anew from what segments and the journal say.
pub fn rebuild(options: Options) -> Result<Repaired, OpenError> {
    let root = options.data_dir.clone();
    // Says who has the folder, if somebody does.
    verify(&root)?;
    let folder = Folder::open(&root)?;
    let damage = Damage::new(&folder, false);
    damage.set_aside(&folder, checkpoint::FILE_NAME);
    folder.remove(checkpoint::FILE_NAME)?;
    folder.sync()?;
    let bridge = Bridge::open(options)?;
    close(&bridge)?;
    Ok(Repaired { summary: bridge.summary().to_owned(), ..Repaired::default() })
}

/// With a checkpoint of everything.
fn close(bridge: &Bridge) -> Result<(), OpenError> {
    let lane = bridge.lane();
    // Something has to be new for it.
    lane.put_all(&[(Space::META, b"repaired by start", Some(&bridge.epoch().to_be_bytes()))]);
    match bridge.close(Instant::now() + CLOSE_LIMIT) {
        true => Ok(()),
        false => Err(OpenError::Unfinished),
    }
}
