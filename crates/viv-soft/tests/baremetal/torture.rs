//! Torture, which reaches code that has no need to be left.

use iced_x86::code_asm::*;
use viv_arch::Gpr;

use crate::machine::*;

const ROUNDS: u64 = 50_000;

#[test]
fn code_that_only_needs_the_interpreter_is_dropped_and_translated_again() {
    let mut machine = Machine::with_options("torture=7");
    machine.code(CODE, &|a| {
        let mut again = a.create_label();
        a.mov(r15, ROUNDS)?;
        a.mov(r14, 0u64)?;
        a.set_label(&mut again)?;
        a.xor(eax, eax)?;
        a.cpuid()?;
        a.inc(r14)?;
        a.dec(r15)?;
        a.jnz(again)?;
        stop(a)
    });
    assert_eq!(machine.run_to_stop().gpr(Gpr::R14), ROUNDS);
    let translations = machine.vcpu.translations().unwrap();
    assert!(translations.evictions > 1 && translations.traces > 20, "{translations:?}");
}
