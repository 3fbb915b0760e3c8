//! Instructions of the system that are so frequent that an engine may have a way of its own for them, in code that runs
//! often enough to be worth it.

use std::sync::Arc;

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use viv_arch::{Cr4, Gpr, Rflags, Segment, SegmentRegister, Vector};
use viv_engine::Msi;

use crate::machine::*;

const VECTOR: u8 = 0x61;
/// Often enough.
const TIMES: u64 = 100;

/// Runs `body` this often, counting R15 down.
fn repeat(a: &mut CodeAssembler, body: Build<'_>) -> Result<(), IcedError> {
    let mut again = a.create_label();
    a.mov(r15, TIMES)?;
    a.set_label(&mut again)?;
    body(a)?;
    a.dec(r15)?;
    a.jnz(again)
}

/// A machine that sends its processor the interrupt that the hook is told.
fn with_interrupts() -> Machine {
    let machine = Machine::new();
    let vm = Arc::clone(&machine.vm);
    machine.platform.set_hook(move |data| vm.send_msi(Msi { address: 0xfee0_0000, data }));
    machine
}

/// CLI, and an interrupt that comes in behind it.
fn ask_for_interrupt(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.cli()?;
    a.mov(eax, u32::from(VECTOR))?;
    a.out(u32::from(PORT_HOOK), eax)
}

/// A loop, in which an engine looks for events.
fn spin(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut again = a.create_label();
    a.mov(ecx, 3)?;
    a.set_label(&mut again)?;
    a.dec(ecx)?;
    a.jnz(again)
}

/// Runs `body` often, each time with an interrupt that waits for IF, and after a loop if it `spins`. The interrupt's
/// handler begins with `handler`.
fn interrupted(spins: bool, handler: Build<'_>, body: Build<'_>) -> Outcome {
    let mut machine = with_interrupts();
    machine.set_handler(VECTOR, CODE + 0x800, &|a| {
        handler(a)?;
        a.mov(dword_ptr(APIC + 0xb0), 0)?;
        a.iretq()
    });
    machine.code(CODE, &|a| {
        a.mov(dword_ptr(APIC + 0xf0), 0x1ff)?;
        repeat(a, &|a| {
            ask_for_interrupt(a)?;
            if spins {
                spin(a)?;
            }
            body(a)
        })?;
        stop(a)
    });
    machine.run_to_stop()
}

#[test]
fn interrupts_come_behind_the_instruction_after_sti() {
    // With a loop between the interrupt and STI, and without.
    for spins in [false, true] {
        // Counts in RBX if it came behind the INC.
        let handler: Build<'_> = &|a| {
            let mut early = a.create_label();
            a.cmp(r8, r9)?;
            a.je(early)?;
            a.inc(rbx)?;
            a.mov(r9, r8)?;
            a.set_label(&mut early)?;
            a.zero_bytes()
        };
        let outcome = interrupted(spins, handler, &|a| {
            a.sti()?;
            a.inc(r8)?;
            a.cmp(r8, r9)?;
            a.setne(dl)?;
            a.movzx(edx, dl)?;
            a.add(r10, rdx)
        });
        assert_eq!(outcome.gpr(Gpr::Rbx), TIMES, "none came before the INC");
        assert_eq!(outcome.gpr(Gpr::R10), 0, "all came right behind it");
    }
}

#[test]
fn interrupts_come_right_behind_popf_and_iret() {
    let popf: Build<'_> = &|a| {
        a.push(0x202)?;
        a.popfq()
    };
    let iret: Build<'_> = &|a| {
        let mut next = a.create_label();
        a.mov(rcx, rsp)?;
        a.push(0)?;
        a.push(rcx)?;
        a.push(0x202)?;
        a.push(i32::from(selector::CODE64))?;
        a.lea(rcx, ptr(next))?;
        a.push(rcx)?;
        a.iretq()?;
        a.set_label(&mut next)?;
        a.zero_bytes()
    };
    // Counts in RBX if it came before the INC.
    let handler: Build<'_> = &|a| {
        let mut late = a.create_label();
        a.cmp(r8, r9)?;
        a.jne(late)?;
        a.inc(rbx)?;
        a.set_label(&mut late)?;
        a.zero_bytes()
    };
    for (set_if, spins) in [(popf, false), (popf, true), (iret, false), (iret, true)] {
        let outcome = interrupted(spins, handler, &|a| {
            set_if(a)?;
            a.inc(r8)?;
            a.mov(r9, r8)
        });
        assert_eq!(outcome.gpr(Gpr::R8), TIMES);
        assert_eq!(outcome.gpr(Gpr::Rbx), TIMES, "spins: {spins}");
    }
}

