//! ACPI's fixed hardware: PM1 event and control registers, the PM timer, and general-purpose event block 0.
//!
//! The machine is always in ACPI mode (the FADT names no SMI command port), unless it is to have a legacy mode
//! too ([`AcpiPm::with_legacy_mode`]). Events assert the SCI, which is level-triggered, for as long as one is both
//! up and enabled. There is no system management mode: firmware finds SMIs set up and leaves them alone.

mod regs;
mod state;

use std::sync::Arc;

use viv_engine::{Clock, Timer};

use crate::bus::PortRange;
use crate::device::{Device, DeviceError, PortIo, SavedState, TimerEvents};
use crate::irq::IrqLine;
use crate::layout;
use crate::portio::{read_bytes, write_bytes};
use crate::system::{SystemControl, SystemRequest};
use crate::ticks::Frequency;

use regs::Pm1;
use state::AcpiPmState;

/// The PM timer's clock.
const PM_CLOCK: Frequency = Frequency(3_579_545);
/// After how many ticks the highest bit of the PM timer changes.
const TICKS_PER_TURN: u64 = 1 << 31;

const NAME: &str = "acpi-pm0";

/// ACPI's fixed hardware.
pub struct AcpiPm {
    clock: Arc<dyn Clock>,
    timer: Arc<dyn Timer>,
    sci: IrqLine,
    system: Arc<dyn SystemControl>,
    status: Pm1,
    enable: Pm1,
    control: u16,
    has_legacy_mode: bool,
    /// The APM ports: control and status, which ports of an ICH9 keep for firmware.
    apm: [u8; 2],
    gpe_status: u32,
    gpe_enable: u32,
    /// How often the PM timer's highest bit had changed when [`Pm1::TIMER`] was last brought up to date.
    timer_turns: u64,
}

impl AcpiPm {
    /// Its ports.
    pub const PORTS: [PortRange; 1] =
        [PortRange::new(layout::ACPI_PM.start, layout::ACPI_PM.end.saturating_sub(layout::ACPI_PM.start))];

    /// The ports that a machine with a legacy mode has as well.
    pub const APM_PORTS: [PortRange; 1] = [PortRange::new(layout::APM_CONTROL, 2)];

    /// The hardware after power-on. `sci` is [`layout::SCI_IRQ`].
    #[must_use]
    pub fn new(
        clock: Arc<dyn Clock>,
        timer: Arc<dyn Timer>,
        sci: IrqLine,
        system: Arc<dyn SystemControl>,
    ) -> Self {
        let mut device = Self {
            clock,
            timer,
            sci,
            system,
            status: Pm1::empty(),
            enable: Pm1::empty(),
            control: regs::SCI_EN,
            has_legacy_mode: false,
            apm: [0; 2],
            gpe_status: 0,
            gpe_enable: 0,
            timer_turns: 0,
        };
        device.timer_turns = device.turns();
        device
    }

    /// The same, in legacy mode until the guest writes [`layout::ACPI_ENABLE`] to [`layout::APM_CONTROL`], or sets
    /// SCI_EN itself. Until then nothing asserts the SCI.
    #[must_use]
    pub fn with_legacy_mode(mut self) -> Self {
        self.has_legacy_mode = true;
        self.control = self.power_on_control();
        self
    }

    fn power_on_control(&self) -> u16 {
        if self.has_legacy_mode { 0 } else { regs::SCI_EN }
    }

    /// Presses the power button. A guest that has enabled it shuts down in its own time.
    pub fn press_power_button(&mut self) {
        self.status |= Pm1::POWER_BUTTON;
        self.settle();
    }

    /// Raises a general-purpose event of block 0, `number` from 0 to 31.
    pub fn raise_gpe(&mut self, number: u8) {
        self.gpe_status |= 1_u32.checked_shl(number.into()).unwrap_or(0);
        self.settle();
    }

    fn ticks(&self) -> u64 {
        PM_CLOCK.ticks(self.clock.now())
    }

