//! A machine of one device, or a few, and no processor.

use std::sync::{Arc, Mutex};

use viv_engine::time::ManualClock;
use viv_engine::{Clock, GuestMemory};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::heard::{Event, Heard};
use crate::bus::{PortRange, lock};
use crate::doorbell::Worker;
use crate::irq::{InterruptController, IrqLine};
use crate::testing::Alarm;
use crate::{Device, DeviceError, IoBus, SavedState, SharedDevice};

/// Guest RAM: 1 MiB, but for the display's hole.
pub(crate) const RAM: u64 = 1 << 20;
/// How often alarms ring while time passes before the rest of it passes at once.
const RINGS: u32 = 64;

/// What happens to a device from outside, other than by the guest.
pub(crate) trait Outside {
    /// Something happens; `what` says what, in the target's own way.
    fn happen(&mut self, what: u64);

    /// Everything is to be saved: what a device wants to be rid of is taken.
    fn settle(&mut self) {}

    /// Devices and [`Bench::stores`] have just become those of another bench.
    fn adopt(&mut self) {}
}

/// What is outside devices and moves with them: a disk's content, a stream's position.
pub(crate) type Store = Arc<Mutex<Vec<u8>>>;

/// The machine.
pub(crate) struct Bench {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) memory: GuestMemory,
    pub(crate) heard: Arc<Heard>,
    pub(crate) stores: Vec<Store>,
    pub(crate) outside: Option<Box<dyn Outside>>,
    pub(crate) workers: Vec<Worker>,
    bus: IoBus,
    devices: Vec<SharedDevice>,
    alarms: Vec<(SharedDevice, Arc<Alarm>)>,
}

impl Bench {
    /// One without devices.
    pub(crate) fn new() -> Self {
        Self {
            clock: Arc::default(),
            memory: viv_engine::memory::allocate(RAM).unwrap(),
            heard: Arc::default(),
            stores: Vec::new(),
            outside: None,
            workers: Vec::new(),
            bus: IoBus::new(),
            devices: Vec::new(),
            alarms: Vec::new(),
        }
    }

    /// A new source of an interrupt line.
    pub(crate) fn line(&self, gsi: u32) -> IrqLine {
        IrqLine::new(Arc::clone(&self.heard) as Arc<dyn InterruptController>, gsi)
    }

    /// A new store that holds `content`.
    pub(crate) fn store(&mut self, content: Vec<u8>) -> Store {
        let store = Arc::new(Mutex::new(content));
        self.stores.push(Arc::clone(&store));
        store
    }

