//! Task switches (SDM vol. 3, chapter 8).
//!
//! All that can go wrong with the task that is left, and with the new one's TSS, goes wrong before anything changes. From
//! then on the new task is the present one, and what its registers are loaded from faults in it
//! ([`Pending::InNewTask`]).

use viv_arch::{Cr0, Exception, Rflags, Segment, SegmentRegister, Vector};

use crate::cpu::{Cpu, Exec, Fault, Pending};
use crate::ops::segment::null_segment;

/// What changes tasks, and so what becomes of busy bits and back links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// JMP: the old task is left for good.
    Jump,
    /// CALL: the new task is nested in the old one.
    Call,
    /// IRET out of a nested task.
    Return,
    /// An interrupt or exception through a task gate, which nests. The error code is pushed on the new task's stack.
    Event { error_code: Option<u32> },
}

/// A task switch.
#[derive(Debug, Clone, Copy)]
pub struct TaskSwitch {
    pub cause: Cause,
    /// The selector of the new task's TSS.
    pub selector: u16,
    /// Where the old task goes on.
    pub rip: u64,
    /// EFLAGS of the old task.
    pub flags: u64,
    /// The bit EXT for error codes.
    pub external: u32,
}

/// Where a TSS has what a task switch saves and loads: EIP, EFLAGS, general and segment registers follow each other.
struct Layout {
    /// Size of a field in bytes.
    word: usize,
    /// EIP.
    rip: usize,
    /// How many segment registers there are.
    segments: usize,
    /// The LDT's selector.
    ldt: usize,
    /// The smallest limit.
    limit: u32,
}

/// SDM vol. 3, 8.2.1.
const TSS_32: Layout = Layout { word: 4, rip: 0x20, segments: 6, ldt: 0x60, limit: 0x67 };
/// SDM vol. 3, 8.6.
const TSS_16: Layout = Layout { word: 2, rip: 0x0e, segments: 4, ldt: 0x2a, limit: 0x2b };
/// Offset of CR3 in a 32-bit TSS.
const CR3: usize = 0x1c;
/// Offset of the flag T in a 32-bit TSS.
const TRAP: usize = 0x64;
/// Bit of a TSS's type: busy.
const BUSY: u32 = 2;
/// Flags that a TSS can load.
const FLAGS: u64 = Rflags::all().bits() & !Rflags::RESERVED_1.bits();

impl Layout {
    /// That of `tss`.
    fn of(tss: &Segment) -> &'static Self {
        if tss.kind() & 8 != 0 { &TSS_32 } else { &TSS_16 }
    }

    /// Size of what is saved.
    fn saved(&self) -> usize {
        (2 + 8 + self.segments) * self.word
    }

    /// The field at `offset`.
    fn field(&self, bytes: &[u8], offset: usize) -> u64 {
        bytes[offset..offset + self.word].iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
    }
}

/// What a task switch loads from a TSS.
struct TaskState {
    cr3: Option<u64>,
    rip: u64,
    flags: u64,
    gpr: [u64; 8],
    selectors: [u16; 6],
    ldt: u16,
    trap: bool,
}

impl TaskState {
    fn parse(layout: &Layout, bytes: &[u8]) -> Self {
        let is_32bit = layout.word == 4;
        let saved = |n: usize| layout.field(bytes, layout.rip + n * layout.word);
        let selector = |n: usize| if n < layout.segments { saved(10 + n) as u16 } else { 0 };
        Self {
            cr3: is_32bit.then(|| layout.field(bytes, CR3)),
            rip: saved(0),
            flags: saved(1),
            gpr: std::array::from_fn(|n| saved(2 + n)),
            selectors: std::array::from_fn(selector),
            ldt: layout.field(bytes, layout.ldt) as u16,
            trap: is_32bit && bytes[TRAP] & 1 != 0,
        }
    }
}

impl Cpu {
    /// Changes tasks. If that fails before the new task is the present one, nothing has changed.
    pub fn switch_task(&mut self, switch: &TaskSwitch) -> Exec {
        let (descriptor, tss) = self.available_tss(switch)?;
        let layout = Layout::of(&tss);
        let mut bytes = [0; TSS_32.limit as usize + 1];
        let view = self.system_view();
        self.read_bytes_as(tss.base, &mut bytes[..=layout.limit as usize], view)?;
        self.leave_task(switch, descriptor, &tss)?;
        let mut state = TaskState::parse(layout, &bytes);
        if matches!(switch.cause, Cause::Call | Cause::Event { .. }) {
            state.flags |= Rflags::NT.bits();
        }
        self.tr = Segment { attributes: tss.attributes | BUSY, ..tss };
        self.enter_task(&state).and_then(|()| self.push_task_error(switch, layout)).inspect_err(|_| {
            self.add_to_error_code(switch.external);
            if let Some(Pending::Exception(exception)) = self.pending.take() {
                self.pending = Some(Pending::InNewTask(exception));
            }
        })
    }

