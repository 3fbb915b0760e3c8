//! Delivery of exceptions and interrupts in protected mode outside long mode (SDM vol. 3, 6.11 and 6.12; vol. 2,
//! INT n).

use viv_arch::{Exception, Gpr, Rflags, Segment, SegmentRegister, Vector};

use super::EventKind;
use crate::cpu::{Cpu, Exec, Fault};
use crate::op::segment_allows;
use crate::tlb::View;

/// An interrupt gate or trap gate of 16 or 32 bits.
struct Gate {
    selector: u16,
    offset: u64,
    /// The size of what is pushed, in bytes.
    size: u64,
    /// Clears IF.
    interrupt: bool,
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
    /// One try at delivering an event. The state changes only if it succeeds.
    pub(super) fn deliver_protected(&mut self, vector: u8, error_code: Option<u32>, kind: EventKind) -> Exec {
        if self.flag(Rflags::VM) {
            return self.unsupported(&format!("event {vector} in virtual-8086 mode"));
        }
        let external = u32::from(kind == EventKind::Hardware);
        let gate = self.legacy_gate(vector, kind)?;
        let mut target = self.gate_target(gate.selector, external, |_| true)?;
        let cpl = target.cpl;
        let inner = cpl < self.cpl;
        let stack = if inner { self.inner_stack(cpl, external)? } else { self.present_stack(external) };
        let words = [
            u64::from(self.segments[SegmentRegister::Ss as usize].selector),
            self.reg(Gpr::Rsp),
            self.flags_to_push(vector, kind),
            u64::from(self.segments[SegmentRegister::Cs as usize].selector),
            self.exec.rip,
            u64::from(error_code.unwrap_or(0)),
        ];
        let words = &words[if inner { 0 } else { 2 }..if error_code.is_some() { 6 } else { 5 }];
        let places = self.frame_places(&stack, words.len(), gate.size)?;
        if gate.offset > u64::from(target.segment.limit) {
            return self.raise(Exception::gp(external));
        }
        self.mark_accessed(target.address, target.descriptor)?;
        target.segment.attributes |= 1;
        self.push_words(&stack, words, &places, gate.size, cpl)?;
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
        let is_gate = matches!(gate_type, 5 | 6 | 7 | 0xe | 0xf);
        if !is_gate || (kind == EventKind::Software && dpl < self.cpl) {
            return self.raise(Exception::gp(code));
        }
        if gate & (1 << 47) == 0 {
            return self.raise(Exception::with_code(Vector::SegmentNotPresent, code));
        }
        if gate_type == 5 {
            return self.unsupported(&format!("event {vector} through a task gate"));
        }
        let wide = gate_type & 8 != 0;
        let high = if wide { (gate >> 32) & 0xffff_0000 } else { 0 };
        Ok(Gate {
            selector: (gate >> 16) as u16,
            offset: (gate & 0xffff) | high,
            size: if wide { 4 } else { 2 },
            interrupt: gate_type & 1 == 0,
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
        let at = self.tr.base.wrapping_add(offset) & 0xffff_ffff;
        let (pointer, selector) = if wide {
            (u64::from(self.load_system::<u32>(at)?), self.load_system::<u16>(at.wrapping_add(4))?)
        } else {
            (u64::from(self.load_system::<u16>(at)?), self.load_system::<u16>(at.wrapping_add(2))?)
        };
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
