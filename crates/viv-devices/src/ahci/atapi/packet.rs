//! Packets: which operation does what.

use super::regs::{Sense, operation};
use super::{Cdrom, MediaEvent, blocks, tables};
use crate::ahci::transfer::Packet;

/// The most blocks that one packet reads: 32 MiB.
const MAX_BLOCKS: u64 = 16 << 10;

/// What a packet gives.
pub(super) enum Data {
    /// Bytes, already cut to the length that the guest asked for.
    Bytes(Vec<u8>),
    /// Blocks of the medium, which it has.
    Blocks { first: u64, count: u64 },
}

impl Data {
    const NOTHING: Self = Self::Bytes(Vec::new());

    /// `bytes`, of which the guest wants at most `length`.
    fn cut(mut bytes: Vec<u8>, length: u16) -> Self {
        bytes.truncate(length.into());
        Self::Bytes(bytes)
    }
}

/// Fields of a packet, most significant byte first.
struct Fields<'a>(&'a Packet);

impl Fields<'_> {
    fn byte<const AT: usize>(&self) -> u8 {
        const { assert!(AT < size_of::<Packet>()) };
        self.0.get(AT).copied().unwrap_or(0)
    }

    fn half<const AT: usize>(&self) -> u16 {
        const { assert!(AT + 2 <= size_of::<Packet>()) };
        self.0.get(AT..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u16::from_be_bytes(*bytes))
    }

    fn word<const AT: usize>(&self) -> u32 {
        const { assert!(AT + 4 <= size_of::<Packet>()) };
        self.0.get(AT..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_be_bytes(*bytes))
    }
}

impl Cdrom {
    /// Does what a packet asks for, but for reading blocks.
    pub(super) fn perform(&mut self, packet: &Packet) -> Result<Data, Sense> {
        let fields = Fields(packet);
        let operation = fields.byte::<0>();
        // These are answered whatever happened to the medium, and leave word of it to others (SPC-3, 6.4.1).
        let is_quiet = matches!(
            operation,
            operation::INQUIRY
                | operation::REQUEST_SENSE
                | operation::GET_CONFIGURATION
                | operation::GET_EVENT_STATUS
        );
        if !is_quiet && std::mem::take(&mut self.tray.changed) {
            return Err(Sense::MEDIUM_CHANGED);
        }
        match operation {
            operation::TEST_UNIT_READY | operation::SEEK_10 => self.blocks().map(|_| Data::NOTHING),
            operation::REQUEST_SENSE => {
                Ok(Data::cut(self.take_sense().data().to_vec(), fields.byte::<4>().into()))
            }
            operation::INQUIRY => self.inquiry(&fields),
            operation::MODE_SENSE_6 => {
                let page = tables::mode_page(fields.byte::<2>(), self.tray.locked)?;
                Ok(Data::cut(tables::mode_sense_6(&page), fields.byte::<4>().into()))
            }
            operation::MODE_SENSE_10 => {
                let page = tables::mode_page(fields.byte::<2>(), self.tray.locked)?;
                Ok(Data::cut(tables::mode_sense_10(&page), fields.half::<7>()))
            }
            operation::START_STOP_UNIT => self.start_stop(fields.byte::<4>()),
            operation::PREVENT_ALLOW => {
                self.tray.locked = fields.byte::<4>() & 1 != 0;
                Ok(Data::NOTHING)
            }
            operation::READ_CAPACITY => {
                let capacity = tables::capacity(self.blocks()?);
                Ok(Data::Bytes(capacity.to_vec()))
            }
            operation::READ_10 => self.read(fields.word::<2>(), fields.half::<7>().into()),
            operation::READ_12 => self.read(fields.word::<2>(), fields.word::<6>()),
            operation::READ_TOC => {
                let blocks = self.blocks()?;
                // The format was in the last byte once.
                let format = match fields.byte::<2>() & 0xf {
                    0 => fields.byte::<9>() >> 6,
                    format => format,
                };
                let by_time = fields.byte::<1>() & 0b10 != 0;
                let table = tables::contents(format, fields.byte::<6>(), by_time, blocks)?;
                Ok(Data::cut(table, fields.half::<7>()))
            }
            operation::GET_CONFIGURATION => {
                let blocks = self.blocks().ok();
                let features = tables::configuration(fields.byte::<1>() & 0b11, fields.half::<2>(), blocks)?;
                Ok(Data::cut(features, fields.half::<7>()))
            }
            operation::GET_EVENT_STATUS => self.event_status(&fields),
            operation::READ_DISC_INFORMATION => {
                self.blocks()?;
                Ok(Data::cut(tables::disc_information(), fields.half::<7>()))
            }
            operation::SET_CD_SPEED => Ok(Data::NOTHING),
            operation::MECHANISM_STATUS => {
                Ok(Data::cut(tables::mechanism_status(self.tray.open), fields.half::<8>()))
            }
            _ => Err(Sense::INVALID_OPERATION),
        }
    }

