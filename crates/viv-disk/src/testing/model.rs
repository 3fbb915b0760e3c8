//! Requests to a disk, and to the bytes in memory that it should have.

use super::Random;
use crate::{Disk, DiskError};

/// One request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Write(u64, u64, u8),
    Zero(u64, u64, bool),
    Discard(u64, u64),
    Flush,
    Reopen,
}

/// Bytes of no pattern that would show an error of one cluster.
pub(crate) fn pattern(offset: u64, length: u64, fill: u8) -> Vec<u8> {
    (offset..offset + length).map(|at| fill.wrapping_add((at / 64).wrapping_mul(37) as u8)).collect()
}

/// Does a step to a disk and to the bytes that it should have.
pub(crate) fn apply(disk: &dyn Disk, bytes: &mut [u8], step: Step) {
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

/// Tries a step on a disk that may be damaged.
pub(crate) fn attempt(disk: &dyn Disk, step: Step) -> Result<(), DiskError> {
    match step {
        Step::Write(offset, length, fill) => disk.write_at(offset, &vec![fill; length as usize]),
        Step::Zero(offset, length, may_unmap) => disk.write_zeroes(offset, length, may_unmap),
        Step::Discard(offset, length) => disk.discard(offset, length),
        Step::Flush | Step::Reopen => disk.flush(),
    }
}

pub(crate) fn read_all(disk: &dyn Disk) -> Vec<u8> {
    let mut data = vec![0xee; disk.size() as usize];
    disk.read_at(0, &mut data).unwrap();
    data
}

/// Checks that four threads, each in its own part of the disk, do not disturb each other.
pub(crate) fn work_in_parts(disk: &dyn Disk, rounds: u64) {
    let part_size = disk.size() / 4;
    std::thread::scope(|scope| {
        for thread in 0..4 {
            scope.spawn(move || {
                let mut random = Random::new(thread + 77);
                let mut bytes = vec![0; part_size as usize];
                for _ in 0..rounds {
                    let offset = random.below(part_size);
                    let length = (random.below(20_000) + 1).min(part_size - offset);
                    let at = thread * part_size + offset;
                    let part = offset as usize..(offset + length) as usize;
                    match random.below(8) {
                        0 => disk.flush().unwrap(),
                        1 => {
                            disk.write_zeroes(at, length, true).unwrap();
                            bytes[part.clone()].fill(0);
                        }
                        _ => {
                            let data = pattern(at, length, random.number() as u8);
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
}
