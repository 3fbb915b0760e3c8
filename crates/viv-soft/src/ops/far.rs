//! Far transfers: far JMP, CALL and RET, INT, IRET, SYSCALL, SYSRET, SYSENTER, SYSEXIT.

use viv_arch::{Cr0, Efer, Exception, Gpr, Rflags, Segment, SegmentRegister, Vector, paging};

use crate::cpu::{Cpu, Exec, Fault, Pending};
use crate::event::EventKind;
use crate::event::task::{Cause, TaskSwitch};
use crate::op::Op;
use crate::ops::gate::FarGate;
use crate::ops::segment::null_segment;
use crate::ops::virtual86::{enter_v86, iret_real};
use crate::ram::Int;

const CS: usize = SegmentRegister::Cs as usize;
const SS: usize = SegmentRegister::Ss as usize;

impl Cpu {
    /// Reads and checks a code segment for a far transfer; sets its accessed bit.
    ///
    /// RET and IRET (`returns`) may go outwards; JMP and CALL stay at CPL.
    fn code_segment(&mut self, selector: u16, returns: bool) -> Result<Segment, Fault> {
        if selector & !3 == 0 {
            return self.gp0();
        }
        let code = u32::from(selector & !3);
        let (address, descriptor) = self.descriptor(selector, Vector::GeneralProtection)?;
        let mut segment = Segment::from_descriptor(selector, descriptor);
        let (rpl, dpl) = ((selector & 3) as u8, segment.dpl());
        let conforming = segment.kind() & 4 != 0;
        let fits = if returns {
            rpl >= self.cpl && if conforming { dpl <= rpl } else { dpl == rpl }
        } else if conforming {
            dpl <= self.cpl
        } else {
            rpl <= self.cpl && dpl == self.cpl
        };
        let long_and_big = Segment::LONG | Segment::DEFAULT_BIG;
        if !segment.is_code()
            || !fits
            || (self.long_mode() && segment.attributes & long_and_big == long_and_big)
        {
            return self.raise(Exception::gp(code));
        }
        if !segment.is_present() {
            return self.raise(Exception::with_code(Vector::SegmentNotPresent, code));
        }
        self.mark_accessed(address, descriptor)?;
        segment.attributes |= 1;
        Ok(segment)
    }

    /// Fails with #GP(0) unless `rip` can run in `segment`.
    pub fn check_rip(&mut self, segment: &Segment, rip: u64) -> Exec {
        let good = if self.long_mode() && segment.attributes & Segment::LONG != 0 {
            paging::is_canonical(rip)
        } else {
            rip <= u64::from(segment.limit)
        };
        if good { Ok(()) } else { self.gp0() }
    }

    /// Loads CS and RIP, and recomputes the mode. The privilege level becomes `cpl`.
    pub fn enter_code(&mut self, mut segment: Segment, rip: u64, cpl: u8) {
        segment.selector = (segment.selector & !3) | u16::from(cpl);
        self.segments[CS] = segment;
        self.cpl = cpl;
        self.exec.rip = rip;
        self.update_mode();
    }

    /// Loads CS and RIP in real mode and virtual-8086 mode.
    pub fn enter_real_code(&mut self, selector: u16, rip: u64) {
        self.segments[CS] = self.real_segment(SegmentRegister::Cs as u8, selector);
        self.exec.rip = rip;
    }

    /// The code segment that a far JMP or CALL goes to, checked.
    fn far_target(&mut self, selector: u16, offset: u64) -> Result<Segment, Fault> {
        let segment = if self.has_real_segments() {
            self.real_segment(SegmentRegister::Cs as u8, selector)
        } else {
            self.code_segment(selector, false)?
        };
        self.check_rip(&segment, offset)?;
        Ok(segment)
    }

    fn enter_far(&mut self, segment: Segment, offset: u64) {
        if self.has_real_segments() {
            self.segments[CS] = segment;
            self.exec.rip = offset;
        } else {
            self.enter_code(segment, offset, self.cpl);
        }
    }

    /// Far JMP; `back` is where the task goes on if another takes its place.
    fn far_jump(&mut self, selector: u16, offset: u64, back: u64) -> Exec {
        match self.far_gate(selector)? {
            Some(FarGate::Call(gate)) => self.jump_through(&gate),
            Some(FarGate::Task(tss)) => self.far_task(Cause::Jump, tss, back),
            None => {
                let segment = self.far_target(selector, offset)?;
                self.enter_far(segment, offset);
                Ok(())
            }
        }
    }

