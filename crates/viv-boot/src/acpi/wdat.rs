//! The Watchdog Action Table (Microsoft, "Hardware Watchdog Timers Design Specification"): by which accesses a watchdog is
//! used that is the TCO timer of an ICH9 (ICH9 data sheet, 13.9).
//!
//! The watchdog expires after two rounds of its timer. The table counts in pairs of its ticks, so that what is set is how
//! long it takes in all. It does not say how much is left, which the registers do not tell in one number.

use acpi_tables::sdt::Sdt;

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID, Watchdog};

const REVISION: u8 = 1;
/// The common header, and the table's own.
const HEADER_SIZE: u32 = 36 + OWN_HEADER_SIZE;
const OWN_HEADER_SIZE: u32 = 32;
/// Offsets in the table.
const OWN_LENGTH: usize = 36;
const PCI_SEGMENT: usize = 40;
const PCI_BUS: usize = 42;
const PERIOD: usize = 48;
const MOST: usize = 52;
const LEAST: usize = 56;
const FLAGS: usize = 60;
const ENTRIES: usize = 64;

/// It is no PCI device.
const NO_SEGMENT: u16 = 0xff;
/// It is there to be used.
const ENABLED: u8 = 1 << 0;
/// Two ticks of the timer, in milliseconds.
const TWO_TICKS: u32 = 1200;
/// What the timer can be set to.
const COUNTS: [u32; 2] = [2, COUNT_MASK];
const COUNT_MASK: u32 = 0x3ff;

/// The registers by their offset, and their bits.
const RELOAD: u16 = 0x00;
const STATUS_2: u16 = 0x06;
const SECOND_TIMEOUT: u8 = 1;
const CONTROL: u16 = 0x08;
const HALT: u8 = 11;
const INITIAL: u16 = 0x12;

/// Actions.
const RESET: u8 = 0x01;
const GET_COUNTDOWN: u8 = 0x05;
const SET_COUNTDOWN: u8 = 0x06;
const GET_RUNNING: u8 = 0x08;
const SET_RUNNING: u8 = 0x09;
const GET_STOPPED: u8 = 0x0a;
const SET_STOPPED: u8 = 0x0b;
const GET_STATUS: u8 = 0x20;
const SET_STATUS: u8 = 0x21;

/// Instructions: whether the register has this value; what it has; the value into it; what the system says into it.
const READ_VALUE: u8 = 0;
const READ_COUNTDOWN: u8 = 1;
const WRITE_VALUE: u8 = 2;
const WRITE_COUNTDOWN: u8 = 3;
/// The register's other bits stay as they are.
const PRESERVE: u8 = 0x80;

/// Generic addresses (ACPI 6.5, 5.2.3.2): ports, of 16 bits.
const SYSTEM_IO: u8 = 1;
const WORD_ACCESS: u8 = 2;

/// One access: the action that it is part of, what is done, the register, its lowest bit and how many from there, and a
/// value.
struct Access(u8, u8, u16, u8, u32, u32);

/// Those of one action are done in their order.
const ACCESSES: [Access; 11] = [
    Access(RESET, WRITE_VALUE, RELOAD, 0, COUNT_MASK, 1),
    Access(GET_COUNTDOWN, READ_COUNTDOWN, INITIAL, 0, COUNT_MASK, 0),
    Access(SET_COUNTDOWN, WRITE_COUNTDOWN | PRESERVE, INITIAL, 0, COUNT_MASK, 0),
    // What is set holds from here on.
    Access(SET_COUNTDOWN, WRITE_VALUE, RELOAD, 0, COUNT_MASK, 1),
    Access(GET_RUNNING, READ_VALUE, CONTROL, HALT, 1, 0),
    Access(SET_RUNNING, WRITE_VALUE, RELOAD, 0, COUNT_MASK, 1),
    Access(SET_RUNNING, WRITE_VALUE | PRESERVE, CONTROL, HALT, 1, 0),
    Access(GET_STOPPED, READ_VALUE, CONTROL, HALT, 1, 1),
    Access(SET_STOPPED, WRITE_VALUE | PRESERVE, CONTROL, HALT, 1, 1),
    Access(GET_STATUS, READ_VALUE, STATUS_2, SECOND_TIMEOUT, 1, 1),
    Access(SET_STATUS, WRITE_VALUE, STATUS_2, SECOND_TIMEOUT, 1, 1),
];

/// The table.
pub fn build(watchdog: &Watchdog) -> Vec<u8> {
    let mut table = Sdt::new(*b"WDAT", HEADER_SIZE, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.write_u32(OWN_LENGTH, OWN_HEADER_SIZE);
    table.write_u16(PCI_SEGMENT, NO_SEGMENT);
    // Bus, device and function.
    (PCI_BUS..PCI_BUS + 3).for_each(|at| table.write_u8(at, 0xff));
    table.write_u32(PERIOD, TWO_TICKS);
    let [least, most] = COUNTS;
    table.write_u32(MOST, most);
    table.write_u32(LEAST, least);
    table.write_u8(FLAGS, ENABLED);
    table.write_u32(ENTRIES, ACCESSES.len() as u32);
    for Access(action, instruction, register, bit, mask, value) in ACCESSES {
        table.append_slice(&[action, instruction, 0, 0]);
        let width = mask.count_ones() as u8;
        table.append_slice(&[SYSTEM_IO, width, bit, WORD_ACCESS]);
        table.append_slice(&u64::from(watchdog.ports.start + register).to_le_bytes());
        table.append_slice(&value.to_le_bytes());
        table.append_slice(&mask.to_le_bytes());
    }
    table.as_slice().to_vec()
}
