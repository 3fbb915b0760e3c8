//! Moves: MOV, MOVZX, MOVSX, LEA, XCHG, CMOVcc, SETcc, conversions, XLAT.
#![allow(unsafe_code, reason = "XCHG with memory is the host's own")]

use std::arch::asm;

use viv_arch::Gpr;

use crate::cpu::{Cpu, Exec};
use crate::op::Op;
use crate::ops::branch::condition;
use crate::ram::Int;

pub fn rr<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = cpu.get::<T>(op.src);
    cpu.put(op.dst, value);
    Ok(())
}

pub fn ri<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.put(op.dst, T::from_u64(op.imm));
    Ok(())
}

pub fn rm<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let address = cpu.linear(op, T::SIZE, false)?;
    let value = cpu.load::<T>(address)?;
    cpu.put(op.dst, value);
    Ok(())
}

pub fn mr<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let address = cpu.linear(op, T::SIZE, true)?;
    let value = cpu.get::<T>(op.src);
    cpu.store(address, value)
}

pub fn mi<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let address = cpu.linear(op, T::SIZE, true)?;
    cpu.store(address, T::from_u64(op.imm))
}

/// MOVZX from `S` to `D`, both registers.
pub fn zero_extend_r<S: Int, D: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = cpu.get::<S>(op.src).to_u64();
    cpu.put(op.dst, D::from_u64(value));
    Ok(())
}

pub fn zero_extend_m<S: Int, D: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let address = cpu.linear(op, S::SIZE, false)?;
    let value = cpu.load::<S>(address)?.to_u64();
    cpu.put(op.dst, D::from_u64(value));
    Ok(())
}

pub fn sign_extend_r<S: Int, D: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = cpu.get::<S>(op.src).sign_extended();
    cpu.put(op.dst, D::from_u64(value));
    Ok(())
}

pub fn sign_extend_m<S: Int, D: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let address = cpu.linear(op, S::SIZE, false)?;
    let value = cpu.load::<S>(address)?.sign_extended();
    cpu.put(op.dst, D::from_u64(value));
    Ok(())
}

/// LEA; `aux` is the address size in bits.
pub fn lea<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let mut address = cpu.effective(op);
    if op.aux != 64 {
        address &= (1 << op.aux) - 1;
    }
    cpu.put(op.dst, T::from_u64(address));
    Ok(())
}

pub fn xchg_rr<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let (a, b) = (cpu.get::<T>(op.dst), cpu.get::<T>(op.src));
    cpu.put(op.dst, b);
    cpu.put(op.src, a);
    Ok(())
}

/// Exchanges with memory, locked as XCHG always is.
pub trait Exchange: Int {
    /// # Safety
    /// `p` is valid for reads and writes of the type's size; others may access it.
    unsafe fn exchange(p: *mut u8, value: Self) -> Self;
}

macro_rules! exchange {
    ($type:ty, $class:ident, $m:literal) => {
        impl Exchange for $type {
            #[inline(always)]
            unsafe fn exchange(p: *mut u8, mut value: Self) -> Self {
                // SAFETY: the caller's contract.
                unsafe {
                    asm!(concat!("xchg [{p}], {v", $m, "}"), p = in(reg) p, v = inout($class) value,
                        options(nostack, preserves_flags));
                }
                value
            }
        }
    };
}

exchange!(u8, reg_byte, "");
exchange!(u16, reg, ":x");
exchange!(u32, reg, ":e");
exchange!(u64, reg, ":r");

pub fn xchg_mr<T: Exchange>(cpu: &mut Cpu, op: &Op) -> Exec {
    let address = cpu.linear(op, T::SIZE, true)?;
    let value = cpu.get::<T>(op.src);
    let old = if let Some(p) = cpu.pointer_for_update(address, T::SIZE)? {
        // SAFETY: the TLB vouches for the pointer.
        unsafe { T::exchange(p, value) }
    } else {
        let old = cpu.load::<T>(address)?;
        cpu.store(address, value)?;
        old
    };
    cpu.put(op.src, old);
    Ok(())
}

