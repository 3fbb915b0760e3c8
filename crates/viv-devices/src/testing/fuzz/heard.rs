//! What devices say to the machine around them, in the order in which they say it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use viv_engine::{A20Target, ExtIntTarget, Msi, MsiTarget};

use crate::irq::InterruptController;
use crate::pci::IntxLine;
use crate::system::{SystemControl, SystemRequest};

/// How much a device may say and do for one access, or for one turn of the thread for devices. The most that is
/// legitimate is a disk's: a queue full of requests, of as many buffers as a chain can have.
const LIMIT: usize = 1 << 18;

/// One thing that a device says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Raise(u32),
    Lower(u32),
    Message(Msi),
    ExtInt(bool),
    A20(bool),
    Intx(bool),
    Request(SystemRequest),
    Bytes(Vec<u8>),
}

/// Keeps it, and counts: a device that goes on and on fails its test instead of hanging it.
#[derive(Default)]
pub(crate) struct Heard(Mutex<Record>);

#[derive(Default)]
struct Record {
    events: Vec<Event>,
    calls: usize,
}

impl Heard {
    /// What was said since the last call.
    pub(crate) fn take(&self) -> Vec<Event> {
        std::mem::take(&mut *self.lock()).events
    }

    /// A device has made a call that leaves no trace here.
    pub(crate) fn count(&self) {
        self.note(None);
    }

    /// A device gives bytes away, or what it answered is worth keeping.
    pub(crate) fn bytes(&self, bytes: &[u8]) {
        self.note(Some(Event::Bytes(bytes.to_vec())));
    }

    fn note(&self, event: Option<Event>) {
        let mut record = self.lock();
        record.calls += 1;
        record.events.extend(event);
        let calls = record.calls;
        drop(record);
        // Devices let their lines go when they are dropped, also by a panic.
        assert!(calls <= LIMIT || std::thread::panicking(), "more than {LIMIT} calls for one access");
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InterruptController for Heard {
    fn raise(&self, gsi: u32) {
        self.note(Some(Event::Raise(gsi)));
    }

    fn lower(&self, gsi: u32) {
        self.note(Some(Event::Lower(gsi)));
    }
}

impl MsiTarget for Heard {
    fn send_msi(&self, msi: Msi) {
        self.note(Some(Event::Message(msi)));
    }
}

impl ExtIntTarget for Heard {
    fn set_extint(&self, asserted: bool) {
        self.note(Some(Event::ExtInt(asserted)));
    }
}

impl A20Target for Heard {
    fn set_a20(&self, open: bool) {
        self.note(Some(Event::A20(open)));
    }
}

impl IntxLine for Heard {
    fn set(&self, asserted: bool) {
        self.note(Some(Event::Intx(asserted)));
    }
}

impl SystemControl for Heard {
    fn request(&self, request: SystemRequest) {
        self.note(Some(Event::Request(request)));
    }
}
