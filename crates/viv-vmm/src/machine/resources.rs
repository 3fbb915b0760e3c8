//! What a machine has of its host's memory and processors, changed while it runs.

use std::sync::{Arc, Mutex, PoisonError};

use viv_arch::state::RunState;
use viv_arch::{VcpuState, msr};
use viv_devices::cpu_hotplug::CpuHotplug;
use viv_devices::layout;
use viv_devices::virtio::MEMORY_BLOCK;
use viv_engine::memory;

use super::Machine;
use crate::error::MachineError;
use crate::protocol::{BalloonStatus, MachineState, MemoryStatus, Resources, VcpuStatus};

/// Bytes of a page as balloons count them.
const PAGE: u64 = 4096;

/// The state in which processors wait for the first to start them. Firmware sets MSRs alike on all of them.
pub(crate) fn parked(msrs: Vec<(u32, u64)>) -> VcpuState {
    VcpuState { run_state: RunState::WaitForSipi, msrs, ..VcpuState::reset() }
}

/// Which vCPUs of a machine are there.
#[derive(Clone)]
pub(crate) enum Processors {
    /// So many, for good.
    Fixed(u32),
    /// What the guest and this device have agreed upon.
    Pluggable(Arc<Mutex<CpuHotplug>>),
}

impl Processors {
    /// For each vCPU, whether it is there.
    pub(crate) fn present(&self) -> Vec<bool> {
        match self {
            Self::Fixed(count) => (0..*count).map(|_| true).collect(),
            Self::Pluggable(device) => lock(device).present().collect(),
        }
    }

    /// What the firmware tables say of how they come and go.
    pub(crate) fn hotplug(&self) -> Option<viv_boot::acpi::CpuHotplug> {
        match self {
            Self::Fixed(_) => None,
            Self::Pluggable(_) => Some(viv_boot::acpi::CpuHotplug {
                ports: layout::CPU_HOTPLUG..layout::CPU_HOTPLUG + layout::CPU_HOTPLUG_LENGTH,
                gpe: layout::CPU_HOTPLUG_GPE,
                present: self.present(),
            }),
        }
    }
}

