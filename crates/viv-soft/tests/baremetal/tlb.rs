//! What a cached translation outlives, and what it does not (SDM vol. 3, 4.10).

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use viv_arch::{Cr4, Gpr, paging};

use crate::machine::*;

const PAGE: u64 = 0x80_4000_0000;
const FIRST: u64 = 0x30_0000;
const SECOND: u64 = 0x40_0000;

/// Reads the page, maps it elsewhere without a word, does `flush`, and reads again: R8 and R9.
fn remap(size: PageSize, global: bool, features: Cr4, flush: Build<'_>) -> (u64, u64) {
    let mut machine = Machine::new();
    machine.state.cr4 |= features;
    let flags = KERNEL | if global { paging::GLOBAL } else { 0 };
    // 2 MiB pages hold both frames' contents at different offsets.
    let (first, second) = match size {
        PageSize::Size4K => (FIRST, SECOND),
        _ => (0x40_0000, 0x60_0000),
    };
    machine.write(first, 1u64);
    machine.write(second, 2u64);
    machine.tables.map(PAGE, first, size, flags);
    let path = machine.tables.path(PAGE, size);
    let at = path[path.len() - 1];
    let new = machine.tables.read(at) - first + second;
    machine.set_gpr(Gpr::Rbx, PAGE);
    machine.code(CODE, &|a| {
        a.mov(r8, qword_ptr(rbx))?;
        a.mov(rax, new)?;
        a.mov(qword_ptr(at), rax)?;
        flush(a)?;
        a.mov(r9, qword_ptr(rbx))?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    (outcome.gpr(Gpr::R8), outcome.gpr(Gpr::R9))
}

/// Writes to CR4 with a bit changed, and back.
fn toggle(a: &mut CodeAssembler, bit: Cr4) -> Result<(), IcedError> {
    a.mov(rcx, cr4)?;
    a.xor(rcx, bit.bits() as i32)?;
    a.mov(cr4, rcx)?;
    a.xor(rcx, bit.bits() as i32)?;
    a.mov(cr4, rcx)
}

fn invpcid(a: &mut CodeAssembler, kind: u64, address: u64) -> Result<(), IcedError> {
    a.mov(qword_ptr(DATA), 0)?;
    a.mov(rcx, address)?;
    a.mov(qword_ptr(DATA + 8), rcx)?;
    a.mov(rdx, kind)?;
    a.invpcid(rdx, xmmword_ptr(DATA))
}

#[test]
fn flushes_reach_the_pages_they_name() {
    let reload: Build<'_> = &|a| {
        a.mov(rcx, cr3)?;
        a.mov(cr3, rcx)
    };
    let flushes: [(&str, bool, Build<'_>); 7] = [
        ("invlpg", true, &|a| a.invlpg(ptr(rbx))),
        ("invlpg elsewhere in the page", true, &|a| a.invlpg(ptr(rbx + 0xfff))),
        ("mov cr3", false, reload),
        ("invpcid of the address", false, &|a| invpcid(a, 0, PAGE)),
        ("invpcid of everything", true, &|a| invpcid(a, 2, 0)),
        ("invpcid of all but global pages", false, &|a| invpcid(a, 3, 0)),
        ("a toggle of CR4.PGE", true, &|a| toggle(a, Cr4::PGE)),
    ];
    for size in [PageSize::Size4K, PageSize::Size2M] {
        for (name, reaches_global, flush) in flushes {
            assert_eq!(remap(size, false, Cr4::PGE, flush), (1, 2), "{name} {size:?}");
            let (before, after) = remap(size, true, Cr4::PGE, flush);
            // What is global may survive, but need not; where it must go, it goes.
            assert!(before == 1 && (after == 2 || !reaches_global), "{name} {size:?} global: {after}");
            // Without CR4.PGE nothing is global.
            assert_eq!(remap(size, true, Cr4::empty(), flush), (1, 2), "{name} {size:?} PGE off");
        }
    }
    let far = PAGE + 0x1f_f000;
    let flush: Build<'_> = &|a| {
        a.mov(rcx, far)?;
        a.invlpg(ptr(rcx))
    };
    assert_eq!(remap(PageSize::Size2M, true, Cr4::PGE, flush), (1, 2), "a large page as a whole");
}

#[test]
fn global_pages_outlive_cr3() {
    // An engine may drop them early; this one is known not to.
    let reload: Build<'_> = &|a| {
        a.mov(rcx, cr3)?;
        a.mov(cr3, rcx)
    };
    assert_eq!(remap(PageSize::Size4K, true, Cr4::PGE, reload), (1, 1));
}

