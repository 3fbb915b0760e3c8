//! Machine code, a few instructions' worth.

/// An instruction's opcode for the addressing form `[base + displacement]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opcode {
    /// REX.W.
    wide: bool,
    bytes: &'static [u8],
}

impl Opcode {
    /// mov r64, m64
    pub const LOAD: Self = Self { wide: true, bytes: &[0x8b] };
    /// mov m64, r64
    pub const STORE: Self = Self { wide: true, bytes: &[0x89] };
    /// mov r32, m32
    pub const LOAD_32: Self = Self { wide: false, bytes: &[0x8b] };
    /// or m32, r32
    pub const OR_32: Self = Self { wide: false, bytes: &[0x09] };
    /// movups xmm, m128
    pub const LOAD_XMM: Self = Self { wide: false, bytes: &[0x0f, 0x10] };
    /// movups m128, xmm
    pub const STORE_XMM: Self = Self { wide: false, bytes: &[0x0f, 0x11] };
    /// fxsave64 m512, with register field 0
    pub const FXSAVE: (Self, u8) = (Self { wide: true, bytes: &[0x0f, 0xae] }, 0);
    /// fxrstor64 m512, with register field 1
    pub const FXRSTOR: (Self, u8) = (Self { wide: true, bytes: &[0x0f, 0xae] }, 1);
    /// ldmxcsr m32, with register field 2
    pub const LDMXCSR: (Self, u8) = (Self { wide: false, bytes: &[0x0f, 0xae] }, 2);
    /// stmxcsr m32, with register field 3
    pub const STMXCSR: (Self, u8) = (Self { wide: false, bytes: &[0x0f, 0xae] }, 3);
    /// and m32, imm32, with register field 4
    pub const AND_IMMEDIATE_32: (Self, u8) = (Self { wide: false, bytes: &[0x81] }, 4);
}

/// Vector moves of 256 bits, which are encoded by VEX.
#[derive(Debug, Clone, Copy)]
pub(super) enum YmmMove {
    /// vmovups ymm, m256
    Load = 0x10,
    /// vmovups m256, ymm
    Store = 0x11,
}

/// Number of RAX.
pub(super) const RAX: u8 = 0;
/// Number of RSP.
pub(super) const RSP: u8 = 4;
/// Number of RSI.
pub(super) const RSI: u8 = 6;
/// Number of RDI.
pub(super) const RDI: u8 = 7;

/// Code being written.
#[derive(Debug, Default)]
pub(super) struct Emitter {
    code: Vec<u8>,
}

impl Emitter {
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.code.extend_from_slice(bytes);
    }

    pub fn finish(self) -> Vec<u8> {
        self.code
    }

    /// An instruction with a register and `[base + displacement]`.
    pub fn memory(&mut self, opcode: Opcode, register: u8, base: u8, displacement: usize) {
        let rex = 0x40 | u8::from(opcode.wide) << 3 | (register >> 3) << 2 | base >> 3;
        if rex != 0x40 {
            self.code.push(rex);
        }
        self.bytes(opcode.bytes);
        self.address(register, base, displacement);
    }

    /// An instruction whose register field extends the opcode.
    pub fn extended(&mut self, (opcode, field): (Opcode, u8), base: u8, displacement: usize) {
        self.memory(opcode, field, base, displacement);
    }

    /// A move between a YMM register and `[base + displacement]`.
    pub fn ymm(&mut self, direction: YmmMove, register: u8, base: u8, displacement: usize) {
        // Three-byte VEX: inverted R, X and B with map 0F; W0, vvvv unused, L1, no prefix.
        let extensions = u8::from(register < 8) << 7 | 1 << 6 | u8::from(base < 8) << 5 | 1;
        self.bytes(&[0xc4, extensions, 0x7c, direction as u8]);
        self.address(register, base, displacement);
    }

    /// ModRM, SIB where the base demands one, and a 32-bit displacement.
    fn address(&mut self, register: u8, base: u8, displacement: usize) {
        self.code.push(0x80 | (register & 7) << 3 | base & 7);
        if base & 7 == RSP {
            self.code.push(0x24);
        }
        self.bytes(&(displacement as u32).to_le_bytes());
    }

    /// mov r64, r64
    pub fn copy(&mut self, to: u8, from: u8) {
        self.bytes(&[0x48 | (from >> 3) << 2 | to >> 3, 0x89, 0xc0 | (from & 7) << 3 | to & 7]);
    }

    pub fn push(&mut self, register: u8) {
        self.one_byte(0x50, register);
    }

    pub fn pop(&mut self, register: u8) {
        self.one_byte(0x58, register);
    }

    fn one_byte(&mut self, opcode: u8, register: u8) {
        if register >= 8 {
            self.code.push(0x41);
        }
        self.code.push(opcode + (register & 7));
    }

    /// lea rax, [rip + x] with x still open.
    pub fn load_address(&mut self) -> Fixup {
        self.bytes(&[0x48, 0x8d, 0x05]);
        self.open_displacement()
    }

    /// jmp x with x still open.
    pub fn jump(&mut self) -> Fixup {
        self.code.push(0xe9);
        self.open_displacement()
    }

    fn open_displacement(&mut self) -> Fixup {
        self.bytes(&[0; 4]);
        Fixup(self.code.len())
    }

    /// The place where the next instruction will be.
    pub fn here(&self) -> Label {
        Label(self.code.len())
    }

    /// Points an open displacement at a place.
    pub fn fix(&mut self, fixup: Fixup, target: Label) {
        let Fixup(end) = fixup;
        let displacement = (target.0 as i64 - end as i64) as i32;
        self.code[end - 4..end].copy_from_slice(&displacement.to_le_bytes());
    }
}

/// A displacement to be filled in; holds the address that it is relative to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fixup(usize);

/// A place in the code.
#[derive(Debug, Clone, Copy)]
pub(super) struct Label(usize);

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions, FastFormatter};

    use super::*;

    #[test]
    fn says_what_it_means() {
        let mut emitter = Emitter::default();
        emitter.memory(Opcode::LOAD, 12, 13, 0x40);
        emitter.memory(Opcode::STORE, 1, 12, 8);
        emitter.memory(Opcode::LOAD_XMM, 9, RDI, 0x100);
        emitter.ymm(YmmMove::Store, 15, 9, 0x20);
        emitter.ymm(YmmMove::Load, 1, RSI, 0x20);
        emitter.extended(Opcode::FXRSTOR, 8, 0x200);
        emitter.extended(Opcode::STMXCSR, RSP, 8);
        emitter.copy(8, RSI);
        emitter.push(15);
        let fixup = emitter.jump();
        let target = emitter.here();
        emitter.fix(fixup, target);
        let code = emitter.finish();
        let mut text = String::new();
        for instruction in Decoder::new(64, &code, DecoderOptions::NONE) {
            FastFormatter::new().format(&instruction, &mut text);
            text.push('\n');
        }
        let jump_end = code.len();
        assert_eq!(
            text,
            format!(
                "mov r12,[r13+40h]\nmov [r12+8h],rcx\nmovups xmm9,[rdi+100h]\nvmovups [r9+20h],ymm15\n\
                 vmovups ymm1,[rsi+20h]\nfxrstor64 [r8+200h]\nstmxcsr [rsp+8h]\nmov r8,rsi\npush r15\n\
                 jmp {jump_end:X}h\n"
            )
        );
    }
}
