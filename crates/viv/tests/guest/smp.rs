//! Several processors: in which order they see each other's memory, and what they share.

use std::process::Command;

use tempfile::TempDir;

use crate::debian::viv;
use crate::ended::feed;

/// Runs the litmus tests on four processors, twice as many as the smallest host has, and asks the kernel for complaints.
const SCRIPT: &str = r#"
cat >/tmp/litmus && chmod +x /tmp/litmus && /tmp/litmus || exit 99
source=/sys/devices/system/clocksource/clocksource0/current_clocksource
echo kvm-clock >$source && /tmp/litmus clocks || exit 98
echo "$(cat $source) 100000 allowed 0"
echo @@
dmesg | grep -iE 'lockup|rcu.*stall|hung task|clocksource.*unstable|tsc.*(warp|unsync)' || true
"#;

/// The litmus tests, compiled for the guest.
fn litmus() -> Vec<u8> {
    let directory = TempDir::new().expect("a directory");
    let program = directory.path().join("litmus");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guest/programs/litmus.c");
    let mut gcc = Command::new("gcc");
    gcc.args(["-O1", "-pthread", "-static", "-mcx16", "-o"]).arg(&program).arg(source);
    let output = gcc.output().unwrap_or_else(|error| panic!("gcc: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(program).expect("read")
}

#[test]
fn four_processors_see_memory_and_time_in_order() {
    let mut guest = viv(&["run", "--cpus", "4", "debian", "--", "bash", "-c", SCRIPT]);
    let ended = feed(&mut guest, &litmus());
    let said = ended.succeeded();
    let (results, complaints) = said.split_once("@@\n").expect("both parts");
    let mut names = Vec::new();
    for line in results.lines() {
        let [name, rounds, kind, bad] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        assert!(rounds.parse::<u64>().is_ok_and(|rounds| rounds >= 100_000), "{line}");
        assert!(kind == "allowed" || bad == "0", "{line}");
        names.push(name);
    }
    let expected = [
        "message-passing",
        "store-buffering",
        "store-buffering-mfence",
        "store-buffering-xchg",
        "store-buffering-lock",
        "load-buffering",
        "read-read-coherence",
        "independent-reads",
        "locked",
        "clocks",
        // Again by the paravirtual clock.
        "clocks",
        "kvm-clock",
    ];
    assert_eq!(names, expected);
    assert_eq!(complaints, "", "the kernel's complaints");
}
