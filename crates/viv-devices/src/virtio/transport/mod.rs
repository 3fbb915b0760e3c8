//! virtio over PCI (VIRTIO 1.3, 4.1): the registers between a driver and a device.
//!
//! BAR 0 holds, each on a page of its own, the structures that the vendor capabilities name and the MSI-X
//! table; see `layout.rs`. There is no legacy interface.

mod common;
mod layout;
mod state;

use std::sync::Arc;

use viv_engine::GuestMemory;

use super::device::{Kind, QueueResources, QueueState, Served, Shared, VirtioDevice};
use super::interrupt::Interrupt;
use super::lock;
use super::regs::{Common, feature, status};
use crate::doorbell::{Doorbell, MAX_QUEUES, Worker};
use crate::pci::{ConfigSpace, Connections, Identity, MsiX, PciDevice, PciError, regs as pci_regs};
use crate::{DeviceError, SavedState};
use layout::{Capabilities, Region};

/// The PCI vendor of all virtio devices, and the first of their device ids (4.1.2).
const VENDOR: u16 = 0x1af4;
const FIRST_DEVICE: u16 = 0x1040;

/// A virtio device as a PCI function.
pub struct VirtioPci {
    name: String,
    config: ConfigSpace,
    capabilities: Capabilities,
    device: Shared<dyn VirtioDevice>,
    is_inline: bool,
    memory: Arc<GuestMemory>,
    interrupt: Arc<Interrupt>,
    doorbell: Arc<Doorbell>,
    /// What is offered.
    features: u64,
    registers: Registers,
    queues: Vec<Queue>,
}

/// What the driver has written, but for the queues.
#[derive(Debug, Clone, Copy, Default)]
struct Registers {
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    status: u8,
    queue_select: u16,
}

/// A queue as the driver has set it up.
#[derive(Debug, Clone, Copy)]
struct Queue {
    max_size: u16,
    size: u16,
    enabled: bool,
    descriptors: u64,
    driver: u64,
    device: u64,
}

impl Queue {
    const fn new(max_size: u16) -> Self {
        Self { max_size, size: max_size, enabled: false, descriptors: 0, driver: 0, device: 0 }
    }
}

impl VirtioPci {
    /// Makes a function of `device`, named `name`, such as `virtio-blk0`.
    ///
    /// # Errors
    /// When the device has more than 64 queues, or the host gives no eventfd.
    pub fn new(
        name: &str,
        device: Shared<dyn VirtioDevice>,
        connections: Connections,
    ) -> Result<Self, PciError> {
        let (Kind { id, class }, features, sizes, is_inline) = {
            let device = lock(&device);
            let features = device.features() | device.ring_features();
            (device.kind(), features, device.queue_sizes(), device.is_inline())
        };
        let too_much = |what| PciError::Config { name: name.to_owned(), what };
        if sizes.len() > MAX_QUEUES {
            return Err(too_much("queues"));
        }
        let doorbell = Doorbell::new().map_err(|source| PciError::Host {
            action: "make an eventfd",
            name: name.to_owned(),
            source,
        })?;

        let mut config = ConfigSpace::new(Identity {
            vendor: VENDOR,
            device: FIRST_DEVICE.saturating_add(id),
            revision: 1,
            class,
            subsystem_vendor: VENDOR,
            subsystem: FIRST_DEVICE.saturating_add(id),
        });
        config.set_interrupt(connections.line_number);
        // One vector for the configuration and one for each queue.
        let vectors = u16::try_from(sizes.len()).unwrap_or(u16::MAX).saturating_add(1);
        let msix = MsiX::new(vectors, connections.msi);
        let capabilities = layout::describe(&mut config, &msix).ok_or_else(|| too_much("capabilities"))?;
        Ok(Self {
            name: name.to_owned(),
            config,
            capabilities,
            device,
            is_inline,
            memory: Arc::new(connections.memory),
            interrupt: Arc::new(Interrupt::new(sizes.len(), msix, connections.line)),
            doorbell: Arc::new(doorbell),
            features,
            registers: Registers::default(),
            queues: sizes.into_iter().map(Queue::new).collect(),
        })
    }

    /// What the thread for devices needs of it.
    #[must_use]
    pub fn worker(&self) -> Worker {
        Worker::new(Arc::new(Served(self.device.clone())), self.doorbell.clone())
    }

    fn is_running(&self) -> bool {
        self.registers.status & status::DRIVER_OK != 0
    }

