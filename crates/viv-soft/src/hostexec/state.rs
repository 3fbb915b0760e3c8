//! What a computational instruction can see of a vCPU.

use viv_arch::xsave;

/// The registers that stubs and translated code work on.
///
/// Its layout is part of generated code: offsets are taken with [`std::mem::offset_of`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[repr(C, align(64))]
pub struct ExecState {
    /// General registers, indexed by encoding number ([`viv_arch::Gpr`]).
    pub gpr: [u64; 16],
    /// Always zero: the base or index of an address that has none.
    pub zero: u64,
    /// The instruction pointer. While a stub runs: the address of its instruction.
    pub rip: u64,
    /// The whole of RFLAGS. Stubs read and replace the arithmetic flags, no others.
    pub rflags: u64,
    /// Vector and x87 registers.
    pub fpu: FpuState,
}

/// Vector and x87 registers.
#[derive(Debug, Clone, Eq)]
#[repr(C, align(64))]
pub struct FpuState {
    /// YMM0 to YMM15; the lower halves are XMM0 to XMM15.
    pub ymm: [[u8; 32]; 16],
    /// An FXSAVE image (64-bit format, SDM vol. 1, 10.5.1). Its x87 part and MXCSR are the guest's; its XMM
    /// part is scratch space of the stubs and means nothing.
    ///
    /// MXCSR has no bits outside [`xsave::MXCSR_VALID`]: loading it would fault.
    pub fx: [u8; 512],
}

/// Why an XSAVE area was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum XsaveError {
    /// Shorter than the components that guests have.
    #[error("XSAVE area of {0} bytes; at least {needed} are needed", needed = xsave::AREA_SIZE)]
    TooShort(usize),
    /// The header asks for components or a format that guests are not offered.
    #[error("XSAVE header with XSTATE_BV {xstate_bv:#x} and XCOMP_BV {xcomp_bv:#x} is not supported")]
    UnsupportedHeader {
        /// State components in the area.
        xstate_bv: u64,
        /// Components of the compacted format.
        xcomp_bv: u64,
    },
    /// MXCSR has reserved bits set.
    #[error("MXCSR {0:#x} has reserved bits set")]
    ReservedMxcsr(u32),
}

impl PartialEq for FpuState {
    /// Compares what is the guest's: not the scratch space, and not MXCSR_MASK, which is no register.
    fn eq(&self, other: &Self) -> bool {
        let control = ..xsave::MXCSR_MASK;
        let registers = xsave::ST0..xsave::XMM0;
        self.ymm == other.ymm
            && self.fx[control] == other.fx[control]
            && self.fx[registers.clone()] == other.fx[registers]
    }
}

impl Default for FpuState {
    fn default() -> Self {
        Self::reset()
    }
}

impl FpuState {
    /// The state after power-on, as [`viv_arch::VcpuState::reset`] has it.
    #[must_use]
    pub fn reset() -> Self {
        let mut state = Self { ymm: [[0; 32]; 16], fx: [0; 512] };
        state.set_fx_u16(xsave::FCW, 0x40);
        state.set_mxcsr(xsave::MXCSR_INIT);
        state
    }

    /// Puts the x87 component into its initial configuration (SDM vol. 1, 13.6), which is FNINIT's.
    pub fn init_x87(&mut self) {
        self.fx[..xsave::MXCSR].fill(0);
        self.fx[xsave::ST0..xsave::XMM0].fill(0);
        self.set_fx_u16(xsave::FCW, xsave::FCW_INIT);
    }

    /// Makes of the x87 part what the processor makes of it when it loads it: reserved bits, FSW.ES and pointers that
    /// are too wide.
    #[allow(unsafe_code, reason = "the processor itself does it")]
    pub fn settle_x87(&mut self) {
        let mut host_mxcsr = 0u32;
        // SAFETY: the image is aligned, and its MXCSR valid. What FXRSTOR loads is clobbered or put back.
        unsafe {
            std::arch::asm!(
                "stmxcsr [{mxcsr}]",
                "fxrstor64 [{fx}]",
                "fxsave64 [{fx}]",
                "fninit",
                "ldmxcsr [{mxcsr}]",
                mxcsr = in(reg) &raw mut host_mxcsr,
                fx = in(reg) self.fx.as_mut_ptr(),
                clobber_abi("sysv64"),
            );
        }
    }