    fn far_task(&mut self, cause: Cause, selector: u16, rip: u64) -> Exec {
        let flags = self.flags();
        self.switch_task(&TaskSwitch { cause, selector, rip, flags, external: 0 })
    }
}

/// Far JMP with an immediate pointer: offset in `imm`, selector in `disp`.
pub fn jmp_far_i(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.far_jump(op.disp as u16, op.imm, cpu.next_rip(op))
}

/// Far JMP through memory.
pub fn jmp_far_m<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let (selector, offset) = far_operand::<T>(cpu, op)?;
    cpu.far_jump(selector, offset, cpu.next_rip(op))
}

fn far_operand<T: Int>(cpu: &mut Cpu, op: &Op) -> Result<(u16, u64), Fault> {
    let address = cpu.linear(op, T::SIZE + 2, false)?;
    let offset = cpu.load::<T>(address)?.to_u64();
    Ok((cpu.load::<u16>(address.wrapping_add(T::SIZE))?, offset))
}

fn call_far<T: Int>(cpu: &mut Cpu, op: &Op, selector: u16, offset: u64) -> Exec {
    let back = cpu.next_rip(op);
    let old = cpu.segments[CS].selector;
    match cpu.far_gate(selector)? {
        Some(FarGate::Call(gate)) => return cpu.call_through(&gate, back),
        Some(FarGate::Task(tss)) => return cpu.far_task(Cause::Call, tss, back),
        None => {}
    }
    let segment = cpu.far_target(selector, offset)?;
    let before = cpu.reg(Gpr::Rsp);
    let pushed = cpu.push(T::from_u64(u64::from(old))).and_then(|()| cpu.push(T::from_u64(back)));
    if pushed.is_err() {
        cpu.exec.gpr[Gpr::Rsp as usize] = before;
        return pushed;
    }
    cpu.enter_far(segment, offset);
    Ok(())
}

/// Far CALL with an immediate pointer: offset in `imm`, selector in `disp`.
pub fn call_far_i<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    call_far::<T>(cpu, op, op.disp as u16, op.imm)
}

/// Far CALL through memory.
pub fn call_far_m<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let (selector, offset) = far_operand::<T>(cpu, op)?;
    call_far::<T>(cpu, op, selector, offset)
}

/// Far RET; `imm` more bytes are released.
pub fn ret_far<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    let offset = cpu.peek::<T>(0)?.to_u64();
    let selector = cpu.peek::<T>(T::SIZE)?.to_u64() as u16;
    if cpu.has_real_segments() {
        let segment = cpu.far_target(selector, offset)?;
        cpu.enter_far(segment, offset);
        cpu.release(2 * T::SIZE + op.imm);
        return Ok(());
    }
    let segment = cpu.code_segment(selector, true)?;
    cpu.check_rip(&segment, offset)?;
    let rpl = (selector & 3) as u8;
    if rpl == cpu.cpl {
        cpu.release(2 * T::SIZE + op.imm);
        cpu.enter_code(segment, offset, rpl);
        return Ok(());
    }
    let above = 2 * T::SIZE + op.imm;
    let sp = cpu.peek::<T>(above)?.to_u64();
    let stack = cpu.peek::<T>(above + T::SIZE)?.to_u64() as u16;
    let stack = cpu.outer_stack(stack, rpl, &segment)?;
    cpu.leave_to(segment, offset, rpl, stack, sp.wrapping_add(op.imm));
    Ok(())
}

impl Cpu {
    /// Reads and checks SS for a return to privilege level `rpl`.
    fn outer_stack(&mut self, selector: u16, rpl: u8, code_segment: &Segment) -> Result<Segment, Fault> {
        if selector & !3 == 0 {
            let to_64bit = self.long_mode() && code_segment.attributes & Segment::LONG != 0;
            if to_64bit && rpl < 3 && selector & 3 == u16::from(rpl) {
                return Ok(null_segment(selector, rpl));
            }
            return self.gp0();
        }
        let code = u32::from(selector & !3);
        let (address, descriptor) = self.descriptor(selector, Vector::GeneralProtection)?;
        let mut segment = Segment::from_descriptor(selector, descriptor);
        let writable = segment.is_code_or_data() && !segment.is_code() && segment.kind() & 2 != 0;
        if !writable || segment.dpl() != rpl || selector & 3 != u16::from(rpl) {
            return self.raise(Exception::gp(code));
        }
        if !segment.is_present() {
            return self.raise(Exception::with_code(Vector::StackFault, code));
        }
        self.mark_accessed(address, descriptor)?;
        segment.attributes |= 1;
        Ok(segment)
    }

