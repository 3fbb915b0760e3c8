//! Disks that are kept, and those that are not.

use std::fs::File;
use std::hash::{DefaultHasher, Hasher};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::debian::{bash, image, viv};
use crate::ended::feed;

#[test]
fn what_a_guest_writes_is_kept_by_name_alone() {
    let name = "kept-by-a-test";
    let base = image().root();
    let before = fingerprint(&base);
    // A run that was interrupted may have left one.
    feed(&mut viv(&["image", "rm", name]), b"");
    let kept = |script: &str| {
        feed(&mut viv(&["run", "--keep", name, "debian", "--", "sh", "-c", script]), b"").succeeded()
    };
    assert_eq!(kept("seq 100000 >/root/note; ls /root; rm /etc/motd"), "note\n");
    assert_eq!(bash("ls /root /etc/motd").succeeded(), "/etc/motd\n\n/root:\n");
    // A file system that was not unmounted would have been recovered.
    // Another disk stands behind the system's own.
    let script = "test -e /etc/motd || echo gone; tail -n 1 /root/note; ! dmesg | grep recovery; head -c 4 /dev/vdb; \
        printf guest | dd of=/dev/vdb conv=notrunc status=none";
    let mut data = tempfile::NamedTempFile::new().expect("a file");
    data.write_all(b"host").and_then(|()| data.as_file().set_len(1 << 20)).expect("a disk");
    let disk = format!("{},format=raw", data.path().display());
    let mut with_disk = viv(&["run", "--keep", name, "--disk", &disk, "debian", "--", "sh", "-c", script]);
    assert_eq!(feed(&mut with_disk, b"").succeeded(), "gone\n100000\nhost");
    assert_eq!(std::fs::read(data.path()).expect("the disk")[..5], *b"guest");
    let listed = feed(&mut viv(&["image", "ls"]), b"").succeeded();
    assert!(listed.contains(name), "{listed}");
    assert_eq!(feed(&mut viv(&["image", "rm", name]), b"").succeeded(), format!("removed {name}\n"));
    assert_eq!(fingerprint(&base), before);
}

/// What tells whether a file was written to: its content without the holes, and what of it is there.
fn fingerprint(path: &Path) -> (u64, u64, i64) {
    let file = File::open(path).expect("the disk");
    let mut hasher = DefaultHasher::new();
    let mut chunk = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        at = match seek(&file, SeekFrom::Data(at)) {
            Ok(data) => data,
            Err(Errno::NXIO) => break,
            Err(error) => panic!("{error}"),
        };
        let end = seek(&file, SeekFrom::Hole(at)).expect("a hole");
        while at < end {
            let length = chunk.len().min((end - at) as usize);
            file.read_exact_at(&mut chunk[..length], at).expect("read");
            // What was not written to the disk yet may be a hole or zeroes.
            for (block, offset) in chunk[..length].chunks(4096).zip((at..).step_by(4096)) {
                if block.iter().any(|&byte| byte != 0) {
                    hasher.write_u64(offset);
                    hasher.write(block);
                }
            }
            at += length as u64;
        }
    }
    let metadata = file.metadata().expect("metadata");
    (hasher.finish(), metadata.blocks(), metadata.mtime())
}
