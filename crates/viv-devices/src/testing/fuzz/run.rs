//! Running a program: on a device and on its restored copy, side by side.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

use super::Target;
use super::bench::Bench;
use super::program::Op;
use crate::SavedState;
use crate::testing::Random;

/// How many runs go into making a failing program shorter.
const ATTEMPTS: u32 = 3000;

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs a program, and says what went wrong, if anything did.
pub(crate) fn run(target: &Target, ops: &[Op]) -> Result<(), String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |info| {
            if !QUIET.get() {
                before(info);
            }
        }));
    });
    let place = Cell::new(0);
    QUIET.set(true);
    let result = catch_unwind(AssertUnwindSafe(|| Twins::new(target).run(ops, &place)));
    QUIET.set(false);
    result.map_err(|payload| {
        let text = payload.downcast_ref::<String>().cloned();
        let text = text.or_else(|| payload.downcast_ref::<&str>().map(ToString::to_string));
        format!("at step {}: {}", place.get(), text.unwrap_or_default())
    })
}

/// A program with less in it that fails too.
pub(crate) fn shrink(target: &Target, mut ops: Vec<Op>) -> Vec<Op> {
    let mut attempts = 0;
    let mut chunk = ops.len() / 2;
    while chunk > 0 {
        let mut start = 0;
        let before = ops.len();
        while start < ops.len() && attempts < ATTEMPTS {
            let mut fewer = ops.clone();
            fewer.drain(start..(start + chunk).min(ops.len()));
            attempts += 1;
            if run(target, &fewer).is_err() {
                ops = fewer;
            } else {
                start += chunk;
            }
        }
        if chunk > 1 || ops.len() == before {
            chunk /= 2;
        }
    }
    ops
}

/// A machine and, once it has been copied, the copy.
struct Twins<'a> {
    target: &'a Target,
    one: Bench,
    other: Option<Bench>,
}

impl<'a> Twins<'a> {
    fn new(target: &'a Target) -> Self {
        Self { target, one: (target.make)(), other: None }
    }

    fn run(&mut self, ops: &[Op], place: &Cell<usize>) {
        for (index, op) in ops.iter().enumerate() {
            place.set(index);
            match op {
                Op::Move => self.copy(),
                Op::Damage(how) => self.damage(*how),
                op => self.step(op),
            }
        }
        place.set(ops.len());
        self.compare();
    }

    fn step(&mut self, op: &Op) {
        let answer = apply(&mut self.one, op);
        let said = self.one.events();
        if let Some(other) = &mut self.other {
            assert_eq!(answer, apply(other, op), "what is read, and what a copy gives");
            assert_eq!(said, other.events(), "what is said, and what a copy says");
        }
    }

    /// Saves the machine, makes a copy from that, and goes on with both. A copy that there was takes its place.
    fn copy(&mut self) {
        self.compare();
        if let Some(other) = self.other.take() {
            self.one = other;
        }
        self.one.settle();
        let saved = self.one.save();
        assert_eq!(saved, self.one.save(), "saving changes nothing");
        self.one.events();
        self.one.ring_all();
        let mut copy = (self.target.make)();
        copy.take_surroundings(&self.one);
        copy.restore(&saved).unwrap();
        assert_eq!(copy.save(), saved, "restoring and saving give the same state");
        copy.adopt();
        copy.ring_all();
        self.other = Some(copy);
    }

    fn compare(&self) {
        if let Some(other) = &self.other {
            assert_eq!(self.one.save(), other.save(), "the state, and that of a copy");
            self.one.assert_like(other);
        }
    }

    /// What comes of a state that is not right is a refusal, or a device that does no harm.
    fn damage(&self, how: u64) {
        let mut random = Random(how | 1);
        let mut states = self.one.save();
        // Both are saved: a device takes back then what somebody else has not begun, and looks at all of its queues.
        self.other.iter().for_each(|other| drop(other.save()));
        self.one.ring_all();
        self.other.iter().for_each(Bench::ring_all);
        let index = random.below(states.len() as u64) as usize;
        let is_other = damage(&mut states[index], &mut random);
        let mut copy = (self.target.make)();
        copy.take_surroundings(&self.one);
        let restored = copy.restore(&states);
        assert!(!is_other || restored.is_err(), "a state cut short or of an unknown version must be refused");
        if restored.is_ok() {
            copy.adopt();
        }
        let program = super::program::program(self.target, how, 64);
        for op in program.iter().filter(|op| !matches!(op, Op::Move | Op::Damage(_))) {
            apply(&mut copy, op);
            copy.events();
        }
    }
}

/// Returns whether it is no longer the state of a device that is known.
fn damage(state: &mut SavedState, random: &mut Random) -> bool {
    let length = state.data.len() as u64;
    let kind = random.below(8);
    match kind {
        0 => state.version = state.version.saturating_add(1 + random.below(3) as u16),
        1 if length > 0 => state.data.truncate(random.below(length) as usize),
        _ if length > 0 => {
            for _ in 0..1 + random.below(3) {
                // The beginning has the registers, and the rest is often memory.
                let limit = if random.below(2) == 0 { length } else { length.min(64) };
                state.data[random.below(limit) as usize] = random.next() as u8;
            }
        }
        _ => state.data.push(random.next() as u8),
    }
    kind == 0 || kind == 1 && length > 0
}

fn apply(bench: &mut Bench, op: &Op) -> Option<[u8; 8]> {
    match op {
        Op::Read(place, size) => return Some(bench.read(*place, *size)),
        Op::Write(place, data) => bench.write(*place, data),
        Op::Ram(address, data) => bench.put(*address, data),
        Op::Pass(nanoseconds) => bench.pass(*nanoseconds),
        Op::Serve => bench.serve(),
        Op::Outside(what) => bench.happen(*what),
        Op::Reset => bench.reset(),
        Op::Move | Op::Damage(_) => {}
    }
    None
}
