//! Events and IRET in real mode (SDM vol. 3, 20.1; vol. 2, INT n and IRET).

use iced_x86::code_asm::*;
use viv_arch::{Gpr, Rflags, Segment};
use viv_engine::Exit;

use crate::machine::*;

const BP: u8 = 3;
const OF: u8 = 4;
const UD: u8 = 6;
const DF: u8 = 8;
const SS: u8 = 12;
const GP: u8 = 13;
/// A vector of the test's own.
const OWN: u8 = 0x40;

#[test]
fn int_goes_by_the_vector_table_and_iret_returns() {
    let mut machine = Machine::real();
    machine.state.rflags |= Rflags::IF | Rflags::CF | Rflags::DF | Rflags::AC;
    machine.on(OWN, Action::Return);
    let end = machine.real_code(0, &|a| a.int(u32::from(OWN)));
    machine.real_code(end, &stop);
    let outcome = machine.run_to_stop();
    let event = outcome.events[0];
    let flags = (machine.state.rflags - Rflags::AC).bits();
    assert_eq!((event.brief(), event.cs, event.rflags), ((OWN, 0, 2), REAL_CODE, flags));
    assert_eq!(event.frame, REAL_STACK_TOP - 6);
    assert_eq!(outcome.gpr(Gpr::Rsp), REAL_STACK_TOP);
    // 16 bits of flags are pushed, and AC is not among them.
    assert_eq!(outcome.state.rflags.bits(), flags);
    assert_eq!(outcome.state.segments[1].selector, REAL_CODE);
    // In the handler.
    machine.on(OWN, Action::GoTo(0));
    let outcome = machine.run_to_stop();
    assert!(!outcome.state.rflags.intersects(Rflags::IF | Rflags::TF | Rflags::AC));
    assert_eq!((outcome.state.segments[1].selector, outcome.state.segments[1].base), (0, 0));
}

