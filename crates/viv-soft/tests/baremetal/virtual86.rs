//! Virtual-8086 mode (SDM vol. 3, chapter 20).

use iced_x86::code_asm::*;
use viv_arch::{Cr4, Exception, Gpr, Rflags, Segment, SegmentRegister};
use viv_engine::Exit;

use crate::machine::*;

const UD: u8 = 6;
const SS: u8 = 12;
const GP: u8 = 13;
/// A vector of the test's own.
const OWN: u8 = 0x40;
/// The segment of the program's code, at [`USER_CODE`], and of its stack and data.
const V86_CODE: u16 = (USER_CODE >> 4) as u16;
const V86_STACK: u16 = (USER_DATA >> 4) as u16;
const V86_SP: u64 = 0xff00;
/// Where the program's own handlers are, in [`V86_CODE`].
const V86_HANDLER: u64 = 0x800;
/// The I/O permission map's offset in the TSS; before it is the interrupt redirection bitmap.
const IO_MAP: u64 = 0x88;
const IOPL3: Rflags = Rflags::IOPL;

/// Makes something wrong.
type Setup<'a> = &'a dyn Fn(&mut Machine);

/// A machine about to run 16-bit code at [`V86_CODE`]:0 in virtual-8086 mode, every segment register with a selector of its
/// own.
fn machine(flags: Rflags) -> Machine {
    let mut machine = Machine::protected();
    let segment =
        |selector: u16| Segment { selector, attributes: 0xf3, limit: 0xffff, base: u64::from(selector) << 4 };
    machine.state.segments = [0x5100, V86_CODE, V86_STACK, 0x5200, 0x5300, 0x5400].map(segment);
    machine.state.rflags |= Rflags::VM | flags;
    machine.state.rip = 0;
    machine.set_gpr(Gpr::Rsp, V86_SP);
    // Every port is denied, and every INT n goes to the supervisor.
    machine.state.tr.limit = 0x188;
    machine.write(TSS + 0x66, IO_MAP as u16);
    machine.write_bytes(TSS + IO_MAP - 32, &[0xff; 0x121]);
    machine
}

fn code(machine: &mut Machine, offset: u64, build: Build<'_>) -> u64 {
    let bytes = assemble(16, offset, build);
    machine.write_bytes(USER_CODE + offset, &bytes);
    offset + bytes.len() as u64
}

/// Runs a few instructions and then INT [`VECTOR_STOP`] with IOPL 3.
fn run(machine: &mut Machine, build: Build<'_>) -> Outcome {
    let end = code(machine, 0, build);
    code(machine, end, &stop_user);
    machine.run_to_stop()
}

#[test]
fn events_leave_the_mode_with_all_segments_on_the_stack() {
    let mut machine = machine(Rflags::CF | Rflags::IF);
    code(&mut machine, 0, &|a| {
        a.nop()?;
        a.ud2()
    });
    let outcome = machine.run_to_stop();
    let event = outcome.events[0];
    assert_eq!((event.brief(), event.cs), ((UD, 0, 1), V86_CODE));
    assert_eq!((event.ss, event.rsp), (V86_STACK, V86_SP));
    assert!(event.has_flag(Rflags::VM) && event.has_flag(Rflags::RF) && event.has_flag(Rflags::IF));
    assert_eq!(event.frame, RSP0_TOP - 36);
    let above: [u32; 4] = machine.read(event.frame + 20);
    assert_eq!(above, [0x5100, 0x5200, 0x5300, 0x5400]);
    let state = &outcome.state;
    assert!(!state.rflags.intersects(Rflags::VM | Rflags::IF | Rflags::TF | Rflags::NT));
    for register in [SegmentRegister::Es, SegmentRegister::Ds, SegmentRegister::Fs, SegmentRegister::Gs] {
        let segment = state.segments[register as usize];
        assert_eq!((segment.selector, segment.is_usable()), (0, false));
    }
    assert_eq!(state.segments[SegmentRegister::Cs as usize].selector, selector::CODE32);
}

