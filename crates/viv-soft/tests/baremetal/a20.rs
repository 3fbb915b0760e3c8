//! The A20 gate: while it is closed, addresses from 1 MiB on wrap (SDM vol. 3, 20.1.1).

use std::sync::Arc;

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use viv_arch::{Cr0, Efer, Gpr, SegmentRegister};

use crate::machine::*;

/// A place below 1 MiB, and the same with bit 20.
const LOW: u64 = 0x500;
const HIGH: u64 = LOW | 1 << 20;

/// A machine with something else in either place, whose hook is the gate.
fn gated(mut machine: Machine) -> Machine {
    machine.write(LOW, 0x1111u16);
    machine.write(HIGH, 0x2222u16);
    let vm = Arc::clone(&machine.vm);
    machine.platform.set_hook(move |open| vm.set_a20(open != 0));
    machine.set_gpr(Gpr::Rdx, PORT_HOOK.into());
    machine
}

/// Sets the gate.
fn gate(a: &mut CodeAssembler, open: bool) -> Result<(), IcedError> {
    a.mov(al, i32::from(open))?;
    a.out(dx, al)
}

#[test]
fn real_mode_wraps_from_the_next_instruction_on() {
    let mut machine = gated(Machine::real());
    let extra = &mut machine.state.segments[SegmentRegister::Es as usize];
    (extra.selector, extra.base) = (0xffff, 0xffff0);
    let beyond = word_ptr((HIGH - 0xffff0) as i32).es();
    let end = machine.real_code(0, &|a| {
        a.mov(bx, beyond)?;
        gate(a, false)?;
        a.mov(cx, beyond)?;
        a.mov(beyond, 0x3333)?;
        gate(a, true)?;
        a.mov(si, beyond)
    });
    machine.real_code(end, &stop);
    let outcome = machine.run_to_stop();
    let read = [Gpr::Rbx, Gpr::Rcx, Gpr::Rsi].map(|register| outcome.gpr(register));
    assert_eq!(read, [0x2222, 0x1111, 0x2222]);
    assert_eq!((machine.read::<u16>(LOW), machine.read::<u16>(HIGH)), (0x3333, 0x2222));
}

#[test]
fn code_is_fetched_where_the_line_leads() {
    let mut machine = gated(Machine::real());
    for (address, value) in [(LOW, 1), (HIGH, 2)] {
        machine.code_of(16, address, &|a| {
            a.mov(cl, value)?;
            a.retf()
        });
    }
    let far = |a: &mut CodeAssembler| {
        let [low, high] = ((HIGH - 0xffff0) as u16).to_le_bytes();
        a.db(&[0x9a, low, high, 0xff, 0xff])
    };
    let end = machine.real_code(0, &|a| {
        far(a)?;
        a.mov(bl, cl)?;
        gate(a, false)?;
        far(a)?;
        a.mov(bh, cl)?;
        gate(a, true)?;
        far(a)
    });
    machine.real_code(end, &stop);
    let outcome = machine.run_to_stop();
    assert_eq!((outcome.gpr(Gpr::Rbx), outcome.gpr(Gpr::Rcx)), (0x0102, 2));
}

#[test]
fn hot_code_with_and_without_paging_sees_it() {
    for paging in [false, true] {
        let mut machine = gated(Machine::new());
        if !paging {
            machine.state.efer = Efer::empty();
            machine.state.cr0 -= Cr0::PG;
            machine.state.segments[SegmentRegister::Cs as usize].attributes = 0xc09b;
        }
        let code = |a: &mut CodeAssembler| {
            let mut again = a.create_label();
            a.mov(ecx, 1000)?;
            a.xor(ebx, ebx)?;
            a.xor(esi, esi)?;
            a.mov(edi, HIGH as i32)?;
            a.set_label(&mut again)?;
            gate(a, false)?;
            a.movzx(eax, word_ptr(edi))?;
            a.add(ebx, eax)?;
            gate(a, true)?;
            a.movzx(eax, word_ptr(edi))?;
            a.add(esi, eax)?;
            a.dec(ecx)?;
            a.jne(again)?;
            stop(a)
        };
        machine.code_of(if paging { 64 } else { 32 }, CODE, &code);
        let outcome = machine.run_to_stop();
        assert_eq!((outcome.gpr(Gpr::Rbx), outcome.gpr(Gpr::Rsi)), (0x1111 * 1000, 0x2222 * 1000));
    }
}
