//! Systems that tests, benchmarks and long runs start, made of packages from the host's own archive.
//!
//! | part | subject |
//! |---|---|
//! | [`rootfs`] | a root file system of chosen packages and programs, as an ext4 disk |
//! | [`debian_disk`] | Debian as it is installed on a disk: partitions, boot loaders, systemd, Xen |
//! | [`partitions`], [`grub`] | what that disk is divided into, and how GRUB is put on it |
//! | [`kept`] | files that are built once and kept for as long as they would be built the same |
//!
//! It is no part of the program: nothing here is linked into `viv`. No mount and no loop device is needed, but root,
//! who alone can give files to other users.
#![forbid(unsafe_code)]

pub mod debian_disk;
pub mod grub;
pub mod kept;
pub mod partitions;
pub mod rootfs;
