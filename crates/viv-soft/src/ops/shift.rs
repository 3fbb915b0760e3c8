//! SHL, SHR, SAR, ROL, ROR. (RCL, RCR, SHLD and SHRD run on the host as they are.)

use viv_arch::Gpr;

use crate::cpu::{Cpu, Exec};
use crate::op::Op;
use crate::ops::alu::update;
use crate::ops::arith::Arith;

/// A shift or rotate.
pub trait Shift {
    /// Result and arithmetic flags.
    fn apply<T: Arith>(a: T, count: u8, flags: u64) -> (T, u64);
}

macro_rules! shifts {
    ($($name:ident = $function:ident;)*) => {
        $(
            #[doc = concat!("The instruction ", stringify!($name), ".")]
            pub struct $name;
            impl Shift for $name {
                #[inline(always)]
                fn apply<T: Arith>(a: T, count: u8, flags: u64) -> (T, u64) {
                    T::$function(a, count, flags)
                }
            }
        )*
    };
}

shifts! {
    Shl = shl;
    Shr = shr;
    Sar = sar;
    Rol = rol;
    Ror = ror;
}

#[inline(always)]
fn shift_r<O: Shift, T: Arith>(cpu: &mut Cpu, op: &Op, count: u8) -> Exec {
    let (result, flags) = O::apply(cpu.get::<T>(op.dst), count, cpu.flags());
    cpu.put(op.dst, result);
    cpu.set_arithmetic(flags);
    Ok(())
}

#[inline(always)]
fn shift_m<O: Shift, T: Arith>(cpu: &mut Cpu, op: &Op, count: u8) -> Exec {
    let address = cpu.linear(op, T::SIZE, true)?;
    update::<T>(cpu, address, |a, flags| O::apply(a, count, flags))
}

pub fn ri<O: Shift, T: Arith>(cpu: &mut Cpu, op: &Op) -> Exec {
    shift_r::<O, T>(cpu, op, op.imm as u8)
}

pub fn rc<O: Shift, T: Arith>(cpu: &mut Cpu, op: &Op) -> Exec {
    let count = cpu.reg(Gpr::Rcx) as u8;
    shift_r::<O, T>(cpu, op, count)
}

pub fn mi<O: Shift, T: Arith>(cpu: &mut Cpu, op: &Op) -> Exec {
    shift_m::<O, T>(cpu, op, op.imm as u8)
}

pub fn mc<O: Shift, T: Arith>(cpu: &mut Cpu, op: &Op) -> Exec {
    let count = cpu.reg(Gpr::Rcx) as u8;
    shift_m::<O, T>(cpu, op, count)
}
