//! What the engine offers to the machine around it.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use rustix::event::{EventfdFlags, eventfd};
use viv_arch::state::RunState;
use viv_arch::{Gpr, apic, msr};
use viv_engine::{Doorbell, Exit, Msi, memory};

use crate::both::{kvm, machine};
use crate::machine::*;

fn hook(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.out(u32::from(PORT_HOOK), al)
}

#[test]
fn a_kick_ends_a_loop_and_a_halt() {
    let Some(kvm) = kvm() else { return };
    let cases: [(RunState, Build<'_>); 2] = [
        (RunState::Running, &|a| {
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            a.inc(rbx)?;
            a.jmp(again)
        }),
        (RunState::Halted, &|a| a.hlt()),
    ];
    for (run_state, build) in cases {
        let mut machine = machine(kvm);
        let end = machine.code(CODE, &hook);
        machine.code(end, build);
        let ready = Arc::new(AtomicBool::new(false));
        let set = Arc::clone(&ready);
        machine.platform.set_hook(move |_| set.store(true, Ordering::SeqCst));
        let kicker = machine.vcpu.kicker();
        let thread = std::thread::spawn(move || {
            while !ready.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            // A vCPU that is kicked on its way to the halt has not halted: give it the time.
            std::thread::sleep(std::time::Duration::from_millis(20));
            kicker.kick();
        });
        let outcome = machine.run();
        thread.join().unwrap();
        assert_eq!((outcome.exit, outcome.state.run_state), (Exit::Kicked, run_state));
    }
}

#[test]
fn a_kick_before_the_run_ends_it_at_once() {
    let Some(kvm) = kvm() else { return };
    let mut machine = machine(kvm);
    machine.code(CODE, &|a| a.jmp(CODE));
    machine.vcpu.kicker().kick();
    let outcome = machine.run();
    assert_eq!((outcome.exit, outcome.state.rip), (Exit::Kicked, CODE));
}

#[test]
fn a_kick_in_an_access_comes_after_it() {
    let Some(kvm) = kvm() else { return };
    let mut machine = machine(kvm);
    let kicker = machine.vcpu.kicker();
    machine.platform.set_hook(move |_| kicker.kick());
    let end = machine.code(CODE, &hook);
    machine.code(end, &stop);
    let outcome = machine.run();
    assert_eq!((outcome.exit, outcome.stopped, outcome.state.rip), (Exit::Kicked, false, end));
}

#[test]
fn a_triple_fault_ends_the_guest() {
    let Some(kvm) = kvm() else { return };
    let mut machine = machine(kvm);
    machine.state.idtr.limit = 0;
    machine.code(CODE, &|a| a.ud2());
    assert_eq!(machine.run().exit, Exit::TripleFault);
}

#[test]
fn written_pages_are_reported_each_time() {
    let Some(kvm) = kvm() else { return };
    let mut machine = machine(kvm);
    machine.code(CODE, &|a| {
        a.mov(rax, qword_ptr(DATA))?;
        a.mov(qword_ptr(DATA + 0x1000), rax)?;
        a.mov(byte_ptr(DATA + 0x2fff), 1)?;
        stop(a)
    });
    let page = |address: u64| address >> 12;
    machine.run_to_stop();
    let first = machine.vm.take_dirty_pages().unwrap();
    let written = [CODE, DATA + 0x1000, DATA + 0x2000];
    assert!(written.iter().all(|&at| first.contains(&page(at))), "{first:?}");
    assert!(!first.contains(&page(RAM_SIZE - 4096)), "nobody was there");
    for _ in 0..3 {
        machine.write(DATA + 0x3000, 7u8);
        machine.run_to_stop();
        let dirty = machine.vm.take_dirty_pages().unwrap();
        assert!(dirty.is_sorted());
        assert!(!dirty.contains(&page(DATA)), "it was only read");
        assert!([DATA + 0x1000, DATA + 0x2000, DATA + 0x3000].iter().all(|&at| dirty.contains(&page(at))));
    }
    assert!(machine.vm.take_dirty_pages().unwrap().is_empty());
}

#[test]
fn more_pages_are_written_than_a_ring_holds() {
    const PAGES: u64 = 24 << 10;
    let Some(kvm) = kvm() else { return };
    let memory = memory::allocate(FREE + (PAGES << 12)).unwrap();
    let mut machine = Machine::on_engine(kvm, memory, None, 1, Arc::default());
    for at in (FREE..FREE + (PAGES << 12)).step_by(2 << 20) {
        machine.tables.map(at, at, PageSize::Size2M, FULL);
    }
    machine.start_in_user_mode();
    machine.code(USER_CODE, &|a| {
        a.mov(rdi, FREE)?;
        a.mov(rcx, PAGES)?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.mov(qword_ptr(rdi), rcx)?;
        a.add(rdi, 0x1000)?;
        a.dec(rcx)?;
        a.jnz(again)?;
        a.hlt()
    });
    machine.vm.take_dirty_pages().unwrap();
    machine.run_to_stop();
    let dirty = machine.vm.take_dirty_pages().unwrap();
    let free = dirty.iter().filter(|&&page| page >= FREE >> 12).count();
    assert_eq!(free as u64, PAGES);
}

#[test]
fn a_doorbell_rings_past_the_platform() {
    let Some(kvm) = kvm() else { return };
    let mut machine = machine(kvm);
    let vm = Arc::clone(&machine.vm);
    let shortcuts = vm.shortcuts().unwrap();
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    let bells = [Doorbell::Memory(MMIO_PHYS + 8), Doorbell::Port(0x300)];
    for bell in bells {
        shortcuts.attach_doorbell(bell, event.as_fd()).unwrap();
        assert!(shortcuts.attach_doorbell(bell, event.as_fd()).is_err(), "twice");
    }
    machine.code(CODE, &|a| {
        a.mov(word_ptr(MMIO + 8), 3)?;
        a.mov(edx, 0x300)?;
        a.out(dx, eax)?;
        a.mov(word_ptr(MMIO + 16), 3)?;
        stop(a)
    });
    machine.run_to_stop();
    let accesses = std::mem::take(&mut *machine.platform.accesses.lock().unwrap());
    assert_eq!(accesses, [Access::MemoryWrite(MMIO_PHYS + 16, vec![3, 0])]);
    let mut count = [0; 8];
    std::fs::File::from(event.try_clone().unwrap()).read_exact(&mut count).unwrap();
    assert_eq!(u64::from_ne_bytes(count), 2);
    for bell in bells {
        shortcuts.detach_doorbell(bell, event.as_fd()).unwrap();
        assert!(shortcuts.detach_doorbell(bell, event.as_fd()).is_err(), "twice");
    }
    machine.run_to_stop();
    assert_eq!(machine.platform.accesses.lock().unwrap().len(), 3);
}

#[test]
fn an_event_sends_its_message() {
    let Some(kvm) = kvm() else { return };
    let mut machine = machine(kvm);
    let vm = Arc::clone(&machine.vm);
    let shortcuts = vm.shortcuts().unwrap();
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
    let message = |vector| Msi { address: 0xfee0_0000, data: vector };
    let route = shortcuts.attach_message(event.as_fd(), message(0x60)).unwrap();
    shortcuts.change_message(route, message(0x61)).unwrap();
    machine.on(0x61, Action::EndOfInterrupt);
    machine.code(CODE, &|a| {
        a.mov(dword_ptr(APIC + u64::from(apic::reg::SVR) * 16), 0x1ff)?;
        hook(a)?;
        a.sti()?;
        a.hlt()?;
        a.cli()?;
        stop(a)
    });
    let mut file = std::fs::File::from(event.try_clone().unwrap());
    machine.platform.set_hook(move |_| file.write_all(&1u64.to_ne_bytes()).unwrap());
    let outcome = machine.run_to_stop();
    assert_eq!(outcome.events[0].vector, 0x61);
    shortcuts.detach_message(route, event.as_fd()).unwrap();
    assert!(shortcuts.change_message(route, message(0x62)).is_err());
}

#[test]
fn the_paravirtual_clock_follows_the_machines() {
    const HOUR: u64 = 3_600_000_000_000;
    let Some(kvm) = kvm() else { return };
    let mut machine = machine(kvm);
    machine.clock.advance(5 * HOUR);
    machine.code(CODE, &|a| {
        a.mov(ecx, msr::KVM_SYSTEM_TIME)?;
        a.mov(eax, DATA as u32 | 1)?;
        a.xor(edx, edx)?;
        a.wrmsr()?;
        // It is there when KVM has run the guest anew.
        a.out(u32::from(PORT_HOOK), al)?;
        stop(a)
    });
    let hours = |machine: &Machine| machine.read::<u64>(DATA + 16) / HOUR;
    machine.run_to_stop();
    assert_eq!(hours(&machine), 5);
    // While nothing runs, the machine's clock alone counts.
    machine.clock.advance(2 * HOUR);
    machine.code(CODE, &stop);
    machine.state = machine.vcpu.save().unwrap();
    machine.state.rip = CODE;
    let multiplier: u32 = machine.read(DATA + 24);
    assert!(multiplier != 0);
    machine.run_to_stop();
    assert_eq!(hours(&machine), 7);
}

#[test]
fn msrs_are_those_of_the_machine_alone() {
    let Some(kvm) = kvm() else { return };
    let mut machine = machine(kvm);
    machine.on(13, Action::GoTo(CODE + 0x100));
    machine.code(CODE, &|a| {
        // Microcode revision, then Hyper-V's identity, which this machine has not.
        a.mov(ecx, 0x8b)?;
        a.rdmsr()?;
        a.mov(ebx, edx)?;
        a.mov(ecx, 0x4000_0000)?;
        a.rdmsr()
    });
    machine.code(CODE + 0x100, &stop);
    let outcome = machine.run_to_stop();
    assert_eq!((outcome.gpr(Gpr::Rbx), outcome.briefs().len()), (0xffff_ffff, 1));
}
