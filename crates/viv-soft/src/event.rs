//! Delivery of exceptions and interrupts (SDM vol. 3, 6.12 to 6.15).

use viv_arch::{Cr0, Exception, Rflags, Segment, SegmentRegister, Vector, paging};

use crate::cpu::{Cpu, Exec, Fault, Pending};
use crate::ops::gate::Target;
use crate::ops::segment::null_segment;

pub mod protected;
mod real;
pub mod task;

/// Where an event comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// INT n, INT3, INTO: the gate's privilege is checked.
    Software,
    /// An exception, INT1, or an interrupt from outside.
    Hardware,
}

/// An interrupt gate or trap gate of long mode.
struct Gate {
    selector: u16,
    ist: u8,
    offset: u64,
    /// Clears IF.
    interrupt: bool,
}

impl Cpu {
    /// Delivers an exception, with double and triple faults as they come.
    pub fn deliver_exception(&mut self, first: Exception) -> Exec {
        let mut exception = first;
        loop {
            tracing::trace!(?exception, rip = format_args!("{:#x}", self.exec.rip), "exception");
            if exception.vector == Vector::PageFault {
                self.cr2 = exception.address;
            }
            let error_code = exception.vector.has_error_code().then_some(exception.error_code);
            if self.deliver(exception.vector as u8, error_code, EventKind::Hardware).is_ok() {
                return Ok(());
            }
            let Some(second) = self.take_exception() else { return Err(Fault) };
            exception = match combine(exception.vector, second) {
                Some(next) => next,
                None => {
                    self.pending = Some(Pending::TripleFault);
                    return Err(Fault);
                }
            };
        }
    }

    /// Delivers the exception that is pending; says whether that was all there was.
    pub fn deliver_pending(&mut self) -> bool {
        self.take_exception().is_some_and(|exception| self.deliver_exception(exception).is_ok())
    }

    /// Takes the exception that is pending, if one is.
    fn take_exception(&mut self) -> Option<Exception> {
        match self.pending.take() {
            Some(Pending::Exception(exception) | Pending::InNewTask(exception)) => Some(exception),
            other => {
                self.pending = other;
                None
            }
        }
    }

    /// Delivers an interrupt from outside.
    pub fn deliver_interrupt(&mut self, vector: u8) -> Exec {
        if self.deliver(vector, None, EventKind::Hardware).is_ok() {
            return Ok(());
        }
        match self.take_exception() {
            Some(exception) => self.deliver_exception(exception),
            None => Err(Fault),
        }
    }

    /// One try at delivering an event. The state changes only if it succeeds, or fails in a new task.
    pub fn deliver(&mut self, vector: u8, error_code: Option<u32>, kind: EventKind) -> Exec {
        if !self.long_mode() {
            return if self.cr0.contains(Cr0::PE) {
                self.deliver_protected(vector, error_code, kind)
            } else {
                self.deliver_real(vector)
            };
        }
        let external = u32::from(kind == EventKind::Hardware);
        let gate = self.gate(vector, kind)?;
        let target = self.gate_target(gate.selector, external, |Target { segment, .. }| {
            segment.attributes & (Segment::LONG | Segment::DEFAULT_BIG) == Segment::LONG
        })?;
        let cpl = target.cpl;
        let inner = cpl < self.cpl;
        let stack = if gate.ist != 0 {
            self.tss_pointer(0x24 + 8 * (u64::from(gate.ist) - 1), external)?
        } else if inner {
            self.tss_pointer(4 + 8 * u64::from(cpl), external)?
        } else {
            self.reg(viv_arch::Gpr::Rsp)
        };
        if !paging::is_canonical(stack) || !paging::is_canonical(gate.offset) {
            let vector =
                if paging::is_canonical(stack) { Vector::GeneralProtection } else { Vector::StackFault };
            return self.raise(Exception::with_code(vector, external));
        }
        self.mark_accessed(target.address, target.descriptor)?;
        self.push_frame(stack, vector, error_code, kind)?;
        if inner {
            self.segments[SegmentRegister::Ss as usize] = null_segment(u16::from(cpl), cpl);
        }
        self.enter_handler(&target, gate.offset, gate.interrupt);
        Ok(())
    }

