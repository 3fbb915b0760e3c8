//! The configuration space of a function.

use serde::{Deserialize, Serialize};

use super::regs::{self, command, status};

/// Bytes of a conventional configuration space.
const SIZE: usize = 256;
/// How many BARs a type 0 function has.
pub(super) const BARS: usize = 6;

/// Who a function says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The vendor.
    pub vendor: u16,
    /// The vendor's id of the device.
    pub device: u16,
    /// The revision.
    pub revision: u8,
    /// Base class, subclass and programming interface: 0x0106_01 is an AHCI controller.
    pub class: u32,
    /// The vendor of the board.
    pub subsystem_vendor: u16,
    /// That vendor's id of the board.
    pub subsystem: u16,
}

/// What a BAR claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BarKind {
    /// Memory, by 32 bits of address.
    Memory32,
    /// Memory without side effects of reads, by 32 bits of address.
    Prefetchable32,
    /// Memory, by 64 bits of address: takes the next BAR's register as well.
    Memory64,
    /// Ports.
    Io,
}

/// A BAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bar {
    /// What it claims.
    pub kind: BarKind,
    /// How much, in bytes: a power of two; at least 16 of memory, 4 and at most 256 of ports.
    pub size: u64,
}

impl Bar {
    /// Whether the register can say this.
    fn is_valid(self) -> bool {
        let sizes = match self.kind {
            BarKind::Memory32 | BarKind::Prefetchable32 => 16..=1 << 31,
            BarKind::Memory64 => 16..=1 << 62,
            BarKind::Io => 4..=256,
        };
        self.size.is_power_of_two() && sizes.contains(&self.size)
    }

    const fn type_bits(self) -> u32 {
        match self.kind {
            BarKind::Memory32 => 0,
            BarKind::Prefetchable32 => 0b1000,
            BarKind::Memory64 => 0b100,
            BarKind::Io => 0b1,
        }
    }

    /// The command bit that makes it answer.
    const fn enable(self) -> u16 {
        match self.kind {
            BarKind::Memory32 | BarKind::Prefetchable32 | BarKind::Memory64 => command::MEMORY_SPACE,
            BarKind::Io => command::IO_SPACE,
        }
    }
}

/// The configuration space of a type 0 function: 256 bytes, each bit of which the guest can write or not.
///
/// Of the 4096 bytes that ECAM offers, those past 256 read as zeroes: an empty list of extended capabilities.
#[derive(Debug, Clone)]
pub struct ConfigSpace {
    bytes: [u8; SIZE],
    /// The bits that the guest can write.
    writable: [u8; SIZE],
    /// What the bytes are after a reset.
    initial: [u8; SIZE],
    bars: [Option<Bar>; BARS],
    /// The size of the expansion ROM's place, if there is one.
    rom: Option<u32>,
    /// Where the next capability goes, and where the pointer to it is.
    next: u8,
    link: u8,
}