    /// Switches to the task that IRET returns to, as the present one's TSS says.
    pub fn return_to_task(&mut self, rip: u64) -> Exec {
        let selector = self.load_system::<u16>(self.tr.base)?;
        let flags = self.flags() & !Rflags::NT.bits();
        self.switch_task(&TaskSwitch { cause: Cause::Return, selector, rip, flags, external: 0 })
    }

    /// The new task's TSS, checked, and where its descriptor is.
    fn available_tss(&mut self, switch: &TaskSwitch) -> Result<(u64, Segment), Fault> {
        let TaskSwitch { selector, external, .. } = *switch;
        let code = u32::from(selector & !3) | external;
        let (wanted, vector) = match switch.cause {
            Cause::Return => (BUSY, Vector::InvalidTss),
            _ => (0, Vector::GeneralProtection),
        };
        if selector & 4 != 0 || selector & !3 == 0 {
            return self.raise(Exception::with_code(vector, code));
        }
        let (address, descriptor) =
            self.descriptor(selector, vector).inspect_err(|_| self.add_to_error_code(external))?;
        let tss = Segment::from_descriptor(selector, descriptor);
        let is_tss = !tss.is_code_or_data() && matches!(tss.kind(), 1 | 3 | 9 | 11);
        if !is_tss || tss.attributes & BUSY != wanted {
            return self.raise(Exception::with_code(vector, code));
        }
        if !tss.is_present() {
            return self.raise(Exception::with_code(Vector::SegmentNotPresent, code));
        }
        if tss.limit < Layout::of(&tss).limit {
            return self.raise(Exception::with_code(Vector::InvalidTss, code));
        }
        Ok((address, tss))
    }

