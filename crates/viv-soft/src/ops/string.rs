//! MOVS, STOS, LODS, SCAS, CMPS, INS, OUTS, with and without REP.
//!
//! A repeated instruction works on whole runs within a page where both sides are plain RAM, and element by
//! element where not. Registers are right after every element, so that a fault in the middle resumes where
//! it was; between runs it gives way to interrupts.
#![allow(unsafe_code, reason = "runs are copied by host address")]

use std::arch::asm;

use viv_arch::{Gpr, Rflags, SegmentRegister, paging};

use crate::cpu::{Cpu, Exec, Fault, Pending};
use crate::op::{AddressKind, Op, segment_allows};
use crate::ops::arith::Arith;
use crate::ram::{self, Int};

/// Bits of `aux`: REP or REPE.
pub const REP: u8 = 1;
/// Bits of `aux`: REPNE.
pub const REPNE: u8 = 2;

/// How many bytes a repeated instruction moves before it looks for interrupts.
const QUANTUM: u64 = 64 * 1024;

const ES: u8 = SegmentRegister::Es as u8;
const RSI: usize = Gpr::Rsi as usize;
const RDI: usize = Gpr::Rdi as usize;
const RCX: usize = Gpr::Rcx as usize;

impl Cpu {
    fn source(&mut self, op: &Op, size: u64) -> Result<u64, Fault> {
        let offset = self.exec.gpr[RSI];
        if op.address == AddressKind::Flat {
            return Ok(offset);
        }
        self.linear_slow(op.address, op.segment, offset, size, false)
    }

    fn destination(&mut self, op: &Op, size: u64, write: bool) -> Result<u64, Fault> {
        let offset = self.exec.gpr[RDI];
        match op.address {
            AddressKind::Flat | AddressKind::Based => Ok(offset),
            AddressKind::Narrow => Ok(offset & 0xffff_ffff),
            kind => self.linear_slow(kind, ES, offset, size, write),
        }
    }

    /// Moves an index register by `bytes`, downwards with DF, within the address size.
    #[inline]
    fn step(&mut self, register: usize, op: &Op, bytes: u64) {
        let delta = if self.flag(Rflags::DF) { bytes.wrapping_neg() } else { bytes };
        self.add_index(register, op, delta);
    }

    #[inline]
    fn add_index(&mut self, register: usize, op: &Op, delta: u64) {
        let mask = op.address.mask();
        let old = self.exec.gpr[register];
        let new = old.wrapping_add(delta) & mask;
        // A 32-bit address size clears the upper half, a 16-bit one keeps the rest.
        self.exec.gpr[register] = if mask == 0xffff { (old & !0xffff) | new } else { new };
    }

    #[inline]
    fn repeat_count(&self, op: &Op) -> u64 {
        self.exec.gpr[RCX] & op.address.mask()
    }

    #[inline]
    fn count_down(&mut self, op: &Op, elements: u64) {
        self.add_index(RCX, op, elements.wrapping_neg());
    }

    /// Between two runs of a repeated instruction: gives way if something waits.
    fn give_way(&mut self) -> Exec {
        if self.shared.inbox(self.index).attention() {
            self.pending = Some(Pending::Restart);
            return Err(Fault);
        }
        Ok(())
    }

    /// Whether elements must be dealt with one by one: each may be followed by a trap, or has to be aligned.
    fn element_by_element(&self) -> bool {
        self.flag(Rflags::DF) || self.is_stepping() || self.debug.is_watching() || self.tlb.checks_alignment
    }

    /// After an element that is not the last: gives way to the trap that follows it.
    #[inline]
    fn trap_between(&mut self) -> Exec {
        if self.is_stepping() || self.debug.has_hits() {
            self.pending = Some(Pending::Restart);
            return Err(Fault);
        }
        Ok(())
    }

    /// Whether the guest or a debugger outside makes single steps.
    fn is_stepping(&self) -> bool {
        self.stepping || self.debug.outside.is_stepping()
    }

    /// Whether `bytes` from an index register upwards lie in segment `number`, and in what the address size reaches. In
    /// 64-bit mode everything does.
    fn is_in_segment(&self, op: &Op, number: u8, register: usize, bytes: u64, write: bool) -> bool {
        if !matches!(op.address, AddressKind::Segmented32 | AddressKind::Segmented16) {
            return true;
        }
        let mask = op.address.mask();
        let offset = self.exec.gpr[register] & mask;
        offset + (bytes - 1) <= mask && segment_allows(&self.segments[number as usize], offset, bytes, write)
    }

