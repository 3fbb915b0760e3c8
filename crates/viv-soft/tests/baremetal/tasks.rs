//! Task switches (SDM vol. 3, chapter 8).

use iced_x86::code_asm::*;
use viv_arch::{Cr0, Gpr, Rflags, Segment, SegmentRegister, paging};
use viv_engine::Exit;

use crate::machine::*;

const DB: u8 = 1;
const UD: u8 = 6;
const DF: u8 = 8;
const TS: u8 = 10;
const NP: u8 = 11;
const GP: u8 = 13;
const PF: u8 = 14;
/// A vector of the test's own.
const OWN: u8 = 0x40;
/// The second task's TSS, a gate to it, the TSS of a third task, and a segment of the test's own.
const NEW: u16 = selector::FREE;
const GATE: u16 = selector::FREE + 8;
const RESCUE: u16 = selector::FREE + 16;
const SEGMENT: u16 = selector::FREE + 24;
/// Where these TSSs are.
const NEW_TSS: u64 = DATA;
const RESCUE_TSS: u64 = DATA + 0x1000;
/// Where the second task begins, and its stack.
const NEW_CODE: u64 = CODE + 0x400;
const NEW_STACK: u64 = 0xe000;
const TASK_GATE: u64 = 5;
const TSS_32: u32 = 0x89;
const TSS_16: u32 = 0x81;
const BUSY: u8 = 2;
/// Fields of a 32-bit TSS.
const EIP: u64 = 0x20;
const EFLAGS: u64 = 0x24;
const EAX: u64 = 0x28;
const ESP: u64 = 0x38;
const CS_FIELD: u64 = 0x4c;
const SS_FIELD: u64 = 0x50;
const DS_FIELD: u64 = 0x54;

const CALL: u8 = 0x9a;
const JMP: u8 = 0xea;

/// Makes something wrong.
type Setup<'a> = &'a dyn Fn(&mut Machine);

/// A machine in protected mode with a second task, whose registers are its own.
fn machine() -> Machine {
    let machine = Machine::protected();
    set_tss(&machine, TSS_32, 0x67);
    let field = |offset: u64, value: u64| machine.write(NEW_TSS + offset, value as u32);
    field(4, RSP0_TOP);
    field(8, selector::DATA.into());
    field(EIP, NEW_CODE);
    field(EFLAGS, (Rflags::RESERVED_1 | Rflags::CF).bits());
    for n in 0..8 {
        field(EAX + 4 * n, 0x1111_1111 * (n + 1));
    }
    field(ESP, NEW_STACK);
    for n in 0..6 {
        field(0x48 + 4 * n, selector::DATA.into());
    }
    field(CS_FIELD, selector::CODE32.into());
    field(0x64, 0x68 << 16);
    machine
}

fn set_tss(machine: &Machine, attributes: u32, limit: u32) {
    let tss = Segment { selector: NEW, attributes, limit, base: NEW_TSS };
    machine.set_descriptor(NEW, tss.to_descriptor());
}

/// Writes a task gate to the GDT.
fn set_gate(machine: &Machine, tss: u16, dpl: u64) {
    machine.set_descriptor(GATE, u64::from(tss) << 16 | (TASK_GATE | dpl << 5 | 0x80) << 40);
}

/// Lets a task of its own stop the machine after exceptions of these vectors, the error code in EBX.
fn add_rescue(machine: &Machine, vectors: &[u8]) {
    let tss = Segment { selector: RESCUE, attributes: TSS_32, limit: 0x67, base: RESCUE_TSS };
    machine.set_descriptor(RESCUE, tss.to_descriptor());
    let field = |offset: u64, value: u64| machine.write(RESCUE_TSS + offset, value as u32);
    for n in 0..6 {
        field(0x48 + 4 * n, selector::DATA.into());
    }
    field(CS_FIELD, selector::CODE32.into());
    field(ESP, NEW_STACK);
    field(EIP, CODE + 0x800);
    let handler = assemble(32, CODE + 0x800, &|a| {
        a.pop(ebx)?;
        stop(a)
    });
    machine.write_bytes(CODE + 0x800, &handler);
    for &vector in vectors {
        machine.set_gate_32(vector, RESCUE, 0, TASK_GATE, 0);
    }
}