#[test]
fn exceptions_go_to_their_handler_and_back() {
    for user in [false, true] {
        let mut machine = Machine::new();
        // The handler passes the UD2, whose length is two bytes.
        machine.set_handler(Vector::InvalidOpcode as u8, CODE + 0x800, &|a| {
            a.inc(rbx)?;
            a.add(qword_ptr(rsp), 2)?;
            a.iretq()
        });
        machine.code(if user { USER_CODE } else { CODE }, &|a| {
            repeat(a, &|a| {
                a.stc()?;
                a.mov(ecx, 0)?;
                a.ud2()?;
                a.adc(r8, rcx)
            })?;
            if user { stop_user(a) } else { stop(a) }
        });
        if user {
            machine.start_in_user_mode();
        }
        let outcome = machine.run_to_stop();
        assert_eq!(outcome.gpr(Gpr::Rbx), TIMES);
        assert_eq!(outcome.gpr(Gpr::R8), TIMES, "the carry flag came back");
    }
}

#[test]
fn hlt_after_sti_is_ended_by_what_came_before() {
    let mut machine = with_interrupts();
    machine.set_handler(VECTOR, CODE + 0x800, &|a| {
        a.inc(rbx)?;
        a.mov(dword_ptr(APIC + 0xb0), 0)?;
        a.iretq()
    });
    machine.code(CODE, &|a| {
        a.mov(dword_ptr(APIC + 0xf0), 0x1ff)?;
        repeat(a, &|a| {
            ask_for_interrupt(a)?;
            a.sti()?;
            a.hlt()
        })?;
        stop(a)
    });
    assert_eq!(machine.run_to_stop().gpr(Gpr::Rbx), TIMES);
}

#[test]
fn pushf_pushes_all_flags_and_leaves_them() {
    let mut machine = Machine::new();
    let others = (Rflags::DF | Rflags::AC | Rflags::ID | Rflags::NT | Rflags::IOPL).bits();
    machine.code(CODE, &|a| {
        a.mov(r12, 0x1234_5678_9abc_def1u64)?;
        a.xor(ebx, ebx)?;
        repeat(a, &|a| {
            a.rol(r12, 7)?;
            a.mov(rax, r12)?;
            a.and(rax, (others | Rflags::ARITHMETIC.bits()) as i32)?;
            a.push(rax)?;
            a.popfq()?;
            a.pushfq()?;
            a.pushfq()?;
            a.pop(rcx)?;
            a.pop(rdx)?;
            a.xor(rcx, rdx)?;
            a.or(rbx, rcx)?;
            a.xor(rdx, rax)?;
            a.xor(rdx, 2)?;
            a.or(rbx, rdx)
        })?;
        stop(a)
    });
    assert_eq!(machine.run_to_stop().gpr(Gpr::Rbx), 0);
}

#[test]
fn code_goes_on_as_stac_and_clac_say() {
    let mut machine = Machine::new();
    machine.state.cr4 |= Cr4::SMAP;
    machine.set_gpr(Gpr::Rdi, USER_DATA);
    machine.write(USER_DATA, 0u64);
    // A loop whose first round alone has AC clear where it begins, and one whose first round alone has it set.
    let fault_at = machine.code(CODE, &|a| {
        repeat(a, &|a| {
            let (mut again, mut first, mut down) = (a.create_label(), a.create_label(), a.create_label());
            a.mov(ecx, 5)?;
            a.set_label(&mut again)?;
            a.cmp(ecx, 5)?;
            a.je(first)?;
            a.inc(qword_ptr(rdi))?;
            a.set_label(&mut first)?;
            a.stac()?;
            a.dec(ecx)?;
            a.jnz(again)?;
            a.mov(ecx, 5)?;
            a.mov(rsi, rdi)?;
            a.set_label(&mut down)?;
            a.inc(qword_ptr(rsi))?;
            a.clac()?;
            a.mov(rsi, DATA)?;
            a.dec(ecx)?;
            a.jnz(down)?;
            a.stac()?;
            a.inc(qword_ptr(rdi))?;
            a.clac()
        })
    });
    machine.code(fault_at, &|a| a.mov(rax, qword_ptr(rdi)));
    assert_eq!(machine.run_to_stop().briefs(), [(14, 1, fault_at)]);
    assert_eq!(machine.read::<u64>(USER_DATA), 6 * TIMES);
    assert_eq!(machine.read::<u64>(DATA), 4 * TIMES);
}

