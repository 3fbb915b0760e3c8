//! What tests are made with.

mod fuzz;
