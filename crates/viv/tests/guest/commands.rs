//! One command in a guest: its status, its input and its output.

use crate::debian::{debian, viv};
use crate::ended::feed;

/// Bytes without a pattern, by a linear congruence.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let step = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(step).collect()
}

#[test]
fn streams_are_apart_and_whole() {
    let input = noise(3_000_000);
    let script = "tee copy; seq 300000 >&2; wc -c <copy >&2";
    let ended = feed(&mut debian(&["bash", "-c", script]), &input);
    // Not by assert_eq, which would print them.
    assert!(ended.stdout == input, "{} bytes of {}", ended.stdout.len(), input.len());
    let mut expected: String = (1..=300_000).map(|n| format!("{n}\n")).collect();
    expected.push_str("3000000\n");
    assert!(ended.stderr == expected, "{} bytes of {}", ended.stderr.len(), expected.len());
    assert_eq!(ended.status, 0);
}

#[test]
fn the_status_is_the_commands() {
    let status = |command: &[&str]| {
        let ended = feed(&mut debian(command), b"");
        assert!(ended.stdout.is_empty(), "{ended:?}");
        (ended.status, ended.stderr)
    };
    assert_eq!(status(&["sh", "-c", "exit 42"]), (42, String::new()));
    assert_eq!(status(&["sh", "-c", "kill -KILL $$"]), (137, String::new()));
    let (code, line) = status(&["no-such-command"]);
    assert!(code == 127 && line.contains("no-such-command"), "{code}: {line}");
    let (code, line) = status(&["/etc/passwd"]);
    assert!(code == 126 && line.contains("/etc/passwd"), "{code}: {line}");
}

#[test]
fn a_shell_takes_its_commands_from_a_pipe() {
    let commands =
        b"cd /etc\npwd; id -u\necho complaint >&2\nread word\nthis is input\necho $word\nexit 7\necho late\n";
    let ended = feed(&mut viv(&["run", "debian"]), commands);
    assert_eq!((ended.text().as_str(), ended.stderr.as_str()), ("/etc\n0\nthis is input\n", "complaint\n"));
    assert_eq!(ended.status, 7);
}

#[test]
fn the_kernel_has_nothing_to_complain_about() {
    let dmesg = ["dmesg", "--level=emerg,alert,crit,err,warn"];
    let said = feed(viv(&["run", "--cpus", "2", "debian", "--"]).args(dmesg), b"").succeeded();
    // A host that is busy with other things makes everything take long.
    let complaints: Vec<&str> =
        said.lines().filter(|line| !line.contains("hrtimer: interrupt took")).collect();
    assert_eq!(complaints, [""; 0]);
}
