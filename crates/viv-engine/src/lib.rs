//! What an engine is.
//!
//! An engine runs guest instructions: `viv-soft` on a software CPU, `viv-kvm` on the host's. This crate is
//! the contract between engines and the machine around them, so that either can stand behind the same
//! machine and a machine saved under one goes on under the other.
//!
//! - [`Engine`], [`Vm`], [`Vcpu`]: made in this order; one thread runs each vCPU.
//! - [`Platform`]: what the engine calls: port and memory I/O that is not RAM, the 8259's acknowledge cycle,
//!   the end of level-triggered interrupts.
//! - [`memory`]: guest RAM, with the record of written pages that engines and devices share.
//! - [`interrupt`]: message-signalled interrupts, the only way in for devices behind an IOAPIC or MSI-X, and
//!   the 8259's INTR line.
//! - [`debug`]: what a debugger outside the guest asks of a vCPU.
//! - [`shortcut`]: ways between guests and devices that leave the vCPUs' threads out, where an engine has them.
//! - [`time`]: guest time, and timers for devices.
//!
//! What must hold for every engine:
//! - [`Vcpu::run`] returns only at an instruction boundary, with the whole state in reach of [`Vcpu::save`].
//! - [`Kick::kick`] from any thread makes a running [`Vcpu::run`] return soon, and one that has not begun
//!   return at once.
//! - A page written by the guest is reported by [`Vm::take_dirty_pages`] once written, however it was written.
//!
//! Engines know no devices; devices know no engine: they meet in the traits here.
#![forbid(unsafe_code)]

mod a20;
pub mod debug;
pub mod interrupt;
pub mod memory;
pub mod shortcut;
pub mod time;
mod translations;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use viv_arch::{CpuidTable, VcpuState};

pub use a20::A20Target;
pub use debug::{DebugControl, DebugStop};
pub use interrupt::{ExtIntTarget, Msi, MsiTarget};
pub use memory::GuestMemory;
pub use shortcut::{Doorbell, MessageRoute, Shortcuts};
pub use time::{Clock, Timer};
pub use translations::Translations;

/// The engines there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineKind {
    /// The host's processor, through KVM.
    Kvm,
    /// The software CPU.
    Soft,
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "kvm",
            Self::Soft => "soft",
        })
    }
}

/// Why an engine cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The host lacks what the engine needs.
    #[error("the {engine} engine cannot run here: {reason}")]
    Unavailable {
        /// Which engine.
        engine: EngineKind,
        /// What is missing, and what to do about it.
        reason: String,
    },
    /// A request to the host failed.
    #[error("{action}")]
    Host {
        /// What was being done.
        action: &'static str,
        /// What the host answered.
        #[source]
        source: std::io::Error,
    },
    /// A saved state does not fit.
    #[error("cannot load the vCPU state: {0}")]
    BadState(String),
}

/// What a virtual machine needs from the start.
pub struct VmParameters {
    /// What the guest reads and writes: RAM, and files beside it.
    pub memory: GuestMemory,
    /// Memory that the guest can read and execute but not write, such as firmware and files, if there is any. Writes go to the
    /// [`Platform`].
    pub rom: Option<GuestMemory>,
    /// How many vCPUs there can be; the local APIC id of each is its index.
    pub vcpus: u32,
    /// What CPUID answers.
    pub cpuid: CpuidTable,
    /// Guest time.
    pub clock: Arc<dyn Clock>,
}

/// A way to run guests.
pub trait Engine: Send + Sync {
    /// Which one this is.
    fn kind(&self) -> EngineKind;

    /// Frequency of the time-stamp counter that guests will see, in kHz.
    fn tsc_khz(&self) -> u32;

    /// What of the processor model `wanted` guests can have: what the engine lacks is left out, nothing is added.
    fn offered(&self, wanted: &CpuidTable) -> CpuidTable {
        wanted.clone()
    }