fn far(opcode: u8, selector: u16) -> Vec<u8> {
    let mut bytes = vec![opcode, 0xef, 0xbe, 0xad, 0xde];
    bytes.extend(selector.to_le_bytes());
    bytes
}

/// Whether the TSS of `selector` is busy.
fn is_busy(machine: &Machine, selector: u16) -> bool {
    machine.read::<u8>(GDT + u64::from(selector) + 5) & BUSY != 0
}

fn saved(machine: &Machine, tss: u64, offset: u64) -> u64 {
    machine.read::<u32>(tss + offset).into()
}

#[test]
fn a_jump_saves_one_task_and_loads_the_other() {
    for through_gate in [false, true] {
        let mut machine = machine();
        set_gate(&machine, NEW, 0);
        machine.state.gpr[..8].copy_from_slice(&[10, 11, 12, 13, STACK_TOP, 15, 16, 17]);
        machine.state.rflags |= Rflags::ZF;
        machine.state.debug[5] |= 0b11;
        machine.write_bytes(CODE, &far(JMP, if through_gate { GATE } else { NEW }));
        machine.code_of(32, NEW_CODE, &stop);
        let outcome = machine.run_to_stop();
        assert!(outcome.events.is_empty(), "{outcome:?}");
        let state = &outcome.state;
        assert_eq!((state.tr.selector, state.tr.base, state.tr.attributes), (NEW, NEW_TSS, 0x8b));
        assert!(state.cr0.contains(Cr0::TS));
        assert_eq!(state.rflags, Rflags::RESERVED_1 | Rflags::CF);
        assert_eq!(outcome.gpr(Gpr::Rsp), NEW_STACK);
        assert_eq!((outcome.gpr(Gpr::Rcx), outcome.gpr(Gpr::Rdi)), (0x2222_2222, 0x8888_8888));
        // Its local breakpoint is off, the global one is not.
        assert_eq!(state.debug[5] & 3, 0b10);
        assert!(!is_busy(&machine, selector::TSS) && is_busy(&machine, NEW));
        assert_eq!((saved(&machine, TSS, EIP), saved(&machine, TSS, EFLAGS)), (CODE + 7, 0x42));
        let registers: [u32; 8] = machine.read(TSS + EAX);
        assert_eq!(registers, [10, 11, 12, 13, STACK_TOP as u32, 15, 16, 17]);
        assert_eq!(saved(&machine, TSS, CS_FIELD), u64::from(selector::CODE32));
        assert_eq!(saved(&machine, TSS, SS_FIELD), u64::from(selector::DATA));
        assert_eq!(saved(&machine, NEW_TSS, 0), 0, "no link");
    }
}

#[test]
fn a_call_nests_and_iret_returns() {
    let mut machine = machine();
    machine.write_bytes(CODE, &far(CALL, NEW));
    let again = machine.code_of(32, CODE + 7, &|a| {
        a.mov(ebx, 0x77)?;
        a.clts()
    });
    machine.write_bytes(again, &far(CALL, NEW));
    machine.code_of(32, again + 7, &stop);
    let end = machine.code_of(32, NEW_CODE, &|a| {
        a.pushfd()?;
        a.pop(esi)?;
        a.str(edi)?;
        a.inc(eax)?;
        a.iretd()
    });
    // It goes on behind its own IRET the next time.
    machine.code_of(32, end, &|a| {
        a.inc(eax)?;
        a.iretd()
    });
    let outcome = machine.run_to_stop();
    assert!(outcome.events.is_empty(), "{outcome:?}");
    assert_eq!((outcome.state.tr.selector, outcome.gpr(Gpr::Rbx)), (selector::TSS, 0x77));
    assert_eq!((outcome.gpr(Gpr::Rsp), outcome.state.rflags), (STACK_TOP, Rflags::RESERVED_1));
    assert!(is_busy(&machine, selector::TSS) && !is_busy(&machine, NEW));
    assert_eq!(saved(&machine, NEW_TSS, 0), u64::from(selector::TSS));
    assert_eq!(saved(&machine, NEW_TSS, EAX), 0x1111_1113);
    assert_eq!(saved(&machine, NEW_TSS, EIP), end + 2);
    let nested = (Rflags::NT | Rflags::CF | Rflags::RESERVED_1).bits();
    assert_eq!(saved(&machine, NEW_TSS, EAX + 24), nested, "ESI");
    assert_eq!(saved(&machine, NEW_TSS, EAX + 28), u64::from(NEW), "EDI");
    assert_eq!(saved(&machine, NEW_TSS, EFLAGS), 3, "without NT");
}

