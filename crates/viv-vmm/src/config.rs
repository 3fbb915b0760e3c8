//! What a machine is made of.
//!
//! A [`MachineConfig`] is written by whoever starts the VM process and read by that process. Files that must
//! stay reachable are named by path; streams and files that the starter has open already are named by their
//! [`FdSlot`] in the list of descriptors that travels beside the config.

mod boot;
mod disk;
mod error;
mod network;
mod pmem;
mod share;
mod vsock;

use std::ffi::OsString;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use viv_devices::ahci::Ahci;
use viv_devices::virtio::MEMORY_BLOCK;
use viv_engine::memory::LARGE_PAGE;
pub use viv_guest_proto::{Interface, Mount};

pub use boot::{
    Boot, BootDevice, BootProtocol, FileSource, FirmwareConfig, InitrdConfig, KernelConfig, Profile,
    VariablesConfig,
};
pub use disk::{
    AioMode, CacheMode, DiskBus, DiskConfig, DiskFormat, DiskTuning, MAX_SERIAL, Overlay, default_queues,
};
pub use error::ConfigError;
pub use network::{
    MAX_NETWORK_QUEUES, MAX_NETWORKS, MIN_MTU, NetworkBackend, NetworkConfig, Protocol, Publish, UserNetwork,
};
pub use pmem::{MAX_PMEMS, PmemConfig};
pub use share::{MAX_SHARES, MAX_TAG, Share, ShareSource};
pub use vsock::{MAX_CID, MIN_CID, VsockConfig};

/// The least RAM that a machine can have: what a small kernel and its initrd need at all.
pub const MIN_MEMORY: u64 = 16 << 20;
/// The most RAM that a machine can have.
pub const MAX_MEMORY: u64 = 1 << 40;
/// The most vCPUs that a machine can have: ids that fit 8 bits, less the broadcast id and the IOAPIC's.
pub const MAX_VCPUS: u32 = 254;
/// The most disks: PCI slots that are left over on bus 0.
pub const MAX_DISKS: usize = 24;
/// The most consoles beside the first: ports of a virtio console, of which an agent needs some.
pub const MAX_CONSOLES: usize = 16;
/// The limit on random numbers, in bytes a second, that suits all guests: a kernel takes some hundred bytes at its start and
/// as many every few minutes.
pub const DEFAULT_ENTROPY: NonZeroU64 = NonZeroU64::new(1 << 20).unwrap();
/// The longest kernel command line, as Linux on x86 takes it (COMMAND_LINE_SIZE less the final zero).
pub const MAX_CMDLINE: usize = 2047;

/// A whole machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineConfig {
    /// A name for messages and logs.
    pub name: String,
    /// RAM in bytes: a multiple of 4096 from [`MIN_MEMORY`] to [`MAX_MEMORY`].
    pub memory_bytes: u64,
    /// RAM in bytes that there can be with what is plugged in later, of which it has
    /// [`MachineConfig::memory_bytes`] at the start: more by a multiple of 2 MiB, or as much; at most [`MAX_MEMORY`].
    pub max_memory_bytes: u64,
    /// Whether RAM is of large pages of 2 MiB that the host has set aside. It is then a multiple of that, all of it taken from
    /// the start.
    pub huge_pages: bool,
    /// Whether it has a balloon, by which its guest gives memory back.
    pub balloon: bool,
    /// vCPUs at the start, from 1 to [`MAX_VCPUS`].
    pub vcpus: u32,
    /// How many vCPUs there can be with those that are plugged in later, from as many as there are at the start to
    /// [`MAX_VCPUS`].
    pub max_vcpus: u32,
    /// The engine asked for.
    pub engine: EngineChoice,
    /// Options of the engine that is used, each of the form `key=value`.
    pub engine_options: Vec<String>,
    /// What it starts with, and by that its profile.
    pub boot: Boot,
    /// Disks, in the order in which the guest finds them.
    pub disks: Vec<DiskConfig>,
    /// Disks that other processes serve by vhost-user, by their sockets; the guest finds them after the others.
    pub vhost_user_disks: Vec<PathBuf>,
    /// CD-ROM drives, each with the image of its medium.
    pub cdroms: Vec<PathBuf>,
    /// Files as persistent memory, in the order in which the guest finds them; at most [`MAX_PMEMS`].
    pub pmems: Vec<PmemConfig>,
    /// Network interfaces, in the order in which the guest finds them.
    pub networks: Vec<NetworkConfig>,
    /// Directories of the host that the guest sees.
    pub shares: Vec<Share>,
    /// The most random numbers that the guest gets, in bytes a second.
    pub entropy_bps: Option<NonZeroU64>,
    /// Sockets between the guest and its host.
    pub vsock: Option<VsockConfig>,
    /// The first serial port (COM1). `None`: the port is there, its output is dropped.
    pub serial: Option<Stream>,
    /// The virtio console's first port (hvc0). `None`: there is no such port.
    pub console: Option<Console>,
    /// Further consoles (hvc1, hvc2, …), at most [`MAX_CONSOLES`].
    pub consoles: Vec<Stream>,
    /// Whether there are a display, a keyboard and a mouse.
    pub display: bool,
    /// Where a picture of the display goes when the machine is over, as PNG. [`MachineConfig::display`] must be there.
    pub screenshot: Option<FdSlot>,
    /// What the guest's own agent is asked to run. `None`: the guest has no agent.
    pub agent: Option<AgentConfig>,
    /// Whether a reset that the guest asks for ends the machine.
    pub no_reboot: bool,
    /// Where the text goes that the guest writes to the debug ports, 0xe9 and firmware's 0x402. `None`: there are none.
    pub debug_log: Option<FdSlot>,
    /// Whether the guest can end the machine with a status, by port 0xf4.
    pub exit_port: bool,
    /// What happens when the guest does not reset its watchdog in time. `None`: it has none.
    pub watchdog: Option<WatchdogAction>,
    /// A listening stream socket to which debuggers attach. The guest waits for the first before its first instruction.
    pub gdb: Option<FdSlot>,
}

