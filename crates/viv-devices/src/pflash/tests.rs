use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::*;
use crate::testing::Random;

const SIZE: usize = 4 * BLOCK;

/// A store that can be looked into and made to fail.
#[derive(Clone, Default)]
struct Shared {
    content: Arc<Mutex<Vec<u8>>>,
    writes: Arc<Mutex<Vec<(u64, usize)>>>,
    broken: Arc<AtomicBool>,
}

impl Shared {
    fn new() -> Self {
        let shared = Self::default();
        *shared.content.lock().unwrap() = (0..SIZE).map(|at| at as u8 | 1).collect();
        shared
    }
}

impl FlashStore for Shared {
    fn load(&mut self) -> io::Result<Vec<u8>> {
        Ok(self.content.lock().unwrap().clone())
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(io::Error::other("no space"));
        }
        let offset = offset as usize;
        self.content.lock().unwrap()[offset..offset + data.len()].copy_from_slice(data);
        self.writes.lock().unwrap().push((offset as u64, data.len()));
        Ok(())
    }
}

struct Bench {
    store: Shared,
    chip: Pflash,
}

fn bench() -> Bench {
    let store = Shared::new();
    let chip = Pflash::new(0, Box::new(store.clone())).unwrap();
    Bench { store, chip }
}

impl Bench {
    fn byte(&mut self, offset: u64) -> u8 {
        let mut data = [0];
        self.chip.read(offset, &mut data);
        data[0]
    }

    /// Writes bytes to one offset, one after the other.
    fn put(&mut self, offset: u64, values: &[u8]) {
        for &value in values {
            self.chip.write(offset, &[value]);
        }
    }

    fn stored(&self, range: std::ops::Range<usize>) -> Vec<u8> {
        self.store.content.lock().unwrap()[range].to_vec()
    }
}

#[test]
fn ovmf_finds_flash() {
    let mut b = bench();
    let original = b.byte(1);
    assert!(![0x00, 0x50, 0x70].contains(&original), "a byte to probe at");
    b.put(1, &[0x50]);
    assert_eq!(b.byte(1), original, "no RAM");
    b.put(1, &[0x70]);
    assert_eq!(b.byte(1), 0, "no ROM");
    b.put(1, &[0xff]);
    assert_eq!(b.byte(1), original);
}

#[test]
fn bytes_are_programmed_as_ovmf_does_it() {
    let mut b = bench();
    b.put(BLOCK as u64, &[0x20, 0xd0]);
    for (offset, &byte) in (BLOCK as u64..).zip(b"BootOrder") {
        b.put(offset, &[0x10, byte]);
        assert_eq!(b.byte(offset), 0x80);
    }
    b.put(BLOCK as u64, &[0xff]);
    let mut data = [0; 8];
    b.chip.read(BLOCK as u64, &mut data);
    assert_eq!(data, *b"BootOrde");
    assert_eq!(b.stored(BLOCK..BLOCK + 10), b"BootOrder\xff", "and are in the store at once");
}

#[test]
fn programming_clears_bits_and_erasing_sets_those_of_a_block() {
    let mut b = bench();
    b.put(0, &[0x40, 0xf1]);
    b.put(2, &[0x40, 0x00]);
    b.chip.write(4, &[0x40]);
    b.chip.write(4, &[0x04, 0xf0, 0x0f, 0x00]);
    assert_eq!(b.stored(0..9), [1, 1, 0, 3, 4, 0, 7, 0, 9], "a write of four bytes programs four");
    b.put(BLOCK as u64 + 77, &[0x20, 0xd0]);
    assert_eq!(b.stored(BLOCK - 1..2 * BLOCK + 1), [&[0xff][..], &vec![0xff; BLOCK], &[1]].concat());
    assert_eq!(b.store.writes.lock().unwrap().last(), Some(&(BLOCK as u64, BLOCK)));
    b.put(0, &[0xff]);
    assert_eq!(b.byte(BLOCK as u64), 0xff);
}

#[test]
fn the_buffer_is_programmed_at_once() {
    let mut b = bench();
    b.put(0, &[0x20, 0xd0, 0xe8]);
    assert_eq!(b.byte(0), 0x80, "the buffer is free");
    b.put(0, &[3]);
    for (offset, byte) in [(8, 1), (9, 2), (10, 3), (64, 4)] {
        b.put(offset, &[byte]);
    }
    assert_eq!(b.stored(8..11), [0xff; 3]);
    b.put(0, &[0xd0]);
    assert_eq!((b.stored(8..12), b.stored(64..65)), (vec![1, 2, 3, 0xff], vec![4]));
    assert_eq!(b.store.writes.lock().unwrap()[1..], [(8, 3), (64, 1)]);
    assert_eq!(b.byte(0), 0x80);
}

#[test]
fn a_command_that_breaks_off_changes_nothing() {
    let mut b = bench();
    b.put(0, &[0x20, 0xff]);
    assert_eq!(b.byte(0), 0xb0, "bad sequence");
    b.put(0, &[0x50, 0xe8, 0, 0x55, 0xff]);
    assert_eq!(b.byte(0), 0xb0);
    b.put(0, &[0x50, 0x70]);
    assert_eq!(b.byte(0), 0x00, "the status is cleared");
    b.put(0, &[0x60, 0xd0]);
    assert_eq!(b.byte(0), 0x80, "unlocking is always done");
    b.put(0, &[0x33]);
    assert_eq!(b.byte(0), 1, "what is no command goes back to the content");
    assert!(b.store.writes.lock().unwrap().is_empty());
}

