//! Systems that SeaBIOS starts from a CD-ROM.

use crate::debian::run;
use crate::screen::Screen;

/// GRUB's own disc, as Debian's package `grub-rescue-pc` has it.
const GRUB: &str = "/usr/lib/grub-rescue/grub-rescue-cdrom.iso";

#[test]
fn grub_answers_at_its_prompt() {
    let mut screen = Screen::new(&run(&["--firmware", "bios", "--cdrom", GRUB]), 25, 80);
    screen.wait_for_plain("for a command-line");
    screen.press("c");
    screen.wait_for_plain("grub> ");
    screen.press("echo $grub_platform on $grub_cpu\r");
    screen.wait_for_plain("pc on i386");
    // The disc that it came from, by INT 13h.
    screen.press("ls\r");
    screen.wait_for_plain("(cd)");
    // Through ACPI's tables, which it finds by 32-bit pointers.
    screen.press("halt\r");
    assert_eq!(screen.end(), Some(0));
}
