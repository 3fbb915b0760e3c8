use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use vm_memory::Bytes;

use super::*;
use crate::testing::{Places, Random, inb, outb, reset_gives_power_on_state};

const RAM: u64 = 1 << 19;
const FACTS: MachineFacts = MachineFacts {
    uuid: *b"0123456789abcdef",
    ram_size: 5 << 30,
    cpus: 2,
    max_cpus: 4,
    display: false,
    boot_menu: true,
};
/// Where tests put descriptors, and what they transfer.
const DESCRIPTOR: u64 = 0x1000;
const BUFFER: u64 = 0x2000;

const ERROR: u32 = 1;
const READ: u32 = 2;
const SKIP: u32 = 4;
const SELECT: u32 = 8;
const WRITE: u32 = 16;

fn device() -> FwCfg {
    FwCfg::new(viv_engine::memory::allocate(RAM).unwrap(), &FACTS)
}

/// A device with files of every kind, one of which counts how often it was made.
fn with_files(made: &Arc<AtomicU8>) -> FwCfg {
    let mut device = device();
    let made = Arc::clone(made);
    let make = Box::new(move || vec![0x40 + made.fetch_add(1, Ordering::SeqCst); 3]);
    device.add_file("etc/tables", Content::Made { size: 5, make }).unwrap();
    device.add_file("etc/address", Content::Writable(vec![0xaa; 8])).unwrap();
    device.add_file("bootorder", Content::Bytes(b"disk0\0".to_vec())).unwrap();
    device
}

fn select(device: &mut FwCfg, key: u16) {
    device.port_io().unwrap().write(layout::FW_CFG, &key.to_le_bytes());
}

fn read(device: &mut FwCfg, key: u16, count: usize) -> Vec<u8> {
    select(device, key);
    (0..count).map(|_| inb(device, 0x511)).collect()
}

/// Runs a DMA operation and returns the control field that it leaves.
fn dma(device: &mut FwCfg, control: u32, length: u32, address: u64) -> u32 {
    let memory = device.memory.clone();
    let mut descriptor = control.to_be_bytes().to_vec();
    descriptor.extend(length.to_be_bytes());
    descriptor.extend(address.to_be_bytes());
    memory.write_slice(&descriptor, GuestAddress(DESCRIPTOR)).unwrap();
    start_dma(device, DESCRIPTOR);
    let mut control = [0; 4];
    memory.read_slice(&mut control, GuestAddress(DESCRIPTOR)).unwrap();
    u32::from_be_bytes(control)
}

fn start_dma(device: &mut FwCfg, descriptor: u64) {
    let (high, low) = ((descriptor >> 32) as u32, descriptor as u32);
    device.port_io().unwrap().write(0x514, &high.to_be_bytes());
    device.port_io().unwrap().write(0x518, &low.to_be_bytes());
}

fn buffer(device: &FwCfg, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    device.memory.read_slice(&mut bytes, GuestAddress(BUFFER)).unwrap();
    bytes
}

#[test]
fn firmware_recognizes_it() {
    let mut device = device();
    assert_eq!(read(&mut device, 0x00, 6), b"QEMU\0\0");
    assert_eq!(read(&mut device, 0x01, 4), [3, 0, 0, 0], "ports and DMA");
    let mut signature = [0; 4];
    device.read(0x514, &mut signature);
    assert_eq!(signature, *b"QEMU");
    device.read(0x518, &mut signature);
    assert_eq!(signature, *b" CFG");
}

#[test]
fn it_tells_about_the_machine() {
    let mut device = device();
    assert_eq!(read(&mut device, 0x02, 16), b"0123456789abcdef");
    assert_eq!(read(&mut device, 0x03, 8), (5_u64 << 30).to_le_bytes());
    for (key, value) in [(0x04, 1), (0x05, 2), (0x0e, 1), (0x0f, 4)] {
        assert_eq!(read(&mut device, key, 3), [value, 0, 0], "item {key:#x}");
    }
    assert_eq!(read(&mut device, 0x06, 2), [0, 0], "an item that is not there");
}

#[test]
fn the_directory_lists_files_by_name() {
    let mut device = with_files(&Arc::default());
    let directory = read(&mut device, 0x19, 4 + 3 * 64);
    assert_eq!(directory[..4], [0, 0, 0, 3]);
    let files: Vec<_> = directory[4..].chunks(64).collect();
    for (file, (size, key, name)) in
        files.iter().zip([(6, 0x20, "bootorder"), (8, 0x21, "etc/address"), (5, 0x22, "etc/tables")])
    {
        assert_eq!(file[..8], [0, 0, 0, size, 0, key, 0, 0]);
        assert_eq!(file[8..].to_vec(), [name.as_bytes(), &vec![0; 56 - name.len()]].concat());
    }
    assert_eq!(read(&mut device, 0x20, 7), b"disk0\0\0");
}

