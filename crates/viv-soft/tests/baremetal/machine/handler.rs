//! The handler that all vectors lead to: it records the event and acts as the test wants.

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use viv_arch::{Rflags, apic};
use viv_engine::GuestMemory;
use vm_memory::{Bytes, GuestAddress};

use super::layout::{ACTIONS, APIC, LOG};
use super::stop;

/// What the recording handler does after it has recorded an event, where it does not stop the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Returns.
    Return,
    /// Ends the interrupt at the local APIC and returns.
    EndOfInterrupt,
    /// Goes on at this address, with registers and stack as they were.
    GoTo(u64),
}

impl Action {
    /// Its word in the table of actions; 0 there stops the machine, with the registers as they were.
    pub fn word(self) -> u64 {
        match self {
            Self::Return => 1,
            Self::EndOfInterrupt => 2,
            Self::GoTo(address) => address,
        }
    }
}

/// An event as its handler saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    pub vector: u8,
    /// 0 for vectors without one.
    pub error_code: u64,
    pub rip: u64,
    pub cs: u16,
    pub rflags: u64,
    pub rsp: u64,
    pub ss: u16,
    pub cr2: u64,
    pub dr6: u64,
    /// Where the handler's own stack was.
    pub frame: u64,
}

impl Event {
    /// The parts that most tests are about.
    pub fn brief(&self) -> (u8, u64, u64) {
        (self.vector, self.error_code, self.rip)
    }

    pub fn has_flag(&self, flag: Rflags) -> bool {
        self.rflags & flag.bits() != 0
    }
}

pub const EVENT_SIZE: u64 = 80;
pub const MAX_EVENTS: u64 = 48;

/// The events that were recorded.
pub fn events(memory: &GuestMemory) -> Vec<Event> {
    let read = |at: u64| memory.read_obj::<u64>(GuestAddress(at)).unwrap();
    (0..read(LOG).min(MAX_EVENTS))
        .map(|n| {
            let word = |field: u64| read(LOG + 16 + n * EVENT_SIZE + field * 8);
            Event {
                vector: word(0) as u8,
                error_code: word(1),
                rip: word(2),
                cs: word(3) as u16,
                rflags: word(4),
                rsp: word(5),
                ss: word(6) as u16,
                cr2: word(7),
                dr6: word(8),
                frame: word(9),
            }
        })
        .collect()
}

/// Records the event on the stack (vector, error code, and what the processor pushed) and acts.
pub fn recording_handler(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut stop_label = a.create_label();
    let mut leave = a.create_label();
    let mut end = a.create_label();
    a.push(rax)?;
    a.push(rcx)?;
    a.push(rdx)?;
    a.mov(rcx, qword_ptr(LOG))?;
    a.inc(qword_ptr(LOG))?;
    a.cmp(rcx, MAX_EVENTS as i32)?;
    a.jae(stop_label)?;
    a.imul_3(rcx, rcx, EVENT_SIZE as i32)?;
    a.add(rcx, LOG as i32 + 16)?;
    for word in 0..7i32 {
        a.mov(rax, qword_ptr(rsp + (24 + word * 8)))?;
        a.mov(qword_ptr(rcx + word * 8), rax)?;
    }
    a.mov(rax, cr2)?;
    a.mov(qword_ptr(rcx + 56), rax)?;
    a.mov(rax, dr6)?;
    a.mov(qword_ptr(rcx + 64), rax)?;
    a.lea(rax, qword_ptr(rsp + 40))?;
    a.mov(qword_ptr(rcx + 72), rax)?;
    a.mov(rax, qword_ptr(rsp + 24))?;
    a.mov(rax, qword_ptr(rax * 8 + ACTIONS))?;
    a.test(rax, rax)?;
    a.jz(stop_label)?;
    a.cmp(rax, Action::Return.word() as i32)?;
    a.je(leave)?;
    a.cmp(rax, Action::EndOfInterrupt.word() as i32)?;
    a.je(end)?;
    a.mov(qword_ptr(rsp + 40), rax)?;
    a.jmp(leave)?;
    a.set_label(&mut end)?;
    a.mov(dword_ptr(APIC + u64::from(apic::reg::EOI) * 16), 0)?;
    a.set_label(&mut leave)?;
    a.pop(rdx)?;
    a.pop(rcx)?;
    a.pop(rax)?;
    a.add(rsp, 16)?;
    a.iretq()?;
    a.set_label(&mut stop_label)?;
    a.pop(rdx)?;
    a.pop(rcx)?;
    a.pop(rax)?;
    stop(a)
}
