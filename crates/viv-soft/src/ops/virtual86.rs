//! Virtual-8086 mode: segments, INT n and its way back, and what takes the place of IF there and, with CR4.PVI, in user
//! mode (SDM vol. 3, 20.2 to 20.4).

use viv_arch::{Cr0, Cr4, Gpr, Rflags, Segment, SegmentRegister};

use crate::cpu::{Cpu, Exec, Fault};
use crate::event::EventKind;
use crate::op::Op;
use crate::ops::far::interrupt;
use crate::ram::Int;

/// What an instruction that has to do with IF has to do with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InterruptFlag {
    /// IF.
    Real,
    /// VIF.
    Virtual,
}

/// Attributes of every segment: data of privilege level 3 that may be written.
const V86_SEGMENT: u32 = 0xf3;

/// A segment register of virtual-8086 mode.
pub fn v86_segment(selector: u16) -> Segment {
    Segment { selector, attributes: V86_SEGMENT, limit: 0xffff, base: u64::from(selector) << 4 }
}

impl Cpu {
    /// Whether the processor is in virtual-8086 mode.
    pub fn is_v86(&self) -> bool {
        self.flag(Rflags::VM) && !self.long_mode()
    }

    /// Whether selectors are addresses, and no descriptors are looked at: in real mode and in virtual-8086 mode.
    pub fn has_real_segments(&self) -> bool {
        !self.cr0.contains(Cr0::PE) || self.is_v86()
    }

    /// Whether the privilege level, or real mode, gives the right to IF.
    pub fn may_change_if(&self) -> bool {
        !self.cr0.contains(Cr0::PE) || self.cpl <= Rflags::from_bits_retain(self.flags()).iopl()
    }

    /// What CLI and STI change, unless it is #GP(0).
    pub fn interrupt_flag(&mut self) -> Result<InterruptFlag, Fault> {
        let extension = if self.is_v86() { Cr4::VME } else { Cr4::PVI };
        if self.may_change_if() {
            Ok(InterruptFlag::Real)
        } else if self.cpl == 3 && self.cr4.contains(extension) && !self.long_mode() {
            Ok(InterruptFlag::Virtual)
        } else {
            self.gp0()
        }
    }

    /// Which flag stands for IF in the flags that PUSHF, POPF and IRET of `size` bytes deal with, unless it is #GP(0).
    /// Outside virtual-8086 mode IF does, though it may not change.
    pub fn pushed_interrupt_flag(&mut self, size: u64) -> Result<InterruptFlag, Fault> {
        if !self.is_v86() || self.may_change_if() {
            Ok(InterruptFlag::Real)
        } else if self.cr4.contains(Cr4::VME) && size == 2 {
            Ok(InterruptFlag::Virtual)
        } else {
            self.gp0()
        }
    }

    /// 16 bits of flags with VIF in the place of IF, and IOPL 3.
    pub fn virtual_flags(&self) -> u16 {
        let shown = if self.flag(Rflags::VIF) { Rflags::IF | Rflags::IOPL } else { Rflags::IOPL };
        (self.flags() & !Rflags::IF.bits() | shown.bits()) as u16
    }

    /// Loads 16 bits of flags as POPF and IRET do where IF stands for VIF.
    pub fn load_virtual_flags(&mut self, value: u64) -> Exec {
        self.check_virtual_flags(value)?;
        let value = if value & Rflags::IF.bits() != 0 { value | Rflags::VIF.bits() } else { value };
        let changeable = Rflags::ARITHMETIC | Rflags::TF | Rflags::DF | Rflags::NT | Rflags::VIF;
        self.replace_flags(value, changeable);
        Ok(())
    }

    /// Fails with #GP(0) where the supervisor is to look first: a virtual interrupt is pending that `value` would let in,
    /// or steps are to be trapped.
    pub fn check_virtual_flags(&mut self, value: u64) -> Exec {
        let lets_in = self.flag(Rflags::VIP) && value & Rflags::IF.bits() != 0;
        if lets_in || value & Rflags::TF.bits() != 0 { self.gp0() } else { Ok(()) }
    }

    /// Goes to a handler as real mode does: `entry` is its segment and offset, `image` the flags that it finds on its
    /// stack, `cleared` those that are cleared.
    pub fn enter_vector(&mut self, entry: u32, image: u16, cleared: Rflags) -> Exec {
        let before = self.reg(Gpr::Rsp);
        let code = self.segments[SegmentRegister::Cs as usize].selector;
        let rip = self.exec.rip as u16;
        for word in [image, code, rip] {
            self.push(word).inspect_err(|_| self.exec.gpr[Gpr::Rsp as usize] = before)?;
        }
        self.exec.rflags &= !cleared.bits();
        self.enter_real_code((entry >> 16) as u16, u64::from(entry & 0xffff));
        self.update_mmu_mode();
        // TF belongs to what was interrupted.
        self.stepping = false;
        Ok(())
    }

