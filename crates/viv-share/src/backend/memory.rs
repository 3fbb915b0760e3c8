//! Guest memory, as the front end tells of it.

use std::fs::File;
use std::sync::Arc;

use vhost::vhost_user::message::VhostUserMemoryRegion;
use vhost::vhost_user::{Error, Result};
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap};

/// The most regions (VHOST_USER_GET_MAX_MEM_SLOTS).
pub(super) const SLOTS: usize = 32;

/// Guest memory: its regions, and where each is in the front end's process, by which that names rings.
#[derive(Debug, Clone, Default)]
pub(super) struct Memory {
    regions: Vec<Region>,
    mapped: Arc<GuestMemoryMmap>,
}

#[derive(Debug, Clone)]
struct Region {
    /// Its address in the front end's process.
    user: u64,
    guest: u64,
    size: u64,
    mapping: Arc<GuestRegionMmap>,
}

impl Memory {
    /// These regions, each of a file.
    pub(super) fn new(regions: &[VhostUserMemoryRegion], files: Vec<File>) -> Result<Self> {
        let mut memory = Self::default();
        for (region, file) in regions.iter().zip(files) {
            memory = memory.with(region, file)?;
        }
        Ok(memory)
    }

    /// With one more region.
    pub(super) fn with(&self, region: &VhostUserMemoryRegion, file: File) -> Result<Self> {
        if self.regions.len() >= SLOTS {
            return Err(Error::InvalidParam);
        }
        let mapping = GuestRegionMmap::new(region.mmap_region(file)?, GuestAddress(region.guest_phys_addr));
        let mapping = Arc::new(mapping.ok_or(Error::InvalidParam)?);
        let mut regions = self.regions.clone();
        regions.push(Region {
            user: region.user_addr,
            guest: region.guest_phys_addr,
            size: region.memory_size,
            mapping,
        });
        Self::of(regions)
    }

    /// Without a region.
    pub(super) fn without(&self, region: &VhostUserMemoryRegion) -> Result<Self> {
        let mut regions = self.regions.clone();
        let place = |known: &Region| (known.guest, known.user, known.size);
        let wanted = (region.guest_phys_addr, region.user_addr, region.memory_size);
        let index = regions.iter().position(|known| place(known) == wanted).ok_or(Error::InvalidParam)?;
        regions.remove(index);
        Self::of(regions)
    }

    fn of(mut regions: Vec<Region>) -> Result<Self> {
        regions.sort_by_key(|region| region.guest);
        let mappings = regions.iter().map(|region| region.mapping.clone()).collect();
        let mapped = GuestMemoryMmap::from_arc_regions(mappings).map_err(|_| Error::InvalidParam)?;
        Ok(Self { regions, mapped: Arc::new(mapped) })
    }

    /// The memory itself.
    pub(super) fn mapped(&self) -> Arc<GuestMemoryMmap> {
        self.mapped.clone()
    }

    /// The guest's address of what is at `user` in the front end's process.
    pub(super) fn guest_address(&self, user: u64) -> Result<GuestAddress> {
        let address = |region: &Region| {
            let offset = user.checked_sub(region.user)?;
            (offset < region.size).then(|| region.guest.checked_add(offset)).flatten()
        };
        self.regions.iter().find_map(address).map(GuestAddress).ok_or(Error::InvalidParam)
    }
}
