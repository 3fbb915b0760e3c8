//! `--share`: what is refused, and what a machine without an agent does with one.

use std::fs;

use crate::direct::feed;
use crate::guest::Guest;

#[test]
fn what_cannot_be_shared_is_said_in_a_line() {
    let guest = Guest::new();
    let file = guest.write("file", b"").display().to_string();
    let directory = guest.path("directory");
    fs::create_dir(&directory).expect("a directory");
    let directory = directory.display().to_string();
    let twice = [format!("{directory}:/mnt"), format!("{directory}:/mnt/")];
    for (shares, complaint) in [
        (vec!["/nonexistent:/mnt".to_owned()], "--share /nonexistent:/mnt: No such file"),
        (vec![format!("{file}:/mnt")], "Not a directory"),
        (vec![format!("{directory}:mnt")], "'mnt' is no place in the guest"),
        (vec![format!("{directory}:/mnt,rw")], "the option 'rw' is not known"),
        (twice.to_vec(), "another share is given for the same place; give each a place of its own"),
    ] {
        let options: Vec<&str> = shares.iter().flat_map(|share| ["--share", share.as_str()]).collect();
        let output = feed(&mut guest.run(&options), b"q");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(125), "{said}");
        assert!(said.to_lowercase().contains(&complaint.to_lowercase()), "{complaint} is not in {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn a_machine_with_a_share_ends_like_any_other() {
    let guest = Guest::new();
    let directory = guest.path("directory");
    fs::create_dir(&directory).expect("a directory");
    let share = format!("{}:/mnt,ro,cache=none", directory.display());
    let output = feed(&mut guest.run(&["--share", &share]), b"hello\nq");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "ready\nhello\n");
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}