    /// Goes to a handler, whose frame is on its stack. `masks`: by an interrupt gate.
    fn enter_handler(&mut self, target: &Target, offset: u64, masks: bool) {
        let mut clear = Rflags::TF | Rflags::NT | Rflags::RF | Rflags::VM;
        if masks {
            clear |= Rflags::IF;
        }
        self.exec.rflags &= !clear.bits();
        self.enter_code(target.segment, offset, target.cpl);
        // TF belongs to what was interrupted.
        self.stepping = false;
    }

    /// Writes the frame below `stack` and moves RSP there.
    fn push_frame(&mut self, stack: u64, vector: u8, error_code: Option<u32>, kind: EventKind) -> Exec {
        let flags = self.flags_to_push(vector, kind);
        let words = [
            u64::from(error_code.unwrap_or(0)),
            self.exec.rip,
            u64::from(self.segments[SegmentRegister::Cs as usize].selector),
            flags,
            self.reg(viv_arch::Gpr::Rsp),
            u64::from(self.segments[SegmentRegister::Ss as usize].selector),
        ];
        let words = if error_code.is_some() { &words[..] } else { &words[1..] };
        let mut frame = [0u8; 48];
        for (bytes, word) in frame.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        let len = words.len() * 8;
        let sp = (stack & !15).wrapping_sub(len as u64);
        self.write_bytes_as(sp, &frame[..len], self.system_view())?;
        self.exec.gpr[viv_arch::Gpr::Rsp as usize] = sp;
        Ok(())
    }

    /// RFLAGS as the handler finds them on its stack.
    fn flags_to_push(&self, vector: u8, kind: EventKind) -> u64 {
        // Faults ask that no breakpoint stops the instruction when it is tried again.
        let is_fault = kind == EventKind::Hardware && matches!(vector, 0 | 5..=7 | 10..=14 | 16..=17 | 19);
        self.flags() | if is_fault { Rflags::RF.bits() } else { 0 }
    }

    fn gate(&mut self, vector: u8, kind: EventKind) -> Result<Gate, Fault> {
        let external = u32::from(kind == EventKind::Hardware);
        let code = (u32::from(vector) << 3) | 2 | external;
        let offset = u64::from(vector) * 16;
        if offset + 15 > u64::from(self.idtr.limit) {
            return self.raise(Exception::gp(code));
        }
        let address = self.idtr.base.wrapping_add(offset);
        let low: u64 = self.load_system(address)?;
        let high: u64 = self.load_system(address.wrapping_add(8))?;
        let gate_type = (low >> 40) & 0x1f;
        let dpl = ((low >> 45) & 3) as u8;
        if gate_type & !1 != 0xe || (kind == EventKind::Software && dpl < self.cpl) {
            return self.raise(Exception::gp(code));
        }
        if low & (1 << 47) == 0 {
            return self.raise(Exception::with_code(Vector::SegmentNotPresent, code));
        }
        Ok(Gate {
            selector: (low >> 16) as u16,
            ist: (low >> 32) as u8 & 7,
            offset: (low & 0xffff) | ((low >> 32) & 0xffff_0000) | (high << 32),
            interrupt: gate_type == 0xe,
        })
    }

    /// Reads a stack pointer from the TSS.
    fn tss_pointer(&mut self, offset: u64, external: u32) -> Result<u64, Fault> {
        if offset + 7 > u64::from(self.tr.limit) {
            let code = u32::from(self.tr.selector & !3) | external;
            return self.raise(Exception::with_code(Vector::InvalidTss, code));
        }
        self.load_system(self.tr.base.wrapping_add(offset))
    }

    pub fn add_to_error_code(&mut self, bits: u32) {
        if let Some(Pending::Exception(exception)) = &mut self.pending
            && exception.vector != Vector::PageFault
        {
            exception.error_code |= bits;
        }
    }
}

/// What comes of a second exception while the first is delivered (SDM vol. 3, table 6-5): that one, a double
/// fault, or, as `None`, shutdown.
fn combine(first: Vector, second: Exception) -> Option<Exception> {
    let second_is_bad = second.vector.is_contributory() || second.vector == Vector::PageFault;
    match first {
        Vector::DoubleFault if second_is_bad => None,
        Vector::PageFault if second_is_bad => Some(Exception::new(Vector::DoubleFault)),
        _ if first.is_contributory() && second.vector.is_contributory() => {
            Some(Exception::new(Vector::DoubleFault))
        }
        _ => Some(second),
    }
}
