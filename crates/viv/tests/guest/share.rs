//! Directories of the host in guests.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

use crate::debian::viv;
use crate::ended::{Ended, feed};

/// A user that nobody is.
const STRANGER: u32 = 54_321;

/// A directory, and one below that is shared, with a secret beside.
fn shared() -> (TempDir, PathBuf) {
    let home = TempDir::new().expect("a directory");
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).expect("readable");
    let directory = home.path().join("shared");
    fs::create_dir(&directory).expect("a directory");
    fs::write(home.path().join("secret"), "of the host").expect("written");
    (home, directory)
}

/// `viv run` of a script for bash, with a directory shared in this way.
fn with(share: &str, script: &str) -> Command {
    viv(&["run", "--net", "none", "--share", share, "debian", "--", "bash", "-c", script])
}

fn bash(directory: &Path, options: &str, script: &str) -> Ended {
    feed(&mut with(&format!("{}:/mnt/shared{options}", directory.display()), script), b"")
}

/// What the host finds of a directory: each file's name, kind, mode, names and content.
fn checksums(directory: &Path) -> String {
    let script = "find . -printf '%p %y %m %n %l\n' | LC_ALL=C sort | sha256sum
        find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum";
    let output = Command::new("bash").args(["-c", script]).current_dir(directory).output().expect("bash");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_tree_is_the_same_on_both_sides() {
    let (_home, directory) = shared();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guest/programs/tree.c");
    let program = directory.join("tree");
    let mut gcc = Command::new("gcc");
    gcc.args(["-O1", "-static", "-o"]).arg(&program).arg(source);
    assert!(gcc.status().expect("gcc").success());
    let script = "cd /mnt/shared && umask 022 && mkdir work && ./tree work && cd work
        find . -printf '%p %y %m %n %l\n' | LC_ALL=C sort | sha256sum
        find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum";
    let said = bash(&directory, "", script).succeeded();
    let expected = "10000 made\n8000 left, 4000 moved or linked\n2 names of one file\n\
                    sparse: 209715203 bytes, a hole before 1, data again: 1\n\
                    mapped: 1\ngone: 0 names, 1 byte\n";
    assert_eq!(said, format!("{expected}{}", checksums(&directory.join("work"))));
}

#[test]
fn links_lead_where_they_do_in_the_guest() {
    let (home, directory) = shared();
    symlink("../secret", directory.join("relative")).expect("a link");
    symlink(home.path().join("secret"), directory.join("absolute")).expect("a link");
    symlink("/etc/hostname", directory.join("hostname")).expect("a link");
    let script = "cd /mnt/shared
        cat relative absolute ../secret 2>/dev/null || echo nothing
        cmp hostname /etc/hostname && echo the guest\\'s own
        cd .. && ls -d shared";
    assert_eq!(bash(&directory, "", script).succeeded(), "nothing\nthe guest's own\nshared\n");
}

#[test]
fn what_is_for_reading_is_not_changed() {
    let (_home, directory) = shared();
    fs::write(directory.join("file"), "as it was\n").expect("written");
    let script = "cat /mnt/shared/file
        touch /mnt/shared/new 2>/dev/null || echo refused
        mount -o remount,rw /mnt/shared
        for try in 'touch new' 'rm file' 'chmod 777 file' 'mv file other' 'truncate -s 0 file' 'mkdir d'; do
            (cd /mnt/shared && $try) 2>&1 | grep -o 'Read-only.*'
        done";
    let said = bash(&directory, ",ro", script).succeeded();
    assert_eq!(said, format!("as it was\nrefused\n{}", "Read-only file system\n".repeat(6)));
    assert_eq!(fs::read(directory.join("file")).expect("there"), b"as it was\n");
    assert_eq!(fs::read_dir(&directory).expect("there").count(), 1);
}

#[test]
fn what_an_ordinary_users_guest_makes_is_that_users() {
    let program = Path::new(env!("CARGO_BIN_EXE_viv"));
    let open = |path: &Path| fs::metadata(path).is_ok_and(|found| found.mode() & 0o001 != 0);
    if !geteuid().is_root() || !program.ancestors().all(open) {
        eprintln!(
            "NOT TESTED: shares of an ordinary user: it takes root, and a program that others can reach"
        );
        return;
    }
    let (_home, directory) = shared();
    std::os::unix::fs::chown(&directory, Some(STRANGER), Some(STRANGER)).expect("given away");
    fs::write(directory.join("roots"), "").expect("written");
    let script = "cd /mnt/shared; touch file; mkdir -m 555 closed; touch closed/in; chown root:root file
        stat -c '%n %u %g' *; chown daemon file 2>&1 | grep -o 'not permitted'";
    let share = format!("{}:/mnt/shared", directory.display());
    let ended = feed(with(&share, script).uid(STRANGER).gid(STRANGER), b"");
    let said = "closed 0 0\nfile 0 0\nroots 65534 65534\nnot permitted\n";
    assert_eq!((ended.status, ended.text().as_str()), (0, said), "{ended:?}");
    for name in ["file", "closed", "closed/in"] {
        assert_eq!(fs::metadata(directory.join(name)).expect("there").uid(), STRANGER, "{name}");
    }
}

#[test]
fn a_server_that_dies_leaves_the_machine() {
    let (_home, directory) = shared();
    fs::write(directory.join("file"), "content").expect("written");
    let script = "cat /mnt/shared/file; echo; read; ls /mnt/shared/other 2>&1 | grep -o 'Input/output error'; echo alive";
    let mut viv = with(&format!("{}:/mnt/shared", directory.display()), script);
    viv.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = viv.spawn().expect("viv");
    let mut said = std::io::BufReader::new(child.stdout.take().expect("piped"));
    let mut line = String::new();
    std::io::BufRead::read_line(&mut said, &mut line).expect("a line");
    assert_eq!(line, "content\n");
    kill_process(server(child.id(), &directory), Signal::KILL).expect("killed");
    // Its input is what the guest waits for.
    drop(child.stdin.take());
    line.clear();
    std::io::Read::read_to_string(&mut said, &mut line).expect("what it says");
    assert_eq!(line, "Input/output error\nalive\n");
    let output = child.wait_with_output().expect("its complaint");
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{complaint}");
    assert!(complaint.contains(&format!("viv: {}: ", directory.display())), "{complaint}");
}

/// The process that serves a directory for this `viv run`.
fn server(viv: u32, directory: &Path) -> Pid {
    let children = fs::read_to_string(format!("/proc/{viv}/task/{viv}/children")).expect("children");
    let serves = |child: &&str| {
        let line = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line)
            .contains(&format!("share\0--cache\0auto\0--jail\0on\0--\0{}", directory.display()))
    };
    let found = children.split_whitespace().find(serves).expect("a server");
    Pid::from_raw(found.parse().expect("a number")).expect("a process")
}
