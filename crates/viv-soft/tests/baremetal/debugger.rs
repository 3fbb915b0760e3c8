//! A debugger outside the guest: its breakpoints, watchpoints and steps.

use iced_x86::code_asm::*;
use viv_arch::state::RunState;
use viv_arch::{Gpr, Rflags, apic};
use viv_engine::debug::{Breakpoint, Condition, DebugControl, DebugStop, Length};
use viv_engine::{Exit, Msi};

use crate::machine::*;

const DB: u8 = 1;
const STEP: DebugControl = DebugControl { single_step: true, breakpoints: [None; 4] };

fn control(breakpoints: &[(u64, Condition)]) -> DebugControl {
    let mut control = DebugControl::default();
    for (slot, &(address, condition)) in control.breakpoints.iter_mut().zip(breakpoints) {
        *slot = Some(Breakpoint { address, condition });
    }
    control
}

fn breakpoint(n: usize) -> Exit {
    Exit::Debug(DebugStop::Breakpoint(n))
}

/// Makes one step, without breakpoints as debuggers do it.
fn step(machine: &mut Machine) -> Outcome {
    machine.vcpu.set_debug(&STEP).unwrap();
    let outcome = machine.resume();
    assert_eq!(outcome.exit, Exit::Debug(DebugStop::Step), "{outcome:?}");
    outcome
}

/// Counts RCX down to nothing, 1,000 rounds; gives the address of the loop's second instruction and of what follows.
fn counting(machine: &mut Machine, at: u64) -> (u64, u64) {
    let head = machine.code(at, &|a| a.mov(ecx, 1000));
    let second = machine.code(head, &|a| a.add(rax, 1));
    let end = machine.code(second, &|a| {
        a.nop()?;
        a.sub(ecx, 1)?;
        a.jne(head)
    });
    machine.code(end, &stop);
    (second, end)
}

#[test]
fn an_instruction_is_not_begun_and_hot_code_stops_too() {
    let mut machine = Machine::new();
    let (second, end) = counting(&mut machine, CODE);
    // Hot before there is any breakpoint.
    assert_eq!(machine.run_to_stop().gpr(Gpr::Rax), 1000);
    let breakpoints = control(&[(end, Condition::Execute), (second, Condition::Execute)]);
    machine.vcpu.set_debug(&breakpoints).unwrap();
    let mut outcome = machine.run();
    for round in 1..=100 {
        assert_eq!((&outcome.exit, outcome.state.rip), (&breakpoint(1), second));
        assert_eq!(outcome.gpr(Gpr::Rax), round);
        // It does not go on from here by itself.
        assert_eq!(machine.resume().exit, breakpoint(1));
        assert_eq!(step(&mut machine).state.rip, second + 1);
        machine.vcpu.set_debug(&breakpoints).unwrap();
        outcome = machine.resume();
    }
    machine.vcpu.set_debug(&control(&[(end, Condition::Execute)])).unwrap();
    let outcome = machine.resume();
    assert_eq!((&outcome.exit, outcome.state.rip), (&breakpoint(0), end));
    assert_eq!(outcome.gpr(Gpr::Rax), 1000);
    machine.vcpu.set_debug(&DebugControl::default()).unwrap();
    assert!(machine.resume().stopped);
}

#[test]
fn breakpoints_are_by_linear_address() {
    let mut machine = Machine::new();
    let elsewhere = FREE + 0x10_0000;
    machine.tables.map(elsewhere, CODE, PageSize::Size4K, FULL);
    let (second, _) = counting(&mut machine, CODE);
    let alias = elsewhere + (second - CODE);
    machine.vcpu.set_debug(&control(&[(alias, Condition::Execute)])).unwrap();
    // The same bytes at another address go on.
    assert!(machine.run_to_stop().stopped);
    machine.state.rip = elsewhere;
    let outcome = machine.run();
    assert_eq!((&outcome.exit, outcome.state.rip), (&breakpoint(0), alias));
}

#[test]
fn rf_lets_one_instruction_pass() {
    let mut machine = Machine::new();
    let next = machine.code(CODE, &|a| a.nop());
    machine.code(next, &stop);
    machine.vcpu.set_debug(&control(&[(CODE, Condition::Execute)])).unwrap();
    assert_eq!(machine.run().exit, breakpoint(0));
    machine.state.rflags |= Rflags::RF;
    let outcome = machine.run_to_stop();
    assert!(!outcome.state.rflags.contains(Rflags::RF));
}

#[test]
fn a_breakpoint_in_the_shadow_of_sti_stops() {
    let mut machine = Machine::new();
    let shadowed = machine.code(CODE, &|a| a.sti());
    let next = machine.code(shadowed, &|a| a.nop());
    machine.code(next, &stop);
    machine.vcpu.set_debug(&control(&[(shadowed, Condition::Execute)])).unwrap();
    let outcome = machine.run();
    assert_eq!((outcome.exit, outcome.state.rip), (breakpoint(0), shadowed));
    assert!(outcome.state.pending.interrupt_shadow);
}

