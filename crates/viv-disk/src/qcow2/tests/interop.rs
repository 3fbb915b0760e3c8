//! Images that QEMU made.

use super::model::{Step, any_step, apply};
use super::*;
use crate::testing::model::{Step as Plain, read_all};

/// An image in a directory of its own, with what QEMU says is in it.
struct Made {
    directory: tempfile::TempDir,
    path: PathBuf,
    cluster: u64,
}

/// Makes one with random options and writes.
fn made(random: &mut Random) -> Made {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.qcow2");
    let compat = random.one_of(&["0.10", "1.1", "1.1"]);
    let mut cluster = random.one_of(&[512, 4096, 16 << 10, 64 << 10]);
    let mut options = format!("compat={compat}");
    if compat == "1.1" {
        let extended = random.chance(3);
        cluster = if extended { cluster.max(16 << 10) } else { cluster };
        let bits = random.one_of(&[1, 8, 16, 64]);
        let how = random.one_of(&["zlib", "zstd"]);
        let lazy = random.one_of(&["on", "off"]);
        options += &format!(
            ",extended_l2={extended},refcount_bits={bits},compression_type={how},lazy_refcounts={lazy}"
        );
        options = options.replace("true", "on").replace("false", "off");
    }
    options += &format!(",cluster_size={cluster}");
    let size = 30 * cluster + random.below(100) * 512;
    let file = path.to_str().unwrap();
    let mut create = vec!["create", "-q", "-f", "qcow2", "-o", &options];
    if random.chance(2) {
        let base = directory.path().join("base.qcow2");
        let base = base.to_str().unwrap();
        let length = (size / 2).to_string();
        tool::ok("qemu-img", &["create", "-q", "-f", "qcow2", base, &length]);
        tool::ok("qemu-io", &["-c", &format!("write -q -P 99 4096 {}", size / 4 / 512 * 512), base]);
        create.extend(["-b", "base.qcow2", "-F", "qcow2"]);
    }
    let size = size.to_string();
    create.extend([file, &size]);
    tool::ok("qemu-img", &create);
    let mut commands = Vec::new();
    for number in 0..12 {
        let size: u64 = size.parse().unwrap();
        let offset = random.below(size) / 512 * 512;
        let length = (random.below(4 * cluster) / 512 * 512 + 512).min(size - offset);
        let whole = offset / cluster * cluster;
        // QEMU compresses only where nothing is yet.
        let compressed = number == 0 && size - whole >= cluster;
        commands.push(match random.below(6) {
            _ if compressed => format!("write -q -c -P {} {whole} {cluster}", random.below(255)),
            1 => format!("write -q -z {offset} {length}"),
            2 => format!("discard -q {offset} {length}"),
            _ => format!("write -q -P {} {offset} {length}", random.below(255)),
        });
    }
    let mut arguments: Vec<&str> = commands.iter().flat_map(|command| ["-c", command]).collect();
    arguments.push(file);
    tool::ok("qemu-io", &arguments);
    Made { directory, path, cluster }
}

#[test]
fn what_qemu_wrote_is_read_and_written() {
    if !tool::is_there() {
        return;
    }
    for seed in 1..=setting("VIV_QCOW2_CASES", 60) / 3 {
        let random = &mut Random::new(seed);
        let Made { directory, path, cluster } = made(random);
        let mut bytes = tool::contents(Format::Qcow2, &path);
        let found = findings(&path);
        assert_eq!((found.errors, found.leaks), (0, 0), "seed {seed}: {:?}", found.notes);
        // A refcount of one bit has no room for a snapshot.
        let snapshot = info(&path).unwrap().refcount_bits > 1 && random.chance(2);
        let before = bytes.clone();
        if snapshot {
            tool::ok("qemu-img", &["snapshot", "-c", "before", path.to_str().unwrap()]);
        }
        let disk = reopen(&path);
        assert!(read_all(&disk) == bytes, "seed {seed}");
        for _ in 0..30 {
            let step = any_step(random, disk.size, cluster);
            if !matches!(step, Step::Plain(Plain::Reopen)) {
                apply(&disk, &mut bytes, step);
            }
        }
        assert!(read_all(&disk) == bytes, "seed {seed}: after writes");
        drop(disk);
        assert_eq!(tool::check(Format::Qcow2, &path), tool::Found::Nothing, "seed {seed}");
        let found = findings(&path);
        assert_eq!((found.errors, found.leaks), (0, 0), "seed {seed}: {:?}", found.notes);
        assert!(tool::contents(Format::Qcow2, &path) == bytes, "seed {seed}: QEMU reads something else");
        if snapshot {
            assert_eq!(info(&path).unwrap().snapshots[0].name, "before");
            tool::ok("qemu-img", &["snapshot", "-a", "before", path.to_str().unwrap()]);
            assert!(tool::contents(Format::Qcow2, &path) == before, "seed {seed}: the snapshot is damaged");
        }
        drop(directory);
    }
}

