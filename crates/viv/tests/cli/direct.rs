//! `viv run --kernel` through pipes: output, exit statuses, signals, and every bad file.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use crate::guest::{self, Guest};
use rustix::process::{Pid, Signal, kill_process};

/// Runs `viv` to its end with this input.
pub fn feed(viv: &mut Command, input: &[u8]) -> Output {
    let mut child =
        viv.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("viv");
    // One that fails at once may be gone before it reads.
    let _ = child.stdin.take().expect("piped").write_all(input);
    child.wait_with_output().expect("ends")
}

/// A guest that said `ready`, with what it says next.
pub fn started(viv: &mut Command) -> (Child, BufReader<ChildStdout>) {
    let mut child =
        viv.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("viv");
    let mut said = BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    said.read_line(&mut line).expect("said");
    assert_eq!(line, "ready\n");
    (child, said)
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// The VM process that a `viv run` started: its only child.
pub fn vm_process(viv: &Child) -> Pid {
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", viv.id())).expect("children");
    let child = children.trim().parse().expect("one child");
    Pid::from_raw(child).expect("a process")
}

/// The status and the complaint of a `viv` that ended.
pub fn ended(child: Child) -> (i32, String) {
    let output = child.wait_with_output().expect("ends");
    (output.status.code().expect("no signal"), String::from_utf8(output.stderr).expect("text"))
}

#[test]
fn the_serial_port_is_standard_input_and_output() {
    let output = feed(&mut Guest::new().run(&[]), b"hello, guest\nq");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ready\nhello, guest\n");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn a_reset_starts_the_guest_again() {
    let (mut child, mut said) = started(&mut Guest::new().run(&[]));
    let mut input = child.stdin.take().expect("piped");
    input.write_all(b"oner").expect("fed");
    // What is on its way to a serial port that is reset is lost, so the rest waits.
    let mut line = String::new();
    said.read_line(&mut line).expect("said");
    assert_eq!(line, "oneready\n");
    input.write_all(b"twoq").expect("fed");
    let mut rest = String::new();
    said.read_to_string(&mut rest).expect("said");
    assert_eq!((rest.as_str(), ended(child)), ("two", (0, String::new())));
}

#[test]
fn a_reset_ends_it_with_no_reboot() {
    let output = feed(&mut Guest::new().run(&["--no-reboot"]), b"oner");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ready\none");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn a_triple_fault_is_told() {
    let output = feed(&mut Guest::new().run(&[]), b"f");
    let line = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), line.lines().count()), (Some(125), 1), "{line}");
    assert!(
        line.starts_with("viv: running the virtual machine: the guest's processor 0 shut down"),
        "{line}"
    );
    assert!(line.contains(&format!("triple fault at rip {}", guest::FAULT)), "{line}");
}

#[test]
fn signals_end_the_guest_and_name_the_status() {
    let guest = Guest::new();
    let signals = [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::INT, 130)];
    // This guest has no power button, so each takes the seconds that a guest is given; all take them together.
    let killed = signals.map(|(signal, status)| {
        let (child, said) = started(&mut guest.run(&[]));
        kill_process(pid(&child), signal).expect("killed");
        (child, said, status)
    });
    for (child, _said, status) in killed {
        assert_eq!(ended(child), (status, String::new()));
    }
}

#[test]
fn a_vm_process_that_is_killed_is_told() {
    let (child, _said) = started(&mut Guest::new().run(&[]));
    kill_process(vm_process(&child), Signal::KILL).expect("killed");
    let (status, line) = ended(child);
    assert_eq!((status, line.lines().count()), (125, 1), "{line}");
    assert!(line.contains("its process was killed by signal 9"), "{line}");
}

#[test]
fn the_vm_process_ends_with_viv() {
    let (mut child, mut said) = started(&mut Guest::new().run(&[]));
    let vm = rustix::process::pidfd_open(vm_process(&child), rustix::process::PidfdFlags::empty())
        .expect("a pidfd");
    kill_process(pid(&child), Signal::KILL).expect("killed");
    child.wait().expect("ends");
    // Readable once the process has ended.
    let mut ended = [rustix::event::PollFd::new(&vm, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut ended, None).expect("polled");
    assert_eq!(said.read_to_end(&mut Vec::new()).expect("closed"), 0);
}

#[test]
fn a_closed_output_ends_the_guest_quietly() {
    let (mut child, said) = started(&mut Guest::new().run(&[]));
    drop(said);
    let mut input = child.stdin.take().expect("piped");
    input.write_all(b"x").expect("fed");
    // It notices when the guest says something; it need not wait for a power button that is not there.
    let (status, line) = ended(child);
    assert_eq!((status, line.as_str()), (141, ""));
}

#[test]
fn what_is_no_kernel_is_named() {
    let guest = Guest::new();
    let refused = |file: &str| {
        let mut viv = Command::new(env!("CARGO_BIN_EXE_viv"));
        viv.current_dir(guest.path("."))
            .args(["run", "--memory", "16M", "--engine", "soft", "--kernel", file]);
        complaint(&mut viv)
    };
    assert_names(&refused("missing"), &["missing", "No such file"]);
    assert_names(&refused("."), &["."]);
    guest.write("text", b"#!/bin/sh\n");
    assert_names(&refused("text"), &["text", "not a kernel"]);
    guest.write("empty", b"");
    assert_names(&refused("empty"), &["empty"]);
    let whole = fs::read(guest.path("guest.elf")).expect("the guest");
    guest.write("short", &whole[..whole.len() - 1]);
    assert_names(&refused("short"), &["short", "truncated"]);
}

#[test]
fn what_is_no_initrd_is_named() {
    let guest = Guest::new();
    assert_names(&refused(&guest, &["--initrd", "missing"]), &["missing", "No such file"]);
    let large = fs::File::create(guest.path("large")).expect("a file");
    large.set_len(64 << 20).expect("sparse");
    assert_names(&refused(&guest, &["--initrd", "large"]), &["initrd", "67108864 bytes", "does not fit"]);
}

#[test]
fn what_is_no_disk_is_named() {
    let guest = Guest::new();
    assert_names(&refused(&guest, &["--disk", "missing"]), &["missing", "No such file"]);
    assert_names(&refused(&guest, &["--disk", "."]), &["."]);
    let disk = guest.write("disk", &[0; 4096]);
    fs::set_permissions(&disk, Permissions::from_mode(0o444)).expect("read-only");
    // Root may write to it all the same.
    if !rustix::process::geteuid().is_root() {
        assert_names(&refused(&guest, &["--disk", "disk"]), &["disk", "Permission denied"]);
    }
    let output = feed(&mut guest.run(&["--disk", "disk,readonly"]), b"q");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn a_command_line_that_is_too_long_is_refused() {
    let long = "x".repeat(2048);
    assert_names(&refused(&Guest::new(), &["--append", &long]), &["--append", "2048 bytes"]);
}

/// Runs the guest with options that cannot work; the complaint.
fn refused(guest: &Guest, options: &[&str]) -> String {
    complaint(&mut guest.run(options))
}

/// Runs `viv`, which must fail with one line; that line.
fn complaint(viv: &mut Command) -> String {
    let output = feed(viv, b"q");
    let line = String::from_utf8(output.stderr).expect("text");
    assert_eq!((output.status.code(), line.lines().count()), (Some(125), 1), "{viv:?}: {line}");
    assert!(output.stdout.is_empty() && line.starts_with("viv: "), "{viv:?}: {line}");
    line
}

/// Asserts that a complaint holds all of that.
fn assert_names(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "{part} is not in: {line}");
    }
}
