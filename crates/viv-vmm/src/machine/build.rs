//! From a config to a machine.

use std::fs::File;
use std::sync::Arc;

use viv_arch::CpuidTable;
use viv_arch::cpuid::ModelParameters;
use viv_boot::acpi::MemoryLayout;
use viv_devices::a20::A20Gate;
use viv_devices::ahci::{AtaDisk, Cdrom, Drive};
use viv_devices::layout as places;
use viv_engine::memory::{self, Extensible, Pages};
use viv_engine::time::HostClock;
use viv_engine::{Engine, EngineKind, VmParameters};
use viv_jail::ThreadKind;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use super::Machine;
use super::acpi::Described;
use super::assembly::{Assembly, Surroundings, memory_end};
use super::block;
use super::boot::BootSource;
use super::core::Core;
use super::opened::Opened;
use super::pmem::{self, Reach};
use super::reactor::Reactor;
use super::resources::parked;
use super::seat::Seat;
use super::timers::Timers;
use super::vcpu::VcpuThread;
use crate::config::{Boot, DiskBus, Fds, MachineConfig};
use crate::error::MachineError;
use crate::protocol::MachineState;
use crate::snapshot::PageSet;

impl Machine {
    /// Builds a machine that is not started yet. Everything that the config names is opened.
    ///
    /// # Errors
    /// When the config describes no machine, or the host does not give what it takes.
    pub fn build(
        config: &MachineConfig,
        fds: &Fds,
        engine: &dyn Engine,
        engine_reason: &str,
    ) -> Result<Self, MachineError> {
        Self::assemble(config, fds, Opened::open(config, fds)?, engine, engine_reason)
    }

