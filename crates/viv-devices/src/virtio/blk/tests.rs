use std::sync::{Arc, Mutex};

use viv_disk::{Access, Disk, DiskError, RawDisk};

use super::regs::{self, feature, request, status};
use super::*;
use crate::virtio::testing::Driver;
use crate::virtio::{Shared, feature as ring};

const SIZE: u64 = 1 << 20;

struct Bench {
    driver: Driver,
    file: tempfile::NamedTempFile,
}

fn block(file: &tempfile::NamedTempFile, access: Access) -> Shared<Block> {
    let disk = RawDisk::open(file.path(), access).unwrap();
    Arc::new(Mutex::new(Block::new(Box::new(disk), "serial-of-more-than-20-bytes")))
}

impl Bench {
    fn new(access: Access) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![0x5a; SIZE as usize + 100]).unwrap();
        let mut driver = Driver::new(block(&file, access));
        let features = driver.offered();
        driver.start(features);
        Self { driver, file }
    }

    /// Makes a request. Returns its status byte, what came back, and the length the device reports.
    fn request(&mut self, kind: u32, sector: u64, data: &[u8], answer: u32) -> (u8, Vec<u8>, u32) {
        let mut header = kind.to_le_bytes().to_vec();
        header.extend([0; 4]);
        header.extend(sector.to_le_bytes());
        let header = self.driver.data(&header);
        let out = self.driver.data(data);
        let buffer = self.driver.buffer(answer);
        let status = self.driver.data(&[0xee]);
        let mut parts = vec![(header, 16, false)];
        if !data.is_empty() {
            // In two, so that the device has to put them together.
            let half = data.len() as u32 / 2;
            parts.extend([(out, half, false), (out + u64::from(half), data.len() as u32 - half, false)]);
        }
        if answer > 0 {
            parts.push((buffer, answer, true));
        }
        parts.push((status, 1, true));
        let head = self.driver.add(0, &parts);
        self.driver.kick(0);
        let used = self.driver.used(0);
        assert_eq!((used.len(), used[0].0), (1, head));
        assert!(!self.driver.is_broken());
        (self.driver.bytes(status, 1)[0], self.driver.bytes(buffer, answer as usize), used[0].1)
    }

    fn file(&self) -> Vec<u8> {
        std::fs::read(self.file.path()).unwrap()
    }
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend(sectors.to_le_bytes());
    bytes.extend(flags.to_le_bytes());
    bytes
}

#[test]
fn the_configuration_says_what_the_disk_can() {
    let mut bench = Bench::new(Access::ReadWrite);
    let driver = &mut bench.driver;
    assert_eq!(driver.config(0, 8), SIZE / 512);
    assert_eq!((driver.config(8, 4), driver.config(12, 4), driver.config(20, 4)), (1 << 20, 254, 512));
    assert_eq!((driver.config(36, 4), driver.config(40, 4), driver.config(44, 4)), (1 << 22, 16, 1));
    assert_eq!((driver.config(48, 4), driver.config(52, 4), driver.config(56, 1)), (1 << 16, 1, 1));
    assert_eq!(driver.config(60, 4), 0);
    assert_ne!(driver.offered() & feature::DISCARD, 0);
    assert_eq!(driver.offered() & feature::RO, 0);
}

#[test]
fn what_is_written_is_read() {
    let mut bench = Bench::new(Access::ReadWrite);
    let data: Vec<u8> = (0..600 * 512_u32).map(|i| (i % 253) as u8).collect();
    assert_eq!(bench.request(request::OUT, 5, &data, 0), (status::OK, vec![], 1));
    let (code, read, length) = bench.request(request::IN, 5, &[], 600 * 512);
    assert!(code == status::OK && read == data && length == 600 * 512 + 1);
    assert_eq!(bench.request(request::FLUSH, 0, &[], 0).0, status::OK);
    let file = bench.file();
    assert!(file[5 * 512..605 * 512] == data && file[..5 * 512].iter().all(|&byte| byte == 0x5a));
}

