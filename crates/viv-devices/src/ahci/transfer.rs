//! A command in guest memory, and the way of its data.

use viv_engine::GuestMemory;
use vm_memory::{Bytes, GuestAddress};

use super::fis::{H2D_LENGTH, TaskFile};
use super::regs::header;

/// Bytes of a command header.
const HEADER: u64 = 32;
/// Where the count of bytes moved (PRDBC) is in it.
const HEADER_MOVED: u64 = 4;
/// Where the packet (ACMD) is in a command table (4.2.3).
const TABLE_PACKET: u64 = 0x40;
/// Where the regions (PRDT) begin in it.
const TABLE_REGIONS: u64 = 0x80;
/// Bytes of a region's entry.
const REGION: u64 = 16;
/// The bits of an entry's last word that are the region's length less 1.
const REGION_LENGTH: u32 = 0x003f_ffff;
/// The bit of it that asks for an interrupt.
const REGION_INTERRUPT: u32 = 1 << 31;
/// The shortest command FIS that is no nonsense, in words.
const MIN_FIS_WORDS: u32 = 4;
/// The longest command FIS, in words.
const MAX_FIS_WORDS: u32 = 16;

/// Something lies outside guest RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MemoryFault;

/// Bytes of a packet.
pub(super) type Packet = [u8; 16];

/// A command as the driver wrote it, read once.
#[derive(Debug)]
pub(super) struct Command {
    /// The header's address.
    header: u64,
    /// What its FIS says; `None` if that is no register FIS.
    pub(super) task_file: Option<TaskFile>,
    /// The packet, if there is one.
    pub(super) packet: Option<Packet>,
    /// Where the regions are listed, and how many.
    regions: (u64, u32),
}

impl Command {
    /// Reads the command in `slot` of the list at `list`.
    pub(super) fn fetch(memory: &GuestMemory, list: u64, slot: u8) -> Result<Self, MemoryFault> {
        let address = list.wrapping_add(u64::from(slot).wrapping_mul(HEADER));
        let [word, _, table, table_upper] = words(memory, address)?;
        let table = (u64::from(table_upper) << 32) | u64::from(table & !0x7f);
        let mut fis = [0; H2D_LENGTH];
        read(memory, table, &mut fis)?;
        let mut packet = [0; 16];
        let has_packet = word & header::PACKET != 0;
        if has_packet {
            read(memory, table.wrapping_add(TABLE_PACKET), &mut packet)?;
        }
        let fits = (MIN_FIS_WORDS..=MAX_FIS_WORDS).contains(&(word & header::FIS_LENGTH));
        Ok(Self {
            header: address,
            task_file: TaskFile::parse(&fis).filter(|_| fits),
            packet: has_packet.then_some(packet),
            regions: (table.wrapping_add(TABLE_REGIONS), word >> header::REGIONS_SHIFT),
        })
    }

    /// The way of its data, from the first region on.
    pub(super) fn transfer<'a>(&self, memory: &'a GuestMemory) -> Transfer<'a> {
        let (next, left) = self.regions;
        Transfer { memory, next, left, region: Region::default(), result: Moved::default() }
    }

    /// Notes in the header how many bytes were moved.
    pub(super) fn note_moved(&self, memory: &GuestMemory, moved: u64) -> Result<(), MemoryFault> {
        let moved = u32::try_from(moved).unwrap_or(u32::MAX).to_le_bytes();
        let at = GuestAddress(self.header.wrapping_add(HEADER_MOVED));
        memory.write_slice(&moved, at).map_err(|_| MemoryFault)
    }
}

/// A piece of guest memory that data go to or come from.
#[derive(Debug, Default, Clone, Copy)]
struct Region {
    address: u64,
    left: u32,
    interrupt: bool,
}

/// The regions of a command, used up from front to back. Entries are read when their turn comes.
#[derive(Debug)]
pub(super) struct Transfer<'a> {
    memory: &'a GuestMemory,
    /// The next entry, and how many there are from it on.
    next: u64,
    left: u32,
    region: Region,
    result: Moved,
}

/// What became of a command's data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Moved {
    /// How many bytes were moved.
    pub(super) bytes: u64,
    /// Whether an entry that asks for an interrupt was used up.
    pub(super) region_done: bool,
    /// Whether there was no room for all that was to be put.
    pub(super) overflow: bool,
}

impl Transfer<'_> {
    /// What has become of the data so far.
    pub(super) fn result(&self) -> Moved {
        self.result
    }

    /// Gives the guest `data`, as much as there is room for. Returns how much.
    pub(super) fn put(&mut self, data: &[u8]) -> Result<usize, MemoryFault> {
        let done = self.go(data.len(), |memory, address, from, length| {
            let part = data.get(from..from.saturating_add(length)).unwrap_or_default();
            memory.write_slice(part, address)
        })?;
        self.result.overflow |= done < data.len();
        Ok(done)
    }

    /// Fills `data` from the guest, or as much of it as there is. Returns how much.
    pub(super) fn get(&mut self, data: &mut [u8]) -> Result<usize, MemoryFault> {
        self.go(data.len(), |memory, address, from, length| {
            let part = data.get_mut(from..from.saturating_add(length)).unwrap_or_default();
            memory.read_slice(part, address)
        })
    }

    /// Goes over the next `count` bytes, region by region, with the number of bytes done and of those to do.
    fn go(
        &mut self,
        count: usize,
        mut each: impl FnMut(&GuestMemory, GuestAddress, usize, usize) -> vm_memory::GuestMemoryResult<()>,
    ) -> Result<usize, MemoryFault> {
        let mut done = 0_usize;
        while done < count && self.next_region()? {
            let take = self.region.left.min(u32::try_from(count.saturating_sub(done)).unwrap_or(u32::MAX));
            each(self.memory, GuestAddress(self.region.address), done, take as usize)
                .map_err(|_| MemoryFault)?;
            self.region.address = self.region.address.wrapping_add(u64::from(take));
            self.region.left = self.region.left.saturating_sub(take);
            self.result.region_done |= self.region.left == 0 && self.region.interrupt;
            done = done.saturating_add(take as usize);
            self.result.bytes = self.result.bytes.saturating_add(u64::from(take));
        }
        Ok(done)
    }

    /// Makes sure that something is left of the region. Returns whether there is one.
    fn next_region(&mut self) -> Result<bool, MemoryFault> {
        if self.region.left > 0 {
            return Ok(true);
        }
        let Some(left) = self.left.checked_sub(1) else { return Ok(false) };
        let [address, upper, _, last] = words(self.memory, self.next)?;
        self.left = left;
        self.next = self.next.wrapping_add(REGION);
        self.region = Region {
            address: (u64::from(upper) << 32) | u64::from(address & !1),
            // At most 4 MiB, and never nothing.
            left: (last & REGION_LENGTH).saturating_add(1),
            interrupt: last & REGION_INTERRUPT != 0,
        };
        Ok(true)
    }
}

fn read(memory: &GuestMemory, address: u64, bytes: &mut [u8]) -> Result<(), MemoryFault> {
    memory.read_slice(bytes, GuestAddress(address)).map_err(|_| MemoryFault)
}

/// Four words at `address`.
fn words(memory: &GuestMemory, address: u64) -> Result<[u32; 4], MemoryFault> {
    let mut bytes = [0; 16];
    read(memory, address, &mut bytes)?;
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    Ok(words)
}
