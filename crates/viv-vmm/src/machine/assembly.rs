//! Putting a machine's devices on its board.

use std::fs::File;
use std::io::Write;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::rand::GetRandomFlags;
use viv_devices::a20::A20Gate;
use viv_devices::acpi_pm::AcpiPm;
use viv_devices::ahci::{Ahci, Drive};
use viv_devices::cpu_hotplug::CpuHotplug;
use viv_devices::debug_port::DebugPort;
use viv_devices::doorbell::Worker;
use viv_devices::exit_port::ExitPort;
use viv_devices::generation_id::GenerationId;
use viv_devices::hpet::Hpet;
use viv_devices::irq::Gate;
use viv_devices::layout;
use viv_devices::pci::{Connections, PciDevice, PciError};
use viv_devices::pit::Pit;
use viv_devices::pvpanic::PvPanic;
use viv_devices::reset::ResetPorts;
use viv_devices::rtc::{MemorySize, Rtc};
use viv_devices::tco::Tco;
use viv_devices::uart::Uart;
use viv_devices::virtio::{Balloon, Entropy, Limits, Memory, VhostUserKind, VirtioDevice, VirtioPci};
use viv_disk::Disk;
use viv_engine::memory::{HOLE_END, HOLE_START};
use viv_engine::{Clock, GuestMemory, Vm};
use vm_memory::GuestMemoryBackend;

use super::agent::Agent;
use super::back_end::{BackEndSocket, BackEndThread};
use super::block::DiskThread;
use super::board::Board;
use super::console::{ConsoleHandle, agent_ports, console_port};
use super::core::Core;
use super::limits;
use super::network::{self, Connected, Far, Maker, NetworkHandle};
use super::notify::Notify;
use super::reactor::Source;
use super::resources::Processors;
use super::serial::{SerialBackend, SerialSource};
use super::timers::{TimerSource, Timers};
use super::vsock;
use crate::config::{
    AgentConfig, AgentStdio, BootDevice, Console, DiskTuning, FdSlot, Fds, NetworkConfig, Profile, Share,
    Stream, VsockConfig,
};
use crate::error::MachineError;
use crate::stream::HostStream;

/// What the devices of a machine are connected to.
pub(crate) struct Surroundings {
    pub(crate) vm: Arc<dyn Vm>,
    /// What devices reach of it.
    pub(crate) memory: GuestMemory,
    /// The RAM that is there from the start.
    pub(crate) ram: GuestMemory,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) timers: Arc<Timers>,
    pub(crate) core: Arc<Core>,
    pub(crate) a20: Arc<A20Gate>,
}

/// A board on which devices are being put, with what the device thread will wait for.
pub(crate) struct Assembly<'a> {
    pub(crate) around: Surroundings,
    pub(crate) fds: &'a Fds,
    pub(crate) board: Board,
    pub(crate) sources: Vec<Box<dyn Source>>,
    /// The disks that have threads of their own.
    pub(crate) disks: Vec<DiskThread>,
    /// The devices that other processes do the work of, which have threads of their own too.
    pub(crate) back_ends: Vec<BackEndThread>,
    /// The same for the thread for network interfaces.
    pub(crate) network_sources: Vec<Box<dyn Source>>,
    pub(crate) streams: Vec<Arc<HostStream>>,
    /// What firmware can start from, by its path.
    pub(crate) boot_paths: Vec<(BootDevice, String)>,
    /// Set when a stream has written all of its output.
    pub(crate) drained: Arc<Notify>,
}

impl<'a> Assembly<'a> {
    /// A board with nothing but interrupt controllers and PCI.
    pub(crate) fn new(around: Surroundings, profile: Profile, fds: &'a Fds) -> Result<Self, MachineError> {
        let board = Board::new(&around.vm, memory_end(&around.memory), profile)?;
        let sources: Vec<Box<dyn Source>> = vec![Box::new(TimerSource(Arc::clone(&around.timers)))];
        let drained = notify()?;
        let (disks, back_ends, network_sources, streams, boot_paths) = Default::default();
        Ok(Self {
            around,
            fds,
            board,
            sources,
            disks,
            back_ends,
            network_sources,
            streams,
            boot_paths,
            drained,
        })
    }