    /// Adds a device with ports.
    pub(crate) fn add<D: Device + 'static>(&mut self, device: D, ports: &[PortRange]) -> Arc<Mutex<D>> {
        let device = Arc::new(Mutex::new(device));
        for &range in ports {
            self.bus.map_ports(range, device.clone()).unwrap();
        }
        self.devices.push(device.clone());
        device
    }

    /// Gives a device addresses too.
    pub(crate) fn map_memory(&self, start: u64, size: u64, device: SharedDevice) {
        self.bus.map_memory(start, size, device).unwrap();
    }

    /// Gives a device the 4-byte accesses at a port.
    pub(crate) fn map_dword_port(&self, port: u16, device: SharedDevice) {
        self.bus.map_dword_port(port, device).unwrap();
    }

    /// Says that `alarm` is a device's.
    pub(crate) fn attach(&mut self, device: SharedDevice, alarm: Arc<Alarm>) {
        self.alarms.push((device, alarm));
    }

    /// Reads, at a port or from memory.
    pub(crate) fn read(&self, place: super::Place, size: usize) -> [u8; 8] {
        let mut data = [0; 8];
        match place {
            super::Place::Port(port) => self.bus.port_read(port, &mut data[..size]),
            super::Place::Memory(address) => self.bus.memory_read(address, &mut data[..size]),
        }
        data
    }

    /// Writes.
    pub(crate) fn write(&self, place: super::Place, data: &[u8]) {
        match place {
            super::Place::Port(port) => self.bus.port_write(port, data),
            super::Place::Memory(address) => self.bus.memory_write(address, data),
        }
    }

    /// Puts bytes into guest RAM, as far as there is some.
    pub(crate) fn put(&self, address: u64, data: &[u8]) {
        let _ = self.memory.write_slice(data, GuestAddress(address));
    }

    /// Lets time pass, with alarms that ring.
    pub(crate) fn pass(&self, nanoseconds: u64) {
        let end = self.clock.now().saturating_add(nanoseconds);
        for _ in 0..RINGS {
            let due =
                self.alarms.iter().filter_map(|(device, alarm)| Some((alarm.deadline()?, device, alarm)));
            let Some((deadline, device, alarm)) =
                due.min_by_key(|(deadline, ..)| *deadline).filter(|(deadline, ..)| *deadline <= end)
            else {
                break;
            };
            self.clock.advance(deadline.saturating_sub(self.clock.now()));
            viv_engine::Timer::disarm(&**alarm);
            if let Some(events) = lock(device).timer_events() {
                events.on_timer(self.clock.now());
            }
        }
        self.clock.advance(end.saturating_sub(self.clock.now()));
        self.ring_alarms();
    }

    /// Has every device that has a timer look at the time.
    fn ring_alarms(&self) {
        for (device, _) in &self.alarms {
            if let Some(events) = lock(device).timer_events() {
                events.on_timer(self.clock.now());
            }
        }
    }

    /// Lets the thread for devices have a turn.
    pub(crate) fn serve(&self) {
        self.workers.iter().for_each(Worker::process);
    }

    /// Something happens from outside.
    pub(crate) fn happen(&mut self, what: u64) {
        if let Some(outside) = &mut self.outside {
            outside.happen(what);
        }
    }

    /// The machine is reset.
    pub(crate) fn reset(&self) {
        self.devices.iter().for_each(|device| lock(device).reset());
    }

    /// Brings to an end what restored devices would begin again.
    pub(crate) fn settle(&mut self) {
        // A line may still be as it was when the device last looked at the time.
        self.ring_alarms();
        if let Some(outside) = &mut self.outside {
            outside.settle();
        }
    }

    /// The state of every device.
    pub(crate) fn save(&self) -> Vec<SavedState> {
        self.devices.iter().map(|device| lock(device).save().unwrap()).collect()
    }

    /// Gives every device a state, up to the first that refuses.
    pub(crate) fn restore(&self, states: &[SavedState]) -> Result<(), DeviceError> {
        self.devices.iter().zip(states).try_for_each(|(device, state)| lock(device).restore(state))
    }

    /// Makes all that is not a device as it is at `other`, which was just made.
    pub(crate) fn take_surroundings(&mut self, other: &Self) {
        self.clock.advance(other.clock.now() - self.clock.now());
        for region in other.memory.iter() {
            let mut content = vec![0; region.len() as usize];
            other.memory.read_slice(&mut content, region.start_addr()).unwrap();
            self.memory.write_slice(&content, region.start_addr()).unwrap();
        }
        for (mine, others) in self.stores.iter().zip(&other.stores) {
            mine.lock().unwrap().clone_from(&others.lock().unwrap());
        }
    }

    /// The devices have been restored: what is around them takes note.
    pub(crate) fn adopt(&mut self) {
        if let Some(outside) = &mut self.outside {
            outside.adopt();
        }
        self.heard.take();
    }

    /// Rings for everything that could be rung for: a restored device looks at all of its queues.
    pub(crate) fn ring_all(&self) {
        self.workers.iter().for_each(Worker::ring_all);
    }

    /// What was said since the last call.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.heard.take()
    }

    /// Fails unless all that is not a device is as at `other`.
    pub(crate) fn assert_like(&self, other: &Self) {
        assert!(self.ram() == other.ram(), "RAM differs");
        for (mine, others) in self.stores.iter().zip(&other.stores) {
            assert!(*mine.lock().unwrap() == *others.lock().unwrap(), "what is stored differs");
        }
    }

    fn ram(&self) -> Vec<u8> {
        let mut content = Vec::new();
        for region in self.memory.iter() {
            let start = content.len();
            content.resize(start + region.len() as usize, 0);
            self.memory.read_slice(&mut content[start..], region.start_addr()).unwrap();
        }
        content
    }
}
