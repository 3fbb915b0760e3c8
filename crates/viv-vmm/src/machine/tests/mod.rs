use std::io::Write;

use viv_devices::layout;
use vm_memory::{Bytes, GuestAddress};

use self::bench::{Bench, NOWHERE};
use self::fake::{COUNT, ECHO, FAULT, FakeEngine, HALT, OUT};
use super::*;
use crate::config::tests::plain;
use crate::config::{ConfigError, Fds, MachineConfig, Stream};

pub(crate) mod bench;
pub(crate) mod fake;
mod kvm;
mod pmem;
mod soft;

const COM1: [u8; 2] = layout::UART0.to_le_bytes();
const STATUS: [u8; 2] = (layout::UART0 + 5).to_le_bytes();

/// Code that says `text` on the serial line.
fn say(text: &str) -> Vec<u8> {
    text.bytes().flat_map(|byte| [OUT, COM1[0], COM1[1], byte]).collect()
}

fn count(times: u16) -> Vec<u8> {
    let [low, high] = times.to_le_bytes();
    vec![COUNT, low, high]
}

fn program(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

#[test]
fn a_guest_speaks_and_listens() {
    let echo = [ECHO, STATUS[0], STATUS[1]];
    let mut bench = Bench::new(&FakeEngine, &program(&[&say("hello"), &echo, &echo, &[HALT]]));
    bench.machine.start().unwrap();
    assert_eq!(bench.hear(5), "hello");
    bench.serial.write_all(b"xy").unwrap();
    assert_eq!(bench.hear(2), "xy");
}

#[test]
fn a_triple_fault_says_where() {
    let mut bench = Bench::new(&FakeEngine, &program(&[&say("a"), &[FAULT]]));
    bench.machine.start().unwrap();
    let Notice::TripleFault(fault) = bench.notice() else { panic!("another notice") };
    assert_eq!((fault.vcpu, fault.rip), (0, 0x10_0004));
    assert!(fault.to_string().contains("rip 0x100004"));
    assert_eq!(bench.hear_all(), "a");
}

#[test]
fn what_the_engine_cannot_do_ends_the_machine_with_a_reason() {
    let mut bench = Bench::new(&FakeEngine, &[0xee]);
    bench.machine.start().unwrap();
    let Notice::Failed(message) = bench.notice() else { panic!("another notice") };
    assert!(message.contains("instruction 0xee"), "{message}");
}

#[test]
fn states_follow_each_other_as_they_must() {
    let mut bench = Bench::new(&FakeEngine, &[HALT]);
    let machine = &mut bench.machine;
    let refused = |result: Result<(), MachineError>| matches!(result, Err(MachineError::State { .. }));
    assert_eq!(machine.state(), MachineState::Created);
    assert!(refused(machine.pause()) && refused(machine.resume()) && refused(machine.reset()));
    assert!(refused(machine.save(&mut Vec::new())));
    machine.start().unwrap();
    assert!(refused(machine.start()) && refused(machine.restore(&mut &[0_u8][..])));
    machine.pause().unwrap();
    let then = machine.status().guest_nanoseconds;
    assert!(refused(machine.pause()));
    assert_eq!(machine.status().guest_nanoseconds, then, "time stands still");
    machine.resume().unwrap();
    assert_eq!(machine.state(), MachineState::Running);
    machine.stop();
    assert_eq!(machine.state(), MachineState::Stopped);
    assert!(refused(machine.resume()));
}

/// Starts a machine that says "up " and resets it.
fn starts_and_resets_clean(bench: &mut Bench) {
    bench.machine.start().unwrap();
    assert_eq!(bench.hear(3), "up ");
    bench.machine.memory.write_slice(b"garbage", GuestAddress(0x20_0000)).unwrap();
    bench.machine.reset().unwrap();
    assert_eq!(bench.hear(3), "up ");
    let mut left = [1; 7];
    bench.machine.memory.read_slice(&mut left, GuestAddress(0x20_0000)).unwrap();
    assert_eq!(left, [0; 7]);
}

#[test]
fn a_reset_boots_anew_in_clean_memory() {
    let mut bench = Bench::new(&FakeEngine, &program(&[&say("up "), &[HALT]]));
    starts_and_resets_clean(&mut bench);
    assert_eq!(bench.machine.status().resets, 1);
}

/// The generation identifier that the guest reads.
fn generation(machine: &Machine) -> [u8; 16] {
    let mut id = [0; 16];
    for (at, half) in (layout::GENERATION_ID.start..).step_by(8).zip(id.chunks_mut(8)) {
        machine.board.platform().memory_read(at, half);
    }
    id
}

#[test]
fn a_machine_that_is_restored_is_of_another_generation_and_is_told() {
    let mut bench = Bench::new(&FakeEngine, &[HALT]);
    let first = generation(&bench.machine);
    bench.machine.start().unwrap();
    bench.machine.reset().unwrap();
    let mut saved = Vec::new();
    bench.machine.save(&mut saved).unwrap();
    assert_eq!(generation(&bench.machine), first, "it was saved and goes on where it is");

    let again = || {
        let mut bench = Bench::new(&FakeEngine, &[HALT]);
        bench.machine.restore(&mut saved.as_slice()).unwrap();
        let mut events = [0];
        bench.machine.board.platform().port_read(layout::GPE0, &mut events);
        assert_eq!(events, [1 << layout::GENERATION_GPE]);
        generation(&bench.machine)
    };
    let (second, third) = (again(), again());
    assert!(first != second && second != third && first != third, "{first:x?} {second:x?} {third:x?}");
}

#[test]
fn a_saved_machine_goes_on_in_a_new_one() {
    let echo = [ECHO, STATUS[0], STATUS[1]];
    // However long it takes until it is paused, it waits for a word.
    let code = program(&[&say("one "), &count(u16::MAX), &echo, &say("two"), &[FAULT]]);
    let mut bench = Bench::new(&FakeEngine, &code);
    bench.machine.start().unwrap();
    assert_eq!(bench.hear(4), "one ");
    let mut saved = Vec::new();
    bench.machine.pause().unwrap();
    bench.machine.save(&mut saved).unwrap();
    let counted = bench.machine.vcpus[0].vcpu().save().unwrap().gpr[0];
    assert_eq!(bench.hear_all(), "");

    // The new machine is given another kernel, which must not matter.
    let mut bench = Bench::new(&FakeEngine, &[0xee]);
    bench.machine.restore(&mut saved.as_slice()).unwrap();
    bench.serial.write_all(b"x").unwrap();
    assert!(matches!(bench.notice(), Notice::TripleFault(_)));
    assert!(counted <= bench.machine.vcpus[0].vcpu().save().unwrap().gpr[0]);
    assert_eq!(bench.hear_all(), "xtwo");
}

#[test]
fn a_snapshot_of_another_machine_is_refused() {
    let mut bench = Bench::new(&FakeEngine, &[HALT]);
    bench.machine.start().unwrap();
    let mut saved = Vec::new();
    bench.machine.save(&mut saved).unwrap();
    assert_eq!(bench.machine.state(), MachineState::Running, "it runs on");

    let refuse = |change: fn(MachineConfig) -> MachineConfig| {
        let mut bench = Bench::with(&FakeEngine, &[HALT], change);
        bench.machine.restore(&mut saved.as_slice()).unwrap_err().line()
    };
    assert!(
        refuse(|config| MachineConfig { memory_bytes: 32 << 20, max_memory_bytes: 32 << 20, ..config })
            .contains("bytes of memory")
    );
    assert!(refuse(|config| MachineConfig { vcpus: 2, max_vcpus: 2, ..config }).contains("vCPUs"));
    for length in [0, 20, saved.len() / 2, saved.len() - 1] {
        let mut bench = Bench::new(&FakeEngine, &[HALT]);
        assert!(bench.machine.restore(&mut &saved[..length]).is_err(), "{length} bytes are not enough");
    }
}

#[test]
fn what_cannot_be_built_is_refused_in_one_line() {
    let refuse = |config: MachineConfig| {
        let line = Machine::build(&config, &Fds::default(), &FakeEngine, "").err().unwrap().line();
        assert!(!line.contains('\n'));
        line
    };
    assert!(
        refuse(MachineConfig { memory_bytes: 1 << 40, max_memory_bytes: 1 << 40, ..plain() })
            .contains("ask for less")
    );
    assert!(refuse(plain()).contains("cannot open the kernel kernel"));
    let kernel = || crate::config::FileSource::Path("/etc/passwd".into());
    let mut config = MachineConfig { huge_pages: true, ..plain() };
    crate::config::tests::kernel(&mut config).kernel = kernel();
    assert!(refuse(config).contains("give --engine kvm"));
    let serial = Some(Stream { input: Some(NOWHERE), output: None });
    let mut config = MachineConfig { serial, ..plain() };
    crate::config::tests::kernel(&mut config).kernel = kernel();
    assert_eq!(refuse(config), ConfigError::Slot { slot: NOWHERE.0 }.to_string());
}

#[test]
fn a_file_that_is_no_kernel_is_refused_at_the_start() {
    let mut config = plain();
    crate::config::tests::kernel(&mut config).kernel = crate::config::FileSource::Path("/etc/passwd".into());
    let mut machine = Machine::build(&config, &Fds::default(), &FakeEngine, "").unwrap();
    assert!(machine.start().unwrap_err().line().starts_with("cannot use the kernel /etc/passwd"));
}
