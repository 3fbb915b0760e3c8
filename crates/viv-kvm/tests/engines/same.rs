//! What guests come to on both engines.

use std::sync::Arc;

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use viv_arch::state::AcceptedEvent;
use viv_arch::{Exception, Gpr, Rflags, Segment, SegmentRegister, apic};
use viv_engine::Msi;

use crate::both::{compare, compare_order, compare_with_rom, on_hardware};
use crate::machine::*;

const VECTOR: u8 = 0x51;

/// The APIC's register at its place in memory.
fn register(number: u32) -> u64 {
    APIC + u64::from(number) * 16
}

/// Switches the local APIC on.
fn enable(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(dword_ptr(register(apic::reg::SVR)), 0x1ff)
}

/// Calls the test with this number.
fn hook(a: &mut CodeAssembler, number: u32) -> Result<(), IcedError> {
    a.mov(eax, number)?;
    a.out(u32::from(PORT_HOOK), eax)
}

/// Lets the guest start in user mode, with data segments that survive a return to it.
fn start_in_user_mode(machine: &mut Machine) {
    machine.start_in_user_mode();
    for register in [SegmentRegister::Es, SegmentRegister::Ds, SegmentRegister::Fs, SegmentRegister::Gs] {
        machine.state.segments[register as usize] = Segment::data(selector::USER_DATA, 3);
    }
}

/// Lets the port hook send the number written as MSI data.
fn messages_by_port(machine: &mut Machine) {
    let vm = Arc::clone(&machine.vm);
    machine.platform.set_hook(move |data| vm.send_msi(Msi { address: 0xfee0_0000, data }));
    machine.on(VECTOR, Action::EndOfInterrupt);
    machine.on(VECTOR + 0x10, Action::EndOfInterrupt);
    machine.on(VECTOR + 0x20, Action::EndOfInterrupt);
    machine.on(2, Action::Return);
}

#[test]
fn arithmetic_in_kernel_mode() {
    let outcome = compare(|machine| {
        machine.code(CODE, &|a| {
            a.mov(ecx, 50)?;
            a.mov(rax, 0x1234_5678_9abc_def0u64)?;
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            a.imul_3(rax, rax, 0x1357)?;
            a.rol(rax, 13)?;
            a.add(rbx, rax)?;
            a.adc(rdx, 3)?;
            a.dec(ecx)?;
            a.jnz(again)?;
            a.push(rbx)?;
            a.pop(r9)?;
            a.mov(qword_ptr(DATA + 8), rdx)?;
            stop(a)
        });
    });
    assert!(outcome.is_none_or(|outcome| outcome.gpr(Gpr::Rcx) == 0));
}

#[test]
fn arithmetic_vectors_and_floating_point_in_user_mode() {
    compare(|machine| {
        start_in_user_mode(machine);
        machine.code(USER_CODE, &|a| {
            a.mov(ecx, 1000)?;
            a.mov(edi, USER_DATA as u32)?;
            a.fninit()?;
            a.fldpi()?;
            a.mov(eax, 3)?;
            a.movd(xmm1, eax)?;
            a.vpbroadcastd(ymm2, xmm1)?;
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            a.fld1()?;
            a.faddp(st1, st0)?;
            a.vpaddd(ymm3, ymm3, ymm2)?;
            a.imul_2(rbx, rcx)?;
            a.lea(rbx, qword_ptr(rbx + rcx * 2 + 1))?;
            a.stosd()?;
            a.and(edi, !0x1000)?;
            a.dec(ecx)?;
            a.jnz(again)?;
            a.fst(qword_ptr(USER_DATA + 0x2000))?;
            a.vmovups(ymmword_ptr(USER_DATA + 0x2100), ymm3)?;
            a.fninit()?;
            a.hlt()
        });
    });
}

#[test]
fn ports_of_every_size_and_repeated() {
    compare(|machine| {
        machine.code(CODE, &|a| {
            a.mov(edx, 0x3f8)?;
            a.mov(eax, 0x4433_2211)?;
            a.out(dx, al)?;
            a.out(dx, ax)?;
            a.out(dx, eax)?;
            a.in_(al, dx)?;
            a.mov(ebx, eax)?;
            a.in_(ax, dx)?;
            a.mov(esi, eax)?;
            a.in_(eax, dx)?;
            a.mov(r8, rsi)?;
            a.mov(edi, DATA as u32)?;
            a.mov(ecx, 5)?;
            a.rep().insw()?;
            a.mov(esi, DATA as u32)?;
            a.mov(ecx, 3)?;
            a.rep().outsd()?;
            stop(a)
        });
    });
}

