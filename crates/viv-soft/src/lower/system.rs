//! System instructions and port I/O.

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};

use super::Choice;
use super::operand::{bits, for_size, for_wide_size, immediate, is_memory, register, segment_number};
use crate::cpu::Bitness;
use crate::op::{Handler, Op};
use crate::ops::{hypercall, io, mov, segment, system, xstate};

/// Lowers instructions of this group.
pub fn lower(op: &mut Op, i: &Instruction, bitness: Bitness) -> Option<Choice> {
    match i.mnemonic() {
        Mnemonic::Mov => mov_special(op, i),
        Mnemonic::Nop | Mnemonic::Endbr32 | Mnemonic::Endbr64 | Mnemonic::Reservednop => {
            Choice::plain(mov::nop)
        }
        Mnemonic::Prefetchnta
        | Mnemonic::Prefetcht0
        | Mnemonic::Prefetcht1
        | Mnemonic::Prefetcht2
        | Mnemonic::Prefetch
        | Mnemonic::Prefetchw => Choice::plain(mov::nop),
        Mnemonic::Mfence | Mnemonic::Lfence | Mnemonic::Sfence => Choice::plain(mov::fence),
        Mnemonic::Pause => Choice::plain(system::pause),
        Mnemonic::Vmcall | Mnemonic::Vmmcall => Choice::serializing(hypercall::hypercall),
        Mnemonic::Clflush | Mnemonic::Clflushopt | Mnemonic::Clwb => Choice::plain(system::flush_line),
        Mnemonic::In => {
            op.aux = u8::from(i.op1_kind() == OpKind::Register);
            op.imm = immediate(i, 1).unwrap_or(0) & 0xff;
            Choice::plain(for_size!(bits(i, 0), |T| io::input::<T>))
        }
        Mnemonic::Out => {
            op.aux = u8::from(i.op0_kind() == OpKind::Register);
            op.imm = immediate(i, 0).unwrap_or(0) & 0xff;
            Choice::plain(for_size!(bits(i, 1), |T| io::output::<T>))
        }
        Mnemonic::Clts => Choice::plain(system::clts),
        Mnemonic::Lmsw => {
            op.aux = u8::from(is_memory(i, 0));
            op.src = if is_memory(i, 0) { 0 } else { register(i.op0_register()) };
            Choice::serializing(system::lmsw)
        }
        Mnemonic::Smsw => {
            if is_memory(i, 0) {
                return Choice::plain(system::smsw_m);
            }
            op.dst = register(i.op0_register());
            Choice::plain(for_wide_size!(bits(i, 0), |T| system::smsw_r::<T>))
        }
        Mnemonic::Hlt => Choice::serializing(system::hlt),
        Mnemonic::Cli => Choice::plain(system::cli),
        Mnemonic::Sti => Choice::serializing(system::sti),
        Mnemonic::Clac => Choice::plain(system::change_ac),
        Mnemonic::Stac => {
            op.aux = 1;
            Choice::plain(system::change_ac)
        }
        Mnemonic::Invlpg => Choice::serializing(system::invlpg),
        Mnemonic::Invpcid => {
            op.dst = register(i.op0_register());
            Choice::serializing(for_wide_size!(bits(i, 0), |T| system::invpcid::<T>))
        }
        Mnemonic::Wbinvd | Mnemonic::Invd | Mnemonic::Wbnoinvd => Choice::plain(system::write_back),
        Mnemonic::Cpuid => Choice::plain(system::cpuid),
        Mnemonic::Rdtsc => Choice::plain(system::rdtsc),
        Mnemonic::Rdtscp => Choice::plain(system::rdtscp),
        Mnemonic::Rdpid => {
            op.dst = register(i.op0_register());
            Choice::plain(system::rdpid)
        }
        Mnemonic::Rdpmc => Choice::plain(system::rdpmc),
        Mnemonic::Rdmsr => Choice::plain(system::rdmsr),
        Mnemonic::Wrmsr => Choice::serializing(system::wrmsr),
        Mnemonic::Swapgs => Choice::plain(system::swapgs),
        Mnemonic::Xgetbv => Choice::plain(system::xgetbv),
        Mnemonic::Xsetbv => Choice::plain(system::xsetbv),
        Mnemonic::Rdfsbase => base(op, i, 4, for_wide_size!(bits(i, 0), |T| system::read_base::<T>)),
        Mnemonic::Rdgsbase => base(op, i, 5, for_wide_size!(bits(i, 0), |T| system::read_base::<T>)),
        Mnemonic::Wrfsbase => base(op, i, 4, for_wide_size!(bits(i, 0), |T| system::write_base::<T>)),
        Mnemonic::Wrgsbase => base(op, i, 5, for_wide_size!(bits(i, 0), |T| system::write_base::<T>)),
        Mnemonic::Lgdt => table(op, i, bitness, 0, segment::load_table),
        Mnemonic::Lidt => table(op, i, bitness, 1, segment::load_table),
        Mnemonic::Sgdt => table(op, i, bitness, 0, segment::store_table),
        Mnemonic::Sidt => table(op, i, bitness, 1, segment::store_table),
        Mnemonic::Lldt => selector(op, i, 0, segment::lldt),
        Mnemonic::Ltr => selector(op, i, 0, segment::ltr),
        Mnemonic::Verr => selector(op, i, 0, segment::verify),
        Mnemonic::Verw => {
            op.imm = 1;
            selector(op, i, 0, segment::verify)
        }
        Mnemonic::Lar => {
            op.dst = register(i.op0_register());
            selector(op, i, 1, for_wide_size!(bits(i, 0), |T| segment::lar::<T>))
        }
        Mnemonic::Lsl => {
            op.dst = register(i.op0_register());
            selector(op, i, 1, for_wide_size!(bits(i, 0), |T| segment::lsl::<T>))
        }
        Mnemonic::Sldt | Mnemonic::Str => {
            op.imm = u64::from(i.mnemonic() == Mnemonic::Str);
            if is_memory(i, 0) {
                return Choice::plain(segment::store_selector_m);
            }
            op.dst = register(i.op0_register());
            Choice::plain(for_wide_size!(bits(i, 0), |T| segment::store_selector_r::<T>))
        }
        Mnemonic::Lds => far_pointer(op, i, Register::DS),
        Mnemonic::Les => far_pointer(op, i, Register::ES),
        Mnemonic::Lss => far_pointer(op, i, Register::SS),
        Mnemonic::Lfs => far_pointer(op, i, Register::FS),
        Mnemonic::Lgs => far_pointer(op, i, Register::GS),
        Mnemonic::Fxsave => xsave(op, 0, xstate::fxsave),
        Mnemonic::Fxsave64 => xsave(op, xstate::WIDE, xstate::fxsave),
        Mnemonic::Fxrstor => xsave(op, 0, xstate::fxrstor),
        Mnemonic::Fxrstor64 => xsave(op, xstate::WIDE, xstate::fxrstor),
        Mnemonic::Xsave | Mnemonic::Xsaveopt => xsave(op, 0, xstate::save),
        Mnemonic::Xsave64 | Mnemonic::Xsaveopt64 => xsave(op, xstate::WIDE, xstate::save),
        Mnemonic::Xsavec => xsave(op, xstate::COMPACT, xstate::save),
        Mnemonic::Xsavec64 => xsave(op, xstate::COMPACT | xstate::WIDE, xstate::save),
        Mnemonic::Xrstor => xsave(op, 0, xstate::restore),
        Mnemonic::Xrstor64 => xsave(op, xstate::WIDE, xstate::restore),
        _ => None,
    }
}

