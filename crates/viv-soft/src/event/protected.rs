//! Delivery of exceptions and interrupts in protected mode outside long mode (SDM vol. 3, 6.11 and 6.12; vol. 2,
//! INT n).

use viv_arch::{Exception, Gpr, Segment, SegmentRegister, Vector};

use super::EventKind;
use super::task::{Cause, TaskSwitch};
use crate::cpu::{Cpu, Exec, Fault};
use crate::op::segment_allows;
use crate::ops::segment::null_segment;
use crate::tlb::View;

/// The type of a task gate.
const TASK_GATE: u64 = 5;

/// An interrupt gate or trap gate of 16 or 32 bits, or a task gate, of which only the selector counts.
struct Gate {
    selector: u16,
    offset: u64,
    /// The size of what is pushed, in bytes.
    size: u64,
    /// Clears IF.
    interrupt: bool,
    is_task: bool,
}

/// The stack that a handler gets, or what a call gate leads to.
pub struct Stack {
    /// What SS becomes.
    segment: Segment,
    /// Its pointer before anything is pushed.
    pointer: u64,
    /// The error code of #SS if the frame does not fit.
    code: u32,
}

/// The most words in a frame: a call gate's, with 31 parameters.
const MAX_WORDS: usize = 35;

impl Stack {
    /// The bits of the stack pointer that pushes use.
    fn mask(&self) -> u64 {
        if self.segment.attributes & Segment::DEFAULT_BIG != 0 { 0xffff_ffff } else { 0xffff }
    }

    /// The pointer moved down by `bytes`.
    fn below(&self, bytes: u64) -> u64 {
        let mask = self.mask();
        (self.pointer & !mask & 0xffff_ffff) | (self.pointer.wrapping_sub(bytes) & mask)
    }
}

impl Cpu {
    /// One try at delivering an event. The state changes only if it succeeds, or fails in a new task.
    pub(super) fn deliver_protected(&mut self, vector: u8, error_code: Option<u32>, kind: EventKind) -> Exec {
        let external = u32::from(kind == EventKind::Hardware);
        let gate = self.legacy_gate(vector, kind)?;
        if gate.is_task {
            let (rip, flags) = (self.exec.rip, self.flags_to_push(vector, kind));
            let cause = Cause::Event { error_code };
            return self.switch_task(&TaskSwitch { cause, selector: gate.selector, rip, flags, external });
        }
        let from_v86 = self.is_v86();
        let mut target = self.gate_target(gate.selector, external, |target| !from_v86 || target.cpl == 0)?;
        let cpl = target.cpl;
        let inner = cpl < self.cpl;
        let stack = if inner { self.inner_stack(cpl, external)? } else { self.present_stack(external) };
        let selector = |register: SegmentRegister| u64::from(self.segments[register as usize].selector);
        let words = [
            selector(SegmentRegister::Gs),
            selector(SegmentRegister::Fs),
            selector(SegmentRegister::Ds),
            selector(SegmentRegister::Es),
            selector(SegmentRegister::Ss),
            self.reg(Gpr::Rsp),
            self.flags_to_push(vector, kind),
            selector(SegmentRegister::Cs),
            self.exec.rip,
            u64::from(error_code.unwrap_or(0)),
        ];
        let first = match (from_v86, inner) {
            (true, _) => 0,
            (false, true) => 4,
            (false, false) => 6,
        };
        let words = &words[first..if error_code.is_some() { 10 } else { 9 }];
        let places = self.frame_places(&stack, words.len(), gate.size)?;
        if gate.offset > u64::from(target.segment.limit) {
            return self.raise(Exception::gp(external));
        }
        self.mark_accessed(target.address, target.descriptor)?;
        target.segment.attributes |= 1;
        self.push_words(&stack, words, &places, gate.size, cpl)?;
        if from_v86 {
            for register in
                [SegmentRegister::Es, SegmentRegister::Ds, SegmentRegister::Fs, SegmentRegister::Gs]
            {
                self.segments[register as usize] = null_segment(0, cpl);
            }
        }
        self.enter_handler(&target, gate.offset, gate.interrupt);
        Ok(())
    }

    /// The linear addresses of the words of a frame on `stack`, in the order in which they are pushed, if the segment
    /// has room for them.
    pub fn frame_places(
        &mut self,
        stack: &Stack,
        count: usize,
        size: u64,
    ) -> Result<[u64; MAX_WORDS], Fault> {
        let mut places = [0; MAX_WORDS];
        for (n, place) in places.iter_mut().enumerate().take(count) {
            let offset = stack.below(size * (n as u64 + 1)) & stack.mask();
            if !segment_allows(&stack.segment, offset, size, true) {
                return self.raise(Exception::with_code(Vector::StackFault, stack.code));
            }
            *place = stack.segment.base.wrapping_add(offset) & 0xffff_ffff;
        }
        Ok(places)
    }

