//! The ways between privilege levels: SYSCALL, SYSENTER, IRET, far RET, and what user mode must not do.

use iced_x86::code_asm::*;
use viv_arch::{Cr4, Efer, Gpr, Rflags, Segment, SegmentRegister, msr};

use crate::machine::*;

const UD: u8 = 6;
const GP: u8 = 13;
/// RETF with REX.W, which the assembler does not offer.
const RETFQ: [u8; 2] = [0x48, 0xcb];
const SS_INDEX: usize = SegmentRegister::Ss as usize;
const CS_INDEX: usize = SegmentRegister::Cs as usize;

#[test]
fn syscall_and_sysret_go_there_and_back() {
    let mut machine = Machine::new();
    machine.start_in_user_mode();
    machine.set_msr(msr::IA32_LSTAR, CODE);
    machine.set_msr(msr::IA32_FMASK, (Rflags::IF | Rflags::DF | Rflags::AC).bits());
    machine.state.rflags |= Rflags::IF | Rflags::DF | Rflags::AC | Rflags::ID | Rflags::CF;
    let back = machine.code(USER_CODE, &|a| a.syscall());
    machine.code(back, &stop_user);
    machine.code(CODE, &|a| {
        a.mov(r12d, cs)?;
        a.mov(r13d, ss)?;
        a.mov(r14, r11)?;
        a.mov(r15, rsp)?;
        // A stack for PUSHF; SYSCALL does not switch.
        a.mov(esp, STACK_TOP as u32)?;
        a.pushfq()?;
        a.pop(rbx)?;
        a.mov(rsp, r15)?;
        // Bits that SYSRET must not load.
        a.or(r11, (Rflags::RF | Rflags::VM).bits() as i32)?;
        a.sysretq()
    });
    let outcome = machine.run_to_stop();
    let event = outcome.events[0];
    assert_eq!((event.vector, event.rip), (VECTOR_STOP, back + 2));
    assert_eq!((outcome.gpr(Gpr::R12), outcome.gpr(Gpr::R13)), (8, 16));
    assert_eq!(outcome.gpr(Gpr::Rcx), back);
    let before = machine.state.rflags.bits();
    assert_eq!(outcome.gpr(Gpr::R14), before);
    assert_eq!(outcome.gpr(Gpr::Rbx), (Rflags::ID | Rflags::CF | Rflags::RESERVED_1).bits());
    assert_eq!((event.cs, event.ss, event.rsp), (0x2b, 0x23, USER_STACK_TOP));
    assert_eq!(event.rflags, before);
}

#[test]
fn sysret_to_compatibility_mode() {
    let mut machine = Machine::new();
    machine.code(CODE, &|a| {
        a.mov(rcx, USER_CODE | 0x5_0000_0000)?;
        a.mov(r11d, 0x202)?;
        a.sysret()
    });
    machine.code_of(32, USER_CODE, &stop_user);
    let event = machine.run_to_stop().events[0];
    assert_eq!((event.rip, event.cs, event.ss), (USER_CODE + 2, 0x1b, 0x23));
}

#[test]
fn sysenter_and_sysexit_go_there_and_back() {
    for wide in [true, false] {
        let mut machine = Machine::new();
        machine.start_in_user_mode();
        if !wide {
            machine.set_code_segment(Segment::code32(selector::USER_CODE32, 3));
        }
        machine.set_msr(msr::IA32_SYSENTER_EIP, CODE);
        machine.set_msr(msr::IA32_SYSENTER_ESP, STACK_TOP);
        machine.state.rflags |= Rflags::IF | Rflags::CF;
        let bits = if wide { 64 } else { 32 };
        let back = machine.code_of(bits, USER_CODE, &|a| a.sysenter());
        machine.code_of(bits, back, &stop_user);
        machine.code(CODE, &|a| {
            a.pushfq()?;
            a.pop(rbx)?;
            a.mov(r12d, cs)?;
            a.mov(r13d, ss)?;
            a.mov(r14, rsp)?;
            a.mov(rdx, back)?;
            a.mov(rcx, USER_STACK_TOP - 64)?;
            if wide { a.sysexitq() } else { a.sysexit() }
        });
        let outcome = machine.run_to_stop();
        let event = outcome.events[0];
        assert_eq!((event.vector, event.rip), (VECTOR_STOP, back + 2));
        assert_eq!((outcome.gpr(Gpr::R12), outcome.gpr(Gpr::R13)), (8, 16));
        assert_eq!(outcome.gpr(Gpr::R14), STACK_TOP);
        assert_eq!(outcome.gpr(Gpr::Rbx), (Rflags::CF | Rflags::RESERVED_1).bits());
        let wanted = if wide { (0x2b, 0x33) } else { (0x1b, 0x23) };
        assert_eq!((event.cs, event.ss), wanted);
        assert_eq!(event.rsp, USER_STACK_TOP - 64);
    }
}