    /// How many blocks there are to read.
    fn blocks(&self) -> Result<u64, Sense> {
        match &self.medium {
            _ if self.tray.open => Err(Sense::NO_MEDIUM_TRAY_OPEN),
            Some(medium) => Ok(blocks(medium.as_ref())),
            None => Err(Sense::NO_MEDIUM_TRAY_CLOSED),
        }
    }

    fn take_sense(&mut self) -> Sense {
        let sense = std::mem::take(&mut self.tray.sense);
        if std::mem::take(&mut self.tray.changed) { Sense::MEDIUM_CHANGED } else { sense }
    }

    fn inquiry(&self, fields: &Fields<'_>) -> Result<Data, Sense> {
        let page = fields.byte::<2>();
        let answer = match (fields.byte::<1>() & 1 != 0, page) {
            (false, 0) => tables::inquiry(),
            (true, tables::PAGE_LIST) => vec![tables::CDROM, page, 0, 2, page, tables::PAGE_SERIAL],
            (true, tables::PAGE_SERIAL) => tables::inquiry_serial(&self.serial),
            _ => return Err(Sense::INVALID_FIELD),
        };
        Ok(Data::cut(answer, fields.half::<3>()))
    }

    /// Opens or closes the tray, if that is what is asked.
    fn start_stop(&mut self, request: u8) -> Result<Data, Sense> {
        const START: u8 = 1 << 0;
        const LOAD_EJECT: u8 = 1 << 1;
        const POWER_CONDITIONS: u8 = 0xf0;
        if request & LOAD_EJECT == 0 || request & POWER_CONDITIONS != 0 {
            return Ok(Data::NOTHING);
        }
        let open = request & START == 0;
        if open == self.tray.open {
            return Ok(Data::NOTHING);
        }
        if open && self.tray.locked {
            return Err(Sense::REMOVAL_PREVENTED);
        }
        self.tray.open = open;
        if self.medium.is_some() {
            self.tray.event = if open { MediaEvent::Removed } else { MediaEvent::New };
            self.tray.changed = !open;
        }
        Ok(Data::NOTHING)
    }

    fn read(&self, first: u32, count: u32) -> Result<Data, Sense> {
        let blocks = self.blocks()?;
        let (first, count) = (u64::from(first), u64::from(count));
        if first.saturating_add(count) > blocks {
            return Err(Sense::OUT_OF_RANGE);
        }
        if count > MAX_BLOCKS {
            return Err(Sense::INVALID_FIELD);
        }
        Ok(Data::Blocks { first, count })
    }

    /// Polls for events; there are none but the medium's (MMC-6, 6.7).
    fn event_status(&mut self, fields: &Fields<'_>) -> Result<Data, Sense> {
        if fields.byte::<1>() & 1 == 0 {
            return Err(Sense::INVALID_FIELD);
        }
        let event = if fields.byte::<4>() & tables::MEDIA_CLASS == 0 {
            None
        } else {
            Some(match std::mem::take(&mut self.tray.event) {
                MediaEvent::None => 0,
                MediaEvent::New => 2,
                MediaEvent::Removed => 3,
            })
        };
        let present = self.medium.is_some() && !self.tray.open;
        Ok(Data::cut(tables::event_status(event, self.tray.open, present), fields.half::<7>()))
    }
}