/// What happens when a guest does not reset its watchdog in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WatchdogAction {
    /// The machine is reset; with [`MachineConfig::no_reboot`] it ends.
    Reset,
    /// It ends.
    PowerOff,
    /// It stands still until it is told to go on.
    Pause,
}

/// Which engine is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineChoice {
    /// The best that runs here.
    #[default]
    Auto,
    /// The software CPU.
    Soft,
    /// The host's CPU.
    Kvm,
}

/// The host's end of a byte stream, in one or both directions. Any kind of descriptor will do: pipe, socket,
/// terminal, file. Its flags are left as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stream {
    /// Read from, towards the guest.
    pub input: Option<FdSlot>,
    /// Written to with what the guest says.
    pub output: Option<FdSlot>,
}

/// A console: a stream with a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Console {
    /// Its bytes.
    pub stream: Stream,
    /// Its window's size at the start, if there is a window.
    pub size: Option<WindowSize>,
}

/// A terminal window's size, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// What the guest's agent is asked to run, once it is ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentConfig {
    /// Program and arguments; empty for root's shell.
    pub command: Vec<OsString>,
    /// Environment, added to the agent's own.
    pub environment: Vec<(OsString, OsString)>,
    /// Where it runs; `None` for root's home.
    pub directory: Option<String>,
    /// The guest's host name; `None` for the image's own.
    pub hostname: Option<String>,
    /// Network interfaces that the agent sets up first.
    pub interfaces: Vec<Interface>,
    /// File systems that the agent mounts first.
    pub mounts: Vec<Mount>,
    /// Where its input and output go.
    pub stdio: AgentStdio,
}

/// Where an agent's command reads and writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AgentStdio {
    /// The machine's console is its terminal. [`MachineConfig::console`] must be there.
    Console {
        /// The terminal's type, for `TERM`.
        term: String,
    },
    /// Three streams apart. A missing stdin is an empty one; missing outputs are dropped.
    Streams {
        /// Read from.
        stdin: Option<FdSlot>,
        /// Written to.
        stdout: Option<FdSlot>,
        /// Written to.
        stderr: Option<FdSlot>,
    },
}

/// The place of a descriptor in the list that travels beside the config.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FdSlot(pub u32);

/// The descriptors that travel beside a config. One may be named by several slots' users.
#[derive(Debug, Default)]
pub struct Fds(Vec<OwnedFd>);

impl Fds {
    /// The most that travel with one config.
    pub const MAX: usize = 64;

    /// Adds one; the slot is its name in the config.
    pub fn add(&mut self, fd: impl Into<OwnedFd>) -> FdSlot {
        self.0.push(fd.into());
        FdSlot(u32::try_from(self.0.len() - 1).unwrap_or(u32::MAX))
    }

    /// A duplicate of the one in `slot`.
    ///
    /// # Errors
    /// When there is none, or this process has too many open.
    pub(crate) fn get(&self, slot: FdSlot) -> Result<OwnedFd, ConfigError> {
        let index = usize::try_from(slot.0).unwrap_or(usize::MAX);
        let fd = self.0.get(index).ok_or(ConfigError::Slot { slot: slot.0 })?;
        fd.try_clone().map_err(|_| ConfigError::Slot { slot: slot.0 })
    }

    /// All of them, in the order of their slots.
    #[must_use]
    pub fn as_slice(&self) -> &[OwnedFd] {
        &self.0
    }
}

