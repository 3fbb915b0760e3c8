//! The machine around the processor: it records what it is asked, and stops the guest.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use viv_engine::{Kick, Platform};

use super::layout::{PORT_HOOK, PORT_STOP};

/// What a device saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    PortRead(u16, usize),
    PortWrite(u16, Vec<u8>),
    MemoryRead(u64, usize),
    MemoryWrite(u64, Vec<u8>),
}

type Hook = Box<dyn FnMut(u32) + Send>;

/// A platform with a byte of device memory wherever one looks.
#[derive(Default)]
pub struct Recorder {
    pub kicker: OnceLock<Arc<dyn Kick>>,
    pub stopped: AtomicBool,
    pub accesses: Mutex<Vec<Access>>,
    pub device_memory: Mutex<HashMap<u64, u8>>,
    /// The vectors that the 8259 has still to give.
    pub extint: Mutex<Vec<u8>>,
    /// Level-triggered interrupts that were ended.
    pub ended: Mutex<Vec<u8>>,
    /// Called for writes to [`PORT_HOOK`], on the vCPU's thread.
    pub hook: Mutex<Option<Hook>>,
}

impl Recorder {
    pub fn set_hook(&self, hook: impl FnMut(u32) + Send + 'static) {
        *self.hook.lock().unwrap() = Some(Box::new(hook));
    }
}

impl Platform for Recorder {
    fn port_read(&self, port: u16, data: &mut [u8]) {
        self.accesses.lock().unwrap().push(Access::PortRead(port, data.len()));
        data.copy_from_slice(&0x5a5a_5a5au32.to_le_bytes()[..data.len()]);
    }

    fn port_write(&self, port: u16, data: &[u8]) {
        match port {
            PORT_STOP => {
                self.stopped.store(true, Ordering::SeqCst);
                self.kicker.get().unwrap().kick();
            }
            PORT_HOOK => {
                let mut bytes = [0; 4];
                bytes[..data.len()].copy_from_slice(data);
                if let Some(hook) = self.hook.lock().unwrap().as_mut() {
                    hook(u32::from_le_bytes(bytes));
                }
            }
            _ => self.accesses.lock().unwrap().push(Access::PortWrite(port, data.to_vec())),
        }
    }

    fn memory_read(&self, address: u64, data: &mut [u8]) {
        self.accesses.lock().unwrap().push(Access::MemoryRead(address, data.len()));
        let memory = self.device_memory.lock().unwrap();
        for (byte, at) in data.iter_mut().zip(address..) {
            *byte = memory.get(&at).copied().unwrap_or(0xff);
        }
    }

    fn memory_write(&self, address: u64, data: &[u8]) {
        self.accesses.lock().unwrap().push(Access::MemoryWrite(address, data.to_vec()));
        let mut memory = self.device_memory.lock().unwrap();
        for (&byte, at) in data.iter().zip(address..) {
            memory.insert(at, byte);
        }
    }

    fn acknowledge_extint(&self) -> Option<u8> {
        self.extint.lock().unwrap().pop()
    }

    fn end_of_interrupt(&self, vector: u8) {
        self.ended.lock().unwrap().push(vector);
    }
}
