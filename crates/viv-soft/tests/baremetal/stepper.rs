//! Single instructions on states that another engine holds.

use std::sync::Arc;

use iced_x86::code_asm::*;
use viv_arch::cpuid::{CpuidTable, ModelParameters};
use viv_arch::state::{AcceptedEvent, RunState};
use viv_arch::{Exception, Gpr, Rflags, VcpuState, Vector};
use viv_engine::time::ManualClock;
use viv_engine::{Exit, VmParameters};
use viv_soft::Stepper;

use crate::machine::*;

fn stepper(machine: &Machine) -> Stepper {
    let parameters = VmParameters {
        memory: machine.memory.clone(),
        rom: None,
        vcpus: 1,
        cpuid: CpuidTable::x86_64_v3(ModelParameters { vcpus: 1, tsc_khz: 2_000_000 }),
        clock: Arc::new(ManualClock::default()),
    };
    Stepper::new(0, parameters, machine.platform.clone()).unwrap()
}

fn step(stepper: &mut Stepper, state: &VcpuState) -> VcpuState {
    let (after, exit) = stepper.step(state).unwrap();
    assert_eq!(exit, None);
    after
}

#[test]
fn it_does_one_instruction_and_no_more() {
    let mut machine = Machine::new();
    let mut stepper = stepper(&machine);
    machine.code(CODE, &|a| {
        a.inc(rbx)?;
        a.inc(rbx)
    });
    let first = step(&mut stepper, &machine.state);
    assert_eq!((first.gpr[Gpr::Rbx as usize], first.rip), (1, CODE + 3));
    // What lies there now, not what was decoded before.
    machine.code(CODE, &|a| a.dec(rbx));
    let again = step(&mut stepper, &machine.state);
    assert_eq!(again.gpr[Gpr::Rbx as usize], u64::MAX);
}

#[test]
fn it_reaches_devices_and_delivers_exceptions() {
    let mut machine = Machine::new();
    let mut stepper = stepper(&machine);
    machine.code(CODE, &|a| a.mov(dword_ptr(MMIO), 5));
    step(&mut stepper, &machine.state);
    assert_eq!(
        *machine.platform.accesses.lock().unwrap(),
        [Access::MemoryWrite(MMIO_PHYS, vec![5, 0, 0, 0])]
    );
    machine.code(CODE, &|a| a.ud2());
    let state = step(&mut stepper, &machine.state);
    assert_eq!(state.rip, STUBS + u64::from(Vector::InvalidOpcode as u8) * STUB_SIZE);
}

#[test]
fn it_delivers_what_was_accepted_before_it_does_anything() {
    let mut machine = Machine::new();
    let mut stepper = stepper(&machine);
    machine.code(CODE, &|a| a.inc(rbx));
    for event in [AcceptedEvent::Interrupt(0x51), AcceptedEvent::Exception(Exception::ud())] {
        machine.state.pending.accepted = Some(event);
        let state = step(&mut stepper, &machine.state);
        let vector = match event {
            AcceptedEvent::Interrupt(vector) => vector,
            AcceptedEvent::Exception(exception) => exception.vector as u8,
        };
        assert_eq!((state.rip, state.pending.accepted), (STUBS + u64::from(vector) * STUB_SIZE, None));
        assert_eq!(state.gpr[Gpr::Rbx as usize], 0);
    }
}

#[test]
fn a_single_step_trap_comes_with_its_instruction() {
    let mut machine = Machine::new();
    let mut stepper = stepper(&machine);
    machine.code(CODE, &|a| a.inc(rbx));
    machine.state.rflags |= Rflags::TF;
    let state = step(&mut stepper, &machine.state);
    assert_eq!(state.rip, STUBS + u64::from(Vector::Debug as u8) * STUB_SIZE);
    assert_eq!(state.gpr[Gpr::Rbx as usize], 1);
}

#[test]
fn halts_and_shutdowns_are_told() {
    let mut machine = Machine::new();
    let mut stepper = stepper(&machine);
    machine.code(CODE, &|a| a.hlt());
    assert_eq!(step(&mut stepper, &machine.state).run_state, RunState::Halted);
    machine.state.idtr.limit = 0;
    machine.code(CODE, &|a| a.ud2());
    assert_eq!(stepper.step(&machine.state).unwrap().1, Some(Exit::TripleFault));
}

#[test]
fn a_machine_goes_on_with_what_another_had_accepted() {
    let mut machine = Machine::new();
    machine.state.pending.accepted = Some(AcceptedEvent::Interrupt(0x51));
    machine.on(0x51, Action::Return);
    machine.code(CODE, &stop);
    let outcome = machine.run_to_stop();
    assert_eq!(outcome.briefs(), [(0x51, 0, CODE)]);
}
