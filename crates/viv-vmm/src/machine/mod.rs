//! The machine: memory, processors and devices, and what is done to them as a whole.
//!
//! # Threads
//!
//! Each vCPU has a thread, each virtio disk has one ([`block`]), each file that is memory ([`pmem`]) and each device that another process does the work of
//! ([`back_end`]), network interfaces share one, sockets to the host have one ([`vsock`]), and all other devices share another
//! ([`reactor`]), each stream of the host has one for each direction ([`crate::stream`]), and the machine's owner calls [`Machine`]'s
//! methods from its own. The threads of vCPUs and devices work only while the [`gate`] is open. The owner closes it,
//! by which they come to a stop between two instructions and between two events, and waits for what the host still
//! does for the disks; then memory, vCPUs and devices are the owner's, to save, to restore, to reset.
//!
//! What the threads cannot decide (a guest that asks for a reset, a triple fault) they leave as a [`Notice`],
//! which holds the gate until the owner has decided.
//!
//! # Locks, in the order in which they are taken
//!
//! 1. a vCPU's, by its thread for as long as it runs the guest, by the owner while the gate is closed;
//! 2. a device's, for one access, one event or one timer (the typist's before the keyboard's; PCI's bus, functions and interrupts have an order
//!    of their own below it);
//! 3. the interrupt controllers';
//! 4. leaves, under which nothing else is taken: timers, stream buffers, notices, the gate.

mod acpi;
mod agent;
mod assembly;
mod back_end;
mod block;
mod board;
mod boot;
mod build;
mod console;
mod core;
mod debugging;
mod disks;
mod firmware;
mod gate;
mod limits;
mod network;
pub(crate) mod notify;
mod opened;
mod pmem;
mod reactor;
mod resources;
mod saving;
mod seat;
mod serial;
mod timers;
mod typist;
mod vcpu;
mod vsock;

#[cfg(test)]
pub(crate) mod tests;

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError};

use viv_arch::{CpuidTable, VcpuState};
use viv_devices::acpi_pm::AcpiPm;
use viv_devices::generation_id::GenerationId;
use viv_devices::virtio::{Balloon, Block, Memory};
use viv_engine::time::HostClock;
use viv_engine::{Clock, EngineKind, GuestMemory, Vm, memory};

pub use self::core::Notice;
pub(crate) use self::opened::Opened;
pub use self::pmem::PmemError;

use self::acpi::Described;
use self::back_end::BackEndDevice;
use self::board::Board;
use self::boot::BootSource;
use self::console::ConsoleHandle;
use self::core::Core;
use self::network::NetworkHandle;
use self::notify::Notify;
use self::reactor::Reactor;
use self::resources::{Processors, parked};
use self::seat::Seat;
use self::timers::Timers;
pub(crate) use self::vcpu::VcpuHandle;
use self::vcpu::VcpuThread;
use crate::config::WindowSize;
use crate::error::MachineError;
use crate::protocol::{Figures, MachineState, Status};
use crate::snapshot::PageSet;
use crate::stream::HostStream;

