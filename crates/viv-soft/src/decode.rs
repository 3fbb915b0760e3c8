//! Decoding: from bytes at a guest-physical address to a block.

use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction};
use viv_arch::paging;

use crate::block::{Block, Source};
use crate::cpu::{Bitness, Cpu, Exec, Fault, Pending};
use crate::debug::GUARD;
use crate::hostexec::ArenaError;
use crate::lower::{Lowered, lower};
use crate::op::Op;

/// The most instructions that a block holds.
const MAX_OPS: usize = 64;
/// The most bytes that a block is decoded from, unless its one instruction runs into the next page.
const MAX_BYTES: usize = 256;
/// The longest instruction.
pub const MAX_LENGTH: usize = 15;

/// Why there is no block.
pub enum DecodeError {
    /// The fetch faulted; the CPU has the exception.
    Fault,
    /// The memory for code is full: everything decoded must be dropped first.
    Full(ArenaError),
}

impl From<Fault> for DecodeError {
    fn from(_: Fault) -> Self {
        Self::Fault
    }
}

/// Decodes the block at linear address `linear`, which is at guest-physical address `phys`. Its
/// instructions are first put into `ops`.
pub fn decode(cpu: &mut Cpu, linear: u64, phys: u64, ops: &mut Vec<Op>) -> Result<Block, DecodeError> {
    let offset = (phys & paging::PAGE_OFFSET) as usize;
    let mut bytes = [0; MAX_BYTES + MAX_LENGTH];
    let in_page = (paging::PAGE_SIZE as usize - offset).min(MAX_BYTES);
    let source = note_source(cpu, phys)?;
    cpu.read_physical(phys, &mut bytes[..in_page]);
    let bitness = cpu.bitness;
    ops.clear();
    if cpu.guards.contains(phys) {
        ops.push(GUARD);
    }
    let guards = ops.len();
    let mut decoder = decoder_of(&bytes[..in_page], bitness);
    let mut instruction = Instruction::default();
    while ops.len() < MAX_OPS && decoder.can_decode() {
        if ops.len() > guards && cpu.guards.contains(phys + decoder.position() as u64) {
            break;
        }
        decoder.decode_out(&mut instruction);
        if decoder.last_error() == DecoderError::NoMoreBytes {
            break;
        }
        let Lowered { op, ends_block } = lower_one(cpu, &instruction)?;
        ops.push(op);
        if ends_block {
            break;
        }
    }
    if ops.len() > guards {
        return Ok(Block::new(ops.as_slice().into(), source, None));
    }
    // The first instruction runs into the next page, which is fetched only now that it is needed.
    let next_phys = cpu.translate_fetch(cpu.next_code_page(linear))?.phys;
    let second = note_source(cpu, next_phys)?;
    cpu.read_physical(next_phys, &mut bytes[in_page..in_page + MAX_LENGTH]);
    let instruction = decoder_of(&bytes[..in_page + MAX_LENGTH], bitness).decode();
    let Lowered { op, .. } = lower_one(cpu, &instruction)?;
    ops.push(op);
    Ok(Block::new(ops.as_slice().into(), source, Some(second)))
}

/// A decoder whose addresses are relative to the first of `bytes`.
fn decoder_of(bytes: &[u8], bitness: Bitness) -> Decoder<'_> {
    let bits = match bitness {
        Bitness::Bits16 => 16,
        Bitness::Bits32 => 32,
        Bitness::Bits64 => 64,
    };
    // 0F 18 to 0F 1F do nothing on a processor without what some of them were made into since (CET's RDSSP, MPX,
    // CLDEMOTE), and programs use them on any.
    Decoder::with_ip(bits, bytes, 0, DecoderOptions::FORCE_RESERVED_NOP)
}

fn lower_one(cpu: &mut Cpu, instruction: &Instruction) -> Result<Lowered, DecodeError> {
    let mut lowered = lower(instruction, cpu.bitness, &mut cpu.host).map_err(DecodeError::Full)?;
    // The decoder gives up after the fifteenth byte, which is a matter of protection, not of opcodes.
    if instruction.is_invalid() && instruction.len() == MAX_LENGTH {
        lowered.op.run = too_long;
    }
    Ok(lowered)
}

fn too_long(cpu: &mut Cpu, _: &Op) -> Exec {
    cpu.gp0()
}

/// Notes that the page holds code from now on, so that writes to it are seen.
pub fn note_source(cpu: &mut Cpu, phys: u64) -> Result<Source, DecodeError> {
    let Some(page) = cpu.ram.page(phys) else {
        cpu.pending = Some(Pending::Unsupported(format!("instructions in device memory at {phys:#x}")));
        return Err(DecodeError::Fault);
    };
    if !page.record.has_code(page.index) {
        page.record.note_code(page.index);
        cpu.tlb.protect(phys);
        cpu.shared.flush_translations(Some(cpu.index));
    }
    Ok(Source::new(phys & !paging::PAGE_OFFSET, page.generation_cell()))
}
