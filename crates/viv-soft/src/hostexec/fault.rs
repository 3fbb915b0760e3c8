//! Faults of instructions in generated code.
//!
//! Generated code that can fault keeps a *recovery address* on top of the host stack. When the processor
//! raises an exception at an address inside an arena, the signal handler continues the thread at the recovery
//! address with RAX holding the exception, encoded by [`encode`]; all other registers are as the faulting
//! instruction left them. The code there puts the host's state back and returns RAX.
#![allow(unsafe_code, reason = "a list that signal handlers walk, and the stack of a faulting thread")]

use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
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
    next: *const Node,
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
    /// Registers a range.
    pub fn new(range: Range<usize>) -> Self {
        static HANDLERS: Once = Once::new();
        HANDLERS.call_once(|| signals::claim(recover));
        let free = nodes()
            .find(|node| node.start.compare_exchange(0, TAKEN, Ordering::AcqRel, Ordering::Relaxed).is_ok());
        let node = free.unwrap_or_else(Self::add_node);
        node.end.store(range.end, Ordering::Relaxed);
        node.start.store(range.start, Ordering::Release);
        Self(node)
    }

    fn add_node() -> &'static Node {
        static ADDING: Mutex<()> = Mutex::new(());
        let _guard = ADDING.lock().unwrap_or_else(PoisonError::into_inner);
        let node = Box::leak(Box::new(Node {
            start: AtomicUsize::new(TAKEN),
            end: AtomicUsize::new(TAKEN),
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

/// Whether an address is in generated code.
fn is_generated(address: usize) -> bool {
    nodes().any(|node| {
        let start = node.start.load(Ordering::Acquire);
        start != 0 && (start..node.end.load(Ordering::Relaxed)).contains(&address)
    })
}

/// Continues a thread that faulted in generated code at its recovery address.
fn recover(trap: &mut Trap<'_>) -> bool {
    let registers = &mut trap.context.uc_mcontext.gregs;
    if !is_generated(registers[libc::REG_RIP as usize] as usize) {
        return false;
    }
    // SAFETY: generated code never loads RSP, so it points into the thread's own stack, where the code
    // has put the recovery address.
    let recovery = unsafe { *(registers[libc::REG_RSP as usize] as *const usize) };
    if !is_generated(recovery) {
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
    fn a_revoked_range_is_free_for_the_next() {
        let registration = Registration::new(0x10..0x20);
        assert!(is_generated(0x1f) && !is_generated(0x20) && !is_generated(0xf));
        registration.revoke();
        assert!(!is_generated(0x1f));
        let next = Registration::new(0x30..0x40);
        assert!(is_generated(0x30));
        next.revoke();
    }
}