    /// Ends a return that switches stacks: CS, RIP, SS, RSP, and data segments that are now out of reach.
    fn leave_to(&mut self, code: Segment, rip: u64, cpl: u8, stack: Segment, sp: u64) {
        let outwards = cpl > self.cpl;
        self.segments[SS] = stack;
        self.enter_code(code, rip, cpl);
        self.set_sp(sp);
        if outwards {
            for number in [SegmentRegister::Es, SegmentRegister::Ds, SegmentRegister::Fs, SegmentRegister::Gs]
            {
                let segment = &mut self.segments[number as usize];
                let conforming = segment.is_code() && segment.kind() & 4 != 0;
                if segment.is_usable() && !conforming && segment.dpl() < cpl {
                    *segment = null_segment(0, cpl);
                }
            }
        }
    }
}

/// IRET, IRETD, IRETQ.
pub fn iret<T: Int>(cpu: &mut Cpu, op: &Op) -> Exec {
    // Even if it faults (SDM vol. 3, 6.7.1).
    if cpu.nmi_blocked {
        cpu.nmi_blocked = false;
        cpu.attend();
    }
    if cpu.has_real_segments() {
        return iret_real::<T>(cpu);
    }
    if cpu.flag(Rflags::NT) {
        if cpu.long_mode() {
            return cpu.gp0();
        }
        return cpu.return_to_task(cpu.next_rip(op));
    }
    let rip = cpu.peek::<T>(0)?.to_u64();
    let selector = cpu.peek::<T>(T::SIZE)?.to_u64() as u16;
    let flags = cpu.peek::<T>(2 * T::SIZE)?.to_u64();
    if flags & Rflags::VM.bits() != 0 && cpu.cpl == 0 && !cpu.long_mode() {
        return enter_v86(cpu, rip, selector, flags);
    }
    let segment = cpu.code_segment(selector, true)?;
    cpu.check_rip(&segment, rip)?;
    let rpl = (selector & 3) as u8;
    let changeable = cpu.returned_flags(T::SIZE);
    if cpu.is_64bit() || rpl > cpu.cpl {
        let sp = cpu.peek::<T>(3 * T::SIZE)?.to_u64();
        let stack = cpu.peek::<T>(4 * T::SIZE)?.to_u64() as u16;
        let stack = cpu.outer_stack(stack, rpl, &segment)?;
        cpu.leave_to(segment, rip, rpl, stack, sp);
    } else {
        cpu.release(3 * T::SIZE);
        cpu.enter_code(segment, rip, rpl);
    }
    cpu.replace_flags(flags, changeable);
    cpu.update_mmu_mode();
    Ok(())
}

impl Cpu {
    /// The flags that IRET of `size` bytes loads.
    pub fn returned_flags(&self, size: u64) -> Rflags {
        let mut changeable = Rflags::ARITHMETIC | Rflags::TF | Rflags::DF | Rflags::NT;
        if size > 2 {
            changeable |= Rflags::RF | Rflags::AC | Rflags::ID;
        }
        if self.cpl == 0 {
            changeable |= Rflags::IOPL;
        }
        if self.may_change_if() {
            changeable |= Rflags::IF;
        }
        changeable
    }
}

/// INT3 and INTO: `imm` is the vector.
pub fn int(cpu: &mut Cpu, op: &Op) -> Exec {
    interrupt(cpu, op, EventKind::Software)
}

/// INT1, which no gate's privilege keeps from its handler.
pub fn int1(cpu: &mut Cpu, op: &Op) -> Exec {
    interrupt(cpu, op, EventKind::Hardware)
}

/// Delivers the event of an instruction that exists to raise one: `imm` is the vector.
pub fn interrupt(cpu: &mut Cpu, op: &Op, kind: EventKind) -> Exec {
    let start = cpu.exec.rip;
    cpu.exec.rip = cpu.next_rip(op);
    let delivered = cpu.deliver(op.imm as u8, None, kind);
    if delivered.is_err() && !matches!(cpu.pending, Some(Pending::InNewTask(_))) {
        cpu.exec.rip = start;
    }
    delivered
}

