//! Registers and commands of the 8042 (IBM PS/2 Technical Reference, "Keyboard/Auxiliary Device Controller").

use bitflags::bitflags;

bitflags! {
    /// The status register.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct Status: u8 {
        const OUTPUT_FULL = 1 << 0;
        /// The self-test has passed.
        const SYSTEM = 1 << 2;
        /// The last write was a command.
        const COMMAND = 1 << 3;
        /// The keyboard lock is open.
        const UNLOCKED = 1 << 4;
        /// The byte in the output buffer stands for a device that did not answer.
        const TIMEOUT = 1 << 6;
    }

    /// The command byte, byte 0 of the controller's RAM.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct CommandByte: u8 {
        const KEYBOARD_INTERRUPT = 1 << 0;
        const SYSTEM = 1 << 2;
        const KEYBOARD_DISABLED = 1 << 4;
        const AUXILIARY_DISABLED = 1 << 5;
        const TRANSLATE = 1 << 6;
    }
}

impl CommandByte {
    /// After power-on.
    pub(super) const POWER_ON: Self =
        Self::KEYBOARD_INTERRUPT.union(Self::AUXILIARY_DISABLED).union(Self::TRANSLATE);
}

/// A write to the command port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Command {
    ReadRam(u8),
    /// The byte follows.
    WriteRam(u8),
    TestAuxiliary,
    SelfTest,
    TestKeyboard,
    DisableKeyboard,
    EnableKeyboard,
    ReadInputPort,
    ReadOutputPort,
    /// The byte follows.
    WriteOutputPort,
    /// The byte follows, and comes back as if from the keyboard.
    WriteKeyboardOutput,
    /// The byte follows, and comes back as if from the auxiliary device.
    WriteAuxiliaryOutput,
    /// The byte follows, for the auxiliary device.
    WriteAuxiliary,
    DisableA20,
    EnableA20,
    /// Pulls lines of the output port low for a moment: those whose bit is clear.
    PulseOutputPort(u8),
    Unknown,
}

impl Command {
    pub(super) fn from_byte(value: u8) -> Self {
        match value {
            0x20..=0x3f => Self::ReadRam(value & 0x1f),
            0x60..=0x7f => Self::WriteRam(value & 0x1f),
            0xa9 => Self::TestAuxiliary,
            0xaa => Self::SelfTest,
            0xab => Self::TestKeyboard,
            0xad => Self::DisableKeyboard,
            0xae => Self::EnableKeyboard,
            0xc0 => Self::ReadInputPort,
            0xd0 => Self::ReadOutputPort,
            0xd1 => Self::WriteOutputPort,
            0xd2 => Self::WriteKeyboardOutput,
            0xd3 => Self::WriteAuxiliaryOutput,
            0xd4 => Self::WriteAuxiliary,
            0xdd => Self::DisableA20,
            0xdf => Self::EnableA20,
            0xf0..=0xff => Self::PulseOutputPort(value & 0x0f),
            _ => Self::Unknown,
        }
    }

    /// Whether a byte follows at the data port.
    pub(super) fn takes_data(self) -> bool {
        matches!(
            self,
            Self::WriteRam(_)
                | Self::WriteOutputPort
                | Self::WriteKeyboardOutput
                | Self::WriteAuxiliaryOutput
                | Self::WriteAuxiliary
        )
    }
}

/// What the self-test answers: passed.
pub(super) const SELF_TEST_PASSED: u8 = 0x55;
/// What the test of a port answers: no error.
pub(super) const PORT_WORKS: u8 = 0x00;
/// What the test of a port answers: the clock line is stuck high.
pub(super) const PORT_CLOCK_HIGH: u8 = 0x02;
/// What stands in for a device that does not answer: "resend".
pub(super) const NO_ANSWER: u8 = 0xfe;

/// The output port's bit that, low, resets the processor.
pub(super) const OUTPUT_RESET: u8 = 1 << 0;
/// The output port's A20 gate.
pub(super) const OUTPUT_A20: u8 = 1 << 1;
/// The other bits of the output port, as they read.
pub(super) const OUTPUT_ONES: u8 = 0xcc;
/// The input port: the keyboard is not locked.
pub(super) const INPUT_PORT: u8 = 0x80;