    /// Saves the present task and marks both as they will be, if all of that can be written.
    fn leave_task(&mut self, switch: &TaskSwitch, descriptor: u64, tss: &Segment) -> Exec {
        let old = self.tr;
        let layout = Layout::of(&old);
        let (place, size) = (self.within_table(old.base, layout.rip as u64), layout.saved());
        if (layout.rip + size - 1) as u64 > u64::from(old.limit) {
            let code = u32::from(old.selector & !3) | switch.external;
            return self.raise(Exception::with_code(Vector::InvalidTss, code));
        }
        let nests = matches!(switch.cause, Cause::Call | Cause::Event { .. });
        let new_type = self.within_table(descriptor, 5);
        self.check_writable(place, size)?;
        self.check_writable(new_type, 1)?;
        let mut old_type = 0;
        if nests {
            self.check_writable(tss.base, 2)?;
        } else {
            let (descriptor, _) = self
                .descriptor(old.selector & !4, Vector::InvalidTss)
                .inspect_err(|_| self.add_to_error_code(switch.external))?;
            old_type = self.within_table(descriptor, 5);
            self.check_writable(old_type, 1)?;
        }
        let words = [switch.rip, switch.flags]
            .into_iter()
            .chain(self.exec.gpr[..8].iter().copied())
            .chain(self.segments.iter().map(|segment| u64::from(segment.selector)));
        let mut bytes = [0; 64];
        for (bytes, word) in bytes[..size].chunks_exact_mut(layout.word).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes()[..layout.word]);
        }
        let view = self.system_view();
        self.write_bytes_as(place, &bytes[..size], view)?;
        if nests {
            self.store_system(tss.base, old.selector)?;
        } else {
            let value = self.load_system::<u8>(old_type)?;
            self.store_system(old_type, value & !(BUSY as u8))?;
        }
        if switch.cause != Cause::Return {
            self.store_system(new_type, (tss.attributes | BUSY) as u8)?;
        }
        Ok(())
    }

    /// Loads the registers of a task whose TSS is in TR.
    fn enter_task(&mut self, state: &TaskState) -> Exec {
        self.cr0 |= Cr0::TS;
        self.debug.leave_task();
        self.exec.gpr[..8].copy_from_slice(&state.gpr);
        self.exec.rip = state.rip;
        self.exec.rflags = state.flags & FLAGS | Rflags::RESERVED_1.bits();
        // TF belongs to the task that was left.
        self.stepping = false;
        let is_v86 = self.flag(Rflags::VM);
        self.cpl = if is_v86 { 3 } else { (state.selectors[SegmentRegister::Cs as usize] & 3) as u8 };
        // Until each is loaded, none can be used.
        for (segment, &selector) in self.segments.iter_mut().zip(&state.selectors) {
            *segment = null_segment(selector, 0);
        }
        self.ldtr = null_segment(state.ldt, 0);
        self.update_mode();
        self.attend();
        if state.trap {
            self.debug.note_task_switch();
        }
        if let Some(cr3) = state.cr3
            && self.cr0.contains(Cr0::PG)
            && self.write_cr3(cr3).is_err()
        {
            return self.raise(Exception::with_code(Vector::InvalidTss, u32::from(self.tr.selector & !3)));
        }
        self.load_task_ldt(state.ldt)?;
        // The stack first, for handlers of what is wrong with the others.
        for number in [2u8, 1, 0, 3, 4, 5] {
            let selector = state.selectors[usize::from(number)];
            self.segments[usize::from(number)] = if is_v86 {
                self.real_segment(number, selector)
            } else {
                self.task_segment(number, selector)?
            };
        }
        self.update_mode();
        if self.exec.rip > u64::from(self.segments[SegmentRegister::Cs as usize].limit) {
            return self.gp0();
        }
        Ok(())
    }

    fn load_task_ldt(&mut self, selector: u16) -> Exec {
        if selector & !3 == 0 {
            return Ok(());
        }
        let code = u32::from(selector & !3);
        if selector & 4 != 0 {
            return self.raise(Exception::with_code(Vector::InvalidTss, code));
        }
        let (_, descriptor) = self.descriptor(selector, Vector::InvalidTss)?;
        let ldt = Segment::from_descriptor(selector, descriptor);
        if ldt.is_code_or_data() || ldt.kind() != 2 || !ldt.is_present() {
            return self.raise(Exception::with_code(Vector::InvalidTss, code));
        }
        self.ldtr = ldt;
        Ok(())
    }

    /// What segment register `number` becomes in a task that runs at CPL, which is the RPL of its CS.
    fn task_segment(&mut self, number: u8, selector: u16) -> Result<Segment, Fault> {
        let (is_code, is_stack) = (number == SegmentRegister::Cs as u8, number == SegmentRegister::Ss as u8);
        let code = u32::from(selector & !3);
        if selector & !3 == 0 {
            if is_code || is_stack {
                return self.raise(Exception::with_code(Vector::InvalidTss, code));
            }
            return Ok(null_segment(selector, self.cpl));
        }
        let (address, descriptor) = self.descriptor(selector, Vector::InvalidTss)?;
        let segment = Segment::from_descriptor(selector, descriptor);
        let (rpl, dpl, cpl) = ((selector & 3) as u8, segment.dpl(), self.cpl);
        let conforms = segment.is_code() && segment.kind() & 4 != 0;
        let fits = if is_code {
            segment.is_code() && if conforms { dpl <= cpl } else { dpl == cpl }
        } else if is_stack {
            !segment.is_code() && segment.kind() & 2 != 0 && dpl == cpl && rpl == cpl
        } else {
            let readable = !segment.is_code() || segment.kind() & 2 != 0;
            readable && (conforms || (dpl >= cpl && dpl >= rpl))
        };
        if !segment.is_code_or_data() || !fits {
            return self.raise(Exception::with_code(Vector::InvalidTss, code));
        }
        if !segment.is_present() {
            let vector = if is_stack { Vector::StackFault } else { Vector::SegmentNotPresent };
            return self.raise(Exception::with_code(vector, code));
        }
        self.mark_accessed(address, descriptor)?;
        Ok(Segment { attributes: segment.attributes | 1, ..segment })
    }

    /// Pushes the error code of the event that led to the task.
    fn push_task_error(&mut self, switch: &TaskSwitch, layout: &Layout) -> Exec {
        match switch.cause {
            Cause::Event { error_code: Some(code) } if layout.word == 4 => self.push(code),
            Cause::Event { error_code: Some(code) } => self.push(code as u16),
            _ => Ok(()),
        }
    }
}
