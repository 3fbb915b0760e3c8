//! The machine.

mod core;
mod gate;
pub(crate) mod notify;
mod reactor;
mod timers;
mod vcpu;
