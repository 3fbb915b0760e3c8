//! FXSAVE, FXRSTOR and the XSAVE family (SDM vol. 1, 10.5 and chapter 13).

use viv_arch::{Cr0, Cr4, Exception, Gpr, Vector, xsave};

use crate::cpu::{Cpu, Exec};
use crate::op::Op;

/// Bits of `aux`: REX.W, the 64-bit format.
pub const WIDE: u8 = 1;
/// Bits of `aux`: the compacted format (XSAVEC).
pub const COMPACT: u8 = 2;

/// Bit of XCOMP_BV: the area is compacted.
const COMPACTED: u64 = 1 << 63;
/// The part of the legacy region before the SSE registers, less MXCSR.
const X87_HEAD: std::ops::Range<usize> = 0..xsave::MXCSR;
const X87_REGISTERS: std::ops::Range<usize> = xsave::ST0..xsave::XMM0;
const MXCSR: std::ops::Range<usize> = xsave::MXCSR..xsave::MXCSR + 8;
/// Where the XMM registers end.
const XMM_END: usize = xsave::XMM0 + 256;

impl Cpu {
    /// Components that are not in their initial configuration.
    pub fn components_in_use(&self) -> u64 {
        let fpu = &self.exec.fpu;
        let mut initial = crate::hostexec::FpuState::reset();
        initial.init_x87();
        let x87 =
            fpu.fx[X87_HEAD] != initial.fx[X87_HEAD] || fpu.fx[X87_REGISTERS] != initial.fx[X87_REGISTERS];
        let sse = fpu.ymm.iter().any(|register| register[..16] != [0; 16]);
        let avx = fpu.ymm.iter().any(|register| register[16..] != [0; 16]);
        (if x87 { xsave::X87 } else { 0 })
            | (if sse { xsave::SSE } else { 0 })
            | (if avx { xsave::AVX } else { 0 })
    }

    /// How many vector registers are saved and restored: only eight can be seen outside 64-bit mode.
    fn vector_registers(&self) -> usize {
        if self.is_64bit() { 16 } else { 8 }
    }

    /// The legacy region as FXSAVE writes it.
    fn legacy_region(&self, wide: bool) -> [u8; 512] {
        let fpu = &self.exec.fpu;
        let mut image = [0; 512];
        image[..xsave::XMM0].copy_from_slice(&fpu.fx[..xsave::XMM0]);
        image[xsave::MXCSR_MASK..xsave::MXCSR_MASK + 4].copy_from_slice(&xsave::MXCSR_VALID.to_le_bytes());
        for (bytes, register) in image[xsave::XMM0..XMM_END].chunks_exact_mut(16).zip(&fpu.ymm) {
            bytes.copy_from_slice(&register[..16]);
        }
        if !wide {
            // Selectors are deprecated and read as zero.
            image[xsave::FIP + 4..xsave::FDP].fill(0);
            image[xsave::FDP + 4..xsave::MXCSR].fill(0);
        }
        image
    }

    fn load_x87(&mut self, image: &[u8], wide: bool) {
        let fx = &mut self.exec.fpu.fx;
        fx[X87_HEAD].copy_from_slice(&image[X87_HEAD]);
        fx[X87_REGISTERS].copy_from_slice(&image[X87_REGISTERS]);
        fx[xsave::FTW + 1] = 0;
        if !wide {
            fx[xsave::FIP + 4..xsave::FDP].fill(0);
            fx[xsave::FDP + 4..xsave::MXCSR].fill(0);
        }
        for register in fx[X87_REGISTERS].chunks_exact_mut(16) {
            register[10..].fill(0);
        }
        self.exec.fpu.settle_x87();
    }

    fn load_xmm(&mut self, image: &[u8]) {
        let registers = self.vector_registers();
        let images = image[xsave::XMM0..XMM_END].chunks_exact(16);
        for (register, bytes) in self.exec.fpu.ymm[..registers].iter_mut().zip(images) {
            register[..16].copy_from_slice(bytes);
        }
    }

    fn check_area(&mut self, address: u64, alignment: u64) -> Exec {
        if address & (alignment - 1) != 0 { self.gp0() } else { Ok(()) }
    }

    fn check_fx(&mut self) -> Exec {
        if self.cr0.intersects(Cr0::EM | Cr0::TS) {
            return self.raise(Exception::new(Vector::DeviceNotAvailable));
        }
        Ok(())
    }

    fn check_xsave(&mut self) -> Exec {
        if !self.cr4.contains(Cr4::OSXSAVE) {
            return self.ud();
        }
        self.check_task_switched()
    }

    /// The components that an XSAVE instruction is asked for: EDX:EAX of those in XCR0.
    fn requested(&self) -> u64 {
        let (high, low) = (self.get::<u32>(Gpr::Rdx as u8 * 8), self.get::<u32>(0));
        (u64::from(high) << 32 | u64::from(low)) & self.xcr0
    }
}

fn mxcsr_of(image: &[u8]) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&image[xsave::MXCSR..xsave::MXCSR + 4]);
    u32::from_le_bytes(bytes)
}

fn word(image: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&image[at..at + 8]);
    u64::from_le_bytes(bytes)
}

pub fn fxsave(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_fx()?;
    let address = cpu.linear(op, 512, true)?;
    cpu.check_area(address, 16)?;
    let image = cpu.legacy_region(op.aux & WIDE != 0);
    // What follows the registers is left alone.
    cpu.write_bytes(address, &image[..xsave::XMM0 + 16 * cpu.vector_registers()])
}

