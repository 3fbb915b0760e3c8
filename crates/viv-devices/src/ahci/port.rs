//! A port: its registers, its link, and where its list of commands stands.

use viv_engine::GuestMemory;
use vm_memory::{Bytes, GuestAddress};

use super::drive::{Protocol, Reply};
use super::fis::Answer;
use super::regs::{
    PortRegister, SIGNATURE_UNKNOWN, SLOTS, TASK_FILE_UNKNOWN, command, interrupt, link, received,
    sata_error, status,
};
use super::state::PortState;
use super::transfer::{Command, Moved};

/// A command that is to be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Issued {
    pub(super) slot: u8,
    /// Where the list of commands is.
    pub(super) list: u64,
}

/// What became of a command.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It could not be read.
    NotFetched,
    /// Its data could not be moved.
    NotMoved,
    /// It was no command, but the beginning or the end of a reset by software.
    SoftReset {
        /// Whether it was the beginning.
        asserted: bool,
    },
    /// The drive has an answer.
    Done { command: Command, moved: Moved, reply: Reply },
}

/// A port. All its registers are in [`PortState`], which is what is saved.
#[derive(Debug)]
pub(super) struct Port {
    /// What the drive says of itself after a reset; `None` if there is no drive.
    signature: Option<Answer>,
    pub(super) state: PortState,
}

impl Port {
    /// A port as after power-on.
    pub(super) fn new(signature: Option<Answer>) -> Self {
        let mut port = Self { signature, state: PortState::default() };
        port.power_on();
        port
    }

    /// Puts it in the state after power-on.
    pub(super) fn power_on(&mut self) {
        self.state = PortState::default();
        self.take_link_down(0);
        self.bring_link_up();
    }

    /// What a reset of the controller resets: all but the addresses of the lists (10.4.3).
    pub(super) fn reset(&mut self) {
        let (command_list, received_fis) = (self.state.command_list, self.state.received_fis);
        self.power_on();
        (self.state.command_list, self.state.received_fis) = (command_list, received_fis);
    }

    /// Whether a register's value says that the port is to stop, or its link to be reset.
    pub(super) fn disturbs(register: PortRegister, value: u32) -> bool {
        match register {
            PortRegister::Command => value & command::START == 0,
            PortRegister::SataControl => true,
            _ => false,
        }
    }

    pub(super) fn read(&self, register: PortRegister) -> u32 {
        let state = &self.state;
        match register {
            PortRegister::CommandList => state.command_list as u32,
            PortRegister::CommandListUpper => (state.command_list >> 32) as u32,
            PortRegister::ReceivedFis => state.received_fis as u32,
            PortRegister::ReceivedFisUpper => (state.received_fis >> 32) as u32,
            PortRegister::InterruptStatus => self.interrupt_status(),
            PortRegister::InterruptEnable => state.interrupt_enable,
            PortRegister::Command => self.command(),
            PortRegister::TaskFile => state.task_file,
            PortRegister::Signature => state.signature,
            PortRegister::SataStatus => state.sata_status,
            PortRegister::SataControl => state.sata_control,
            PortRegister::SataError => state.sata_error,
            PortRegister::SataActive => state.sata_active,
            PortRegister::CommandIssue => state.command_issue,
        }
    }

    pub(super) fn write(&mut self, memory: &GuestMemory, register: PortRegister, value: u32) {
        let state = &mut self.state;
        let upper = u64::from(value) << 32;
        let is_started = state.command & command::START != 0;
        match register {
            PortRegister::CommandList => {
                state.command_list = (state.command_list & !0xffff_ffff) | u64::from(value & !0x3ff);
            }
            PortRegister::CommandListUpper => state.command_list = (state.command_list & 0xffff_ffff) | upper,
            PortRegister::ReceivedFis => {
                state.received_fis = (state.received_fis & !0xffff_ffff) | u64::from(value & !0xff);
            }
            PortRegister::ReceivedFisUpper => state.received_fis = (state.received_fis & 0xffff_ffff) | upper,
            PortRegister::InterruptStatus => state.interrupt_status &= !value,
            PortRegister::InterruptEnable => state.interrupt_enable = value & interrupt::ENABLE_WRITABLE,
            PortRegister::Command => self.set_command(memory, value),
            PortRegister::SataControl => self.set_sata_control(memory, value),
            PortRegister::SataError => state.sata_error &= !value,
            PortRegister::SataActive if is_started => state.sata_active |= value,
            PortRegister::CommandIssue if is_started => state.command_issue |= value,
            PortRegister::SataActive
            | PortRegister::CommandIssue
            | PortRegister::TaskFile
            | PortRegister::Signature
            | PortRegister::SataStatus => {}
        }
    }

