//! What SeaBIOS starts.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::debian::run;
use crate::ended::feed;
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

/// A disk with a program of the tests in its boot sector.
fn boot_sector(directory: &Path, name: &str) -> PathBuf {
    let [object, disk] = ["o", "img"].map(|extension| directory.join(name).with_extension(extension));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/programs").join(name);
    succeeds(Command::new("gcc").args(["-m32", "-c", "-o"]).args([&object, &source]));
    let link = ["-m", "elf_i386", "--oformat", "binary", "-Ttext", "0x7c00", "-o"];
    succeeds(Command::new("ld").args(link).args([&disk, &object]));
    // SeaBIOS reads nothing of a disk without a whole cylinder.
    let file = File::options().write(true).open(&disk).expect("the disk");
    file.set_len(1 << 20).expect("its size");
    disk
}

fn succeeds(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_a20_gate_opens_and_closes_by_each_of_its_ways() {
    let directory = TempDir::new().expect("a directory");
    let disk = boot_sector(directory.path(), "a20.S");
    let disk = disk.to_str().expect("a name in UTF-8");
    let ended = feed(&mut run(&["--firmware", "bios", "--exit-port", "--disk", disk]), &[]);
    // SeaBIOS talks to the serial line only where that is its display.
    assert!(ended.text().ends_with("oc0ococo"), "{ended:?}");
    assert_eq!(ended.status, 1, "{ended:?}");
}
