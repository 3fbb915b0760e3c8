//! The machine in 32-bit protected mode, outside long mode, paging off.

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use viv_arch::{Cr0, Cr4, Efer, Segment, SegmentRegister, Vector};

use super::handler::{Action, EVENT_SIZE, MAX_EVENTS};
use super::{
    ACTIONS, HANDLER, IDT, LOG, Machine, RSP0_TOP, STUB_SIZE, STUBS, TSS, USER_CODE, USER_STACK_TOP,
    selector, stop,
};
use viv_arch::Gpr;

/// Gate types (SDM vol. 3, table 3-2).
pub const INTERRUPT_16: u64 = 6;
pub const TRAP_16: u64 = 7;
pub const INTERRUPT_32: u64 = 0xe;
pub const TRAP_32: u64 = 0xf;

impl Machine {
    /// A machine about to run 32-bit code at [`super::CODE`], with handlers of its kind.
    pub fn protected() -> Self {
        let mut machine = Self::new();
        for vector in 0..=255u8 {
            let pushes = Vector::from_number(vector).is_some_and(Vector::has_error_code);
            let address = STUBS + u64::from(vector) * STUB_SIZE;
            machine.code_of(32, address, &|a| {
                if !pushes {
                    a.push(0)?;
                }
                a.push(i32::from(vector))?;
                a.jmp(HANDLER)
            });
            let dpl = if vector >= 32 || matches!(vector, 3 | 4) { 3 } else { 0 };
            machine.set_gate_32(vector, selector::CODE32, address, INTERRUPT_32, dpl);
        }
        machine.code_of(32, HANDLER, &recording_handler);
        machine.write(TSS + 4, RSP0_TOP as u32);
        machine.write(TSS + 8, u32::from(selector::DATA));
        machine.set_code_segment(Segment::code32(selector::CODE32, 0));
        machine.state.idtr.limit = 0x7ff;
        machine.state.cr0 -= Cr0::PG;
        machine.state.cr4 -= Cr4::PAE;
        machine.state.efer = Efer::empty();
        machine
    }

    /// Lets [`Machine::run`] start in 32-bit user mode at [`USER_CODE`].
    pub fn start_in_32bit_user_mode(&mut self) {
        self.state.rip = USER_CODE;
        self.state.gpr[Gpr::Rsp as usize] = USER_STACK_TOP;
        self.state.segments = [Segment::data(selector::USER_DATA, 3); 6];
        self.state.segments[SegmentRegister::Cs as usize] = Segment::code32(selector::USER_CODE32, 3);
    }

    /// Writes an IDT entry of eight bytes.
    pub fn set_gate_32(&self, vector: u8, code: u16, offset: u64, kind: u64, dpl: u64) {
        let gate = (offset & 0xffff)
            | u64::from(code) << 16
            | (kind | dpl << 5 | 0x80) << 40
            | (offset >> 16 & 0xffff) << 48;
        self.write(IDT + u64::from(vector) * 8, gate);
    }
}

/// What [`super::handler::recording_handler`] does, in 32 bits. ESP and SS are recorded even if they were not pushed.
/// Memory is reached by way of SS, for events out of virtual-8086 mode leave no other segment.
fn recording_handler(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut stop_label = a.create_label();
    a.push(eax)?;
    a.push(ecx)?;
    a.push(edx)?;
    a.mov(ecx, dword_ptr(LOG).ss())?;
    a.inc(dword_ptr(LOG).ss())?;
    a.cmp(ecx, MAX_EVENTS as i32)?;
    a.jae(stop_label)?;
    a.imul_3(ecx, ecx, EVENT_SIZE as i32)?;
    a.add(ecx, LOG as i32 + 16)?;
    for word in 0..7i32 {
        a.mov(eax, dword_ptr(esp + (12 + word * 4)))?;
        a.mov(dword_ptr(ecx + word * 8).ss(), eax)?;
    }
    a.mov(eax, cr2)?;
    a.mov(dword_ptr(ecx + 56).ss(), eax)?;
    a.mov(eax, dr6)?;
    a.mov(dword_ptr(ecx + 64).ss(), eax)?;
    a.lea(eax, dword_ptr(esp + 20))?;
    a.mov(dword_ptr(ecx + 72).ss(), eax)?;
    a.mov(eax, dword_ptr(esp + 12))?;
    a.mov(eax, dword_ptr(eax * 8 + ACTIONS).ss())?;
    a.cmp(eax, Action::Return.word() as i32)?;
    a.jne(stop_label)?;
    a.pop(edx)?;
    a.pop(ecx)?;
    a.pop(eax)?;
    a.add(esp, 8)?;
    a.iretd()?;
    a.set_label(&mut stop_label)?;
    a.pop(edx)?;
    a.pop(ecx)?;
    a.pop(eax)?;
    stop(a)
}