    /// How many elements from `address` upwards lie in its page, `count` at the most.
    fn run_length<T: Int>(address: u64, count: u64) -> u64 {
        ((paging::PAGE_SIZE - (address & paging::PAGE_OFFSET)) / T::SIZE).min(count)
    }
}

/// Runs `element` once, or as often as the count says.
fn repeat(cpu: &mut Cpu, op: &Op, element: impl Fn(&mut Cpu, &Op) -> Exec) -> Exec {
    if op.aux & (REP | REPNE) == 0 {
        return element(cpu, op);
    }
    let mut budget = 1024u32;
    while cpu.repeat_count(op) != 0 {
        element(cpu, op)?;
        cpu.count_down(op, 1);
        budget -= 1;
        if cpu.repeat_count(op) != 0 {
            cpu.trap_between()?;
            if budget == 0 {
                cpu.give_way()?;
                budget = 1024;
            }
        }
    }
    Ok(())
}

/// Runs as many elements as `run` can at a time, upwards; element by element where it cannot.
fn repeat_runs(
    cpu: &mut Cpu,
    op: &Op,
    run: impl Fn(&mut Cpu, &Op, u64) -> Result<u64, Fault>,
    element: impl Fn(&mut Cpu, &Op) -> Exec,
    size: u64,
) -> Exec {
    if op.aux & (REP | REPNE) == 0 || cpu.element_by_element() {
        return repeat(cpu, op, element);
    }
    let mut moved = 0;
    loop {
        let count = cpu.repeat_count(op);
        if count == 0 {
            return Ok(());
        }
        if moved >= QUANTUM {
            cpu.give_way()?;
            moved = 0;
        }
        let mut done = run(cpu, op, count)?;
        if done == 0 {
            element(cpu, op)?;
            done = 1;
        }
        cpu.count_down(op, done);
        moved += done * size;
    }
}

fn movs_element<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let from = cpu.source(op, T::SIZE)?;
    let value = cpu.load::<T>(from)?;
    let to = cpu.destination(op, T::SIZE, true)?;
    cpu.store(to, value)?;
    cpu.step(RSI, op, T::SIZE);
    cpu.step(RDI, op, T::SIZE);
    Ok(())
}

fn movs_run<T: Int>(cpu: &mut Cpu, op: &Op, count: u64) -> Result<u64, Fault> {
    let in_segments = |cpu: &Cpu, bytes: u64| {
        cpu.is_in_segment(op, op.segment, RSI, bytes, false) && cpu.is_in_segment(op, ES, RDI, bytes, true)
    };
    if !in_segments(cpu, T::SIZE) {
        return Ok(0);
    }
    let from = cpu.source(op, T::SIZE)?;
    let to = cpu.destination(op, T::SIZE, true)?;
    let elements = Cpu::run_length::<T>(from, count).min(Cpu::run_length::<T>(to, count));
    let bytes = elements * T::SIZE;
    if elements == 0 || !in_segments(cpu, bytes) {
        return Ok(0);
    }
    let Some(source) = cpu.pointer_for_read(from, bytes)? else { return Ok(0) };
    let Some(destination) = cpu.pointer_for_update(to, bytes)? else { return Ok(0) };
    // SAFETY: the TLB vouches for both. REP MOVSB copies upwards byte by byte, which is what overlapping
    // guest operands of any size see unless the distance is smaller than an element.
    if (destination as u64).wrapping_sub(source as u64) < T::SIZE {
        return Ok(0);
    }
    // SAFETY: as above.
    unsafe { ram::copy(source, destination, bytes as usize) };
    cpu.add_index(RSI, op, bytes);
    cpu.add_index(RDI, op, bytes);
    Ok(elements)
}

pub fn movs<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    repeat_runs(cpu, op, movs_run::<T>, movs_element::<T>, T::SIZE)
}

fn stos_element<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let to = cpu.destination(op, T::SIZE, true)?;
    let value = cpu.get::<T>(0);
    cpu.store(to, value)?;
    cpu.step(RDI, op, T::SIZE);
    Ok(())
}