#[test]
fn device_memory_of_every_size() {
    compare(|machine| {
        machine.code(CODE, &|a| {
            a.mov(rax, 0x8877_6655_4433_2211u64)?;
            a.mov(byte_ptr(MMIO + 1), al)?;
            a.mov(word_ptr(MMIO + 2), ax)?;
            a.mov(dword_ptr(MMIO + 4), eax)?;
            a.mov(qword_ptr(MMIO + 8), rax)?;
            a.mov(rbx, qword_ptr(MMIO))?;
            a.movzx(ecx, word_ptr(MMIO + 2))?;
            a.add(dword_ptr(MMIO + 8), 5)?;
            a.mov(rdx, qword_ptr(MMIO + 8))?;
            stop(a)
        });
    });
}

#[test]
fn user_mode_reaches_devices_and_faults() {
    compare(|machine| {
        start_in_user_mode(machine);
        machine.on(0, Action::GoTo(USER_CODE + 0x100));
        machine.on(13, Action::GoTo(USER_CODE + 0x300));
        machine.on(14, Action::GoTo(USER_CODE + 0x400));
        machine.code(USER_CODE, &|a| {
            a.mov(rbx, qword_ptr(MMIO))?;
            a.mov(dword_ptr(MMIO + 4), 77)?;
            a.xor(edx, edx)?;
            a.mov(eax, 1)?;
            a.div(edx)
        });
        machine.code(USER_CODE + 0x100, &|a| a.hlt());
        machine.code(USER_CODE + 0x300, &|a| a.mov(qword_ptr(FREE), rax));
        machine.code(USER_CODE + 0x400, &|a| a.ud2());
    });
}

#[test]
fn exceptions_in_kernel_mode() {
    compare(|machine| {
        machine.on(0, Action::GoTo(CODE + 0x100));
        machine.on(6, Action::GoTo(CODE + 0x200));
        machine.on(13, Action::GoTo(CODE + 0x300));
        machine.on(14, Action::GoTo(CODE + 0x400));
        machine.code(CODE, &|a| {
            a.xor(edx, edx)?;
            a.div(edx)
        });
        machine.code(CODE + 0x100, &|a| a.ud2());
        machine.code(CODE + 0x200, &|a| {
            a.mov(ecx, 0x1234_5678)?;
            a.rdmsr()
        });
        machine.code(CODE + 0x300, &|a| a.mov(qword_ptr(FREE), rax));
        machine.code(CODE + 0x400, &stop);
    });
}

#[test]
fn what_kvm_lacks_the_interpreter_does() {
    compare(|machine| {
        machine.on(3, Action::Return);
        machine.on(0x20, Action::Return);
        machine.write(DATA, 0x1122_3344_5566_7788u64);
        machine.code(CODE, &|a| {
            a.int3()?;
            a.int(0x20)?;
            a.xor(ecx, ecx)?;
            a.xgetbv()?;
            a.mov(esi, eax)?;
            a.clflush(byte_ptr(DATA))?;
            a.fninit()?;
            a.fldpi()?;
            a.fstp(qword_ptr(DATA + 0x40))?;
            a.vzeroall()?;
            stop(a)
        });
    });
}

#[test]
fn interrupts_come_by_priority() {
    compare_order(|machine| {
        messages_by_port(machine);
        machine.code(CODE, &|a| {
            enable(a)?;
            a.mov(ecx, 6)?;
            a.mov(cr8, rcx)?;
            hook(a, VECTOR.into())?;
            hook(a, u32::from(VECTOR) + 0x10)?;
            hook(a, u32::from(VECTOR) + 0x20)?;
            a.sti()?;
            a.hlt()?;
            a.cli()?;
            a.xor(ecx, ecx)?;
            a.mov(cr8, rcx)?;
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            a.sti()?;
            a.nop()?;
            a.cli()?;
            a.cmp(qword_ptr(LOG), 3)?;
            a.jb(again)?;
            stop(a)
        });
    });
}