pub fn fxrstor(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_fx()?;
    let address = cpu.linear(op, 512, false)?;
    cpu.check_area(address, 16)?;
    let mut image = [0; 512];
    cpu.read_bytes(address, &mut image)?;
    let mxcsr = mxcsr_of(&image);
    if mxcsr & !xsave::MXCSR_VALID != 0 {
        return cpu.gp0();
    }
    cpu.load_x87(&image, op.aux & WIDE != 0);
    cpu.exec.fpu.set_mxcsr(mxcsr);
    cpu.load_xmm(&image);
    Ok(())
}

/// XSAVE, XSAVEOPT (without its optimization, which is optional) and XSAVEC.
pub fn save(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_xsave()?;
    let address = cpu.linear(op, xsave::HEADER_END as u64, true)?;
    cpu.check_area(address, 64)?;
    let requested = cpu.requested();
    let compact = op.aux & COMPACT != 0;
    let mut in_use = cpu.components_in_use();
    if compact && cpu.exec.fpu.mxcsr() != xsave::MXCSR_INIT {
        in_use |= xsave::SSE;
    }
    let wanted = if compact { requested & in_use } else { requested };
    let image = cpu.legacy_region(op.aux & WIDE != 0);
    let registers = cpu.vector_registers();
    let at = |offset: usize| address.wrapping_add(offset as u64);
    if wanted & xsave::X87 != 0 {
        cpu.write_bytes(at(0), &image[X87_HEAD])?;
        cpu.write_bytes(at(xsave::ST0), &image[X87_REGISTERS])?;
    }
    let with_mxcsr = if compact { wanted & xsave::SSE } else { requested & (xsave::SSE | xsave::AVX) };
    if with_mxcsr != 0 {
        cpu.write_bytes(at(xsave::MXCSR), &image[MXCSR])?;
    }
    if wanted & xsave::SSE != 0 {
        cpu.write_bytes(at(xsave::XMM0), &image[xsave::XMM0..][..16 * registers])?;
    }
    if wanted & xsave::AVX != 0 {
        let mut upper = [0; xsave::AVX_SIZE];
        for (bytes, register) in upper.chunks_exact_mut(16).zip(&cpu.exec.fpu.ymm) {
            bytes.copy_from_slice(&register[16..]);
        }
        cpu.write_bytes(at(xsave::AVX_OFFSET), &upper[..16 * registers])?;
    }
    if compact {
        // The rest of the header is not written.
        let mut header = [0; 16];
        header[..8].copy_from_slice(&(requested & in_use).to_le_bytes());
        header[8..].copy_from_slice(&(requested | COMPACTED).to_le_bytes());
        return cpu.write_bytes(at(xsave::XSTATE_BV), &header);
    }
    let old = cpu.load::<u64>(at(xsave::XSTATE_BV))?;
    cpu.store(at(xsave::XSTATE_BV), (old & !requested) | (in_use & requested))
}

/// XRSTOR, of either format.
pub fn restore(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_xsave()?;
    let address = cpu.linear(op, xsave::HEADER_END as u64, false)?;
    cpu.check_area(address, 64)?;
    let mut area = [0; xsave::AREA_SIZE];
    cpu.read_bytes(address, &mut area[..xsave::HEADER_END])?;
    let xstate = word(&area, xsave::XSTATE_BV);
    let layout = word(&area, xsave::XCOMP_BV);
    let compact = layout & COMPACTED != 0;
    let reserved = &area[xsave::XCOMP_BV + 8..xsave::HEADER_END];
    let bad = if compact {
        layout & !COMPACTED & !cpu.xcr0 != 0
            || xstate & !layout != 0
            || reserved.iter().any(|&byte| byte != 0)
    } else {
        layout != 0 || xstate & !cpu.xcr0 != 0 || reserved[..8].iter().any(|&byte| byte != 0)
    };
    if bad {
        return cpu.gp0();
    }
    let requested = cpu.requested();
    let present = requested & xstate;
    if present & xsave::AVX != 0 {
        // In a compacted area, too, AVX comes first after the header: there is nothing before it.
        let upper = xsave::AVX_OFFSET..xsave::AREA_SIZE;
        cpu.read_bytes(address.wrapping_add(xsave::AVX_OFFSET as u64), &mut area[upper])?;
    }
    let mxcsr = mxcsr_of(&area);
    let loads_mxcsr = if compact { present & xsave::SSE } else { requested & (xsave::SSE | xsave::AVX) } != 0;
    if loads_mxcsr && mxcsr & !xsave::MXCSR_VALID != 0 {
        return cpu.gp0();
    }
    if loads_mxcsr {
        cpu.exec.fpu.set_mxcsr(mxcsr);
    } else if compact && requested & xsave::SSE != 0 {
        cpu.exec.fpu.set_mxcsr(xsave::MXCSR_INIT);
    }
    let registers = cpu.vector_registers();
    if present & xsave::X87 != 0 {
        cpu.load_x87(&area, op.aux & WIDE != 0);
    } else if requested & xsave::X87 != 0 {
        cpu.exec.fpu.init_x87();
    }
    if present & xsave::SSE != 0 {
        cpu.load_xmm(&area);
    } else if requested & xsave::SSE != 0 {
        cpu.exec.fpu.init_sse(registers);
    }
    if present & xsave::AVX != 0 {
        let images = area[xsave::AVX_OFFSET..].chunks_exact(16);
        for (register, bytes) in cpu.exec.fpu.ymm[..registers].iter_mut().zip(images) {
            register[16..].copy_from_slice(bytes);
        }
    } else if requested & xsave::AVX != 0 {
        cpu.exec.fpu.init_avx(registers);
    }
    Ok(())
}