#[test]
fn the_serial_number_is_cut_to_its_length() {
    let mut bench = Bench::new(Access::ReadOnly);
    let (code, id, length) = bench.request(request::GET_ID, 0, &[], 20);
    assert_eq!((code, &id[..], length), (status::OK, &b"serial-of-more-than-"[..], 21));
}

#[test]
fn ranges_are_discarded_and_zeroed() {
    let mut bench = Bench::new(Access::ReadWrite);
    assert_eq!(bench.request(request::WRITE_ZEROES, 0, &range(2, 8, regs::UNMAP), 0).0, status::OK);
    let mut ranges = range(20, 8, 0);
    ranges.extend(range(40, 8, 0));
    assert_eq!(bench.request(request::DISCARD, 0, &ranges, 0).0, status::OK);
    let file = bench.file();
    assert!(file[2 * 512..10 * 512].iter().all(|&byte| byte == 0));
    assert!(file[10 * 512..20 * 512].iter().all(|&byte| byte == 0x5a));

    let last = SIZE / 512;
    for (kind, ranges, expected) in [
        (request::DISCARD, range(0, 8, regs::UNMAP), status::UNSUPP),
        (request::WRITE_ZEROES, range(0, 8, 2), status::UNSUPP),
        (request::WRITE_ZEROES, range(last, 1, 0), status::IOERR),
        (request::WRITE_ZEROES, range(u64::MAX, 1, 0), status::IOERR),
        (request::WRITE_ZEROES, range(0, u32::MAX, 0), status::IOERR),
        (request::WRITE_ZEROES, [range(0, 1, 0), range(1, 1, 0)].concat(), status::IOERR),
        (request::DISCARD, range(u64::MAX / 512, u32::MAX, 0), status::IOERR),
        (request::DISCARD, range(0, 8, 0)[..15].to_vec(), status::IOERR),
        (request::DISCARD, vec![], status::IOERR),
    ] {
        assert_eq!(bench.request(kind, 0, &ranges, 0).0, expected, "{kind} {ranges:?}");
    }
    assert_eq!(bench.file(), file);
}

#[test]
fn requests_that_cannot_be_fail() {
    let mut bench = Bench::new(Access::ReadWrite);
    let last = SIZE / 512;
    for (kind, sector, data, answer, expected) in [
        (request::IN, last, 0, 512, status::IOERR),
        (request::IN, last - 1, 0, 1024, status::IOERR),
        (request::IN, u64::MAX / 512, 0, 512, status::IOERR),
        (request::IN, u64::MAX, 0, 512, status::IOERR),
        (request::IN, 0, 0, 511, status::IOERR),
        (request::OUT, last, 512, 0, status::IOERR),
        (request::OUT, 0, 100, 0, status::IOERR),
        (99, 0, 0, 512, status::UNSUPP),
        (2, 0, 512, 0, status::UNSUPP),
    ] {
        let (code, _, length) = bench.request(kind, sector, &vec![1; data], answer);
        assert_eq!((code, length), (expected, 1), "{kind} at {sector}");
    }
    assert!(bench.file().iter().all(|&byte| byte == 0x5a));
    let header = bench.driver.data(&[0; 15]);
    let answer = bench.driver.buffer(1);
    bench.driver.add(0, &[(header, 15, false), (answer, 1, true)]);
    bench.driver.kick(0);
    assert_eq!(bench.driver.bytes(answer, 1), [status::IOERR], "the header is cut short");
    bench.driver.add(0, &[(header, 15, false)]);
    bench.driver.kick(0);
    assert!(bench.driver.is_broken(), "no room for a status");
}

#[test]
fn a_read_only_disk_refuses_changes() {
    let mut bench = Bench::new(Access::ReadOnly);
    assert_eq!(
        bench.driver.offered() & (feature::RO | feature::DISCARD | feature::WRITE_ZEROES),
        feature::RO
    );
    assert_eq!(bench.request(request::OUT, 0, &[1; 512], 0).0, status::IOERR);
    assert_eq!(bench.request(request::DISCARD, 0, &range(0, 1, 0), 0).0, status::IOERR);
    assert_eq!(bench.request(request::WRITE_ZEROES, 0, &range(0, 1, 0), 0).0, status::IOERR);
    assert_eq!(bench.request(request::FLUSH, 0, &[], 0).0, status::OK);
    assert_eq!(bench.request(request::IN, 0, &[], 512).1, [0x5a; 512]);
}

