//! Systems that SeaBIOS starts from a CD-ROM.

use crate::debian::run;
use crate::screen::Screen;

/// GRUB's own disc, as Debian's package `grub-rescue-pc` has it.
const GRUB: &str = "/usr/lib/grub-rescue/grub-rescue-cdrom.iso";

/// Types a line letter by letter, each when the one before is shown: BIOS keeps 15 keys and drops those beyond.
fn type_line(screen: &mut Screen, line: &str) {
    for letter in line.chars().map(String::from) {
        screen.press(&letter);
        screen.wait_for_plain(&letter);
    }
    screen.press("\r");
}

#[test]
fn grub_answers_at_its_prompt() {
    let mut screen = Screen::new(&run(&["--firmware", "bios", "--cdrom", GRUB]), 25, 80);
    screen.wait_for_plain("for a command-line");
    screen.press("c");
    screen.wait_for_plain("grub> ");
    type_line(&mut screen, "echo $grub_platform on $grub_cpu");
    screen.wait_for_plain("pc on i386");
    // The disc that it came from, by INT 13h.
    type_line(&mut screen, "ls");
    screen.wait_for_plain("(cd)");
    // Through ACPI's tables, which it finds by 32-bit pointers.
    type_line(&mut screen, "halt");
    assert_eq!(screen.end(), Some(0));
}