#[test]
fn sizes_change_and_images_are_emptied() {
    let qemu = tool::is_there();
    for seed in 1..=20 {
        let random = &mut Random::new(seed);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk.qcow2");
        let options = any_options(random);
        let backing = options.version > 2 && random.chance(2);
        let options = CreateOptions { backing: backing.then(|| ("base".into(), Format::Raw)), ..options };
        std::fs::write(directory.path().join("base"), vec![9; 400_384]).unwrap();
        create(&path, 100_352, &options).unwrap();
        let disk = reopen(&path);
        disk.write_at(50_000, &[1; 50_352]).unwrap();
        drop(disk);
        assert!(resize(&path, 512, false).is_err());
        let sizes = [1 << 20, 60_416, 500_224];
        for size in sizes {
            patiently(|| resize(&path, size, true));
            let bytes = read_all(&reopen(&path));
            assert_eq!(bytes.len() as u64, size);
            let below = if backing { 9 } else { 0 };
            assert!(bytes[..50_000].iter().all(|byte| *byte == below), "seed {seed}, {options:?}");
            assert!(bytes[50_000..60_416].iter().all(|byte| *byte == 1), "seed {seed}, {options:?}");
            assert!(
                bytes[100_352.min(bytes.len())..].iter().all(|byte| *byte == 0),
                "seed {seed}, {options:?}"
            );
            let found = findings(&path);
            assert_eq!((found.errors, found.leaks), (0, 0), "seed {seed}, {options:?}: {:?}", found.notes);
        }
        reopen(&path).make_empty().unwrap();
        let bytes = read_all(&reopen(&path));
        assert_eq!(bytes[60_000], if backing { 9 } else { 0 });
        patiently(|| set_backing(&path, None));
        assert!(read_all(&reopen(&path)).iter().all(|byte| *byte == 0));
        let found = findings(&path);
        assert_eq!((found.errors, found.leaks), (0, 0), "seed {seed}, {options:?}: {:?}", found.notes);
        if qemu {
            assert_eq!(tool::check(Format::Qcow2, &path), tool::Found::Nothing);
        }
    }
}

#[test]
fn chains_that_bite_their_tails_end() {
    let directory = tempfile::tempdir().unwrap();
    let [one, two] = ["one.qcow2", "two.qcow2"].map(|name| directory.path().join(name));
    let below = |name: &str| CreateOptions {
        backing: Some((name.into(), Format::Qcow2)),
        ..CreateOptions::default()
    };
    create(&one, 65536, &below("two.qcow2")).unwrap();
    create(&two, 65536, &below("one.qcow2")).unwrap();
    let why = loop {
        let mut error: &dyn std::error::Error = &Qcow2Disk::open(&one, Access::ReadOnly).unwrap_err();
        while let Some(source) = error.source() {
            error = source;
        }
        // A program that another test starts has the lock for a moment.
        match error.to_string() {
            locked if locked.contains("is in use") => std::thread::yield_now(),
            why => break why,
        }
    };
    assert!(why.contains("below itself"), "{why}");
}

#[test]
fn a_dirty_image_is_refused_until_it_is_repaired() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.qcow2");
    create(&path, 1 << 20, &CreateOptions::default()).unwrap();
    let disk = reopen(&path);
    disk.write_at(0, &[5; 200_000]).unwrap();
    drop(disk);
    // What an unclean end with lazy refcounts leaves: the flag, and no counts.
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[79] |= 1;
    let header = Header::decode(&bytes[..65536]).unwrap();
    let block = crate::bytes::be64(&bytes, header.refcount_table as usize) as usize;
    bytes[block..block + 65536].fill(0);
    std::fs::write(&path, &bytes).unwrap();
    let error = Qcow2Disk::open(&path, Access::ReadWrite).unwrap_err().to_string();
    assert!(error.contains("--repair"), "{error}");
    Qcow2Disk::open(&path, Access::ReadOnly).unwrap();
    let found = findings(&path);
    assert!(found.errors > 5, "{found:?}");
    let found = patiently(|| check(&path, Repair::All));
    assert_eq!((found.errors, found.leaks), (0, 0), "{found:?}");
    assert!(read_all(&reopen(&path))[..200_000].iter().all(|byte| *byte == 5));
    if tool::is_there() {
        assert_eq!(tool::check(Format::Qcow2, &path), tool::Found::Nothing);
    }
}