#[test]
fn rights_change_when_control_registers_do() {
    // SMAP is switched on after the page was entered; then the page is reached with AC; then without.
    let mut machine = Machine::new();
    machine.set_gpr(Gpr::Rbx, USER_DATA);
    let smap = Cr4::SMAP.bits() as u32;
    let fault_at = machine.code(CODE, &|a| {
        a.mov(rax, qword_ptr(rbx))?;
        a.mov(rcx, cr4)?;
        a.or(rcx, smap as i32)?;
        a.mov(cr4, rcx)?;
        a.stac()?;
        a.mov(rax, qword_ptr(rbx))?;
        a.clac()
    });
    machine.code(fault_at, &|a| a.mov(rax, qword_ptr(rbx)));
    let event = machine.run_to_stop().events[0];
    assert_eq!((event.brief(), event.cr2), ((14, 1, fault_at), USER_DATA));
    // The processor's own accesses to user pages are kept out even with AC.
    machine.state.rflags |= viv_arch::Rflags::AC;
    machine.state.cr4 |= Cr4::SMAP;
    machine.state.gdtr.base = USER_DATA;
    machine.code(CODE, &|a| {
        a.mov(eax, u32::from(selector::DATA))?;
        a.mov(ds, eax)
    });
    let outcome = machine.run();
    assert_eq!(outcome.exit, viv_engine::Exit::TripleFault, "the handler's own code segment is there, too");
}

#[test]
fn write_protection_is_looked_at_again() {
    let mut machine = Machine::new();
    machine.tables.map(PAGE, FIRST, PageSize::Size4K, paging::PRESENT);
    machine.set_gpr(Gpr::Rbx, PAGE);
    let wp = viv_arch::Cr0::WP.bits() as i32;
    let fault_at = machine.code(CODE, &|a| {
        a.mov(rcx, cr0)?;
        a.xor(rcx, wp)?;
        a.mov(cr0, rcx)?;
        a.mov(qword_ptr(rbx), rax)?;
        a.xor(rcx, wp)?;
        a.mov(cr0, rcx)
    });
    machine.code(fault_at, &|a| a.mov(qword_ptr(rbx), rax));
    assert_eq!(machine.run_to_stop().briefs(), [(14, 3, fault_at)]);
}