#[test]
fn selecting_begins_at_the_start_and_bit_14_means_nothing() {
    let mut device = device();
    assert_eq!(read(&mut device, 0x4000, 2), b"QE");
    assert_eq!(read(&mut device, 0x0000, 2), b"QE");
    let mut two = [0; 2];
    device.read(0x511, &mut two[..1]);
    outb(&mut device, 0x511, 7);
    outb(&mut device, 0x510, 1);
    device.read(0x511, &mut two[1..]);
    assert_eq!(two, *b"MU", "writes of bytes do nothing");
}

#[test]
fn content_is_made_when_it_is_first_selected() {
    let made = Arc::default();
    let mut device = with_files(&made);
    read(&mut device, 0x19, 4);
    assert_eq!(made.load(Ordering::SeqCst), 0);
    assert_eq!(device.file("etc/tables"), Some(&[][..]));
    assert_eq!(read(&mut device, 0x22, 6), [0x40, 0x40, 0x40, 0, 0, 0], "filled up to its size");
    assert_eq!(read(&mut device, 0x22, 1), [0x40], "and kept");
    device.reset();
    assert_eq!(read(&mut device, 0x22, 1), [0x41], "until a reset");
}

#[test]
fn dma_reads_skips_and_fills_up() {
    let mut device = device();
    device.add_item(0x8003, Content::Bytes((1..=10).collect())).unwrap();
    device.memory.write_slice(&[0xff; 16], GuestAddress(BUFFER)).unwrap();
    assert_eq!(dma(&mut device, 0x8003 << 16 | SELECT | READ, 4, BUFFER), 0);
    assert_eq!(buffer(&device, 5), [1, 2, 3, 4, 0xff]);
    assert_eq!(dma(&mut device, SKIP, 3, 0), 0);
    assert_eq!(dma(&mut device, READ, 6, BUFFER), 0);
    assert_eq!(buffer(&device, 7), [8, 9, 10, 0, 0, 0, 0xff]);
    assert_eq!(inb(&mut device, 0x511), 0, "the end");
    assert_eq!(dma(&mut device, SELECT, 0, 0), 0);
    assert_eq!(inb(&mut device, 0x511), b'Q', "the offset is shared with the data port");
    assert_eq!(dma(&mut device, 0, 1, 0), 0, "nothing asked, nothing done");
    assert_eq!(inb(&mut device, 0x511), b'E');
}

#[test]
fn dma_that_leaves_ram_fails() {
    let mut device = device();
    for (length, address) in [(16, RAM - 8), (u32::MAX, 0), (1, RAM), (1, u64::MAX), (2, u64::MAX)] {
        assert_eq!(dma(&mut device, SELECT | READ, length, address), ERROR, "{length} at {address:#x}");
    }
    let all = u32::try_from(RAM - BUFFER).unwrap();
    assert_eq!(dma(&mut device, SELECT | READ, all, BUFFER), 0);
    assert_eq!(buffer(&device, 5), b"QEMU\0");
    for descriptor in [RAM, RAM - 4, RAM - 12, u64::MAX, u64::MAX - 15] {
        start_dma(&mut device, descriptor);
    }
    let mut control = [0; 4];
    device.memory.read_slice(&mut control, GuestAddress(RAM - 12)).unwrap();
    assert_eq!(u32::from_be_bytes(control), ERROR, "also where the descriptor is cut off");
}

