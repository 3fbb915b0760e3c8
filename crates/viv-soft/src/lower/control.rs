//! Branches, calls, the stack, interrupts and the way into and out of the kernel.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::Choice;
use super::operand::{bits, for_condition, for_wide_size, immediate, is_memory, register, segment_number};
use crate::op::Op;
use crate::ops::{branch, far, legacy, stack, virtual86};

/// Lowers instructions of this group.
pub fn lower(op: &mut Op, i: &Instruction) -> Option<Choice> {
    if i.code().is_jcc_short_or_near() {
        near_target(op, i);
        let cc = (i.condition_code() as u8).checked_sub(1)?;
        return Choice::branch(for_condition!(cc, |CC| branch::jcc::<CC>));
    }
    match i.mnemonic() {
        Mnemonic::Jmp => jmp(op, i),
        Mnemonic::Call => call(op, i),
        Mnemonic::Ret => {
            op.imm = immediate(i, 0).unwrap_or(0) & 0xffff;
            let size = (i.stack_pointer_increment() as u64 - op.imm) * 8;
            Choice::branch(for_wide_size!(size, |T| branch::ret::<T>))
        }
        Mnemonic::Retf => {
            op.imm = immediate(i, 0).unwrap_or(0) & 0xffff;
            let size = (i.stack_pointer_increment() as u64 - op.imm) * 4;
            Choice::branch(for_wide_size!(size, |T| far::ret_far::<T>))
        }
        Mnemonic::Iret => Choice::branch(far::iret::<u16>),
        Mnemonic::Iretd => Choice::branch(far::iret::<u32>),
        Mnemonic::Iretq => Choice::branch(far::iret::<u64>),
        Mnemonic::Loop => loop_(op, i, 0),
        Mnemonic::Loope => loop_(op, i, 1),
        Mnemonic::Loopne => loop_(op, i, 2),
        Mnemonic::Jcxz => jcxz(op, i, 16),
        Mnemonic::Jecxz => jcxz(op, i, 32),
        Mnemonic::Jrcxz => jcxz(op, i, 64),
        Mnemonic::Int => {
            op.imm = immediate(i, 0)? & 0xff;
            Choice::branch(virtual86::int_n)
        }
        Mnemonic::Int3 => {
            op.imm = 3;
            Choice::branch(far::int)
        }
        Mnemonic::Int1 => {
            op.imm = 1;
            Choice::branch(far::int1)
        }
        Mnemonic::Into => {
            op.imm = 4;
            Choice::branch(far::into)
        }
        Mnemonic::Syscall => Choice::branch(far::syscall),
        Mnemonic::Sysret => Choice::branch(far::sysret),
        Mnemonic::Sysretq => {
            op.aux = 1;
            Choice::branch(far::sysret)
        }
        Mnemonic::Sysenter => Choice::branch(far::sysenter),
        Mnemonic::Sysexit => Choice::branch(far::sysexit),
        Mnemonic::Sysexitq => {
            op.aux = 1;
            Choice::branch(far::sysexit)
        }
        Mnemonic::Push => push(op, i),
        Mnemonic::Pop => pop(op, i),
        Mnemonic::Pushf => Choice::plain(stack::pushf::<u16>),
        Mnemonic::Pushfd => Choice::plain(stack::pushf::<u32>),
        Mnemonic::Pushfq => Choice::plain(stack::pushf::<u64>),
        Mnemonic::Popf => Choice::serializing(stack::popf::<u16>),
        Mnemonic::Popfd => Choice::serializing(stack::popf::<u32>),
        Mnemonic::Popfq => Choice::serializing(stack::popf::<u64>),
        Mnemonic::Pusha => Choice::plain(stack::pusha::<u16>),
        Mnemonic::Pushad => Choice::plain(stack::pusha::<u32>),
        Mnemonic::Popa => Choice::plain(stack::popa::<u16>),
        Mnemonic::Popad => Choice::plain(stack::popa::<u32>),
        Mnemonic::Enter => {
            op.imm = u64::from(i.immediate16());
            op.aux = i.immediate8_2nd();
            let size = frame_bits(i);
            Choice::plain(for_wide_size!(size, |T| stack::enter::<T>))
        }
        Mnemonic::Leave => {
            let size = frame_bits(i);
            Choice::plain(for_wide_size!(size, |T| stack::leave::<T>))
        }
        Mnemonic::Daa => Choice::plain(legacy::decimal_adjust),
        Mnemonic::Das => {
            op.aux = 1;
            Choice::plain(legacy::decimal_adjust)
        }
        Mnemonic::Aaa => Choice::plain(legacy::ascii_adjust),
        Mnemonic::Aas => {
            op.aux = 1;
            Choice::plain(legacy::ascii_adjust)
        }
        Mnemonic::Aam => {
            op.imm = immediate(i, 0)?;
            Choice::plain(legacy::aam)
        }
        Mnemonic::Aad => {
            op.imm = immediate(i, 0)?;
            Choice::plain(legacy::aad)
        }
        Mnemonic::Salc => Choice::plain(legacy::salc),
        Mnemonic::Bound => {
            op.dst = register(i.op0_register());
            Choice::plain(for_wide_size!(bits(i, 0), |T| legacy::bound::<T>))
        }
        Mnemonic::Arpl => {
            op.src = register(i.op1_register());
            if is_memory(i, 0) {
                return Choice::plain(legacy::arpl_m);
            }
            op.dst = register(i.op0_register());
            Choice::plain(legacy::arpl_r)
        }
        _ => None,
    }
}