    /// Makes a virtual machine with no vCPU yet.
    fn create_vm(&self, parameters: VmParameters) -> Result<Arc<dyn Vm>, EngineError>;
}

/// A virtual machine as its engine sees it: memory, interrupt delivery, vCPUs.
pub trait Vm: MsiTarget + ExtIntTarget + A20Target + Send + Sync {
    /// Makes vCPU `index`, in the state after power-on ([`VcpuState::reset`]): vCPU 0 ready to run, the others
    /// waiting for a start-up IPI.
    fn create_vcpu(&self, index: u32, platform: Arc<dyn Platform>) -> Result<Box<dyn Vcpu>, EngineError>;

    /// The pages of guest RAM that were written since the last call, as page numbers (guest-physical address
    /// divided by 4096) in ascending order; at the first call, since the memory was made.
    /// More may be reported than were written: an engine may take up its record at the first call.
    fn take_dirty_pages(&self) -> Result<Vec<u64>, EngineError>;

    /// The engine's ways between guests and devices that leave the vCPUs' threads out, if it has them.
    fn shortcuts(&self) -> Option<&dyn Shortcuts> {
        None
    }
}

/// Why [`Vcpu::run`] returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// It was kicked.
    Kicked,
    /// The debugger outside the guest wants it to stand still here.
    Debug(DebugStop),
    /// The guest shut the processor down: an exception during the delivery of a double fault.
    TripleFault,
    /// The engine met something that it cannot do. The text says what, for the log and the user.
    Unsupported(String),
}

/// One vCPU, owned by the thread that runs it.
pub trait Vcpu: Send {
    /// Runs the guest until something ends it. A vCPU that halts waits here, without using the host CPU.
    fn run(&mut self) -> Result<Exit, EngineError>;

    /// The whole state. The vCPU is unchanged.
    fn save(&mut self) -> Result<VcpuState, EngineError>;

    /// Takes over a whole state, dropping the one it had.
    fn load(&mut self, state: &VcpuState) -> Result<(), EngineError>;

    /// Says what the debugger outside the guest wants, from the next [`Vcpu::run`] on, in place of what it wanted before.
    /// It is no part of the state, and [`Vcpu::load`] leaves it as it is.
    fn set_debug(&mut self, control: &DebugControl) -> Result<(), EngineError>;

    /// The handle by which other threads stop it.
    fn kicker(&self) -> Arc<dyn Kick>;

    /// How many guest instructions it has executed, if the engine counts them.
    fn instructions(&self) -> Option<u64> {
        None
    }

    /// What its translator has done, if it has one.
    fn translations(&self) -> Option<Translations> {
        None
    }
}

/// Stops a vCPU from another thread.
pub trait Kick: Send + Sync {
    /// Makes the current or the next [`Vcpu::run`] return [`Exit::Kicked`].
    fn kick(&self);
}

/// The machine around the processors, as they see it. Called on vCPU threads, with no lock of the engine held.
pub trait Platform: Send + Sync {
    /// Reads 1, 2 or 4 bytes from a port. What nothing answers reads as ones.
    fn port_read(&self, port: u16, data: &mut [u8]);

    /// Writes 1, 2 or 4 bytes to a port.
    fn port_write(&self, port: u16, data: &[u8]);

    /// Reads 1 to 8 bytes at a guest-physical address that is not memory. What nothing answers reads as ones.
    fn memory_read(&self, address: u64, data: &mut [u8]);

    /// Writes 1 to 8 bytes at a guest-physical address that is not RAM, read-only memory included.
    fn memory_write(&self, address: u64, data: &[u8]);

    /// The 8259's interrupt acknowledge cycle: the vector, or `None` if its request has gone away.
    fn acknowledge_extint(&self) -> Option<u8>;

    /// A local APIC has ended a level-triggered interrupt with this vector: for the IOAPICs.
    fn end_of_interrupt(&self, vector: u8);
}
