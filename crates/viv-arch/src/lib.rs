//! The vocabulary of x86-64.
//!
//! Everything above this crate speaks of processors in its terms: general registers, flags, segments,
//! control registers, model-specific registers, page-table entries, exceptions, the CPUID model that a
//! guest is offered, and [`VcpuState`], the state of one virtual processor in a form that belongs to no
//! engine.
//!
//! It holds names, bit layouts and pure functions on them. It must not know how guests are run, what memory
//! is, or that devices exist. Names are those of the Intel SDM; the volume and section are cited where a
//! reader would look them up.
#![forbid(unsafe_code)]

pub mod apic;
pub mod control;
pub mod cpuid;
pub mod exception;
pub mod flags;
pub mod msr;
pub mod paging;
pub mod regs;
pub mod segment;
pub mod state;
pub mod xsave;

pub use control::{Cr0, Cr4, Efer};
pub use cpuid::{CpuidLeaf, CpuidTable};
pub use exception::{Exception, Vector};
pub use flags::Rflags;
pub use regs::Gpr;
pub use segment::{DescriptorTable, Segment, SegmentRegister};
pub use state::VcpuState;