    fn turns(&self) -> u64 {
        self.ticks() / TICKS_PER_TURN
    }

    /// Notices that the PM timer's highest bit has changed. (Guests that tell the time by the PM timer read
    /// it very often: nothing more is done unless it has.)
    fn catch_up(&mut self) {
        let turns = self.turns();
        if turns != self.timer_turns {
            self.timer_turns = turns;
            self.status |= Pm1::TIMER;
            self.settle();
        }
    }

    /// Brings SCI and alarm in step with the registers.
    fn settle(&mut self) {
        let fixed = self.status & self.enable & Pm1::ENABLES;
        let event = !fixed.is_empty() || self.gpe_status & self.gpe_enable != 0;
        self.sci.set(event && self.control & regs::SCI_EN != 0);
        if self.enable.contains(Pm1::TIMER) && !self.status.contains(Pm1::TIMER) {
            let next = self.timer_turns.saturating_add(1).saturating_mul(TICKS_PER_TURN);
            self.timer.arm(PM_CLOCK.nanos(next));
        } else {
            self.timer.disarm();
        }
    }

    fn read_register(&self, port: u16, ticks: u64) -> u8 {
        let (field, at) = Field::at(port);
        let bytes = match field {
            Field::Status => u32::from(self.status.bits()),
            Field::Enable => self.enable.bits().into(),
            Field::Control => self.control.into(),
            // The PM timer has 32 bits.
            Field::Timer => (ticks & 0xffff_ffff).try_into().unwrap_or(0),
            Field::GpeStatus => self.gpe_status,
            Field::GpeEnable => self.gpe_enable,
            Field::SmiEnable => regs::SMI_EN,
            Field::Apm => u16::from_le_bytes(self.apm).into(),
            Field::Reserved => 0,
        };
        bytes.to_le_bytes().get(at).copied().unwrap_or(0)
    }

    fn write_register(&mut self, port: u16, value: u8) {
        let (field, at) = Field::at(port);
        match field {
            // Status bits are cleared by writing ones.
            Field::Status => {
                let ones = with_byte(0, at, value);
                self.status.remove(Pm1::from_bits_truncate(low_half(ones)));
            }
            Field::Enable => {
                let enable = low_half(with_byte(self.enable.bits().into(), at, value));
                self.enable = Pm1::from_bits_truncate(enable) & Pm1::ENABLES;
            }
            Field::Control => self.write_control(low_half(with_byte(self.control.into(), at, value))),
            Field::GpeStatus => self.gpe_status &= !with_byte(0, at, value),
            Field::GpeEnable => self.gpe_enable = with_byte(self.gpe_enable, at, value),
            Field::Apm => self.write_apm(at, value),
            Field::Timer | Field::SmiEnable | Field::Reserved => {}
        }
    }

    fn write_apm(&mut self, at: usize, value: u8) {
        if let Some(byte) = self.apm.get_mut(at) {
            *byte = value;
        }
        match (at, value) {
            (0, layout::ACPI_ENABLE) => self.control |= regs::SCI_EN,
            (0, layout::ACPI_DISABLE) if self.has_legacy_mode => self.control &= !regs::SCI_EN,
            _ => {}
        }
    }

    fn write_control(&mut self, value: u16) {
        self.control = value & regs::CONTROL_KEPT | self.power_on_control();
        let sleep_type = (value & regs::SLP_TYP) >> regs::SLP_TYP_SHIFT;
        if value & regs::SLP_EN == 0 {
            return;
        }
        if [layout::SLEEP_TYPE_S5, layout::SLEEP_TYPE_FIRMWARE_OFF].map(u16::from).contains(&sleep_type) {
            self.system.request(SystemRequest::PowerOff);
        } else {
            tracing::debug!("the guest enters sleep type {sleep_type}, which means nothing");
        }
    }
}

/// The registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Status,
    Enable,
    Control,
    Timer,
    GpeStatus,
    GpeEnable,
    SmiEnable,
    Apm,
    Reserved,
}

