//! `viv run debian`: the real thing, on the software CPU.
//!
//! The image is built once, below `target`, which needs root and the host's package archive; where this is not
//! root and no image is there, these tests say so and pass.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use rustix::process::{Pid, Signal, kill_process};

use crate::screen::Screen;

/// The store with the image, if there can be one.
fn home() -> Option<&'static Path> {
    static HOME: OnceLock<Option<PathBuf>> = OnceLock::new();
    let home = HOME.get_or_init(|| {
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("viv-home");
        let mut build = Command::new(env!("CARGO_BIN_EXE_viv"));
        let built = build.args(["image", "build", "debian"]).env("VIV_HOME", &home).output().expect("runs");
        if !built.status.success() {
            let why = String::from_utf8_lossy(&built.stderr);
            assert!(!rustix::process::geteuid().is_root(), "{why}");
            eprintln!("skipped, for there is no image: {why}");
            return None;
        }
        Some(home)
    });
    home.as_deref()
}

/// `viv` with these arguments and the store.
fn viv(home: &Path, arguments: &[&str]) -> Command {
    let mut viv = Command::new(env!("CARGO_BIN_EXE_viv"));
    viv.args(arguments).env("VIV_HOME", home);
    viv
}

/// Runs `viv` to its end with this input.
fn run(home: &Path, arguments: &[&str], input: &[u8]) -> Output {
    let mut viv = viv(home, arguments);
    let mut child =
        viv.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("viv");
    // Small enough for a pipe, whether the guest reads it or not.
    child.stdin.take().expect("piped").write_all(input).expect("fed");
    child.wait_with_output().expect("ends")
}

/// What a run printed, complained, and its status.
fn told(output: &Output) -> (String, String, Option<i32>) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr), output.status.code())
}

#[test]
fn a_shell_is_fed_from_a_pipe_to_its_end() {
    let Some(home) = home() else { return };
    let script = b"grep ^ID= /etc/os-release\ncat /proc/sys/kernel/hostname\nid -un\nexit 7\n";
    let output = run(home, &["run", "debian"], script);
    assert_eq!(told(&output), ("ID=debian\ndebian\nroot\n".into(), String::new(), Some(7)));
}

#[test]
fn a_command_has_three_streams_apart() {
    let Some(home) = home() else { return };
    let command = ["run", "debian", "--", "sh", "-c", "cat; echo complaint >&2; exit 3"];
    let input: Vec<u8> = (0..40_000).map(|i| b'a' + (i % 26) as u8).collect();
    let output = run(home, &command, &input);
    assert_eq!(output.stdout, input);
    assert_eq!((output.stderr.as_slice(), output.status.code()), (&b"complaint\n"[..], Some(3)));
}

#[test]
fn a_command_that_cannot_run_has_a_shells_status() {
    let Some(home) = home() else { return };
    for (command, status) in [("nothing-is-called-so", 127), ("/etc/passwd", 126)] {
        let (said, complaint, code) = told(&run(home, &["run", "debian", "--", command], b""));
        assert_eq!((said.as_str(), code), ("", Some(status)));
        assert!(complaint.lines().count() == 1 && complaint.contains(command), "{complaint}");
    }
}

#[test]
fn what_a_guest_writes_is_forgotten_unless_it_is_kept() {
    let Some(home) = home() else { return };
    let name = format!("test-{}", std::process::id());
    let kept = |command: &'static str| {
        told(&run(home, &["run", "--keep", &name, "debian", "--", "sh", "-c", command], b""))
    };
    let first = kept("cat /root/note 2>/dev/null; echo remember > /root/note");
    let second = kept("cat /root/note; grep -c . /etc/passwd > /dev/null");
    let removed = told(&run(home, &["image", "rm", &name], b""));
    assert_eq!(first, (String::new(), String::new(), Some(0)));
    assert_eq!(second, ("remember\n".into(), String::new(), Some(0)));
    assert_eq!(removed, (format!("removed {name}\n"), String::new(), Some(0)));
    let without = told(&run(home, &["run", "debian", "--", "test", "-e", "/root/note"], b""));
    assert_eq!(without.2, Some(1));
}

#[test]
fn an_output_that_nobody_reads_ends_the_guest() {
    let Some(home) = home() else { return };
    let mut yes = viv(home, &["run", "debian", "--", "yes"]);
    let mut child =
        yes.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("viv");
    let mut said = [0; 2];
    child.stdout.take().expect("piped").read_exact(&mut said).expect("said");
    assert_eq!(&said, b"y\n");
    assert_eq!(told(&child.wait_with_output().expect("ends")), (String::new(), String::new(), Some(141)));
}

#[test]
fn sigterm_powers_the_guest_off_in_order() {
    let Some(home) = home() else { return };
    let name = format!("stopped-{}", std::process::id());
    // A signal that comes just before a shell waits for input is not heard before there is some: this one never waits.
    let command = "trap 'echo told > /root/note; exit' TERM; echo ready; while :; do :; done";
    let mut shell = viv(home, &["run", "--keep", &name, "debian", "--", "sh", "-c", command]);
    let mut child =
        shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("viv");
    let mut said = [0; 6];
    child.stdout.as_mut().expect("piped").read_exact(&mut said).expect("said");
    assert_eq!(&said, b"ready\n");
    kill_process(Pid::from_child(&child), Signal::TERM).expect("killed");
    assert_eq!(told(&child.wait_with_output().expect("ends")), (String::new(), String::new(), Some(143)));

    // The program heard of it, and its file system was written back.
    let after = told(&run(home, &["run", "--keep", &name, "debian", "--", "cat", "/root/note"], b""));
    let removed = run(home, &["image", "rm", &name], b"");
    assert_eq!(after, ("told\n".into(), String::new(), Some(0)));
    assert!(removed.status.success());
}

#[test]
fn a_session_on_a_terminal() {
    let Some(home) = home() else { return };
    let mut shell = viv(home, &["run", "debian"]);
    shell.env("TERM", "xterm");
    let mut screen = Screen::new(&shell);
    screen.resize(33, 101);
    let greeting = screen.wait_for("# ");
    assert!(greeting.contains("on the soft engine ("), "{greeting}");
    assert!(screen.is_raw());
    screen.type_keys(b"tty; echo $TERM; stty size; echo e'n'd\n");
    let shown = screen.wait_for("end\r\n");
    assert!(shown.contains("/dev/hvc0\r\nxterm\r\n33 101\r\n"), "{shown}");

    // The guest hears of a new size by an interrupt some time after.
    screen.resize(44, 122);
    let resized = (0..100).any(|_| {
        screen.type_keys(b"stty size; echo e'n'd\n");
        screen.wait_for("end\r\n").contains("44 122\r\n")
    });
    assert!(resized);

    // A shell that is about to start a command passes nothing on: the command itself has to answer first.
    screen.type_keys(b"sed -u s/^/got-/\nthis\n");
    screen.wait_for("got-this\r\n");
    screen.type_keys(b"\x03");
    screen.wait_for("# ");
    screen.type_keys(b"echo status=$?\n");
    screen.wait_for("status=130");
    screen.type_keys(b"exit 5\n");
    assert_eq!(screen.end(), 5);
}

#[test]
fn ctrl_c_ends_a_guest_that_boots() {
    let Some(home) = home() else { return };
    let mut screen = Screen::new(&viv(home, &["run", "debian"]));
    screen.wait_for("booting");
    screen.type_keys(b"\x03");
    assert_eq!(screen.end(), 130);
}