#[test]
fn a_store_that_fails_is_a_failed_operation() {
    let mut b = bench();
    b.store.broken.store(true, Ordering::SeqCst);
    b.put(0, &[0x40, 0x00]);
    assert_eq!(b.byte(0), 0x90);
    b.put(0, &[0x50, 0x20, 0xd0]);
    assert_eq!(b.byte(0), 0xa0);
    b.put(0, &[0xff]);
    assert_eq!(b.byte(0), 1, "the content is as the store has it");
    b.store.broken.store(false, Ordering::SeqCst);
    b.put(0, &[0x50, 0x40, 0x00]);
    assert_eq!(b.byte(0), 0x80);
}

#[test]
fn programming_beyond_the_end_fails() {
    let mut b = bench();
    b.put(0, &[0x40]);
    b.chip.write(SIZE as u64 - 2, &[0; 4]);
    assert_eq!(b.byte(0), 0x90);
    b.put(0, &[0xff]);
    let mut data = [0; 4];
    b.chip.read(SIZE as u64 - 2, &mut data);
    assert_eq!(data, [0xff; 4]);
}

#[test]
fn it_tells_what_it_is() {
    let mut b = bench();
    b.put(0x55, &[0x98]);
    let query: Vec<u8> = (0x10..0x36).map(|offset| b.byte(offset)).collect();
    assert_eq!(query[..7], *b"QRY\x01\0\x31\0");
    assert_eq!(query[0x27 - 0x10], 14, "16 KiB");
    assert_eq!(query[0x2c - 0x10..0x31 - 0x10], [1, 3, 0, 16, 0], "4 blocks of 16 times 256 bytes");
    assert_eq!(query[0x31 - 0x10..], *b"PRI10");
    b.put(0, &[0x90]);
    assert_eq!([b.byte(0), b.byte(1), b.byte(2)], [0x89, 0x18, 0]);
}

#[test]
fn sizes_that_no_chip_has_are_refused() {
    for size in [0, 1, BLOCK - 1, BLOCK + 512, (MAX_SIZE as usize) + BLOCK] {
        let chip = Pflash::new(1, Box::new(MemoryStore::new(vec![0; size])));
        assert!(matches!(chip, Err(FlashError::Size { index: 1, .. })), "{size}");
    }
}

#[test]
fn a_file_keeps_what_is_written() {
    let mut file = tempfile::tempfile().unwrap();
    io::Write::write_all(&mut file, &[0xff; 2 * BLOCK]).unwrap();
    let mut chip = Pflash::new(0, Box::new(FileStore::new(file.try_clone().unwrap()))).unwrap();
    assert_eq!(chip.size(), 2 * BLOCK as u64);
    chip.write(0x1234, &[0x40]);
    chip.write(0x1234, &[0x12, 0x34]);
    drop(chip);
    let mut chip = Pflash::new(0, Box::new(FileStore::new(file))).unwrap();
    let mut data = [0; 4];
    chip.read(0x1233, &mut data);
    assert_eq!(data, [0xff, 0x12, 0x34, 0xff]);
}

#[test]
fn a_restored_chip_goes_on_and_its_store_follows() {
    let mut old = bench();
    old.put(0, &[0x40, 0x00, 0xe8, 1, 0x00]);
    let mut new = bench();
    new.chip.restore(&old.chip.save().unwrap()).unwrap();
    assert_eq!(new.stored(0..2), [0, 1]);
    new.put(1, &[0x00, 0xd0]);
    assert_eq!(new.stored(0..2), [0, 0]);
    new.store.broken.store(true, Ordering::SeqCst);
    let refused = new.chip.restore(&old.chip.save().unwrap());
    assert!(matches!(refused, Err(DeviceError::Invalid { .. })), "the store cannot follow");
}

#[test]
fn a_state_that_cannot_be_is_refused() {
    let mut chip = bench().chip;
    let good: PflashState = chip.save().unwrap().decode(1).unwrap();
    let buffer = |left, writes| Pending::Buffer { left, writes };
    let one = vec![(SIZE as u64 - 1, vec![0, 0])];
    let many = vec![(0, vec![0]); 257];
    let end = vec![(u64::MAX, vec![0])];
    for pending in [buffer(0, one), buffer(0, many), buffer(257, Vec::new()), buffer(1, end)] {
        let saved = SavedState::encode("pflash0", 1, &PflashState { pending, ..good.clone() }).unwrap();
        assert!(matches!(chip.restore(&saved), Err(DeviceError::Invalid { .. })));
    }
    let short = PflashState { content: vec![0; BLOCK], ..good };
    let saved = SavedState::encode("pflash0", 1, &short).unwrap();
    assert!(matches!(chip.restore(&saved), Err(DeviceError::Invalid { .. })));
}

#[test]
fn content_and_store_agree_whatever_is_written() {
    let mut b = bench();
    let mut random = Random(0x0dd0_5eed_0dd0_5eed);
    let commands = [0x10, 0x20, 0x40, 0x50, 0x60, 0x70, 0x90, 0x98, 0xd0, 0xd0, 0xe8, 0xff, 0x00, 0x01];
    for _ in 0..20_000 {
        let offset = random.below(SIZE as u64 + 4);
        let mut data = random.next().to_le_bytes();
        if random.below(4) != 0 {
            data[0] = commands[random.below(commands.len() as u64) as usize];
        }
        b.store.broken.store(random.below(8) == 0, Ordering::SeqCst);
        b.chip.write(offset, &data[..1 + random.below(8) as usize]);
        b.byte(offset);
    }
    assert_eq!(b.stored(0..SIZE), b.chip.content);
}

#[test]
fn reset_leaves_the_content() {
    let mut b = bench();
    b.put(0, &[0x40, 0x00, 0x20]);
    b.chip.reset();
    assert_eq!([b.byte(0), b.byte(1)], [0, 1]);
    b.put(0, &[0x70]);
    assert_eq!(b.byte(0), 0x80);
}