    /// Adds what every PC has, and gives what the power button is on.
    pub(crate) fn add_chipset(&mut self, profile: Profile) -> Result<Arc<Mutex<AcpiPm>>, MachineError> {
        let Surroundings { clock, timers, core, ram, a20, .. } = &self.around;
        let board = &mut self.board;

        // An HPET can take the place of these two.
        let gate = Gate::new(board.irqchip().clone());
        let line = gate.line(layout::PIT_IRQ);
        let pit = timers.attach(|timer| Pit::new(clock.clone(), timer, line));
        board.add(pit, &Pit::PORTS)?;

        let line = gate.line(layout::RTC_IRQ);
        let end = memory_end(ram);
        let size = MemorySize { below_4_gib: end.min(HOLE_START), above_4_gib: end.saturating_sub(HOLE_END) };
        let rtc = timers.attach(|timer| Rtc::new(clock.clone(), timer, line, size));
        board.add(rtc, &Rtc::PORTS)?;

        if profile == Profile::Pc {
            let hpet = timers.attach(|timer| Hpet::new(clock.clone(), timer, |gsi| board.line(gsi), gate));
            board.add(hpet.clone(), &[])?;
            board.map_memory(layout::HPET_BASE..layout::HPET_BASE + layout::HPET_SIZE, hpet)?;
        }
        board.add(Arc::new(Mutex::new(ResetPorts::new(core.clone(), a20.clone()))), &ResetPorts::PORTS)?;

        let line = board.line(layout::SCI_IRQ);
        let power = timers.attach(|timer| {
            let power = AcpiPm::new(clock.clone(), timer, line, core.clone());
            if profile == Profile::Pc { power.with_legacy_mode() } else { power }
        });
        let apm = if profile == Profile::Pc { &AcpiPm::APM_PORTS[..] } else { &[] };
        board.add(power.clone(), &[&AcpiPm::PORTS, apm].concat())?;
        Ok(power)
    }

    /// Adds what guests use that know that they have a host, and gives the generation identifier.
    pub(crate) fn add_hosted(&mut self) -> Result<Arc<Mutex<GenerationId>>, MachineError> {
        let port = PvPanic::new(self.around.core.clone());
        self.board.add(Arc::new(Mutex::new(port)), &PvPanic::PORTS)?;
        let generation = Arc::new(Mutex::new(GenerationId::new(random_id()?)));
        self.board.add(generation.clone(), &[])?;
        self.board.map_memory(layout::GENERATION_ID, generation.clone())?;
        Ok(generation)
    }

    /// Adds a watchdog.
    pub(crate) fn add_watchdog(&mut self) -> Result<(), MachineError> {
        let Surroundings { clock, timers, core, .. } = &self.around;
        let watchdog = timers.attach(|timer| Tco::new(clock.clone(), timer, core.clone()));
        self.board.add(watchdog, &Tco::PORTS)
    }

    /// Adds the first serial line.
    pub(crate) fn add_serial(&mut self, stream: Stream) -> Result<(), MachineError> {
        let stream = self.stream(stream.input, stream.output)?;
        let line = self.board.line(layout::UART0_IRQ);
        let backend = Box::new(SerialBackend(Arc::clone(&stream)));
        let uart = Arc::new(Mutex::new(Uart::new(0, layout::UART0, line, backend)));
        self.board.add(uart.clone(), &Uart::PORTS)?;
        self.sources.push(Box::new(SerialSource { uart, stream }));
        Ok(())
    }

    /// Adds the ports for text, of test programs and of firmware.
    pub(crate) fn add_debug_ports(&mut self, log: FdSlot) -> Result<(), MachineError> {
        let log = Arc::new(File::from(self.fds.get(log)?));
        for port in [layout::DEBUG_PORT, layout::FIRMWARE_LOG] {
            let log = Arc::clone(&log);
            // A log that cannot be written must not stop the guest.
            let sink = Box::new(move |text: &[u8]| drop((&*log).write_all(text)));
            self.board.add(Arc::new(Mutex::new(DebugPort::new(port, sink))), &DebugPort::ports(port))?;
        }
        Ok(())
    }

