//! A start: a data folder is opened and brought to where it was, and the threads' parts are made.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use parking_lot::Mutex;

use crate::admission::Admission;
use crate::damage::Damage;
use crate::disk::{DiskError, Folder};
use crate::journal::apply::{Applied, Applier};
use crate::journal::changes::Whole;
use crate::journal::checkpoint::{self, Checkpoint, Checkpointer, Extents};
use crate::journal::cleaning::{Cleaner, Cleaning};
use crate::journal::commit::{Committer, Shared};
use crate::journal::gather::{Gather, Stamped};
use crate::journal::pins::Pins;
use crate::journal::recovery::Journal;
use crate::journal::retention;
use crate::journal::survey::{Appended, Survey};
use crate::keyed::KeyedLogs;
use crate::log::compaction::Task;
use crate::log::topic::Definition;
use crate::log::{Ages, Topics, Trust};
use crate::producer::Producers;
use crate::salvage::{self, Standing, Undefined};
use crate::state::Change;
use crate::watch::Watch;
use crate::{
    Bridge, Core, HIDDEN, OpenError, Options, Partition, Settings, Space, Topic, UNAPPLIED_FRAMES_MAX, random,
};

/// Journal files that a start may leave to the next regular checkpoint.
const JOURNAL_FILES_AT_START_MAX: usize = 4;

/// Its segments are closed at this size.
const HIDDEN_SEGMENT_BYTES_MAX: u64 = 4 << 20;

/// An open folder and what its threads do; a simulation takes their steps itself.
pub(crate) struct Machine {
    pub(crate) bridge: Bridge,
    pub(crate) committer: Committer,
    pub(crate) applier: Applier,
    pub(crate) checkpointer: Checkpointer,
    pub(crate) jobs: mpsc::Receiver<checkpoint::Job>,
    pub(crate) cleaner: Cleaner,
    pub(crate) tasks: mpsc::Receiver<Task>,
    pub(crate) watch: Watch,
}

