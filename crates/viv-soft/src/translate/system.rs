//! Instructions of the system that are frequent: those that operating systems run at every entry, in every critical
//! section and at every access to user memory.
//!
//! They are translated for privilege level 0 only, which a supervisor's [`Mode`] stands for, and left to the interpreter
//! where more is to be done than usual: an interrupt that waits for STI, say. In a trace no events are looked at between
//! two instructions unless the first is a branch, so that STI keeps interrupts from the instruction after it by not being
//! the last of its trace.

use std::mem::offset_of;

use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use viv_arch::{Cr4, Rflags, Segment};

use super::Mode;
use super::asm::{Label, Mem, RAX, RCX, RDX, RSP, alu, condition};
use super::bit::{self, Bit};
use super::emit::Emitter;
use super::flags;
use super::frame::{self, Frame};
use super::operand::stack;
use super::regs::{ADDRESS, GUEST_RSP, SCRATCH, host, slot};
use super::string::{self, Repeated};
use super::trace::Item;
use crate::cpu::Cpu;
use crate::tlb::View;

/// An instruction of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum System {
    ClearInterrupts,
    SetInterrupts,
    /// STAC or CLAC, where it changes what code is translated for: to this.
    ChangeMode(Mode),
    PushFlags,
    SwapGs,
    /// RDTSC, and with `true` RDTSCP.
    ReadTsc(bool),
    /// LFENCE, MFENCE, SFENCE.
    Fence,
    /// PAUSE, which is interpreted when it is time to let another thread run.
    Pause,
    /// MOV from a segment register to a general one.
    ReadSelector,
    /// RDFSBASE and RDGSBASE, WRFSBASE and WRGSBASE: the number of the segment register.
    ReadBase(u8),
    WriteBase(u8),
    /// REP STOS and REP MOVS.
    Repeated(Repeated),
    /// BT and the like of a bit string in memory.
    Bit(Bit),
}

/// How an instruction is translated here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// As this.
    System(System),
    /// It does nothing in this mode.
    Nothing,
    /// Not at all.
    Other,
}

/// Finds out how an instruction is translated.
pub fn classify(i: &Instruction, mode: Mode) -> Class {
    let supervisor = mode.view() != View::User;
    let with_view = |view| Class::System(System::ChangeMode(mode.with_view(view)));
    match i.mnemonic() {
        Mnemonic::Cli if supervisor => Class::System(System::ClearInterrupts),
        Mnemonic::Sti if supervisor => Class::System(System::SetInterrupts),
        Mnemonic::Swapgs if supervisor => Class::System(System::SwapGs),
        // With SMAP, the view says what RFLAGS.AC is.
        Mnemonic::Stac if mode.smap() => match mode.view() {
            View::SupervisorSmap => with_view(View::Supervisor),
            View::Supervisor => Class::Nothing,
            View::User => Class::Other,
        },
        Mnemonic::Clac if mode.smap() => match mode.view() {
            View::Supervisor => with_view(View::SupervisorSmap),
            View::SupervisorSmap => Class::Nothing,
            View::User => Class::Other,
        },
        Mnemonic::Pushfq => Class::System(System::PushFlags),
        Mnemonic::Rdtsc => Class::System(System::ReadTsc(false)),
        Mnemonic::Rdtscp => Class::System(System::ReadTsc(true)),
        Mnemonic::Lfence | Mnemonic::Mfence | Mnemonic::Sfence => Class::System(System::Fence),
        Mnemonic::Pause => Class::System(System::Pause),
        Mnemonic::Mov
            if i.op1_kind() == OpKind::Register
                && i.op1_register().is_segment_register()
                && i.op0_kind() == OpKind::Register =>
        {
            Class::System(System::ReadSelector)
        }
        Mnemonic::Rdfsbase => Class::System(System::ReadBase(4)),
        Mnemonic::Rdgsbase => Class::System(System::ReadBase(5)),
        Mnemonic::Wrfsbase if i.op0_register().size() == 8 => Class::System(System::WriteBase(4)),
        Mnemonic::Wrgsbase if i.op0_register().size() == 8 => Class::System(System::WriteBase(5)),
        _ => string::classify(i)
            .map(System::Repeated)
            .or_else(|| bit::classify(i, mode).map(System::Bit))
            .map_or(Class::Other, Class::System),
    }
}

const fn of_cpu(offset: usize) -> Mem {
    Mem::at(RSP, offset as i32)
}

