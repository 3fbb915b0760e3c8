use std::num::Wrapping;
use std::path::PathBuf;

use viv_engine::GuestMemory;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::*;
use crate::{Access, Caching, OverlayDisk, RawDisk, SECTOR};

const SIZE: u64 = 1 << 20;
const RAM: u64 = 4 << 20;

struct Bench {
    directory: tempfile::TempDir,
    memory: Arc<GuestMemory>,
}

impl Bench {
    fn new() -> Self {
        // Where there is direct access: not in memory.
        let directory = tempfile::tempdir_in("/var/tmp").unwrap();
        std::fs::write(directory.path().join("disk"), vec![0x5a; SIZE as usize]).unwrap();
        Self { directory, memory: Arc::new(viv_engine::memory::allocate(RAM).unwrap()) }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("disk")
    }

    fn raw(&self, access: Access, caching: Caching) -> Result<Arc<dyn Disk>, DiskError> {
        Ok(Arc::new(RawDisk::open_with(&self.path(), access, caching)?))
    }

    /// Every way to a disk that there is here, by its name.
    fn ways(&self, mut each: impl FnMut(&str, Arc<dyn Disk>, Box<dyn Aio>)) {
        for (name, caching, choice) in [
            ("io_uring", Caching::Host, Choice::IoUring),
            ("threads", Caching::Host, Choice::Threads),
            ("io_uring, direct", Caching::Direct, Choice::IoUring),
            ("threads, direct", Caching::Direct, Choice::Threads),
        ] {
            let opened = self.raw(Access::ReadWrite, caching);
            match opened.and_then(|disk| Ok((disk.clone(), open(disk, choice)?))) {
                Ok((disk, aio)) => each(name, disk, aio),
                Err(error) => eprintln!("NOT TESTED: requests by {name}: {error}"),
            }
        }
    }

    fn data(&self, parts: &[(u64, u32)]) -> Scatter {
        let parts = parts.iter().map(|&(address, length)| (GuestAddress(address), length));
        Scatter::new(self.memory.clone(), parts.collect())
    }

    fn request(&self, tag: u64, operation: Operation, offset: u64, parts: &[(u64, u32)]) -> Request {
        let data = self.data(parts);
        Request { tag, operation, offset, length: data.length(), data }
    }

    fn bytes(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).unwrap();
        bytes
    }
}

/// Runs requests to their ends, and gives their results in the order of their tags.
fn run(aio: &mut dyn Aio, requests: impl IntoIterator<Item = Request>) -> Vec<Result<(), DiskError>> {
    let mut count = 0;
    for request in requests {
        aio.start(request);
        count += 1;
    }
    aio.submit().unwrap();
    let mut ended = Vec::new();
    while ended.len() < count {
        aio.wait().unwrap();
        aio.take_ended(&mut ended);
    }
    ended.sort_by_key(|completion| completion.tag);
    assert!(ended.iter().map(|completion| completion.tag).eq(0..count as u64));
    ended.into_iter().map(|completion| completion.result).collect()
}

const WRITE: Operation = Operation::Write { durable: false };

#[test]
fn what_is_written_is_read() {
    let bench = Bench::new();
    bench.ways(|name, _, mut aio| {
        let mut random = Wrapping(12345_u64);
        let content: Vec<u8> = (0..SIZE)
            .map(|_| {
                random = random * Wrapping(6_364_136_223_846_793_005) + Wrapping(1);
                (random.0 >> 56) as u8
            })
            .collect();
        bench.memory.write_slice(&content, GuestAddress(0x10_0000)).unwrap();
        let chunk = 16 << 10_u32;
        let parts = |base: u64, index: u64| {
            // Of several sizes, some at odd places; the guest's memory need not be aligned.
            let start = base + index * u64::from(chunk);
            vec![(start, 511), (start + 511, 1), (start + 512, 4096), (start + 4608, chunk - 4608)]
        };
        let count = SIZE / u64::from(chunk);
        let writes = (0..count).map(|index| {
            let operation = Operation::Write { durable: index % 8 == 0 };
            bench.request(index, operation, index * u64::from(chunk), &parts(0x10_0000, index))
        });
        assert!(run(&mut *aio, writes).iter().all(Result::is_ok), "{name}");
        assert!(std::fs::read(bench.path()).unwrap() == content, "{name}");
        bench.memory.write_slice(&vec![0; SIZE as usize], GuestAddress(0x20_0000)).unwrap();
        let reads = (0..count).map(|index| {
            let offset = index * u64::from(chunk);
            bench.request(index, Operation::Read, offset, &parts(0x20_0000, index))
        });
        assert!(run(&mut *aio, reads).iter().all(Result::is_ok), "{name}");
        assert!(bench.bytes(0x20_0000, SIZE as usize) == content, "{name}");
    });
}

#[test]
fn a_read_is_a_write_to_memory_of_which_note_is_taken() {
    let bench = Bench::new();
    bench.ways(|name, _, mut aio| {
        let region = bench.memory.iter().next().unwrap();
        assert!(!viv_engine::memory::take_dirty_pages(&bench.memory).contains(&4), "{name}");
        let record = viv_engine::memory::record(region);
        record.note_code(4);
        let before = record.generation(4);
        let read = bench.request(0, Operation::Read, 0, &[(0x3f00, 0x100), (0x4000, 0x300)]);
        assert!(run(&mut *aio, [read])[0].is_ok(), "{name}");
        assert_ne!(record.generation(4), before, "{name}");
        assert_eq!(viv_engine::memory::take_dirty_pages(&bench.memory), [3, 4], "{name}");
    });
}

