//! How fast an image is, beside a raw file: `cargo test --release -p viv-disk bench -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use super::*;
use crate::RawDisk;

const SIZE: u64 = 1 << 30;
const PIECE: u64 = 1 << 20;
const SMALL: u64 = 4096;

#[test]
#[ignore = "it takes a while and passes always"]
fn bench() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    let raw = directory.path().join("disk.img");
    std::fs::File::create(&raw).unwrap().set_len(SIZE).unwrap();
    let image = directory.path().join("disk.qcow2");
    create(&image, SIZE, &CreateOptions::default()).unwrap();
    measure("raw", &RawDisk::open(&raw, Access::ReadWrite).unwrap());
    measure("qcow2", &Qcow2Disk::open(&image, Access::ReadWrite).unwrap());
}

fn measure(name: &str, disk: &dyn Disk) {
    let mut data = vec![0x5a; PIECE as usize];
    let rate = |time: Duration| SIZE as f64 / time.as_secs_f64() / 1e6;
    let sequential = |work: &mut dyn FnMut(u64)| {
        let begun = Instant::now();
        (0..SIZE).step_by(PIECE as usize).for_each(work);
        rate(begun.elapsed())
    };
    let new = sequential(&mut |at| disk.write_at(at, &data).unwrap());
    let begun = Instant::now();
    disk.flush().unwrap();
    let flush = begun.elapsed();
    let again = sequential(&mut |at| disk.write_at(at, &data).unwrap());
    let read = sequential(&mut |at| disk.read_at(at, &mut data).unwrap());
    let mut random = Random::new(1);
    let begun = Instant::now();
    let mut small = vec![0; SMALL as usize];
    for _ in 0..200_000 {
        disk.read_at(random.below(SIZE / SMALL) * SMALL, &mut small).unwrap();
    }
    let each = begun.elapsed() / 200_000;
    println!(
        "{name:6} write new {new:6.0} MB/s, flush {flush:.2?}, write again {again:6.0} MB/s, read {read:6.0} MB/s, \
         read 4 KiB at random {each:.2?}"
    );
}
