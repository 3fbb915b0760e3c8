//! FISes: what goes over the link (Serial ATA 3.2, 10.5).

use serde::{Deserialize, Serialize};

use super::regs::{fis, status};

/// Bytes of an H2D register FIS.
pub(super) const H2D_LENGTH: usize = 20;

/// What an H2D register FIS says: the registers of a device as the host writes them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct TaskFile {
    /// Whether it carries a command, and not just the control register.
    pub(super) is_command: bool,
    pub(super) command: u8,
    pub(super) features: u16,
    /// 48 bits.
    pub(super) lba: u64,
    pub(super) device: u8,
    pub(super) count: u16,
    pub(super) control: u8,
}

impl TaskFile {
    /// Reads an H2D register FIS; `None` if it is something else.
    pub(super) fn parse(bytes: &[u8; H2D_LENGTH]) -> Option<Self> {
        let [kind, flags, command, features, l0, l1, l2, device, rest @ ..] = *bytes;
        let [l3, l4, l5, features_high, count, count_high, _icc, control, ..] = rest;
        (kind == fis::H2D_REGISTER).then_some(Self {
            is_command: flags & fis::IS_COMMAND != 0,
            command,
            features: u16::from_le_bytes([features, features_high]),
            lba: u64::from_le_bytes([l0, l1, l2, l3, l4, l5, 0, 0]),
            device,
            count: u16::from_le_bytes([count, count_high]),
            control,
        })
    }
}

/// The registers of a device as the host reads them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) status: u8,
    pub(super) error: u8,
    /// 48 bits.
    pub(super) lba: u64,
    pub(super) device: u8,
    pub(super) count: u16,
}

impl Answer {
    /// Whether the command failed.
    pub(super) fn is_error(self) -> bool {
        self.status & status::ERROR != 0
    }

    /// PxTFD.
    pub(super) fn task_file_data(self) -> u32 {
        u32::from(u16::from_le_bytes([self.status, self.error]))
    }

    /// PxSIG.
    pub(super) fn signature(self) -> u32 {
        let [l0, l1, l2, ..] = self.lba.to_le_bytes();
        let [count, _] = self.count.to_le_bytes();
        u32::from_le_bytes([count, l0, l1, l2])
    }

    /// The registers behind two bytes of `head`, with another status, in the order of FISes and of the log of errors.
    pub(super) fn registers(self, head: [u8; 2], status: u8) -> [u8; 14] {
        let [l0, l1, l2, l3, l4, l5, ..] = self.lba.to_le_bytes();
        let ([h0, h1], [c0, c1]) = (head, self.count.to_le_bytes());
        [h0, h1, status, self.error, l0, l1, l2, self.device, l3, l4, l5, 0, c0, c1]
    }

    /// A D2H register FIS.
    pub(super) fn d2h(self, interrupt: bool) -> [u8; 20] {
        let flags = if interrupt { fis::INTERRUPT } else { 0 };
        with_tail(self.registers([fis::D2H_REGISTER, flags], self.status), [0; 6])
    }

    /// The PIO setup FIS for `length` bytes, after which the device's status is `self.status`.
    pub(super) fn pio_setup(self, to_host: bool, length: u64) -> [u8; 20] {
        let flags = if to_host { fis::INTERRUPT | fis::TO_HOST } else { 0 };
        // A block has at most 8 KiB; a command's blocks are announced as one.
        let [t0, t1] = u16::try_from(length).unwrap_or(0xfffe).to_le_bytes();
        let before = status::IDLE | status::DATA_REQUEST;
        with_tail(self.registers([fis::PIO_SETUP, flags], before), [0, self.status, t0, t1, 0, 0])
    }

    /// A set device bits FIS that ends the queued commands `done`, a bit each.
    pub(super) fn set_device_bits(self, done: u32) -> [u8; 8] {
        // BSY and DRQ are not in it (10.5.7).
        let status = self.status & !(status::BUSY | status::DATA_REQUEST);
        let [d0, d1, d2, d3] = done.to_le_bytes();
        [fis::SET_DEVICE_BITS, fis::INTERRUPT, status, self.error, d0, d1, d2, d3]
    }
}

fn with_tail(head: [u8; 14], tail: [u8; 6]) -> [u8; 20] {
    let mut fis = [0; 20];
    for (to, from) in fis.iter_mut().zip(head.into_iter().chain(tail)) {
        *to = from;
    }
    fis
}