impl From<Vec<OwnedFd>> for Fds {
    fn from(fds: Vec<OwnedFd>) -> Self {
        Self(fds)
    }
}

impl MachineConfig {
    /// Checks everything that can be told from the config alone.
    ///
    /// # Errors
    /// One for the first thing found wrong.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if !self.memory_bytes.is_multiple_of(4096) || !(MIN_MEMORY..=MAX_MEMORY).contains(&self.memory_bytes)
        {
            return Err(ConfigError::Memory { bytes: self.memory_bytes });
        }
        if self.huge_pages && !self.memory_bytes.is_multiple_of(LARGE_PAGE) {
            return Err(ConfigError::HugePages { bytes: self.memory_bytes });
        }
        let (bytes, most) = (self.memory_bytes, self.max_memory_bytes);
        let more = most.checked_sub(bytes).filter(|more| more.is_multiple_of(MEMORY_BLOCK));
        if more.is_none() || most > MAX_MEMORY {
            return Err(ConfigError::MaxMemory { bytes, most });
        }
        if !(1..=MAX_VCPUS).contains(&self.vcpus) {
            return Err(ConfigError::Vcpus { vcpus: self.vcpus });
        }
        if !(self.vcpus..=MAX_VCPUS).contains(&self.max_vcpus) {
            return Err(ConfigError::MaxVcpus { vcpus: self.vcpus, most: self.max_vcpus });
        }
        let disks = self.disks.len() + self.vhost_user_disks.len();
        if disks > MAX_DISKS {
            return Err(ConfigError::Disks { disks });
        }
        let sata = self.disks.iter().filter(|disk| disk.bus == DiskBus::Sata).count() + self.cdroms.len();
        if sata > Ahci::PORTS {
            return Err(ConfigError::SataDrives { drives: sata });
        }
        if let Some(disk) = self.disks.iter().find(|disk| disk.readonly && disk.overlay != Overlay::None) {
            return Err(ConfigError::ReadOnlyOverlay { path: disk.path.clone() });
        }
        self.disks.iter().try_for_each(disk::validate)?;
        if self.pmems.len() > MAX_PMEMS {
            return Err(ConfigError::Pmems { pmems: self.pmems.len() });
        }
        if self.networks.len() > MAX_NETWORKS {
            return Err(ConfigError::Networks { networks: self.networks.len() });
        }
        if let Some(index) = self.networks.iter().position(|network| !network.is_valid()) {
            return Err(ConfigError::Network { index });
        }
        if self.shares.len() > MAX_SHARES || !self.shares.iter().all(Share::is_valid) {
            return Err(ConfigError::Shares { shares: self.shares.len() });
        }
        if self.consoles.len() > MAX_CONSOLES {
            return Err(ConfigError::Consoles { consoles: self.consoles.len() });
        }
        if let Some(vsock) = self.vsock
            && !(MIN_CID..=MAX_CID).contains(&vsock.cid)
        {
            return Err(ConfigError::Cid { cid: vsock.cid });
        }
        if let Boot::Kernel(kernel) = &self.boot {
            let cmdline = kernel.cmdline.as_bytes();
            if cmdline.len() > MAX_CMDLINE || cmdline.contains(&0) {
                return Err(ConfigError::Cmdline { length: cmdline.len() });
            }
        }
        let wants_console =
            self.agent.as_ref().is_some_and(|agent| matches!(agent.stdio, AgentStdio::Console { .. }));
        if wants_console && self.console.is_none() {
            return Err(ConfigError::NoConsole);
        }
        if self.screenshot.is_some() && !self.display {
            return Err(ConfigError::NoDisplay);
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A machine with nothing that can be left out.
    pub(crate) fn plain() -> MachineConfig {
        MachineConfig {
            name: "test".into(),
            memory_bytes: 64 << 20,
            max_memory_bytes: 64 << 20,
            huge_pages: false,
            balloon: true,
            vcpus: 1,
            max_vcpus: 1,
            engine: EngineChoice::Soft,
            engine_options: Vec::new(),
            boot: Boot::Kernel(KernelConfig {
                kernel: FileSource::Path("kernel".into()),
                initrds: Vec::new(),
                cmdline: String::new(),
                protocol: BootProtocol::Auto,
            }),
            disks: Vec::new(),
            vhost_user_disks: Vec::new(),
            cdroms: Vec::new(),
            pmems: Vec::new(),
            networks: Vec::new(),
            shares: Vec::new(),
            entropy_bps: Some(DEFAULT_ENTROPY),
            vsock: None,
            serial: None,
            console: None,
            consoles: Vec::new(),
            display: false,
            screenshot: None,
            agent: None,
            no_reboot: false,
            debug_log: None,
            exit_port: false,
            watchdog: None,
            gdb: None,
        }
    }

    /// The kernel of a machine that has one.
    pub(crate) fn kernel(config: &mut MachineConfig) -> &mut KernelConfig {
        match &mut config.boot {
            Boot::Kernel(kernel) => kernel,
            Boot::Firmware(_) => panic!("it has firmware"),
        }
    }

    #[test]
    fn refuses_what_no_machine_can_be() {
        assert_eq!(plain().validate(), Ok(()));
        for bytes in [0, MIN_MEMORY - 4096, MIN_MEMORY + 1, MAX_MEMORY + 4096, u64::MAX] {
            let config = MachineConfig { memory_bytes: bytes, ..plain() };
            assert_eq!(config.validate(), Err(ConfigError::Memory { bytes }));
        }
        let bytes = (64 << 20) + 4096;
        let config =
            MachineConfig { memory_bytes: bytes, max_memory_bytes: bytes, huge_pages: true, ..plain() };
        assert_eq!(config.validate(), Err(ConfigError::HugePages { bytes }));
        for most in [(64 << 20) - MEMORY_BLOCK, (64 << 20) + 4096, MAX_MEMORY + MEMORY_BLOCK] {
            let config = MachineConfig { max_memory_bytes: most, ..plain() };
            assert_eq!(config.validate(), Err(ConfigError::MaxMemory { bytes: 64 << 20, most }));
        }
        for vcpus in [0, MAX_VCPUS + 1] {
            let config = MachineConfig { vcpus, ..plain() };
            assert_eq!(config.validate(), Err(ConfigError::Vcpus { vcpus }));
        }
        for (vcpus, most) in [(2, 1), (1, MAX_VCPUS + 1)] {
            let config = MachineConfig { vcpus, max_vcpus: most, ..plain() };
            assert_eq!(config.validate(), Err(ConfigError::MaxVcpus { vcpus, most }));
        }
        let mut config = plain();
        kernel(&mut config).cmdline = "a\0b".into();
        assert_eq!(config.validate(), Err(ConfigError::Cmdline { length: 3 }));
        let agent = AgentConfig {
            command: Vec::new(),
            environment: Vec::new(),
            directory: None,
            hostname: None,
            interfaces: Vec::new(),
            mounts: Vec::new(),
            stdio: AgentStdio::Console { term: "linux".into() },
        };
        let config = MachineConfig { agent: Some(agent), ..plain() };
        assert_eq!(config.validate(), Err(ConfigError::NoConsole));
        let network = NetworkConfig {
            mac: [2, 0, 0, 0, 0, 1],
            mtu: Some(MIN_MTU),
            backend: NetworkBackend::Tap { queues: vec![FdSlot(0)] },
            bps: None,
            pps: None,
        };
        let with = |networks| MachineConfig { networks, ..plain() }.validate();
        assert_eq!(with(vec![network.clone(); MAX_NETWORKS]), Ok(()));
        let networks = MAX_NETWORKS + 1;
        assert_eq!(with(vec![network.clone(); networks]), Err(ConfigError::Networks { networks }));
        for wrong in [
            NetworkConfig { mac: [3, 0, 0, 0, 0, 1], ..network.clone() },
            NetworkConfig { mac: [0; 6], ..network.clone() },
            NetworkConfig { mtu: Some(MIN_MTU - 1), ..network.clone() },
            NetworkConfig { backend: NetworkBackend::Tap { queues: Vec::new() }, ..network.clone() },
        ] {
            assert_eq!(with(vec![network.clone(), wrong]), Err(ConfigError::Network { index: 1 }));
        }
        let consoles = MAX_CONSOLES + 1;
        let config = MachineConfig { consoles: vec![Stream::default(); consoles], ..plain() };
        assert_eq!(config.validate(), Err(ConfigError::Consoles { consoles }));
        for cid in [0, MIN_CID - 1, u32::MAX] {
            let vsock = VsockConfig { cid, listener: FdSlot(0), connector: FdSlot(1) };
            let config = MachineConfig { vsock: Some(vsock), ..plain() };
            assert_eq!(config.validate(), Err(ConfigError::Cid { cid }));
        }
        let config = MachineConfig { screenshot: Some(FdSlot(0)), ..plain() };
        assert_eq!(config.validate(), Err(ConfigError::NoDisplay));
    }

    #[test]
    fn survives_json() {
        let mut config = plain();
        config.disks.push(DiskConfig {
            path: "/disk".into(),
            format: DiskFormat::Qcow2,
            readonly: false,
            overlay: Overlay::Kept { path: "/overlay".into() },
            bus: DiskBus::Sata,
            tuning: DiskTuning { serial: Some("s".into()), ..DiskTuning::default() },
        });
        config.serial = Some(Stream { input: Some(FdSlot(0)), output: Some(FdSlot(1)) });
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<MachineConfig>(&json).unwrap(), config);
    }
}
