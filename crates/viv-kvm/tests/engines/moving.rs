//! A machine that is saved in the middle of its work goes on under the other engine.

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use viv_arch::{Gpr, VcpuState, apic, msr};
use viv_engine::{Engine, Exit};
use viv_soft::SoftEngine;

use crate::both::{assert_same, kvm, machine};
use crate::machine::*;

fn hook(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.out(u32::from(PORT_HOOK), al)
}

/// Runs the guest on one engine to its end; and, kicked at each of the hook's calls, on one after the other. It must come
/// to the same both times. Gives how often it moved, and the state of its end.
fn compare(setup: impl Fn(&mut Machine)) -> Option<(u32, VcpuState)> {
    let soft = SoftEngine::default();
    let kvm = kvm()?;
    let mut whole = machine(&soft);
    setup(&mut whole);
    let outcome = whole.run_to_stop();

    let engines: [&dyn Engine; 2] = [kvm, &soft];
    let mut engines = engines.into_iter().cycle();
    let mut moving = machine(engines.next()?);
    setup(&mut moving);
    let mut moves = 0;
    let end = loop {
        let kicker = moving.vcpu.kicker();
        moving.platform.set_hook(move |_| kicker.kick());
        let outcome = moving.run();
        assert_eq!(outcome.exit, Exit::Kicked);
        if outcome.stopped {
            break outcome;
        }
        moves += 1;
        let mut next = machine(engines.next()?);
        moving.copy_memory(&next);
        next.state = outcome.state;
        moving = next;
    };
    assert_same(&outcome.state, &end.state);
    assert!(whole.read_bytes(DATA, 0x4000) == moving.read_bytes(DATA, 0x4000));
    Some((moves, end.state))
}

#[test]
fn a_computation_with_every_kind_of_register() {
    let moved = compare(|machine| {
        machine.state.debug[0] = 0x1234;
        machine.set_msr(msr::IA32_LSTAR, 0xffff_8000_1234_5678);
        machine.set_gpr(Gpr::R15, 0x1111_2222_3333_4444);
        machine.code(CODE, &|a| {
            a.mov(ecx, 6)?;
            a.fninit()?;
            a.fld1()?;
            a.pcmpeqd(xmm3, xmm3)?;
            a.vpcmpeqd(ymm9, ymm9, ymm9)?;
            a.mov(edi, DATA as u32)?;
            a.mov(rbp, 5u64)?;
            a.mov(cr8, rbp)?;
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            a.fldpi()?;
            a.faddp(st1, st0)?;
            hook(a)?;
            a.psubd(xmm3, xmm0)?;
            a.vpaddq(ymm9, ymm9, ymm9)?;
            a.imul_3(rdx, rdi, 77)?;
            a.mov(rbp, cr8)?;
            a.stosq()?;
            a.fst(qword_ptr(rdi))?;
            a.add(edi, 8)?;
            a.dec(ecx)?;
            a.jnz(again)?;
            a.vmovups(ymmword_ptr(DATA + 0x800), ymm9)?;
            stop(a)
        });
    });
    assert!(moved.is_none_or(|(moves, _)| moves >= 4));
}

#[test]
fn pending_interrupts_and_the_local_apic() {
    let register = |number: u32| APIC + u64::from(number) * 16;
    compare(|machine| {
        machine.on(0x51, Action::EndOfInterrupt);
        machine.code(CODE, &|a| {
            a.mov(dword_ptr(register(apic::reg::SVR)), 0x1ff)?;
            a.mov(dword_ptr(register(apic::reg::LVT_ERROR)), 0x33)?;
            a.mov(dword_ptr(register(apic::reg::ICR_LOW)), 0x51 | 1 << 18)?;
            hook(a)?;
            // It has travelled as a request; let in here, it is in service in its handler.
            a.sti()?;
            a.nop()?;
            a.nop()?;
            a.cli()?;
            // Where the next run begins, the log does.
            a.mov(rsi, qword_ptr(LOG))?;
            hook(a)?;
            a.mov(ebx, dword_ptr(register(apic::reg::LVT_ERROR)))?;
            a.mov(qword_ptr(DATA), rsi)?;
            stop(a)
        });
    });
}

#[test]
fn time_does_not_go_back() {
    let Some((moves, state)) = compare(|machine| {
        machine.code(CODE, &|a| {
            a.xor(r8d, r8d)?;
            a.mov(r9d, 6)?;
            let mut again = a.create_label();
            let mut forward = a.create_label();
            a.set_label(&mut again)?;
            a.rdtsc()?;
            a.shl(rdx, 32)?;
            a.or(rax, rdx)?;
            a.cmp(rax, r8)?;
            a.ja(forward)?;
            a.inc(rbx)?;
            a.set_label(&mut forward)?;
            a.mov(r8, rax)?;
            hook(a)?;
            a.dec(r9d)?;
            a.jnz(again)?;
            // Times are not to be compared.
            a.xor(eax, eax)?;
            a.xor(edx, edx)?;
            a.xor(r8d, r8d)?;
            a.test(eax, eax)?;
            stop(a)
        });
    }) else {
        return;
    };
    assert_eq!((moves, state.gpr[Gpr::Rbx as usize]), (6, 0), "how often the TSC was not later than before");
}
