//! GNU Mach: a 32-bit kernel that is no Linux.

use crate::debian::run;
use crate::discs::Disc;
use crate::screen::Screen;

/// The kernel, as Debian's package `gnumach-image-1.8-486` has it.
const KERNEL: &str = "/boot/gnumach-1.8-486.gz";

/// Starts it, and follows it to where it needs servers to go on.
fn misses_its_servers(options: &[&str]) {
    let mut screen = Screen::new(&run(&[&["--no-reboot"], options].concat()), 25, 80);
    screen.wait_for("GNU Mach 1.8");
    // It has paged memory and read the clock by then.
    screen.wait_for("RTC time is ");
    screen.wait_for("bootstrap_create: No bootstrap code loaded with the kernel!");
}

#[test]
fn mach_starts_directly() {
    misses_its_servers(&["--kernel", KERNEL, "--append", "console=com0"]);
}

#[test]
fn mach_starts_from_a_disc() {
    let disc = Disc::new(&[("gnumach.gz", KERNEL)], "multiboot /gnumach.gz console=com0\n");
    misses_its_servers(&["--firmware", "bios", "--cdrom", disc.path()]);
}
