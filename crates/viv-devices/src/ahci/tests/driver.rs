//! A driver without a guest: it sets up ports and issues commands through registers and guest memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use viv_engine::GuestMemory;
use vm_memory::{Bytes, GuestAddress};

use super::super::{Ahci, Drive};
use crate::doorbell::Worker;
use crate::layout;
use crate::pci::{Connections, IntxLine, PciBus, PciHost, Placing, Windows};
use crate::testing::Processors;
use crate::{Device, MemoryIo, SavedState};

const MMIO: u64 = 0xc000_0000;
const FUNCTION: u64 = layout::PCI_ECAM_BASE + (1 << 15);
pub(super) const RAM: u64 = 64 << 20;
/// Each port's command list, FIS area and command tables.
const LISTS: u64 = 0x10_0000;
const LISTS_OF_PORT: u64 = 0x1_0000;
const FIS: u64 = 0x400;
const TABLES: u64 = 0x1000;
const TABLE: u64 = 0x400;
/// Where data lie.
pub(super) const DATA: u64 = 0x100_0000;

/// A port's registers.
pub(super) mod px {
    pub const CLB: u64 = 0x00;
    pub const CLBU: u64 = 0x04;
    pub const FB: u64 = 0x08;
    pub const FBU: u64 = 0x0c;
    pub const IS: u64 = 0x10;
    pub const IE: u64 = 0x14;
    pub const CMD: u64 = 0x18;
    pub const TFD: u64 = 0x20;
    pub const SIG: u64 = 0x24;
    pub const SSTS: u64 = 0x28;
    pub const SCTL: u64 = 0x2c;
    pub const SERR: u64 = 0x30;
    pub const SACT: u64 = 0x34;
    pub const CI: u64 = 0x38;
}

#[derive(Default)]
struct Line(AtomicBool);

impl IntxLine for Line {
    fn set(&self, asserted: bool) {
        self.0.store(asserted, Ordering::SeqCst);
    }
}

/// What a driver asks of a disk.
#[derive(Clone, Copy, Default)]
pub(super) struct Ata {
    pub(super) command: u8,
    pub(super) features: u16,
    pub(super) lba: u64,
    pub(super) count: u16,
    pub(super) device: u8,
    pub(super) control: u8,
}

impl Ata {
    pub(super) fn new(command: u8, lba: u64, count: u16) -> Self {
        Self { command, lba, count, device: 0x40, ..Self::default() }
    }

    pub(super) fn queued(command: u8, tag: u8, lba: u64, count: u16) -> Self {
        Self { command, lba, count: u16::from(tag) << 3, features: count, device: 0x40, control: 0 }
    }

    pub(super) fn fis(self, is_command: bool) -> [u8; 20] {
        let [l0, l1, l2, l3, l4, l5, ..] = self.lba.to_le_bytes();
        let [f0, f1] = self.features.to_le_bytes();
        let [c0, c1] = self.count.to_le_bytes();
        let flags = u8::from(is_command) << 7;
        [
            0x27,
            flags,
            self.command,
            f0,
            l0,
            l1,
            l2,
            self.device,
            l3,
            l4,
            l5,
            f1,
            c0,
            c1,
            0,
            self.control,
            0,
            0,
            0,
            0,
        ]
    }
}

pub(super) struct Driver {
    pub(super) memory: GuestMemory,
    pub(super) worker: Worker,
    pub(super) sent: Arc<Processors>,
    line: Arc<Line>,
    host: PciHost,
    abar: u64,
}

impl Driver {
    pub(super) fn new(drives: [Option<Drive>; Ahci::PORTS]) -> Self {
        Self::with_memory(drives, viv_engine::memory::allocate(RAM).unwrap())
    }

