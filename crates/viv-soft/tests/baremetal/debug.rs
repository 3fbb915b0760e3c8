//! Single steps and breakpoints (SDM vol. 3, chapter 18).

use iced_x86::code_asm::*;
use viv_arch::{Gpr, Rflags, Segment, SegmentRegister, msr};

use crate::machine::*;

const DB: u8 = 1;
const BS: u64 = 1 << 14;
const BD: u64 = 1 << 13;

fn stepping_machine() -> Machine {
    let mut machine = Machine::new();
    machine.on(DB, Action::Return);
    machine.state.rflags |= Rflags::TF;
    machine
}

/// Where the single-step traps came, and the DR6 bits of each.
fn traps(outcome: &Outcome) -> Vec<(u64, u64)> {
    outcome.events.iter().filter(|e| e.vector == DB).map(|e| (e.rip, e.dr6 & 0xe00f)).collect()
}

fn trap_rips(outcome: &Outcome) -> Vec<u64> {
    let all = traps(outcome);
    assert!(all.iter().all(|&(_, bits)| bits == BS), "{all:x?}");
    all.into_iter().map(|(rip, _)| rip).collect()
}

#[test]
fn every_instruction_traps_after_it_was_done() {
    let mut machine = stepping_machine();
    let mut after = Vec::new();
    let builds: [Build<'_>; 5] =
        [&|a| a.mov(eax, 1), &|a| a.add(eax, 2), &|a| a.push(rax), &|a| a.pop(rbx), &|a| a.paddd(xmm0, xmm1)];
    let mut at = CODE;
    for build in builds {
        at = machine.code(at, build);
        after.push(at);
    }
    // A jump to the instruction after the next.
    machine.write_bytes(at, &[0xeb, 0x01, 0x90]);
    at += 3;
    after.push(at);
    machine.code(at, &stop);
    let outcome = machine.run_to_stop();
    assert_eq!(trap_rips(&outcome)[..after.len()], after);
    assert_eq!(outcome.gpr(Gpr::Rbx), 3);
    assert!(outcome.events.iter().all(|event| event.has_flag(Rflags::TF) && !event.has_flag(Rflags::RF)));
}

#[test]
fn popf_starts_and_ends_stepping_one_instruction_late() {
    let mut machine = Machine::new();
    machine.on(DB, Action::Return);
    let popf = machine.code(CODE, &|a| {
        a.pushfq()?;
        a.or(qword_ptr(rsp), 0x100)?;
        a.popfq()
    });
    let (first, second) = (popf + 1, popf + 2);
    let end = machine.code(popf, &|a| {
        a.nop()?;
        a.pushfq()
    });
    let end = machine.code(end, &|a| a.and(qword_ptr(rsp), 0xff));
    machine.code(end, &|a| {
        a.popfq()?;
        a.nop()?;
        stop(a)
    });
    // The trap after POPF, which had TF when it began, still comes.
    assert_eq!(trap_rips(&machine.run_to_stop()), [first, second, end, end + 1]);
}

#[test]
fn a_faulting_instruction_does_not_trap() {
    let mut machine = stepping_machine();
    machine.on(6, Action::GoTo(CODE + 0x100));
    machine.code(CODE, &|a| {
        a.nop()?;
        a.ud2()
    });
    machine.code(CODE + 0x100, &|a| {
        a.nop()?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    let vectors: Vec<_> = outcome.events.iter().take(3).map(|e| (e.vector, e.rip)).collect();
    assert_eq!(vectors, [(DB, CODE + 1), (6, CODE + 1), (DB, CODE + 0x101)]);
    assert!(outcome.events[1].has_flag(Rflags::TF | Rflags::RF));
}

#[test]
fn int_leaves_stepping_to_its_return() {
    let mut machine = stepping_machine();
    machine.on(0x50, Action::Return);
    machine.code(CODE, &|a| {
        a.int(0x50)?;
        a.nop()?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    // IRETQ had no TF when it began, so the first trap is after the NOP.
    let vectors: Vec<_> = outcome.events.iter().take(2).map(|e| (e.vector, e.rip)).collect();
    assert_eq!(vectors, [(0x50, CODE + 2), (DB, CODE + 3)]);
}

#[test]
fn iret_traps_by_the_flag_it_began_with() {
    let mut machine = stepping_machine();
    machine.write(DATA, [CODE + 0x100, 8, 2, STACK_TOP, 16]);
    machine.set_gpr(Gpr::Rsp, DATA);
    machine.code(CODE, &|a| a.iretq());
    machine.code(CODE + 0x100, &|a| {
        a.nop()?;
        stop(a)
    });
    machine.set_gate(DB, STUBS + STUB_SIZE, 0xe, 0, 1);
    assert_eq!(trap_rips(&machine.run_to_stop()), [CODE + 0x100]);
}

#[test]
fn repeated_instructions_trap_after_each_element() {
    let cases: [(&str, Build<'_>, u64); 5] = [
        ("rep movsb", &|a| a.rep().movsb(), 3),
        ("rep stosq", &|a| a.rep().stosq(), 3),
        ("rep lodsb", &|a| a.rep().lodsb(), 3),
        ("repe cmpsb", &|a| a.repe().cmpsb(), 3),
        ("repne scasb", &|a| a.repne().scasb(), 3),
    ];
    for (name, build, count) in cases {
        let mut machine = stepping_machine();
        machine.set_gpr(Gpr::Rax, 0x77);
        machine.set_gpr(Gpr::Rcx, count);
        machine.set_gpr(Gpr::Rsi, DATA);
        machine.set_gpr(Gpr::Rdi, DATA + 0x100);
        let end = machine.code(CODE, build);
        machine.code(end, &|a| {
            a.nop()?;
            stop(a)
        });
        let outcome = machine.run_to_stop();
        assert_eq!(trap_rips(&outcome)[..4], [CODE, CODE, end, end + 1], "{name}");
        let resume: Vec<_> = outcome.events.iter().take(3).map(|e| e.has_flag(Rflags::RF)).collect();
        assert_eq!(resume, [true, true, false], "{name}");
    }
}

#[test]
fn mov_ss_holds_the_trap_back() {
    let mut machine = stepping_machine();
    machine.set_gpr(Gpr::Rax, u64::from(selector::DATA));
    let moved = machine.code(CODE, &|a| a.mov(ss, eax));
    machine.code(moved, &|a| {
        a.nop()?;
        a.nop()?;
        stop(a)
    });
    assert_eq!(trap_rips(&machine.run_to_stop())[..2], [moved + 1, moved + 2]);
    // An instruction breakpoint behind it is passed by.
    machine.state.rflags -= Rflags::TF;
    machine.state.debug[0] = moved;
    machine.state.debug[5] = 0x401;
    assert_eq!(traps(&machine.run_to_stop()), []);
}

#[test]
fn sti_does_not_hold_the_trap_back() {
    let mut machine = stepping_machine();
    machine.code(CODE, &|a| {
        a.sti()?;
        a.nop()?;
        stop(a)
    });
    assert_eq!(trap_rips(&machine.run_to_stop())[..2], [CODE + 1, CODE + 2]);
}

#[test]
fn syscall_traps_unless_the_kernel_masks_tf() {
    for masked in [false, true] {
        let mut machine = stepping_machine();
        machine.start_in_user_mode();
        machine.state.rflags |= Rflags::TF;
        machine.set_msr(msr::IA32_LSTAR, CODE);
        machine.set_msr(msr::IA32_FMASK, if masked { Rflags::TF.bits() } else { 0 });
        machine.set_gate(DB, STUBS + STUB_SIZE, 0xe, 0, 1);
        machine.code(USER_CODE, &|a| {
            a.syscall()?;
            a.nop()?;
            stop_user(a)
        });
        machine.code(CODE, &|a| a.sysretq());
        let outcome = machine.run_to_stop();
        // With TF masked, the trap of SYSCALL comes at the end of SYSRET.
        let wanted = if masked {
            vec![USER_CODE + 2, USER_CODE + 3]
        } else {
            vec![CODE, USER_CODE + 2, USER_CODE + 3]
        };
        assert_eq!(trap_rips(&outcome), wanted, "masked {masked}");
        let last = outcome.events.last().unwrap();
        assert_eq!((last.vector, last.rip), (VECTOR_STOP, USER_CODE + 5));
    }
}

#[test]
fn sysenter_traps_at_its_target() {
    let mut machine = stepping_machine();
    machine.start_in_user_mode();
    machine.state.rflags |= Rflags::TF;
    machine.set_msr(msr::IA32_SYSENTER_EIP, CODE);
    machine.set_msr(msr::IA32_SYSENTER_ESP, STACK_TOP);
    machine.code(USER_CODE, &|a| a.sysenter());
    machine.code(CODE, &|a| {
        a.pushfq()?;
        a.and(qword_ptr(rsp), 0xff)?;
        a.popfq()?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    assert_eq!(trap_rips(&outcome)[..2], [CODE, CODE + 1]);
    assert_eq!(outcome.events[0].cs, 8);
}

#[test]
fn a_halted_processor_goes_on_after_its_trap() {
    let mut machine = stepping_machine();
    machine.code(CODE, &|a| {
        a.hlt()?;
        a.nop()?;
        stop(a)
    });
    assert_eq!(trap_rips(&machine.run_to_stop())[..2], [CODE + 1, CODE + 2]);
}

#[test]
fn an_instruction_breakpoint_comes_before_the_instruction_and_rf_passes_it() {
    let mut machine = Machine::new();
    machine.state.debug[1] = CODE + 5;
    machine.state.debug[5] = 0x404 | 0x8;
    let end = machine.code(CODE, &|a| {
        a.mov(eax, 1)?;
        a.inc(eax)?;
        a.inc(eax)
    });
    machine.code(end, &stop);
    let outcome = machine.run_to_stop();
    let event = outcome.events[0];
    assert_eq!((event.vector, event.rip, event.dr6), (DB, CODE + 5, 0xffff_0ff2));
    assert!(!event.has_flag(Rflags::RF), "the handler must set RF itself");
    assert_eq!(outcome.gpr(Gpr::Rax), 1);
    // A handler that sets RF gets by, once.
    machine.set_handler(DB, CODE + 0x200, &|a| {
        a.inc(rbx)?;
        a.or(dword_ptr(rsp + 16), Rflags::RF.bits() as i32)?;
        a.iretq()
    });
    machine.code(end, &|a| {
        a.dec(ecx)?;
        a.jnz(CODE + 5)?;
        stop(a)
    });
    machine.set_gpr(Gpr::Rcx, 3);
    let outcome = machine.run_to_stop();
    assert_eq!((outcome.gpr(Gpr::Rbx), outcome.gpr(Gpr::Rax)), (3, 7));
}

#[test]
fn a_breakpoint_on_a_faulting_instruction_is_met_once() {
    // The page fault's handler maps the page and returns; RF in the pushed flags passes the breakpoint.
    let mut machine = Machine::new();
    machine.tables.map(FREE, FREE, PageSize::Size4K, 0);
    let leaf = machine.tables.path(FREE, PageSize::Size4K)[3];
    machine.set_gpr(Gpr::R8, leaf);
    machine.state.debug[0] = CODE;
    machine.state.debug[5] = 0x401;
    machine.set_handler(DB, CODE + 0x200, &|a| {
        a.inc(rbx)?;
        a.or(dword_ptr(rsp + 16), Rflags::RF.bits() as i32)?;
        a.iretq()
    });
    machine.set_handler(14, CODE + 0x300, &|a| {
        a.inc(rcx)?;
        a.or(qword_ptr(r8), KERNEL as i32)?;
        a.add(rsp, 8)?;
        a.iretq()
    });
    let end = machine.code(CODE, &|a| a.mov(rax, qword_ptr(FREE)));
    machine.code(end, &stop);
    let outcome = machine.run_to_stop();
    assert_eq!((outcome.gpr(Gpr::Rbx), outcome.gpr(Gpr::Rcx)), (1, 1));
}

/// DR7 for breakpoint 0 with this condition and length.
fn control(condition: u64, length: u64) -> u64 {
    let code = match length {
        1 => 0,
        2 => 1,
        8 => 2,
        _ => 3,
    };
    0x401 | condition << 16 | code << 18
}

#[test]
fn data_breakpoints_trap_after_the_access() {
    let watched = DATA + 0x48;
    let read: Build<'_> = &|a| a.mov(rax, qword_ptr(DATA + 0x48));
    let read_before: Build<'_> = &|a| a.mov(rax, qword_ptr(DATA + 0x41));
    let read_apart: Build<'_> = &|a| a.mov(rax, qword_ptr(DATA + 0x40));
    let write: Build<'_> = &|a| a.mov(byte_ptr(DATA + 0x4b), al);
    let write_after: Build<'_> = &|a| a.mov(byte_ptr(DATA + 0x4c), al);
    let update: Build<'_> = &|a| a.lock().inc(dword_ptr(DATA + 0x48));
    let vector: Build<'_> = &|a| a.movups(xmm0, xmmword_ptr(DATA + 0x40));
    let store: Build<'_> = &|a| a.movups(xmmword_ptr(DATA + 0x3c), xmm0);
    let x87: Build<'_> = &|a| a.fnstcw(word_ptr(DATA + 0x48));
    let push: Build<'_> = &|a| {
        a.mov(esp, DATA as u32 + 0x50)?;
        a.push(rax)
    };
    // (name, code, met by a write watch, met by an access watch)
    let cases = [
        ("read", read, false, true),
        ("a read that reaches it", read_before, false, true),
        ("a read before it", read_apart, false, false),
        ("write", write, true, true),
        ("a write behind it", write_after, false, false),
        ("update", update, true, true),
        ("vector read", vector, false, true),
        ("vector write", store, true, true),
        ("fnstcw", x87, true, true),
        ("push", push, true, true),
    ];
    for (name, build, by_write, by_access) in cases {
        for (condition, wanted) in [(1, by_write), (3, by_access)] {
            let mut machine = Machine::new();
            machine.set_gate(DB, STUBS + STUB_SIZE, 0xe, 0, 1);
            machine.on(DB, Action::Return);
            machine.state.debug[0] = watched;
            machine.state.debug[5] = control(condition, 4);
            let end = machine.code(CODE, build);
            machine.code(end, &|a| {
                a.mov(esp, STACK_TOP as u32)?;
                stop(a)
            });
            let expected = if wanted { vec![(end, 1)] } else { vec![] };
            assert_eq!(traps(&machine.run_to_stop()), expected, "{name}, condition {condition}");
        }
    }
}

#[test]
fn a_data_breakpoint_is_met_across_a_page_and_in_a_cached_page() {
    let mut machine = Machine::new();
    machine.on(DB, Action::Return);
    machine.state.debug[3] = DATA + 0x1000;
    let end = machine.code(CODE, &|a| {
        a.mov(rax, qword_ptr(DATA + 0x1000))?;
        a.mov(ecx, 0x1000_0440u32)?;
        a.mov(dr7, rcx)
    });
    let after = machine.code(end, &|a| a.mov(dword_ptr(DATA + 0xffe), eax));
    machine.code(after, &stop);
    assert_eq!(traps(&machine.run_to_stop()), [(after, 8)]);
}

#[test]
fn an_access_that_faults_meets_no_breakpoint() {
    let mut machine = Machine::new();
    machine.tables.map(FREE, FREE, PageSize::Size4K, viv_arch::paging::PRESENT);
    machine.state.debug[0] = FREE;
    machine.state.debug[5] = control(3, 4);
    machine.on(DB, Action::Return);
    machine.on(14, Action::GoTo(CODE + 0x100));
    machine.code(CODE, &|a| a.mov(dword_ptr(FREE), eax));
    machine.code(CODE + 0x100, &stop);
    assert_eq!(machine.run_to_stop().briefs(), [(14, 3, CODE)]);
}

#[test]
fn a_repeated_instruction_stops_behind_the_element_that_meets_a_breakpoint() {
    let mut machine = Machine::new();
    machine.state.debug[0] = DATA + 0x110;
    machine.state.debug[5] = control(1, 8);
    machine.set_gpr(Gpr::Rcx, 8);
    machine.set_gpr(Gpr::Rsi, DATA);
    machine.set_gpr(Gpr::Rdi, DATA + 0x100);
    machine.code(CODE, &|a| a.rep().movsq());
    let outcome = machine.run_to_stop();
    assert_eq!(outcome.events[0].brief(), (DB, 0, CODE));
    assert_eq!(outcome.gpr(Gpr::Rcx), 5);
    assert!(outcome.events[0].has_flag(Rflags::RF));
}

#[test]
fn ports_are_watched_with_cr4_de() {
    for enabled in [false, true] {
        let mut machine = Machine::new();
        machine.on(DB, Action::Return);
        machine.state.cr4.set(viv_arch::Cr4::DE, enabled);
        machine.state.debug[0] = 0x80;
        machine.state.debug[5] = control(2, 1);
        let end = machine.code(CODE, &|a| a.out(0x80, al));
        machine.code(end, &stop);
        let wanted = if enabled { vec![(end, 1)] } else { vec![] };
        assert_eq!(traps(&machine.run_to_stop()), wanted);
    }
}

#[test]
fn general_detect_guards_the_debug_registers() {
    let mut machine = Machine::new();
    machine.state.debug[5] = 0x400 | 1 << 13;
    machine.code(CODE, &|a| a.mov(rax, dr3));
    let outcome = machine.run_to_stop();
    assert_eq!(traps(&outcome), [(CODE, BD)]);
    assert_eq!(outcome.state.debug[5], 0x400, "the handler may touch them");
    // DR4 and DR5 are DR6 and DR7 without CR4.DE, and nothing with it.
    let mut machine = Machine::new();
    machine.code(CODE, &|a| a.mov(rax, dr4));
    assert_eq!(machine.run_to_stop().briefs(), [(6, 0, CODE)]);
    machine.state.cr4 -= viv_arch::Cr4::DE;
    let end = machine.code(CODE, &|a| {
        a.mov(rax, dr4)?;
        a.mov(rbx, dr5)
    });
    machine.code(end, &stop);
    let outcome = machine.run_to_stop();
    assert_eq!((outcome.gpr(Gpr::Rax), outcome.gpr(Gpr::Rbx)), (0xffff_0ff0, 0x400));
    machine.set_gpr(Gpr::Rcx, 1 << 32);
    machine.code(CODE, &|a| a.mov(dr7, rcx));
    assert_eq!(machine.run_to_stop().briefs(), [(13, 0, CODE)]);
}

#[test]
fn breakpoints_are_linear_addresses() {
    let mut machine = Machine::new();
    machine.start_in_user_mode();
    let code = Segment { base: USER_CODE - 0x1000, ..Segment::code32(selector::USER_CODE32, 3) };
    machine.set_code_segment(code);
    machine.state.segments[SegmentRegister::Ds as usize] =
        Segment { base: 0x1_0000, ..Segment::data(selector::USER_DATA, 3) };
    machine.state.rip = 0x1000;
    machine.code_of(32, USER_CODE, &|a| {
        a.mov(dword_ptr(USER_DATA as u32 - 0x1_0000 + 4), eax)?;
        stop_user(a)
    });
    machine.state.debug[0] = USER_CODE;
    machine.state.debug[5] = 0x401;
    assert_eq!(machine.run_to_stop().briefs(), [(DB, 0, 0x1000)]);
    machine.state.debug[0] = USER_DATA + 4;
    machine.state.debug[5] = control(1, 4);
    assert_eq!(machine.run_to_stop().briefs(), [(DB, 0, 0x1005)]);
}
