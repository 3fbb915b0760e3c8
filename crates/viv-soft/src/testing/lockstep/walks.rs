//! Loops that walk through memory by constants.

use iced_x86::{Code, Instruction, MemoryOperand, Register};

use super::gadgets::{Island, READS_FLAGS};
use crate::testing::Rng;

/// What accesses memory: the first operand is a register, the second memory, or the other way round.
const READS: [Code; 6] = [
    Code::Mov_r32_rm32,
    Code::Add_r32_rm32,
    Code::Adc_r32_rm32,
    Code::Cmp_r32_rm32,
    Code::Movzx_r32_rm8,
    Code::Movdqu_xmm_xmmm128,
];
const WRITES: [Code; 4] =
    [Code::Mov_rm32_r32, Code::Add_rm32_r32, Code::Sbb_rm32_r32, Code::Movdqu_xmmm128_xmm];
/// By how much a round moves a register.
const STEPS: [i32; 8] = [1, 4, 8, 8, 16, 24, 64, 120];

impl Island<'_> {
    /// A loop of a few instructions, of up to 150 rounds.
    pub(super) fn walk(&mut self, rng: &mut Rng) {
        let first = if self.is_wide() { Register::RAX } else { Register::EAX };
        let numbers: &[u32] = if self.is_wide() { &[3, 6, 7, 10, 11, 13, 15] } else { &[3, 5, 6, 7] };
        let pointers = [rng.pick(numbers), rng.pick(numbers)];
        for number in pointers {
            let pointer = self.places.pointer(rng);
            self.load(number, pointer);
        }
        let index = rng.one_in(2).then(|| first + 2);
        self.load(2, rng.below(20));
        self.load(1, 1 + rng.below(150));
        let head = self.bytes.len();
        for _ in 0..1 + rng.below(4) {
            let base = first + rng.pick(&pointers);
            self.walking_access(base, index, rng);
            if rng.one_in(2) {
                let moved = if rng.one_in(3) { index.unwrap_or(base) } else { base };
                self.step(moved, rng);
            }
        }
        let out = rng.one_in(4).then(|| {
            self.bytes.extend([0x70 | rng.below(16) as u8, 0]);
            self.bytes.len()
        });
        // DEC CL, which ends wherever the loop was entered; JNZ.
        self.bytes.extend([0xfe, 0xc9, 0x0f, 0x85]);
        let distance = head as i64 - (self.bytes.len() as i64 + 4);
        self.bytes.extend((distance as i32).to_le_bytes());
        if let Some(out) = out {
            self.bytes[out - 1] = (self.bytes.len() - out) as u8;
        }
        self.bytes.extend(READS_FLAGS);
    }

    /// A read or write at `base`, and `index` now and then.
    fn walking_access(&mut self, base: Register, index: Option<Register>, rng: &mut Rng) {
        let index = index.filter(|_| rng.one_in(2)).unwrap_or(Register::None);
        let scale = if index == Register::None { 1 } else { 1 << rng.below(4) };
        let displacement = rng.pick(&[0, 0, 4, 8, -8, 0x40, 0x1000]);
        let size = u32::from(displacement != 0);
        let memory = MemoryOperand::new(base, index, scale, displacement, size, false, Register::None);
        let is_write = rng.one_in(3);
        let code = if is_write { rng.pick(&WRITES) } else { rng.pick(&READS) };
        let vector = matches!(code, Code::Movdqu_xmm_xmmm128 | Code::Movdqu_xmmm128_xmm);
        let register = if vector { Register::XMM3 } else { Register::EAX };
        let instruction = if is_write {
            Instruction::with2(code, memory, register)
        } else {
            Instruction::with2(code, register, memory)
        };
        if let Ok(instruction) = instruction {
            self.put(&instruction);
        }
    }

    /// Moves a register by a constant.
    fn step(&mut self, register: Register, rng: &mut Rng) {
        let by = rng.pick(&STEPS);
        let wide = self.is_wide();
        let code = |wide_code, code| if wide { wide_code } else { code };
        let instruction = match rng.below(4) {
            0 => Instruction::with2(code(Code::Add_rm64_imm8, Code::Add_rm32_imm8), register, by),
            1 => Instruction::with2(code(Code::Sub_rm64_imm8, Code::Sub_rm32_imm8), register, by),
            2 => Instruction::with1(code(Code::Inc_rm64, Code::Inc_rm32), register),
            _ => {
                let memory = MemoryOperand::with_base_displ(register, i64::from(by));
                Instruction::with2(code(Code::Lea_r64_m, Code::Lea_r32_m), register, memory)
            }
        };
        if let Ok(instruction) = instruction {
            self.put(&instruction);
        }
    }
}
