//! The stack: PUSH, POP, LEAVE, and runs of them, for which one lookup is enough.

use iced_x86::OpKind;

use super::asm::{Label, Mem, RBP};
use super::emit::{Cold, Emitter};
use super::frame;
use super::regs::{ADDRESS, GUEST_RSP, SCRATCH, host, slot};
use super::trace::{Item, Kind};

/// The most instructions of a run.
const MAX_RUN: usize = 8;

impl Emitter<'_> {
    /// Emits the run of stack instructions that begins with instruction `n`, if it is one; gives its length.
    pub(super) fn stack_run(&mut self, n: usize) -> Option<usize> {
        let items = &self.trace.items[n..];
        match items.first()?.kind {
            Kind::Push => {
                let count = run_length(items, is_simple_push);
                (count >= 2).then(|| self.pushes(n, count))
            }
            Kind::Pop => {
                let count = run_length(items, is_simple_pop);
                let returns = items.get(count).is_some_and(|item| item.kind == Kind::Return);
                match (count, returns) {
                    (0, _) | (1, false) => None,
                    _ => Some(self.pops(n, count, returns)),
                }
            }
            Kind::Leave if items.get(1)?.kind == Kind::Return => Some(self.leave_and_return(n)),
            _ => None,
        }
    }

    fn pushes(&mut self, n: usize, count: usize) -> usize {
        let resume = self.asm.label();
        let size = 8 * count;
        self.guard_flags(self.trace.items[n + count - 1].live);
        self.asm.lea(ADDRESS, Mem::at(GUEST_RSP, -(size as i32)));
        let miss = self.miss_run(n, count, resume);
        self.lookup(size, true, miss);
        for k in 0..count {
            let i = &self.trace.items[n + k].instruction;
            let place = Mem::in_window(ADDRESS, (size - 8 * (k + 1)) as i32);
            if i.op0_kind() == OpKind::Register {
                let value = self.value(i.op0_register().number() as u8, SCRATCH);
                self.asm.store(place, value);
            } else {
                self.asm.store_immediate(true, place, i.immediate(0) as i32);
            }
        }
        self.asm.lea(GUEST_RSP, Mem::at(GUEST_RSP, -(size as i32)));
        self.asm.bind(resume);
        count
    }

    fn pops(&mut self, n: usize, count: usize, returns: bool) -> usize {
        let resume = self.asm.label();
        let total = count + usize::from(returns);
        let size = 8 * count;
        self.guard_flags(self.trace.items[n + total - 1].live);
        self.asm.copy(ADDRESS, GUEST_RSP);
        let miss = self.miss_run(n, total, resume);
        self.lookup(8 * total, false, miss);
        for k in 0..count {
            let guest = self.trace.items[n + k].instruction.op0_register().number() as u8;
            self.load_guest(guest, Mem::in_window(ADDRESS, 8 * k as i32));
        }
        self.asm.lea(GUEST_RSP, Mem::at(GUEST_RSP, size as i32));
        if returns {
            self.asm.load(ADDRESS, Mem::in_window(ADDRESS, size as i32));
            self.return_to_address(n + count, resume);
        }
        self.asm.bind(resume);
        total
    }

    fn leave_and_return(&mut self, n: usize) -> usize {
        let resume = self.asm.label();
        self.guard_flags(self.trace.items[n + 1].live);
        self.asm.copy(ADDRESS, RBP);
        let miss = self.miss_run(n, 2, resume);
        self.lookup(16, false, miss);
        self.asm.lea(GUEST_RSP, Mem::at(RBP, 8));
        self.asm.load(RBP, Mem::in_window(ADDRESS, 0));
        self.asm.load(ADDRESS, Mem::in_window(ADDRESS, 8));
        self.return_to_address(n + 1, resume);
        self.asm.bind(resume);
        2
    }

    /// RET, instruction `n`, to the address in [`ADDRESS`].
    fn return_to_address(&mut self, n: usize, resume: Label) {
        let item = &self.trace.items[n];
        self.guard_flags(item.live);
        let miss = self.miss(n, resume);
        self.jump_to_address(miss, item.instruction.stack_pointer_increment());
    }

    /// A place where `count` instructions from `n` on are interpreted one by one.
    fn miss_run(&mut self, n: usize, count: usize, resume: Label) -> Label {
        let label = self.asm.label();
        self.cold.push(Cold::Run { label, first: n, count, flags_saved: self.flags_saved, resume });
        label
    }

    /// Loads a guest register from host memory.
    fn load_guest(&mut self, guest: u8, from: Mem) {
        match host(guest) {
            Some(register) => self.asm.load(register, from),
            None => {
                self.asm.load(SCRATCH, from);
                self.asm.store(slot(guest), SCRATCH);
            }
        }
    }

    pub(super) fn push(&mut self, n: usize, item: &Item) {
        let i = &item.instruction;
        let resume = self.asm.label();
        self.guard_flags(item.live);
        let from_memory = i.op0_kind() == OpKind::Memory;
        if from_memory {
            self.address(i);
            let miss = self.miss(n, resume);
            self.lookup(8, false, miss);
            // It waits for the second lookup.
            self.asm.load(ADDRESS, Mem::in_window(ADDRESS, 0));
            self.asm.store(frame::TARGET, ADDRESS);
        }
        self.asm.lea(ADDRESS, Mem::at(GUEST_RSP, -8));
        let miss = self.miss(n, resume);
        self.lookup(8, true, miss);
        let top = Mem::in_window(ADDRESS, 0);
        if from_memory {
            self.asm.load(SCRATCH, frame::TARGET);
            self.asm.store(top, SCRATCH);
        } else if i.op0_kind() == OpKind::Register {
            let value = self.value(i.op0_register().number() as u8, SCRATCH);
            self.asm.store(top, value);
        } else {
            self.asm.store_immediate(true, top, i.immediate(0) as i32);
        }
        self.asm.lea(GUEST_RSP, Mem::at(GUEST_RSP, -8));
        self.asm.bind(resume);
    }

    pub(super) fn pop(&mut self, n: usize, item: &Item) {
        let resume = self.asm.label();
        self.guard_flags(item.live);
        self.asm.copy(ADDRESS, GUEST_RSP);
        let miss = self.miss(n, resume);
        self.lookup(8, false, miss);
        // POP RSP loads what was on top.
        self.asm.lea(GUEST_RSP, Mem::at(GUEST_RSP, 8));
        self.load_guest(item.instruction.op0_register().number() as u8, Mem::in_window(ADDRESS, 0));
        self.asm.bind(resume);
    }

    pub(super) fn leave(&mut self, n: usize, item: &Item) {
        let resume = self.asm.label();
        self.guard_flags(item.live);
        self.asm.copy(ADDRESS, RBP);
        let miss = self.miss(n, resume);
        self.lookup(8, false, miss);
        self.asm.lea(GUEST_RSP, Mem::at(RBP, 8));
        self.asm.load(RBP, Mem::in_window(ADDRESS, 0));
        self.asm.bind(resume);
    }
}

fn run_length(items: &[Item], belongs: impl Fn(&Item) -> bool) -> usize {
    items.iter().take(MAX_RUN).take_while(|item| belongs(item)).count()
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
