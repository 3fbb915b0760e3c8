//! Small loops whose addresses move by constants, which an engine may run several rounds of at a time.

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use viv_arch::paging::PAGE_SIZE;
use viv_arch::{Gpr, apic};

use crate::machine::*;

/// Where pages of RAM are mapped besides, the fifth of them being at a multiple of 4 GiB.
const BUFFER: u64 = 0x80_ffff_c000;
const PAGES: u64 = 8;
/// Often enough for an engine to take the pages for worth having at hand.
const PASSES: u64 = 200;
const VECTOR: u8 = 0x61;
const PAGE_FAULT: u8 = 14;

/// A machine with RAM from [`FREE`] on mapped at [`BUFFER`], for reads if not for writes, and nothing behind it.
fn with_buffer(flags: u64) -> Machine {
    let mut machine = Machine::new();
    for page in 0..PAGES {
        let at = page * PAGE_SIZE;
        machine.tables.map(BUFFER + at, FREE + at, PageSize::Size4K, flags);
    }
    for at in (0..PAGES * PAGE_SIZE).step_by(8) {
        machine.write(FREE + at, at.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
    machine
}

/// Runs `round` as often as RCX says, with R10 at `from` and RDI at `to`, and all of that [`PASSES`] times.
fn passes(
    a: &mut CodeAssembler,
    [from, to]: [u64; 2],
    rounds: u64,
    round: Build<'_>,
) -> Result<(), IcedError> {
    let (mut pass, mut again) = (a.create_label(), a.create_label());
    a.mov(r15, PASSES)?;
    a.set_label(&mut pass)?;
    a.mov(r10, from)?;
    a.mov(rdi, to)?;
    a.mov(rcx, rounds)?;
    a.set_label(&mut again)?;
    round(a)?;
    a.dec(rcx)?;
    a.jnz(again)?;
    a.dec(r15)?;
    a.jnz(pass)
}

#[test]
fn what_they_read_and_write_may_lie_in_several_pages() {
    const ROUNDS: u64 = 600;
    // From where, to where, by how much a round moves.
    let cases: [(u64, u64, i32); 7] = [
        (BUFFER, BUFFER + 0x2000, 8),
        (BUFFER + 3, BUFFER + 0x1ffd, 8),
        (BUFFER + 0x5ff8, BUFFER + 0x7ff8, -8),
        (BUFFER + 0x5ffb, BUFFER + 0x7ff1, -24),
        (BUFFER + 1, BUFFER + 0x4005, 24),
        (BUFFER + 0xffd, BUFFER + 0x3fff, 1),
        (BUFFER + 0x3f00, BUFFER + 0x3e83, 1),
    ];
    for (from, to, stride) in cases {
        let mut machine = with_buffer(KERNEL);
        let mut model = machine.read_bytes(FREE, (PAGES * PAGE_SIZE) as usize);
        let mut sum = 0u64;
        for _ in 0..PASSES {
            for round in 0..ROUNDS {
                let moved = (stride as i64 * round as i64) as u64;
                let word = |at: u64| (at.wrapping_add(moved) - BUFFER) as usize;
                let read = |model: &[u8], at| u64::from_le_bytes(model[at..at + 8].try_into().unwrap());
                let value = read(&model, word(from));
                sum = sum.wrapping_add(value);
                let next = read(&model, word(to)).wrapping_add(value);
                model[word(to)..word(to) + 8].copy_from_slice(&next.to_le_bytes());
            }
        }
        machine.code(CODE, &|a| {
            passes(a, [from, to], ROUNDS, &|a| {
                a.mov(r11, qword_ptr(r10))?;
                a.add(r10, stride)?;
                a.add(rbx, qword_ptr(r10 - stride))?;
                a.add(qword_ptr(rdi), r11)?;
                a.lea(rdi, qword_ptr(rdi + stride))
            })?;
            stop(a)
        });
        let outcome = machine.run_to_stop();
        assert_eq!(outcome.gpr(Gpr::Rbx), sum, "{from:#x} to {to:#x} by {stride}");
        assert!(machine.read_bytes(FREE, model.len()) == model, "{from:#x} to {to:#x} by {stride}");
    }
}

#[test]
fn flags_may_go_from_round_to_round() {
    const WORDS: u64 = 300;
    let mut machine = with_buffer(KERNEL);
    // The sum of two numbers of so many words, with the carry from one word to the next.
    let mut carry = false;
    let sum: Vec<u64> = (0..WORDS)
        .map(|n| {
            let read = |at: u64| machine.read::<u64>(FREE + at + n * 8);
            let (sum, first) = read(0x100).overflowing_add(read(0x2200));
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            carry = first | second;
            sum
        })
        .collect();
    machine.code(CODE, &|a| {
        let (mut pass, mut again) = (a.create_label(), a.create_label());
        a.mov(r15, PASSES)?;
        a.mov(rsi, BUFFER + 0x100)?;
        a.set_label(&mut pass)?;
        a.mov(rcx, WORDS)?;
        a.xor(ebx, ebx)?;
        a.set_label(&mut again)?;
        a.mov(rax, qword_ptr(rsi + rbx * 8))?;
        a.adc(rax, qword_ptr(rsi + rbx * 8 + 0x2100))?;
        a.mov(qword_ptr(rsi + rbx * 8 + 0x4100), rax)?;
        a.inc(rbx)?;
        a.dec(rcx)?;
        a.jnz(again)?;
        a.setc(dl)?;
        a.dec(r15)?;
        a.jnz(pass)?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    assert_eq!(outcome.gpr(Gpr::Rdx), u64::from(carry));
    for (n, word) in (0u64..).zip(sum) {
        assert_eq!(machine.read::<u64>(FREE + 0x4200 + n * 8), word, "word {n}");
    }
}

#[test]
fn a_fault_is_in_its_own_round() {
    const ROUNDS: u64 = 64;
    const END: u64 = BUFFER + PAGES * PAGE_SIZE;
    for (writes, more) in [false, true].into_iter().flat_map(|writes| (0..9).map(move |more| (writes, more)))
    {
        let mut machine = with_buffer(KERNEL);
        // The last pass, with a 1 in R15, is of too many rounds.
        let head = machine.code(CODE, &|a| {
            a.mov(rdi, END - 8 * ROUNDS)?;
            a.mov(rcx, ROUNDS)?;
            let mut usual = a.create_label();
            a.cmp(r15, 1)?;
            a.jne(usual)?;
            a.mov(rdi, END - 8 * (ROUNDS + more))?;
            a.mov(rcx, 1000u64)?;
            a.set_label(&mut usual)?;
            a.xor(ebx, ebx)?;
            a.xor(edx, edx)
        });
        let fault_at = machine.code(head, &|a| a.inc(rbx));
        machine.code(fault_at, &|a| {
            if writes {
                a.mov(qword_ptr(rdi), r8)?;
            } else {
                a.add(r8, qword_ptr(rdi))?;
            }
            a.add(rdi, 8)?;
            a.inc(rdx)?;
            a.dec(rcx)?;
            a.jnz(head)?;
            a.dec(r15)?;
            a.jnz(CODE)?;
            stop(a)
        });
        machine.set_gpr(Gpr::R15, PASSES);
        let outcome = machine.run_to_stop();
        assert_eq!(outcome.briefs(), [(PAGE_FAULT, if writes { 2 } else { 0 }, fault_at)]);
        assert_eq!(outcome.events[0].cr2, END);
        let rounds = ROUNDS + more;
        let registers = [Gpr::Rbx, Gpr::Rdx, Gpr::Rcx, Gpr::Rdi].map(|register| outcome.gpr(register));
        assert_eq!(registers, [rounds + 1, rounds, 1000 - rounds, END], "writes: {writes}, {more} more");
    }
}

#[test]
fn interrupts_come_between_rounds() {
    let mut machine = with_buffer(KERNEL);
    machine.set_handler(VECTOR, CODE + 0x400, &|a| {
        a.inc(rbx)?;
        // The next rounds add something else.
        a.inc(qword_ptr(rsi))?;
        a.mov(dword_ptr(APIC + u64::from(apic::reg::EOI) * 16), 0)?;
        a.iretq()
    });
    let register = |number: u32| dword_ptr(APIC + u64::from(number) * 16);
    machine.write(FREE, 1u64);
    machine.write(FREE + 0x1000, 3u64);
    machine.code(CODE, &|a| {
        a.mov(register(apic::reg::SVR), 0x1ff)?;
        a.mov(register(apic::reg::TIMER_DIVIDE), 0xb)?;
        a.mov(register(apic::reg::LVT_TIMER), u32::from(VECTOR) | 1 << 17)?;
        a.mov(register(apic::reg::TIMER_INITIAL), 200_000)?;
        a.mov(rsi, BUFFER)?;
        a.sti()?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.mov(rax, qword_ptr(rsi + 0x1000))?;
        a.inc(r8)?;
        a.add(r9, rax)?;
        a.cmp(qword_ptr(rsi), 6)?;
        a.jb(again)?;
        a.cli()?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    // One more may come before CLI.
    assert!(outcome.gpr(Gpr::Rbx) >= 5);
    assert_eq!(outcome.gpr(Gpr::R9), 3 * outcome.gpr(Gpr::R8));
}

/// Where there is room for a loop in two pages.
const BORDER: u64 = CODE + PAGE_SIZE;

#[test]
fn a_loop_may_change_itself() {
    const BEFORE: u64 = 200;
    const BEHIND: u64 = 5;
    const STEP: i32 = 64;
    // In one page, and with what is changed in the next one.
    for at in [CODE + 0x800, BORDER - 4] {
        let mut machine = Machine::new();
        let store = assemble(64, at, &|a| a.mov(byte_ptr(rdi), 7)).len() as u64;
        let changed = at + store + 2;
        machine.code(at, &|a| {
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            a.mov(byte_ptr(rdi), 7)?;
            a.add(ebx, 1)?;
            a.add(rdi, STEP)?;
            a.dec(ecx)?;
            a.jnz(again)?;
            stop(a)
        });
        let begin = changed - BEFORE * STEP as u64;
        // Data, long before: the pages are known when the loop comes there.
        machine.code(CODE - 0x100, &|a| {
            passes(a, [0, CODE - 0x3000], 500, &|a| {
                a.mov(byte_ptr(rdi), 5)?;
                a.add(rdi, 16)
            })?;
            a.mov(rdi, begin)?;
            a.mov(ecx, (BEFORE + 1 + BEHIND) as u32)?;
            a.xor(ebx, ebx)?;
            a.jmp(at)
        });
        machine.state.rip = CODE - 0x100;
        let outcome = machine.run_to_stop();
        assert_eq!(outcome.gpr(Gpr::Rbx), BEFORE + 7 * (1 + BEHIND), "{at:#x}");
    }
}

/// A function that is a loop but for its first instructions, whose second half adds `value` and is [`HALF`] bytes behind the
/// first. It ends in its first half where RCX is 1.
fn loop_of_two_halves(at: u64, value: i32) -> Vec<u8> {
    assemble(64, at, &|a| {
        let (mut again, mut out) = (a.create_label(), a.create_label());
        a.jmp(again)?;
        a.set_label(&mut out)?;
        a.ret()?;
        a.set_label(&mut again)?;
        a.add(rbx, qword_ptr(rsi))?;
        a.add(rsi, 8)?;
        a.dec(rcx)?;
        a.jz(out)?;
        for _ in 15..HALF {
            a.nop()?;
        }
        a.add(rbx, value)?;
        a.jmp(again)
    })
}

const HALF: usize = 24;

#[test]
fn the_next_page_of_a_loop_may_be_another_or_none() {
    const ONE: u64 = 0x81_4000_0000;
    const OTHER: u64 = ONE + 0x10_0000;
    const ROUNDS: u64 = 100;
    const START: u64 = PAGE_SIZE - HALF as u64;
    let mut machine = with_buffer(KERNEL);
    machine.write_bytes(FREE, &[0; 0x1000]);
    // One page before two others.
    let (first, seconds) = (FREE + 0x10_0000, [FREE + 0x10_1000, FREE + 0x10_2000]);
    for (linear, second, value) in [(ONE, seconds[0], 1), (OTHER, seconds[1], 100)] {
        machine.tables.map(linear, first, PageSize::Size4K, KERNEL);
        machine.tables.map(linear + PAGE_SIZE, second, PageSize::Size4K, KERNEL);
        let code = loop_of_two_halves(linear + START, value);
        machine.write_bytes(first + START, &code[..HALF]);
        machine.write_bytes(second, &code[HALF..]);
    }
    let call = |a: &mut CodeAssembler, linear: u64, rounds: u64| {
        a.mov(rsi, BUFFER)?;
        a.mov(rcx, rounds)?;
        a.mov(rax, linear + START)?;
        a.call(rax)
    };
    let next = machine.code(CODE, &|a| {
        for _ in 0..4 {
            call(a, ONE, ROUNDS)?;
            call(a, OTHER, ROUNDS)?;
            call(a, OTHER, 1)?;
        }
        a.mov(r8, rbx)?;
        // The second half changes.
        a.xor(ebx, ebx)?;
        call(a, ONE, ROUNDS)?;
        a.mov(rax, ONE + PAGE_SIZE + 3)?;
        a.mov(byte_ptr(rax), 9)?;
        call(a, ONE, ROUNDS)?;
        a.mov(r9, rbx)?;
        a.xor(ebx, ebx)
    });
    // It goes away.
    let entry = machine.tables.path(ONE + PAGE_SIZE, PageSize::Size4K)[3];
    machine.code(next, &|a| {
        a.mov(rax, ONE + PAGE_SIZE)?;
        a.mov(rdx, entry)?;
        a.mov(qword_ptr(rdx), 0)?;
        a.invlpg(ptr(rax))?;
        call(a, ONE, 1)?;
        a.mov(r10, rbx)?;
        call(a, ONE, 5)
    });
    let outcome = machine.run_to_stop();
    assert_eq!(outcome.gpr(Gpr::R8), 4 * (ROUNDS - 1) * 101);
    assert_eq!(outcome.gpr(Gpr::R9), (ROUNDS - 1) * 10);
    assert_eq!(outcome.gpr(Gpr::R10), 0);
    assert_eq!(outcome.briefs(), [(PAGE_FAULT, 16, ONE + PAGE_SIZE)]);
    assert_eq!((outcome.gpr(Gpr::Rcx), outcome.gpr(Gpr::Rsi)), (4, BUFFER + 8));
}