/// A machine. Made by [`Machine::build`]; dropped, it is switched off.
pub struct Machine {
    name: String,
    /// All of its RAM, with the room for what is plugged in.
    memory: GuestMemory,
    /// What of it firmware and kernel are told of.
    ram: GuestMemory,
    /// What processors reach, files included: to be written, and not.
    reached: (GuestMemory, Option<GuestMemory>),
    /// How much that is.
    memory_bytes: u64,
    cpuid: CpuidTable,
    engine: EngineKind,
    engine_reason: String,
    tsc_khz: u32,
    clock: Arc<HostClock>,
    vm: Arc<dyn Vm>,
    vcpus: Vec<VcpuThread>,
    /// Which of them are there.
    processors: Processors,
    /// The state of those that are not.
    parked: VcpuState,
    board: Board,
    timers: Arc<Timers>,
    core: Arc<Core>,
    /// Dropped to stop the threads for devices.
    reactors: Vec<Reactor>,
    /// The disks whose requests go on by themselves.
    disks: Vec<Arc<Mutex<Block>>>,
    /// The devices that other processes do the work of.
    back_ends: Vec<BackEndDevice>,
    networks: Vec<NetworkHandle>,
    boot: BootSource,
    /// What its firmware tables tell.
    described: Described,
    streams: Vec<Arc<HostStream>>,
    drained: Arc<Notify>,
    power: Arc<Mutex<AcpiPm>>,
    generation: Arc<Mutex<GenerationId>>,
    console: Option<ConsoleHandle>,
    balloon: Option<Arc<Mutex<Balloon>>>,
    /// Memory that comes and goes.
    pluggable: Option<Arc<Mutex<Memory>>>,
    seat: Option<Seat>,
    state: MachineState,
    /// Whether a debugger keeps it from running.
    held: bool,
    resets: u64,
    /// What it did, once it is stopped.
    figures: Option<Figures>,
    /// The pages of RAM that are not known to be zero.
    written: PageSet,
}

impl Machine {
    /// Boots: loads the guest into memory and lets it run.
    ///
    /// # Errors
    /// When it runs already, or its kernel cannot be loaded.
    pub fn start(&mut self) -> Result<(), MachineError> {
        self.expect("start", MachineState::Created)?;
        self.load_guest()?;
        self.run();
        Ok(())
    }

    /// Makes everything stand still, guest time included.
    ///
    /// # Errors
    /// When it does not run.
    pub fn pause(&mut self) -> Result<(), MachineError> {
        self.expect("pause", MachineState::Running)?;
        self.halt();
        Ok(())
    }

    /// Undoes [`Machine::pause`].
    ///
    /// # Errors
    /// When it is not paused.
    pub fn resume(&mut self) -> Result<(), MachineError> {
        self.expect("resume", MachineState::Paused)?;
        self.run();
        Ok(())
    }

    /// Puts processors, devices and memory in the state after power-on and boots anew. A machine that was
    /// paused stays so. Guest time goes on.
    ///
    /// # Errors
    /// When it was never started, or its kernel cannot be loaded any more.
    pub fn reset(&mut self) -> Result<(), MachineError> {
        let running = self.state == MachineState::Running;
        if !running {
            self.expect("reset", MachineState::Paused)?;
        }
        self.halt();
        // Devices first: what they still send to the processors is forgotten with the processors' state.
        self.board.reset();
        self.clear_memory()?;
        self.load_guest()?;
        self.resets = self.resets.saturating_add(1);
        self.core.forget_guest();
        if running {
            self.run();
        }
        Ok(())
    }

    /// Makes it stand still that waits for what becomes of a notice.
    pub(crate) fn pause_on_notice(&mut self) {
        if self.state == MachineState::Running {
            self.halt();
        }
        self.core.release();
    }

    /// Switches it off, for good.
    pub fn stop(&mut self) {
        // The host forgets what a thread asked of it when that thread is gone.
        let core = &self.core;
        core.gate.close(|| core.kick_all());
        self.drain_disks();
        core.gate.end(|| core.kick_all());
        self.clock.stop();
        self.figures.get_or_insert(Figures {
            instructions: self.instructions(),
            translations: self.vcpus.iter().map(|vcpu| vcpu.vcpu().translations()).sum(),
            vcpu_nanoseconds: self.vcpus.iter().map(VcpuThread::spent).sum(),
            guest_nanoseconds: self.clock.now(),
        });
        self.reactors.clear();
        self.vcpus.clear();
        self.state = MachineState::Stopped;
    }

    /// Presses the power button. What follows is the guest's decision.
    ///
    /// # Errors
    /// When it was not started, or is off.
    pub fn press_power_button(&mut self) -> Result<(), MachineError> {
        if self.state != MachineState::Paused {
            self.expect("press the power button of", MachineState::Running)?;
        }
        // The agent is as good as the button, and light guests have nobody else to heed it.
        if self.console.as_ref().is_some_and(ConsoleHandle::shut_down) {
            return Ok(());
        }
        self.power.lock().unwrap_or_else(PoisonError::into_inner).press_power_button();
        Ok(())
    }

