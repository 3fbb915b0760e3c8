//! Random requests to an image, and to bytes in memory.

use super::*;
use crate::testing::model::{self, Step as Plain, pattern, read_all};

/// One request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// Such as any disk serves.
    Plain(Plain),
    Compressed(u64, u8),
}

pub(super) fn any_step(random: &mut Random, size: u64, cluster: u64) -> Step {
    let (mut offset, mut length) = (random.below(size), {
        let longest = random.below(6 * cluster) + 1;
        random.below(longest) + 1
    });
    if random.chance(2) {
        (offset, length) = (offset / cluster * cluster, (length / cluster + 1) * cluster);
    }
    let length = length.min(size - offset);
    let fill = random.number() as u8 | 1;
    match random.below(16) {
        0..8 => Step::Plain(Plain::Write(offset, length, fill)),
        8 => Step::Compressed(offset / cluster * cluster, fill),
        9..11 => Step::Plain(Plain::Zero(offset, length, random.chance(2))),
        11..14 => Step::Plain(Plain::Discard(offset, length)),
        14 => Step::Plain(Plain::Flush),
        _ => Step::Plain(Plain::Reopen),
    }
}

/// Does a step to a disk and to the bytes that it should have.
pub(super) fn apply(disk: &Qcow2Disk, bytes: &mut [u8], step: Step) {
    match step {
        Step::Plain(step) => model::apply(disk, bytes, step),
        Step::Compressed(offset, fill) => {
            let length = disk.geometry.cluster_size().min(disk.size - offset);
            let data = pattern(offset, length, fill);
            disk.write_compressed(offset, &data).unwrap();
            bytes[offset as usize..][..data.len()].copy_from_slice(&data);
        }
    }
}

/// Images under random requests: they read as they should, to us and to QEMU, and nothing leaks.
#[test]
fn an_image_is_a_disk() {
    let qemu = tool::is_there();
    for seed in 0..setting("VIV_QCOW2_CASES", 60) {
        one(&mut Random::new(seed + 1), qemu, seed);
    }
}

fn one(random: &mut Random, qemu: bool, seed: u64) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.qcow2");
    let mut options = any_options(random);
    let size = (20 * options.cluster_size + random.below(200_000)) / 512 * 512;
    let mut bytes = vec![0; size as usize];
    if random.chance(2) {
        let base = directory.path().join("base.img");
        let there = random.below(size + 50_000) / 512 * 512 + 512;
        let below = pattern(0, there, 3);
        let shown = below.len().min(bytes.len());
        bytes[..shown].copy_from_slice(&below[..shown]);
        std::fs::write(&base, below).unwrap();
        options.backing = Some(("base.img".into(), Format::Raw));
    }
    create(&path, size, &options).unwrap();
    let open = || reopen(&path);
    let mut disk = open();
    for _ in 0..random.below(120) {
        let step = any_step(random, size, options.cluster_size);
        if matches!(step, Step::Plain(Plain::Reopen)) {
            drop(disk);
            disk = open();
        }
        apply(&disk, &mut bytes, step);
        let (offset, length) = (random.below(size), random.below(40_000));
        let mut data = vec![0xee; length.min(size - offset) as usize];
        disk.read_at(offset, &mut data).unwrap();
        let wanted = &bytes[offset as usize..][..data.len()];
        assert!(data == wanted, "seed {seed}, {options:?}: {step:?}, then {} bytes at {offset}", data.len());
    }
    assert!(read_all(&disk) == bytes, "seed {seed}, {options:?}");
    drop(disk);
    let found = findings(&path);
    assert_eq!((found.errors, found.leaks), (0, 0), "seed {seed}, {options:?}: {:?}", found.notes);
    if qemu {
        assert_eq!(tool::check(Format::Qcow2, &path), tool::Found::Nothing, "seed {seed}, {options:?}");
        assert!(
            tool::contents(Format::Qcow2, &path) == bytes,
            "seed {seed}, {options:?}: QEMU reads something else"
        );
    }
}

/// Several threads, each in its own part of the disk.
#[test]
fn threads_do_not_disturb_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.qcow2");
    let options = CreateOptions { cluster_size: 4096, ..CreateOptions::default() };
    create(&path, 4 * (300_000 / 512 * 512), &options).unwrap();
    let disk = reopen(&path);
    model::work_in_parts(&disk, 200);
    drop(disk);
    let found = findings(&path);
    assert_eq!((found.errors, found.leaks), (0, 0), "{:?}", found.notes);
}
