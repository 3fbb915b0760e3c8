//! Bare-metal guests on the software CPU, entered in long mode.

use viv_arch::Gpr;
use viv_engine::Engine;
use viv_soft::{Options, SoftEngine, Tier};

use super::bench::Bench;
use super::*;
use crate::config::BootProtocol;

/// Writes bytes to a port: `mov dx, port; mov al, byte; out dx, al` for each.
fn write(port: u16, bytes: &[u8]) -> Vec<u8> {
    let [low, high] = port.to_le_bytes();
    bytes.iter().flat_map(|&byte| [0x66, 0xba, low, high, 0xb0, byte, 0xee]).collect()
}

/// Says `text` on the serial line.
pub(super) fn say(text: &str) -> Vec<u8> {
    write(layout::UART0, text.as_bytes())
}

/// Counts down from `times` in ECX: `mov ecx, times; again: dec ecx; jnz again`.
pub(super) fn count(times: u32) -> Vec<u8> {
    let [a, b, c, d] = times.to_le_bytes();
    vec![0xb9, a, b, c, d, 0xff, 0xc9, 0x75, 0xfc]
}

/// Writes SLP_TYP and SLP_EN: `mov dx, PM1_CONTROL; mov ax, value; out dx, ax`.
pub(super) fn power_off() -> Vec<u8> {
    let [low, high] = layout::PM1_CONTROL.to_le_bytes();
    let value = u16::from(layout::SLEEP_TYPE_S5) << 10 | 1 << 13;
    let [value_low, value_high] = value.to_le_bytes();
    vec![0x66, 0xba, low, high, 0x66, 0xb8, value_low, value_high, 0x66, 0xef]
}

/// `again: hlt; jmp again`.
pub(super) const REST: [u8; 3] = [0xf4, 0xeb, 0xfd];

fn bench(code: &[u8]) -> Bench {
    bench_of(&SoftEngine::default(), code)
}

pub(super) fn bench_of(engine: &dyn Engine, code: &[u8]) -> Bench {
    Bench::with(engine, code, |mut config| {
        crate::config::tests::kernel(&mut config).protocol = BootProtocol::Linux64;
        config
    })
}

#[test]
fn a_guest_powers_off() {
    let mut bench = bench(&program(&[&say("bye"), &power_off(), &REST]));
    bench.machine.start().unwrap();
    assert_eq!(bench.notice(), Notice::PowerOff);
    assert_eq!(bench.hear_all(), "bye");
}

#[test]
fn a_test_program_reports_and_ends_with_a_status() {
    let code = program(&[
        &write(layout::DEBUG_PORT, b"test "),
        &write(layout::FIRMWARE_LOG, b"and firmware"),
        &write(layout::EXIT_PORT, &[42]),
        &REST,
    ]);
    let mut bench = Bench::with(&SoftEngine::default(), &code, |mut config| {
        crate::config::tests::kernel(&mut config).protocol = BootProtocol::Linux64;
        config.debug_log = config.serial.and_then(|serial| serial.output);
        config.exit_port = true;
        config
    });
    bench.machine.start().unwrap();
    assert_eq!(bench.notice(), Notice::Exit(85));
    assert_eq!(bench.hear_all(), "test and firmware");
}

#[test]
fn a_running_machine_is_saved_dropped_and_finishes_in_a_new_one() {
    const TIMES: u32 = 50_000_000;
    let code = program(&[&say("one "), &count(TIMES), &say("two"), &power_off(), &REST]);
    let mut before = bench(&code);
    before.machine.start().unwrap();
    assert_eq!(before.hear(4), "one ");
    let mut saved = Vec::new();
    before.machine.save(&mut saved).unwrap();
    assert_eq!(before.machine.state(), MachineState::Running);
    assert_eq!(before.hear_all(), "", "the count had not ended");

    let mut after = bench(&REST);
    after.machine.restore(&mut saved.as_slice()).unwrap();
    after.machine.pause().unwrap();
    let state = after.machine.vcpus[0].vcpu().save().unwrap();
    let left = state.gpr[Gpr::Rcx as usize];
    assert!((1..u64::from(TIMES)).contains(&left), "{left} of {TIMES} are left");
    after.machine.resume().unwrap();
    assert_eq!(after.notice(), Notice::PowerOff);
    assert_eq!(after.hear_all(), "two");
}

#[test]
fn a_machine_that_is_over_tells_what_it_did() {
    const TIMES: u32 = 1_000_000;
    // The interpreter counts what it executes.
    let engine = SoftEngine::with_options(Options { tier: Tier::Interpret, ..Options::default() }).unwrap();
    let mut bench = bench_of(&engine, &program(&[&count(TIMES), &power_off(), &REST]));
    bench.machine.start().unwrap();
    assert_eq!(bench.notice(), Notice::PowerOff);
    assert_eq!(bench.machine.figures(), None, "it is not over yet");
    bench.machine.stop();
    let figures = bench.machine.figures().unwrap();
    // The count, and what is before and after it.
    let counted = 2 * u64::from(TIMES);
    assert!((counted..counted + 10).contains(&figures.instructions.unwrap()), "{figures:?}");
    assert!(figures.vcpu_nanoseconds > 0 && figures.guest_nanoseconds > 0, "{figures:?}");
    bench.machine.stop();
    assert_eq!(bench.machine.figures(), Some(figures));
}

#[test]
fn a_halted_guest_is_paused_saved_and_reset() {
    let mut bench = bench(&program(&[&say("up "), &REST]));
    bench.machine.start().unwrap();
    assert_eq!(bench.hear(3), "up ");
    bench.machine.save(&mut Vec::new()).unwrap();
    bench.machine.reset().unwrap();
    assert_eq!(bench.hear(3), "up ");
}

#[test]
fn a_triple_fault_names_the_instruction() {
    // An interrupt table of no entries, then an exception:
    // `mov esp, 0x200000; push 0; push 0; lidt [rsp]; ud2`.
    let stack = [0xbc, 0, 0, 0x20, 0];
    let mut bench = bench(&program(&[&stack, &[0x6a, 0, 0x6a, 0, 0x0f, 0x01, 0x1c, 0x24, 0x0f, 0x0b]]));
    bench.machine.start().unwrap();
    let Notice::TripleFault(fault) = bench.notice() else { panic!("another notice") };
    assert_eq!((fault.rip, fault.rsp), (0x10_000d, 0x1f_fff0));
}