/// MOV to and from control and debug registers.
fn mov_special(op: &mut Op, i: &Instruction) -> Option<Choice> {
    let (to, from) = (i.op0_register(), i.op1_register());
    if to.is_cr() {
        op.dst = to.number() as u8;
        op.src = register(from);
        return Choice::serializing(for_wide_size!(bits(i, 1), |T| system::mov_to_control::<T>));
    }
    if to.is_dr() {
        op.dst = to.number() as u8;
        op.src = register(from);
        return Choice::serializing(for_wide_size!(bits(i, 1), |T| system::mov_to_debug::<T>));
    }
    op.dst = register(to);
    op.src = from.number() as u8;
    if from.is_cr() {
        return Choice::plain(for_wide_size!(bits(i, 0), |T| system::mov_from_control::<T>));
    }
    if from.is_dr() {
        return Choice::plain(for_wide_size!(bits(i, 0), |T| system::mov_from_debug::<T>));
    }
    None
}

fn base(op: &mut Op, i: &Instruction, number: u8, handler: Handler) -> Option<Choice> {
    op.dst = register(i.op0_register());
    op.src = number;
    Choice::plain(handler)
}

/// Instructions on GDTR (`which` 0) and IDTR (1).
fn table(op: &mut Op, i: &Instruction, bitness: Bitness, which: u8, handler: Handler) -> Option<Choice> {
    op.imm = if bitness == Bitness::Bits64 { 8 } else { 4 };
    op.src = u8::from(matches!(i.code(), Code::Lgdt_m1632_16 | Code::Lidt_m1632_16));
    op.aux = which;
    Choice::plain(handler)
}

/// Instructions whose operand `n` is a selector in a register or in memory.
fn selector(op: &mut Op, i: &Instruction, n: u32, handler: Handler) -> Option<Choice> {
    if is_memory(i, n) {
        op.aux = 0x80;
    } else {
        op.src = register(i.op_register(n));
    }
    Choice::plain(handler)
}

fn far_pointer(op: &mut Op, i: &Instruction, target: Register) -> Option<Choice> {
    op.dst = register(i.op0_register());
    op.aux = segment_number(target);
    Choice::plain(for_wide_size!(bits(i, 0), |T| segment::load_far_pointer::<T>))
}

fn xsave(op: &mut Op, aux: u8, handler: Handler) -> Option<Choice> {
    op.aux = aux;
    Choice::plain(handler)
}
