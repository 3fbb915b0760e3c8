//! A machine saved in the middle of its work goes on in another.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use viv_arch::{Gpr, VcpuState, msr};
use viv_engine::{Exit, Msi};

use crate::machine::*;

/// Runs `build` to its end in one machine; and, kicked at each of the hook's calls, handed from machine to machine.
/// Both must come to the same registers, and to the same bytes at [`DATA`].
fn compare(setup: impl Fn(&mut Machine), build: Build<'_>) {
    let run_whole = || {
        let mut machine = Machine::new();
        setup(&mut machine);
        machine.code(CODE, build);
        let outcome = machine.run_to_stop();
        assert_eq!(outcome.briefs().iter().filter(|event| event.0 < 32).count(), 0, "{outcome:?}");
        (outcome.state, machine.read_bytes(DATA, 0x4000))
    };
    let (whole, whole_memory) = run_whole();
    let mut machine = Machine::new();
    setup(&mut machine);
    machine.code(CODE, build);
    let mut moves = 0;
    loop {
        let kicker = machine.vcpu.kicker();
        machine.platform.set_hook(move |_| kicker.kick());
        let outcome = machine.run();
        assert_eq!(outcome.exit, Exit::Kicked);
        if outcome.stopped {
            assert_eq!(comparable(outcome.state), comparable(whole));
            assert!(machine.read_bytes(DATA, 0x4000) == whole_memory);
            break;
        }
        moves += 1;
        let mut next = machine.copy();
        next.state = outcome.state;
        machine = next;
    }
    assert!(moves > 3, "{moves}");
}

/// The state less what time changes.
fn comparable(state: VcpuState) -> VcpuState {
    VcpuState { tsc: 0, ..state }
}

fn hook(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.out(u32::from(PORT_HOOK), al)
}

#[test]
fn a_computation_with_every_kind_of_register() {
    compare(
        |machine| {
            machine.state.debug[0] = 0x1234;
            machine.set_msr(msr::IA32_LSTAR, 0xffff_8000_1234_5678);
            machine.set_gpr(Gpr::R15, 0x1111_2222_3333_4444);
        },
        &|a| {
            a.mov(ecx, 8)?;
            a.fninit()?;
            a.fld1()?;
            a.pcmpeqd(xmm3, xmm3)?;
            a.vpcmpeqd(ymm9, ymm9, ymm9)?;
            a.mov(edi, DATA as u32)?;
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            a.fldpi()?;
            a.faddp(st1, st0)?;
            hook(a)?;
            a.psubd(xmm3, xmm0)?;
            a.paddd(xmm0, xmm3)?;
            a.vpaddq(ymm9, ymm9, ymm9)?;
            a.imul_3(rdx, rdi, 77)?;
            a.stosq()?;
            a.fst(qword_ptr(rdi))?;
            a.add(edi, 8)?;
            a.dec(ecx)?;
            a.jnz(again)?;
            a.vmovups(ymmword_ptr(DATA + 0x800), ymm9)?;
            stop(a)
        },
    );
}

#[test]
fn user_mode_and_its_handlers() {
    compare(
        |machine| {
            machine.start_in_user_mode();
            machine.on(0x50, Action::Return);
            machine.state.rflags |= viv_arch::Rflags::IOPL;
            machine.state.rip = USER_CODE;
            machine.code(USER_CODE, &|a| {
                a.mov(ecx, 5)?;
                let mut again = a.create_label();
                a.set_label(&mut again)?;
                a.int(0x50)?;
                hook(a)?;
                a.add(rbx, rcx)?;
                a.dec(ecx)?;
                a.jnz(again)?;
                stop_user(a)
            });
        },
        &|a| a.nop(),
    );
}

