//! Events and IRET in 32-bit protected mode, outside long mode (SDM vol. 3, chapter 6).

use iced_x86::code_asm::*;
use viv_arch::{Gpr, Rflags, Segment, SegmentRegister};
use viv_engine::Exit;

use crate::machine::*;

const UD: u8 = 6;
const DF: u8 = 8;
const TS: u8 = 10;
const NP: u8 = 11;
const SS: u8 = 12;
const GP: u8 = 13;
/// A vector of the test's own.
const OWN: u8 = 0x40;
/// A handler of the test's own.
const OWN_HANDLER: u64 = CODE + 0x400;
/// Free memory below 64 KiB, where 16-bit gates and code reach.
const LOW_CODE: u64 = 0xa000;

/// Makes something wrong.
type Setup<'a> = &'a dyn Fn(&mut Machine);

/// The selector of segment register `register` at the end.
fn selector_of(outcome: &Outcome, register: SegmentRegister) -> u16 {
    outcome.state.segments[register as usize].selector
}

#[test]
fn an_event_at_the_same_level_stays_on_its_stack_and_returns() {
    let mut machine = Machine::protected();
    machine.state.rflags |= Rflags::IF | Rflags::CF | Rflags::AC;
    machine.on(OWN, Action::Return);
    let end = machine.code_of(32, CODE, &|a| a.int(u32::from(OWN)));
    machine.code_of(32, end, &stop);
    let outcome = machine.run_to_stop();
    let event = outcome.events[0];
    assert_eq!((event.brief(), event.cs), ((OWN, 0, CODE + 2), selector::CODE32));
    assert_eq!(event.rflags, machine.state.rflags.bits());
    assert_eq!(event.frame, STACK_TOP - 12);
    assert_eq!(outcome.gpr(Gpr::Rsp), STACK_TOP);
    assert_eq!(outcome.state.rflags, machine.state.rflags);
}

#[test]
fn an_event_in_user_mode_takes_the_stack_from_the_tss() {
    let mut machine = Machine::protected();
    machine.start_in_32bit_user_mode();
    machine.code_of(32, USER_CODE, &stop_user);
    let outcome = machine.run_to_stop();
    let event = outcome.events[0];
    assert_eq!((event.brief(), event.cs), ((VECTOR_STOP, 0, USER_CODE + 2), selector::USER_CODE32));
    assert_eq!((event.ss, event.rsp), (selector::USER_DATA, USER_STACK_TOP));
    assert_eq!(event.frame, RSP0_TOP - 20);
    assert_eq!(selector_of(&outcome, SegmentRegister::Cs), selector::CODE32);
    assert_eq!(selector_of(&outcome, SegmentRegister::Ss), selector::DATA);
    // And back.
    machine.on(VECTOR_STOP, Action::Return);
    let end = machine.code_of(32, USER_CODE, &stop_user);
    machine.code_of(32, end, &|a| a.cli());
    let outcome = machine.run_to_stop();
    let event = outcome.events[1];
    assert_eq!((event.brief(), event.cs), ((GP, 0, end), selector::USER_CODE32));
    assert_eq!((event.ss, event.rsp, event.frame), (selector::USER_DATA, USER_STACK_TOP, RSP0_TOP - 20));
}

#[test]
fn interrupt_gates_clear_if_and_trap_gates_do_not() {
    for (kind, stays) in [(INTERRUPT_32, false), (TRAP_32, true), (INTERRUPT_16, false), (TRAP_16, true)] {
        let mut machine = Machine::protected();
        machine.state.rflags |= Rflags::IF | Rflags::NT | Rflags::CF;
        machine.code_of(32, LOW_CODE, &stop);
        machine.set_gate_32(OWN, selector::CODE32, LOW_CODE, kind, 3);
        machine.code_of(32, CODE, &|a| a.int(u32::from(OWN)));
        let flags = machine.run_to_stop().state.rflags;
        assert_eq!(flags.contains(Rflags::IF), stays, "gate type {kind}");
        assert!(flags.contains(Rflags::CF) && !flags.intersects(Rflags::NT | Rflags::TF), "gate type {kind}");
    }
}

