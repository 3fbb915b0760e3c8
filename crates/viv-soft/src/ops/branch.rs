//! Near branches: JMP, Jcc, CALL, RET, LOOP, JRCXZ.
//!
//! A branch leaves RIP where execution goes on, as its last act: until then RIP is where the block begins.

use viv_arch::{Exception, Gpr, paging};

use crate::cpu::{Bitness, Cpu, Exec, Fault};
use crate::op::Op;
use crate::ram::Int;

/// Whether condition code `CC` (SDM vol. 1, appendix B) holds.
#[inline(always)]
pub fn condition<const CC: u8>(flags: u64) -> bool {
    let bit = |n: u32| flags >> n & 1 != 0;
    let (cf, pf, zf, sf, of) = (bit(0), bit(2), bit(6), bit(7), bit(11));
    let holds = match CC >> 1 {
        0 => of,
        1 => cf,
        2 => zf,
        3 => cf | zf,
        4 => sf,
        5 => pf,
        6 => sf != of,
        _ => zf | (sf != of),
    };
    holds != (CC & 1 != 0)
}

/// Where a relative branch goes: `imm` from the block's begin, cut to the operand size.
#[inline(always)]
fn target(cpu: &Cpu, op: &Op) -> u64 {
    let target = cpu.exec.rip.wrapping_add(op.imm);
    match cpu.bitness {
        Bitness::Bits64 => target,
        _ if op.aux == 16 => target & 0xffff,
        _ => target & 0xffff_ffff,
    }
}

/// Checks a branch target: canonical in 64-bit mode, within CS's limit otherwise.
#[inline(always)]
pub fn check_target(cpu: &mut Cpu, target: u64) -> Exec {
    let good = if cpu.bitness == Bitness::Bits64 {
        paging::is_canonical(target)
    } else {
        target <= u64::from(cpu.segments[1].limit)
    };
    if good { Ok(()) } else { cpu.raise(Exception::gp(0)) }
}

pub fn jmp(cpu: &mut Cpu, op: &Op) -> Exec {
    let target = target(cpu, op);
    check_target(cpu, target)?;
    cpu.exec.rip = target;
    Ok(())
}

pub fn jcc<const CC: u8>(cpu: &mut Cpu, op: &Op) -> Exec {
    if condition::<CC>(cpu.flags()) {
        return jmp(cpu, op);
    }
    cpu.exec.rip = cpu.next_rip(op);
    Ok(())
}

pub fn jmp_r<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let target = cpu.get::<T>(op.dst).to_u64();
    check_target(cpu, target)?;
    cpu.exec.rip = target;
    Ok(())
}

pub fn jmp_m<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let address = cpu.linear(op, T::SIZE, false)?;
    let target = cpu.load::<T>(address)?.to_u64();
    check_target(cpu, target)?;
    cpu.exec.rip = target;
    Ok(())
}

/// The return address is written before the target is looked at.
#[inline(always)]
fn call_to<T: Int>(cpu: &mut Cpu, op: &Op, target: u64) -> Exec {
    let back = cpu.next_rip(op);
    let sp = cpu.reg(Gpr::Rsp);
    cpu.push(T::from_u64(back))?;
    if let Err(fault) = check_target(cpu, target) {
        cpu.exec.gpr[Gpr::Rsp as usize] = sp;
        return Err(fault);
    }
    cpu.exec.rip = target;
    Ok(())
}

pub fn call<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let target = target(cpu, op);
    call_to::<T>(cpu, op, target)
}

pub fn call_r<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let target = cpu.get::<T>(op.dst).to_u64();
    call_to::<T>(cpu, op, target)
}

pub fn call_m<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let address = cpu.linear(op, T::SIZE, false)?;
    let target = cpu.load::<T>(address)?.to_u64();
    call_to::<T>(cpu, op, target)
}

/// RET; `imm` more bytes are released.
pub fn ret<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let target = cpu.peek::<T>(0)?.to_u64();
    check_target(cpu, target)?;
    cpu.release(T::SIZE + op.imm);
    cpu.exec.rip = target;
    Ok(())
}

/// Reads and changes the count register of the address size in `aux`.
fn count(cpu: &Cpu, op: &Op) -> Result<u64, Fault> {
    let value = cpu.reg(Gpr::Rcx);
    Ok(match size_of_count(op) {
        16 => value & 0xffff,
        32 => value & 0xffff_ffff,
        _ => value,
    })
}

fn size_of_count(op: &Op) -> u8 {
    op.src
}

fn decrement(cpu: &mut Cpu, op: &Op) -> u64 {
    let offset = Gpr::Rcx as u8 * 8;
    match size_of_count(op) {
        16 => {
            let value = cpu.get::<u16>(offset).wrapping_sub(1);
            cpu.put(offset, value);
            u64::from(value)
        }
        32 => {
            let value = cpu.get::<u32>(offset).wrapping_sub(1);
            cpu.put(offset, value);
            u64::from(value)
        }
        _ => {
            let value = cpu.get::<u64>(offset).wrapping_sub(1);
            cpu.put(offset, value);
            value
        }
    }
}

/// JCXZ, JECXZ, JRCXZ.
pub fn jcxz(cpu: &mut Cpu, op: &Op) -> Exec {
    if count(cpu, op)? == 0 {
        return jmp(cpu, op);
    }
    cpu.exec.rip = cpu.next_rip(op);
    Ok(())
}

/// LOOP (`dst` 0), LOOPE (1), LOOPNE (2).
pub fn loop_(cpu: &mut Cpu, op: &Op) -> Exec {
    let zero = cpu.flags() & 0x40 != 0;
    let wanted = match op.dst {
        0 => true,
        1 => zero,
        _ => !zero,
    };
    let goes = target(cpu, op);
    let left = decrement(cpu, op);
    if left != 0 && wanted {
        check_target(cpu, goes)?;
        cpu.exec.rip = goes;
    } else {
        cpu.exec.rip = cpu.next_rip(op);
    }
    Ok(())
}
