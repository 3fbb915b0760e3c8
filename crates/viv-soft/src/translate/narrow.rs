//! 32-bit code: its instructions as 64-bit code would have them.
//!
//! What they do to registers and memory is the same; that addresses, and the stack pointer, are cut to 32 bits, follows
//! from the [`Mode`]. What means something else there, or depends on a segment that is not as usual, is the interpreter's.

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};
use viv_arch::SegmentRegister;

use super::Mode;
use crate::hostexec::code_for_64_bit;

/// The instruction with 64-bit names of its address's registers and of its target, where these count from 0 on in both
/// directions. `None`: it is not translated.
pub fn widen(original: &Instruction, mode: Mode) -> Option<Instruction> {
    let mut i = *original;
    if !mode.is_narrow() || matches!(i.mnemonic(), Mnemonic::Nop | Mnemonic::Reservednop) {
        return Some(i);
    }
    // They leave the registers alone that 32-bit code has not.
    if matches!(i.mnemonic(), Mnemonic::Vzeroupper | Mnemonic::Vzeroall) {
        return None;
    }
    i.set_code(code_with_operand(code_for_64_bit(i.code())));
    if i.op_count() > 0 && i.op0_kind() == OpKind::NearBranch32 {
        let target = i64::from(i.near_branch32() as i32);
        i.set_op0_kind(OpKind::NearBranch64);
        i.set_near_branch64(target as u64);
    }
    if (0..i.op_count()).any(|n| i.op_kind(n) == OpKind::Memory) {
        let usable = match i.memory_segment() {
            Register::CS => false,
            Register::FS => mode.has(SegmentRegister::Fs),
            Register::GS => mode.has(SegmentRegister::Gs),
            _ => true,
        };
        if !usable || i.memory_displ_size() == 2 {
            return None;
        }
        i.set_memory_base(widen_register(i.memory_base())?);
        i.set_memory_index(widen_register(i.memory_index())?);
    }
    Some(i)
}

fn widen_register(register: Register) -> Option<Register> {
    match register {
        Register::None => Some(Register::None),
        _ if register.is_gpr32() => Some(register.full_register()),
        _ => None,
    }
}

/// The code with an address like others for one with an absolute address.
fn code_with_operand(code: Code) -> Code {
    match code {
        Code::Mov_AL_moffs8 => Code::Mov_r8_rm8,
        Code::Mov_AX_moffs16 => Code::Mov_r16_rm16,
        Code::Mov_EAX_moffs32 => Code::Mov_r32_rm32,
        Code::Mov_moffs8_AL => Code::Mov_rm8_r8,
        Code::Mov_moffs16_AX => Code::Mov_rm16_r16,
        Code::Mov_moffs32_EAX => Code::Mov_rm32_r32,
        other => other,
    }
}
