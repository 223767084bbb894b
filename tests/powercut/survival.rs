//! What of that which was not synced survives a power cut.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use support::random::Random;

const SECTOR_BYTES: usize = 512;

/// What becomes of that which was not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// It is lost.
    Forgets,
    /// Each sector and each name is there or is not.
    Tears,
    /// The same, and some sectors that were being written are garbage.
    Garbles,
}

impl Cut {
    /// One of them.
    pub fn any(random: &mut Random) -> Cut {
        [Cut::Forgets, Cut::Tears, Cut::Garbles][random.within(0, 3) as usize]
    }
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    pub inode: u64,
    pub is_folder: bool,
}

/// The names in a folder.
pub type Names = BTreeMap<String, Node>;

/// Decides for one cut.
#[derive(Debug)]
pub struct Survival<'a> {
    cut: Cut,
    random: &'a mut Random,
}

impl Survival<'_> {
    /// The decisions of this cut.
    pub fn of(cut: Cut, random: &mut Random) -> Survival<'_> {
        Survival { cut, random }
    }

    fn happened(&mut self) -> bool {
        self.cut != Cut::Forgets && self.random.within(0, 2) == 0
    }

    /// The names that are there; a rename has happened to both of its names or to neither.
    pub fn names(&mut self, durable: &Names, live: &Names) -> Names {
        let mut renamed: HashMap<u64, bool> = HashMap::new();
        let mut left = Names::new();
        let all: BTreeSet<&String> = durable.keys().chain(live.keys()).collect();
        for name in all {
            let (before, now) = (durable.get(name), live.get(name));
            let moved_here = now.filter(|node| is_elsewhere(node, name, durable));
            let moved_away = before.filter(|node| is_elsewhere(node, name, live));
            let happened = match moved_here.or(moved_away) {
                Some(node) => *renamed.entry(node.inode).or_insert_with(|| self.happened()),
                None => before == now || self.happened(),
            };
            if let Some(node) = if happened { now } else { before } {
                left.insert(name.clone(), *node);
            }
        }
        left
    }

    /// The bytes of a file that are there. Of a sector that is garbage those that were not being written stay.
    pub fn bytes(&mut self, durable: Vec<u8>, live: &[u8]) -> Vec<u8> {
        let mut image = durable;
        if image.len() != live.len() && self.happened() {
            let (least, most) = (image.len().min(live.len()), image.len().max(live.len()));
            // All of the change of its length, or some.
            let some = self.random.within(least as u64, most as u64 + 1) as usize;
            image.resize(if self.happened() { live.len() } else { some }, 0);
        }
        for (sector, new) in image.chunks_mut(SECTOR_BYTES).zip(live.chunks(SECTOR_BYTES)) {
            let shared = sector.len().min(new.len());
            let (sector, new) = (&mut sector[..shared], &new[..shared]);
            if sector == new || !self.happened() {
                continue;
            }
            if self.cut == Cut::Garbles && self.random.within(0, 4) == 0 {
                let noise = self.random.bytes(shared);
                let written = sector.iter_mut().zip(new).zip(noise).filter(|((old, new), _)| old != new);
                written.for_each(|((old, _), noise)| *old = noise);
            } else {
                sector.copy_from_slice(new);
            }
        }
        image
    }
}

fn is_elsewhere(node: &Node, name: &str, names: &Names) -> bool {
    names.iter().any(|(other, its)| its.inode == node.inode && other != name)
}
