//! (to be written)

pub mod hostexec;
mod signals;
