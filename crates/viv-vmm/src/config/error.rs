//! Why a config describes no machine.

use std::path::PathBuf;

use viv_devices::ahci::Ahci;
use viv_devices::virtio::MEMORY_BLOCK;

use super::{
    MAX_CID, MAX_CMDLINE, MAX_CONSOLES, MAX_DISKS, MAX_MEMORY, MAX_NETWORK_QUEUES, MAX_NETWORKS, MAX_PMEMS,
    MAX_SHARES, MAX_TAG, MAX_VCPUS, MIN_CID, MIN_MEMORY, MIN_MTU,
};

/// Why a config describes no machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Memory out of range or not in pages.
    #[error(
        "a machine cannot have {bytes} bytes of memory: give a multiple of 4096 from {} MiB to {} GiB",
        MIN_MEMORY >> 20,
        MAX_MEMORY >> 30
    )]
    Memory {
        /// What was asked for.
        bytes: u64,
    },
    /// Less memory at most than there is at the start, or too much, or not in blocks.
    #[error(
        "a machine with {bytes} bytes of memory cannot have {most} at most: give as much or more by a multiple of {} MiB, \
         up to {} GiB",
        MEMORY_BLOCK >> 20,
        MAX_MEMORY >> 30
    )]
    MaxMemory {
        /// How much there is at the start.
        bytes: u64,
        /// How much there can be.
        most: u64,
    },
    /// Memory that is not in large pages.
    #[error("a machine with {bytes} bytes of memory cannot have it in huge pages: give a multiple of 2 MiB")]
    HugePages {
        /// What was asked for.
        bytes: u64,
    },
    /// More memory than the host has.
    #[error(
        "a machine with {} MiB of memory does not fit this host, which has {} MiB with its swap: ask for less",
        .bytes >> 20,
        .host >> 20
    )]
    HostMemory {
        /// What was asked for, in bytes.
        bytes: u64,
        /// What there is, in bytes.
        host: u64,
    },
    /// vCPUs out of range.
    #[error("a machine cannot have {vcpus} vCPUs: give 1 to {MAX_VCPUS}")]
    Vcpus {
        /// What was asked for.
        vcpus: u32,
    },
    /// Fewer vCPUs at most than there are at the start, or too many.
    #[error("a machine with {vcpus} vCPUs cannot have {most} at most: give {vcpus} to {MAX_VCPUS}")]
    MaxVcpus {
        /// How many there are at the start.
        vcpus: u32,
        /// How many there can be.
        most: u32,
    },
    /// Too many disks.
    #[error("a machine cannot have {disks} disks: give at most {MAX_DISKS}")]
    Disks {
        /// What was asked for.
        disks: usize,
    },
    /// Too many drives for the SATA controller.
    #[error(
        "a machine cannot have {drives} SATA disks and CD-ROM drives: give at most {}, or virtio disks",
        Ahci::PORTS
    )]
    SataDrives {
        /// What was asked for.
        drives: usize,
    },
    /// Too many files as memory.
    #[error("a machine cannot have {pmems} files as persistent memory: give at most {MAX_PMEMS}")]
    Pmems {
        /// What was asked for.
        pmems: usize,
    },
    /// Too many network interfaces.
    #[error("a machine cannot have {networks} network interfaces: give at most {MAX_NETWORKS}")]
    Networks {
        /// What was asked for.
        networks: usize,
    },
    /// A network interface that cannot be.
    #[error(
        "network interface {index} cannot be: its address must be a single host's, its MTU at least {MIN_MTU}, \
         its queues from 1 to {MAX_NETWORK_QUEUES}"
    )]
    Network {
        /// Which one, from 0.
        index: usize,
    },
    /// Too many directories of the host, or one that cannot be.
    #[error(
        "the machine cannot have these {shares} shares: give at most {MAX_SHARES}, with tags of 1 to {MAX_TAG} bytes"
    )]
    Shares {
        /// How many were asked for.
        shares: usize,
    },
    /// Too many consoles.
    #[error("a machine cannot have {consoles} consoles beside its first: give at most {MAX_CONSOLES}")]
    Consoles {
        /// What was asked for.
        consoles: usize,
    },
    /// An address that no guest can have.
    #[error("a guest cannot have the address (CID) {cid}: give {MIN_CID} to {MAX_CID}")]
    Cid {
        /// What was asked for.
        cid: u32,
    },
    /// A disk that is not written needs no place for what is written.
    #[error("disk {} is read-only and has an overlay: give one or the other", path.display())]
    ReadOnlyOverlay {
        /// The disk.
        path: PathBuf,
    },
    /// An option of a disk makes no sense.
    #[error("disk {} cannot have the option {option}: {reason}", path.display())]
    DiskOption {
        /// The disk.
        path: PathBuf,
        /// The option.
        option: &'static str,
        /// Why, and what would do.
        reason: &'static str,
    },
    /// The command line does not fit.
    #[error("the kernel command line has {length} bytes: give at most {MAX_CMDLINE}, none of them zero")]
    Cmdline {
        /// Its length.
        length: usize,
    },
    /// An agent is to use a console that is not there.
    #[error("the agent's command is to use the console, but the machine has none")]
    NoConsole,
    /// There is nothing to take a picture of.
    #[error("a picture of the display is asked for, but the machine has none")]
    NoDisplay,
    /// A slot names no descriptor, or one that cannot be duplicated.
    #[error("descriptor {slot} of the config was not passed, or cannot be duplicated")]
    Slot {
        /// The slot.
        slot: u32,
    },
}
