//! Page tables of random worlds, and addresses in them that random code may find useful.

use viv_arch::paging::{ACCESSED, DIRTY, GLOBAL, PAGE_SIZE};

use super::image::{Image, PageSize, rights};
use super::layout::*;
use super::system;
use crate::testing::Rng;

/// Pages from [`CODE_PAGES`] on that are mapped at their own place, mostly with all rights.
const PLAIN_PAGES: u64 = 14;

/// What random code is written for.
pub struct Places {
    /// Root tables.
    pub roots: [u64; 2],
    /// Where the entries of [`VOLATILE`]'s pages are in the first address space.
    pub entries: Vec<u64>,
    /// Whether the code runs in user mode.
    pub user: bool,
}

impl Places {
    /// Writes random page tables.
    pub fn write(image: &mut Image, user: bool, rng: &mut Rng) -> Self {
        let roots = [image.table(), image.table()];
        for root in roots {
            system::map(image, root);
        }
        let mut places = Self { roots, entries: Vec::new(), user };
        for page in 0..MAPPED_PAGES {
            let entry = places.entry(page, rng);
            let same = page < CODE_PAGES || !rng.one_in(4);
            let other = if same { entry } else { places.entry(page, rng) };
            // Which of the two tables gets these bits, if the page stays in the TLB, is the engine's affair.
            let global = if same && rng.one_in(4) { GLOBAL | ACCESSED | DIRTY } else { 0 };
            let linear = MAPPED + page * PAGE_SIZE;
            image.map(roots[0], linear, PageSize::Size4K, entry | global);
            image.map(roots[1], linear, PageSize::Size4K, other | global);
        }
        for page in 0..VOLATILE_PAGES {
            let linear = VOLATILE + page * PAGE_SIZE;
            let entry = places.volatile_entry(rng);
            places.entries.push(image.map(roots[0], linear, PageSize::Size4K, entry));
            let entry = places.volatile_entry(rng);
            image.map(roots[1], linear, PageSize::Size4K, entry);
        }
        for linear in LARGE {
            for root in roots {
                let entry = PLAY | places.rights(rng);
                image.map(root, linear, PageSize::Size2M, entry);
            }
        }
        places
    }

    fn entry(&self, page: u64, rng: &mut Rng) -> u64 {
        let own = if self.user == rng.one_in(12) { "" } else { "u" };
        if page < CODE_PAGES {
            let write = if rng.one_in(2) { "w" } else { "" };
            return play(page) | rights(&format!("x{own}{write}"));
        }
        if page < CODE_PAGES + PLAIN_PAGES {
            let execute = if rng.one_in(4) { "x" } else { "" };
            return play(page) | rights(&format!("w{own}{execute}"));
        }
        match rng.below(20) {
            0..5 => play(rng.below(CODE_PAGES)) | self.rights(rng),
            5..7 => DEVICE | self.rights(rng),
            7..11 => 0,
            _ => play(rng.below(PLAY_PAGES)) | self.rights(rng),
        }
    }

    /// An entry for a page whose mapping changes.
    pub fn volatile_entry(&self, rng: &mut Rng) -> u64 {
        match rng.below(12) {
            0..3 => 0,
            3 => (DEVICE + PAGE_SIZE) | self.rights(rng),
            _ => play(rng.below(PLAY_PAGES)) | self.rights(rng),
        }
    }

    fn rights(&self, rng: &mut Rng) -> u64 {
        let likely = |letter, rng: &mut Rng| if rng.one_in(4) { "" } else { letter };
        let user = if self.user == rng.one_in(6) { "" } else { "u" };
        rights(&format!("{}{}{user}", likely("w", rng), likely("x", rng)))
    }

    /// An address that random code may access.
    pub fn pointer(&self, rng: &mut Rng) -> u64 {
        let page = match rng.below(40) {
            0..5 => MAPPED + rng.below(MAPPED_PAGES) * PAGE_SIZE,
            5..9 => VOLATILE + rng.below(VOLATILE_PAGES) * PAGE_SIZE,
            9..13 => rng.pick(&LARGE) + rng.below(PLAY_PAGES + 1) * PAGE_SIZE,
            13..15 => MAPPED + rng.below(CODE_PAGES) * PAGE_SIZE,
            15 => return rng.interesting(),
            _ => MAPPED + (CODE_PAGES + rng.below(PLAIN_PAGES)) * PAGE_SIZE,
        };
        match rng.below(6) {
            0 => page + PAGE_SIZE - rng.below(40),
            1 => page + rng.below(PAGE_SIZE),
            _ => page + rng.below(PAGE_SIZE / 64) * 64,
        }
    }

    /// A stack pointer.
    pub fn stack(&self, rng: &mut Rng) -> u64 {
        MAPPED + (CODE_PAGES + rng.below(PLAIN_PAGES)) * PAGE_SIZE + 0x400 + rng.below(0x180) * 8
    }

    /// Another linear address of a byte in the code pages, if it is `at` in the playground.
    pub fn alias(&self, at: u64, rng: &mut Rng) -> u64 {
        if rng.one_in(2) { rng.pick(&LARGE) + at } else { MAPPED + at }
    }
}

fn play(page: u64) -> u64 {
    PLAY + page * PAGE_SIZE
}