#[test]
fn system_calls_fail_where_they_must() {
    let run = |user: bool, setup: &dyn Fn(&mut Machine), build: Build<'_>| {
        let mut machine = Machine::new();
        if user {
            machine.start_in_user_mode();
        }
        setup(&mut machine);
        let at = machine.state.rip;
        machine.code(at, build);
        let event = machine.run_to_stop().events[0];
        assert_eq!((event.error_code, event.rip), (0, at));
        event.vector
    };
    let nothing = |_: &mut Machine| {};
    let no_sce = |m: &mut Machine| m.state.efer -= Efer::SCE;
    let no_sysenter = |m: &mut Machine| m.set_msr(msr::IA32_SYSENTER_CS, 3);
    let bad_rcx = |m: &mut Machine| m.set_gpr(Gpr::Rcx, 1 << 47);
    let bad_rdx = |m: &mut Machine| m.set_gpr(Gpr::Rdx, 1 << 47);
    assert_eq!(run(true, &no_sce, &|a| a.syscall()), UD);
    assert_eq!(run(false, &no_sce, &|a| a.sysretq()), UD);
    assert_eq!(run(true, &nothing, &|a| a.sysretq()), GP);
    assert_eq!(run(false, &bad_rcx, &|a| a.sysretq()), GP, "before it leaves level 0");
    assert_eq!(run(true, &no_sysenter, &|a| a.sysenter()), GP);
    assert_eq!(run(false, &no_sysenter, &|a| a.sysexit()), GP);
    assert_eq!(run(true, &nothing, &|a| a.sysexit()), GP);
    assert_eq!(run(false, &bad_rcx, &|a| a.sysexitq()), GP);
    assert_eq!(run(false, &bad_rdx, &|a| a.sysexitq()), GP);
    // SYSCALL is for 64-bit mode only.
    let compatible = |m: &mut Machine| m.set_code_segment(Segment::code32(selector::USER_CODE32, 3));
    assert_eq!(run(true, &compatible, &|a| a.db(&[0x0f, 0x05])), UD);
}

