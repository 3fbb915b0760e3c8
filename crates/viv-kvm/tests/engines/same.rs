//! What guests come to on both engines.

use iced_x86::code_asm::*;
use viv_arch::Gpr;

use crate::both::{kvm, machine, soft_machine};
use crate::machine::*;

#[test]
fn a_first_guest() {
    let Some(kvm) = kvm() else { return };
    for mut machine in [soft_machine(), machine(kvm)] {
        machine.code(CODE, &|a| {
            a.mov(eax, 7)?;
            a.add(rax, rax)?;
            stop(a)
        });
        let outcome = machine.run_to_stop();
        assert_eq!(outcome.gpr(Gpr::Rax), 14);
    }
}
