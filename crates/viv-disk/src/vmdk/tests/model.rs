//! Random requests to an image, and to bytes in memory.

use super::*;
use crate::testing::model::{Step, apply, work_in_parts};

pub(super) fn any_step(random: &mut Random, size: u64) -> Step {
    let longest = random.one_of(&[512, 4096, 200_000]);
    let (offset, length) = (random.below(size), random.below(longest) + 1);
    let length = length.min(size - offset);
    match random.below(16) {
        0..9 => Step::Write(offset, length, random.number() as u8 | 1),
        9..11 => Step::Zero(offset, length, random.chance(2)),
        11..13 => Step::Discard(offset, length),
        13..15 => Step::Flush,
        _ => Step::Reopen,
    }
}

/// Checks that [`Disk::data_from`] leaves out nothing that is not zero.
pub(super) fn assert_data_is_found(disk: &VmdkDisk, bytes: &[u8]) {
    let mut at = 0;
    while let Some(found) = disk.data_from(at).unwrap() {
        assert!(found.start >= at && found.end > found.start && found.end <= disk.size());
        assert!(bytes[at as usize..found.start as usize].iter().all(|byte| *byte == 0));
        at = found.end;
    }
    assert!(bytes[at as usize..].iter().all(|byte| *byte == 0));
}

/// Images under random requests read as they should, to us and to QEMU.
#[test]
fn an_image_is_a_disk() {
    let qemu = tool::is_there();
    for seed in 1..=setting("VIV_VMDK_CASES", 30) {
        let random = &mut Random::new(seed);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk.vmdk");
        // Now and then over more than one grain table.
        let size = if random.chance(4) { 34 << 20 } else { 3 << 20 } + random.below(1000) * 512;
        let new = crate::NewFormat::Vmdk(Layout::Sparse);
        crate::NewDisk::create(&path, size, &new).and_then(crate::NewDisk::finish).unwrap();
        let mut bytes = vec![0; size as usize];
        let mut disk = open(&path, Access::ReadWrite);
        for _ in 0..random.below(80) {
            let step = any_step(random, size);
            if matches!(step, Step::Reopen) {
                drop(disk);
                disk = open(&path, Access::ReadWrite);
            }
            apply(&disk, &mut bytes, step);
            let (offset, length) = (random.below(size), random.below(90_000));
            let mut data = vec![0xee; length.min(size - offset) as usize];
            disk.read_at(offset, &mut data).unwrap();
            assert!(data == bytes[offset as usize..][..data.len()], "seed {seed}: {step:?}");
        }
        assert_data_is_found(&disk, &bytes);
        drop(disk);
        assert!(read_all(&open(&path, Access::ReadOnly)) == bytes, "seed {seed}");
        if qemu {
            assert_eq!(tool::check(Format::Vmdk, &path), tool::Found::Nothing, "seed {seed}");
            assert!(tool::contents(Format::Vmdk, &path) == bytes, "seed {seed}: QEMU reads something else");
        }
    }
}

/// Several threads, each in its own part of the disk.
#[test]
fn threads_do_not_disturb_each_other() {
    let file = new_image(4 * (300_000 / 512 * 512));
    let disk = open_recorded(&file).unwrap();
    work_in_parts(&disk, 100);
    drop(disk);
    open_recorded(&file).unwrap();
}
