use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::virtio::testing::{Driver, RING_FEATURES};

const PLACE: Range<u64> = 4 << 30..(4 << 30) + (6 << 20);

/// A device whose flushes are counted, the third of which fails.
fn counted() -> (Pmem, Arc<AtomicU32>) {
    let count = Arc::<AtomicU32>::default();
    let flush: Flush = Box::new({
        let count = Arc::clone(&count);
        move || {
            if count.fetch_add(1, Ordering::SeqCst) == 2 { Err(io::ErrorKind::Other.into()) } else { Ok(()) }
        }
    });
    (Pmem::new("file".into(), PLACE, Some(flush)), count)
}

fn driver(device: Pmem) -> Driver {
    let mut driver = Driver::new(Arc::new(Mutex::new(device)));
    driver.start(RING_FEATURES);
    driver
}

/// Offers a request; where its answer will be.
fn offer(driver: &mut Driver, request: &[u8]) -> u64 {
    let asked = driver.data(request);
    let answer = driver.data(&[0xaa; 4]);
    driver.add(0, &[(asked, request.len() as u32, false), (answer, 4, true)]);
    answer
}

fn answer(driver: &Driver, address: u64) -> u32 {
    driver.memory.read_obj(GuestAddress(address)).unwrap()
}

#[test]
fn the_driver_learns_where_the_memory_is() {
    let mut driver = driver(counted().0);
    assert_eq!([driver.config(0, 8), driver.config(8, 8), driver.config(16, 4)], [4 << 30, 6 << 20, 0]);
    assert_eq!(driver.offered() & 0xffff, 0);
}

#[test]
fn flushes_are_made_one_in_a_turn_in_their_order_and_may_fail() {
    let (device, count) = counted();
    let mut driver = driver(device);
    let answers: Vec<_> = (0..4).map(|_| offer(&mut driver, &FLUSH.to_le_bytes())).collect();
    driver.ring(0);
    for turn in 1..=4 {
        driver.worker.process();
        assert_eq!(count.load(Ordering::SeqCst), turn);
        assert_eq!(driver.used(0).iter().map(|(_, length)| *length).collect::<Vec<_>>(), [4]);
    }
    let answers: Vec<_> = answers.into_iter().map(|at| answer(&driver, at)).collect();
    assert_eq!(answers, [DONE, DONE, FAILED, DONE]);
}

#[test]
fn what_is_no_flush_fails() {
    let (device, count) = counted();
    let mut driver = driver(device);
    for request in [&[1, 0, 0, 0][..], &[0, 0, 0]] {
        let at = offer(&mut driver, request);
        driver.kick(0);
        assert_eq!(answer(&driver, at), FAILED);
    }
    assert_eq!(count.load(Ordering::SeqCst), 0);
    // One without room for an answer comes back as well.
    let asked = driver.data(&FLUSH.to_le_bytes());
    driver.used(0);
    driver.add(0, &[(asked, 4, false)]);
    driver.kick(0);
    assert_eq!(driver.used(0)[0].1, 0);
    assert!(!driver.is_broken());
}

#[test]
fn there_is_nothing_to_flush_of_what_is_only_read() {
    let mut driver = driver(Pmem::new("file".into(), PLACE, None));
    let at = offer(&mut driver, &FLUSH.to_le_bytes());
    driver.kick(0);
    assert_eq!(answer(&driver, at), DONE);
}

#[test]
fn requests_that_wait_move_with_the_machine() {
    let (device, before) = counted();
    let mut driver = driver(device);
    let [first, second] = [(); 2].map(|()| offer(&mut driver, &FLUSH.to_le_bytes()));
    driver.kick(0);
    assert_eq!([first, second].map(|at| answer(&driver, at)), [DONE, 0xaaaa_aaaa]);
    let (device, after) = counted();
    let driver = driver.move_to(Arc::new(Mutex::new(device)));
    driver.worker.process();
    assert_eq!(answer(&driver, second), DONE);
    assert_eq!([before, after].map(|count| count.load(Ordering::SeqCst)), [1, 1]);
}

#[test]
fn another_file_is_refused() {
    let flush = || -> Option<Flush> { Some(Box::new(|| Ok(()))) };
    let saved = Pmem::new("a".into(), PLACE, flush()).save().unwrap();
    let refusal = |place, flush| {
        let restored = Pmem::new("data.img".into(), place, flush).restore(&saved);
        restored.err().map(|error| error.to_string())
    };
    assert_eq!(refusal(PLACE, flush()), None);
    let text = refusal(PLACE.start..PLACE.end - (2 << 20), flush()).unwrap();
    assert!(text.ends_with("data.img had 6291456 bytes and has 4194304"), "{text}");
    assert!(refusal(0..6 << 20, flush()).is_some_and(|text| text.contains("was at 0x100000000")));
    assert!(refusal(PLACE, None).is_some_and(|text| text.contains("was writable")));
}