#[test]
fn gates_of_16_bits_push_words() {
    let mut machine = machine(Rflags::empty());
    machine.set_gate_32(UD, selector::CODE32, 0xa000, INTERRUPT_16, 0);
    machine.code_of(32, 0xa000, &stop);
    code(&mut machine, 0, &|a| a.ud2());
    assert_eq!(machine.run_to_stop().gpr(Gpr::Rsp), RSP0_TOP - 18);
    let frame: [u16; 9] = machine.read(RSP0_TOP - 18);
    assert_eq!(frame, [0, V86_CODE, 2, V86_SP as u16, V86_STACK, 0x5100, 0x5200, 0x5300, 0x5400]);
}

#[test]
fn iretd_enters_the_mode_and_comes_back_to_it() {
    let mut machine = machine(IOPL3);
    // The handler does not touch memory, for it has no data segments.
    machine.code_of(32, CODE, &|a| a.iretd());
    machine.set_gate_32(OWN, selector::CODE32, CODE, INTERRUPT_32, 3);
    let outcome = run(&mut machine, &|a| {
        a.mov(cx, ds)?;
        a.int(u32::from(OWN))?;
        a.mov(dx, ds)?;
        a.mov(bx, gs)
    });
    assert_eq!((outcome.gpr(Gpr::Rcx), outcome.gpr(Gpr::Rdx)), (0x5200, 0x5200));
    assert_eq!(outcome.gpr(Gpr::Rbx), 0x5400);
    let event = outcome.events[0];
    assert_eq!((event.vector, event.rsp, event.cs), (VECTOR_STOP, V86_SP, V86_CODE));
    // All flags are loaded.
    let all = Rflags::all() - Rflags::TF - Rflags::RF - Rflags::VIP;
    let frame: [u32; 9] =
        [4, V86_CODE.into(), all.bits() as u32, 0xfff0, V86_STACK.into(), 0x5100, 0x5200, 0x5300, 0x5400];
    let start = |machine: &mut Machine, frame: [u32; 9]| {
        machine.state = Machine::protected().state;
        machine.write(STACK_TOP - 36, frame);
        machine.set_gpr(Gpr::Rsp, STACK_TOP - 36);
        machine.code_of(32, CODE, &|a| a.iretd());
    };
    start(&mut machine, frame);
    code(&mut machine, 4, &stop_user);
    let event = machine.run_to_stop().events[0];
    assert_eq!((event.rip, event.rsp, event.rflags), (6, 0xfff0, all.bits()));
    // What is beyond the limit is told before.
    start(&mut machine, [0x1_0000, frame[1], frame[2], frame[3], frame[4], 0, 0, 0, 0]);
    assert_eq!(machine.run_to_stop().events[0].brief(), (GP, 0, CODE));
}

