//! More code than there is memory for its translations.

use iced_x86::code_asm::*;
use viv_arch::Gpr;

use crate::machine::*;

const FUNCTIONS: u64 = 4096;
/// What a function has of memory.
const SIZE: u64 = 256;
/// So many functions lead from one to the next.
const CHAIN: u64 = 4;
const ROUNDS: u64 = 4;

/// What function `n` makes of a number.
fn step(value: u64, n: u64) -> u64 {
    let value = value.wrapping_mul(31).wrapping_add(n);
    if value & 1 == 0 { value + 1 } else { value ^ n }
}

fn function(n: u64) -> Vec<u8> {
    assemble(64, FREE + n * SIZE, &|a| {
        let (mut odd, mut end) = (a.create_label(), a.create_label());
        a.imul_3(rax, rax, 31)?;
        a.add(rax, n as i32)?;
        a.test(al, 1)?;
        a.jne(odd)?;
        a.inc(rax)?;
        a.jmp(end)?;
        a.set_label(&mut odd)?;
        a.xor(rax, n as i32)?;
        a.set_label(&mut end)?;
        if n % CHAIN == CHAIN - 1 { a.ret() } else { a.jmp(FREE + (n + 1) * SIZE) }
    })
}

#[test]
fn translations_that_found_no_room_are_made_again() {
    let mut machine = Machine::with_options("tier=translate code-memory=256");
    machine.tables.map(FREE, FREE, PageSize::Size2M, KERNEL);
    for n in 0..FUNCTIONS {
        machine.write_bytes(FREE + n * SIZE, &function(n));
    }
    // Chains in an order that goes through all of them, so that what is oldest is not what is needed next.
    let chains = FUNCTIONS / CHAIN;
    machine.code(CODE, &|a| {
        let mut next = a.create_label();
        a.mov(ebx, 0)?;
        a.mov(ecx, (ROUNDS * chains) as u32)?;
        a.set_label(&mut next)?;
        a.lea(ebx, dword_ptr(rbx + rbx * 4 + 3))?;
        a.and(ebx, chains as i32 - 1)?;
        a.mov(edx, ebx)?;
        a.shl(edx, (CHAIN * SIZE).trailing_zeros())?;
        a.add(edx, FREE as i32)?;
        a.call(rdx)?;
        a.dec(ecx)?;
        a.jne(next)?;
        stop(a)
    });
    let (mut value, mut chain) = (0, 0);
    for _ in 0..ROUNDS * chains {
        chain = (chain * 5 + 3) % chains;
        value = (chain * CHAIN..(chain + 1) * CHAIN).fold(value, step);
    }
    assert_eq!(machine.run_to_stop().gpr(Gpr::Rax), value);
    let translations = machine.vcpu.translations().unwrap();
    assert!(translations.evictions > 10 && translations.traces > FUNCTIONS, "{translations:?}");
}
