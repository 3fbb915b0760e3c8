//! `viv` with real systems in it. First Debian's image: commands, programs, disks, terminals, memory, and the ways down;
//! then whatever a PC starts: boot loaders, other kernels, Debian on a disk of its own.
//!
//! The image is built by the first test into a store of the tests' own below `target`, which takes a minute and
//! the host's package archive, and is kept for the runs after it. A host that cannot build it fails each test
//! with the line of `viv` that says why. A test that shares its boot with others does so by a [`std::sync::LazyLock`].

mod bios;
mod commands;
mod debian;
mod debugger;
mod direct;
mod discs;
mod disks;
mod ended;
mod generation;
mod hosted;
mod idle;
mod images;
mod installed;
mod installer;
mod interactive;
mod keep;
mod kvm;
mod mach;
mod memory;
mod memtest;
mod moved;
mod network;
mod ordinary;
mod pmem;
mod power;
mod programs;
mod resources;
mod saved;
mod screen;
mod share;
mod smp;
mod vhost_user;
mod virtio;
mod vsock;
mod xen;