    /// PxIS, with what it shows of PxSERR.
    fn interrupt_status(&self) -> u32 {
        let shown = [
            (sata_error::EXCHANGED, interrupt::PORT_CHANGE),
            (sata_error::PHY_READY_CHANGE, interrupt::PHY_READY_CHANGE),
        ];
        let set = shown.iter().filter(|(error, _)| self.state.sata_error & error != 0);
        set.fold(self.state.interrupt_status & !interrupt::SHOWN, |status, (_, bit)| status | bit)
    }

    /// Whether it wants to interrupt.
    pub(super) fn wants_interrupt(&self) -> bool {
        self.interrupt_status() & self.state.interrupt_enable != 0
    }

    fn command(&self) -> u32 {
        let written = self.state.command;
        let follows = |cause: u32, effect: u32| if written & cause != 0 { effect } else { 0 };
        written
            | command::SPIN_UP
            | command::POWER_ON
            | (u32::from(self.state.slot) << command::CURRENT_SLOT_SHIFT)
            | follows(command::FIS_RECEIVE, command::FIS_RECEIVE_RUNNING)
            | follows(command::START, command::LIST_RUNNING)
    }

    fn set_command(&mut self, memory: &GuestMemory, value: u32) {
        let state = &mut self.state;
        let before = std::mem::replace(&mut state.command, value & command::WRITABLE);
        if value & command::LIST_OVERRIDE != 0 {
            state.task_file &= !u32::from(status::BUSY | status::DATA_REQUEST);
        }
        if (before ^ value) & command::START != 0 {
            // Started or stopped, the port forgets what it was asked and what went wrong (3.3.7, 3.3.14).
            (state.command_issue, state.sata_active) = (0, 0);
            (state.slot, state.next_slot, state.halted) = (0, 0, false);
        }
        self.greet(memory);
    }

    fn set_sata_control(&mut self, memory: &GuestMemory, value: u32) {
        self.state.sata_control = value & link::WRITABLE;
        match value & link::DETECTION {
            link::DETECTION_RESET => self.take_link_down(0),
            link::DETECTION_OFFLINE => self.take_link_down(link::DETECTION_OFFLINE),
            _ if self.state.sata_status != link::UP => {
                self.bring_link_up();
                self.greet(memory);
            }
            _ => {}
        }
    }

    fn take_link_down(&mut self, sata_status: u32) {
        let state = &mut self.state;
        if state.sata_status == link::UP {
            state.sata_error |= sata_error::PHY_READY_CHANGE;
        }
        state.sata_status = sata_status;
        state.task_file = TASK_FILE_UNKNOWN;
        state.signature = SIGNATURE_UNKNOWN;
        (state.greeting_due, state.in_soft_reset) = (false, false);
    }

    fn bring_link_up(&mut self) {
        if self.signature.is_none() {
            self.state.sata_status = 0;
            return;
        }
        self.state.sata_status = link::UP;
        self.state.sata_error |= sata_error::PHY_READY_CHANGE | sata_error::EXCHANGED;
        self.state.greeting_due = true;
    }

    /// Receives the FIS by which a drive reports in after a reset, as soon as FISes are received at all.
    fn greet(&mut self, memory: &GuestMemory) {
        if let Some(signature) = self.signature
            && self.state.greeting_due
            && self.state.command & command::FIS_RECEIVE != 0
        {
            self.state.greeting_due = false;
            self.state.signature = signature.signature();
            self.receive_registers(memory, signature, false);
        }
    }

    /// Whether there are commands to carry out.
    pub(super) fn has_work(&self) -> bool {
        let state = &self.state;
        state.command & command::START != 0
            && state.sata_status == link::UP
            && !state.halted
            && state.command_issue != 0
    }

    /// The next command: slots are gone through in turn.
    pub(super) fn next_command(&mut self) -> Option<Issued> {
        if !self.has_work() {
            return None;
        }
        let state = &mut self.state;
        let ahead = state.command_issue.rotate_right(state.next_slot.into()).trailing_zeros();
        state.slot = state.next_slot.wrapping_add(u8::try_from(ahead).unwrap_or(0)) % SLOTS;
        state.next_slot = state.slot.wrapping_add(1) % SLOTS;
        state.task_file |= u32::from(status::BUSY);
        Some(Issued { slot: state.slot, list: state.command_list })
    }