    /// Clears the first XMM registers: the SSE component's initial configuration, as far as it can be seen. MXCSR stays.
    pub fn init_sse(&mut self, registers: usize) {
        for register in self.ymm.iter_mut().take(registers) {
            register[..16].fill(0);
        }
    }

    /// Clears the upper halves of the first YMM registers: the AVX component's initial configuration.
    pub fn init_avx(&mut self, registers: usize) {
        for register in self.ymm.iter_mut().take(registers) {
            register[16..].fill(0);
        }
    }

    /// Sets TOP to 0, the registers staying what they are: what every MMX instruction does.
    pub fn clear_top(&mut self) {
        let top = usize::from(self.fx_u16(xsave::FSW) >> 11 & 7);
        // The image begins with the register that TOP says.
        self.fx[xsave::ST0..xsave::XMM0].rotate_right(16 * top);
        self.fx[xsave::FSW + 1] &= !0x38;
    }

    /// Whether an unmasked x87 exception waits for the next instruction that looks for it: FSW.ES.
    #[must_use]
    pub fn has_x87_exception(&self) -> bool {
        self.fx[xsave::FSW] & 0x80 != 0
    }

    /// Whether no x87 instruction raises an exception, now or later.
    #[must_use]
    pub fn masks_x87_exceptions(&self) -> bool {
        const MASKS: u8 = 0x3f;
        self.fx[xsave::FCW] & MASKS == MASKS && !self.has_x87_exception()
    }

    /// Whether an inexact result is the only unmasked x87 exception that is pending.
    #[must_use]
    pub fn is_only_inexact(&self) -> bool {
        const EXCEPTIONS: u8 = 0x3f;
        const PE: u8 = 0x20;
        self.fx[xsave::FSW] & !self.fx[xsave::FCW] & EXCEPTIONS == PE
    }

    /// MXCSR.
    #[must_use]
    pub fn mxcsr(&self) -> u32 {
        u32::from_le_bytes(field(&self.fx, xsave::MXCSR))
    }

