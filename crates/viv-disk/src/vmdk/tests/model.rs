//! Random requests to an image, and to bytes in memory.

use super::*;

/// One request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    Write(u64, u64, u8),
    Zero(u64, u64, bool),
    Discard(u64, u64),
    Flush,
    Reopen,
}

pub(super) fn any_step(random: &mut Random, size: u64) -> Step {
    let longest = random.one_of(&[512, 4096, 200_000]);
    let (offset, length) = (random.below(size), random.below(longest) + 1);
    let length = length.min(size - offset);
    match random.below(16) {
        0..9 => Step::Write(offset, length, random.next() as u8 | 1),
        9..11 => Step::Zero(offset, length, random.chance(2)),
        11..13 => Step::Discard(offset, length),
        13..15 => Step::Flush,
        _ => Step::Reopen,
    }
}

/// Bytes of no pattern that would show an error of one grain.
pub(super) fn pattern(offset: u64, length: u64, fill: u8) -> Vec<u8> {
    (offset..offset + length).map(|at| fill.wrapping_add((at / 64).wrapping_mul(37) as u8)).collect()
}

/// Does a step to a disk and to the bytes that it should have.
pub(super) fn apply(disk: &VmdkDisk, bytes: &mut [u8], step: Step) {
    let part = |offset: u64, length: u64| offset as usize..(offset + length) as usize;
    match step {
        Step::Write(offset, length, fill) => {
            let data = pattern(offset, length, fill);
            disk.write_at(offset, &data).unwrap();
            bytes[part(offset, length)].copy_from_slice(&data);
        }
        Step::Zero(offset, length, may_unmap) => {
            disk.write_zeroes(offset, length, may_unmap).unwrap();
            bytes[part(offset, length)].fill(0);
        }
        Step::Discard(offset, length) => {
            disk.discard(offset, length).unwrap();
            let mut now = vec![0; length as usize];
            disk.read_at(offset, &mut now).unwrap();
            for (now, then) in now.iter().zip(&mut bytes[part(offset, length)]) {
                assert!(*now == 0 || now == then);
                *then = *now;
            }
        }
        Step::Flush => disk.flush().unwrap(),
        Step::Reopen => {}
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
    const PART: u64 = 300_000 / 512 * 512;
    let file = new_image(4 * PART);
    let disk = open_recorded(&file).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let disk = &disk;
            scope.spawn(move || {
                let mut random = Random::new(thread + 77);
                let mut bytes = vec![0; PART as usize];
                for _ in 0..100 {
                    let offset = random.below(PART);
                    let length = (random.below(20_000) + 1).min(PART - offset);
                    let at = thread * PART + offset;
                    let part = offset as usize..(offset + length) as usize;
                    match random.below(8) {
                        0 => disk.flush().unwrap(),
                        1 => {
                            disk.write_zeroes(at, length, true).unwrap();
                            bytes[part.clone()].fill(0);
                        }
                        _ => {
                            let data = pattern(at, length, random.next() as u8);
                            disk.write_at(at, &data).unwrap();
                            bytes[part.clone()].copy_from_slice(&data);
                        }
                    }
                    let mut data = vec![0; length as usize];
                    disk.read_at(at, &mut data).unwrap();
                    assert!(data == bytes[part]);
                }
            });
        }
    });
    drop(disk);
    open_recorded(&file).unwrap();
}
