//! The instruction forms of user programs, and random instances of them.

use iced_x86::{Code, CpuidFeature, EncodingKind, Instruction, OpCodeOperandKind, OpKind, Register};
use viv_arch::CpuidTable;

use super::case::{DATA, START};
use super::exclusions::excluded;
use super::rng::Rng;

/// What user programs run in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// 64-bit mode.
    Bits64,
    /// Compatibility mode with a 32-bit code segment.
    Bits32,
}

impl Mode {
    /// The decoder's name for it.
    #[must_use]
    pub const fn bitness(self) -> u32 {
        match self {
            Self::Bits64 => 64,
            Self::Bits32 => 32,
        }
    }

    /// How many general or vector registers there are.
    const fn registers(self) -> u64 {
        match self {
            Self::Bits64 => 16,
            Self::Bits32 => 8,
        }
    }
}

/// The forms that a guest with this CPUID model can execute and that compare with the processor.
///
/// Legacy and VEX encodings; what is missing is in [`super::excluded`], with its reason.
pub fn all_forms(cpuid: &CpuidTable, mode: Mode) -> impl Iterator<Item = Code> {
    Code::values().filter(move |code| {
        let op_code = code.op_code();
        let is_in_mode = match mode {
            Mode::Bits64 => op_code.mode64(),
            Mode::Bits32 => op_code.mode32(),
        };
        op_code.is_instruction()
            && is_in_mode
            && matches!(op_code.encoding(), EncodingKind::Legacy | EncodingKind::VEX)
            && code.cpuid_features().iter().all(|feature| is_offered(*feature, cpuid))
            && excluded(*code).is_none()
    })
}

/// Whether the model has a feature; those that are not named here, it has not.
fn is_offered(feature: CpuidFeature, cpuid: &CpuidTable) -> bool {
    use CpuidFeature as F;
    let leaf1 = cpuid.get(1, 0);
    let leaf7 = cpuid.get(7, 0);
    let extended = cpuid.get(0x8000_0001, 0);
    let (register, bit) = match feature {
        // Every processor with long mode has them.
        F::INTEL8086
        | F::INTEL186
        | F::INTEL286
        | F::INTEL386
        | F::INTEL486
        | F::X64
        | F::PAUSE
        | F::MULTIBYTENOP => {
            return true;
        }
        F::FPU | F::FPU287 | F::FPU387 => (leaf1.edx, 0),
        F::FXSR => (leaf1.edx, 24),
        F::XSAVE => (leaf1.ecx, 26),
        F::XSAVEOPT => (cpuid.get(0xd, 1).eax, 0),
        F::XSAVEC => (cpuid.get(0xd, 1).eax, 1),
        F::CX8 => (leaf1.edx, 8),
        F::CMOV => (leaf1.edx, 15),
        F::CLFSH => (leaf1.edx, 19),
        F::MMX => (leaf1.edx, 23),
        F::SSE => (leaf1.edx, 25),
        F::SSE2 => (leaf1.edx, 26),
        F::SSE3 => (leaf1.ecx, 0),
        F::PCLMULQDQ => (leaf1.ecx, 1),
        F::SSSE3 => (leaf1.ecx, 9),
        F::FMA => (leaf1.ecx, 12),
        F::CMPXCHG16B => (leaf1.ecx, 13),
        F::SSE4_1 => (leaf1.ecx, 19),
        F::SSE4_2 => (leaf1.ecx, 20),
        F::MOVBE => (leaf1.ecx, 22),
        F::POPCNT => (leaf1.ecx, 23),
        F::AES => (leaf1.ecx, 25),
        F::AVX => (leaf1.ecx, 28),
        F::F16C => (leaf1.ecx, 29),
        F::RDRAND => (leaf1.ecx, 30),
        F::BMI1 => (leaf7.ebx, 3),
        F::AVX2 => (leaf7.ebx, 5),
        F::BMI2 => (leaf7.ebx, 8),
        F::RDSEED => (leaf7.ebx, 18),
        F::ADX => (leaf7.ebx, 19),
        F::CLFLUSHOPT => (leaf7.ebx, 23),
        F::CLWB => (leaf7.ebx, 24),
        F::SHA => (leaf7.ebx, 29),
        F::LZCNT => (extended.ecx, 5),
        F::PREFETCHW => (extended.ecx, 8),
        _ => return false,
    };
    register & 1 << bit != 0
}

