//! What a disk is divided into: a GUID partition table (UEFI specification, chapter 5) with a place for what BIOS loads,
//! one for what UEFI loads, and the root file system.

use std::fmt::Write;

/// Bytes of a logical block, by which partitions are counted.
pub const BLOCK: u64 = 512;

/// A partition: its place on the disk, in bytes, and its kind, as a GUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Where it begins.
    pub start: u64,
    /// How long it is.
    pub size: u64,
    /// What it is for.
    pub kind: &'static str,
}

/// Where GRUB's core is for BIOS, which knows no partitions ("BIOS boot").
pub const BIOS_BOOT: Partition =
    Partition { start: 1 << 20, size: 1 << 20, kind: "21686148-6449-6E6F-744E-656564454649" };
/// The EFI system partition.
pub const EFI_SYSTEM: Partition =
    Partition { start: 2 << 20, size: 62 << 20, kind: "C12A7328-F81F-11D2-BA4B-00A0C93EC93B" };
/// The root file system, of x86-64.
pub const ROOT: Partition =
    Partition { start: 64 << 20, size: 3 << 30, kind: "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709" };

/// The whole disk, with the backup of the table behind the last partition.
pub const DISK_SIZE: u64 = ROOT.start + ROOT.size + (1 << 20);

/// The table, for `sfdisk`.
#[must_use]
pub fn script() -> String {
    let mut text = "label: gpt\n".to_owned();
    for Partition { start, size, kind } in [BIOS_BOOT, EFI_SYSTEM, ROOT] {
        let (start, size) = (start / BLOCK, size / BLOCK);
        // Writing to a String cannot fail.
        let _ = writeln!(text, "start={start}, size={size}, type={kind}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_in_order_and_in_blocks() {
        let all = [BIOS_BOOT, EFI_SYSTEM, ROOT];
        assert!(all.windows(2).all(|pair| pair[0].start + pair[0].size <= pair[1].start));
        assert!(all.iter().all(|partition| (partition.start | partition.size).is_multiple_of(BLOCK)));
        assert!(script().contains("\nstart=4096, size=126976, type=C12A7328-"));
    }
}
