//! Address translation: the page walk, and what comes of it in the TLB (SDM vol. 3, chapter 4).

use viv_arch::{Cr0, Cr4, Efer, Exception, Rflags, Vector, paging};

use crate::cpu::{Cpu, Fault};
use crate::ram::Int;
use crate::tlb::{Fetched, View};
use crate::window::Page;

use format::{Format, FourLevel, Pae, TwoLevel};

mod format;

/// What an access is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading data.
    Read,
    /// Writing data, or reading what is about to be written.
    Write,
    /// Fetching instructions.
    Fetch,
}

/// A translated address.
#[derive(Debug, Clone, Copy)]
pub struct Translation {
    /// The guest-physical address.
    pub phys: u64,
    /// Which of [`paging::WRITABLE`], [`paging::GLOBAL`] and [`paging::LARGE`] hold for the page as a whole.
    attributes: u64,
}

impl Translation {
    fn is(&self, attribute: u64) -> bool {
        self.attributes & attribute != 0
    }
}

impl Cpu {
    /// Recomputes the view of memory after a change of CPL, CR0, CR4 or RFLAGS.AC.
    pub fn update_mmu_mode(&mut self) {
        let view = if self.cpl == 3 {
            View::User
        } else if self.cr4.contains(Cr4::SMAP) && !self.flag(Rflags::AC) {
            View::SupervisorSmap
        } else {
            View::Supervisor
        };
        let checks_alignment = view == View::User && self.cr0.contains(Cr0::AM) && self.flag(Rflags::AC);
        self.tlb.set_view(view, checks_alignment);
    }

    /// The view for accesses that the processor makes for itself: descriptor tables, the TSS.
    pub fn system_view(&self) -> View {
        if self.cr4.contains(Cr4::SMAP) { View::SupervisorSmap } else { View::Supervisor }
    }

    /// The current view.
    pub fn view(&self) -> View {
        self.tlb.view()
    }

    /// Translates `address` and enters it in the TLB, unless it is no RAM or is to be watched.
    ///
    /// A write to a page that holds decoded code outdates the code, and ends the running block after the
    /// present instruction.
    #[cold]
    #[inline(never)]
    pub fn translate(&mut self, address: u64, access: Access, view: View) -> Result<u64, Fault> {
        let translation = self.walk(address, access, view)?;
        let phys = translation.phys;
        let Some(page) = self.ram.page(phys) else { return Ok(phys) };
        let mut plain = page.writable && page.record.is_plain(page.index);
        if access == Access::Write && page.writable && !plain {
            if page.record.has_code(page.index) {
                self.op_end = std::ptr::null();
            }
            page.record.note_write(page.index);
            plain = page.record.is_plain(page.index);
        }
        if access == Access::Fetch || self.debug.watches_page(address) {
            return Ok(phys);
        }
        let filled = Page {
            linear: address & !paging::PAGE_OFFSET,
            frame: (phys >> 12) as u32,
            writable: plain && translation.is(paging::WRITABLE),
            global: translation.is(paging::GLOBAL),
            large: translation.is(paging::LARGE),
        };
        self.tlb.fill(view, filled, page.host);
        Ok(phys)
    }

    /// Translates the address of an instruction.
    #[inline]
    pub fn translate_fetch(&mut self, address: u64) -> Result<Fetched, Fault> {
        let user = self.cpl == 3;
        if let Some(fetched) = self.tlb.fetched(address, user) {
            return Ok(fetched);
        }
        let view = if user { View::User } else { View::Supervisor };
        let translation = self.walk(address, Access::Fetch, view)?;
        let fetched = Fetched { phys: translation.phys, global: translation.is(paging::GLOBAL) };
        self.tlb.note_fetched(address, user, fetched, translation.is(paging::LARGE));
        Ok(fetched)
    }

    fn page_fault<T>(&mut self, address: u64, code: u32, access: Access, view: View) -> Result<T, Fault> {
        let mut error_code = code;
        if view == View::User {
            error_code |= paging::FAULT_USER;
        }
        match access {
            Access::Read => {}
            Access::Write => error_code |= paging::FAULT_WRITE,
            Access::Fetch => {
                let has_no_execute = self.efer.contains(Efer::NXE) && self.cr4.contains(Cr4::PAE);
                if self.cr4.contains(Cr4::SMEP) || has_no_execute {
                    error_code |= paging::FAULT_FETCH;
                }
            }
        }
        self.raise(Exception { vector: Vector::PageFault, error_code, address })
    }

