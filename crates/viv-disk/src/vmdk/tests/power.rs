//! The power fails: what was flushed is there, and the image is whole.

use super::*;

const SIZE: u64 = 40 << 20;
const SECTORS: usize = (SIZE / SECTOR) as usize;

/// One write: changes to the file before it, its sectors, and the number in each of them.
type Event = (usize, Range<usize>, u32);

#[test]
fn a_cut_loses_nothing_that_was_flushed() {
    let first = setting("VIV_VMDK_SEED", 1);
    for seed in first..first + setting("VIV_VMDK_LOADS", 8) {
        let random = &mut Random::new(seed);
        let file = new_image(SIZE);
        let before = file.bytes();
        let file = Recorder::holding(before.clone());
        let (mut events, mut flushes): (Vec<Event>, Vec<(usize, usize)>) = (Vec::new(), Vec::new());
        let disk = open_recorded(&file).unwrap();
        for value in 1..=60 {
            let start = random.below(SECTORS as u64) as usize;
            let sectors = start..(start + random.below(300) as usize + 1).min(SECTORS);
            let value = if random.chance(5) { 0 } else { value };
            events.push((file.changes(), sectors.clone(), value));
            let (offset, length) = (start as u64 * SECTOR, sectors.len() as u64 * SECTOR);
            if value == 0 {
                disk.write_zeroes(offset, length, true).unwrap();
            } else {
                disk.write_at(offset, &value.to_le_bytes().repeat(length as usize / 4)).unwrap();
            }
            if random.chance(6) {
                disk.flush().unwrap();
                flushes.push((file.changes(), events.len()));
            }
        }
        drop(disk);
        for _ in 0..setting("VIV_VMDK_CUTS", 12) {
            let changes = random.below(file.changes() as u64 + 1) as usize;
            let left = file.after_cut(&before, changes, random);
            let flushed =
                flushes.iter().rev().find(|(at, _)| *at <= changes).map_or(0, |(_, events)| *events);
            let disk = open_recorded(&Recorder::holding(left))
                .unwrap_or_else(|error| panic!("seed {seed}, cut at {changes}: {error}"));
            let bytes = read_all(&disk);
            let mut sure = vec![0; SECTORS];
            for (_, sectors, value) in &events[..flushed] {
                sure[sectors.clone()].fill(*value);
            }
            let maybe: Vec<&Event> =
                events[flushed..].iter().filter(|(begun, ..)| *begun <= changes).collect();
            for (number, sector) in bytes.chunks(SECTOR as usize).enumerate() {
                let value = crate::bytes::le32(sector, 0);
                let allowed = value == sure[number]
                    || maybe.iter().any(|(_, sectors, other)| sectors.contains(&number) && *other == value);
                assert!(
                    allowed && sector.chunks(4).all(|word| word == value.to_le_bytes()),
                    "seed {seed}, cut at {changes}: sector {number} has {value}, not {}",
                    sure[number]
                );
            }
        }
    }
}
