//! Guest RAM.
//!
//! RAM is `vm-memory`'s; what is ours is the record that goes with each region, [`PageRecord`]: which pages
//! were written, and which hold code that an engine has decoded. Devices write through `vm-memory`, which
//! reports to the record by itself, so that neither dirty tracking nor self-modifying code by DMA needs a
//! word from a device.

mod files;
mod presence;

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, ftruncate, memfd_create,
};
use vm_memory::bitmap::{Bitmap, NewBitmap, RefSlice, WithBitmapSlice};
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
};

pub use files::{FileAccess, map_file};
pub use presence::{give_back, present, present_bytes, present_in};

/// Guest RAM as engines and devices share it. Clones are handles to the same memory.
pub type GuestMemory = GuestMemoryMmap<PageRecord>;

const PAGE_SHIFT: u32 = 12;

const DIRTY: u8 = 1 << 0;
const CODE: u8 = 1 << 1;

/// The record of one region's pages. Pages are numbered from the region's start.
///
/// A page's *code generation* moves whenever a page that holds decoded code is written. An engine notes the
/// generation when it decodes and compares it before it runs what it decoded.
#[derive(Default)]
pub struct PageRecord {
    flags: Box<[AtomicU8]>,
    generations: Box<[AtomicU32]>,
    code_writes: RwLock<Option<CodeWrites>>,
    /// Whether the host has set the pages aside.
    set_aside: AtomicBool,
    contents: Contents,
}

/// Whose a region's contents are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Contents {
    /// The machine's own, which it clears, gives back and saves as it likes.
    #[default]
    Machine,
    /// A file's, which are there before the machine and after it ([`map_file`]).
    File,
}

/// What is called after a page that held decoded code was written. It may be called on any thread.
pub type CodeWrites = Arc<dyn Fn() + Send + Sync>;

impl fmt::Debug for PageRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageRecord").field("pages", &self.flags.len()).finish_non_exhaustive()
    }
}

impl PageRecord {
    /// Says that an engine has decoded code in `page`.
    pub fn note_code(&self, page: usize) {
        if let Some(flags) = self.flags.get(page) {
            flags.fetch_or(CODE, Ordering::AcqRel);
        }
    }

    /// Whether `page` holds decoded code.
    #[must_use]
    pub fn has_code(&self, page: usize) -> bool {
        self.flags.get(page).is_some_and(|flags| flags.load(Ordering::Acquire) & CODE != 0)
    }

    /// The code generation of `page`.
    #[must_use]
    pub fn generation(&self, page: usize) -> u32 {
        self.generations.get(page).map_or(0, |generation| generation.load(Ordering::Acquire))
    }

    /// Where the generations lie, for engines that compare them without a call.
    #[must_use]
    pub fn generations(&self) -> &[AtomicU32] {
        &self.generations
    }

    /// Says that `page` was or is about to be written. Code decoded in it is outdated, and it is no longer
    /// taken to hold any.
    pub fn note_write(&self, page: usize) {
        let Some(flags) = self.flags.get(page) else { return };
        let old = flags.swap(DIRTY, Ordering::AcqRel);
        if old & CODE != 0
            && let Some(generation) = self.generations.get(page)
        {
            generation.fetch_add(1, Ordering::AcqRel);
            let listener = self.code_writes.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(tell) = &*listener {
                tell();
            }
        }
    }

    /// Has `tell` called whenever a page's generation has moved, and nobody who was to be called before.
    pub fn on_code_writes(&self, tell: CodeWrites) {
        *self.code_writes.write().unwrap_or_else(PoisonError::into_inner) = Some(tell);
    }

    /// Whether the host has set the pages aside, which must not go back to it then.
    #[must_use]
    pub fn is_set_aside(&self) -> bool {
        self.set_aside.load(Ordering::Relaxed)
    }

    /// Whether the contents are the machine's own.
    #[must_use]
    pub fn is_machines(&self) -> bool {
        self.contents == Contents::Machine
    }

    /// Whether `page` can be written with no further word to the record: it is dirty already and holds no code.
    #[must_use]
    pub fn is_plain(&self, page: usize) -> bool {
        self.flags.get(page).is_some_and(|flags| flags.load(Ordering::Acquire) == DIRTY)
    }

    fn take_dirty(&self, page: usize) -> bool {
        self.flags.get(page).is_some_and(|flags| flags.fetch_and(!DIRTY, Ordering::AcqRel) & DIRTY != 0)
    }
}

impl<'a> WithBitmapSlice<'a> for PageRecord {
    type S = RefSlice<'a, Self>;
}