/// A random instruction of a form, which still has to be encoded; `None` for operands that this generator does
/// not make: far pointers, and 16-bit branches.
pub fn random_instance(code: Code, mode: Mode, rng: &mut Rng) -> Option<Instruction> {
    let op_code = code.op_code();
    let mut instruction = Instruction::new();
    instruction.set_code(code);
    let kinds: Vec<_> = op_code.op_kinds().to_vec();
    // RSP is a fine operand now and then, but much else happens on the stack.
    let stack = code.is_stack_instruction();
    for (operand, kind) in kinds.iter().enumerate() {
        set_operand(&mut instruction, operand as u32, *kind, (mode, stack), rng)?;
    }
    let memory = instruction.op0_kind() == OpKind::Memory;
    if op_code.can_use_lock_prefix() && memory && rng.one_in(3) {
        instruction.set_has_lock_prefix(true);
    }
    let string = instruction.is_string_instruction();
    if string && op_code.can_use_rep_prefix() && rng.one_in(2) {
        instruction.set_has_rep_prefix(true);
    } else if string && op_code.can_use_repne_prefix() && rng.one_in(2) {
        instruction.set_has_repne_prefix(true);
    }
    Some(instruction)
}

fn set_operand(
    instruction: &mut Instruction,
    operand: u32,
    kind: OpCodeOperandKind,
    (mode, stack): (Mode, bool),
    rng: &mut Rng,
) -> Option<()> {
    use OpCodeOperandKind as K;
    let registers = mode.registers();
    let wide = mode == Mode::Bits64;
    let gpr = |first: Register, rng: &mut Rng| {
        let number = rng.below(registers) as u32;
        if number == 4 && (stack || !rng.one_in(4)) { first } else { first + number }
    };
    let register = match kind {
        K::r8_or_mem
        | K::r16_or_mem
        | K::r32_or_mem
        | K::r64_or_mem
        | K::mm_or_mem
        | K::xmm_or_mem
        | K::ymm_or_mem
            if rng.one_in(2) =>
        {
            return set_memory(instruction, operand, mode, Register::None, rng);
        }
        K::mem => return set_memory(instruction, operand, mode, Register::None, rng),
        K::mem_vsib32x | K::mem_vsib64x => {
            return set_memory(instruction, operand, mode, Register::XMM0, rng);
        }
        K::mem_vsib32y | K::mem_vsib64y => {
            return set_memory(instruction, operand, mode, Register::YMM0, rng);
        }
        K::mem_offs => {
            instruction.set_op_kind(operand, OpKind::Memory);
            instruction.set_memory_displ_size(mode.bitness() / 8);
            instruction.set_memory_displacement64(DATA.start + rng.below(DATA.end - DATA.start - 8));
            return Some(());
        }
        // Twenty byte registers, AL to BH, SPL to DIL, R8L to R15L, or the first eight of them.
        K::r8_or_mem | K::r8_reg | K::r8_opcode => Register::AL + rng.below(if wide { 20 } else { 8 }) as u32,
        K::r16_or_mem | K::r16_reg | K::r16_reg_mem | K::r16_rm | K::r16_opcode => gpr(Register::AX, rng),
        K::r32_or_mem | K::r32_reg | K::r32_reg_mem | K::r32_rm | K::r32_opcode | K::r32_vvvv => {
            gpr(Register::EAX, rng)
        }
        K::r64_or_mem | K::r64_reg | K::r64_reg_mem | K::r64_rm | K::r64_opcode | K::r64_vvvv => {
            gpr(Register::RAX, rng)
        }
        K::mm_or_mem | K::mm_reg | K::mm_rm => Register::MM0 + rng.below(8) as u32,
        K::xmm_or_mem | K::xmm_reg | K::xmm_rm | K::xmm_vvvv | K::xmm_is4 => {
            Register::XMM0 + rng.below(registers) as u32
        }
        K::ymm_or_mem | K::ymm_reg | K::ymm_rm | K::ymm_vvvv | K::ymm_is4 => {
            Register::YMM0 + rng.below(registers) as u32
        }
        K::al => Register::AL,
        K::cl => Register::CL,
        K::ax => Register::AX,
        K::dx => Register::DX,
        K::eax => Register::EAX,
        K::rax => Register::RAX,
        K::st0 => Register::ST0,
        K::sti_opcode => Register::ST0 + rng.below(8) as u32,
        K::es => Register::ES,
        K::cs => Register::CS,
        K::ss => Register::SS,
        K::ds => Register::DS,
        K::seg_rSI => {
            instruction.set_op_kind(operand, if wide { OpKind::MemorySegRSI } else { OpKind::MemorySegESI });
            return Some(());
        }
        K::es_rDI => {
            instruction.set_op_kind(operand, if wide { OpKind::MemoryESRDI } else { OpKind::MemoryESEDI });
            return Some(());
        }
        K::seg_rDI => {
            instruction.set_op_kind(operand, if wide { OpKind::MemorySegRDI } else { OpKind::MemorySegEDI });
            return Some(());
        }
        K::seg_rBX_al => {
            instruction.set_op_kind(operand, OpKind::Memory);
            instruction.set_memory_base(if wide { Register::RBX } else { Register::EBX });
            instruction.set_memory_index(Register::AL);
            return Some(());
        }
        K::br64_1 | K::br64_4 | K::br32_1 | K::br32_4 => {
            // Anywhere near but at the instruction itself, which would not end.
            let distance = rng.below(50) + 1;
            let target = if rng.one_in(2) { START - distance } else { START + distance };
            if wide {
                instruction.set_op_kind(operand, OpKind::NearBranch64);
                instruction.set_near_branch64(target);
            } else {
                instruction.set_op_kind(operand, OpKind::NearBranch32);
                instruction.set_near_branch32(target as u32);
            }
            return Some(());
        }
        _ => return set_immediate(instruction, operand, kind, rng),
    };
    instruction.set_op_kind(operand, OpKind::Register);
    instruction.set_op_register(operand, register);
    Some(())
}

