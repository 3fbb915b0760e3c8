//! The registers that debuggers see, numbered as in `target.xml`.

use viv_arch::{Cr0, Cr4, Efer, Gpr, Rflags, SegmentRegister, VcpuState, msr, xsave};

/// A register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Register {
    /// A general one.
    General(Gpr),
    /// RIP.
    Rip,
    /// RFLAGS, its lower half.
    Flags,
    /// A segment register's visible part. What is written there changes no other part.
    Selector(SegmentRegister),
    /// ST0 to ST7.
    Stack(u8),
    /// What else x87 has.
    Fpu(Fpu),
    /// XMM0 to XMM15.
    Xmm(u8),
    /// MXCSR.
    Mxcsr,
    /// What Linux tells debuggers of a system call that was interrupted. There is none.
    OrigRax,
    /// A segment's base.
    Base(SegmentRegister),
    /// The upper half of YMM0 to YMM15.
    YmmHigh(u8),
    /// IA32_KERNEL_GS_BASE.
    KernelGsBase,
    /// CR0.
    Cr0,
    /// CR2.
    Cr2,
    /// CR3.
    Cr3,
    /// CR4.
    Cr4,
    /// CR8.
    Cr8,
    /// IA32_EFER.
    Efer,
    /// GDTR's base.
    GdtBase,
    /// IDTR's base.
    IdtBase,
    /// LDTR's base.
    LdtBase,
    /// TR's base.
    TssBase,
}

/// Registers of x87 that are not on its stack, in the order of FSAVE's image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fpu {
    /// FCW.
    Control,
    /// FSW.
    Status,
    /// FTW, with two bits for each register.
    Tag,
    /// The upper half of FIP.
    InstructionSegment,
    /// Its lower half.
    InstructionOffset,
    /// The upper half of FDP.
    OperandSegment,
    /// Its lower half.
    OperandOffset,
    /// FOP.
    Opcode,
}

/// The general registers in the order that gdb gives them.
const GENERAL: [Gpr; 16] = {
    use Gpr::*;
    [Rax, Rbx, Rcx, Rdx, Rsi, Rdi, Rbp, Rsp, R8, R9, R10, R11, R12, R13, R14, R15]
};

const SELECTORS: [SegmentRegister; 6] = {
    use SegmentRegister::*;
    [Cs, Ss, Ds, Es, Fs, Gs]
};

const FPU: [Fpu; 8] = {
    use Fpu::*;
    [Control, Status, Tag, InstructionSegment, InstructionOffset, OperandSegment, OperandOffset, Opcode]
};

const SYSTEM: [Register; 15] = {
    use Register::*;
    [
        KernelGsBase,
        Cr0,
        Cr2,
        Cr3,
        Cr4,
        Cr8,
        Efer,
        Base(SegmentRegister::Cs),
        Base(SegmentRegister::Ss),
        Base(SegmentRegister::Ds),
        Base(SegmentRegister::Es),
        GdtBase,
        IdtBase,
        LdtBase,
        TssBase,
    ]
};

