//! Vector instructions that the interpreter models: plain moves, which are hot, and those whose memory operand
//! is accessed in parts (masked moves, gathers).
#![allow(unsafe_code, reason = "moves go by host address")]

use std::arch::asm;
use std::arch::x86_64::__m128i;

use viv_arch::{Gpr, xsave};

use crate::cpu::{Cpu, Exec, Fault};
use crate::op::Op;

/// Bits of `aux`: the operand must be aligned.
pub const ALIGNED: u8 = 1;
/// Bits of `aux`: a VEX encoding, which clears what is above the operand.
pub const VEX: u8 = 2;
/// Bits of `aux`: a 32-byte operand.
pub const WIDE: u8 = 4;

impl Cpu {
    fn check_vector(&mut self, op: &Op) -> Exec {
        if op.aux & VEX != 0 { self.check_avx() } else { self.check_sse() }
    }

    fn vector_address(&mut self, op: &Op, size: u64, write: bool) -> Result<u64, Fault> {
        let address = self.linear(op, size, write)?;
        if op.aux & ALIGNED != 0 && address & (size - 1) != 0 {
            return self.gp0();
        }
        Ok(address)
    }

    /// Reads up to 32 bytes.
    fn load_vector(&mut self, address: u64, size: usize) -> Result<[u8; 32], Fault> {
        let mut bytes = [0; 32];
        if let Some(pointer) = self.pointer_for_read(address, size as u64)? {
            for half in 0..size / 16 {
                // SAFETY: the TLB vouches for the pointer.
                unsafe { copy16(pointer.add(half * 16), bytes.as_mut_ptr().add(half * 16)) };
            }
        } else {
            self.read_bytes(address, &mut bytes[..size])?;
        }
        Ok(bytes)
    }

    fn store_vector(&mut self, address: u64, bytes: &[u8]) -> Exec {
        let Some(pointer) = self.pointer_for_update(address, bytes.len() as u64)? else {
            return self.write_bytes(address, bytes);
        };
        for half in 0..bytes.len() / 16 {
            // SAFETY: the TLB vouches for the pointer.
            unsafe { copy16(bytes.as_ptr().add(half * 16), pointer.add(half * 16)) };
        }
        Ok(())
    }
}

/// Copies 16 bytes with one load and one store.
///
/// # Safety
/// Both pointers are valid for 16 bytes; others may access them.
#[inline(always)]
unsafe fn copy16(from: *const u8, to: *mut u8) {
    let value: __m128i;
    // SAFETY: the caller's contract.
    unsafe {
        asm!("movups {v}, [{f}]", "movups [{t}], {v}", v = out(xmm_reg) value, f = in(reg) from, t = in(reg) to,
            options(nostack, preserves_flags));
    }
    let _ = value;
}

fn size_of(op: &Op) -> usize {
    if op.aux & WIDE != 0 { 32 } else { 16 }
}

/// MOVUPS and its kin from memory: `dst` is the register's number.
pub fn load(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_vector(op)?;
    let size = size_of(op);
    let address = cpu.vector_address(op, size as u64, false)?;
    let bytes = cpu.load_vector(address, size)?;
    let register = &mut cpu.exec.fpu.ymm[op.dst as usize];
    if op.aux & VEX != 0 {
        // What is beyond the operand is zero in `bytes`.
        *register = bytes;
    } else {
        register[..16].copy_from_slice(&bytes[..16]);
    }
    Ok(())
}

/// MOVUPS and its kin to memory: `src` is the register's number.
pub fn store(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_vector(op)?;
    let size = size_of(op);
    let address = cpu.vector_address(op, size as u64, true)?;
    let bytes = cpu.exec.fpu.ymm[op.src as usize];
    cpu.store_vector(address, &bytes[..size])
}

/// MOVUPS and its kin between registers.
pub fn copy(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_vector(op)?;
    let mut bytes = cpu.exec.fpu.ymm[op.src as usize];
    let register = &mut cpu.exec.fpu.ymm[op.dst as usize];
    if op.aux & WIDE == 0 {
        bytes[16..].fill(0);
        if op.aux & VEX == 0 {
            bytes[16..].copy_from_slice(&register[16..]);
        }
    }
    *register = bytes;
    Ok(())
}

/// VZEROUPPER.
pub fn vzeroupper(cpu: &mut Cpu, _: &Op) -> Exec {
    cpu.check_avx()?;
    zero(cpu, 16);
    Ok(())
}

/// VZEROALL.
pub fn vzeroall(cpu: &mut Cpu, _: &Op) -> Exec {
    cpu.check_avx()?;
    zero(cpu, 0);
    Ok(())
}

/// Clears vector registers from byte `from`: eight of them outside 64-bit mode.
fn zero(cpu: &mut Cpu, from: usize) {
    let count = if cpu.is_64bit() { 16 } else { 8 };
    for register in &mut cpu.exec.fpu.ymm[..count] {
        register[from..].fill(0);
    }
}

/// LDMXCSR and VLDMXCSR.
pub fn ldmxcsr(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_vector(op)?;
    let address = cpu.linear(op, 4, false)?;
    let value = cpu.load::<u32>(address)?;
    if value & !xsave::MXCSR_VALID != 0 {
        return cpu.gp0();
    }
    cpu.exec.fpu.set_mxcsr(value);
    Ok(())
}

/// STMXCSR and VSTMXCSR.
pub fn stmxcsr(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_vector(op)?;
    let address = cpu.linear(op, 4, true)?;
    let value = cpu.exec.fpu.mxcsr();
    cpu.store(address, value)
}

