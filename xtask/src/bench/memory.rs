//! How much memory a virtual machine costs beyond the guest's own.
//!
//! It is what is resident of the virtual machine's processes (the sum of `Rss` in `/proc/PID/smaps`), less what
//! is resident of guest RAM. Guest RAM is in the smallest mapping that is large enough for it. That mapping can be
//! larger, for the kernel joins neighbours: what it has too much is taken for resident, and for no guest's. So the
//! figure is never too small. The size of guest RAM is the only thing that it has to be told, which makes it mean
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

fn over_guest(smaps: &str, guest: u64) -> u64 {
    let (mut total, mut guests) = (0, None);
    let mut size = 0;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let value = |kib: Option<&str>| kib.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) << 10;
        match words.next() {
            Some("Size:") => size = value(words.next()),
            Some("Rss:") => {
                let resident = value(words.next());
                total += resident;
                if size >= guest && guests.is_none_or(|(smallest, _)| size < smallest) {
                    guests = Some((size, resident));
                }
            }
            _ => {}
        }
    }
    // A process without guest RAM may have no mapping of that size.
    let of_guest = guests.map_or(0, |(size, resident)| resident.saturating_sub(size - guest));
    total - of_guest
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
        7f00-7f01 rw-p 00000000 00:00 0\nSize: 600 kB\nKernelPageSize: 4 kB\nRss: 300 kB\nPss: 300 kB\n\
        7f02-7f03 r-xp 00000000 fe:00 1 /usr/bin/x\nSize: 80 kB\nRss: 40 kB\n\
        7f04-7f05 rwxp 00000000 00:00 0\nSize: 9000 kB\nRss: 20 kB\n";

    #[test]
    fn guest_memory_does_not_count() {
        assert_eq!(over_guest(SMAPS, 600 << 10), 60 << 10);
    }

    #[test]
    fn what_shares_its_mapping_does() {
        assert_eq!(over_guest(SMAPS, 500 << 10), 160 << 10);
    }

    #[test]
    fn a_process_without_it_counts_whole() {
        assert_eq!(over_guest(SMAPS, 1 << 30), 360 << 10);
    }
}
