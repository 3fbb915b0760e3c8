//! A shell in a guest, on a terminal.

use rustix::process::{Pid, Signal, kill_process};

use crate::debian::{viv, vm_process};
use crate::screen::{Screen, plain};

/// What root's shell asks with.
const PROMPT: &str = "root@debian:~# ";

/// Something that stays, and says when it does: a key that interrupts the shell itself would do other things.
const SLEEP: &str = "sh -c 'echo asleep; exec sleep 1000'\r";

/// A shell at its first prompt.
fn shell() -> Screen {
    let mut screen = Screen::new(&viv(&["run", "debian"]), 33, 101);
    screen.wait_for(PROMPT);
    assert!(screen.is_raw());
    screen
}

/// Runs a line in the shell; what it printed.
fn run(screen: &mut Screen, line: &str) -> String {
    screen.press(&format!("{line}\r"));
    // The line's echo first.
    screen.wait_for("\r\n");
    plain(&screen.wait_for(PROMPT))
}

#[test]
fn a_shell_is_as_on_any_machine() {
    let mut screen = shell();
    assert_eq!(run(&mut screen, "tty; stty size; echo $TERM $-"), "/dev/hvc0\n33 101\nxterm himBHs\n");

    // The size follows, and what runs hears of it.
    let script = "trap 'stty size; exit' WINCH; echo ready; while :; do sleep 0.1; done";
    screen.press(&format!("sh -c \"{script}\"\r"));
    screen.wait_for("ready\r\n");
    screen.resize(40, 132);
    assert_eq!(plain(&screen.wait_for(PROMPT)), "40 132\n");

    // Ctrl-C interrupts what runs, and only that.
    screen.press(SLEEP);
    screen.wait_for("asleep\r\n");
    screen.press("\x03");
    screen.wait_for("^C");
    screen.wait_for(PROMPT);
    assert_eq!(run(&mut screen, "echo $?"), "130\n");

    // Ctrl-Z stops it, and it goes on in the background.
    screen.press(SLEEP);
    screen.wait_for("asleep\r\n");
    screen.press("\x1a");
    let said = screen.wait_for(PROMPT);
    assert!(said.contains("Stopped"), "{said}");
    assert!(run(&mut screen, "bg").contains("sleep 1000' &"));
    assert!(run(&mut screen, "jobs").contains("Running"));
    assert!(run(&mut screen, "kill %1; wait %1; echo $?").contains("143"));

    // A pager and a display of processes draw on the terminal and give it back.
    screen.press("seq 1000 | less\r");
    screen.wait_for("\r\n39\r\n");
    screen.press("G");
    screen.wait_for("1000");
    screen.press("q");
    screen.wait_for(PROMPT);
    screen.press("top\r");
    screen.wait_for("PID USER");
    screen.press("q");
    screen.wait_for(PROMPT);

    screen.press("exit 3\r");
    assert_eq!(screen.end(), Some(3));
}

#[test]
fn the_terminal_comes_back_when_the_machine_is_killed() {
    let screen = shell();
    let vm = vm_process(&screen.program).cast_signed();
    kill_process(Pid::from_raw(vm).expect("a process"), Signal::KILL).expect("killed");
    assert_eq!(screen.end(), Some(125));
}

#[test]
fn a_system_is_shut_down_in_order_by_a_signal() {
    let mut screen = shell();
    screen.press("trap 'echo told to end' TERM\r");
    screen.wait_for(PROMPT);
    kill_process(Pid::from_child(&screen.program), Signal::TERM).expect("killed");
    assert_eq!(screen.end(), Some(143));
}
