//! What tests put around a device in place of a machine, and the checks that every device must pass: [`fuzz`], and
//! [`reset_gives_power_on_state`] where there is no more to a reset.

pub(crate) mod fuzz;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use viv_disk::Disk;
use viv_disk::aio::{Aio, Completion, Request};
use viv_engine::{A20Target, ExtIntTarget, Msi, MsiTarget, Timer};

use crate::bus::PortRange;
use crate::device::Device;
use crate::irq::{InterruptController, IrqLine};
use crate::system::{SystemControl, SystemRequest};

/// Interrupt lines that keep count.
#[derive(Default)]
pub(crate) struct Lines(Mutex<HashMap<u32, LineRecord>>);

#[derive(Default)]
struct LineRecord {
    sources: u32,
    edges: u32,
}

impl Lines {
    pub(crate) fn line(self: &Arc<Self>, gsi: u32) -> IrqLine {
        IrqLine::new(Arc::clone(self) as Arc<dyn InterruptController>, gsi)
    }

    pub(crate) fn is_asserted(&self, gsi: u32) -> bool {
        self.0.lock().unwrap().get(&gsi).is_some_and(|line| line.sources > 0)
    }

    /// How often the line has become asserted.
    pub(crate) fn edges(&self, gsi: u32) -> u32 {
        self.0.lock().unwrap().get(&gsi).map_or(0, |line| line.edges)
    }
}

impl InterruptController for Lines {
    fn raise(&self, gsi: u32) {
        let mut lines = self.0.lock().unwrap();
        let line = lines.entry(gsi).or_default();
        line.edges += u32::from(line.sources == 0);
        line.sources += 1;
    }

    fn lower(&self, gsi: u32) {
        self.0.lock().unwrap().get_mut(&gsi).unwrap().sources -= 1;
    }
}

/// The processors' side of interrupt delivery: keeps what arrives.
#[derive(Default)]
pub(crate) struct Processors {
    messages: Mutex<Vec<Msi>>,
    extint: AtomicBool,
    a20_closed: AtomicBool,
}

impl Processors {
    /// The messages since the last call.
    pub(crate) fn take(&self) -> Vec<Msi> {
        std::mem::take(&mut self.messages.lock().unwrap())
    }

    pub(crate) fn a20(&self) -> bool {
        !self.a20_closed.load(Ordering::SeqCst)
    }

    pub(crate) fn extint(&self) -> bool {
        self.extint.load(Ordering::SeqCst)
    }
}

impl MsiTarget for Processors {
    fn send_msi(&self, msi: Msi) {
        self.messages.lock().unwrap().push(msi);
    }
}

impl ExtIntTarget for Processors {
    fn set_extint(&self, asserted: bool) {
        self.extint.store(asserted, Ordering::SeqCst);
    }
}

impl A20Target for Processors {
    fn set_a20(&self, open: bool) {
        self.a20_closed.store(!open, Ordering::SeqCst);
    }
}

/// A timer that keeps its deadline.
#[derive(Default)]
pub(crate) struct Alarm(Mutex<Option<u64>>);

impl Alarm {
    pub(crate) fn deadline(&self) -> Option<u64> {
        *self.0.lock().unwrap()
    }
}

impl Timer for Alarm {
    fn arm(&self, deadline: u64) {
        *self.0.lock().unwrap() = Some(deadline);
    }

    fn disarm(&self) {
        *self.0.lock().unwrap() = None;
    }
}

/// The way to a disk whose requests are carried out when they are submitted, the last first.
pub(crate) struct Calls {
    disk: Arc<dyn Disk>,
    started: Vec<Request>,
    ended: Vec<Completion>,
    event: OwnedFd,
}

impl Calls {
    pub(crate) fn to(disk: &Arc<dyn Disk>) -> Box<Self> {
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
        Box::new(Self { disk: disk.clone(), started: Vec::new(), ended: Vec::new(), event })
    }
}

impl Aio for Calls {
    fn start(&mut self, request: Request) {
        self.started.push(request);
    }

    fn submit(&mut self) -> io::Result<()> {
        while let Some(request) = self.started.pop() {
            self.ended.push(Completion { tag: request.tag, result: request.perform(&*self.disk) });
        }
        Ok(())
    }

    fn take_ended(&mut self, ended: &mut Vec<Completion>) {
        ended.append(&mut self.ended);
    }

    fn wait(&mut self) -> io::Result<()> {
        self.submit()
    }

    /// Never readable: what has ended is taken right after it was submitted.
    fn ended_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// A machine that keeps what it is asked.
#[derive(Default)]
pub(crate) struct Requests(Mutex<Vec<SystemRequest>>);

impl Requests {
    /// The requests since the last call.
    pub(crate) fn take(&self) -> Vec<SystemRequest> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl SystemControl for Requests {
    fn request(&self, request: SystemRequest) {
        self.0.lock().unwrap().push(request);
    }
}

/// Reads a byte from a port.
pub(crate) fn inb(device: &mut dyn Device, port: u16) -> u8 {
    let mut data = [0];
    device.port_io().unwrap().read(port, &mut data);
    data[0]
}

/// Writes a byte to a port.
pub(crate) fn outb(device: &mut dyn Device, port: u16, value: u8) {
    device.port_io().unwrap().write(port, &[value]);
}

/// Where [`reset_gives_power_on_state`] goes.
#[derive(Clone, Copy)]
pub(crate) struct Places<'a> {
    /// The device's ports.
    pub(crate) ports: &'a [PortRange],
    /// The size of its registers in memory.
    pub(crate) memory: u64,
}

/// A stream of numbers that is the same in every run (Marsaglia's xorshift64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// Checks that a reset after thousands of accesses gives the state after power-on.
pub(crate) fn reset_gives_power_on_state<D: Device>(fresh: impl Fn() -> D, places: &Places<'_>) {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut device = fresh();
    for _ in 0..3000 {
        one_access(&mut device, places, &mut random);
    }
    device.reset();
    assert_eq!(device.save().unwrap(), fresh().save().unwrap());
}

fn one_access(device: &mut dyn Device, places: &Places<'_>, random: &mut Random) {
    let mut data = random.next().to_le_bytes();
    let write = random.below(3) != 0;
    if places.memory > 0 && (places.ports.is_empty() || random.below(2) == 0) {
        let offset = random.below(places.memory);
        let data = &mut data[..1 + random.below(8) as usize];
        let memory = device.memory_io().unwrap();
        if write { memory.write(offset, data) } else { memory.read(offset, data) }
    } else {
        let range = places.ports[random.below(places.ports.len() as u64) as usize];
        let port = range.first + random.below(range.count.into()) as u16;
        let data = &mut data[..1 << random.below(3)];
        let ports = device.port_io().unwrap();
        if write { ports.write(port, data) } else { ports.read(port, data) }
    }
}
