//! Call gates in 32-bit protected mode, outside long mode (SDM vol. 3, 5.8.3 to 5.8.6).

use iced_x86::code_asm::*;
use viv_arch::{Gpr, Segment};

use crate::machine::*;

const TS: u8 = 10;
const NP: u8 = 11;
const GP: u8 = 13;
/// The gate, and a segment of the test's own.
const GATE: u16 = selector::FREE;
const OWN: u16 = selector::FREE + 8;
const CALL_GATE_16: u64 = 4;
const CALL_GATE_32: u64 = 0xc;
/// Where the gate leads.
const TARGET: u64 = CODE + 0x400;

fn set_gate(machine: &Machine, code: u16, kind: u64, dpl: u64, parameters: u64) {
    let gate = (TARGET & 0xffff)
        | u64::from(code) << 16
        | parameters << 32
        | (kind | dpl << 5 | 0x80) << 40
        | (TARGET >> 16) << 48;
    machine.set_descriptor(GATE, gate);
}

/// A far CALL or JMP to `selector`, whose offset does not count.
fn far(opcode: u8, selector: u16) -> Vec<u8> {
    let mut bytes = vec![opcode, 0xef, 0xbe, 0xad, 0xde];
    bytes.extend(selector.to_le_bytes());
    bytes
}

const CALL: u8 = 0x9a;
const JMP: u8 = 0xea;

#[test]
fn calls_inwards_copy_parameters_and_return() {
    let mut machine = Machine::protected();
    machine.start_in_32bit_user_mode();
    set_gate(&machine, selector::CODE32, CALL_GATE_32, 3, 2);
    let end = machine.code_of(32, USER_CODE, &|a| {
        a.push(0x22)?;
        a.push(0x11)
    });
    machine.write_bytes(end, &far(CALL, GATE | 3));
    let back = end + 7;
    machine.code_of(32, back, &stop_user);
    machine.code_of(32, TARGET, &|a| {
        a.mov(ebx, dword_ptr(esp + 8))?;
        a.mov(ecx, dword_ptr(esp + 12))?;
        a.mov(ebp, esp)?;
        a.mov(edx, cs)?;
        a.mov(esi, ss)?;
        a.retf_1(8)
    });
    let outcome = machine.run_to_stop();
    assert_eq!((outcome.gpr(Gpr::Rbx), outcome.gpr(Gpr::Rcx)), (0x11, 0x22));
    assert_eq!(outcome.gpr(Gpr::Rbp), RSP0_TOP - 24);
    assert_eq!(outcome.gpr(Gpr::Rdx), u64::from(selector::CODE32));
    assert_eq!(outcome.gpr(Gpr::Rsi), u64::from(selector::DATA));
    let event = outcome.events[0];
    assert_eq!((event.brief(), event.cs), ((VECTOR_STOP, 0, back + 2), selector::USER_CODE32));
    assert_eq!((event.rsp, event.ss), (USER_STACK_TOP, selector::USER_DATA));
}

#[test]
fn calls_at_the_same_level_stay_on_the_stack() {
    for (kind, size) in [(CALL_GATE_32, 4), (CALL_GATE_16, 2)] {
        let mut machine = Machine::protected();
        set_gate(&machine, selector::CODE32, kind, 0, 5);
        machine.write_bytes(CODE, &far(CALL, GATE));
        // Gates of 16 bits have no upper half.
        machine.code_of(32, TARGET, &stop);
        machine.code_of(32, TARGET & 0xffff, &stop);
        let outcome = machine.run_to_stop();
        assert!(outcome.events.is_empty(), "{outcome:?}");
        assert_eq!(outcome.gpr(Gpr::Rsp), STACK_TOP - 2 * size);
        if size == 4 {
            assert_eq!(machine.read::<[u32; 2]>(STACK_TOP - 8), [CODE as u32 + 7, selector::CODE32.into()]);
        } else {
            assert_eq!(machine.read::<[u16; 2]>(STACK_TOP - 4), [(CODE + 7) as u16, selector::CODE32]);
        }
    }
}

