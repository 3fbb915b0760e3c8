//! The common configuration structure (VIRTIO 1.3, 4.1.4.3).

use super::{Common, Queue, VirtioPci, feature, status};
use crate::virtio::device::QueueState;

impl VirtioPci {
    /// Reads at `offset`. Accesses that are no register's read as zeroes.
    pub(super) fn read_common(&self, offset: u64, data: &mut [u8]) {
        if let Ok(both) = <&mut [u8; 8]>::try_from(&mut *data) {
            let (low, high) = both.split_at_mut(4);
            self.read_common(offset, low);
            self.read_common(offset.saturating_add(4), high);
            return;
        }
        let Some(register) = Common::at(offset, data.len()) else { return };
        let value = self.common(register).to_le_bytes();
        for (byte, value) in data.iter_mut().zip(value) {
            *byte = value;
        }
    }

    fn common(&self, register: Common) -> u32 {
        let queue = self.selected();
        let of_queue = |value: fn(&Queue) -> u32| queue.map_or(0, value);
        match register {
            Common::DeviceFeatureSelect => self.registers.device_feature_select,
            Common::DeviceFeature => half(self.features, self.registers.device_feature_select),
            Common::DriverFeatureSelect => self.registers.driver_feature_select,
            Common::DriverFeature => {
                half(self.registers.driver_features, self.registers.driver_feature_select)
            }
            Common::ConfigMsixVector => self.interrupt.wires().config_vector().into(),
            Common::NumQueues => u32::try_from(self.queues.len()).unwrap_or(0),
            Common::DeviceStatus => {
                let broken = if self.interrupt.is_broken() { status::DEVICE_NEEDS_RESET } else { 0 };
                (self.registers.status | broken).into()
            }
            Common::ConfigGeneration => self.interrupt.generation().into(),
            Common::QueueSelect => self.registers.queue_select.into(),
            // 0 for a queue that does not exist.
            Common::QueueSize => of_queue(|queue| queue.size.into()),
            Common::QueueMsixVector => {
                self.interrupt.wires().queue_vector(self.registers.queue_select).into()
            }
            Common::QueueEnable => of_queue(|queue| queue.enabled.into()),
            Common::QueueNotifyOff => queue.map_or(0, |_| self.registers.queue_select.into()),
            Common::QueueDescLow => of_queue(|queue| queue.descriptors as u32),
            Common::QueueDescHigh => of_queue(|queue| (queue.descriptors >> 32) as u32),
            Common::QueueDriverLow => of_queue(|queue| queue.driver as u32),
            Common::QueueDriverHigh => of_queue(|queue| (queue.driver >> 32) as u32),
            Common::QueueDeviceLow => of_queue(|queue| queue.device as u32),
            Common::QueueDeviceHigh => of_queue(|queue| (queue.device >> 32) as u32),
        }
    }

    /// Writes at `offset`. Accesses that are no register's are dropped.
    pub(super) fn write_common(&mut self, offset: u64, data: &[u8]) {
        if let Some((low, high)) = data.split_at_checked(4).filter(|(_, high)| high.len() == 4) {
            self.write_common(offset, low);
            self.write_common(offset.saturating_add(4), high);
            return;
        }
        let Some(register) = Common::at(offset, data.len()) else { return };
        let value = data.iter().rev().fold(0, |value, byte| (value << 8) | u32::from(*byte));
        match register {
            Common::DeviceFeatureSelect => self.registers.device_feature_select = value,
            Common::DriverFeatureSelect => self.registers.driver_feature_select = value,
            Common::DriverFeature => self.set_driver_features(value),
            Common::ConfigMsixVector => self.interrupt.wires().set_config_vector(value as u16),
            Common::DeviceStatus => self.set_status(value as u8),
            Common::QueueSelect => self.registers.queue_select = value as u16,
            Common::QueueSize => {
                let size = value as u16;
                self.change_queue(|queue| {
                    if size.is_power_of_two() && size <= queue.max_size {
                        queue.size = size;
                    }
                });
            }
            Common::QueueMsixVector => {
                self.interrupt.wires().set_queue_vector(self.registers.queue_select, value as u16);
            }
            Common::QueueEnable if value == 1 => self.enable_queue(),
            Common::QueueDescLow => self.change_queue(|queue| set_low(&mut queue.descriptors, value)),
            Common::QueueDescHigh => self.change_queue(|queue| set_high(&mut queue.descriptors, value)),
            Common::QueueDriverLow => self.change_queue(|queue| set_low(&mut queue.driver, value)),
            Common::QueueDriverHigh => self.change_queue(|queue| set_high(&mut queue.driver, value)),
            Common::QueueDeviceLow => self.change_queue(|queue| set_low(&mut queue.device, value)),
            Common::QueueDeviceHigh => self.change_queue(|queue| set_high(&mut queue.device, value)),
            // A queue cannot be disabled but by a reset; the rest can only be read.
            Common::QueueEnable
            | Common::DeviceFeature
            | Common::NumQueues
            | Common::ConfigGeneration
            | Common::QueueNotifyOff => {}
        }
    }

    fn set_driver_features(&mut self, value: u32) {
        if self.registers.status & status::FEATURES_OK != 0 {
            return;
        }
        match self.registers.driver_feature_select {
            0 => set_low(&mut self.registers.driver_features, value),
            1 => set_high(&mut self.registers.driver_features, value),
            _ => {}
        }
    }

    /// Takes over the device status (2.1): 0 resets; otherwise bits are only ever added.
    fn set_status(&mut self, value: u8) {
        if value == 0 {
            self.reset_device();
            return;
        }
        let mut added = value & status::WRITABLE & !self.registers.status;
        if added & status::FEATURES_OK != 0 && !self.accepts_features() {
            added &= !status::FEATURES_OK;
        }
        // A device runs only with negotiated features (3.1.1).
        if (self.registers.status | added) & status::FEATURES_OK == 0 {
            added &= !status::DRIVER_OK;
        }
        self.registers.status |= added;
        if added & status::DRIVER_OK != 0 {
            for index in self.queue_indices() {
                self.start_queue(index, QueueState::default());
            }
        }
    }

    fn accepts_features(&self) -> bool {
        let wanted = self.registers.driver_features;
        wanted & !self.features == 0 && wanted & feature::VERSION_1 != 0
    }

    fn enable_queue(&mut self) {
        let index = self.registers.queue_select;
        let Some(queue) = self.queues.get_mut(usize::from(index)).filter(|queue| !queue.enabled) else {
            return;
        };
        queue.enabled = true;
        if self.is_running() {
            self.start_queue(index, QueueState::default());
        }
    }

    fn selected(&self) -> Option<&Queue> {
        self.queues.get(usize::from(self.registers.queue_select))
    }

    /// Changes the selected queue, if there is one and it is not enabled.
    fn change_queue(&mut self, change: impl FnOnce(&mut Queue)) {
        let index = usize::from(self.registers.queue_select);
        if let Some(queue) = self.queues.get_mut(index).filter(|queue| !queue.enabled) {
            change(queue);
        }
    }
}

/// Bits 0 to 31, 32 to 63, or beyond.
fn half(features: u64, select: u32) -> u32 {
    match select {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

fn set_low(value: &mut u64, low: u32) {
    *value = (*value & !0xffff_ffff) | u64::from(low);
}

fn set_high(value: &mut u64, high: u32) {
    *value = (*value & 0xffff_ffff) | (u64::from(high) << 32);
}