    /// Adds the port by which the guest ends the machine with a status.
    pub(crate) fn add_exit_port(&mut self) -> Result<(), MachineError> {
        let port = ExitPort::new(self.around.core.clone());
        self.board.add(Arc::new(Mutex::new(port)), &ExitPort::PORTS)
    }

    /// Adds disk `index` of a machine with so many vCPUs.
    pub(crate) fn add_disk(
        &mut self,
        index: usize,
        disk: Box<dyn Disk>,
        tuning: &DiskTuning,
        vcpus: u32,
    ) -> Result<(), MachineError> {
        let mut thread = DiskThread::new(index, disk, tuning, vcpus, &self.around.clock)?;
        let (slot, worker) = self.add_function(|connections| {
            let function = VirtioPci::new(&format!("virtio-blk{index}"), thread.block.clone(), connections)?;
            let worker = function.worker();
            Ok((function, worker))
        })?;
        thread.sources.push(source(worker));
        self.disks.push(thread);
        self.boot_paths.push((BootDevice::Disk, format!("/pci@i0cf8/scsi@{slot:x}/disk@0,0")));
        Ok(())
    }

    /// Adds disk `index`, which another process serves.
    pub(crate) fn add_vhost_user_disk(
        &mut self,
        index: usize,
        socket: BackEndSocket,
    ) -> Result<(), MachineError> {
        let slot = self.add_back_end(&format!("virtio-blk{index}"), VhostUserKind::Block, socket)?;
        self.boot_paths.push((BootDevice::Disk, format!("/pci@i0cf8/scsi@{slot:x}/disk@0,0")));
        Ok(())
    }

    /// Adds a directory of the host, which another process serves.
    pub(crate) fn add_share(
        &mut self,
        index: usize,
        share: &Share,
        socket: BackEndSocket,
    ) -> Result<(), MachineError> {
        let kind = VhostUserKind::FileSystem { tag: share.tag.clone() };
        self.add_back_end(&format!("virtio-fs{index}"), kind, socket).map(drop)
    }

    /// Adds a device that another process does the work of, and gives its slot.
    fn add_back_end(
        &mut self,
        name: &str,
        kind: VhostUserKind,
        socket: BackEndSocket,
    ) -> Result<u8, MachineError> {
        let mut thread = BackEndThread::new(kind, socket, &self.around.core)?;
        let (slot, worker) = self.add_function(|connections| {
            let function = VirtioPci::new(name, thread.device.device(), connections)?;
            let worker = function.worker();
            Ok((function, worker))
        })?;
        thread.sources.push(source(worker));
        self.back_ends.push(thread);
        Ok(slot)
    }

    /// Adds a source of random numbers, of at most so many bytes a second.
    pub(crate) fn add_entropy(&mut self, bps: Option<NonZeroU64>) -> Result<(), MachineError> {
        let limits = Limits { requests: None, bytes: bps };
        let timer = limits::timer(limits, &self.around.clock)?;
        let entropy = Entropy::new(timer.as_ref().map(|timer| timer.throttle(limits)));
        let entropy = Arc::new(Mutex::new(entropy));
        if let Some(timer) = timer {
            let entropy = Arc::clone(&entropy);
            self.sources.push(timer.source(move || {
                entropy.lock().unwrap_or_else(PoisonError::into_inner).resume();
            }));
        }
        self.add_virtio("virtio-rng0", entropy).map(drop)
    }

    /// Adds a balloon.
    pub(crate) fn add_balloon(&mut self) -> Result<Arc<Mutex<Balloon>>, MachineError> {
        let balloon = Arc::new(Mutex::new(Balloon::new()));
        self.add_virtio("virtio-balloon0", balloon.clone())?;
        Ok(balloon)
    }

    /// Adds what memory comes and goes by, which is in this region.
    pub(crate) fn add_pluggable(&mut self, region: Range<u64>) -> Result<Arc<Mutex<Memory>>, MachineError> {
        let memory = Arc::new(Mutex::new(Memory::new(self.around.memory.clone(), region)));
        self.add_virtio("virtio-mem0", memory.clone())?;
        Ok(memory)
    }

