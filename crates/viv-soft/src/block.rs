//! Decoded blocks and where to find them.
//!
//! A block is a run of instructions that begins where control came in and ends at the first branch, system
//! instruction or page end. It is kept by guest-physical address and width, so that one decoding serves every
//! address space; nothing in it depends on the linear address. A block is outdated when the generation of a
//! page that it was read from has moved.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::cpu::Bitness;
use crate::op::Op;
use crate::translate::{Mode, TraceId};

/// A page that a block was read from.
#[derive(Clone, Copy)]
pub struct Source {
    /// Its guest-physical address.
    pub phys: u64,
    /// Its code generation.
    cell: *const AtomicU32,
    generation: u32,
}

impl Source {
    /// A page whose generation is in `cell`, which outlives the block: it belongs to guest RAM.
    pub fn new(phys: u64, cell: &AtomicU32) -> Self {
        Self { phys, cell, generation: cell.load(Ordering::Acquire) }
    }

    /// Whether it is the same page with the same content.
    pub fn is_same(&self, other: &Self) -> bool {
        self.phys == other.phys && self.generation == other.generation
    }

    #[inline]
    #[allow(unsafe_code, reason = "the cell's life is longer than the block's")]
    pub fn is_current(&self) -> bool {
        // SAFETY: the cell is in guest RAM's page record, which the vCPU that owns the block keeps alive.
        unsafe { (*self.cell).load(Ordering::Acquire) == self.generation }
    }
}

/// A decoded block. It is found far more often than it is in the host's caches, so it has one line of them.
#[repr(align(64))]
pub struct Block {
    /// Its instructions, one at least.
    pub ops: Box<[Op]>,
    /// Where it was read.
    pub source: Source,
    /// The page that its only instruction runs into.
    pub second: Option<Box<Source>>,
    /// How often it was interpreted.
    pub heat: u8,
    /// Whether there is no point in translating it.
    pub is_left_alone: bool,
    /// The translation last found for it: its mode, its number, and the version of the translator that had it.
    trace_mode: Mode,
    trace: TraceId,
    trace_version: u64,
}

const _: () = assert!(size_of::<Block>() == 64);

// SAFETY: the pointers in `Source` name atomics that any thread may read.
#[allow(unsafe_code, reason = "raw pointers to shared atomics")]
unsafe impl Send for Block {}

impl Block {
    /// A block that never ran.
    pub fn new(ops: Box<[Op]>, source: Source, second: Option<Source>) -> Self {
        let mut block = Self {
            ops,
            source,
            second: second.map(Box::new),
            heat: 0,
            is_left_alone: false,
            trace_mode: Mode::default(),
            trace: 0,
            trace_version: NO_VERSION,
        };
        // Translated code would run past a guard.
        block.is_left_alone = block.guards() != 0;
        block
    }

    /// How many of its operations are no instructions but a [`GUARD`](crate::debug::GUARD), which comes first.
    #[inline]
    pub fn guards(&self) -> usize {
        usize::from(self.ops.first().is_some_and(|op| op.len == 0))
    }

    /// The translation last found for it, if that was for `mode` and is of this version of the translator.
    #[inline]
    pub fn trace(&self, mode: Mode, version: u64) -> Option<TraceId> {
        (self.trace_version == version && self.trace_mode == mode).then_some(self.trace)
    }

    /// Notes the translation that was found for it.
    pub fn set_trace(&mut self, mode: Mode, trace: TraceId, version: u64) {
        (self.trace_mode, self.trace, self.trace_version) = (mode, trace, version);
    }

    /// Whether what it was decoded from is still there.
    #[inline]
    pub fn is_current(&self) -> bool {
        self.source.is_current() && self.second.as_ref().is_none_or(|second| second.is_current())
    }
}

/// No translator has this version.
const NO_VERSION: u64 = u64::MAX;

/// A block's place in the cache.
pub type BlockId = u32;

/// What blocks are found by.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key(u64);

impl Key {
    fn new(phys: u64, bitness: Bitness) -> Self {
        Self(phys << 2 | bitness as u64)
    }
}

/// Multiplication spreads addresses well enough; they are no hostile keys beyond their own guest.
#[derive(Default)]
pub struct AddressHasher(u64);

impl Hasher for AddressHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
}

/// All decoded blocks of a vCPU.
#[derive(Default)]
pub struct BlockCache {
    blocks: Vec<Block>,
    by_key: HashMap<Key, BlockId, BuildHasherDefault<AddressHasher>>,
    /// Instructions decoded since the cache was last empty, and [`BLOCK_COST`] for each block. Those of blocks that were
    /// replaced count, for what was prepared for them on the host is freed only with everything else.
    ops: usize,
    /// Room for the instructions of a block that is being decoded, used again for every block.
    pub room: Vec<Op>,
}

/// How many decoded instructions a vCPU keeps before it starts afresh: about 160 MiB. A compiler's run needs
/// half of it.
const MAX_OPS: usize = 1 << 22;
/// What a block takes besides its instructions, in instructions.
const BLOCK_COST: usize = 3;

impl BlockCache {
    /// The block at `phys`, if it was decoded and is still current.
    pub fn find(&self, phys: u64, bitness: Bitness) -> Option<BlockId> {
        let id = *self.by_key.get(&Key::new(phys, bitness))?;
        self.blocks[id as usize].is_current().then_some(id)
    }

    /// The block with this id.
    #[inline]
    pub fn get(&self, id: BlockId) -> &Block {
        &self.blocks[id as usize]
    }

    /// The block with this id, to be changed.
    #[inline]
    pub fn get_mut(&mut self, id: BlockId) -> &mut Block {
        &mut self.blocks[id as usize]
    }

    /// Keeps a block. An outdated one in its place goes.
    pub fn insert(&mut self, phys: u64, bitness: Bitness, block: Block) -> BlockId {
        self.ops += block.ops.len() + BLOCK_COST;
        let key = Key::new(phys, bitness);
        if let Some(&id) = self.by_key.get(&key) {
            self.blocks[id as usize] = block;
            return id;
        }
        let id = self.blocks.len() as BlockId;
        self.blocks.push(block);
        self.by_key.insert(key, id);
        id
    }

    /// Whether it has, together with `others` instructions kept elsewhere, grown so large that it should be emptied.
    pub fn is_full(&self, others: usize) -> bool {
        self.ops + others >= MAX_OPS
    }

    /// Forgets all blocks.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_rewrites_one_block_fills_the_cache() {
        fn nothing(_: &mut crate::cpu::Cpu, _: &Op) -> crate::cpu::Exec {
            Ok(())
        }
        let op = Op {
            run: nothing,
            imm: 0,
            disp: 0,
            end: 1,
            len: 1,
            dst: 0,
            src: 0,
            base: 0,
            index: 0,
            scale: 0,
            segment: 0,
            address: crate::op::AddressKind::Flat,
            sets_rip: false,
            aux: 0,
        };
        let cell = AtomicU32::new(0);
        let mut cache = BlockCache::default();
        for _ in 0..MAX_OPS.div_ceil(64 + BLOCK_COST) {
            assert!(!cache.is_full(0));
            let block = Block::new(vec![op; 64].into(), Source::new(0x1000, &cell), None);
            cache.insert(0x1000, Bitness::Bits64, block);
        }
        assert!(cache.is_full(0));
    }
}