#[test]
fn selectors_are_addresses() {
    let mut machine = machine(IOPL3);
    machine.write(0x5_1230, 0x1234_5678u32);
    let outcome = run(&mut machine, &|a| {
        a.mov(ax, 0x5123)?;
        a.mov(ds, ax)?;
        a.xor(ebx, ebx)?;
        a.mov(ecx, dword_ptr(ebx))?;
        a.push(0x5110)?;
        a.pop(es)?;
        a.mov(edx, dword_ptr(bx + 0x130).es())?;
        a.mov(word_ptr(0x700).cs(), 0x77)
    });
    assert_eq!(outcome.events.len(), 1, "{outcome:?}");
    assert_eq!((outcome.gpr(Gpr::Rcx), outcome.gpr(Gpr::Rdx)), (0x1234_5678, 0x1234_5678));
    assert_eq!(machine.read::<u16>(USER_CODE + 0x700), 0x77);
    // Limits of protected mode do not come along.
    let cases: [(&str, u8, Build<'_>); 4] = [
        ("beyond the limit", GP, &|a| a.mov(al, byte_ptr(ebx))),
        ("across the limit", GP, &|a| a.mov(ecx, dword_ptr(si - 3))),
        ("beyond the limit of the stack", SS, &|a| a.mov(al, byte_ptr(ebp))),
        ("code beyond the limit", GP, &|a| a.db(&[0x66, 0xe9, 0, 0, 1, 0])),
    ];
    for (name, vector, build) in cases {
        let mut machine = self::machine(Rflags::empty());
        machine.set_gpr(Gpr::Rbx, 0x1_0000);
        machine.set_gpr(Gpr::Rbp, 0x1_0000);
        machine.state.segments[SegmentRegister::Ds as usize].limit = 0xffff;
        code(&mut machine, 0, build);
        let event = machine.run_to_stop().events[0];
        assert_eq!(event.brief(), (vector, 0, 0), "{name}");
    }
}

#[test]
fn far_transfers_load_no_descriptors() {
    let mut machine = machine(IOPL3);
    let mut call = vec![0x9a, 0x00, 0x01];
    call.extend((V86_CODE + 0x10).to_le_bytes());
    machine.write_bytes(USER_CODE, &call);
    code(&mut machine, 5, &stop_user);
    code(&mut machine, 0x200, &|a| {
        a.mov(bp, sp)?;
        a.mov(cx, cs)?;
        a.retf()
    });
    let outcome = machine.run_to_stop();
    let event = outcome.events[0];
    assert_eq!((event.vector, event.rip, event.cs, event.rsp), (VECTOR_STOP, 7, V86_CODE, V86_SP));
    assert_eq!((outcome.gpr(Gpr::Rbp), outcome.gpr(Gpr::Rcx)), (V86_SP - 4, u64::from(V86_CODE) + 0x10));
}

const SENSITIVE: [(&str, &[u8]); 7] = [
    ("CLI", &[0xfa]),
    ("STI", &[0xfb]),
    ("PUSHF", &[0x9c]),
    ("PUSHFD", &[0x66, 0x9c]),
    ("POPF", &[0x9d]),
    ("IRET", &[0xcf]),
    ("INT", &[0xcd, OWN]),
];

#[test]
fn what_has_to_do_with_if_needs_iopl() {
    for (name, bytes) in SENSITIVE {
        for iopl in 0..4u64 {
            let mut machine = machine(Rflags::from_bits_retain(iopl << 12));
            machine.write(USER_DATA + V86_SP, [bytes.len() as u16, V86_CODE, 0x3002]);
            if name == "POPF" {
                machine.write(USER_DATA + V86_SP, 0x3002u16);
            }
            machine.write_bytes(USER_CODE, bytes);
            code(&mut machine, bytes.len() as u64, &|a| a.int3());
            let event = machine.run_to_stop().events[0];
            let wanted = match (name, iopl) {
                ("INT", 3) => (OWN, 0, 2),
                (_, 3) => (3, 0, bytes.len() as u64 + 1),
                _ => (GP, 0, 0),
            };
            assert_eq!(event.brief(), wanted, "{name} with IOPL {iopl}");
        }
    }
    // INT3 and INTO are not among them; the gate's privilege counts.
    for (vector, bytes) in [(3u8, [0xcc]), (4, [0xce])] {
        let mut machine = machine(Rflags::OF);
        machine.write_bytes(USER_CODE, &bytes);
        assert_eq!(machine.run_to_stop().events[0].brief(), (vector, 0, 1));
        machine.set_gate_32(vector, selector::CODE32, STUBS + u64::from(vector) * STUB_SIZE, INTERRUPT_32, 0);
        assert_eq!(machine.run_to_stop().events[0].brief(), (GP, u64::from(vector) * 8 + 2, 0));
    }
}

#[test]
fn iopl_and_vm_stay_as_they_are() {
    let mut machine = machine(IOPL3 | Rflags::IF);
    let outcome = run(&mut machine, &|a| {
        a.push(0)?;
        a.popf()?;
        a.pushf()?;
        a.pop(cx)?;
        a.push(0x0202)?;
        a.push(cs)?;
        a.call(0x80)?;
        a.pushf()?;
        a.pop(dx)
    });
    assert_eq!(outcome.gpr(Gpr::Rcx), 0x3002, "POPF");
    code(&mut machine, 0x80, &|a| a.iret());
    let outcome = machine.run_to_stop();
    assert_eq!(outcome.gpr(Gpr::Rdx), 0x3202, "IRET");
    assert!(outcome.events[0].has_flag(Rflags::VM));
}

#[test]
fn what_the_mode_does_not_have() {
    let cases: [(&str, u8, Build<'_>); 17] = [
        ("hlt", GP, &|a| a.hlt()),
        ("clts", GP, &|a| a.clts()),
        ("mov cr0", GP, &|a| a.mov(eax, cr0)),
        ("mov dr0", GP, &|a| a.mov(eax, dr0)),
        ("lgdt", GP, &|a| a.db(&[0x0f, 0x01, 0x16, 0, 0])),
        ("lmsw", GP, &|a| a.lmsw(ax)),
        ("invd", GP, &|a| a.invd()),
        ("invlpg", GP, &|a| a.db(&[0x0f, 0x01, 0x3e, 0, 0])),
        ("rdmsr", GP, &|a| a.rdmsr()),
        ("sysexit", GP, &|a| a.sysexit()),
        ("sldt", UD, &|a| a.db(&[0x0f, 0x00, 0xc0])),
        ("str", UD, &|a| a.db(&[0x0f, 0x00, 0xc8])),
        ("lldt", UD, &|a| a.db(&[0x0f, 0x00, 0xd0])),
        ("verr", UD, &|a| a.db(&[0x0f, 0x00, 0xe0])),
        ("lar", UD, &|a| a.db(&[0x0f, 0x02, 0xc0])),
        ("arpl", UD, &|a| a.db(&[0x63, 0xc0])),
        ("vmovdqa", UD, &|a| a.db(&[0xc5, 0xf9, 0x6f, 0xc0])),
    ];
    for (name, vector, build) in cases {
        let mut machine = machine(IOPL3);
        code(&mut machine, 0, build);
        assert_eq!(machine.run_to_stop().events[0].brief(), (vector, 0, 0), "{name}");
    }
}

#[test]
fn ports_are_those_of_the_permission_map_whatever_iopl_is() {
    for iopl in [Rflags::empty(), IOPL3] {
        for (name, allowed, bytes, good) in [
            ("denied", 0u16, &[0xe4, 0x50][..], false),
            ("allowed", 0x50, &[0xe4, 0x50], true),
            ("both bytes", 0x50, &[0xe5, 0x50], false),
            ("the second byte", 0x51, &[0xe5, 0x50], false),
        ] {
            let mut machine = machine(iopl);
            machine.write(TSS + IO_MAP + u64::from(allowed / 8), !(1u8 << (allowed % 8)));
            machine.write_bytes(USER_CODE, bytes);
            code(&mut machine, 2, &|a| a.int3());
            let event = machine.run_to_stop().events[0];
            assert_eq!(event.brief(), if good { (3, 0, 3) } else { (GP, 0, 0) }, "{name}");
        }
        // Beyond the TSS's limit nothing is allowed.
        let mut machine = machine(iopl);
        machine.write(TSS + 0x66, 0x189u16);
        code(&mut machine, 0, &|a| a.in_(al, 0x50));
        assert_eq!(machine.run_to_stop().events[0].vector, GP);
    }
}

#[test]
fn handlers_run_at_level_0() {
    let conforming = Segment { attributes: 0xc09e, ..Segment::code32(selector::FREE, 0) };
    for code_segment in [selector::FREE, selector::USER_CODE32] {
        let mut machine = machine(IOPL3);
        machine.set_descriptor(selector::FREE, conforming.to_descriptor());
        machine.set_gate_32(OWN, code_segment, CODE, INTERRUPT_32, 3);
        code(&mut machine, 0, &|a| a.int(u32::from(OWN)));
        let code = Exception::gp(u32::from(code_segment & !3)).error_code;
        assert_eq!(machine.run_to_stop().events[0].brief(), (GP, code.into(), 0));
        machine.write(IDT + u64::from(GP) * 8, 0u64);
        machine.write(IDT + 8 * 8, 0u64);
        assert_eq!(machine.run().exit, Exit::TripleFault);
    }
}

#[test]
fn interrupts_from_outside_leave_the_mode() {
    let mut machine = machine(Rflags::IF);
    machine.platform.extint.lock().unwrap().push(OWN);
    machine.vm.set_extint(true);
    code(&mut machine, 0, &|a| {
        let mut here = a.create_label();
        a.set_label(&mut here)?;
        a.jmp(here)
    });
    let event = machine.run_to_stop().events[0];
    assert_eq!((event.brief(), event.cs, event.frame), ((OWN, 0, 0), V86_CODE, RSP0_TOP - 36));
}

#[test]
fn steps_are_trapped_by_the_supervisor() {
    let mut machine = machine(Rflags::TF | IOPL3);
    code(&mut machine, 0, &|a| {
        a.nop()?;
        a.nop()
    });
    let event = machine.run_to_stop().events[0];
    assert_eq!(event.brief(), (1, 0, 1));
    assert!(event.has_flag(Rflags::VM | Rflags::TF));
}

/// A machine with CR4.VME, whose INT [`OWN`] the program's own table has.
fn extended(flags: Rflags) -> Machine {
    let mut machine = machine(flags);
    machine.state.cr4 |= Cr4::VME;
    machine.write(TSS + IO_MAP - 32 + u64::from(OWN) / 8, !(1u8 << (OWN % 8)));
    machine.write(u64::from(OWN) * 4, u32::from(V86_CODE) << 16 | V86_HANDLER as u32);
    machine
}

#[test]
fn int_stays_in_the_mode_where_the_bitmap_says_so() {
    for iopl in [Rflags::empty(), IOPL3] {
        for virtual_if in [Rflags::empty(), Rflags::VIF] {
            let mut machine = extended(iopl | virtual_if | Rflags::IF);
            code(&mut machine, 0, &|a| {
                a.int(u32::from(OWN))?;
                a.int3()
            });
            code(&mut machine, V86_HANDLER, &|a| {
                a.mov(bp, sp)?;
                a.mov(cx, word_ptr(bp + 4))?;
                a.iret()
            });
            let outcome = machine.run_to_stop();
            let event = outcome.events[0];
            assert_eq!((event.brief(), event.rsp), ((3, 0, 3), V86_SP));
            assert_eq!(outcome.gpr(Gpr::Rbp), V86_SP - 6);
            let shown = if iopl == IOPL3 || virtual_if == Rflags::VIF { 0x3202 } else { 0x3002 };
            assert_eq!(outcome.gpr(Gpr::Rcx), shown);
            assert_eq!(event.has_flag(Rflags::VIF), virtual_if == Rflags::VIF);
            assert!(event.has_flag(Rflags::IF));
            // In the handler, one of them is off.
            code(&mut machine, V86_HANDLER, &|a| a.int3());
            let event = machine.run_to_stop().events[0];
            assert_eq!(event.has_flag(Rflags::IF), iopl != IOPL3);
            assert_eq!(event.has_flag(Rflags::VIF), iopl == IOPL3 && virtual_if == Rflags::VIF);
        }
    }
    // Else it is the supervisor's, by IOPL.
    let mut machine = extended(Rflags::empty());
    machine.write(TSS + IO_MAP - 32 + u64::from(OWN) / 8, 0xffu8);
    code(&mut machine, 0, &|a| a.int(u32::from(OWN)));
    assert_eq!(machine.run_to_stop().events[0].brief(), (GP, 0, 0));
    machine.state.rflags |= IOPL3;
    assert_eq!(machine.run_to_stop().events[0].brief(), (OWN, 0, 2));
    // Or the bitmap is not there.
    machine.write(TSS + 0x66, 0x1aau16);
    assert_eq!(machine.run_to_stop().events[0].brief(), (GP, 0, 0));
}

#[test]
fn vif_takes_the_place_of_if() {
    let flags = |machine: &mut Machine, build: Build<'_>| {
        let end = code(machine, 0, build);
        code(machine, end, &|a| a.int3());
        let outcome = machine.run_to_stop();
        (outcome.events[0].vector, Rflags::from_bits_retain(outcome.events[0].rflags), outcome.gpr(Gpr::Rcx))
    };
    let mut machine = extended(Rflags::IF);
    let (vector, after, _) = flags(&mut machine, &|a| a.sti());
    assert!(vector == 3 && after.contains(Rflags::VIF | Rflags::IF));
    let (vector, after, shown) = flags(&mut machine, &|a| {
        a.sti()?;
        a.pushf()?;
        a.pop(cx)?;
        a.cli()
    });
    assert!(vector == 3 && !after.contains(Rflags::VIF) && after.contains(Rflags::IF));
    assert_eq!(shown, 0x3202);
    let (vector, after, shown) = flags(&mut machine, &|a| {
        a.push(0x0ed7)?;
        a.popf()?;
        a.pushf()?;
        a.pop(cx)
    });
    let loaded = Rflags::from_bits_retain(0xcd7) | Rflags::VIF | Rflags::IF | Rflags::VM;
    assert_eq!((vector, after, shown), (3, loaded, 0x3ed7));
    // Operands of 32 bits are the supervisor's.
    assert_eq!(flags(&mut machine, &|a| a.pushfd()).0, GP);
    assert_eq!(flags(&mut machine, &|a| a.popfd()).0, GP);
    assert_eq!(flags(&mut machine, &|a| a.iretd()).0, GP);
    // So is what would trap steps.
    assert_eq!(
        flags(&mut machine, &|a| {
            a.push(0x102)?;
            a.popf()
        })
        .0,
        GP
    );
}

#[test]
fn pending_virtual_interrupts_are_told_when_they_could_be_taken() {
    let cases: [(&str, Build<'_>); 3] =
        [("STI", &|a| a.sti()), ("POPF", &|a| a.popf()), ("IRET", &|a| a.iret())];
    for (name, build) in cases {
        for (pending, wanted) in [(Rflags::VIP, GP), (Rflags::empty(), 3)] {
            let mut machine = extended(pending);
            let end = code(&mut machine, 0, build);
            let frame = if name == "POPF" { [0x202; 3] } else { [end as u16, V86_CODE, 0x202] };
            machine.write(USER_DATA + V86_SP, frame);
            code(&mut machine, end, &|a| a.int3());
            let event = machine.run_to_stop().events[0];
            assert_eq!((event.vector, event.has_flag(Rflags::VIF)), (wanted, wanted == 3), "{name}");
            if wanted == GP {
                assert_eq!((event.rip, event.rsp), (0, V86_SP), "{name}");
            }
        }
    }
}

#[test]
fn protected_mode_has_virtual_interrupts_too() {
    let run = |flags: Rflags, build: Build<'_>| {
        let mut machine = Machine::protected();
        machine.start_in_32bit_user_mode();
        machine.state.cr4 |= Cr4::PVI;
        machine.state.rflags |= flags;
        let end = machine.code_of(32, USER_CODE, build);
        machine.code_of(32, end, &|a| a.int3());
        machine.run_to_stop().events[0]
    };
    let event = run(Rflags::IF, &|a| a.sti());
    assert!(event.vector == 3 && event.has_flag(Rflags::VIF | Rflags::IF));
    let event = run(Rflags::IF | Rflags::VIF, &|a| a.cli());
    assert!(event.vector == 3 && event.has_flag(Rflags::IF) && !event.has_flag(Rflags::VIF));
    assert_eq!(run(Rflags::VIP, &|a| a.sti()).brief(), (GP, 0, USER_CODE));
    // With IOPL it is IF itself.
    let event = run(IOPL3 | Rflags::VIP, &|a| a.sti());
    assert!(event.vector == 3 && event.has_flag(Rflags::IF) && !event.has_flag(Rflags::VIF));
}

#[test]
fn a_task_can_be_one_of_this_mode() {
    let mut machine = Machine::protected();
    let tss = Segment { selector: selector::FREE, attributes: 0x89, limit: 0x67, base: DATA };
    machine.set_descriptor(tss.selector, tss.to_descriptor());
    let field = |offset: u64, value: u64| machine.write(DATA + offset, value as u32);
    field(4, RSP0_TOP);
    field(8, selector::DATA.into());
    field(0x24, (Rflags::VM | Rflags::RESERVED_1 | IOPL3).bits());
    field(0x38, V86_SP);
    for (n, selector) in [0x5100, V86_CODE, V86_STACK, 0x5200, 0x5300, 0x5400].into_iter().enumerate() {
        field(0x48 + 4 * n as u64, selector.into());
    }
    let setup: Setup<'_> = &|machine| {
        code(machine, 0, &|a| {
            a.mov(cx, ds)?;
            a.int(u32::from(VECTOR_STOP))
        });
    };
    setup(&mut machine);
    let mut jump = vec![0xea, 0, 0, 0, 0];
    jump.extend(selector::FREE.to_le_bytes());
    machine.write_bytes(CODE, &jump);
    let outcome = machine.run_to_stop();
    let event = outcome.events[0];
    assert_eq!((event.brief(), event.cs), ((VECTOR_STOP, 0, 4), V86_CODE));
    assert_eq!((event.ss, event.rsp, outcome.gpr(Gpr::Rcx)), (V86_STACK, V86_SP, 0x5200));
}
