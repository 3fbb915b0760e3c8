//! Control registers, MSRs, XCR0 and the XSAVE area: what may be written where.

use iced_x86::code_asm::*;
use viv_arch::{Cr0, Cr4, Gpr, msr, xsave};

use crate::machine::*;

const UD: u8 = 6;
const GP: u8 = 13;

/// Whether WRMSR takes the value, and what RDMSR then gives.
fn write_msr(number: u32, value: u64) -> Option<u64> {
    let mut machine = Machine::new();
    machine.set_gpr(Gpr::Rcx, u64::from(number));
    machine.set_gpr(Gpr::Rax, 0xdead_0000_0000_0000 | (value & 0xffff_ffff));
    machine.set_gpr(Gpr::Rdx, value >> 32);
    machine.code(CODE, &|a| {
        a.wrmsr()?;
        a.mov(rax, -1i64 as u64)?;
        a.mov(rdx, -1i64 as u64)?;
        a.rdmsr()?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    match outcome.briefs()[..] {
        [] => {
            assert!(outcome.gpr(Gpr::Rax) >> 32 == 0 && outcome.gpr(Gpr::Rdx) >> 32 == 0);
            Some(outcome.gpr(Gpr::Rdx) << 32 | outcome.gpr(Gpr::Rax))
        }
        [(GP, 0, CODE)] => None,
        ref other => panic!("{other:x?}"),
    }
}

#[test]
fn msrs_refuse_what_is_reserved() {
    let not_canonical = 1 << 47;
    let keeps = [
        (msr::IA32_LSTAR, 0xffff_8000_0000_1234),
        (msr::IA32_KERNEL_GS_BASE, 0x7fff_ffff_ffff),
        (msr::IA32_SYSENTER_EIP, CODE),
        (msr::IA32_PAT, 0x0007_0106_0405_0600),
        (msr::IA32_TSC_AUX, 0xffff_ffff),
        (msr::IA32_FS_BASE, 0xffff_ffff_ffff_f000),
        (msr::IA32_SPEC_CTRL, 5),
        (msr::IA32_MTRR_DEF_TYPE, 0xc06),
        (msr::IA32_STAR, u64::MAX),
        (msr::IA32_MTRR_FIX64K, 0x0606_0606_0606_0606),
    ];
    for (number, value) in keeps {
        assert_eq!(write_msr(number, value), Some(value), "{number:#x}");
    }
    let refuses = [
        (msr::IA32_LSTAR, not_canonical),
        (msr::IA32_CSTAR, not_canonical),
        (msr::IA32_KERNEL_GS_BASE, not_canonical),
        (msr::IA32_FS_BASE, not_canonical),
        (msr::IA32_GS_BASE, not_canonical),
        (msr::IA32_SYSENTER_ESP, not_canonical),
        (msr::IA32_PAT, 2),
        (msr::IA32_PAT, 8 << 56),
        (msr::IA32_TSC_AUX, 1 << 32),
        (msr::IA32_EFER, 1 << 1),
        (msr::IA32_EFER, 0xc01),
        (msr::IA32_SPEC_CTRL, 1 << 20),
        (msr::IA32_PRED_CMD, 1 << 5),
        (msr::IA32_MTRR_DEF_TYPE, 2),
        (msr::IA32_MTRR_DEF_TYPE, 1 << 12),
        (msr::IA32_MTRR_FIX64K, 2),
        (msr::IA32_MTRR_PHYSBASE0, 7),
        (msr::IA32_MTRR_PHYSMASK7, 1 << 60),
        (msr::IA32_APIC_BASE, 1),
        (msr::IA32_APIC_BASE, 1 << 60),
        (msr::IA32_ARCH_CAPABILITIES, 0),
        (msr::IA32_MTRRCAP, 0),
        (0x1234, 0),
        (0x808, 0),
    ];
    for (number, value) in refuses {
        assert_eq!(write_msr(number, value), None, "{number:#x} = {value:#x}");
    }
}

#[test]
fn x2apic_msrs_are_there_in_x2apic_mode() {
    let mut machine = Machine::new();
    let base = viv_arch::apic::DEFAULT_BASE as u32 | 0xd00;
    machine.code(CODE, &|a| {
        a.mov(ecx, msr::IA32_APIC_BASE)?;
        a.xor(edx, edx)?;
        a.mov(eax, base)?;
        a.wrmsr()?;
        a.mov(ecx, 0x803)?;
        a.rdmsr()?;
        a.mov(r8, rax)?;
        a.mov(ecx, 0x80b)?;
        a.rdmsr()
    });
    let outcome = machine.run_to_stop();
    assert_eq!(outcome.gpr(Gpr::R8) & 0xff, 0x14, "the version register");
    assert_eq!(outcome.events[0].vector, GP, "EOI cannot be read");
}

#[test]
fn control_registers_refuse_what_does_not_fit() {
    let write = |number: u8, value: u64| {
        let mut machine = Machine::new();
        machine.set_gpr(Gpr::Rbx, value);
        let end = machine.code(CODE, &|a| match number {
            0 => a.mov(cr0, rbx),
            3 => a.mov(cr3, rbx),
            4 => a.mov(cr4, rbx),
            _ => a.mov(cr8, rbx),
        });
        machine.code(end, &stop);
        match machine.run_to_stop().briefs()[..] {
            [] => true,
            [(GP, 0, CODE)] => false,
            ref other => panic!("{other:x?}"),
        }
    };
    let state = Machine::fresh_state();
    let (old0, old4) = (state.cr0, state.cr4);
    assert!(write(0, (old0 - Cr0::WP).bits()) && write(0, (old0 | Cr0::CD | Cr0::AM).bits()));
    assert!(!write(0, (old0 - Cr0::PG).bits()), "paging cannot end in 64-bit mode");
    assert!(!write(0, (old0 - Cr0::PE).bits()));
    assert!(!write(0, (old0 | Cr0::NW).bits()), "NW needs CD");
    assert!(!write(0, old0.bits() | 1 << 32));
    assert!(write(0, old0.bits() | 1 << 6), "undefined bits of the lower half are ignored");
    assert!(!write(4, (old4 - Cr4::PAE).bits()));
    assert!(!write(4, old4.bits() | 1 << 12), "no 57-bit addresses");
    assert!(!write(4, old4.bits() | 1 << 40));
    assert!(write(4, (old4 | Cr4::PCIDE | Cr4::SMEP | Cr4::SMAP | Cr4::UMIP).bits()));
    assert!(!write(3, 1 << 46) && !write(3, TABLES | 1 << 63));
    assert!(write(8, 15) && !write(8, 16));
}

#[test]
fn xcr0_takes_states_that_make_sense() {
    let write = |index: u64, value: u64| {
        let mut machine = Machine::new();
        machine.set_gpr(Gpr::Rcx, index);
        machine.set_gpr(Gpr::Rax, value & 0xffff_ffff);
        machine.set_gpr(Gpr::Rdx, value >> 32);
        machine.code(CODE, &|a| {
            a.xsetbv()?;
            stop(a)
        });
        machine.run_to_stop().briefs()
    };
    for value in [1, 3, 7] {
        assert_eq!(write(0, value), []);
    }
    for (index, value) in [(0, 0), (0, 2), (0, 5), (0, 6), (0, 0xf), (0, 1 << 63 | 7), (1, 7)] {
        assert_eq!(write(index, value), [(GP, 0, CODE)], "XCR{index} = {value:#x}");
    }
    // What XCR0 leaves out cannot be used.
    let mut machine = Machine::new();
    machine.state.xcr0 = xsave::X87 | xsave::SSE;
    machine.code(CODE, &|a| a.vxorps(ymm0, ymm0, ymm0));
    assert_eq!(machine.run_to_stop().briefs(), [(UD, 0, CODE)]);
}

const AREA: u64 = DATA;

fn xrstor(setup: impl Fn(&mut Machine)) -> Outcome {
    let mut machine = Machine::new();
    machine.set_gpr(Gpr::Rsi, AREA);
    machine.set_gpr(Gpr::Rax, 7);
    machine.write(AREA + xsave::MXCSR as u64, xsave::MXCSR_INIT);
    machine.code(CODE, &|a| {
        a.xrstor(ptr(rsi))?;
        stop(a)
    });
    setup(&mut machine);
    machine.run_to_stop()
}

#[test]
fn xrstor_checks_the_header() {
    let bv = AREA + xsave::XSTATE_BV as u64;
    let comp = AREA + xsave::XCOMP_BV as u64;
    let compact = 1u64 << 63;
    let good = |setup: &dyn Fn(&mut Machine)| match xrstor(setup).briefs()[..] {
        [] => true,
        [(GP, 0, CODE)] => false,
        ref other => panic!("{other:x?}"),
    };
    assert!(good(&|m| m.write(bv, 7u64)));
    assert!(!good(&|m| m.write(bv, 8u64)), "a component that is not enabled");
    assert!(!good(&|m| m.write(comp, 1u64)), "XCOMP_BV in the standard format");
    assert!(!good(&|m| m.write(comp + 8, 1u64)), "reserved");
    assert!(good(&|m| m.write(comp + 16, 1u64)), "not checked in the standard format");
    assert!(!good(&|m| m.set_gpr(Gpr::Rsi, AREA + 32)), "the area is aligned to 64 bytes");
    assert!(!good(&|m| m.write(AREA + xsave::MXCSR as u64, 1u32 << 16)), "reserved bits of MXCSR");
    assert!(good(&|m| {
        m.write(AREA + xsave::MXCSR as u64, 1u32 << 16);
        m.set_gpr(Gpr::Rax, 1);
    }));
    assert!(good(&|m| {
        m.write(comp, compact | 7);
        m.write(bv, 7u64);
    }));
    assert!(!good(&|m| {
        m.write(comp, compact | 3);
        m.write(bv, 7u64);
    }));
    assert!(!good(&|m| m.write(comp, compact | 8)));
    assert!(!good(&|m| {
        m.write(comp, compact | 7);
        m.write(comp + 16, 1u64);
    }));
}

#[test]
fn xrstor_initializes_what_the_area_leaves_out() {
    let mut machine = Machine::new();
    machine.set_gpr(Gpr::Rsi, AREA);
    machine.write(AREA + xsave::MXCSR as u64, 0x1fa0u32);
    machine.write(DATA + 0x800, [0xffu8; 32]);
    machine.code(CODE, &|a| {
        a.vmovups(ymm0, ymmword_ptr(DATA + 0x800))?;
        a.fld1()?;
        a.mov(eax, 6)?;
        a.xor(edx, edx)?;
        a.xrstor(ptr(rsi))?;
        a.vmovups(ymmword_ptr(DATA + 0x840), ymm0)?;
        a.stmxcsr(dword_ptr(DATA + 0x880))?;
        a.fnstsw(ax)?;
        a.mov(ebx, eax)?;
        // What is in use now: x87 alone, and its initial state is not saved where XSAVEC looks.
        a.mov(ecx, 1)?;
        a.xgetbv()?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    assert_eq!(machine.read::<[u8; 32]>(DATA + 0x840), [0; 32]);
    assert_eq!(machine.read::<u32>(DATA + 0x880), 0x1fa0, "the standard format always loads MXCSR");
    assert_eq!(outcome.gpr(Gpr::Rbx) >> 11 & 7, 7, "x87 was not asked for and keeps its stack");
    assert_eq!(outcome.gpr(Gpr::Rax) & xsave::X87, xsave::X87);
    assert_eq!(outcome.gpr(Gpr::Rax) & xsave::AVX, 0);
}

#[test]
fn xsave_touches_what_it_is_asked_for() {
    let mut machine = Machine::new();
    machine.write_bytes(AREA, &[0xcc; 0x400]);
    machine.write(AREA + xsave::XSTATE_BV as u64, [0u64; 8]);
    machine.write(AREA + xsave::XSTATE_BV as u64, 4u64);
    machine.set_gpr(Gpr::Rsi, AREA);
    machine.code(CODE, &|a| {
        a.fld1()?;
        a.pcmpeqd(xmm1, xmm1)?;
        a.mov(eax, 2)?;
        a.xor(edx, edx)?;
        a.xsave(ptr(rsi))?;
        stop(a)
    });
    machine.run_to_stop();
    assert_eq!(machine.read::<u64>(AREA + xsave::XSTATE_BV as u64), 6, "AVX's bit is left as it was");
    assert_eq!(machine.read_bytes(AREA, 24), [0xcc; 24]);
    assert_eq!(machine.read::<u32>(AREA + 24), xsave::MXCSR_INIT);
    assert_eq!(machine.read_bytes(AREA + xsave::ST0 as u64, 128), [0xcc; 128]);
    assert_eq!(machine.read_bytes(AREA + xsave::XMM0 as u64 + 16, 16), [0xff; 16]);
    assert_eq!(machine.read_bytes(AREA + 416, 96), [0xcc; 96]);
    assert_eq!(machine.read_bytes(AREA + 576, 256), [0xcc; 256]);
}
