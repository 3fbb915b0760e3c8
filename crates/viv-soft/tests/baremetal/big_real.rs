//! Real mode with what protected mode left behind, as firmware uses it (SDM vol. 3, 10.9.2 and 20.1).

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use viv_arch::{Cr0, Gpr, Rflags, Segment, SegmentRegister};

use crate::machine::*;

const GP: u8 = 13;
/// Selectors of the test's own.
const CODE16: u16 = selector::FREE;
const DATA16: u16 = selector::FREE + 8;

/// A machine in real mode, with segments for [`in_protected_mode`].
fn machine() -> Machine {
    let machine = Machine::real();
    let code16 = Segment { attributes: 0x9b, limit: 0xffff, base: CODE, selector: CODE16 };
    let data16 = Segment { attributes: 0x93, limit: 0xffff, base: 0, selector: DATA16 };
    for segment in [code16, data16] {
        machine.set_descriptor(segment.selector, segment.to_descriptor());
    }
    machine
}

/// Runs `build` in protected mode without leaving the real-mode code segment.
fn in_protected_mode(a: &mut CodeAssembler, build: Build<'_>) -> Result<(), IcedError> {
    a.mov(eax, cr0)?;
    a.or(al, 1)?;
    a.mov(cr0, eax)?;
    build(a)?;
    a.mov(eax, cr0)?;
    a.and(al, !1)?;
    a.mov(cr0, eax)
}

fn load(a: &mut CodeAssembler, selector: u16) -> Result<(), IcedError> {
    a.mov(cx, i32::from(selector))?;
    a.mov(ds, cx)?;
    a.mov(es, cx)
}

