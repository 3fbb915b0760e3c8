//! Branches out of a trace.

use iced_x86::{ConditionCode, Instruction};
use viv_arch::paging;

use super::asm::{Asm, Label, Mem, RCX, RSP, alu, condition};
use super::emit::{Cold, Emitter};
use super::flags::Flags;
use super::frame;
use super::regs::{ADDRESS, GUEST_RSP, SCRATCH};
use super::trace::Item;

impl Emitter<'_> {
    /// Jcc.
    pub(super) fn conditional(&mut self, item: &Item) {
        let i = &item.instruction;
        let cc = Self::condition(i);
        self.restore_flags();
        let target = i.near_branch_target().wrapping_add(self.trace.start as u64) as i64;
        let here = self.trace.start as i64 + i.ip() as i64;
        let in_page = (0..paging::PAGE_SIZE as i64).contains(&target);
        if in_page && target > here {
            let (edge, exit) = self.new_edge(target);
            let site = self.asm.jump_if(cc, exit);
            self.edges[edge].site = Some(site);
            return;
        }
        let live = self.trace.live_at(self.page, i.near_branch_target(), self.mode);
        if !in_page {
            let label = self.asm.label();
            self.asm.jump_if(cc, label);
            self.cold.push(Cold::Leap { label, target, live });
            return;
        }
        let over = self.asm.label();
        self.asm.jump_if(cc ^ 1, over);
        self.edge(i.near_branch_target(), live);
        self.asm.bind(over);
        self.flags_saved = false;
    }

    /// The condition of a Jcc, as its opcode has it.
    pub(super) fn condition(i: &Instruction) -> u8 {
        match i.condition_code() {
            ConditionCode::None => 0,
            code => code as u8 - 1,
        }
    }

    /// Goes to `target`, an offset from the trace's start, where flags `live` are needed.
    pub(super) fn edge(&mut self, target: u64, live: Flags) {
        let target = target.wrapping_add(self.trace.start as u64) as i64;
        if !(0..paging::PAGE_SIZE as i64).contains(&target) {
            return self.edge_to_other_page(target, live);
        }
        let to_head = target == self.trace.start as i64 && self.mode == self.trace.items[0].mode;
        if to_head && self.head_saved {
            self.guard_flags(live);
        } else if live != 0 {
            self.restore_flags();
        }
        let here =
            self.trace.start as i64 + self.trace.items.last().map_or(0, |item| item.instruction.ip() as i64);
        let (edge, exit) = self.new_edge(target);
        if target <= here {
            let target = if to_head { self.head } else { exit };
            let fragile = if self.flags_saved { 0 } else { live };
            let site = self.jump_unless_attention(target, exit, fragile);
            self.edges[edge].site = (!to_head).then_some(site);
        } else {
            let site = self.asm.jump(exit);
            self.edges[edge].site = Some(site);
        }
    }

    /// Jumps to `target`, but to `exit` if something waits; gives where the displacement to `target` is.
    fn jump_unless_attention(&mut self, target: Label, exit: Label, live: Flags) -> u64 {
        if live == 0 {
            self.asm.compare_byte(frame::ATTENTION, 0);
            let site = self.asm.jump_if(condition::EQUAL, target);
            self.asm.jump(exit);
            return site;
        }
        let go = self.asm.label();
        self.asm.copy(ADDRESS, RCX);
        self.asm.load_byte(RCX, frame::ATTENTION);
        self.asm.jump_if_rcx_is_zero(go);
        self.asm.copy(RCX, ADDRESS);
        self.asm.jump(exit);
        self.asm.bind(go);
        self.asm.copy(RCX, ADDRESS);
        self.asm.jump(target)
    }

    /// A branch to another page goes straight to its trace if the page of that trace is mapped where the branch
    /// leads, and nothing waits.
    pub(super) fn edge_to_other_page(&mut self, target: i64, live: Flags) {
        self.guard_flags(live);
        let (edge, exit) = self.new_edge(target);
        self.edges[edge].leaves_page = true;
        let page = target & !(paging::PAGE_OFFSET as i64);
        self.asm.load(ADDRESS, frame::PAGE);
        match i32::try_from(page) {
            Ok(page) => self.asm.alu_immediate(!self.mode.is_narrow(), alu::ADD, ADDRESS, page),
            Err(_) => {
                self.asm.immediate(SCRATCH, page as u64);
                self.lea_word(ADDRESS, Mem::indexed(ADDRESS, SCRATCH, 0, 0));
            }
        }
        self.asm.load_byte(SCRATCH, frame::ATTENTION);
        // Less the page's address, plus the address here, plus whether something waits, is 0 if all is well. The
        // displacement of the page's slot is filled in when the trace is known; slot 0 is no page's.
        self.asm.alu(alu::ADD, SCRATCH, ADDRESS);
        self.asm.alu_load(alu::ADD, SCRATCH, frame::page_slot(0));
        self.edges[edge].page_site = Some(self.asm.address() - 4);
        self.asm.jump_if(condition::NOT_EQUAL, exit);
        self.asm.store(frame::PAGE, ADDRESS);
        let site = self.asm.jump(exit);
        self.edges[edge].site = Some(site);
    }

    /// Leaves, to come back here, unless the page of `slot` is mapped behind this one.
    pub(super) fn check_next_page(&mut self, slot: u32, live: Flags) {
        let (_, exit) = self.new_edge(self.trace.start as i64);
        self.asm.load(SCRATCH, frame::PAGE);
        self.lea_word(SCRATCH, Mem::at(SCRATCH, paging::PAGE_SIZE as i32));
        if live == 0 {
            self.asm.alu_load(alu::ADD, SCRATCH, frame::page_slot(slot));
            self.asm.jump_if(condition::NOT_EQUAL, exit);
        } else {
            let go = self.asm.label();
            self.asm.copy(ADDRESS, RCX);
            self.asm.load(RCX, frame::page_slot(slot));
            self.asm.lea(RCX, Mem::indexed(RCX, SCRATCH, 0, 0));
            self.asm.jump_if_rcx_is_zero(go);
            self.asm.copy(RCX, ADDRESS);
            self.asm.jump(exit);
            self.asm.bind(go);
            self.asm.copy(RCX, ADDRESS);
        }
    }

    /// Goes to the linear address in [`ADDRESS`] and moves the stack pointer up by `release`, or leaves instruction `n` to
    /// the interpreter if it is not known where that is, or something waits.
    pub(super) fn jump_to_address(&mut self, n: usize, release: i32) {
        let item = &self.trace.items[n];
        let thunks = &self.thunks.jump[self.mode.view() as usize];
        let thunk = match release {
            0 => thunks[0],
            8 => thunks[1],
            _ => [0; 2],
        }[usize::from(self.flags_saved || item.live == 0)];
        if self.mode.is_narrow() || thunk == 0 {
            self.guard_flags(item.live);
            let miss = self.miss(n, self.after);
            let host = self.find_target(miss);
            if release != 0 {
                self.lea_word(GUEST_RSP, Mem::at(GUEST_RSP, release));
            }
            self.enter_page();
            return self.asm.jump_indirect(host);
        }
        self.flags_saved = true;
        let miss = self.miss(n, self.after);
        self.asm.lea_label(SCRATCH, miss);
        self.asm.jump_to(thunk);
    }

    /// Notes the page of the linear address in [`ADDRESS`], where the code goes on.
    pub(super) fn enter_page(&mut self) {
        self.asm.alu_immediate(!self.mode.is_narrow(), alu::AND, ADDRESS, -(paging::PAGE_SIZE as i32));
        self.asm.store(frame::PAGE, ADDRESS);
    }

    /// Finds where the code for the linear address in [`ADDRESS`] is said to be, or goes to `miss` if that is not known, or
    /// something waits. Flags are lost, and what is above a 32-bit address; the place is named by way of [`SCRATCH`].
    pub(super) fn find_target(&mut self, miss: Label) -> Mem {
        let above = self.mode.target_key(0);
        if above != 0 {
            self.asm.immediate(SCRATCH, above);
            self.asm.alu(alu::OR, ADDRESS, SCRATCH);
        }
        find_target(&mut self.asm, self.mode.target_table(), miss)
    }
}

/// Finds where a table says that the code for the address in [`ADDRESS`] is, as [`Emitter::find_target`] does.
pub(super) fn find_target(asm: &mut Asm, table: usize, miss: Label) -> Mem {
    let entry = |field| Mem::indexed(RSP, SCRATCH, 0, field);
    // If something waits, the checksum begins with 1 and is that of another address.
    asm.load_byte(SCRATCH, frame::ATTENTION);
    asm.checksum(SCRATCH, ADDRESS);
    asm.alu_immediate(false, alu::AND, SCRATCH, frame::TARGET_MASK);
    let found = asm.label();
    asm.alu_load(alu::CMP, ADDRESS, entry(frame::target_linear(table)));
    asm.short_jump_if(condition::EQUAL, found);
    asm.alu_immediate(false, alu::XOR, SCRATCH, frame::OTHER_TARGET);
    asm.alu_load(alu::CMP, ADDRESS, entry(frame::target_linear(table)));
    asm.jump_if(condition::NOT_EQUAL, miss);
    asm.bind(found);
    entry(frame::target_host(table))
}