#[test]
fn exceptions_come_through_task_gates_with_their_error_codes() {
    let mut machine = machine();
    machine.start_in_32bit_user_mode();
    machine.set_gate_32(GP, NEW, 0, TASK_GATE, 0);
    machine.code_of(32, USER_CODE, &|a| {
        a.mov(eax, 0x1234)?;
        a.mov(ds, eax)?;
        a.mov(ebx, 0x55)
    });
    machine.code_of(32, USER_CODE + 12, &stop_user);
    let handler = |machine: &mut Machine| {
        machine.code_of(32, NEW_CODE, &|a| {
            a.pop(ebp)?;
            // A better selector for the next try, and no breakpoint on it.
            a.mov(dword_ptr(TSS + EAX), i32::from(selector::USER_DATA))?;
            a.mov(ecx, dword_ptr(TSS + EFLAGS))?;
            a.iretd()
        })
    };
    handler(&mut machine);
    let outcome = machine.run_to_stop();
    let event = outcome.events[0];
    assert_eq!((event.vector, event.cs), (VECTOR_STOP, selector::USER_CODE32));
    assert_eq!(outcome.events.len(), 1, "{outcome:?}");
    assert_eq!(saved(&machine, NEW_TSS, EAX + 20), 0x1234, "the error code");
    assert_eq!(saved(&machine, NEW_TSS, ESP), NEW_STACK);
    let flags = (Rflags::RF | Rflags::RESERVED_1).bits();
    assert_eq!(saved(&machine, NEW_TSS, EAX + 4), flags, "EFLAGS of the task that faulted");
    assert_eq!(saved(&machine, TSS, EIP), USER_CODE + 5, "the instruction is tried again");
    assert_eq!(outcome.gpr(Gpr::Rbx), 0x55);
}

#[test]
fn interrupts_and_int_come_through_task_gates() {
    // By INT n, which needs the gate's privilege, and from outside.
    for outside in [false, true] {
        let mut machine = machine();
        machine.start_in_32bit_user_mode();
        machine.set_gate_32(OWN, NEW, 0, TASK_GATE, if outside { 0 } else { 3 });
        machine.code_of(32, NEW_CODE, &stop);
        if outside {
            machine.state.rflags |= Rflags::IF;
            machine.platform.extint.lock().unwrap().push(OWN);
            machine.vm.set_extint(true);
            machine.code_of(32, USER_CODE, &|a| {
                let mut here = a.create_label();
                a.set_label(&mut here)?;
                a.jmp(here)
            });
        } else {
            machine.code_of(32, USER_CODE, &|a| a.int(u32::from(OWN)));
        }
        let outcome = machine.run_to_stop();
        assert_eq!((outcome.events.len(), outcome.state.tr.selector), (0, NEW));
        assert!(outcome.state.rflags.contains(Rflags::NT) && !outcome.state.rflags.contains(Rflags::IF));
        assert_eq!(outcome.gpr(Gpr::Rsp), NEW_STACK, "no error code");
        let back = if outside { USER_CODE } else { USER_CODE + 2 };
        assert_eq!(saved(&machine, TSS, EIP), back);
        assert_eq!(saved(&machine, NEW_TSS, 0), u64::from(selector::TSS));
    }
    let mut machine = machine();
    machine.start_in_32bit_user_mode();
    machine.set_gate_32(OWN, NEW, 0, TASK_GATE, 0);
    machine.code_of(32, USER_CODE, &|a| a.int(u32::from(OWN)));
    let event = machine.run_to_stop().events[0];
    assert_eq!(event.brief(), (GP, u64::from(OWN) * 8 + 2, USER_CODE));
}

