//! GNU Mach: a 32-bit kernel that is no Linux.

use crate::debian::run;
use crate::discs::Disc;
use crate::screen::Screen;

/// The kernel, as Debian's package `gnumach-image-1.8-486` has it.
const KERNEL: &str = "/boot/gnumach-1.8-486.gz";

#[test]
fn mach_starts_until_it_misses_its_servers() {
    let disc = Disc::new(&[("gnumach.gz", KERNEL)], "multiboot /gnumach.gz console=com0\n");
    let mut screen =
        Screen::new(&run(&["--firmware", "bios", "--no-reboot", "--cdrom", disc.path()]), 25, 80);
    screen.wait_for("GNU Mach 1.8");
    // It has paged memory and read the clock by then.
    screen.wait_for("RTC time is ");
    screen.wait_for("bootstrap_create: No bootstrap code loaded with the kernel!");
}