#[test]
fn process_context_identifiers_keep_address_spaces_apart() {
    let mut machine = Machine::new();
    machine.state.cr4 |= Cr4::PCIDE | Cr4::PGE;
    machine.write(FIRST, 1u64);
    machine.write(SECOND, 2u64);
    // Two address spaces that differ in one page: the second has a top table of its own.
    machine.tables.map(PAGE, FIRST, PageSize::Size4K, KERNEL);
    let other_top = 0x1f_0000;
    let tables = machine.read_bytes(TABLES, 4096);
    machine.write_bytes(other_top, &tables);
    machine.write(other_top + 8, 0u64);
    let (pdpt, pd, pt) = (0x1f_1000u64, 0x1f_2000u64, 0x1f_3000u64);
    machine.write(other_top + 8, pdpt | FULL);
    machine.write(pdpt + 8, pd | FULL);
    machine.write(pd, pt | FULL);
    machine.write(pt, SECOND | KERNEL);
    machine.set_gpr(Gpr::Rbx, PAGE);
    machine.code(CODE, &|a| {
        a.mov(rcx, TABLES | 1)?;
        a.mov(rdx, other_top | 2 | 1 << 63)?;
        a.mov(cr3, rcx)?;
        a.mov(r8, qword_ptr(rbx))?;
        a.mov(cr3, rdx)?;
        a.mov(r9, qword_ptr(rbx))?;
        a.bts(rcx, 63)?;
        a.mov(cr3, rcx)?;
        a.mov(r10, qword_ptr(rbx))?;
        a.mov(r11, cr3)?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    let seen = [Gpr::R8, Gpr::R9, Gpr::R10, Gpr::R11].map(|r| outcome.gpr(r));
    assert_eq!(seen, [1, 2, 1, TABLES | 1], "bit 63 is not kept");
}

/// A copy of the top table, for a second address space that has everything at the same place.
const OTHER_TOP: u64 = 0x1f_0000;

fn with_two_spaces() -> Machine {
    let mut machine = Machine::new();
    machine.state.cr4 |= Cr4::PCIDE | Cr4::PGE;
    machine.write(FIRST, 1u64);
    machine.write(SECOND, 2u64);
    machine.tables.map(PAGE, FIRST, PageSize::Size4K, KERNEL);
    let top = machine.read_bytes(TABLES, 4096);
    machine.write_bytes(OTHER_TOP, &top);
    machine.set_gpr(Gpr::Rbx, PAGE);
    machine
}

/// Goes to the address space with PCID 1, or that with PCID 2, whose translations are not to be forgotten.
fn enter_space(a: &mut CodeAssembler, pcid: u64) -> Result<(), IcedError> {
    let top = if pcid == 1 { TABLES } else { OTHER_TOP };
    a.mov(rcx, top | pcid | 1 << 63)?;
    a.mov(cr3, rcx)
}

/// Reads a page in one address space, maps it elsewhere while in another, does `flush` there, and reads again.
fn remap_from_elsewhere(flush: Build<'_>) -> (u64, u64) {
    let mut machine = with_two_spaces();
    let path = machine.tables.path(PAGE, PageSize::Size4K);
    let at = path[path.len() - 1];
    let new = machine.tables.read(at) - FIRST + SECOND;
    machine.code(CODE, &|a| {
        enter_space(a, 1)?;
        a.mov(r8, qword_ptr(rbx))?;
        enter_space(a, 2)?;
        a.mov(rax, new)?;
        a.mov(qword_ptr(at), rax)?;
        flush(a)?;
        enter_space(a, 1)?;
        a.mov(r9, qword_ptr(rbx))?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    (outcome.gpr(Gpr::R8), outcome.gpr(Gpr::R9))
}

#[test]
fn translations_of_an_address_space_that_is_not_in_use_are_flushed() {
    let invalidate = |a: &mut CodeAssembler, kind: u64| {
        a.mov(dword_ptr(DATA), 1)?;
        a.mov(dword_ptr(DATA + 4), 0)?;
        a.mov(rcx, PAGE)?;
        a.mov(qword_ptr(DATA + 8), rcx)?;
        a.mov(rdx, kind)?;
        a.invpcid(rdx, xmmword_ptr(DATA))
    };
    for kind in 0..4 {
        assert_eq!(remap_from_elsewhere(&|a| invalidate(a, kind)), (1, 2), "INVPCID {kind}");
    }
    let toggle_pge: Build<'_> = &|a| toggle(a, Cr4::PGE);
    assert_eq!(remap_from_elsewhere(toggle_pge), (1, 2));
    let come_back_flushing: Build<'_> = &|a| {
        a.mov(rcx, TABLES | 1)?;
        a.mov(cr3, rcx)
    };
    assert_eq!(remap_from_elsewhere(come_back_flushing), (1, 2));
    // An engine may drop them early; this one is known not to.
    assert_eq!(remap_from_elsewhere(&|_| Ok(())), (1, 1));
    let flush_the_present_one: Build<'_> = &|a| {
        a.invlpg(ptr(rbx))?;
        a.mov(rcx, OTHER_TOP | 2)?;
        a.mov(cr3, rcx)
    };
    assert_eq!(remap_from_elsewhere(flush_the_present_one), (1, 1));
}

#[test]
fn a_page_that_has_become_code_meanwhile_is_not_written_unnoticed() {
    let mut machine = with_two_spaces();
    // mov r8d, 1; ret
    machine.write_bytes(FIRST, &[0x41, 0xb8, 1, 0, 0, 0, 0xc3]);
    machine.code(CODE, &|a| {
        enter_space(a, 1)?;
        a.mov(dword_ptr(rbx + 0x800), eax)?;
        enter_space(a, 2)?;
        a.call(rbx)?;
        a.mov(r9, r8)?;
        enter_space(a, 1)?;
        a.mov(dword_ptr(rbx + 2), 2)?;
        a.call(rbx)?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    assert_eq!((outcome.gpr(Gpr::R9), outcome.gpr(Gpr::R8)), (1, 2));
}

#[test]
fn bad_invalidations_fault() {
    let bad = |kind: u64, pcid: u64, address: u64| {
        let mut machine = Machine::new();
        machine.state.cr4 |= Cr4::PCIDE;
        machine.write(DATA, pcid);
        machine.write(DATA + 8, address);
        machine.set_gpr(Gpr::Rdx, kind);
        machine.code(CODE, &|a| {
            a.invpcid(rdx, xmmword_ptr(DATA))?;
            stop(a)
        });
        machine.run_to_stop().briefs() == [(13, 0, CODE)]
    };
    assert!(bad(4, 0, 0) && bad(u64::MAX, 0, 0), "there are four kinds");
    assert!(bad(0, 0, 1 << 47), "the address is not canonical");
    assert!(bad(0, 1 << 12, 0) && bad(1, 1 << 12, 0), "the PCID has twelve bits");
    assert!(!bad(0, 0xfff, 0) && !bad(2, 0xfff, 1 << 47));
}