    /// Adds what vCPUs come and go by, if there can be more than there are at the start.
    pub(crate) fn add_processors(&mut self, present: u32, most: u32) -> Result<Processors, MachineError> {
        if present == most {
            return Ok(Processors::Fixed(present));
        }
        let device = Arc::new(Mutex::new(CpuHotplug::new(present, most, self.around.core.clone())));
        self.board.add(device.clone(), &CpuHotplug::PORTS)?;
        Ok(Processors::Pluggable(device))
    }

    /// Adds a virtio console, if it is wanted as a console, for further ones or for the agent. The first console's port is
    /// always there: so the further ones have the same names in all guests.
    pub(crate) fn add_console(
        &mut self,
        console: Option<Console>,
        further: &[Stream],
        agent: Option<&AgentConfig>,
    ) -> Result<Option<ConsoleHandle>, MachineError> {
        if console.is_none() && further.is_empty() && agent.is_none() {
            return Ok(None);
        }
        let Stream { input, output } = console.map(|console| console.stream).unwrap_or_default();
        let size = console.and_then(|console| console.size);
        let stream = self.stream(input, output)?;
        let mut ports = vec![console_port(Arc::clone(&stream))];
        let mut wakes = vec![Arc::clone(stream.wake())];
        let agent = match agent {
            None => None,
            Some(config) => {
                let wake = notify()?;
                let agent = Agent::new(config, size, Arc::clone(&self.around.core), Arc::clone(&wake))?;
                let streams = self.agent_streams(&config.stdio)?;
                wakes.extend(streams.iter().map(|stream| Arc::clone(stream.wake())));
                wakes.push(wake);
                ports.extend(agent_ports(&agent, streams));
                self.board.add(Arc::new(Mutex::new(agent.clone())), &[])?;
                Some(agent)
            }
        };
        for &Stream { input, output } in further {
            let stream = self.stream(input, output)?;
            wakes.push(Arc::clone(stream.wake()));
            ports.push(console_port(stream));
        }
        // An agent is told together with its command.
        let told = agent.is_some();
        let console = ConsoleHandle::new(ports, agent);
        if let Some(size) = size.filter(|_| !told) {
            console.resize(size);
        }
        // A look at a port that has nothing to do costs nothing, so any of these is a reason to look at all.
        for wake in wakes {
            self.sources.push(Box::new(console.source(wake)));
        }
        self.add_virtio("virtio-console0", console.device.clone())?;
        Ok(Some(console))
    }

    /// Adds sockets to the host, and gives what their thread waits for.
    pub(crate) fn add_vsock(&mut self, config: &VsockConfig) -> Result<Vec<Box<dyn Source>>, MachineError> {
        let (device, sockets) = vsock::connect(config, self.fds)?;
        let (_, worker) = self.add_function(|connections| {
            let function = VirtioPci::new("virtio-vsock0", device, connections)?;
            let worker = function.worker();
            Ok((function, worker))
        })?;
        Ok(vec![source(worker), sockets])
    }

    /// Adds network interface `index`. One that another process serves has no handle.
    pub(crate) fn add_network(
        &mut self,
        index: usize,
        config: &NetworkConfig,
        far: Far,
    ) -> Result<Option<NetworkHandle>, MachineError> {
        let name = format!("virtio-net{index}");
        let Connected { network, sources, device } = match far {
            Far::Tap(taps) => network::tap::connect(Maker::new(config, &self.around.clock)?, taps),
            Far::User(router) => {
                network::user::connect(Maker::new(config, &self.around.clock)?, index, *router)?
            }
            Far::BackEnd(socket) => {
                self.add_back_end(&name, VhostUserKind::Net { mac: config.mac }, socket)?;
                return Ok(None);
            }
        };
        let (_, worker) = self.add_function(|connections| {
            let function = VirtioPci::new(&name, network.device(), connections)?;
            let worker = function.worker();
            Ok((function, worker))
        })?;
        if let Some(device) = device {
            self.board.add(device, &[])?;
        }
        self.network_sources.push(source(worker));
        self.network_sources.extend(sources);
        Ok(Some(network))
    }

