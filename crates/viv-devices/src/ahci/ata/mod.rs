//! A disk (ACS-3): which command does what.

mod identify;
mod io;
mod regs;

use serde::{Deserialize, Serialize};
use viv_disk::{Disk, DiskError, SECTOR};

use super::drive::{Protocol, Reply, error};
use super::fis::{Answer, TaskFile};
use super::regs::status;
use super::transfer::{MemoryFault, Transfer};
use io::{FailedQueued, Sectors};
use regs::{command, feature};

/// How much is moved between disk and guest at a time.
const BUFFER: usize = 256 << 10;
/// Ultra DMA 5, which a driver may change and nobody cares about.
const DEFAULT_TRANSFER_MODE: u8 = 0x45;

/// A SATA disk.
pub struct AtaDisk {
    disk: Box<dyn Disk>,
    sectors: u64,
    serial: String,
    write_cache: bool,
    look_ahead: bool,
    /// Sectors for an interrupt of READ MULTIPLE; 0 if it is off.
    multiple: u8,
    transfer_mode: u8,
    /// The queued command that failed, for the log.
    failed: Option<FailedQueued>,
    buffer: Vec<u8>,
}

/// A saved [`AtaDisk`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct AtaDiskState {
    sectors: u64,
    read_only: bool,
    write_cache: bool,
    look_ahead: bool,
    multiple: u8,
    transfer_mode: u8,
    failed: Option<FailedQueued>,
}

/// Why a command fails.
#[derive(Debug)]
enum Failure {
    /// It is not known, or not possible.
    Aborted,
    /// Its sectors are not on the disk.
    OutOfRange,
    /// The host failed to read the sector.
    Unreadable(u64),
    /// The host failed to write or flush.
    Unwritable,
    /// Its data lie outside guest RAM.
    Memory,
}

impl From<MemoryFault> for Failure {
    fn from(MemoryFault: MemoryFault) -> Self {
        Self::Memory
    }
}

impl AtaDisk {
    pub(super) const SIGNATURE: Answer =
        Answer { status: status::IDLE, error: 1, lba: 1, device: 0, count: 1 };

    /// A disk with the contents of `disk`. The guest sees the first 20 characters of `serial`, in
    /// `/dev/disk/by-id/ata-Vivarium_disk_<serial>`.
    #[must_use]
    pub fn new(disk: Box<dyn Disk>, serial: &str) -> Self {
        Self {
            sectors: disk.size() / SECTOR,
            disk,
            serial: serial.to_owned(),
            write_cache: true,
            look_ahead: true,
            multiple: 0,
            transfer_mode: DEFAULT_TRANSFER_MODE,
            failed: None,
            buffer: vec![0; BUFFER],
        }
    }

    pub(super) fn flush(&mut self) -> Result<(), DiskError> {
        self.disk.flush()
    }

    /// Features go back to what they were; as with a disk that reverts to its defaults.
    pub(super) fn reset(&mut self) {
        (self.write_cache, self.look_ahead) = (true, true);
        (self.multiple, self.transfer_mode) = (0, DEFAULT_TRANSFER_MODE);
        self.failed = None;
    }

    pub(super) fn save(&self) -> AtaDiskState {
        AtaDiskState {
            sectors: self.sectors,
            read_only: self.disk.read_only(),
            write_cache: self.write_cache,
            look_ahead: self.look_ahead,
            multiple: self.multiple,
            transfer_mode: self.transfer_mode,
            failed: self.failed,
        }
    }

    pub(super) fn restore(&mut self, state: &AtaDiskState) -> Result<(), String> {
        if state.sectors != self.sectors {
            return Err(format!("its disk had {} sectors and has {}", state.sectors, self.sectors));
        }
        if state.read_only != self.disk.read_only() {
            return Err("its disk was writable and is not, or the other way round".to_owned());
        }
        (self.write_cache, self.look_ahead) = (state.write_cache, state.look_ahead);
        (self.multiple, self.transfer_mode) = (state.multiple, state.transfer_mode);
        self.failed = state.failed;
        Ok(())
    }

    /// Carries out a command.
    pub(super) fn execute(
        &mut self,
        task_file: &TaskFile,
        transfer: &mut Transfer<'_>,
    ) -> Result<Reply, MemoryFault> {
        let protocol = protocol(task_file);
        let mut answer = Answer { status: status::IDLE, lba: task_file.lba, ..Answer::default() };
        let failure = match self.perform(task_file, transfer, &mut answer) {
            Ok(()) => return Ok(Reply { protocol, answer }),
            Err(failure) => failure,
        };
        answer.error = match failure {
            Failure::Aborted | Failure::Unwritable => error::ABORTED,
            Failure::OutOfRange => error::ID_NOT_FOUND,
            Failure::Unreadable(sector) => {
                answer.lba = sector;
                error::UNCORRECTABLE
            }
            Failure::Memory => return Err(MemoryFault),
        };
        answer.status |= status::ERROR;
        if let Protocol::Queued(tag) = protocol {
            self.failed = Some(FailedQueued::new(tag, answer));
        }
        Ok(Reply { protocol, answer })
    }