#[test]
fn jumps_keep_their_level() {
    let mut machine = Machine::protected();
    set_gate(&machine, selector::CODE32, CALL_GATE_32, 3, 0);
    machine.write_bytes(CODE, &far(JMP, GATE));
    machine.code_of(32, TARGET, &stop);
    let outcome = machine.run_to_stop();
    assert_eq!((outcome.events.len(), outcome.gpr(Gpr::Rsp)), (0, STACK_TOP));
    // From user mode only to conforming code.
    machine.start_in_32bit_user_mode();
    machine.write_bytes(USER_CODE, &far(JMP, GATE | 3));
    let event = machine.run_to_stop().events[0];
    assert_eq!(event.brief(), (GP, u64::from(selector::CODE32), USER_CODE));
    let conforming = Segment { attributes: 0xc09e, ..Segment::code32(OWN, 0) };
    machine.set_descriptor(OWN, conforming.to_descriptor());
    set_gate(&machine, OWN, CALL_GATE_32, 3, 0);
    machine.code_of(32, TARGET, &stop_user);
    let event = machine.run_to_stop().events[0];
    assert_eq!((event.brief(), event.cs), ((VECTOR_STOP, 0, TARGET + 2), OWN | 3));
    // The descriptor's accessed bit is set.
    assert_eq!(machine.read::<u8>(GDT + u64::from(OWN) + 5), 0x9f);
}

#[test]
fn gates_are_checked_before_anything_changes() {
    let absent = Segment { attributes: 0xc01b, ..Segment::code32(OWN, 0) };
    let short = Segment { attributes: 0x409b, limit: 0xfff, ..Segment::code32(OWN, 0) };
    let (gate, own) = (u64::from(GATE), u64::from(OWN));
    let own_is = |segment: Segment| {
        move |m: &Machine| {
            m.set_descriptor(OWN, segment.to_descriptor());
            set_gate(m, OWN, CALL_GATE_32, 3, 0);
        }
    };
    let (not_present, too_short) = (own_is(absent), own_is(short));
    type Setup<'a> = &'a dyn Fn(&Machine);
    let cases: [(&str, (u8, u64), Setup<'_>); 9] = [
        ("DPL", (GP, gate), &|m| set_gate(m, selector::CODE32, CALL_GATE_32, 0, 0)),
        ("gate not present", (NP, gate), &|m| m.set_descriptor(GATE, 0x6c00_0040_0000)),
        ("null", (GP, 0), &|m| set_gate(m, 0, CALL_GATE_32, 3, 0)),
        ("beyond the table", (GP, 0x1000), &|m| set_gate(m, 0x1000, CALL_GATE_32, 3, 0)),
        ("data", (GP, 0x10), &|m| set_gate(m, selector::DATA, CALL_GATE_32, 3, 0)),
        ("another kind of gate", (GP, gate), &|m| set_gate(m, selector::CODE32, 0xe, 3, 0)),
        ("code not present", (NP, own), &not_present),
        ("beyond the limit", (GP, 0), &too_short),
        ("no stack", (TS, 0), &|m| {
            set_gate(m, selector::CODE32, CALL_GATE_32, 3, 0);
            m.write(TSS + 8 + 8, 0u16);
        }),
    ];
    for (name, wanted, setup) in cases {
        let mut machine = Machine::protected();
        machine.start_in_32bit_user_mode();
        setup(&machine);
        if wanted.0 == TS {
            // Level 1 has no stack; handlers at level 0 have theirs.
            let inner = Segment::code32(OWN, 1);
            machine.set_descriptor(OWN, inner.to_descriptor());
            set_gate(&machine, OWN, CALL_GATE_32, 3, 0);
        }
        machine.write_bytes(USER_CODE, &far(CALL, GATE | 3));
        let event = machine.run_to_stop().events[0];
        assert_eq!(event.brief(), (wanted.0, wanted.1, USER_CODE), "{name}");
        assert_eq!((event.rsp, event.cs), (USER_STACK_TOP, selector::USER_CODE32), "{name}");
    }
}