    /// Builds a machine that is not started yet, of files that are open.
    ///
    /// # Errors
    /// When the host does not give what it takes.
    pub(crate) fn assemble(
        config: &MachineConfig,
        fds: &Fds,
        opened: Opened,
        engine: &dyn Engine,
        engine_reason: &str,
    ) -> Result<Self, MachineError> {
        let Opened {
            boot,
            vga_bios,
            variables,
            disks,
            vhost_user_disks,
            cdroms,
            pmems,
            networks,
            shares,
            ..
        } = opened;

        let room = config.max_memory_bytes - config.memory_bytes;
        let Extensible { all: memory, ram, room } = allocate(config, engine.kind(), room)?;
        let layout = (!room.is_empty()).then(|| MemoryLayout {
            ram: ram.iter().map(|part| part.start_addr().0..part.start_addr().0 + part.len()).collect(),
            room: room.clone(),
        });
        let firmware = match &boot {
            BootSource::Kernel(_) => None,
            BootSource::Firmware(firmware) => Some(firmware.memory()),
        };
        let pmems = pmem::place(&memory, pmems);
        let reach = Reach::new(&memory, firmware, &pmems)?;
        let clock = Arc::new(HostClock::stopped_at(0));
        let tsc_khz = engine.tsc_khz();
        let mut model = CpuidTable::x86_64_v3(ModelParameters { vcpus: config.max_vcpus, tsc_khz });
        model.set_physical_bits(physical_bits(memory_end(&reach.devices)));
        let cpuid = engine.offered(&model);
        let (needed, bits) = (model.physical_bits(), cpuid.physical_bits());
        if needed > bits && places::pci_mmio64(memory_end(&reach.devices)).end > 1 << bits {
            return Err(MachineError::Addresses { needed, bits });
        }
        let profile = config.boot.profile();
        let vm = engine.create_vm(VmParameters {
            memory: reach.memory.clone(),
            rom: reach.rom.clone(),
            vcpus: config.max_vcpus,
            cpuid: cpuid.clone(),
            clock: clock.clone(),
        })?;

        let core = Core::new().map_err(MachineError::host("make an eventfd"))?;
        let timers = Timers::new(clock.clone()).map_err(MachineError::host("make a timerfd"))?;
        let mut assembly = Assembly::new(
            Surroundings {
                vm: vm.clone(),
                memory: reach.devices.clone(),
                ram: ram.clone(),
                clock: clock.clone(),
                timers: Arc::clone(&timers),
                core: Arc::clone(&core),
                a20: A20Gate::new(vm.clone()),
            },
            profile,
            fds,
        )?;
        let power = assembly.add_chipset(profile)?;
        let generation = assembly.add_hosted()?;
        if config.watchdog.is_some() {
            assembly.add_watchdog()?;
        }
        let processors = assembly.add_processors(config.vcpus, config.max_vcpus)?;
        let typist = if config.display {
            Some(assembly.add_keyboard()?)
        } else {
            assembly.add_keyboard_controller()?;
            None
        };
        assembly.add_serial(config.serial.unwrap_or_default())?;
        if let Some(log) = config.debug_log {
            assembly.add_debug_ports(log)?;
        }
        if config.exit_port {
            assembly.add_exit_port()?;
        }
        let mut sata = Vec::new();
        for (index, (disk, told)) in disks.into_iter().zip(&config.disks).enumerate() {
            match told.bus {
                DiskBus::Virtio => assembly.add_disk(index, disk, &told.tuning, config.vcpus)?,
                DiskBus::Sata => {
                    sata.push(Drive::Disk(AtaDisk::new(disk, &block::serial(index, &told.tuning))));
                }
            }
        }
        for (index, socket) in (config.disks.len()..).zip(vhost_user_disks) {
            assembly.add_vhost_user_disk(index, socket)?;
        }
        sata.extend(
            (0..)
                .zip(cdroms)
                .map(|(index, medium)| Drive::Cdrom(Cdrom::new(Some(medium), &format!("viv-cdrom{index}")))),
        );
        assembly.add_sata(sata)?;
        assembly.add_entropy(config.entropy_bps)?;
        let console = assembly.add_console(config.console, &config.consoles, config.agent.as_ref())?;
        let mut handles = Vec::new();
        for (index, (network, far)) in config.networks.iter().zip(networks).enumerate() {
            handles.extend(assembly.add_network(index, network, far)?);
        }
        for (index, (share, socket)) in config.shares.iter().zip(shares).enumerate() {
            assembly.add_share(index, share, socket)?;
        }
        let vsock = config.vsock.as_ref().map(|told| assembly.add_vsock(told)).transpose()?;
        let seat = match typist {
            Some(typist) => {
                let display = assembly.add_display(vga_bios)?;
                let picture = config.screenshot.map(|slot| fds.get(slot).map(File::from)).transpose()?;
                Some(Seat::new(display, typist, picture))
            }
            None => None,
        };
        let balloon = config.balloon.then(|| assembly.add_balloon()).transpose()?;
        let pluggable = (!room.is_empty()).then(|| assembly.add_pluggable(room)).transpose()?;
        let mut pmem_sources = Vec::new();
        for (index, placed) in pmems.into_iter().enumerate() {
            pmem_sources.push(assembly.add_pmem(index, placed)?);
        }
        let described = Described {
            profile,
            processors: processors.clone(),
            memory: layout,
            display: config.display,
            watchdog: config.watchdog.is_some(),
        };
        if let (BootSource::Firmware(firmware), Boot::Firmware(told)) = (&boot, &config.boot) {
            assembly.add_firmware(firmware, told, variables, &described)?;
        }
        let Assembly {
            board,
            sources,
            disks: disk_threads,
            back_ends: back_end_threads,
            network_sources,
            streams,
            drained,
            ..
        } = assembly;

        let mut vcpus = Vec::new();
        let mut kickers = Vec::new();
        for index in 0..config.max_vcpus {
            let vcpu = vm.create_vcpu(index, board.platform())?;
            kickers.push(vcpu.kicker());
            let thread = VcpuThread::start(index, vcpu, Arc::clone(&core));
            vcpus.push(thread.map_err(MachineError::host("start a vCPU's thread"))?);
        }
        core.set_kickers(kickers);
        let thread = |kind, name: &str, sources| {
            Reactor::start(kind, name, sources, Arc::clone(&core))
                .map_err(MachineError::host("start a thread for devices"))
        };
        let mut reactors = vec![thread(ThreadKind::Devices, "devices", sources)?];
        let mut disks = Vec::new();
        for (index, disk) in disk_threads.into_iter().enumerate() {
            reactors.push(thread(ThreadKind::Disk, &format!("disk {index}"), disk.sources)?);
            disks.push(disk.block);
        }
        for (index, source) in pmem_sources.into_iter().enumerate() {
            reactors.push(thread(ThreadKind::Pmem, &format!("pmem {index}"), vec![source])?);
        }
        let mut back_ends = Vec::new();
        for (index, back_end) in back_end_threads.into_iter().enumerate() {
            reactors.push(thread(ThreadKind::Devices, &format!("back end {index}"), back_end.sources)?);
            back_ends.push(back_end.device);
        }
        // A busy network must not keep disks and timers waiting.
        if !network_sources.is_empty() {
            reactors.push(thread(ThreadKind::Network, "network", network_sources)?);
        }
        if let Some(sources) = vsock {
            reactors.push(thread(ThreadKind::Vsock, "vsock", sources)?);
        }
        Ok(Self {
            name: config.name.clone(),
            memory,
            ram,
            reached: (reach.memory, reach.rom),
            memory_bytes: config.memory_bytes,
            cpuid,
            engine: engine.kind(),
            engine_reason: engine_reason.to_owned(),
            tsc_khz,
            clock,
            vm,
            vcpus,
            processors,
            parked: parked(Vec::new()),
            board,
            timers,
            core,
            reactors,
            disks,
            back_ends,
            networks: handles,
            boot,
            described,
            streams,
            drained,
            power,
            generation,
            console,
            balloon,
            pluggable,
            seat,
            state: MachineState::Created,
            held: false,
            resets: 0,
            figures: None,
            written: PageSet::default(),
        })
    }
}

/// The machine's memory, and room for more of it.
fn allocate(config: &MachineConfig, engine: EngineKind, room: u64) -> Result<Extensible, MachineError> {
    let bytes = config.memory_bytes;
    if !config.huge_pages {
        return memory::allocate_extensible(bytes, room, Pages::Any)
            .map_err(|source| MachineError::Memory { bytes, source });
    }
    if engine == EngineKind::Soft {
        return Err(MachineError::HugePagesEngine);
    }
    let pages = (bytes + room) / memory::LARGE_PAGE;
    memory::allocate_extensible(bytes, room, Pages::Large)
        .map_err(|source| MachineError::HugePages { pages, source })
}

/// The bits of physical addresses, where memory ends at `memory_end`: 40 if they suffice. OVMF maps all that there can be, and
/// takes hours to map 46 bits where it knows no pages of 1 GiB; of 40 it does not believe that anybody meant them.
fn physical_bits(memory_end: u64) -> u8 {
    if places::pci_mmio64(memory_end).end <= 1 << 40 { 40 } else { 46 }
}
