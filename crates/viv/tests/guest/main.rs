//! `viv` with Debian in it: commands, programs, disks, terminals, memory, and the ways down.
//!
//! The image is built by the first test into a store of the tests' own below `target`, which takes a minute and
//! the host's package archive, and is kept for the runs after it. A host that cannot build it fails each test
//! with the line of `viv` that says why. A test that shares its boot with others does so by a [`std::sync::LazyLock`].

mod commands;
mod debian;
mod debugger;
mod direct;
mod disks;
mod ended;
mod idle;
mod images;
mod interactive;
mod keep;
mod kvm;
mod memory;
mod power;
mod programs;
mod screen;
mod smp;
