//! Lets a second thread take its steps between those of the first: one of them runs at a time, and the first says for how
//! many operations of the disk the second may. So a checkpoint goes on while frames are committed and applied, and does
//! so again in the same way.

use std::cell::RefCell;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use parking_lot::{Condvar, Mutex};

use super::mutation::Mutation;

thread_local! {
    static OURS: RefCell<Option<Arc<Baton>>> = const { RefCell::new(None) };
}

/// Who runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Turn {
    /// The first thread.
    #[default]
    First,
    /// The second, for so many operations.
    Second(u64),
    /// The second is done.
    Done,
}

#[derive(Debug, Default)]
struct Baton {
    turn: Mutex<Turn>,
    changed: Condvar,
}

impl Baton {
    fn pass(&self, turn: Turn) {
        *self.turn.lock() = turn;
        self.changed.notify_all();
    }

    fn wait_until(&self, is: impl Fn(Turn) -> bool) -> Turn {
        let mut turn = self.turn.lock();
        while !is(*turn) {
            self.changed.wait(&mut turn);
        }
        *turn
    }
}

struct Done(Arc<Baton>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.pass(Turn::Done);
    }
}

/// Work on a thread of its own, which runs when it is granted operations.
pub struct Aside<T> {
    baton: Arc<Baton>,
    thread: JoinHandle<T>,
}

impl<T: Send + 'static> Aside<T> {
    /// Work that has not begun.
    pub fn new(work: impl FnOnce() -> T + Send + 'static) -> Aside<T> {
        let baton = Arc::new(Baton::default());
        let (ours, off) = (baton.clone(), Mutation::which_is_off());
        let thread = thread::spawn(move || {
            let _off = off.map(Mutation::switch_off);
            ours.wait_until(|turn| turn != Turn::First);
            OURS.set(Some(ours.clone()));
            // Also when it panics, which the first thread must hear of.
            let _done = Done(ours);
            work()
        });
        Aside { baton, thread }
    }

    /// Lets it go on for so many operations, one at least; what came of it, when it is done.
    pub fn run(self, operations: u64) -> Result<T, Aside<T>> {
        self.baton.pass(Turn::Second(operations));
        match self.baton.wait_until(|turn| !matches!(turn, Turn::Second(_))) {
            Turn::Done => Ok(self.thread.join().expect("the work does not panic")),
            _ => Err(self),
        }
    }
}

/// An operation of the disk was done.
pub fn pass() {
    let Some(baton) = OURS.with_borrow(Clone::clone) else { return };
    let is_over = match &mut *baton.turn.lock() {
        Turn::Second(left) => {
            *left = left.saturating_sub(1);
            *left == 0
        }
        _ => false,
    };
    if is_over {
        baton.pass(Turn::First);
        baton.wait_until(|turn| turn != Turn::First);
    }
}
