//! What tests of the engine compare it with: the processor itself.
//!
//! [`NativeCpu`] executes one instruction with a complete chosen state. [`forms`] lists the instruction forms
//! that user programs can use, and makes random [`Case`]s of them. [`Machine`] executes the same
//! instruction on the engine, and [`differential`] says where the two differ. [`blocks`] does so for blocks of
//! instructions, with vCPUs of every kind beside; `lockstep`, for tests alone, runs whole machines full of random code on
//! every kind of engine. Only tests and the project's own chores see this module (feature `testing`).

pub mod blocks;
mod case;
pub mod differential;
mod exclusions;
#[cfg(test)]
mod executed;
pub mod forms;
#[cfg(test)]
mod lockstep;
mod machine;
mod native;
mod outcome;
pub mod rng;
mod space;
mod watchdog;

pub use case::{CODE, Case, DATA, RegionLock, START};
pub use exclusions::{Subject, excluded, has_own_fault_address, has_own_faults};
pub use forms::Mode;
pub use machine::Machine;
pub use native::{NativeCpu, NativeFault, Protection};
pub use outcome::Outcome;
pub use rng::Rng;
pub use space::AddressSpace;
pub use watchdog::Watchdog;
