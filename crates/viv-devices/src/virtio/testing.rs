//! A driver without a guest: it finds a virtio function on a PCI bus, negotiates, and puts requests into
//! rings, all through registers and guest memory.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use viv_engine::{GuestMemory, Msi, MsiTarget};
use vm_memory::{Bytes, GuestAddress};

use super::device::{Shared, VirtioDevice};
use super::regs::{feature, status};
use super::transport::VirtioPci;
use crate::doorbell::Worker;
use crate::layout;
use crate::pci::{Connections, IntxLine, PciBus, PciHost, Placing, Windows};
use crate::{Device, MemoryIo, SavedState};

const MMIO: u64 = 0xc000_0000;
const FUNCTION: u64 = layout::PCI_ECAM_BASE + (1 << 15);
pub(super) const RAM: u64 = 16 << 20;
/// Where rings lie, 16 KiB for each queue.
const RINGS: u64 = 0x10_0000;
/// Where buffers lie.
const BUFFERS: u64 = 0x40_0000;

/// All that there is to negotiate about rings.
pub(super) const RING_FEATURES: u64 =
    feature::VERSION_1 | feature::RING_EVENT_IDX | feature::RING_INDIRECT_DESC;

#[derive(Default)]
pub(super) struct Sent(Mutex<Vec<Msi>>);

impl MsiTarget for Sent {
    fn send_msi(&self, msi: Msi) {
        self.0.lock().unwrap().push(msi);
    }
}

#[derive(Default)]
pub(super) struct Line(AtomicBool);

impl IntxLine for Line {
    fn set(&self, asserted: bool) {
        self.0.store(asserted, Ordering::SeqCst);
    }
}

/// One buffer of a request: address, length, whether the device writes it.
pub(super) type Part = (u64, u32, bool);

#[derive(Clone, Copy, Default)]
pub(super) struct Ring {
    pub(super) size: u16,
    next: u16,
    available: u16,
    used: u16,
}

/// Registers of the common structure, as a driver knows them: offset and width.
pub(super) mod common {
    pub const DEVICE_FEATURE_SELECT: (u64, usize) = (0x00, 4);
    pub const DEVICE_FEATURE: (u64, usize) = (0x04, 4);
    pub const DRIVER_FEATURE_SELECT: (u64, usize) = (0x08, 4);
    pub const DRIVER_FEATURE: (u64, usize) = (0x0c, 4);
    pub const CONFIG_VECTOR: (u64, usize) = (0x10, 2);
    pub const NUM_QUEUES: (u64, usize) = (0x12, 2);
    pub const STATUS: (u64, usize) = (0x14, 1);
    pub const GENERATION: (u64, usize) = (0x15, 1);
    pub const QUEUE_SELECT: (u64, usize) = (0x16, 2);
    pub const QUEUE_SIZE: (u64, usize) = (0x18, 2);
    pub const QUEUE_VECTOR: (u64, usize) = (0x1a, 2);
    pub const QUEUE_ENABLE: (u64, usize) = (0x1c, 2);
    pub const QUEUE_NOTIFY_OFF: (u64, usize) = (0x1e, 2);
    pub const QUEUE_DESC: (u64, usize) = (0x20, 8);
    pub const QUEUE_DRIVER: (u64, usize) = (0x28, 8);
    pub const QUEUE_DEVICE: (u64, usize) = (0x30, 8);
}

pub(super) struct Driver {
    pub(super) memory: GuestMemory,
    pub(super) worker: Worker,
    host: PciHost,
    sent: Arc<Sent>,
    line: Arc<Line>,
    /// Addresses of the structures by type, and of the MSI-X table.
    structures: [u64; 6],
    pub(super) msix_table: u64,
    msix_control: u64,
    pub(super) access: u64,
    multiplier: u64,
    pub(super) rings: Vec<Ring>,
    next_buffer: u64,
}

impl Driver {
    pub(super) fn new(device: Shared<dyn VirtioDevice>) -> Self {
        Self::with_memory(device, viv_engine::memory::allocate(RAM).unwrap())
    }