/// The operand size of ENTER and LEAVE in bits.
fn frame_bits(i: &Instruction) -> u32 {
    use iced_x86::Code;
    match i.code() {
        Code::Enterw_imm16_imm8 | Code::Leavew => 16,
        Code::Enterd_imm16_imm8 | Code::Leaved => 32,
        _ => 64,
    }
}

/// Puts a near branch's target, relative to the block, into `imm`, its operand size into `aux`.
fn near_target(op: &mut Op, i: &Instruction) {
    op.imm = i.near_branch_target();
    op.aux = match i.op0_kind() {
        OpKind::NearBranch16 => 16,
        OpKind::NearBranch32 => 32,
        _ => 64,
    };
}

fn is_near_immediate(i: &Instruction) -> bool {
    matches!(i.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64)
}

/// Puts a far branch's offset into `imm` and its selector into `disp`; gives the operand size.
fn far_target(op: &mut Op, i: &Instruction) -> Option<u32> {
    let (offset, size) = match i.op0_kind() {
        OpKind::FarBranch16 => (u32::from(i.far_branch16()), 16),
        OpKind::FarBranch32 => (i.far_branch32(), 32),
        _ => return None,
    };
    op.imm = u64::from(offset);
    op.disp = u64::from(i.far_branch_selector());
    Some(size)
}

/// The offset's size of a far pointer in memory, in bits.
fn far_pointer_bits(i: &Instruction) -> usize {
    i.memory_size().size() * 8 - 16
}

fn jmp(op: &mut Op, i: &Instruction) -> Option<Choice> {
    if is_near_immediate(i) {
        near_target(op, i);
        return Choice::branch(branch::jmp);
    }
    if far_target(op, i).is_some() {
        return Choice::branch(far::jmp_far_i);
    }
    if i.is_jmp_far_indirect() {
        return Choice::branch(for_wide_size!(far_pointer_bits(i), |T| far::jmp_far_m::<T>));
    }
    if is_memory(i, 0) {
        return Choice::branch(for_wide_size!(bits(i, 0), |T| branch::jmp_m::<T>));
    }
    op.dst = register(i.op0_register());
    Choice::branch(for_wide_size!(bits(i, 0), |T| branch::jmp_r::<T>))
}

fn call(op: &mut Op, i: &Instruction) -> Option<Choice> {
    if is_near_immediate(i) {
        near_target(op, i);
        return Choice::branch(for_wide_size!(op.aux, |T| branch::call::<T>));
    }
    if let Some(size) = far_target(op, i) {
        return Choice::branch(for_wide_size!(size, |T| far::call_far_i::<T>));
    }
    if i.is_call_far_indirect() {
        return Choice::branch(for_wide_size!(far_pointer_bits(i), |T| far::call_far_m::<T>));
    }
    if is_memory(i, 0) {
        return Choice::branch(for_wide_size!(bits(i, 0), |T| branch::call_m::<T>));
    }
    op.dst = register(i.op0_register());
    Choice::branch(for_wide_size!(bits(i, 0), |T| branch::call_r::<T>))
}

fn loop_(op: &mut Op, i: &Instruction, kind: u8) -> Option<Choice> {
    near_target(op, i);
    op.dst = kind;
    op.src = i.code().op_code().address_size() as u8;
    Choice::branch(branch::loop_)
}

fn jcxz(op: &mut Op, i: &Instruction, count_bits: u8) -> Option<Choice> {
    near_target(op, i);
    op.src = count_bits;
    Choice::branch(branch::jcxz)
}

fn push(op: &mut Op, i: &Instruction) -> Option<Choice> {
    let size = i.stack_pointer_increment().unsigned_abs() * 8;
    if i.op0_kind() == OpKind::Register && i.op0_register().is_segment_register() {
        op.src = segment_number(i.op0_register());
        return Choice::plain(for_wide_size!(size, |T| stack::push_segment::<T>));
    }
    if is_memory(i, 0) {
        return Choice::plain(for_wide_size!(size, |T| stack::push_m::<T>));
    }
    if let Some(value) = immediate(i, 0) {
        op.imm = value;
        return Choice::plain(for_wide_size!(size, |T| stack::push_i::<T>));
    }
    op.dst = register(i.op0_register());
    Choice::plain(for_wide_size!(size, |T| stack::push_r::<T>))
}

fn pop(op: &mut Op, i: &Instruction) -> Option<Choice> {
    let size = i.stack_pointer_increment().unsigned_abs() * 8;
    if i.op0_kind() == OpKind::Register && i.op0_register().is_segment_register() {
        op.src = segment_number(i.op0_register());
        let handler = for_wide_size!(size, |T| stack::pop_segment::<T>);
        return if i.op0_register() == Register::SS {
            Choice::serializing(handler)
        } else {
            Choice::plain(handler)
        };
    }
    if is_memory(i, 0) {
        return Choice::plain(for_wide_size!(size, |T| stack::pop_m::<T>));
    }
    op.dst = register(i.op0_register());
    Choice::plain(for_wide_size!(size, |T| stack::pop_r::<T>))
}
