//! Which instructions may run on the host.
//!
//! A security boundary, so an allow-list: a mnemonic or a CPUID feature that is not named here is refused.
//! What passes reads and writes general, vector and x87 registers, the arithmetic flags, and one memory
//! operand of known size.
//!
//! Refused although their feature is listed, and therefore the interpreter's to model:
//! - fences and prefetches: no operand, or one that is not accessed;
//! - LDMXCSR and STMXCSR: the stub's own handling of MXCSR would hide their effect;
//! - masked moves and gathers: they touch a part of their operand, which decides what faults;
//! - bit tests with a register offset into memory: the address depends on more than the operand;
//! - MOV with an absolute offset: its operand cannot be redirected.

use iced_x86::{CpuidFeature, EncodingKind, FlowControl, Instruction, Mnemonic, OpCodeOperandKind, OpKind};

use super::memory;

/// Whether a stub can execute this instruction.
#[must_use]
pub fn is_host_executable(instruction: &Instruction) -> bool {
    let code = instruction.code();
    matches!(code.op_code().encoding(), EncodingKind::Legacy | EncodingKind::VEX)
        && code.flow_control() == FlowControl::Next
        && !code.is_privileged()
        && !code.is_stack_instruction()
        && is_computation(instruction)
        && (0..instruction.op_count()).all(|operand| is_plain_operand(instruction, operand))
        && !is_bit_string(instruction)
        && (!memory::has_operand(instruction) || memory::memory_access(instruction).is_some())
}

/// Whether the mnemonic, or all features that it needs, are on the list.
pub(super) fn is_computation(instruction: &Instruction) -> bool {
    let features = instruction.code().cpuid_features();
    if features.iter().all(|feature| is_base(*feature)) {
        is_integer(instruction.mnemonic())
    } else {
        features.iter().all(|feature| is_base(*feature) || is_computational(*feature))
            && !is_modelled(instruction.mnemonic())
    }
}

/// Features with instructions of every kind, of which [`is_integer`] picks.
fn is_base(feature: CpuidFeature) -> bool {
    use CpuidFeature::{CMOV, CMPXCHG16B, CX8, INTEL186, INTEL286, INTEL386, INTEL486, INTEL8086, X64};
    matches!(feature, INTEL8086 | INTEL186 | INTEL286 | INTEL386 | INTEL486 | X64 | CMOV | CX8 | CMPXCHG16B)
}

/// Features whose instructions compute, but for those of [`is_modelled`].
fn is_computational(feature: CpuidFeature) -> bool {
    use CpuidFeature::{
        ADX, AES, AVX, AVX2, BMI1, BMI2, F16C, FMA, FPU, FPU287, FPU387, LZCNT, MMX, MOVBE, PCLMULQDQ,
        POPCNT, RDRAND, RDSEED, SHA, SSE, SSE2, SSE3, SSE4_1, SSE4_2, SSSE3,
    };
    matches!(
        feature,
        FPU | FPU287
            | FPU387
            | MMX
            | SSE
            | SSE2
            | SSE3
            | SSSE3
            | SSE4_1
            | SSE4_2
            | AES
            | PCLMULQDQ
            | SHA
            | AVX
            | AVX2
            | FMA
            | F16C
            | BMI1
            | BMI2
            | ADX
            | MOVBE
            | POPCNT
            | LZCNT
            | RDRAND
            | RDSEED
    )
}

/// Instructions of listed features that the interpreter models itself.
fn is_modelled(mnemonic: Mnemonic) -> bool {
    use Mnemonic::{
        Fclex, Fdisi, Feni, Finit, Fsave, Fsetpm, Fstcw, Fstenv, Fstsw, Ldmxcsr, Lfence, Maskmovdqu,
        Maskmovq, Mfence, Prefetchnta, Prefetcht0, Prefetcht1, Prefetcht2, Sfence, Stmxcsr, Vgatherdpd,
        Vgatherdps, Vgatherqpd, Vgatherqps, Vldmxcsr, Vmaskmovdqu, Vmaskmovpd, Vmaskmovps, Vpgatherdd,
        Vpgatherdq, Vpgatherqd, Vpgatherqq, Vpmaskmovd, Vpmaskmovq, Vstmxcsr,
    };
    matches!(
        mnemonic,
        Sfence | Lfence | Mfence | Prefetchnta | Prefetcht0 | Prefetcht1 | Prefetcht2
            | Ldmxcsr | Stmxcsr | Vldmxcsr | Vstmxcsr
            | Maskmovq | Maskmovdqu | Vmaskmovdqu | Vmaskmovps | Vmaskmovpd | Vpmaskmovd | Vpmaskmovq
            | Vgatherdps | Vgatherdpd | Vgatherqps | Vgatherqpd
            | Vpgatherdd | Vpgatherdq | Vpgatherqd | Vpgatherqq
            // Two instructions each, the first of which is WAIT: no decoder produces them.
            | Fclex | Fdisi | Feni | Finit | Fsave | Fsetpm | Fstcw | Fstenv | Fstsw
    )
}

