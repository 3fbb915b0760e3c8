//! Segments: how they are loaded, and what they limit in compatibility mode (SDM vol. 3, chapters 3 and 5).

use iced_x86::code_asm::*;
use viv_arch::{Gpr, Rflags, Segment, SegmentRegister};

use crate::machine::*;

const NP: u8 = 11;
const SS: u8 = 12;
const GP: u8 = 13;
const PF: u8 = 14;

/// A machine in 32-bit user code, with flat segments.
fn compatibility_machine() -> Machine {
    let mut machine = Machine::new();
    machine.start_in_user_mode();
    machine.set_code_segment(Segment::code32(selector::USER_CODE32, 3));
    for register in [SegmentRegister::Ds, SegmentRegister::Es, SegmentRegister::Fs, SegmentRegister::Gs] {
        set_segment(&mut machine, register, Segment::data(selector::USER_DATA, 3));
    }
    machine
}

fn set_segment(machine: &mut Machine, register: SegmentRegister, segment: Segment) {
    machine.state.segments[register as usize] = segment;
}

/// Runs 32-bit user code: vectors and error codes of what it raised.
fn run32(machine: &mut Machine, build: Build<'_>) -> Vec<(u8, u64)> {
    let end = machine.code_of(32, USER_CODE, build);
    machine.code_of(32, end, &stop_user);
    machine.run_to_stop().briefs().into_iter().map(|(vector, code, _)| (vector, code)).collect()
}

const LOAD: Build<'static> = &|a| a.mov(eax, dword_ptr(ebx));
const STORE: Build<'static> = &|a| a.mov(dword_ptr(ebx), eax);
const LOAD_STACK: Build<'static> = &|a| a.mov(eax, dword_ptr(ebp));

#[test]
fn data_segments_limit_and_protect() {
    let base = USER_DATA;
    let segment = |attributes: u32, limit: u32| Segment { selector: 0x23, attributes, limit, base };
    let small = segment(0x40f3, 0xff);
    let read_only = segment(0x40f1, 0xff);
    let expand_down = segment(0x40f7, 0xff);
    let expand_down_16 = segment(0x00f7, 0xff);
    let readable_code = segment(0x40fb, 0xff);
    let execute_only = segment(0x40f9, 0xff);
    let null = Segment { selector: 0, attributes: Segment::UNUSABLE, limit: 0, base: 0 };
    // (name, segment, offset, loads, stores)
    let cases = [
        ("the last double word", small, 0xfc, true, true),
        ("one byte beyond", small, 0xfd, false, false),
        ("far beyond", small, 0xffff_ffff, false, false),
        ("read-only", read_only, 0, true, false),
        ("below an expand-down segment", expand_down, 0xff, false, false),
        ("an expand-down segment", expand_down, 0x100, true, true),
        ("beyond a 16-bit expand-down segment", expand_down_16, 0xfffd, false, false),
        ("a 16-bit expand-down segment", expand_down_16, 0x8000, true, true),
        ("readable code", readable_code, 0, true, false),
        ("execute-only code", execute_only, 0, false, false),
        ("null", null, 0, false, false),
    ];
    for (name, segment, offset, loads, stores) in cases {
        for (access, good) in [(LOAD, loads), (STORE, stores)] {
            let mut machine = compatibility_machine();
            set_segment(&mut machine, SegmentRegister::Ds, segment);
            machine.set_gpr(Gpr::Rbx, offset);
            let wanted = if good { vec![] } else { vec![(GP, 0)] };
            assert_eq!(run32(&mut machine, access), wanted, "{name}");
        }
    }
    // By way of SS it is a stack fault.
    let mut machine = compatibility_machine();
    set_segment(&mut machine, SegmentRegister::Ss, segment(0x40f3, 0xff));
    machine.set_gpr(Gpr::Rbp, 0x100);
    assert_eq!(run32(&mut machine, LOAD_STACK), [(SS, 0)]);
    machine.set_gpr(Gpr::Rsp, 0x200);
    assert_eq!(run32(&mut machine, &|a| a.push(eax)), [(SS, 0)]);
}

