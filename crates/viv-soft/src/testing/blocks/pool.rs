//! The instruction forms of blocks, by what they are good for.

use std::collections::BTreeMap;

use iced_x86::{Code, CpuidFeature, FlowControl, Mnemonic, OpCodeOperandKind};
use viv_arch::CpuidTable;
use viv_arch::cpuid::ModelParameters;

use super::super::{Mode, Rng, forms, has_own_faults};

/// Forms by mnemonic: all mnemonics are as likely, however many forms they have.
type Group = Vec<Vec<Code>>;

/// Forms to choose from.
pub struct Pool {
    /// What hot code is made of, and what reads and writes flags in part.
    common: Group,
    integer: Group,
    vector: Group,
    /// x87 and MMX.
    x87: Group,
    other: Group,
    /// Near branches and calls to a fixed place.
    branches: Vec<Code>,
    /// What shows the guest's own system, so that it cannot be compared with the processor.
    system: Vec<Code>,
}

impl Pool {
    /// All forms of a mode that the guest's CPUID model offers.
    #[must_use]
    pub fn new(mode: Mode) -> Self {
        let model = CpuidTable::x86_64_v3(ModelParameters { vcpus: 1, tsc_khz: 1_000_000 });
        let mut groups: [BTreeMap<String, Vec<Code>>; 5] = Default::default();
        let mut branches = Vec::new();
        for code in forms::all_forms(&model, mode) {
            if code.op_code().op_kinds().iter().any(|kind| is_near_branch(*kind)) {
                branches.push(code);
            } else if is_straight(code) {
                let name = format!("{:?}", code.mnemonic());
                if is_common(code) {
                    groups[0].entry(name.clone()).or_default().push(code);
                }
                let group = if is_integer(code) {
                    1
                } else if is_vector(code) {
                    2
                } else if is_x87(code) {
                    3
                } else {
                    4
                };
                groups[group].entry(name).or_default().push(code);
            }
        }
        let [common, integer, vector, x87, other] = groups.map(|group| group.into_values().collect());
        let system = SYSTEM
            .iter()
            .copied()
            .filter(
                |code| if mode == Mode::Bits64 { code.op_code().mode64() } else { code.op_code().mode32() },
            )
            .collect();
        Self { common, integer, vector, x87, other, branches, system }
    }

    /// A form that leads to the next instruction. `open`: no page of the block is forbidden.
    pub fn straight(&self, open: bool, rng: &mut Rng) -> Code {
        loop {
            let group = match rng.below(40) {
                0..15 => &self.common,
                15..26 => &self.integer,
                26..33 => &self.vector,
                33..39 => &self.x87,
                _ => &self.other,
            };
            let forms = &group[rng.below(group.len() as u64) as usize];
            let code = rng.pick(forms);
            if open || has_own_faults(code).is_none() {
                return code;
            }
        }
    }

    /// A form that leads elsewhere.
    pub fn branch(&self, rng: &mut Rng) -> Code {
        rng.pick(&self.branches)
    }

    /// A form that shows the guest's own system.
    pub fn system(&self, rng: &mut Rng) -> Code {
        rng.pick(&self.system)
    }
}

const COMMON: &[Mnemonic] = {
    use Mnemonic::{
        Adc, Add, And, Bt, Btc, Btr, Bts, Cbw, Cdq, Cdqe, Clc, Cmc, Cmova, Cmovb, Cmovbe, Cmove, Cmovg,
        Cmovl, Cmovo, Cmovp, Cmovs, Cmp, Cmpxchg, Cqo, Cwde, Dec, Imul, Inc, Lahf, Lea, Lodsb, Lodsd, Mov,
        Movaps, Movdqa, Movdqu, Movsb, Movsd, Movsq, Movsx, Movsxd, Movups, Movzx, Mul, Neg, Nop, Not, Or,
        Pop, Push, Pxor, Rcl, Rcr, Rol, Ror, Sahf, Sar, Sbb, Setae, Setb, Setbe, Sete, Setg, Setl, Seto,
        Setp, Sets, Shl, Shld, Shr, Shrd, Stc, Stosb, Stosd, Stosq, Sub, Test, Xadd, Xchg, Xor,
    };
    &[
        Adc, Add, And, Bt, Btc, Btr, Bts, Cbw, Cdq, Cdqe, Clc, Cmc, Cmova, Cmovb, Cmovbe, Cmove, Cmovg,
        Cmovl, Cmovo, Cmovp, Cmovs, Cmp, Cmpxchg, Cqo, Cwde, Dec, Imul, Inc, Lahf, Lea, Lodsb, Lodsd, Mov,
        Movaps, Movdqa, Movdqu, Movsb, Movsd, Movsq, Movsx, Movsxd, Movups, Movzx, Mul, Neg, Nop, Not, Or,
        Pop, Push, Pxor, Rcl, Rcr, Rol, Ror, Sahf, Sar, Sbb, Setae, Setb, Setbe, Sete, Setg, Setl, Seto,
        Setp, Sets, Shl, Shld, Shr, Shrd, Stc, Stosb, Stosd, Stosq, Sub, Test, Xadd, Xchg, Xor,
    ]
};

const SYSTEM: &[Code] = &[
    Code::Cpuid,
    Code::Pushfw,
    Code::Pushfd,
    Code::Pushfq,
    Code::Pushw_FS,
    Code::Pushd_FS,
    Code::Pushq_FS,
    Code::Pushq_GS,
    Code::Mov_rm16_Sreg,
    Code::Mov_r32m16_Sreg,
    Code::Mov_r64m16_Sreg,
    Code::Rdfsbase_r32,
    Code::Rdfsbase_r64,
    Code::Rdgsbase_r64,
    Code::Lar_r32_r32m16,
    Code::Lsl_r64_r64m16,
    Code::Verr_rm16,
    Code::Verw_rm16,
    Code::Str_r32m16,
];

fn is_near_branch(kind: OpCodeOperandKind) -> bool {
    use OpCodeOperandKind::{br32_1, br32_4, br64_1, br64_4};
    matches!(kind, br32_1 | br32_4 | br64_1 | br64_4)
}

/// Whether the next instruction follows.
fn is_straight(code: Code) -> bool {
    code.flow_control() == FlowControl::Next
}

fn is_integer(code: Code) -> bool {
    use CpuidFeature as F;
    code.cpuid_features().iter().all(|feature| {
        matches!(
            feature,
            F::INTEL8086
                | F::INTEL186
                | F::INTEL286
                | F::INTEL386
                | F::INTEL486
                | F::X64
                | F::CMOV
                | F::CX8
                | F::CMPXCHG16B
                | F::MOVBE
                | F::POPCNT
                | F::LZCNT
                | F::BMI1
                | F::BMI2
                | F::ADX
        )
    })
}

fn is_vector(code: Code) -> bool {
    use CpuidFeature as F;
    !code.cpuid_features().iter().any(|feature| {
        matches!(
            feature,
            F::FPU | F::FPU287 | F::FPU387 | F::MMX | F::FXSR | F::XSAVE | F::XSAVEOPT | F::XSAVEC
        )
    })
}

fn is_x87(code: Code) -> bool {
    use CpuidFeature as F;
    code.cpuid_features().iter().any(|feature| matches!(feature, F::FPU | F::FPU287 | F::FPU387 | F::MMX))
}

fn is_common(code: Code) -> bool {
    COMMON.contains(&code.mnemonic())
}
