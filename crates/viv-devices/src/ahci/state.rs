//! Saving and restoring.

use serde::{Deserialize, Serialize};

use super::drive::DriveState;
use super::regs::{PORTS, SLOTS, link};
use super::{Ahci, lock};
use crate::pci::ConfigState;
use crate::{DeviceError, SavedState};

const VERSION: u16 = 1;

/// A controller with its drives.
#[derive(Serialize, Deserialize)]
struct AhciState {
    config: ConfigState,
    interrupts_enabled: bool,
    interrupt_status: u32,
    ports: Vec<PortState>,
    drives: Vec<Option<DriveState>>,
}

/// A port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PortState {
    /// PxCLB and PxCLBU.
    pub(super) command_list: u64,
    /// PxFB and PxFBU.
    pub(super) received_fis: u64,
    /// PxIS, without what it shows of PxSERR.
    pub(super) interrupt_status: u32,
    /// PxIE.
    pub(super) interrupt_enable: u32,
    /// The bits of PxCMD that keep what is written.
    pub(super) command: u32,
    /// PxTFD.
    pub(super) task_file: u32,
    /// PxSIG.
    pub(super) signature: u32,
    /// PxSSTS.
    pub(super) sata_status: u32,
    /// PxSCTL.
    pub(super) sata_control: u32,
    /// PxSERR.
    pub(super) sata_error: u32,
    /// PxSACT.
    pub(super) sata_active: u32,
    /// PxCI.
    pub(super) command_issue: u32,
    /// PxCMD.CCS: the slot of the last command.
    pub(super) slot: u8,
    /// The slot that has the next turn.
    pub(super) next_slot: u8,
    /// Whether an error keeps it from working until it is stopped and started.
    pub(super) halted: bool,
    /// Whether the drive has reported in and nobody received it.
    pub(super) greeting_due: bool,
    /// Whether the driver holds the drive in a reset by software.
    pub(super) in_soft_reset: bool,
}

impl Ahci {
    /// Commands that have begun are done when this has the drives' locks; those that have not are saved as issued,
    /// and begin after the restore.
    pub(super) fn save_state(&self) -> Result<SavedState, DeviceError> {
        let drives: Vec<_> = self.controller.drives.iter().map(lock).collect();
        let hba = lock(&self.controller.hba);
        let state = AhciState {
            config: self.config.save(),
            interrupts_enabled: hba.interrupts_enabled,
            interrupt_status: hba.interrupt_status,
            ports: hba.ports.iter().map(|port| port.state).collect(),
            drives: drives.iter().map(|drive| drive.as_ref().map(super::Drive::save)).collect(),
        };
        SavedState::encode(&self.name, VERSION, &state)
    }

    /// After a failure the controller is as after power-on.
    pub(super) fn restore_state(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        let state: AhciState = state.decode(VERSION)?;
        self.power_on();
        let taken_over = self.take_over(&state);
        if taken_over.is_err() {
            self.power_on();
        }
        taken_over
    }

    fn take_over(&mut self, state: &AhciState) -> Result<(), DeviceError> {
        let invalid = |reason: String| DeviceError::Invalid { name: self.name.clone(), reason };
        if state.ports.len() != PORTS || state.drives.len() != PORTS {
            return Err(invalid(format!("it has {} ports instead of {PORTS}", state.ports.len())));
        }
        if state.ports.iter().any(|port| port.slot >= SLOTS || port.next_slot >= SLOTS) {
            return Err(invalid("it works on a command slot that does not exist".to_owned()));
        }
        if !self.config.restore(&state.config) {
            return Err(invalid("it is of another function".to_owned()));
        }
        let mut drives: Vec<_> = self.controller.drives.iter().map(lock).collect();
        let mut hba = lock(&self.controller.hba);
        for (index, (drive, saved)) in drives.iter_mut().zip(&state.drives).enumerate() {
            match (drive.as_mut(), saved) {
                (None, None) => {}
                (Some(drive), Some(saved)) => {
                    drive.restore(saved).map_err(|reason| invalid(format!("at port {index}, {reason}")))?;
                }
                _ => {
                    return Err(invalid(format!(
                        "at port {index} there was a drive and is none, or now is one"
                    )));
                }
            }
        }
        for ((port, saved), drive) in hba.ports.iter_mut().zip(&state.ports).zip(&drives) {
            if drive.is_none() && saved.sata_status == link::UP {
                return Err(invalid("it has a link to no drive".to_owned()));
            }
            port.state = *saved;
        }
        (hba.interrupts_enabled, hba.interrupt_status) = (state.interrupts_enabled, state.interrupt_status);
        hba.wires.update(&self.config);
        hba.resume_interrupts();
        drop(hba);
        drop(drives);
        self.controller.ring_all();
        Ok(())
    }
}