impl Machine {
    pub(crate) fn open(options: Options, folder: Folder) -> Result<Machine, OpenError> {
        let began = Instant::now();
        let lock = folder.lock()?.ok_or_else(|| OpenError::InUse(options.data_dir.clone()))?;
        let topics_folder = folder.folder("topics")?;
        let mut journal = Journal::open(folder.folder("journal")?)?;
        folder.sync()?;
        let damage = Damage::new(&folder, false);
        damage.set_start(journal.last_epoch() + 1);
        let standing = Standing::of(&folder, &topics_folder, &journal, &damage)?;
        let is_lost = matches!(standing, Standing::Lost);
        let checkpoint = standing.checkpoint(&folder, &journal)?;
        damage.set_start(checkpoint.epoch.max(journal.last_epoch()) + 1);
        let in_journal = damage.count();
        journal.find_missing((checkpoint.lsn, &checkpoint.journal_files), &damage);
        if !journal.is_used() && salvage::has_records(&topics_folder)? {
            damage.found(journal.folder.path(), 0..0, "no file in it is or was in use; what they held is lost");
        }
        let journal_is_whole = damage.count() == in_journal;
        let trust = if is_lost { Trust::batches(&damage) } else { Trust::checkpoint(&damage) };
        let mut keyed = KeyedLogs::open(&topics_folder, &checkpoint.extents, trust)?;
        let (mut whole, stamps) = keyed.load(&damage)?;
        let survey = match is_lost {
            false => Survey::behind(checkpoint.lsn, checkpoint.cluster_id, &mut journal)?,
            true => Survey::alone(stamps.lsn, checkpoint.cluster_id, &mut journal)?,
        };
        let is_readable = journal.find_unreadable(&damage);
        // What the journal has lost may be in the segments still.
        let as_far_as_whole = is_lost || !journal_is_whole || !is_readable || !survey.missing.is_empty();
        let appended = match as_far_as_whole {
            true => Appended::behind(survey.from_lsn, &mut journal)?,
            false => Appended::default(),
        };
        let topics = Arc::new(Topics::after(checkpoint.next_topic_id));
        let opener = Opener {
            topics: &topics,
            folder: &topics_folder,
            defaults: &options.topic_defaults,
            trust: Trust { as_far_as_whole, ..Trust::checkpoint(&damage) },
            appended: &appended,
        };
        opener.open_known(&whole, &checkpoint)?;
        let mut applied = Applied::new(topics.clone(), survey.from_lsn, Pins::of(&whole.queues), ages(&whole));
        applied.changes.over_newer = is_lost;
        let named = match is_lost {
            true => salvage::Named::Folders,
            // Else it also names topics whose making was under way.
            false if damage.is_in("topics/__meta.1") => salvage::Named::Checkpoint(&checkpoint.extents),
            false => salvage::Named::Frames,
        };
        let undefined = salvage::undefined(&topics_folder, named, &appended.topics(), &topics)?;
        opener.open_undefined(undefined, &checkpoint.extents, &mut applied)?;
        let newest_epoch = topics.all().iter().flat_map(|topic| topic.newest_epoch()).max().unwrap_or(0);
        let known_epoch = checkpoint.epoch.max(journal.last_epoch());
        let epoch = match is_lost {
            false => known_epoch,
            true => known_epoch.max(newest_epoch.max(stamps.epoch) as u64),
        } + 1;
        let kafka_epoch = epoch as i32;
        keyed.set_epoch(kafka_epoch);
        let mut opened = Ok(());
        let replayed = journal.replay(&mut applied, epoch, (&survey, &damage), |change| {
            if let (Change::Put(Space::TOPICS, id, definition), Ok(())) = (change, &opened) {
                opened = opener.open_defined(id, definition, &Extents::new());
            }
        });
        opened?;
        let mut replayed = replayed?;
        // Nothing is served from a folder whose name a power cut could take away.
        topics_folder.sync()?;
        whole.apply(&applied.changes);
        if damage.count() > 0 {
            if replayed.late.frames.is_empty() {
                // Else what waits for room would find its place taken.
                salvage::raise_ends(&topics, &whole);
            }
            keyed.rewrite();
            // A checkpoint comes of it, so that it is said once.
            replayed.journal_bytes = replayed.journal_bytes.max(1);
        }

        let shared = Arc::new(Shared { admission: Admission::new(options.reserve_bytes), ..Shared::default() });
        shared.synced_lsn.store(replayed.synced_lsn, Ordering::Release);
        shared.uncheckpointed_bytes.store(replayed.journal_bytes, Ordering::Release);
        let watch = Watch::new(&shared, folder.clone());
        // Before anyone asks.
        watch.look_at_room();
        let mut gather = make_gather(&topics, &mut whole, kafka_epoch);
        replayed.late.ends().into_iter().for_each(|(partition, end)| gather.come_behind(partition, end));
        let (frame_sender, frames) = mpsc::sync_channel(UNAPPLIED_FRAMES_MAX);
        let (checkpoints, jobs) = mpsc::channel();
        let running = Arc::new(AtomicBool::new(false));
        let (cleaning, cleaner, tasks) = Cleaning::new(shared.clone());
        let committer = Committer::new(shared.clone(), gather, replayed.writer, frame_sender, options.clone());
        let applier = Applier {
            shared: shared.clone(),
            applied,
            frames,
            checkpoints,
            cleaning,
            running: running.clone(),
            checkpoint_bytes: options.checkpoint_bytes,
            checkpoint_interval: options.checkpoint_interval,
            began,
            journal_bytes: replayed.journal_bytes,
            batches_done: replayed.late.batches_done,
            late: replayed.late.frames,
            // Starts that end before their first checkpoint leave a file each.
            soon: replayed.files.counts().1 > JOURNAL_FILES_AT_START_MAX,
            woken: Vec::new(),
        };
        let checkpointer = Checkpointer {
            shared: shared.clone(),
            folder,
            files: replayed.files.clone(),
            state: keyed,
            running,
            epoch,
            cluster_id: checkpoint.cluster_id,
        };
        let summary = format!(
            "start {epoch}, checkpoint {}, {} journal frames replayed, {} topics, {} queues, {} damaged ranges, {} ms",
            survey.from_lsn,
            replayed.frames,
            topics.public().len(),
            whole.queues.len(),
            damage.count(),
            began.elapsed().as_millis(),
        );
        let bridge = Bridge(Arc::new(Core {
            options,
            shared,
            topics,
            topics_folder,
            journal_files: replayed.files,
            topic_changes: Mutex::default(),
            topic_changes_made: AtomicU64::new(1),
            mapped_topics: Mutex::default(),
            recovered: Mutex::new(whole),
            epoch: kafka_epoch,
            cluster_id: checkpoint.cluster_id,
            next_producer: AtomicI64::new(0),
            threads: Mutex::default(),
            summary,
            _lock: lock,
        }));
        Ok(Machine { bridge, committer, applier, checkpointer, jobs, cleaner, tasks, watch })
    }
}

/// When the clock was last set by much (R5).
fn ages(whole: &Whole) -> Ages {
    stored_time(whole, retention::AGES_KEY).map_or_else(Ages::default, Ages::since)
}

fn stored_time(whole: &Whole, key: &[u8]) -> Option<i64> {
    let stored = whole.keyed.get(&(Space::META, key.into()))?;
    <[u8; 8]>::try_from(&stored[..]).ok().map(i64::from_be_bytes)
}

fn make_gather(topics: &Topics, whole: &mut Whole, epoch: i32) -> Gather {
    let mut producers = Producers::default();
    let stamped = Stamped::since(stored_time(whole, Stamped::KEY));
    whole.keyed.retain(|(space, key), value| {
        if *space == Space::PRODUCERS && producers.restore(key, value).is_none() {
            tracing::warn!("a producer's stored state does not parse and is left out");
        }
        ![Space::PRODUCERS, Space::TOPICS, Space::DELETED, Space::META].contains(space)
    });
    let mut gather = Gather::new(epoch, producers, stamped);
    for topic in topics.all().iter().filter(|topic| !topic.is_deleted()) {
        gather.add_topic(topic);
    }
    for (queue, held) in &whole.queues {
        gather.add_queue(*queue, held.next);
    }
    gather
}

