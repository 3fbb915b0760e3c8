//! What tests share.

mod fuzz;