const RFLAGS: Mem = of_cpu(offset_of!(Cpu, exec.rflags));
const CR4: Mem = of_cpu(offset_of!(Cpu, cr4));
const KERNEL_GS_BASE: Mem = of_cpu(offset_of!(Cpu, msrs.kernel_gs_base));
const TSC_AUX: Mem = of_cpu(offset_of!(Cpu, msrs.tsc_aux));
const TSC_OFFSET: Mem = of_cpu(offset_of!(Cpu, tsc.offset));
const TLB_VIEW: Mem = of_cpu(offset_of!(Cpu, tlb.view));
const TLB_CURRENT: Mem = of_cpu(offset_of!(Cpu, tlb.current));
/// The lower half of the mode.
const MODE: Mem = of_cpu(offset_of!(Cpu, frame) + offset_of!(Frame, mode));
const PAUSES: Mem = of_cpu(offset_of!(Cpu, frame) + offset_of!(Frame, pauses));
const INTERRUPT_WAITS: Mem = of_cpu(offset_of!(Cpu, frame) + offset_of!(Frame, interrupt_waits));

/// The visible part of segment register `number`.
const fn selector(number: u8) -> Mem {
    of_cpu(offset_of!(Cpu, segments) + size_of::<Segment>() * number as usize + offset_of!(Segment, selector))
}

