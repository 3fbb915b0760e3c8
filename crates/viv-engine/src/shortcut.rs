//! Shortcuts between guests and devices.
//!
//! A guest that rings a device, and a device that interrupts a guest, need no more than an eventfd between them where the
//! engine can wait for it or signal it by itself. What has no shortcut goes by [`Platform`](crate::Platform) and
//! [`MsiTarget`](crate::MsiTarget), and comes to the same.

use std::os::fd::BorrowedFd;

use crate::{EngineError, Msi};

/// Where a guest rings: whatever it writes there, in whatever size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Doorbell {
    /// At a port.
    Port(u16),
    /// At a guest-physical address.
    Memory(u64),
}

/// A message that an eventfd sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageRoute(pub u32);

/// The shortcuts of an engine. Any thread may use them. Whoever attaches an eventfd keeps it open for as long.
pub trait Shortcuts: Send + Sync {
    /// From now on a write at `doorbell` signals `event`, and does not reach the [`Platform`](crate::Platform).
    ///
    /// # Errors
    /// When there is a doorbell there, or the host has no more.
    fn attach_doorbell(&self, doorbell: Doorbell, event: BorrowedFd<'_>) -> Result<(), EngineError>;

    /// Undoes [`Shortcuts::attach_doorbell`] with the same arguments.
    ///
    /// # Errors
    /// When it was not attached.
    fn detach_doorbell(&self, doorbell: Doorbell, event: BorrowedFd<'_>) -> Result<(), EngineError>;

    /// From now on a signal of `event` sends `message`.
    ///
    /// # Errors
    /// When the host has no more.
    fn attach_message(&self, event: BorrowedFd<'_>, message: Msi) -> Result<MessageRoute, EngineError>;

    /// The event behind `route` sends `message` from now on.
    ///
    /// # Errors
    /// When there is no such route.
    fn change_message(&self, route: MessageRoute, message: Msi) -> Result<(), EngineError>;

    /// Undoes [`Shortcuts::attach_message`].
    ///
    /// # Errors
    /// When it was not attached.
    fn detach_message(&self, route: MessageRoute, event: BorrowedFd<'_>) -> Result<(), EngineError>;
}
