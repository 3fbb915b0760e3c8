//! Code that changes under the processor.

use iced_x86::code_asm::*;
use viv_arch::Gpr;
use vm_memory::{Bytes, GuestAddress};

use crate::machine::*;

/// A function that puts `value` into EAX: five bytes and a RET.
fn function(value: u32) -> Vec<u8> {
    let mut code = vec![0xb8];
    code.extend(value.to_le_bytes());
    code.push(0xc3);
    code
}

/// Calls the function at `at`, lets `change` change it, calls it again: what the calls gave.
fn twice(at: u64, setup: impl Fn(&mut Machine), change: Build<'_>) -> (u64, u64) {
    let mut machine = Machine::new();
    machine.tables.map(FREE, FREE, PageSize::Size2M, KERNEL);
    machine.write_bytes(at, &function(1));
    setup(&mut machine);
    machine.code(CODE, &|a| {
        a.mov(ebx, at as u32)?;
        a.call(rbx)?;
        a.mov(r8, rax)?;
        change(a)?;
        a.call(rbx)?;
        a.mov(r9, rax)?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    (outcome.gpr(Gpr::R8), outcome.gpr(Gpr::R9))
}

#[test]
fn the_next_instruction_of_the_same_block() {
    let stores: [(&str, Build<'_>); 6] = [
        ("mov", &|a| a.mov(byte_ptr(rsi + 1), 0x22)),
        ("add", &|a| a.add(byte_ptr(rsi + 1), 0x11)),
        ("xchg", &|a| {
            a.mov(cl, 0x22)?;
            a.xchg(byte_ptr(rsi + 1), cl)
        }),
        ("stosb", &|a| {
            a.lea(rdi, qword_ptr(rsi + 1))?;
            a.mov(al, 0x22)?;
            a.stosb()
        }),
        ("rep stosb", &|a| {
            a.lea(rdi, qword_ptr(rsi + 1))?;
            a.mov(al, 0x22)?;
            a.mov(ecx, 1)?;
            a.rep().stosb()
        }),
        ("movd", &|a| {
            a.mov(eax, 0x22)?;
            a.movd(xmm0, eax)?;
            a.movd(dword_ptr(rsi + 1), xmm0)
        }),
    ];
    for (name, store) in stores {
        let mut machine = Machine::new();
        // Round the loop twice, so that the block is known the second time.
        let next = assemble(64, CODE, store).len() as u64 + CODE;
        machine.set_gpr(Gpr::Rsi, next);
        machine.code(CODE, store);
        machine.code(next, &|a| {
            a.mov(eax, 0x11)?;
            stop(a)
        });
        assert_eq!(machine.run_to_stop().gpr(Gpr::Rax), 0x22, "{name}");
        machine.write(next + 1, 0x11u8);
        assert_eq!(machine.run_to_stop().gpr(Gpr::Rax), 0x22, "{name}, the second time");
    }
}

#[test]
fn another_block_of_the_same_page_and_of_another() {
    for at in [CODE + 0x800, CODE + 0x1000, FREE] {
        let change: Build<'_> = &|a| a.mov(dword_ptr(rbx + 1), 2);
        assert_eq!(twice(at, |_| {}, change), (1, 2), "{at:#x}");
    }
}

#[test]
fn through_another_mapping_of_the_page() {
    const ALIAS: u64 = 0x80_4000_0000;
    let change: Build<'_> = &|a| {
        a.mov(rdx, ALIAS)?;
        a.mov(dword_ptr(rdx + 1), 2)
    };
    let setup = |machine: &mut Machine| machine.tables.map(ALIAS, FREE, PageSize::Size4K, KERNEL);
    assert_eq!(twice(FREE, setup, change), (1, 2));
    // Where the alias was in use for writing before there was any code.
    let before: Build<'_> = &|a| {
        a.mov(rdx, ALIAS)?;
        a.mov(dword_ptr(rdx + 0x800), 2)?;
        a.mov(dword_ptr(rdx + 1), 3)?;
        a.call(rbx)?;
        a.mov(dword_ptr(rdx + 1), 2)
    };
    assert_eq!(twice(FREE, setup, before), (1, 2));
}

#[test]
fn by_a_device() {
    let setup = |machine: &mut Machine| {
        let memory = machine.memory.clone();
        machine.platform.set_hook(move |value| {
            memory.write_slice(&function(value), GuestAddress(FREE)).unwrap();
        });
    };
    let change: Build<'_> = &|a| {
        a.mov(eax, 2)?;
        a.out(u32::from(PORT_HOOK), eax)
    };
    assert_eq!(twice(FREE, setup, change), (1, 2));
}

