use proptest::prelude::*;
use viv_engine::memory::{HOLE_END, HOLE_START, allocate, take_dirty_pages};
use vm_memory::{Bytes, GuestAddress};

use super::*;

fn state() -> SavedMachine {
    SavedMachine {
        name: "test".into(),
        memory_bytes: 1 << 20,
        cpuid: CpuidTable::default(),
        tsc_khz: 1_000_000,
        clock: 123,
        resets: 1,
        vcpus: vec![VcpuState::reset()],
        devices: vec![SavedState { name: "uart0".into(), version: 1, data: vec![1, 2, 3] }],
    }
}

fn pages(runs: &[(u64, u32)], end: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    for &(first, length) in runs {
        bytes.extend(first.to_le_bytes());
        bytes.extend(length.to_le_bytes());
        bytes.resize(bytes.len() + 4096 * length as usize, 0xaa);
    }
    bytes.extend(end.to_le_bytes());
    bytes.extend(0_u32.to_le_bytes());
    bytes
}

#[test]
fn a_state_comes_back() {
    let mut bytes = Vec::new();
    write_state(&mut bytes, &state()).unwrap();
    assert_eq!(read_state(&mut bytes.as_slice()).unwrap(), state());
    for length in 0..bytes.len() {
        assert!(read_state(&mut &bytes[..length]).is_err(), "{length} bytes are not enough");
    }
}

#[test]
fn states_of_version_1_come_back() {
    let mut bytes = Vec::new();
    write_state(&mut bytes, &state()).unwrap();
    // What is new are two fields at the end of a vCPU, and one before its run state, here of a byte each: `None` and
    // `false`.
    let devices = postcard::to_stdvec(&state().devices).unwrap().len();
    let end = bytes.len() - devices;
    assert!(bytes.drain(end - 2..end).eq([0, 0]));
    assert_eq!(bytes.remove(end - 4), 0);
    bytes[10] = 1;
    let length = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) - 3;
    bytes[12..16].copy_from_slice(&length.to_le_bytes());
    assert_eq!(read_state(&mut bytes.as_slice()).unwrap(), state());
}

#[test]
fn other_versions_are_named() {
    let mut bytes = Vec::new();
    write_state(&mut bytes, &state()).unwrap();
    let with = |at: usize, value: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = value;
        read_state(&mut bytes.as_slice()).unwrap_err()
    };
    assert!(matches!(with(0, b'V'), SnapshotError::NoSnapshot));
    assert!(matches!(with(8, 9), SnapshotError::Version { found: 9 }));
    assert!(matches!(with(10, 9), SnapshotError::VcpuVersion { found: 9 }));
    assert!(matches!(with(15, 0xff), SnapshotError::Damaged(_)));
}

#[test]
fn pages_come_back_on_both_sides_of_the_hole() {
    let size = HOLE_START + (4 << 20);
    let memory = allocate(size).unwrap();
    // The last page below the hole, a run longer than one record, and a page that is zero again.
    memory.write_slice(b"below", GuestAddress(HOLE_START - 5)).unwrap();
    let long: Vec<u8> = (0..600 * 4096).map(|i| (i % 253) as u8).collect();
    memory.write_slice(&long, GuestAddress(HOLE_END)).unwrap();
    memory.write_slice(&[0; 4096], GuestAddress(0x5000)).unwrap();
    let mut set = PageSet::default();
    set.extend(take_dirty_pages(&memory));
    assert_eq!(set.iter().count(), 602);

    let mut bytes = Vec::new();
    write_pages(&mut bytes, &memory, set.iter()).unwrap();
    assert!(bytes.len() < 602 * 4096, "zero pages are left out");

    let other = allocate(size).unwrap();
    read_pages(&mut bytes.as_slice(), &other).unwrap();
    let mut read = vec![0; long.len()];
    other.read_slice(&mut read, GuestAddress(HOLE_END)).unwrap();
    assert!(read == long);
    let mut read = [0; 5];
    other.read_slice(&mut read, GuestAddress(HOLE_START - 5)).unwrap();
    assert_eq!(&read, b"below");
    assert_eq!(take_dirty_pages(&other).len(), 601);
}

#[test]
fn pages_that_cannot_be_right_are_refused() {
    let memory = allocate(1 << 20).unwrap();
    let read = |bytes: &[u8]| read_pages(&mut &*bytes, &memory);
    assert!(read(&pages(&[(0, 1), (255, 1)], 2)).is_ok());
    let damage = |runs: &[(u64, u32)], end| match read(&pages(runs, end)) {
        Err(SnapshotError::Damaged(what)) => what,
        other => panic!("{other:?}"),
    };
    assert!(damage(&[(256, 1)], 1).contains("outside"));
    assert!(damage(&[(255, 2)], 2).contains("outside"));
    assert!(damage(&[(u64::MAX, 1)], 1).contains("outside"));
    assert!(damage(&[(u64::MAX / 4096, 1)], 1).contains("outside"));
    assert!(damage(&[(0, 257)], 257).contains("too long"));
    assert!(damage(&[(4, 2), (5, 1)], 3).contains("order"));
    assert!(damage(&[(4, 1)], 2).contains("missing"));
    let whole = pages(&[(4, 1)], 1);
    assert!(matches!(read(&whole[..whole.len() - 1]), Err(SnapshotError::Damaged(_))));
}

proptest! {
    #[test]
    fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300), magic in any::<bool>()) {
        if magic {
            let mut head = Vec::new();
            write_state(&mut head, &state()).unwrap();
            head.truncate(12);
            head.extend(u32::try_from(bytes.len()).unwrap().to_le_bytes());
            head.append(&mut bytes);
            bytes = head;
        }
        let _ = read_state(&mut bytes.as_slice());
    }
}
