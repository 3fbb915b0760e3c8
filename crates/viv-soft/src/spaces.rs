//! Address spaces that are not in use, whose translations are kept by their PCID (SDM vol. 3, 4.10.1).
//!
//! The TLB's tables and the window's tags hold the translations of the present address space and those of global pages.
//! A change of address space that does not ask for a flush moves the former here, and those of the next one back.
//! Their generation comes back with them, so that what was found out about their code holds again.

use crate::tlb::{Entry, View};
use crate::window::Page;

/// The most address spaces that are kept: what Linux uses (`TLB_NR_DYN_ASIDS` is 6), and some more.
const MAX_SPACES: usize = 12;

/// Translations of an address space, without those of global pages.
#[derive(Default)]
pub struct Space {
    pcid: u16,
    /// The generation that it had; 0 if that is void.
    pub generation: u64,
    /// Entries of the TLB, by view and number.
    pub entries: Vec<(View, u16, Entry)>,
    /// Pages that the window has tags for.
    pub pages: Vec<(View, Page)>,
}

/// All that are kept, the one that was used last at the end.
#[derive(Default)]
pub struct Spaces {
    kept: Vec<Space>,
    /// One whose memory can be used again.
    spare: Option<Space>,
}

impl Spaces {
    /// Takes out what is kept for `pcid`.
    pub fn take(&mut self, pcid: u16) -> Option<Space> {
        let at = self.kept.iter().position(|space| space.pcid == pcid)?;
        Some(self.kept.remove(at))
    }

    /// An empty one for `pcid`, to be filled and put back. If there are too many, the one that was used longest ago is
    /// forgotten.
    pub fn empty(&mut self, pcid: u16) -> Space {
        if self.kept.len() >= MAX_SPACES {
            self.spare = Some(self.kept.remove(0));
        }
        Space { pcid, ..self.scratch() }
    }

    /// An empty one, to be filled and discarded.
    pub fn scratch(&mut self) -> Space {
        let Space { mut entries, mut pages, .. } = self.spare.take().unwrap_or_default();
        entries.clear();
        pages.clear();
        Space { pcid: 0, generation: 0, entries, pages }
    }

    /// Keeps a space.
    pub fn put(&mut self, space: Space) {
        self.kept.push(space);
    }

    /// What was in it is not needed any more.
    pub fn discard(&mut self, space: Space) {
        self.spare = Some(space);
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.kept.clear();
    }

    /// What was found out about code holds for none of them any more.
    pub fn forget_generations(&mut self) {
        for space in &mut self.kept {
            space.generation = 0;
        }
    }
}
