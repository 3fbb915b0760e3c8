//! A machine to a snapshot and back.

use std::io::{Read, Write};

use viv_arch::state::RunState;
use viv_devices::layout;
use viv_engine::{Clock, memory};

use super::Machine;
use super::assembly::random_id;
use super::resources::{lock, parked};
use crate::error::MachineError;
use crate::protocol::MachineState;
use crate::snapshot::{SavedMachine, read_pages, read_state, write_pages, write_state};

/// How much faster or slower a time-stamp counter may run after a restore, in millionths: less than guests
/// correct for by themselves. Hosts measure theirs anew each time.
const TSC_TOLERANCE: u64 = 250;

impl Machine {
    /// Writes the whole machine, except its disks, to `out`. A running machine stands still meanwhile.
    ///
    /// # Errors
    /// When it was not started, a part of it cannot be saved, or `out` fails.
    pub fn save(&mut self, out: &mut impl Write) -> Result<(), MachineError> {
        let running = self.state == MachineState::Running;
        if !running {
            self.expect("save", MachineState::Paused)?;
        }
        self.halt();
        let saved = self.write_snapshot(out);
        if running {
            self.run();
        }
        saved
    }

    /// Takes over a machine that was saved, in place of [`Machine::start`], and lets it run on.
    ///
    /// # Errors
    /// When this one was started already, or what `input` gives does not fit it; then it is of no more use.
    pub fn restore(&mut self, input: &mut impl Read) -> Result<(), MachineError> {
        self.expect("restore into", MachineState::Created)?;
        self.read_snapshot(input)?;
        self.run();
        Ok(())
    }

    fn write_snapshot(&mut self, out: &mut impl Write) -> Result<(), MachineError> {
        self.note_written()?;
        let vcpus = self.vcpus.iter().map(|vcpu| vcpu.vcpu().save()).collect::<Result<_, _>>()?;
        let state = SavedMachine {
            name: self.name.clone(),
            memory_bytes: self.memory_bytes,
            cpuid: self.cpuid.clone(),
            tsc_khz: self.tsc_khz,
            clock: self.clock.now(),
            resets: self.resets,
            vcpus,
            devices: self.board.save()?,
        };
        write_state(out, &state)?;
        // Pages that were given back are zero, and reading them would take memory for them.
        let mut present = memory::present(&self.memory).peekable();
        let is_present = |&page: &u64| {
            while present.next_if(|range| range.end <= page * 4096).is_some() {}
            present.peek().is_some_and(|range| range.start <= page * 4096)
        };
        write_pages(out, &self.memory, self.written.iter().filter(is_present))?;
        Ok(())
    }

    fn read_snapshot(&mut self, input: &mut impl Read) -> Result<(), MachineError> {
        let saved = read_state(input)?;
        self.check_fit(&saved)?;
        read_pages(input, &self.memory)?;
        self.clock.set(saved.clock);
        // Processors first: what the devices then send must not be forgotten with the state they had.
        for (vcpu, state) in self.vcpus.iter().zip(&saved.vcpus) {
            vcpu.vcpu().load(state)?;
        }
        self.board.restore(&saved.devices)?;
        if let Some(state) = saved.vcpus.iter().find(|vcpu| vcpu.run_state == RunState::WaitForSipi) {
            self.parked = parked(state.msrs.clone());
        }
        self.settle_vcpus()?;
        // The state may be used more than once, and what the guest draws from it must not be the same each time.
        lock(&self.generation).renew(random_id()?);
        lock(&self.power).raise_gpe(layout::GENERATION_GPE);
        // It may be elsewhere now.
        self.networks.iter().for_each(super::NetworkHandle::announce);
        self.resets = saved.resets;
        Ok(())
    }

    fn check_fit(&self, saved: &SavedMachine) -> Result<(), MachineError> {
        let misfit = |text: String| Err(MachineError::Misfit(text));
        if saved.memory_bytes != self.memory_bytes {
            return misfit(format!(
                "it has {} bytes of memory, this one {}",
                saved.memory_bytes, self.memory_bytes
            ));
        }
        if saved.vcpus.len() != self.vcpus.len() {
            return misfit(format!("it has {} vCPUs, this one {}", saved.vcpus.len(), self.vcpus.len()));
        }
        let difference = u64::from(saved.tsc_khz.abs_diff(self.tsc_khz));
        if difference * 1_000_000 > TSC_TOLERANCE * u64::from(self.tsc_khz) {
            return misfit(format!(
                "its time-stamp counter runs at {} kHz, this one's at {}",
                saved.tsc_khz, self.tsc_khz
            ));
        }
        // The frequency is among what CPUID answers.
        let mut cpuid = self.cpuid.clone();
        cpuid.set_tsc_khz(saved.tsc_khz);
        if saved.cpuid != cpuid.with_paravirtual_features_of(&saved.cpuid) {
            return misfit("its processor has other features; restore it on a host like its own".into());
        }
        Ok(())
    }
}