#[test]
fn stac_and_clac_do_not_exist_in_user_mode() {
    for build in [&(|a: &mut CodeAssembler| a.stac()) as Build<'_>, &|a| a.clac()] {
        let mut machine = Machine::new();
        machine.start_in_user_mode();
        machine.state.cr4 |= Cr4::SMAP;
        let at = machine.code(USER_CODE, &|a| repeat(a, &|a| a.nop()));
        let end = machine.code(at, build);
        machine.code(end, &stop_user);
        assert_eq!(machine.run_to_stop().briefs(), [(6, 0, at)]);
    }
}

#[test]
fn bases_are_read_and_written() {
    let mut machine = Machine::new();
    machine.state.cr4 |= Cr4::FSGSBASE;
    machine.set_gpr(Gpr::R10, 1 << 47);
    let at = std::cell::Cell::new(0);
    machine.code(CODE, &|a| {
        repeat(a, &|a| {
            a.lea(rax, qword_ptr(r15 * 8 + DATA as i32))?;
            a.cmp(r15, 1)?;
            a.cmove(rax, r10)?;
            a.wrfsbase(rax)
        })
    });
    // The same once more, up to the instruction.
    let code = assemble(64, CODE, &|a| {
        a.mov(r15, TIMES)?;
        a.lea(rax, qword_ptr(r15 * 8 + DATA as i32))?;
        a.cmp(r15, 1)?;
        a.cmove(rax, r10)
    });
    at.set(CODE + code.len() as u64);
    let outcome = machine.run_to_stop();
    assert_eq!(outcome.briefs(), [(13, 0, at.get())], "the last is not canonical");
    assert_eq!(outcome.state.segments[SegmentRegister::Fs as usize].base, DATA + 16);

    machine.code(CODE, &|a| {
        a.xor(ebx, ebx)?;
        repeat(a, &|a| {
            a.lea(rax, qword_ptr(r15 * 8 + DATA as i32))?;
            a.wrgsbase(rax)?;
            a.swapgs()?;
            a.rdgsbase(rcx)?;
            a.add(rbx, rcx)?;
            a.swapgs()?;
            a.rdgsbase(r11)?;
            a.sub(r11, rax)?;
            a.or(r12, r11)?;
            a.rdgsbase(r11d)?;
            a.sub(r11, rax)?;
            a.or(r12, r11)?;
            a.or(r13, -1)?;
            a.mov(r13d, ds)?;
            a.or(r14, -1)?;
            a.mov(r14w, ds)
        })?;
        stop(a)
    });
    let data = Segment::data(selector::DATA, 0);
    machine.state.segments[SegmentRegister::Ds as usize] = data;
    machine.set_msr(viv_arch::msr::IA32_KERNEL_GS_BASE, 7);
    let outcome = machine.run_to_stop();
    assert_eq!(outcome.gpr(Gpr::Rbx), 7 * TIMES);
    assert_eq!(outcome.gpr(Gpr::R12), 0);
    assert_eq!(outcome.gpr(Gpr::R13), u64::from(selector::DATA));
    assert_eq!(outcome.gpr(Gpr::R14), !0xffff | u64::from(selector::DATA));
}

#[test]
fn the_time_stamp_counter_is_kept_from_user_mode() {
    for (tsd, expected) in [(true, 13), (false, VECTOR_STOP)] {
        let mut machine = Machine::new();
        machine.start_in_user_mode();
        machine.state.cr4.set(Cr4::TSD, tsd);
        machine.code(USER_CODE, &|a| {
            repeat(a, &|a| {
                a.mov(rdx, -1i64 as u64)?;
                a.rdtsc()?;
                a.mov(ecx, edx)?;
                a.cmp(rcx, rdx)?;
                a.setne(al)?;
                a.or(bl, al)
            })?;
            stop_user(a)
        });
        let outcome = machine.run_to_stop();
        assert_eq!((outcome.events[0].vector, outcome.gpr(Gpr::Rbx)), (expected, 0));
    }
}

