//! Moves, integer arithmetic, shifts, bits and strings.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::Choice;
use super::operand::{
    bits, for_condition, for_size, for_wide_size, immediate, is_gpr, is_memory, register, segment_number,
};
use crate::op::{Handler, Op};
use crate::ops::alu::{self, Binary, Unary};
use crate::ops::shift::{self, Shift};
use crate::ops::{bits as bit, mov, segment, string};

/// Lowers instructions of this group.
pub fn lower(op: &mut Op, i: &Instruction) -> Option<Choice> {
    match i.mnemonic() {
        Mnemonic::Mov => mov_(op, i),
        Mnemonic::Add => binary::<alu::Add>(op, i),
        Mnemonic::Or => binary::<alu::Or>(op, i),
        Mnemonic::Adc => binary::<alu::Adc>(op, i),
        Mnemonic::Sbb => binary::<alu::Sbb>(op, i),
        Mnemonic::And => binary::<alu::And>(op, i),
        Mnemonic::Sub => binary::<alu::Sub>(op, i),
        Mnemonic::Xor => binary::<alu::Xor>(op, i),
        Mnemonic::Cmp => binary::<alu::Cmp>(op, i),
        Mnemonic::Test => binary::<alu::Test>(op, i),
        Mnemonic::Inc => unary::<alu::Inc>(op, i),
        Mnemonic::Dec => unary::<alu::Dec>(op, i),
        Mnemonic::Neg => unary::<alu::Neg>(op, i),
        Mnemonic::Not => unary::<alu::Not>(op, i),
        Mnemonic::Shl | Mnemonic::Sal => shift_::<shift::Shl>(op, i),
        Mnemonic::Shr => shift_::<shift::Shr>(op, i),
        Mnemonic::Sar => shift_::<shift::Sar>(op, i),
        Mnemonic::Rol if !is_long_rotation(i) => shift_::<shift::Rol>(op, i),
        Mnemonic::Ror if !is_long_rotation(i) => shift_::<shift::Ror>(op, i),
        Mnemonic::Imul => imul(op, i),
        Mnemonic::Lea => lea(op, i),
        Mnemonic::Movzx => extend(op, i, false),
        Mnemonic::Movsx | Mnemonic::Movsxd => extend(op, i, true),
        Mnemonic::Xchg => xchg(op, i),
        Mnemonic::Bswap => bswap(op, i),
        Mnemonic::Bt => bit_string(op, i, 0),
        Mnemonic::Bts => bit_string(op, i, 1),
        Mnemonic::Btr => bit_string(op, i, 2),
        Mnemonic::Btc => bit_string(op, i, 3),
        Mnemonic::Cbw => Choice::plain(mov::widen::<u8, u16>),
        Mnemonic::Cwde => Choice::plain(mov::widen::<u16, u32>),
        Mnemonic::Cdqe => Choice::plain(mov::widen::<u32, u64>),
        Mnemonic::Cwd => Choice::plain(mov::sign_to_dx::<u16>),
        Mnemonic::Cdq => Choice::plain(mov::sign_to_dx::<u32>),
        Mnemonic::Cqo => Choice::plain(mov::sign_to_dx::<u64>),
        Mnemonic::Xlatb => Choice::plain(mov::xlat),
        Mnemonic::Lahf => Choice::plain(mov::lahf),
        Mnemonic::Sahf => Choice::plain(mov::sahf),
        Mnemonic::Clc => flags(op, !1, 0),
        Mnemonic::Stc => flags(op, !0, 1),
        Mnemonic::Cld => flags(op, !(1 << 10), 0),
        Mnemonic::Std => flags(op, !0, 1 << 10),
        Mnemonic::Cmc => Choice::plain(mov::cmc),
        _ => conditional(op, i).or_else(|| strings(op, i)),
    }
}

fn flags(op: &mut Op, keep: u64, set: u64) -> Option<Choice> {
    op.imm = keep;
    op.disp = set;
    Choice::plain(mov::change_flags)
}

fn mov_(op: &mut Op, i: &Instruction) -> Option<Choice> {
    let (to, from) = (i.op0_register(), i.op1_register());
    if i.op0_kind() == OpKind::Register && to.is_segment_register() {
        op.dst = segment_number(to);
        let handler: Handler = if is_memory(i, 1) {
            segment::mov_to_segment_m
        } else {
            op.src = register(from);
            segment::mov_to_segment_r
        };
        return if to == Register::SS { Choice::serializing(handler) } else { Choice::plain(handler) };
    }
    if i.op1_kind() == OpKind::Register && from.is_segment_register() {
        op.src = segment_number(from);
        if is_memory(i, 0) {
            return Choice::plain(segment::mov_from_segment_m);
        }
        op.dst = register(to);
        return Choice::plain(for_wide_size!(bits(i, 0), |T| segment::mov_from_segment_r::<T>));
    }
    let size = bits(i, 0);
    if is_memory(i, 0) {
        if let Some(value) = immediate(i, 1) {
            op.imm = value;
            return Choice::plain(for_size!(size, |T| mov::mi::<T>));
        }
        if !is_gpr(i, 1) {
            return None;
        }
        op.src = register(from);
        return Choice::plain(for_size!(size, |T| mov::mr::<T>));
    }
    if !is_gpr(i, 0) {
        return None;
    }
    op.dst = register(to);
    if let Some(value) = immediate(i, 1) {
        op.imm = value;
        return Choice::plain(for_size!(size, |T| mov::ri::<T>));
    }
    if is_memory(i, 1) {
        return Choice::plain(for_size!(size, |T| mov::rm::<T>));
    }
    if !is_gpr(i, 1) {
        return None;
    }
    op.src = register(from);
    Choice::plain(for_size!(size, |T| mov::rr::<T>))
}