impl Field {
    /// The register at a port, and which of its bytes.
    fn at(port: u16) -> (Self, usize) {
        const LAYOUT: [(Field, u16, u16); 8] = [
            (Field::Status, layout::PM1_EVENT, 2),
            (Field::Enable, layout::PM1_EVENT + 2, 2),
            (Field::Control, layout::PM1_CONTROL, layout::PM1_CONTROL_LENGTH as u16),
            (Field::Timer, layout::PM_TIMER, layout::PM_TIMER_LENGTH as u16),
            (Field::GpeStatus, layout::GPE0, layout::GPE0_LENGTH as u16 / 2),
            (Field::GpeEnable, layout::GPE0 + layout::GPE0_LENGTH as u16 / 2, layout::GPE0_LENGTH as u16 / 2),
            (Field::SmiEnable, layout::SMI_ENABLE, 4),
            (Field::Apm, layout::APM_CONTROL, 2),
        ];
        LAYOUT
            .into_iter()
            .find_map(|(field, first, length)| {
                let byte = port.checked_sub(first).filter(|&byte| byte < length)?;
                Some((field, byte.into()))
            })
            .unwrap_or((Self::Reserved, 0))
    }
}

/// `value` with its byte `at` replaced.
fn with_byte(value: u32, at: usize, byte: u8) -> u32 {
    let mut bytes = value.to_le_bytes();
    if let Some(place) = bytes.get_mut(at) {
        *place = byte;
    }
    u32::from_le_bytes(bytes)
}

fn low_half(value: u32) -> u16 {
    let [a, b, ..] = value.to_le_bytes();
    u16::from_le_bytes([a, b])
}

impl PortIo for AcpiPm {
    fn read(&mut self, port: u16, data: &mut [u8]) {
        self.catch_up();
        // Taken once, so that the bytes of one access belong together.
        let ticks = self.ticks();
        read_bytes(port, data, |port| self.read_register(port, ticks));
    }

    fn write(&mut self, port: u16, data: &[u8]) {
        self.catch_up();
        write_bytes(port, data, |port, value| self.write_register(port, value));
        self.settle();
    }
}

impl TimerEvents for AcpiPm {
    fn on_timer(&mut self, _now: u64) {
        self.catch_up();
    }
}

impl Device for AcpiPm {
    fn name(&self) -> &str {
        NAME
    }

    fn port_io(&mut self) -> Option<&mut dyn PortIo> {
        Some(self)
    }

    fn timer_events(&mut self) -> Option<&mut dyn TimerEvents> {
        Some(self)
    }

    fn reset(&mut self) {
        self.status = Pm1::empty();
        self.enable = Pm1::empty();
        self.control = self.power_on_control();
        self.apm = [0; 2];
        self.gpe_status = 0;
        self.gpe_enable = 0;
        self.timer_turns = self.turns();
        self.settle();
    }

    fn save(&self) -> Result<SavedState, DeviceError> {
        let state = AcpiPmState {
            status: self.status.bits(),
            enable: self.enable.bits(),
            control: self.control,
            apm: self.apm,
            gpe_status: self.gpe_status,
            gpe_enable: self.gpe_enable,
            timer_turns: self.timer_turns,
        };
        SavedState::encode(NAME, AcpiPmState::VERSION, &state)
    }

    fn restore(&mut self, state: &SavedState) -> Result<(), DeviceError> {
        let state = AcpiPmState::decode(state)?;
        self.status = Pm1::from_bits_truncate(state.status);
        self.enable = Pm1::from_bits_truncate(state.enable) & Pm1::ENABLES;
        self.control = state.control & regs::CONTROL_KEPT | self.power_on_control();
        self.apm = state.apm;
        self.gpe_status = state.gpe_status;
        self.gpe_enable = state.gpe_enable;
        self.timer_turns = state.timer_turns;
        self.settle();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
