//! The controller, and what every drive has in common. What a disk and a CD-ROM drive do is in files of their own.

mod cdrom;
mod disk;
mod driver;
mod hostile;

use viv_disk::{Access, Disk, RawDisk};

use super::{Ahci, AtaDisk, Cdrom, Drive};
use driver::{Ata, DATA, Driver, px};

const SIZE: usize = 1 << 20;

/// A file whose every sector begins with its number.
fn file(size: usize) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut content = vec![0x5a; size];
    for (sector, bytes) in content.chunks_mut(512).enumerate() {
        bytes[..4].copy_from_slice(&(sector as u32).to_le_bytes());
    }
    std::fs::write(file.path(), content).unwrap();
    file
}

fn open(file: &tempfile::NamedTempFile, access: Access) -> Box<dyn Disk> {
    Box::new(RawDisk::open(file.path(), access).unwrap())
}

fn disk(file: &tempfile::NamedTempFile, access: Access) -> Drive {
    Drive::Disk(AtaDisk::new(open(file, access), "serial-of-more-than-20-bytes"))
}

fn cdrom(file: Option<&tempfile::NamedTempFile>) -> Drive {
    Drive::Cdrom(Cdrom::new(file.map(|file| open(file, Access::ReadOnly)), "cd0"))
}

fn at_port_0(drive: Drive) -> [Option<Drive>; Ahci::PORTS] {
    [Some(drive), None, None, None, None, None]
}

const READ_DMA_EXT: u8 = 0x25;
const IDENTIFY: u8 = 0xec;

#[test]
fn the_registers_say_what_it_is() {
    let file = file(SIZE);
    let mut driver = Driver::new(at_port_0(disk(&file, Access::ReadWrite)));
    assert_eq!(driver.pci(0, 4), 0x2922_8086);
    assert_eq!(driver.pci(8, 4) >> 8, 0x01_06_01);
    let capabilities = driver.hba(0);
    assert_eq!((capabilities & 0x1f, capabilities >> 8 & 0x1f), (5, 31), "ports and slots less 1");
    assert_eq!(
        capabilities & (1 << 31 | 1 << 30 | 1 << 18),
        1 << 31 | 1 << 30 | 1 << 18,
        "64 bits, NCQ, AHCI only"
    );
    assert_eq!((driver.hba(0x04), driver.hba(0x0c), driver.hba(0x10)), (1 << 31, 0x3f, 0x1_0301));
    assert_eq!((driver.hba(0x24), driver.hba(0x400), driver.hba(0xffc)), (0, 0, 0));
    assert_eq!((driver.port(0, px::SSTS), driver.port(1, px::SSTS)), (0x133, 0));
    assert_eq!((driver.port(0, px::SIG), driver.port(1, px::SIG)), (u32::MAX, u32::MAX));
    assert_eq!(driver.read(0x10, 8), 0x1_0301);
    assert_eq!((driver.read(0x11, 1), driver.read(0x12, 2)), (3, 1), "parts can be read");
    driver.write(0x100, 2, 0xffff);
    driver.write(0x101, 4, 0xffff_ffff);
    assert_eq!(driver.port(0, px::CLB), 0, "and not written");
    driver.write(0x100, 8, 0x1234_5678_9abc_def0);
    assert_eq!((driver.port(0, px::CLB), driver.port(0, px::CLBU)), (0x9abc_dc00, 0x1234_5678));
}

#[test]
fn a_drive_reports_in_as_soon_as_fises_are_received() {
    let (file, iso) = (file(SIZE), file(SIZE));
    let mut driver =
        Driver::new([Some(disk(&file, Access::ReadWrite)), Some(cdrom(Some(&iso))), None, None, None, None]);
    assert_eq!(driver.port(0, px::TFD), 0x7f);
    driver.start(0);
    driver.start(1);
    assert_eq!((driver.port(0, px::SIG), driver.port(0, px::TFD)), (0x0101, 0x150));
    assert_eq!((driver.port(1, px::SIG), driver.port(1, px::TFD)), (0xeb14_0101, 0x100));
    assert_eq!(driver.fis(1, 0x40, 8), [0x34, 0, 0, 1, 1, 0x14, 0xeb, 0]);
    assert_eq!(driver.port(0, px::IS), 0);
}

