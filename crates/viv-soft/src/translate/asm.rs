//! Machine code with labels, for addresses that are known beforehand.

use std::mem;

/// A host register by its encoding number.
pub type Reg = u8;

pub const RAX: Reg = 0;
pub const RCX: Reg = 1;
pub const RDX: Reg = 2;
pub const RBX: Reg = 3;
pub const RSP: Reg = 4;
pub const RBP: Reg = 5;
pub const RSI: Reg = 6;
pub const RDI: Reg = 7;

/// In [`Mem::base`]: none.
pub const NO_BASE: Reg = 16;

/// A memory operand of host code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mem {
    pub base: Reg,
    /// Index register and the shift of it.
    pub index: Option<(Reg, u8)>,
    pub disp: i32,
    /// Whether it is in the window: relative to the base of GS, by an address of 32 bits.
    pub window: bool,
}

impl Mem {
    /// `[base + disp]`
    pub const fn at(base: Reg, disp: i32) -> Self {
        Self { base, index: None, disp, window: false }
    }

    /// `gs:[base + disp]`, with 32 bits of the base
    pub const fn in_window(base: Reg, disp: i32) -> Self {
        Self { base, index: None, disp, window: true }
    }

    /// `[base + index << shift + disp]`
    pub const fn indexed(base: Reg, index: Reg, shift: u8, disp: i32) -> Self {
        Self { base, index: Some((index, shift)), disp, window: false }
    }

    /// The registers that a REX prefix has the fourth bit of, or ones without it.
    pub const fn base_in_rex(self) -> Reg {
        if self.base == NO_BASE { RBP } else { self.base }
    }

    pub const fn index_in_rex(self) -> Reg {
        match self.index {
            Some((index, _)) => index,
            None => 0,
        }
    }
}

/// A place in the code, perhaps not yet reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label(usize);

/// Condition codes as in Jcc (SDM vol. 1, appendix B).
pub mod condition {
    pub const EQUAL: u8 = 4;
    pub const NOT_EQUAL: u8 = 5;
    pub const CARRY: u8 = 2;
    pub const ABOVE: u8 = 7;
    pub const SIGN: u8 = 8;
}

/// Operations of two operands, as the opcode has them in its upper bits.
pub mod alu {
    pub const ADD: u8 = 0;
    pub const OR: u8 = 1;
    pub const SUB: u8 = 5;
    pub const AND: u8 = 4;
    pub const XOR: u8 = 6;
    pub const CMP: u8 = 7;
}

/// Code being written, in two sections: what usually runs, and what seldom does, which lies elsewhere so that the former
/// is dense.
#[derive(Default)]
pub struct Asm {
    sections: [Section; 2],
    cold: bool,
    labels: Vec<Option<u64>>,
    fixups: Vec<Fixup>,
}

#[derive(Default)]
struct Section {
    base: u64,
    code: Vec<u8>,
}