    /// Writes a frame to where [`Cpu::frame_places`] said, for privilege level `cpl`, and makes `stack` the present one.
    pub fn push_words(&mut self, stack: &Stack, words: &[u64], places: &[u64], size: u64, cpl: u8) -> Exec {
        let view = if cpl == 3 { View::User } else { self.system_view() };
        for (word, &place) in words.iter().zip(places) {
            self.write_bytes_as(place, &word.to_le_bytes()[..size as usize], view)?;
        }
        self.exec.gpr[Gpr::Rsp as usize] = stack.below(size * words.len() as u64);
        self.segments[SegmentRegister::Ss as usize] = stack.segment;
        Ok(())
    }

    /// The stack in use, which says `code` if a frame does not fit.
    pub fn present_stack(&self, code: u32) -> Stack {
        let segment = self.segments[SegmentRegister::Ss as usize];
        Stack { segment, pointer: self.reg(Gpr::Rsp), code }
    }

    fn legacy_gate(&mut self, vector: u8, kind: EventKind) -> Result<Gate, Fault> {
        let code = (u32::from(vector) << 3) | 2 | u32::from(kind == EventKind::Hardware);
        let offset = u64::from(vector) * 8;
        if offset + 7 > u64::from(self.idtr.limit) {
            return self.raise(Exception::gp(code));
        }
        let gate: u64 = self.load_system(self.idtr.base.wrapping_add(offset) & 0xffff_ffff)?;
        let gate_type = (gate >> 40) & 0x1f;
        let dpl = ((gate >> 45) & 3) as u8;
        let is_gate = matches!(gate_type, TASK_GATE | 6 | 7 | 0xe | 0xf);
        if !is_gate || (kind == EventKind::Software && dpl < self.cpl) {
            return self.raise(Exception::gp(code));
        }
        if gate & (1 << 47) == 0 {
            return self.raise(Exception::with_code(Vector::SegmentNotPresent, code));
        }
        let wide = gate_type & 8 != 0;
        let high = if wide { (gate >> 32) & 0xffff_0000 } else { 0 };
        Ok(Gate {
            selector: (gate >> 16) as u16,
            offset: (gate & 0xffff) | high,
            size: if wide { 4 } else { 2 },
            interrupt: gate_type & 1 == 0,
            is_task: gate_type == TASK_GATE,
        })
    }

    /// The stack that the TSS has for privilege level `cpl` (SDM vol. 3, 6.12.1 and 7.2.1). Error codes
    /// get the bit `external`.
    pub fn inner_stack(&mut self, cpl: u8, external: u32) -> Result<Stack, Fault> {
        let wide = self.tr.kind() & 8 != 0;
        let size = if wide { 4 } else { 2 };
        let offset = size + 2 * size * u64::from(cpl);
        if offset + size + 1 > u64::from(self.tr.limit) {
            let code = u32::from(self.tr.selector & !3) | external;
            return self.raise(Exception::with_code(Vector::InvalidTss, code));
        }
        let at = |offset| self.within_table(self.tr.base, offset);
        let (pointer, selector) = (at(offset), at(offset + size));
        let pointer = if wide {
            self.load_system::<u32>(pointer)?.into()
        } else {
            self.load_system::<u16>(pointer)?.into()
        };
        let selector = self.load_system::<u16>(selector)?;
        let code = u32::from(selector & !3) | external;
        if selector & !3 == 0 {
            return self.raise(Exception::with_code(Vector::InvalidTss, code));
        }
        let (address, descriptor) = self
            .descriptor(selector, Vector::InvalidTss)
            .inspect_err(|_| self.add_to_error_code(external))?;
        let mut segment = Segment::from_descriptor(selector, descriptor);
        let writable = segment.is_code_or_data() && !segment.is_code() && segment.kind() & 2 != 0;
        if !writable || segment.dpl() != cpl || selector & 3 != u16::from(cpl) {
            return self.raise(Exception::with_code(Vector::InvalidTss, code));
        }
        if !segment.is_present() {
            return self.raise(Exception::with_code(Vector::StackFault, code));
        }
        self.mark_accessed(address, descriptor)?;
        segment.attributes |= 1;
        Ok(Stack { segment, pointer, code })
    }
}