/// Makes topics out of their definitions.
pub(crate) struct Opener<'a> {
    pub(crate) topics: &'a Topics,
    pub(crate) folder: &'a Folder,
    pub(crate) defaults: &'a Settings,
    pub(crate) trust: Trust<'a>,
    pub(crate) appended: &'a Appended,
}

impl Opener<'_> {
    pub(crate) fn open_known(&self, whole: &Whole, checkpoint: &Checkpoint) -> Result<(), OpenError> {
        let (name, id) = HIDDEN;
        // In small pieces: each goes when no queue points into it.
        let segment_bytes = self.defaults.segment_bytes.min(HIDDEN_SEGMENT_BYTES_MAX);
        let config = BTreeMap::from([("segment.bytes".to_owned(), segment_bytes.to_string())]);
        let hidden = Definition { uuid: [0; 16], name: name.to_owned(), partitions: 1, config };
        let hidden = self.make(id, &hidden, &checkpoint.extents).map_err(|e| OpenError::Topic(name.to_owned(), e))?;
        self.topics.insert(hidden);
        for ((space, id), definition) in &whole.keyed {
            if *space == Space::TOPICS {
                self.open_defined(id, definition, &checkpoint.extents)?;
            }
        }
        for (space, id) in whole.keyed.keys() {
            if let (Space::DELETED, Ok(id)) = (*space, <[u8; 4]>::try_from(&id[..])) {
                self.topics.delete(u32::from_be_bytes(id));
            }
        }
        Ok(())
    }

    /// Topics whose definition is lost get another one, with what can be known.
    pub(crate) fn open_undefined(
        &self,
        undefined: Vec<Undefined>,
        extents: &Extents,
        applied: &mut Applied,
    ) -> Result<(), OpenError> {
        for Undefined { id, name, partitions } in undefined {
            let path = self.folder.join(&format!("{name}.{id}"));
            let what = format!("no definition of this topic: it has {partitions} partitions and default settings now");
            self.trust.damage.found(&path, 0..0, what);
            let definition = Definition { uuid: random(), name, partitions, config: BTreeMap::new() }.encode();
            self.open_defined(&id.to_be_bytes(), &definition, extents)?;
            applied.changes.add(&Change::Put(Space::TOPICS, &id.to_be_bytes(), &definition));
        }
        Ok(())
    }

    pub(crate) fn open_defined(&self, id: &[u8], definition: &[u8], extents: &Extents) -> Result<(), OpenError> {
        let (Ok(id), Some(definition)) = (id.try_into().map(u32::from_be_bytes), Definition::decode(definition)) else {
            tracing::error!("a stored topic definition does not parse and is left out");
            return Ok(());
        };
        if let Some(topic) = self.topics.with_id(id) {
            let settings = self.settings(&definition);
            topic.configure(definition.config, settings);
            return Ok(());
        }
        let topic = self.make(id, &definition, extents).map_err(|e| OpenError::Topic(definition.name.clone(), e))?;
        self.topics.insert(topic);
        Ok(())
    }

    pub(crate) fn make(&self, id: u32, definition: &Definition, extents: &Extents) -> Result<Arc<Topic>, DiskError> {
        let settings = self.settings(definition);
        let name = format!("{}.{id}", definition.name);
        if self.trust.damage.only_looks() && !self.folder.has(&name)? {
            let what = "missing; what was in it is lost";
            self.trust.damage.found(&self.folder.join(&name), 0..0, what);
            return Ok(Arc::new(Topic::new(id, definition.clone(), self.folder.clone(), Vec::new(), settings)));
        }
        let folder = self.folder.folder(&name)?;
        let mut partitions = Vec::new();
        for index in 0..definition.partitions {
            let partition = folder.folder(&index.to_string())?;
            let extent = extents.get(&(id, index)).cloned().unwrap_or_default();
            let bytes_max = settings.segment_bytes_max();
            let journaled_from = self.appended.first.get(&(id, index)).copied().unwrap_or(i64::MAX);
            partitions.push(Arc::new(Partition::open(
                partition,
                (id, index),
                extent,
                bytes_max,
                Trust { journaled_from, ..self.trust },
            )?));
        }
        if !self.trust.damage.only_looks() {
            folder.sync()?;
        }
        Ok(Arc::new(Topic::new(id, definition.clone(), folder, partitions, settings)))
    }

    fn settings(&self, definition: &Definition) -> Settings {
        self.defaults.with(&definition.config).unwrap_or_else(|error| {
            tracing::error!(topic = definition.name, %error, "a stored setting is none: the broker's are in force");
            self.defaults.clone()
        })
    }
}
