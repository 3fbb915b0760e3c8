//! A debugger outside the guest: both engines stop at the same places.

use iced_x86::code_asm::*;
use viv_arch::Gpr;
use viv_engine::debug::{Breakpoint, Condition, DebugControl, DebugStop, Length};
use viv_engine::{Engine, Exit};
use viv_soft::SoftEngine;

use crate::both::{kvm, machine, on_hardware};
use crate::machine::*;

/// Where a guest in user mode stops with two breakpoints and a watchpoint, and after a step from each.
fn stops(engine: &dyn Engine) -> Vec<(Exit, u64, u64)> {
    let mut machine = machine(engine);
    machine.start_in_user_mode();
    machine.set_gpr(Gpr::Rbx, DATA);
    let second = machine.code(USER_CODE, &|a| a.mov(eax, 1));
    let third = machine.code(second, &|a| a.add(eax, 2));
    let written = machine.code(third, &|a| a.mov(dword_ptr(rbx + 4), eax));
    let end = machine.code(written, &|a| a.add(eax, 3));
    machine.code(end, &stop_user);
    machine.tables.map(DATA, DATA, PageSize::Size4K, FULL);
    let at = |address, condition| Some(Breakpoint { address, condition });
    let control = DebugControl {
        single_step: false,
        breakpoints: [
            at(end, Condition::Execute),
            at(second, Condition::Execute),
            None,
            at(DATA + 4, Condition::Write(Length::Four)),
        ],
    };
    let step = DebugControl { single_step: true, ..DebugControl::default() };
    machine.vcpu.load(&machine.state).unwrap();
    let mut stops = Vec::new();
    for control in [control, step, control, control] {
        machine.vcpu.set_debug(&control).unwrap();
        let outcome = machine.resume();
        stops.push((outcome.exit.clone(), outcome.state.rip, outcome.gpr(Gpr::Rax)));
    }
    machine.vcpu.set_debug(&DebugControl::default()).unwrap();
    assert!(machine.resume().stopped);
    stops
}

#[test]
fn both_stop_at_the_same_places() {
    let soft = stops(&SoftEngine::default());
    let kinds: Vec<_> = soft.iter().map(|(exit, ..)| exit.clone()).collect();
    let stop = |n| Exit::Debug(DebugStop::Breakpoint(n));
    assert_eq!(kinds, [stop(1), Exit::Debug(DebugStop::Step), stop(3), stop(0)]);
    if let Some(kvm) = kvm()
        && on_hardware("debug registers on kvm")
    {
        assert_eq!(stops(kvm), soft);
    }
}
