//! Instructions that the host executes, from their own bytes.
//!
//! Most of them name registers that are the same on the host. Their bytes can stay as they are, but for a memory operand.
//! This is what [`rewrite`](super::rewrite) and the encoder come to as well, with much more effort.

use iced_x86::{Instruction, MandatoryPrefix, OpKind};

use super::asm::{Mem, Piece};
use super::regs::{host, is_high_byte};
use crate::hostexec::is_immediate;

/// The operand-size prefix, and LOCK.
const OPERAND_SIZE: u8 = 0x66;
const LOCK: u8 = 0xf0;
const REPNE: u8 = 0xf2;
const REP: u8 = 0xf3;
/// The longest instruction.
const MAX_LENGTH: usize = 15;

/// The bytes of an instruction of 64-bit code, whose own are `bytes`, with its memory operand at `memory`. `None`: this
/// is not how to find them.
pub fn copy(i: &Instruction, bytes: &[u8], memory: Option<Mem>) -> Option<Piece> {
    let mut has_high_byte = false;
    let mut has_memory = false;
    for n in 0..i.op_count() {
        match i.op_kind(n) {
            OpKind::Register => {
                let register = i.op_register(n);
                has_high_byte |= is_high_byte(register);
                if register.is_gpr() && !is_high_byte(register) {
                    let guest = register.full_register().number() as u8;
                    if host(guest) != Some(guest) {
                        return None;
                    }
                }
            }
            OpKind::Memory => has_memory = true,
            kind if is_immediate(kind) => {}
            _ => return None,
        }
    }
    if has_memory != memory.is_some() {
        return None;
    }
    let mut piece = Piece::default();
    if memory.is_some_and(|mem| mem.window) {
        piece.bytes(&[0x65, 0x67]);
    }
    let mut at = 0;
    // Prefixes: those that choose the operation stay, those that choose the address go, others are not for here.
    let mut repeats = None;
    loop {
        let byte = *bytes.get(at)?;
        match byte {
            OPERAND_SIZE => piece.byte(byte),
            LOCK if repeats.is_none() => piece.byte(byte),
            REPNE | REP if repeats.is_none() => {
                repeats = Some(byte);
                piece.byte(byte);
            }
            0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 if has_memory => {}
            _ => break,
        }
        at += 1;
        if at > 3 {
            return None;
        }
    }
    let mandatory = repeats.map(|_| i.code().op_code().mandatory_prefix());
    match (repeats, mandatory) {
        (None, _) | (Some(REP), Some(MandatoryPrefix::PF3)) | (Some(REPNE), Some(MandatoryPrefix::PF2)) => {}
        _ => return None,
    }
    let mut rex = 0;
    if bytes.get(at)? & 0xf0 == 0x40 {
        rex = bytes[at];
        at += 1;
    }
    let opcode = at;
    let rest = &bytes[opcode..];
    // VEX and EVEX, whose prefix would have to change with a memory operand; absolute addresses; further prefixes.
    let is_odd = matches!(
        *rest.first()?,
        0xc4 | 0xc5 | 0x62 | 0xa0..=0xa3 | 0xd7 | 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0x40..=0x4f
            | LOCK | REPNE | REP
    );
    if is_odd {
        return None;
    }
    let length = match *rest {
        [0x0f, 0x38 | 0x3a, _, ..] => 3,
        [0x0f, 0x0f, ..] => return None,
        [0x0f, _, ..] => 2,
        _ => 1,
    };
    let Some(mem) = memory else {
        if rex != 0 {
            piece.byte(rex);
        }
        piece.bytes(rest);
        return Some(piece);
    };
    let modrm = *rest.get(length)?;
    let (index, base) = (mem.index_in_rex(), mem.base_in_rex());
    // A REX prefix would make another register of AH.
    if has_high_byte && (index | base) & 8 != 0 {
        return None;
    }
    let reg = modrm >> 3 & 7 | (rex & 4) << 1;
    if rex != 0 {
        // Even an empty one makes SPL of AH.
        piece.byte(0x40 | rex & 8 | (reg >> 3) << 2 | (index >> 3) << 1 | base >> 3);
    } else {
        piece.rex(0, reg, index, base);
    }
    piece.bytes(&rest[..length]);
    piece.operand(reg, mem);
    let immediate = rest.get(length + operand_length(rest.get(length..)?)?..)?;
    if piece.len() + immediate.len() > MAX_LENGTH {
        return None;
    }
    piece.bytes(immediate);
    Some(piece)
}