    fn with_memory(drives: [Option<Drive>; Ahci::PORTS], memory: GuestMemory) -> Self {
        let (sent, line) = (Arc::<Processors>::default(), Arc::<Line>::default());
        let connections =
            Connections { memory: memory.clone(), msi: sent.clone(), line: line.clone(), line_number: 10 };
        let function = Ahci::new("ahci0", drives, connections).unwrap();
        let worker = function.worker();
        let ecam = layout::PCI_ECAM_BASE + layout::PCI_ECAM_SIZE;
        let windows = Windows { memory32: MMIO..ecam, memory64: 0..0, ports: 0..0 };
        let bus = PciBus::new(windows, Placing::Machine);
        bus.add(1, Box::new(function)).unwrap();
        let mut driver = Self { memory, worker, sent, line, host: bus.host(), abar: 0 };
        driver.abar = driver.pci(0x24, 4);
        driver
    }

    pub(super) fn one(drive: Drive) -> Self {
        let mut driver = Self::new([Some(drive), None, None, None, None, None]);
        driver.start(0);
        driver
    }

    /// The same machine with another controller that takes over this one's state.
    pub(super) fn move_to(mut self, drives: [Option<Drive>; Ahci::PORTS]) -> Self {
        let saved = self.save();
        let mut other = Self::with_memory(drives, self.memory.clone());
        other.host.restore(&saved).unwrap();
        assert_eq!(other.save(), saved, "restoring and saving must give the same state");
        other
    }

    pub(super) fn save(&mut self) -> SavedState {
        self.host.save().unwrap()
    }

    pub(super) fn restore(&mut self, state: &SavedState) -> Result<(), crate::DeviceError> {
        self.host.restore(state)
    }

    pub(super) fn reset(&mut self) {
        self.host.reset();
    }

    fn read_at(&mut self, address: u64, length: usize) -> u64 {
        let mut bytes = [0; 8];
        MemoryIo::read(&mut self.host, address - MMIO, &mut bytes[..length]);
        u64::from_le_bytes(bytes)
    }

    fn write_at(&mut self, address: u64, length: usize, value: u64) {
        MemoryIo::write(&mut self.host, address - MMIO, &value.to_le_bytes()[..length]);
    }

    pub(super) fn pci(&mut self, offset: u64, length: usize) -> u64 {
        self.read_at(FUNCTION + offset, length)
    }

    pub(super) fn set_pci(&mut self, offset: u64, length: usize, value: u64) {
        self.write_at(FUNCTION + offset, length, value);
    }

    pub(super) fn read(&mut self, offset: u64, length: usize) -> u64 {
        self.read_at(self.abar + offset, length)
    }

    pub(super) fn write(&mut self, offset: u64, length: usize, value: u64) {
        self.write_at(self.abar + offset, length, value);
    }

    pub(super) fn hba(&mut self, offset: u64) -> u32 {
        self.read(offset, 4) as u32
    }

    pub(super) fn set_hba(&mut self, offset: u64, value: u32) {
        self.write(offset, 4, value.into());
    }

    pub(super) fn port(&mut self, port: u64, register: u64) -> u32 {
        self.hba(0x100 + 0x80 * port + register)
    }

    pub(super) fn set_port(&mut self, port: u64, register: u64, value: u32) {
        self.set_hba(0x100 + 0x80 * port + register, value);
    }

    pub(super) fn line(&self) -> bool {
        self.line.0.load(Ordering::SeqCst)
    }

    /// Has messages sent with `data`.
    pub(super) fn enable_msi(&mut self, data: u64) {
        let at = self.pci(0x34, 1);
        assert_eq!(self.pci(at, 1), 5);
        self.set_pci(at + 4, 4, 0xfee0_0000);
        self.set_pci(at + 12, 2, data);
        self.set_pci(at + 2, 2, 1);
    }

