//! (to be written)

pub mod alarm;
pub mod apic;
pub mod hostexec;
pub mod inbox;
pub mod pvclock;
mod signals;
pub mod tsc;
