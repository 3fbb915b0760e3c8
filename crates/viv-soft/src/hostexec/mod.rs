//! The host CPU as the ALU: one guest instruction, executed by the host's own.
//!
//! The interpreter models control flow, system and string instructions and the hot integer ones. Everything
//! else that only computes (x87, MMX, SSE, AVX, BMI, AES, rotates, divisions, locked forms, …) is not
//! modelled but run: a generated *stub* loads the guest registers that the instruction uses, executes the
//! same instruction with its memory operand redirected to a pointer, and stores what changed.
//!
//! - [`ExecState`] is the part of a vCPU that such an instruction can see.
//! - [`allow`] decides which instructions may be executed at all. It is the security boundary: what it admits
//!   touches general, vector and x87 registers, the arithmetic flags and its memory operand, nothing else.
//! - `form` turns an instruction into the form that a stub executes, `emit` writes machine code,
//!   [`StubCache`] makes one [`Stub`] per form and keeps it.
//! - [`CodeArena`] is the memory the code lives in, mapped twice so that no mapping is both writable and
//!   executable.
//! - `fault` turns the signals of a faulting instruction into [`HostFault`].
//!
//! It knows nothing of guest memory, privilege or paging: the caller has translated the operand's address,
//! checked permissions, and passes a host pointer that is congruent to the guest's address modulo 64.

pub mod allow;
mod arena;
mod emit;
mod fault;
mod form;
mod memory;
#[cfg(test)]
mod native_tests;
mod state;
mod stub;
#[cfg(test)]
mod tests;
mod x87;

pub use allow::{is_host_executable, is_immediate};
pub use arena::{ArenaError, CodeArena};
pub use fault::{FaultSites, HostFault};
pub use form::{X87, code_for_64_bit, x87_role};
pub use memory::{MemoryAccess, memory_access};
pub use state::{ExecState, FpuState, XsaveError};
pub use stub::{Stub, StubCache, StubError};
pub use x87::FDP_ONLY_ON_EXCEPTIONS;