fn binary<O: Binary>(op: &mut Op, i: &Instruction) -> Option<Choice> {
    if i.has_lock_prefix() {
        return None;
    }
    let size = bits(i, 0);
    if is_memory(i, 0) {
        if let Some(value) = immediate(i, 1) {
            op.imm = value;
            return Choice::plain(for_size!(size, |T| alu::mi::<O, T>));
        }
        op.src = register(i.op1_register());
        return Choice::plain(for_size!(size, |T| alu::mr::<O, T>));
    }
    op.dst = register(i.op0_register());
    if let Some(value) = immediate(i, 1) {
        op.imm = value;
        return Choice::plain(for_size!(size, |T| alu::ri::<O, T>));
    }
    if is_memory(i, 1) {
        return Choice::plain(for_size!(size, |T| alu::rm::<O, T>));
    }
    op.src = register(i.op1_register());
    Choice::plain(for_size!(size, |T| alu::rr::<O, T>))
}

fn unary<O: Unary>(op: &mut Op, i: &Instruction) -> Option<Choice> {
    if i.has_lock_prefix() {
        return None;
    }
    if is_memory(i, 0) {
        return Choice::plain(for_size!(bits(i, 0), |T| alu::unary_m::<O, T>));
    }
    op.dst = register(i.op0_register());
    Choice::plain(for_size!(bits(i, 0), |T| alu::unary_r::<O, T>))
}

/// Whether it is a rotation by a fixed number of bits other than one. Processors may leave OF something else after
/// these than after one by CL, so that the host executes them as they are.
fn is_long_rotation(i: &Instruction) -> bool {
    i.op1_kind() == OpKind::Immediate8 && i.immediate8() & 31 != 1
}

fn shift_<O: Shift>(op: &mut Op, i: &Instruction) -> Option<Choice> {
    let by_cl = i.op1_kind() == OpKind::Register;
    op.imm = immediate(i, 1).unwrap_or(0);
    let size = bits(i, 0);
    if is_memory(i, 0) {
        return Choice::plain(if by_cl {
            for_size!(size, |T| shift::mc::<O, T>)
        } else {
            for_size!(size, |T| shift::mi::<O, T>)
        });
    }
    op.dst = register(i.op0_register());
    Choice::plain(if by_cl {
        for_size!(size, |T| shift::rc::<O, T>)
    } else {
        for_size!(size, |T| shift::ri::<O, T>)
    })
}

/// The forms with two and three operands; the one with one is left to the host.
fn imul(op: &mut Op, i: &Instruction) -> Option<Choice> {
    let size = bits(i, 0);
    op.dst = register(i.op0_register());
    if !is_memory(i, 1) && i.op_count() > 1 {
        op.src = register(i.op1_register());
    }
    match i.op_count() {
        2 if is_memory(i, 1) => Choice::plain(for_wide_size!(size, |T| alu::imul_rm::<T>)),
        2 => Choice::plain(for_wide_size!(size, |T| alu::imul_rr::<T>)),
        3 => {
            op.imm = immediate(i, 2)?;
            Choice::plain(if is_memory(i, 1) {
                for_wide_size!(size, |T| alu::imul_rmi::<T>)
            } else {
                for_wide_size!(size, |T| alu::imul_rri::<T>)
            })
        }
        _ => None,
    }
}

fn lea(op: &mut Op, i: &Instruction) -> Option<Choice> {
    use crate::op::AddressKind;
    op.dst = register(i.op0_register());
    op.aux = match op.address {
        AddressKind::Flat | AddressKind::Based => 64,
        AddressKind::Narrow | AddressKind::Segmented32 => 32,
        AddressKind::Segmented16 => 16,
    };
    Choice::plain(for_wide_size!(bits(i, 0), |T| mov::lea::<T>))
}

fn extend(op: &mut Op, i: &Instruction, signed: bool) -> Option<Choice> {
    op.dst = register(i.op0_register());
    let from_memory = is_memory(i, 1);
    if !from_memory {
        op.src = register(i.op1_register());
    }
    macro_rules! pick {
        ($source:ty) => {
            match (signed, from_memory) {
                (false, false) => for_wide_size!(bits(i, 0), |T| mov::zero_extend_r::<$source, T>),
                (false, true) => for_wide_size!(bits(i, 0), |T| mov::zero_extend_m::<$source, T>),
                (true, false) => for_wide_size!(bits(i, 0), |T| mov::sign_extend_r::<$source, T>),
                (true, true) => for_wide_size!(bits(i, 0), |T| mov::sign_extend_m::<$source, T>),
            }
        };
    }
    Choice::plain(match bits(i, 1) {
        8 => pick!(u8),
        16 => pick!(u16),
        _ => pick!(u32),
    })
}