impl ConfigSpace {
    /// A space with no BARs and no capabilities.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        let mut config = Self {
            bytes: [0; SIZE],
            writable: [0; SIZE],
            initial: [0; SIZE],
            bars: [None; BARS],
            rom: None,
            next: regs::HEADER_END,
            link: regs::CAPABILITIES_POINTER,
        };
        config.define(regs::VENDOR_ID, &identity.vendor.to_le_bytes());
        config.define(regs::DEVICE_ID, &identity.device.to_le_bytes());
        config.define(regs::REVISION, &((identity.class << 8) | u32::from(identity.revision)).to_le_bytes());
        config.define(regs::SUBSYSTEM_VENDOR_ID, &identity.subsystem_vendor.to_le_bytes());
        config.define(regs::SUBSYSTEM_ID, &identity.subsystem.to_le_bytes());
        config.allow(regs::COMMAND, &command::WRITABLE.to_le_bytes());
        config.allow(regs::CACHE_LINE_SIZE, &[0xff]);
        config.allow(regs::INTERRUPT_LINE, &[0xff]);
        config
    }

    /// Adds a BAR. Returns false, and changes nothing, if the register is taken or cannot say this.
    #[must_use]
    pub fn add_bar(&mut self, index: usize, bar: Bar) -> bool {
        let last = if bar.kind == BarKind::Memory64 { index.saturating_add(1) } else { index };
        let free = last < BARS
            && self.bar(index).is_none()
            && (last == index || self.bar(last).is_none())
            && !matches!(index.checked_sub(1).and_then(|i| self.bar(i)), Some(b) if b.kind == BarKind::Memory64);
        if !free || !bar.is_valid() {
            return false;
        }
        let mask = !bar.size.wrapping_sub(1);
        self.allow(bar_register(index), &(mask as u32).to_le_bytes());
        self.define(bar_register(index), &bar.type_bits().to_le_bytes());
        if last != index {
            self.allow(bar_register(last), &((mask >> 32) as u32).to_le_bytes());
        }
        if let Some(slot) = self.bars.get_mut(index) {
            *slot = Some(bar);
        }
        true
    }

    /// Adds a place for an expansion ROM (PCI 3.0, 6.2.5.2): `size` bytes, a power of two from 2 KiB to 16 MiB. It
    /// answers once the guest has enabled it. Returns false, and changes nothing, if the register is taken or cannot
    /// say this.
    #[must_use]
    pub fn add_rom(&mut self, size: u32) -> bool {
        if self.rom.is_some() || !size.is_power_of_two() || !(1 << 11..=1 << 24).contains(&size) {
            return false;
        }
        self.allow(regs::ROM, &(!size.wrapping_sub(1) | regs::ROM_ENABLE).to_le_bytes());
        self.rom = Some(size);
        true
    }

    /// Adds a capability with `body` after its two bytes of header, of which the guest can write the bits in
    /// `writable`. Returns its offset, or `None` if there is no room.
    #[must_use]
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Option<u8> {
        let at = self.next;
        let end = usize::from(at).checked_add(2)?.checked_add(body.len())?.checked_next_multiple_of(4)?;
        if end > SIZE {
            return None;
        }
        self.define(at, &[id, 0]);
        self.define(at.checked_add(2)?, body);
        self.allow(at.checked_add(2)?, writable);
        self.define(self.link, &[at]);
        self.define(regs::STATUS, &status::CAPABILITIES.to_le_bytes());
        self.link = at.checked_add(1)?;
        // 256 is past the last offset: `at` stays, and the next call finds no room.
        self.next = u8::try_from(end).unwrap_or(u8::MAX);
        Some(at)
    }

    /// Says that the function has an INTA#, and which interrupt of the system it is connected to.
    pub fn set_interrupt(&mut self, line: u8) {
        self.define(regs::INTERRUPT_LINE, &[line, 1]);
    }

    /// Puts a BAR at `address` and lets it answer, now and after each reset.
    pub(super) fn assign_bar(&mut self, index: usize, address: u64) {
        let Some(bar) = self.bar(index) else { return };
        self.define(bar_register(index), &(address as u32 | bar.type_bits()).to_le_bytes());
        if bar.kind == BarKind::Memory64 {
            self.define(bar_register(index.saturating_add(1)), &((address >> 32) as u32).to_le_bytes());
        }
        let enabled = self.command() | bar.enable();
        self.define(regs::COMMAND, &enabled.to_le_bytes());
    }

    /// Puts the expansion ROM at `address`, now and after each reset. Enabling it is left to the guest.
    pub(super) fn assign_rom(&mut self, address: u64) {
        self.define(regs::ROM, &(address as u32 & !regs::ROM_ENABLE).to_le_bytes());
    }

    /// The size of the expansion ROM's place, if there is one.
    #[must_use]
    pub fn rom_size(&self) -> Option<u32> {
        self.rom
    }

    /// Where the expansion ROM answers now, if it does.
    #[must_use]
    pub fn rom_address(&self) -> Option<u64> {
        let size = self.rom?;
        let register = self.u32_at(regs::ROM);
        let answers = self.command() & command::MEMORY_SPACE != 0 && register & regs::ROM_ENABLE != 0;
        answers.then_some(u64::from(register & !size.wrapping_sub(1)))
    }

    /// The BAR at `index`, if there is one.
    #[must_use]
    pub fn bar(&self, index: usize) -> Option<Bar> {
        self.bars.get(index).copied().flatten()
    }

    /// Where the BAR at `index` answers now: `None` where there is none or the guest has switched it off.
    #[must_use]
    pub fn bar_address(&self, index: usize) -> Option<u64> {
        let bar = self.bar(index)?;
        if self.command() & bar.enable() == 0 {
            return None;
        }
        let low = u64::from(self.u32_at(bar_register(index)));
        let register = if bar.kind == BarKind::Memory64 {
            low | (u64::from(self.u32_at(bar_register(index.checked_add(1)?))) << 32)
        } else {
            low
        };
        Some(register & !bar.size.wrapping_sub(1))
    }

    /// The command register.
    #[must_use]
    pub fn command(&self) -> u16 {
        self.u16_at(regs::COMMAND)
    }

    /// Shows in the status register whether the function wants service by INTx#.
    pub fn set_interrupt_status(&mut self, pending: bool) {
        let status = self.u16_at(regs::STATUS) & !status::INTERRUPT;
        self.set(regs::STATUS, &(status | if pending { status::INTERRUPT } else { 0 }).to_le_bytes());
    }

    /// The 16 bits at `offset`.
    #[must_use]
    pub fn u16_at(&self, offset: u8) -> u16 {
        let mut bytes = [0; 2];
        self.read(u16::from(offset), &mut bytes);
        u16::from_le_bytes(bytes)
    }

    /// The 32 bits at `offset`.
    #[must_use]
    pub fn u32_at(&self, offset: u8) -> u32 {
        let mut bytes = [0; 4];
        self.read(u16::from(offset), &mut bytes);
        u32::from_le_bytes(bytes)
    }

    /// Reads as the guest does.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        let rest = self.bytes.get(usize::from(offset)..).unwrap_or_default();
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = rest.get(i).copied().unwrap_or(0);
        }
    }

    /// Writes as the guest does: only what it can write changes.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        let at = usize::from(offset);
        let cells = self.bytes.iter_mut().zip(&self.writable).skip(at);
        for ((byte, writable), new) in cells.zip(data) {
            *byte = (*byte & !writable) | (new & writable);
        }
    }

    /// Puts everything back to what it was when the machine was built.
    pub fn reset(&mut self) {
        self.bytes = self.initial;
    }

    /// The bytes, for saving, but for the status bit that [`ConfigSpace::set_interrupt_status`] shows: what it was when it
    /// was last read is nobody's business.
    #[must_use]
    pub fn save(&self) -> ConfigState {
        let mut copy = self.clone();
        copy.set_interrupt_status(false);
        ConfigState { bytes: copy.bytes.to_vec() }
    }

    /// Takes over the guest's part of a saved space; the rest is the machine's, and stays. Returns false, and
    /// changes nothing, if the state is of another function.
    #[must_use]
    pub fn restore(&mut self, state: &ConfigState) -> bool {
        if state.bytes.len() != SIZE || state.bytes.get(..4) != self.bytes.get(..4) {
            return false;
        }
        self.write(0, &state.bytes);
        true
    }

    /// Writes as the function itself does: whatever it likes, until the next reset.
    pub fn set(&mut self, offset: u8, data: &[u8]) {
        for (byte, new) in self.bytes.iter_mut().skip(usize::from(offset)).zip(data) {
            *byte = *new;
        }
    }

    /// What is at `offset` after a reset and now.
    pub(super) fn define(&mut self, offset: u8, data: &[u8]) {
        self.set(offset, data);
        for (byte, new) in self.initial.iter_mut().skip(usize::from(offset)).zip(data) {
            *byte = *new;
        }
    }

    /// The bits at `offset` that the guest can write.
    pub(super) fn allow(&mut self, offset: u8, mask: &[u8]) {
        for (byte, new) in self.writable.iter_mut().skip(usize::from(offset)).zip(mask) {
            *byte = *new;
        }
    }
}

fn bar_register(index: usize) -> u8 {
    u8::try_from(index).unwrap_or(u8::MAX).saturating_mul(4).saturating_add(regs::BAR0)
}

/// A saved [`ConfigSpace`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigState {
    bytes: Vec<u8>,
}
