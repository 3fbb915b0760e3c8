//! String instructions: interrupted, faulting, backwards, overlapping, wrapping, and on device memory.

use std::sync::Arc;

use iced_x86::code_asm::*;
use viv_arch::{Gpr, Rflags, paging};
use viv_engine::Msi;

use crate::machine::*;

/// Four megabytes, mapped where they are.
const AREA: u64 = FREE;
const AREA_SIZE: u64 = 0x40_0000;

fn machine_with_area() -> Machine {
    let mut machine = Machine::new();
    for at in (AREA..AREA + AREA_SIZE).step_by(0x20_0000) {
        machine.tables.map(at, at, PageSize::Size2M, KERNEL);
    }
    machine
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 + n / 251) as u8).collect()
}

#[test]
fn an_interrupt_in_the_middle_resumes_where_it_was() {
    let cases: [(&str, Build<'_>, bool); 4] = [
        ("rep movsb", &|a| a.rep().movsb(), false),
        ("rep movsq backwards", &|a| a.rep().movsq(), true),
        ("rep stosd", &|a| a.rep().stosd(), false),
        ("repe cmpsb", &|a| a.repe().cmpsb(), false),
    ];
    for (name, build, backwards) in cases {
        let mut machine = machine_with_area();
        let vm = Arc::clone(&machine.vm);
        machine.platform.set_hook(move |data| vm.send_msi(Msi { address: 0xfee0_0000, data }));
        machine.on(0x61, Action::EndOfInterrupt);
        let (size, count) = match name {
            "rep movsq backwards" => (8, 0x1_0000),
            "rep stosd" => (4, 0x2_0000),
            _ => (1, 0x8_0000),
        };
        let bytes = size * count;
        let (from, to) = (AREA, AREA + 0x10_0000);
        let data = pattern(bytes as usize);
        machine.write_bytes(from, &data);
        if name == "repe cmpsb" {
            machine.write_bytes(to, &data);
        }
        let start = if backwards { bytes - size } else { 0 };
        machine.set_gpr(Gpr::Rsi, from + start);
        machine.set_gpr(Gpr::Rdi, to + start);
        machine.set_gpr(Gpr::Rcx, count);
        machine.state.rflags.set(Rflags::DF, backwards);
        let at = machine.code(CODE, &|a| {
            a.mov(dword_ptr(APIC + 0xf0), 0x1ff)?;
            a.mov(eax, 0x61)?;
            a.out(u32::from(PORT_HOOK), eax)?;
            a.sti()
        });
        let end = machine.code(at, build);
        machine.code(end, &stop);
        let outcome = machine.run_to_stop();
        let event = outcome.events[0];
        assert_eq!((event.vector, event.rip), (0x61, at), "{name}");
        assert!(event.has_flag(Rflags::RF), "{name}");
        assert_eq!(outcome.gpr(Gpr::Rcx), 0, "{name}");
        let moved = if backwards { bytes.wrapping_neg() } else { bytes };
        assert_eq!(outcome.gpr(Gpr::Rdi), (to + start).wrapping_add(moved), "{name}");
        if name.contains("movs") {
            assert!(machine.read_bytes(to, bytes as usize) == data, "{name}");
        }
    }
}

#[test]
fn a_fault_in_the_middle_leaves_registers_at_the_element() {
    const WINDOW: u64 = 0x80_4000_0000;
    // (name, code, element size, whether the source faults, DF)
    let cases: [(&str, Build<'_>, u64, bool, bool); 9] = [
        ("rep movsb to", &|a| a.rep().movsb(), 1, false, false),
        ("rep movsb from", &|a| a.rep().movsb(), 1, true, false),
        ("rep movsq to", &|a| a.rep().movsq(), 8, false, false),
        ("rep movsw from, backwards", &|a| a.rep().movsw(), 2, true, true),
        ("rep stosd", &|a| a.rep().stosd(), 4, false, false),
        ("rep stosb backwards", &|a| a.rep().stosb(), 1, false, true),
        ("rep lodsq", &|a| a.rep().lodsq(), 8, true, false),
        ("repe cmpsb", &|a| a.repe().cmpsb(), 1, true, false),
        ("repne scasb", &|a| a.repne().scasb(), 1, false, false),
    ];
    for (name, build, size, source, backwards) in cases {
        // Elements that do not divide the distance to the page's end, where size allows.
        for misaligned in [0, size / 2] {
            let mut machine = machine_with_area();
            machine.tables.map(WINDOW + 0x1000, FREE + 0x1000, PageSize::Size4K, KERNEL);
            machine.set_gpr(Gpr::Rax, 0x1122_3344_5566_7788);
            let (count, before) = (64, 20);
            // The elements before the missing page, then the fault.
            let first = if backwards {
                WINDOW + 0x1000 + (before - 1) * size + misaligned
            } else {
                WINDOW + 0x2000 - before * size - misaligned
            };
            let other = AREA + 0x20_0000 + 0x8000;
            let (rsi_start, rdi_start) = if source { (first, other) } else { (other, first) };
            machine.set_gpr(Gpr::Rsi, rsi_start);
            machine.set_gpr(Gpr::Rdi, rdi_start);
            machine.set_gpr(Gpr::Rcx, count);
            machine.state.rflags.set(Rflags::DF, backwards);
            machine.code(CODE, build);
            let outcome = machine.run_to_stop();
            let event = outcome.events[0];
            assert_eq!((event.vector, event.rip), (14, CODE), "{name}");
            assert_eq!(outcome.gpr(Gpr::Rcx), count - before, "{name} {misaligned}");
            let moved = before * size;
            let step = |start: u64| if backwards { start - moved } else { start + moved };
            let (uses_source, uses_destination) =
                (!name.contains("stos") && !name.contains("scas"), !name.contains("lods"));
            assert_eq!(
                outcome.gpr(Gpr::Rsi),
                if uses_source { step(rsi_start) } else { rsi_start },
                "{name}"
            );
            assert_eq!(
                outcome.gpr(Gpr::Rdi),
                if uses_destination { step(rdi_start) } else { rdi_start },
                "{name}"
            );
            let missing = if backwards { WINDOW + 0x1000 - size + misaligned } else { WINDOW + 0x2000 };
            assert_eq!(event.cr2, missing, "{name} {misaligned}");
        }
    }
}

/// MOVS as the manual describes it, on a copy of the memory.
fn model_movs(memory: &mut [u8], mut from: usize, mut to: usize, count: usize, size: usize, backwards: bool) {
    for _ in 0..count {
        let element = memory[from..from + size].to_vec();
        memory[to..to + size].copy_from_slice(&element);
        (from, to) = if backwards {
            (from.wrapping_sub(size), to.wrapping_sub(size))
        } else {
            (from + size, to + size)
        };
    }
}

#[test]
fn overlapping_moves_see_what_they_wrote() {
    let mut machine = machine_with_area();
    let before = pattern(0x5000);
    for (size, build) in [
        (1, &(|a: &mut CodeAssembler| a.rep().movsb()) as Build<'_>),
        (2, &|a| a.rep().movsw()),
        (4, &|a| a.rep().movsd()),
        (8, &|a| a.rep().movsq()),
    ] {
        for backwards in [false, true] {
            for distance in (-20i64..=20).chain([-0x1000, 0x1000, 0xffd]) {
                let count = 0x400 / size + 3;
                let middle = 0x2000 - 0x123;
                let start = if backwards { middle + count * size } else { middle };
                let to = (start as i64 + distance) as usize;
                machine.write_bytes(AREA, &before);
                machine.set_gpr(Gpr::Rsi, AREA + start as u64);
                machine.set_gpr(Gpr::Rdi, AREA + to as u64);
                machine.set_gpr(Gpr::Rcx, count as u64);
                machine.state.rflags.set(Rflags::DF, backwards);
                let end = machine.code(CODE, build);
                machine.code(end, &stop);
                machine.run_to_stop();
                let mut wanted = before.clone();
                model_movs(&mut wanted, start, to, count, size, backwards);
                let found = machine.read_bytes(AREA, before.len());
                assert!(found == wanted, "size {size} DF {backwards} distance {distance}");
            }
        }
    }
}

#[test]
fn a_32_bit_address_size_wraps_at_4_gib_and_clears_upper_halves() {
    let mut machine = Machine::new();
    machine.tables.map(0xffff_f000, FREE, PageSize::Size4K, KERNEL);
    machine.set_gpr(Gpr::Rdi, 0x7777_7777_ffff_fff8);
    machine.set_gpr(Gpr::Rcx, 0x1234_0000_0010);
    machine.set_gpr(Gpr::Rax, 0xab);
    machine.code(CODE, &|a| {
        a.db(&[0x67, 0xf3, 0xaa])?; // rep stosb, with EDI and ECX
        stop(a)
    });
    let outcome = machine.run_to_stop();
    assert_eq!(outcome.briefs(), []);
    assert_eq!((outcome.gpr(Gpr::Rdi), outcome.gpr(Gpr::Rcx)), (8, 0));
    assert_eq!(machine.read_bytes(FREE + 0xff8, 8), [0xab; 8]);
    assert_eq!(machine.read_bytes(0, 9), [0xab, 0xab, 0xab, 0xab, 0xab, 0xab, 0xab, 0xab, 0]);
    // A count of which the 32 lower bits are zero does nothing at all.
    machine.set_gpr(Gpr::Rcx, 0x1234_0000_0000);
    machine.set_gpr(Gpr::Rdi, 1 << 47);
    assert_eq!(machine.run_to_stop().briefs(), []);
}

#[test]
fn device_memory_is_accessed_element_by_element_in_order() {
    let mut machine = Machine::new();
    machine.write(DATA, 0x8877_6655_4433_2211u64);
    machine.set_gpr(Gpr::Rsi, DATA);
    machine.set_gpr(Gpr::Rdi, MMIO + 0x10);
    machine.set_gpr(Gpr::Rcx, 2);
    machine.code(CODE, &|a| {
        a.rep().movsd()?;
        a.mov(esi, MMIO as u32 + 0x12)?;
        a.mov(edi, DATA as u32 + 0x100)?;
        a.mov(ecx, 2)?;
        a.rep().movsw()?;
        a.mov(edi, MMIO as u32 + 0x10)?;
        a.mov(eax, 0x11)?;
        a.mov(ecx, 8)?;
        a.repe().scasb()?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    let at = |offset: u64| MMIO_PHYS + offset;
    let wanted = [
        Access::MemoryWrite(at(0x10), vec![0x11, 0x22, 0x33, 0x44]),
        Access::MemoryWrite(at(0x14), vec![0x55, 0x66, 0x77, 0x88]),
        Access::MemoryRead(at(0x12), 2),
        Access::MemoryRead(at(0x14), 2),
        Access::MemoryRead(at(0x10), 1),
        Access::MemoryRead(at(0x11), 1),
    ];
    assert_eq!(*machine.platform.accesses.lock().unwrap(), wanted);
    assert_eq!(machine.read::<u32>(DATA + 0x100), 0x6655_4433);
    assert_eq!((outcome.gpr(Gpr::Rcx), outcome.gpr(Gpr::Rdi)), (6, MMIO + 0x12));
}

#[test]
fn a_move_into_a_missing_page_does_not_read_the_port() {
    let mut machine = Machine::new();
    machine.tables.map(FREE, FREE, PageSize::Size4K, KERNEL);
    machine.set_gpr(Gpr::Rdi, FREE + 0xffe);
    machine.set_gpr(Gpr::Rcx, 4);
    machine.set_gpr(Gpr::Rdx, 0x1f0);
    machine.code(CODE, &|a| a.rep().insb());
    let outcome = machine.run_to_stop();
    assert_eq!(outcome.events[0].cr2, FREE + 0x1000);
    assert_eq!((outcome.gpr(Gpr::Rcx), outcome.gpr(Gpr::Rdi)), (2, FREE + 0x1000));
    assert_eq!(*machine.platform.accesses.lock().unwrap(), vec![Access::PortRead(0x1f0, 1); 2]);
    assert_eq!(machine.read::<u16>(FREE + 0xffe), 0x5a5a);
}

#[test]
fn accessed_and_dirty_bits_are_set_page_by_page() {
    const WINDOW: u64 = 0x80_4000_0000;
    let mut machine = Machine::new();
    for page in 0..4 {
        machine.tables.map(WINDOW + page * 0x1000, FREE + page * 0x1000, PageSize::Size4K, KERNEL);
    }
    machine.set_gpr(Gpr::Rdi, WINDOW + 0x1800);
    machine.set_gpr(Gpr::Rcx, 0x1000);
    machine.code(CODE, &|a| {
        a.rep().stosb()?;
        stop(a)
    });
    machine.run_to_stop();
    let dirty: Vec<bool> = (0..4)
        .map(|page| {
            let leaf = machine.tables.path(WINDOW + page * 0x1000, PageSize::Size4K)[3];
            machine.tables.read(leaf) & paging::DIRTY != 0
        })
        .collect();
    assert_eq!(dirty, [false, true, true, false]);
}