#[test]
fn gates_of_16_bits_push_words() {
    let mut machine = Machine::protected();
    machine.code_of(32, LOW_CODE, &|a| {
        a.mov(ebx, esp)?;
        a.iret()
    });
    machine.set_gate_32(OWN, selector::CODE32, LOW_CODE, INTERRUPT_16, 3);
    machine.code_of(32, 0x9000, &|a| {
        a.int(u32::from(OWN))?;
        stop(a)
    });
    machine.state.rip = 0x9000;
    let outcome = machine.run_to_stop();
    assert_eq!((outcome.gpr(Gpr::Rbx), outcome.gpr(Gpr::Rsp)), (STACK_TOP - 6, STACK_TOP));
    let frame: [u16; 3] = machine.read(STACK_TOP - 6);
    assert_eq!(frame, [0x9002, selector::CODE32, 2]);
    // From user mode, with a 16-bit TSS.
    machine.start_in_32bit_user_mode();
    machine.code_of(32, LOW_CODE, &stop);
    machine.code_of(32, USER_CODE, &|a| a.int(u32::from(OWN)));
    machine.state.tr.attributes = 0x83;
    machine.write(TSS + 2, 0xf000u16);
    machine.write(TSS + 4, selector::DATA);
    let outcome = machine.run_to_stop();
    assert_eq!(outcome.gpr(Gpr::Rsp), 0xf000 - 10);
    let frame: [u16; 5] = machine.read(0xf000 - 10);
    let user = (USER_CODE + 2) as u16;
    assert_eq!(frame, [user, selector::USER_CODE32, 2, USER_STACK_TOP as u16, selector::USER_DATA]);
}

#[test]
fn stacks_of_16_bits_wrap_at_64_kib() {
    let mut machine = Machine::protected();
    let small = Segment { attributes: 0x93, limit: 0xffff, ..Segment::data(selector::FREE, 0) };
    machine.set_descriptor(small.selector, small.to_descriptor());
    machine.state.segments[SegmentRegister::Ss as usize] = small;
    machine.set_gpr(Gpr::Rsp, 0x1234_0004);
    machine.code_of(32, CODE, &|a| a.int(u32::from(OWN)));
    machine.code_of(32, OWN_HANDLER, &stop);
    machine.set_gate_32(OWN, selector::CODE32, OWN_HANDLER, INTERRUPT_32, 0);
    let outcome = machine.run_to_stop();
    assert_eq!(outcome.gpr(Gpr::Rsp), 0x1234_fff8);
    assert_eq!(machine.read::<u32>(0), 2);
    assert_eq!(machine.read::<u32>(0xfff8), CODE as u32 + 2);
    // A frame that does not fit is #SS, and if that does not fit either, a double fault and the end.
    machine.state.segments[SegmentRegister::Ss as usize].limit = 0xff;
    assert_eq!(machine.run().exit, Exit::TripleFault);
}

