//! Images that mean harm.

use super::*;

/// An image of 2 GiB, whose tables take more than a grain, with something done to its bytes; why it cannot be opened for writing.
fn refused(change: impl FnOnce(&mut Vec<u8>, &Header)) -> String {
    let file = new_image(2 << 30);
    let disk = open_recorded(&file).unwrap();
    disk.write_at(0, &[1; 200_000]).unwrap();
    disk.flush().unwrap();
    let header = Header::read(&file).unwrap();
    let mut bytes = file.bytes();
    change(&mut bytes, &header);
    open_recorded(&Recorder::holding(bytes)).unwrap_err().to_string()
}

/// Where the first grain table has its entries, in bytes.
fn entries(bytes: &[u8], header: &Header) -> usize {
    crate::bytes::le32(bytes, (header.directory * SECTOR) as usize) as usize * SECTOR as usize
}

#[test]
fn what_lies_over_something_else_is_not_written() {
    let entry = |value: u32| {
        refused(|bytes, header| {
            let at = entries(bytes, header);
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        })
    };
    assert!(entry(128).contains("over its tables"), "{}", entry(128));
    assert!(entry(1).contains("multiple of its size"));
    assert!(entry(1 << 20).contains("behind its end"));
    let twice = refused(|bytes, header| {
        let at = entries(bytes, header);
        bytes.copy_within(at..at + 4, at + 4);
    });
    assert!(twice.contains("two places"), "{twice}");
    let directory = |value: u32| {
        refused(|bytes, header| {
            let at = (header.directory * SECTOR) as usize;
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        })
    };
    assert!(directory(0).contains("missing"));
    assert!(directory(1).contains("overlap"));
    assert!(directory(u32::MAX).contains("ends before"), "{}", directory(u32::MAX));
    let place = |offset: usize, sector: u64| {
        refused(|bytes, _| bytes[offset..offset + 8].copy_from_slice(&sector.to_le_bytes()))
    };
    assert!(place(56, u64::MAX / 2).contains("directory is said"));
    assert!(place(56, 0).contains("directory is said"));
    assert!(place(36, u64::MAX / 2).contains("descriptor has"));
    assert!(place(28, 0).contains("part of an image"));
}

/// A descriptor with these extents, in a directory with a few files; why it cannot be opened.
fn named(extents: &str, access: Access) -> Result<VmdkDisk, DiskError> {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join("images").join(name);
    std::fs::create_dir(at("")).unwrap();
    std::fs::write(directory.path().join("secret"), [9; 4096]).unwrap();
    std::fs::write(at("flat"), [1; 4096]).unwrap();
    std::os::unix::fs::symlink(directory.path().join("secret"), at("link")).unwrap();
    let text =
        "# Disk DescriptorFile\nversion=1\nCID=00000001\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n";
    std::fs::write(at("disk.vmdk"), format!("{text}{extents}\n")).unwrap();
    std::fs::hard_link(at("disk.vmdk"), at("again")).unwrap();
    VmdkDisk::open(&at("disk.vmdk"), access)
}

#[test]
fn extents_are_in_the_directory_of_their_descriptor() {
    let why = |extents: &str| loop {
        match named(extents, Access::ReadWrite) {
            // A program that another test starts has the lock for a moment.
            Err(DiskError::InUse { .. }) => std::thread::yield_now(),
            other => break other.unwrap_err().to_string(),
        }
    };
    assert_eq!(patiently(|| named("RW 8 FLAT \"flat\" 0", Access::ReadWrite)).size(), 4096);
    for name in ["../secret", "/etc/passwd", "..", ".", "sub/flat", "../images/flat"] {
        let why = why(&format!("RW 1 FLAT \"{name}\" 0"));
        assert!(why.contains("not in its own directory"), "{name}: {why}");
    }
    assert!(why("RW 8 FLAT \"link\" 0").contains("symbolic link"));
    assert!(why("RW 8 FLAT \"flat\" 1").contains("8 sectors from sector 1"));
    assert!(why(&format!("RW 1 FLAT \"flat\" {}", u64::MAX)).contains("from sector"));
    assert!(why("RW 1 FLAT \"flat\" 0\nRW 1 FLAT \"flat\" 1").contains("twice"));
    assert!(why("RW 8 SPARSE \"flat\"").contains("begin like a sparse extent"));
    assert!(why("RW 1 FLAT \"absent\" 0").contains("cannot open"));
    // The descriptor itself, by another name: a guest that could write it would choose the image's files.
    for name in ["again", "disk.vmdk"] {
        let error = named(&format!("RW 1 FLAT \"{name}\" 0"), Access::ReadWrite).unwrap_err();
        assert!(matches!(error, DiskError::InUse { .. }), "{name}: {error}");
    }
}

#[test]
fn zeroes_are_read_and_not_written() {
    let extents = "RW 8 FLAT \"flat\" 0\nRW 16 ZERO";
    let disk = patiently(|| named(extents, Access::ReadOnly));
    let bytes = read_all(&disk);
    assert!(bytes[..4096] == [1; 4096] && bytes[4096..] == [0; 8192]);
    assert_eq!(disk.data_from(4096).unwrap(), None);
    assert!(matches!(disk.write_at(0, &[1]), Err(DiskError::ReadOnly { .. })));
    assert!(named(extents, Access::ReadWrite).unwrap_err().to_string().contains("zeroes"));
}
