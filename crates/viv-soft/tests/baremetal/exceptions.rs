//! Which exception with which error code, in which order, and what its handler finds (SDM vol. 3, chapter 6).

use iced_x86::code_asm::*;
use viv_arch::{Cr0, Cr4, Gpr, Rflags, Segment, SegmentRegister};
use viv_engine::Exit;

use crate::machine::*;

const DE: u8 = 0;
const BP: u8 = 3;
const OF: u8 = 4;
const BR: u8 = 5;
const UD: u8 = 6;
const NM: u8 = 7;
const DF: u8 = 8;
const TS: u8 = 10;
const NP: u8 = 11;
const SS: u8 = 12;
const GP: u8 = 13;
const PF: u8 = 14;
const MF: u8 = 16;
const XM: u8 = 19;

/// Runs supervisor code to its first event.
fn first_event(setup: impl Fn(&mut Machine), build: Build<'_>) -> Event {
    let mut machine = Machine::new();
    machine.code(CODE, build);
    setup(&mut machine);
    machine.run_to_stop().events[0]
}

#[test]
fn faults_point_at_the_instruction_and_ask_for_resume() {
    let cases: [(&str, u8, Build<'_>); 10] = [
        ("div", DE, &|a| a.div(rbx)),
        ("idiv", DE, &|a| {
            a.mov(eax, 0x8000_0000u32)?;
            a.cdq()?;
            a.mov(ecx, -1)?;
            a.idiv(ecx)
        }),
        ("ud2", UD, &|a| a.ud2()),
        ("wrmsr", GP, &|a| {
            a.mov(ecx, 0x1234)?;
            a.wrmsr()
        }),
        ("load", PF, &|a| a.mov(rax, qword_ptr(FREE))),
        ("mov cr8", GP, &|a| {
            a.mov(eax, 16)?;
            a.mov(cr8, rax)
        }),
        ("movaps", GP, &|a| {
            a.mov(esi, DATA as u32 + 8)?;
            a.movaps(xmm0, xmmword_ptr(rsi))
        }),
        ("cmpxchg16b", GP, &|a| {
            a.mov(esi, DATA as u32 + 8)?;
            a.cmpxchg16b(xmmword_ptr(rsi))
        }),
        ("ldmxcsr", GP, &|a| {
            a.mov(dword_ptr(DATA), -1)?;
            a.ldmxcsr(dword_ptr(DATA))
        }),
        ("sqrtss", XM, &|a| {
            // Invalid operation unmasked, the root of a negative number.
            a.mov(dword_ptr(DATA), 0x1f00)?;
            a.ldmxcsr(dword_ptr(DATA))?;
            a.mov(eax, 0xbf80_0000u32)?;
            a.movd(xmm0, eax)?;
            a.sqrtss(xmm0, xmm0)
        }),
    ];
    for (name, vector, build) in cases {
        let bytes = assemble(64, CODE, build);
        let mut last = 0;
        let mut decoder = iced_x86::Decoder::with_ip(64, &bytes, CODE, 0);
        for instruction in &mut decoder {
            last = instruction.ip();
        }
        let event = first_event(|_| {}, build);
        assert_eq!(event.brief(), (vector, 0, last), "{name}");
        assert!(event.has_flag(Rflags::RF), "{name}");
        assert_eq!((event.cs, event.ss, event.rsp), (8, 16, STACK_TOP), "{name}");
    }
}

#[test]
fn traps_point_behind_the_instruction() {
    for (vector, code) in [(BP, &[0xcc][..]), (0x42, &[0xcd, 0x42]), (3, &[0xcd, 3]), (1, &[0xf1])] {
        let mut machine = Machine::new();
        machine.write_bytes(CODE, code);
        let event = machine.run_to_stop().events[0];
        assert_eq!(event.brief(), (vector, 0, CODE + code.len() as u64));
        assert!(!event.has_flag(Rflags::RF));
    }
}

#[test]
fn an_x87_error_comes_with_the_next_waiting_instruction() {
    let wait = |a: &mut CodeAssembler| a.wait();
    let fld = |a: &mut CodeAssembler| a.fld1();
    for next in [&wait as Build<'_>, &fld] {
        let mut machine = Machine::new();
        machine.write(DATA, 0x37bu16);
        let at = machine.code(CODE, &|a| {
            a.fninit()?;
            a.fldcw(word_ptr(DATA))?;
            a.fld1()?;
            a.fldz()?;
            // Division by zero is unmasked.
            a.fdivp(st1, st0)?;
            a.fnop()?;
            a.nop()
        });
        // FNOP waits; it is found to be pending there.
        machine.code(at, next);
        let event = machine.run_to_stop().events[0];
        assert_eq!(event.brief(), (MF, 0, at - 3));
        machine.code(at - 3, &|a| {
            a.nop()?;
            a.nop()?;
            a.nop()
        });
        assert_eq!(machine.run_to_stop().events[0].brief(), (MF, 0, at));
    }
}

#[test]
fn the_x87_and_sse_units_can_be_switched_off() {
    let x87: Build<'_> = &|a| a.fld1();
    let wait: Build<'_> = &|a| a.wait();
    let mmx: Build<'_> = &|a| a.pxor(mm0, mm1);
    let sse: Build<'_> = &|a| a.addps(xmm0, xmm1);
    let mov: Build<'_> = &|a| a.movups(xmm0, xmm1);
    let avx: Build<'_> = &|a| a.vaddps(ymm0, ymm1, ymm2);
    let fxsave: Build<'_> = &|a| a.fxsave(ptr(DATA));
    let xsave: Build<'_> = &|a| a.xsave(ptr(DATA));
    let ldmxcsr: Build<'_> = &|a| a.stmxcsr(dword_ptr(DATA));
    let vzeroupper: Build<'_> = &|a| a.vzeroupper();
    // Of SSE2 and SSE4.2, but with none of their registers.
    let movnti: Build<'_> = &|a| a.movnti(dword_ptr(DATA), eax);
    let crc32: Build<'_> = &|a| a.crc32(eax, ebx);
    let none = 0xff;
    // (name, code, with TS, with EM, with TS and without MP, without OSFXSR, without OSXSAVE)
    let cases = [
        ("fld1", x87, NM, NM, NM, none, none),
        ("wait", wait, NM, none, none, none, none),
        ("pxor mm", mmx, NM, UD, NM, none, none),
        ("addps", sse, NM, UD, NM, UD, none),
        ("movups", mov, NM, UD, NM, UD, none),
        ("stmxcsr", ldmxcsr, NM, UD, NM, UD, none),
        ("vaddps", avx, NM, none, NM, none, UD),
        ("vzeroupper", vzeroupper, NM, none, NM, none, UD),
        ("fxsave", fxsave, NM, NM, NM, none, none),
        ("xsave", xsave, NM, none, NM, none, UD),
        ("movnti", movnti, none, none, none, none, none),
        ("crc32", crc32, none, none, none, none, none),
    ];
    for (name, build, ts, em, ts_without_mp, no_fxsr, no_xsave) in cases {
        let run = |change: &dyn Fn(&mut Machine)| {
            let mut machine = Machine::new();
            let next = machine.code(CODE, build);
            machine.code(next, &stop);
            change(&mut machine);
            machine.run_to_stop().events.first().map_or(none, |event| event.vector)
        };
        assert_eq!(run(&|_| {}), none, "{name}");
        assert_eq!(run(&|m| m.state.cr0 |= Cr0::TS), ts, "{name} with TS");
        assert_eq!(run(&|m| m.state.cr0 |= Cr0::EM), em, "{name} with EM");
        let clear_mp = |m: &mut Machine| {
            m.state.cr0 |= Cr0::TS;
            m.state.cr0 -= Cr0::MP;
        };
        assert_eq!(run(&clear_mp), ts_without_mp, "{name} with TS without MP");
        assert_eq!(run(&|m| m.state.cr4 -= Cr4::OSFXSR), no_fxsr, "{name} without OSFXSR");
        assert_eq!(run(&|m| m.state.cr4 -= Cr4::OSXSAVE), no_xsave, "{name} without OSXSAVE");
    }
}

#[test]
fn a_simd_error_is_an_invalid_opcode_until_it_is_expected() {
    let event = first_event(|machine| machine.state.cr4 -= Cr4::OSXMMEXCPT, &|a| {
        a.mov(dword_ptr(DATA), 0x1d80)?;
        a.ldmxcsr(dword_ptr(DATA))?;
        a.mov(eax, 0x3f80_0000)?;
        a.movd(xmm0, eax)?;
        a.xorps(xmm1, xmm1)?;
        a.divss(xmm0, xmm1)
    });
    assert_eq!(event.vector, UD);
}

#[test]
fn what_the_manual_calls_undefined_is_undefined() {
    let cases: [(&str, &[u8]); 22] = [
        ("lock mov", &[0xf0, 0x89, 0x03]),
        ("lock add to a register", &[0xf0, 0x01, 0xc3]),
        ("lock cmp", &[0xf0, 0x39, 0x03]),
        ("lock nop", &[0xf0, 0x90]),
        ("lock bt", &[0xf0, 0x0f, 0xa3, 0x03]),
        ("lock movsb", &[0xf0, 0xa4]),
        ("lock cmpxchg of registers", &[0xf0, 0x0f, 0xb1, 0xc3]),
        ("lock test", &[0xf0, 0x85, 0x03]),
        ("push es in 64-bit mode", &[0x06]),
        ("aaa in 64-bit mode", &[0x37]),
        ("bound in 64-bit mode", &[0x62, 0x03]),
        ("into in 64-bit mode", &[0xce]),
        ("far jump with a pointer in 64-bit mode", &[0xea, 0, 0, 0, 0, 8, 0]),
        ("mov cs", &[0x8e, 0xc8]),
        ("lea of a register", &[0x8d, 0xc0]),
        ("vex with a lock prefix", &[0xf0, 0xc5, 0xfc, 0x58, 0xc1]),
        ("vex with an operand-size prefix", &[0x66, 0xc5, 0xfc, 0x58, 0xc1]),
        ("ud0", &[0x0f, 0xff, 0xc0]),
        ("ud1", &[0x0f, 0xb9, 0xc0]),
        ("vmlaunch", &[0x0f, 0x01, 0xc2]),
        ("monitor", &[0x0f, 0x01, 0xc8]),
        ("a hole in the map", &[0x0f, 0x04]),
    ];
    for (name, code) in cases {
        let mut machine = Machine::new();
        machine.write_bytes(CODE, code);
        assert_eq!(machine.run_to_stop().events[0].brief(), (UD, 0, CODE), "{name}");
    }
}

#[test]
fn an_instruction_has_fifteen_bytes_at_the_most() {
    let nop = |prefixes: usize| {
        let mut code = vec![0x66; prefixes];
        code.push(0x90);
        code
    };
    // In the middle of a page, and where the next page would have to be fetched for the sixteenth byte.
    for address in [CODE, CODE + 0x1000 - 15, CODE + 0x1000 - 8] {
        for (prefixes, fails) in [(14, false), (15, true), (20, true)] {
            let mut machine = Machine::new();
            machine.state.rip = address;
            machine.write_bytes(address, &nop(prefixes));
            machine.code(address + prefixes as u64 + 1, &stop);
            let outcome = machine.run_to_stop();
            let wanted = if fails { vec![(GP, 0, address)] } else { vec![] };
            assert_eq!(outcome.briefs(), wanted, "{prefixes} prefixes at {address:#x}");
        }
    }
}

#[test]
fn a_long_instruction_does_not_fetch_the_page_after_it() {
    let mut machine = Machine::new();
    machine.write_bytes(FREE - 15, &[0x66; 15]);
    machine.state.rip = FREE - 15;
    assert_eq!(machine.run_to_stop().briefs(), [(GP, 0, FREE - 15)]);
    // One that is known to be invalid by its first bytes does not either.
    machine.write_bytes(FREE - 2, &[0x0f, 0x0b]);
    machine.state.rip = FREE - 2;
    assert_eq!(machine.run_to_stop().briefs(), [(UD, 0, FREE - 2)]);
}

#[test]
fn code_that_runs_into_a_missing_page_names_that_page() {
    let mut machine = Machine::new();
    // mov rax, imm64: three bytes here, seven on the next page.
    machine.write_bytes(FREE - 4, &[0x90, 0x48, 0xb8, 0x11]);
    machine.state.rip = FREE - 4;
    let event = machine.run_to_stop().events[0];
    assert_eq!((event.brief(), event.cr2), ((PF, 16, FREE - 3), FREE));
    // A page that is there, but not to be executed.
    machine.tables.map(FREE, FREE, PageSize::Size4K, KERNEL | viv_arch::paging::NO_EXECUTE);
    let event = machine.run_to_stop().events[0];
    assert_eq!((event.brief(), event.cr2), ((PF, 17, FREE - 3), FREE));
    // And after a whole instruction the next page is another matter.
    machine.write_bytes(FREE - 3, &[0x90, 0x90, 0x90]);
    let event = machine.run_to_stop().events[0];
    assert_eq!((event.brief(), event.cr2), ((PF, 17, FREE), FREE));
}

/// What an exception of `vector` comes to if its handler cannot be entered for the reason `second`.
fn collide(cause: Build<'_>, vector: u8, second: u8) -> (Exit, Vec<(u8, u64)>) {
    let mut machine = Machine::new();
    machine.code(CODE, cause);
    let stub = STUBS + u64::from(vector) * STUB_SIZE;
    match second {
        NP => {
            // A gate that is not present.
            machine.set_gate(vector, stub, 0xe, 0, 0);
            let at = IDT + u64::from(vector) * 16;
            let gate: u64 = machine.read(at);
            machine.write(at, gate & !(1 << 47));
        }
        // No gate at all.
        GP => machine.write(IDT + u64::from(vector) * 16, 0u64),
        SS => {
            machine.set_gate(vector, stub, 0xe, 0, 2);
            machine.write(TSS + 0x2c, 1u64 << 47);
        }
        TS => {
            machine.set_gate(vector, stub, 0xe, 0, 2);
            machine.state.tr.limit = 0x2b;
        }
        PF => {
            machine.set_gate(vector, stub, 0xe, 0, 2);
            machine.write(TSS + 0x2c, FREE + 0x1000);
        }
        _ => unreachable!("not a way to fail"),
    }
    let outcome = machine.run();
    (outcome.exit, outcome.events.iter().map(|e| (e.vector, e.error_code)).collect())
}

#[test]
fn two_exceptions_make_a_double_fault_by_the_table() {
    let divide: Build<'_> = &|a| a.div(rbx);
    let page: Build<'_> = &|a| a.mov(rax, qword_ptr(FREE));
    let protection: Build<'_> = &|a| a.mov(cr3, rax);
    let undefined: Build<'_> = &|a| a.ud2();
    let breakpoint: Build<'_> = &|a| a.int3();
    let idt = |vector: u8, external: u64| u64::from(vector) << 3 | 2 | external;
    for (name, cause, vector, contributory) in
        [("#DE", divide, DE, true), ("#PF", page, PF, true), ("#UD", undefined, UD, false)]
    {
        for second in [NP, GP, SS, TS, PF] {
            let (exit, events) = collide(cause, vector, second);
            assert_eq!(exit, Exit::Kicked, "{name} and {second}");
            let doubles = if vector == PF { true } else { contributory && second != PF };
            let wanted = if doubles {
                (DF, 0)
            } else {
                let code = match second {
                    PF => 2,
                    SS => 1,
                    TS => 0x31,
                    _ => idt(vector, 1),
                };
                (second, code)
            };
            assert_eq!(events, [wanted], "{name} and {second}");
        }
    }
    // By INT3 nothing doubles, and the error code does not say "external".
    assert_eq!(collide(breakpoint, BP, GP).1, [(GP, idt(BP, 0))]);
    assert_eq!(collide(breakpoint, BP, NP).1, [(NP, idt(BP, 0))]);
    // CR3 with reserved bits, to make a #GP that meets a #GP.
    let mut machine = Machine::new();
    machine.code(CODE, protection);
    machine.set_gpr(Gpr::Rax, 1 << 60);
    machine.write(IDT + u64::from(GP) * 16, 0u64);
    let outcome = machine.run_to_stop();
    assert_eq!(outcome.events[0].brief(), (DF, 0, CODE));
}

#[test]
fn an_exception_while_a_double_fault_is_delivered_shuts_down() {
    let mut machine = Machine::new();
    machine.code(CODE, &|a| a.div(rbx));
    machine.write(IDT + u64::from(DE) * 16, 0u64);
    machine.write(IDT + u64::from(DF) * 16, 0u64);
    let outcome = machine.run();
    assert_eq!((outcome.exit, outcome.events.len()), (Exit::TripleFault, 0));
    assert_eq!(outcome.state.rip, CODE);
    // Without any IDT it is the same, whatever came first.
    let mut machine = Machine::new();
    machine.state.idtr.limit = 0;
    machine.code(CODE, &|a| a.ud2());
    assert_eq!(machine.run().exit, Exit::TripleFault);
}

#[test]
fn a_page_fault_in_delivery_has_its_own_address() {
    let mut machine = Machine::new();
    machine.code(CODE, &|a| a.ud2());
    machine.set_gpr(Gpr::Rsp, FREE + 0x1000);
    machine.set_gate(PF, STUBS + u64::from(PF) * STUB_SIZE, 0xe, 0, 1);
    let event = machine.run_to_stop().events[0];
    assert_eq!((event.brief(), event.rsp), ((PF, 2, CODE), FREE + 0x1000));
    assert_eq!(event.cr2, FREE + 0x1000 - 40);
}

#[test]
fn gates_say_how_a_handler_is_entered() {
    for (kind, keeps_interrupts) in [(0xe, false), (0xf, true)] {
        let mut machine = Machine::new();
        machine.state.rflags |= Rflags::IF | Rflags::NT | Rflags::DF | Rflags::AC;
        machine.set_gate(0x50, CODE + 0x100, kind, 0, 1);
        machine.code(CODE, &|a| a.int(0x50));
        machine.code(CODE + 0x100, &stop);
        machine.set_gpr(Gpr::Rsp, STACK_TOP - 3);
        let outcome = machine.run_to_stop();
        let flags = outcome.state.rflags;
        assert_eq!(flags.contains(Rflags::IF), keeps_interrupts);
        assert!(!flags.intersects(Rflags::NT | Rflags::TF | Rflags::RF));
        assert!(flags.contains(Rflags::DF | Rflags::AC));
        assert_eq!(outcome.gpr(Gpr::Rsp), IST1_TOP - 40, "the stack is aligned and is the IST's");
        assert_eq!(machine.read::<u64>(IST1_TOP - 16), STACK_TOP - 3);
        let pushed = Rflags::from_bits_retain(machine.read(IST1_TOP - 24));
        assert!(pushed.contains(Rflags::IF | Rflags::NT));
    }
}

#[test]
fn a_bad_gate_or_target_is_told_by_the_error_code() {
    let int = |setup: &dyn Fn(&mut Machine)| {
        let mut machine = Machine::new();
        machine.code(CODE, &|a| a.int(0x50));
        setup(&mut machine);
        machine.run_to_stop().events[0].brief()
    };
    let gate = IDT + 0x500;
    let with_selector = |machine: &Machine, selector: u16| machine.write(gate + 2, selector);
    assert_eq!(int(&|m| m.set_gate(0x50, CODE, 0xc, 3, 0)), (GP, 0x282, CODE), "a call gate");
    assert_eq!(int(&|m| m.state.idtr.limit = 0x50e), (GP, 0x282, CODE), "beyond the table");
    assert_eq!(int(&|m| with_selector(m, 0)), (GP, 0, CODE), "a null selector");
    assert_eq!(int(&|m| with_selector(m, 0x1008)), (GP, 0x1008, CODE), "beyond the GDT");
    assert_eq!(int(&|m| with_selector(m, selector::DATA)), (GP, 0x10, CODE), "data");
    assert_eq!(int(&|m| with_selector(m, selector::CODE32)), (GP, 0x40, CODE), "32-bit code");
    assert_eq!(int(&|m| with_selector(m, selector::USER_CODE64)), (GP, 0x28, CODE), "outwards");
    let absent = Segment { attributes: 0xa01b, ..Segment::code64(selector::FREE, 0) };
    let missing = |m: &mut Machine| {
        m.set_descriptor(selector::FREE, absent.to_descriptor());
        with_selector(m, selector::FREE);
    };
    assert_eq!(int(&missing), (NP, 0x48, CODE), "not present");
    assert_eq!(int(&|m| m.write(gate + 8, 0x8000u32)), (GP, 0, CODE), "an offset that is not canonical");
}

#[test]
fn software_interrupts_need_the_gates_privilege_and_exceptions_do_not() {
    let mut machine = Machine::new();
    machine.start_in_user_mode();
    for (code, vector) in
        [(&[0xcd, 0x0e][..], GP), (&[0xcd, 0x50], GP), (&[0xcc], GP), (&[0xf1], 1), (&[0x0f, 0x0b], UD)]
    {
        machine.set_gate(0x50, STUBS, 0xe, 2, 0);
        machine.set_gate(3, STUBS + 3 * STUB_SIZE, 0xe, 0, 0);
        machine.write_bytes(USER_CODE, code);
        let event = machine.run_to_stop().events[0];
        let code_of = |n: u64| if vector == GP { n << 3 | 2 } else { 0 };
        let wanted = match code {
            [0xcd, n] => code_of(u64::from(*n)),
            [0xcc] => code_of(3),
            _ => 0,
        };
        assert_eq!((event.vector, event.error_code), (vector, wanted), "{code:x?}");
        assert_eq!((event.cs, event.ss, event.rsp), (0x2b, 0x23, USER_STACK_TOP), "{code:x?}");
        assert_eq!(event.frame, RSP0_TOP - 40, "{code:x?}");
    }
}

#[test]
fn an_inner_handler_gets_a_null_stack_segment_and_loses_nothing_else() {
    let mut machine = Machine::new();
    machine.start_in_user_mode();
    machine.state.segments[SegmentRegister::Ds as usize] = Segment::data(selector::USER_DATA, 3);
    machine.code(USER_CODE, &stop_user);
    let outcome = machine.run_to_stop();
    let segments = outcome.state.segments;
    assert_eq!(segments[SegmentRegister::Ss as usize].selector, 0);
    assert!(!segments[SegmentRegister::Ss as usize].is_usable());
    assert_eq!(segments[SegmentRegister::Ds as usize].selector, selector::USER_DATA);
}

#[test]
fn compatibility_mode_has_into_and_bound() {
    let run = |build: Build<'_>| {
        let mut machine = Machine::new();
        machine.start_in_user_mode();
        machine.set_code_segment(Segment::code32(selector::USER_CODE32, 3));
        machine.state.segments[SegmentRegister::Ds as usize] = Segment::data(selector::USER_DATA, 3);
        let end = machine.code_of(32, USER_CODE, build);
        machine.code_of(32, end, &stop_user);
        (end, machine.run_to_stop().briefs())
    };
    let (end, events) = run(&|a| {
        a.mov(eax, 0x7fff_ffff)?;
        a.inc(eax)?;
        a.into()
    });
    assert_eq!(events, [(OF, 0, end)]);
    let (_, events) = run(&|a| a.into());
    assert_eq!(events, []);
    for (index, fails) in [(-6, true), (-5, false), (9, false), (10, true)] {
        let (end, events) = run(&|a| {
            a.mov(dword_ptr(USER_DATA as u32), -5)?;
            a.mov(dword_ptr(USER_DATA as u32 + 4), 9)?;
            a.mov(ecx, index)?;
            a.bound(ecx, qword_ptr(USER_DATA as u32))
        });
        let wanted = if fails { vec![(BR, 0, end - 6)] } else { vec![] };
        assert_eq!(events, wanted, "{index}");
    }
}