#[test]
fn exceptions_push_their_error_codes() {
    let cases: [(&str, (u8, u64), Build<'_>); 5] = [
        ("selector beyond the table", (GP, 0x1000), &|a| {
            a.mov(eax, 0x1003)?;
            a.mov(ds, eax)
        }),
        ("privileged", (GP, 0), &|a| a.cli()),
        ("undefined", (UD, 0), &|a| a.ud2()),
        ("division", (0, 0), &|a| {
            a.xor(ecx, ecx)?;
            a.div(ecx)
        }),
        ("bound", (5, 0), &|a| a.db(&[0x62, 0x03])),
    ];
    for (name, wanted, build) in cases {
        let mut machine = Machine::protected();
        machine.start_in_32bit_user_mode();
        machine.set_gpr(Gpr::Rax, 5);
        machine.set_gpr(Gpr::Rbx, USER_DATA);
        machine.code_of(32, USER_CODE, build);
        let event = machine.run_to_stop().events[0];
        assert_eq!((event.vector, event.error_code), wanted, "{name}");
        assert_eq!((event.cs, event.frame), (selector::USER_CODE32, RSP0_TOP - 20), "{name}");
        assert!(event.has_flag(Rflags::RF), "{name}");
    }
}

#[test]
fn software_interrupts_need_the_gates_privilege() {
    let cases: [(u8, &[u8]); 3] = [(OWN, &[0xcd, OWN]), (3, &[0xcc]), (4, &[0xce])];
    for (vector, code) in cases {
        for (dpl, wanted) in [(0, (GP, u64::from(vector) * 8 + 2, USER_CODE)), (3, (vector, 0, 0))] {
            let mut machine = Machine::protected();
            machine.start_in_32bit_user_mode();
            machine.state.rflags |= Rflags::OF;
            machine.write_bytes(USER_CODE, code);
            let at = STUBS + u64::from(vector) * STUB_SIZE;
            machine.set_gate_32(vector, selector::CODE32, at, INTERRUPT_32, dpl);
            let event = machine.run_to_stop().events[0];
            let end = USER_CODE + code.len() as u64;
            let wanted = if dpl == 3 { (vector, 0, end) } else { wanted };
            assert_eq!(event.brief(), wanted, "{vector}");
        }
    }
}

#[test]
fn bad_gates_are_told_by_their_vector() {
    let absent = Segment { attributes: 0xc01b, ..Segment::code32(selector::FREE, 0) };
    let at = |vector: u8| STUBS + u64::from(vector) * STUB_SIZE;
    let own = u64::from(OWN) * 8 + 2;
    let set = |machine: &Machine, code: u16, kind: u64| machine.set_gate_32(OWN, code, at(OWN), kind, 3);
    let cases: [(&str, (u8, u64), Setup<'_>); 8] = [
        ("beyond the table", (GP, own), &|m| m.state.idtr.limit = u16::from(OWN) * 8 + 6),
        ("no gate", (GP, own), &|m| set(m, selector::CODE32, 0xc)),
        ("not present", (NP, own), &|m| m.write(IDT + u64::from(OWN) * 8, 0x0000_6e00_0040_0000u64)),
        ("null", (GP, 0), &|m| set(m, 3, INTERRUPT_32)),
        ("code beyond the table", (GP, 0x1000), &|m| set(m, 0x1000, INTERRUPT_32)),
        ("data", (GP, 0x10), &|m| set(m, selector::DATA, INTERRUPT_32)),
        ("outer code", (GP, 0x18), &|m| set(m, selector::USER_CODE32, INTERRUPT_32)),
        ("code not present", (NP, 0x48), &|m| set(m, selector::FREE, INTERRUPT_32)),
    ];
    for (name, wanted, setup) in cases {
        let mut machine = Machine::protected();
        machine.set_descriptor(absent.selector, absent.to_descriptor());
        setup(&mut machine);
        machine.code_of(32, CODE, &|a| a.int(u32::from(OWN)));
        let event = machine.run_to_stop().events[0];
        assert_eq!(event.brief(), (wanted.0, wanted.1, CODE), "{name}");
        assert_eq!(event.frame, STACK_TOP - 12, "{name}");
    }
}

#[test]
fn bad_stacks_in_the_tss_are_told_by_their_selector() {
    let absent = Segment { attributes: 0xc013, ..Segment::data(selector::FREE, 0) };
    let tss = u64::from(selector::TSS);
    let stack = |value: u16| move |m: &mut Machine| m.write(TSS + 8, value);
    let short = |m: &mut Machine| m.state.tr.limit = 8;
    let tiny = |m: &mut Machine| {
        let segment = Segment { attributes: 0x4093, limit: 0xff, ..Segment::data(selector::FREE + 8, 0) };
        m.set_descriptor(segment.selector, segment.to_descriptor());
        m.write(TSS + 8, segment.selector);
    };
    let cases: [(&str, (u8, u64), Setup<'_>); 8] = [
        ("null", (TS, 0), &stack(0)),
        ("beyond the table", (TS, 0x1000), &stack(0x1000)),
        ("RPL", (TS, 0x10), &stack(0x11)),
        ("user data", (TS, 0x20), &stack(selector::USER_DATA)),
        ("code", (TS, 0x40), &stack(selector::CODE32)),
        ("not present", (SS, 0x48), &stack(selector::FREE)),
        ("no room", (SS, 0x50), &tiny),
        ("TSS too short", (TS, tss), &short),
    ];
    for (name, (vector, code), setup) in cases {
        for by_exception in [false, true] {
            let mut machine = Machine::protected();
            machine.start_in_32bit_user_mode();
            machine.set_descriptor(absent.selector, absent.to_descriptor());
            setup(&mut machine);
            // The handlers for what comes of it need no other stack. With IOPL they can stop the machine.
            machine.state.rflags |= Rflags::IOPL;
            machine.code_of(32, USER_CODE + 0x100, &|a| {
                let mut here = a.create_label();
                a.mov(ebx, dword_ptr(esp))?;
                a.out(u32::from(PORT_STOP), al)?;
                a.set_label(&mut here)?;
                a.jmp(here)
            });
            machine.set_gate_32(vector, selector::USER_CODE32, USER_CODE + 0x100, INTERRUPT_32, 0);
            machine.code_of(32, USER_CODE, &|a| if by_exception { a.ud2() } else { a.int(u32::from(OWN)) });
            let outcome = machine.run_to_stop();
            assert_eq!(outcome.gpr(Gpr::Rbx), code | u64::from(by_exception), "{name}");
            assert_eq!(outcome.gpr(Gpr::Rsp), USER_STACK_TOP - 16, "{name}");
            assert_eq!(machine.read::<u32>(USER_STACK_TOP - 12), USER_CODE as u32, "{name}");
        }
    }
}

#[test]
fn faults_in_delivery_become_double_faults_and_shutdown() {
    let mut machine = Machine::protected();
    machine.write(IDT + u64::from(UD) * 8, 0u64);
    machine.code_of(32, CODE, &|a| a.ud2());
    // #UD with #GP in delivering it is just #GP.
    assert_eq!(machine.run_to_stop().events[0].brief(), (GP, u64::from(UD) * 8 + 3, CODE));
    machine.write(IDT + u64::from(GP) * 8, 0u64);
    assert_eq!(machine.run_to_stop().events[0].brief(), (DF, 0, CODE));
    machine.write(IDT + u64::from(DF) * 8, 0u64);
    assert_eq!(machine.run().exit, Exit::TripleFault);
}

#[test]
fn single_steps_are_trapped() {
    let mut machine = Machine::protected();
    machine.state.rflags |= Rflags::TF;
    machine.on(1, Action::Return);
    machine.code_of(32, CODE, &|a| {
        a.nop()?;
        a.nop()?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    assert_eq!(outcome.briefs()[..2], [(1, 0, CODE + 1), (1, 0, CODE + 2)]);
}

#[test]
fn interrupts_from_outside_come_through_the_same_gates() {
    let mut machine = Machine::protected();
    machine.start_in_32bit_user_mode();
    machine.state.rflags |= Rflags::IF;
    machine.platform.extint.lock().unwrap().push(OWN);
    machine.vm.set_extint(true);
    machine.code_of(32, USER_CODE, &|a| {
        let mut here = a.create_label();
        a.set_label(&mut here)?;
        a.jmp(here)
    });
    let event = machine.run_to_stop().events[0];
    assert_eq!((event.brief(), event.cs), ((OWN, 0, USER_CODE), selector::USER_CODE32));
    assert!(event.has_flag(Rflags::IF) && !event.has_flag(Rflags::RF));
}

/// Pushes a frame for IRETD and executes it.
fn iret_with(machine: &mut Machine, frame: [u32; 5]) -> Outcome {
    let at = STACK_TOP - 20;
    machine.write(at, frame);
    machine.set_gpr(Gpr::Rsp, at);
    machine.code_of(32, CODE, &|a| a.iretd());
    machine.run()
}

#[test]
fn iret_to_user_mode_loads_the_stack_and_hides_data() {
    let mut machine = Machine::protected();
    machine.code_of(32, USER_CODE, &|a| {
        a.nop()?;
        stop_user(a)
    });
    let flags = (Rflags::all() - Rflags::TF - Rflags::VM - Rflags::NT - Rflags::VIF - Rflags::VIP).bits();
    let code = u32::from(selector::USER_CODE32);
    let frame = [USER_CODE as u32, code, flags as u32, USER_STACK_TOP as u32, selector::USER_DATA.into()];
    // The handler's own data segment is null by then.
    machine.code_of(32, OWN_HANDLER, &stop);
    machine.set_gate_32(VECTOR_STOP, selector::CODE32, OWN_HANDLER, INTERRUPT_32, 3);
    let outcome = iret_with(&mut machine, frame);
    assert!(outcome.stopped, "{outcome:?}");
    let pushed: [u32; 5] = machine.read(RSP0_TOP - 20);
    let after = flags as u32 & !(Rflags::RF.bits() as u32);
    assert_eq!(pushed, [USER_CODE as u32 + 3, code, after, frame[3], frame[4]]);
    for register in [SegmentRegister::Ds, SegmentRegister::Es, SegmentRegister::Fs, SegmentRegister::Gs] {
        let segment = outcome.state.segments[register as usize];
        assert_eq!((segment.selector, segment.is_usable()), (0, false));
    }
}

#[test]
fn iret_checks_before_it_changes_anything() {
    let (code, data) = (u32::from(selector::USER_CODE32), u32::from(selector::USER_DATA));
    let at = USER_CODE as u32;
    let cases = [
        ("null CS", [at, 0, 2, 0, data], 0),
        ("CS beyond the table", [at, 0x1003, 2, 0, data], 0x1000),
        ("data in CS", [at, data, 2, 0, data], 0x20),
        ("RPL differs", [at, code & !3, 2, 0, data], 0x18),
        ("null SS", [at, code, 2, 0, 3], 0),
        ("null SS with RPL 0", [at, code, 2, 0, 0], 0),
        ("SS of another level", [at, code, 2, 0, 0x13], 0x10),
    ];
    for (name, frame, error_code) in cases {
        let mut machine = Machine::protected();
        let outcome = iret_with(&mut machine, frame);
        let event = outcome.events[0];
        assert_eq!(event.brief(), (GP, error_code, CODE), "{name}");
        assert_eq!(event.frame, STACK_TOP - 20 - 12, "{name}");
    }
}
