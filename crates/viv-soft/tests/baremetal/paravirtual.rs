//! What a guest gets because it knows that it is one: hypercalls, steal time, PAUSE loops that let other threads run.

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use viv_arch::{Gpr, Rflags, VcpuState, msr};

use crate::machine::*;

const GP: u8 = 13;
const VECTOR: u8 = 0x61;
const KICK_CPU: u32 = 5;
const SEND_IPI: u32 = 10;
const SCHED_YIELD: u32 = 11;
/// What there is none of.
const NO_SUCH_CALL: u64 = -1000i64 as u64;
/// Where the guest wants its steal time.
const STEAL_TIME: u64 = DATA + 0x40;

/// Calls the host by number; RBX, RCX, RDX and RSI are what they are.
fn call(a: &mut CodeAssembler, number: u32) -> Result<(), IcedError> {
    a.mov(eax, number)?;
    a.vmcall()
}

#[test]
fn a_kick_ends_hlt_with_interrupts_off() {
    let kick: Build<'_> = &|a| {
        a.mov(ecx, 0)?;
        call(a, KICK_CPU)
    };
    let mut machine = Machine::new();
    machine.code(CODE, &|a| {
        kick(a)?;
        a.mov(rbp, rax)?;
        a.hlt()?;
        // One that nobody has is for nobody.
        a.mov(ecx, 1)?;
        call(a, KICK_CPU)?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    assert_eq!((outcome.gpr(Gpr::Rbp), outcome.gpr(Gpr::Rax)), (0, 0));
    // One kick is for one HLT, and travels with a saved state until then.
    let mut machine = Machine::new();
    let kicker = machine.vcpu.kicker();
    machine.platform.set_hook(move |_| kicker.kick());
    machine.code(CODE, &|a| {
        kick(a)?;
        a.out(u32::from(PORT_HOOK), al)?;
        let mut next = a.create_label();
        a.jmp(next)?;
        a.set_label(&mut next)?;
        a.hlt()?;
        stop(a)
    });
    let outcome = machine.run();
    assert!(!outcome.stopped && outcome.state.woken);
    let mut next = machine.copy();
    next.state = outcome.state;
    assert!(!next.run_to_stop().state.woken);
}

#[test]
fn interrupts_are_sent_to_many_at_once() {
    let mut machine = Machine::with_processors(3);
    machine.on(VECTOR, Action::EndOfInterrupt);
    machine.on(2, Action::Return);
    machine.code(CODE, &|a| {
        a.mov(dword_ptr(APIC + 0xf0), 0x1ff)?;
        a.sti()?;
        // 0 and 2, and what is not there.
        a.mov(rbx, 0x8000_0000_0000_0005u64)?;
        a.mov(rcx, u64::MAX)?;
        a.xor(edx, edx)?;
        a.mov(esi, u32::from(VECTOR))?;
        call(a, SEND_IPI)?;
        a.mov(rbp, rax)?;
        // An NMI to 0, counted from there; its vector does not count.
        a.mov(ebx, 1)?;
        a.xor(ecx, ecx)?;
        a.mov(esi, 4 << 8)?;
        call(a, SEND_IPI)?;
        a.mov(rdi, rax)?;
        // Nothing else is sent.
        a.mov(esi, 5 << 8)?;
        call(a, SEND_IPI)?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    let vectors: Vec<u8> = outcome.events.iter().map(|event| event.vector).collect();
    assert_eq!(vectors, [VECTOR, 2]);
    assert_eq!((outcome.gpr(Gpr::Rbp), outcome.gpr(Gpr::Rdi)), (2, 1));
    assert_eq!(outcome.gpr(Gpr::Rax), NO_SUCH_CALL);
    // Beyond all there are, and beyond what can be counted.
    for first in [3u64, 64, u64::MAX] {
        let mut machine = Machine::with_processors(3);
        machine.set_gpr(Gpr::Rbx, u64::MAX);
        machine.set_gpr(Gpr::Rcx, u64::MAX);
        machine.set_gpr(Gpr::Rdx, first);
        machine.set_gpr(Gpr::Rsi, VECTOR.into());
        machine.code(CODE, &|a| {
            call(a, SEND_IPI)?;
            stop(a)
        });
        assert_eq!(machine.run_to_stop().gpr(Gpr::Rax), 0);
    }
}

#[test]
fn other_calls_are_refused() {
    for (number, result) in [(SCHED_YIELD, 0), (0, NO_SUCH_CALL), (9, NO_SUCH_CALL), (u32::MAX, NO_SUCH_CALL)]
    {
        for code in [[0x0f, 0x01, 0xc1], [0x0f, 0x01, 0xd9]] {
            let mut machine = Machine::new();
            machine.set_gpr(Gpr::Rax, number.into());
            machine.write_bytes(CODE, &code);
            machine.code(CODE + 3, &stop);
            assert_eq!(machine.run_to_stop().gpr(Gpr::Rax), result, "{number}");
        }
    }
    let mut machine = Machine::new();
    machine.start_in_user_mode();
    machine.code(USER_CODE, &|a| {
        call(a, SCHED_YIELD)?;
        stop_user(a)
    });
    assert_eq!(machine.run_to_stop().gpr(Gpr::Rax), u64::MAX);
    // Outside 64-bit mode, results have 32 bits.
    let mut machine = Machine::protected();
    machine.code_of(32, CODE, &|a| {
        a.vmmcall()?;
        stop(a)
    });
    assert_eq!(machine.run_to_stop().gpr(Gpr::Rax), NO_SUCH_CALL & 0xffff_ffff);
}

#[test]
fn steal_time_is_added_to_what_is_there() {
    let write = |value: u64| {
        move |a: &mut CodeAssembler| {
            a.mov(ecx, msr::KVM_STEAL_TIME)?;
            a.mov(eax, value as u32)?;
            a.xor(edx, edx)?;
            a.wrmsr()
        }
    };
    let mut machine = Machine::new();
    machine.write(STEAL_TIME, 1u64 << 40);
    machine.write(STEAL_TIME + 8, 7u32);
    machine.code(CODE, &|a| {
        write(STEAL_TIME | 1)(a)?;
        a.rdmsr()?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    assert_eq!(outcome.gpr(Gpr::Rax), STEAL_TIME | 1);
    let stolen = machine.read::<u64>(STEAL_TIME) - (1 << 40);
    assert!(stolen < 3_600_000_000_000, "{stolen} ns");
    assert_eq!(machine.read::<u32>(STEAL_TIME + 8), 10, "an even version, later than the one before");
    assert_eq!(machine.read_bytes(STEAL_TIME + 12, 52), [0; 52]);
    assert!(outcome.state.msrs.contains(&(msr::KVM_STEAL_TIME, STEAL_TIME | 1)));
    // Off, nothing is written.
    let mut machine = Machine::new();
    machine.code(CODE, &|a| {
        write(STEAL_TIME)(a)?;
        stop(a)
    });
    machine.run_to_stop();
    assert_eq!(machine.read_bytes(STEAL_TIME, 64), [0; 64]);
    for bit in 1..6 {
        machine.code(CODE, &write(STEAL_TIME | 1 << bit | 1));
        assert_eq!(machine.run_to_stop().events[0].brief().0, GP, "{bit}");
    }
    // Where there is no memory it goes nowhere.
    machine.code(CODE, &|a| {
        write(0xe000_0001)(a)?;
        stop(a)
    });
    assert!(machine.run_to_stop().events.is_empty());
}

#[test]
fn steal_time_goes_on_with_the_timer() {
    let mut machine = Machine::new();
    machine.on(VECTOR, Action::EndOfInterrupt);
    machine.set_msr(msr::KVM_STEAL_TIME, STEAL_TIME | 1);
    let end = machine.code(CODE, &|a| {
        a.mov(dword_ptr(APIC + 0xf0), 0x1ff)?;
        a.mov(dword_ptr(APIC + 0x320), i32::from(VECTOR) | 2 << 17)?;
        a.sti()?;
        a.rdtsc()?;
        a.add(eax, 100_000)?;
        a.mov(ecx, msr::IA32_TSC_DEADLINE)?;
        a.wrmsr()?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.pause()?;
        a.cmp(dword_ptr(LOG), 0)?;
        a.je(again)
    });
    machine.code(end, &stop);
    let outcome = machine.run_to_stop();
    assert_eq!(outcome.events[0].vector, VECTOR);
    let version = machine.read::<u32>(STEAL_TIME + 8);
    assert!(version > 0 && version.is_multiple_of(2), "{version}");
}

#[test]
fn pauses_leave_everything_as_it_is() {
    // More processors than the host has, as many, and one.
    for vcpus in [64, 2, 1] {
        for flag in [Rflags::empty(), Rflags::CF, Rflags::ZF | Rflags::OF | Rflags::SF] {
            let mut machine = Machine::with_processors(vcpus);
            machine.code(CODE, &|a| {
                a.mov(ecx, 10_000)?;
                let mut again = a.create_label();
                a.set_label(&mut again)?;
                a.push(flag.bits() as i32)?;
                a.popfq()?;
                a.pause()?;
                a.seto(dl)?;
                a.setc(dh)?;
                a.sete(bl)?;
                a.movzx(ebp, dx)?;
                a.add(r8, rbp)?;
                a.movzx(ebx, bl)?;
                a.add(r9, rbx)?;
                a.dec(ecx)?;
                a.jnz(again)?;
                stop(a)
            });
            let outcome = machine.run_to_stop();
            let bit = |wanted: Rflags| u64::from(flag.contains(wanted));
            assert_eq!(outcome.gpr(Gpr::R8), 10_000 * (bit(Rflags::OF) | bit(Rflags::CF) << 8), "{flag:?}");
            assert_eq!(outcome.gpr(Gpr::R9), 10_000 * bit(Rflags::ZF), "{flag:?}");
        }
    }
}

#[test]
fn a_state_that_is_woken_leaves_hlt() {
    let mut machine = Machine::new();
    machine.state = VcpuState { woken: true, ..machine.state.clone() };
    machine.code(CODE, &|a| {
        a.hlt()?;
        stop(a)
    });
    machine.run_to_stop();
}
