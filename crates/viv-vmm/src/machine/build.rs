//! From a config to a machine.

use std::sync::{Arc, Mutex};

use viv_arch::CpuidTable;
use viv_arch::cpuid::ModelParameters;
use viv_devices::layout;
use viv_devices::uart::Uart;
use viv_engine::time::HostClock;
use viv_engine::{Clock, Engine, VmParameters, memory};
use vm_memory::GuestMemoryBackend;

use super::Machine;
use super::board::Board;
use super::boot::BootFiles;
use super::core::Core;
use super::disks;
use super::notify::Notify;
use super::reactor::{Reactor, Source};
use super::serial::{SerialBackend, SerialSource};
use super::timers::{TimerSource, Timers};
use super::vcpu::VcpuThread;
use crate::config::{ConfigError, FdSlot, Fds, MachineConfig, Stream};
use crate::error::MachineError;
use crate::host::host_memory;
use crate::protocol::MachineState;
use crate::snapshot::PageSet;
use crate::stream::HostStream;

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
        let boot = BootFiles::open(&config.boot, fds)?;
        let disks = config.disks.iter().map(disks::open).collect::<Result<Vec<_>, _>>()?;

        let memory = memory::allocate(config.memory_bytes)
            .map_err(|source| MachineError::Memory { bytes: config.memory_bytes, source })?;
        let ram_end = memory.last_addr().0.saturating_add(1);
        let clock = Arc::new(HostClock::stopped_at(0));
        let tsc_khz = engine.tsc_khz();
        let cpuid = CpuidTable::x86_64_v3(ModelParameters { vcpus: config.vcpus, tsc_khz });
        let vm = engine.create_vm(VmParameters {
            memory: memory.clone(),
            vcpus: config.vcpus,
            cpuid: cpuid.clone(),
            clock: clock.clone(),
        })?;

        let core = Core::new().map_err(MachineError::host("make an eventfd"))?;
        let timers = Timers::new(clock.clone()).map_err(MachineError::host("make a timerfd"))?;
        let drained = Arc::new(Notify::new().map_err(MachineError::host("make an eventfd"))?);
        let mut parts = Parts {
            board: Board::new(&vm, ram_end)?,
            sources: vec![Box::new(TimerSource(Arc::clone(&timers)))],
            streams: Vec::new(),
            fds,
            drained: Arc::clone(&drained),
        };
        parts.add_serial(config.serial.unwrap_or_default())?;
        let Parts { board, sources, streams, .. } = parts;

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
            state: MachineState::Created,
            resets: 0,
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

/// A board on which devices are being put, with what they need beside it.
struct Parts<'a> {
    board: Board,
    sources: Vec<Box<dyn Source>>,
    streams: Vec<Arc<HostStream>>,
    fds: &'a Fds,
    drained: Arc<Notify>,
}

impl Parts<'_> {
    fn stream(&mut self, stream: Stream) -> Result<Arc<HostStream>, MachineError> {
        let get = |slot: Option<FdSlot>| slot.map(|slot| self.fds.get(slot)).transpose();
        let started = HostStream::start(get(stream.input)?, get(stream.output)?, &self.drained);
        let stream = Arc::new(started.map_err(MachineError::host("start a stream's thread"))?);
        self.streams.push(Arc::clone(&stream));
        Ok(stream)
    }

    fn add_serial(&mut self, stream: Stream) -> Result<(), MachineError> {
        let stream = self.stream(stream)?;
        let line = self.board.line(layout::UART0_IRQ);
        let backend = Box::new(SerialBackend(Arc::clone(&stream)));
        let uart = Arc::new(Mutex::new(Uart::new(0, layout::UART0, line, backend)));
        self.board.add(uart.clone(), &Uart::PORTS)?;
        self.sources.push(Box::new(SerialSource { uart, stream }));
        Ok(())
    }
}
