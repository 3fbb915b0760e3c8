//! Two processors: one starts the other.

use std::sync::atomic::Ordering;

use iced_x86::code_asm::*;
use viv_arch::apic;
use viv_arch::state::RunState;
use viv_engine::{Engine, Exit};
use viv_soft::SoftEngine;

use crate::both::{kvm, machine_of};
use crate::machine::*;

/// Where the second processor starts, in real mode.
const START: u64 = 0x9000;
/// What it writes to.
const MARK: u64 = 0x9800;

#[test]
fn a_processor_starts_another() {
    let Some(kvm) = kvm() else { return };
    let engines: [&dyn Engine; 2] = [&SoftEngine::default(), kvm];
    for engine in engines {
        // Which it was, should the first wait in vain.
        eprintln!("on the {} engine", engine.kind());
        let mut machine = machine_of(engine, 2);
        let mut second = machine.vm.create_vcpu(1, machine.platform.clone()).unwrap();
        assert_eq!(second.save().unwrap().run_state, RunState::WaitForSipi);
        machine.code_of(16, START, &|a| {
            a.mov(word_ptr(MARK), 0x1234)?;
            a.cli()?;
            a.hlt()
        });
        let register = |number: u32| APIC + u64::from(number) * 16;
        machine.code(CODE, &|a| {
            a.mov(dword_ptr(register(apic::reg::SVR)), 0x1ff)?;
            for command in [5 << 8 | 1 << 14, 6 << 8 | 1 << 14 | (START >> 12) as u32] {
                a.mov(dword_ptr(register(apic::reg::ICR_HIGH)), 1 << 24)?;
                a.mov(dword_ptr(register(apic::reg::ICR_LOW)), command)?;
            }
            let mut again = a.create_label();
            a.set_label(&mut again)?;
            a.pause()?;
            a.cmp(word_ptr(MARK), 0x1234)?;
            a.jne(again)?;
            stop(a)
        });
        let kicker = second.kicker();
        let thread = std::thread::spawn(move || {
            let exit = second.run().unwrap();
            (exit, second.save().unwrap())
        });
        let outcome = machine.run();
        assert!(machine.platform.stopped.load(Ordering::SeqCst), "{outcome:?}");
        kicker.kick();
        let (exit, state) = thread.join().unwrap();
        assert_eq!(exit, Exit::Kicked, "{:?}", engine.kind());
        assert_eq!(state.segments[1].base, START, "{:?}", engine.kind());
    }
}