    pub(super) fn with_memory(device: Shared<dyn VirtioDevice>, memory: GuestMemory) -> Self {
        let (sent, line) = (Arc::<Sent>::default(), Arc::<Line>::default());
        let connections =
            Connections { memory: memory.clone(), msi: sent.clone(), line: line.clone(), line_number: 10 };
        let function = VirtioPci::new("virtio0", device, connections).unwrap();
        let worker = function.worker();
        let ecam = layout::PCI_ECAM_BASE + layout::PCI_ECAM_SIZE;
        let windows = Windows { memory32: MMIO..ecam, memory64: 0..0, ports: 0..0 };
        let bus = PciBus::new(windows, Placing::Machine);
        bus.add(1, Box::new(function)).unwrap();
        let mut driver = Self {
            memory,
            worker,
            host: bus.host(),
            sent,
            line,
            structures: [0; 6],
            msix_table: 0,
            msix_control: 0,
            access: 0,
            multiplier: 0,
            rings: Vec::new(),
            next_buffer: BUFFERS,
        };
        driver.discover();
        driver
    }

    fn discover(&mut self) {
        let bar = self.read(FUNCTION + 0x10, 4);
        let mut at = FUNCTION + self.read(FUNCTION + 0x34, 1);
        while at != FUNCTION {
            match self.read(at, 1) {
                0x09 => {
                    let kind = self.read(at + 3, 1);
                    assert_eq!(self.read(at + 4, 1), 0, "BAR 0");
                    self.structures[kind as usize] = bar + self.read(at + 8, 4);
                    match kind {
                        2 => self.multiplier = self.read(at + 16, 4),
                        5 => self.access = at,
                        _ => {}
                    }
                }
                0x11 => {
                    self.msix_control = at + 2;
                    self.msix_table = bar + self.read(at + 4, 4);
                }
                id => panic!("capability {id}"),
            }
            at = FUNCTION + self.read(at + 1, 1);
        }
    }

    pub(super) fn read(&mut self, address: u64, length: usize) -> u64 {
        let mut bytes = [0; 8];
        MemoryIo::read(&mut self.host, address - MMIO, &mut bytes[..length]);
        u64::from_le_bytes(bytes)
    }

    pub(super) fn write(&mut self, address: u64, length: usize, value: u64) {
        MemoryIo::write(&mut self.host, address - MMIO, &value.to_le_bytes()[..length]);
    }

    /// Reads a register of function's configuration space.
    pub(super) fn pci(&mut self, offset: u64, length: usize) -> u64 {
        self.read(FUNCTION + offset, length)
    }

    pub(super) fn set_pci(&mut self, offset: u64, length: usize, value: u64) {
        self.write(FUNCTION + offset, length, value);
    }

    pub(super) fn get(&mut self, (offset, length): (u64, usize)) -> u64 {
        self.read(self.structures[1] + offset, length)
    }

    pub(super) fn set(&mut self, (offset, length): (u64, usize), value: u64) {
        self.write(self.structures[1] + offset, length, value);
    }

    pub(super) fn config(&mut self, offset: u64, length: usize) -> u64 {
        self.read(self.structures[4] + offset, length)
    }

    pub(super) fn set_config(&mut self, offset: u64, length: usize, value: u64) {
        self.write(self.structures[4] + offset, length, value);
    }

    pub(super) fn offered(&mut self) -> u64 {
        self.set(common::DEVICE_FEATURE_SELECT, 1);
        let high = self.get(common::DEVICE_FEATURE);
        self.set(common::DEVICE_FEATURE_SELECT, 0);
        self.get(common::DEVICE_FEATURE) | high << 32
    }

