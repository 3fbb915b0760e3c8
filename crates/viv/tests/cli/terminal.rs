//! `viv run` on a terminal: raw while the guest has it, and as it was on every way out.

use rustix::process::{Pid, Signal, kill_process};

use crate::guest::Guest;
use crate::screen::Screen;

/// `viv run` on the guest, once that has spoken.
fn started(guest: &Guest) -> Screen {
    let mut screen = Screen::new(&guest.run(&[]));
    screen.wait_for("ready\n");
    screen
}

/// The one child of a process.
fn only_child(parent: Pid) -> Pid {
    let parent = parent.as_raw_nonzero();
    let children =
        std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).expect("children");
    Pid::from_raw(children.trim().parse().expect("one child")).expect("a process")
}

#[test]
fn every_key_goes_to_the_guest_and_the_terminal_comes_back() {
    let guest = Guest::new();
    let mut screen = started(&guest);
    assert!(screen.is_raw());
    // Ctrl-C, Ctrl-Z, Ctrl-D and Ctrl-\ are characters here, and nothing but the guest echoes.
    screen.type_keys(b"\x03\x1a\x04\x1c<");
    assert_eq!(screen.wait_for("<"), "\x03\x1a\x04\x1c<");
    screen.type_keys(b"q");
    assert_eq!(screen.end(), 0);
}

#[test]
fn the_escape_ends_a_guest_that_does_not_listen() {
    let guest = Guest::new();
    let mut screen = started(&guest);
    screen.type_keys(b"\x1d\x1d\x1d");
    assert_eq!(screen.wait_for("\x1d\x1d"), "\x1d\x1d");
    screen.type_keys(b"\x1d\x1d\x1d");
    assert_eq!(screen.end(), 130);
}

#[test]
fn the_terminal_comes_back_after_a_triple_fault() {
    let guest = Guest::new();
    let mut screen = started(&guest);
    screen.type_keys(b"f");
    let shown = screen.wait_for("triple fault");
    assert!(shown.contains("viv: running the virtual machine"), "{shown}");
    assert_eq!(screen.end(), 125);
}

#[test]
fn the_terminal_comes_back_after_the_vm_process_was_killed() {
    let guest = Guest::new();
    let screen = started(&guest);
    kill_process(only_child(screen.process()), Signal::KILL).expect("killed");
    assert_eq!(screen.end(), 125);
}

#[test]
fn the_terminal_comes_back_after_signals() {
    let guest = Guest::new();
    let signals = [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::INT, 130)];
    // This guest has no power button, so each takes the seconds that a guest is given; all take them together.
    let killed = signals.map(|(signal, status)| {
        let screen = started(&guest);
        kill_process(screen.process(), signal).expect("killed");
        (screen, status)
    });
    for (screen, status) in killed {
        assert_eq!(screen.end(), status);
    }
}

#[test]
fn a_closed_terminal_ends_the_guest() {
    let guest = Guest::new();
    assert_eq!(started(&guest).close(), 129);
}
