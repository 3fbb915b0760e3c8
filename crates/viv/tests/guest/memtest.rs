//! Memtest86+: memory as a program sees it that has all of it, and the processor that gets there by itself.

use crate::debian::run;
use crate::discs::Disc;
use crate::ended::not_tested;
use crate::screen::Screen;

/// The program, as Debian's package `memtest86+` has it.
const PROGRAM: &str = "/boot/memtest86+x64.bin";

/// Little, so that a pass takes little.
const MEMORY: &str = "32M";

/// Starts it. Its keys on a serial line are digits, F10 being 0.
fn start() -> (Screen, Disc) {
    let disc =
        Disc::new(&[("memtest", PROGRAM)], "linux /memtest console=ttyS0,115200 nobench nosm nopause\n");
    let mut screen =
        Screen::new(&run(&["--firmware", "bios", "--memory", MEMORY, "--cdrom", disc.path()]), 25, 80);
    screen.wait_for("Status: Testing");
    (screen, disc)
}

/// Follows it to the end of its first pass, which no error may precede.
fn passes(screen: &mut Screen) {
    let before = screen.wait_for("Pass:  1 ");
    let errors = before.split("Errors: ").skip(1).map(|rest| rest.split_whitespace().next());
    assert!(errors.clone().count() > 0 && errors.clone().all(|count| count == Some("0")), "{before}");
    screen.wait_for("Errors: 0 ");
}

#[test]
fn memory_passes_every_test_that_does_not_wait() {
    let (mut screen, _disc) = start();
    // Settings, test selection, remove one; and out of both.
    for (key, answer) in
        [("1", "Settings:"), ("1", "Test Selection:"), ("2", "Enter test #"), ("10\r", "*.********.")]
    {
        screen.press(key);
        screen.wait_for(answer);
    }
    screen.press("0");
    screen.wait_for("Settings:");
    screen.press("0");
    passes(&mut screen);
}

/// The tenth test looks at memory after minutes in which nothing happens to it.
#[test]
fn memory_passes_every_test() {
    if std::env::var_os("VIV_TEST_LONG").is_none() {
        not_tested("a whole pass of Memtest86+ takes five minutes: cargo xtask soak --only long");
        return;
    }
    passes(&mut start().0);
}
