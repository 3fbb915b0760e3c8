//! The stack: PUSH, POP, PUSHF, POPF, PUSHA, POPA, ENTER, LEAVE.

use viv_arch::{Exception, Gpr, Rflags, Segment, SegmentRegister, Vector};

use crate::access::NOT_CANONICAL;
use crate::cpu::{Bitness, Cpu, Exec, Fault, Pending, Shadow};
use crate::op::Op;
use crate::ops::virtual86::InterruptFlag;
use crate::ram::Int;

const RSP: u8 = Gpr::Rsp as u8 * 8;
const RBP: u8 = Gpr::Rbp as u8 * 8;

impl Cpu {
    /// The bits of RSP that stack accesses use.
    #[inline(always)]
    fn stack_mask(&self) -> u64 {
        if self.bitness == Bitness::Bits64 {
            u64::MAX
        } else if self.segments[SegmentRegister::Ss as usize].attributes & Segment::DEFAULT_BIG != 0 {
            0xffff_ffff
        } else {
            0xffff
        }
    }

    /// The linear address of stack offset `sp`.
    #[inline(always)]
    fn stack_linear(&mut self, sp: u64, size: u64, write: bool) -> Result<u64, Fault> {
        if self.bitness == Bitness::Bits64 {
            return Ok(sp);
        }
        self.segmented(SegmentRegister::Ss as u8, sp, size, write)
    }

    /// Reads at stack offset `sp`.
    #[inline(always)]
    fn stack_load<T: Int>(&mut self, sp: u64) -> Result<T, Fault> {
        let address = self.stack_linear(sp, T::SIZE, false)?;
        self.load(address).map_err(|fault| self.by_stack(fault))
    }

    /// Writes at stack offset `sp`.
    #[inline(always)]
    fn stack_store<T: Int>(&mut self, sp: u64, value: T) -> Exec {
        let address = self.stack_linear(sp, T::SIZE, true)?;
        self.store(address, value).map_err(|fault| self.by_stack(fault))
    }

    /// A stack access went wrong: an address that is not canonical raises #SS, whatever the segment of the
    /// instruction's own memory operand.
    #[cold]
    fn by_stack(&mut self, fault: Fault) -> Fault {
        if let Some(Pending::Exception(exception)) = &mut self.pending
            && exception.vector == Vector::GeneralProtection
            && exception.address == NOT_CANONICAL
        {
            *exception = Exception::new(Vector::StackFault);
        }
        fault
    }

    /// Replaces the part of RSP that stack accesses use.
    #[inline(always)]
    pub fn set_sp(&mut self, sp: u64) {
        match self.stack_mask() {
            u64::MAX => self.exec.gpr[Gpr::Rsp as usize] = sp,
            0xffff => self.put(RSP, sp as u16),
            _ => self.put(RSP, sp as u32),
        }
    }

    /// The stack pointer.
    #[inline(always)]
    pub fn sp(&self) -> u64 {
        self.reg(Gpr::Rsp) & self.stack_mask()
    }

    /// Pushes a value.
    #[inline(always)]
    pub fn push<T: Int>(&mut self, value: T) -> Exec {
        let sp = self.sp().wrapping_sub(T::SIZE) & self.stack_mask();
        self.stack_store(sp, value)?;
        self.set_sp(sp);
        Ok(())
    }

    /// Reads the value `above` bytes above the top of the stack.
    #[inline(always)]
    pub fn peek<T: Int>(&mut self, above: u64) -> Result<T, Fault> {
        let sp = self.sp().wrapping_add(above) & self.stack_mask();
        self.stack_load(sp)
    }

    /// Moves the stack pointer up by `bytes`.
    #[inline(always)]
    pub fn release(&mut self, bytes: u64) {
        let sp = self.sp().wrapping_add(bytes) & self.stack_mask();
        self.set_sp(sp);
    }

    /// Pops a value.
    #[inline(always)]
    pub fn pop<T: Int>(&mut self) -> Result<T, Fault> {
        let value = self.peek(0)?;
        self.release(T::SIZE);
        Ok(value)
    }
}

pub fn push_r<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = cpu.get::<T>(op.dst);
    cpu.push(value)
}

pub fn push_i<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.push(T::from_u64(op.imm))
}

pub fn push_m<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let address = cpu.linear(op, T::SIZE, false)?;
    let value = cpu.load::<T>(address)?;
    cpu.push(value)
}

pub fn pop_r<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = cpu.pop::<T>()?;
    cpu.put(op.dst, value);
    Ok(())
}

/// POP to memory. An address with RSP as base uses RSP as it is after the pop.
pub fn pop_m<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let before = cpu.reg(Gpr::Rsp);
    let value = cpu.pop::<T>()?;
    let stored = cpu.linear(op, T::SIZE, true).and_then(|address| cpu.store(address, value));
    if stored.is_err() {
        cpu.exec.gpr[Gpr::Rsp as usize] = before;
    }
    stored
}

/// PUSH of a segment register, `src` its number.
pub fn push_segment<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let selector = cpu.segments[op.src as usize].selector;
    if T::SIZE == 4 {
        // Only the selector is written, as current processors do.
        let sp = cpu.sp().wrapping_sub(4) & cpu.stack_mask();
        cpu.stack_store(sp, selector)?;
        cpu.set_sp(sp);
        return Ok(());
    }
    cpu.push(T::from_u64(u64::from(selector)))
}