    /// Resets, and negotiates. Returns whether the device agrees.
    pub(super) fn negotiate(&mut self, features: u64) -> bool {
        self.set(common::STATUS, 0);
        assert_eq!(self.get(common::STATUS), 0);
        self.set(common::STATUS, 3);
        for (select, half) in [(0, features & 0xffff_ffff), (1, features >> 32)] {
            self.set(common::DRIVER_FEATURE_SELECT, select);
            self.set(common::DRIVER_FEATURE, half);
        }
        self.set(common::STATUS, 3 | u64::from(status::FEATURES_OK));
        self.get(common::STATUS) & u64::from(status::FEATURES_OK) != 0
    }

    /// Sets up all queues, with at most `size` descriptors and vectors of their own.
    pub(super) fn set_up_queues(&mut self, size: u16) {
        let count = self.get(common::NUM_QUEUES);
        self.rings = vec![Ring::default(); count as usize];
        self.memory.write_slice(&vec![0; (count * 0x4000) as usize], GuestAddress(RINGS)).unwrap();
        for vector in 0..=count {
            let entry = self.msix_table + vector * 16;
            self.write(entry, 8, 0xfee0_0000);
            self.write(entry + 8, 8, 0x20 + vector);
        }
        self.set(common::CONFIG_VECTOR, count);
        for queue in 0..count {
            self.set(common::QUEUE_SELECT, queue);
            let size = size.min(self.get(common::QUEUE_SIZE) as u16);
            self.set(common::QUEUE_SIZE, size.into());
            self.set(common::QUEUE_VECTOR, queue);
            let base = RINGS + queue * 0x4000;
            self.set(common::QUEUE_DESC, base);
            self.set(common::QUEUE_DRIVER, base + 0x1000);
            self.set(common::QUEUE_DEVICE, base + 0x2000);
            self.set(common::QUEUE_ENABLE, 1);
            self.rings[queue as usize].size = size;
        }
    }

    /// The whole way to DRIVER_OK, with MSI-X.
    pub(super) fn start(&mut self, features: u64) {
        assert!(self.negotiate(features));
        self.set_up_queues(256);
        self.set_msix(true);
        self.set(common::STATUS, 3 | u64::from(status::FEATURES_OK | status::DRIVER_OK));
    }

    pub(super) fn set_msix(&mut self, enabled: bool) {
        self.write(self.msix_control, 2, if enabled { 0x8000 } else { 0 });
    }

    pub(super) fn is_broken(&mut self) -> bool {
        self.get(common::STATUS) & u64::from(status::DEVICE_NEEDS_RESET) != 0
    }

    /// The vectors of the messages sent since the last call; the configuration's is that after the last queue.
    pub(super) fn interrupts(&self) -> Vec<u64> {
        self.sent.0.lock().unwrap().drain(..).map(|msi| u64::from(msi.data) - 0x20).collect()
    }

    pub(super) fn line(&self) -> bool {
        self.line.0.load(Ordering::SeqCst)
    }

    pub(super) fn isr(&mut self) -> u64 {
        self.read(self.structures[3], 1)
    }

    /// Memory for `length` bytes, never given out before.
    pub(super) fn buffer(&mut self, length: u32) -> u64 {
        let address = self.next_buffer;
        self.next_buffer += u64::from(length);
        assert!(self.next_buffer <= RAM);
        address
    }

    /// Memory that holds `data`.
    pub(super) fn data(&mut self, data: &[u8]) -> u64 {
        let address = self.buffer(data.len() as u32);
        self.memory.write_slice(data, GuestAddress(address)).unwrap();
        address
    }

    pub(super) fn bytes(&self, address: u64, length: usize) -> Vec<u8> {
        let mut data = vec![0; length];
        self.memory.read_slice(&mut data, GuestAddress(address)).unwrap();
        data
    }

    pub(super) fn descriptors(queue: usize) -> u64 {
        RINGS + queue as u64 * 0x4000
    }

    pub(super) fn available(queue: usize) -> u64 {
        Self::descriptors(queue) + 0x1000
    }

    pub(super) fn used_ring(queue: usize) -> u64 {
        Self::descriptors(queue) + 0x2000
    }

