//! Guest memory as a debugger looks at it.

use viv_arch::{VcpuState, paging};
use viv_engine::GuestMemory;
use vm_memory::{Bytes, GuestAddress};

use super::paging::translate;

/// Memory, by addresses of one kind or the other. Device memory is not among it: looking at a device may change it.
pub(super) struct MemoryView {
    ram: GuestMemory,
    /// What the guest cannot write; nor can the debugger.
    rom: Option<GuestMemory>,
    /// Whether addresses are physical.
    pub(super) physical: bool,
}

impl MemoryView {
    pub(super) fn new(ram: GuestMemory, rom: Option<GuestMemory>) -> Self {
        Self { ram, rom, physical: false }
    }

    /// Reads from `address` on as a vCPU in this state would; gives how many bytes there were.
    pub(super) fn read(&self, state: &VcpuState, address: u64, data: &mut [u8]) -> usize {
        self.read_parts(address, data, |address| self.locate(state, address))
    }

    /// Reads from a physical address on; gives how many bytes there were.
    pub(super) fn read_physical(&self, address: u64, data: &mut [u8]) -> usize {
        self.read_parts(address, data, |address| Some(GuestAddress(address)))
    }

    fn read_parts(
        &self,
        address: u64,
        data: &mut [u8],
        locate: impl Fn(u64) -> Option<GuestAddress>,
    ) -> usize {
        let mut done = 0;
        for part in parts(address, data.len()) {
            let Some(room) = data.get_mut(done..done + part.length) else { break };
            let Some(at) = locate(part.address) else { break };
            let has = |memory: &GuestMemory, room: &mut [u8]| memory.read_slice(room, at).is_ok();
            if !has(&self.ram, room) && !self.rom.as_ref().is_some_and(|rom| has(rom, room)) {
                break;
            }
            done += part.length;
        }
        done
    }

    /// Writes all of `data` from `address` on, or nothing.
    pub(super) fn write(&self, state: &VcpuState, address: u64, data: &[u8]) -> Option<()> {
        let places: Vec<_> = parts(address, data.len())
            .map(|part| {
                let at = self.locate(state, part.address)?;
                self.ram.read_slice(&mut vec![0; part.length], at).ok()?;
                Some((at, part.length))
            })
            .collect::<Option<_>>()?;
        let mut rest = data;
        for (at, length) in places {
            let (part, behind) = rest.split_at_checked(length)?;
            // Its own record outdates code that was decoded there.
            self.ram.write_slice(part, at).ok()?;
            rest = behind;
        }
        Some(())
    }

    fn locate(&self, state: &VcpuState, address: u64) -> Option<GuestAddress> {
        let at = if self.physical { Some(address) } else { translate(&self.ram, state, address) };
        at.map(GuestAddress)
    }
}

/// What of a range lies in one page.
struct Part {
    address: u64,
    length: usize,
}

/// The range's parts in ascending order, up to the last address there is.
fn parts(address: u64, length: usize) -> impl Iterator<Item = Part> {
    let mut next = Some(address);
    let mut left = length;
    std::iter::from_fn(move || {
        let address = next.filter(|_| left > 0)?;
        let in_page = paging::PAGE_SIZE - (address & paging::PAGE_OFFSET);
        let length = usize::try_from(in_page).unwrap_or(usize::MAX).min(left);
        left -= length;
        next = address.checked_add(in_page);
        Some(Part { address, length })
    })
}
