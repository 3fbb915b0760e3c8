//! What engines that translate guest code say of it.

use std::iter::Sum;
use std::ops::Add;

use serde::{Deserialize, Serialize};

/// What a translator has done since its vCPU was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Translations {
    /// Blocks of guest code decoded, to be interpreted.
    pub blocks: u64,
    /// Traces translated, each from a place that guest code was hot at.
    pub traces: u64,
    /// Guest instructions in them.
    pub instructions: u64,
    /// Bytes of host code for them that usually run...
    pub bytes: u64,
    /// ... and that seldom do.
    pub seldom_bytes: u64,
    /// Time that it took to translate them, in nanoseconds.
    pub nanoseconds: u64,
    /// How often some were dropped for want of room.
    pub evictions: u64,
    /// Mappings made of guest pages that translated code reaches often.
    pub mappings: u64,
    /// Accesses of translated code that had to be looked up in the TLB, because no such mapping was there.
    pub lookups: u64,
    /// Page-table walks, of translated and of interpreted code.
    pub walks: u64,
    /// Instructions that translated code left to the interpreter: for an access that the TLB did not have...
    pub access_detours: u64,
    /// ... for an indirect branch whose target was not known, or an event that waited...
    pub branch_detours: u64,
    /// ... or because they are always interpreted.
    pub instruction_detours: u64,
    /// How often translated code was left altogether: for code that it was not yet linked to, or an event that waited...
    pub left_by_edge: u64,
    /// ... behind an interpreted instruction...
    pub left_interpreted: u64,
    /// ... or for an exception.
    pub left_by_fault: u64,
}

impl Add for Translations {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self {
            blocks: self.blocks + other.blocks,
            traces: self.traces + other.traces,
            instructions: self.instructions + other.instructions,
            bytes: self.bytes + other.bytes,
            seldom_bytes: self.seldom_bytes + other.seldom_bytes,
            nanoseconds: self.nanoseconds + other.nanoseconds,
            evictions: self.evictions + other.evictions,
            mappings: self.mappings + other.mappings,
            lookups: self.lookups + other.lookups,
            walks: self.walks + other.walks,
            access_detours: self.access_detours + other.access_detours,
            branch_detours: self.branch_detours + other.branch_detours,
            instruction_detours: self.instruction_detours + other.instruction_detours,
            left_by_edge: self.left_by_edge + other.left_by_edge,
            left_interpreted: self.left_interpreted + other.left_interpreted,
            left_by_fault: self.left_by_fault + other.left_by_fault,
        }
    }
}

impl Sum for Translations {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}
