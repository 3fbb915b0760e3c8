//! The stack: PUSH, POP, LEAVE, and runs of them, for which the stack pointer moves once.

use iced_x86::OpKind;

use super::asm::{Mem, RBP};
use super::emit::Emitter;
use super::frame;
use super::operand::{Need, Operand, stack, stack_in_window};
use super::regs::{ADDRESS, GUEST_RSP, SCRATCH, host, slot};
use super::trace::{Item, Kind};

/// The most instructions of a run.
const MAX_RUN: usize = 8;

impl Emitter<'_> {
    /// Emits the run of stack instructions that begins with instruction `n`, if it is one whose accesses are all known to
    /// be allowed; gives its length.
    pub(super) fn stack_run(&mut self, n: usize) -> Option<usize> {
        let items = &self.trace.items[n..];
        let belongs: fn(&Item) -> bool = match items.first()?.kind {
            Kind::Push => is_simple_push,
            Kind::Pop => is_simple_pop,
            _ => return None,
        };
        // Not those whose check comes only before them.
        let covered =
            |k: usize| self.extents.covers(n + k) && (k == 0 || self.extents.beginning_at(n + k).is_empty());
        let count = items
            .iter()
            .enumerate()
            .take(MAX_RUN)
            .take_while(|&(k, item)| belongs(item) && covered(k))
            .count();
        if count < 2 {
            return None;
        }
        if items[0].kind == Kind::Push {
            self.pushes(n, count);
        } else {
            self.pops(n, count);
        }
        Some(count)
    }

    fn pushes(&mut self, n: usize, count: usize) {
        for k in 0..count {
            let item = &self.trace.items[n + k];
            self.store_pushed(item, stack_in_window(-self.word() * (k as i32 + 1)));
        }
        self.move_stack(-self.word() * count as i32);
    }

    fn pops(&mut self, n: usize, count: usize) {
        for k in 0..count {
            let guest = self.trace.items[n + k].instruction.op0_register().number() as u8;
            self.load_guest(guest, stack_in_window(self.word() * k as i32));
        }
        self.move_stack(self.word() * count as i32);
    }

    /// Stores the register or the immediate that `item` pushes.
    fn store_pushed(&mut self, item: &Item, to: Mem) {
        let i = &item.instruction;
        if i.op0_kind() == OpKind::Register {
            let value = self.value(i.op0_register().number() as u8, SCRATCH);
            self.store_word(to, value);
        } else {
            self.asm.store_immediate(!self.mode.is_narrow(), to, i.immediate(0) as i32);
        }
    }

    /// Loads a guest register from memory.
    fn load_guest(&mut self, guest: u8, from: Mem) {
        match host(guest) {
            Some(register) => self.load_word(register, from),
            None => {
                self.load_word(SCRATCH, from);
                self.asm.store(slot(guest), SCRATCH);
            }
        }
    }

    /// Makes sure that an address's bytes at the operand can be accessed; gives where they are.
    pub(super) fn reach_word(&mut self, n: usize, item: &Item, operand: Operand<'_>, write: bool) -> Mem {
        let covered = self.extents.covers(n);
        let place = self.place(operand, covered, false);
        self.reach(n, operand, place, Need { size: self.mode.word(), write, flags: item.live }, covered);
        place.mem
    }

    pub(super) fn push(&mut self, n: usize, item: &Item) {
        let i = &item.instruction;
        if i.op0_kind() == OpKind::Memory {
            let from = self.reach_word(n, item, Operand::of(i, self.trace.start), false);
            // It waits for the second check.
            self.load_word(ADDRESS, from);
            self.asm.store(frame::TARGET, ADDRESS);
            let to = self.reach_word(n, item, stack(-self.word()), true);
            self.asm.load(SCRATCH, frame::TARGET);
            self.store_word(to, SCRATCH);
        } else {
            let to = self.reach_word(n, item, stack(-self.word()), true);
            self.store_pushed(item, to);
        }
        self.move_stack(-self.word());
    }

    pub(super) fn pop(&mut self, n: usize, item: &Item) {
        let from = self.reach_word(n, item, stack(0), false);
        let guest = item.instruction.op0_register().number() as u8;
        if guest == 4 {
            // What was on top is the new stack pointer.
            return self.load_word(GUEST_RSP, from);
        }
        self.load_guest(guest, from);
        self.move_stack(self.word());
    }

    pub(super) fn leave(&mut self, n: usize, item: &Item) {
        let from = self.reach_word(n, item, Operand::at(RBP, 0), false);
        self.lea_word(GUEST_RSP, Mem::at(RBP, self.word()));
        self.load_word(RBP, from);
    }

    /// Moves the stack pointer.
    fn move_stack(&mut self, by: i32) {
        self.lea_word(GUEST_RSP, Mem::at(GUEST_RSP, by));
    }
}

/// A push of a register or an immediate. What PUSH RSP pushes depends on what was pushed before.
fn is_simple_push(item: &Item) -> bool {
    let i = &item.instruction;
    item.kind == Kind::Push
        && match i.op0_kind() {
            OpKind::Register => i.op0_register().full_register() != iced_x86::Register::RSP,
            OpKind::Memory => false,
            _ => true,
        }
}

fn is_simple_pop(item: &Item) -> bool {
    item.kind == Kind::Pop && item.instruction.op0_register().full_register() != iced_x86::Register::RSP
}
