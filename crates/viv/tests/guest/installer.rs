//! Debian's installer: its own kernel and initial RAM disk, to its first question.

use crate::debian::run;
use crate::discs::Disc;
use crate::screen::Screen;

/// Where Debian's package `debian-installer-12-netboot-amd64` has them.
const KERNEL: &str = "/usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64/linux";
const INITRD: &str = "/usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64/initrd.gz";

/// Below this it asks nothing before it has said that memory is low.
const MEMORY: &str = "1G";

/// Goes from the first question to the second.
fn choose_a_language(screen: &mut Screen) {
    screen.wait_for("Select a language");
    screen.wait_for("English");
    screen.press("\r");
    screen.wait_for("Select your location");
}

#[test]
fn the_installer_asks_for_a_language() {
    let options = ["--memory", MEMORY, "--kernel", KERNEL, "--initrd", INITRD, "--append", "console=ttyS0"];
    choose_a_language(&mut Screen::new(&run(&options), 25, 80));
}

#[test]
fn the_installer_starts_from_a_disc() {
    let disc = Disc::new(
        &[("linux", KERNEL), ("initrd.gz", INITRD)],
        "linux /linux console=ttyS0\ninitrd /initrd.gz\n",
    );
    choose_a_language(&mut Screen::new(
        &run(&["--memory", MEMORY, "--firmware", "bios", "--cdrom", disc.path()]),
        25,
        80,
    ));
}