impl Register {
    /// All of them, in the order of their numbers.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        (GENERAL.into_iter().map(Self::General))
            .chain([Self::Rip, Self::Flags])
            .chain(SELECTORS.map(Self::Selector))
            .chain((0..8).map(Self::Stack))
            .chain(FPU.map(Self::Fpu))
            .chain((0..16).map(Self::Xmm))
            .chain([Self::Mxcsr, Self::OrigRax])
            .chain([SegmentRegister::Fs, SegmentRegister::Gs].map(Self::Base))
            .chain((0..16).map(Self::YmmHigh))
            .chain(SYSTEM)
    }

    /// Its bytes.
    pub(crate) const fn size(self) -> usize {
        match self {
            Self::Flags | Self::Selector(_) | Self::Fpu(_) | Self::Mxcsr => 4,
            Self::Stack(_) => 10,
            Self::Xmm(_) | Self::YmmHigh(_) => 16,
            _ => 8,
        }
    }

    /// What it holds.
    pub(crate) fn get(self, state: &VcpuState) -> u128 {
        let segment = |register: SegmentRegister| state.segments[register as usize];
        u128::from(match self {
            Self::General(register) => state.gpr[register as usize],
            Self::Rip => state.rip,
            Self::Flags => state.rflags.bits(),
            Self::Selector(register) => segment(register).selector.into(),
            Self::Base(register) => segment(register).base,
            Self::Fpu(register) => register.get(state).into(),
            Self::Stack(n) => return load(state, xsave::X87, xsave::ST0 + 16 * usize::from(n), 10),
            Self::Xmm(n) => return load(state, xsave::SSE, xsave::XMM0 + 16 * usize::from(n), 16),
            Self::YmmHigh(n) => return load(state, xsave::AVX, xsave::AVX_OFFSET + 16 * usize::from(n), 16),
            // MXCSR is there whatever the header says of SSE (SDM vol. 1, 13.7).
            Self::Mxcsr => return bytes(state, xsave::MXCSR, 4),
            Self::OrigRax => u64::MAX,
            Self::KernelGsBase => {
                let found = state.msrs.iter().find(|&&(number, _)| number == msr::IA32_KERNEL_GS_BASE);
                found.map_or(0, |&(_, value)| value)
            }
            Self::Cr0 => state.cr0.bits(),
            Self::Cr2 => state.cr2,
            Self::Cr3 => state.cr3,
            Self::Cr4 => state.cr4.bits(),
            Self::Cr8 => state.cr8,
            Self::Efer => state.efer.bits(),
            Self::GdtBase => state.gdtr.base,
            Self::IdtBase => state.idtr.base,
            Self::LdtBase => state.ldtr.base,
            Self::TssBase => state.tr.base,
        })
    }

    /// Changes it; what does not fit in it is cut off.
    pub(crate) fn set(self, state: &mut VcpuState, value: u128) {
        let low = value as u64;
        match self {
            Self::General(register) => state.gpr[register as usize] = low,
            Self::Rip => state.rip = low,
            Self::Flags => {
                state.rflags = Rflags::from_bits_retain(low & u64::from(u32::MAX)) | Rflags::RESERVED_1;
            }
            Self::Selector(register) => state.segments[register as usize].selector = low as u16,
            Self::Base(register) => state.segments[register as usize].base = low,
            Self::Fpu(register) => register.set(state, low as u32),
            Self::Stack(n) => store(state, xsave::X87, xsave::ST0 + 16 * usize::from(n), 10, value),
            Self::Xmm(n) => store(state, xsave::SSE, xsave::XMM0 + 16 * usize::from(n), 16, value),
            Self::YmmHigh(n) => {
                store(state, xsave::AVX, xsave::AVX_OFFSET + 16 * usize::from(n), 16, value);
            }
            Self::Mxcsr => {
                let value = value & u128::from(xsave::MXCSR_VALID);
                store(state, xsave::SSE, xsave::MXCSR, 4, value);
            }
            Self::OrigRax => {}
            Self::KernelGsBase => {
                let found = state.msrs.iter_mut().find(|(number, _)| *number == msr::IA32_KERNEL_GS_BASE);
                if let Some((_, known)) = found {
                    *known = low;
                }
            }
            Self::Cr0 => state.cr0 = Cr0::from_bits_retain(low),
            Self::Cr2 => state.cr2 = low,
            Self::Cr3 => state.cr3 = low,
            Self::Cr4 => state.cr4 = Cr4::from_bits_retain(low),
            Self::Cr8 => state.cr8 = low & 0xf,
            Self::Efer => state.efer = Efer::from_bits_retain(low),
            Self::GdtBase => state.gdtr.base = low,
            Self::IdtBase => state.idtr.base = low,
            Self::LdtBase => state.ldtr.base = low,
            Self::TssBase => state.tr.base = low,
        }
    }
}

impl Fpu {
    /// Where it lies, and its bytes.
    const fn place(self) -> (usize, usize) {
        match self {
            Self::Control => (xsave::FCW, 2),
            Self::Status => (xsave::FSW, 2),
            Self::Tag => (xsave::FTW, 1),
            Self::InstructionSegment => (xsave::FIP + 4, 4),
            Self::InstructionOffset => (xsave::FIP, 4),
            Self::OperandSegment => (xsave::FDP + 4, 4),
            Self::OperandOffset => (xsave::FDP, 4),
            Self::Opcode => (xsave::FOP, 2),
        }
    }

    fn get(self, state: &VcpuState) -> u32 {
        let (at, size) = self.place();
        match self {
            Self::Control if !has(state, xsave::X87) => xsave::FCW_INIT.into(),
            // A bit says that a register holds something. What it holds is not told apart.
            Self::Tag => {
                let full = load(state, xsave::X87, at, size) as u32;
                (0..8).filter(|n| full >> n & 1 == 0).fold(0, |tags, n| tags | 3 << (2 * n))
            }
            _ => load(state, xsave::X87, at, size) as u32,
        }
    }