    /// Starts a queue that the driver has enabled. One that cannot be started breaks the device, and a broken
    /// device starts none.
    fn start_queue(&self, index: u16, state: QueueState) {
        if self.interrupt.is_broken() {
            return;
        }
        let Some(queue) = self.queues.get(usize::from(index)).filter(|queue| queue.enabled) else { return };
        let resources = QueueResources {
            index,
            size: queue.size,
            descriptors: queue.descriptors,
            driver: queue.driver,
            device: queue.device,
            memory: self.memory.clone(),
            interrupt: self.interrupt.clone(),
            doorbell: self.doorbell.clone(),
        };
        match lock(&self.device).start_queue(resources, self.registers.driver_features, state) {
            Ok(()) => self.doorbell.ring(index),
            Err(error) => {
                tracing::debug!(
                    device = self.name,
                    error = &error as &dyn std::error::Error,
                    "queue not started"
                );
                self.interrupt.needs_reset();
            }
        }
    }

    fn queue_indices(&self) -> impl Iterator<Item = u16> + use<> {
        0..u16::try_from(self.queues.len()).unwrap_or(u16::MAX)
    }

    /// Stops the device and forgets what the driver negotiated (2.4.1).
    fn reset_device(&mut self) {
        {
            let mut device = lock(&self.device);
            for index in self.queue_indices() {
                device.stop_queue(index);
            }
            device.reset();
        }
        self.doorbell.clear();
        self.interrupt.reset_device();
        self.registers = Registers::default();
        for queue in &mut self.queues {
            *queue = Queue::new(queue.max_size);
        }
    }

    /// The driver rang for a queue.
    fn notify(&self, index: u16) {
        let runs =
            self.is_running() && self.queues.get(usize::from(index)).is_some_and(|queue| queue.enabled);
        if !runs {
            return;
        }
        if self.is_inline {
            lock(&self.device).process_queue(index);
        } else {
            self.doorbell.ring(index);
        }
    }

    /// Hands on what the guest wrote into MSI-X's message control and the command register.
    fn configuration_written(&mut self) {
        let line_disabled = self.is_line_disabled();
        let control = self.config.u16_at(self.capabilities.msix_control);
        self.interrupt.wires().set_control(control, line_disabled);
    }

    fn is_line_disabled(&self) -> bool {
        self.config.command() & pci_regs::command::INTERRUPT_DISABLE != 0
    }
}

impl PciDevice for VirtioPci {
    fn name(&self) -> &str {
        &self.name
    }

    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        let pending = self.interrupt.wires().is_pending();
        self.config.set_interrupt_status(pending);
        if let Some((offset, length)) = self.capabilities.access(&self.config, offset, data.len()) {
            let mut value = [0; 4];
            self.bar_read(0, offset, value.get_mut(..length).unwrap_or_default());
            self.config.set(self.capabilities.access_data(), &value);
        }
        self.config.read(offset, data);
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) {
        self.config.write(offset, data);
        self.configuration_written();
        if let Some((offset, length)) = self.capabilities.access(&self.config, offset, data.len()) {
            let mut value = [0; 4];
            self.config.read(u16::from(self.capabilities.access_data()), &mut value);
            self.bar_write(0, offset, value.get(..length).unwrap_or_default());
        }
    }

    fn bar_read(&mut self, _bar: usize, offset: u64, data: &mut [u8]) {
        data.fill(0);
        match Region::at(offset) {
            Some((Region::Common, offset)) => self.read_common(offset, data),
            Some((Region::Isr, 0)) => {
                if let Some(byte) = data.first_mut() {
                    *byte = self.interrupt.wires().take_isr();
                }
            }
            Some((Region::Device, offset)) => lock(&self.device).read_config(offset, data),
            Some((Region::MsixTable, offset)) => self.interrupt.wires().msix.read_table(offset, data),
            Some((Region::MsixPending, offset)) => self.interrupt.wires().msix.read_pending(offset, data),
            Some((Region::Isr | Region::Notify, _)) | None => {}
        }
    }

    fn bar_write(&mut self, _bar: usize, offset: u64, data: &[u8]) {
        match Region::at(offset) {
            Some((Region::Common, offset)) => self.write_common(offset, data),
            Some((Region::Notify, offset)) => {
                self.notify(u16::try_from(offset / layout::NOTIFY_MULTIPLIER).unwrap_or(u16::MAX));
            }
            Some((Region::Device, offset)) => lock(&self.device).write_config(offset, data),
            Some((Region::MsixTable, offset)) => self.interrupt.wires().msix.write_table(offset, data),
            Some((Region::Isr | Region::MsixPending, _)) | None => {}
        }
    }

    fn reset(&mut self) {
        self.reset_device();
        lock(&self.device).reset_machine();
        self.interrupt.reset();
        self.config.reset();
    }

    fn save(&self) -> Result<SavedState, DeviceError> {
        self.save_state()
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        self.restore_state(state)
    }
}
