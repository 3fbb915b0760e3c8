//! BT, BTS, BTR, BTC with memory and a register as bit offset, which reaches beyond the operand. (The other
//! forms run on the host as they are.)
#![allow(unsafe_code, reason = "the locked forms are the host's own")]

use std::arch::asm;

use crate::cpu::{Cpu, Exec};
use crate::op::{AddressKind, Op};
use crate::ram::Int;

/// What happens to the bit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum BitAction {
    /// BT.
    Test,
    /// BTS.
    Set,
    /// BTR.
    Reset,
    /// BTC.
    Complement,
}

impl BitAction {
    fn from_aux(aux: u8) -> Self {
        match aux & 3 {
            0 => Self::Test,
            1 => Self::Set,
            2 => Self::Reset,
            _ => Self::Complement,
        }
    }
}

/// The action is in `aux` bits 0 and 1, LOCK in bit 2.
pub fn bit_mr<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let action = BitAction::from_aux(op.aux);
    let offset = cpu.get::<T>(op.src).sign_extended() as i64;
    let shift = T::BITS.trailing_zeros();
    let effective = cpu.effective(op).wrapping_add(((offset >> shift) as u64).wrapping_mul(T::SIZE));
    let writes = action != BitAction::Test;
    let address = if op.address == AddressKind::Flat {
        effective
    } else {
        cpu.linear_slow(op.address, op.segment, effective, T::SIZE, writes)?
    };
    let bit = 1u64 << (offset & i64::from(T::BITS - 1));
    let change = |old: u64| match action {
        BitAction::Test => old,
        BitAction::Set => old | bit,
        BitAction::Reset => old & !bit,
        BitAction::Complement => old ^ bit,
    };
    let old = if !writes {
        cpu.load::<T>(address)?.to_u64()
    } else if op.aux & 4 != 0
        && let Some(p) = cpu.pointer_for_update(address, T::SIZE)?
    {
        loop {
            // SAFETY: the TLB vouches for the pointer.
            let old = unsafe { T::load(p) };
            let new = T::from_u64(change(old.to_u64()));
            // SAFETY: as above.
            if unsafe { compare_exchange(p, old, new) } {
                break old.to_u64();
            }
        }
    } else {
        cpu.pointer_for_update(address, T::SIZE)?;
        let old = cpu.load::<T>(address)?;
        cpu.store(address, T::from_u64(change(old.to_u64())))?;
        old.to_u64()
    };
    cpu.exec.rflags = (cpu.exec.rflags & !1) | u64::from(old & bit != 0);
    Ok(())
}

/// LOCK CMPXCHG: says whether the memory held `old`.
///
/// # Safety
/// `p` is valid for reads and writes of the type's size; others may access it.
unsafe fn compare_exchange<T: Int>(p: *mut u8, old: T, new: T) -> bool {
    let (old, new) = (old.to_u64(), new.to_u64());
    let found: u64;
    // SAFETY: the caller's contract.
    unsafe {
        match T::SIZE {
            2 => asm!("lock cmpxchg word ptr [{p}], {n:x}", p = in(reg) p, n = in(reg) new,
                inout("rax") old => found, options(nostack)),
            4 => asm!("lock cmpxchg dword ptr [{p}], {n:e}", p = in(reg) p, n = in(reg) new,
                inout("rax") old => found, options(nostack)),
            _ => asm!("lock cmpxchg qword ptr [{p}], {n}", p = in(reg) p, n = in(reg) new,
                inout("rax") old => found, options(nostack)),
        }
    }
    found == old
}
