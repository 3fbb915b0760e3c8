//! What a machine starts with: a kernel, or firmware.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::FdSlot;

/// What the machine starts with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Boot {
    /// A kernel, on a machine with what a kernel needs (the `micro` profile).
    Kernel(KernelConfig),
    /// Firmware, on a machine with all that any system for PCs looks for (the `pc` profile).
    Firmware(FirmwareConfig),
}

impl Boot {
    /// What the machine has.
    #[must_use]
    pub const fn profile(&self) -> Profile {
        match self {
            Self::Kernel(_) => Profile::Micro,
            Self::Firmware(_) => Profile::Pc,
        }
    }
}

/// What a machine has, disks and consoles apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// What a kernel that is started directly needs.
    Micro,
    /// All that systems for PCs look for.
    Pc,
}

/// A kernel that is started directly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelConfig {
    /// The kernel: bzImage or ELF.
    pub kernel: FileSource,
    /// Initial RAM disks, laid one after the other, each at a multiple of four bytes. To a kernel that is entered by
    /// Multiboot they are modules, each for itself.
    pub initrds: Vec<InitrdConfig>,
    /// The kernel's command line, at most [`MAX_CMDLINE`] bytes.
    pub cmdline: String,
    /// How the kernel is entered.
    pub protocol: BootProtocol,
}

/// An initial RAM disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitrdConfig {
    /// Its content.
    pub source: FileSource,
    /// Its command line, which a kernel that is entered by Multiboot is told.
    pub cmdline: String,
}

impl From<FileSource> for InitrdConfig {
    fn from(source: FileSource) -> Self {
        Self { source, cmdline: String::new() }
    }
}

/// Firmware.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirmwareConfig {
    /// The image, whose last byte lies below 4 GiB.
    pub image: FileSource,
    /// The flash memory below it, in which it keeps its variables.
    pub variables: Option<VariablesConfig>,
    /// The VGA BIOS, for firmware that knows no displays but those that have one.
    pub vga_bios: Option<FileSource>,
    /// From what it tries to start, first to last. What is not named comes after.
    pub boot_order: Vec<BootDevice>,
}

/// Flash memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VariablesConfig {
    /// What it holds.
    pub path: PathBuf,
    /// Whether what the guest writes goes there; otherwise it is forgotten at the end.
    pub keep: bool,
}

/// A kind of device to start from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BootDevice {
    /// The disks, in their order.
    Disk,
    /// The CD-ROM drives, in their order.
    Cdrom,
}

/// A file to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileSource {
    /// By its path.
    Path(PathBuf),
    /// Open already; read from its start whatever its position.
    Fd(FdSlot),
}

/// How a kernel is entered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BootProtocol {
    /// The one that fits the kernel best.
    #[default]
    Auto,
    /// Linux's 64-bit boot protocol.
    Linux64,
    /// PVH: 32-bit entry with a start-info structure.
    Pvh,
    /// Multiboot 1: 32-bit entry with modules.
    Multiboot,
}