/// The integer instructions that may run. WAIT is here because its feature is that of the 8086.
fn is_integer(mnemonic: Mnemonic) -> bool {
    use Mnemonic::{
        Adc, Add, And, Bsf, Bsr, Bswap, Bt, Btc, Btr, Bts, Cbw, Cdq, Cdqe, Clc, Cmc, Cmova, Cmovae, Cmovb,
        Cmovbe, Cmove, Cmovg, Cmovge, Cmovl, Cmovle, Cmovne, Cmovno, Cmovnp, Cmovns, Cmovo, Cmovp, Cmovs,
        Cmp, Cmpxchg, Cmpxchg8b, Cmpxchg16b, Cqo, Cwd, Cwde, Dec, Div, Idiv, Imul, Inc, Lahf, Mov, Movsx,
        Movsxd, Movzx, Mul, Neg, Not, Or, Rcl, Rcr, Rol, Ror, Sahf, Sal, Sar, Sbb, Seta, Setae, Setb, Setbe,
        Sete, Setg, Setge, Setl, Setle, Setne, Setno, Setnp, Setns, Seto, Setp, Sets, Shl, Shld, Shr, Shrd,
        Stc, Sub, Test, Wait, Xadd, Xchg, Xor,
    };
    matches!(
        mnemonic,
        Add | Or
            | Adc
            | Sbb
            | And
            | Sub
            | Xor
            | Cmp
            | Test
            | Inc
            | Dec
            | Neg
            | Not
            | Mul
            | Imul
            | Div
            | Idiv
            | Rol
            | Ror
            | Rcl
            | Rcr
            | Shl
            | Sal
            | Shr
            | Sar
            | Shld
            | Shrd
            | Bt
            | Bts
            | Btr
            | Btc
            | Bsf
            | Bsr
            | Bswap
            | Cbw
            | Cwde
            | Cdqe
            | Cwd
            | Cdq
            | Cqo
            | Mov
            | Movzx
            | Movsx
            | Movsxd
            | Xchg
            | Xadd
            | Cmpxchg
            | Cmpxchg8b
            | Cmpxchg16b
            | Lahf
            | Sahf
            | Clc
            | Stc
            | Cmc
            | Wait
            | Cmovo
            | Cmovno
            | Cmovb
            | Cmovae
            | Cmove
            | Cmovne
            | Cmovbe
            | Cmova
            | Cmovs
            | Cmovns
            | Cmovp
            | Cmovnp
            | Cmovl
            | Cmovge
            | Cmovle
            | Cmovg
            | Seto
            | Setno
            | Setb
            | Setae
            | Sete
            | Setne
            | Setbe
            | Seta
            | Sets
            | Setns
            | Setp
            | Setnp
            | Setl
            | Setge
            | Setle
            | Setg
    )
}

/// Whether an operand is a register of a computational kind, an immediate, or memory that can be redirected.
fn is_plain_operand(instruction: &Instruction, operand: u32) -> bool {
    match instruction.op_kind(operand) {
        OpKind::Register => {
            let register = instruction.op_register(operand);
            register.is_gpr()
                || register.is_st()
                || register.is_mm()
                || register.is_xmm()
                || register.is_ymm()
        }
        OpKind::Memory => matches!(
            instruction.op_code().op_kind(operand),
            OpCodeOperandKind::mem
                | OpCodeOperandKind::r8_or_mem
                | OpCodeOperandKind::r16_or_mem
                | OpCodeOperandKind::r32_or_mem
                | OpCodeOperandKind::r64_or_mem
                | OpCodeOperandKind::mm_or_mem
                | OpCodeOperandKind::xmm_or_mem
                | OpCodeOperandKind::ymm_or_mem
        ),
        OpKind::Immediate8_2nd => true,
        kind => is_immediate(kind),
    }
}