fn xchg(op: &mut Op, i: &Instruction) -> Option<Choice> {
    let size = bits(i, 0);
    op.src = register(i.op1_register());
    if is_memory(i, 0) {
        return Choice::plain(for_size!(size, |T| mov::xchg_mr::<T>));
    }
    op.dst = register(i.op0_register());
    Choice::plain(for_size!(size, |T| mov::xchg_rr::<T>))
}

fn bswap(op: &mut Op, i: &Instruction) -> Option<Choice> {
    op.dst = register(i.op0_register());
    match bits(i, 0) {
        32 => Choice::plain(mov::bswap32),
        64 => Choice::plain(mov::bswap64),
        // The 16-bit form is undefined: it does what the host makes of it.
        _ => None,
    }
}

/// Bit tests with a register offset into memory; the others are left to the host.
fn bit_string(op: &mut Op, i: &Instruction, action: u8) -> Option<Choice> {
    if !is_memory(i, 0) || i.op1_kind() != OpKind::Register {
        return None;
    }
    op.src = register(i.op1_register());
    op.aux = action | if i.has_lock_prefix() { 4 } else { 0 };
    Choice::plain(for_wide_size!(bits(i, 0), |T| bit::bit_mr::<T>))
}

/// CMOVcc and SETcc.
fn conditional(op: &mut Op, i: &Instruction) -> Option<Choice> {
    let code = i.code();
    if code.is_jcc_short_or_near() || code.is_loopcc() {
        return None;
    }
    let cc = (i.condition_code() as u8).checked_sub(1)?;
    if i.op_count() == 1 {
        if is_memory(i, 0) {
            return Choice::plain(for_condition!(cc, |CC| mov::set_m::<CC>));
        }
        op.dst = register(i.op0_register());
        return Choice::plain(for_condition!(cc, |CC| mov::set_r::<CC>));
    }
    if !is_gpr(i, 0) {
        return None;
    }
    op.dst = register(i.op0_register());
    let size = bits(i, 0);
    if is_memory(i, 1) {
        return Choice::plain(for_condition!(cc, |CC| for_wide_size!(size, |T| mov::cmov_rm::<CC, T>)));
    }
    op.src = register(i.op1_register());
    Choice::plain(for_condition!(cc, |CC| for_wide_size!(size, |T| mov::cmov_rr::<CC, T>)))
}

fn strings(op: &mut Op, i: &Instruction) -> Option<Choice> {
    if i.has_repne_prefix() {
        op.aux = string::REPNE;
    } else if i.has_rep_prefix() {
        op.aux = string::REP;
    }
    match i.mnemonic() {
        Mnemonic::Movsb => Choice::plain(string::movs::<u8>),
        Mnemonic::Movsw => Choice::plain(string::movs::<u16>),
        Mnemonic::Movsd if i.is_string_instruction() => Choice::plain(string::movs::<u32>),
        Mnemonic::Movsq => Choice::plain(string::movs::<u64>),
        Mnemonic::Stosb => Choice::plain(string::stos::<u8>),
        Mnemonic::Stosw => Choice::plain(string::stos::<u16>),
        Mnemonic::Stosd => Choice::plain(string::stos::<u32>),
        Mnemonic::Stosq => Choice::plain(string::stos::<u64>),
        Mnemonic::Lodsb => Choice::plain(string::lods::<u8>),
        Mnemonic::Lodsw => Choice::plain(string::lods::<u16>),
        Mnemonic::Lodsd => Choice::plain(string::lods::<u32>),
        Mnemonic::Lodsq => Choice::plain(string::lods::<u64>),
        Mnemonic::Scasb => Choice::plain(string::scas::<u8>),
        Mnemonic::Scasw => Choice::plain(string::scas::<u16>),
        Mnemonic::Scasd => Choice::plain(string::scas::<u32>),
        Mnemonic::Scasq => Choice::plain(string::scas::<u64>),
        Mnemonic::Cmpsb => Choice::plain(string::cmps::<u8>),
        Mnemonic::Cmpsw => Choice::plain(string::cmps::<u16>),
        Mnemonic::Cmpsd if i.is_string_instruction() => Choice::plain(string::cmps::<u32>),
        Mnemonic::Cmpsq => Choice::plain(string::cmps::<u64>),
        Mnemonic::Insb => Choice::plain(string::ins::<u8>),
        Mnemonic::Insw => Choice::plain(string::ins::<u16>),
        Mnemonic::Insd => Choice::plain(string::ins::<u32>),
        Mnemonic::Outsb => Choice::plain(string::outs::<u8>),
        Mnemonic::Outsw => Choice::plain(string::outs::<u16>),
        Mnemonic::Outsd => Choice::plain(string::outs::<u32>),
        _ => {
            op.aux = 0;
            None
        }
    }
}
