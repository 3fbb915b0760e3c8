//! Where images come from, and where they are kept.
//!
//! An image is what a light guest boots from: a kernel, its modules for the initial RAM disk, and a root
//! file system. [`Store`] keeps images on this machine and builds the ones that are missing:
//!
//! ```no_run
//! use viv_image::{GUEST_PROGRAM, ImageName, Silent, Store};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = Store::open()?;
//! let image = store.ensure("debian".parse::<ImageName>()?, &Silent)?;
//! let initrd = image.initrd(GUEST_PROGRAM)?;
//! println!("{} {} {}", image.kernel().display(), image.root().display(), initrd.len());
//! # Ok(())
//! # }
//! ```
//!
//! | part | subject |
//! |---|---|
//! | [`store`], [`lock`], [`overlay`] | the directory of images, who may change it when, disks kept of guests |
//! | [`name`], [`image`] | what images are called and what they consist of |
//! | [`debian`] | building a Debian image, from the order of steps down to single packages |
//! | [`initrd`], [`cpio`] | the initial RAM disk |
//! | [`progress`], [`tool`] | telling the user, and running the system's own programs |
//!
//! # Rules
//!
//! * An image is complete or absent. It is made in a directory beside the others and renamed into place;
//!   whatever else is found there is a leftover, removed under the lock that every builder holds.
//! * The archive is the host's own: no address is written anywhere in this crate.
//! * It must not know how guests are run; it hands out paths and bytes.
//! * Each module has its own error type. A step that fails because the disk is full says so, and where.
#![forbid(unsafe_code)]

pub mod cpio;
pub mod debian;
pub mod files;
pub mod image;
pub mod initrd;
pub mod lock;
pub mod name;
pub mod overlay;
pub mod progress;
pub mod store;
pub mod tool;

pub use image::{ImageHandle, Metadata};
pub use name::ImageName;
pub use overlay::KeptDisk;
pub use progress::{Progress, Silent, Stage};
pub use store::Store;

/// `viv-guest`, the static program that is the first process of a light guest, built with this library.
pub const GUEST_PROGRAM: &[u8] = include_bytes!(env!("VIV_GUEST_PROGRAM"));

#[cfg(test)]
mod tests {
    /// Every guest start unpacks it into guest memory.
    const LARGEST: usize = 2 << 20;

    #[test]
    fn the_guest_program_is_small_static_x86_64() {
        let program = super::GUEST_PROGRAM;
        assert!(program.len() < LARGEST, "{} bytes", program.len());
        // ELF header: magic, 64-bit little-endian; machine 62 is x86-64.
        assert_eq!(&program[..6], b"\x7fELF\x02\x01");
        assert_eq!(&program[18..20], &[62, 0]);
        // Program headers: none asks for an interpreter (PT_INTERP, 3), so no shared library is needed.
        let at = |range: std::ops::Range<usize>| {
            program[range].iter().rev().fold(0usize, |value, byte| value << 8 | usize::from(*byte))
        };
        let (table, size, count) = (at(32..40), at(54..56), at(56..58));
        let kinds: Vec<usize> =
            (0..count).map(|i| table + i * size).map(|entry| at(entry..entry + 4)).collect();
        assert!(kinds.contains(&1) && !kinds.contains(&3), "{kinds:?}");
    }
}