    /// Tells the driver what became of a command.
    pub(super) fn conclude(&mut self, memory: &GuestMemory, issued: Issued, outcome: Outcome) {
        match outcome {
            Outcome::NotFetched => self.halt(interrupt::BUS_FATAL),
            Outcome::NotMoved => self.halt(interrupt::DATA_ERROR),
            Outcome::SoftReset { asserted } => self.set_soft_reset(memory, issued, asserted),
            Outcome::Done { command, moved, reply } => self.finish(memory, issued, &command, moved, reply),
        }
    }

    /// Stops until the driver stops and starts the port (6.2).
    fn halt(&mut self, cause: u32) {
        self.state.interrupt_status |= cause;
        self.state.halted = true;
        self.state.task_file &= !u32::from(status::BUSY);
    }

    fn set_soft_reset(&mut self, memory: &GuestMemory, issued: Issued, asserted: bool) {
        self.state.task_file &= !u32::from(status::BUSY);
        self.complete(issued.slot);
        let ended = self.state.in_soft_reset && !asserted;
        self.state.in_soft_reset = asserted;
        if ended {
            self.state.greeting_due = true;
            self.greet(memory);
        }
    }

    /// Tells the driver what a drive answered, by the FISes of the protocol.
    fn finish(
        &mut self,
        memory: &GuestMemory,
        issued: Issued,
        command: &Command,
        moved: Moved,
        reply: Reply,
    ) {
        let Reply { protocol, answer } = reply;
        if moved.overflow {
            self.state.interrupt_status |= interrupt::OVERFLOW;
        }
        if moved.region_done {
            self.state.interrupt_status |= interrupt::REGION_DONE;
        }
        if let Protocol::Queued(tag) = protocol {
            return self.finish_queued(memory, issued, tag, answer);
        }
        if command.note_moved(memory, moved.bytes).is_err() {
            return self.halt(interrupt::BUS_FATAL);
        }
        match protocol {
            Protocol::PioIn if !answer.is_error() => {
                self.receive_pio_setup(memory, answer, true, moved.bytes);
                self.complete(issued.slot);
                return;
            }
            Protocol::PacketPioIn if moved.bytes > 0 => {
                self.receive_pio_setup(memory, answer, true, moved.bytes);
            }
            Protocol::PioOut if moved.bytes > 0 => {
                self.receive_pio_setup(memory, answer, false, moved.bytes);
            }
            _ => {}
        }
        self.receive_registers(memory, answer, true);
        if answer.is_error() {
            self.halt(interrupt::TASK_FILE_ERROR);
        } else {
            self.complete(issued.slot);
        }
    }

    /// The device takes a queued command over, and some time later says what became of it.
    fn finish_queued(&mut self, memory: &GuestMemory, issued: Issued, tag: u8, answer: Answer) {
        self.receive_registers(memory, Answer { status: status::IDLE, error: 0, ..answer }, false);
        self.complete(issued.slot);
        let bit = 1_u32.checked_shl(u32::from(tag)).unwrap_or(0);
        let done = if answer.is_error() { 0 } else { bit };
        self.receive(memory, received::SET_DEVICE_BITS, &answer.set_device_bits(done));
        self.state.sata_active &= !done;
        self.state.task_file = answer.task_file_data();
        self.state.interrupt_status |= interrupt::SET_DEVICE_BITS;
        if answer.is_error() {
            self.halt(interrupt::TASK_FILE_ERROR);
        }
    }

    fn complete(&mut self, slot: u8) {
        self.state.command_issue &= !1_u32.checked_shl(u32::from(slot)).unwrap_or(0);
    }

    fn receive_registers(&mut self, memory: &GuestMemory, answer: Answer, interrupts: bool) {
        self.receive(memory, received::D2H_REGISTER, &answer.d2h(interrupts));
        self.state.task_file = answer.task_file_data();
        if interrupts {
            self.state.interrupt_status |= interrupt::D2H_REGISTER;
        }
    }

    fn receive_pio_setup(&mut self, memory: &GuestMemory, answer: Answer, to_host: bool, length: u64) {
        self.receive(memory, received::PIO_SETUP, &answer.pio_setup(to_host, length));
        self.state.task_file = answer.task_file_data();
        if to_host {
            self.state.interrupt_status |= interrupt::PIO_SETUP;
        }
    }

    /// Writes a FIS to memory, if the driver wants them.
    fn receive(&mut self, memory: &GuestMemory, at: u64, fis: &[u8]) {
        if self.state.command & command::FIS_RECEIVE == 0 {
            return;
        }
        let address = GuestAddress(self.state.received_fis.wrapping_add(at));
        if memory.write_slice(fis, address).is_err() {
            self.halt(interrupt::BUS_FATAL);
        }
    }
}
