//! What an instruction does to its memory operand.

use std::cell::RefCell;

use iced_x86::{Instruction, InstructionInfoFactory, InstructionInfoOptions, OpAccess, OpKind};

/// How an instruction accesses its memory operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryAccess {
    /// Bytes.
    pub size: usize,
    /// Whether the operand is read.
    pub read: bool,
    /// Whether the operand is, or may be, written. Memory must then be writable whatever the instruction does,
    /// as the processor demands it.
    pub write: bool,
}

/// Whether one of the operands is memory.
pub(super) fn has_operand(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|operand| instruction.op_kind(operand) == OpKind::Memory)
}

/// How the instruction accesses its memory operand: `None` if it has none, does not touch it (LEA), or the
/// size is not fixed by the instruction.
#[must_use]
pub fn memory_access(instruction: &Instruction) -> Option<MemoryAccess> {
    thread_local! {
        // The factory owns the vectors of its answers; making one per question would allocate.
        static FACTORY: RefCell<InstructionInfoFactory> = RefCell::new(InstructionInfoFactory::new());
    }
    let operand = (0..instruction.op_count()).find(|n| instruction.op_kind(*n) == OpKind::Memory)?;
    let size = instruction.memory_size().size();
    if size == 0 {
        return None;
    }
    let access = FACTORY.with_borrow_mut(|factory| {
        factory.info_options(instruction, InstructionInfoOptions::NO_REGISTER_USAGE).op_access(operand)
    });
    let (read, write) = match access {
        OpAccess::Read | OpAccess::CondRead => (true, false),
        OpAccess::Write | OpAccess::CondWrite => (false, true),
        OpAccess::ReadWrite | OpAccess::ReadCondWrite => (true, true),
        OpAccess::None | OpAccess::NoMemAccess => return None,
    };
    Some(MemoryAccess { size, read, write })
}
