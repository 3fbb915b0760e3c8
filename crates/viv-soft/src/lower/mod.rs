//! From a decoded instruction to the [`Op`] that does it.
//!
//! Everything that can be decided once is decided here: operand sizes and places, address forms, whether the block
//! ends. Instructions with a handler of their own are matched by mnemonic, group by group; of the rest, those that
//! only compute run on the host, and what is left is undefined.

mod control;
mod data;
mod operand;
mod system;
mod vector;

use iced_x86::{Instruction, Mnemonic};

use crate::cpu::Bitness;
use crate::hostexec::ArenaError;
use crate::op::{AddressKind, Handler, Op, SLOT_ZERO};
use crate::ops::host::{self, HostCode};
use crate::ops::system::undefined;

/// An instruction ready to run.
pub struct Lowered {
    pub op: Op,
    /// Whether the block ends with it.
    pub ends_block: bool,
}

/// What a group of instructions makes of one of its own.
struct Choice {
    run: Handler,
    ends_block: bool,
    sets_rip: bool,
}

impl Choice {
    /// Goes on with the next instruction.
    fn plain(run: Handler) -> Option<Self> {
        Some(Self { run, ends_block: false, sets_rip: false })
    }

    /// Changes what the following instructions mean, or what must be looked at before them.
    fn serializing(run: Handler) -> Option<Self> {
        Some(Self { run, ends_block: true, sets_rip: false })
    }

    /// Goes on elsewhere.
    fn branch(run: Handler) -> Option<Self> {
        Some(Self { run, ends_block: true, sets_rip: true })
    }
}

/// Lowers one instruction, decoded with an instruction pointer that is relative to its block.
///
/// # Errors
/// When the memory for host-executed instructions is full: everything decoded must be dropped.
pub fn lower(
    instruction: &Instruction,
    bitness: Bitness,
    host: &mut HostCode,
) -> Result<Lowered, ArenaError> {
    let mut op = Op {
        run: undefined,
        imm: 0,
        disp: 0,
        end: instruction.next_ip() as u16,
        len: instruction.len() as u8,
        dst: 0,
        src: 0,
        base: SLOT_ZERO,
        index: SLOT_ZERO,
        scale: 0,
        segment: 0,
        address: AddressKind::Flat,
        sets_rip: false,
        aux: 0,
    };
    operand::memory(&mut op, instruction, bitness);
    let choice = data::lower(&mut op, instruction)
        .or_else(|| control::lower(&mut op, instruction))
        .or_else(|| system::lower(&mut op, instruction, bitness))
        .or_else(|| vector::lower(&mut op, instruction));
    let choice = match choice {
        Some(choice) => choice,
        None => match host.prepare(instruction)? {
            Some(number) => {
                op.imm = number;
                Choice { run: host::execute, ends_block: false, sets_rip: false }
            }
            None => {
                if !matches!(
                    instruction.mnemonic(),
                    Mnemonic::INVALID | Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2
                ) {
                    tracing::debug!(code = ?instruction.code(), "an instruction that this processor does not have");
                }
                Choice { run: undefined, ends_block: true, sets_rip: false }
            }
        },
    };
    op.run = choice.run;
    op.sets_rip = choice.sets_rip;
    Ok(Lowered { op, ends_block: choice.ends_block })
}
