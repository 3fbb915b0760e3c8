//! `viv run` on a terminal: raw while the guest has it, and as it was on every way out.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use crate::guest::Guest;
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, OutputModes, Termios, tcgetattr};

/// A terminal with `viv` on it, in a session of its own.
struct Screen {
    keyboard: File,
    terminal: OwnedFd,
    /// The settings before `viv` came.
    before: Termios,
    child: Child,
}

impl Screen {
    /// Starts `viv run` on the guest, and waits until the guest has spoken.
    fn new(guest: &Guest) -> Self {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a pty");
        grantpt(&keyboard).expect("granted");
        unlockpt(&keyboard).expect("unlocked");
        let name = ptsname(&keyboard, Vec::new()).expect("a name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal = open(name.as_c_str(), flags, Mode::empty()).expect("the terminal");
        let before = tcgetattr(&terminal).expect("settings");
        let stdio = || Stdio::from(terminal.try_clone().expect("cloned"));
        let viv = guest.run(&[]);
        // A terminal controls a session only once the session took it, which is setsid's --ctty. It becomes
        // `viv` itself, for it need not fork: nobody here leads a process group.
        let child = Command::new("setsid")
            .arg("--ctty")
            .arg(viv.get_program())
            .args(viv.get_args())
            .current_dir(viv.get_current_dir().expect("a directory"))
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .expect("setsid");
        let mut screen = Self { keyboard: keyboard.into(), terminal, before, child };
        screen.wait_for("ready\n");
        screen
    }

    /// Reads what the screen shows until `text` is there.
    fn wait_for(&mut self, text: &str) -> String {
        let mut shown = String::new();
        let mut chunk = [0; 1024];
        while !shown.contains(text) {
            let count = self.keyboard.read(&mut chunk).expect("shown");
            shown.push_str(&String::from_utf8_lossy(&chunk[..count]));
        }
        shown
    }

    fn type_keys(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).expect("typed");
    }

    /// What matters of the settings: whether lines are edited, keys echoed, Ctrl-C a signal, output processed.
    fn settings(&self) -> (LocalModes, OutputModes) {
        let now = tcgetattr(self.terminal.as_fd()).expect("settings");
        (now.local_modes, now.output_modes)
    }

    fn is_raw(&self) -> bool {
        let cooked = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        !self.settings().0.intersects(cooked)
    }

    /// Waits for `viv`'s end, which must leave the terminal as it was; its status.
    fn end(mut self) -> i32 {
        let status = self.child.wait().expect("ends").code().expect("a status");
        assert_eq!(self.settings(), (self.before.local_modes, self.before.output_modes));
        status
    }
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
    let mut screen = Screen::new(&guest);
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
    let mut screen = Screen::new(&guest);
    screen.type_keys(b"\x1d\x1d\x1d");
    assert_eq!(screen.wait_for("\x1d\x1d"), "\x1d\x1d");
    screen.type_keys(b"\x1d\x1d\x1d");
    assert_eq!(screen.end(), 130);
}

#[test]
fn the_terminal_comes_back_after_a_triple_fault() {
    let guest = Guest::new();
    let mut screen = Screen::new(&guest);
    screen.type_keys(b"f");
    let shown = screen.wait_for("triple fault");
    assert!(shown.contains("viv: running the virtual machine"), "{shown}");
    assert_eq!(screen.end(), 125);
}

#[test]
fn the_terminal_comes_back_after_the_vm_process_was_killed() {
    let guest = Guest::new();
    let screen = Screen::new(&guest);
    kill_process(only_child(Pid::from_child(&screen.child)), Signal::KILL).expect("killed");
    assert_eq!(screen.end(), 125);
}

#[test]
fn the_terminal_comes_back_after_signals() {
    let guest = Guest::new();
    let signals = [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::INT, 130)];
    // This guest has no power button, so each takes the seconds that a guest is given; all take them together.
    let killed = signals.map(|(signal, status)| {
        let screen = Screen::new(&guest);
        kill_process(Pid::from_child(&screen.child), signal).expect("killed");
        (screen, status)
    });
    for (screen, status) in killed {
        assert_eq!(screen.end(), status);
    }
}

#[test]
fn a_closed_terminal_ends_the_guest() {
    let guest = Guest::new();
    let Screen { keyboard, terminal, mut child, .. } = Screen::new(&guest);
    drop((keyboard, terminal));
    assert_eq!(child.wait().expect("ends").code(), Some(129));
}
