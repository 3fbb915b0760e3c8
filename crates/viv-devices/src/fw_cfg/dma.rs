//! The DMA interface: what a descriptor in guest RAM asks for.

use viv_engine::GuestMemory;
use vm_memory::{Address, Be32, Be64, Bytes, GuestAddress, GuestMemoryBackend};

use super::FwCfg;
use super::regs::DmaControl;

/// What is copied at a time where a read goes beyond the end of an item.
static ZEROS: [u8; 0x1_0000] = [0; 0x1_0000];

/// A descriptor. Its fields are big endian: control and length of 4 bytes each, and an address of 8.
struct Descriptor {
    control: DmaControl,
    key: u16,
    length: u32,
    address: GuestAddress,
}

impl Descriptor {
    fn read(memory: &GuestMemory, at: GuestAddress) -> Option<Self> {
        let control = memory.read_obj::<Be32>(at).ok()?.to_native();
        let length = memory.read_obj::<Be32>(at.checked_add(4)?).ok()?;
        let address = memory.read_obj::<Be64>(at.checked_add(8)?).ok()?;
        Some(Self {
            control: DmaControl::from_bits_truncate(control),
            key: u16::try_from(control >> 16).unwrap_or(0),
            length: length.to_native(),
            address: GuestAddress(address.to_native()),
        })
    }
}

impl FwCfg {
    /// Does what the descriptor at `at` asks for, and writes into its control field how that went.
    pub(super) fn run_dma(&mut self, at: GuestAddress) {
        let done = Descriptor::read(&self.memory, at).and_then(|descriptor| self.carry_out(&descriptor));
        let result = if done.is_some() { DmaControl::empty() } else { DmaControl::ERROR };
        if self.memory.write_obj(Be32::from(result.bits()), at).is_err() {
            tracing::debug!("the guest has no fw_cfg descriptor at {:#x}", at.raw_value());
        }
    }

    fn carry_out(&mut self, descriptor: &Descriptor) -> Option<()> {
        let &Descriptor { control, key, length, address } = descriptor;
        if control.contains(DmaControl::SELECT) {
            self.select(key);
        }
        if control.contains(DmaControl::READ) {
            self.read_item(address, length)
        } else if control.contains(DmaControl::WRITE) {
            self.write_item(address, length)
        } else {
            if control.contains(DmaControl::SKIP) {
                self.advance(length);
            }
            Some(())
        }
    }

    /// Copies from the item to guest RAM; beyond the item's end there are zeros.
    fn read_item(&mut self, address: GuestAddress, length: u32) -> Option<()> {
        let all = usize::try_from(length).ok()?;
        if !self.memory.check_range(address, all) {
            return None;
        }
        let rest = self.rest();
        let taken = rest.get(..all).unwrap_or(rest);
        self.memory.write_slice(taken, address).ok()?;
        let mut filled = taken.len();
        while let Some(left) = all.checked_sub(filled).filter(|&left| left > 0) {
            let chunk = ZEROS.get(..left).unwrap_or(&ZEROS);
            let at = address.checked_add(u64::try_from(filled).ok()?)?;
            self.memory.write_slice(chunk, at).ok()?;
            filled = filled.saturating_add(chunk.len());
        }
        self.advance(length);
        Some(())
    }

    /// Copies from guest RAM to the item, all or nothing.
    fn write_item(&mut self, address: GuestAddress, length: u32) -> Option<()> {
        let start = usize::try_from(self.offset).ok()?;
        let end = start.checked_add(usize::try_from(length).ok()?)?;
        let target = self.items.writable(self.selector)?.get_mut(start..end)?;
        if !self.memory.check_range(address, target.len()) {
            return None;
        }
        self.memory.read_slice(target, address).ok()?;
        self.advance(length);
        Some(())
    }
}