impl Bitmap for PageRecord {
    fn mark_dirty(&self, offset: usize, len: usize) {
        if len == 0 {
            return;
        }
        let last = offset.saturating_add(len - 1) >> PAGE_SHIFT;
        for page in (offset >> PAGE_SHIFT)..=last.min(self.flags.len()) {
            self.note_write(page);
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.flags.get(offset >> PAGE_SHIFT).is_some_and(|flags| flags.load(Ordering::Acquire) & DIRTY != 0)
    }

    fn slice_at(&self, offset: usize) -> RefSlice<'_, Self> {
        RefSlice::new(self, offset)
    }
}

impl NewBitmap for PageRecord {
    fn with_len(len: usize) -> Self {
        let pages = len.div_ceil(1 << PAGE_SHIFT);
        Self {
            flags: zeroed(pages),
            generations: zeroed(pages),
            code_writes: RwLock::default(),
            set_aside: AtomicBool::new(false),
            contents: Contents::Machine,
        }
    }
}

/// So many zeroes, for which the host gives memory when they are first written.
///
/// # Panics
/// When the process has no more addresses.
fn zeroed<T: zerocopy::FromZeros>(count: usize) -> Box<[T]> {
    zerocopy::FromZeros::new_box_zeroed_with_elems(count)
        .expect("there are addresses for a record of guest memory")
}

/// Where a PC's display memory begins, in which there is no RAM.
pub const VGA_START: u64 = 0xa_0000;
/// Where RAM continues after it.
pub const VGA_END: u64 = 0xc_0000;
/// Where the hole for devices below 4 GiB begins: RAM beyond this many bytes continues at 4 GiB.
pub const HOLE_START: u64 = 0x8000_0000;
/// Where RAM continues.
pub const HOLE_END: u64 = 0x1_0000_0000;

/// Where room for more RAM begins: at a multiple of what guests add and remove at once.
const ROOM_ALIGNMENT: u64 = 1 << 30;
/// Bytes of a large page.
pub const LARGE_PAGE: u64 = 2 << 20;

/// What RAM is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pages {
    /// The host's pages, which it may join to large ones.
    Any,
    /// Large pages that the host has set aside (hugetlbfs), but for the first 2 MiB, which have a hole. All of them are
    /// taken at once.
    Large,
}

/// RAM of `size` bytes in the machine's layout: from 0 to 2 GiB without the display's 128 KiB, which are lost, and the
/// rest from 4 GiB. It is a file in memory, so that engines can map a page of it at several places.
///
/// # Errors
/// When the host gives no memory, or `size` is no multiple of a page.
pub fn allocate(size: u64) -> std::io::Result<GuestMemory> {
    Ok(allocate_extensible(size, 0, Pages::Any)?.all)
}

/// RAM with room for more behind it.
#[derive(Debug, Clone)]
pub struct Extensible {
    /// All of it.
    pub all: GuestMemory,
    /// What there is at the start: the same memory without the room.
    pub ram: GuestMemory,
    /// Where the room is, if there is any.
    pub room: Range<u64>,
}

/// RAM as [`allocate`] gives it, and room of `more` bytes at the next multiple of 1 GiB above it and 4 GiB, where guests are
/// content with its alignment.
///
/// # Errors
/// When the host gives no memory, or a size is no multiple of a page.
pub fn allocate_extensible(size: u64, more: u64, pages: Pages) -> std::io::Result<Extensible> {
    let border = match pages {
        Pages::Any => size,
        Pages::Large => LARGE_PAGE,
    };
    let low_end = size.min(HOLE_START);
    let low = [0..size.min(VGA_START), VGA_END..low_end.min(border), border..low_end];
    let high = HOLE_END..HOLE_END.saturating_add(size.saturating_sub(HOLE_START));
    let start = high.end.next_multiple_of(ROOM_ALIGNMENT);
    let room = start..start.saturating_add(more);
    let all = low.into_iter().chain([high, room.clone()]);
    let ranges: Vec<_> = all.filter(|range| !range.is_empty()).collect();
    // In the file everything is as far from a border of large pages as it is for the guest.
    let behind = size.next_multiple_of(LARGE_PAGE);
    let end = if more > 0 { behind.saturating_add(more) } else { size };
    let offset = |at| match at {
        at if at < HOLE_END => at,
        at if at < start => HOLE_START,
        _ => behind,
    };
    let all = match pages {
        Pages::Any => {
            let file = file("guest-ram", end, Pages::Any)?;
            from_ranges(&ranges, |at| FileOffset::from_arc(Arc::clone(&file), offset(at)))?
        }
        Pages::Large => {
            let first = file("guest-ram", LARGE_PAGE, Pages::Any)?;
            let rest = file("guest-ram", end.saturating_sub(LARGE_PAGE), Pages::Large)?;
            let memory = from_ranges(&ranges, |at| match offset(at).checked_sub(LARGE_PAGE) {
                None => FileOffset::from_arc(Arc::clone(&first), at),
                Some(offset) => FileOffset::from_arc(Arc::clone(&rest), offset),
            })?;
            for region in memory.iter().filter(|region| region.start_addr().0 >= LARGE_PAGE) {
                record(region).set_aside.store(true, Ordering::Relaxed);
            }
            memory
        }
    };
    let ram = if more > 0 {
        all.remove_region(GuestAddress(start), more).map_err(std::io::Error::other)?.0
    } else {
        all.clone()
    };
    Ok(Extensible { all, ram, room })
}

