//! Reading and writing a disk, in order and at random, one request at a time and many (Linux's native AIO).

use std::ffi::{c_int, c_long};
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// `O_DIRECT`
const DIRECT: c_int = 0o40000;
/// What memory for direct access must be a multiple of, at the most.
const ALIGN: usize = 4096;

/// `SYS_io_setup`, `SYS_io_getevents` and `SYS_io_submit`
const IO_SETUP: c_long = 206;
const IO_GETEVENTS: c_long = 208;
const IO_SUBMIT: c_long = 209;
/// `IOCB_CMD_PREAD` and `IOCB_CMD_PWRITE`
const PREAD: u16 = 0;
const PWRITE: u16 = 1;

/// A piece of work.
pub struct Row {
    pub name: &'static str,
    write: bool,
    random: bool,
    /// Bytes of a request.
    block: usize,
    /// Requests altogether, and at a time.
    count: u64,
    depth: usize,
}

const fn sequential(name: &'static str, write: bool) -> Row {
    Row { name, write, random: false, block: 1 << 20, count: 4096, depth: 2 }
}

const fn random(name: &'static str, write: bool, count: u64, depth: usize) -> Row {
    Row { name, write, random: true, block: 4096, count, depth }
}

pub const ROWS: &[Row] = &[
    sequential("disk-read", false),
    sequential("disk-write", true),
    random("disk-random-read", false, 8192, 1),
    random("disk-random-write", true, 8192, 1),
    random("disk-random-read-32", false, 32768, 32),
    random("disk-random-write-32", true, 32768, 32),
];

// SAFETY: this is how the C library declares it.
unsafe extern "C" {
    fn syscall(number: c_long, ...) -> c_long;
}

/// `struct iocb`
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Control {
    data: u64,
    key: u32,
    flags: u32,
    opcode: u16,
    priority: i16,
    file: u32,
    buffer: u64,
    length: u64,
    offset: i64,
    reserved: u64,
    more_flags: u32,
    event: u32,
}

/// `struct io_event`
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Event {
    data: u64,
    object: u64,
    result: i64,
    result2: i64,
}

/// What the rows work on.
pub struct Disk {
    file: File,
    size: u64,
}

impl Disk {
    pub fn open(path: &Path, direct: bool) -> Self {
        let flags = if direct { DIRECT } else { 0 };
        let mut file =
            OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).expect("the disk opens");
        let size = file.seek(SeekFrom::End(0)).expect("the disk has a size");
        Self { file, size }
    }

    /// Does the work. Each 4 KiB of the disk begin with their number, and stay so; what the work comes to is their sum.
    pub fn work(&self, row: &Row) -> u64 {
        let blocks = self.size / row.block as u64;
        let mut context = 0_u64;
        // SAFETY: the call writes one word where it is told.
        check(unsafe { syscall(IO_SETUP, row.depth as c_long, &raw mut context) });
        let mut memory = vec![0_u8; row.depth * row.block + ALIGN];
        let start = memory.as_ptr().align_offset(ALIGN);
        let base = memory[start..][..row.depth * row.block].as_mut_ptr();
        let mut controls = vec![Control::default(); row.depth];
        let mut events = vec![Event::default(); row.depth];
        let mut free: Vec<usize> = (0..row.depth).collect();
        let (mut begun, mut done, mut sum) = (0, 0, 0_u64);
        let mut number = 1_u64;
        while done < row.count {
            let mut batch = Vec::with_capacity(row.depth);
            while begun < row.count
                && let Some(slot) = free.pop()
            {
                number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let block = if row.random { (number >> 33) % blocks } else { begun % blocks };
                let place = slot * row.block;
                for within in (0..row.block).step_by(4096).filter(|_| row.write) {
                    let number = (block * row.block as u64 + within as u64) / 4096;
                    // SAFETY: it is within the memory, which the kernel does not have now.
                    unsafe { base.add(place + within).write(number as u8) };
                }
                controls[slot] = Control {
                    data: slot as u64,
                    opcode: if row.write { PWRITE } else { PREAD },
                    file: self.file.as_raw_fd() as u32,
                    buffer: base.wrapping_add(place).expose_provenance() as u64,
                    length: row.block as u64,
                    offset: (block * row.block as u64) as i64,
                    ..Control::default()
                };
                batch.push(&raw const controls[slot]);
                begun += 1;
            }
            let mut submitted = 0;
            while submitted < batch.len() {
                let rest = &batch[submitted..];
                // SAFETY: the control blocks and the memory that they name live until their events have come.
                let taken = unsafe { syscall(IO_SUBMIT, context, rest.len() as c_long, rest.as_ptr()) };
                submitted += check(taken) as usize;
            }
            // SAFETY: there is room for as many events as are asked for, and there is no time limit.
            let ended = check(unsafe {
                syscall(IO_GETEVENTS, context, 1 as c_long, row.depth as c_long, events.as_mut_ptr(), 0 as c_long)
            });
            for event in &events[..ended as usize] {
                assert_eq!(event.result, row.block as i64, "a request is done as a whole");
                let slot = event.data as usize;
                // SAFETY: it is within the memory, which the kernel no longer has.
                sum = sum.wrapping_add(u64::from(unsafe { base.add(slot * row.block).read_volatile() }));
                free.push(slot);
            }
            done += ended as u64;
        }
        sum
    }
}

fn check(answer: c_long) -> c_long {
    assert!(answer >= 0, "the kernel does not take requests: {}", io::Error::last_os_error());
    answer
}
