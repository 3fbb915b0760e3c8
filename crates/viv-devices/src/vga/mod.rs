//! The display: a VGA with Bochs' display interface (DISPI), as QEMU's standard VGA.
//!
//! Its parts share one [`Display`]: [`VgaLegacy`] answers at the ports and in the window below 1 MiB, and saves and
//! restores it all; [`VgaFunction`] is the PCI function, which has video memory and registers in BARs, and the firmware
//! that sets modes in its expansion ROM. Modes are set by the VGA's own registers, or, in any size and depth that video
//! memory has room for, by DISPI's.
//!
//! Nothing here draws while a guest runs: [`Display::frame`] makes a picture of registers and video memory when
//! somebody asks for one, [`Display::text`] the characters of a text mode. Blinking characters and cursors are always
//! shown.
//!
//! The order in which planes lie in memory is dense, as drivers of QEMU's VGA know it: see `Core`. Where a VGA would
//! leave holes in its planes (chained and odd/even addresses), there are none; what is written by one way of
//! addressing and read by another is elsewhere than on a VGA.
//!
//! **Locks.** The display has a lock, taken last; nothing is called under it.
//!
//! Specifications: IBM VGA XGA Technical Reference; QEMU, docs/specs/standard-vga.

mod core;
mod dac;
mod dispi;
mod frame;
mod function;
mod legacy;
mod ports;
mod regs;
mod state;
#[cfg(test)]
mod tests;
mod window;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use frame::Frame;
pub use function::VgaFunction;
pub use legacy::VgaLegacy;

use self::core::Core;

/// A display's registers and video memory. Clones are handles to the same.
#[derive(Clone)]
pub struct Display {
    core: Arc<Mutex<Core>>,
}

impl Default for Display {
    fn default() -> Self {
        Self::new()
    }
}

impl Display {
    /// A display after power-on: blank.
    #[must_use]
    pub fn new() -> Self {
        Self { core: Arc::new(Mutex::new(Core::new())) }
    }

    /// What is on the screen. A blank screen is black.
    #[must_use]
    pub fn frame(&self) -> Frame {
        self.lock().frame()
    }

    /// The lines of characters on the screen, without the spaces at their ends; `None` if it is in no text mode.
    #[must_use]
    pub fn text(&self) -> Option<Vec<String>> {
        self.lock().text()
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