#[test]
fn exceptions_push_no_error_codes() {
    let cases: [(&str, u8, u64, Build<'_>); 7] = [
        ("undefined", UD, 0, &|a| a.ud2()),
        ("division", 0, 0, &|a| a.div(cl)),
        ("bound", 5, 0, &|a| a.db(&[0x62, 0x07])),
        ("breakpoint", BP, 1, &|a| a.int3()),
        ("overflow", OF, 1, &|a| a.into()),
        ("segment limit", GP, 0, &|a| a.mov(ax, word_ptr(bx + 0x7fff))),
        ("stack limit", SS, 0, &|a| a.mov(ax, word_ptr(bp + 0x7fff))),
    ];
    for (name, vector, rip, build) in cases {
        let mut machine = Machine::real();
        machine.state.rflags |= Rflags::OF;
        machine.set_gpr(Gpr::Rax, 5);
        machine.set_gpr(Gpr::Rbx, 0x8000);
        machine.set_gpr(Gpr::Rbp, 0x8000);
        machine.real_code(0, build);
        let event = machine.run_to_stop().events[0];
        assert_eq!((event.brief(), event.cs), ((vector, 0, rip), REAL_CODE), "{name}");
        assert_eq!(event.frame, REAL_STACK_TOP - 6, "{name}");
    }
}

#[test]
fn vectors_beyond_the_table_fault() {
    let run = |limit: u16| {
        let mut machine = Machine::real();
        machine.state.idtr.limit = limit;
        machine.real_code(0, &|a| a.int(u32::from(OWN)));
        machine.run()
    };
    assert_eq!(run(u16::from(OWN) * 4 + 3).events[0].brief(), (OWN, 0, 2));
    assert_eq!(run(u16::from(OWN) * 4 + 2).events[0].brief(), (GP, 0, 0));
    assert_eq!(run(u16::from(GP) * 4 + 2).events[0].brief(), (DF, 0, 0));
    assert_eq!(run(u16::from(DF) * 4 + 2).exit, Exit::TripleFault);
}

#[test]
fn the_table_is_where_lidt_says() {
    let mut machine = Machine::real();
    machine.write(0xa000, 0x3ffu16);
    machine.write(0xa002, DATA as u32);
    machine.write(DATA + u64::from(OWN) * 4, 0x0100u16);
    machine.write(DATA + u64::from(OWN) * 4 + 2, REAL_CODE);
    machine.real_code(0, &|a| {
        a.db(&[0x0f, 0x01, 0x1e, 0x00, 0xa0])?; // lidt [0xa000]
        a.int(u32::from(OWN))
    });
    machine.real_code(0x100, &|a| {
        a.mov(bx, 0x1234)?;
        stop(a)
    });
    assert_eq!(machine.run_to_stop().gpr(Gpr::Rbx), 0x1234);
}

#[test]
fn frames_wrap_at_64_kib_between_words_only() {
    let mut machine = Machine::real();
    machine.real_code(0, &|a| a.int(u32::from(OWN)));
    machine.write(u64::from(OWN) * 4, u32::from(REAL_CODE) << 16 | 0x100);
    machine.real_code(0x100, &stop);
    // A stack apart from the vectors.
    machine.state.segments[2] = Segment { selector: 0x3000, base: DATA, ..machine.state.segments[2] };
    machine.set_gpr(Gpr::Rsp, 0x5678_0004);
    let outcome = machine.run_to_stop();
    assert_eq!(outcome.gpr(Gpr::Rsp), 0x5678_fffe);
    assert_eq!(machine.read::<[u16; 2]>(DATA), [REAL_CODE, 2]);
    assert_eq!(machine.read::<u16>(DATA + 0xfffe), 2);
    // A word at 0xffff is #SS, which finds no better place.
    machine.set_gpr(Gpr::Rsp, 1);
    let outcome = machine.run();
    assert_eq!((outcome.exit, outcome.state.gpr[4]), (Exit::TripleFault, 1));
}

#[test]
fn single_steps_are_trapped() {
    let mut machine = Machine::real();
    machine.on(1, Action::Return);
    machine.on(OWN, Action::Return);
    machine.state.rflags |= Rflags::TF;
    machine.real_code(0, &|a| {
        a.nop()?;
        a.int(u32::from(OWN))?;
        a.nop()?;
        stop(a)
    });
    // INT n is not stepped into, and IRET brings TF back for what follows it.
    let briefs = machine.run_to_stop().briefs();
    assert_eq!(briefs[..3], [(1, 0, 1), (OWN, 0, 3), (1, 0, 4)]);
}

#[test]
fn interrupts_wake_a_halted_processor() {
    let mut machine = Machine::real();
    machine.on(OWN, Action::Return);
    machine.platform.extint.lock().unwrap().push(OWN);
    machine.vm.set_extint(true);
    let end = machine.real_code(0, &|a| {
        a.nop()?;
        a.sti()?;
        a.hlt()
    });
    machine.real_code(end, &|a| {
        a.cli()?;
        stop(a)
    });
    // The 8259 has no second one to give.
    let outcome = machine.run_to_stop();
    let event = outcome.events[0];
    assert_eq!((event.brief(), event.cs), ((OWN, 0, end), REAL_CODE));
    assert!(event.has_flag(Rflags::IF));
}

#[test]
fn interrupts_wait_for_if() {
    let mut machine = Machine::real();
    machine.platform.extint.lock().unwrap().push(OWN);
    machine.vm.set_extint(true);
    machine.real_code(0, &|a| {
        a.nop()?;
        a.push(0x202)?;
        a.popf()?;
        a.nop()?;
        stop(a)
    });
    assert_eq!(machine.run_to_stop().events[0].brief(), (OWN, 0, 5));
}

#[test]
fn iretd_loads_32_bits() {
    let flags = Rflags::CF | Rflags::AC | Rflags::ID | Rflags::IOPL | Rflags::NT | Rflags::RESERVED_1;
    let not_loaded = Rflags::VM | Rflags::VIF | Rflags::VIP;
    let run = |rip: u32| {
        let mut machine = Machine::real();
        let frame = [rip, 0xffff_0000 | u32::from(REAL_CODE), (flags | not_loaded).bits() as u32];
        machine.write(REAL_STACK_TOP, frame);
        machine.real_code(0, &|a| a.iretd());
        machine.real_code(0x100, &stop);
        machine.run_to_stop()
    };
    let outcome = run(0x100);
    assert!(outcome.events.is_empty(), "{outcome:?}");
    assert_eq!((outcome.state.rflags, outcome.gpr(Gpr::Rsp)), (flags, REAL_STACK_TOP + 12));
    let event = run(0x1_0000).events[0];
    assert_eq!((event.brief(), event.frame), ((GP, 0, 0), REAL_STACK_TOP - 6));
}

/// What a boot loader does: into protected mode, and back to real mode for the firmware.
#[test]
fn protected_mode_and_back() {
    let mut machine = Machine::real();
    let code16 = Segment { attributes: 0x9b, limit: 0xffff, base: CODE, selector: selector::FREE };
    let data16 = Segment { attributes: 0x93, limit: 0xffff, base: 0, selector: selector::FREE + 8 };
    for segment in [code16, data16] {
        machine.set_descriptor(segment.selector, segment.to_descriptor());
    }
    machine.on(OWN, Action::Return);
    let end = machine.real_code(0, &|a| {
        a.mov(eax, cr0)?;
        a.or(al, 1)?;
        a.mov(cr0, eax)
    });
    // jmp CODE32:CODE + 0x100
    let mut jump = vec![0x66, 0xea];
    jump.extend((CODE as u32 + 0x100).to_le_bytes());
    jump.extend(selector::CODE32.to_le_bytes());
    machine.write_bytes(CODE + end, &jump);
    let end = machine.code_of(32, CODE + 0x100, &|a| {
        a.mov(ecx, i32::from(selector::DATA))?;
        a.mov(ds, ecx)?;
        a.mov(dword_ptr(FREE), 0x1234_5678)?;
        a.mov(ecx, i32::from(selector::FREE + 8))?;
        a.mov(ds, ecx)?;
        a.mov(ss, ecx)
    });
    let mut jump = vec![0xea];
    jump.extend(0x200u32.to_le_bytes());
    jump.extend(selector::FREE.to_le_bytes());
    machine.write_bytes(end, &jump);
    let end = machine.real_code(0x200, &|a| {
        a.mov(eax, cr0)?;
        a.and(al, 0xfeu32 as i32)?;
        a.mov(cr0, eax)
    });
    let mut jump = vec![0xea, 0x00, 0x03];
    jump.extend(REAL_CODE.to_le_bytes());
    machine.write_bytes(CODE + end, &jump);
    machine.real_code(0x300, &|a| {
        a.xor(ax, ax)?;
        a.mov(ds, ax)?;
        a.mov(ss, ax)?;
        a.int(u32::from(OWN))?;
        // Code in real mode may write to itself.
        a.mov(word_ptr(0x400).cs(), 0x77)?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    assert_eq!(outcome.briefs(), [(OWN, 0, 0x308)]);
    assert_eq!(machine.read::<u32>(FREE), 0x1234_5678);
    assert_eq!(machine.read::<u16>(CODE + 0x400), 0x77);
}
