//! The power fails: what was flushed is there, and the image is whole.

use super::*;
use crate::testing::history::{History, filled, verify};

const SIZE: u64 = 40 << 20;
const SECTORS: usize = (SIZE / SECTOR) as usize;

#[test]
fn a_cut_loses_nothing_that_was_flushed() {
    let first = setting("VIV_VMDK_SEED", 1);
    for seed in first..first + setting("VIV_VMDK_LOADS", 8) {
        let random = &mut Random::new(seed);
        let file = new_image(SIZE);
        let before = file.bytes();
        let file = Recorder::holding(before.clone());
        let mut history = History::default();
        let disk = open_recorded(&file).unwrap();
        for value in 1..=60 {
            let start = random.below(SECTORS as u64);
            let sectors = (random.below(300) + 1).min(SECTORS as u64 - start);
            let value = if random.chance(5) { 0 } else { value };
            let (offset, length) =
                history.begin(file.changes(), start * SECTOR, sectors * SECTOR, value, false);
            if value == 0 {
                disk.write_zeroes(offset, length, true).unwrap();
            } else {
                disk.write_at(offset, &filled(value, length)).unwrap();
            }
            if random.chance(6) {
                disk.flush().unwrap();
                history.flushed(file.changes());
            }
        }
        drop(disk);
        for _ in 0..setting("VIV_VMDK_CUTS", 12) {
            let changes = random.below(file.changes() as u64 + 1) as usize;
            let left = file.after_cut(&before, changes, random);
            let what = format!("seed {seed}, cut at {changes}");
            let disk =
                open_recorded(&Recorder::holding(left)).unwrap_or_else(|error| panic!("{what}: {error}"));
            verify(&disk, &history.allowed(SECTORS, changes), &what);
        }
    }
}