/// The bytes of ModRM, SIB and displacement of a memory operand.
fn operand_length(bytes: &[u8]) -> Option<usize> {
    let modrm = *bytes.first()?;
    let sib = if modrm & 7 == 4 { Some(*bytes.get(1)?) } else { None };
    let base = sib.unwrap_or(modrm) & 7;
    let displacement = match modrm >> 6 {
        0 if base == 5 => 4,
        0 => 0,
        1 => 1,
        2 => 4,
        _ => return None,
    };
    Some(1 + usize::from(sib.is_some()) + displacement)
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions, Encoder, InstructionInfoFactory};

    use super::super::regs::ADDRESS;
    use super::super::rewrite::{has_high_byte, rewrite};
    use super::*;
    use crate::hostexec::{is_host_executable, memory_access};
    use crate::testing::rng::Rng;

    /// Places that a memory operand may be at.
    const PLACES: [Mem; 8] = [
        Mem::at(ADDRESS, 0),
        Mem::in_window(ADDRESS, 0),
        Mem::in_window(3, 0),
        Mem::in_window(5, 0),
        Mem::in_window(13, -8),
        Mem::in_window(12, 0x1234),
        Mem { index: Some((9, 3)), ..Mem::in_window(7, 0x7f) },
        Mem { index: Some((1, 0)), ..Mem::in_window(15, -0x1000) },
    ];

    #[test]
    fn copies_are_what_the_encoder_makes() {
        let mut rng = Rng::new(1);
        let (mut encoder, mut info) = (Encoder::new(64), InstructionInfoFactory::new());
        let decode = |bytes: &[u8]| Decoder::new(64, bytes, DecoderOptions::NONE).decode();
        let (mut copied, mut with_memory) = (0, 0);
        for _ in 0..400_000 {
            let mut bytes = [0; 16];
            bytes.fill_with(|| rng.next_u64() as u8);
            // Prefixes and the opcodes of two bytes more often than by chance.
            for byte in &mut bytes[..3] {
                if rng.below(3) == 0 {
                    *byte = [0x66, 0xf2, 0xf3, 0x48, 0x41, 0x44, 0x40, 0x0f][rng.below(8) as usize];
                }
            }
            let i = Decoder::new(64, &bytes, DecoderOptions::FORCE_RESERVED_NOP).decode();
            if i.is_invalid() || !is_host_executable(&i) {
                continue;
            }
            let memory = (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory);
            let place = memory.then(|| PLACES[rng.below(8) as usize]);
            if memory && (memory_access(&i).is_none() || has_high_byte(&i)) {
                continue;
            }
            let Some(copy) = copy(&i, &bytes[..i.len()], place) else { continue };
            let rewritten = rewrite(&i, place, &mut info).expect("it can be rewritten");
            encoder.encode(&rewritten.instruction, 0).expect("it can be encoded");
            let buffer = encoder.take_buffer();
            let code = copy.as_bytes();
            let (now, wanted) = (decode(&code[..copy.len()]), decode(&buffer));
            assert_eq!(now.len(), copy.len(), "{bytes:x?}");
            assert_eq!(now, wanted, "{bytes:x?} {place:?}: {:x?} for {buffer:x?}", &code[..copy.len()]);
            copied += 1;
            with_memory += u32::from(memory);
        }
        assert!(copied > 50_000 && with_memory > 20_000, "{copied}, {with_memory}");
    }
}
