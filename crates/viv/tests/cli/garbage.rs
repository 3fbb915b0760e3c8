//! Guests that write garbage to every port and to every page of device memory: the machine goes on or ends with a word, and
//! `viv` ends in order.
//!
//! `VIV_GARBAGE_SEED` is the first guest's seed, `VIV_GARBAGE_ROUNDS` how many there are of each kind.

mod code;

use std::fs;
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use tempfile::TempDir;

use code::Parameters;

/// How long a guest may take. One that has put its processors to sleep for good has to be ended.
const PATIENCE: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };
/// What the last line says of a machine that could not go on.
const REPORTS: [&str; 3] = [
    "shut down after a triple fault at rip",
    "the engine cannot run what the guest's processor",
    // It wrote to the port for that.
    "the guest's kernel panicked",
];

fn number(variable: &str, default: u32) -> u32 {
    std::env::var(variable).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Runs guests on a machine with these options; `with_firmware` says how they start.
fn run(with_firmware: bool, options: &[&str]) {
    let directory = TempDir::new().expect("a directory");
    let first = number("VIV_GARBAGE_SEED", 1);
    for round in 0..number("VIV_GARBAGE_ROUNDS", 4) {
        let second = options.contains(&"--cpus");
        let (bold, apic) = (round & 1 != 0, round & 2 != 0);
        let seed = first.wrapping_add(round).wrapping_mul(2) | 1;
        let parameters = Parameters { seed, count: 200_000, bold, apic, second };
        let image = if with_firmware { code::firmware(parameters) } else { code::kernel(parameters) };
        fs::write(directory.path().join("image"), image).expect("the guest");
        for disk in ["disk", "sata", "cdrom"] {
            fs::write(directory.path().join(disk), [0; 1 << 16]).expect("a disk");
        }
        let mut viv = Command::new(env!("CARGO_BIN_EXE_viv"));
        viv.current_dir(directory.path());
        viv.args(["run", "--engine", "soft", "--memory", "16M", "--disk", "disk"]);
        viv.args([if with_firmware { "--firmware" } else { "--kernel" }, "image"]).args(options);
        ends_in_order(&mut viv, parameters);
    }
}

fn ends_in_order(viv: &mut Command, parameters: Parameters) {
    let viv = viv.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = viv.spawn().expect("viv");
    let pid = Pid::from_child(&child);
    let process = pidfd_open(pid, PidfdFlags::empty()).expect("a pidfd");
    let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&PATIENCE)).expect("polled") > 0;
    if !ended {
        kill_process(pid, Signal::TERM).expect("a process");
    }
    let output = child.wait_with_output().expect("ends");
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) if ended => assert_eq!(said, "", "{parameters:?}"),
        Some(143) if !ended => assert_eq!(said, "", "{parameters:?}"),
        Some(125) => {
            let reported = REPORTS.iter().any(|report| said.contains(report)) && said.lines().count() == 1;
            assert!(reported, "{parameters:?}: {said}");
        }
        _ => panic!("{parameters:?}: {}: {said}", output.status),
    }
}

#[test]
fn a_kernel_on_one_processor() {
    run(false, &[]);
}

#[test]
fn a_kernel_on_two_processors() {
    run(false, &["--cpus", "2"]);
}

#[test]
fn firmware_on_one_processor() {
    run(true, &["--disk", "sata,sata", "--cdrom", "cdrom"]);
}

#[test]
fn firmware_on_two_processors() {
    run(true, &["--disk", "sata,sata", "--cdrom", "cdrom", "--cpus", "2"]);
}
