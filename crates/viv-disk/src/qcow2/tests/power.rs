//! The power fails: what was flushed is there, and the image is whole.

use super::model::{Step, any_step};
use super::*;
use crate::testing::history::{self, History, filled};
use crate::testing::model::Step as Plain;
use crate::testing::recorder::Recorder;

#[test]
fn a_power_cut_loses_nothing_that_was_flushed() {
    let first = setting("VIV_QCOW2_SEED", 1);
    let qemu = tool::is_there();
    for seed in first..first + setting("VIV_QCOW2_LOADS", 40) {
        load(seed, setting("VIV_QCOW2_CUTS", 25), qemu);
    }
}

#[test]
fn a_host_that_takes_no_space_back_is_no_loss() {
    let recorder = Recorder::default();
    write_new(&recorder, 1 << 20, &CreateOptions::default()).unwrap();
    recorder.keep_space();
    let disk = Qcow2Disk::over(Box::new(recorder.clone()), Access::ReadWrite, None).unwrap();
    for value in 1..5 {
        disk.write_at(0, &filled(value, 1 << 20)).unwrap();
        disk.flush().unwrap();
        disk.discard(0, 1 << 20).unwrap();
        disk.flush().unwrap();
    }
    disk.write_at(0, &filled(7, 1 << 20)).unwrap();
    drop(disk);
    verify(&recorder.bytes(), &vec![vec![7]; 2048], "space that is kept");
}

/// A random load, and cuts at random moments of it.
fn load(seed: u64, cuts: u64, qemu: bool) {
    let mut random = Random::new(seed);
    let mut options = any_options(&mut random);
    options.cluster_size = options.cluster_size.min(16 << 10);
    let cluster = options.cluster_size;
    let sectors = (40 * cluster / 512 + random.below(3000)) as usize;
    let size = sectors as u64 * 512;
    let recorder = Recorder::default();
    write_new(&recorder, size, &options).unwrap();
    let before = recorder.bytes();
    let recorder = Recorder::holding(before.clone());
    if seed.is_multiple_of(2) {
        // New tables come to lie where something was, which a table that is missing shows then.
        recorder.keep_space();
    }
    let mut history = History::default();
    let mut disk = Qcow2Disk::over(Box::new(recorder.clone()), Access::ReadWrite, None).unwrap();
    for value in 1..=random.below(100) as u32 + 20 {
        let begun = recorder.changes();
        let step = any_step(&mut random, size, cluster);
        let mut event = |offset, length, value, maybe| history.begin(begun, offset, length, value, maybe);
        match step {
            Step::Plain(Plain::Write(offset, length, _)) => {
                let (offset, length) = event(offset, length, value, false);
                disk.write_at(offset, &filled(value, length)).unwrap();
            }
            Step::Compressed(offset, _) => {
                let (offset, length) = event(offset, cluster.min(size - offset), value, false);
                disk.write_compressed(offset, &filled(value, length)).unwrap();
            }
            Step::Plain(Plain::Zero(offset, length, may_unmap)) => {
                let (offset, length) = event(offset, length, 0, false);
                disk.write_zeroes(offset, length, may_unmap).unwrap();
            }
            Step::Plain(Plain::Discard(offset, length)) => {
                let (offset, length) = event(offset, length, 0, true);
                disk.discard(offset, length).unwrap();
            }
            Step::Plain(Plain::Flush) => {
                disk.flush().unwrap();
                history.flushed(recorder.changes());
            }
            Step::Plain(Plain::Reopen) => {
                drop(disk);
                disk = Qcow2Disk::over(Box::new(recorder.clone()), Access::ReadWrite, None).unwrap();
            }
        }
    }
    for cut in 0..cuts {
        let changes = random.below(recorder.changes() as u64 + 1) as usize;
        let left = recorder.after_cut(&before, changes, &mut random);
        let what = format!("seed {seed}, cut {cut} after {changes} changes, {options:?}");
        verify(&left, &history.allowed(sectors, changes), &what);
        if qemu && cut == 0 {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), left).unwrap();
            tool::check(Format::Qcow2, file.path());
        }
    }
}

/// Checks what a cut has left: nothing but leaks, each sector with something that it may hold; and it can be used on.
fn verify(left: &[u8], allowed: &[Vec<u32>], what: &str) {
    let file = Recorder::holding(left.to_vec());
    let found = check::check_file(&file, Repair::No).unwrap();
    assert_eq!(found.errors, 0, "{what}: {:?}", found.notes);
    let disk = Qcow2Disk::over(Box::new(file.clone()), Access::ReadWrite, None).unwrap();
    history::verify(&disk, allowed, what);
    disk.write_at(0, &filled(7, disk.size)).unwrap();
    drop(disk);
    let found = check::check_file(&file, Repair::All).unwrap();
    assert_eq!((found.errors, found.errors_repaired), (0, 0), "{what}: {:?}", found.notes);
    let found = check::check_file(&file, Repair::No).unwrap();
    assert_eq!((found.errors, found.leaks), (0, 0), "{what}: after repair {:?}", found.notes);
}
