//! `viv run --pmem`: every file that cannot be memory, in one line.

use std::fs;

use crate::direct::{ended, feed, started};
use crate::guest::Guest;

/// The complaint about these options, which fail.
fn complaint(guest: &Guest, options: &[&str]) -> String {
    let output = feed(&mut guest.run(options), b"q");
    let line = String::from_utf8(output.stderr).expect("text");
    assert_eq!((output.status.code(), line.lines().count()), (Some(125), 1), "{line}");
    line
}

#[test]
fn what_cannot_be_memory_is_refused_with_what_to_do() {
    let guest = Guest::new();
    guest.write("odd", &[0; 5000]);
    guest.write("empty", &[]);
    guest.write("good", &vec![0; 2 << 20]);
    let cases = [
        ("odd", "odd has 5000 bytes, and memory is a multiple of 2 MiB: mend it with truncate -s %2M"),
        (
            "empty,readonly",
            "empty has 0 bytes, and memory is a multiple of 2 MiB: mend it with truncate -s 2M",
        ),
        (
            "/dev/null",
            "/dev/null cannot be memory: it is no regular file; give one, or a block device as --disk",
        ),
        (
            "good,size=1G",
            "--pmem good,size=1G: the option 'size=1G' is not known; 'readonly' and 'writable' are",
        ),
    ];
    for (option, expected) in cases {
        assert_eq!(complaint(&guest, &["--pmem", option]), format!("viv: {expected}\n"));
    }
    assert!(complaint(&guest, &["--pmem", "missing"]).contains("missing: No such file"));
    let many = ["--pmem", "good,readonly"].repeat(9);
    assert!(complaint(&guest, &many).contains("cannot have 9 files as persistent memory: give at most 8"));
    assert!(complaint(&guest, &["--pmem", "good", "--pmem", "good"]).contains("good is in use"));
}

#[test]
fn machines_share_what_they_only_read() {
    let guest = Guest::new();
    let path = guest.write("file", &vec![7; 2 << 20]);
    let (mut child, _said) = started(&mut guest.run(&["--pmem", "file,readonly"]));
    assert!(complaint(&guest, &["--pmem", "file"]).contains("file is in use"));
    let output = feed(&mut guest.run(&["--pmem", "file,readonly"]), b"q");
    assert!(output.status.success(), "{output:?}");
    drop(child.stdin.take().map(|mut input| std::io::Write::write_all(&mut input, b"q")));
    assert_eq!(ended(child), (0, String::new()));
    assert!(fs::read(path).expect("there") == vec![7; 2 << 20]);
}