/// MASKMOVDQU: bytes of XMM `dst` whose sign in `src` is set go to DS:RDI, which is the memory operand.
pub fn maskmovdqu(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_vector(op)?;
    let data = cpu.exec.fpu.ymm[op.dst as usize];
    let mask = cpu.exec.fpu.ymm[op.src as usize];
    masked_bytes(cpu, op, &data[..16], &mask[..16])
}

/// MASKMOVQ, the same with MMX registers.
pub fn maskmovq(cpu: &mut Cpu, op: &Op) -> Exec {
    if cpu.cr0.contains(viv_arch::Cr0::EM) {
        return cpu.ud();
    }
    cpu.check_task_switched()?;
    cpu.check_x87()?;
    let mut fpu = cpu.exec.fpu.clone();
    fpu.clear_top();
    let mm = |n: u8| &fpu.fx[xsave::ST0 + n as usize * 16..][..8];
    masked_bytes(cpu, op, mm(op.dst), mm(op.src))?;
    // Like after every MMX instruction, all registers are valid.
    fpu.fx[xsave::FTW] = 0xff;
    cpu.exec.fpu = fpu;
    Ok(())
}

fn masked_bytes(cpu: &mut Cpu, op: &Op, data: &[u8], mask: &[u8]) -> Exec {
    let address = cpu.linear(op, data.len() as u64, true)?;
    // Every byte must be writable before one is written.
    for n in (0..data.len()).filter(|&n| mask[n] & 0x80 != 0) {
        cpu.pointer_for_update(address.wrapping_add(n as u64), 1)?;
    }
    for n in (0..data.len()).filter(|&n| mask[n] & 0x80 != 0) {
        cpu.store(address.wrapping_add(n as u64), data[n])?;
    }
    Ok(())
}

/// The element `n` of `size` bytes in a register.
fn element(register: &[u8; 32], n: usize, size: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes[..size].copy_from_slice(&register[n * size..][..size]);
    u64::from_le_bytes(bytes)
}

fn is_selected(mask: &[u8; 32], n: usize, size: usize) -> bool {
    mask[(n + 1) * size - 1] & 0x80 != 0
}

/// VMASKMOVPS, VPMASKMOVD and their kin from memory: mask in `src`, element size in `imm`.
pub fn masked_load(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_avx()?;
    let size = op.imm as usize;
    let mask = cpu.exec.fpu.ymm[op.src as usize];
    let base = cpu.linear(op, size_of(op) as u64, false)?;
    let mut result = [0; 32];
    for n in (0..size_of(op) / size).filter(|&n| is_selected(&mask, n, size)) {
        cpu.read_bytes(base.wrapping_add((n * size) as u64), &mut result[n * size..][..size])?;
    }
    cpu.exec.fpu.ymm[op.dst as usize] = result;
    Ok(())
}

/// The same to memory: data in `dst`.
pub fn masked_store(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_avx()?;
    let size = op.imm as usize;
    let mask = cpu.exec.fpu.ymm[op.src as usize];
    let data = cpu.exec.fpu.ymm[op.dst as usize];
    let base = cpu.linear(op, size_of(op) as u64, true)?;
    let selected = || (0..size_of(op) / size).filter(|&n| is_selected(&mask, n, size));
    for n in selected() {
        cpu.pointer_for_update(base.wrapping_add((n * size) as u64), size as u64)?;
    }
    for n in selected() {
        cpu.write_bytes(base.wrapping_add((n * size) as u64), &data[n * size..][..size])?;
    }
    Ok(())
}

/// A gather: destination `dst`, mask `src`, index register in `index` (a vector register's number). `imm`: element
/// size in bits 0 to 7, index size in bits 8 to 15.
///
/// Elements are gathered in order; a fault leaves those before it done and their masks cleared, as the
/// architecture has it.
pub fn gather(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_avx()?;
    let (size, index_size) = ((op.imm & 0xff) as usize, (op.imm >> 8 & 0xff) as usize);
    let count = size_of(op) / size.max(index_size);
    let indices = cpu.exec.fpu.ymm[op.index as usize];
    // What a fault leaves of the mask is all ones or all zeros.
    let mask = cpu.exec.fpu.ymm[op.src as usize];
    let mut full = [0; 32];
    for n in (0..size_of(op) / size).filter(|&n| is_selected(&mask, n, size)) {
        full[n * size..][..size].fill(0xff);
    }
    cpu.exec.fpu.ymm[op.src as usize] = full;
    for n in 0..count {
        if is_selected(&cpu.exec.fpu.ymm[op.src as usize], n, size) {
            let raw = element(&indices, n, index_size);
            let index = if index_size == 4 { raw as u32 as i32 as i64 as u64 } else { raw };
            let base = if op.base == crate::op::SLOT_ZERO { 0 } else { base_register(cpu, op) };
            let offset = base.wrapping_add(index << op.scale).wrapping_add(op.disp);
            let address = cpu.linear_slow(op.address, op.segment, offset, size as u64, false)?;
            let mut bytes = [0; 8];
            cpu.read_bytes(address, &mut bytes[..size])?;
            let register = &mut cpu.exec.fpu.ymm[op.dst as usize];
            register[n * size..][..size].copy_from_slice(&bytes[..size]);
            if op.aux & WIDE == 0 {
                register[16..].fill(0);
            }
        }
        cpu.exec.fpu.ymm[op.src as usize][n * size..][..size].fill(0);
    }
    cpu.exec.fpu.ymm[op.src as usize] = [0; 32];
    cpu.exec.fpu.ymm[op.dst as usize][count * size..].fill(0);
    Ok(())
}

fn base_register(cpu: &Cpu, op: &Op) -> u64 {
    if op.base <= Gpr::R15 as u8 { cpu.exec.gpr[op.base as usize] } else { cpu.exec.rip }
}