fn stos_run<T: Int>(cpu: &mut Cpu, op: &Op, count: u64) -> Result<u64, Fault> {
    let to = cpu.destination(op, T::SIZE, true)?;
    let elements = Cpu::run_length::<T>(to, count);
    let bytes = elements * T::SIZE;
    if elements == 0 || !cpu.is_in_segment(op, ES, RDI, bytes, true) {
        return Ok(0);
    }
    let Some(destination) = cpu.pointer_for_update(to, bytes)? else { return Ok(0) };
    let value = cpu.get::<T>(0).to_u64();
    // SAFETY: the TLB vouches for the pointer; the direction flag is clear in Rust code.
    unsafe {
        match T::SIZE {
            1 => asm!("rep stosb", inout("rcx") elements => _, inout("rdi") destination => _,
                in("al") value as u8, options(nostack, preserves_flags)),
            2 => asm!("rep stosw", inout("rcx") elements => _, inout("rdi") destination => _,
                in("ax") value as u16, options(nostack, preserves_flags)),
            4 => asm!("rep stosd", inout("rcx") elements => _, inout("rdi") destination => _,
                in("eax") value as u32, options(nostack, preserves_flags)),
            _ => asm!("rep stosq", inout("rcx") elements => _, inout("rdi") destination => _,
                in("rax") value, options(nostack, preserves_flags)),
        }
    }
    cpu.add_index(RDI, op, bytes);
    Ok(elements)
}

pub fn stos<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    repeat_runs(cpu, op, stos_run::<T>, stos_element::<T>, T::SIZE)
}

pub fn lods<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    repeat(cpu, op, |cpu, op| {
        let from = cpu.source(op, T::SIZE)?;
        let value = cpu.load::<T>(from)?;
        cpu.put(0, value);
        cpu.step(RSI, op, T::SIZE);
        Ok(())
    })
}

/// Repeats a comparison until the count or the condition ends it.
fn repeat_compare(cpu: &mut Cpu, op: &Op, element: impl Fn(&mut Cpu, &Op) -> Exec) -> Exec {
    if op.aux & (REP | REPNE) == 0 {
        return element(cpu, op);
    }
    let go_on_if_equal = op.aux & REP != 0;
    let flags = cpu.flags();
    let mut budget = 1024u32;
    while cpu.repeat_count(op) != 0 {
        // A fault leaves the flags as they were before all of it (SDM vol. 2, REP).
        if let Err(fault) = element(cpu, op) {
            cpu.exec.rflags = flags;
            return Err(fault);
        }
        cpu.count_down(op, 1);
        if cpu.flag(Rflags::ZF) != go_on_if_equal {
            break;
        }
        budget -= 1;
        if cpu.repeat_count(op) != 0 {
            cpu.trap_between()?;
            if budget == 0 {
                cpu.give_way()?;
                budget = 1024;
            }
        }
    }
    Ok(())
}

pub fn scas<T: Arith>(cpu: &mut Cpu, op: &Op) -> Exec {
    repeat_compare(cpu, op, |cpu, op| {
        let at = cpu.destination(op, T::SIZE, false)?;
        let value = cpu.load::<T>(at)?;
        let (_, flags) = T::sub(cpu.get(0), value, 0);
        cpu.set_arithmetic(flags);
        cpu.step(RDI, op, T::SIZE);
        Ok(())
    })
}

pub fn cmps<T: Arith>(cpu: &mut Cpu, op: &Op) -> Exec {
    repeat_compare(cpu, op, |cpu, op| {
        // In this order, as shows when neither can be read.
        let to = cpu.destination(op, T::SIZE, false)?;
        let b = cpu.load::<T>(to)?;
        let from = cpu.source(op, T::SIZE)?;
        let a = cpu.load::<T>(from)?;
        let (_, flags) = T::sub(a, b, 0);
        cpu.set_arithmetic(flags);
        cpu.step(RSI, op, T::SIZE);
        cpu.step(RDI, op, T::SIZE);
        Ok(())
    })
}

pub fn ins<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let port = cpu.get::<u16>(Gpr::Rdx as u8 * 8);
    cpu.check_port(port, T::SIZE)?;
    repeat(cpu, op, |cpu, op| {
        let to = cpu.destination(op, T::SIZE, true)?;
        // A fault must come before the device sees the read.
        cpu.pointer_for_update(to, T::SIZE)?;
        let value = cpu.port_in::<T>(port);
        cpu.store(to, value)?;
        cpu.step(RDI, op, T::SIZE);
        Ok(())
    })
}

pub fn outs<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let port = cpu.get::<u16>(Gpr::Rdx as u8 * 8);
    cpu.check_port(port, T::SIZE)?;
    repeat(cpu, op, |cpu, op| {
        let from = cpu.source(op, T::SIZE)?;
        let value = cpu.load::<T>(from)?;
        cpu.port_out(port, value);
        cpu.step(RSI, op, T::SIZE);
        Ok(())
    })
}
