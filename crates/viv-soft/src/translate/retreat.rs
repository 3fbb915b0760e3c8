//! Where a check fails: the same instructions, every access of them looked up in the TLB.
//!
//! Extents that overlap have one copy. It can be entered before every instruction that has a check, and goes on behind the
//! last, so that none of what follows depends on a check that was not made.

use super::asm::Label;
use super::emit::{Cold, Emitter};
use super::flags;

/// Where the copy is entered.
#[derive(Clone, Copy)]
pub struct Entry {
    /// Before which instruction.
    item: usize,
    /// Whether the flags are saved there.
    flags_saved: bool,
    label: Label,
}

impl Emitter<'_> {
    /// The place before instruction `n` in the copy, with the flags where they are now.
    pub(super) fn retreat(&mut self, n: usize) -> Label {
        let flags_saved = self.flags_saved;
        let known = self.retreats.iter().find(|entry| entry.item == n && entry.flags_saved == flags_saved);
        if let Some(entry) = known {
            return entry.label;
        }
        let label = self.asm.label();
        self.retreats.push(Entry { item: n, flags_saved, label });
        label
    }

    /// Ends the instructions from `first` to `last`, which overlapping extents are in: the code goes on here.
    pub(super) fn end_region(&mut self, first: usize, last: usize) {
        if self.retreats.iter().any(|entry| entry.item >= first) {
            let resume = self.asm.here();
            self.cold.push(Cold::Retreat { first, last, flags_saved: self.flags_saved, resume });
        }
    }

    /// Emits the copy of the instructions from `first` to `last`, which goes on at `resume`.
    pub(super) fn copy_of_region(&mut self, first: usize, last: usize, end_saved: bool, resume: Label) {
        self.in_retreat = true;
        // A change of mode is alone in its region.
        self.mode = self.trace.items[first].mode;
        let mut reached = false;
        for n in first..=last {
            reached |= self.enter_copy(n, reached);
            if !reached {
                continue;
            }
            self.after = self.asm.label();
            let item = &self.trace.items[n];
            self.item(n, item);
            self.asm.bind(self.after);
        }
        self.in_retreat = false;
        self.settle(end_saved);
        self.asm.jump(resume);
    }

    /// The entries before instruction `n`; says whether there are any. `falls`: the code before comes here too.
    fn enter_copy(&mut self, n: usize, falls: bool) -> bool {
        let entry = |entries: &[Entry], saved| {
            entries
                .iter()
                .find(|entry| entry.item == n && entry.flags_saved == saved)
                .map(|entry| entry.label)
        };
        let (saved, live) = (entry(&self.retreats, true), entry(&self.retreats, false));
        let (Some(label), wanted) = (saved.or(live), saved.is_some()) else { return false };
        if falls {
            self.settle(wanted);
        }
        if let (Some(_), Some(live)) = (saved, live) {
            let over = self.asm.label();
            self.asm.jump(over);
            self.asm.bind(live);
            self.flags_saved = false;
            self.guard_flags(flags::ALL);
            self.asm.bind(over);
        }
        self.asm.bind(label);
        self.flags_saved = wanted;
        true
    }

    /// Puts the flags where they are to be.
    pub(super) fn settle(&mut self, saved: bool) {
        if saved {
            self.guard_flags(flags::ALL);
        } else {
            self.restore_flags();
        }
    }
}
