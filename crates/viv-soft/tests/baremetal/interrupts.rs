//! Interrupts from their source to their handler and back, and what holds them up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use viv_arch::state::RunState;
use viv_arch::{Gpr, Rflags, apic, msr};
use viv_engine::{Exit, Msi};

use crate::machine::*;

const VECTOR: u8 = 0x61;
const NMI: u8 = 2;

fn register(number: u32) -> u64 {
    APIC + u64::from(number) * 16
}

/// Switches the local APIC on.
fn enable(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(dword_ptr(register(apic::reg::SVR)), 0x1ff)
}

/// Calls the test with this number.
fn hook(a: &mut CodeAssembler, number: u32) -> Result<(), IcedError> {
    a.mov(eax, number)?;
    a.out(u32::from(PORT_HOOK), eax)
}

/// An edge-triggered interrupt, or with bit 15 a level-triggered one, or with bits 8 to 10 something else.
fn msi(data: u32) -> Msi {
    Msi { address: 0xfee0_0000, data }
}

/// A machine whose port hook sends the number written as MSI data.
fn machine_with_msi_port() -> Machine {
    let machine = Machine::new();
    let vm = Arc::clone(&machine.vm);
    machine.platform.set_hook(move |data| vm.send_msi(msi(data)));
    machine.on(VECTOR, Action::EndOfInterrupt);
    machine.on(VECTOR + 0x10, Action::EndOfInterrupt);
    machine.on(NMI, Action::Return);
    machine
}

fn vectors(outcome: &Outcome) -> Vec<(u8, u64)> {
    outcome.events.iter().map(|event| (event.vector, event.rip)).collect()
}

