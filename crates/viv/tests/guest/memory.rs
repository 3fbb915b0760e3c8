//! Sizes of guests.

use crate::debian::viv;
use crate::ended::feed;

/// Boots with so many MiB; how many MiB the system says it has, and how many processors.
fn sizes(memory: &str, cpus: &str) -> (u64, u32) {
    let script = "grep MemTotal /proc/meminfo; nproc";
    let mut viv = viv(&["run", "--memory", memory, "--cpus", cpus, "debian", "--", "sh", "-c", script]);
    let text = feed(&mut viv, b"").succeeded();
    let words: Vec<&str> = text.split_whitespace().collect();
    (words[1].parse::<u64>().expect("KiB") / 1024, words[3].parse().expect("a number"))
}

/// Asserts that the guest has that much, less what its kernel and its record of pages take.
fn assert_has(memory: &str, mebibytes: u64) {
    let (total, cpus) = sizes(memory, "1");
    let taken = 50 + mebibytes / 32;
    assert!(total <= mebibytes && total + taken > mebibytes, "{total} of {mebibytes}");
    assert_eq!(cpus, 1);
}

#[test]
fn a_guest_can_be_small() {
    assert_has("256M", 256);
}

#[test]
fn memory_may_end_below_the_hole_for_devices() {
    assert_has("2G", 2048);
}

#[test]
fn memory_goes_on_above_the_hole_for_devices() {
    assert_has("5G", 5120);
}

#[test]
fn a_guest_can_have_two_processors() {
    let (total, cpus) = sizes("1G", "2");
    assert!(total > 900, "{total}");
    assert_eq!(cpus, 2);
}
