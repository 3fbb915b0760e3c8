//! Operands: registers as byte offsets, memory as slots of the register file.

use iced_x86::{Instruction, OpKind, Register};

use crate::cpu::Bitness;
use crate::op::{AddressKind, Op, SLOT_BLOCK, SLOT_ZERO};

/// A handler for one operand type: `typed!(u8, T, handler::<T>)`.
macro_rules! typed {
    ($type:ty, $t:ident, $handler:expr) => {{
        type $t = $type;
        $handler as $crate::op::Handler
    }};
}

/// Picks a handler by operand size: `for_size!(bits, |T| handler::<T>)`.
macro_rules! for_size {
    ($bits:expr, |$t:ident| $handler:expr) => {
        match $bits {
            8 => $crate::lower::operand::typed!(u8, $t, $handler),
            wide => $crate::lower::operand::for_wide_size!(wide, |$t| $handler),
        }
    };
}

/// The same for instructions without a byte form.
macro_rules! for_wide_size {
    ($bits:expr, |$t:ident| $handler:expr) => {
        match $bits {
            16 => $crate::lower::operand::typed!(u16, $t, $handler),
            32 => $crate::lower::operand::typed!(u32, $t, $handler),
            _ => $crate::lower::operand::typed!(u64, $t, $handler),
        }
    };
}

/// Picks a handler by condition code: `for_condition!(cc, |CC| handler::<CC>)`.
macro_rules! for_condition {
    ($cc:expr, |$c:ident| $handler:expr) => {
        for_condition!(@match $cc, $c, $handler, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    (@match $cc:expr, $c:ident, $handler:expr, $($n:literal)*) => {
        match $cc {
            $($n => {
                const $c: u8 = $n;
                $handler as $crate::op::Handler
            })*
            _ => unreachable!("there are sixteen condition codes"),
        }
    };
}

pub(super) use {for_condition, for_size, for_wide_size, typed};

/// Where a general register, or a part of one, lies in the register file.
pub fn register(register: Register) -> u8 {
    match register {
        Register::AH => 1,
        Register::CH => 9,
        Register::DH => 17,
        Register::BH => 25,
        _ => register.full_register().number() as u8 * 8,
    }
}

/// The size of operand `n` in bits.
pub fn bits(instruction: &Instruction, n: u32) -> usize {
    match instruction.op_kind(n) {
        OpKind::Register => instruction.op_register(n).size() * 8,
        OpKind::Memory => instruction.memory_size().size() * 8,
        _ => 0,
    }
}

/// Whether operand `n` is a general register.
pub fn is_gpr(instruction: &Instruction, n: u32) -> bool {
    instruction.op_kind(n) == OpKind::Register && instruction.op_register(n).is_gpr()
}

/// Whether operand `n` is memory.
pub fn is_memory(instruction: &Instruction, n: u32) -> bool {
    n < instruction.op_count() && instruction.op_kind(n) == OpKind::Memory
}

/// The immediate operand `n`, sign-extended as the instruction has it.
pub fn immediate(instruction: &Instruction, n: u32) -> Option<u64> {
    if n < instruction.op_count() { instruction.try_immediate(n).ok() } else { None }
}

/// A segment register's number.
pub fn segment_number(register: Register) -> u8 {
    match register {
        Register::ES => 0,
        Register::CS => 1,
        Register::SS => 2,
        Register::FS => 4,
        Register::GS => 5,
        _ => 3,
    }
}

/// The address size of the memory operand, or of the string operand, in bits.
pub fn address_bits(instruction: &Instruction, bitness: Bitness) -> u8 {
    for n in 0..instruction.op_count() {
        match instruction.op_kind(n) {
            OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => return 16,
            OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => return 32,
            OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => return 64,
            _ => {}
        }
    }
    let of_register = |register: Register| match register {
        Register::None => None,
        Register::EIP => Some(32),
        Register::RIP => Some(64),
        register if register.is_gpr() => Some(register.size() as u8 * 8),
        _ => None,
    };
    of_register(instruction.memory_base()).or_else(|| of_register(instruction.memory_index())).unwrap_or_else(
        || match (bitness, instruction.memory_displ_size()) {
            (_, 2) => 16,
            (_, 4) => 32,
            (_, 8) | (Bitness::Bits64, _) => 64,
            (Bitness::Bits32, _) => 32,
            (Bitness::Bits16, _) => 16,
        },
    )
}

fn address_kind(bits: u8, segment: u8, bitness: Bitness) -> AddressKind {
    match (bitness, bits) {
        (Bitness::Bits64, 64) if segment >= 4 => AddressKind::Based,
        (Bitness::Bits64, 64) => AddressKind::Flat,
        (Bitness::Bits64, _) => AddressKind::Narrow,
        (_, 16) => AddressKind::Segmented16,
        _ => AddressKind::Segmented32,
    }
}

fn slot(register: Register) -> u8 {
    match register {
        Register::RIP | Register::EIP => SLOT_BLOCK,
        // XLAT adds its AL by itself.
        Register::AL => SLOT_ZERO,
        register if register.is_gpr() => register.full_register().number() as u8,
        _ => SLOT_ZERO,
    }
}

/// Fills in the memory operand, if there is one.
pub fn memory(op: &mut Op, instruction: &Instruction, bitness: Bitness) {
    let has_memory = (0..instruction.op_count()).any(|n| {
        matches!(
            instruction.op_kind(n),
            OpKind::Memory
                | OpKind::MemorySegSI
                | OpKind::MemorySegESI
                | OpKind::MemorySegRSI
                | OpKind::MemorySegDI
                | OpKind::MemorySegEDI
                | OpKind::MemorySegRDI
                | OpKind::MemoryESDI
                | OpKind::MemoryESEDI
                | OpKind::MemoryESRDI
        )
    });
    if !has_memory {
        return;
    }
    op.segment = segment_number(instruction.memory_segment());
    op.address = address_kind(address_bits(instruction, bitness), op.segment, bitness);
    if !(0..instruction.op_count()).any(|n| instruction.op_kind(n) == OpKind::Memory) {
        return;
    }
    op.base = slot(instruction.memory_base());
    op.index = slot(instruction.memory_index());
    op.scale = instruction.memory_index_scale().trailing_zeros() as u8;
    op.disp = instruction.memory_displacement64();
}
