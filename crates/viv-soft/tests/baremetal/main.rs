//! Guests without an operating system, for what Linux does not do and user mode cannot.
//!
//! Each test assembles a few instructions, runs them on a [`machine::Machine`] and looks at what came of them:
//! the events that the guest's handlers recorded, registers, memory. The tests speak to the engine by its
//! contract alone ([`viv_engine`]), so that another engine can stand in for this one ([`machine::engine`]).

mod a20;
mod alignment;
mod big_real;
mod bits16;
mod compatibility;
mod control;
mod debug;
mod debugger;
mod eviction;
mod exceptions;
mod frequent;
mod gates;
mod interrupts;
mod legacy_paging;
mod loops;
mod machine;
mod paging;
mod paravirtual;
mod privilege;
mod protected;
mod real;
mod segments;
mod selfmod;
mod state;
mod stepper;
mod strings;
mod tasks;
mod tlb;
mod torture;
mod virtual86;
