//! What tests of the engine compare it with: the processor itself.
//!
//! [`NativeCpu`] executes one instruction with a complete chosen state. [`forms`] lists the instruction forms
//! that a 64-bit user program can use, and makes random [`Case`]s of them. Only tests and the project's own
//! chores see this module (feature `testing`).

mod case;
mod exclusions;
pub mod forms;
mod native;
mod rng;

pub use case::{CODE, Case, DATA, START};
pub use exclusions::{Subject, excluded};
pub use native::{NativeCpu, NativeFault, Protection};
pub use rng::Rng;
