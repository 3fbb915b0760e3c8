//! What instructions do: one handler for each form, chosen by `lower` when the instruction is decoded.
//!
//! Handlers are named after the instruction and the places of its operands: `r` register, `m` memory,
//! `i` immediate, destination first.

pub mod alu;
pub mod arith;
pub mod bits;
pub mod branch;
pub mod far;
pub mod gate;
pub mod host;
pub mod hypercall;
pub mod io;
pub mod legacy;
pub mod mov;
pub mod segment;
pub mod shift;
pub mod stack;
pub mod string;
pub mod system;
pub mod vector;
pub mod virtual86;
pub mod xstate;