/// INTO.
pub fn into(cpu: &mut Cpu, op: &Op) -> Exec {
    if cpu.flag(Rflags::OF) {
        return int(cpu, op);
    }
    cpu.exec.rip = cpu.next_rip(op);
    Ok(())
}

pub fn syscall(cpu: &mut Cpu, op: &Op) -> Exec {
    if !cpu.is_64bit() || !cpu.efer.contains(Efer::SCE) {
        return cpu.ud();
    }
    cpu.exec.gpr[Gpr::Rcx as usize] = cpu.next_rip(op);
    cpu.exec.gpr[Gpr::R11 as usize] = cpu.flags() & !Rflags::RF.bits();
    let selector = (cpu.msrs.star >> 32) as u16 & !3;
    let flags = (cpu.flags() & !cpu.msrs.fmask & !Rflags::RF.bits()) | Rflags::RESERVED_1.bits();
    cpu.exec.rflags = flags;
    cpu.segments[SS] = Segment::data(selector.wrapping_add(8), 0);
    let target = cpu.msrs.lstar;
    cpu.enter_code(Segment::code64(selector, 0), target, 0);
    // A kernel that masks TF wants no trap at its entry.
    cpu.stepping &= cpu.flag(Rflags::TF);
    Ok(())
}

/// SYSRET; `aux` is 1 with REX.W.
pub fn sysret(cpu: &mut Cpu, op: &Op) -> Exec {
    if !cpu.is_64bit() || !cpu.efer.contains(Efer::SCE) {
        return cpu.ud();
    }
    cpu.require_cpl0()?;
    let base = (cpu.msrs.star >> 48) as u16;
    let rip = cpu.reg(Gpr::Rcx);
    // Intel processors check the address before they leave CPL 0.
    if op.aux == 1 && !paging::is_canonical(rip) {
        return cpu.gp0();
    }
    let flags = cpu.reg(Gpr::R11);
    cpu.segments[SS] = Segment::data(base.wrapping_add(8) | 3, 3);
    if op.aux == 1 {
        cpu.enter_code(Segment::code64(base.wrapping_add(16) | 3, 3), rip, 3);
    } else {
        cpu.enter_code(Segment::code32(base | 3, 3), rip & 0xffff_ffff, 3);
    }
    cpu.replace_flags(flags, Rflags::from_bits_retain(0x3c_7fd7));
    // The trap is that of the SYSCALL that SYSRET ends.
    if cpu.flag(Rflags::TF) {
        cpu.debug.note_step();
        cpu.attend();
    }
    Ok(())
}

pub fn sysenter(cpu: &mut Cpu, _: &Op) -> Exec {
    let selector = cpu.msrs.sysenter_cs as u16 & !3;
    if !cpu.cr0.contains(Cr0::PE) || selector == 0 {
        return cpu.gp0();
    }
    cpu.exec.rflags &= !(Rflags::IF | Rflags::RF | Rflags::VM).bits();
    cpu.segments[SS] = Segment::data(selector.wrapping_add(8), 0);
    let (rip, rsp) = (cpu.msrs.sysenter_eip, cpu.msrs.sysenter_esp);
    if cpu.long_mode() {
        cpu.enter_code(Segment::code64(selector, 0), rip, 0);
    } else {
        cpu.enter_code(Segment::code32(selector, 0), rip & 0xffff_ffff, 0);
    }
    cpu.set_sp(rsp);
    Ok(())
}

/// SYSEXIT; `aux` is 1 with REX.W.
pub fn sysexit(cpu: &mut Cpu, op: &Op) -> Exec {
    let selector = cpu.msrs.sysenter_cs as u16 & !3;
    if !cpu.cr0.contains(Cr0::PE) || selector == 0 || cpu.cpl != 0 {
        return cpu.gp0();
    }
    let (rip, rsp) = (cpu.reg(Gpr::Rdx), cpu.reg(Gpr::Rcx));
    if op.aux == 1 {
        if !paging::is_canonical(rip) || !paging::is_canonical(rsp) {
            return cpu.gp0();
        }
        cpu.segments[SS] = Segment::data(selector.wrapping_add(40) | 3, 3);
        cpu.enter_code(Segment::code64(selector.wrapping_add(32) | 3, 3), rip, 3);
    } else {
        cpu.segments[SS] = Segment::data(selector.wrapping_add(24) | 3, 3);
        cpu.enter_code(Segment::code32(selector.wrapping_add(16) | 3, 3), rip & 0xffff_ffff, 3);
    }
    cpu.set_sp(rsp);
    Ok(())
}
