//! The machine in real mode.

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use viv_arch::{Cr0, Cr4, DescriptorTable, Efer, Gpr, Segment, SegmentRegister};

use super::handler::{Action, EVENT_SIZE};
use super::{ACTIONS, Build, CODE, HANDLER, LOG, Machine, STUB_SIZE, STUBS, assemble, stop};

/// The segment of the code at [`CODE`].
pub const REAL_CODE: u16 = (CODE >> 4) as u16;
/// Where the stack of real mode begins, in segment 0.
pub const REAL_STACK_TOP: u64 = 0xff00;

impl Machine {
    /// A machine about to run 16-bit code at [`REAL_CODE`]:0, with handlers of its kind. DS, ES and SS are 0.
    pub fn real() -> Self {
        let mut machine = Self::new();
        for vector in 0..=255u8 {
            let address = STUBS + u64::from(vector) * STUB_SIZE;
            machine.code_of(16, address, &|a| {
                a.push(i32::from(vector))?;
                a.jmp(HANDLER)
            });
            machine.write(u64::from(vector) * 4, address as u32);
        }
        machine.code_of(16, HANDLER, &recording_handler);
        machine.state.segments = [Segment { selector: 0, attributes: 0x93, limit: 0xffff, base: 0 }; 6];
        let code = &mut machine.state.segments[SegmentRegister::Cs as usize];
        (code.selector, code.base) = (REAL_CODE, CODE);
        machine.state.rip = 0;
        machine.set_gpr(Gpr::Rsp, REAL_STACK_TOP);
        machine.state.idtr = DescriptorTable { base: 0, limit: 0x3ff };
        machine.state.cr0 -= Cr0::PG | Cr0::PE;
        machine.state.cr4 -= Cr4::PAE;
        machine.state.efer = Efer::empty();
        machine
    }

    /// Writes 16-bit code at [`REAL_CODE`]:`offset`; gives the offset after it.
    pub fn real_code(&mut self, offset: u64, build: Build<'_>) -> u64 {
        let bytes = assemble(16, offset, build);
        self.write_bytes(CODE + offset, &bytes);
        offset + bytes.len() as u64
    }
}

/// What [`super::handler::recording_handler`] does, in real mode. There are no error codes.
fn recording_handler(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut stop_label = a.create_label();
    for register in [ax, bx, bp] {
        a.push(register)?;
    }
    a.push(ds)?;
    a.mov(bp, sp)?;
    a.xor(ax, ax)?;
    a.mov(ds, ax)?;
    a.mov(bx, word_ptr(LOG))?;
    a.inc(word_ptr(LOG))?;
    a.imul_3(bx, bx, EVENT_SIZE as i32)?;
    a.add(bx, LOG as i32 + 16)?;
    // Vector, RIP, CS, RFLAGS.
    for (from, field) in [(8, 0), (10, 2), (12, 3), (14, 4)] {
        a.mov(ax, word_ptr(bp + from))?;
        a.mov(word_ptr(bx + field * 8), ax)?;
    }
    a.lea(ax, word_ptr(bp + 10))?;
    a.mov(word_ptr(bx + 72), ax)?;
    a.mov(bx, word_ptr(bp + 8))?;
    a.shl(bx, 3)?;
    a.cmp(word_ptr(bx + ACTIONS as i32), Action::Return.word() as i32)?;
    a.pop(ds)?;
    a.pop(bp)?;
    a.pop(bx)?;
    a.pop(ax)?;
    a.jne(stop_label)?;
    a.lea(sp, word_ptr(esp + 2))?;
    a.iret()?;
    a.set_label(&mut stop_label)?;
    stop(a)
}
