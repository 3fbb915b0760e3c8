//! Call gates outside long mode (SDM vol. 3, 5.8.3 to 5.8.5).

use viv_arch::{Exception, Segment, SegmentRegister, Vector};

use crate::cpu::{Cpu, Exec, Fault};

/// What a far JMP or CALL goes through instead of going to a code segment.
pub enum FarGate {
    Call(CallGate),
    /// A TSS, or a task gate, which names one: the TSS's selector.
    Task(u16),
}

/// A call gate of 16 or 32 bits.
pub struct CallGate {
    selector: u16,
    offset: u64,
    /// The size of what is pushed and copied, in bytes.
    size: u64,
    /// How many words are copied from stack to stack.
    parameters: u64,
}

/// A code segment that a gate leads to: where its descriptor is, what is in it, and the privilege level that it runs at.
pub struct Target {
    pub address: u64,
    pub descriptor: u64,
    pub segment: Segment,
    pub cpl: u8,
}

impl Cpu {
    /// The gate or task that a far JMP or CALL names, if it is one and may be used. Long mode's are none here.
    pub fn far_gate(&mut self, selector: u16) -> Result<Option<FarGate>, Fault> {
        if self.has_real_segments() || self.long_mode() || selector & !3 == 0 {
            return Ok(None);
        }
        let code = u32::from(selector & !3);
        let (_, descriptor) = self.descriptor(selector, Vector::GeneralProtection)?;
        let segment = Segment::from_descriptor(selector, descriptor);
        let kind = segment.kind();
        if segment.is_code_or_data() || !matches!(kind, 1 | 4 | 5 | 9 | 0xc) {
            return Ok(None);
        }
        if segment.dpl() < self.cpl || segment.dpl() < (selector & 3) as u8 {
            return self.raise(Exception::gp(code));
        }
        if !segment.is_present() {
            return self.raise(Exception::with_code(Vector::SegmentNotPresent, code));
        }
        if matches!(kind, 1 | 9) {
            return Ok(Some(FarGate::Task(selector)));
        }
        if kind == 5 {
            return Ok(Some(FarGate::Task((descriptor >> 16) as u16)));
        }
        let wide = kind == 0xc;
        let high = if wide { (descriptor >> 32) & 0xffff_0000 } else { 0 };
        Ok(Some(FarGate::Call(CallGate {
            selector: (descriptor >> 16) as u16,
            offset: (descriptor & 0xffff) | high,
            size: if wide { 4 } else { 2 },
            parameters: (descriptor >> 32) & 0x1f,
        })))
    }

    /// Reads and checks the code segment that a gate of any kind names, which `fits` may refuse, too. Error codes get the
    /// bit `external`.
    pub fn gate_target(
        &mut self,
        selector: u16,
        external: u32,
        fits: impl FnOnce(&Target) -> bool,
    ) -> Result<Target, Fault> {
        if selector & !3 == 0 {
            return self.raise(Exception::gp(external));
        }
        let code = u32::from(selector & !3) | external;
        let (address, descriptor) = self
            .descriptor(selector, Vector::GeneralProtection)
            .inspect_err(|_| self.add_to_error_code(external))?;
        let segment = Segment::from_descriptor(selector, descriptor);
        let conforms = segment.kind() & 4 != 0;
        let cpl = if conforms { self.cpl } else { segment.dpl() };
        let target = Target { address, descriptor, segment, cpl };
        if !segment.is_code() || segment.dpl() > self.cpl || !fits(&target) {
            return self.raise(Exception::gp(code));
        }
        if !segment.is_present() {
            return self.raise(Exception::with_code(Vector::SegmentNotPresent, code));
        }
        Ok(target)
    }

    /// Goes to where a gate leads, at the target's privilege level.
    fn enter_target(&mut self, Target { mut segment, cpl, .. }: Target, offset: u64) {
        segment.attributes |= 1;
        self.enter_code(segment, offset, cpl);
    }

    /// JMP through a call gate, which does not change the privilege level.
    pub fn jump_through(&mut self, gate: &CallGate) -> Exec {
        let present = self.cpl;
        let target = self.gate_target(gate.selector, 0, |target| target.cpl == present)?;
        self.check_rip(&target.segment, gate.offset)?;
        self.mark_accessed(target.address, target.descriptor)?;
        self.enter_target(target, gate.offset);
        Ok(())
    }

    /// CALL through a call gate, to come back to `back`.
    pub fn call_through(&mut self, gate: &CallGate, back: u64) -> Exec {
        let target = self.gate_target(gate.selector, 0, |_| true)?;
        let cpl = target.cpl;
        let mut words = Vec::new();
        let stack = if cpl < self.cpl {
            let stack = self.inner_stack(cpl, 0)?;
            words.push(u64::from(self.segments[SegmentRegister::Ss as usize].selector));
            words.push(self.reg(viv_arch::Gpr::Rsp));
            for n in (0..gate.parameters).rev() {
                words.push(if gate.size == 4 {
                    u64::from(self.peek::<u32>(n * 4)?)
                } else {
                    u64::from(self.peek::<u16>(n * 2)?)
                });
            }
            stack
        } else {
            self.present_stack(0)
        };
        words.push(u64::from(self.segments[SegmentRegister::Cs as usize].selector));
        words.push(back);
        let places = self.frame_places(&stack, words.len(), gate.size)?;
        self.check_rip(&target.segment, gate.offset)?;
        self.mark_accessed(target.address, target.descriptor)?;
        self.push_words(&stack, &words, &places, gate.size, cpl)?;
        self.enter_target(target, gate.offset);
        Ok(())
    }
}