#[test]
fn sti_and_mov_ss_hold_interrupts_up_for_one_instruction() {
    let mut machine = machine_with_msi_port();
    let end = machine.code(CODE, &|a| {
        enable(a)?;
        hook(a, VECTOR.into())?;
        a.mov(ecx, u32::from(selector::DATA))?;
        a.sti()
    });
    machine.code(end, &|a| {
        a.nop()?;
        a.nop()?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    assert_eq!(vectors(&outcome), [(VECTOR, end + 1)]);
    assert!(!outcome.events[0].has_flag(Rflags::RF));
    // MOV SS in the shadow casts one of its own.
    machine.code(end, &|a| {
        a.mov(ss, ecx)?;
        a.nop()?;
        a.nop()?;
        stop(a)
    });
    assert_eq!(vectors(&machine.run_to_stop()), [(VECTOR, end + 3)]);
    // STI with interrupts on already casts none; CLI in the shadow keeps them off.
    machine.code(end, &|a| {
        a.cli()?;
        a.nop()?;
        stop(a)
    });
    assert_eq!(vectors(&machine.run_to_stop()), []);
}

#[test]
fn higher_priorities_come_first_and_the_task_priority_keeps_lower_ones_out() {
    let mut machine = machine_with_msi_port();
    let end = machine.code(CODE, &|a| {
        enable(a)?;
        hook(a, VECTOR.into())?;
        hook(a, u32::from(VECTOR) + 0x10)?;
        a.mov(ecx, 6)?;
        a.mov(cr8, rcx)?;
        a.sti()?;
        a.nop()
    });
    let lowered = machine.code(end, &|a| {
        a.nop()?;
        a.xor(ecx, ecx)?;
        a.mov(cr8, rcx)
    });
    machine.code(lowered, &|a| {
        a.nop()?;
        stop(a)
    });
    assert_eq!(vectors(&machine.run_to_stop()), [(VECTOR + 0x10, end), (VECTOR, lowered)]);
}

#[test]
fn an_interrupt_in_service_keeps_its_class_out_until_its_end() {
    let mut machine = machine_with_msi_port();
    // The handler lets interrupts in before it ends its own.
    machine.set_handler(VECTOR, CODE + 0x400, &|a| {
        a.inc(rbx)?;
        a.cmp(rbx, 1)?;
        let mut again = a.create_label();
        a.jne(again)?;
        hook(a, VECTOR.into())?;
        a.sti()?;
        a.nop()?;
        a.nop()?;
        a.mov(rsi, rbx)?;
        a.cli()?;
        a.set_label(&mut again)?;
        a.mov(dword_ptr(register(apic::reg::EOI)), 0)?;
        a.iretq()
    });
    machine.code(CODE, &|a| {
        enable(a)?;
        hook(a, VECTOR.into())?;
        a.sti()?;
        a.nop()?;
        a.nop()?;
        a.nop()?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    assert_eq!((outcome.gpr(Gpr::Rsi), outcome.gpr(Gpr::Rbx)), (1, 2));
}

#[test]
fn nmis_are_blocked_until_the_next_iret() {
    const SEND_NMI: u32 = 4 << 8;
    let mut machine = machine_with_msi_port();
    machine.set_handler(NMI, CODE + 0x400, &|a| {
        a.inc(rbx)?;
        let mut done = a.create_label();
        a.cmp(rbx, 1)?;
        a.jne(done)?;
        hook(a, SEND_NMI)?;
        a.jmp(CODE + 0x500)?;
        a.set_label(&mut done)?;
        a.iretq()
    });
    machine.code(CODE + 0x500, &|a| {
        a.mov(rsi, rbx)?;
        a.iretq()
    });
    let build: Build<'_> = &|a| {
        enable(a)?;
        hook(a, SEND_NMI)?;
        let mut next = a.create_label();
        a.jmp(next)?;
        a.set_label(&mut next)?;
        a.nop()?;
        stop(a)
    };
    machine.code(CODE, build);
    let outcome = machine.run_to_stop();
    assert_eq!((outcome.gpr(Gpr::Rsi), outcome.gpr(Gpr::Rbx)), (1, 2));
    assert!(!outcome.state.pending.nmi_blocked);
    // An IRET that faults unblocks them all the same (SDM vol. 3, 6.7.1).
    machine.code(CODE + 0x500, &|a| {
        a.mov(rsi, rbx)?;
        a.mov(qword_ptr(rsp + 8), 0)?;
        a.iretq()
    });
    machine.set_handler(13, CODE + 0x600, &|a| {
        a.mov(rdi, rbx)?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    assert_eq!((outcome.gpr(Gpr::Rsi), outcome.gpr(Gpr::Rdi)), (1, 2));
}

#[test]
fn a_kick_in_an_nmi_handler_keeps_the_block() {
    let mut machine = machine_with_msi_port();
    machine.set_handler(NMI, CODE + 0x400, &stop);
    machine.code(CODE, &|a| {
        enable(a)?;
        hook(a, 4 << 8)?;
        a.jmp(CODE + 0x300)
    });
    machine.code(CODE + 0x300, &stop);
    assert!(machine.run_to_stop().state.pending.nmi_blocked);
}

#[test]
fn hlt_waits_for_the_deadline_timer() {
    let mut machine = machine_with_msi_port();
    let vector = u32::from(VECTOR);
    let halted = machine.code(CODE, &|a| {
        enable(a)?;
        a.mov(dword_ptr(register(apic::reg::LVT_TIMER)), vector | 2 << 17)?;
        a.rdtsc()?;
        a.add(eax, 2_000_000)?;
        a.adc(edx, 0)?;
        a.mov(esi, eax)?;
        a.mov(edi, edx)?;
        a.mov(ecx, msr::IA32_TSC_DEADLINE)?;
        a.wrmsr()?;
        a.sti()?;
        a.hlt()
    });
    machine.code(halted, &|a| {
        a.rdtsc()?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    assert_eq!(vectors(&outcome), [(VECTOR, halted)]);
    let time = |high, low| outcome.gpr(high) << 32 | outcome.gpr(low);
    assert!(time(Gpr::Rdx, Gpr::Rax) >= time(Gpr::Rdi, Gpr::Rsi), "not before the deadline");
    assert!(outcome.state.msrs.iter().all(|&(number, _)| number != msr::IA32_TSC_DEADLINE), "it is disarmed");
}

#[test]
fn a_periodic_timer_interrupts_a_busy_loop_and_a_halted_processor() {
    for idle in [false, true] {
        let mut machine = machine_with_msi_port();
        machine.set_handler(VECTOR, CODE + 0x400, &|a| {
            a.inc(rbx)?;
            a.mov(dword_ptr(register(apic::reg::EOI)), 0)?;
            a.iretq()
        });
        let vector = u32::from(VECTOR);
        machine.code(CODE, &|a| {
            enable(a)?;
            a.mov(dword_ptr(register(apic::reg::TIMER_DIVIDE)), 0xb)?;
            a.mov(dword_ptr(register(apic::reg::LVT_TIMER)), vector | 1 << 17)?;
            a.mov(dword_ptr(register(apic::reg::TIMER_INITIAL)), 200_000)?;
            let mut again = a.create_label();
            a.sti()?;
            a.set_label(&mut again)?;
            if idle {
                a.hlt()?;
            }
            a.cmp(rbx, 5)?;
            a.jb(again)?;
            a.cli()?;
            stop(a)
        });
        assert!(machine.run_to_stop().gpr(Gpr::Rbx) >= 5);
    }
}

#[test]
fn a_processor_interrupts_itself() {
    let mut machine = machine_with_msi_port();
    let vector = u32::from(VECTOR);
    let end = machine.code(CODE, &|a| {
        enable(a)?;
        a.sti()?;
        a.nop()?;
        a.mov(dword_ptr(register(apic::reg::ICR_LOW)), vector | 1 << 18)
    });
    let end = machine.code(end, &|a| a.hlt());
    machine.code(end, &stop);
    assert_eq!(machine.run_to_stop().events[0].vector, VECTOR);
    // By the x2APIC's own register.
    let end = machine.code(CODE, &|a| {
        a.mov(ecx, msr::IA32_APIC_BASE)?;
        a.rdmsr()?;
        a.or(eax, 0xc00)?;
        a.wrmsr()?;
        a.mov(ecx, 0x80f)?;
        a.mov(eax, 0x1ff)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        a.sti()?;
        a.mov(ecx, 0x83f)?;
        a.mov(eax, vector)?;
        a.wrmsr()
    });
    machine.code(end, &|a| {
        a.nop()?;
        stop(a)
    });
    machine.on(VECTOR, Action::Return);
    assert_eq!(vectors(&machine.run_to_stop()), [(VECTOR, end)]);
}

#[test]
fn the_8259_gives_its_vector_to_the_processor() {
    let mut machine = Machine::new();
    let (vm, platform) = (Arc::clone(&machine.vm), Arc::clone(&machine.platform));
    machine.platform.set_hook(move |assert| {
        if assert != 0 {
            platform.extint.lock().unwrap().push(0x38);
        }
        vm.set_extint(assert != 0);
    });
    machine.on(0x38, Action::Return);
    // The APIC as it is after reset: the 8259 is wired through.
    let end = machine.code(CODE, &|a| {
        hook(a, 1)?;
        a.sti()?;
        a.hlt()
    });
    machine.code(end, &|a| {
        a.cli()?;
        hook(a, 0)?;
        stop(a)
    });
    assert_eq!(vectors(&machine.run_to_stop())[0], (0x38, end));
    // A request that goes away before it is taken leaves nothing.
    machine.code(CODE, &|a| {
        hook(a, 1)?;
        hook(a, 0)?;
        a.sti()?;
        a.nop()?;
        a.nop()?;
        stop(a)
    });
    assert_eq!(vectors(&machine.run_to_stop()), []);
}

#[test]
fn the_end_of_a_level_triggered_interrupt_reaches_the_platform() {
    for (data, ended) in [(u32::from(VECTOR), vec![]), (u32::from(VECTOR) | 3 << 14, vec![VECTOR])] {
        let mut machine = machine_with_msi_port();
        machine.code(CODE, &|a| {
            enable(a)?;
            hook(a, data)?;
            a.sti()?;
            a.nop()?;
            a.nop()?;
            stop(a)
        });
        assert_eq!(machine.run_to_stop().events.len(), 1);
        assert_eq!(*machine.platform.ended.lock().unwrap(), ended);
    }
}

#[test]
fn an_interrupt_whose_delivery_faults_is_told_by_the_error_code() {
    let mut machine = machine_with_msi_port();
    machine.write(IDT + u64::from(VECTOR) * 16, 0u64);
    let end = machine.code(CODE, &|a| {
        enable(a)?;
        hook(a, VECTOR.into())?;
        a.sti()?;
        a.nop()
    });
    machine.code(end, &stop);
    assert_eq!(machine.run_to_stop().briefs(), [(13, u64::from(VECTOR) << 3 | 3, end)]);
}

/// Runs the guest and kicks it from another thread once it has called the hook.
fn run_and_kick(machine: &mut Machine) -> Outcome {
    let ready = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&ready);
    machine.platform.set_hook(move |_| set.store(true, Ordering::SeqCst));
    let kicker = machine.vcpu.kicker();
    let thread = std::thread::spawn(move || {
        while !ready.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        kicker.kick();
    });
    let outcome = machine.run();
    thread.join().unwrap();
    outcome
}

#[test]
fn a_kick_ends_a_loop_a_halt_and_a_long_copy() {
    type Case = (&'static str, RunState, Build<'static>);
    let cases: [Case; 4] = [
        ("loop", RunState::Running, &|a| {
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            a.inc(rbx)?;
            a.jmp(again)
        }),
        ("halt", RunState::Halted, &|a| {
            a.sti()?;
            a.hlt()
        }),
        ("halt with interrupts off", RunState::Halted, &|a| a.hlt()),
        ("copy", RunState::Running, &|a| {
            a.mov(rcx, u64::MAX >> 1)?;
            a.mov(esi, DATA as u32)?;
            a.mov(edi, MMIO as u32)?;
            a.xor(edx, edx)?;
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            a.mov(ecx, 0x1000)?;
            a.rep().lodsb()?;
            a.sub(esi, 0x1000)?;
            a.jmp(again)
        }),
    ];
    for (name, run_state, build) in cases {
        let mut machine = Machine::new();
        let end = machine.code(CODE, &|a| hook(a, 0));
        machine.code(end, build);
        let outcome = run_and_kick(&mut machine);
        assert_eq!((outcome.exit, outcome.state.run_state), (Exit::Kicked, run_state), "{name}");
    }
}

#[test]
fn a_kick_before_the_run_ends_it_at_once() {
    let mut machine = Machine::new();
    machine.code(CODE, &|a| a.jmp(CODE));
    machine.vcpu.kicker().kick();
    let outcome = machine.run();
    assert_eq!((outcome.exit, outcome.state.rip), (Exit::Kicked, CODE));
}

#[test]
fn written_pages_are_reported_each_time() {
    let mut machine = Machine::new();
    machine.code(CODE, &|a| {
        a.mov(rax, qword_ptr(DATA))?;
        a.mov(qword_ptr(DATA + 0x1000), rax)?;
        a.mov(byte_ptr(DATA + 0x2fff), 1)?;
        a.mov(dword_ptr(DATA + 0x1ffe), 1)?;
        stop(a)
    });
    machine.vm.take_dirty_pages().unwrap();
    let page = |address: u64| address >> 12;
    for round in 0..3 {
        machine.run_to_stop();
        let dirty = machine.vm.take_dirty_pages().unwrap();
        assert!(!dirty.contains(&page(DATA)), "it was only read");
        assert!(dirty.contains(&page(DATA + 0x1000)) && dirty.contains(&page(DATA + 0x2000)), "{round}");
        assert!(dirty.is_sorted());
        if round == 0 {
            assert!(dirty.contains(&page(TABLES + 0x3000)), "accessed bits are written, too");
        }
    }
    assert!(machine.vm.take_dirty_pages().unwrap().is_empty());
}

#[test]
fn the_paravirtual_clock_tells_guest_time() {
    let mut machine = Machine::new();
    machine.clock.advance(5_000_000_000);
    let system_time = |a: &mut CodeAssembler, number: u32, value: u32| {
        a.mov(ecx, number)?;
        a.mov(eax, value)?;
        a.xor(edx, edx)?;
        a.wrmsr()
    };
    machine.code(CODE, &|a| {
        system_time(a, msr::KVM_SYSTEM_TIME, DATA as u32 | 1)?;
        system_time(a, msr::KVM_WALL_CLOCK, DATA as u32 + 0x100)?;
        a.rdtsc()?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    let tsc_after = outcome.gpr(Gpr::Rdx) << 32 | outcome.gpr(Gpr::Rax);
    let version: u32 = machine.read(DATA);
    let tsc: u64 = machine.read(DATA + 8);
    let nanoseconds: u64 = machine.read(DATA + 16);
    let multiplier: u32 = machine.read(DATA + 24);
    let shift: i8 = machine.read(DATA + 28);
    let flags: u8 = machine.read(DATA + 29);
    assert!(version != 0 && version.is_multiple_of(2));
    assert!(tsc != 0 && tsc <= tsc_after);
    assert_eq!(nanoseconds, 5_000_000_000);
    assert_eq!(flags & 1, 1, "stable across processors");
    // A second of ticks is a second of nanoseconds, but for the scale's last bits.
    let ticks = u128::from(viv_engine::Engine::tsc_khz(&engine())) * 1000;
    let shifted = if shift < 0 { ticks >> -shift } else { ticks << shift };
    let second = (shifted * u128::from(multiplier)) >> 32;
    assert!((999_999_000..=1_000_001_000).contains(&second), "{second}");
    // The wall clock at guest time zero: the test's clock began with the epoch.
    assert_eq!(machine.read::<u32>(DATA + 0x100) % 2, 0);
    assert_eq!(machine.read::<[u32; 2]>(DATA + 0x104), [0, 0]);
}
