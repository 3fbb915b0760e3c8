//! The values of options of `viv run` about the machine itself.

use std::fmt;
use std::num::NonZeroU64;
use std::path::PathBuf;

use clap::ValueEnum;
use viv_vmm::config::MAX_VCPUS;
use viv_vmm::keys::{KeysError, Keystrokes};

use crate::size::Size;

/// `--firmware`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirmwareArg {
    /// SeaBIOS.
    Bios,
    /// OVMF.
    Uefi,
    /// This image.
    File(PathBuf),
}

impl FirmwareArg {
    #[allow(clippy::unnecessary_wraps, reason = "the form that clap asks for")]
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        Ok(match text {
            "bios" => Self::Bios,
            "uefi" => Self::Uefi,
            file => Self::File(file.into()),
        })
    }
}

/// `--gdb`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GdbArg {
    /// A TCP port of localhost.
    Port(u16),
    /// A Unix socket.
    Path(PathBuf),
}

impl GdbArg {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("neither a port nor a path is given".to_owned()),
            text if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                text.parse().map(Self::Port).map_err(|_| format!("a port is a number from 0 to {}", u16::MAX))
            }
            path => Ok(Self::Path(path.into())),
        }
    }
}

impl fmt::Display for GdbArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => port.fmt(f),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

/// `--rng-limit`: bytes a second, if there is a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RngLimitArg(pub Option<NonZeroU64>);

impl RngLimitArg {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        Size::parse(text).map(|size| Self(NonZeroU64::new(size.0)))
    }
}

/// One of `--boot-order`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BootDeviceArg {
    /// The disks
    Disk,
    /// The CD-ROMs
    Cdrom,
}

/// Checks `--send-keys`.
pub(super) fn parse_keys(text: &str) -> Result<String, KeysError> {
    text.parse::<Keystrokes>().map(|_| text.to_owned())
}

/// `--memory`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryArg {
    /// How much there is at the start.
    pub size: Size,
    /// How much there can be.
    pub most: Size,
    /// Whether it is of large pages that the host has set aside.
    pub huge_pages: bool,
}

impl MemoryArg {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',');
        let size = Size::parse(parts.next().unwrap_or_default())?;
        let mut memory = Self { size, most: size, huge_pages: false };
        for option in parts {
            match option.split_once('=') {
                Some(("max", most)) => memory.most = Size::parse(most)?,
                None if option == "hugepages" => memory.huge_pages = true,
                _ => {
                    let known = "'max=' and 'hugepages' are, behind the memory";
                    return Err(format!("the option '{option}' is not known; {known}"));
                }
            }
        }
        Ok(memory)
    }
}

/// `--cpus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpusArg {
    /// How many there are at the start.
    pub count: u32,
    /// How many there can be.
    pub most: u32,
}

impl CpusArg {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let number = |text: &str| match text.parse() {
            Ok(cpus @ 1..=MAX_VCPUS) => Ok(cpus),
            _ => Err(format!("a machine has from 1 to {MAX_VCPUS} processors; give a number of them")),
        };
        let Some((count, option)) = text.split_once(',') else {
            return number(text).map(|count| Self { count, most: count });
        };
        let most = option.strip_prefix("max=").ok_or_else(|| {
            format!("the option '{option}' is not known; 'max=' is, behind the number of processors")
        })?;
        let (count, most) = (number(count)?, number(most)?);
        if most < count {
            return Err(format!("there are {count} at the start, so {most} cannot be the most; give more"));
        }
        Ok(Self { count, most })
    }
}

/// `--watchdog`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WatchdogArg {
    /// No watchdog
    None,
    /// Reset the guest; end with IMAGE or --no-reboot
    Reset,
    /// End
    Poweroff,
    /// Let it stand still
    Pause,
}

/// `--engine`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineArg {
    /// The processor's virtualization where there is one, the software CPU elsewhere
    Auto,
    /// The software CPU, on any host
    Soft,
    /// The processor's virtualization through /dev/kvm, or fail
    Kvm,
}

impl fmt::Display for EngineArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Soft => "soft",
            Self::Kvm => "kvm",
        })
    }
}
