//! How much memory a virtual machine costs beyond the guest's own.
//!
//! It is what is resident of the virtual machine's processes (the sum of `Rss` in `/proc/PID/smaps`), less what
//! is resident of guest RAM. Guest RAM is in the smallest mapping that is large enough for it, of which what lies below
//! 1 MiB may be apart. That mapping can be
//! larger, for the kernel joins neighbours: what it has too much is taken for resident, and for no guest's. So the
//! figure is never too small. Where guest RAM is a file that is mapped at several places, all of them are the guest's:
//! they hold the same pages. The size of guest RAM is the only thing that it has to be told, which makes it mean
//! the same for every program.

use std::fs;

use anyhow::{Context, Result};

/// The bytes that process `pid` and its children have resident beyond `guest` bytes of guest RAM.
pub fn resident_over_guest(pid: u32, guest: u64) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps");
    let smaps = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let path = format!("/proc/{pid}/task/{pid}/children");
    let children = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let mut bytes = over_guest(&smaps, guest);
    for child in children.split_whitespace() {
        bytes += resident_over_guest(child.parse().context("a child's process id")?, guest)?;
    }
    Ok(bytes)
}

/// What of guest RAM may be in another mapping: that below the display's window.
const LOW: u64 = 1 << 20;

/// A mapping of a process.
#[derive(Debug, Clone, Copy)]
struct Mapping<'a> {
    /// Device and inode; the latter is 0 if no file is mapped.
    file: (&'a str, &'a str),
    size: u64,
    resident: u64,
}

fn mappings(smaps: &str) -> Vec<Mapping<'_>> {
    let mut mappings: Vec<Mapping<'_>> = Vec::new();
    for line in smaps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let value = || words.get(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) << 10;
        match (words.as_slice(), mappings.last_mut()) {
            (["Size:", ..], Some(mapping)) => mapping.size = value(),
            (["Rss:", ..], Some(mapping)) => mapping.resident = value(),
            ([range, _, _, device, inode, ..], _) if range.contains('-') => {
                mappings.push(Mapping { file: (device, inode), size: 0, resident: 0 });
            }
            _ => {}
        }
    }
    mappings
}

fn over_guest(smaps: &str, guest: u64) -> u64 {
    let mappings = mappings(smaps);
    let total: u64 = mappings.iter().map(|mapping| mapping.resident).sum();
    // A process without guest RAM may have no mapping of that size.
    let large = mappings.iter().filter(|mapping| mapping.size.saturating_add(LOW) >= guest);
    let Some(ram) = large.min_by_key(|mapping| mapping.size) else { return total };
    if ram.file.1 == "0" {
        return total - ram.resident.saturating_sub(ram.size.saturating_sub(guest));
    }
    total
        - mappings
            .iter()
            .filter(|mapping| mapping.file == ram.file)
            .map(|mapping| mapping.resident)
            .sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
        7f00-7f01 rw-p 00000000 00:00 0\nSize: 600000 kB\nKernelPageSize: 4 kB\nRss: 300 kB\nPss: 300 kB\n\
        7f02-7f03 r-xp 00000000 fe:00 1 /usr/bin/x\nSize: 80 kB\nRss: 40 kB\n\
        7f04-7f05 rwxp 00000000 00:00 0\nSize: 9000000 kB\nRss: 20 kB\n";

    #[test]
    fn guest_memory_does_not_count() {
        assert_eq!(over_guest(SMAPS, 600_000 << 10), 60 << 10);
    }

    #[test]
    fn what_shares_its_mapping_does() {
        assert_eq!(over_guest(SMAPS, 599_900 << 10), 160 << 10);
    }

    #[test]
    fn a_file_may_be_mapped_at_several_places() {
        let twice = "\
            7f00-7f01 rw-s 00000000 00:01 7 /memfd:ram\nSize: 599000 kB\nRss: 300 kB\n\
            7f02-7f03 rw-s 00001000 00:01 7 /memfd:ram\nSize: 4 kB\nRss: 4 kB\n\
            7f04-7f05 rw-s 00000000 00:01 8 /memfd:other\nSize: 8 kB\nRss: 8 kB\n";
        assert_eq!(over_guest(twice, 600_000 << 10), 8 << 10);
    }

    #[test]
    fn a_process_without_it_counts_whole() {
        assert_eq!(over_guest(SMAPS, 1 << 40), 360 << 10);
    }
}
