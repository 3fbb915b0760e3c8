//! The x87 unit's pointers to its last instruction (SDM vol. 1, 8.1.8 and 8.1.9).
//!
//! A stub's FXSAVE leaves the host's addresses in them. They are replaced by what the guest would see on a
//! processor that, like every recent one, writes FDP and FOP only when an unmasked exception occurs
//! (FDP_EXCPTN_ONLY, CPUID.7.EBX bit 6) and has no FCS and FDS (bit 13). On a host without the first feature,
//! the guest is not offered it either, and FDP follows every memory operand.

use std::sync::LazyLock;

use iced_x86::{CodeSize, Encoder, Instruction};
use viv_arch::{cpuid, xsave};

use super::state::FpuState;

/// FSW.ES: an unmasked exception is pending.
const ERROR_SUMMARY: u16 = 1 << 7;

/// FIP, FDP and FOP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pointers {
    fip: u64,
    fdp: u64,
    fop: u16,
}

impl Pointers {
    pub fn of(fpu: &FpuState) -> Self {
        Self { fip: fpu.fx_u64(xsave::FIP), fdp: fpu.fx_u64(xsave::FDP), fop: fpu.fx_u16(xsave::FOP) }
    }

    pub fn put(self, fpu: &mut FpuState) {
        fpu.set_fx_u64(xsave::FIP, self.fip);
        fpu.set_fx_u64(xsave::FDP, self.fdp);
        fpu.set_fx_u16(xsave::FOP, self.fop);
    }

    /// The pointers after a computing instruction, given those before it and the state after it.
    pub fn after(self, fpu: &FpuState, instruction: &LastInstruction) -> Self {
        let exception = fpu.fx_u16(xsave::FSW) & ERROR_SUMMARY != 0;
        Self {
            fip: instruction.address,
            fdp: match instruction.data_offset {
                Some(offset) if exception || !*FDP_ONLY_ON_EXCEPTIONS => offset,
                _ => self.fdp,
            },
            fop: if exception { instruction.opcode.0 } else { self.fop },
        }
    }
}

/// Whether this processor, and so the guest's, has FDP_EXCPTN_ONLY.
pub static FDP_ONLY_ON_EXCEPTIONS: LazyLock<bool> = LazyLock::new(|| cpuid::host(7, 0).ebx & 1 << 6 != 0);

/// What the pointers say of an instruction.
#[derive(Debug, Clone, Copy)]
pub(super) struct LastInstruction {
    pub address: u64,
    /// Offset of its operand in the segment, if it has one.
    pub data_offset: Option<u64>,
    pub opcode: X87Opcode,
}

/// An opcode as FOP has it: three bits of the first byte, then the second byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct X87Opcode(u16);

impl X87Opcode {
    /// The opcode of an x87 instruction, encoded as it was decoded. Where an encoder would choose another
    /// ModRM than the guest's assembler did, it is the encoder's.
    pub fn of(instruction: &Instruction) -> Self {
        let bitness = match instruction.code_size() {
            CodeSize::Code16 => 16,
            CodeSize::Code32 => 32,
            CodeSize::Code64 | CodeSize::Unknown => 64,
        };
        let mut encoder = Encoder::new(bitness);
        if encoder.encode(instruction, instruction.ip()).is_err() {
            return Self::default();
        }
        let bytes = encoder.take_buffer();
        // Prefixes are below the x87 opcodes, and followed by nothing that is not one of these.
        let opcode = bytes.iter().position(|byte| byte & 0xf8 == 0xd8).and_then(|at| bytes.get(at..at + 2));
        opcode.map_or_else(Self::default, |bytes| Self(u16::from(bytes[0] & 7) << 8 | u16::from(bytes[1])))
    }

    /// Whether the instruction has a memory operand.
    pub const fn has_memory(self) -> bool {
        self.0 & 0xc0 != 0xc0
    }
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions};

    use super::*;

    fn opcode(bitness: u32, bytes: &[u8]) -> X87Opcode {
        X87Opcode::of(&Decoder::with_ip(bitness, bytes, 0x1000, DecoderOptions::NONE).decode())
    }

    #[test]
    fn opcodes_are_as_fop_has_them() {
        assert_eq!(opcode(64, &[0xd9, 0xe8]), X87Opcode(0x1e8));
        assert_eq!(opcode(64, &[0x41, 0xdd, 0x40, 0x08]), X87Opcode(0x540));
        assert_eq!(opcode(64, &[0x64, 0xd8, 0x05, 0, 0, 0, 0]), X87Opcode(0x005));
        assert_eq!(opcode(16, &[0xd8, 0x07]), X87Opcode(0x007));
        assert!(opcode(32, &[0xd8, 0x00]).has_memory());
        assert!(!opcode(32, &[0xd8, 0xc0]).has_memory());
    }
}