/// Whether an operand is an immediate, the only one of its instruction.
pub fn is_immediate(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64
    )
}

/// BT, BTS, BTR and BTC of a bit string in memory (SDM vol. 1, 3.1.1.9).
fn is_bit_string(instruction: &Instruction) -> bool {
    matches!(instruction.mnemonic(), Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc)
        && instruction.op0_kind() == OpKind::Memory
        && instruction.op1_kind() == OpKind::Register
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions};

    use super::*;

    fn allowed(bytes: &[u8]) -> bool {
        let instruction = Decoder::new(64, bytes, DecoderOptions::NONE).decode();
        assert_eq!(instruction.len(), bytes.len(), "{bytes:02x?}");
        is_host_executable(&instruction)
    }

    #[test]
    fn computation_is_allowed() {
        for bytes in [
            &[0x48, 0x01, 0xc3][..],         // add rbx, rax
            &[0xf0, 0x48, 0x0f, 0xc7, 0x0b], // lock cmpxchg16b [rbx]
            &[0x0f, 0x58, 0x03],             // addps xmm0, [rbx]
            &[0xc4, 0xe2, 0xf5, 0xb8, 0xc2], // vfmadd231pd ymm0, ymm1, ymm2
            &[0xdb, 0x2b],                   // fld tword [rbx]
            &[0x9b],                         // wait
            &[0x0f, 0x77],                   // emms
            &[0x0f, 0x38, 0xcb, 0xc1],       // sha256rnds2 xmm0, xmm1
            &[0x48, 0x0f, 0xba, 0x2b, 0x03], // bts qword [rbx], 3
        ] {
            assert!(allowed(bytes), "{bytes:02x?}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for bytes in [
            &[0x0f, 0x05][..],                     // syscall
            &[0x0f, 0x0b],                         // ud2
            &[0xcc],                               // int3
            &[0xcd, 0x80],                         // int 0x80
            &[0xeb, 0xfe],                         // jmp $
            &[0xff, 0xd0],                         // call rax
            &[0x50],                               // push rax
            &[0x9d],                               // popf
            &[0x8e, 0xd8],                         // mov ds, eax
            &[0x0f, 0x20, 0xc0],                   // mov rax, cr0
            &[0xe4, 0x60],                         // in al, 0x60
            &[0xf3, 0xa4],                         // rep movsb
            &[0x8d, 0x03],                         // lea eax, [rbx]
            &[0x0f, 0xa2],                         // cpuid
            &[0x0f, 0x31],                         // rdtsc
            &[0x0f, 0x01, 0xd0],                   // xgetbv
            &[0x0f, 0x01, 0xef],                   // wrpkru
            &[0xf3, 0x48, 0x0f, 0xae, 0xd0],       // wrfsbase rax
            &[0x0f, 0xae, 0x13],                   // ldmxcsr [rbx]
            &[0x0f, 0xae, 0x03],                   // fxsave [rbx]
            &[0x0f, 0xae, 0xf0],                   // mfence
            &[0x0f, 0xae, 0x3b],                   // clflush [rbx]
            &[0x0f, 0x18, 0x03],                   // prefetchnta [rbx]
            &[0xfd],                               // std
            &[0x48, 0x0f, 0xab, 0x03],             // bts [rbx], rax
            &[0xc4, 0xe2, 0x71, 0x2c, 0x03],       // vmaskmovps xmm0, xmm1, [rbx]
            &[0xc4, 0xe2, 0x71, 0x92, 0x04, 0x13], // vgatherdps xmm0, [rbx+xmm2], xmm1
            &[0x66, 0x0f, 0xf7, 0xc1],             // maskmovdqu xmm0, xmm1
            &[0x62, 0xf1, 0x7c, 0x48, 0x58, 0xc1], // vaddps zmm0, zmm0, zmm1
            &[0xc4, 0xe2, 0x7d, 0xdc, 0xc1],       // vaesenc ymm0, ymm0, ymm1
            &[0xc7, 0xf8, 0, 0, 0, 0],             // xbegin
            &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0],       // mov al, [moffs]
            &[0xd7],                               // xlatb
            &[0x0f, 0x0e],                         // femms
            &[0x0f, 0x1f, 0x03],                   // nop [rbx]
            &[0x0f, 0x03, 0xc0],                   // lsl eax, eax
        ] {
            assert!(!allowed(bytes), "{bytes:02x?}");
        }
    }
}
