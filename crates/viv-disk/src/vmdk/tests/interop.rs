//! Images that QEMU made, and images for it.

use super::model::{any_step, assert_data_is_found};
use super::*;
use crate::testing::model::{Step, apply, pattern};
use crate::{NewDisk, NewFormat};

/// The kinds that QEMU makes, and whether they can be written.
const KINDS: [(&str, bool); 5] = [
    ("monolithicSparse", true),
    ("monolithicFlat", true),
    ("twoGbMaxExtentSparse", true),
    ("twoGbMaxExtentFlat", true),
    ("streamOptimized", false),
];

/// Contents with holes, noise, and what can be compressed.
fn contents(random: &mut Random, size: u64) -> Vec<u8> {
    let mut bytes = vec![0; size as usize];
    for _ in 0..12 {
        let offset = random.below(size);
        let length = (random.below(300_000) + 1).min(size - offset);
        let part = &mut bytes[offset as usize..][..length as usize];
        match random.chance(2) {
            true => part.iter_mut().for_each(|byte| *byte = random.number() as u8),
            false => part.copy_from_slice(&pattern(offset, length, random.number() as u8)),
        }
    }
    bytes
}

#[test]
fn what_qemu_made_is_read_and_written() {
    if !tool::is_there() {
        return;
    }
    for seed in 1..=setting("VIV_VMDK_CASES", 30) / 2 {
        let random = &mut Random::new(seed);
        let (kind, writable) = KINDS[seed as usize % KINDS.len()];
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let size = (1 << 20) + random.below(9000) * 512;
        let mut bytes = contents(random, size);
        std::fs::write(at("raw"), &bytes).unwrap();
        let zeroed = if kind == "monolithicSparse" && random.chance(2) { ",zeroed_grain=on" } else { "" };
        let options = format!("subformat={kind}{zeroed}");
        let arguments = ["convert", "-f", "raw", "-O", "vmdk", "-o", &options, &at("raw"), &at("disk.vmdk")];
        tool::ok("qemu-img", &arguments);
        if !zeroed.is_empty() {
            tool::ok("qemu-io", &["-f", "vmdk", "-c", "write -q -z 65536 131072", &at("disk.vmdk")]);
            bytes[65536..196_608].fill(0);
        }
        let path = directory.path().join("disk.vmdk");
        assert_eq!(Format::detect(&path).unwrap(), Format::Vmdk, "{kind}");
        let told = info(&path).unwrap();
        assert_eq!((told.size, told.create_type.as_str(), told.refused), (size, kind, None));
        let disk = open(&path, Access::ReadOnly);
        assert!(read_all(&disk) == bytes, "seed {seed}, {kind}");
        assert_data_is_found(&disk, &bytes);
        drop(disk);
        if !writable {
            let error = VmdkDisk::open(&path, Access::ReadWrite).unwrap_err().to_string();
            assert!(error.contains("convert"), "{error}");
            continue;
        }
        let disk = open(&path, Access::ReadWrite);
        for _ in 0..30 {
            let step = any_step(random, size);
            if !matches!(step, Step::Reopen) {
                apply(&disk, &mut bytes, step);
            }
        }
        disk.write_at(0, &[7; 512]).unwrap();
        bytes[..512].fill(7);
        assert!(read_all(&disk) == bytes, "seed {seed}, {kind}");
        drop(disk);
        assert_ne!(info(&path).unwrap().content_id, told.content_id);
        assert_eq!(tool::check(Format::Vmdk, &path), tool::Found::Nothing, "seed {seed}, {kind}");
        assert!(
            tool::contents(Format::Vmdk, &path) == bytes,
            "seed {seed}, {kind}: QEMU reads something else"
        );
    }
}

/// Parts of 2 GB each, and requests that reach over where they meet.
#[test]
fn requests_reach_over_several_files() {
    if !tool::is_there() {
        return;
    }
    for kind in ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat"] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk.vmdk");
        let options = format!("subformat={kind}");
        tool::ok("qemu-img", &["create", "-q", "-f", "vmdk", "-o", &options, path.to_str().unwrap(), "5G"]);
        let meeting = info(&path).unwrap().extents[0].size;
        assert_eq!(info(&path).unwrap().extents.len(), 3);
        let disk = open(&path, Access::ReadWrite);
        let data = pattern(0, 100_000, 9);
        disk.write_at(meeting - 40_000, &data).unwrap();
        disk.write_at((5 << 30) - 512, &[8; 512]).unwrap();
        let mut read = vec![0; 100_000];
        disk.read_at(meeting - 40_000, &mut read).unwrap();
        assert!(read == data);
        // QEMU writes the first block of a flat file.
        let found = disk.data_from(1 << 20).unwrap().unwrap();
        assert!(found.start <= meeting - 40_000 && found.start > meeting - 200_000, "{kind}: {found:?}");
        assert!(disk.write_at((5 << 30) - 256, &[8; 512]).is_err());
        drop(disk);
        let command = format!("read -q -P 8 {} 512", (5_u64 << 30) - 512);
        tool::ok("qemu-io", &["-r", "-f", "vmdk", "-c", &command, path.to_str().unwrap()]);
        let offset = meeting + 60_000 - 1024;
        let (first, last) = (data[98_976], data[99_968]);
        let commands =
            [format!("read -q -P {first} {offset} 32"), format!("read -q -P {last} {} 32", offset + 992)];
        for command in &commands {
            tool::ok("qemu-io", &["-r", "-f", "vmdk", "-c", command, path.to_str().unwrap()]);
        }
    }
}

#[test]
fn images_to_be_sent_are_read_by_qemu_and_here() {
    let qemu = tool::is_there();
    for seed in 1..=8 {
        let random = &mut Random::new(seed);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk.vmdk");
        let size = random.one_of(&[512, 65536, 1 << 20, 70 << 20]) + random.below(500) * 512;
        let bytes = contents(random, size);
        let mut new = NewDisk::create(&path, size, &NewFormat::Vmdk(Layout::Stream)).unwrap();
        for (number, grain) in
            bytes.chunks(65536).enumerate().filter(|(_, grain)| grain.iter().any(|b| *b != 0))
        {
            new.write_at(number as u64 * 65536, grain).unwrap();
        }
        assert!(
            new.write_at(0, &bytes[..size.min(65536) as usize]).is_err()
                || bytes[..size.min(65536) as usize].iter().all(|b| *b == 0)
        );
        assert!(new.write_at(512, &[1]).is_err());
        new.finish().unwrap();
        let disk = open(&path, Access::ReadOnly);
        assert!(read_all(&disk) == bytes, "seed {seed}");
        assert_data_is_found(&disk, &bytes);
        if qemu {
            assert!(tool::contents(Format::Vmdk, &path) == bytes, "seed {seed}: QEMU reads something else");
        }
    }
}
