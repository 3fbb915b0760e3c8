//! What tests are made with.

pub(crate) mod fuzz;
pub(crate) mod packets;