#[test]
fn an_instruction_that_crosses_pages() {
    // The immediate lies on both pages; each half is changed.
    for (offset, first, second) in [(1, 1, 0x0202), (3, 1, 0x0202_0001)] {
        let at = FREE + 0x1000 - 3;
        let change: Build<'_> = &|a| a.mov(word_ptr(rbx + offset), 0x0202);
        assert_eq!(twice(at, |_| {}, change), (first, second), "byte {offset}");
    }
    // The second page is another one now.
    const WINDOW: u64 = 0x80_4000_0000;
    let mut machine = Machine::new();
    machine.tables.map(WINDOW, FREE, PageSize::Size4K, KERNEL);
    machine.tables.map(WINDOW + 0x1000, FREE + 0x1000, PageSize::Size4K, KERNEL);
    let leaf = machine.tables.path(WINDOW + 0x1000, PageSize::Size4K)[3];
    machine.write_bytes(FREE + 0x1000 - 3, &function(0x0101_0101));
    machine.write_bytes(FREE + 0x2000, &[0x02, 0x02, 0xc3]);
    machine.set_gpr(Gpr::Rbx, WINDOW + 0x1000 - 3);
    machine.code(CODE, &|a| {
        a.call(rbx)?;
        a.mov(r8, rax)?;
        a.mov(eax, ((FREE + 0x2000) | KERNEL) as u32)?;
        a.mov(qword_ptr(leaf), rax)?;
        a.invlpg(ptr(rbx + 3))?;
        a.call(rbx)?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    assert_eq!((outcome.gpr(Gpr::R8), outcome.gpr(Gpr::Rax)), (0x0101_0101, 0x0202_0101));
}

#[test]
fn a_page_that_is_exchanged() {
    const WINDOW: u64 = 0x80_4000_0000;
    let mut machine = Machine::new();
    machine.tables.map(WINDOW, FREE, PageSize::Size4K, KERNEL);
    let leaf = machine.tables.path(WINDOW, PageSize::Size4K)[3];
    machine.write_bytes(FREE, &function(1));
    machine.write_bytes(FREE + 0x1000, &function(2));
    machine.set_gpr(Gpr::Rbx, WINDOW);
    machine.code(CODE, &|a| {
        a.call(rbx)?;
        a.mov(r8, rax)?;
        a.mov(eax, ((FREE + 0x1000) | KERNEL) as u32)?;
        a.mov(qword_ptr(leaf), rax)?;
        a.mov(rcx, cr3)?;
        a.mov(cr3, rcx)?;
        a.call(rbx)?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    assert_eq!((outcome.gpr(Gpr::R8), outcome.gpr(Gpr::Rax)), (1, 2));
}

#[test]
fn an_instruction_that_changes_itself() {
    let mut machine = Machine::new();
    // add byte ptr [rsi], 1, where RSI is the address of that 1.
    let at = CODE + 0x10;
    machine.code(CODE, &|a| {
        a.mov(ecx, 5)?;
        a.mov(esi, at as u32 + 2)?;
        a.jmp(at)
    });
    machine.write_bytes(at, &[0x80, 0x06, 0x01]);
    machine.code(at + 3, &|a| {
        a.dec(ecx)?;
        a.jnz(at)?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    assert_eq!(outcome.gpr(Gpr::Rcx), 0);
    assert_eq!(machine.read::<u8>(at + 2), 32, "doubled five times");
}

#[test]
fn one_page_before_two_others() {
    // Two addresses whose instruction begins in the same page and ends in different ones, by turns.
    const WINDOW: u64 = 0x80_4000_0000;
    const OTHER: u64 = WINDOW + 0x10_0000;
    let mut machine = Machine::new();
    for (linear, second) in [(WINDOW, FREE + 0x1000), (OTHER, FREE + 0x2000)] {
        machine.tables.map(linear, FREE, PageSize::Size4K, KERNEL);
        machine.tables.map(linear + 0x1000, second, PageSize::Size4K, KERNEL);
    }
    machine.write_bytes(FREE + 0x1000 - 3, &[0xb8, 0x11, 0x11]);
    machine.write_bytes(FREE + 0x1000, &[0x11, 0x11, 0xc3]);
    machine.write_bytes(FREE + 0x2000, &[0x22, 0x22, 0xc3]);
    machine.set_gpr(Gpr::Rbx, WINDOW + 0x1000 - 3);
    machine.set_gpr(Gpr::Rsi, OTHER + 0x1000 - 3);
    machine.code(CODE, &|a| {
        a.call(rbx)?;
        a.call(rsi)?;
        a.call(rbx)?;
        a.mov(r8, rax)?;
        a.call(rsi)?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    assert_eq!((outcome.gpr(Gpr::R8), outcome.gpr(Gpr::Rax)), (0x1111_1111, 0x2222_1111));
}

#[test]
fn a_call_through_the_word_that_its_return_address_goes_to() {
    let mut machine = Machine::new();
    machine.tables.map(FREE, FREE, PageSize::Size2M, KERNEL);
    // inc eax; ret
    machine.write_bytes(FREE, &[0xff, 0xc0, 0xc3]);
    machine.code(CODE, &|a| {
        a.xor(eax, eax)?;
        a.mov(ebx, FREE as u32)?;
        // Often enough for the code to be hot.
        a.mov(ecx, 100)?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.mov(qword_ptr(rsp - 8), rbx)?;
        a.call(qword_ptr(rsp - 8))?;
        a.dec(ecx)?;
        a.jnz(again)?;
        stop(a)
    });
    assert_eq!(machine.run_to_stop().gpr(Gpr::Rax), 100);
}
