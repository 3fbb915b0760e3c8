//! ADD, OR, ADC, SBB, AND, SUB, XOR, CMP, TEST, INC, DEC, NEG, NOT, IMUL.

use crate::cpu::{Cpu, Exec};
use crate::op::Op;
use crate::ops::arith::{Arith, Multiply};
use crate::ram::Int;

/// An operation on two operands.
pub trait Binary {
    /// Whether the result is kept (CMP and TEST drop it).
    const KEEPS: bool = true;
    /// Result and arithmetic flags.
    fn apply<T: Arith>(a: T, b: T, flags: u64) -> (T, u64);
}

macro_rules! operations {
    ($($name:ident = $function:ident $(, $keeps:literal)?;)*) => {
        $(
            #[doc = concat!("The instruction ", stringify!($name), ".")]
            pub struct $name;
            impl Binary for $name {
                $(const KEEPS: bool = $keeps;)?
                #[inline(always)]
                fn apply<T: Arith>(a: T, b: T, flags: u64) -> (T, u64) {
                    T::$function(a, b, flags)
                }
            }
        )*
    };
}

operations! {
    Add = add;
    Or = or;
    Adc = adc;
    Sbb = sbb;
    And = and;
    Sub = sub;
    Xor = xor;
    Cmp = sub, false;
    Test = and, false;
}

#[inline(always)]
fn combine<O: Binary, T: Arith>(cpu: &mut Cpu, op: &Op, a: T, b: T) {
    let (result, flags) = O::apply(a, b, cpu.flags());
    if O::KEEPS {
        cpu.put(op.dst, result);
    }
    cpu.set_arithmetic(flags);
}

pub fn rr<O: Binary, T: Arith>(cpu: &mut Cpu, op: &Op) -> Exec {
    let (a, b) = (cpu.get::<T>(op.dst), cpu.get::<T>(op.src));
    combine::<O, T>(cpu, op, a, b);
    Ok(())
}

pub fn ri<O: Binary, T: Arith>(cpu: &mut Cpu, op: &Op) -> Exec {
    let a = cpu.get::<T>(op.dst);
    combine::<O, T>(cpu, op, a, T::from_u64(op.imm));
    Ok(())
}

pub fn rm<O: Binary, T: Arith>(cpu: &mut Cpu, op: &Op) -> Exec {
    let address = cpu.linear(op, T::SIZE, false)?;
    let b = cpu.load::<T>(address)?;
    let a = cpu.get::<T>(op.dst);
    combine::<O, T>(cpu, op, a, b);
    Ok(())
}

pub fn mr<O: Binary, T: Arith>(cpu: &mut Cpu, op: &Op) -> Exec {
    let b = cpu.get::<T>(op.src);
    to_memory::<O, T>(cpu, op, b)
}

pub fn mi<O: Binary, T: Arith>(cpu: &mut Cpu, op: &Op) -> Exec {
    to_memory::<O, T>(cpu, op, T::from_u64(op.imm))
}

#[inline(always)]
fn to_memory<O: Binary, T: Arith>(cpu: &mut Cpu, op: &Op, b: T) -> Exec {
    let address = cpu.linear(op, T::SIZE, O::KEEPS)?;
    if !O::KEEPS {
        let a = cpu.load::<T>(address)?;
        cpu.set_arithmetic(O::apply(a, b, cpu.flags()).1);
        return Ok(());
    }
    update(cpu, address, |a, flags| O::apply(a, b, flags))
}

/// Reads, changes and writes a value in memory, without LOCK.
#[inline(always)]
#[allow(unsafe_code, reason = "the pointer comes from the TLB")]
pub fn update<T: Int>(cpu: &mut Cpu, address: u64, change: impl Fn(T, u64) -> (T, u64)) -> Exec {
    if let Some(p) = cpu.pointer_for_update(address, T::SIZE)? {
        // SAFETY: the TLB vouches for the pointer.
        let (result, flags) = change(unsafe { T::load(p) }, cpu.flags());
        // SAFETY: as above.
        unsafe { T::store(p, result) };
        cpu.set_arithmetic(flags);
        return Ok(());
    }
    // Both pages are known to be writable by now.
    let a = cpu.load::<T>(address)?;
    let (result, flags) = change(a, cpu.flags());
    cpu.store(address, result)?;
    cpu.set_arithmetic(flags);
    Ok(())
}

/// An operation on one operand.
pub trait Unary {
    /// Result and arithmetic flags.
    fn apply<T: Arith>(a: T, flags: u64) -> (T, u64);
}

/// INC.
pub struct Inc;
/// DEC.
pub struct Dec;
/// NEG.
pub struct Neg;
/// NOT.
pub struct Not;

impl Unary for Inc {
    #[inline(always)]
    fn apply<T: Arith>(a: T, flags: u64) -> (T, u64) {
        T::inc(a, flags)
    }
}
impl Unary for Dec {
    #[inline(always)]
    fn apply<T: Arith>(a: T, flags: u64) -> (T, u64) {
        T::dec(a, flags)
    }
}
impl Unary for Neg {
    #[inline(always)]
    fn apply<T: Arith>(a: T, flags: u64) -> (T, u64) {
        T::neg(a, flags)
    }
}
impl Unary for Not {
    #[inline(always)]
    fn apply<T: Arith>(a: T, flags: u64) -> (T, u64) {
        (T::not(a), flags & 0x8d5)
    }
}

pub fn unary_r<O: Unary, T: Arith>(cpu: &mut Cpu, op: &Op) -> Exec {
    let (result, flags) = O::apply(cpu.get::<T>(op.dst), cpu.flags());
    cpu.put(op.dst, result);
    cpu.set_arithmetic(flags);
    Ok(())
}

pub fn unary_m<O: Unary, T: Arith>(cpu: &mut Cpu, op: &Op) -> Exec {
    let address = cpu.linear(op, T::SIZE, true)?;
    update::<T>(cpu, address, |a, flags| O::apply(a, flags))
}

pub fn imul_rr<T: Multiply>(cpu: &mut Cpu, op: &Op) -> Exec {
    let (result, flags) = T::imul(cpu.get(op.dst), cpu.get(op.src));
    cpu.put(op.dst, result);
    cpu.set_arithmetic(flags);
    Ok(())
}

pub fn imul_rm<T: Multiply>(cpu: &mut Cpu, op: &Op) -> Exec {
    let address = cpu.linear(op, T::SIZE, false)?;
    let b = cpu.load(address)?;
    let (result, flags) = T::imul(cpu.get(op.dst), b);
    cpu.put(op.dst, result);
    cpu.set_arithmetic(flags);
    Ok(())
}

pub fn imul_rri<T: Multiply>(cpu: &mut Cpu, op: &Op) -> Exec {
    let (result, flags) = T::imul(cpu.get(op.src), T::from_u64(op.imm));
    cpu.put(op.dst, result);
    cpu.set_arithmetic(flags);
    Ok(())
}

pub fn imul_rmi<T: Multiply>(cpu: &mut Cpu, op: &Op) -> Exec {
    let address = cpu.linear(op, T::SIZE, false)?;
    let a = cpu.load(address)?;
    let (result, flags) = T::imul(a, T::from_u64(op.imm));
    cpu.put(op.dst, result);
    cpu.set_arithmetic(flags);
    Ok(())
}