#[test]
fn bases_apply_and_addresses_wrap_at_4_gib() {
    let mut machine = compatibility_machine();
    machine.write(USER_DATA + 0x20, 0x1234_5678u32);
    set_segment(
        &mut machine,
        SegmentRegister::Ds,
        Segment { base: 0xffff_f000, ..Segment::data(selector::USER_DATA, 3) },
    );
    machine.set_gpr(Gpr::Rbx, USER_DATA + 0x1020);
    assert_eq!(run32(&mut machine, LOAD), []);
    assert_eq!(machine.vcpu.save().unwrap().gpr[0], 0x1234_5678);
    // An access across the end continues at address 0.
    machine.tables.map(0xffff_f000, FREE, PageSize::Size4K, FULL);
    machine.tables.map(0, 0, PageSize::Size4K, FULL);
    machine.write(FREE + 0xffe, 0x2211u16);
    machine.write(0, 0x4433u16);
    machine.set_gpr(Gpr::Rbx, 0xffe);
    assert_eq!(run32(&mut machine, LOAD), []);
    assert_eq!(machine.vcpu.save().unwrap().gpr[0], 0x4433_2211);
    machine.set_gpr(Gpr::Rax, 0x8877_6655);
    for store in [STORE, &|a| a.xchg(dword_ptr(ebx), eax), &|a| {
        a.movd(xmm0, eax)?;
        a.movd(dword_ptr(ebx), xmm0)
    }] {
        machine.write(FREE + 0xffe, 0u16);
        machine.write(0, 0u32);
        assert_eq!(run32(&mut machine, store), []);
        assert_eq!((machine.read::<u16>(FREE + 0xffe), machine.read::<u32>(0)), (0x6655, 0x8877));
    }
}

#[test]
fn the_code_segments_limit_holds_for_every_byte() {
    let limited = |limit: u32| Segment {
        limit,
        attributes: 0x40fb,
        base: USER_CODE,
        ..Segment::code32(selector::USER_CODE32, 3)
    };
    let run = |limit: u32, code: &[u8]| {
        let mut machine = compatibility_machine();
        machine.set_code_segment(limited(limit));
        machine.state.rip = 0;
        machine.write_bytes(USER_CODE, code);
        machine.code_of(32, USER_CODE + 0x10, &stop_user);
        machine.run_to_stop().briefs()
    };
    // nop; mov eax, imm32; jmp 0x10
    let code = [0x90, 0xb8, 1, 0, 0, 0, 0xeb, 0x08];
    assert_eq!(run(0x11, &code), []);
    assert_eq!(run(0x10, &code), [(GP, 0, 0x10)], "INT's second byte");
    assert_eq!(run(0xf, &code), [(GP, 0, 6)], "the jump leads out");
    assert_eq!(run(6, &code), [(GP, 0, 6)], "the jump's second byte");
    assert_eq!(run(5, &code), [(GP, 0, 6)], "it runs out");
    assert_eq!(run(4, &code), [(GP, 0, 1)], "an immediate's last byte");
    assert_eq!(run(0, &code), [(GP, 0, 1)]);
    // The same code is known already under a larger limit.
    let mut machine = compatibility_machine();
    machine.write_bytes(USER_CODE, &code);
    machine.code_of(32, USER_CODE + 0x10, &stop_user);
    machine.state.rip = 0;
    for (limit, wanted) in [(0x1ff, vec![]), (4, vec![(GP, 0, 1)]), (0x1ff, vec![])] {
        machine.set_code_segment(limited(limit));
        assert_eq!(machine.run_to_stop().briefs(), wanted);
    }
}

