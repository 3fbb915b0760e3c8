//! Every way to get the command line wrong: one line, and a status that is not zero.

use assert_cmd::Command;

/// Runs `viv` with these words; its status and what it complained.
fn complaint(words: &str) -> (i32, String) {
    let output = Command::cargo_bin("viv").expect("viv").args(words.split(' ')).output().expect("runs");
    assert!(output.stdout.is_empty(), "{words}: {output:?}");
    let line = String::from_utf8(output.stderr).expect("text");
    assert_eq!(line.lines().count(), 1, "{words}: {line}");
    (output.status.code().expect("no signal"), line.trim_end().to_owned())
}

/// Asserts the line for each command line.
fn assert_complaints(status: i32, cases: &[(&str, &str)]) {
    for (words, line) in cases {
        assert_eq!(complaint(words), (status, format!("viv: {line}")), "{words}");
    }
}

#[test]
fn what_run_does_not_understand_fails_with_125() {
    assert_complaints(
        125,
        &[
            ("run", "IMAGE is missing; see viv run --help"),
            (
                "run --memry 1G debian",
                "--memry: there is no such option, and nothing more is expected here; did you mean --memory?",
            ),
            ("run --engine kvmm debian", "--engine kvmm: there is no such choice; give auto, soft, kvm"),
            (
                "run --cpus two debian",
                "--cpus two: a machine has from 1 to 254 processors; give a number of them",
            ),
            (
                "run --cpus 0 debian",
                "--cpus 0: a machine has from 1 to 254 processors; give a number of them",
            ),
            (
                "run --cpus 255 debian",
                "--cpus 255: a machine has from 1 to 254 processors; give a number of them",
            ),
            (
                "run --cpus -1 debian",
                "--cpus -1: a machine has from 1 to 254 processors; give a number of them",
            ),
            (
                "run --engine-opt teir=auto debian",
                "--engine-opt: the soft engine has no option 'teir'; give tier=interp|translate|auto, torture=SEED, code-memory=KIB or perf-map=on|off",
            ),
            (
                "run --engine-opt tier=jit --kernel a",
                "--engine-opt: the engine option 'tier' cannot be 'jit'; give interp, translate or auto",
            ),
            (
                "run --engine-opt torture debian",
                "--engine-opt: the engine option 'torture' has no value; give a seed, which is a number below 2^64",
            ),
            ("run --kernel a debian", "--kernel: it does not go with IMAGE; give one of them"),
            ("run --kernel a --keep b", "--kernel: it does not go with --keep; give one of them"),
            ("run --kernel a --kernel b", "--kernel: it is given more than once; give it once"),
            (
                "run --initrd a debian",
                "--initrd: it is for a kernel that is booted directly; give --kernel FILE",
            ),
            (
                "run --firmware bios --append a",
                "--append: it is for a kernel that is booted directly; give --kernel FILE",
            ),
            (
                "run --no-reboot debian",
                "--no-reboot: it is for a kernel that is booted directly and for firmware; give --kernel FILE or --firmware bios",
            ),
            (
                "run --send-keys a debian",
                "--send-keys: the machine has neither display nor keyboard; start it with --firmware",
            ),
            (
                "run --screenshot-on-exit a --kernel b",
                "--screenshot-on-exit: the machine has neither display nor keyboard; start it with --firmware",
            ),
            (
                "run --send-keys <esc --firmware bios",
                "--send-keys <esc: '<' begins the name of a key and there is no '>' behind it: give <lt> for the character",
            ),
            (
                "run --kernel a --disk b,ro",
                "--disk b,ro: the disk option 'ro' is not known; 'readonly', 'writable', 'temporary', 'sata', \
                 'virtio', 'format=', 'cache=', 'aio=', 'queues=', 'serial=', 'iops=' and 'bps=' are",
            ),
            (
                "run --kernel a --disk ,readonly",
                "--disk ,readonly: no file is named; give FILE, or FILE,readonly",
            ),
        ],
    );
}

#[test]
fn memory_that_is_none_is_refused() {
    assert_complaints(
        125,
        &[
            (
                "run --memory much debian",
                "--memory much: this is not an amount of memory; give a number with K, M, G or T, like 512M or 2G",
            ),
            (
                "run --memory 512Q debian",
                "--memory 512Q: the unit 'Q' is not known; give a number with K, M, G or T, like 512M or 2G",
            ),
            (
                "run --memory -1G debian",
                "--memory -1G: an amount of memory cannot be negative; give a number with K, M, G or T, like 512M or 2G",
            ),
            (
                "run --memory 99999999T debian",
                "--memory 99999999T: no machine has that much memory; give less",
            ),
        ],
    );
    assert_complaints(
        125,
        &[
            ("run --memory 0 --kernel a", "--memory 0: too little, 16M is the least; give more, like 512M"),
            ("run --memory 17 --kernel a", "--memory 17: too little, 16M is the least; give more, like 512M"),
            ("run --memory 64M debian", "--memory 64M: too little, 128M is the least; give more, like 512M"),
            (
                "run --memory 20000001 --kernel a",
                "--memory 20000001: not a multiple of 4096 bytes; give a rounder number, like 512M",
            ),
        ],
    );
    let (status, line) = complaint("run --memory 9999T debian");
    assert_eq!(status, 125);
    let start = "viv: --memory 9999T: more than this host has, which with its swap is ";
    assert!(line.starts_with(start) && line.ends_with("M; give less"), "{line}");
}

#[test]
fn other_commands_fail_with_2() {
    assert_complaints(
        2,
        &[
            ("rum debian", "rum: viv has no such command; did you mean run?"),
            ("image lss", "lss: viv image has no such command; did you mean ls?"),
            ("image rm", "NAME is missing; see viv image rm --help"),
            (
                "host check now",
                "now: there is no such option, and nothing more is expected here; see viv host check --help",
            ),
            ("host check -o yaml", "--output yaml: there is no such choice; give table, json"),
        ],
    );
}

#[test]
fn without_a_command_the_help_is_shown() {
    for words in [&[][..], &["image"], &["host"]] {
        let output = Command::cargo_bin("viv").expect("viv").args(words).output().expect("runs");
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains("Commands:"), "{words:?}");
    }
}