    /// Walks the page tables, sets accessed and dirty bits, checks rights.
    fn walk(&mut self, address: u64, access: Access, view: View) -> Result<Translation, Fault> {
        self.counts.walks += 1;
        if !self.cr0.contains(Cr0::PG) {
            return Ok(Translation { phys: address & self.address_lines, attributes: paging::WRITABLE });
        }
        let translation = if self.long_mode() {
            self.walk_tables::<FourLevel>(address, access, view)
        } else if self.cr4.contains(Cr4::PAE) {
            self.walk_tables::<Pae>(address, access, view)
        } else {
            self.walk_tables::<TwoLevel>(address, access, view)
        }?;
        Ok(Translation { phys: translation.phys & self.address_lines, ..translation })
    }

    fn walk_tables<F: Format>(
        &mut self,
        address: u64,
        access: Access,
        view: View,
    ) -> Result<Translation, Fault> {
        loop {
            if let Some(translation) = self.try_walk::<F>(address, access, view)? {
                return Ok(translation);
            }
        }
    }

    /// One try at the walk. `None`: an entry changed under it.
    fn try_walk<F: Format>(
        &mut self,
        address: u64,
        access: Access,
        view: View,
    ) -> Result<Option<Translation>, Fault> {
        let write = access == Access::Write;
        let Some(mut table) = F::root(self, address) else {
            return self.page_fault(address, 0, access, view);
        };
        let mut rights = paging::WRITABLE | paging::USER;
        let mut no_execute = false;
        // (address of the entry, entry) for each level that was passed.
        let mut path = [(0u64, 0u64); 4];
        let mut depth = F::FIRST;
        let leaf_shift = loop {
            let shift = F::shift(depth);
            let index = (address >> shift) & ((1 << F::INDEX_BITS) - 1);
            let at = table + index * F::Entry::SIZE;
            // Page tables in device memory read as all ones.
            let entry = self.ram.read::<F::Entry>(at).unwrap_or(F::Entry::from_u64(u64::MAX)).to_u64();
            if entry & paging::PRESENT == 0 {
                return self.page_fault(address, 0, access, view);
            }
            let is_leaf = F::is_leaf(self, depth, entry);
            if entry & F::reserved(self, depth, is_leaf) != 0 {
                return self.page_fault(
                    address,
                    paging::FAULT_PRESENT | paging::FAULT_RESERVED,
                    access,
                    view,
                );
            }
            path[depth] = (at, entry);
            rights &= entry;
            no_execute |= entry & paging::NO_EXECUTE != 0;
            depth += 1;
            if is_leaf {
                break shift;
            }
            table = entry & paging::ADDRESS;
        };
        let user_page = rights & paging::USER != 0;
        let writable = rights & paging::WRITABLE != 0;
        let reachable = !user_page || view == View::Supervisor;
        let allowed = match (view, access) {
            (View::User, Access::Read | Access::Fetch) => user_page,
            (View::User, Access::Write) => user_page && writable,
            (_, Access::Fetch) => !user_page || !self.cr4.contains(Cr4::SMEP),
            (_, Access::Read) => reachable,
            (_, Access::Write) => reachable && (writable || !self.cr0.contains(Cr0::WP)),
        };
        if !allowed || (access == Access::Fetch && no_execute) {
            return self.page_fault(address, paging::FAULT_PRESENT, access, view);
        }
        for (level, &(at, entry)) in path.iter().enumerate().take(depth).skip(F::FIRST) {
            let mut wanted = entry | paging::ACCESSED;
            if write && level == depth - 1 {
                wanted |= paging::DIRTY;
            }
            if wanted != entry && !self.set_entry::<F::Entry>(at, entry, wanted) {
                return Ok(None);
            }
        }
        let (_, leaf) = path[depth - 1];
        let offset = (1u64 << leaf_shift) - 1;
        let mut attributes = if leaf_shift == 12 { 0 } else { paging::LARGE };
        // An entry for writing needs the dirty bit set already.
        let is_dirty = write || leaf & paging::DIRTY != 0;
        if is_dirty && (writable || (view != View::User && !self.cr0.contains(Cr0::WP))) {
            attributes |= paging::WRITABLE;
        }
        if self.cr4.contains(Cr4::PGE) {
            attributes |= leaf & paging::GLOBAL;
        }
        Ok(Some(Translation { phys: F::page(leaf, offset) | (address & offset), attributes }))
    }

    fn set_entry<T: Int>(&mut self, at: u64, old: u64, new: u64) -> bool {
        if self.ram.page(at).is_some_and(|page| page.record.has_code(page.index)) {
            self.op_end = std::ptr::null();
        }
        self.ram.update_entry(at, T::from_u64(old), T::from_u64(new))
    }
}
