//! Disks: which files they are, and how they are used.

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use viv_devices::virtio::Block;
use viv_disk::aio::Choice;

use super::ConfigError;

/// The longest serial number: what virtio and ATA have room for.
pub const MAX_SERIAL: usize = 20;

/// One disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    /// The image or block device.
    pub path: PathBuf,
    /// What format it has, which is never guessed: a guest writes what it likes to a raw disk.
    pub format: DiskFormat,
    /// Whether the guest is refused writes.
    pub readonly: bool,
    /// Where writes go.
    pub overlay: Overlay,
    /// What it is attached to.
    pub bus: DiskBus,
    /// How it is used.
    pub tuning: DiskTuning,
}

/// The format of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// The file's bytes are the disk's.
    #[default]
    Raw,
    /// QEMU's, with the backing files that it names.
    Qcow2,
    /// VMware's, with the extents that it names.
    Vmdk,
}

/// What a disk is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskBus {
    /// A virtio function of its own: the fastest, for systems that know virtio.
    #[default]
    Virtio,
    /// A port of a SATA controller, for all others.
    Sata,
}

/// Where a disk's writes go.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overlay {
    /// Into the image itself.
    #[default]
    None,
    /// Beside the image, forgotten at the end.
    ThrowAway,
    /// Into a file that is made at the first start and kept.
    Kept {
        /// That file.
        path: PathBuf,
    },
}

/// How a disk is used.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskTuning {
    /// What becomes of writes on their way to the host's disk.
    pub cache: CacheMode,
    /// How requests run.
    pub aio: AioMode,
    /// The number of a virtio disk's queues, from 1 to [`Block::MAX_QUEUES`]; `None`: [`default_queues`].
    pub queues: Option<u16>,
    /// Its serial number, at most [`MAX_SERIAL`] printable ASCII characters; `None`: `viv-disk` and its number.
    pub serial: Option<String>,
    /// The most requests in a second.
    pub iops: Option<NonZeroU64>,
    /// The most bytes in a second.
    pub bps: Option<NonZeroU64>,
}

/// What becomes of writes on their way to the host's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheMode {
    /// They stay in the host's cache until the guest flushes, as in the cache of a real disk. What the guest has flushed
    /// outlives a crash of the host.
    #[default]
    Writeback,
    /// Each is on the host's disk when the guest is told that it is done.
    Writethrough,
    /// They go past the host's cache; flushes are honoured. Reads are not cached either: for disks that are larger than
    /// the host's memory, or whose guests cache better.
    None,
    /// They stay in the host's cache, and flushes do nothing: for what is of no use after a crash of the host.
    Unsafe,
}

/// How requests run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AioMode {
    /// By io_uring if disk and host allow, otherwise by threads.
    #[default]
    Auto,
    /// By io_uring, or not at all.
    IoUring,
    /// By threads.
    Threads,
}

impl From<AioMode> for Choice {
    fn from(mode: AioMode) -> Self {
        match mode {
            AioMode::Auto => Self::Auto,
            AioMode::IoUring => Self::IoUring,
            AioMode::Threads => Self::Threads,
        }
    }
}

/// The number of queues of a disk for which none is asked for: one for each vCPU, as far as that is of use.
#[must_use]
pub fn default_queues(vcpus: u32) -> u16 {
    u16::try_from(vcpus.clamp(1, 4)).unwrap_or(1)
}

/// Checks what can be told from the config alone.
pub(super) fn validate(disk: &DiskConfig) -> Result<(), ConfigError> {
    let DiskConfig { path, overlay, bus, tuning, .. } = disk;
    let bad =
        |option: &'static str, reason| Err(ConfigError::DiskOption { path: path.clone(), option, reason });
    if tuning.queues.is_some_and(|queues| !(1..=Block::MAX_QUEUES).contains(&queues)) {
        return bad("queues", "give 1 to 16");
    }
    let is_serial = |serial: &String| {
        (1..=MAX_SERIAL).contains(&serial.len()) && serial.bytes().all(|byte| byte.is_ascii_graphic())
    };
    if !tuning.serial.as_ref().is_none_or(is_serial) {
        return bad("serial", "give 1 to 20 printable ASCII characters");
    }
    if tuning.cache == CacheMode::None && *overlay != Overlay::None {
        return bad("cache=none", "it is for disks that are written in place; leave it out");
    }
    if *bus == DiskBus::Sata {
        return validate_sata(path, tuning);
    }
    Ok(())
}

/// A SATA disk's requests run one after the other, by calls.
fn validate_sata(path: &Path, tuning: &DiskTuning) -> Result<(), ConfigError> {
    let of_virtio = [
        ("cache=writethrough", tuning.cache == CacheMode::Writethrough),
        ("cache=unsafe", tuning.cache == CacheMode::Unsafe),
        ("aio", tuning.aio != AioMode::Auto),
        ("queues", tuning.queues.is_some()),
        ("iops", tuning.iops.is_some()),
        ("bps", tuning.bps.is_some()),
    ];
    match of_virtio.into_iter().find(|&(_, given)| given) {
        Some((option, _)) => {
            let reason = "it is for virtio disks, and this one is on SATA";
            Err(ConfigError::DiskOption { path: path.to_owned(), option, reason })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::DiskFormat;

    fn refused(change: impl FnOnce(&mut DiskConfig)) -> Option<String> {
        let mut disk = DiskConfig {
            path: "disk".into(),
            format: DiskFormat::Raw,
            readonly: false,
            overlay: Overlay::None,
            bus: DiskBus::Virtio,
            tuning: DiskTuning::default(),
        };
        change(&mut disk);
        validate(&disk).err().map(|error| error.to_string())
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_does() {
        assert_eq!(refused(|_| ()), None);
        assert_eq!(refused(|disk| disk.tuning.cache = CacheMode::None), None);
        let error = refused(|disk| disk.tuning.queues = Some(17));
        assert_eq!(error.as_deref(), Some("disk disk cannot have the option queues: give 1 to 16"));
        for serial in ["", "123456789012345678901", "a b", "ä"] {
            assert!(refused(|disk| disk.tuning.serial = Some(serial.into())).is_some(), "{serial}");
        }
        let error = refused(|disk| {
            disk.tuning.cache = CacheMode::None;
            disk.overlay = Overlay::ThrowAway;
        });
        assert!(error.is_some_and(|error| error.contains("cache=none")));
        let error = refused(|disk| {
            disk.bus = DiskBus::Sata;
            disk.tuning.iops = NonZeroU64::new(1);
        });
        assert!(
            error.is_some_and(|error| error.ends_with("it is for virtio disks, and this one is on SATA"))
        );
    }
}
