//! Where somebody would sit at the machine: its display, keyboard and mouse.

use std::fs::File;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use viv_devices::i8042::I8042;
use viv_devices::layout;
use viv_devices::pci::{ExpansionRom, PciError};
use viv_devices::vga::{Display, Frame, VgaFunction, VgaLegacy};

use super::Machine;
use super::assembly::Assembly;
use super::typist::Typist;
use crate::error::MachineError;
use crate::keys::Keystrokes;
use crate::picture::write_png;
use crate::protocol::MachineState;

/// The longest VGA BIOS, in bytes.
const MAX_ROM: u64 = 256 << 10;

/// A display with somebody in front of it.
pub(crate) struct Seat {
    display: Display,
    typist: Arc<Mutex<Typist>>,
    /// Where a picture of the display goes at the end.
    picture: Option<File>,
}

impl Seat {
    pub(crate) fn new(display: Display, typist: Arc<Mutex<Typist>>, picture: Option<File>) -> Self {
        Self { display, typist, picture }
    }
}

impl Assembly<'_> {
    /// Adds a display, with this VGA BIOS for firmware that wants one.
    pub(crate) fn add_display(&mut self, rom: Option<File>) -> Result<Display, MachineError> {
        let display = Display::new();
        let rom = rom.map(read_rom).transpose()?;
        let function = VgaFunction::new(&display, rom)?;
        self.board.add_pci(|_, _| Ok((function, ())))?;
        let legacy = Arc::new(Mutex::new(VgaLegacy::new(&display)));
        self.board.add(legacy.clone(), &VgaLegacy::PORTS)?;
        self.board.map_memory(VgaLegacy::MEMORY, legacy)?;
        Ok(display)
    }

    /// Adds the keyboard controller with a keyboard and a mouse, and somebody to type.
    pub(crate) fn add_keyboard(&mut self) -> Result<Arc<Mutex<Typist>>, MachineError> {
        let lines = [layout::KEYBOARD_IRQ, layout::MOUSE_IRQ].map(|irq| self.board.line(irq));
        let [line, auxiliary_line] = lines;
        let controller =
            I8042::with_devices(line, auxiliary_line, self.around.core.clone(), self.around.a20.clone());
        let controller = Arc::new(Mutex::new(controller));
        self.board.add(controller.clone(), &I8042::PORTS)?;
        let clock = self.around.clock.clone();
        let typist = self.around.timers.attach(|timer| Typist::new(clock, timer, controller));
        self.board.add(typist.clone(), &[])?;
        Ok(typist)
    }

    /// Adds the keyboard controller with nothing attached.
    pub(crate) fn add_keyboard_controller(&mut self) -> Result<(), MachineError> {
        let line = self.board.line(layout::KEYBOARD_IRQ);
        let controller = I8042::new(line, self.around.core.clone(), self.around.a20.clone());
        self.board.add(Arc::new(Mutex::new(controller)), &I8042::PORTS)
    }
}

fn read_rom(file: File) -> Result<ExpansionRom, MachineError> {
    let mut bytes = Vec::new();
    file.take(MAX_ROM + 1).read_to_end(&mut bytes).map_err(MachineError::host("read the VGA BIOS"))?;
    let rom = ExpansionRom::new(bytes);
    Ok(rom.map_err(|reason| PciError::Rom { name: "the display".to_owned(), reason })?)
}

impl Machine {
    /// What is on its display. Works in every state.
    ///
    /// # Errors
    /// When it has none.
    pub fn screenshot(&self) -> Result<Frame, MachineError> {
        Ok(self.seat("take a picture of")?.display.frame())
    }

    /// The lines of characters on its display, without the spaces at their ends; `None` if that is in no text mode.
    ///
    /// # Errors
    /// When it has no display.
    pub fn screen_text(&self) -> Result<Option<Vec<String>>, MachineError> {
        Ok(self.seat("read")?.display.text())
    }

    /// Types on its keyboard, after what is being typed already, at a pace that guests follow. What a guest that resets
    /// has not read yet is typed all the same.
    ///
    /// # Errors
    /// When it has no keyboard, is over, or cannot remember so much.
    pub fn send_keys(&self, keys: &Keystrokes) -> Result<(), MachineError> {
        let seat = self.seat("type on")?;
        if self.state == MachineState::Stopped {
            return Err(MachineError::State { action: "type on", state: self.state });
        }
        let mut typist = seat.typist.lock().unwrap_or_else(PoisonError::into_inner);
        if typist.type_keys(keys) { Ok(()) } else { Err(MachineError::TooManyKeys) }
    }

    /// Writes the picture that its config asks for at the end, if it does.
    pub(crate) fn leave_picture(&mut self) -> Result<(), MachineError> {
        let Some(seat) = &mut self.seat else { return Ok(()) };
        let Some(picture) = seat.picture.take() else { return Ok(()) };
        let frame = seat.display.frame();
        write_png(&frame, picture).map_err(MachineError::host("write the picture of the display"))
    }

    fn seat(&self, action: &'static str) -> Result<&Seat, MachineError> {
        self.seat.as_ref().ok_or(MachineError::NoDisplay { action })
    }
}
