//! Faults of instructions in generated code.
//!
//! Generated code that can fault keeps a *recovery address* on top of the host stack. When the processor
//! raises an exception at an address inside an arena, the signal handler continues the thread at the recovery
//! address with RAX holding the exception, encoded by [`encode`]; all other registers are as the faulting
//! instruction left them. The code there puts the host's state back and returns RAX.
//!
//! An arena of translated code has a table instead, [`FaultSites`], that says for each instruction that may fault
//! where to go on; no register is changed.
#![allow(unsafe_code, reason = "a list that signal handlers walk, and the stack of a faulting thread")]

use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, Once, PoisonError};

use viv_arch::Vector;

use crate::signals::{self, Trap};

/// What the processor raised when it executed an instruction for the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostFault {
    /// The exception: #DE, #UD, #GP, #PF, #MF, #AC or #XM.
    pub vector: Vector,
    /// Its error code, 0 where there is none.
    pub error_code: u32,
}

/// Set in every encoded fault, so that none is 0.
const FAULT: u64 = 1 << 63;

/// A fault as recovery code finds it in RAX.
const fn encode(vector: u8, error_code: u32) -> u64 {
    FAULT | (error_code as u64) << 8 | vector as u64
}

/// What generated code returned: 0, or an encoded fault.
pub(super) fn decode(value: u64) -> Result<(), HostFault> {
    if value == 0 {
        return Ok(());
    }
    let vector = Vector::from_number(value as u8).unwrap_or(Vector::GeneralProtection);
    Err(HostFault { vector, error_code: (value >> 8) as u32 })
}

/// A range of addresses that holds generated code. The nodes form a list that only grows, because a signal
/// handler may walk it at any time; a node that is free has an empty range.
#[derive(Debug)]
struct Node {
    start: AtomicUsize,
    end: AtomicUsize,
    /// The table of its faults; null where recovery addresses are on the stack.
    sites: AtomicPtr<FaultSites>,
    next: *const Node,
}

/// Where instructions of an arena may fault, and where to go on then. One thread at a time runs the arena's code and
/// changes the table, so a signal handler that looks into it finds it whole.
///
/// The table has parts, which come and go with parts of the arena.
#[derive(Debug)]
pub struct FaultSites {
    /// For each part how many there are in what usually runs, and in what seldom does.
    lens: Box<[[AtomicUsize; 2]]>,
    /// How many there may be in each.
    capacity: usize,
    /// Offsets of instructions, ascending in each, in the upper halves; offsets to go on at in the lower.
    entries: Box<[AtomicU64]>,
}

impl FaultSites {
    /// An empty table of so many parts, each with room for twice `capacity` instructions.
    #[must_use]
    pub fn new(parts: usize, capacity: usize) -> Self {
        let entries = Box::new_zeroed_slice(2 * parts * capacity);
        // SAFETY: zero is a number. (What is not used need never be there.)
        let entries = unsafe { entries.assume_init() };
        Self {
            lens: (0..parts).map(|_| [AtomicUsize::new(0), AtomicUsize::new(0)]).collect(),
            capacity,
            entries,
        }
    }

    /// Whether there is room for `more` instructions in a part, however often they run.
    #[must_use]
    pub fn has_room(&self, part: usize, more: usize) -> bool {
        self.lens[part].iter().all(|len| len.load(Ordering::Relaxed) + more <= self.capacity)
    }

    /// Adds an instruction, which lies behind all that were added to the part before it of those that run as often. One
    /// that finds no room is not recovered from.
    pub fn push(&self, part: usize, cold: bool, at: u32, go_on: u32) {
        let len = &self.lens[part][usize::from(cold)];
        let count = len.load(Ordering::Relaxed);
        if count < self.capacity {
            let first = (2 * part + usize::from(cold)) * self.capacity;
            let entry = u64::from(at) << 32 | u64::from(go_on);
            self.entries[first + count].store(entry, Ordering::Relaxed);
            len.store(count + 1, Ordering::Release);
        }
    }

    /// Forgets all instructions of a part.
    pub fn clear(&self, part: usize) {
        for len in &self.lens[part] {
            len.store(0, Ordering::Release);
        }
    }

    fn find(&self, at: u32) -> Option<u32> {
        let lens = self.lens.iter().flatten();
        lens.zip(self.entries.chunks(self.capacity)).find_map(|(len, entries)| {
            let entries = &entries[..len.load(Ordering::Acquire)];
            let site = |entry: &AtomicU64| (entry.load(Ordering::Relaxed) >> 32) as u32;
            let index = entries.binary_search_by_key(&at, site).ok()?;
            Some(entries[index].load(Ordering::Relaxed) as u32)
        })
    }
}

// SAFETY: `next` is set before the node is published and never changes; it points to a leaked node.
unsafe impl Sync for Node {}

static NODES: AtomicPtr<Node> = AtomicPtr::new(ptr::null_mut());