#[test]
fn user_mode_is_kept_from_privileged_instructions() {
    let cases: [(&str, Build<'_>); 24] = [
        ("hlt", &|a| a.hlt()),
        ("cli", &|a| a.cli()),
        ("sti", &|a| a.sti()),
        ("in", &|a| a.in_(al, 0x80)),
        ("out", &|a| a.out(dx, eax)),
        ("outsb", &|a| a.outsb()),
        ("mov from cr0", &|a| a.mov(rax, cr0)),
        ("mov to cr3", &|a| a.mov(cr3, rax)),
        ("mov from dr7", &|a| a.mov(rax, dr7)),
        ("clts", &|a| a.clts()),
        ("lmsw", &|a| a.lmsw(ax)),
        ("invlpg", &|a| a.invlpg(ptr(rax))),
        ("invpcid", &|a| a.invpcid(rax, xmmword_ptr(USER_DATA))),
        ("wbinvd", &|a| a.wbinvd()),
        ("rdmsr", &|a| a.rdmsr()),
        ("wrmsr", &|a| a.wrmsr()),
        ("lgdt", &|a| a.lgdt(ptr(USER_DATA))),
        ("lidt", &|a| a.lidt(ptr(USER_DATA))),
        ("lldt", &|a| a.lldt(ax)),
        ("ltr", &|a| a.ltr(ax)),
        ("xsetbv", &|a| a.xsetbv()),
        ("swapgs", &|a| a.swapgs()),
        ("rdpmc", &|a| a.rdpmc()),
        ("cr8", &|a| a.mov(rax, cr8)),
    ];
    for (name, build) in cases {
        let mut machine = Machine::new();
        machine.start_in_user_mode();
        machine.code(USER_CODE, build);
        assert_eq!(machine.run_to_stop().briefs(), [(GP, 0, USER_CODE)], "{name}");
    }
    for (name, build) in [("clac", &(|a: &mut CodeAssembler| a.clac()) as Build<'_>), ("stac", &|a| a.stac())]
    {
        let mut machine = Machine::new();
        machine.start_in_user_mode();
        machine.code(USER_CODE, build);
        assert_eq!(machine.run_to_stop().briefs(), [(UD, 0, USER_CODE)], "{name}");
    }
}

#[test]
fn umip_hides_the_system_registers() {
    let cases: [(&str, Build<'_>); 7] = [
        ("sgdt", &|a| a.sgdt(ptr(USER_DATA))),
        ("sidt", &|a| a.sidt(ptr(USER_DATA))),
        ("sldt", &|a| a.sldt(eax)),
        ("sldt m", &|a| a.sldt(word_ptr(USER_DATA))),
        ("str", &|a| a.str(eax)),
        ("smsw", &|a| a.smsw(eax)),
        ("smsw m", &|a| a.smsw(word_ptr(USER_DATA))),
    ];
    for (name, build) in cases {
        for umip in [false, true] {
            for user in [false, true] {
                let mut machine = Machine::new();
                if user {
                    machine.start_in_user_mode();
                }
                machine.state.cr4.set(Cr4::UMIP, umip);
                let at = machine.state.rip;
                let end = machine.code(at, build);
                machine.code(end, if user { &stop_user } else { &stop });
                let wanted = if umip && user { vec![(GP, 0, at)] } else { vec![] };
                assert_eq!(machine.run_to_stop().briefs(), wanted, "{name}");
            }
        }
    }
    let mut machine = Machine::new();
    machine.code(CODE, &|a| {
        a.sgdt(ptr(DATA))?;
        a.sidt(ptr(DATA + 16))?;
        a.str(r8)?;
        a.sldt(r9)?;
        stop(a)
    });
    machine.set_gpr(Gpr::R9, u64::MAX);
    let outcome = machine.run_to_stop();
    assert_eq!((machine.read::<u16>(DATA), machine.read::<u64>(DATA + 2)), (0xfff, GDT));
    assert_eq!((machine.read::<u16>(DATA + 16), machine.read::<u64>(DATA + 18)), (0xfff, IDT));
    assert_eq!((outcome.gpr(Gpr::R8), outcome.gpr(Gpr::R9)), (u64::from(selector::TSS), 0));
}

#[test]
fn ports_are_opened_by_iopl_or_by_the_permission_map() {
    let run = |setup: &dyn Fn(&mut Machine), build: Build<'_>| {
        let mut machine = Machine::new();
        machine.start_in_user_mode();
        // Ports 0 to 0x3ff closed but for 0x108 to 0x10b.
        machine.state.tr.limit = 0x68 + 0x81;
        machine.write_bytes(TSS + 0x68, &[0xff; 0x81]);
        machine.write_bytes(TSS + 0x68 + 0x21, &[0xf0]);
        setup(&mut machine);
        let end = machine.code(USER_CODE, build);
        machine.code(end, &stop_user);
        machine.run_to_stop().briefs().is_empty()
    };
    let with_dx = |port: u64| move |m: &mut Machine| m.set_gpr(Gpr::Rdx, port);
    assert!(run(&with_dx(0x108), &|a| a.out(dx, al)));
    assert!(run(&with_dx(0x108), &|a| a.in_(eax, dx)));
    assert!(run(&with_dx(0x10a), &|a| a.in_(ax, dx)));
    assert!(!run(&with_dx(0x10b), &|a| a.in_(ax, dx)), "the second byte is closed");
    assert!(!run(&with_dx(0x107), &|a| a.in_(ax, dx)));
    assert!(!run(&with_dx(0x400), &|a| a.in_(al, dx)), "beyond the map");
    let open_all = |m: &mut Machine| m.state.rflags |= Rflags::IOPL;
    assert!(run(&open_all, &|a| a.in_(al, 0x80)));
    assert!(run(&open_all, &|a| a.cli()));
    let one_short = |m: &mut Machine| m.state.rflags |= Rflags::from_bits_retain(2 << 12);
    assert!(!run(&one_short, &|a| a.in_(al, 0x80)));
}

#[test]
fn popf_changes_what_the_level_may_change() {
    let all = Rflags::all() - Rflags::VM;
    for (user, iopl, iopl_changes, if_changes) in
        [(false, 0, true, true), (true, 0, false, false), (true, 3, false, true)]
    {
        let mut machine = Machine::new();
        if user {
            machine.start_in_user_mode();
        }
        machine.state.rflags |= Rflags::from_bits_retain(iopl << 12);
        machine.set_gpr(Gpr::Rax, (all - Rflags::TF).bits());
        let at = machine.state.rip;
        let end = machine.code(at, &|a| {
            a.push(rax)?;
            a.popfq()?;
            a.pushfq()?;
            a.pop(rbx)
        });
        machine.code(end, if user { &stop_user } else { &stop });
        let outcome = machine.run_to_stop();
        let flags = Rflags::from_bits_retain(outcome.gpr(Gpr::Rbx));
        assert_eq!(flags.contains(Rflags::IF), if_changes, "user {user} iopl {iopl}");
        assert_eq!(flags.contains(Rflags::IOPL), iopl_changes || iopl == 3, "user {user} iopl {iopl}");
        assert!(flags.contains(Rflags::ARITHMETIC | Rflags::NT | Rflags::AC | Rflags::ID | Rflags::DF));
        assert!(!flags.intersects(Rflags::RF | Rflags::VM | Rflags::VIF | Rflags::VIP));
    }
}

/// Pushes a frame for IRETQ and executes it.
fn iret_to(machine: &mut Machine, rip: u64, code: u16, flags: u64, top: u64, stack: u16) -> Outcome {
    let frame = STACK_TOP - 40;
    for (n, word) in [rip, u64::from(code), flags, top, u64::from(stack)].into_iter().enumerate() {
        machine.write(frame + n as u64 * 8, word);
    }
    machine.set_gpr(Gpr::Rsp, frame);
    machine.code(CODE, &|a| a.iretq());
    machine.run_to_stop()
}

#[test]
fn iret_to_user_mode_loads_everything() {
    let mut machine = Machine::new();
    machine.code(USER_CODE, &|a| {
        a.nop()?;
        stop_user(a)
    });
    let flags = Rflags::all() - Rflags::TF - Rflags::VM - Rflags::NT - Rflags::VIF - Rflags::VIP;
    let outcome = iret_to(&mut machine, USER_CODE, 0x2b, flags.bits(), USER_DATA + 0x123, 0x23);
    let event = outcome.events[0];
    assert_eq!((event.cs, event.ss, event.rsp), (0x2b, 0x23, USER_DATA + 0x123));
    // RF is gone after the first instruction.
    assert_eq!(event.rflags, (flags - Rflags::RF).bits());
    // Data segments of level 0 are out of reach and become null.
    let data = outcome.state.segments[SegmentRegister::Ds as usize];
    assert_eq!((data.selector, data.is_usable()), (0, false));
}

#[test]
fn iret_within_level_0_takes_the_stack_from_the_frame() {
    let mut machine = Machine::new();
    machine.code(CODE + 0x100, &stop);
    let outcome = iret_to(&mut machine, CODE + 0x100, 8, 2, STACK_TOP - 0x500, 0);
    assert_eq!(outcome.gpr(Gpr::Rsp), STACK_TOP - 0x500);
    assert_eq!(outcome.state.segments[SS_INDEX].selector, 0);
}

#[test]
fn iret_checks_before_it_changes_anything() {
    let absent_code = Segment { attributes: 0xa07b, ..Segment::code64(selector::FREE, 3) };
    let absent_data = Segment { attributes: 0xc073, ..Segment::data(selector::FREE + 8, 3) };
    let (code, data) = (selector::USER_CODE64, selector::USER_DATA);
    // (name, CS, SS, RIP, vector, error code)
    let cases = [
        ("null CS", 0, data, USER_CODE, 13, 0),
        ("null CS with RPL 3", 3, data, USER_CODE, 13, 0),
        ("CS beyond the table", 0x1003, data, USER_CODE, 13, 0x1000),
        ("CS in the LDT", 0x2f, data, USER_CODE, 13, 0x2c),
        ("data in CS", data, data, USER_CODE, 13, 0x20),
        ("RPL differs from DPL", 0x29, data, USER_CODE, 13, 0x28),
        ("kernel code with RPL 3", 0x0b, data, USER_CODE, 13, 0x8),
        ("CS not present", selector::FREE | 3, data, USER_CODE, 11, 0x48),
        ("null SS at level 3", code, 3, USER_CODE, 13, 0),
        ("SS beyond the table", code, 0x1003, USER_CODE, 13, 0x1000),
        ("code in SS", code, code, USER_CODE, 13, 0x28),
        ("SS of another level", code, 0x13, USER_CODE, 13, 0x10),
        ("SS not present", code, (selector::FREE + 8) | 3, USER_CODE, 12, 0x50),
        ("RIP not canonical", code, data, 1 << 47, 13, 0),
        ("TSS in CS", selector::TSS | 3, data, USER_CODE, 13, 0x30),
    ];
    for (name, code, stack, rip, vector, error_code) in cases {
        let mut machine = Machine::new();
        machine.set_descriptor(selector::FREE, absent_code.to_descriptor());
        machine.set_descriptor(selector::FREE + 8, absent_data.to_descriptor());
        let outcome = iret_to(&mut machine, rip, code, 2, USER_STACK_TOP, stack);
        let event = outcome.events[0];
        assert_eq!(event.brief(), (vector, error_code, CODE), "{name}");
        assert_eq!((event.rsp, event.cs, event.ss), (STACK_TOP - 40, 8, 16), "{name}");
    }
    let mut machine = Machine::new();
    machine.state.rflags |= Rflags::NT;
    let outcome = iret_to(&mut machine, USER_CODE, 0x2b, 2, USER_STACK_TOP, 0x23);
    assert_eq!(outcome.events[0].brief(), (GP, 0, CODE), "nested task");
}

/// The vector and error code that a transfer ends with; `None`: it arrives.
type Fate = Option<(u8, u64)>;

#[test]
fn far_returns_and_jumps_check_what_they_load() {
    let absent = Segment { attributes: 0xa01b, ..Segment::code64(selector::FREE, 0) };
    let conforming = Segment { attributes: 0xa09f, ..Segment::code64(selector::FREE + 8, 0) };
    let both = Segment { attributes: 0xe09b, ..Segment::code64(selector::FREE + 16, 0) };
    // (name, selector, by RETF, by JMP)
    let cases: [(&str, u16, Fate, Fate); 8] = [
        ("null", 0, Some((GP, 0)), Some((GP, 0))),
        ("beyond the table", 0x1000, Some((GP, 0x1000)), Some((GP, 0x1000))),
        ("data", selector::DATA, Some((GP, 0x10)), Some((GP, 0x10))),
        ("not present", selector::FREE, Some((11, 0x48)), Some((11, 0x48))),
        ("conforming", selector::FREE + 8, None, None),
        ("the same", selector::CODE64, None, None),
        ("long and 32-bit at once", selector::FREE + 16, Some((GP, 0x58)), Some((GP, 0x58))),
        ("user code", selector::USER_CODE64, None, Some((GP, 0x28))),
    ];
    for (name, target, by_return, by_jump) in cases {
        for (jump, wanted) in [(false, by_return), (true, by_jump)] {
            let mut machine = Machine::new();
            for segment in [absent, conforming, both] {
                machine.set_descriptor(segment.selector, segment.to_descriptor());
            }
            machine.code(USER_CODE, &stop_user);
            machine.write(DATA, USER_CODE);
            machine.write(DATA + 8, target);
            let at = if jump {
                machine.code(CODE, &|a| a.db(&[0x48, 0xff, 0x2b])); // jmp m16:64 [rbx]
                machine.set_gpr(Gpr::Rbx, DATA);
                CODE
            } else {
                machine.code(CODE, &|a| {
                    a.push(i32::from(selector::USER_DATA))?;
                    a.push(USER_STACK_TOP as i32)?;
                    a.push(i32::from(target))?;
                    a.push(USER_CODE as i32)?;
                    a.db(&RETFQ)
                }) - 2
            };
            let outcome = machine.run_to_stop();
            let event = outcome.events[0];
            match wanted {
                Some((vector, code)) => assert_eq!(event.brief(), (vector, code, at), "{name} {jump}"),
                None => assert_eq!((event.vector, event.cs), (VECTOR_STOP, target), "{name} {jump}"),
            }
        }
    }
}

#[test]
fn far_returns_outwards_switch_stacks_and_never_go_inwards() {
    let mut machine = Machine::new();
    machine.code(USER_CODE, &stop_user);
    machine.code(CODE, &|a| {
        a.push(i32::from(selector::USER_DATA))?;
        a.push(USER_STACK_TOP as i32 - 0x100)?;
        a.push(0x1234)?;
        a.push(i32::from(selector::USER_CODE64))?;
        a.push(USER_CODE as i32)?;
        a.db(&[0x48, 0xca, 8, 0])
    });
    let event = machine.run_to_stop().events[0];
    // The bytes that are released lie on both stacks.
    assert_eq!((event.vector, event.cs, event.ss), (VECTOR_STOP, 0x2b, 0x23));
    assert_eq!(event.rsp, USER_STACK_TOP - 0x100 + 8);
    let mut machine = Machine::new();
    machine.start_in_user_mode();
    let end = machine.code(USER_CODE, &|a| {
        a.push(i32::from(selector::CODE64))?;
        a.push(CODE as i32)?;
        a.db(&RETFQ)
    });
    assert_eq!(machine.run_to_stop().events[0].brief(), (GP, 8, end - 2));
}

#[test]
fn a_far_call_that_faults_pushes_nothing() {
    let mut machine = Machine::new();
    machine.write(DATA, CODE + 0x100);
    machine.write(DATA + 8, selector::DATA);
    machine.write(STACK_TOP - 8, 0x1111u64);
    machine.set_gpr(Gpr::Rbx, DATA);
    machine.code(CODE, &|a| a.db(&[0x48, 0xff, 0x1b])); // call m16:64 [rbx]
    machine.set_gate(GP, STUBS + u64::from(GP) * STUB_SIZE, 0xe, 0, 1);
    let event = machine.run_to_stop().events[0];
    assert_eq!((event.brief(), event.rsp), ((GP, 0x10, CODE), STACK_TOP));
    assert_eq!(machine.read::<u64>(STACK_TOP - 8), 0x1111);
    // And one that does not fault pushes CS and RIP.
    machine.write(DATA + 8, selector::CODE64);
    machine.code(CODE + 0x100, &stop);
    let outcome = machine.run_to_stop();
    assert_eq!(outcome.gpr(Gpr::Rsp), STACK_TOP - 16);
    assert_eq!(machine.read::<u64>(STACK_TOP - 16), CODE + 3);
    assert_eq!(machine.read::<u64>(STACK_TOP - 8), 8);
    assert_eq!(outcome.state.segments[CS_INDEX].selector, 8);
}
