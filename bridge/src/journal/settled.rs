//! Up to when everything is applied that was submitted. A pointer that leaves one queue for another goes through a lane a
//! second time, and there it waits as long as the disk has no room: time alone does not tell that it has arrived.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::commit::Shared;
use super::lane::Ticket;

/// What the apply thread knows of it.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    up: Duration,
    asked: Option<Asked>,
}

/// The lanes as they were at a time.
#[derive(Debug)]
struct Asked {
    up: Duration,
    submitted: Vec<Ticket>,
    /// All of that is in frames up to this one.
    lsn: Option<u64>,
}

impl Settled {
    /// Looks again; `up` is now, `applied` the last frame applied. Gives a time, on the clock of `up`: everything submitted
    /// before it is applied.
    pub(crate) fn look(&mut self, shared: &Shared, applied: u64, up: Duration) -> Duration {
        // What was asked before, and then about now.
        for _ in 0..2 {
            let ask = || Asked { up, submitted: shared.lanes.submitted(), lsn: None };
            let asked = self.asked.get_or_insert_with(ask);
            if asked.lsn.is_none() && shared.lanes.are_durable(&asked.submitted) {
                // Set before anyone was told.
                asked.lsn = Some(shared.told_lsn.load(Ordering::Acquire));
            }
            if asked.lsn.is_none_or(|lsn| lsn > applied) {
                break;
            }
            self.up = asked.up;
            self.asked = None;
        }
        self.up
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_for_its_commit_or_to_be_applied_is_not_settled() {
        let (shared, seconds) = (Shared::default(), Duration::from_secs);
        let lanes = [shared.lanes.add(None), shared.lanes.add(None)];
        let mut settled = Settled::default();
        assert_eq!(settled.look(&shared, 0, seconds(1)), seconds(1), "nothing was submitted");
        let tickets = lanes.each_ref().map(|lane| lane.begin().submit());
        assert_eq!(settled.look(&shared, 0, seconds(2)), seconds(1));
        lanes[0].publish(tickets[0], 0, &mut Vec::new());
        assert_eq!(settled.look(&shared, 0, seconds(60)), seconds(1), "one is not durable");
        shared.told_lsn.store(7, Ordering::Release);
        lanes[1].publish(tickets[1], 0, &mut Vec::new());
        assert_eq!(settled.look(&shared, 6, seconds(61)), seconds(1), "a frame is not applied");
        let _later = lanes[0].begin().submit();
        shared.told_lsn.store(8, Ordering::Release);
        assert_eq!(settled.look(&shared, 7, seconds(62)), seconds(2), "later ones do not matter");
    }
}