#[test]
fn short_runs_of_strings() {
    let mut machine = Machine::new();
    // Overlapping as in the copy of a byte over what follows it, across pages, and none at all.
    machine.set_gpr(Gpr::Rax, 0x1122_3344_5566_7788);
    machine.code(CODE, &|a| {
        a.mov(rdi, DATA)?;
        repeat(a, &|a| {
            a.mov(ecx, 3)?;
            a.rep().stosq()?;
            a.mov(byte_ptr(rdi), r15b)?;
            a.mov(rsi, rdi)?;
            a.inc(rdi)?;
            a.mov(ecx, 40)?;
            a.rep().movsb()?;
            a.xor(ecx, ecx)?;
            a.rep().movsq()?;
            a.lea(rsi, qword_ptr(rdi - 20))?;
            a.mov(ecx, 4)?;
            a.rep().movsd()?;
            a.add(rbx, rcx)?;
            a.mov(ecx, 1)?;
            a.rep().stosw()
        })?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    let mut expected = Vec::new();
    for n in (1..=TIMES).rev() {
        expected.extend_from_slice(&0x1122_3344_5566_7788u64.to_le_bytes().repeat(3));
        expected.extend_from_slice(&[n as u8; 41 + 16]);
        expected.extend_from_slice(&[0x88, 0x77]);
    }
    assert!(machine.read_bytes(DATA, expected.len()) == expected);
    assert_eq!(outcome.gpr(Gpr::Rdi), DATA + expected.len() as u64);
    assert_eq!((outcome.gpr(Gpr::Rcx), outcome.gpr(Gpr::Rbx)), (0, 0));
}

#[test]
fn strings_go_down_and_fault_as_ever() {
    let mut machine = Machine::new();
    let fault_at = machine.code(CODE, &|a| {
        a.mov(rdi, DATA + 0x3000)?;
        repeat(a, &|a| {
            a.std()?;
            a.mov(ecx, 5)?;
            a.rep().stosb()?;
            a.cld()?;
            a.mov(ecx, 5)?;
            a.inc(rdi)?;
            a.rep().stosb()?;
            a.sub(rdi, 6)
        })?;
        a.mov(rdi, FREE - 8)?;
        a.mov(ecx, 16)
    });
    machine.code(fault_at, &|a| a.rep().stosb());
    let outcome = machine.run_to_stop();
    assert_eq!(outcome.briefs(), [(14, 2, fault_at)]);
    assert_eq!((outcome.gpr(Gpr::Rcx), outcome.gpr(Gpr::Rdi)), (8, FREE));
    assert_eq!(outcome.events[0].cr2, FREE);
}

#[test]
fn bit_strings_reach_to_both_sides() {
    let mut machine = Machine::new();
    let middle = DATA + 0x2000;
    machine.set_gpr(Gpr::Rdi, middle);
    // Every 392nd bit from far below is set, and seen to be; the one before it is set and cleared again.
    machine.code(CODE, &|a| {
        a.mov(rdx, -20000i64 as u64)?;
        repeat(a, &|a| {
            a.lock().bts(qword_ptr(rdi), rdx)?;
            a.adc(rbx, 0)?;
            a.bt(dword_ptr(rdi), edx)?;
            a.adc(r12, 0)?;
            a.add(rdx, 391)?;
            a.btc(qword_ptr(rdi), rdx)?;
            a.adc(rbx, 0)?;
            a.btr(dword_ptr(rdi), edx)?;
            a.adc(r13, 0)?;
            a.inc(rdx)
        })?;
        stop(a)
    });
    let outcome = machine.run_to_stop();
    assert_eq!([Gpr::Rbx, Gpr::R12, Gpr::R13].map(|register| outcome.gpr(register)), [0, TIMES, TIMES]);
    let bytes = machine.read_bytes(DATA, 0x4000);
    let set: Vec<i64> = (0..bytes.len() as i64 * 8)
        .filter(|bit| bytes[(bit / 8) as usize] >> (bit % 8) & 1 != 0)
        .map(|bit| bit - 0x2000 * 8)
        .collect();
    assert_eq!(set, (0..TIMES as i64).map(|n| -20000 + 392 * n).collect::<Vec<_>>());
}
