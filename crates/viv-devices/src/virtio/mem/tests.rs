use std::sync::{Arc, Mutex};

use viv_engine::memory::{allocate, present};
use vm_memory::{Bytes, GuestAddress};

use super::regs::RESPONSE;
use super::*;
use crate::virtio::Shared;
use crate::virtio::testing::{Driver, RAM, RING_FEATURES};

/// Four blocks after what the driver uses, and a part of one.
const REGION: Range<u64> = RAM..RAM + 4 * BLOCK + 0x1000;

const ACK: u8 = 0;
const NACK: u8 = 1;
const ERROR: u8 = 3;

struct Bench {
    driver: Driver,
    device: Shared<Memory>,
}

impl Bench {
    fn new() -> Self {
        let memory = allocate(RAM + 8 * BLOCK).unwrap();
        let device = Arc::new(Mutex::new(Memory::new(memory.clone(), REGION)));
        let mut driver = Driver::with_memory(device.clone(), memory);
        driver.start(RING_FEATURES | regs::UNPLUGGED_INACCESSIBLE);
        Self { driver, device }
    }

    /// Makes a request; the type of the answer, and the state.
    fn request(&mut self, kind: u16, address: u64, count: u16) -> (u8, u8) {
        let mut bytes = u64::from(kind).to_le_bytes().to_vec();
        bytes.extend(address.to_le_bytes());
        bytes.extend(u64::from(count).to_le_bytes());
        let request = self.driver.data(&bytes);
        let answer = self.driver.buffer(RESPONSE as u32);
        self.driver.add(0, &[(request, 24, false), (answer, RESPONSE as u32, true)]);
        self.driver.kick(0);
        assert_eq!(self.driver.used(0)[0].1, RESPONSE as u32);
        let answer = self.driver.bytes(answer, RESPONSE);
        (answer[0], answer[8])
    }

    fn block(index: u64) -> u64 {
        REGION.start + index * BLOCK
    }

    fn want(&self, blocks: u64) {
        self.device.lock().unwrap().set_requested(blocks * BLOCK);
    }

    fn present(&self) -> u64 {
        let part = |range: Range<u64>| range.end.saturating_sub(range.start.max(REGION.start));
        present(&self.driver.memory).map(part).sum()
    }
}

#[test]
fn the_driver_learns_what_is_wanted() {
    let mut bench = Bench::new();
    let words: Vec<_> = (0..7).map(|word| bench.driver.config(8 * word, 8)).collect();
    assert_eq!(words, [BLOCK, 0, RAM, 4 * BLOCK, 4 * BLOCK, 0, 0]);
    bench.driver.interrupts();
    bench.want(3);
    assert_eq!(bench.driver.interrupts(), [1], "the configuration's vector");
    assert_eq!(bench.driver.config(48, 8), 3 * BLOCK);
    bench.want(9);
    assert_eq!(bench.driver.config(48, 8), 4 * BLOCK);
}

#[test]
fn blocks_are_plugged_as_far_as_is_wanted() {
    let mut bench = Bench::new();
    assert_eq!(bench.request(request::PLUG, Bench::block(0), 1).0, NACK);
    bench.want(3);
    assert_eq!(bench.request(request::PLUG, Bench::block(1), 2).0, ACK);
    assert_eq!(bench.request(request::PLUG, Bench::block(2), 2).0, ERROR, "one of them is");
    assert_eq!(bench.request(request::STATE, Bench::block(1), 2), (ACK, 0));
    assert_eq!(bench.request(request::STATE, Bench::block(0), 1), (ACK, 1));
    assert_eq!(bench.request(request::STATE, Bench::block(0), 4), (ACK, 2));
    assert_eq!(bench.driver.config(40, 8), 2 * BLOCK);
    for (address, count) in
        [(RAM - BLOCK, 1), (RAM + 0x1000, 1), (RAM, 0), (RAM, 5), (!(BLOCK - 1), u16::MAX)]
    {
        assert_eq!(bench.request(request::PLUG, address, count).0, ERROR, "{address:#x}, {count}");
    }
    assert_eq!(bench.request(99, RAM, 1).0, ERROR);
}

#[test]
fn what_is_unplugged_is_given_back() {
    let mut bench = Bench::new();
    bench.want(4);
    bench.driver.memory.write_slice(&[9; 16], GuestAddress(Bench::block(2))).unwrap();
    assert_eq!(bench.request(request::PLUG, Bench::block(0), 4).0, ACK);
    assert_eq!(bench.driver.bytes(Bench::block(2), 16), [0; 16], "what was there before is not");
    bench.driver.memory.write_slice(&[7; 0x3000], GuestAddress(Bench::block(1))).unwrap();
    assert_eq!(bench.request(request::UNPLUG, Bench::block(1), 1).0, ACK);
    assert_eq!(bench.request(request::UNPLUG, Bench::block(1), 1).0, ERROR);
    assert_eq!(bench.driver.bytes(Bench::block(1), 0x3000), [0; 0x3000]);
    assert_eq!(bench.request(request::UNPLUG_ALL, 0, 0).0, ACK);
    assert_eq!((bench.driver.config(40, 8), bench.present()), (0, 0));
}

#[test]
fn blocks_outlast_a_driver_and_a_move_but_no_reset_of_the_machine() {
    let mut bench = Bench::new();
    bench.want(4);
    bench.request(request::PLUG, Bench::block(3), 1);
    bench.driver.start(RING_FEATURES);
    assert_eq!(bench.driver.config(40, 8), BLOCK);

    let Bench { driver, .. } = bench;
    let device = Arc::new(Mutex::new(Memory::new(driver.memory.clone(), REGION)));
    let mut bench = Bench { driver: driver.move_to(device.clone()), device };
    assert_eq!((bench.driver.config(40, 8), bench.driver.config(48, 8)), (BLOCK, 4 * BLOCK));
    assert_eq!(bench.request(request::STATE, Bench::block(3), 1), (ACK, 0));

    bench.driver.reset_machine();
    let device = bench.device.lock().unwrap();
    assert_eq!((device.plugged(), device.requested(), device.size()), (0, 4 * BLOCK, 4 * BLOCK));
}

#[test]
fn another_region_is_refused() {
    let memory = allocate(RAM).unwrap();
    let saved = Memory::new(memory.clone(), RAM / 2..RAM).save().unwrap();
    let mut other = Memory::new(memory.clone(), RAM / 2..RAM - BLOCK);
    assert!(other.restore(&saved).is_err());
    assert!(Memory::new(memory, RAM / 2..RAM).restore(&saved).is_ok());
}
