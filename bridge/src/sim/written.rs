//! Durability "os" over crashes (J7): what was acknowledged survives a kill; a power cut may take what was not synced, but
//! leaves what lay before it, without holes, and the folder always opens.

use std::collections::BTreeMap;

use super::disk::{End, SimulatedDisk};
use super::model::read_all;
use super::random::Random;
use super::steps::{Failed, Steps};
use super::world::World;
use crate::batch;
use crate::log::Now;
use crate::state::{Change, Space};
use crate::{Bridge, Durability, Lane, Options};

const MARKERS: Space = Space(17);
const TOPIC: &str = "t";
const LANES: usize = 2;
const STARTS: u64 = 3;
const STEPS_MAX: u64 = 160;

/// One lane's records, numbered from 1: those asked for, acknowledged, and synced; and acknowledged before the last end.
#[derive(Clone, Copy, Debug, Default)]
struct Numbers {
    asked: u64,
    acknowledged: u64,
    synced: u64,
    promised: u64,
}

pub struct WrittenWorld {
    random: Random,
    disk: SimulatedDisk,
    lanes: [Numbers; LANES],
    now_ms: i64,
    /// How often a power cut took what a lane had been told was there.
    pub losses: u64,
}

impl WrittenWorld {
    pub fn new(seed: u64) -> WrittenWorld {
        let mut random = Random::new(seed);
        let disk = SimulatedDisk::new(random.number());
        WrittenWorld { random, disk, lanes: Default::default(), now_ms: 0, losses: 0 }
    }

    pub fn run(mut self) -> Result<WrittenWorld, String> {
        for start in 0..=STARTS {
            self.start_and_work().map_err(|wrong| format!("durability os, start {start}: {wrong}"))?;
            self.lanes.iter_mut().for_each(|lane| lane.promised = lane.acknowledged);
            if self.random.one_in(2) {
                self.disk = self.disk.clone().next(End::Killed);
            } else {
                self.disk = self.disk.clone().next(End::PowerCut);
                self.lanes.iter_mut().for_each(|lane| lane.acknowledged = lane.synced);
            }
        }
        Ok(self)
    }

    fn start_and_work(&mut self) -> Result<(), String> {
        let options = Options { durability: Durability::Os, ..World::options() };
        let (bridge, mut steps) = Steps::open(&self.disk, options).map_err(|error| error.to_string())?;
        let lanes: Vec<Lane> = (0..LANES).map(|_| bridge.lane()).collect();
        let topic = match bridge.topic(TOPIC) {
            Some(topic) => topic,
            None if self.lanes.iter().any(|lane| lane.acknowledged > 0) => {
                return Err("the topic is gone with records that were synced".to_owned());
            }
            None => {
                let made = bridge.create_topic(&lanes[0], TOPIC, LANES as u32, BTreeMap::new());
                made.map_err(|error| error.to_string())?.0
            }
        };
        self.check(&bridge, topic.id)?;
        self.disk.end_after(self.random.below(300));
        let worked = self.work(&lanes, topic.id, &mut steps);
        steps.end(&self.disk);
        worked
    }

    /// All records up to the marker, each once and in order, and no fewer than must be there.
    fn check(&mut self, bridge: &Bridge, topic: u32) -> Result<(), String> {
        let markers: BTreeMap<_, _> = bridge.take_recovered(MARKERS).into_iter().collect();
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            let marker = markers.get(&[index as u8][..]).and_then(|value| value[..].try_into().ok());
            let marker = marker.map_or(0, u64::from_be_bytes);
            if marker < lane.acknowledged || marker > lane.asked {
                return Err(format!("lane {index}: {marker} are there of {lane:?}"));
            }
            let due: BTreeMap<i64, String> = (0..).zip((1..=marker).map(|number| number.to_string())).collect();
            let found = read_all(bridge, (topic, index as u32))?;
            if found != due {
                return Err(format!("lane {index}: {found:?} where 1 to {marker} are due"));
            }
            self.losses += u64::from(marker < lane.promised);
            // The start has synced what it found (R2).
            *lane = Numbers { asked: marker, acknowledged: marker, synced: marker, promised: marker };
        }
        Ok(())
    }

    fn work(&mut self, lanes: &[Lane], topic: u32, steps: &mut Steps) -> Result<(), String> {
        // Tickets of this process, with the number each stands for.
        let mut tickets: Vec<Vec<(u64, u64)>> = vec![Vec::new(); LANES];
        for _ in 0..self.random.below(STEPS_MAX) {
            match self.random.below(12) {
                0..=4 => {
                    let index = self.random.below(LANES as u64) as usize;
                    self.lanes[index].asked += 1;
                    let number = self.lanes[index].asked;
                    tickets[index].push((append(&lanes[index], (topic, index as u32), number), number));
                }
                5..=7 => {
                    if steps.commit().is_err() || self.disk.has_ended() {
                        return Ok(());
                    }
                    for ((numbers, lane), tickets) in self.lanes.iter_mut().zip(lanes).zip(&tickets) {
                        let heard = tickets.iter().rfind(|(ticket, _)| *ticket <= lane.durable());
                        numbers.acknowledged = heard.map_or(numbers.acknowledged, |(_, number)| *number);
                    }
                }
                8 => {
                    if steps.sync().is_err() || self.disk.has_ended() {
                        return Ok(());
                    }
                    self.lanes.iter_mut().for_each(|lane| lane.synced = lane.acknowledged);
                }
                9 => drop(steps.apply()?),
                _ => {
                    if self.checkpoint(steps).is_err() {
                        return Ok(());
                    }
                }
            }
            if self.disk.has_ended() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn checkpoint(&mut self, steps: &mut Steps) -> Result<(), Failed> {
        if self.random.one_in(3) {
            self.now_ms += 10_000;
            let up = std::time::Duration::from_millis(self.now_ms as u64);
            steps.start_checkpoint(Now { wall_ms: self.now_ms, up });
            return Ok(());
        }
        steps.checkpoint(1 + self.random.below(12)).map(drop)
    }
}

fn append(lane: &Lane, to: (u32, u32), number: u64) -> u64 {
    let mut operation = lane.begin();
    operation.change(Change::Put(MARKERS, &[to.1 as u8], &number.to_be_bytes()));
    operation.append(to, number as i64, std::iter::empty(), |out| {
        batch::encode_body(out, None, Some(number.to_string().as_bytes()), std::iter::empty());
    });
    operation.submit()
}
