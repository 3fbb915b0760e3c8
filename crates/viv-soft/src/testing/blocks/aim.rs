//! Operands of an instruction in the middle of a block: registers are what earlier instructions left, so displacements
//! and, where these do not reach, loads before the instruction make its addresses point to data.

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};
use viv_arch::Gpr;

use super::super::case::{
    accesses_only_data, chooses_components, data_pointer, has_wide_index, is_bit_string, value,
};
use super::super::differential::FORBIDDEN;
use super::super::machine::SEGMENT_BASES;
use super::super::{DATA, Mode, Rng, has_own_faults};
use crate::hostexec::ExecState;

/// How far from data a register may be to be the base of an address.
const REACH: u64 = 0x7000_0000;

/// An instruction with the loads that go before it.
pub struct Aimed {
    /// Loads of general registers.
    pub loads: Vec<Instruction>,
    /// The instruction itself.
    pub instruction: Instruction,
    /// The state after the loads.
    pub state: ExecState,
}

impl Aimed {
    /// An instruction that accesses data, or, if it is `wild`, what no user program may access. `None` if that cannot
    /// be had.
    pub fn new(
        mut instruction: Instruction,
        mode: Mode,
        state: &ExecState,
        wild: bool,
        rng: &mut Rng,
    ) -> Option<Self> {
        let mut loads = Loads { mode, state: state.clone(), list: Vec::new(), rng };
        loads.implied(&instruction);
        let explicit = memory_operand(&instruction);
        if explicit.is_some() {
            loads.bit_offset(&instruction)?;
        }
        if wild {
            if mode == Mode::Bits32 || has_own_faults(instruction.code()).is_some() {
                return None;
            }
            loads.astray(&instruction, explicit)?;
        } else if let Some(operand) = explicit {
            loads.address(&mut instruction, operand)?;
        }
        let Loads { list, state, .. } = loads;
        let fits = wild || accesses_only_data(&instruction, &state);
        fits.then_some(Self { loads: list, instruction, state })
    }
}

/// The number of the operand that is in memory by a ModR/M byte or a fixed address.
fn memory_operand(instruction: &Instruction) -> Option<u32> {
    (0..instruction.op_count()).find(|&n| instruction.op_kind(n) == OpKind::Memory)
}

/// Whether a register points into data.
fn is_pointer(value: u64) -> bool {
    (DATA.start + 0x800..DATA.end - 0x800).contains(&value)
}

struct Loads<'a> {
    mode: Mode,
    state: ExecState,
    list: Vec<Instruction>,
    rng: &'a mut Rng,
}

