//! The script by which firmware places tables and joins them: commands of 128 bytes each.

use std::ops::Range;

/// Bytes of a command, and of a file's name in it.
const COMMAND: usize = 128;
const NAME: usize = 56;

/// Commands.
const ALLOCATE: u32 = 1;
const ADD_POINTER: u32 = 2;
const ADD_CHECKSUM: u32 = 3;

/// Where firmware places a file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Zone {
    /// Anywhere below 4 GiB.
    High = 1,
    /// Where systems look for it: below 1 MiB.
    Low = 2,
}

/// The script.
#[derive(Default)]
pub(super) struct Loader(Vec<u8>);

impl Loader {
    /// Has a file placed at a multiple of `align`.
    pub(super) fn allocate(&mut self, file: &str, align: u32, zone: Zone) {
        self.command(ALLOCATE, &[&name(file), &align.to_le_bytes(), &[zone as u8]]);
    }

    /// Has the address of file `to` added to the pointer of `size` bytes at offset `at` of file `file`.
    pub(super) fn add_pointer(&mut self, file: &str, to: &str, at: usize, size: u8) {
        self.command(ADD_POINTER, &[&name(file), &name(to), &(at as u32).to_le_bytes(), &[size]]);
    }

    /// Has the byte at offset `at` of a file set so that the bytes of `range` add up to 0.
    pub(super) fn add_checksum(&mut self, file: &str, at: usize, range: Range<usize>) {
        let [at, start, length] = [at, range.start, range.len()].map(|number| (number as u32).to_le_bytes());
        self.command(ADD_CHECKSUM, &[&name(file), &at, &start, &length]);
    }

    fn command(&mut self, command: u32, fields: &[&[u8]]) {
        let end = self.0.len() + COMMAND;
        self.0.extend(command.to_le_bytes());
        self.0.extend(fields.iter().copied().flatten());
        self.0.resize(end, 0);
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// A file's name in its room.
fn name(file: &str) -> [u8; NAME] {
    let mut field = [0; NAME];
    field[..file.len()].copy_from_slice(file.as_bytes());
    field
}