#[test]
fn the_link_is_reset() {
    let file = file(SIZE);
    let mut driver = Driver::one(disk(&file, Access::ReadWrite));
    assert_eq!(driver.ata(Ata::new(0xc6, 0, 16), &[]) & 1, 0, "SET MULTIPLE");
    driver.set_port(0, px::CMD, 1 << 4);
    driver.set_port(0, px::SCTL, 0x301);
    assert_eq!(
        (driver.port(0, px::SSTS), driver.port(0, px::TFD), driver.port(0, px::SIG)),
        (0, 0x7f, u32::MAX)
    );
    driver.set_port(0, px::SCTL, 0x300);
    assert_eq!(
        (driver.port(0, px::SSTS), driver.port(0, px::TFD), driver.port(0, px::SIG)),
        (0x133, 0x150, 0x101)
    );
    assert_eq!(driver.port(0, px::IS) & (1 << 6 | 1 << 22), 1 << 6 | 1 << 22, "the port changed");
    driver.set_port(0, px::IS, u32::MAX);
    assert_ne!(driver.port(0, px::IS) & 1 << 6, 0, "is cleared in PxSERR only");
    driver.set_port(0, px::SERR, u32::MAX);
    assert_eq!(driver.port(0, px::IS) & (1 << 6 | 1 << 22), 0);
    driver.restart(0);
    driver.ata(Ata::new(IDENTIFY, 0, 0), &[(DATA, 512)]);
    assert_eq!(driver.bytes(DATA + 118, 2), [0, 0], "the drive forgot");

    driver.set_port(0, px::SCTL, 4);
    assert_eq!(driver.port(0, px::SSTS), 4);
    driver.issue(0, 1);
    assert_eq!(driver.port(0, px::CI), 1, "nothing is carried out without a link");
    driver.set_port(0, px::SCTL, 0);
    assert_eq!(driver.port(0, px::SSTS), 0x133);
    driver.set_port(1, px::SCTL, 1);
    driver.set_port(1, px::SCTL, 0);
    assert_eq!((driver.port(1, px::SSTS), driver.port(1, px::SERR)), (0, 0), "no drive, no link");
}

#[test]
fn software_resets_a_drive() {
    let file = file(SIZE);
    let mut driver = Driver::one(disk(&file, Access::ReadWrite));
    driver.ata(Ata::new(0xc6, 0, 16), &[]);
    driver.prepare(0, 0, &Ata { control: 4, ..Ata::default() }.fis(false), None, &[]);
    driver.prepare(0, 1, &Ata::default().fis(false), None, &[]);
    driver.issue(0, 1);
    assert_eq!(driver.port(0, px::CI), 0);
    driver.set_port(0, px::IS, u32::MAX);
    driver.issue(0, 2);
    assert_eq!((driver.port(0, px::CI), driver.port(0, px::TFD), driver.port(0, px::IS)), (0, 0x150, 0));
    assert_eq!(driver.fis(0, 0x40, 4), [0x34, 0, 0x50, 1]);
    driver.ata(Ata::new(IDENTIFY, 0, 0), &[(DATA, 512)]);
    assert_eq!(driver.bytes(DATA + 118, 2), [0, 0], "the drive forgot");
}

#[test]
fn the_controller_is_reset() {
    let file = file(SIZE);
    let mut driver = Driver::one(disk(&file, Access::ReadWrite));
    driver.ata(Ata::new(0xff, 0, 0), &[]);
    assert!(driver.line());
    driver.set_hba(0x04, 1);
    assert!(!driver.line());
    assert_eq!((driver.hba(0x04), driver.hba(0x08)), (1 << 31, 0));
    assert_eq!((driver.port(0, px::CMD) & !6, driver.port(0, px::CI), driver.port(0, px::IE)), (0, 0, 0));
    assert_eq!((driver.port(0, px::SSTS), driver.port(0, px::SIG)), (0x133, u32::MAX));
    assert_ne!(driver.port(0, px::CLB), 0, "the addresses stay");
    driver.start(0);
    assert_eq!(driver.ata(Ata::new(IDENTIFY, 0, 0), &[(DATA, 512)]), 0x50);
}

#[test]
fn a_task_file_error_stops_the_port_until_it_is_started_again() {
    let file = file(SIZE);
    let mut driver = Driver::one(disk(&file, Access::ReadWrite));
    for slot in [2, 3, 4] {
        let command = if slot == 3 { 0xff } else { IDENTIFY };
        driver.prepare(0, slot, &Ata::new(command, 0, 0).fis(true), None, &[(DATA, 512)]);
    }
    driver.issue(0, 0b1_1100);
    assert_eq!(driver.port(0, px::CI), 0b1_1000, "the failed one and the one after it");
    assert_eq!(driver.port(0, px::CMD) >> 8 & 0x1f, 3, "the slot that failed");
    assert_eq!(driver.port(0, px::TFD), 0x0451);
    assert_eq!(driver.port(0, px::IS), 1 << 30 | 0b11);
    assert!(driver.line() && driver.hba(0x08) == 1);
    driver.issue(0, 1 << 2);
    assert_eq!(driver.port(0, px::CI), 0b1_1100);
    driver.restart(0);
    assert_eq!(driver.port(0, px::CI), 0);
    driver.issue(0, 1 << 4);
    assert_eq!((driver.port(0, px::CI), driver.port(0, px::TFD)), (0, 0x50));
}

