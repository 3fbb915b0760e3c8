use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

use viv_disk::aio::{Aio, Choice, Completion, Request};
use viv_disk::{Access, Disk, DiskError, RawDisk};
use viv_engine::time::ManualClock;

use super::regs::{self, feature, request, status};
use super::*;
use crate::testing::{Alarm, Calls};
use crate::virtio::Limits;
use crate::virtio::testing::Driver;
use crate::virtio::{Shared, feature as ring};

const SIZE: u64 = 1 << 20;

struct Bench {
    driver: Driver,
    file: tempfile::NamedTempFile,
}

fn block(file: &tempfile::NamedTempFile, access: Access) -> Shared<Block> {
    let disk: Arc<dyn Disk> = Arc::new(RawDisk::open(file.path(), access).unwrap());
    let serial = "serial-of-more-than-20-bytes".to_owned();
    let settings = BlockSettings { serial, ..BlockSettings::default() };
    Arc::new(Mutex::new(Block::new(&disk, Calls::to(&disk), settings)))
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

    /// On `disk`, with no file.
    fn on(disk: impl Disk + 'static, settings: BlockSettings) -> Self {
        let disk: Arc<dyn Disk> = Arc::new(disk);
        let block = Block::new(&disk, Calls::to(&disk), settings);
        let mut driver = Driver::new(Arc::new(Mutex::new(block)));
        let features = driver.offered();
        driver.start(features);
        Self { driver, file: tempfile::NamedTempFile::new().unwrap() }
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
    // In physical blocks of 4 KiB, as files are, with one queue.
    assert_eq!((driver.config(24, 2), driver.config(26, 2), driver.config(32, 2)), (3, 8, 1));
    assert_eq!((driver.config(34, 2), driver.config(60, 4)), (1, 0));
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
struct Counting(Arc<Mutex<(u64, bool)>>);

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
    let mut bench = Bench::on(disk.clone(), BlockSettings::default());
    let check = |bench: &mut Bench, expected| {
        assert_eq!(bench.request(request::OUT, 0, &[0; 512], 0).0, status::OK);
        assert_eq!(count(), expected);
        assert_eq!(bench.request(request::WRITE_ZEROES, 0, &range(0, 1, 0), 0).0, status::OK);
        assert_eq!(count(), expected);
    };
    let choice = ring::VERSION_1 | feature::FLUSH | feature::CONFIG_WCE;
    for (features, expected) in [(0, 1), (feature::FLUSH, 0), (choice, 0)] {
        bench.driver.start(ring::VERSION_1 | features);
        check(&mut bench, expected);
    }
    for (value, expected) in [(0, 1), (1, 0)] {
        bench.driver.set_config(regs::WRITEBACK, 1, value);
        assert_eq!(bench.driver.config(regs::WRITEBACK, 1), value);
        check(&mut bench, expected);
    }
    for (durability, kept, expected) in
        [(Durability::Always, 0, [1, 1, 1]), (Durability::Never, 1, [0, 0, 0])]
    {
        let mut bench = Bench::on(disk.clone(), BlockSettings { durability, ..BlockSettings::default() });
        assert_eq!(bench.driver.config(regs::WRITEBACK, 1), kept);
        for (features, expected) in [0, feature::FLUSH, choice].into_iter().zip(expected) {
            bench.driver.start(ring::VERSION_1 | features);
            bench.driver.set_config(regs::WRITEBACK, 1, 1);
            check(&mut bench, expected);
        }
        assert_eq!(bench.request(request::FLUSH, 0, &[], 0).0, status::OK);
        assert_eq!(count(), expected[0]);
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
        let newer = SavedState { version: 3, ..state.clone() };
        assert!(matches!(small.restore(&newer), Err(DeviceError::Version { found: 3, known: 2, .. })));
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

/// A way to a disk that ends nothing until it is told to, or waited for.
struct Held {
    requests: Arc<Mutex<Vec<Request>>>,
    ended: Arc<Mutex<Vec<Completion>>>,
    event: OwnedFd,
    disk: Arc<dyn Disk>,
}

impl Held {
    fn end(requests: &mut Vec<Request>, at: usize, disk: &dyn Disk, ended: &mut Vec<Completion>) {
        let request = requests.remove(at);
        ended.push(Completion { tag: request.tag, result: request.perform(disk) });
    }
}

impl Aio for Held {
    fn start(&mut self, request: Request) {
        self.requests.lock().unwrap().push(request);
    }

    fn submit(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn take_ended(&mut self, ended: &mut Vec<Completion>) {
        ended.append(&mut self.ended.lock().unwrap());
    }

    fn wait(&mut self) -> io::Result<()> {
        let mut ended = self.ended.lock().unwrap();
        let mut requests = self.requests.lock().unwrap();
        if ended.is_empty() && !requests.is_empty() {
            Self::end(&mut requests, 0, &*self.disk, &mut ended);
        }
        Ok(())
    }

    fn ended_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// A disk whose requests end when the test says so.
struct Slow {
    driver: Driver,
    block: Shared<Block>,
    disk: Arc<dyn Disk>,
    requests: Arc<Mutex<Vec<Request>>>,
    ended: Arc<Mutex<Vec<Completion>>>,
}

impl Slow {
    fn block(queues: u16) -> (Shared<Block>, Held) {
        let disk: Arc<dyn Disk> = Arc::new(Counting::default());
        let held = || {
            let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
            Held { requests: Arc::default(), ended: Arc::default(), event, disk: disk.clone() }
        };
        let (given, kept) = (held(), held());
        let kept = Held { requests: given.requests.clone(), ended: given.ended.clone(), ..kept };
        let settings = BlockSettings { queues, ..BlockSettings::default() };
        (Arc::new(Mutex::new(Block::new(&disk, Box::new(given), settings))), kept)
    }

    fn new(queues: u16) -> Self {
        let (block, Held { requests, ended, disk, .. }) = Self::block(queues);
        let mut driver = Driver::new(block.clone());
        let features = driver.offered();
        driver.start(features);
        driver.worker.process();
        driver.interrupts();
        Self { driver, block, disk, requests, ended }
    }

    /// Makes a read of a sector available, and gives its head and where it goes.
    fn read(&mut self, queue: usize) -> (u16, u64) {
        let header = self.driver.data(&[0; 16]);
        let buffer = self.driver.buffer(513);
        (self.driver.add_indirect(queue, &[(header, 16, false), (buffer, 513, true)]), buffer)
    }

    /// Ends the request that is `at` that place among those that run.
    fn end(&mut self, at: usize) {
        Held::end(&mut self.requests.lock().unwrap(), at, &*self.disk, &mut self.ended.lock().unwrap());
        self.block.lock().unwrap().process_ended();
    }

    fn running(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

#[test]
fn requests_run_beside_each_other_and_end_in_any_order() {
    let mut slow = Slow::new(2);
    let heads = [slow.read(0), slow.read(0), slow.read(1)].map(|(head, _)| head);
    slow.driver.ring(1);
    slow.driver.kick(0);
    assert_eq!(slow.running(), 3);
    let (later, buffer) = slow.read(0);
    slow.driver.kick(0);
    assert_eq!((slow.running(), slow.driver.used(0).len()), (4, 0), "one starts while others run");
    let place = slow.requests.lock().unwrap().len() - 1;
    slow.end(place);
    assert_eq!(slow.driver.used(0), [(later, 513)]);
    assert_eq!(slow.driver.bytes(buffer, 513), [[1; 512].as_slice(), &[status::OK]].concat());
    assert_eq!(slow.driver.interrupts(), [0]);
    for _ in 0..3 {
        slow.end(0);
    }
    let mut all: Vec<_> = [slow.driver.used(0), slow.driver.used(1)].concat();
    all.sort_unstable();
    let mut expected = heads.map(|head| (head, 513));
    expected.sort_unstable();
    assert_eq!(all, expected);
    let mut interrupts = slow.driver.interrupts();
    interrupts.sort_unstable();
    assert_eq!(interrupts, [0, 1], "one for each queue, until it was looked at");
}

#[test]
fn as_many_run_as_may_and_the_rest_follow() {
    let mut slow = Slow::new(2);
    for _ in 0..150 {
        slow.read(0);
        slow.read(1);
    }
    slow.driver.ring(1);
    slow.driver.kick(0);
    slow.driver.worker.process();
    assert_eq!(slow.running(), usize::from(viv_disk::aio::DEPTH));
    for _ in 0..300 {
        assert!(slow.running() > 0);
        slow.end(0);
        slow.driver.worker.process();
    }
    assert_eq!((slow.running(), slow.driver.used(0).len(), slow.driver.used(1).len()), (0, 150, 150));
}

#[test]
fn what_runs_has_ended_once_it_was_saved_drained_or_reset() {
    let mut slow = Slow::new(1);
    let (first, _) = slow.read(0);
    slow.driver.kick(0);
    let state = slow.driver.save();
    assert_eq!((slow.running(), slow.driver.used(0)), (0, vec![(first, 513)]), "saved");
    assert_eq!(slow.driver.save(), state, "nothing is left to change it");

    let (second, _) = slow.read(0);
    slow.driver.kick(0);
    slow.block.lock().unwrap().drain();
    assert_eq!((slow.running(), slow.driver.used(0)), (0, vec![(second, 513)]), "drained");

    let (_, buffer) = slow.read(0);
    slow.driver.kick(0);
    assert_eq!(slow.running(), 1);
    let features = slow.driver.offered();
    assert!(slow.driver.negotiate(features));
    assert_eq!((slow.running(), slow.driver.bytes(buffer, 1)), (0, vec![1]), "reset");
}

#[test]
fn a_disk_that_was_saved_at_work_goes_on_elsewhere() {
    let mut slow = Slow::new(2);
    let before = slow.read(1).0;
    slow.driver.kick(1);
    // Rung for, and not looked at yet.
    let after = slow.read(1).0;
    slow.driver.ring(1);
    let (block, Held { requests, ended, disk, .. }) = Slow::block(2);
    let mut driver = slow.driver.move_to(block.clone());
    assert_eq!(driver.used(1), [(before, 513)]);
    driver.worker.process();
    let mut slow = Slow { driver, block, disk, requests, ended };
    assert_eq!(slow.running(), 1);
    slow.end(0);
    assert_eq!(slow.driver.used(1), [(after, 513)]);
}

#[test]
fn a_request_for_many_ranges_counts_as_many() {
    let mut slow = Slow::new(1);
    let ranges: Vec<u8> = (0..16).flat_map(|sector| range(sector, 1, 0)).collect();
    for _ in 0..40 {
        let header = slow.driver.data(&[u64::from(request::DISCARD), 0].map(u64::to_le_bytes).concat());
        let (ranges, code) = (slow.driver.data(&ranges), slow.driver.data(&[0xee]));
        slow.driver.add_indirect(0, &[(header, 16, false), (ranges, 256, false), (code, 1, true)]);
    }
    slow.driver.kick(0);
    assert_eq!(slow.running(), usize::from(viv_disk::aio::DEPTH));
    while slow.running() > 0 {
        slow.end(0);
        slow.driver.worker.process();
    }
    assert_eq!(slow.driver.used(0).len(), 40);
}

#[test]
fn what_exceeds_the_limits_waits_for_its_time() {
    let clock = Arc::<ManualClock>::default();
    let limited = |alarm: &Arc<Alarm>| {
        let limits = Limits { requests: std::num::NonZeroU64::new(10), bytes: None };
        let throttle = Some(Throttle::new(limits, clock.clone(), alarm.clone()));
        let disk: Arc<dyn Disk> = Arc::new(Counting::default());
        let settings = BlockSettings { queues: 2, throttle, ..BlockSettings::default() };
        Arc::new(Mutex::new(Block::new(&disk, Calls::to(&disk), settings)))
    };
    let alarm = Arc::<Alarm>::default();
    let block = limited(&alarm);
    let mut driver = Driver::new(block.clone());
    let features = driver.offered();
    driver.start(features);
    let offer = |driver: &mut Driver, kind: u32, queue| {
        let header = driver.data(&[kind.to_le_bytes().to_vec(), vec![0; 12]].concat());
        let buffer = driver.buffer(513);
        driver.add_indirect(queue, &[(header, 16, false), (buffer, 513, true)])
    };
    for queue in [0, 1].repeat(20) {
        offer(&mut driver, request::IN, queue);
    }
    driver.ring(1);
    driver.kick(0);
    let used = |driver: &mut Driver| (driver.used(0).len(), driver.used(1).len());
    assert_eq!(used(&mut driver), (11, 0), "a burst");
    for expected in [(0, 1), (1, 0), (0, 1)] {
        let deadline = alarm.deadline().unwrap();
        clock.advance(deadline - viv_engine::Clock::now(&*clock));
        block.lock().unwrap().resume();
        assert_eq!(used(&mut driver), expected, "queues take turns");
    }
    let other = Arc::<Alarm>::default();
    let moved = limited(&other);
    let mut driver = driver.move_to(moved.clone());
    driver.worker.process();
    assert_eq!(used(&mut driver), (0, 0), "what is used up is so in the saved state too");
    assert_eq!(other.deadline(), alarm.deadline());
    clock.advance(60_000_000_000);
    moved.lock().unwrap().resume();
    driver.worker.process();
    assert_eq!(driver.interrupts().len(), 1);
    let (first, second) = used(&mut driver);
    assert_eq!(first + second, 11);
}

#[test]
fn real_ways_to_a_file_do_the_same() {
    for choice in [Choice::IoUring, Choice::Threads] {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(SIZE).unwrap();
        let disk: Arc<dyn Disk> = Arc::new(RawDisk::open(file.path(), Access::ReadWrite).unwrap());
        let aio = match viv_disk::aio::open(disk.clone(), choice) {
            Ok(aio) => aio,
            Err(error) => {
                eprintln!("NOT TESTED: a disk by {choice:?}: {error}");
                continue;
            }
        };
        let block = Arc::new(Mutex::new(Block::new(&disk, aio, BlockSettings::default())));
        let mut driver = Driver::new(block.clone());
        let features = driver.offered();
        driver.start(features);
        for sector in 0..64_u64 {
            let header = driver.data(&[1_u64.to_le_bytes(), sector.to_le_bytes()].concat());
            let data = driver.data(&[sector as u8 + 1; 512]);
            let code = driver.data(&[0xee]);
            driver.add_indirect(0, &[(header, 16, false), (data, 512, false), (code, 1, true)]);
        }
        driver.kick(0);
        block.lock().unwrap().drain();
        assert_eq!(driver.used(0).len(), 64);
        let expected: Vec<u8> = (1..65).flat_map(|byte| [byte; 512]).collect();
        assert!(std::fs::read(file.path()).unwrap()[..64 * 512] == expected, "{choice:?}");
    }
}
