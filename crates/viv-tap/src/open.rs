//! Making and taking interfaces.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use viv_netlink::{LinkChange, Netlink};

use crate::ioctl::{self, flag};

/// The driver.
const DEVICE: &str = "/dev/net/tun";

/// Why there is no interface.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The driver is not to be had.
    #[error("cannot open {DEVICE}")]
    Device(#[source] io::Error),
    /// The interface cannot be made, or is not ours to take.
    #[error("cannot {} the interface {name}", if *.exists { "take" } else { "make" })]
    Interface {
        /// Its name.
        name: String,
        /// Whether there is one.
        exists: bool,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// There is no such bridge.
    #[error("there is no bridge {name}")]
    NoBridge {
        /// Its name.
        name: String,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
    /// The interface cannot be started.
    #[error("cannot {action} the interface {name}")]
    Link {
        /// What was being done.
        action: &'static str,
        /// The interface.
        name: String,
        /// What the kernel answered.
        #[source]
        source: io::Error,
    },
}

impl OpenError {
    /// Whether it is a privilege that was lacking.
    #[must_use]
    pub fn is_privilege(&self) -> bool {
        let (Self::Device(source)
        | Self::Interface { source, .. }
        | Self::NoBridge { source, .. }
        | Self::Link { source, .. }) = self;
        source.kind() == io::ErrorKind::PermissionDenied
    }
}

/// Takes the interface called `name`, or makes it; `%d` in it is any number that is free. It is started, and becomes a
/// port of `bridge` if one is named. Returns its name, and a descriptor for each of `queues` queues.
///
/// # Errors
/// When the kernel refuses, for want of privilege most often.
pub fn open(name: &str, queues: usize, bridge: Option<&str>) -> Result<(String, Vec<OwnedFd>), OpenError> {
    let netlink = Netlink::open().map_err(OpenError::Device)?;
    let master = match bridge {
        None => None,
        Some(bridge) => {
            let no_bridge = |source| OpenError::NoBridge { name: bridge.to_owned(), source };
            Some(netlink.index(bridge).map_err(no_bridge)?)
        }
    };
    let existed = netlink.index(name).is_ok();
    let mut name = name.to_owned();
    let mut descriptors = Vec::new();
    for _ in 0..queues.max(1) {
        let (taken, descriptor) = open_queue(&name, queues > 1).map_err(|error| match error {
            OpenError::Interface { name, source, .. } => {
                OpenError::Interface { name, exists: existed, source }
            }
            other => other,
        })?;
        name = taken;
        descriptors.push(descriptor);
    }
    let change = LinkChange { up: true, master, mtu: None };
    let linked = netlink.index(&name).and_then(|index| netlink.change_link(index, change));
    match linked {
        Ok(()) => Ok((name, descriptors)),
        // Whoever made the interface for this user has started it, or will.
        Err(error) if existed && error.kind() == io::ErrorKind::PermissionDenied => Ok((name, descriptors)),
        Err(source) => {
            let action = if bridge.is_some() { "put on the bridge" } else { "start" };
            Err(OpenError::Link { action, name, source })
        }
    }
}

/// Opens one queue of an interface. Whether an interface has several is decided when it is made.
fn open_queue(name: &str, several: bool) -> Result<(String, OwnedFd), OpenError> {
    let flags = flag::TAP | flag::NO_PI | flag::VNET_HDR;
    let attempts = if several { &[flag::MULTI_QUEUE][..] } else { &[0, flag::MULTI_QUEUE] };
    let mut failure = io::Error::from(io::ErrorKind::InvalidInput);
    for several in attempts {
        let oflags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let descriptor = rustix::fs::open(DEVICE, oflags, Mode::empty());
        let descriptor = descriptor.map_err(|errno| OpenError::Device(errno.into()))?;
        match ioctl::set_interface(descriptor.as_fd(), name, flags | several) {
            Ok(name) => return Ok((name, descriptor)),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => failure = error,
            Err(source) => {
                return Err(OpenError::Interface { name: name.to_owned(), exists: false, source });
            }
        }
    }
    Err(OpenError::Interface { name: name.to_owned(), exists: false, source: failure })
}
