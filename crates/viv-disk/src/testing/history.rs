//! What sectors may hold if the power fails, by what was asked of a disk. Sectors that are written are filled with a number.

use std::ops::Range;

use super::model::read_all;
use crate::Disk;

/// What a step may make of a range of sectors.
#[derive(Debug)]
struct Event {
    /// Changes to the file when it began.
    begun: usize,
    sectors: Range<usize>,
    /// What they hold afterwards.
    value: u32,
    /// Whether they may also stay as they were.
    maybe: bool,
}

/// All that was asked.
#[derive(Debug, Default)]
pub(crate) struct History {
    events: Vec<Event>,
    /// For each flush: changes to the file when it had ended, and events before it.
    flushes: Vec<(usize, usize)>,
}

impl History {
    /// A step begins, after so many changes to the file. Returns offset and length of the sectors that it reaches into.
    pub(crate) fn begin(
        &mut self,
        begun: usize,
        offset: u64,
        length: u64,
        value: u32,
        maybe: bool,
    ) -> (u64, u64) {
        let sectors = offset as usize / 512..(offset + length).div_ceil(512) as usize;
        self.events.push(Event { begun, sectors: sectors.clone(), value, maybe });
        (sectors.start as u64 * 512, sectors.len() as u64 * 512)
    }

    /// A flush has ended, after so many changes to the file.
    pub(crate) fn flushed(&mut self, changes: usize) {
        self.flushes.push((changes, self.events.len()));
    }

    /// What each sector may hold if the power fails after so many changes.
    pub(crate) fn allowed(&self, sectors: usize, changes: usize) -> Vec<Vec<u32>> {
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

/// `length` bytes that all say `value`.
pub(crate) fn filled(value: u32, length: u64) -> Vec<u8> {
    value.to_le_bytes().repeat(length as usize / 4)
}

/// Checks that each sector holds something that it may hold, and all of it.
pub(crate) fn verify(disk: &dyn Disk, allowed: &[Vec<u32>], what: &str) {
    for (sector, (bytes, allowed)) in read_all(disk).chunks(512).zip(allowed).enumerate() {
        let value = u32::from_le_bytes(*bytes.first_chunk().unwrap());
        assert!(
            allowed.contains(&value) && bytes == filled(value, 512),
            "{what}: sector {sector} holds {value} and may hold {allowed:?}"
        );
    }
}
