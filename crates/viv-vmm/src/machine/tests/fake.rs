//! An engine whose processor knows six instructions, so that the machine is tested apart from real ones.

use std::sync::{Arc, Condvar, Mutex};

use viv_arch::VcpuState;
use viv_engine::{
    A20Target, DebugControl, Engine, EngineError, EngineKind, Exit, ExtIntTarget, GuestMemory, Kick, Msi,
    MsiTarget, Platform, Vcpu, Vm, VmParameters, memory,
};
use vm_memory::{Bytes, GuestAddress};

/// Writes the byte after the port to that port (two bytes, little-endian).
pub(crate) const OUT: u8 = 1;
/// Waits to be kicked, again and again.
pub(crate) const HALT: u8 = 2;
/// Shuts the processor down.
pub(crate) const FAULT: u8 = 3;
/// Does nothing as many times as the next two bytes say, counting in RAX.
pub(crate) const COUNT: u8 = 4;
/// Waits until bit 0 of the port is set, then reads a byte from the port 5 below: a UART's line status.
/// Then writes it to that port.
pub(crate) const ECHO: u8 = 5;

/// The engine.
pub(crate) struct FakeEngine;

struct FakeVm {
    memory: GuestMemory,
}

struct FakeVcpu {
    index: u32,
    memory: GuestMemory,
    platform: Arc<dyn Platform>,
    kick: Arc<FakeKick>,
    state: VcpuState,
}

#[derive(Default)]
struct FakeKick {
    kicked: Mutex<bool>,
    changed: Condvar,
}

impl Engine for FakeEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::Soft
    }

    fn tsc_khz(&self) -> u32 {
        1_000_000
    }

    fn create_vm(&self, parameters: VmParameters) -> Result<Arc<dyn Vm>, EngineError> {
        Ok(Arc::new(FakeVm { memory: parameters.memory }))
    }
}

impl MsiTarget for FakeVm {
    fn send_msi(&self, _msi: Msi) {}
}

impl ExtIntTarget for FakeVm {
    fn set_extint(&self, _asserted: bool) {}
}

impl A20Target for FakeVm {}

impl Vm for FakeVm {
    fn create_vcpu(&self, index: u32, platform: Arc<dyn Platform>) -> Result<Box<dyn Vcpu>, EngineError> {
        Ok(Box::new(FakeVcpu {
            index,
            memory: self.memory.clone(),
            platform,
            kick: Arc::default(),
            state: VcpuState::reset(),
        }))
    }

    fn take_dirty_pages(&self) -> Result<Vec<u64>, EngineError> {
        Ok(memory::take_dirty_pages(&self.memory))
    }
}

impl Kick for FakeKick {
    fn kick(&self) {
        *self.kicked.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

impl FakeKick {
    fn take(&self) -> bool {
        std::mem::take(&mut *self.kicked.lock().unwrap())
    }

    fn wait(&self) {
        let kicked = self.kicked.lock().unwrap();
        *self.changed.wait_while(kicked, |kicked| !*kicked).unwrap() = false;
    }
}

impl FakeVcpu {
    fn step(&mut self) -> Option<Exit> {
        let mut code = [0; 4];
        self.memory.read_slice(&mut code, GuestAddress(self.state.rip)).unwrap();
        let [opcode, low, high, value] = code;
        let port = u16::from_le_bytes([low, high]);
        match opcode {
            OUT => {
                self.state.rip += 4;
                self.platform.port_write(port, &[value]);
            }
            HALT => {
                self.kick.wait();
                return Some(Exit::Kicked);
            }
            FAULT => return Some(Exit::TripleFault),
            COUNT if self.state.gpr[0] < u64::from(port) => {
                self.state.gpr[0] += 1;
                std::thread::yield_now();
            }
            COUNT => self.state.rip += 3,
            ECHO => {
                let mut byte = [0];
                self.platform.port_read(port, &mut byte);
                if byte[0] & 1 != 0 {
                    self.platform.port_read(port - 5, &mut byte);
                    self.platform.port_write(port - 5, &byte);
                    self.state.rip += 3;
                } else {
                    std::thread::yield_now();
                }
            }
            other => return Some(Exit::Unsupported(format!("instruction {other:#x}"))),
        }
        None
    }
}

impl Vcpu for FakeVcpu {
    fn run(&mut self) -> Result<Exit, EngineError> {
        if self.index != 0 {
            self.kick.wait();
            return Ok(Exit::Kicked);
        }
        loop {
            if self.kick.take() {
                return Ok(Exit::Kicked);
            }
            if let Some(exit) = self.step() {
                return Ok(exit);
            }
        }
    }

    fn save(&mut self) -> Result<VcpuState, EngineError> {
        Ok(self.state.clone())
    }

    fn load(&mut self, state: &VcpuState) -> Result<(), EngineError> {
        self.state = state.clone();
        Ok(())
    }

    fn set_debug(&mut self, _: &DebugControl) -> Result<(), EngineError> {
        Ok(())
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        self.kick.clone()
    }
}
