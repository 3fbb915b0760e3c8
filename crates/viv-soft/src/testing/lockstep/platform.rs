//! The machine around the fuzzer's processor: it records what it is asked, and posts interrupts.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use viv_engine::{ExtIntTarget, Kick, Msi, MsiTarget, Platform};

use super::layout::port;
use crate::vm::SoftVm;

/// What a device saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    PortRead(u16, usize),
    PortWrite(u16, Vec<u8>),
    MemoryRead(u64, usize),
    MemoryWrite(u64, Vec<u8>),
    Acknowledged(u8),
    Ended(u8),
}

/// A platform whose answers follow from what it was asked before.
#[derive(Default)]
pub struct Recorder {
    pub machine: OnceLock<(Weak<SoftVm>, Arc<dyn Kick>)>,
    pub stopped: AtomicBool,
    accesses: Mutex<Vec<Access>>,
    /// The vector that the 8259 has to give.
    extint: Mutex<Option<u8>>,
}

impl Recorder {
    /// Everything that was asked, in order.
    pub fn take(&self) -> Vec<Access> {
        std::mem::take(&mut *self.accesses.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Records an access; gives its number.
    fn note(&self, access: Access) -> u64 {
        let mut accesses = self.accesses.lock().unwrap_or_else(PoisonError::into_inner);
        accesses.push(access);
        accesses.len() as u64
    }

    fn machine(&self) -> Option<Arc<SoftVm>> {
        self.machine.get().and_then(|(machine, _)| machine.upgrade())
    }

    fn post(&self, data: u32) {
        if let Some(machine) = self.machine() {
            machine.send_msi(Msi { address: 0xfee0_0000, data });
        }
    }

    fn answer(number: u64, data: &mut [u8]) {
        let value = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
        data.copy_from_slice(&value.to_le_bytes()[..data.len()]);
    }
}

impl Platform for Recorder {
    fn port_read(&self, port: u16, data: &mut [u8]) {
        Self::answer(self.note(Access::PortRead(port, data.len())), data);
    }

    fn port_write(&self, port: u16, data: &[u8]) {
        if port == port::STOP {
            self.stopped.store(true, Ordering::SeqCst);
            if let Some((_, kick)) = self.machine.get() {
                kick.kick();
            }
            return;
        }
        self.note(Access::PortWrite(port, data.to_vec()));
        // Vectors below 16 are none.
        let vector = u32::from(data[0] | 0x20);
        match port {
            port::EDGE => self.post(vector),
            port::LEVEL => self.post(vector | 1 << 15 | 1 << 14),
            port::NMI => self.post(vector | 4 << 8),
            port::EXTINT => {
                *self.extint.lock().unwrap_or_else(PoisonError::into_inner) = Some(vector as u8);
                if let Some(machine) = self.machine() {
                    machine.set_extint(true);
                }
            }
            _ => {}
        }
    }

    fn memory_read(&self, address: u64, data: &mut [u8]) {
        Self::answer(self.note(Access::MemoryRead(address, data.len())), data);
    }

    fn memory_write(&self, address: u64, data: &[u8]) {
        self.note(Access::MemoryWrite(address, data.to_vec()));
    }

    fn acknowledge_extint(&self) -> Option<u8> {
        let vector = self.extint.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        self.note(Access::Acknowledged(vector));
        if let Some(machine) = self.machine() {
            machine.set_extint(false);
        }
        Some(vector)
    }

    fn end_of_interrupt(&self, vector: u8) {
        self.note(Access::Ended(vector));
    }
}
