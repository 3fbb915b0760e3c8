//! The two that run the same guest.

use std::fmt;
use std::path::Path;
use std::process::Command;

use super::Bench;

/// A guest: the kernel of all, and this.
#[derive(Debug)]
pub struct Guest<'a> {
    pub bench: &'a Bench,
    /// Its initial RAM disk, from which it runs.
    pub initrd: &'a Path,
}

/// Guest RAM in MiB.
const MEMORY: u64 = 512;

/// Guest RAM in bytes.
pub const MEMORY_BYTES: u64 = MEMORY << 20;

/// As for images of `viv run`: output to the serial port, little of the kernel's, no waiting after a panic, and no
/// self-tests of ciphers, which otherwise are most of what is measured.
const APPEND: &str = "console=ttyS0 quiet panic=-1 cryptomgr.notests";

/// Who runs the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contender {
    /// `viv` with its software CPU.
    Viv,
    /// QEMU with its translator. Its guest starts as the firmware of a PC does, and unpacks its kernel itself.
    Tcg,
}

impl Contender {
    pub const ALL: [Self; 2] = [Self::Viv, Self::Tcg];

    /// The command that runs `guest` with its serial port as standard input and output, until it powers off.
    pub fn command(self, guest: &Guest<'_>) -> Command {
        let Bench { viv, kernel, processor, .. } = guest.bench;
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", &processor.to_string()]);
        match self {
            Self::Viv => command
                .arg(viv)
                .args(["run", "--engine", "soft", "--stats=json", "--no-reboot", "--cpus", "1"])
                .args(["--memory", &format!("{MEMORY}M")]),
            Self::Tcg => command
                .args(["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-no-reboot"])
                .args(["-m", &format!("{MEMORY}M")])
                .args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"]),
        };
        // The options for a direct boot differ in the number of dashes.
        let dashes = if self == Self::Viv { "--" } else { "-" };
        command.arg(format!("{dashes}kernel")).arg(kernel);
        command.arg(format!("{dashes}initrd")).arg(guest.initrd);
        command.args([format!("{dashes}append"), APPEND.to_owned()]);
        command
    }
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Viv => "viv",
            Self::Tcg => "TCG",
        })
    }
}