#[test]
fn the_instruction_pointer_wraps_at_4_gib() {
    let mut machine = compatibility_machine();
    machine.tables.map(0xffff_f000, FREE, PageSize::Size4K, FULL);
    machine.tables.map(0, 0, PageSize::Size4K, FULL);
    // An instruction that ends there, then one that lies on both sides.
    for start in [0xffff_ffffu64, 0xffff_fffd] {
        let at = FREE + (start & 0xfff);
        machine.write_bytes(FREE + 0xff0, &[0x90; 16]);
        machine.state.rip = start;
        machine.set_gpr(Gpr::Rax, 0);
        let (split, after) = if start == 0xffff_ffff {
            (vec![0x90], vec![])
        } else {
            (vec![0xb8, 0x11, 0x22], vec![0x33, 0x44])
        };
        machine.write_bytes(at, &split);
        machine.write_bytes(0, &after);
        machine.code_of(32, after.len() as u64, &stop_user);
        let outcome = machine.run_to_stop();
        assert_eq!(outcome.events[0].brief(), (VECTOR_STOP, 0, after.len() as u64 + 2), "{start:#x}");
        if !after.is_empty() {
            assert_eq!(outcome.gpr(Gpr::Rax), 0x4433_2211);
        }
    }
}

#[test]
fn registers_lose_nothing_on_the_way_through_compatibility_mode() {
    let mut machine = compatibility_machine();
    machine.set_gpr(Gpr::Rsi, 0x1111_2222_3333_4444);
    machine.set_gpr(Gpr::R15, 0x5555_6666_7777_8888);
    assert_eq!(run32(&mut machine, &|a| a.nop()), []);
    let state = machine.vcpu.save().unwrap();
    assert_eq!(state.gpr[Gpr::Rsi as usize], 0x1111_2222_3333_4444);
    assert_eq!(state.gpr[Gpr::R15 as usize], 0x5555_6666_7777_8888);
}

#[test]
fn loading_a_segment_register_checks_its_descriptor() {
    let free = selector::FREE;
    let absent = Segment { attributes: 0xc073, ..Segment::data(free, 3) };
    let read_only = Segment { attributes: 0xc0f1, ..Segment::data(free + 8, 3) };
    let execute_only = Segment { attributes: 0xc0f9, ..Segment::data(free + 16, 3) };
    let conforming = Segment { attributes: 0xc09f, ..Segment::code32(free + 24, 0) };
    let kernel_read_only = Segment { attributes: 0xc091, ..Segment::data(free + 32, 0) };
    let kernel_absent = Segment { attributes: 0xc013, ..Segment::data(free + 40, 0) };
    let load = |user: bool, stack: bool, value: u16| {
        let mut machine = Machine::new();
        for segment in [absent, read_only, execute_only, conforming, kernel_read_only, kernel_absent] {
            machine.set_descriptor(segment.selector, segment.to_descriptor());
        }
        if user {
            machine.start_in_user_mode();
        }
        machine.set_gpr(Gpr::Rax, u64::from(value));
        let at = machine.state.rip;
        let end = machine.code(at, &|a| if stack { a.mov(ss, eax) } else { a.mov(ds, eax) });
        machine.code(end, if user { &stop_user } else { &stop });
        let events = machine.run_to_stop().briefs();
        match events[..] {
            [] => None,
            [(vector, code, rip)] => {
                assert_eq!(rip, at);
                Some((vector, code))
            }
            ref other => panic!("{other:x?}"),
        }
    };
    let code = |value: u16| u64::from(value & !3);
    for (name, user, value, data, stack) in [
        ("null", true, 0, None, Some((GP, 0))),
        ("null at level 0", false, 0, None, None),
        ("null with another RPL", false, 1, None, Some((GP, 0))),
        ("user data", true, 0x23, None, None),
        ("user data with RPL 0", true, 0x20, None, Some((GP, 0x20))),
        ("user data from the kernel", false, 0x23, None, Some((GP, 0x20))),
        ("kernel data from user mode", true, 0x10, Some((GP, 0x10)), Some((GP, 0x10))),
        ("kernel data with RPL 3", false, 0x13, Some((GP, 0x10)), Some((GP, 0x10))),
        ("not present", true, free | 3, Some((NP, code(free))), Some((SS, code(free)))),
        (
            "not present, at level 0",
            false,
            free + 40,
            Some((NP, code(free + 40))),
            Some((SS, code(free + 40))),
        ),
        ("read-only", true, (free + 8) | 3, None, Some((GP, code(free + 8)))),
        ("read-only, at level 0", false, free + 32, None, Some((GP, code(free + 32)))),
        ("execute-only", true, (free + 16) | 3, Some((GP, code(free + 16))), Some((GP, code(free + 16)))),
        ("conforming code", true, (free + 24) | 3, None, Some((GP, code(free + 24)))),
        ("beyond the table", true, 0x1003, Some((GP, 0x1000)), Some((GP, 0x1000))),
        ("a TSS", false, 0x30, Some((GP, 0x30)), Some((GP, 0x30))),
        ("without an LDT", true, 0x27, Some((GP, 0x24)), Some((GP, 0x24))),
    ] {
        assert_eq!(load(user, false, value), data, "{name} into DS");
        assert_eq!(load(user, true, value), stack, "{name} into SS");
    }
}

