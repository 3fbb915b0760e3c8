//! What tests share: a guest that speaks FUSE with a server.

mod client;
mod fuzz;

pub(crate) use client::{Client, shared, text};
