//! Alignment checks (SDM vol. 3, 6.15, interrupt 17).

use iced_x86::code_asm::*;
use viv_arch::{Cr0, Gpr, Rflags};

use crate::machine::*;

const AC: u8 = 17;

fn run(user: bool, am: bool, ac: bool, offset: u64, build: Build<'_>) -> Vec<(u8, u64, u64)> {
    let mut machine = Machine::new();
    if user {
        machine.start_in_user_mode();
    }
    machine.state.cr0.set(Cr0::AM, am);
    machine.state.rflags.set(Rflags::AC, ac);
    machine.set_gpr(Gpr::Rbx, USER_DATA + offset);
    let at = machine.state.rip;
    let end = machine.code(at, build);
    machine.code(end, if user { &stop_user } else { &stop });
    machine.run_to_stop().briefs()
}

#[test]
fn it_takes_user_mode_and_both_flags() {
    let load: Build<'_> = &|a| a.mov(eax, dword_ptr(rbx));
    for n in 0..8 {
        let (user, am, ac) = (n & 1 != 0, n & 2 != 0, n & 4 != 0);
        let wanted = if n == 7 { vec![(AC, 0, USER_CODE)] } else { vec![] };
        assert_eq!(run(user, am, ac, 2, load), wanted, "user {user} AM {am} AC {ac}");
    }
}

#[test]
fn every_size_has_its_alignment() {
    // (name, code, offset that is aligned, offset that is not)
    let cases: [(&str, Build<'_>, u64, u64); 12] = [
        ("word", &|a| a.mov(ax, word_ptr(rbx)), 2, 1),
        ("double word", &|a| a.mov(dword_ptr(rbx), eax), 4, 6),
        ("quad word", &|a| a.mov(rax, qword_ptr(rbx)), 8, 4),
        ("update", &|a| a.add(qword_ptr(rbx), rax), 8, 12),
        ("xchg", &|a| a.xchg(dword_ptr(rbx), eax), 8, 10),
        (
            "push",
            &|a| {
                a.mov(rsp, rbx)?;
                a.push(rax)?;
                a.mov(esp, USER_STACK_TOP as u32)
            },
            16,
            20,
        ),
        (
            "movsd",
            &|a| {
                a.mov(rsi, rbx)?;
                a.mov(edi, USER_DATA as u32 + 0x100)?;
                a.movsd()
            },
            4,
            2,
        ),
        (
            "rep stosq",
            &|a| {
                a.mov(rdi, rbx)?;
                a.mov(ecx, 4)?;
                a.rep().stosq()
            },
            8,
            4,
        ),
        ("fld of a double", &|a| a.fld(qword_ptr(rbx)), 8, 4),
        ("movss", &|a| a.movss(xmm0, dword_ptr(rbx)), 4, 2),
        ("movsd xmm", &|a| a.movsd_2(xmm0, qword_ptr(rbx)), 8, 4),
        ("across pages", &|a| a.mov(eax, dword_ptr(rbx)), 0xffc, 0xffe),
    ];
    for (name, build, aligned, odd) in cases {
        assert_eq!(run(true, true, true, aligned, build), [], "{name}");
        let events = run(true, true, true, odd, build);
        assert_eq!(events.iter().map(|e| (e.0, e.1)).collect::<Vec<_>>(), [(AC, 0)], "{name}");
    }
    assert_eq!(run(true, true, true, 3, &|a| a.mov(al, byte_ptr(rbx))), [], "bytes are always aligned");
}

#[test]
fn a_page_fault_comes_after_it() {
    let mut machine = Machine::new();
    machine.start_in_user_mode();
    machine.state.cr0 |= Cr0::AM;
    machine.state.rflags |= Rflags::AC;
    machine.code(USER_CODE, &|a| a.mov(rax, qword_ptr(FREE + 4)));
    // Which of the two comes first is the processor's affair (SDM vol. 3, 6.9): here, the alignment.
    assert_eq!(machine.run_to_stop().briefs(), [(AC, 0, USER_CODE)]);
}

#[test]
fn it_begins_with_popf_and_ends_in_the_handler() {
    let mut machine = Machine::new();
    machine.start_in_user_mode();
    machine.state.cr0 |= Cr0::AM;
    machine.set_gpr(Gpr::Rbx, USER_DATA + 1);
    let end = machine.code(USER_CODE, &|a| {
        a.mov(rax, qword_ptr(rbx))?;
        a.mov(qword_ptr(rbx), rax)?;
        a.pushfq()?;
        a.or(dword_ptr(rsp), Rflags::AC.bits() as i32)?;
        a.popfq()
    });
    machine.code(end, &|a| a.mov(rax, qword_ptr(rbx)));
    // The handler reads the same place without harm.
    machine.set_handler(AC, CODE + 0x200, &|a| {
        a.mov(rax, qword_ptr(rbx))?;
        a.mov(rcx, qword_ptr(rsp + 8))?;
        stop(a)
    });
    assert_eq!(machine.run_to_stop().gpr(Gpr::Rcx), end);
}
