//! Arithmetic on the host's ALU: each operation is the instruction itself, with the flags it leaves.
//!
//! Flags come and go as the low 16 bits of RFLAGS. What an operation leaves undefined is what this processor
//! makes of it, as on the metal.
#![allow(unsafe_code, reason = "the operations are single instructions")]

use std::arch::asm;

use crate::ram::Int;

/// LAHF and SETO's result as arithmetic flags.
#[inline(always)]
fn gather(ax: u64) -> u64 {
    ((ax >> 8) & 0xd5) | ((ax & 1) << 11)
}

const CF: u64 = 1;
const CF_OF: u64 = 1 | (1 << 11);

/// Operations on one size of integer. `flags` are those before; the second result those after, arithmetic
/// flags only.
#[allow(missing_docs, reason = "each is the instruction of its name")]
pub trait Arith: Int {
    fn add(a: Self, b: Self, flags: u64) -> (Self, u64);
    fn or(a: Self, b: Self, flags: u64) -> (Self, u64);
    fn adc(a: Self, b: Self, flags: u64) -> (Self, u64);
    fn sbb(a: Self, b: Self, flags: u64) -> (Self, u64);
    fn and(a: Self, b: Self, flags: u64) -> (Self, u64);
    fn sub(a: Self, b: Self, flags: u64) -> (Self, u64);
    fn xor(a: Self, b: Self, flags: u64) -> (Self, u64);
    fn inc(a: Self, flags: u64) -> (Self, u64);
    fn dec(a: Self, flags: u64) -> (Self, u64);
    fn neg(a: Self, flags: u64) -> (Self, u64);
    fn not(a: Self) -> Self;
    fn shl(a: Self, count: u8, flags: u64) -> (Self, u64);
    fn shr(a: Self, count: u8, flags: u64) -> (Self, u64);
    fn sar(a: Self, count: u8, flags: u64) -> (Self, u64);
    fn rol(a: Self, count: u8, flags: u64) -> (Self, u64);
    fn ror(a: Self, count: u8, flags: u64) -> (Self, u64);
}

macro_rules! binary {
    ($name:ident, $class:ident, $m:literal) => {
        #[inline(always)]
        fn $name(mut a: Self, b: Self, _flags: u64) -> (Self, u64) {
            let ax: u64;
            // SAFETY: register arithmetic.
            unsafe {
                asm!(concat!(stringify!($name), " {a", $m, "}, {b", $m, "}"), "lahf", "seto al",
                    a = inout($class) a, b = in($class) b, out("rax") ax, options(pure, nomem, nostack));
            }
            (a, gather(ax))
        }
    };
}

macro_rules! binary_carry {
    ($name:ident, $class:ident, $m:literal) => {
        #[inline(always)]
        fn $name(mut a: Self, b: Self, flags: u64) -> (Self, u64) {
            let ax: u64;
            // SAFETY: register arithmetic.
            unsafe {
                asm!("bt {f}, 0", concat!(stringify!($name), " {a", $m, "}, {b", $m, "}"), "lahf", "seto al",
                    f = in(reg) flags, a = inout($class) a, b = in($class) b, out("rax") ax,
                    options(pure, nomem, nostack));
            }
            (a, gather(ax))
        }
    };
}

macro_rules! unary {
    ($name:ident, $class:ident, $m:literal, $kept:expr) => {
        #[inline(always)]
        fn $name(mut a: Self, flags: u64) -> (Self, u64) {
            let ax: u64;
            // SAFETY: register arithmetic.
            unsafe {
                asm!(concat!(stringify!($name), " {a", $m, "}"), "lahf", "seto al",
                    a = inout($class) a, out("rax") ax, options(pure, nomem, nostack));
            }
            (a, (gather(ax) & !$kept) | (flags & $kept))
        }
    };
}

/// Shifts and rotates. A count of zero leaves the flags alone; `$set` are the flags that others change.
macro_rules! shift {
    ($name:ident, $class:ident, $m:literal, $set:expr) => {
        #[inline(always)]
        fn $name(mut a: Self, count: u8, flags: u64) -> (Self, u64) {
            let count = if Self::BITS == 64 { count & 63 } else { count & 31 };
            if count == 0 {
                return (a, flags & 0x8d5);
            }
            let ax: u64;
            // SAFETY: register arithmetic.
            unsafe {
                asm!(concat!(stringify!($name), " {a", $m, "}, cl"), "lahf", "seto al",
                    a = inout($class) a, in("cl") count, out("rax") ax, options(pure, nomem, nostack));
            }
            (a, (flags & 0x8d5 & !$set) | (gather(ax) & $set))
        }
    };
}

macro_rules! arith {
    ($type:ty, $class:ident, $m:literal) => {
        impl Arith for $type {
            binary!(add, $class, $m);
            binary!(or, $class, $m);
            binary!(and, $class, $m);
            binary!(sub, $class, $m);
            binary!(xor, $class, $m);
            binary_carry!(adc, $class, $m);
            binary_carry!(sbb, $class, $m);
            unary!(inc, $class, $m, CF);
            unary!(dec, $class, $m, CF);
            unary!(neg, $class, $m, 0);
            #[inline(always)]
            fn not(a: Self) -> Self {
                !a
            }
            shift!(shl, $class, $m, 0x8d5);
            shift!(shr, $class, $m, 0x8d5);
            shift!(sar, $class, $m, 0x8d5);
            shift!(rol, $class, $m, CF_OF);
            shift!(ror, $class, $m, CF_OF);
        }
    };
}

arith!(u8, reg_byte, "");
arith!(u16, reg, ":x");
arith!(u32, reg, ":e");
arith!(u64, reg, ":r");

/// Signed multiplication of two operands into one, with flags.
pub trait Multiply: Arith {
    /// IMUL with two operands.
    fn imul(a: Self, b: Self) -> (Self, u64);
}

macro_rules! multiply {
    ($type:ty, $m:literal) => {
        impl Multiply for $type {
            #[inline(always)]
            fn imul(mut a: Self, b: Self) -> (Self, u64) {
                let ax: u64;
                // SAFETY: register arithmetic.
                unsafe {
                    asm!(concat!("imul {a", $m, "}, {b", $m, "}"), "lahf", "seto al",
                        a = inout(reg) a, b = in(reg) b, out("rax") ax, options(pure, nomem, nostack));
                }
                (a, gather(ax))
            }
        }
    };
}

multiply!(u16, ":x");
multiply!(u32, ":e");
multiply!(u64, ":r");

#[cfg(test)]
mod tests {
    use super::*;

    const OF: u64 = 1 << 11;

    #[test]
    fn flags_of_an_overflowing_addition() {
        let (sum, flags) = u8::add(0x7f, 1, 0);
        assert_eq!((sum, flags), (0x80, OF | (1 << 7) | (1 << 4)));
    }

    #[test]
    fn carry_goes_in_and_out() {
        assert_eq!(u64::adc(u64::MAX, 0, CF).0, 0);
        assert_eq!(u64::adc(u64::MAX, 0, CF).1 & CF, CF);
        assert_eq!(u32::sbb(0, 0, CF), (u32::MAX, CF | (1 << 2) | (1 << 4) | (1 << 7)));
    }

    #[test]
    fn increment_keeps_carry_and_shift_by_zero_keeps_all() {
        assert_eq!(u16::inc(0xffff, CF).1 & CF, CF);
        assert_eq!(u32::shl(5, 32, 0x8d5), (5, 0x8d5));
        assert_eq!(u32::rol(0x8000_0000, 1, 0x40).1 & 0x41, 0x41);
    }
}
