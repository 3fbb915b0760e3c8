//! Instructions that 64-bit mode does not have: decimal adjustment, BOUND, ARPL, SALC.

use viv_arch::{Exception, Vector};

use crate::cpu::{Cpu, Exec};
use crate::op::Op;
use crate::ops::arith::Arith;
use crate::ops::segment::set_zf;
use crate::ram::Int;

const CF: u64 = 1;
const AF: u64 = 1 << 4;
const AL: u8 = 0;
const AH: u8 = 1;

/// SF, ZF and PF of a byte.
fn result_flags(value: u8) -> u64 {
    u8::or(value, 0, 0).1 & 0xc4
}

/// DAA, and DAS with `aux` 1.
pub fn decimal_adjust(cpu: &mut Cpu, op: &Op) -> Exec {
    let subtract = op.aux == 1;
    let old = cpu.get::<u8>(AL);
    let flags = cpu.flags();
    let adjust = |value: u8, by: u8| if subtract { value.wrapping_sub(by) } else { value.wrapping_add(by) };
    let (mut value, mut new) = (old, 0);
    if old & 0xf > 9 || flags & AF != 0 {
        value = adjust(value, 6);
        new |= AF;
        let carries = if subtract { old < 6 } else { old > 0xf9 };
        if flags & CF != 0 || carries {
            new |= CF;
        }
    }
    if old > 0x99 || flags & CF != 0 {
        value = adjust(value, 0x60);
        new |= CF;
    }
    cpu.put(AL, value);
    cpu.set_arithmetic(new | result_flags(value));
    Ok(())
}

/// AAA, and AAS with `aux` 1.
pub fn ascii_adjust(cpu: &mut Cpu, op: &Op) -> Exec {
    let ax = cpu.get::<u16>(AL);
    let mut flags = 0;
    let mut value = ax;
    if ax & 0xf > 9 || cpu.flags() & AF != 0 {
        value = if op.aux == 1 { ax.wrapping_sub(0x106) } else { ax.wrapping_add(0x106) };
        flags = AF | CF;
    }
    value &= 0xff0f;
    cpu.put(AL, value);
    cpu.set_arithmetic(flags | result_flags(value as u8));
    Ok(())
}

/// AAM by `imm`.
pub fn aam(cpu: &mut Cpu, op: &Op) -> Exec {
    let base = op.imm as u8;
    let al = cpu.get::<u8>(AL);
    let (Some(high), Some(low)) = (al.checked_div(base), al.checked_rem(base)) else {
        return cpu.raise(Exception::new(Vector::DivideError));
    };
    cpu.put(AH, high);
    cpu.put(AL, low);
    cpu.set_arithmetic(result_flags(low));
    Ok(())
}

/// AAD by `imm`.
pub fn aad(cpu: &mut Cpu, op: &Op) -> Exec {
    let base = op.imm as u8;
    let value = cpu.get::<u8>(AL).wrapping_add(cpu.get::<u8>(AH).wrapping_mul(base));
    cpu.put(AL, u16::from(value));
    cpu.set_arithmetic(result_flags(value));
    Ok(())
}

/// BOUND: the index register `dst` against two bounds in memory.
pub fn bound<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let address = cpu.linear(op, 2 * T::SIZE, false)?;
    let index = cpu.get::<T>(op.dst).sign_extended() as i64;
    let lower = cpu.load::<T>(address)?.sign_extended() as i64;
    // Below the lower bound, the upper one is not read.
    if index < lower || index > cpu.load::<T>(address.wrapping_add(T::SIZE))?.sign_extended() as i64 {
        return cpu.raise(Exception::new(Vector::BoundRange));
    }
    Ok(())
}

/// ARPL on registers.
pub fn arpl_r(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.require_protected()?;
    let old = cpu.get::<u16>(op.dst);
    let new = raised_rpl(cpu, old, op);
    if let Some(new) = new {
        cpu.put(op.dst, new);
    }
    set_zf(cpu, new.is_some());
    Ok(())
}

/// ARPL on memory, which is written only if it changes.
pub fn arpl_m(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.require_protected()?;
    let address = cpu.linear(op, 2, true)?;
    let old = cpu.load::<u16>(address)?;
    let new = raised_rpl(cpu, old, op);
    if let Some(new) = new {
        cpu.store(address, new)?;
    }
    set_zf(cpu, new.is_some());
    Ok(())
}

/// The selector with a higher RPL, if it is to have one.
fn raised_rpl(cpu: &Cpu, old: u16, op: &Op) -> Option<u16> {
    let rpl = cpu.get::<u16>(op.src) & 3;
    (old & 3 < rpl).then_some((old & !3) | rpl)
}

/// SALC: AL from CF. No manual has it, but every processor.
pub fn salc(cpu: &mut Cpu, _: &Op) -> Exec {
    let value = if cpu.flags() & CF != 0 { 0xffu8 } else { 0 };
    cpu.put(AL, value);
    Ok(())
}