#[test]
fn watched_bytes_stop_after_the_access() {
    let write = Condition::Write(Length::Four);
    let access = Condition::Access(Length::Eight);
    let (written, read) = (DATA + 4, DATA + 0x100);
    let mut machine = Machine::new();
    let mut after = Vec::new();
    let builds: [(Build<'_>, Option<usize>); 6] = [
        (&|a| a.mov(eax, dword_ptr(DATA + 4)), None),
        (&|a| a.mov(dword_ptr(DATA), eax), None),
        (&|a| a.mov(byte_ptr(DATA + 7), al), Some(0)),
        (&|a| a.mov(eax, dword_ptr(DATA + 0x106)), Some(1)),
        (&|a| a.mov(dword_ptr(DATA + 0xfc), eax), None),
        (&|a| a.inc(qword_ptr(DATA + 0x100)), Some(1)),
    ];
    let mut at = CODE;
    for (build, hit) in builds {
        at = machine.code(at, build);
        after.extend(hit.map(|hit| (hit, at)));
    }
    machine.code(at, &stop);
    // Once interpreted, and once as hot code.
    for _ in 0..10 {
        machine.vcpu.set_debug(&control(&[(written, write), (read, access)])).unwrap();
        let mut outcome = machine.run();
        for &(n, rip) in &after {
            assert_eq!((&outcome.exit, outcome.state.rip), (&breakpoint(n), rip));
            outcome = machine.resume();
        }
        assert!(outcome.stopped, "{outcome:?}");
        machine.vcpu.set_debug(&DebugControl::default()).unwrap();
        assert!(machine.run().stopped);
    }
}

#[test]
fn a_repeated_instruction_stops_between_two_iterations() {
    let mut machine = Machine::new();
    machine.set_gpr(Gpr::Rdi, DATA);
    machine.set_gpr(Gpr::Rcx, 16);
    let next = machine.code(CODE, &|a| a.rep().stosd());
    machine.code(next, &stop);
    machine.vcpu.set_debug(&control(&[(DATA + 8, Condition::Write(Length::One))])).unwrap();
    let outcome = machine.run();
    assert_eq!((&outcome.exit, outcome.state.rip), (&breakpoint(0), CODE));
    assert_eq!((outcome.gpr(Gpr::Rdi), outcome.gpr(Gpr::Rcx)), (DATA + 12, 13));
    let stepped = step(&mut machine);
    assert_eq!((stepped.state.rip, stepped.gpr(Gpr::Rcx)), (CODE, 12));
    assert!(machine.vcpu.set_debug(&DebugControl::default()).is_ok());
    assert_eq!(machine.resume().gpr(Gpr::Rcx), 0);
}

#[test]
fn steps_go_to_handlers_and_show_the_guest_nothing() {
    let mut machine = Machine::new();
    machine.on(6, Action::Return);
    let pushed = machine.code(CODE, &|a| a.pushfq());
    let popped = machine.code(pushed, &|a| a.pop(rax));
    machine.code(popped, &|a| a.ud2());
    machine.vcpu.load(&machine.state).unwrap();
    let rips: Vec<u64> = (0..3).map(|_| step(&mut machine).state.rip).collect();
    assert_eq!(rips, [pushed, popped, STUBS + 6 * STUB_SIZE]);
    let state = machine.vcpu.save().unwrap();
    assert_eq!(state.gpr[Gpr::Rax as usize] & Rflags::TF.bits(), 0);
    assert_eq!(state.debug, machine.state.debug);
}

#[test]
fn the_guest_steps_and_breaks_for_itself_meanwhile() {
    let mut machine = Machine::new();
    machine.on(DB, Action::Return);
    machine.state.rflags |= Rflags::TF;
    let second = machine.code(CODE, &|a| a.nop());
    let third = machine.code(second, &|a| a.nop());
    machine.code(third, &stop);
    machine.vcpu.set_debug(&control(&[(second, Condition::Execute)])).unwrap();
    let outcome = machine.run();
    // The guest's own trap came first.
    assert_eq!((&outcome.exit, outcome.state.rip), (&breakpoint(0), second));
    assert_eq!(outcome.briefs(), [(DB, 0, second)]);
}

#[test]
fn interrupts_wait_for_a_step_unless_the_vcpu_is_halted() {
    let mut machine = Machine::new();
    machine.on(0x40, Action::Return);
    machine.state.rflags |= Rflags::IF;
    machine.set_msr(viv_arch::msr::IA32_APIC_BASE, apic::DEFAULT_BASE | apic::BASE_ENABLE | apic::BASE_BSP);
    let enable = machine.code(CODE, &|a| {
        a.mov(rbx, APIC + 0xf0)?;
        a.mov(dword_ptr(rbx), 0x1ff)
    });
    let halt = machine.code(enable, &|a| a.nop());
    let halted = machine.code(halt, &|a| a.hlt());
    machine.code(halted, &stop);
    machine.vcpu.set_debug(&control(&[(enable, Condition::Execute)])).unwrap();
    assert_eq!(machine.run().exit, breakpoint(0));
    machine.vm.send_msi(Msi { address: 0xfee0_0000, data: 0x40 });
    assert_eq!(step(&mut machine).state.rip, halt);
    let outcome = step(&mut machine);
    assert_eq!((outcome.state.rip, outcome.state.run_state), (halted, RunState::Halted));
    assert_eq!(step(&mut machine).state.rip, STUBS + 0x40 * STUB_SIZE);
}

#[test]
fn a_load_leaves_the_debugger_what_it_wanted() {
    let mut machine = Machine::new();
    machine.code(CODE, &stop);
    machine.vcpu.set_debug(&control(&[(CODE, Condition::Execute)])).unwrap();
    for _ in 0..2 {
        assert_eq!(machine.run().exit, breakpoint(0));
    }
}