impl Section {
    /// Replaces bytes at an address.
    fn patch(&mut self, at: u64, bytes: &[u8]) {
        let at = (at - self.base) as usize;
        self.code[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

struct Fixup {
    /// Where the displacement is.
    at: u64,
    cold: bool,
    kind: FixupKind,
    label: Label,
}

enum FixupKind {
    /// 32 bits, relative to its own end.
    Near,
    /// 8 bits, relative to its own end.
    Short,
    /// 32 bits, relative to another place.
    From(u64),
}

/// An instruction, or a piece of one, while it is put together: 16 bytes at the most, as a number.
#[derive(Debug, Clone, Copy, Default)]
pub struct Piece {
    bytes: u128,
    len: u32,
}

impl Piece {
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// All that it may have; what is behind its end is 0.
    pub const fn as_bytes(&self) -> [u8; 16] {
        self.bytes.to_le_bytes()
    }

    pub fn byte(&mut self, byte: u8) {
        debug_assert!(self.len < 16);
        self.bytes |= u128::from(byte) << (8 * self.len);
        self.len += 1;
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.byte(byte);
        }
    }

    /// The REX prefix, if there has to be one for these registers or for what else is set in `rex`.
    pub fn rex(&mut self, rex: u8, reg: Reg, index: Reg, base: Reg) {
        let rex = rex | (reg >> 3) << 2 | (index >> 3) << 1 | base >> 3;
        if rex != 0 {
            self.byte(0x40 | rex);
        }
    }

    /// ModRM, SIB and displacement.
    pub fn operand(&mut self, reg: Reg, mem: Mem) {
        let reg = (reg & 7) << 3;
        if mem.base == NO_BASE {
            let (index, shift) = mem.index.unwrap_or((RSP, 0));
            self.bytes(&[reg | RSP, shift << 6 | (index & 7) << 3 | RBP]);
            self.bytes(&mem.disp.to_le_bytes());
            return;
        }
        // RBP and R13 as base mean something else without a displacement.
        let (mode, size) = match mem.disp {
            0 if mem.base & 7 != RBP => (0x00, 0),
            disp if i8::try_from(disp).is_ok() => (0x40, 1),
            _ => (0x80, 4),
        };
        match mem.index {
            Some((index, shift)) => {
                self.byte(mode | reg | RSP);
                self.byte(shift << 6 | (index & 7) << 3 | mem.base & 7);
            }
            None if mem.base & 7 == RSP => {
                self.byte(mode | reg | RSP);
                self.byte(0x24);
            }
            None => self.byte(mode | reg | mem.base & 7),
        }
        if size != 0 {
            let disp = if size == 1 { u128::from(mem.disp as u8) } else { u128::from(mem.disp as u32) };
            self.bytes |= disp << (8 * self.len);
            self.len += size;
        }
    }
}

impl Asm {
    /// Begins code that will lie at these addresses.
    pub fn begin(&mut self, bases: [u64; 2]) {
        for (section, base) in self.sections.iter_mut().zip(bases) {
            section.base = base;
            section.code.clear();
        }
        self.cold = false;
        self.labels.clear();
        self.fixups.clear();
    }

    /// Goes on in the section for what seldom runs.
    pub fn go_cold(&mut self) {
        self.cold = true;
    }

    fn section(&mut self) -> &mut Section {
        &mut self.sections[usize::from(self.cold)]
    }

    /// The address of the next byte.
    pub fn address(&self) -> u64 {
        let Section { base, code } = &self.sections[usize::from(self.cold)];
        base + code.len() as u64
    }

    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Says that `label` is here.
    pub fn bind(&mut self, label: Label) {
        self.labels[label.0] = Some(self.address());
    }

    /// A label that is here.
    pub fn here(&mut self) -> Label {
        let label = self.label();
        self.bind(label);
        label
    }

    /// Where a label is, if it was bound.
    pub fn place_of(&self, label: Label) -> Option<u64> {
        self.labels[label.0]
    }

    /// Puts the code of both sections, with all labels resolved, in the place of `code`. `None` if a label was not bound,
    /// or a short jump does not reach.
    pub fn finish(&mut self, code: &mut [Vec<u8>; 2]) -> Option<()> {
        for &Fixup { at, cold, ref kind, label } in &self.fixups {
            let target = self.labels[label.0]?;
            let section = &mut self.sections[usize::from(cold)];
            let from = |origin: u64| target.wrapping_sub(origin) as i64;
            match *kind {
                FixupKind::Near => section.patch(at, &(from(at + 4) as i32).to_le_bytes()),
                FixupKind::Short => section.patch(at, &i8::try_from(from(at + 1)).ok()?.to_le_bytes()),
                FixupKind::From(origin) => section.patch(at, &(from(origin) as i32).to_le_bytes()),
            }
        }
        for (section, code) in self.sections.iter_mut().zip(code) {
            mem::swap(&mut section.code, code);
        }
        Some(())
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.section().code.extend_from_slice(bytes);
    }

    fn byte(&mut self, byte: u8) {
        self.section().code.push(byte);
    }

    /// Appends what was put together.
    pub fn piece(&mut self, piece: Piece) {
        let code = &mut self.section().code;
        let len = code.len() + piece.len();
        code.extend_from_slice(&piece.as_bytes());
        code.truncate(len);
    }

    fn rex(&mut self, wide: bool, reg: Reg, index: Reg, base: Reg) {
        let mut piece = Piece::default();
        piece.rex(u8::from(wide) << 3, reg, index, base);
        self.piece(piece);
    }

    /// An instruction with a register, or an opcode extension, and a memory operand.
    pub fn rm(&mut self, wide: bool, opcode: &[u8], reg: Reg, mem: Mem) {
        let mut piece = Piece::default();
        if mem.window {
            piece.bytes(&[0x65, 0x67]);
        }
        piece.rex(u8::from(wide) << 3, reg, mem.index_in_rex(), mem.base_in_rex());
        piece.bytes(opcode);
        piece.operand(reg, mem);
        self.piece(piece);
    }

    /// An instruction with two registers.
    pub fn rr(&mut self, wide: bool, opcode: &[u8], reg: Reg, rm: Reg) {
        let mut piece = Piece::default();
        piece.rex(u8::from(wide) << 3, reg, 0, rm);
        piece.bytes(opcode);
        piece.byte(0xc0 | (reg & 7) << 3 | rm & 7);
        self.piece(piece);
    }

    pub fn load(&mut self, to: Reg, from: Mem) {
        self.rm(true, &[0x8b], to, from);
    }

    pub fn load_32(&mut self, to: Reg, from: Mem) {
        self.rm(false, &[0x8b], to, from);
    }

    pub fn store(&mut self, to: Mem, from: Reg) {
        self.rm(true, &[0x89], from, to);
    }

    pub fn store_32(&mut self, to: Mem, from: Reg) {
        self.rm(false, &[0x89], from, to);
    }

    /// mov qword/dword [to], sign-extended immediate
    pub fn store_immediate(&mut self, wide: bool, to: Mem, value: i32) {
        self.rm(wide, &[0xc7], 0, to);
        self.bytes(&value.to_le_bytes());
    }

    /// mov byte [to], immediate
    pub fn store_immediate_8(&mut self, to: Mem, value: u8) {
        self.rm(false, &[0xc6], 0, to);
        self.byte(value);
    }

    /// movzx r32, byte [from]
    pub fn load_byte(&mut self, to: Reg, from: Mem) {
        self.rm(false, &[0x0f, 0xb6], to, from);
    }

    pub fn copy(&mut self, to: Reg, from: Reg) {
        self.rr(true, &[0x89], from, to);
    }

    pub fn copy_32(&mut self, to: Reg, from: Reg) {
        self.rr(false, &[0x89], from, to);
    }

    pub fn lea(&mut self, to: Reg, mem: Mem) {
        self.rm(true, &[0x8d], to, mem);
    }

    pub fn lea_32(&mut self, to: Reg, mem: Mem) {
        self.rm(false, &[0x8d], to, mem);
    }

    /// An operation of [`alu`] on a register and memory.
    pub fn alu_load(&mut self, operation: u8, to: Reg, from: Mem) {
        self.rm(true, &[operation << 3 | 3], to, from);
    }

    /// An operation of [`alu`] on two registers.
    pub fn alu(&mut self, operation: u8, to: Reg, from: Reg) {
        self.rr(true, &[operation << 3 | 3], to, from);
    }

    /// An operation of [`alu`] on a register and a sign-extended immediate.
    pub fn alu_immediate(&mut self, wide: bool, operation: u8, to: Reg, value: i32) {
        self.rex(wide, 0, 0, to);
        if let Ok(value) = i8::try_from(value) {
            self.bytes(&[0x83, 0xc0 | operation << 3 | to & 7, value as u8]);
        } else {
            self.bytes(&[0x81, 0xc0 | operation << 3 | to & 7]);
            self.bytes(&value.to_le_bytes());
        }
    }

    /// cmp byte [mem], immediate
    pub fn compare_byte(&mut self, mem: Mem, value: u8) {
        self.rm(false, &[0x80], alu::CMP, mem);
        self.byte(value);
    }

    /// not r32
    pub fn not_32(&mut self, reg: Reg) {
        self.rex(false, 0, 0, reg);
        self.bytes(&[0xf7, 0xd0 | reg & 7]);
    }

    /// shr r32, immediate
    pub fn shift_right(&mut self, reg: Reg, count: u8) {
        self.rex(false, 0, 0, reg);
        self.bytes(&[0xc1, 0xe8 | reg & 7, count]);
    }

    /// shl r32, immediate
    pub fn shift_left(&mut self, reg: Reg, count: u8) {
        self.rex(false, 0, 0, reg);
        self.bytes(&[0xc1, 0xe0 | reg & 7, count]);
    }

    /// A shift by its opcode extension: shl 4, shr 5, sar 7.
    pub fn shift(&mut self, wide: bool, operation: u8, reg: Reg, count: u8) {
        self.rex(wide, 0, 0, reg);
        self.bytes(&[0xc1, 0xc0 | operation << 3 | reg & 7, count]);
    }

    /// mov r64, immediate, in its shortest form
    pub fn immediate(&mut self, to: Reg, value: u64) {
        if let Ok(value) = u32::try_from(value) {
            self.rex(false, 0, 0, to);
            self.byte(0xb8 | to & 7);
            self.bytes(&value.to_le_bytes());
        } else if let Ok(value) = i32::try_from(value as i64) {
            self.rex(true, 0, 0, to);
            self.bytes(&[0xc7, 0xc0 | to & 7]);
            self.bytes(&value.to_le_bytes());
        } else {
            self.rex(true, 0, 0, to);
            self.byte(0xb8 | to & 7);
            self.bytes(&value.to_le_bytes());
        }
    }

    /// rorx r64, r64, count: no flags
    pub fn rotate_right(&mut self, to: Reg, from: Reg, count: u8) {
        self.vex(to, 0, from, 3, 3);
        self.bytes(&[0xf0, 0xc0 | (to & 7) << 3 | from & 7, count]);
    }

    /// crc32 r64, r64: no flags
    pub fn checksum(&mut self, to: Reg, from: Reg) {
        self.byte(0xf2);
        self.rr(true, &[0x0f, 0x38, 0xf1], to, from);
    }

    /// The prefix of a 64-bit VEX instruction on registers, in opcode map `map` with prefix `prefix`.
    fn vex(&mut self, reg: Reg, second: Reg, rm: Reg, map: u8, prefix: u8) {
        let first = u8::from(reg < 8) << 7 | 1 << 6 | u8::from(rm < 8) << 5 | map;
        self.bytes(&[0xc4, first, 0x80 | (!second & 15) << 3 | prefix]);
    }

    pub fn push(&mut self, reg: Reg) {
        self.rex(false, 0, 0, reg);
        self.byte(0x50 | reg & 7);
    }

    pub fn pop(&mut self, reg: Reg) {
        self.rex(false, 0, 0, reg);
        self.byte(0x58 | reg & 7);
    }

    /// A near conditional jump; gives where its displacement is.
    pub fn jump_if(&mut self, condition: u8, label: Label) -> u64 {
        self.bytes(&[0x0f, 0x80 | condition]);
        self.near(label)
    }

    /// A near jump; gives where its displacement is.
    pub fn jump(&mut self, label: Label) -> u64 {
        self.byte(0xe9);
        self.near(label)
    }

    /// A short conditional jump.
    pub fn short_jump_if(&mut self, condition: u8, label: Label) {
        self.byte(0x70 | condition);
        self.short(label);
    }

    /// A short jump.
    pub fn short_jump(&mut self, label: Label) {
        self.byte(0xeb);
        self.short(label);
    }

    /// jrcxz
    pub fn jump_if_rcx_is_zero(&mut self, label: Label) {
        self.byte(0xe3);
        self.short(label);
    }

    pub fn jump_to(&mut self, address: u64) {
        self.byte(0xe9);
        self.relative(address);
    }

    pub fn call_to(&mut self, address: u64) {
        self.byte(0xe8);
        self.relative(address);
    }

    fn relative(&mut self, address: u64) {
        let rel = address.wrapping_sub(self.address() + 4) as i32;
        self.bytes(&rel.to_le_bytes());
    }

    fn near(&mut self, label: Label) -> u64 {
        let at = self.address();
        self.fix(FixupKind::Near, label);
        self.bytes(&[0; 4]);
        at
    }

    fn short(&mut self, label: Label) {
        self.fix(FixupKind::Short, label);
        self.byte(0);
    }

    fn fix(&mut self, kind: FixupKind, label: Label) {
        let (at, cold) = (self.address(), self.cold);
        self.fixups.push(Fixup { at, cold, kind, label });
    }

    /// 32 bits that say how far `label` is from the address `origin`.
    pub fn distance(&mut self, origin: u64, label: Label) {
        self.fix(FixupKind::From(origin), label);
        self.bytes(&[0; 4]);
    }

    /// The address of a place in the code.
    pub fn lea_label(&mut self, to: Reg, label: Label) {
        self.rex(true, to, 0, 0);
        self.bytes(&[0x8d, (to & 7) << 3 | RBP]);
        self.near(label);
    }

    /// jmp [mem]
    pub fn jump_indirect(&mut self, mem: Mem) {
        self.rm(false, &[0xff], 4, mem);
    }

    /// The flags in AX: AH as LAHF has them, AL the overflow flag.
    pub fn flags_to_ax(&mut self) {
        self.bytes(&[0x9f, 0x0f, 0x90, 0xc0]);
    }

    /// The opposite of [`Asm::flags_to_ax`]. RAX is lost.
    pub fn flags_from_ax(&mut self) {
        self.bytes(&[0x04, 0x7f, 0x9e]);
    }
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions, FastFormatter};

    use super::*;

    #[test]
    fn says_what_it_means() {
        let mut asm = Asm::default();
        asm.begin([0x1000, 0x2000]);
        let start = asm.here();
        asm.load(12, Mem::at(13, 0));
        asm.store(Mem::indexed(RSP, 10, 0, 0x12345), 9);
        asm.load_byte(RCX, Mem::at(10, 0));
        asm.lea(11, Mem::indexed(RBP, 12, 3, -8));
        asm.alu_load(alu::XOR, 11, Mem::indexed(RSP, 10, 0, 0x1000));
        asm.alu_immediate(true, alu::CMP, 11, 0xff8);
        asm.alu_immediate(false, alu::AND, 10, 0xffe0);
        asm.rotate_right(10, 11, 7);
        asm.checksum(10, 11);
        asm.immediate(14, 0x1234_5678_9abc);
        asm.immediate(RAX, !0);
        asm.compare_byte(Mem::at(10, 0), 0);
        asm.jump_if(condition::NOT_EQUAL, start);
        let mut code = [const { Vec::new() }; 2];
        asm.finish(&mut code).unwrap();
        let [code, _] = code;
        let mut text = String::new();
        for instruction in Decoder::with_ip(64, &code, 0x1000, DecoderOptions::NONE) {
            FastFormatter::new().format(&instruction, &mut text);
            text.push('\n');
        }
        assert_eq!(
            text,
            "mov r12,[r13]\nmov [rsp+r10+12345h],r9\nmovzx ecx,byte ptr [r10]\nlea r11,[rbp+r12*8-8h]\n\
             xor r11,[rsp+r10+1000h]\ncmp r11,0FF8h\nand r10d,0FFE0h\nrorx r10,r11,7h\n\
             crc32 r10,r11\nmov r14,123456789ABCh\nmov rax,0FFFFFFFFFFFFFFFFh\n\
             cmp byte ptr [r10],0h\njne 1000h\n"
        );
    }
}
