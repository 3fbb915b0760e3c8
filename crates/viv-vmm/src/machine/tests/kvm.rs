//! The same on KVM, any KVM: guests of a few hundred instructions, as kernel mode may be emulated.

use std::io::Write as _;
use viv_engine::Engine;
use viv_kvm::KvmEngine;
use viv_soft::SoftEngine;

use crate::config::{BootProtocol, FileSource};

use super::soft::{REST, bench_of, count, power_off, say};
use super::*;

/// Says what a test leaves out, past the capture of its output.
fn not_tested(what: &str) {
    // Nobody is told if nobody reads it.
    let _ = writeln!(std::io::stderr(), "NOT TESTED: {what}");
}

/// This host's KVM. Without one, whoever runs the tests is told what was not tested.
pub(super) fn kvm() -> Option<KvmEngine> {
    KvmEngine::open().inspect_err(|error| not_tested(&error.to_string())).ok()
}

/// An interrupt by way of the 8259: `mov al, v; out port, al` and so on for ICW1 to ICW4 and the mask, then the PIT's
/// counter 0 in mode 2 at its fastest sensible rate, and HLT with interrupts on.
fn wait_for_the_timer() -> Vec<u8> {
    let write = |port: u8, value: u8| [0xb0, value, 0xe6, port];
    [
        &write(0x20, 0x11)[..],
        &write(0x21, 0x30),
        &write(0x21, 4),
        &write(0x21, 1),
        &write(0x21, 0xfe),
        &write(0x43, 0x34),
        &write(0x40, 0),
        &write(0x40, 0x20),
        // sti; hlt; cli
        &[0xfb, 0xf4, 0xfa],
    ]
    .concat()
}

/// An interrupt table at 0x8000, whose entry for vector 0x30 leads to a handler that returns.
fn interrupt_table() -> Vec<u8> {
    vec![
        0x48, 0x8d, 0x05, 0x34, 0, 0, 0, // lea rax, [handler]
        0x66, 0x89, 0x04, 0x25, 0x00, 0x83, 0, 0, // mov [0x8300], ax
        0x66, 0x8c, 0x0c, 0x25, 0x02, 0x83, 0, 0, // mov [0x8302], cs
        0x66, 0xc7, 0x04, 0x25, 0x04, 0x83, 0, 0, 0x00, 0x8e, // mov word [0x8304], 0x8e00
        0xc1, 0xe8, 0x10, // shr eax, 16
        0x66, 0x89, 0x04, 0x25, 0x06, 0x83, 0, 0, // mov [0x8306], ax
        0x68, 0x00, 0x80, 0, 0, // push 0x8000: the base
        0x66, 0x68, 0xff, 0x0f, // push word 0x0fff: the limit
        0x0f, 0x01, 0x1c, 0x24, // lidt [rsp]
        0xeb, 0x02, // jmp over the handler
        0x48, 0xcf, // handler: iretq
    ]
}

#[test]
fn a_guest_is_woken_by_the_8254_and_powers_off() {
    let Some(kvm) = kvm() else { return };
    let stack = [0xbc, 0, 0, 0x20, 0];
    let code =
        [&stack[..], &interrupt_table(), &wait_for_the_timer(), &say("bye"), &power_off(), &REST].concat();
    let engines: [&dyn Engine; 2] = [&SoftEngine::default(), &kvm];
    for engine in engines {
        let mut bench = bench_of(engine, &program(&[&code]));
        bench.machine.start().unwrap();
        assert_eq!(bench.notice(), Notice::PowerOff, "{}", engine.kind());
        assert_eq!(bench.hear_all(), "bye", "{}", engine.kind());
    }
}

#[test]
fn a_running_machine_is_saved_dropped_and_finishes_in_a_new_one() {
    let Some(kvm) = kvm() else { return };
    let code = program(&[&say("one "), &count(1_000_000), &say("two"), &power_off(), &REST]);
    let mut before = bench_of(&kvm, &code);
    before.machine.start().unwrap();
    assert_eq!(before.hear(4), "one ");
    let mut saved = Vec::new();
    before.machine.save(&mut saved).unwrap();
    drop(before);

    let mut after = bench_of(&kvm, &REST);
    after.machine.restore(&mut saved.as_slice()).unwrap();
    assert_eq!(after.notice(), Notice::PowerOff);
    assert!("two".ends_with(&after.hear_all()), "what was said before the save is not said again");
}

#[test]
fn a_halted_guest_is_paused_saved_and_reset() {
    let Some(kvm) = kvm() else { return };
    let mut bench = bench_of(&kvm, &program(&[&say("up "), &REST]));
    bench.machine.start().unwrap();
    assert_eq!(bench.hear(3), "up ");
    bench.machine.save(&mut Vec::new()).unwrap();
    bench.machine.reset().unwrap();
    assert_eq!(bench.hear(3), "up ");
}

/// How many huge pages of the default size the host has left.
fn free_huge_pages() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let free = text.lines().find_map(|line| line.strip_prefix("HugePages_Free:"));
    free.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

#[test]
fn a_guest_lives_in_huge_pages_if_the_host_has_them() {
    let Some(kvm) = kvm() else { return };
    let huge = |config: MachineConfig| {
        let mut config = MachineConfig { huge_pages: true, balloon: false, ..config };
        crate::config::tests::kernel(&mut config).protocol = BootProtocol::Linux64;
        config
    };
    let free = free_huge_pages();
    if free == 0 {
        let mut config = huge(plain());
        crate::config::tests::kernel(&mut config).kernel = FileSource::Path("/etc/passwd".into());
        let why = Machine::build(&config, &Fds::default(), &kvm, "").err().unwrap().line();
        assert!(why.contains("sysctl vm.nr_hugepages=32"), "{why}");
    }
    // Other tests may take some.
    if free < 64 {
        return not_tested("guests in huge pages: the host has set too few aside");
    }
    let mut bench = Bench::with(&kvm, &program(&[&say("up "), &REST]), huge);
    starts_and_resets_clean(&mut bench);
    bench.machine.save(&mut Vec::new()).unwrap();
}
