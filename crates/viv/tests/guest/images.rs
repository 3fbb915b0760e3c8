//! `viv image`: the images of this host.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Child;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use tempfile::TempDir;

use crate::debian::{at, debian, image, viv};
use crate::ended::{Guard, feed, start, wait};

#[test]
fn images_are_listed_for_people_and_for_programs() {
    let version = image().metadata().kernel_version.clone();
    let table = feed(&mut viv(&["image", "ls"]), b"").succeeded();
    let row = table.lines().find(|line| line.starts_with("debian:bookworm")).expect("listed");
    assert!(row.contains("ready") && row.contains(&version), "{table}");
    let json = feed(&mut viv(&["image", "ls", "-o", "json"]), b"").succeeded();
    let listing: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let entry = &listing["images"][0];
    assert_eq!((&entry["name"], &entry["kernel_version"]), (&"debian:bookworm".into(), &version.into()));
    assert_eq!(listing["available"], serde_json::json!(["debian:trixie"]));
}

#[test]
fn guests_share_an_image_and_hold_it() {
    let mut guests: Vec<(Child, Guard)> = (0..2)
        .map(|_| {
            let viv = start(&mut debian(&["bash", "-c", "echo up; read word; echo $word"]));
            let guard = Guard::of(&viv);
            (viv, guard)
        })
        .collect();
    for (viv, _) in &mut guests {
        let mut line = [0; 3];
        std::io::Read::read_exact(viv.stdout.as_mut().expect("piped"), &mut line).expect("said");
        assert_eq!(&line, b"up\n");
    }
    let refused = feed(&mut viv(&["image", "rm", "debian"]), b"");
    assert_eq!((refused.status, refused.stderr.lines().count()), (1, 1), "{refused:?}");
    assert!(refused.stderr.contains("in use by a running guest"), "{refused:?}");
    for (mut viv, _guard) in guests {
        std::io::Write::write_all(&mut viv.stdin.take().expect("piped"), b"word\n").expect("fed");
        assert_eq!(wait(viv).succeeded(), "word\n");
    }
}

#[test]
fn an_unknown_image_is_answered_with_the_nearest_names() {
    for command in [&["run", "debain"][..], &["image", "rm", "debain"], &["image", "build", "debain"]] {
        let refused = feed(&mut viv(command), b"");
        assert_eq!((refused.status != 0, refused.stderr.lines().count()), (true, 1), "{refused:?}");
        assert!(refused.stderr.contains("debain") && refused.stderr.contains("mean debian"), "{refused:?}");
    }
}

#[test]
fn a_build_that_is_called_off_leaves_nothing() {
    // The store of the others is not built at the same time: both would wait for the host's apt.
    drop(image());
    for (signal, status) in [(Signal::TERM, Some(143)), (Signal::KILL, None)] {
        let home = TempDir::new().expect("a directory");
        let mut viv = start(at(home.path()).args(["image", "build", "debian"]));
        let guard = Guard::of(&viv);
        let work = home.path().join("building/debian-bookworm/scratch/root");
        let deadline = Instant::now() + Duration::from_secs(120);
        while fs::read_dir(&work).map_or(0, Iterator::count) == 0 {
            assert!(viv.try_wait().expect("waited for").is_none(), "{:?}", wait(viv));
            assert!(Instant::now() < deadline, "nothing is installed in {}", work.display());
            thread::sleep(Duration::from_millis(20));
        }
        let programs = below(viv.id());
        assert!(!programs.is_empty());
        kill_process(Pid::from_child(&viv), signal).expect("killed");
        assert_eq!(viv.wait().expect("ends").code(), status);
        drop(guard);
        for program in programs {
            assert!(has_ended(&program), "a program of the build goes on after {signal:?}");
        }
        // The next use of the store clears away what a process that was killed could not.
        let listed = feed(at(home.path()).args(["image", "ls", "-o", "json"]), b"").succeeded();
        assert!(listed.contains("\"images\": []"), "{listed}");
        let left = entries(&home.path().join("building"));
        assert!(left.is_empty(), "after {signal:?}: {left:?}");
        assert!(entries(&home.path().join("images")).is_empty());
        let mounts = fs::File::open("/proc/self/mounts").expect("mounts");
        let ours = home.path().to_str().expect("text");
        assert!(!BufReader::new(mounts).lines().map_while(Result::ok).any(|line| line.contains(ours)));
    }
}

fn entries(directory: &Path) -> Vec<std::ffi::OsString> {
    fs::read_dir(directory).expect("there").map(|entry| entry.expect("read").file_name()).collect()
}

/// The processes that a process started.
fn below(process: u32) -> Vec<OwnedFd> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("a process");
    let children = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    let ids: Vec<i32> = children
        .flat_map(|line| line.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>())
        .collect();
    ids.iter().filter_map(|&id| pidfd_open(Pid::from_raw(id)?, PidfdFlags::empty()).ok()).collect()
}

/// Whether a process ends before long: its descriptor is readable from then on.
fn has_ended(process: &OwnedFd) -> bool {
    let patience = Timespec { tv_sec: 20, tv_nsec: 0 };
    poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&patience)).expect("polled") == 1
}
