//! (to be written)

pub mod alarm;
pub mod apic;
pub mod inbox;
pub mod pvclock;
pub mod tsc;
