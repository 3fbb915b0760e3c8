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
            |k: usize| self.extents.covers(n + k) && (k == 0 || self.extents.beginning_at(n + k).is_none());
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
            self.store_pushed(item, stack_in_window(-8 * (k as i32 + 1)));
        }
        self.asm.lea(GUEST_RSP, Mem::at(GUEST_RSP, -8 * count as i32));
    }

    fn pops(&mut self, n: usize, count: usize) {
        for k in 0..count {
            let guest = self.trace.items[n + k].instruction.op0_register().number() as u8;
            self.load_guest(guest, stack_in_window(8 * k as i32));
        }
        self.asm.lea(GUEST_RSP, Mem::at(GUEST_RSP, 8 * count as i32));
    }

    /// Stores the register or the immediate that `item` pushes.
    fn store_pushed(&mut self, item: &Item, to: Mem) {
        let i = &item.instruction;
        if i.op0_kind() == OpKind::Register {
            let value = self.value(i.op0_register().number() as u8, SCRATCH);
            self.asm.store(to, value);
        } else {
            self.asm.store_immediate(true, to, i.immediate(0) as i32);
        }
    }

    /// Loads a guest register from memory.
    fn load_guest(&mut self, guest: u8, from: Mem) {
        match host(guest) {
            Some(register) => self.asm.load(register, from),
            None => {
                self.asm.load(SCRATCH, from);
                self.asm.store(slot(guest), SCRATCH);
            }
        }
    }

    /// Makes sure that 8 bytes at the operand can be accessed; gives where they are.
    pub(super) fn reach_8(&mut self, n: usize, item: &Item, operand: Operand<'_>, write: bool) -> Mem {
        let covered = self.extents.covers(n);
        let place = self.place(operand, covered, false);
        self.reach(n, operand, place, Need { size: 8, write, flags: item.live }, covered);
        place.mem
    }

    pub(super) fn push(&mut self, n: usize, item: &Item) {
        let i = &item.instruction;
        if i.op0_kind() == OpKind::Memory {
            let from = self.reach_8(n, item, Operand::of(i), false);
            // It waits for the second check.
            self.asm.load(ADDRESS, from);
            self.asm.store(frame::TARGET, ADDRESS);
            let to = self.reach_8(n, item, stack(-8), true);
            self.asm.load(SCRATCH, frame::TARGET);
            self.asm.store(to, SCRATCH);
        } else {
            let to = self.reach_8(n, item, stack(-8), true);
            self.store_pushed(item, to);
        }
        self.asm.lea(GUEST_RSP, Mem::at(GUEST_RSP, -8));
    }

    pub(super) fn pop(&mut self, n: usize, item: &Item) {
        let from = self.reach_8(n, item, stack(0), false);
        let guest = item.instruction.op0_register().number() as u8;
        if guest == 4 {
            // What was on top is the new stack pointer.
            return self.asm.load(GUEST_RSP, from);
        }
        self.load_guest(guest, from);
        self.asm.lea(GUEST_RSP, Mem::at(GUEST_RSP, 8));
    }

    pub(super) fn leave(&mut self, n: usize, item: &Item) {
        let from = self.reach_8(n, item, Operand::at(RBP, 0), false);
        self.asm.lea(GUEST_RSP, Mem::at(RBP, 8));
        self.asm.load(RBP, from);
    }
}

/// A push of a register or an immediate. What PUSH RSP pushes depends on what was pushed before.
fn is_simple_push(item: &Item) -> bool {
    let i = &item.instruction;
    item.kind == Kind::Push
        && match i.op0_kind() {
            OpKind::Register => i.op0_register() != iced_x86::Register::RSP,
            OpKind::Memory => false,
            _ => true,
        }
}

fn is_simple_pop(item: &Item) -> bool {
    item.kind == Kind::Pop && item.instruction.op0_register() != iced_x86::Register::RSP
}
