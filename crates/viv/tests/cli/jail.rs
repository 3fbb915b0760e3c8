//! The jail of a running machine's process, as the host sees it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Child;

use rustix::process::{Pid, Signal, geteuid, kill_process};

use crate::direct::{ended, feed, started, vm_process};
use crate::guest::Guest;

/// A user that nobody is.
const STRANGER: u32 = 54_321;

/// The process in the jail: the only child of the one that `viv run` started.
fn inmate(viv: &Child) -> Pid {
    let parent = vm_process(viv).as_raw_nonzero();
    let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).expect("children");
    Pid::from_raw(children.trim().parse().expect("one child")).expect("a process")
}

/// The value of a line of a thread's status.
fn value<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name} in {status}")).trim()
}

/// Whether this is root, whom the host shows what the test looks at.
fn is_root(what: &str) -> bool {
    let root = geteuid().is_root();
    if !root {
        // Past the capture of output: nobody reads the output of a test that passes.
        let _ = writeln!(std::io::stderr(), "NOT TESTED: {what}: it takes root");
    }
    root
}

#[test]
fn no_thread_has_any_rights() {
    let (mut child, _said) = started(&mut Guest::new().run(&[]));
    let process = inmate(&child).as_raw_nonzero();
    let mut threads = Vec::new();
    for task in fs::read_dir(format!("/proc/{process}/task")).expect("threads") {
        let status = fs::read_to_string(task.expect("a thread").path().join("status")).expect("a status");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            // The bounding set is for those to empty who have the capability to do it.
            if set != "CapBnd" || geteuid().is_root() {
                assert_eq!(value(&status, set), "0000000000000000", "{set} in {status}");
            }
        }
        assert_eq!((value(&status, "NoNewPrivs"), value(&status, "Seccomp")), ("1", "2"), "{status}");
        // Answers to looks, the base, and its own.
        assert_eq!(value(&status, "Seccomp_filters"), "3", "{status}");
        threads.push(value(&status, "Name").to_owned());
    }
    for name in ["viv-vmm", "vcpu0", "devices", "stream-in", "stream-out", "alarm"] {
        assert!(threads.iter().any(|thread| thread == name), "{name} is not among {threads:?}");
    }
    child.stdin.take().expect("piped").write_all(b"q").expect("fed");
    assert_eq!(ended(child), (0, String::new()));
}

#[test]
fn the_process_is_alone_in_an_empty_place() {
    if !is_root("namespaces and root of the VM process") {
        return;
    }
    let (mut child, _said) = started(&mut Guest::new().run(&[]));
    let process = Path::new("/proc").join(inmate(&child).as_raw_nonzero().to_string());
    for namespace in ["user", "pid", "mnt", "ipc", "uts", "net", "cgroup"] {
        let of = |process: &Path| fs::read_link(process.join("ns").join(namespace)).expect("a namespace");
        assert_ne!(of(&process), of(Path::new("/proc/self")), "{namespace}");
    }
    assert_eq!(fs::read_dir(process.join("root")).expect("its root").count(), 0);
    let written = fs::write(process.join("root/file"), "");
    assert!(written.is_err(), "its root can be written");
    let limits = fs::read_to_string(process.join("limits")).expect("limits");
    for (limit, most) in [("Max core file size", 0), ("Max processes", 0), ("Max open files", 100)] {
        let line = limits.lines().find_map(|line| line.strip_prefix(limit)).expect("a limit");
        let hard: u64 = line.split_whitespace().nth(1).expect("a number").parse().expect("a limit");
        assert!(hard <= most, "{limit}: {line}");
    }
    child.stdin.take().expect("piped").write_all(b"q").expect("fed");
    assert_eq!(ended(child), (0, String::new()));
}

#[test]
fn what_the_starter_has_open_is_closed() {
    if !is_root("descriptors of the VM process") {
        return;
    }
    let guest = Guest::new();
    let secret = guest.write("secret", b"");
    // A shell gives what it has open to all that it starts.
    let mut viv = std::process::Command::new("sh");
    let run = guest.run(&[]);
    viv.args(["-c", r#"exec 7<secret; exec "$@""#, "sh"]).arg(run.get_program()).args(run.get_args());
    let (mut child, _said) = started(viv.current_dir(guest.path(".")));
    let process = inmate(&child).as_raw_nonzero();
    let open: Vec<_> = fs::read_dir(format!("/proc/{process}/fd"))
        .expect("descriptors")
        .map(|fd| fs::read_link(fd.expect("a descriptor").path()).expect("a link"))
        .collect();
    assert!(open.iter().any(|path| path.ends_with("guest.elf")), "{open:?}");
    assert!(!open.contains(&secret), "{open:?}");
    child.stdin.take().expect("piped").write_all(b"q").expect("fed");
    assert_eq!(ended(child), (0, String::new()));
}

#[test]
fn a_process_that_is_killed_in_its_jail_is_told_and_leaves_nothing() {
    let mounts = || fs::read_to_string("/proc/self/mounts").expect("mounts").lines().count();
    let guest = Guest::new();
    let scratch = guest.path("scratch");
    fs::create_dir(&scratch).expect("a directory");
    guest.write("disk", &[0; 4096]);
    let mut viv = guest.run(&["--disk", "disk,temporary"]);
    let (child, _said) = started(viv.env("TMPDIR", &scratch));
    let (process, before) = (inmate(&child), mounts());
    kill_process(process, Signal::KILL).expect("killed");
    let (status, line) = ended(child);
    assert_eq!((status, line.lines().count()), (125, 1), "{line}");
    assert!(line.contains("the VM process died: it was killed (SIGKILL)"), "{line}");
    assert!(!Path::new("/proc").join(process.as_raw_nonzero().to_string()).exists(), "it is still there");
    assert_eq!(fs::read_dir(&scratch).expect("read").count(), 0, "it left a file");
    assert_eq!(mounts(), before, "it left a mount");
}

#[test]
fn an_ordinary_user_runs_a_guest() {
    if !is_root("viv run as another user") {
        return;
    }
    let viv = Path::new(env!("CARGO_BIN_EXE_viv"));
    let open = |path: &Path| fs::metadata(path).is_ok_and(|found| found.mode() & 0o001 != 0);
    if !viv.ancestors().all(open) {
        let _ =
            writeln!(std::io::stderr(), "NOT TESTED: viv run as another user: {} is not open", viv.display());
        return;
    }
    let guest = Guest::new();
    fs::set_permissions(guest.path("."), fs::Permissions::from_mode(0o755)).expect("permissions");
    for engine in ["soft", "auto"] {
        let mut viv = guest.run_on(engine, &[]);
        let output = feed(viv.uid(STRANGER).gid(STRANGER), b"q");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
}

#[test]
fn no_jail_is_loud() {
    let (mut child, _said) = started(&mut Guest::new().run(&["--jail", "off"]));
    let process = vm_process(&child).as_raw_nonzero();
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("a status");
    assert_eq!(value(&status, "Seccomp"), "0");
    child.stdin.take().expect("piped").write_all(b"q").expect("fed");
    let (code, said) = ended(child);
    assert!(said.starts_with("viv: --jail off: a guest that takes its VM process over"), "{said}");
    assert_eq!(code, 0, "{said}");
}