fn set_immediate(
    instruction: &mut Instruction,
    operand: u32,
    kind: OpCodeOperandKind,
    rng: &mut Rng,
) -> Option<()> {
    use OpCodeOperandKind as K;
    let value = rng.interesting();
    // The first immediate takes the general place, a second one (ENTER) its own.
    let kind = match kind {
        K::imm8_const_1 => {
            instruction.set_op_kind(operand, OpKind::Immediate8);
            instruction.set_immediate8(1);
            return Some(());
        }
        K::imm8 if operand > 0 && instruction.op_kind(operand - 1) == OpKind::Immediate16 => {
            instruction.set_op_kind(operand, OpKind::Immediate8_2nd);
            instruction.set_immediate8_2nd(value as u8 & 3);
            return Some(());
        }
        K::imm8 => OpKind::Immediate8,
        K::imm8sex16 => OpKind::Immediate8to16,
        K::imm8sex32 => OpKind::Immediate8to32,
        K::imm8sex64 => OpKind::Immediate8to64,
        K::imm16 => OpKind::Immediate16,
        K::imm32 => OpKind::Immediate32,
        K::imm32sex64 => OpKind::Immediate32to64,
        K::imm64 => OpKind::Immediate64,
        _ => return None,
    };
    instruction.set_op_kind(operand, kind);
    match kind {
        OpKind::Immediate8 => instruction.set_immediate8(value as u8),
        OpKind::Immediate8to16 => instruction.set_immediate8to16(i16::from(value as i8)),
        OpKind::Immediate8to32 => instruction.set_immediate8to32(i32::from(value as i8)),
        OpKind::Immediate8to64 => instruction.set_immediate8to64(i64::from(value as i8)),
        // ENTER's frame and RET's argument space stay inside the stack.
        OpKind::Immediate16 if instruction.is_stack_instruction() => {
            instruction.set_immediate16(value as u16 & 0xff);
        }
        OpKind::Immediate16 => instruction.set_immediate16(value as u16),
        OpKind::Immediate32 => instruction.set_immediate32(value as u32),
        OpKind::Immediate32to64 => instruction.set_immediate32to64(i64::from(value as i32)),
        _ => instruction.set_immediate64(value),
    }
    Some(())
}

