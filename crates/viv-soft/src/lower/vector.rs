//! Vector moves, and vector instructions that access memory in parts.

use iced_x86::{EncodingKind, Instruction, Mnemonic, OpKind};

use super::Choice;
use super::operand::is_memory;
use crate::op::Op;
use crate::ops::vector::{self, ALIGNED, VEX, WIDE};

/// Lowers instructions of this group.
pub fn lower(op: &mut Op, i: &Instruction) -> Option<Choice> {
    match i.mnemonic() {
        Mnemonic::Movups
        | Mnemonic::Movupd
        | Mnemonic::Movdqu
        | Mnemonic::Lddqu
        | Mnemonic::Vmovups
        | Mnemonic::Vmovupd
        | Mnemonic::Vmovdqu
        | Mnemonic::Vlddqu => move_(op, i, 0),
        Mnemonic::Movaps
        | Mnemonic::Movapd
        | Mnemonic::Movdqa
        | Mnemonic::Movntps
        | Mnemonic::Movntpd
        | Mnemonic::Movntdq
        | Mnemonic::Movntdqa
        | Mnemonic::Vmovaps
        | Mnemonic::Vmovapd
        | Mnemonic::Vmovdqa
        | Mnemonic::Vmovntps
        | Mnemonic::Vmovntpd
        | Mnemonic::Vmovntdq
        | Mnemonic::Vmovntdqa => move_(op, i, ALIGNED),
        Mnemonic::Vzeroupper => Choice::plain(vector::vzeroupper),
        Mnemonic::Vzeroall => Choice::plain(vector::vzeroall),
        Mnemonic::Ldmxcsr => Choice::plain(vector::ldmxcsr),
        Mnemonic::Stmxcsr => Choice::plain(vector::stmxcsr),
        Mnemonic::Vldmxcsr => with_vex(op, vector::ldmxcsr),
        Mnemonic::Vstmxcsr => with_vex(op, vector::stmxcsr),
        Mnemonic::Maskmovdqu => byte_mask(op, i, 0, vector::maskmovdqu),
        Mnemonic::Vmaskmovdqu => byte_mask(op, i, VEX, vector::maskmovdqu),
        Mnemonic::Maskmovq => byte_mask(op, i, 0, vector::maskmovq),
        Mnemonic::Vmaskmovps | Mnemonic::Vpmaskmovd => masked(op, i, 4),
        Mnemonic::Vmaskmovpd | Mnemonic::Vpmaskmovq => masked(op, i, 8),
        Mnemonic::Vgatherdps | Mnemonic::Vpgatherdd => gather(op, i, 4, 4),
        Mnemonic::Vgatherdpd | Mnemonic::Vpgatherdq => gather(op, i, 8, 4),
        Mnemonic::Vgatherqps | Mnemonic::Vpgatherqd => gather(op, i, 4, 8),
        Mnemonic::Vgatherqpd | Mnemonic::Vpgatherqq => gather(op, i, 8, 8),
        _ => None,
    }
}

fn number(i: &Instruction, n: u32) -> u8 {
    i.op_register(n).number() as u8
}

fn with_vex(op: &mut Op, handler: crate::op::Handler) -> Option<Choice> {
    op.aux = VEX;
    Choice::plain(handler)
}

fn is_wide(i: &Instruction) -> bool {
    (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Register && i.op_register(n).is_ymm())
}

fn move_(op: &mut Op, i: &Instruction, alignment: u8) -> Option<Choice> {
    let vex = match i.code().op_code().encoding() {
        EncodingKind::Legacy => 0,
        EncodingKind::VEX => VEX,
        _ => return None,
    };
    op.aux = alignment | vex | if is_wide(i) { WIDE } else { 0 };
    if is_memory(i, 0) {
        op.src = number(i, 1);
        return Choice::plain(vector::store);
    }
    op.dst = number(i, 0);
    if is_memory(i, 1) {
        return Choice::plain(vector::load);
    }
    op.src = number(i, 1);
    Choice::plain(vector::copy)
}

/// MASKMOVDQU and MASKMOVQ: the memory operand is DS:RDI.
fn byte_mask(op: &mut Op, i: &Instruction, aux: u8, handler: crate::op::Handler) -> Option<Choice> {
    op.base = viv_arch::Gpr::Rdi as u8;
    op.dst = number(i, 1);
    op.src = number(i, 2);
    op.aux = aux;
    Choice::plain(handler)
}

fn masked(op: &mut Op, i: &Instruction, size: u64) -> Option<Choice> {
    op.imm = size;
    op.aux = if is_wide(i) { WIDE } else { 0 };
    op.src = number(i, 1);
    if is_memory(i, 0) {
        op.dst = number(i, 2);
        return Choice::plain(vector::masked_store);
    }
    op.dst = number(i, 0);
    Choice::plain(vector::masked_load)
}

fn gather(op: &mut Op, i: &Instruction, size: u64, index_size: u64) -> Option<Choice> {
    if i.code().op_code().encoding() != EncodingKind::VEX {
        return None;
    }
    op.imm = size | index_size << 8;
    // The number of elements follows from the wider of the two operands.
    op.aux = if is_wide(i) || i.memory_index().is_ymm() { WIDE } else { 0 };
    op.dst = number(i, 0);
    op.src = number(i, 2);
    op.index = i.memory_index().number() as u8;
    Choice::plain(vector::gather)
}