#[test]
fn privilege_is_that_of_the_tss_or_the_gate() {
    let user = |tss_dpl: u32, gate_dpl: u64, through_gate: bool| {
        let mut machine = machine();
        machine.start_in_32bit_user_mode();
        set_tss(&machine, TSS_32 | tss_dpl << 5, 0x67);
        set_gate(&machine, NEW, gate_dpl);
        let selector = if through_gate { GATE } else { NEW };
        machine.write_bytes(USER_CODE, &far(JMP, selector | 3));
        machine.code_of(32, NEW_CODE, &stop);
        let outcome = machine.run_to_stop();
        outcome.events.first().map(Event::brief)
    };
    assert_eq!(user(3, 0, false), None);
    assert_eq!(user(0, 3, false), Some((GP, NEW.into(), USER_CODE)));
    assert_eq!(user(0, 3, true), None);
    assert_eq!(user(3, 0, true), Some((GP, GATE.into(), USER_CODE)));
}

#[test]
fn what_is_wrong_with_the_tss_is_told_before_anything_changes() {
    let new = u64::from(NEW);
    let cases: [(&str, (u8, u64), Setup<'_>); 8] = [
        ("busy", (GP, new), &|m| set_tss(m, TSS_32 | 2, 0x67)),
        ("not present", (NP, new), &|m| set_tss(m, 0x09, 0x67)),
        ("short", (TS, new), &|m| set_tss(m, TSS_32, 0x66)),
        ("short of 16 bits", (TS, new), &|m| set_tss(m, TSS_16, 0x2a)),
        ("gate to the LDT", (GP, 0x0c), &|m| set_gate(m, 0x0c, 0)),
        ("gate to nothing", (GP, 0), &|m| set_gate(m, 3, 0)),
        ("gate beyond the table", (GP, 0x1000), &|m| set_gate(m, 0x1000, 0)),
        ("gate to code", (GP, u64::from(selector::CODE32)), &|m| set_gate(m, selector::CODE32, 0)),
    ];
    for (name, (vector, code), setup) in cases {
        for (by, opcode) in [("JMP", JMP), ("CALL", CALL), ("INT", 0)] {
            let mut machine = machine();
            set_gate(&machine, NEW, 0);
            setup(&mut machine);
            let gate: u64 = machine.read(GDT + u64::from(GATE));
            machine.write(IDT + u64::from(OWN) * 8, gate);
            if opcode == 0 {
                machine.code_of(32, CODE, &|a| a.int(u32::from(OWN)));
            } else {
                machine.write_bytes(CODE, &far(opcode, GATE));
            }
            let outcome = machine.run_to_stop();
            assert_eq!(outcome.events[0].brief(), (vector, code, CODE), "{name} by {by}");
            assert_eq!(outcome.state.tr.selector, selector::TSS, "{name} by {by}");
            assert!(is_busy(&machine, selector::TSS), "{name} by {by}");
        }
    }
    // What is saved needs room, too.
    let mut machine = machine();
    machine.state.tr.limit = 0x5e;
    machine.write_bytes(CODE, &far(JMP, NEW));
    assert_eq!(machine.run_to_stop().events[0].brief(), (TS, selector::TSS.into(), CODE));
    // An event has the bit EXT.
    let mut machine = self::machine();
    set_tss(&machine, TSS_32 | 2, 0x67);
    machine.set_gate_32(UD, NEW, 0, TASK_GATE, 0);
    machine.code_of(32, CODE, &|a| a.ud2());
    assert_eq!(machine.run_to_stop().events[0].brief(), (GP, new | 1, CODE));
}

#[test]
fn iret_needs_a_busy_tss_to_return_to() {
    let cases: [(&str, u16, u64); 5] = [
        ("available", NEW, NEW.into()),
        ("null", 0, 0),
        ("LDT", 0x34, 0x34),
        ("code", 0x40, 0x40),
        ("beyond", 0x1000, 0x1000),
    ];
    for (name, link, code) in cases {
        let mut machine = machine();
        machine.state.rflags |= Rflags::NT;
        machine.write(TSS, link);
        machine.code_of(32, CODE, &|a| a.iretd());
        let event = machine.run_to_stop().events[0];
        assert_eq!(event.brief(), (TS, code, CODE), "{name}");
        assert!(event.has_flag(Rflags::NT), "{name}");
    }
}

#[test]
fn what_is_wrong_with_the_registers_is_told_in_the_new_task() {
    let set = |offset: u64, value: u16| move |m: &mut Machine| m.write(NEW_TSS + offset, u32::from(value));
    let absent = |attributes: u32, field: u64| {
        move |m: &mut Machine| {
            let segment = Segment { selector: SEGMENT, attributes, limit: 0xfff, base: 0 };
            m.set_descriptor(SEGMENT, segment.to_descriptor());
            m.write(NEW_TSS + field, u32::from(SEGMENT));
        }
    };
    let (data, user, own) = (selector::DATA.into(), u64::from(selector::USER_DATA) & !3, u64::from(SEGMENT));
    let code = u64::from(selector::CODE32);
    let cases: [(&str, (u8, u64), Setup<'_>); 16] = [
        ("LDT in itself", (TS, 4), &set(0x60, 4)),
        ("LDT beyond the table", (TS, 0x1000), &set(0x60, 0x1000)),
        ("LDT that is none", (TS, data), &set(0x60, selector::DATA)),
        ("LDT not present", (TS, own), &absent(2, 0x60)),
        ("null CS", (TS, 0), &set(CS_FIELD, 0)),
        ("CS beyond the table", (TS, 0x1000), &set(CS_FIELD, 0x1000)),
        ("data in CS", (TS, data), &set(CS_FIELD, selector::DATA)),
        ("RPL of CS", (TS, user - 8), &set(CS_FIELD, selector::USER_CODE32 & !3)),
        ("CS not present", (NP, own), &absent(0x401a, CS_FIELD)),
        ("null DS", (0, 0), &set(DS_FIELD, 0)),
        ("DS beyond the table", (TS, 0x1000), &set(DS_FIELD, 0x1000)),
        ("execute-only DS", (TS, own), &absent(0x4098, DS_FIELD)),
        ("DS not present", (NP, own), &absent(0x4012, DS_FIELD)),
        ("DS in an LDT that is not there", (TS, 0x14), &set(DS_FIELD, 0x14)),
        ("EIP beyond the limit", (GP, 0), &absent(0x409a, CS_FIELD)),
        ("code", (0, code), &set(0x54, selector::CODE32)),
    ];
    for (name, (vector, error_code), setup) in cases {
        for opcode in [JMP, CALL] {
            let mut machine = machine();
            setup(&mut machine);
            machine.code_of(32, NEW_CODE, &stop);
            machine.write_bytes(CODE, &far(opcode, NEW));
            add_rescue(&machine, &[TS, NP, GP]);
            let outcome = machine.run_to_stop();
            if vector == 0 {
                assert_eq!(outcome.state.tr.selector, NEW, "{name}");
                assert_eq!(outcome.gpr(Gpr::Rbx), 0x4444_4444, "{name}");
                continue;
            }
            assert_eq!(outcome.state.tr.selector, RESCUE, "{name}");
            assert_eq!(outcome.gpr(Gpr::Rbx), error_code, "{name}");
            assert_eq!(saved(&machine, RESCUE_TSS, 0), u64::from(NEW), "{name}");
            assert_eq!(saved(&machine, NEW_TSS, EIP), NEW_CODE, "{name}");
            assert!(is_busy(&machine, NEW), "{name}");
            assert_eq!(is_busy(&machine, selector::TSS), opcode == CALL, "{name}");
            assert_eq!(saved(&machine, TSS, EIP), CODE + 7, "{name}");
        }
    }
}

#[test]
fn a_task_without_a_stack_cannot_take_its_own_fault() {
    for stack in [0u16, 0x1000, selector::USER_DATA, selector::CODE32] {
        let mut machine = machine();
        machine.write(NEW_TSS + SS_FIELD, u32::from(stack));
        machine.write_bytes(CODE, &far(JMP, NEW));
        assert_eq!(machine.run().exit, Exit::TripleFault);
        // Unless a task takes its place.
        set_tss(&machine, TSS_32, 0x67);
        add_rescue(&machine, &[TS]);
        let outcome = machine.run_to_stop();
        assert_eq!(outcome.gpr(Gpr::Rbx), u64::from(stack & !3));
        assert_eq!(saved(&machine, NEW_TSS, EIP), NEW_CODE);
        assert_eq!(saved(&machine, RESCUE_TSS, 0), u64::from(NEW));
    }
}

#[test]
fn faults_while_an_event_changes_tasks_add_up() {
    // #GP through a task that cannot begin is a double fault, and that again the end.
    let mut machine = machine();
    machine.write(NEW_TSS + CS_FIELD, 0u32);
    machine.set_gate_32(GP, NEW, 0, TASK_GATE, 0);
    machine.write_bytes(CODE, &[0xcd, 0x50]);
    machine.write(IDT + 0x50 * 8, 0u64);
    add_rescue(&machine, &[DF]);
    let outcome = machine.run_to_stop();
    assert_eq!((outcome.state.tr.selector, outcome.gpr(Gpr::Rbx)), (RESCUE, 0));
    assert_eq!(saved(&machine, NEW_TSS, EIP), NEW_CODE);
    set_tss(&machine, TSS_32, 0x67);
    machine.set_gate_32(DF, NEW, 0, TASK_GATE, 0);
    assert_eq!(machine.run().exit, Exit::TripleFault);
}

#[test]
fn the_flag_t_traps_before_the_first_instruction() {
    let mut machine = machine();
    machine.write(NEW_TSS + 0x64, 1u16);
    machine.on(DB, Action::Return);
    machine.write_bytes(CODE, &far(JMP, NEW));
    machine.code_of(32, NEW_CODE, &stop);
    let outcome = machine.run_to_stop();
    assert_eq!(outcome.briefs(), [(DB, 0, NEW_CODE)]);
    assert_eq!(outcome.events[0].dr6 & 0xe00f, 0x8000);
    assert_eq!(outcome.events[0].frame, NEW_STACK - 12);
}

#[test]
fn a_16_bit_tss_has_16_bit_registers() {
    let mut machine = machine();
    set_tss(&machine, TSS_16, 0x2b);
    let words: [u16; 9] = [0xa000, 2, 1, 2, 3, 4, 0xe000, 6, 7];
    for (n, word) in words.into_iter().enumerate() {
        machine.write(NEW_TSS + 0x0e + 2 * n as u64, word);
    }
    machine.write(NEW_TSS + 0x20, 8u16);
    for (n, selector) in
        [selector::DATA, selector::CODE32, selector::DATA, selector::DATA].into_iter().enumerate()
    {
        machine.write(NEW_TSS + 0x22 + 2 * n as u64, selector);
    }
    machine.write(NEW_TSS + 0x2a, 0u16);
    machine.write_bytes(CODE, &far(CALL, NEW));
    machine.code_of(32, CODE + 7, &stop);
    machine.code_of(32, 0xa000, &|a| {
        a.inc(eax)?;
        a.mov(ecx, 0x1234_5678)?;
        a.iretd()
    });
    let outcome = machine.run_to_stop();
    assert!(outcome.events.is_empty(), "{outcome:?}");
    assert_eq!(outcome.state.tr.selector, selector::TSS);
    let saved: [u16; 8] = machine.read(NEW_TSS + 0x0e);
    assert_eq!(saved, [0xa007, 2, 2, 0x5678, 3, 4, 0xe000, 6]);
    assert_eq!(machine.read::<u16>(NEW_TSS), selector::TSS);
}

#[test]
fn page_faults_come_before_anything_changes() {
    // Pages of 4 KiB where they are; those of one structure each are missing or read-only.
    let directory = 0x80_0000;
    let missing: [(&str, u64, bool, u64); 3] = [
        ("the old TSS", TSS, false, (paging::FAULT_PRESENT | paging::FAULT_WRITE).into()),
        ("the new TSS", NEW_TSS, true, 0),
        ("the new TSS's link", NEW_TSS, false, (paging::FAULT_PRESENT | paging::FAULT_WRITE).into()),
    ];
    for (name, page, absent, error_code) in missing {
        let mut machine = machine();
        machine.state.cr0 |= Cr0::PG;
        machine.state.cr3 = directory;
        machine.write(NEW_TSS + 0x1c, directory as u32);
        machine.write(directory, (directory as u32 + 0x1000) | KERNEL as u32);
        for n in 0..1024u64 {
            machine.write(directory + 0x1000 + n * 4, (n << 12 | KERNEL) as u32);
        }
        let entry = if absent { 0 } else { (page | paging::PRESENT) as u32 };
        machine.write(directory + 0x1000 + (page >> 12) * 4, entry);
        machine.write_bytes(CODE, &far(CALL, NEW));
        let outcome = machine.run_to_stop();
        assert_eq!(outcome.events[0].brief(), (PF, error_code, CODE), "{name}");
        assert_eq!(outcome.state.tr.selector, selector::TSS, "{name}");
        assert!(is_busy(&machine, selector::TSS) && !is_busy(&machine, NEW), "{name}");
        assert_eq!(saved(&machine, TSS, EIP), 0, "{name}");
        // With all of it there, the new task has its own address space.
        machine.write(directory + 0x1000 + (page >> 12) * 4, (page | KERNEL) as u32);
        let second = directory + 0x2000;
        machine.write(second, (directory as u32 + 0x1000) | KERNEL as u32);
        machine.write(NEW_TSS + 0x1c, second as u32);
        machine.code_of(32, NEW_CODE, &stop);
        let outcome = machine.run_to_stop();
        assert_eq!((outcome.events.len(), outcome.state.cr3), (0, second), "{name}");
    }
}

#[test]
fn a_task_in_user_mode_uses_the_new_tss_for_its_stacks() {
    let mut machine = machine();
    let field = |offset: u64, value: u64| machine.write(NEW_TSS + offset, value as u32);
    field(CS_FIELD, selector::USER_CODE32.into());
    for n in [0, 2, 3, 4, 5] {
        field(0x48 + 4 * n, selector::USER_DATA.into());
    }
    field(EIP, USER_CODE);
    field(ESP, USER_STACK_TOP);
    field(4, 0xd000);
    machine.code_of(32, USER_CODE, &stop_user);
    machine.write_bytes(CODE, &far(JMP, NEW));
    let outcome = machine.run_to_stop();
    let event = outcome.events[0];
    assert_eq!((event.brief(), event.cs), ((VECTOR_STOP, 0, USER_CODE + 2), selector::USER_CODE32));
    assert_eq!((event.frame, event.rsp), (0xd000 - 20, USER_STACK_TOP));
    let code = outcome.state.segments[SegmentRegister::Ss as usize];
    assert_eq!(code.selector, selector::DATA);
}