impl Loads<'_> {
    fn get(&self, gpr: Gpr) -> u64 {
        self.state.gpr[gpr as usize]
    }

    /// Loads a general register.
    fn load(&mut self, number: usize, value: u64) {
        let narrow = Register::EAX + number as u32;
        let wide = Register::RAX + number as u32;
        let load = if self.mode == Mode::Bits32 || value <= 0xffff_ffff && self.rng.one_in(2) {
            Instruction::with2(Code::Mov_r32_imm32, narrow, value as u32)
        } else if value as i64 == i64::from(value as i32) {
            Instruction::with2(Code::Mov_rm64_imm32, wide, value as i32)
        } else {
            Instruction::with2(Code::Mov_r64_imm64, wide, value)
        };
        self.list.extend(load);
        self.state.gpr[number] = value;
    }

    fn point(&mut self, gpr: Gpr) {
        if !is_pointer(self.get(gpr)) {
            let pointer = data_pointer(self.rng);
            self.load(gpr as usize, pointer);
        }
    }

    /// The registers that the instruction uses without naming them.
    fn implied(&mut self, instruction: &Instruction) {
        use Mnemonic::{Enter, Leave, Maskmovdqu, Maskmovq, Vmaskmovdqu, Xlatb};
        if instruction.is_string_instruction() {
            self.point(Gpr::Rsi);
            self.point(Gpr::Rdi);
            let repeats = instruction.has_rep_prefix() || instruction.has_repne_prefix();
            if repeats && self.get(Gpr::Rcx) > 20 {
                let count = self.rng.below(20);
                self.load(Gpr::Rcx as usize, count);
            }
        }
        match instruction.mnemonic() {
            Maskmovq | Maskmovdqu | Vmaskmovdqu => self.point(Gpr::Rdi),
            Enter | Leave => self.point(Gpr::Rbp),
            Xlatb => self.point(Gpr::Rbx),
            _ => {}
        }
        if instruction.is_stack_instruction() && !is_pointer(self.get(Gpr::Rsp)) {
            let pointer = data_pointer(self.rng) & !7;
            self.load(Gpr::Rsp as usize, pointer);
        }
        if chooses_components(instruction) {
            let components = self.rng.below(8);
            self.load(Gpr::Rax as usize, components);
            self.load(Gpr::Rdx as usize, 0);
        }
    }

    /// Makes the bit offset in a register small, if there is one.
    fn bit_offset(&mut self, instruction: &Instruction) -> Option<()> {
        if !is_bit_string(instruction) {
            return Some(());
        }
        let offset = instruction.op1_register().full_register();
        let base = instruction.memory_base().full_register();
        if offset == base || offset == instruction.memory_index().full_register() {
            return None;
        }
        if self.state.gpr[offset.number()].wrapping_add(2048) >= 4096 {
            let bits = self.rng.below(4096).wrapping_sub(2048);
            let bits = if self.mode == Mode::Bits32 { bits & 0xffff_ffff } else { bits };
            self.load(offset.number(), bits);
        }
        Some(())
    }

    /// Makes the operand's address one of data.
    fn address(&mut self, instruction: &mut Instruction, operand: u32) -> Option<()> {
        let (base, index) = (instruction.memory_base(), instruction.memory_index());
        if instruction.mnemonic() == Mnemonic::Xlatb
            || base == Register::RIP
            || base == Register::None && index == Register::None
        {
            return Some(());
        }
        if index.is_vector_register() {
            self.vector_index(instruction)?;
        }
        let segment = match instruction.segment_prefix() {
            Register::FS => SEGMENT_BASES[0],
            Register::GS => SEGMENT_BASES[1],
            _ => 0,
        };
        let target = data_pointer(self.rng).wrapping_sub(segment);
        if base.is_gpr32() || index.is_gpr32() {
            let displacement = target.wrapping_sub(self.sum(instruction, operand)?) & 0xffff_ffff;
            set_displacement(instruction, i64::from(displacement as i32), 4, self.rng);
            return Some(());
        }
        if index.is_gpr64() && self.state.gpr[index.number()].wrapping_add(REACH / 16) > REACH / 8 {
            let small = self.rng.below(0x100);
            self.load(index.number(), small);
        }
        if base != Register::None && base != index && !is_near(self.state.gpr[base.number()]) {
            let near: Vec<usize> = (0..16).filter(|&n| is_near(self.state.gpr[n])).collect();
            if near.is_empty() || self.rng.one_in(4) {
                let pointer = data_pointer(self.rng);
                self.load(base.number(), pointer);
            } else {
                let number = self.rng.pick(&near);
                instruction.set_memory_base(Register::RAX + number as u32);
            }
        }
        let distance = target.wrapping_sub(self.sum(instruction, operand)?) as i64;
        i32::try_from(distance).ok()?;
        set_displacement(instruction, distance, 8, self.rng);
        Some(())
    }

    /// The operand's address but for the displacement.
    fn sum(&self, instruction: &Instruction, operand: u32) -> Option<u64> {
        let mut bare = *instruction;
        bare.set_memory_displacement64(0);
        bare.set_segment_prefix(Register::None);
        bare.virtual_address(operand, 0, |register, element, size| {
            if register.is_segment_register() { Some(0) } else { value(&self.state, register, element, size) }
        })
    }

    /// Makes the index one of the vector registers that hold small numbers, if there is one.
    fn vector_index(&mut self, instruction: &mut Instruction) -> Option<()> {
        let size = if has_wide_index(instruction) { 8 } else { 4 };
        let is_small = |lane: &[u8]| {
            let (first, rest) = lane.split_at(1);
            rest.iter().all(|&byte| byte == 0) && first[0] < 0x80
        };
        let fit: Vec<u32> = (0..16u32)
            .filter(|&n| self.state.fpu.ymm[n as usize].chunks_exact(size).all(is_small))
            .filter(|&n| n < self.mode.bitness() / 4)
            .collect();
        if fit.is_empty() {
            return None;
        }
        let first = if instruction.memory_index().is_ymm() { Register::YMM0 } else { Register::XMM0 };
        let number = self.rng.pick(&fit);
        instruction.set_memory_index(first + number);
        Some(())
    }

    /// Makes the address one that faults, by a load of its base.
    fn astray(&mut self, instruction: &Instruction, operand: Option<u32>) -> Option<()> {
        let address = self.rng.pick(&FORBIDDEN);
        let Some(operand) = operand else {
            let gpr = if instruction.is_string_instruction() {
                self.rng.pick(&[Gpr::Rsi, Gpr::Rdi])
            } else if instruction.is_stack_instruction() {
                Gpr::Rsp
            } else {
                return None;
            };
            self.load(gpr as usize, address);
            return Some(());
        };
        let (base, index) = (instruction.memory_base(), instruction.memory_index());
        let index_fits = index == Register::None || index.is_gpr64();
        if !base.is_gpr64() || base == index || !index_fits || instruction.segment_prefix() != Register::None
        {
            return None;
        }
        let rest = instruction.virtual_address(operand, 0, |register, element, size| {
            if register == base { Some(0) } else { value(&self.state, register, element, size) }
        })?;
        self.load(base.number(), address.wrapping_sub(rest));
        Some(())
    }
}

fn is_near(value: u64) -> bool {
    value.wrapping_sub(DATA.start).wrapping_add(REACH) < 2 * REACH
}

fn set_displacement(instruction: &mut Instruction, displacement: i64, full: u32, rng: &mut Rng) {
    let size = if displacement == 0 && !rng.one_in(8) {
        0
    } else if i8::try_from(displacement).is_ok() && !rng.one_in(8) {
        1
    } else {
        full
    };
    let narrow = full == 4 && size == 4;
    let value = if narrow { u64::from(displacement as u32) } else { displacement as u64 };
    instruction.set_memory_displacement64(value);
    instruction.set_memory_displ_size(size);
}
