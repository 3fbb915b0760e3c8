//! What a machine needs of the host's files, open.

use std::fs::{File, OpenOptions};

use viv_disk::Disk;

use super::back_end::BackEndSocket;
use super::boot::{BootSource, open};
use super::disks;
use super::network::{self, Far};
use super::pmem::{self, PmemFile};
use crate::config::{Boot, ConfigError, Fds, MachineConfig, ShareSource};
use crate::error::MachineError;
use crate::host::host_memory;

/// How much a file on the host can be larger than what the guest sees of it: the tables of an overlay, a snapshot's devices
/// and display.
const OVERHEAD: u64 = 1 << 30;

/// The files that a config names. What a machine is made of besides needs no path.
pub(crate) struct Opened {
    pub(super) boot: BootSource,
    pub(super) vga_bios: Option<File>,
    /// Firmware's variables.
    pub(super) variables: Option<File>,
    pub(super) disks: Vec<Box<dyn Disk>>,
    /// Disks that other processes serve.
    pub(super) vhost_user_disks: Vec<BackEndSocket>,
    pub(super) cdroms: Vec<Box<dyn Disk>>,
    /// What is persistent memory.
    pub(super) pmems: Vec<PmemFile>,
    /// What the network interfaces lead to.
    pub(super) networks: Vec<Far>,
    /// Who serves the directories that the guest sees.
    pub(super) shares: Vec<BackEndSocket>,
    memory_bytes: u64,
}

impl Opened {
    /// Opens everything that the config names.
    ///
    /// # Errors
    /// When the config describes no machine, or something cannot be opened.
    pub(crate) fn open(config: &MachineConfig, fds: &Fds) -> Result<Self, MachineError> {
        config.validate()?;
        check_host_memory(config.max_memory_bytes)?;
        let (mut vga_bios, mut variables) = (None, None);
        if let Boot::Firmware(firmware) = &config.boot {
            vga_bios = firmware.vga_bios.as_ref().map(|source| open("VGA BIOS", source, fds)).transpose()?;
            variables = firmware
                .variables
                .as_ref()
                .map(|told| {
                    let opened = OpenOptions::new().read(true).write(told.keep).open(&told.path);
                    opened.map_err(|source| MachineError::Open {
                        what: "firmware's variables",
                        path: told.path.clone(),
                        source,
                    })
                })
                .transpose()?;
        }
        Ok(Self {
            boot: BootSource::open(&config.boot, fds)?,
            vga_bios,
            variables,
            disks: config.disks.iter().map(disks::open).collect::<Result<_, _>>()?,
            vhost_user_disks: config
                .vhost_user_disks
                .iter()
                .map(|path| BackEndSocket::connect(path))
                .collect::<Result<_, _>>()?,
            cdroms: config.cdroms.iter().map(|path| disks::open_cdrom(path)).collect::<Result<_, _>>()?,
            pmems: pmem::open(&config.pmems)?,
            networks: network::open(&config.networks, fds, config.connections())?,
            shares: config
                .shares
                .iter()
                .map(|share| match &share.source {
                    ShareSource::VhostUser(path) => BackEndSocket::connect(path),
                    ShareSource::Connected { socket, name } => {
                        Ok(BackEndSocket::connected(fds.get(*socket)?, name.clone()))
                    }
                })
                .collect::<Result<_, _>>()?,
            memory_bytes: config.max_memory_bytes,
        })
    }

    /// Whether the machine speaks on the host's network.
    pub(crate) fn is_on_network(&self) -> bool {
        self.networks.iter().any(|far| matches!(far, Far::User(_)))
    }

    /// The size in bytes beyond which no file of this machine grows, memory and snapshots included. A file that is longer
    /// than its disk, for it holds states of former times, can grow by another disk.
    pub(crate) fn largest_file(&self) -> u64 {
        let size = |disk: &dyn Disk| disk.file_length().max(disk.size()).saturating_add(disk.size());
        let disks = self.disks.iter().chain(&self.cdroms);
        let largest = disks.map(|disk| size(&**disk)).max().unwrap_or(0);
        largest.max(self.memory_bytes.saturating_mul(2)).saturating_add(OVERHEAD)
    }
}

/// Refuses more memory than the host has with its swap: such a guest would be killed, at some time of the
/// host's choice.
fn check_host_memory(bytes: u64) -> Result<(), ConfigError> {
    let host = host_memory();
    if host != 0 && bytes > host { Err(ConfigError::HostMemory { bytes, host }) } else { Ok(()) }
}
