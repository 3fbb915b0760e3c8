//! Why a machine cannot be made or does not do what it was asked.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use viv_boot::{BootError, KernelError};
use viv_devices::DeviceError;
use viv_devices::bus::BusError;
use viv_devices::fw_cfg::FwCfgError;
use viv_devices::pci::PciError;
use viv_devices::pflash::FlashError;
use viv_disk::DiskError;
use viv_engine::EngineError;

use crate::config::ConfigError;
use crate::engine::ChoiceError;
use crate::keys::KeysError;
use crate::machine::PmemError;
use crate::protocol::MachineState;
use crate::snapshot::SnapshotError;

/// Why a machine cannot be made or does not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// The config describes no machine.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The engine asked for is not to be had.
    #[error(transparent)]
    Choice(#[from] ChoiceError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The host gives no memory.
    #[error("the host gives no {} MiB of memory for the guest: ask for less", .bytes >> 20)]
    Memory {
        /// How much was asked for.
        bytes: u64,
        /// What the host answered.
        #[source]
        source: io::Error,
    },
    /// The host has no such pages set aside.
    #[error(
        "the host has not set {pages} huge pages of 2 MiB aside for the guest's memory: do it with \
         'sysctl vm.nr_hugepages={pages}', or leave ',hugepages' out"
    )]
    HugePages {
        /// How many are needed.
        pages: u64,
        /// What the host answered.
        #[source]
        source: io::Error,
    },
    /// An engine that maps memory by small pages.
    #[error(
        "the soft engine maps the guest's memory by pages of 4 KiB, which huge pages cannot be divided into: \
         leave ',hugepages' out of --memory, or give --engine kvm where hardware backs it"
    )]
    HugePagesEngine,
    /// Memory and devices lie where the processors do not reach.
    #[error(
        "the machine takes physical addresses of {needed} bits, and this host's processors have {bits}: give less memory, \
         or smaller files with --pmem"
    )]
    Addresses {
        /// What it takes.
        needed: u32,
        /// What there are.
        bits: u32,
    },
    /// A file cannot be opened or read.
    #[error("cannot open the {what} {}", path.display())]
    Open {
        /// What it is to the machine.
        what: &'static str,
        /// Its path.
        path: PathBuf,
        /// What the host answered.
        #[source]
        source: io::Error,
    },
    /// The kernel file cannot be used.
    #[error("cannot use the kernel {name}")]
    Kernel {
        /// The file.
        name: String,
        /// Why.
        #[source]
        source: KernelError,
    },
    /// The guest cannot be loaded.
    #[error("cannot load the guest")]
    Boot(#[from] BootError),
    /// A disk cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A file cannot be memory.
    #[error(transparent)]
    Pmem(#[from] PmemError),
    /// A device cannot be made, saved or restored.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A process that is to serve a device by vhost-user is of no use.
    #[error("cannot use what listens at {name}")]
    BackEnd {
        /// Where it listens.
        name: String,
        /// Why.
        #[source]
        source: viv_vhost::Error,
    },
    /// A network in this process cannot be made.
    #[error(transparent)]
    UserNetwork(#[from] viv_usernet::Error),
    /// Something does not fit what firmware can be told.
    #[error(transparent)]
    FirmwareFile(#[from] FwCfgError),
    /// The firmware's variables cannot be kept in flash memory.
    #[error(transparent)]
    Flash(#[from] FlashError),
    /// A device finds no place among ports or addresses.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// A device finds no place on PCI.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// The agent's command does not fit a message.
    #[error("the command and its environment are too long for the guest")]
    Command(#[from] viv_guest_proto::EncodeError),
    /// The host refused something that the machine needs.
    #[error("cannot {action}")]
    Host {
        /// What was being done.
        action: &'static str,
        /// What the host answered.
        #[source]
        source: io::Error,
    },
    /// A snapshot cannot be written or read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A snapshot is of another machine.
    #[error("the snapshot does not fit this machine: {0}")]
    Misfit(String),
    /// A request came without the file that it is about.
    #[error("the {what} did not come with the request: send it open, beside the request")]
    NoFile {
        /// What the file is.
        what: &'static str,
    },
    /// The jail cannot be locked.
    #[error(transparent)]
    Jail(#[from] viv_jail::JailError),
    /// Nothing was created yet.
    #[error("there is no machine yet: the first request must create one")]
    NoMachine,
    /// The starter speaks another version of the protocol.
    #[error(
        "the VM process speaks version {} of the control protocol, not {found}: both must be of one program",
        crate::protocol::VERSION
    )]
    ProtocolVersion {
        /// The version asked for.
        found: u32,
    },
    /// The machine has nothing that somebody could sit at.
    #[error("cannot {action} a machine that has no display: give it one")]
    NoDisplay {
        /// What was asked.
        action: &'static str,
    },
    /// The machine has no balloon.
    #[error("cannot take memory from a machine that has no balloon: give it one")]
    NoBalloon,
    /// A balloon is to be larger than the memory.
    #[error("cannot take {} MiB of memory from a machine that has {}: take less", .bytes >> 20, .most >> 20)]
    BalloonTooLarge {
        /// What was asked for, in bytes.
        bytes: u64,
        /// What it has, in bytes.
        most: u64,
    },
    /// The machine cannot have so much memory.
    #[error(
        "the machine cannot have {bytes} bytes of memory: ask for {least} to {most}, more by a multiple of {} MiB, or give it \
         room for more at its start",
        viv_devices::virtio::MEMORY_BLOCK >> 20
    )]
    MemorySize {
        /// What was asked for.
        bytes: u64,
        /// What it has for good.
        least: u64,
        /// What it can have.
        most: u64,
    },
    /// There is no room for so many vCPUs.
    #[error(
        "the machine cannot have {count} vCPUs: ask for 1 to {most}, or give it room for more at its start"
    )]
    Vcpus {
        /// What was asked for.
        count: u32,
        /// How many there can be.
        most: u32,
    },
    /// What is to be typed makes no sense.
    #[error("cannot type that")]
    Keys(#[from] KeysError),
    /// More is to be typed than the machine keeps in mind.
    #[error("too many keys wait to be typed: send them once the guest has read those before")]
    TooManyKeys,
    /// The machine is in no state for this.
    #[error("cannot {action} a machine that is {state}")]
    State {
        /// What was asked.
        action: &'static str,
        /// What the machine is doing.
        state: MachineState,
    },
}

impl MachineError {
    /// For errors of the host.
    pub(crate) fn host(action: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Host { action, source }
    }

    /// The error with all its causes, in one line.
    #[must_use]
    pub fn line(&self) -> String {
        chain(self)
    }
}

/// An error with all its causes, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Transparent errors repeat their cause.
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text.replace(['\n', '\r'], " ")
}
