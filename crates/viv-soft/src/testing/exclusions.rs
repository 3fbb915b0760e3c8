//! Forms that cannot be compared with the processor, and why.

use iced_x86::{Code, CpuidFeature, Mnemonic, OpCodeOperandKind};

/// What an exclusion is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// All instructions that need a feature.
    Feature(CpuidFeature),
    /// All forms of a mnemonic.
    Mnemonic(Mnemonic),
    /// One form.
    Code(Code),
}

/// The reason why a form is left out, if it is.
#[must_use]
pub fn excluded(code: Code) -> Option<&'static str> {
    let matches = |subject: &Subject| match *subject {
        Subject::Feature(feature) => code.cpuid_features().contains(&feature),
        Subject::Mnemonic(mnemonic) => code.mnemonic() == mnemonic,
        Subject::Code(other) => code == other,
    };
    if code.is_privileged() {
        return Some("privileged: a user program cannot execute it");
    }
    if code.op_code().op_kinds().iter().any(|kind| is_narrow_branch(*kind)) {
        return Some(NARROW_BRANCH);
    }
    EXCLUSIONS.iter().find(|(subjects, _)| subjects.iter().any(matches)).map(|(_, reason)| *reason)
}

/// The reason why page faults of a form are not compared, if they are not. Everything else of it is.
#[must_use]
pub fn has_own_faults(code: Code) -> Option<&'static str> {
    use Mnemonic::{
        Fldenv, Fnsave, Fnstenv, Frstor, Fxrstor, Fxrstor64, Fxsave, Fxsave64, Maskmovdqu, Maskmovq,
        Vmaskmovdqu, Xrstor, Xrstor64, Xsave, Xsave64, Xsavec, Xsavec64, Xsaveopt, Xsaveopt64,
    };
    match code.mnemonic() {
        Maskmovq | Maskmovdqu | Vmaskmovdqu => Some("may fault for bytes that the mask leaves out"),
        Fnsave | Frstor | Fnstenv | Fldenv | Fxsave | Fxsave64 | Fxrstor | Fxrstor64 | Xsave | Xsave64
        | Xsavec | Xsavec64 | Xsaveopt | Xsaveopt64 | Xrstor | Xrstor64 => {
            Some("touches the parts of its operand in an order of its own")
        }
        _ => None,
    }
}

/// The reason why CR2 of a form's page faults is compared by page only, if it is.
#[must_use]
pub fn has_own_fault_address(code: Code) -> Option<&'static str> {
    use Mnemonic::{Vmaskmovpd, Vmaskmovps, Vpmaskmovd, Vpmaskmovq};
    match code.mnemonic() {
        Vmaskmovpd | Vmaskmovps | Vpmaskmovd | Vpmaskmovq => {
            Some("names any byte of the operand's part in the page")
        }
        _ => None,
    }
}

const NARROW_BRANCH: &str =
    "a 16-bit branch: in 64-bit mode, Intel and AMD differ; in 32-bit mode, nothing is down there";

fn is_narrow_branch(kind: OpCodeOperandKind) -> bool {
    use OpCodeOperandKind::{br16_1, br16_2};
    matches!(kind, br16_1 | br16_2)
}

use Subject::{Code as C, Feature as F, Mnemonic as M};

const EXCLUSIONS: &[(&[Subject], &str)] = &[
    (
        &[M(Mnemonic::Rdrand), M(Mnemonic::Rdseed), M(Mnemonic::Rdtsc), M(Mnemonic::Rdtscp)],
        "gives another value every time",
    ),
    (
        &[M(Mnemonic::Cpuid), M(Mnemonic::Xgetbv), M(Mnemonic::Rdpid), M(Mnemonic::Rdpmc)],
        "shows the host, not the guest's model",
    ),
    (
        &[
            M(Mnemonic::Syscall),
            M(Mnemonic::Sysenter),
            M(Mnemonic::Int),
            M(Mnemonic::Int1),
            M(Mnemonic::Int3),
            M(Mnemonic::Into),
        ],
        "enters the host's kernel",
    ),
    (
        &[
            M(Mnemonic::Retf),
            M(Mnemonic::Iret),
            M(Mnemonic::Iretd),
            M(Mnemonic::Iretq),
            M(Mnemonic::Lds),
            M(Mnemonic::Les),
            M(Mnemonic::Lss),
            M(Mnemonic::Lfs),
            M(Mnemonic::Lgs),
            M(Mnemonic::Lar),
            M(Mnemonic::Lsl),
            M(Mnemonic::Verr),
            M(Mnemonic::Verw),
            M(Mnemonic::Str),
            M(Mnemonic::Sldt),
            M(Mnemonic::Sgdt),
            M(Mnemonic::Sidt),
            M(Mnemonic::Smsw),
            C(Code::Call_ptr1616),
            C(Code::Call_ptr1632),
            C(Code::Jmp_ptr1616),
            C(Code::Jmp_ptr1632),
            C(Code::Call_m1616),
            C(Code::Call_m1632),
            C(Code::Call_m1664),
            C(Code::Jmp_m1616),
            C(Code::Jmp_m1632),
            C(Code::Jmp_m1664),
            C(Code::Mov_rm16_Sreg),
            C(Code::Mov_r32m16_Sreg),
            C(Code::Mov_r64m16_Sreg),
            C(Code::Mov_Sreg_rm16),
            C(Code::Mov_Sreg_r32m16),
            C(Code::Mov_Sreg_r64m16),
            C(Code::Popw_ES),
            C(Code::Popd_ES),
            C(Code::Popw_SS),
            C(Code::Popd_SS),
            C(Code::Popw_DS),
            C(Code::Popd_DS),
            C(Code::Pushd_FS),
            C(Code::Pushd_GS),
            C(Code::Popd_FS),
            C(Code::Popd_GS),
            C(Code::Pushw_FS),
            C(Code::Pushq_FS),
            C(Code::Pushw_GS),
            C(Code::Pushq_GS),
            C(Code::Popw_FS),
            C(Code::Popq_FS),
            C(Code::Popw_GS),
            C(Code::Popq_GS),
        ],
        "depends on the host's descriptor tables",
    ),
    (&[F(CpuidFeature::FSGSBASE)], "FS and GS hold this process's own thread pointers"),
    (
        &[
            M(Mnemonic::Pushf),
            M(Mnemonic::Pushfd),
            M(Mnemonic::Pushfq),
            M(Mnemonic::Popf),
            M(Mnemonic::Popfd),
            M(Mnemonic::Popfq),
        ],
        "shows or changes TF, by which the native side gets control back",
    ),
    (
        &[
            M(Mnemonic::Fclex),
            M(Mnemonic::Finit),
            M(Mnemonic::Fsave),
            M(Mnemonic::Fstcw),
            M(Mnemonic::Fstenv),
            M(Mnemonic::Fstsw),
            M(Mnemonic::Fdisi),
            M(Mnemonic::Feni),
            M(Mnemonic::Fsetpm),
        ],
        "two instructions, WAIT and the form without it",
    ),
    (&[C(Code::Jmp_rm16), C(Code::Call_rm16), C(Code::Retnw), C(Code::Retnw_imm16)], NARROW_BRANCH),
    (
        &[M(Mnemonic::Ud0), M(Mnemonic::Ud1), M(Mnemonic::Ud2), M(Mnemonic::Reservednop)],
        "computes nothing: invalid, or reserved",
    ),
    (&[M(Mnemonic::Fstpnce)], "undocumented, and not the same on all processors"),
];
