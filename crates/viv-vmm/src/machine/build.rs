//! From a config to a machine.

use std::sync::Arc;

use viv_arch::CpuidTable;
use viv_arch::cpuid::ModelParameters;
use viv_devices::pci::Placing;
use viv_engine::time::HostClock;
use viv_engine::{Engine, VmParameters, memory};

use super::Machine;
use super::assembly::{Assembly, Surroundings};
use super::boot::BootSource;
use super::core::Core;
use super::disks;
use super::reactor::Reactor;
use super::timers::Timers;
use super::vcpu::VcpuThread;
use crate::config::{Boot, ConfigError, Fds, MachineConfig};
use crate::error::MachineError;
use crate::host::host_memory;
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
        config.validate()?;
        check_host_memory(config.memory_bytes)?;
        let boot = BootSource::open(&config.boot, fds)?;
        let disks = config.disks.iter().map(disks::open).collect::<Result<Vec<_>, _>>()?;

        let memory = memory::allocate(config.memory_bytes)
            .map_err(|source| MachineError::Memory { bytes: config.memory_bytes, source })?;
        let clock = Arc::new(HostClock::stopped_at(0));
        let tsc_khz = engine.tsc_khz();
        let model = CpuidTable::x86_64_v3(ModelParameters { vcpus: config.vcpus, tsc_khz });
        let cpuid = engine.offered(&model);
        let (rom, placing) = match &boot {
            BootSource::Kernel(_) => (None, Placing::Machine),
            BootSource::Firmware(firmware) => (Some(firmware.memory().clone()), Placing::Firmware),
        };
        let vm = engine.create_vm(VmParameters {
            memory: memory.clone(),
            rom,
            vcpus: config.vcpus,
            cpuid: cpuid.clone(),
            clock: clock.clone(),
        })?;

        let core = Core::new().map_err(MachineError::host("make an eventfd"))?;
        let timers = Timers::new(clock.clone()).map_err(MachineError::host("make a timerfd"))?;
        let mut assembly = Assembly::new(
            Surroundings {
                vm: vm.clone(),
                memory: memory.clone(),
                clock: clock.clone(),
                timers: Arc::clone(&timers),
                core: Arc::clone(&core),
            },
            placing,
            fds,
        )?;
        let power = assembly.add_chipset()?;
        assembly.add_serial(config.serial.unwrap_or_default())?;
        for (index, disk) in disks.into_iter().enumerate() {
            assembly.add_disk(index, disk)?;
        }
        assembly.add_entropy()?;
        let console = assembly.add_console(config.console, config.agent.as_ref())?;
        if let (BootSource::Firmware(firmware), Boot::Firmware(told)) = (&boot, &config.boot) {
            assembly.add_firmware(firmware, told, config.vcpus)?;
        }
        let Assembly { board, sources, streams, drained, .. } = assembly;

        let mut vcpus = Vec::new();
        let mut kickers = Vec::new();
        for index in 0..config.vcpus {
            let vcpu = vm.create_vcpu(index, board.platform())?;
            kickers.push(vcpu.kicker());
            let thread = VcpuThread::start(index, vcpu, Arc::clone(&core));
            vcpus.push(thread.map_err(MachineError::host("start a vCPU's thread"))?);
        }
        core.set_kickers(kickers);
        let reactor = Reactor::start(sources, Arc::clone(&core))
            .map_err(MachineError::host("start the thread for devices"))?;
        Ok(Self {
            name: config.name.clone(),
            memory,
            memory_bytes: config.memory_bytes,
            cpuid,
            engine: engine.kind(),
            engine_reason: engine_reason.to_owned(),
            tsc_khz,
            clock,
            vm,
            vcpus,
            board,
            timers,
            core,
            reactor: Some(reactor),
            boot,
            streams,
            drained,
            power,
            console,
            state: MachineState::Created,
            resets: 0,
            figures: None,
            written: PageSet::default(),
        })
    }
}

/// Refuses more memory than the host has with its swap: such a guest would be killed, at some time of the
/// host's choice.
fn check_host_memory(bytes: u64) -> Result<(), ConfigError> {
    let host = host_memory();
    if host != 0 && bytes > host { Err(ConfigError::HostMemory { bytes, host }) } else { Ok(()) }
}