#[test]
fn loading_sets_the_accessed_bit_and_the_base() {
    let mut machine = Machine::new();
    let fresh = Segment { attributes: 0x4092, limit: 0xfff, base: 0x1234_5000, selector: selector::FREE };
    machine.set_descriptor(fresh.selector, fresh.to_descriptor());
    machine.code(CODE, &|a| {
        a.mov(eax, u32::from(selector::FREE))?;
        a.mov(fs, eax)?;
        a.rdfsbase(rbx)?;
        a.xor(eax, eax)?;
        a.mov(fs, eax)?;
        a.rdfsbase(rcx)?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    assert_eq!((outcome.gpr(Gpr::Rbx), outcome.gpr(Gpr::Rcx)), (0x1234_5000, 0));
    assert_eq!(machine.read::<u8>(GDT + u64::from(selector::FREE) + 5), 0x93);
}

#[test]
fn a_descriptor_that_cannot_be_read_faults_at_its_address() {
    let mut machine = Machine::new();
    machine.state.gdtr.base = FREE - u64::from(selector::FREE);
    machine.state.gdtr.limit = 0xffff;
    // The handlers' own code segment is below FREE, at the end of the mapped pages.
    for n in 0..9u64 {
        let descriptor: u64 = machine.read(GDT + n * 8);
        machine.write(FREE - u64::from(selector::FREE) + n * 8, descriptor);
    }
    machine.code(CODE, &|a| {
        a.mov(eax, u32::from(selector::FREE))?;
        a.mov(ds, eax)
    });
    let event = machine.run_to_stop().events[0];
    assert_eq!((event.vector, event.error_code, event.cr2), (PF, 0, FREE));
}

#[test]
fn a_local_descriptor_table() {
    let mut machine = Machine::new();
    let table = Segment { attributes: 0x82, limit: 0xf, base: DATA, selector: selector::FREE };
    machine.set_descriptor(table.selector, table.to_descriptor());
    machine.set_descriptor(table.selector + 8, 0);
    let inside = Segment { base: 0x77_7000, attributes: 0x40f3, limit: 0xff, selector: 0xf };
    machine.write(DATA + 8, inside.to_descriptor());
    let lldt = machine.code(CODE, &|a| {
        a.mov(eax, u32::from(selector::FREE))?;
        a.lldt(ax)?;
        a.sldt(ecx)?;
        a.mov(eax, 0xf)?;
        a.mov(gs, eax)?;
        a.rdgsbase(rbx)?;
        a.mov(eax, 0x17)
    });
    machine.code(lldt, &|a| a.mov(gs, eax));
    let outcome = machine.run_to_stop();
    assert_eq!(outcome.briefs(), [(GP, 0x14, lldt)], "beyond the table");
    assert_eq!((outcome.gpr(Gpr::Rbx), outcome.gpr(Gpr::Rcx)), (0x77_7000, u64::from(selector::FREE)));
}

#[test]
fn ltr_takes_an_available_tss_and_marks_it_busy() {
    let load = |value: u16, attributes: u32| {
        let mut machine = Machine::new();
        let segment = Segment { attributes, limit: 0x67, base: TSS, selector: selector::FREE };
        machine.set_descriptor(segment.selector, segment.to_descriptor());
        machine.set_gpr(Gpr::Rax, u64::from(value));
        let end = machine.code(CODE, &|a| a.ltr(ax));
        machine.code(end, &stop);
        (machine.run_to_stop().briefs(), machine.read::<u8>(GDT + u64::from(selector::FREE) + 5))
    };
    let free = u64::from(selector::FREE);
    assert_eq!(load(selector::FREE, 0x89), (vec![], 0x8b));
    assert_eq!(load(selector::FREE, 0x8b), (vec![(GP, free, CODE)], 0x8b));
    assert_eq!(load(selector::FREE, 0x09), (vec![(NP, free, CODE)], 0x09));
    assert_eq!(load(selector::FREE, 0x81), (vec![(GP, free, CODE)], 0x81), "no 16-bit TSS in long mode");
    assert_eq!(load(0, 0x89).0, [(GP, 0, CODE)]);
    assert_eq!(load(selector::FREE | 4, 0x89).0, [(GP, free | 4, CODE)]);
}

#[test]
fn lar_lsl_verr_and_verw_look_without_faulting() {
    let mut machine = Machine::new();
    machine.start_in_user_mode();
    // (selector, LAR and LSL see it, readable, writable)
    for (value, visible, readable, writable) in [
        (selector::USER_DATA, true, true, true),
        (selector::USER_CODE64, true, true, false),
        (selector::DATA, false, false, false),
        (selector::TSS, false, false, false),
        (0, false, false, false),
        (0x1003, false, false, false),
        (0x27, false, false, false),
    ] {
        machine.set_gpr(Gpr::Rax, u64::from(value));
        machine.set_gpr(Gpr::Rbx, 0x5555);
        machine.set_gpr(Gpr::R9, 0x5555);
        machine.code(USER_CODE, &|a| {
            a.lar(ebx, eax)?;
            a.setz(cl)?;
            a.lsl(r9d, eax)?;
            a.setz(dl)?;
            a.verr(ax)?;
            a.setz(sil)?;
            a.verw(ax)?;
            a.setz(dil)?;
            stop_user(a)
        });
        let outcome = machine.run_to_stop();
        let flags = [Gpr::Rcx, Gpr::Rdx, Gpr::Rsi, Gpr::Rdi].map(|r| outcome.gpr(r) & 1 != 0);
        assert_eq!(flags, [visible, visible, readable, writable], "{value:#x}");
        if visible {
            let descriptor: u64 = machine.read(GDT + u64::from(value & !7));
            assert_eq!(outcome.gpr(Gpr::Rbx), descriptor >> 32 & 0xf0_ff00, "{value:#x}");
            assert_eq!(outcome.gpr(Gpr::R9), 0xffff_ffff, "{value:#x}");
        } else {
            assert_eq!((outcome.gpr(Gpr::Rbx), outcome.gpr(Gpr::R9)), (0x5555, 0x5555), "{value:#x}");
        }
    }
}

#[test]
fn pop_ss_casts_a_shadow_in_compatibility_mode() {
    let mut machine = compatibility_machine();
    machine.on(1, Action::Return);
    machine.state.rflags |= Rflags::TF;
    let end = machine.code_of(32, USER_CODE, &|a| {
        a.push(i32::from(selector::USER_DATA))?;
        a.pop(ss)?;
        a.nop()
    });
    machine.code_of(32, end, &stop_user);
    let traps: Vec<u64> =
        machine.run_to_stop().events.iter().filter(|e| e.vector == 1).map(|e| e.rip).collect();
    assert_eq!(traps, [end - 2, end]);
}