impl Emitter<'_> {
    pub(super) fn system(&mut self, n: usize, item: &Item, system: System) {
        let i = &item.instruction;
        match system {
            System::ClearInterrupts => {
                self.guard_flags(item.live);
                self.change_flag(Rflags::IF, false);
            }
            System::SetInterrupts => {
                self.guard_flags(item.live);
                let miss = self.miss(n, self.after);
                // An interrupt may have come since events were looked at.
                self.asm.load_byte(SCRATCH, frame::ATTENTION);
                self.asm.rm(false, &[0x0a], SCRATCH, INTERRUPT_WAITS); // or r8, byte
                self.asm.jump_if(condition::NOT_EQUAL, miss);
                self.change_flag(Rflags::IF, true);
            }
            System::ChangeMode(mode) => {
                self.guard_flags(item.live);
                self.change_flag(Rflags::AC, mode.view() == View::Supervisor);
                self.asm.lea(SCRATCH, of_cpu(frame::tlb_table(mode.view()) as usize));
                self.asm.store(TLB_CURRENT, SCRATCH);
                self.asm.store_immediate_8(TLB_VIEW, mode.view() as u8);
                // The view is in the lower half of it.
                self.asm.store_immediate_8(MODE, mode.bits() as u8);
            }
            System::PushFlags => self.push_flags(n, item),
            System::SwapGs => {
                self.asm.load(SCRATCH, frame::segment_base(5));
                self.asm.load(ADDRESS, KERNEL_GS_BASE);
                self.asm.store(KERNEL_GS_BASE, SCRATCH);
                self.asm.store(frame::segment_base(5), ADDRESS);
            }
            System::ReadTsc(aux) => self.read_tsc(n, item, aux),
            System::Fence => match i.mnemonic() {
                Mnemonic::Lfence => self.asm.bytes(&[0x0f, 0xae, 0xe8]),
                Mnemonic::Mfence => self.asm.bytes(&[0x0f, 0xae, 0xf0]),
                _ => self.asm.bytes(&[0x0f, 0xae, 0xf8]),
            },
            System::Pause => {
                self.guard_flags(item.live);
                let miss = self.miss(n, self.after);
                self.asm.rm(false, &[0x83], alu::SUB, PAUSES); // sub dword [pauses], 1
                self.asm.bytes(&[1]);
                self.asm.jump_if(condition::SIGN, miss);
                self.asm.bytes(&[0xf3, 0x90]);
            }
            System::ReadSelector => {
                let from = selector(i.op1_register().number() as u8);
                self.asm.rm(false, &[0x0f, 0xb7], SCRATCH, from); // movzx r32, word
                self.store_guest(i.op0_register(), SCRATCH);
            }
            System::ReadBase(segment) => {
                self.check_bases(n, item);
                self.asm.load(SCRATCH, frame::segment_base(segment));
                if i.op0_register().size() == 4 {
                    self.asm.copy_32(SCRATCH, SCRATCH);
                }
                self.store_guest(i.op0_register(), SCRATCH);
            }
            System::WriteBase(segment) => {
                let miss = self.check_bases(n, item);
                let value = self.value(number(i.op0_register()), ADDRESS);
                // Canonical: the upper 17 bits are alike.
                self.asm.copy(SCRATCH, value);
                self.asm.shift(true, SHL, SCRATCH, 16);
                self.asm.shift(true, SAR, SCRATCH, 16);
                self.asm.alu(alu::CMP, SCRATCH, value);
                self.asm.jump_if(condition::NOT_EQUAL, miss);
                self.asm.store(frame::segment_base(segment), SCRATCH);
            }
            System::Repeated(what) => self.repeated(n, item, what),
            System::Bit(bit) => self.bit(n, item, bit),
        }
    }

    /// Sets or clears a flag that is none of the arithmetic ones. Those of the host are lost.
    fn change_flag(&mut self, flag: Rflags, set: bool) {
        let (operation, value) = if set { (alu::OR, flag.bits()) } else { (alu::AND, !flag.bits()) };
        self.asm.rm(false, &[0x81], operation, RFLAGS);
        self.asm.bytes(&(value as u32).to_le_bytes());
    }

    /// Goes to `miss` unless `bit` of CR4 is as `wanted`. The host's flags are lost.
    fn check_cr4(&mut self, bit: Cr4, wanted: bool, miss: Label) {
        self.asm.rm(false, &[0xf7], 0, CR4); // test dword [cr4], bit
        self.asm.bytes(&(bit.bits() as u32).to_le_bytes());
        self.asm.jump_if(if wanted { condition::EQUAL } else { condition::NOT_EQUAL }, miss);
    }

    /// Before an instruction that reads or writes a segment's base: it may be switched off. Gives where it is
    /// interpreted.
    fn check_bases(&mut self, n: usize, item: &Item) -> Label {
        self.guard_flags(item.live);
        let miss = self.miss(n, self.after);
        self.check_cr4(Cr4::FSGSBASE, true, miss);
        miss
    }

    fn push_flags(&mut self, n: usize, item: &Item) {
        self.guard_flags(flags::ALL);
        self.asm.load_byte(SCRATCH, Mem { disp: frame::PACKED_FLAGS.disp + 1, ..frame::PACKED_FLAGS });
        self.asm.alu_immediate(false, alu::AND, SCRATCH, (Rflags::ARITHMETIC.bits() & 0xff) as i32);
        self.asm.load_byte(ADDRESS, frame::PACKED_FLAGS);
        self.asm.shift_left(ADDRESS, 11);
        self.asm.alu(alu::OR, SCRATCH, ADDRESS);
        self.asm.load(ADDRESS, RFLAGS);
        let others = !(Rflags::ARITHMETIC | Rflags::VM | Rflags::RF).bits();
        self.asm.alu_immediate(true, alu::AND, ADDRESS, others as i32);
        self.asm.alu(alu::OR, SCRATCH, ADDRESS);
        self.asm.store(frame::TARGET, SCRATCH);
        let to = self.reach_word(n, item, stack(-8), true);
        self.asm.load(SCRATCH, frame::TARGET);
        self.asm.store(to, SCRATCH);
        self.asm.lea(GUEST_RSP, Mem::at(GUEST_RSP, -8));
    }

    /// The guest's TSC runs at the host's rate.
    fn read_tsc(&mut self, n: usize, item: &Item, aux: bool) {
        self.guard_flags(item.live);
        if self.mode.view() == View::User {
            let miss = self.miss(n, self.after);
            self.check_cr4(Cr4::TSD, false, miss);
        }
        if aux {
            // It waits for what comes before it.
            self.asm.bytes(&[0x0f, 0xae, 0xe8]); // lfence
        }
        self.asm.bytes(&[0x0f, 0x31]); // rdtsc
        self.asm.shift(true, SHL, RDX, 32);
        self.asm.alu(alu::OR, RDX, RAX);
        self.asm.alu_load(alu::ADD, RDX, TSC_OFFSET);
        self.asm.copy_32(RAX, RDX);
        self.asm.shift(true, SHR, RDX, 32);
        if aux {
            self.asm.load_32(RCX, TSC_AUX);
        }
    }

    /// Stores a host register in a guest register, or in the lower 16 bits of it.
    fn store_guest(&mut self, to: Register, from: u8) {
        let guest = number(to);
        let wide = to.size() > 2;
        if !wide {
            self.asm.bytes(&[0x66]);
        }
        match host(guest) {
            Some(register) => self.asm.rr(wide, &[0x89], from, register),
            None => self.asm.rm(wide, &[0x89], from, slot(guest)),
        }
    }
}

/// Operations of shifts, as the opcode extension has them.
pub const SHL: u8 = 4;
const SHR: u8 = 5;
pub const SAR: u8 = 7;
/// The opcode extension of NEG.
pub const NEG: u8 = 3;

fn number(register: Register) -> u8 {
    register.full_register().number() as u8
}
