//! Saving and restoring.

use serde::{Deserialize, Serialize};

use super::{Queue, Registers, VirtioPci, feature, status};
use crate::pci::ConfigState;
use crate::virtio::device::QueueState;
use crate::virtio::interrupt::InterruptState;
use crate::virtio::lock;
use crate::{DeviceError, SavedState};

const VERSION: u16 = 1;

/// A virtio device with its transport.
#[derive(Serialize, Deserialize)]
struct TransportState {
    config: ConfigState,
    interrupt: InterruptState,
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    status: u8,
    queue_select: u16,
    queues: Vec<TransportQueueState>,
    device: SavedState,
}

#[derive(Serialize, Deserialize)]
struct TransportQueueState {
    size: u16,
    enabled: bool,
    descriptors: u64,
    driver: u64,
    device: u64,
    /// How far it got, if it ran.
    progress: Option<QueueState>,
}

impl VirtioPci {
    /// Stops the queues to see how far they got, and lets them go on. How far those of a broken device got is of no
    /// use.
    pub(super) fn save_state(&self) -> Result<SavedState, DeviceError> {
        let (progress, device) = {
            let mut device = lock(&self.device);
            let is_broken = self.interrupt.is_broken();
            let stop = |index| if is_broken { None } else { device.stop_queue(index) };
            let progress: Vec<_> = self.queue_indices().map(stop).collect();
            (progress, device.save())
        };
        for (index, state) in self.queue_indices().zip(&progress) {
            if let Some(state) = state {
                self.start_queue(index, *state);
            }
        }
        let queues = self.queues.iter().zip(progress).map(|(queue, progress)| TransportQueueState {
            size: queue.size,
            enabled: queue.enabled,
            descriptors: queue.descriptors,
            driver: queue.driver,
            device: queue.device,
            progress,
        });
        let state = TransportState {
            config: self.config.save(),
            interrupt: self.interrupt.save(),
            device_feature_select: self.registers.device_feature_select,
            driver_feature_select: self.registers.driver_feature_select,
            driver_features: self.registers.driver_features,
            status: self.registers.status,
            queue_select: self.registers.queue_select,
            queues: queues.collect(),
            device: device?,
        };
        SavedState::encode(&self.name, VERSION, &state)
    }

    /// After a failure the device does not run, and has to be reset.
    pub(super) fn restore_state(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        let state: TransportState = state.decode(VERSION)?;
        self.reset_device();
        let invalid =
            |reason: &str| Err(DeviceError::Invalid { name: self.name.clone(), reason: reason.to_owned() });
        // Until the device has agreed, a driver may have written anything there.
        let agreed = state.status & status::FEATURES_OK != 0;
        if agreed && state.driver_features & !self.features != 0 {
            return invalid("its driver uses features that are not offered");
        }
        let running = state.status & status::DRIVER_OK != 0;
        if running && (!agreed || state.driver_features & feature::VERSION_1 == 0) {
            return invalid("it runs without negotiated features");
        }
        let sizes_fit = |(queue, saved): (&Queue, &TransportQueueState)| {
            saved.size.is_power_of_two() && saved.size <= queue.max_size
        };
        if state.queues.len() != self.queues.len() || !self.queues.iter().zip(&state.queues).all(sizes_fit) {
            return invalid("its queues are not those of this device");
        }
        if !self.config.restore(&state.config) {
            return invalid("it is of another function");
        }
        if !self.interrupt.restore(&state.interrupt, self.is_line_disabled()) {
            return invalid("its vectors are not those of this device");
        }
        lock(&self.device).restore(&state.device)?;
        self.registers = Registers {
            device_feature_select: state.device_feature_select,
            driver_feature_select: state.driver_feature_select,
            driver_features: state.driver_features,
            status: state.status & status::WRITABLE,
            queue_select: state.queue_select,
        };
        for (queue, saved) in self.queues.iter_mut().zip(&state.queues) {
            queue.size = saved.size;
            queue.enabled = saved.enabled;
            (queue.descriptors, queue.driver, queue.device) = (saved.descriptors, saved.driver, saved.device);
        }
        for (index, saved) in self.queue_indices().zip(&state.queues) {
            if running && let Some(progress) = saved.progress {
                self.start_queue(index, progress);
            }
        }
        Ok(())
    }
}
