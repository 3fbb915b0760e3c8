//! The form in which a stub executes an instruction.

use iced_x86::{
    Code, CodeSize, Encoder, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};
use iced_x86::{CpuidFeature, EncodingKind, RflagsBits};

use super::emit::{RAX, RDI, RSI, RSP};
use super::memory;

/// Identifies a form: instructions with equal keys share a stub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FormKey {
    bytes: [u8; 15],
    len: u8,
    renamed_rsp: Option<u8>,
}

/// An instruction that has been made independent of where it stands and what it addresses.
#[derive(Debug)]
pub(super) struct Form {
    key: FormKey,
    /// The host register with the pointer to [`super::ExecState`].
    pub state: u8,
    /// The host register with the pointer to the memory operand.
    pub memory: Option<u8>,
    /// The host register that stands for the guest's RSP.
    pub renamed_rsp: Option<u8>,
    /// Host general registers that the instruction uses, but for [`Form::memory`].
    pub gpr_used: u16,
    /// Those of them that it may write.
    pub gpr_written: u16,
    /// Vector registers that it uses.
    pub vector_used: u16,
    /// Those of them that it may write.
    pub vector_written: u16,
    /// Whether it uses whole vector registers, or XMM registers with the upper halves unaffected.
    pub vex: bool,
    /// Whether MXCSR decides its result or takes its exceptions.
    pub mxcsr: bool,
    /// What it is to the x87 unit.
    pub x87: X87,
    /// Whether it reads or may write arithmetic flags.
    pub flags_used: bool,
    /// Whether it may write arithmetic flags.
    pub flags_written: bool,
}

/// What an instruction is to the x87 unit, as far as the last-instruction pointers go (SDM vol. 1, 8.1.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum X87 {
    /// It does not use x87 or MMX registers.
    Unused,
    /// It leaves the pointers alone: MMX, and control instructions.
    KeepsPointers,
    /// It gives them values of its own: FNINIT, FNSAVE, FLDENV, FRSTOR.
    SetsPointers,
    /// It is the next last instruction.
    Computes,
}

/// Host registers that may hold pointers, those that need no saving first. RAX carries the flags.
const POINTER_REGISTERS: [u8; 14] = [RDI, RSI, 8, 9, 10, 11, 1, 2, 3, 5, 12, 13, 14, 15];

impl Form {
    /// The form of an instruction that [`super::is_host_executable`] admits; `None` if it cannot be encoded in
    /// 64-bit mode.
    pub fn new(original: &Instruction) -> Option<Self> {
        let mut instruction = *original;
        instruction.set_code(code_for_64_bit(original.code()));
        instruction.set_code_size(CodeSize::Code64);
        // Hardware lock elision must not start a transaction in the stub.
        instruction.set_has_xacquire_prefix(false);
        instruction.set_has_xrelease_prefix(false);
        instruction.set_has_rep_prefix(false);
        instruction.set_has_repne_prefix(false);
        instruction.set_segment_prefix(Register::None);
        let has_memory = memory::has_operand(original);
        if has_memory {
            instruction.set_memory_base(Register::None);
            instruction.set_memory_index(Register::None);
            instruction.set_memory_index_scale(1);
            instruction.set_memory_displacement64(0);
            instruction.set_memory_displ_size(0);
        }

        let mut free = FreeRegisters::new(&instruction);
        let state = free.take(|register| register != RSI)?;
        let memory = if has_memory { Some(free.take(|register| register != RDI)?) } else { None };
        let renamed_rsp = rename_rsp(&mut instruction, &mut free)?;
        if let Some(register) = memory {
            instruction.set_memory_base(gpr(Register::RAX, register));
        }

        let mut encoder = Encoder::new(64);
        let len = encoder.encode(&instruction, 0).ok()?;
        let mut bytes = [0; 15];
        bytes.get_mut(..len)?.copy_from_slice(&encoder.take_buffer());
        let usage = Usage::of(&instruction);
        let x87 = x87_role(&instruction, usage.mmx_or_x87);
        let vex = instruction.code().encoding() == EncodingKind::VEX;
        let arithmetic = RflagsBits::CF
            | RflagsBits::PF
            | RflagsBits::AF
            | RflagsBits::ZF
            | RflagsBits::SF
            | RflagsBits::OF;
        let flags_written = instruction.rflags_modified() & arithmetic != 0;
        Some(Self {
            key: FormKey { bytes, len: len as u8, renamed_rsp },
            state,
            memory,
            renamed_rsp,
            gpr_used: usage.gpr.used & !memory.map_or(0, |register| 1 << register),
            gpr_written: usage.gpr.written,
            vector_used: usage.vector.used,
            vector_written: usage.vector.written,
            vex,
            mxcsr: usage.vector.used != 0 || converts_memory_to_gpr(instruction.mnemonic()),
            x87,
            flags_used: flags_written || instruction.rflags_read() & arithmetic != 0,
            flags_written,
        })
    }