    /// Sets MXCSR. The caller has refused reserved bits.
    pub fn set_mxcsr(&mut self, value: u32) {
        self.fx[xsave::MXCSR..xsave::MXCSR + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// Writes the three components in the standard format, XSTATE_BV saying that all are present.
    ///
    /// # Panics
    /// If `out` is shorter than [`xsave::AREA_SIZE`].
    pub fn to_xsave(&self, out: &mut [u8]) {
        out.fill(0);
        out[..xsave::XMM0].copy_from_slice(&self.fx[..xsave::XMM0]);
        out[xsave::MXCSR_MASK..xsave::MXCSR_MASK + 4].copy_from_slice(&xsave::MXCSR_VALID.to_le_bytes());
        out[xsave::XSTATE_BV..xsave::XSTATE_BV + 8].copy_from_slice(&xsave::SUPPORTED.to_le_bytes());
        for (register, bytes) in self.ymm.iter().enumerate() {
            let (low, high) = bytes.split_at(16);
            out[xsave::XMM0 + register * 16..][..16].copy_from_slice(low);
            out[xsave::AVX_OFFSET + register * 16..][..16].copy_from_slice(high);
        }
    }

    /// Reads an area in the standard format; components that XSTATE_BV leaves out get their initial
    /// configuration.
    ///
    /// # Errors
    /// When the area is too short, compacted, has components that guests are not offered, or an MXCSR that
    /// no processor would load.
    pub fn from_xsave(area: &[u8]) -> Result<Self, XsaveError> {
        if area.len() < xsave::AREA_SIZE {
            return Err(XsaveError::TooShort(area.len()));
        }
        let xstate_bv = u64::from_le_bytes(field(area, xsave::XSTATE_BV));
        let xcomp_bv = u64::from_le_bytes(field(area, xsave::XCOMP_BV));
        if xstate_bv & !xsave::SUPPORTED != 0 || xcomp_bv != 0 {
            return Err(XsaveError::UnsupportedHeader { xstate_bv, xcomp_bv });
        }
        let mxcsr = u32::from_le_bytes(field(area, xsave::MXCSR));
        if mxcsr & !xsave::MXCSR_VALID != 0 {
            return Err(XsaveError::ReservedMxcsr(mxcsr));
        }
        let mut state = Self { ymm: [[0; 32]; 16], fx: [0; 512] };
        state.init_x87();
        state.set_mxcsr(mxcsr);
        if xstate_bv & xsave::X87 != 0 {
            state.fx[..xsave::MXCSR].copy_from_slice(&area[..xsave::MXCSR]);
            state.fx[xsave::ST0..xsave::XMM0].copy_from_slice(&area[xsave::ST0..xsave::XMM0]);
        }
        for (register, bytes) in state.ymm.iter_mut().enumerate() {
            let (low, high) = bytes.split_at_mut(16);
            if xstate_bv & xsave::SSE != 0 {
                low.copy_from_slice(&area[xsave::XMM0 + register * 16..][..16]);
            }
            if xstate_bv & xsave::AVX != 0 {
                high.copy_from_slice(&area[xsave::AVX_OFFSET + register * 16..][..16]);
            }
        }
        Ok(state)
    }

    /// A 16-bit field of the x87 part.
    pub(super) fn fx_u16(&self, offset: usize) -> u16 {
        u16::from_le_bytes(field(&self.fx, offset))
    }

    pub(super) fn set_fx_u16(&mut self, offset: usize, value: u16) {
        self.fx[offset..offset + 2].copy_from_slice(&value.to_le_bytes());
    }

    /// A 64-bit field of the x87 part.
    pub(super) fn fx_u64(&self, offset: usize) -> u64 {
        u64::from_le_bytes(field(&self.fx, offset))
    }

    pub(super) fn set_fx_u64(&mut self, offset: usize, value: u64) {
        self.fx[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
    }
}

/// The `N` bytes at `offset`, which the callers know to be inside.
fn field<const N: usize>(bytes: &[u8], offset: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[offset..offset + N]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reset_is_what_the_vcpu_state_says() {
        let mut area = vec![0; xsave::AREA_SIZE];
        FpuState::reset().to_xsave(&mut area);
        let vcpu = viv_arch::VcpuState::reset();
        assert_eq!(area[..xsave::MXCSR_MASK], vcpu.xsave[..xsave::MXCSR_MASK]);
        assert_eq!(area[xsave::ST0..xsave::XSTATE_BV], vcpu.xsave[xsave::ST0..xsave::XSTATE_BV]);
    }

    #[test]
    fn survives_the_xsave_format() {
        let mut state = FpuState::reset();
        for (register, bytes) in state.ymm.iter_mut().enumerate() {
            for (byte, value) in bytes.iter_mut().enumerate() {
                *value = (register * 32 + byte) as u8;
            }
        }
        state.fx[xsave::ST0..xsave::XMM0].fill(0x5a);
        let mut area = vec![0; xsave::AREA_SIZE];
        state.to_xsave(&mut area);
        let back = FpuState::from_xsave(&area).unwrap();
        assert_eq!(back.ymm, state.ymm);
        assert_eq!(back.fx[xsave::ST0..xsave::XMM0], state.fx[xsave::ST0..xsave::XMM0]);
        assert_eq!(back.mxcsr(), xsave::MXCSR_INIT);
    }

    #[test]
    fn absent_components_are_initial() {
        let mut area = vec![0xff; xsave::AREA_SIZE];
        area[xsave::XSTATE_BV..xsave::HEADER_END].fill(0);
        area[xsave::MXCSR..xsave::MXCSR + 4].copy_from_slice(&0x1fa0u32.to_le_bytes());
        let state = FpuState::from_xsave(&area).unwrap();
        assert_eq!(state.ymm, [[0; 32]; 16]);
        assert_eq!(state.fx_u16(xsave::FCW), xsave::FCW_INIT);
        assert_eq!(state.mxcsr(), 0x1fa0);
    }

    #[test]
    fn what_would_fault_when_loaded_is_refused() {
        let mut area = vec![0; xsave::AREA_SIZE];
        assert_eq!(FpuState::from_xsave(&area[1..]), Err(XsaveError::TooShort(xsave::AREA_SIZE - 1)));
        area[xsave::MXCSR + 2] = 1;
        assert_eq!(FpuState::from_xsave(&area), Err(XsaveError::ReservedMxcsr(0x1_0000)));
        area[xsave::XCOMP_BV + 7] = 0x80;
        assert!(matches!(FpuState::from_xsave(&area), Err(XsaveError::UnsupportedHeader { .. })));
    }
}
