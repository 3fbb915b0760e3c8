//! The gate through which a machine's threads go to work, and which is closed to make it stand still.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A gate. Threads work between [`Gate::enter`] and the drop of what it returns; the machine's owner closes it
/// and then has the machine to itself.
#[derive(Debug)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    door: Door,
    /// Nobody comes in even if the door is open.
    held: bool,
    /// How many threads are at work.
    inside: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Open,
    Closed,
    /// Closed for good: threads that come end.
    Ended,
}

/// A thread's being at work.
#[derive(Debug)]
pub(crate) struct Inside<'a>(&'a Gate);

impl Gate {
    /// A closed gate.
    pub(crate) fn closed() -> Self {
        Self {
            state: Mutex::new(State { door: Door::Closed, held: false, inside: 0 }),
            changed: Condvar::new(),
        }
    }

    /// Waits for the gate to be open. `None` tells the thread to end.
    pub(crate) fn enter(&self) -> Option<Inside<'_>> {
        self.enter_unless(|| false)
    }

    /// As [`Gate::enter`], for a thread that is to stay out while it is `barred`. That changes while the gate is closed.
    pub(crate) fn enter_unless(&self, barred: impl Fn() -> bool) -> Option<Inside<'_>> {
        let mut state = self.lock();
        loop {
            match state.door {
                Door::Open if !state.held && !barred() => {
                    state.inside += 1;
                    return Some(Inside(self));
                }
                Door::Open | Door::Closed => state = self.wait(state),
                Door::Ended => return None,
            }
        }
    }

    /// Keeps threads out, open or not, until [`Gate::release`]. For those inside, who cannot wait: they note
    /// that something is for the owner to decide.
    pub(crate) fn hold(&self) {
        self.lock().held = true;
    }

    /// Undoes [`Gate::hold`].
    pub(crate) fn release(&self) {
        self.lock().held = false;
        self.changed.notify_all();
    }

    #[cfg(test)]
    pub(crate) fn is_held(&self) -> bool {
        self.lock().held
    }

    /// Lets threads in.
    pub(crate) fn open(&self) {
        self.turn(Door::Open);
    }

    /// Lets no more threads in, calls `hurry` so that those inside come out, and waits for them.
    pub(crate) fn close(&self, hurry: impl FnOnce()) {
        self.turn(Door::Closed);
        hurry();
        self.wait_until_empty();
    }

    /// As [`Gate::close`], for good.
    pub(crate) fn end(&self, hurry: impl FnOnce()) {
        self.turn(Door::Ended);
        hurry();
        self.wait_until_empty();
    }

    fn wait_until_empty(&self) {
        let mut state = self.lock();
        while state.inside > 0 {
            state = self.wait(state);
        }
    }

    fn turn(&self, door: Door) {
        let mut state = self.lock();
        if state.door != Door::Ended {
            state.door = door;
        }
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

// Also on unwinding: a thread that panics must not leave the owner waiting.
impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.lock().inside -= 1;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use super::*;

    #[test]
    fn nobody_works_behind_a_closed_gate() {
        let gate = Gate::closed();
        let working = AtomicU32::new(0);
        let rounds = AtomicU32::new(0);
        let hurry = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while let Some(_inside) = gate.enter() {
                        working.fetch_add(1, Ordering::SeqCst);
                        while !hurry.load(Ordering::SeqCst) {
                            std::thread::yield_now();
                        }
                        working.fetch_sub(1, Ordering::SeqCst);
                        rounds.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            for _ in 0..3 {
                let before = rounds.load(Ordering::SeqCst);
                hurry.store(false, Ordering::SeqCst);
                gate.open();
                while working.load(Ordering::SeqCst) < 2 {
                    std::thread::yield_now();
                }
                gate.close(|| hurry.store(true, Ordering::SeqCst));
                assert_eq!(working.load(Ordering::SeqCst), 0);
                assert_eq!(rounds.load(Ordering::SeqCst), before + 2);
            }
            gate.end(|| ());
            gate.open();
            assert!(gate.enter().is_none(), "what has ended stays so");
        });
    }

    #[test]
    fn a_hold_outlasts_an_opening() {
        let gate = Gate::closed();
        gate.open();
        let released = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let inside = gate.enter().unwrap();
            gate.hold();
            drop(inside);
            gate.close(|| ());
            gate.open();

            let waiter = scope.spawn(|| {
                let _inside = gate.enter().unwrap();
                assert!(released.load(Ordering::SeqCst));
            });
            released.store(true, Ordering::SeqCst);
            gate.release();
            waiter.join().unwrap();
        });
    }

    #[test]
    fn a_panic_inside_does_not_hold_the_gate() {
        let gate = Gate::closed();
        gate.open();
        std::thread::scope(|scope| {
            let died = scope
                .spawn(|| {
                    let _inside = gate.enter();
                    // Not `panic!`: no message in the tests' output.
                    std::panic::resume_unwind(Box::new(()));
                })
                .join();
            assert!(died.is_err());
        });
        gate.close(|| ());
    }
}