    pub fn key(&self) -> FormKey {
        self.key
    }

    /// The instruction's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.key.bytes[..usize::from(self.key.len)]
    }
}

/// The 64-bit register with a number, or the register of another size when `first` is that size's first.
fn gpr(first: Register, number: u8) -> Register {
    first + u32::from(number)
}

/// Registers that an instruction does not use.
struct FreeRegisters {
    used: u16,
    /// REX would turn AH, CH, DH and BH into other registers.
    no_rex: bool,
}

impl FreeRegisters {
    fn new(instruction: &Instruction) -> Self {
        let no_rex = (0..instruction.op_count()).any(|operand| {
            instruction.op_kind(operand) == OpKind::Register
                && matches!(
                    instruction.op_register(operand),
                    Register::AH | Register::CH | Register::DH | Register::BH
                )
        });
        Self { used: Usage::of(instruction).gpr.used | 1 << RAX | 1 << RSP, no_rex }
    }

    fn take(&mut self, suits: impl Fn(u8) -> bool) -> Option<u8> {
        let register = POINTER_REGISTERS.into_iter().find(|register| {
            self.used & 1 << register == 0 && !(self.no_rex && *register >= 8) && suits(*register)
        })?;
        self.used |= 1 << register;
        Some(register)
    }
}

/// Replaces RSP as an operand, because host code needs its stack. The outer option is `None` if there is no
/// register left, the inner one if there was no RSP.
#[allow(clippy::option_option, reason = "two different absences, both local to one call")]
fn rename_rsp(instruction: &mut Instruction, free: &mut FreeRegisters) -> Option<Option<u8>> {
    let mut renamed = None;
    for operand in 0..instruction.op_count() {
        if instruction.op_kind(operand) != OpKind::Register {
            continue;
        }
        let first = match instruction.op_register(operand) {
            Register::RSP => Register::RAX,
            Register::ESP => Register::EAX,
            Register::SP => Register::AX,
            Register::SPL => Register::AL,
            _ => continue,
        };
        let register = match renamed {
            Some(register) => register,
            None => free.take(|register| register != RSI && register != RDI)?,
        };
        renamed = Some(register);
        // Byte registers are numbered AL CL DL BL AH CH DH BH SPL BPL SIL DIL R8L …
        let index = if first == Register::AL && register >= 4 { register + 4 } else { register };
        instruction.set_op_register(operand, gpr(first, index));
    }
    Some(renamed)
}

/// Register numbers, one bit each.
#[derive(Debug, Default)]
struct Set {
    used: u16,
    written: u16,
}

/// The registers that an instruction uses, implicitly or not.
#[derive(Debug, Default)]
struct Usage {
    gpr: Set,
    vector: Set,
    mmx_or_x87: bool,
}

impl Usage {
    fn of(instruction: &Instruction) -> Self {
        let mut usage = Self::default();
        let mut factory = InstructionInfoFactory::new();
        for used in factory.info(instruction).used_registers() {
            let register = used.register();
            let set = if register.is_gpr() {
                &mut usage.gpr
            } else if register.is_vector_register() {
                &mut usage.vector
            } else {
                usage.mmx_or_x87 |= register.is_mm() || register.is_st();
                continue;
            };
            let bit = 1 << register.full_register().number();
            set.used |= bit;
            if !matches!(used.access(), OpAccess::Read | OpAccess::CondRead) {
                set.written |= bit;
            }
        }
        usage
    }
}

