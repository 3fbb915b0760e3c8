//! How fast user mode runs. Reported, not asserted: what a host does meanwhile is its own affair.

use std::time::Instant;

use iced_x86::code_asm::*;
use viv_arch::{Gpr, Segment, SegmentRegister};

use crate::both::{kvm, machine};
use crate::machine::*;

const ROUNDS: u64 = 100_000_000;

#[test]
fn user_mode_runs_at_the_processors_own_speed() {
    let Some(kvm) = kvm() else { return };
    let mut machine = machine(kvm);
    machine.start_in_user_mode();
    for register in [SegmentRegister::Es, SegmentRegister::Ds, SegmentRegister::Fs, SegmentRegister::Gs] {
        machine.state.segments[register as usize] = Segment::data(selector::USER_DATA, 3);
    }
    machine.code(USER_CODE, &|a| {
        a.mov(rcx, ROUNDS)?;
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.add(rax, rcx)?;
        a.rol(rax, 7)?;
        a.dec(rcx)?;
        a.jnz(again)?;
        a.hlt()
    });
    let start = Instant::now();
    let outcome = machine.run_to_stop();
    let guest = start.elapsed();

    let start = Instant::now();
    let expected =
        (1..=ROUNDS).rev().fold(0u64, |sum, n| std::hint::black_box(sum.wrapping_add(n).rotate_left(7)));
    let host = start.elapsed();
    assert_eq!(outcome.gpr(Gpr::Rax), expected);
    eprintln!("{ROUNDS} rounds: {guest:?} in the guest's user mode, {host:?} on the host");
}