    /// The streams of the agent's command: input, output, errors.
    fn agent_streams(&mut self, stdio: &AgentStdio) -> Result<[Arc<HostStream>; 3], MachineError> {
        let (stdin, stdout, stderr) = match *stdio {
            AgentStdio::Console { .. } => (None, None, None),
            AgentStdio::Streams { stdin, stdout, stderr } => (stdin, stdout, stderr),
        };
        Ok([self.stream(stdin, None)?, self.stream(None, stdout)?, self.stream(None, stderr)?])
    }

    /// Adds a SATA controller with these drives, if there are any.
    pub(crate) fn add_sata(&mut self, drives: Vec<Drive>) -> Result<(), MachineError> {
        if drives.is_empty() {
            return Ok(());
        }
        let kinds: Vec<_> = drives
            .iter()
            .map(|drive| match drive {
                Drive::Disk(_) => BootDevice::Disk,
                Drive::Cdrom(_) => BootDevice::Cdrom,
            })
            .collect();
        let mut drives = drives.into_iter();
        let ports = std::array::from_fn(|_| drives.next());
        let (slot, worker) = self.add_function(|connections| {
            let controller = Ahci::new("ahci0", ports, connections)?;
            let worker = controller.worker();
            Ok((controller, worker))
        })?;
        self.sources.push(source(worker));
        self.boot_paths.extend((0..).zip(kinds).map(|(port, kind): (u8, _)| {
            (kind, format!("/pci@i0cf8/pci8086,2922@{slot:x}/drive@{port:x}/disk@0"))
        }));
        Ok(())
    }

    /// Adds a virtio device and gives its slot.
    fn add_virtio(&mut self, name: &str, device: Arc<Mutex<dyn VirtioDevice>>) -> Result<u8, MachineError> {
        let (slot, worker) = self.add_function(|connections| {
            let function = VirtioPci::new(name, device, connections)?;
            let worker = function.worker();
            Ok((function, worker))
        })?;
        self.sources.push(source(worker));
        Ok(slot)
    }

    /// Adds a PCI function that has work for a thread for devices, and gives its slot and that work.
    pub(super) fn add_function<D: PciDevice + 'static>(
        &mut self,
        make: impl FnOnce(Connections) -> Result<(D, Worker), PciError>,
    ) -> Result<(u8, Worker), MachineError> {
        let Surroundings { vm, memory, .. } = &self.around;
        self.board.add_pci(|slot, line| {
            let connections = Connections {
                memory: memory.clone(),
                msi: vm.clone(),
                line,
                line_number: layout::slot_gsi(slot),
            };
            Ok(make(connections)?)
        })
    }

    fn stream(
        &mut self,
        input: Option<FdSlot>,
        output: Option<FdSlot>,
    ) -> Result<Arc<HostStream>, MachineError> {
        let get = |slot: Option<FdSlot>| slot.map(|slot| self.fds.get(slot)).transpose();
        let started = HostStream::start(get(input)?, get(output)?, &self.drained);
        let stream = Arc::new(started.map_err(MachineError::host("start a stream's thread"))?);
        self.streams.push(Arc::clone(&stream));
        Ok(stream)
    }
}

/// A function's doorbell, as what a thread waits for.
pub(super) fn source(worker: Worker) -> Box<dyn Source> {
    Box::new(WorkerSource(worker))
}

/// A function's doorbell as a source of events.
struct WorkerSource(Worker);

impl Source for WorkerSource {
    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn ready(&mut self) {
        self.0.process();
    }
}

fn notify() -> Result<Arc<Notify>, MachineError> {
    Notify::new().map(Arc::new).map_err(MachineError::host("make an eventfd"))
}

/// A generation identifier that no other machine has.
pub(crate) fn random_id() -> Result<[u8; 16], MachineError> {
    let mut id = [0; 16];
    // So few bytes come at once.
    rustix::rand::getrandom(&mut id, GetRandomFlags::empty())
        .map_err(|errno| MachineError::host("get random numbers")(errno.into()))?;
    Ok(id)
}

/// The address after the last of RAM.
pub(crate) fn memory_end(memory: &GuestMemory) -> u64 {
    memory.last_addr().0.saturating_add(1)
}