    /// Tells the guest that its console's window has another size. Without a console nothing happens.
    pub fn resize(&mut self, size: WindowSize) {
        if let Some(console) = &self.console {
            console.resize(size);
        }
    }

    /// What it is doing.
    #[must_use]
    pub fn state(&self) -> MachineState {
        self.state
    }

    /// What it is doing, in full.
    #[must_use]
    pub fn status(&self) -> Status {
        let instructions = (self.state == MachineState::Paused).then(|| self.instructions()).flatten();
        Status {
            state: self.state,
            engine: self.engine,
            engine_reason: self.engine_reason.clone(),
            guest_nanoseconds: self.clock.now(),
            instructions,
            resets: self.resets,
        }
    }

    /// What it did, once [`Machine::stop`] was called.
    #[must_use]
    pub fn figures(&self) -> Option<Figures> {
        self.figures
    }

    /// Guest instructions executed so far, if the engine counts them. While the gate is closed.
    fn instructions(&self) -> Option<u64> {
        self.vcpus.iter().map(|vcpu| vcpu.vcpu().instructions()).sum()
    }

    /// The oldest notice that was not taken yet.
    pub fn take_notice(&self) -> Option<Notice> {
        self.core.take_notice()
    }

    /// Readable while there are notices.
    #[must_use]
    pub fn noticed(&self) -> BorrowedFd<'_> {
        self.core.noticed()
    }

    /// Whether everything that the guest said has been written to the host's streams. Works after
    /// [`Machine::stop`].
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.streams.iter().all(|stream| stream.is_drained())
    }

    /// Becomes readable when [`Machine::is_drained`] may have become true.
    pub(crate) fn drained(&self) -> &Notify {
        &self.drained
    }

    /// Loads kernel and initrd, and puts the processors at its start.
    fn load_guest(&mut self) -> Result<(), MachineError> {
        let acpi = acpi::parameters(&self.described, self.board.pci());
        let first = self.boot.load(&self.ram, acpi)?;
        self.parked = parked(first.msrs.clone());
        for (index, vcpu) in self.vcpus.iter().enumerate() {
            vcpu.vcpu().load(if index == 0 { &first } else { &self.parked })?;
        }
        self.settle_vcpus()
    }

    /// Makes all of RAM zero, by giving back what the host has memory for.
    fn clear_memory(&mut self) -> Result<(), MachineError> {
        self.note_written()?;
        let present: Vec<_> = memory::present(&self.memory).collect();
        present
            .into_iter()
            .try_for_each(|range| memory::give_back(&self.memory, range))
            .map_err(MachineError::host("clear guest memory"))
    }

    fn note_written(&mut self) -> Result<(), MachineError> {
        self.written.extend(self.vm.take_dirty_pages()?);
        Ok(())
    }

    /// Lets everything run. While a notice holds the gate or a debugger the machine, nothing does.
    fn run(&mut self) {
        self.state = MachineState::Running;
        if !self.held {
            self.back_ends.iter().for_each(BackEndDevice::go_on);
            self.clock.start();
            self.timers.clock_started();
            self.core.gate.open();
        }
    }

    /// Makes everything stand still.
    fn halt(&mut self) {
        let core = &self.core;
        core.gate.close(|| core.kick_all());
        self.drain_disks();
        self.back_ends.iter().for_each(BackEndDevice::rest);
        self.clock.stop();
        self.state = MachineState::Paused;
    }

    /// Waits for what the disks have under way, which still reaches guest memory and the interrupt controllers.
    fn drain_disks(&self) {
        for disk in &self.disks {
            block::lock(disk).drain();
        }
    }

    fn expect(&self, action: &'static str, state: MachineState) -> Result<(), MachineError> {
        if self.state == state { Ok(()) } else { Err(MachineError::State { action, state: self.state }) }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
    }
}