/// POP of a segment register, `src` its number.
pub fn pop_segment<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let selector = cpu.peek::<T>(0)?.to_u64() as u16;
    cpu.load_segment(op.src, selector)?;
    cpu.release(T::SIZE);
    if op.src == SegmentRegister::Ss as u8 {
        cpu.shadow = Shadow::Everything;
        cpu.attend();
    }
    Ok(())
}

pub fn pushf<T: Int>(cpu: &mut Cpu, _: &Op) -> Exec {
    if cpu.pushed_interrupt_flag(T::SIZE)? == InterruptFlag::Virtual {
        return cpu.push(cpu.virtual_flags());
    }
    let image = cpu.flags() & !(Rflags::VM | Rflags::RF).bits();
    cpu.push(T::from_u64(image))
}

pub fn popf<T: Int>(cpu: &mut Cpu, _: &Op) -> Exec {
    let interrupt_flag = cpu.pushed_interrupt_flag(T::SIZE)?;
    let value = cpu.peek::<T>(0)?.to_u64();
    if interrupt_flag == InterruptFlag::Virtual {
        cpu.load_virtual_flags(value)?;
        cpu.release(T::SIZE);
        return Ok(());
    }
    cpu.release(T::SIZE);
    cpu.load_flags(value, T::SIZE);
    Ok(())
}

impl Cpu {
    /// Loads RFLAGS as POPF and IRET may: IOPL at CPL 0 only, IF at CPL up to IOPL, only the low half for a
    /// 16-bit operand.
    pub fn load_flags(&mut self, value: u64, size: u64) {
        let mut changeable = Rflags::ARITHMETIC | Rflags::TF | Rflags::DF | Rflags::NT;
        if size > 2 {
            changeable |= Rflags::AC | Rflags::ID;
        }
        if self.cpl == 0 {
            changeable |= Rflags::IOPL;
        }
        if self.may_change_if() {
            changeable |= Rflags::IF;
        }
        self.replace_flags(value, changeable);
    }

    /// Replaces the flags in `changeable` by those of `value`, and does what follows from it.
    pub fn replace_flags(&mut self, value: u64, changeable: Rflags) {
        let mask = changeable.bits();
        let old = self.exec.rflags;
        let mut new = (old & !mask) | (value & mask) | Rflags::RESERVED_1.bits();
        // RF is cleared unless it is loaded on purpose. Without a breakpoint it holds nothing off.
        if !changeable.contains(Rflags::RF) || !self.debug.has_instruction_breakpoint() {
            new &= !Rflags::RF.bits();
        }
        self.exec.rflags = new;
        let changed = old ^ new;
        if changed & Rflags::AC.bits() != 0 {
            self.update_mmu_mode();
        }
        let mut noticed = Rflags::TF | Rflags::RF;
        if self.frame.interrupt_waits != 0 {
            noticed |= Rflags::IF;
        }
        if new & changed & noticed.bits() != 0 {
            self.attend();
        }
    }
}

pub fn pusha<T: Int>(cpu: &mut Cpu, _: &Op) -> Exec {
    let before = cpu.reg(Gpr::Rsp);
    for register in 0..8u8 {
        let value = if register == Gpr::Rsp as u8 { T::from_u64(before) } else { cpu.get::<T>(register * 8) };
        if let Err(fault) = cpu.push(value) {
            cpu.exec.gpr[Gpr::Rsp as usize] = before;
            return Err(fault);
        }
    }
    Ok(())
}

pub fn popa<T: Int>(cpu: &mut Cpu, _: &Op) -> Exec {
    // A fault finds those before it loaded, and the stack pointer where it was.
    for (n, register) in (0..8u8).rev().enumerate() {
        let value = cpu.peek::<T>(n as u64 * T::SIZE)?;
        if register != Gpr::Rsp as u8 {
            cpu.put(register * 8, value);
        }
    }
    cpu.release(8 * T::SIZE);
    Ok(())
}

pub fn leave<T: Int>(cpu: &mut Cpu, _: &Op) -> Exec {
    let frame = cpu.reg(Gpr::Rbp) & cpu.stack_mask();
    let value = cpu.stack_load::<T>(frame)?;
    let sp = frame.wrapping_add(T::SIZE) & cpu.stack_mask();
    cpu.set_sp(sp);
    cpu.put(RBP, value);
    Ok(())
}

/// ENTER: `imm` bytes of frame, nesting level in `aux`.
pub fn enter<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let before = cpu.reg(Gpr::Rsp);
    let result = enter_frame::<T>(cpu, op);
    if result.is_err() {
        cpu.exec.gpr[Gpr::Rsp as usize] = before;
    }
    result
}

fn enter_frame<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let level = op.aux & 31;
    let old = cpu.get::<T>(RBP);
    cpu.push(old)?;
    let frame = cpu.sp();
    if level > 0 {
        let mut from = cpu.reg(Gpr::Rbp);
        for _ in 1..level {
            from = from.wrapping_sub(T::SIZE) & cpu.stack_mask();
            let value = cpu.stack_load::<T>(from)?;
            cpu.push(value)?;
        }
        cpu.push(T::from_u64(frame))?;
    }
    let sp = cpu.sp().wrapping_sub(op.imm) & cpu.stack_mask();
    // The new top must be writable, although nothing is written.
    let address = cpu.stack_linear(sp, T::SIZE, true)?;
    cpu.pointer_for_update(address, T::SIZE).map_err(|fault| cpu.by_stack(fault))?;
    cpu.set_sp(sp);
    cpu.put(RBP, T::from_u64(frame));
    Ok(())
}