#[test]
fn interrupts_go_by_the_line_or_by_messages() {
    let file = file(SIZE);
    let mut driver = Driver::one(disk(&file, Access::ReadWrite));
    let identify = Ata::new(IDENTIFY, 0, 0);
    driver.ata(identify, &[(DATA, 512)]);
    assert!(driver.line());
    assert_ne!(driver.pci(6, 2) & 8, 0, "interrupt status");
    driver.set_pci(4, 2, 1 << 10 | 6);
    assert!(!driver.line());
    driver.set_pci(4, 2, 6);
    driver.set_hba(0x08, 1);
    assert!(driver.line(), "the port still wants to interrupt");
    driver.set_port(0, px::IS, u32::MAX);
    driver.set_hba(0x08, 1);
    assert!(!driver.line());

    driver.enable_msi(0x41);
    driver.ata(identify, &[(DATA, 512)]);
    driver.ata(identify, &[(DATA, 512)]);
    assert_eq!(
        driver.sent.take().iter().map(|msi| msi.data).collect::<Vec<_>>(),
        [0x41],
        "once until it is heard"
    );
    assert!(!driver.line());
    driver.set_hba(0x08, 1);
    assert_eq!(driver.sent.take().len(), 1, "the port still wants to");
    driver.set_port(0, px::IS, u32::MAX);
    driver.set_hba(0x08, 1);
    driver.set_port(0, px::IE, 0);
    driver.ata(identify, &[(DATA, 512)]);
    assert!(driver.sent.take().is_empty());
}

#[test]
fn what_lies_outside_ram_stops_the_port() {
    let file = file(SIZE);
    let mut driver = Driver::one(disk(&file, Access::ReadWrite));
    driver.ata(Ata::new(READ_DMA_EXT, 0, 2), &[(DATA, 512), (1 << 40, 512)]);
    assert_eq!((driver.port(0, px::IS), driver.port(0, px::CI)), (1 << 28, 1 << 3), "data");
    driver.restart(0);
    driver.prepare(0, 0, &[], None, &[]);
    driver.put(Driver::header(0, 0) + 8, &[0xff; 8]);
    driver.issue(0, 1);
    assert_eq!((driver.port(0, px::IS), driver.port(0, px::CI)), (1 << 29, 1), "a command table");
    driver.restart(0);
    driver.set_port(0, px::FBU, 1);
    driver.ata(Ata::new(0xe5, 0, 0), &[]);
    assert_eq!(driver.port(0, px::IS) & 1 << 29, 1 << 29, "received FISes");
}

#[test]
fn a_fis_that_is_none_is_an_unknown_command() {
    let file = file(SIZE);
    let mut driver = Driver::one(disk(&file, Access::ReadWrite));
    driver.prepare(0, 3, &[0x46; 20], None, &[]);
    driver.issue(0, 1 << 3);
    assert_eq!((driver.port(0, px::TFD), driver.port(0, px::CI)), (0x0451, 1 << 3));
    driver.restart(0);
    driver.prepare(0, 3, &Ata::new(0xe5, 0, 0).fis(true), None, &[]);
    driver.put(Driver::header(0, 3), &[1]);
    driver.issue(0, 1 << 3);
    assert_eq!(driver.port(0, px::TFD), 0x0451, "too short");
}

#[test]
fn an_issued_command_is_carried_out_by_another_controller() {
    let file = file(SIZE);
    let mut driver = Driver::one(disk(&file, Access::ReadOnly));
    driver.ata(Ata::new(0xc6, 0, 8), &[]);
    driver.set_port(0, px::IS, u32::MAX);
    driver.prepare(0, 7, &Ata::new(READ_DMA_EXT, 9, 1).fis(true), None, &[(DATA, 512)]);
    driver.set_port(0, px::CI, 1 << 7);
    let saved = driver.save();
    assert_eq!(driver.save(), saved, "saving changes nothing");
    let mut other = driver.move_to(at_port_0(disk(&file, Access::ReadOnly)));
    assert_eq!(other.port(0, px::CI), 1 << 7);
    other.worker.process();
    assert_eq!((other.port(0, px::CI), other.port(0, px::IS)), (0, 1));
    assert_eq!(other.bytes(DATA, 4), 9_u32.to_le_bytes());
    other.ata(Ata::new(IDENTIFY, 0, 0), &[(DATA, 512)]);
    assert_eq!(other.bytes(DATA + 118, 2), [8, 1], "the drive's own state came along");
}

#[test]
fn a_state_of_another_machine_is_refused() {
    let (small, large) = (file(SIZE), file(SIZE * 2));
    let saved = Driver::one(disk(&small, Access::ReadOnly)).save();
    let refuse = |drive: Option<Drive>| {
        let mut driver = Driver::new([drive, None, None, None, None, None]);
        let error = driver.restore(&saved).unwrap_err();
        assert_eq!(driver.hba(0x04), 1 << 31, "as after power-on");
        std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string)
    };
    assert!(refuse(Some(disk(&large, Access::ReadOnly))).ends_with("its disk had 2048 sectors and has 4096"));
    assert!(refuse(Some(disk(&small, Access::ReadWrite))).contains("writable"));
    assert!(refuse(Some(cdrom(None))).contains("CD-ROM"));
    assert!(refuse(None).contains("at port 0 there was a drive"));
}