    fn set(self, state: &mut VcpuState, value: u32) {
        let (at, size) = self.place();
        let value = match self {
            Self::Tag => (0..8).filter(|n| value >> (2 * n) & 3 != 3).fold(0, |bits, n| bits | 1 << n),
            _ => value,
        };
        store(state, xsave::X87, at, size, value.into());
    }
}

/// Whether the XSAVE area has `component`, which otherwise is in its initial state. An area without a header has what it
/// had before there were headers.
fn has(state: &VcpuState, component: u64) -> bool {
    let present = bytes(state, xsave::XSTATE_BV, 8) as u64;
    let present = if present == 0 { xsave::X87 | xsave::SSE } else { present };
    present & component != 0
}

/// `size` bytes at `at`, which belong to `component`.
fn load(state: &VcpuState, component: u64, at: usize, size: usize) -> u128 {
    if has(state, component) { bytes(state, at, size) } else { 0 }
}

fn bytes(state: &VcpuState, at: usize, size: usize) -> u128 {
    let found = state.xsave.get(at..at + size).unwrap_or_default();
    found.iter().rev().fold(0, |value, &byte| value << 8 | u128::from(byte))
}

/// Changes `size` bytes at `at`, which belong to `component`, and makes that present.
fn store(state: &mut VcpuState, component: u64, at: usize, size: usize, value: u128) {
    if !has(state, component) {
        let (start, end) = match component {
            xsave::X87 => (xsave::FCW, xsave::MXCSR),
            xsave::SSE => (xsave::XMM0, xsave::XMM0 + 256),
            _ => (xsave::AVX_OFFSET, xsave::AVX_OFFSET + xsave::AVX_SIZE),
        };
        put(state, start, &vec![0; end - start]);
        if component == xsave::X87 {
            put(state, xsave::ST0, &[0; 128]);
            put(state, xsave::FCW, &xsave::FCW_INIT.to_le_bytes());
        }
    }
    let present = bytes(state, xsave::XSTATE_BV, 8) as u64;
    let present = if present == 0 { xsave::X87 | xsave::SSE } else { present };
    put(state, xsave::XSTATE_BV, &(present | component).to_le_bytes());
    put(state, at, value.to_le_bytes().get(..size).unwrap_or_default());
}

fn put(state: &mut VcpuState, at: usize, bytes: &[u8]) {
    if let Some(room) = state.xsave.get_mut(at..at + bytes.len()) {
        room.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_those_of_the_description() {
        let described: Vec<usize> = super::super::arch::DESCRIPTION
            .lines()
            .filter_map(|line| line.split_once("bitsize=\"")?.1.split('"').next()?.parse().ok())
            .map(|bits: usize| bits / 8)
            .collect();
        assert_eq!(Register::all().map(Register::size).collect::<Vec<_>>(), described);
    }

    #[test]
    fn what_is_written_is_read() {
        for present in [0, xsave::X87, xsave::SSE | xsave::AVX] {
            let mut state = VcpuState::reset();
            state.xsave.fill(0x5a);
            put(&mut state, xsave::XSTATE_BV, &u64::to_le_bytes(present));
            state.msrs.push((msr::IA32_KERNEL_GS_BASE, 1));
            for (n, register) in Register::all().enumerate() {
                let value = (n as u128 + 2) & 0xf;
                let others: Vec<_> = Register::all().map(|other| other.get(&state)).collect();
                register.set(&mut state, value);
                let value = match register {
                    Register::Flags => value | 2,
                    Register::OrigRax => u64::MAX.into(),
                    _ => value,
                };
                // Tested apart: x87 registers are empty or not.
                let tag = register == Register::Fpu(Fpu::Tag);
                assert!(tag || register.get(&state) == value, "{register:?}: {:#x}", register.get(&state));
                for (other, before) in Register::all().zip(others) {
                    assert!(
                        other == register || other.get(&state) == before,
                        "{register:?} changes {other:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn tags_tell_empty_registers() {
        let mut state = VcpuState::reset();
        let tag = Register::Fpu(Fpu::Tag);
        tag.set(&mut state, 0xfffc);
        assert_eq!(tag.get(&state), 0xfffc);
        assert_eq!(bytes(&state, xsave::FTW, 1), 1);
    }
}