#[test]
fn limits_of_protected_mode_outlast_it() {
    let mut machine = machine();
    machine.write(FREE + 0x20, 0x1234_5678u32);
    machine.real_code(0, &|a| {
        in_protected_mode(a, &|a| load(a, selector::DATA))?;
        // The selector gives the base, the limit stays.
        a.mov(cx, 2)?;
        a.mov(ds, cx)?;
        a.mov(esi, FREE as u32)?;
        a.mov(edx, dword_ptr(esi))?;
        a.mov(dword_ptr(esi + 8), edx)?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    assert!(outcome.events.is_empty(), "{outcome:?}");
    assert_eq!((outcome.gpr(Gpr::Rdx), machine.read::<u32>(FREE + 0x28)), (0x1234_5678, 0x1234_5678));
    let data = outcome.state.segments[SegmentRegister::Ds as usize];
    assert_eq!((data.selector, data.base, data.limit), (2, 0x20, u32::MAX));
}

#[test]
fn small_limits_stay_small() {
    let mut machine = machine();
    let tiny = Segment { attributes: 0x93, limit: 0xff, base: 0, selector: DATA16 };
    machine.set_descriptor(DATA16, tiny.to_descriptor());
    machine.real_code(0, &|a| {
        in_protected_mode(a, &|a| {
            a.mov(cx, i32::from(DATA16))?;
            a.mov(es, cx)
        })?;
        a.xor(bx, bx)?;
        a.mov(es, bx)?;
        a.mov(ecx, dword_ptr(bx + 0xfc).es())?;
        a.mov(ecx, dword_ptr(bx + 0xfd).es())?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    let event = outcome.events[0];
    assert_eq!((event.vector, machine.read_bytes(CODE + event.rip, 4)), (GP, vec![0x26, 0x66, 0x8b, 0x8f]));
}

#[test]
fn what_was_null_is_a_segment_again() {
    let mut machine = machine();
    machine.write(DATA + 0xfffe, 0xbeefu16);
    let end = machine.real_code(0, &|a| {
        in_protected_mode(a, &|a| load(a, 0))?;
        a.nop()
    });
    machine.real_code(end, &|a| {
        a.mov(cx, (DATA >> 4) as i32)?;
        a.mov(ds, cx)?;
        a.mov(bx, 0xfffeu32 as i32)?;
        a.mov(dx, word_ptr(bx))?;
        a.mov(word_ptr(bx), cx)?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    assert!(outcome.events.is_empty(), "{outcome:?}");
    assert_eq!(outcome.gpr(Gpr::Rdx), 0xbeef);
    let data = outcome.state.segments[SegmentRegister::Ds as usize];
    assert_eq!((data.attributes, data.limit, data.base), (0x93, 0xffff, DATA));
    // Those that were not loaded cannot be used.
    machine.real_code(end, &|a| a.mov(al, byte_ptr(bx).es()));
    assert_eq!(machine.run_to_stop().events[0].brief(), (GP, 0, end));
}

#[test]
fn code_can_be_written_whatever_its_type() {
    for attributes in [0x9b, 0x99, 0x93] {
        let mut machine = machine();
        machine.state.segments[SegmentRegister::Cs as usize].attributes = attributes;
        machine.real_code(0, &|a| {
            a.mov(word_ptr(0x400).cs(), 0x77)?;
            a.mov(cx, word_ptr(0x400).cs())?;
            stop(a)
        });
        let outcome = machine.run_to_stop();
        assert_eq!((outcome.events.len(), outcome.gpr(Gpr::Rcx)), (0, 0x77), "{attributes:#x}");
    }
}

#[test]
fn wide_code_stays_wide() {
    let mut machine = Machine::protected();
    machine.write(0x20, 0u64);
    machine.code_of(32, CODE, &|a| {
        a.mov(eax, cr0)?;
        a.and(al, !1)?;
        a.mov(cr0, eax)?;
        a.mov(ecx, 0x1234_5678)?;
        a.push(ecx)?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    assert_eq!((outcome.gpr(Gpr::Rcx), outcome.gpr(Gpr::Rsp)), (0x1234_5678, STACK_TOP - 4));
    assert!(!outcome.state.cr0.contains(Cr0::PE));
}

#[test]
fn wide_operands_in_narrow_code() {
    let mut machine = Machine::real();
    // As compilers write 16-bit code: calll, pushfl, popfl, retl, leal.
    let call = machine.real_code(0, &|a| {
        a.mov(ebx, 0x8765_4321u32)?;
        a.lea(edx, dword_ptr(ebx + ebx * 2 + 0x1111))?;
        a.pushfd()?;
        a.pop(ecx)?;
        a.or(ecx, (Rflags::ID | Rflags::AC).bits() as i32)?;
        a.push(ecx)?;
        a.popfd()
    });
    // calll 0x200
    machine.write_bytes(CODE + call, &[0x66, 0xe8]);
    machine.write(CODE + call + 2, (0x200 - (call as i32 + 6)) as u32);
    machine.real_code(call + 6, &stop);
    machine.real_code(0x200, &|a| {
        a.mov(esi, dword_ptr(esp))?;
        a.db(&[0x66, 0xc3])
    });
    let outcome = machine.run_to_stop();
    assert!(outcome.events.is_empty(), "{outcome:?}");
    assert_eq!(outcome.gpr(Gpr::Rdx), (0x8765_4321u64 * 3 + 0x1111) & 0xffff_ffff);
    assert_eq!((outcome.gpr(Gpr::Rsi), outcome.gpr(Gpr::Rsp)), (call + 6, REAL_STACK_TOP));
    assert!(outcome.state.rflags.contains(Rflags::ID | Rflags::AC));
    // Beyond the limit of the code segment.
    machine.write(CODE + call + 2, 0x1_0000u32);
    assert_eq!(machine.run_to_stop().events[0].brief(), (GP, 0, call));
}

#[test]
fn far_transfers_of_both_sizes() {
    for (prefix, size) in [(&[][..], 2), (&[0x66][..], 4)] {
        let mut machine = Machine::real();
        let mut call = prefix.to_vec();
        call.push(0x9a);
        call.extend(&0x300u32.to_le_bytes()[..size]);
        call.extend((REAL_CODE + 0x10).to_le_bytes());
        machine.write_bytes(CODE, &call);
        machine.real_code(call.len() as u64, &stop);
        machine.real_code(0x400, &|a| a.mov(bp, sp));
        let mut ret = prefix.to_vec();
        ret.push(0xcb);
        machine.write_bytes(CODE + 0x402, &ret);
        let outcome = machine.run_to_stop();
        assert_eq!((outcome.events.len(), outcome.gpr(Gpr::Rsp)), (0, REAL_STACK_TOP), "{size}");
        assert_eq!(outcome.gpr(Gpr::Rbp), REAL_STACK_TOP - 2 * size as u64, "{size}");
        assert_eq!(outcome.state.segments[SegmentRegister::Cs as usize].base, CODE);
    }
    // Offsets of 32 bits are checked.
    let mut machine = Machine::real();
    machine.write_bytes(CODE, &[0x66, 0xea, 0, 0, 1, 0, 0, 0x20]);
    assert_eq!(machine.run_to_stop().events[0].brief(), (GP, 0, 0));
}

#[test]
fn lgdt_with_16_bit_operands_loads_24_bits() {
    for (prefix, base) in [(&[][..], 0x0034_5678), (&[0x66][..], 0x1234_5678)] {
        for register in [0x16, 0x1e] {
            let mut machine = Machine::real();
            machine.write(DATA, 0xffu16);
            machine.write(DATA + 2, 0x1234_5678u32);
            machine.state.segments[SegmentRegister::Ds as usize].base = DATA;
            let mut code = prefix.to_vec();
            code.extend([0x0f, 0x01, register, 0, 0]);
            machine.write_bytes(CODE, &code);
            machine.real_code(code.len() as u64, &stop);
            let state = machine.run_to_stop().state;
            let table = if register == 0x16 { state.gdtr } else { state.idtr };
            assert_eq!((table.base, table.limit), (base, 0xff));
        }
    }
}

#[test]
fn tables_wrap_at_4_gib() {
    let mut machine = Machine::protected();
    // The table's address wraps between its base and the entries in use.
    let before = 0x800;
    machine.state.gdtr.base = 0x1_0000_0000 - u64::from(before);
    machine.state.gdtr.limit = 0xffff;
    let entry = |selector: u16| selector + before + GDT as u16;
    let (code, data) = (entry(selector::CODE32), entry(selector::DATA));
    let end = machine.code_of(32, CODE, &|a| {
        a.mov(ecx, i32::from(data))?;
        a.mov(ds, ecx)?;
        a.lar(edx, ecx)
    });
    let mut jump = vec![0xea];
    jump.extend((CODE as u32 + 0x100).to_le_bytes());
    jump.extend(code.to_le_bytes());
    machine.write_bytes(end, &jump);
    machine.code_of(32, CODE + 0x100, &stop);
    let outcome = machine.run_to_stop();
    assert!(outcome.events.is_empty(), "{outcome:?}");
    assert_eq!(outcome.gpr(Gpr::Rdx), 0xc0_9300);
    assert_eq!(outcome.state.segments[SegmentRegister::Cs as usize].selector, code);
}

#[test]
fn what_real_mode_does_not_have() {
    let cases: [(u8, Build<'_>); 7] = [
        (GP, &|a| a.sysenter()),
        (GP, &|a| a.sysexit()),
        (6, &|a| a.db(&[0x0f, 0x00, 0xc0])),       // sldt ax
        (6, &|a| a.db(&[0x0f, 0x00, 0xd8])),       // ltr ax
        (6, &|a| a.db(&[0x0f, 0x02, 0xc0])),       // lar ax, ax
        (6, &|a| a.db(&[0x63, 0xc0])),             // arpl ax, ax
        (6, &|a| a.db(&[0xc5, 0xf9, 0x6f, 0xc0])), // vmovdqa xmm0, xmm0
    ];
    for (n, (vector, build)) in cases.into_iter().enumerate() {
        let mut machine = Machine::real();
        machine.real_code(0, build);
        assert_eq!(machine.run_to_stop().events[0].brief(), (vector, 0, 0), "{n}");
    }
}