    fn perform(
        &mut self,
        task_file: &TaskFile,
        transfer: &mut Transfer<'_>,
        answer: &mut Answer,
    ) -> Result<(), Failure> {
        use command::*;
        match task_file.command {
            READ_DMA | READ_SECTORS | READ_MULTIPLE => self.read(Sectors::of_28_bits(task_file)?, transfer),
            READ_DMA_EXT | READ_SECTORS_EXT | READ_MULTIPLE_EXT => {
                self.read(Sectors::of_48_bits(task_file)?, transfer)
            }
            WRITE_DMA | WRITE_SECTORS | WRITE_MULTIPLE => {
                self.write(Sectors::of_28_bits(task_file)?, false, transfer)
            }
            WRITE_DMA_EXT | WRITE_SECTORS_EXT | WRITE_MULTIPLE_EXT => {
                self.write(Sectors::of_48_bits(task_file)?, false, transfer)
            }
            WRITE_DMA_FUA_EXT | WRITE_MULTIPLE_FUA_EXT => {
                self.write(Sectors::of_48_bits(task_file)?, true, transfer)
            }
            READ_FPDMA_QUEUED => self.read(Sectors::of_queued(task_file)?, transfer),
            WRITE_FPDMA_QUEUED => {
                let durable = task_file.device & regs::DEVICE_FUA != 0;
                self.write(Sectors::of_queued(task_file)?, durable, transfer)
            }
            VERIFY => self.locate(Sectors::of_28_bits(task_file)?).map(drop),
            VERIFY_EXT => self.locate(Sectors::of_48_bits(task_file)?).map(drop),
            DATA_SET_MANAGEMENT => self.trim(task_file, transfer),
            // A disk that is to sleep writes its cache first.
            FLUSH_CACHE | FLUSH_CACHE_EXT | STANDBY_IMMEDIATE | STANDBY | SLEEP => self.flush_cache(),
            IDENTIFY => {
                transfer.put(&self.identify())?;
                Ok(())
            }
            READ_LOG_EXT => self.read_log(task_file, transfer),
            SET_FEATURES => self.set_features(task_file),
            SET_MULTIPLE_MODE => self.set_multiple(task_file),
            READ_NATIVE_MAX => {
                let last = self.sectors.saturating_sub(1).min(0x0fff_ffff);
                answer.lba = last & 0xff_ffff;
                answer.device = regs::DEVICE_LBA | (last >> 24) as u8;
                Ok(())
            }
            READ_NATIVE_MAX_EXT => {
                answer.lba = self.sectors.saturating_sub(1);
                Ok(())
            }
            CHECK_POWER_MODE => {
                answer.count = regs::POWER_ACTIVE;
                Ok(())
            }
            EXECUTE_DIAGNOSTIC => {
                *answer = Self::SIGNATURE;
                Ok(())
            }
            IDLE_IMMEDIATE | IDLE | RECALIBRATE | INITIALIZE_PARAMETERS => Ok(()),
            _ => Err(Failure::Aborted),
        }
    }

    fn set_features(&mut self, task_file: &TaskFile) -> Result<(), Failure> {
        let [subcommand, _] = task_file.features.to_le_bytes();
        match subcommand {
            feature::ENABLE_WRITE_CACHE => self.write_cache = true,
            feature::DISABLE_WRITE_CACHE => {
                self.flush_cache()?;
                self.write_cache = false;
            }
            feature::ENABLE_LOOK_AHEAD => self.look_ahead = true,
            feature::DISABLE_LOOK_AHEAD => self.look_ahead = false,
            feature::SET_TRANSFER_MODE => {
                let [mode, _] = task_file.count.to_le_bytes();
                match mode {
                    // PIO: the default, or with flow control.
                    0x00 | 0x01 | 0x08..=0x0c => {}
                    0x20..=0x22 | 0x40..=0x45 => self.transfer_mode = mode,
                    _ => return Err(Failure::Aborted),
                }
            }
            feature::ENABLE_REVERTING | feature::DISABLE_REVERTING => {}
            _ => return Err(Failure::Aborted),
        }
        Ok(())
    }

    fn set_multiple(&mut self, task_file: &TaskFile) -> Result<(), Failure> {
        let [multiple, _] = task_file.count.to_le_bytes();
        if multiple > regs::MAX_MULTIPLE || !(multiple == 0 || multiple.is_power_of_two()) {
            return Err(Failure::Aborted);
        }
        self.multiple = multiple;
        Ok(())
    }
}

/// How a command's end is told.
fn protocol(task_file: &TaskFile) -> Protocol {
    use command::*;
    match task_file.command {
        READ_SECTORS | READ_SECTORS_EXT | READ_MULTIPLE | READ_MULTIPLE_EXT | READ_LOG_EXT | IDENTIFY => {
            Protocol::PioIn
        }
        WRITE_SECTORS | WRITE_SECTORS_EXT | WRITE_MULTIPLE | WRITE_MULTIPLE_EXT | WRITE_MULTIPLE_FUA_EXT => {
            Protocol::PioOut
        }
        READ_FPDMA_QUEUED | WRITE_FPDMA_QUEUED => Protocol::Queued(io::tag(task_file)),
        _ => Protocol::Plain,
    }
}