/// A disk that counts flushes, and fails when told to.
#[derive(Clone, Default)]
struct Counting(Arc<Mutex<(u32, bool)>>);

impl Disk for Counting {
    fn size(&self) -> u64 {
        SIZE
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read_at(&self, _offset: u64, data: &mut [u8]) -> Result<(), DiskError> {
        data.fill(1);
        self.flush()
    }
    fn write_at(&self, _offset: u64, _data: &[u8]) -> Result<(), DiskError> {
        Ok(())
    }
    fn flush(&self) -> Result<(), DiskError> {
        let mut state = self.0.lock().unwrap();
        state.0 += 1;
        if state.1 { Err(DiskError::ReadOnly { path: "test".into() }) } else { Ok(()) }
    }
    fn discard(&self, _offset: u64, _length: u64) -> Result<(), DiskError> {
        Ok(())
    }
    fn write_zeroes(&self, _offset: u64, _length: u64, _may_unmap: bool) -> Result<(), DiskError> {
        Ok(())
    }
}

#[test]
fn a_driver_that_cannot_flush_gets_durable_writes() {
    let disk = Counting::default();
    let count = || std::mem::take(&mut disk.0.lock().unwrap().0);
    let block = Block::new(Box::new(disk.clone()), "");
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut bench = Bench { driver: Driver::new(Arc::new(Mutex::new(block))), file };
    for (features, expected) in [(0, 1), (feature::FLUSH, 0)] {
        bench.driver.start(ring::VERSION_1 | features);
        assert_eq!(bench.request(request::OUT, 0, &[0; 512], 0).0, status::OK);
        assert_eq!(count(), expected);
        assert_eq!(bench.request(request::WRITE_ZEROES, 0, &range(0, 1, 0), 0).0, status::OK);
        assert_eq!(count(), expected);
    }
    disk.0.lock().unwrap().1 = true;
    assert_eq!(bench.request(request::FLUSH, 0, &[], 0).0, status::IOERR);
    assert_eq!(bench.request(request::IN, 0, &[], 512).0, status::IOERR);
}

#[test]
fn a_full_queue_is_served_in_turns() {
    let mut bench = Bench::new(Access::ReadOnly);
    bench.driver.worker.process();
    let header = bench.driver.data(&[0; 16]);
    let buffer = bench.driver.buffer(513);
    for _ in 0..256 {
        bench.driver.add_indirect(0, &[(header, 16, false), (buffer, 513, true)]);
    }
    bench.driver.kick(0);
    assert_eq!(bench.driver.used(0).len(), 256);
    bench.driver.worker.process();
    assert_eq!(bench.driver.interrupts(), [0], "one for all, though there was a second turn");
}

#[test]
fn a_saved_disk_fits_only_a_disk_like_it() {
    let mut bench = Bench::new(Access::ReadWrite);
    bench.request(request::OUT, 0, &[7; 512], 0);
    let state = {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [0; 1024]).unwrap();
        let small = block(&file, Access::ReadWrite);
        let mut small = small.lock().unwrap();
        let state = small.save().unwrap();
        assert!(small.restore(&state).is_ok());
        let newer = SavedState { version: 2, ..state.clone() };
        assert!(matches!(small.restore(&newer), Err(DeviceError::Version { found: 2, known: 1, .. })));
        state
    };
    // The lock on the file goes with the first device, as it does when a machine is moved.
    let Bench { driver, file } = bench;
    let other = tempfile::NamedTempFile::new().unwrap();
    std::fs::copy(file.path(), other.path()).unwrap();
    let device = block(&other, Access::ReadWrite);
    assert!(matches!(device.lock().unwrap().restore(&state), Err(DeviceError::Invalid { .. })));
    let mut bench = Bench { driver: driver.move_to(device), file: other };
    assert_eq!(bench.request(request::IN, 0, &[], 512).1, [7; 512]);
}
