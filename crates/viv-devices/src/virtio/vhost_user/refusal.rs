//! What a driver hears of requests whose back end is gone, or whose data are where it does not reach.
//!
//! Linux's drivers take no notice of a device that asks to be reset, and wait for ever for what it does not answer. So disks
//! and file systems answer, as ones that fail do.

use super::VhostUserKind;
use super::regs::{block, file_system};
use crate::virtio::chain::Buffers;
use crate::virtio::queue::RingError;

/// How a device refuses requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// By the status in the last byte that can be written (VIRTIO 1.3, 5.2.6).
    Block,
    /// By the head of an answer, if there is to be one (5.11.6): `struct fuse_out_header` of `linux/fuse.h`.
    FileSystem,
    /// Not at all: frames are lost, and the device asks to be reset.
    None,
}

impl Refusal {
    /// That of a kind of device.
    pub(super) fn of(kind: &VhostUserKind) -> Self {
        match kind {
            VhostUserKind::Block => Self::Block,
            VhostUserKind::Net { .. } => Self::None,
            VhostUserKind::FileSystem { .. } => Self::FileSystem,
        }
    }

    /// Writes the answer to a request. Returns how many bytes count as written.
    pub(super) fn answer(self, asked: &mut Buffers, answer: &mut Buffers) -> Result<u32, RingError> {
        match self {
            Self::Block => {
                let Some(before) = answer.remaining().checked_sub(1) else { return Ok(0) };
                answer.split_off(before).write(&[block::IOERR])?;
                // What lies before the status was not written (2.7.8.2).
                Ok(u32::from(before == 0))
            }
            Self::FileSystem => {
                let mut head = [0; file_system::UNIQUE.end];
                let length = asked.read(&mut head)?;
                let unique = head.get(file_system::UNIQUE).filter(|_| length == head.len());
                let Some(unique) = unique.filter(|_| answer.remaining() >= file_system::OUT_HEADER.into())
                else {
                    return Ok(0);
                };
                answer.write(&file_system::OUT_HEADER.to_le_bytes())?;
                answer.write(&file_system::EIO.to_le_bytes())?;
                answer.write(unique)?;
                Ok(file_system::OUT_HEADER)
            }
            Self::None => Ok(0),
        }
    }
}