/// A memory operand of one of the addressing forms; [`super::Case`] makes its registers point to data.
fn set_memory(
    instruction: &mut Instruction,
    operand: u32,
    mode: Mode,
    vector_index: Register,
    rng: &mut Rng,
) -> Option<()> {
    let (first, registers) = match mode {
        Mode::Bits64 => (Register::RAX, 16),
        Mode::Bits32 => (Register::EAX, 8),
    };
    let far = mode.bitness() / 8;
    instruction.set_op_kind(operand, OpKind::Memory);
    instruction.set_memory_index_scale(rng.pick(&[1, 2, 4, 8]));
    let displacement = rng.pick(&[0, 8, 0x40, u64::MAX, -64i64 as u64, 0x100, -0x1000i64 as u64]);
    let short = displacement.wrapping_add(128) < 256;
    instruction.set_memory_displacement64(displacement);
    instruction.set_memory_displ_size(if displacement == 0 {
        0
    } else if short {
        1
    } else {
        far
    });
    let index = |rng: &mut Rng, first: Register| match rng.below(registers - 1) as u32 {
        // RSP cannot be an index.
        4 => first + (registers as u32 - 1),
        number => first + number,
    };
    if vector_index != Register::None {
        instruction.set_memory_base(first + rng.below(registers) as u32);
        instruction.set_memory_index(vector_index + rng.below(registers) as u32);
        return Some(());
    }
    match rng.below(16) {
        0 => {
            if mode == Mode::Bits64 {
                instruction.set_memory_base(Register::RIP);
            }
            instruction.set_memory_index_scale(1);
            instruction.set_memory_displ_size(far);
            instruction.set_memory_displacement64(DATA.start + rng.below(DATA.end - DATA.start - 512));
        }
        1 if mode == Mode::Bits64 => {
            // 67h: 32-bit addressing.
            instruction.set_memory_base(Register::EAX + rng.below(16) as u32);
            if rng.one_in(2) {
                let register = index(rng, Register::EAX);
                instruction.set_memory_index(register);
            } else {
                instruction.set_memory_index_scale(1);
            }
            if instruction.memory_displ_size() == 8 {
                instruction.set_memory_displ_size(4);
            }
        }
        2 => {
            instruction.set_memory_displ_size(far);
            instruction.set_memory_displacement64(DATA.start + rng.below(0x100));
            let register = index(rng, first);
            instruction.set_memory_index(register);
        }
        3..6 => {
            instruction.set_memory_base(first + rng.below(registers) as u32);
            let register = index(rng, first);
            instruction.set_memory_index(register);
        }
        _ => {
            instruction.set_memory_base(first + rng.below(registers) as u32);
            instruction.set_memory_index_scale(1);
        }
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use viv_arch::cpuid::ModelParameters;

    use super::super::Case;
    use super::*;

    #[test]
    fn every_form_has_cases() {
        let model = CpuidTable::x86_64_v3(ModelParameters { vcpus: 1, tsc_khz: 1_000_000 });
        for mode in [Mode::Bits64, Mode::Bits32] {
            let without: Vec<_> = all_forms(&model, mode)
                .filter(|code| {
                    let mut rng = Rng::new(*code as u64);
                    (0..100).all(|_| Case::random(*code, mode, &mut rng).is_none())
                })
                .collect();
            assert_eq!(without, []);
            assert!(all_forms(&model, mode).count() > 1500);
        }
    }
}
