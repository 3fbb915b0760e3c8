//! The ways down: power off and reset; panics are in `hosted`, and here as users see them.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout};

use crate::debian::bash;
use crate::direct::Machine;
use crate::ended::{Guard, start};

/// Obeys its first line of input.
const SCRIPT: &str = "
echo up
read order
case $order in
reset) reboot -f ;;
off) poweroff -f ;;
esac
";

/// A running machine, and what is said to it.
struct Console {
    viv: Child,
    said: BufReader<ChildStdout>,
    _guard: Guard,
}

impl Console {
    fn new(options: &[&str]) -> Self {
        let machine = Machine::new(SCRIPT);
        let mut viv = start(&mut machine.run(options));
        let guard = Guard::of(&viv);
        let mut console =
            Self { said: BufReader::new(viv.stdout.take().expect("piped")), viv, _guard: guard };
        // Only once it runs can the files go; and what is sent to a serial port before its driver is, is lost.
        console.wait_until_up();
        console
    }

    fn wait_until_up(&mut self) {
        let up = self.said.by_ref().lines().map_while(Result::ok).any(|line| line.trim_end() == "up");
        assert!(up, "it ended: {:?}", self.viv.wait());
    }

    fn order(&mut self, order: &str) {
        writeln!(self.viv.stdin.as_mut().expect("piped"), "{order}").expect("fed");
    }
}

#[test]
fn a_reset_boots_the_system_again() {
    let mut console = Console::new(&[]);
    for _ in 0..2 {
        console.order("reset");
        console.wait_until_up();
    }
    console.order("off");
    assert_eq!(console.viv.wait().expect("ends").code(), Some(0));
}

#[test]
fn a_reset_ends_it_with_no_reboot() {
    let mut console = Console::new(&["--no-reboot"]);
    console.order("reset");
    let mut rest = String::new();
    console.said.read_to_string(&mut rest).expect("said");
    assert_eq!((console.viv.wait().expect("ends").code(), rest.contains("up\n")), (Some(0), false), "{rest}");
}

#[test]
fn a_command_may_power_off_its_guest() {
    // It is no init's power off, for the first process is none of systemd's.
    let ended = bash("echo before; echo o >/proc/sysrq-trigger; sleep 100; echo after");
    assert_eq!((ended.status, ended.text().as_str()), (0, "before\n"), "{ended:?}");
}

#[test]
fn a_panic_is_shown_and_a_failure() {
    let ended = bash("echo before; sync; echo c >/proc/sysrq-trigger; echo after");
    assert_eq!((ended.status, ended.text().as_str()), (125, "before\n"), "{ended:?}");
    let last = ended.stderr.lines().last().unwrap_or_default();
    assert!(last.starts_with("viv: ") && last.ends_with("panicked: sysrq triggered crash"), "{ended:?}");
}