/// Conversions that use no vector register when their source is memory.
fn converts_memory_to_gpr(mnemonic: Mnemonic) -> bool {
    use Mnemonic::{Cvtsd2si, Cvtss2si, Cvttsd2si, Cvttss2si, Vcvtsd2si, Vcvtss2si, Vcvttsd2si, Vcvttss2si};
    matches!(
        mnemonic,
        Cvtss2si | Cvttss2si | Cvtsd2si | Cvttsd2si | Vcvtss2si | Vcvttss2si | Vcvtsd2si | Vcvttsd2si
    )
}

/// What an instruction is to the x87 unit; `uses_registers`: it uses x87 or MMX registers.
pub fn x87_role(instruction: &Instruction, uses_registers: bool) -> X87 {
    use Mnemonic::{
        Cvtpi2pd, Cvtpi2ps, Fldcw, Fldenv, Fnclex, Fndisi, Fneni, Fninit, Fnsave, Fnsetpm, Fnstcw, Fnstenv,
        Fnstsw, Frstor, Wait,
    };
    let features = instruction.code().cpuid_features();
    let of_x87 = features
        .iter()
        .any(|feature| matches!(feature, CpuidFeature::FPU | CpuidFeature::FPU287 | CpuidFeature::FPU387));
    match instruction.mnemonic() {
        Fninit | Fnsave | Fldenv | Frstor => X87::SetsPointers,
        Fldcw | Fnstcw | Fnstsw | Fnclex | Fnstenv | Fndisi | Fneni | Fnsetpm | Wait => X87::KeepsPointers,
        _ if of_x87 => X87::Computes,
        // They enter MMX mode even when their source is memory.
        Cvtpi2ps | Cvtpi2pd => X87::KeepsPointers,
        _ if uses_registers || features.contains(&CpuidFeature::MMX) => X87::KeepsPointers,
        _ => X87::Unused,
    }
}

/// The 64-bit encoding of an instruction whose own encoding means something else, or nothing, in 64-bit mode.
pub fn code_for_64_bit(code: Code) -> Code {
    match code {
        Code::Inc_r16 => Code::Inc_rm16,
        Code::Inc_r32 => Code::Inc_rm32,
        Code::Dec_r16 => Code::Dec_rm16,
        Code::Dec_r32 => Code::Dec_rm32,
        Code::Add_rm8_imm8_82 => Code::Add_rm8_imm8,
        Code::Or_rm8_imm8_82 => Code::Or_rm8_imm8,
        Code::Adc_rm8_imm8_82 => Code::Adc_rm8_imm8,
        Code::Sbb_rm8_imm8_82 => Code::Sbb_rm8_imm8,
        Code::And_rm8_imm8_82 => Code::And_rm8_imm8,
        Code::Sub_rm8_imm8_82 => Code::Sub_rm8_imm8,
        Code::Xor_rm8_imm8_82 => Code::Xor_rm8_imm8,
        Code::Cmp_rm8_imm8_82 => Code::Cmp_rm8_imm8,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hostexec::allow;

    #[test]
    fn what_other_modes_encode_has_an_encoding_in_64_bit_mode() {
        let missing: Vec<_> = Code::values()
            .filter(|code| {
                let op_code = code.op_code();
                let mut instruction = Instruction::new();
                instruction.set_code(*code);
                matches!(op_code.encoding(), EncodingKind::Legacy | EncodingKind::VEX)
                    && op_code.is_instruction()
                    && (op_code.mode16() || op_code.mode32())
                    && !code.is_privileged()
                    && allow::is_computation(&instruction)
                    && !code_for_64_bit(*code).op_code().mode64()
            })
            .collect();
        assert_eq!(missing, []);
    }
}
