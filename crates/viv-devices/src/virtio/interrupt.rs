//! From a device to its driver: interrupts, and the word that something is broken.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use serde::{Deserialize, Serialize};

use super::lock;
use super::regs::{NO_VECTOR, isr};
use crate::pci::{IntxLine, MsiX, MsiXState};

/// How a device reaches its driver. Any thread may call it; with the device's lock or without.
///
/// While MSI-X is on, each source has a vector of its own or none; otherwise the sources share INTA# and the
/// ISR status says which it was (VIRTIO 1.3, 4.1.5.3 and 4.1.5.4).
pub struct Interrupt {
    wires: Mutex<Wires>,
    generation: AtomicU8,
    needs_reset: AtomicBool,
}

pub(super) struct Wires {
    pub(super) msix: MsiX,
    config_vector: u16,
    queue_vectors: Vec<u16>,
    isr: u8,
    line: Arc<dyn IntxLine>,
    line_disabled: bool,
}

/// A saved [`Interrupt`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct InterruptState {
    msix: MsiXState,
    config_vector: u16,
    queue_vectors: Vec<u16>,
    isr: u8,
    generation: u8,
    needs_reset: bool,
}

impl Interrupt {
    pub(super) fn new(queues: usize, msix: MsiX, line: Arc<dyn IntxLine>) -> Self {
        let wires = Wires {
            msix,
            config_vector: NO_VECTOR,
            queue_vectors: vec![NO_VECTOR; queues],
            isr: 0,
            line,
            line_disabled: false,
        };
        Self { wires: Mutex::new(wires), generation: AtomicU8::new(0), needs_reset: AtomicBool::new(false) }
    }

    /// Queue `index` has used buffers that the driver wants to hear of.
    pub fn queue_used(&self, index: u16) {
        let mut wires = self.wires();
        let vector = wires.queue_vectors.get(usize::from(index)).copied().unwrap_or(NO_VECTOR);
        wires.signal(vector, isr::QUEUE);
    }

    /// The device's configuration space changed. The driver of a broken device has to reset it first.
    pub fn config_changed(&self) {
        if !self.is_broken() {
            self.announce();
        }
    }

    fn announce(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        let mut wires = self.wires();
        let vector = wires.config_vector;
        wires.signal(vector, isr::CONFIG);
    }

    /// The device is broken until the driver resets it.
    pub fn needs_reset(&self) {
        if !self.needs_reset.swap(true, Ordering::AcqRel) {
            self.announce();
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.needs_reset.load(Ordering::Acquire)
    }

    pub(super) fn generation(&self) -> u8 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn wires(&self) -> MutexGuard<'_, Wires> {
        lock(&self.wires)
    }

    /// What a driver's reset resets. MSI-X stays as it is: it is the PCI function's.
    pub(super) fn reset_device(&self) {
        let mut wires = self.wires();
        wires.config_vector = NO_VECTOR;
        wires.queue_vectors.fill(NO_VECTOR);
        wires.isr = 0;
        wires.drive_line();
        self.needs_reset.store(false, Ordering::Release);
    }

    /// As after power-on.
    pub(super) fn reset(&self) {
        self.wires().msix.reset();
        self.wires().line_disabled = false;
        self.generation.store(0, Ordering::Release);
        self.reset_device();
    }

    pub(super) fn save(&self) -> InterruptState {
        let wires = self.wires();
        InterruptState {
            msix: wires.msix.save(),
            config_vector: wires.config_vector,
            queue_vectors: wires.queue_vectors.clone(),
            isr: wires.isr,
            generation: self.generation(),
            needs_reset: self.is_broken(),
        }
    }

    /// Returns false, and changes nothing, if the state is of a device with other queues or vectors.
    pub(super) fn restore(&self, state: &InterruptState, line_disabled: bool) -> bool {
        let mut wires = self.wires();
        if state.queue_vectors.len() != wires.queue_vectors.len() || !wires.msix.restore(&state.msix) {
            return false;
        }
        wires.config_vector = wires.checked(state.config_vector);
        wires.queue_vectors = state.queue_vectors.iter().map(|&vector| wires.checked(vector)).collect();
        wires.isr = state.isr;
        wires.line_disabled = line_disabled;
        wires.drive_line();
        self.generation.store(state.generation, Ordering::Release);
        self.needs_reset.store(state.needs_reset, Ordering::Release);
        true
    }
}

impl Wires {
    fn signal(&mut self, vector: u16, source: u8) {
        if self.msix.is_enabled() {
            self.msix.signal(vector);
        } else {
            self.isr |= source;
            self.drive_line();
        }
    }

    fn drive_line(&self) {
        self.line.set(self.isr != 0 && !self.line_disabled && !self.msix.is_enabled());
    }

    /// Reads the ISR status, which clears it.
    pub(super) fn take_isr(&mut self) -> u8 {
        let isr = std::mem::take(&mut self.isr);
        self.drive_line();
        isr
    }

    /// Whether INTA# would be asserted but for the command register's bit: the PCI status bit.
    pub(super) fn is_pending(&self) -> bool {
        self.isr != 0
    }

    /// Takes over what the guest wrote into configuration space.
    pub(super) fn set_control(&mut self, msix_control: u16, line_disabled: bool) {
        self.msix.set_control(msix_control);
        self.line_disabled = line_disabled;
        self.drive_line();
    }

    pub(super) fn config_vector(&self) -> u16 {
        self.config_vector
    }

    pub(super) fn set_config_vector(&mut self, vector: u16) {
        self.config_vector = self.checked(vector);
    }

    pub(super) fn queue_vector(&self, index: u16) -> u16 {
        self.queue_vectors.get(usize::from(index)).copied().unwrap_or(NO_VECTOR)
    }

    pub(super) fn set_queue_vector(&mut self, index: u16, vector: u16) {
        let vector = self.checked(vector);
        if let Some(slot) = self.queue_vectors.get_mut(usize::from(index)) {
            *slot = vector;
        }
    }

    /// A vector that does not exist is none, by which the driver sees that it failed (4.1.5.1.2.1).
    fn checked(&self, vector: u16) -> u16 {
        if vector < self.msix.vectors() { vector } else { NO_VECTOR }
    }
}
