//! A terminal with a program on it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, open};
use rustix::process::Pid;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, OutputModes, Termios, Winsize, tcgetattr, tcsetwinsize};

/// A terminal with a program on it, in a session of its own.
pub struct Screen {
    keyboard: File,
    terminal: OwnedFd,
    /// The settings before the program came.
    before: Termios,
    child: Child,
}

impl Screen {
    /// Starts a program, with its arguments, variables and directory.
    pub fn new(program: &Command) -> Self {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a pty");
        grantpt(&keyboard).expect("granted");
        unlockpt(&keyboard).expect("unlocked");
        let name = ptsname(&keyboard, Vec::new()).expect("a name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal = open(name.as_c_str(), flags, Mode::empty()).expect("the terminal");
        let before = tcgetattr(&terminal).expect("settings");
        let stdio = || Stdio::from(terminal.try_clone().expect("cloned"));
        // A terminal controls a session only once the session took it, which is setsid's --ctty. It becomes
        // the program itself, for it need not fork: nobody here leads a process group.
        let mut child = Command::new("setsid");
        child.arg("--ctty").arg(program.get_program()).args(program.get_args());
        child.envs(program.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(directory) = program.get_current_dir() {
            child.current_dir(directory);
        }
        let child = child.stdin(stdio()).stdout(stdio()).stderr(stdio()).spawn().expect("setsid");
        Self { keyboard: keyboard.into(), terminal, before, child }
    }

    /// Reads what the screen shows until `text` is there, which must be before the program ends.
    pub fn wait_for(&mut self, text: &str) -> String {
        let mut shown = Vec::new();
        let mut chunk = [0; 1024];
        loop {
            let mut polled = [PollFd::new(&self.keyboard, PollFlags::IN)];
            let look = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            if poll(&mut polled, Some(&look)).expect("polled") > 0 {
                let count = self.keyboard.read(&mut chunk).expect("shown");
                shown.extend_from_slice(&chunk[..count]);
            } else if let Some(status) = self.child.try_wait().expect("a child") {
                panic!("{text:?} was not shown before {status}: {}", String::from_utf8_lossy(&shown));
            }
            let so_far = String::from_utf8_lossy(&shown);
            if so_far.contains(text) {
                return so_far.into_owned();
            }
        }
    }

    pub fn type_keys(&mut self, keys: &[u8]) {
        self.keyboard.write_all(keys).expect("typed");
    }

    /// What matters of the settings: whether lines are edited, keys echoed, Ctrl-C a signal, output processed.
    fn settings(&self) -> (LocalModes, OutputModes) {
        let now = tcgetattr(self.terminal.as_fd()).expect("settings");
        (now.local_modes, now.output_modes)
    }

    pub fn is_raw(&self) -> bool {
        let cooked = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        !self.settings().0.intersects(cooked)
    }

    /// Waits for the program's end, which must leave the terminal as it was; its status.
    pub fn end(mut self) -> i32 {
        let status = self.child.wait().expect("ends").code().expect("a status");
        assert_eq!(self.settings(), (self.before.local_modes, self.before.output_modes));
        status
    }

    /// Closes the terminal, and waits for the program's end; its status.
    pub fn close(self) -> i32 {
        let Self { keyboard, terminal, mut child, .. } = self;
        drop((keyboard, terminal));
        child.wait().expect("ends").code().expect("a status")
    }

    /// Gives the window another size.
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.keyboard, size).expect("resized");
    }

    /// The program's process.
    pub fn process(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}