    /// Whether the TSS's interrupt redirection bitmap leaves INT `vector` to the 8086 program's own handlers.
    fn stays_in_v86(&mut self, vector: u8) -> Result<bool, Fault> {
        let tss = self.tr;
        if !matches!(tss.kind(), 9 | 11) || tss.limit < 0x67 {
            return self.gp0();
        }
        let map = u64::from(self.load_system::<u16>(self.within_table(tss.base, 0x66))?);
        // It lies before the I/O permission map.
        let offset = (map + u64::from(vector / 8)).wrapping_sub(32);
        if offset > u64::from(tss.limit) {
            return self.gp0();
        }
        let bits = self.load_system::<u8>(self.within_table(tss.base, offset))?;
        Ok(bits >> (vector % 8) & 1 == 0)
    }

    /// INT n by the 8086 program's own interrupt vector table, at linear address 0.
    fn deliver_in_v86(&mut self, vector: u8) -> Exec {
        let entry: u32 = self.load_system(u64::from(vector) * 4)?;
        if self.may_change_if() {
            let image = self.flags() as u16;
            return self.enter_vector(entry, image, Rflags::TF | Rflags::IF | Rflags::RF);
        }
        let image = self.virtual_flags();
        self.enter_vector(entry, image, Rflags::TF | Rflags::VIF | Rflags::RF)
    }
}

/// INT n: `imm` is the vector. In virtual-8086 mode it is sensitive to IOPL, and may stay in that mode.
pub fn int_n(cpu: &mut Cpu, op: &Op) -> Exec {
    if !cpu.is_v86() {
        return interrupt(cpu, op, EventKind::Software);
    }
    if cpu.cr4.contains(Cr4::VME) && cpu.stays_in_v86(op.imm as u8)? {
        let start = cpu.exec.rip;
        cpu.exec.rip = cpu.next_rip(op);
        return cpu.deliver_in_v86(op.imm as u8).inspect_err(|_| cpu.exec.rip = start);
    }
    if !cpu.may_change_if() {
        return cpu.gp0();
    }
    interrupt(cpu, op, EventKind::Software)
}

/// IRETD to virtual-8086 mode, with what is on the stack above EFLAGS.
pub fn enter_v86(cpu: &mut Cpu, rip: u64, selector: u16, flags: u64) -> Exec {
    let sp = u64::from(cpu.peek::<u32>(12)?);
    let mut selectors = [selector; 6];
    let above = [
        SegmentRegister::Ss,
        SegmentRegister::Es,
        SegmentRegister::Ds,
        SegmentRegister::Fs,
        SegmentRegister::Gs,
    ];
    for (n, register) in above.into_iter().enumerate() {
        selectors[register as usize] = cpu.peek::<u32>(16 + 4 * n as u64)? as u16;
    }
    if rip > 0xffff {
        return cpu.gp0();
    }
    cpu.exec.gpr[Gpr::Rsp as usize] = sp;
    cpu.segments = selectors.map(v86_segment);
    cpu.exec.rip = rip;
    cpu.cpl = 3;
    cpu.replace_flags(flags, Rflags::all() - Rflags::RESERVED_1);
    cpu.update_mode();
    Ok(())
}

/// IRET in real mode and in virtual-8086 mode (SDM vol. 2, IRET).
pub fn iret_real<T: Int>(cpu: &mut Cpu) -> Exec {
    let interrupt_flag = cpu.pushed_interrupt_flag(T::SIZE)?;
    let rip = cpu.peek::<T>(0)?.to_u64();
    let selector = cpu.peek::<T>(T::SIZE)?.to_u64() as u16;
    let flags = cpu.peek::<T>(2 * T::SIZE)?.to_u64();
    let segment = cpu.real_segment(SegmentRegister::Cs as u8, selector);
    cpu.check_rip(&segment, rip)?;
    if interrupt_flag == InterruptFlag::Virtual {
        cpu.load_virtual_flags(flags)?;
    } else {
        let changeable = cpu.returned_flags(T::SIZE);
        cpu.replace_flags(flags, changeable);
    }
    cpu.release(3 * T::SIZE);
    cpu.enter_real_code(selector, rip);
    Ok(())
}