#[test]
fn dma_writes_what_is_writable_whole_or_not_at_all() {
    let mut device = with_files(&Arc::default());
    device.memory.write_slice(&[1, 2, 3, 4, 5, 6, 7, 8], GuestAddress(BUFFER)).unwrap();
    let key = 0x21 << 16 | SELECT;
    assert_eq!(dma(&mut device, key | WRITE, 8, BUFFER), 0);
    assert_eq!(device.file("etc/address"), Some(&[1, 2, 3, 4, 5, 6, 7, 8][..]));
    assert_eq!(dma(&mut device, key | SKIP, 6, 0), 0);
    assert_eq!(dma(&mut device, WRITE, 3, BUFFER), ERROR, "beyond the end");
    assert_eq!(dma(&mut device, WRITE, 2, RAM - 1), ERROR, "from beyond RAM");
    assert_eq!(dma(&mut device, WRITE, 2, BUFFER), 0);
    assert_eq!(device.file("etc/address"), Some(&[1, 2, 3, 4, 5, 6, 1, 2][..]));
    assert_eq!(dma(&mut device, 0x20 << 16 | SELECT | WRITE, 1, BUFFER), ERROR, "read-only");
    assert_eq!(dma(&mut device, 0x99 << 16 | SELECT | WRITE, 1, BUFFER), ERROR, "not there");
    device.reset();
    assert_eq!(device.file("etc/address"), Some(&[0xaa; 8][..]));
}

#[test]
fn the_upper_half_of_the_address_holds_for_one_operation() {
    let mut device = device();
    device.write(0x514, &1_u32.to_be_bytes());
    device.write(0x518, &(DESCRIPTOR as u32).to_be_bytes());
    assert_eq!(dma(&mut device, 1 << 16 | SELECT | READ, 1, BUFFER), 0);
    device.memory.write_slice(&[0, 0, 0, SELECT as u8], GuestAddress(DESCRIPTOR)).unwrap();
    device.write(0x518, &(DESCRIPTOR as u32).to_be_bytes());
    assert_eq!(inb(&mut device, 0x511), b'Q');
}

#[test]
fn what_cannot_be_added_is_refused() {
    let mut device = device();
    let bytes = || Content::Bytes(vec![1]);
    for key in [0x00, 0x05, 0x19, 0x20, 0x3fff, 0x4000, 0x7fff, 0xc000] {
        assert_eq!(device.add_item(key, bytes()), Err(FwCfgError::Key { key }));
    }
    device.add_item(0x8000, bytes()).unwrap();
    let long = "x".repeat(56);
    for name in ["", "with space", "nul\0", "é", &long] {
        assert!(matches!(device.add_file(name, bytes()), Err(FwCfgError::Name { .. })), "{name:?}");
    }
    device.add_file(&long[1..], bytes()).unwrap();
    assert!(matches!(device.add_file(&long[1..], bytes()), Err(FwCfgError::Exists { .. })));
}

#[test]
fn a_restored_device_goes_on() {
    let made = Arc::default();
    let mut old = with_files(&made);
    old.memory.write_slice(&[9; 8], GuestAddress(BUFFER)).unwrap();
    dma(&mut old, 0x21 << 16 | SELECT | WRITE, 8, BUFFER);
    read(&mut old, 0x22, 2);
    let mut new = with_files(&made);
    new.restore(&old.save().unwrap()).unwrap();
    assert_eq!([inb(&mut new, 0x511), inb(&mut new, 0x511)], [0x40, 0]);
    assert_eq!(new.file("etc/address"), Some(&[9; 8][..]));
    assert_eq!(made.load(Ordering::SeqCst), 1);
}

#[test]
fn a_state_that_does_not_fit_the_items_is_refused() {
    for (key, size) in [(0x20, 6), (0x21, 7), (0x23, 1), (0x19, 4)] {
        let state = FwCfgState { selector: 0, offset: 0, dma_high: 0, contents: vec![(key, vec![0; size])] };
        let saved = SavedState::encode(NAME, FwCfgState::VERSION, &state).unwrap();
        let restored = with_files(&Arc::default()).restore(&saved);
        assert!(matches!(restored, Err(DeviceError::Invalid { .. })), "{key:#x}");
    }
}

#[test]
fn random_operations_stay_within_ram() {
    let mut device = with_files(&Arc::default());
    let mut random = Random(0x1234_5678_9abc_def1);
    for _ in 0..5000 {
        let key = [0, 0x19, 0x20, 0x21, 0x22, 0x23][random.below(6) as usize];
        let control = key << 16 | random.below(32) as u32;
        let length = (random.next() >> (32 + random.below(32))) as u32;
        let address = random.next() >> random.below(64);
        let result = dma(&mut device, control, length, address);
        // What is read may lie on top of the descriptor, but it is written last.
        assert!(result & !ERROR == 0);
        assert!(device.rest().len() <= 4 + 3 * 64);
    }
}

#[test]
fn a_reset_gives_the_state_after_power_on() {
    let places = Places { ports: &FwCfg::PORTS, memory: 0 };
    let fresh = || with_files(&Arc::default());
    reset_gives_power_on_state(fresh, &places);
}