/// Read-only memory with `content`, which is a multiple of a page, at `start`. What it holds can be exchanged by whoever
/// has it, not by the guest.
///
/// # Errors
/// When the host gives no memory, or the size is no multiple of a page.
pub fn read_only(start: u64, content: &[u8]) -> std::io::Result<GuestMemory> {
    let range = start..start.saturating_add(content.len() as u64);
    let file = file("guest-rom", content.len() as u64, Pages::Any)?;
    let memory = from_ranges(std::slice::from_ref(&range), |_| FileOffset::from_arc(Arc::clone(&file), 0))?;
    memory.write_slice(content, GuestAddress(start)).map_err(std::io::Error::other)?;
    Ok(memory)
}

/// Memory of `size` bytes at `start` that is no guest's: for what is shared with another process beside guest memory.
///
/// # Errors
/// When the host gives no memory, or the size is no multiple of a page.
pub fn shared(start: u64, size: u64) -> std::io::Result<GuestMemory> {
    let range = start..start.saturating_add(size);
    let file = file("shared", size, Pages::Any)?;
    from_ranges(std::slice::from_ref(&range), |_| FileOffset::from_arc(Arc::clone(&file), 0))
}

/// A file in memory of `size` bytes, of which all that is large pages is there at once: one that is missing later would kill
/// whoever touches it.
fn file(name: &str, size: u64, pages: Pages) -> std::io::Result<Arc<File>> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let kind = match pages {
        Pages::Any => MemfdFlags::empty(),
        Pages::Large => MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB,
    };
    let file = memfd_create(name, flags | kind)?;
    ftruncate(&file, size)?;
    if pages == Pages::Large && size > 0 {
        fallocate(&file, FallocateFlags::empty(), 0, size)?;
    }
    // What is mapped stays there whatever becomes of the file.
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(Arc::new(File::from(file)))
}

/// Memory at these addresses: `place` says where in which file a range begins.
fn from_ranges(ranges: &[Range<u64>], place: impl Fn(u64) -> FileOffset) -> std::io::Result<GuestMemory> {
    let part = |range: &Range<u64>| {
        let length = usize::try_from(range.end - range.start).map_err(std::io::Error::other)?;
        Ok((GuestAddress(range.start), length, Some(place(range.start))))
    };
    let parts = ranges.iter().map(part).collect::<std::io::Result<Vec<_>>>()?;
    GuestMemory::from_ranges_with_files(&parts).map_err(std::io::Error::other)
}

/// The record of a region's pages.
#[must_use]
pub fn record(region: &GuestRegionMmap<PageRecord>) -> &PageRecord {
    (**region).bitmap()
}

