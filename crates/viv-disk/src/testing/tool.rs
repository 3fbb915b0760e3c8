//! QEMU's programs.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output};

use crate::Format;

/// Whether they are there; says so if not.
pub(crate) fn is_there() -> bool {
    let there = Command::new("qemu-img").arg("--version").output().is_ok();
    if !there {
        let _ = writeln!(std::io::stderr(), "NOT TESTED: images against qemu-img, which is not installed");
    }
    there
}

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// Runs one that has to succeed.
pub(crate) fn ok(program: &str, arguments: &[&str]) -> String {
    let output = run(program, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}{text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// What `qemu-img check` finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    Leaks,
}

/// Checks an image of that format; panics if it is corrupt.
pub(crate) fn check(format: Format, path: &Path) -> Found {
    let output = run("qemu-img", &["check", "-f", &format.to_string(), path.to_str().unwrap()]);
    match output.status.code() {
        Some(0) => Found::Nothing,
        Some(3) => Found::Leaks,
        _ => panic!(
            "{}: {}{}",
            path.display(),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}

/// What QEMU reads from an image of that format.
pub(crate) fn contents(format: Format, path: &Path) -> Vec<u8> {
    let raw = path.with_extension("contents");
    ok(
        "qemu-img",
        &["convert", "-f", &format.to_string(), "-O", "raw", path.to_str().unwrap(), raw.to_str().unwrap()],
    );
    let bytes = std::fs::read(&raw).unwrap();
    std::fs::remove_file(raw).unwrap();
    bytes
}
