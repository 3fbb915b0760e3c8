//! Debian as it is installed on a disk: from firmware by GRUB and systemd to a login on the serial port, and down again.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use crate::debian::run;
use crate::screen::{Screen, plain};

/// The disk, built if need be, for as long as the tests run.
static DISK: LazyLock<PathBuf> = LazyLock::new(|| {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("installed");
    viv_testbed::debian_disk::provide(&directory).unwrap_or_else(|error| {
        panic!("this needs a disk with Debian, which takes root and the host's archive to build: {error:#}")
    })
});

/// Debian's kernel for any machine, from that disk to a file in this directory.
pub fn kernel(directory: &Path) -> PathBuf {
    let disk = format!("{}?offset={}", DISK.display(), viv_testbed::partitions::ROOT.start);
    let debugfs = |command: &str| {
        let output = Command::new("debugfs").args(["-R", command, &disk]).output().expect("debugfs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let listing = debugfs("ls -p /boot");
    let name = listing.split('/').find(|name| name.starts_with("vmlinuz-")).expect("a kernel");
    let file = directory.join("vmlinuz");
    debugfs(&format!("dump /boot/{name} {}", file.display()));
    file
}

/// What root's shell asks with.
const PROMPT: &str = "root@debian:~# ";

/// A machine that starts from the disk.
pub struct Installed(Screen);

impl Installed {
    /// GRUB's menu on a machine with these options. `bus` is what the disk is attached to.
    pub fn start(options: &[&str], bus: &str) -> Self {
        let disk = format!("{},temporary,{bus}", DISK.display());
        let mut screen = Screen::new(&run(&[options, &["--disk", &disk]].concat()), 25, 80);
        screen.wait_for("highlighted");
        Self(screen)
    }

    /// Takes an entry of the menu by its key, and logs in once the system asks.
    pub fn log_in(&mut self, key: &str) {
        self.0.press(key);
        self.0.wait_for("debian login: ");
        self.0.press("root\r");
        self.0.wait_for(PROMPT);
    }

    /// Runs a line in the shell; what it printed, with the line itself before.
    pub fn run(&mut self, line: &str) -> String {
        self.0.press(&format!("{line}\r"));
        self.0.wait_for(PROMPT)
    }

    /// Waits until systemd has started everything, of which nothing may have failed.
    pub fn is_up(&mut self) {
        let state = plain(&self.run("systemctl is-system-running --wait"));
        if !state.lines().any(|line| line == "running") {
            panic!("{state}{}", self.run("systemctl --failed --no-pager"));
        }
    }

    /// Powers it off by systemd.
    pub fn power_off(mut self) {
        self.0.press("systemctl poweroff\r");
        assert_eq!(self.0.end(), Some(0));
    }
}

/// Boots, logs in, asks systemd how it went, and powers off.
fn is_well(options: &[&str], bus: &str, root: &str) {
    let mut debian = Installed::start(options, bus);
    debian.log_in("\r");
    debian.is_up();
    let times = debian.run("systemd-analyze");
    assert!(times.contains("Startup finished in "), "{times}");
    let mounts = debian.run("findmnt --noheadings --output SOURCE,OPTIONS /");
    assert!(mounts.contains(root) && mounts.contains("rw"), "{mounts}");
    debian.power_off();
}

#[test]
fn debian_starts_from_its_disk_by_bios() {
    is_well(&["--firmware", "bios"], "virtio", "/dev/vda3");
}

#[test]
fn debian_starts_from_a_sata_disk() {
    is_well(&["--firmware", "bios"], "sata", "/dev/sda3");
}

#[test]
fn debian_starts_from_the_same_disk_by_uefi() {
    is_well(&["--firmware", "uefi"], "virtio", "/dev/vda3");
}

/// Firmware hands on the tables in which a guest finds what it shares with its host.
#[test]
fn debian_finds_its_watchdog_its_generation_and_where_to_panic() {
    let mut debian = Installed::start(&["--firmware", "uefi", "--watchdog", "reset"], "virtio");
    debian.log_in("\r");
    let found = debian.run("cat /sys/class/watchdog/watchdog0/identity; ls /sys/bus/acpi/drivers/vmgenid");
    assert!(found.contains("wdat_wdt") && found.contains("VIVA0001:00"), "{found}");
    let loaded = debian.run("grep -c ^pvpanic_mmio /proc/modules");
    assert!(plain(&loaded).lines().any(|line| line == "1"), "{loaded}");
    debian.0.press("echo c >/proc/sysrq-trigger\r");
    assert_eq!(debian.0.end(), Some(125));
}
