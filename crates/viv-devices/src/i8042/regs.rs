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
        /// The byte in the output buffer is the auxiliary device's.
        const AUXILIARY = 1 << 5;
        /// The byte in the output buffer stands for a device that did not answer.
        const TIMEOUT = 1 << 6;
    }

    /// The command byte, byte 0 of the controller's RAM.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct CommandByte: u8 {
        const KEYBOARD_INTERRUPT = 1 << 0;
        const AUXILIARY_INTERRUPT = 1 << 1;
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
    DisableAuxiliary,
    EnableAuxiliary,
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
            0xa7 => Self::DisableAuxiliary,
            0xa8 => Self::EnableAuxiliary,
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
/// The output port: a byte of the keyboard's is in the output buffer, and interrupts.
pub(super) const OUTPUT_KEYBOARD: u8 = 1 << 4;
/// The output port: a byte of the auxiliary device's is in the output buffer, and interrupts.
pub(super) const OUTPUT_AUXILIARY: u8 = 1 << 5;
/// The other bits of the output port, as they read.
pub(super) const OUTPUT_ONES: u8 = 0xcc;
/// The input port: the keyboard is not locked.
pub(super) const INPUT_PORT: u8 = 0x80;

/// Devices: the last byte was taken.
pub(super) const ACKNOWLEDGE: u8 = 0xfa;
/// Devices: the last byte was not understood; to them: send the last byte again.
pub(super) const RESEND: u8 = 0xfe;
/// Devices: the second byte in a row was not understood.
pub(super) const NOT_UNDERSTOOD: u8 = 0xfc;
/// Devices: the test after a reset has passed.
pub(super) const DEVICE_TEST_PASSED: u8 = 0xaa;
/// The keyboard's echo, and the command for it.
pub(super) const ECHO: u8 = 0xee;
/// Scan code set 2: the key went up.
pub(super) const BREAK: u8 = 0xf0;

/// Commands to the keyboard.
pub(super) mod keyboard {
    /// No argument is as high.
    pub(in crate::i8042) const FIRST_COMMAND: u8 = 0xed;
    /// The lights follow.
    pub(in crate::i8042) const SET_LEDS: u8 = 0xed;
    /// The set follows, or 0 to ask for it.
    pub(in crate::i8042) const SCAN_CODE_SET: u8 = 0xf0;
    pub(in crate::i8042) const IDENTIFY: u8 = 0xf2;
    /// Delay and rate of repetition follow. No key is repeated here.
    pub(in crate::i8042) const SET_TYPEMATIC: u8 = 0xf3;
    pub(in crate::i8042) const ENABLE: u8 = 0xf4;
    pub(in crate::i8042) const DISABLE: u8 = 0xf5;
    pub(in crate::i8042) const SET_DEFAULTS: u8 = 0xf6;
    pub(in crate::i8042) const ALL_KEYS_FIRST: u8 = 0xf7;
    pub(in crate::i8042) const ALL_KEYS_LAST: u8 = 0xfa;
    pub(in crate::i8042) const RESET: u8 = 0xff;
    /// What it says it is.
    pub(in crate::i8042) const ID: [u8; 2] = [0xab, 0x83];
}

/// Commands to the mouse.
pub(super) mod mouse {
    /// Those that are known, but for the reset and "resend".
    pub(in crate::i8042) const COMMANDS: [u8; 14] = [
        SCALING_LINEAR,
        SCALING_DOUBLE,
        SET_RESOLUTION,
        STATUS,
        STREAM,
        READ,
        RESET_WRAP,
        SET_WRAP,
        REMOTE,
        IDENTIFY,
        SET_SAMPLE_RATE,
        ENABLE,
        DISABLE,
        SET_DEFAULTS,
    ];
    pub(in crate::i8042) const SCALING_LINEAR: u8 = 0xe6;
    pub(in crate::i8042) const SCALING_DOUBLE: u8 = 0xe7;
    /// The resolution follows.
    pub(in crate::i8042) const SET_RESOLUTION: u8 = 0xe8;
    pub(in crate::i8042) const STATUS: u8 = 0xe9;
    pub(in crate::i8042) const STREAM: u8 = 0xea;
    pub(in crate::i8042) const READ: u8 = 0xeb;
    pub(in crate::i8042) const RESET_WRAP: u8 = 0xec;
    pub(in crate::i8042) const SET_WRAP: u8 = 0xee;
    pub(in crate::i8042) const REMOTE: u8 = 0xf0;
    pub(in crate::i8042) const IDENTIFY: u8 = 0xf2;
    /// The rate follows.
    pub(in crate::i8042) const SET_SAMPLE_RATE: u8 = 0xf3;
    pub(in crate::i8042) const ENABLE: u8 = 0xf4;
    pub(in crate::i8042) const DISABLE: u8 = 0xf5;
    pub(in crate::i8042) const SET_DEFAULTS: u8 = 0xf6;
    pub(in crate::i8042) const RESET: u8 = 0xff;
    /// What it says it is, without the wheel and with it.
    pub(in crate::i8042) const ID: u8 = 0;
    pub(in crate::i8042) const ID_WHEEL: u8 = 3;
    /// The sample rates that ask for the wheel.
    pub(in crate::i8042) const WHEEL_RATES: [u8; 3] = [200, 100, 80];
    /// The bit of a report's first byte that is always set.
    pub(in crate::i8042) const ALWAYS: u8 = 1 << 3;
}
