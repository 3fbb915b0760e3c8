//! A terminal with `viv` on it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};

use crate::ended::Guard;

/// A terminal, and a program in a session of its own that it controls.
pub struct Screen {
    keyboard: File,
    terminal: OwnedFd,
    before: Termios,
    pub program: Child,
    /// What was shown and not yet waited for.
    shown: String,
    _guard: Guard,
}

impl Screen {
    /// Starts `program` on a terminal of this size.
    pub fn new(program: &Command, rows: u16, columns: u16) -> Self {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a pty");
        grantpt(&keyboard).expect("granted");
        unlockpt(&keyboard).expect("unlocked");
        let name = ptsname(&keyboard, Vec::new()).expect("a name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal = open(name.as_c_str(), flags, Mode::empty()).expect("the terminal");
        let before = tcgetattr(&terminal).expect("settings");
        tcsetwinsize(&terminal, size(rows, columns)).expect("sized");
        let stdio = || Stdio::from(terminal.try_clone().expect("cloned"));
        // setsid becomes the program itself: nobody here leads a process group, so it need not fork.
        let mut setsid = Command::new("setsid");
        setsid.arg("--ctty").arg(program.get_program()).args(program.get_args());
        for (name, value) in program.get_envs() {
            match value {
                Some(value) => setsid.env(name, value),
                None => setsid.env_remove(name),
            };
        }
        let program = setsid.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().expect("setsid");
        let guard = Guard::of(&program);
        Self { keyboard: keyboard.into(), terminal, before, program, shown: String::new(), _guard: guard }
    }

    /// Waits until `text` is shown; what was shown before it.
    pub fn wait_for(&mut self, text: &str) -> String {
        loop {
            if let Some(at) = self.shown.find(text) {
                let rest = self.shown.split_off(at + text.len());
                let mut before = std::mem::replace(&mut self.shown, rest);
                before.truncate(at);
                return before;
            }
            self.read_before(text);
        }
    }

    /// Waits until `text` is shown, whatever escape sequences are between its letters: SeaBIOS puts its cursor where it is
    /// already. What was shown so far is done with.
    pub fn wait_for_plain(&mut self, text: &str) {
        while !plain(&self.shown).contains(text) {
            self.read_before(text);
        }
        self.shown.clear();
    }

    /// Reads what is shown next, for `text` is not among what was read.
    fn read_before(&mut self, text: &str) {
        let mut chunk = [0; 4096];
        let count = self.keyboard.read(&mut chunk).expect("shown");
        assert!(!self.has_ended(), "it ended before {text:?}: {}", self.shown);
        self.shown.push_str(&String::from_utf8_lossy(&chunk[..count]));
    }

    fn has_ended(&mut self) -> bool {
        self.program.try_wait().expect("waited for").is_some()
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("pressed");
    }

    /// Gives the window another size.
    pub fn resize(&self, rows: u16, columns: u16) {
        tcsetwinsize(&self.terminal, size(rows, columns)).expect("sized");
    }

    /// Whether keys are passed on as they are.
    pub fn is_raw(&self) -> bool {
        let cooked = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        !tcgetattr(&self.terminal).expect("settings").local_modes.intersects(cooked)
    }

    /// Waits for the program's end, which must leave the terminal as it was; its status.
    pub fn end(mut self) -> Option<i32> {
        let status = self.program.wait().expect("ends").code();
        let after = tcgetattr(&self.terminal).expect("settings");
        assert_eq!(
            (after.input_modes, after.output_modes, after.local_modes),
            (self.before.input_modes, self.before.output_modes, self.before.local_modes)
        );
        status
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Text without the escape sequences around it (ECMA-48, 5.3, 5.4 and 8.3.89) and the shell's carriage returns.
pub fn plain(shown: &str) -> String {
    let mut text = String::new();
    let mut rest = shown;
    while let Some((before, escape)) = rest.split_once('\x1b') {
        text.push_str(before);
        let end = match escape.chars().next() {
            Some('[') => escape[1..].find(|c| matches!(c, '@'..='~')).map(|at| at + 2),
            Some(']') => escape.find('\x07').map(|at| at + 1),
            other => other.map(char::len_utf8),
        };
        rest = &escape[end.unwrap_or(escape.len())..];
    }
    (text + rest).replace('\r', "")
}
