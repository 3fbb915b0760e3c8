//! Registers of the 16550A (National Semiconductor PC16550D data sheet, section 8), by offset from the base port.

use bitflags::bitflags;

/// RBR (read), THR (write); DLL while DLAB is set.
pub(super) const DATA: u16 = 0;
/// IER; DLM while DLAB is set.
pub(super) const INTERRUPT_ENABLE: u16 = 1;
/// IIR (read), FCR (write).
pub(super) const INTERRUPT_ID: u16 = 2;
/// LCR.
pub(super) const LINE_CONTROL: u16 = 3;
/// MCR.
pub(super) const MODEM_CONTROL: u16 = 4;
/// LSR.
pub(super) const LINE_STATUS: u16 = 5;
/// MSR.
pub(super) const MODEM_STATUS: u16 = 6;
/// SCR.
pub(super) const SCRATCH: u16 = 7;

/// Capacity of each FIFO.
pub(super) const FIFO_SIZE: usize = 16;

/// LCR bit 7: offsets 0 and 1 are the divisor latch.
pub(super) const LCR_DLAB: u8 = 0x80;
/// IIR bits 6 and 7: FIFOs are enabled.
pub(super) const IIR_FIFOS: u8 = 0xc0;

bitflags! {
    /// IER.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct InterruptEnable: u8 {
        const RECEIVED_DATA = 1 << 0;
        const TRANSMITTER_EMPTY = 1 << 1;
        const LINE_STATUS = 1 << 2;
        const MODEM_STATUS = 1 << 3;
    }

    /// FCR.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct FifoControl: u8 {
        const ENABLE = 1 << 0;
        const RESET_RECEIVER = 1 << 1;
        const RESET_TRANSMITTER = 1 << 2;
    }

    /// MCR.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct ModemControl: u8 {
        const DTR = 1 << 0;
        const RTS = 1 << 1;
        const OUT1 = 1 << 2;
        const OUT2 = 1 << 3;
        const LOOPBACK = 1 << 4;
    }

    /// LSR.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct LineStatus: u8 {
        const DATA_READY = 1 << 0;
        const OVERRUN = 1 << 1;
        const TRANSMITTER_HOLDING_EMPTY = 1 << 5;
        const TRANSMITTER_EMPTY = 1 << 6;
    }

    /// MSR: the lines in the upper half, which of them changed in the lower.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(super) struct ModemStatus: u8 {
        const DELTA_CTS = 1 << 0;
        const DELTA_DSR = 1 << 1;
        /// RI went from asserted to not.
        const TRAILING_EDGE_RI = 1 << 2;
        const DELTA_DCD = 1 << 3;
        const CTS = 1 << 4;
        const DSR = 1 << 5;
        const RI = 1 << 6;
        const DCD = 1 << 7;
    }
}

impl ModemStatus {
    /// The lines.
    pub(super) const LINES: Self = Self::CTS.union(Self::DSR).union(Self::RI).union(Self::DCD);
    /// The lines that the far end asserts as long as the machine runs.
    pub(super) const ATTACHED: Self = Self::CTS.union(Self::DSR).union(Self::DCD);

    /// The lines as loopback ties them to the modem control outputs.
    pub(super) fn looped(control: ModemControl) -> Self {
        [
            (ModemControl::RTS, Self::CTS),
            (ModemControl::DTR, Self::DSR),
            (ModemControl::OUT1, Self::RI),
            (ModemControl::OUT2, Self::DCD),
        ]
        .into_iter()
        .filter(|&(output, _)| control.contains(output))
        .fold(Self::empty(), |lines, (_, line)| lines | line)
    }

    /// `self` once its lines are `lines`: the changes are added to those that nobody has read yet.
    pub(super) fn with_lines(self, lines: Self) -> Self {
        let changed = (self ^ lines) & Self::LINES;
        let mut deltas = self.difference(Self::LINES);
        deltas.set(Self::DELTA_CTS, deltas.contains(Self::DELTA_CTS) || changed.contains(Self::CTS));
        deltas.set(Self::DELTA_DSR, deltas.contains(Self::DELTA_DSR) || changed.contains(Self::DSR));
        deltas.set(Self::DELTA_DCD, deltas.contains(Self::DELTA_DCD) || changed.contains(Self::DCD));
        let rang = self.contains(Self::RI) && changed.contains(Self::RI);
        deltas.set(Self::TRAILING_EDGE_RI, deltas.contains(Self::TRAILING_EDGE_RI) || rang);
        deltas | lines
    }
}

/// What IIR reports, in order of priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    LineStatus,
    ReceivedData,
    CharacterTimeout,
    TransmitterEmpty,
    ModemStatus,
}

impl Cause {
    /// IIR's lower half.
    pub(super) fn id(cause: Option<Self>) -> u8 {
        match cause {
            None => 0x1,
            Some(Self::LineStatus) => 0x6,
            Some(Self::ReceivedData) => 0x4,
            Some(Self::CharacterTimeout) => 0xc,
            Some(Self::TransmitterEmpty) => 0x2,
            Some(Self::ModemStatus) => 0x0,
        }
    }
}

/// How many bytes in the receive FIFO are worth an interrupt, by FCR bits 6 and 7.
pub(super) fn trigger_level(fifo_control: u8) -> usize {
    match fifo_control >> 6 {
        0 => 1,
        1 => 4,
        2 => 8,
        _ => 14,
    }
}
