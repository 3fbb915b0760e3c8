//! Every kind of thread, taken over: what it tries then fails, or ends the process with a word about it.
//!
//! Each attempt is a process of its own, this program again: it goes to jail as a VM process does, starts a thread of the
//! kind, and has that thread do what an attacker would.
#![allow(unsafe_code, reason = "attackers use no safe wrappers")]

mod attempts;
mod probe;

use std::panic::catch_unwind;
use std::process::{Command, ExitCode};

use viv_jail::ThreadKind;

use self::attempts::{ATTEMPTS, Outcome};

/// The kinds of threads by the names that the probe is called with.
const KINDS: [(&str, ThreadKind); 12] = [
    ("control", ThreadKind::Control),
    ("vcpu", ThreadKind::Vcpu),
    ("devices", ThreadKind::Devices),
    ("stream", ThreadKind::Stream),
    ("alarm", ThreadKind::Alarm),
    ("disk", ThreadKind::Disk),
    ("pmem", ThreadKind::Pmem),
    ("network", ThreadKind::Network),
    ("share", ThreadKind::Share),
    ("share-control", ThreadKind::ShareControl),
    ("back-end", ThreadKind::BackEnd),
    ("vsock", ThreadKind::Vsock),
];

const TESTS: [(&str, fn()); 3] = [
    ("threads_that_are_taken_over_reach_nothing", threads_that_are_taken_over_reach_nothing),
    ("what_is_open_stays_of_use", what_is_open_stays_of_use),
    ("a_process_that_dies_leaves_a_word", a_process_that_dies_leaves_a_word),
];

/// Runs tests, by the conventions that test runners have with programs; or an attempt.
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let given: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["probe", kind, attempt] = given[..] {
        return probe::run(kind, attempt);
    }
    if given.contains(&"--list") {
        let listed = if given.contains(&"--ignored") { &[][..] } else { &TESTS };
        listed.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<&&str> = given.iter().filter(|argument| !argument.starts_with("--")).collect();
    let chosen =
        TESTS.iter().filter(|(name, _)| wanted.is_empty() || wanted.iter().any(|part| name.contains(**part)));
    let failed = chosen.filter(|(_, test)| catch_unwind(test).is_err()).count();
    ExitCode::from(u8::from(failed > 0))
}

/// What the probe says of an attempt.
fn probe(kind: &str, attempt: &str) -> String {
    let this = std::env::current_exe().expect("this program");
    let output = Command::new(this).args(["probe", kind, attempt]).output().expect("the probe runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!said.is_empty(), "{kind} {attempt}: {}", String::from_utf8_lossy(&output.stderr));
    said.trim_end().to_owned()
}

fn threads_that_are_taken_over_reach_nothing() {
    for (kind, of) in KINDS {
        for attempt in ATTEMPTS.iter().filter(|attempt| !attempt.is_allowed_to(of)) {
            let said = probe(kind, attempt.name);
            let expected = match attempt.outcome {
                // It opens files, and finds none but its own.
                Outcome::Killed("openat2") if of == ThreadKind::Share => "exited 3".to_owned(),
                Outcome::Refused => "exited 3".to_owned(),
                Outcome::Killed(call) => {
                    format!("died: its thread {kind} made the system call {call}, which the jail forbids")
                }
            };
            assert_eq!(said, expected, "{kind} {}", attempt.name);
        }
    }
}

fn what_is_open_stays_of_use() {
    for (kind, _) in KINDS {
        assert_eq!(probe(kind, "read-open-file"), "exited 0", "{kind}");
    }
    // What the others must not have, these need.
    assert_eq!(probe("network", "socket"), "exited 0");
    assert_eq!(probe("share", "openat2-below"), "exited 0");
}

fn a_process_that_dies_leaves_a_word() {
    for (attempt, word) in [
        ("abort", "its thread devices gave up (SIGABRT)"),
        ("fault", "it used memory that is not there (SIGSEGV)"),
    ] {
        let said = probe("devices", attempt);
        assert!(said.starts_with("died: ") && said.contains(word), "{attempt}: {said}");
    }
}
