//! The power fails: what was flushed is there, and the image is whole.

use super::model::Step;
use super::model::any_step;
use super::*;
use crate::testing::recorder::Recorder;

/// What a step may make of a range of sectors.
#[derive(Debug)]
struct Event {
    /// Changes to the file when it began.
    begun: usize,
    sectors: Range<usize>,
    /// What they hold afterwards: sectors are filled with a number.
    value: u32,
    /// Whether they may also stay as they were.
    maybe: bool,
}

#[derive(Debug, Default)]
struct History {
    events: Vec<Event>,
    /// For each flush: changes to the file when it had ended, and events before it.
    flushes: Vec<(usize, usize)>,
}

impl History {
    /// What each sector may hold if the power fails after so many changes.
    fn allowed(&self, sectors: usize, changes: usize) -> Vec<Vec<u32>> {
        let flushed =
            self.flushes.iter().rev().find(|(end, _)| *end <= changes).map_or(0, |(_, events)| *events);
        let mut allowed = vec![vec![0]; sectors];
        for (number, event) in self.events.iter().enumerate() {
            if event.begun >= changes && number >= flushed {
                break;
            }
            for values in &mut allowed[event.sectors.clone()] {
                if number < flushed && !event.maybe {
                    values.clear();
                }
                values.push(event.value);
            }
        }
        allowed
    }
}

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
    let sectors = (40 * cluster / 512 + random.below(300)) as usize;
    let size = sectors as u64 * 512;
    let recorder = Recorder::default();
    write_new(&recorder, size, &options).unwrap();
    let before = recorder.bytes();
    let recorder = Recorder::holding(before.clone());
    let mut history = History::default();
    let mut disk = Qcow2Disk::over(Box::new(recorder.clone()), Access::ReadWrite, None).unwrap();
    for value in 1..=random.below(100) as u32 + 20 {
        let begun = recorder.changes();
        let step = any_step(&mut random, size, cluster);
        let mut event = |offset: u64, length: u64, value, maybe| {
            let sectors = offset as usize / 512..(offset + length).div_ceil(512) as usize;
            history.events.push(Event { begun, sectors: sectors.clone(), value, maybe });
            (sectors.start as u64 * 512, sectors.len() as u64 * 512)
        };
        match step {
            Step::Write(offset, length, _) => {
                let (offset, length) = event(offset, length, value, false);
                disk.write_at(offset, &filled(value, length)).unwrap();
            }
            Step::Compressed(offset, _) => {
                let (offset, length) = event(offset, cluster.min(size - offset), value, false);
                disk.write_compressed(offset, &filled(value, length)).unwrap();
            }
            Step::Zero(offset, length, may_unmap) => {
                let (offset, length) = event(offset, length, 0, false);
                disk.write_zeroes(offset, length, may_unmap).unwrap();
            }
            Step::Discard(offset, length) => {
                let (offset, length) = event(offset, length, 0, true);
                disk.discard(offset, length).unwrap();
            }
            Step::Flush => {
                disk.flush().unwrap();
                history.flushes.push((recorder.changes(), history.events.len()));
            }
            Step::Reopen => {
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

/// `length` bytes that all say `value`.
pub(super) fn filled(value: u32, length: u64) -> Vec<u8> {
    value.to_le_bytes().repeat(length as usize / 4)
}

/// Checks what a cut has left: nothing but leaks, each sector with something that it may hold; and it can be used on.
fn verify(left: &[u8], allowed: &[Vec<u32>], what: &str) {
    let file = Recorder::holding(left.to_vec());
    let found = check::check_file(&file, Repair::No).unwrap();
    assert_eq!(found.errors, 0, "{what}: {:?}", found.notes);
    let disk = Qcow2Disk::over(Box::new(file.clone()), Access::ReadWrite, None).unwrap();
    let bytes = model::read_all(&disk);
    for (sector, (bytes, allowed)) in bytes.chunks(512).zip(allowed).enumerate() {
        let value = u32::from_le_bytes(*bytes.first_chunk().unwrap());
        assert!(
            allowed.contains(&value) && bytes == filled(value, 512),
            "{what}: sector {sector} holds {value} and may hold {allowed:?}"
        );
    }
    disk.write_at(0, &filled(7, disk.size)).unwrap();
    drop(disk);
    let found = check::check_file(&file, Repair::All).unwrap();
    assert_eq!((found.errors, found.errors_repaired), (0, 0), "{what}: {:?}", found.notes);
    let found = check::check_file(&file, Repair::No).unwrap();
    assert_eq!((found.errors, found.leaks), (0, 0), "{what}: after repair {:?}", found.notes);
}