#[test]
fn a_copy_is_kicked_between_its_elements_and_goes_on() {
    let mut machine = Machine::new();
    for at in (FREE..FREE + 0x80_0000).step_by(0x20_0000) {
        machine.tables.map(at, at, PageSize::Size2M, KERNEL);
    }
    let bytes: Vec<u8> = (0..0x30_0000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    machine.write_bytes(FREE, &bytes);
    machine.set_gpr(Gpr::Rsi, FREE);
    machine.set_gpr(Gpr::Rdi, FREE + 0x40_0000);
    machine.set_gpr(Gpr::Rcx, bytes.len() as u64);
    let kicker = machine.vcpu.kicker();
    machine.platform.set_hook(move |_| kicker.kick());
    machine.code(CODE, &|a| {
        hook(a)?;
        a.rep().movsb()?;
        stop(a)
    });
    let outcome = machine.run();
    assert!(!outcome.stopped);
    let left = outcome.gpr(Gpr::Rcx);
    assert!(left > 0 && left < bytes.len() as u64, "{left:#x} left, kicked in the middle");
    let mut next = machine.copy();
    next.state = outcome.state;
    next.run_to_stop();
    assert!(next.read_bytes(FREE + 0x40_0000, bytes.len()) == bytes);
}

#[test]
fn a_halted_processor_and_its_timer() {
    let mut machine = Machine::new();
    machine.on(0x61, Action::EndOfInterrupt);
    let end = machine.code(CODE, &|a| {
        a.mov(dword_ptr(APIC + 0xf0), 0x1ff)?;
        a.mov(dword_ptr(APIC + 0x320), 0x61 | 2 << 17)?;
        // Minutes from now, so that it does not come before it is halted, however busy the host is.
        a.rdtsc()?;
        a.add(edx, 256)?;
        a.mov(ecx, msr::IA32_TSC_DEADLINE)?;
        a.wrmsr()?;
        a.sti()?;
        hook(a)?;
        a.hlt()
    });
    machine.code(end, &stop);
    let kicker = machine.vcpu.kicker();
    machine.platform.set_hook(move |_| kicker.kick());
    let outcome = machine.run();
    assert!(!outcome.stopped && outcome.events.is_empty());
    let mut next = machine.copy();
    next.state = outcome.state;
    let tsc = next.state.tsc;
    let deadline = next.state.msrs.iter_mut().find(|(number, _)| *number == msr::IA32_TSC_DEADLINE);
    // Far enough that it is halted by then.
    deadline.expect("it is armed").1 = tsc + 1_000_000_000;
    let outcome = next.run_to_stop();
    assert_eq!(outcome.events[0].brief(), (0x61, 0, end));
}

#[test]
fn interrupts_on_their_way_travel() {
    let mut machine = Machine::new();
    let vm = Arc::clone(&machine.vm);
    let kicker = machine.vcpu.kicker();
    machine.platform.set_hook(move |_| {
        vm.send_msi(Msi { address: 0xfee0_0000, data: 0x61 });
        vm.send_msi(Msi { address: 0xfee0_0000, data: 4 << 8 });
        kicker.kick();
    });
    let end = machine.code(CODE, &|a| {
        a.mov(dword_ptr(APIC + 0xf0), 0x1ff)?;
        hook(a)?;
        let mut next = a.create_label();
        a.jmp(next)?;
        a.set_label(&mut next)?;
        a.sti()?;
        a.nop()
    });
    machine.code(end, &stop);
    let outcome = machine.run();
    assert!(!outcome.stopped && outcome.events.is_empty());
    let mut next = machine.copy();
    next.state = outcome.state;
    next.on(2, Action::Return);
    next.on(0x61, Action::EndOfInterrupt);
    let outcome = next.run_to_stop();
    let vectors: Vec<u8> = outcome.events.iter().map(|event| event.vector).collect();
    assert_eq!(vectors, [2, 0x61]);
    assert_eq!(outcome.events[1].rip, end);
}

#[test]
fn kicks_between_any_two_blocks_lose_no_interrupt() {
    // The guest counts interrupts that it sends to itself; a thread kicks it all the while.
    let mut machine = Machine::new();
    machine.set_handler(0x61, CODE + 0x400, &|a| {
        a.inc(rbx)?;
        a.mov(dword_ptr(APIC + 0xb0), 0)?;
        a.iretq()
    });
    machine.code(CODE, &|a| {
        a.mov(dword_ptr(APIC + 0xf0), 0x1ff)?;
        a.mov(ecx, 2000)?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.mov(dword_ptr(APIC + 0x300), 0x61 | 1 << 18)?;
        a.sti()?;
        a.hlt()?;
        a.cli()?;
        a.dec(ecx)?;
        a.jnz(again)?;
        stop(a)
    });
    let kicker = machine.vcpu.kicker();
    let kicks = Arc::new(AtomicU32::new(0));
    let running = Arc::clone(&kicks);
    let thread = std::thread::spawn(move || {
        while Arc::strong_count(&running) > 1 {
            kicker.kick();
            running.fetch_add(1, Ordering::SeqCst);
            std::thread::yield_now();
        }
    });
    let mut outcome = machine.run();
    while !outcome.stopped {
        assert_eq!(outcome.exit, Exit::Kicked);
        outcome = machine.resume();
    }
    drop(kicks);
    thread.join().unwrap();
    assert_eq!(outcome.gpr(Gpr::Rbx), 2000);
}