/// The pages of the machine's own that were written since the last call (at the first, since the memory was made), as page
/// numbers in ascending order.
#[must_use]
pub fn take_dirty_pages(memory: &GuestMemory) -> Vec<u64> {
    let mut pages = Vec::new();
    for region in memory.iter().filter(|region| record(region).is_machines()) {
        let first = region.start_addr().0 >> PAGE_SHIFT;
        let record = record(region);
        pages.extend(
            (0..record.flags.len()).filter(|&page| record.take_dirty(page)).map(|page| first + page as u64),
        );
    }
    pages
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_write_by_a_device_is_recorded_and_outdates_code() {
        let memory = allocate(2 << 20).unwrap();
        let region = memory.iter().next().unwrap();
        let record = record(region);
        record.note_code(3);
        let before = record.generation(3);
        memory.write_slice(&[1; 8], GuestAddress(0x3ffc)).unwrap();
        assert_ne!(record.generation(3), before);
        assert_eq!(record.generation(4), before);
        assert!(record.is_plain(3) && record.is_plain(4) && !record.is_plain(5));
        assert_eq!(take_dirty_pages(&memory), [3, 4]);
        assert!(take_dirty_pages(&memory).is_empty());
        assert!(!record.is_plain(3), "the next write must be seen again");
    }

    #[test]
    fn memory_leaves_the_holes() {
        let ranges = |size| -> Vec<_> {
            let memory = allocate(size).unwrap();
            memory.iter().map(|r| (r.start_addr().0, r.start_addr().0 + r.len())).collect()
        };
        let high = (HOLE_END, HOLE_END + (16 << 20));
        assert_eq!(ranges(HOLE_START + (16 << 20)), [(0, VGA_START), (VGA_END, HOLE_START), high]);
        assert_eq!(ranges(HOLE_START), [(0, VGA_START), (VGA_END, HOLE_START)]);
        assert_eq!(ranges(VGA_END), [(0, VGA_START)]);
        assert_eq!(ranges(0x1000), [(0, 0x1000)]);
    }

    #[test]
    fn room_for_more_lies_behind_all_else() {
        let starts = |memory: &GuestMemory| memory.iter().map(|r| r.start_addr().0).collect::<Vec<_>>();
        let large = allocate_extensible(HOLE_START + 0x1000, 4 << 20, Pages::Any).unwrap();
        assert_eq!(large.room, 0x1_4000_0000..0x1_4040_0000);
        assert_eq!(starts(&large.ram), [0, VGA_END, HOLE_END]);
        assert_eq!(starts(&large.all), [0, VGA_END, HOLE_END, 0x1_4000_0000]);
        // It is memory of its own.
        for (address, value) in [(0x20_0000_u64, 1_u8), (HOLE_END, 2), (0x1_4000_0000, 3), (0x1_403f_ffff, 4)]
        {
            large.all.write_obj(value, GuestAddress(address)).unwrap();
        }
        assert_eq!(large.ram.read_obj::<u8>(GuestAddress(0x20_0000)).unwrap(), 1);
        assert_eq!(large.ram.read_obj::<u8>(GuestAddress(HOLE_END)).unwrap(), 2);
        assert_eq!(large.all.read_obj::<u8>(GuestAddress(0x1_4000_0000)).unwrap(), 3);
        let small = allocate_extensible(1 << 20, 2 << 20, Pages::Any).unwrap();
        assert_eq!((small.room.start, starts(&small.ram)), (HOLE_END, vec![0, VGA_END]));
        assert!(allocate_extensible(1 << 20, 0, Pages::Any).unwrap().room.is_empty());
    }

    #[test]
    fn large_pages_begin_where_there_is_no_hole() {
        let large = match allocate_extensible(8 << 20, 2 << 20, Pages::Large) {
            Ok(large) => large,
            Err(error) => {
                // Past the capture of output: nobody reads the output of a test that passes.
                let _ =
                    writeln!(std::io::stderr(), "NOT TESTED: large pages: the host sets none aside: {error}");
                return;
            }
        };
        let starts: Vec<_> = large.all.iter().map(|r| r.start_addr().0).collect();
        assert_eq!(starts, [0, VGA_END, LARGE_PAGE, HOLE_END]);
        assert_eq!(large.ram.last_addr().0, (8 << 20) - 1);
        let edges =
            [0, VGA_END, LARGE_PAGE - 1, LARGE_PAGE, (8 << 20) - 1, HOLE_END, HOLE_END + LARGE_PAGE - 1];
        for (value, address) in (1_u8..).zip(edges) {
            large.all.write_obj(value, GuestAddress(address)).unwrap();
        }
        give_back(&large.all, LARGE_PAGE..LARGE_PAGE + 0x1000).unwrap();
        let values = edges.map(|address| large.all.read_obj::<u8>(GuestAddress(address)).unwrap());
        assert_eq!(values, [1, 2, 3, 0, 5, 6, 7]);
        // Of the first 2 MiB, three pages were written.
        let present: u64 = present(&large.all).map(|range| range.end - range.start).sum();
        assert_eq!(present, (8 << 20) + 3 * 4096);
    }

    #[test]
    fn read_only_memory_holds_its_content() {
        let memory = read_only(0xffff_f000, &[7; 0x1000]).unwrap();
        let mut end = [0; 4];
        memory.read_slice(&mut end, GuestAddress(0xffff_fffc)).unwrap();
        assert_eq!(end, [7; 4]);
    }
}