/// Locks a device, whatever happened to its lock's last holder.
pub(super) fn lock<T>(device: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Machine {
    /// What it has, and what its guest says of it. Asks the guest for newer statistics, which come later.
    #[must_use]
    pub fn resources(&self) -> Resources {
        let present = self.processors.present();
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let there = count(present.iter().filter(|present| **present).count());
        let wanted = match &self.processors {
            Processors::Fixed(count) => *count,
            Processors::Pluggable(device) => lock(device).wanted(),
        };
        let balloon = self.balloon.as_ref().map(|balloon| {
            let mut balloon = lock(balloon);
            balloon.ask_statistics();
            BalloonStatus {
                wanted: u64::from(balloon.target()) * PAGE,
                actual: u64::from(balloon.actual()) * PAGE,
                statistics: balloon.statistics(),
            }
        });
        let least = self.memory_bytes;
        let (plugged, requested, room) = self.pluggable.as_ref().map_or((0, 0, 0), |memory| {
            let memory = lock(memory);
            (memory.plugged(), memory.requested(), memory.size())
        });
        Resources {
            memory: MemoryStatus { actual: least + plugged, wanted: least + requested, most: least + room },
            present_bytes: memory::present_bytes(&self.memory),
            balloon,
            vcpus: VcpuStatus { present: there, wanted, most: count(present.len()) },
        }
    }

    /// Asks the guest to do without so many bytes of its memory, rounded down to pages.
    ///
    /// # Errors
    /// When it has no balloon, is over, or has not so much memory.
    pub fn set_balloon(&mut self, bytes: u64) -> Result<(), MachineError> {
        self.expect_alive("take memory from")?;
        let Some(balloon) = &self.balloon else { return Err(MachineError::NoBalloon) };
        let pages = u32::try_from(bytes / PAGE).ok().filter(|_| bytes < self.memory_bytes);
        let most = self.memory_bytes;
        lock(balloon).set_target(pages.ok_or(MachineError::BalloonTooLarge { bytes, most })?);
        Ok(())
    }

    /// Wants the machine to have so many bytes of memory, which the guest plugs and unplugs in its own time and as far as
    /// it can.
    ///
    /// # Errors
    /// When it is over, or that is less than it has for good, more than there is room for, or not in blocks.
    pub fn set_memory(&mut self, bytes: u64) -> Result<(), MachineError> {
        self.expect_alive("change the memory of")?;
        let least = self.memory_bytes;
        let room = self.pluggable.as_ref().map_or(0, |memory| lock(memory).size());
        let more = bytes.checked_sub(least).filter(|more| *more <= room && more.is_multiple_of(MEMORY_BLOCK));
        let most = least + room;
        let more = more.ok_or(MachineError::MemorySize { bytes, least, most })?;
        if let Some(memory) = &self.pluggable {
            lock(memory).set_requested(more);
        }
        Ok(())
    }

    /// Wants the machine to have so many vCPUs: more are there at once, for the guest to take into use; fewer once the
    /// guest has ejected those with the highest indices, or when the machine is reset.
    ///
    /// # Errors
    /// When it is over, or there is no room for so many.
    pub fn set_vcpus(&mut self, count: u32) -> Result<(), MachineError> {
        self.expect_alive("change the processors of")?;
        let most = u32::try_from(self.vcpus.len()).unwrap_or(u32::MAX);
        if !(1..=most).contains(&count) {
            return Err(MachineError::Vcpus { count, most });
        }
        let Processors::Pluggable(device) = self.processors.clone() else { return Ok(()) };
        let running = self.state == MachineState::Running;
        if self.state == MachineState::Created {
            lock(&device).set_wanted(count);
            // There is no guest yet to notice anything.
            viv_devices::Device::reset(&mut *lock(&device));
            return Ok(());
        }
        self.halt();
        let told = lock(&device).set_wanted(count);
        let changed = self.settle_vcpus();
        if told {
            lock(&self.power).raise_gpe(layout::CPU_HOTPLUG_GPE);
        }
        if running {
            self.run();
        }
        changed
    }

    /// Goes on after the guest has ejected a processor.
    ///
    /// # Errors
    /// When the engine does not take the state of the one that is gone.
    pub(crate) fn vcpu_ejected(&mut self) -> Result<(), MachineError> {
        let running = self.state == MachineState::Running;
        if running {
            self.halt();
        }
        let settled = self.settle_vcpus();
        self.core.release();
        if running {
            self.run();
        }
        settled
    }

    /// Lets vCPUs run that are there and no others, and makes those that have come or gone wait to be started. While the
    /// gate is closed.
    pub(crate) fn settle_vcpus(&self) -> Result<(), MachineError> {
        let mut parked = None;
        for (vcpu, present) in self.vcpus.iter().zip(self.processors.present()) {
            if vcpu.is_absent() == present {
                let state = match &mut parked {
                    Some(state) => state,
                    none => none.insert(VcpuState { tsc: self.common_tsc()?, ..self.parked.clone() }),
                };
                vcpu.vcpu().load(state)?;
                vcpu.set_absent(!present);
            }
        }
        Ok(())
    }

    /// The time-stamp counter of a processor without an adjustment, by the first's.
    fn common_tsc(&self) -> Result<u64, MachineError> {
        let Some(first) = self.vcpus.first() else { return Ok(0) };
        let VcpuState { tsc, msrs, .. } = first.vcpu().save()?;
        let adjust = msrs.iter().find(|(number, _)| *number == msr::IA32_TSC_ADJUST);
        Ok(tsc.wrapping_sub(adjust.map_or(0, |&(_, value)| value)))
    }

    fn expect_alive(&self, action: &'static str) -> Result<(), MachineError> {
        match self.state {
            MachineState::Stopped => Err(MachineError::State { action, state: self.state }),
            MachineState::Created | MachineState::Running | MachineState::Paused => Ok(()),
        }
    }
}