    pub(super) fn write_descriptor(&self, table: u64, index: u16, part: Part, flags: u16, next: u16) {
        let (address, length, writable) = part;
        let flags = flags | if writable { 2 } else { 0 };
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.memory.write_slice(&bytes, GuestAddress(table + u64::from(index) * 16)).unwrap();
    }

    /// Makes descriptor `head` available.
    pub(super) fn offer(&mut self, queue: usize, head: u16) {
        let ring = &mut self.rings[queue];
        let slot = Self::available(queue) + 4 + u64::from(ring.available % ring.size) * 2;
        self.memory.write_obj(head, GuestAddress(slot)).unwrap();
        ring.available = ring.available.wrapping_add(1);
        self.memory.write_obj(ring.available, GuestAddress(Self::available(queue) + 2)).unwrap();
    }

    /// Puts a request into a queue. Returns its head.
    pub(super) fn add(&mut self, queue: usize, parts: &[Part]) -> u16 {
        let Ring { size, next, .. } = self.rings[queue];
        let index = |i: usize| (next + i as u16) % size;
        for (i, part) in parts.iter().enumerate() {
            let more = u16::from(i + 1 < parts.len());
            self.write_descriptor(Self::descriptors(queue), index(i), *part, more, index(i + 1));
        }
        self.rings[queue].next = index(parts.len());
        self.offer(queue, next);
        next
    }

    /// The same with the descriptors in a table of their own.
    pub(super) fn add_indirect(&mut self, queue: usize, parts: &[Part]) -> u16 {
        let table = self.buffer(parts.len() as u32 * 16);
        for (i, part) in parts.iter().enumerate() {
            let more = u16::from(i + 1 < parts.len());
            self.write_descriptor(table, i as u16, *part, more, i as u16 + 1);
        }
        let Ring { size, next, .. } = self.rings[queue];
        let whole = (table, parts.len() as u32 * 16, false);
        self.write_descriptor(Self::descriptors(queue), next, whole, 4, 0);
        self.rings[queue].next = (next + 1) % size;
        self.offer(queue, next);
        next
    }

    /// Rings for a queue, without the device's thread getting to it.
    pub(super) fn ring(&mut self, queue: usize) {
        self.write(self.structures[2] + queue as u64 * self.multiplier, 2, queue as u64);
    }

    /// Rings, and lets the device's thread work.
    pub(super) fn kick(&mut self, queue: usize) {
        self.ring(queue);
        self.worker.process();
    }

    /// The requests that came back since the last call: head, bytes written. Asks to be told of the next.
    pub(super) fn used(&mut self, queue: usize) -> Vec<(u16, u32)> {
        let ring = &mut self.rings[queue];
        let base = Self::used_ring(queue);
        let index: u16 = self.memory.read_obj(GuestAddress(base + 2)).unwrap();
        let mut used = Vec::new();
        while ring.used != index {
            let slot = GuestAddress(base + 4 + u64::from(ring.used % ring.size) * 8);
            let [head, length]: [u32; 2] = self.memory.read_obj(slot).unwrap();
            used.push((head as u16, length));
            ring.used = ring.used.wrapping_add(1);
        }
        let used_event = Self::available(queue) + 4 + 2 * u64::from(ring.size);
        self.memory.write_obj(ring.used, GuestAddress(used_event)).unwrap();
        used
    }

    pub(super) fn save(&self) -> SavedState {
        self.host.save().unwrap()
    }

    /// Goes on with another device and transport, in a copy of the state, on the same memory.
    pub(super) fn move_to(self, device: Shared<dyn VirtioDevice>) -> Self {
        let state = self.save();
        let mut other = Self::with_memory(device, self.memory);
        (other.rings, other.next_buffer) = (self.rings, self.next_buffer);
        other.host.restore(&state).unwrap();
        other
    }

    pub(super) fn reset_machine(&mut self) {
        self.host.reset();
    }
}

/// A sequence of numbers that looks random and is the same in every run (xorshift64*).
pub(super) struct Numbers(u64);

impl Numbers {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 11) % bound
    }
}