#[test]
fn a_halted_processor_is_woken_by_itself_and_by_nmi() {
    compare_order(|machine| {
        messages_by_port(machine);
        machine.code(CODE, &|a| {
            enable(a)?;
            hook(a, 4 << 8)?;
            let mut next = a.create_label();
            a.jmp(next)?;
            a.set_label(&mut next)?;
            a.mov(dword_ptr(register(apic::reg::ICR_LOW)), u32::from(VECTOR) | 1 << 18)?;
            a.sti()?;
            a.hlt()?;
            a.cli()?;
            stop(a)
        });
    });
}

#[test]
fn the_8259_gives_its_vector() {
    compare(|machine| {
        let (vm, platform) = (Arc::clone(&machine.vm), Arc::clone(&machine.platform));
        machine.platform.set_hook(move |assert| {
            if assert == 1 {
                platform.extint.lock().unwrap().push(0x38);
            }
            vm.set_extint(assert != 0);
        });
        machine.on(0x38, Action::Return);
        machine.code(CODE, &|a| {
            hook(a, 1)?;
            a.sti()?;
            a.hlt()?;
            a.cli()?;
            hook(a, 0)?;
            // A request that is gone when it is taken.
            hook(a, 2)?;
            hook(a, 0)?;
            a.sti()?;
            a.nop()?;
            a.nop()?;
            stop(a)
        });
    });
}

#[test]
fn the_end_of_a_level_triggered_interrupt_is_told() {
    const LEVEL: u32 = VECTOR as u32 | 3 << 14;
    for routed in [true, false] {
        compare_order(|machine| {
            messages_by_port(machine);
            // What has no route is edge-triggered, and its end is nobody's business.
            let message = Msi { address: 0xfee0_0000, data: LEVEL };
            machine.vm.set_level_route(16, routed.then_some(message));
            machine.code(CODE, &|a| {
                enable(a)?;
                hook(a, if routed { LEVEL } else { VECTOR.into() })?;
                a.sti()?;
                a.hlt()?;
                a.cli()?;
                stop(a)
            });
        });
    }
}

#[test]
fn system_calls() {
    if !on_hardware("SYSCALL") {
        return;
    }
    compare(|machine| {
        start_in_user_mode(machine);
        machine.set_msr(viv_arch::msr::IA32_LSTAR, CODE);
        machine.set_msr(viv_arch::msr::IA32_FMASK, 0x200);
        machine.code(CODE, &|a| {
            a.inc(rbx)?;
            a.mov(r12, rsp)?;
            a.swapgs()?;
            a.swapgs()?;
            a.sysretq()
        });
        machine.code(USER_CODE, &|a| {
            a.mov(edx, 20)?;
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            a.syscall()?;
            a.dec(edx)?;
            a.jnz(again)?;
            a.hlt()
        });
    });
}

#[test]
fn read_only_memory_is_read_and_executed_and_its_writes_go_to_devices() {
    const ROM: u64 = 0x4000_0000;
    let code = assemble(64, ROM, &|a| {
        a.mov(rax, qword_ptr(ROM + 0x800))?;
        a.mov(dword_ptr(ROM + 0x804), ecx)?;
        a.mov(rbx, qword_ptr(ROM + 0x800))?;
        stop(a)
    });
    let mut content = vec![0; 0x1000];
    content[..code.len()].copy_from_slice(&code);
    content[0x800..0x808].copy_from_slice(&0x1122_3344_5566_7788u64.to_le_bytes());
    compare_with_rom(ROM, &content, |machine| {
        machine.tables.map(ROM, ROM, PageSize::Size4K, KERNEL);
        machine.set_gpr(Gpr::Rcx, 9);
        machine.code(CODE, &|a| a.jmp(ROM));
    });
}

#[test]
fn accepted_events_are_delivered_first() {
    for (event, interrupts) in [
        (AcceptedEvent::Interrupt(VECTOR), false),
        (AcceptedEvent::Interrupt(VECTOR), true),
        (AcceptedEvent::Exception(Exception::gp(0x18)), false),
    ] {
        compare(|machine| {
            machine.state.pending.accepted = Some(event);
            machine.state.rflags.set(Rflags::IF, interrupts);
            machine.on(VECTOR, Action::Return);
            machine.on(13, Action::Return);
            machine.code(CODE, &|a| {
                a.nop()?;
                stop(a)
            });
        });
    }
}