    /// Sets a port up and starts it, with all interrupts on.
    pub(super) fn start(&mut self, port: u64) {
        let lists = LISTS + port * LISTS_OF_PORT;
        self.set_port(port, px::CLB, lists as u32);
        self.set_port(port, px::CLBU, 0);
        self.set_port(port, px::FB, (lists + FIS) as u32);
        self.set_port(port, px::FBU, 0);
        self.set_port(port, px::CMD, 1 << 4);
        self.set_port(port, px::SERR, u32::MAX);
        self.set_port(port, px::IS, u32::MAX);
        self.set_port(port, px::IE, u32::MAX);
        self.set_port(port, px::CMD, 1 << 4 | 1);
        self.set_hba(0x08, u32::MAX);
        self.set_hba(0x04, 1 << 31 | 1 << 1);
    }

    /// As a driver does after an error.
    pub(super) fn restart(&mut self, port: u64) {
        self.set_port(port, px::CMD, 1 << 4);
        assert_eq!(self.port(port, px::CMD) & 1 << 15, 0);
        self.set_port(port, px::IS, u32::MAX);
        self.set_port(port, px::CMD, 1 << 4 | 1);
    }

    pub(super) fn header(port: u64, slot: u8) -> u64 {
        LISTS + port * LISTS_OF_PORT + u64::from(slot) * 32
    }

    pub(super) fn table(port: u64, slot: u8) -> u64 {
        LISTS + port * LISTS_OF_PORT + TABLES + u64::from(slot) * TABLE
    }

    /// Writes a command into a slot, with regions of guest memory for its data.
    pub(super) fn prepare(
        &mut self,
        port: u64,
        slot: u8,
        fis: &[u8],
        packet: Option<[u8; 16]>,
        regions: &[(u64, u32)],
    ) {
        let table = Self::table(port, slot);
        let word = 5 | u32::from(packet.is_some()) << 5 | (regions.len() as u32) << 16;
        let header = [word, 0, table as u32, 0].map(u32::to_le_bytes).concat();
        self.memory.write_slice(&header, GuestAddress(Self::header(port, slot))).unwrap();
        self.memory.write_slice(fis, GuestAddress(table)).unwrap();
        self.memory.write_slice(&packet.unwrap_or_default(), GuestAddress(table + 0x40)).unwrap();
        for (index, (address, length)) in (0..).zip(regions) {
            let entry =
                [*address as u32, (address >> 32) as u32, 0, length - 1].map(u32::to_le_bytes).concat();
            self.memory.write_slice(&entry, GuestAddress(table + 0x80 + 16 * index)).unwrap();
        }
    }

    pub(super) fn issue(&mut self, port: u64, slots: u32) {
        self.set_port(port, px::CI, slots);
        self.worker.process();
    }

    /// Issues one command of port 0 and gives PxTFD.
    pub(super) fn ata(&mut self, ata: Ata, regions: &[(u64, u32)]) -> u32 {
        self.prepare(0, 3, &ata.fis(true), None, regions);
        self.issue(0, 1 << 3);
        self.port(0, px::TFD)
    }

    /// Issues one packet of port 0 with room for `room` bytes, and gives PxTFD and what came.
    pub(super) fn packet(&mut self, packet: &[u8], room: u32) -> (u32, Vec<u8>) {
        let mut bytes = [0; 16];
        bytes[..packet.len()].copy_from_slice(packet);
        let fis = Ata { command: 0xa0, features: 1, ..Ata::default() }.fis(true);
        let regions: &[_] = if room == 0 { &[] } else { &[(DATA, room)] };
        self.prepare(0, 3, &fis, Some(bytes), regions);
        self.issue(0, 1 << 3);
        let moved = self.moved(0, 3);
        (self.port(0, px::TFD), self.bytes(DATA, moved as usize))
    }

    /// PRDBC.
    pub(super) fn moved(&self, port: u64, slot: u8) -> u32 {
        self.memory.read_obj(GuestAddress(Self::header(port, slot) + 4)).unwrap()
    }

    /// The received FIS at `offset`.
    pub(super) fn fis(&self, port: u64, offset: u64, length: usize) -> Vec<u8> {
        self.bytes(LISTS + port * LISTS_OF_PORT + FIS + offset, length)
    }

    pub(super) fn bytes(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }

    pub(super) fn put(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).unwrap();
    }
}