#[test]
fn space_is_zeroed_given_back_and_flushed() {
    let bench = Bench::new();
    bench.ways(|name, _, mut aio| {
        std::fs::write(bench.path(), vec![0x5a; SIZE as usize]).unwrap();
        let ranges = [
            (Operation::WriteZeroes { may_unmap: true, durable: true }, 0),
            (Operation::WriteZeroes { may_unmap: false, durable: false }, 0x2_0000),
            (Operation::Discard, 0x4_0000),
            (Operation::Flush, 0),
        ];
        let data = || bench.data(&[]);
        let requests = (0..).zip(ranges).map(|(tag, (operation, offset))| {
            let length = if operation == Operation::Flush { 0 } else { 0x1_0000 };
            Request { tag, operation, offset, length, data: data() }
        });
        assert!(run(&mut *aio, requests).iter().all(Result::is_ok), "{name}");
        let file = std::fs::read(bench.path()).unwrap();
        let all = |range: std::ops::Range<usize>, byte| file[range].iter().all(|&found| found == byte);
        assert!(all(0..0x1_0000, 0) && all(0x2_0000..0x3_0000, 0), "{name}");
        assert!(all(0x1_0000..0x2_0000, 0x5a) && all(0x5_0000..0x10_0000, 0x5a), "{name}");
    });
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let bench = Bench::new();
    bench.ways(|name, _, mut aio| {
        let outside = SIZE - SECTOR;
        let requests = [
            bench.request(0, Operation::Read, outside, &[(0x1000, 1024)]),
            bench.request(1, WRITE, u64::MAX, &[(0x1000, 512)]),
            bench.request(2, Operation::Read, 0, &[(RAM - 100, 512)]),
            bench.request(3, WRITE, 0, &[(u64::MAX - 100, 512)]),
            Request { length: 1 << 30, ..bench.request(4, Operation::Discard, 0, &[]) },
            bench.request(5, Operation::Read, 0, &[]),
        ];
        let results = run(&mut *aio, requests);
        let refused: Vec<_> = results.iter().map(Result::is_err).collect();
        assert_eq!(refused, [true, true, true, true, true, false], "{name}");
        assert!(std::fs::read(bench.path()).unwrap().iter().all(|&byte| byte == 0x5a), "{name}");
    });
    let disk = bench.raw(Access::ReadOnly, Caching::Host).unwrap();
    let mut aio = open(disk, Choice::Auto).unwrap();
    let requests = [
        bench.request(0, WRITE, 0, &[(0x1000, 512)]),
        bench.request(1, Operation::Flush, 0, &[]),
        bench.request(2, Operation::Read, 0, &[(0x1000, 512)]),
    ];
    let results = run(&mut *aio, requests);
    assert!(matches!(results.as_slice(), [Err(DiskError::ReadOnly { .. }), Ok(()), Ok(())]), "{results:?}");
}

#[test]
fn a_file_that_became_shorter_fails_its_reads() {
    let bench = Bench::new();
    bench.ways(|name, _, mut aio| {
        std::fs::File::options().write(true).open(bench.path()).unwrap().set_len(SIZE / 2).unwrap();
        let read = |tag, offset| bench.request(tag, Operation::Read, offset, &[(0x1000, 8192)]);
        let results = run(&mut *aio, [read(0, SIZE / 2 - 4096), read(1, SIZE - 8192), read(2, 0)]);
        assert!(results[0].is_err() && results[1].is_err() && results[2].is_ok(), "{name}: {results:?}");
        std::fs::write(bench.path(), vec![0x5a; SIZE as usize]).unwrap();
    });
}

#[test]
fn what_runs_ends_when_the_way_is_dropped() {
    let bench = Bench::new();
    bench.ways(|name, _, mut aio| {
        bench.memory.write_slice(&vec![7; 1 << 20], GuestAddress(0x10_0000)).unwrap();
        for tag in 0..16 {
            aio.start(bench.request(tag, WRITE, tag << 16, &[(0x10_0000, 1 << 16)]));
        }
        aio.submit().unwrap();
        drop(aio);
        assert!(std::fs::read(bench.path()).unwrap() == vec![7; SIZE as usize], "{name}");
    });
}

#[test]
fn only_raw_disks_have_io_uring() {
    let bench = Bench::new();
    let overlay = || -> Arc<dyn Disk> {
        let base = RawDisk::open(&bench.path(), Access::ReadOnly).unwrap();
        Arc::new(OverlayDisk::throw_away(base, bench.directory.path()).unwrap())
    };
    let Err(error) = open(overlay(), Choice::IoUring).map(drop) else { panic!("an overlay by io_uring") };
    assert_eq!(error.to_string(), "aio=io_uring is for raw disks that are written in place: use aio=threads");
    let mut aio = open(overlay(), Choice::Auto).unwrap();
    bench.memory.write_slice(&[3; 512], GuestAddress(0x1000)).unwrap();
    assert!(run(&mut *aio, [bench.request(0, WRITE, 512, &[(0x1000, 512)])])[0].is_ok());
    assert!(run(&mut *aio, [bench.request(0, Operation::Read, 512, &[(0x2000, 512)])])[0].is_ok());
    assert_eq!(bench.bytes(0x2000, 512), [3; 512]);
}