pub fn cmov_rr<const CC: u8, T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let source = if condition::<CC>(cpu.flags()) { op.src } else { op.dst };
    // Without the move, a 32-bit destination still loses its upper half.
    let value = cpu.get::<T>(source);
    cpu.put(op.dst, value);
    Ok(())
}

pub fn cmov_rm<const CC: u8, T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let address = cpu.linear(op, T::SIZE, false)?;
    let memory = cpu.load::<T>(address)?;
    let value = if condition::<CC>(cpu.flags()) { memory } else { cpu.get::<T>(op.dst) };
    cpu.put(op.dst, value);
    Ok(())
}

pub fn set_r<const CC: u8>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = u8::from(condition::<CC>(cpu.flags()));
    cpu.put(op.dst, value);
    Ok(())
}

pub fn set_m<const CC: u8>(cpu: &mut Cpu, op: &Op) -> Exec {
    let address = cpu.linear(op, 1, true)?;
    let value = u8::from(condition::<CC>(cpu.flags()));
    cpu.store(address, value)
}

/// CBW, CWDE, CDQE: the accumulator's lower half sign-extended.
pub fn widen<S: Int, D: Int>(cpu: &mut Cpu, _: &Op) -> Exec {
    let value = cpu.get::<S>(0).sign_extended();
    cpu.put(0, D::from_u64(value));
    Ok(())
}

/// CWD, CDQ, CQO: the accumulator's sign into RDX.
pub fn sign_to_dx<T: Int>(cpu: &mut Cpu, _: &Op) -> Exec {
    let sign = (cpu.get::<T>(0).sign_extended() as i64 >> 63) as u64;
    cpu.put(Gpr::Rdx as u8 * 8, T::from_u64(sign));
    Ok(())
}

pub fn bswap32(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = cpu.get::<u32>(op.dst).swap_bytes();
    cpu.put(op.dst, value);
    Ok(())
}

pub fn bswap64(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = cpu.get::<u64>(op.dst).swap_bytes();
    cpu.put(op.dst, value);
    Ok(())
}

/// XLAT: the memory operand is base plus AL, which `lower` cannot express as a slot.
pub fn xlat(cpu: &mut Cpu, op: &Op) -> Exec {
    let offset = cpu.effective(op).wrapping_add(u64::from(cpu.get::<u8>(0)));
    let address = cpu.linear_slow(op.address, op.segment, offset, 1, false)?;
    let value = cpu.load::<u8>(address)?;
    cpu.put(0, value);
    Ok(())
}

/// LAHF.
pub fn lahf(cpu: &mut Cpu, _: &Op) -> Exec {
    let value = (cpu.flags() & 0xd5) as u8 | 2;
    cpu.put(1, value);
    Ok(())
}

/// SAHF.
pub fn sahf(cpu: &mut Cpu, _: &Op) -> Exec {
    let value = u64::from(cpu.get::<u8>(1)) & 0xd5;
    cpu.exec.rflags = (cpu.exec.rflags & !0xd5) | value;
    Ok(())
}

/// CLC, STC, CLD, STD: `imm` is kept, `disp` is set.
pub fn change_flags(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.exec.rflags = (cpu.exec.rflags & op.imm) | op.disp;
    Ok(())
}

/// CMC.
pub fn cmc(cpu: &mut Cpu, _: &Op) -> Exec {
    cpu.exec.rflags ^= 1;
    Ok(())
}

/// NOP, PAUSE's cheap forms, prefetches, fences that the host need not repeat.
pub fn nop(_: &mut Cpu, _: &Op) -> Exec {
    Ok(())
}

/// MFENCE, LFENCE, SFENCE: guest memory is host memory, so the host's fence is the guest's.
pub fn fence(_: &mut Cpu, _: &Op) -> Exec {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    Ok(())
}