/// All nodes, newest first.
fn nodes() -> impl Iterator<Item = &'static Node> {
    let mut next: *const Node = NODES.load(Ordering::Acquire);
    std::iter::from_fn(move || {
        // SAFETY: nodes are leaked, so a pointer that is not null stays valid.
        let node = unsafe { next.as_ref() }?;
        next = node.next;
        Some(node)
    })
}

/// Marks a node as taken while its range is not yet known.
const TAKEN: usize = usize::MAX;

/// Makes faults in a range of addresses recoverable, until it is revoked.
#[derive(Debug)]
pub(super) struct Registration(&'static Node);

impl Registration {
    /// Registers a range. `sites`, if not null, lives until it is revoked.
    pub fn new(range: Range<usize>, sites: *const FaultSites) -> Self {
        static HANDLERS: Once = Once::new();
        HANDLERS.call_once(|| signals::claim(recover));
        let free = nodes()
            .find(|node| node.start.compare_exchange(0, TAKEN, Ordering::AcqRel, Ordering::Relaxed).is_ok());
        let node = free.unwrap_or_else(Self::add_node);
        node.end.store(range.end, Ordering::Relaxed);
        node.sites.store(sites.cast_mut(), Ordering::Relaxed);
        node.start.store(range.start, Ordering::Release);
        Self(node)
    }

    fn add_node() -> &'static Node {
        static ADDING: Mutex<()> = Mutex::new(());
        let _guard = ADDING.lock().unwrap_or_else(PoisonError::into_inner);
        let node = Box::leak(Box::new(Node {
            start: AtomicUsize::new(TAKEN),
            end: AtomicUsize::new(TAKEN),
            sites: AtomicPtr::new(ptr::null_mut()),
            next: NODES.load(Ordering::Relaxed),
        }));
        NODES.store(node, Ordering::Release);
        node
    }

    /// Gives the range up.
    pub fn revoke(&self) {
        self.0.start.store(0, Ordering::Release);
    }
}

/// The registered range that an address is in.
fn find(address: usize) -> Option<&'static Node> {
    nodes().find(|node| {
        let start = node.start.load(Ordering::Acquire);
        start != 0 && (start..node.end.load(Ordering::Relaxed)).contains(&address)
    })
}

/// Continues a thread that faulted in generated code at its recovery address.
fn recover(trap: &mut Trap<'_>) -> bool {
    let registers = &mut trap.context.uc_mcontext.gregs;
    let rip = registers[libc::REG_RIP as usize] as usize;
    let Some(node) = find(rip) else { return false };
    // SAFETY: a table lives as long as the registration of its arena, whose code this thread runs.
    if let Some(sites) = unsafe { node.sites.load(Ordering::Relaxed).as_ref() } {
        let start = node.start.load(Ordering::Relaxed);
        let Some(go_on) = sites.find((rip - start) as u32) else { return false };
        registers[libc::REG_RIP as usize] = (start + go_on as usize) as i64;
        return true;
    }
    // SAFETY: generated code without a table never loads RSP, so it points into the thread's own stack, where the
    // code has put the recovery address.
    let recovery = unsafe { *(registers[libc::REG_RSP as usize] as *const usize) };
    if find(recovery).is_none_or(|other| !ptr::eq(other, node)) {
        return false;
    }
    registers[libc::REG_RIP as usize] = recovery as i64;
    registers[libc::REG_RAX as usize] = encode(trap.vector, trap.error_code) as i64;
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_survive_their_encoding() {
        assert_eq!(decode(0), Ok(()));
        let fault = HostFault { vector: Vector::DivideError, error_code: 0 };
        assert_eq!(decode(encode(0, 0)), Err(fault));
        let fault = HostFault { vector: Vector::GeneralProtection, error_code: 0xffff_fff8 };
        assert_eq!(decode(encode(13, 0xffff_fff8)), Err(fault));
    }

    #[test]
    fn a_part_of_a_table_goes_alone() {
        let sites = FaultSites::new(2, 2);
        sites.push(0, false, 0x10, 1);
        sites.push(0, false, 0x20, 2);
        sites.push(0, true, 0x90, 3);
        sites.push(1, false, 0x30, 4);
        assert!(!sites.has_room(0, 1) && sites.has_room(1, 1));
        assert_eq!(
            [0x10, 0x20, 0x90, 0x30, 0x11].map(|at| sites.find(at)),
            [Some(1), Some(2), Some(3), Some(4), None]
        );
        sites.clear(0);
        assert_eq!([0x10, 0x90, 0x30].map(|at| sites.find(at)), [None, None, Some(4)]);
        sites.push(0, false, 0x18, 5);
        assert_eq!([0x18, 0x20].map(|at| sites.find(at)), [Some(5), None]);
    }

    #[test]
    fn a_revoked_range_is_free_for_the_next() {
        let registration = Registration::new(0x10..0x20, ptr::null());
        assert!(find(0x1f).is_some() && find(0x20).is_none() && find(0xf).is_none());
        registration.revoke();
        assert!(find(0x1f).is_none());
        let next = Registration::new(0x30..0x40, ptr::null());
        assert!(find(0x30).is_some());
        next.revoke();
    }
}
