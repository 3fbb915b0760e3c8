use std::sync::{Arc, Mutex};

use viv_engine::memory::present;
use vm_memory::{Bytes, GuestAddress};

use super::regs::{STATISTIC, feature, tag};
use super::*;
use crate::virtio::testing::{Driver, RAM, RING_FEATURES};
use crate::virtio::{Shared, feature as ring};

const INFLATE: usize = 0;
const DEFLATE: usize = 1;
const STATISTICS: usize = 2;
const REPORTING: [usize; 2] = [3, 4];
/// The configuration's vector, which is after the queues'.
const CONFIG_VECTOR: u64 = 5;
/// Memory that no ring and no buffer is in.
const PAGES: u64 = 0x80_0000;

struct Bench {
    driver: Driver,
    balloon: Shared<Balloon>,
}

impl Bench {
    fn new(features: u64) -> Self {
        let balloon = Arc::new(Mutex::new(Balloon::new()));
        let mut driver = Driver::new(balloon.clone());
        driver.start(RING_FEATURES | features);
        driver.memory.write_slice(&[7; 0x10_0000], GuestAddress(PAGES)).unwrap();
        Self { driver, balloon }
    }

    /// Puts pages into the balloon, by number.
    fn inflate(&mut self, pages: &[u32]) {
        let bytes: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
        let address = self.driver.data(&bytes);
        self.driver.add(INFLATE, &[(address, bytes.len() as u32, false)]);
        self.driver.kick(INFLATE);
        assert_eq!(self.driver.used(INFLATE).len(), 1);
        assert!(!self.driver.is_broken());
    }

    /// How many of the pages from [`PAGES`] on the host has memory for.
    fn present(&self) -> u64 {
        let end = PAGES + 0x10_0000;
        let part = |range: Range<u64>| range.end.min(end).saturating_sub(range.start.max(PAGES));
        present(&self.driver.memory).map(part).sum::<u64>() >> PAGE_SHIFT
    }

    fn statistics(&mut self, entries: &[(u16, u64)]) {
        let mut bytes = Vec::with_capacity(entries.len() * STATISTIC);
        for (tag, value) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(value.to_le_bytes());
        }
        let address = self.driver.data(&bytes);
        self.driver.add(STATISTICS, &[(address, bytes.len() as u32, false)]);
        self.driver.kick(STATISTICS);
    }

    fn heard(&self) -> Option<MemoryStatistics> {
        self.balloon.lock().unwrap().statistics()
    }
}

#[test]
fn the_target_is_told_and_the_driver_answers() {
    let mut bench = Bench::new(0);
    bench.driver.interrupts();
    bench.balloon.lock().unwrap().set_target(0x300);
    assert_eq!(bench.driver.interrupts(), [CONFIG_VECTOR]);
    assert_eq!((bench.driver.config(0, 4), bench.driver.config(4, 4)), (0x300, 0));
    bench.driver.set_config(4, 4, 0x2ff);
    bench.driver.set_config(0, 4, 1);
    bench.driver.set_config(14, 4, 1);
    let balloon = bench.balloon.lock().unwrap();
    assert_eq!((balloon.target(), balloon.actual()), (0x300, 0x2ff));
}

#[test]
fn a_target_that_stays_is_not_told() {
    let bench = Bench::new(0);
    bench.driver.interrupts();
    bench.balloon.lock().unwrap().set_target(0);
    assert!(bench.driver.interrupts().is_empty());
}

#[test]
fn pages_in_the_balloon_are_the_hosts() {
    let mut bench = Bench::new(0);
    let page = (PAGES >> 12) as u32;
    assert_eq!(bench.present(), 256);
    bench.inflate(&[page + 9, page + 8, page + 7, page + 7, page + 200]);
    assert_eq!(bench.present(), 252);
    // What is no RAM, and half a number, do no harm.
    bench.inflate(&[u32::MAX, (RAM >> 12) as u32, 0xa0]);
    assert_eq!(bench.present(), 252);
    let zeros = bench.driver.bytes(PAGES + 0x7000, 0x3000);
    assert!(zeros.iter().all(|&byte| byte == 0));
    assert!(bench.driver.bytes(PAGES + 0xa000, 0x1000).iter().all(|&byte| byte == 7));

    let number = bench.driver.data(&(page + 9).to_le_bytes());
    bench.driver.add(DEFLATE, &[(number, 4, false)]);
    bench.driver.kick(DEFLATE);
    assert_eq!(bench.driver.used(DEFLATE).len(), 1);
}

#[test]
fn free_pages_are_given_back_by_either_numbering() {
    for queue in REPORTING {
        let mut bench = Bench::new(feature::STATS_VQ | feature::PAGE_REPORTING);
        let parts = [(PAGES, 0x1_0000, true), (PAGES + 0x2_0800, 0x1000, true)];
        bench.driver.add(queue, &parts);
        bench.driver.kick(queue);
        assert_eq!(bench.driver.used(queue).len(), 1);
        assert_eq!(bench.present(), 256 - 16, "pages that are free in part are kept");
    }
}

#[test]
fn without_statistics_the_third_queue_reports() {
    let mut bench = Bench::new(feature::PAGE_REPORTING);
    bench.driver.add(STATISTICS, &[(PAGES, 0x1000, true)]);
    bench.driver.kick(STATISTICS);
    assert_eq!(bench.present(), 255);
    assert_eq!(bench.heard(), None);
}

#[test]
fn free_pages_that_are_poisoned_stay_as_they_are() {
    for (poison, kept) in [(0xaa, 256), (0, 255)] {
        let mut bench = Bench::new(feature::PAGE_POISON | feature::PAGE_REPORTING | feature::STATS_VQ);
        bench.driver.set_config(12, 4, poison);
        bench.driver.add(REPORTING[0], &[(PAGES, 0x1000, true)]);
        bench.driver.kick(REPORTING[0]);
        assert_eq!(bench.driver.used(REPORTING[0]).len(), 1);
        assert_eq!(bench.present(), kept);
    }
}

#[test]
fn statistics_stay_with_the_host_until_it_wants_new_ones() {
    let mut bench = Bench::new(feature::STATS_VQ);
    assert_eq!(bench.heard(), None);
    bench.statistics(&[(tag::MEMTOT, 1 << 30), (tag::MEMFREE, 5), (99, 1)]);
    let expected = MemoryStatistics { total: Some(1 << 30), free: Some(5), ..Default::default() };
    assert_eq!(bench.heard(), Some(expected));
    assert!(bench.driver.used(STATISTICS).is_empty());

    bench.balloon.lock().unwrap().ask_statistics();
    assert_eq!(bench.driver.used(STATISTICS).len(), 1);
    bench.statistics(&[(tag::AVAIL, 6)]);
    assert_eq!(bench.heard(), Some(MemoryStatistics { available: Some(6), ..Default::default() }));
    assert!(bench.driver.used(STATISTICS).is_empty());
}

#[test]
fn it_goes_on_after_a_restore() {
    let mut bench = Bench::new(feature::STATS_VQ);
    bench.statistics(&[(tag::MEMFREE, 5)]);
    bench.balloon.lock().unwrap().set_target(77);
    bench.driver.set_config(4, 4, 12);
    let balloon = Arc::new(Mutex::new(Balloon::new()));
    let Bench { driver, .. } = bench;
    let mut bench = Bench { driver: driver.move_to(balloon.clone()), balloon };
    bench.driver.worker.process();
    assert_eq!((bench.driver.config(0, 4), bench.driver.config(4, 4)), (77, 12));
    assert_eq!(bench.heard().unwrap().free, Some(5));
    assert!(bench.driver.used(STATISTICS).is_empty());
    bench.balloon.lock().unwrap().ask_statistics();
    assert_eq!(bench.driver.used(STATISTICS).len(), 1);

    bench.driver.reset_machine();
    let balloon = bench.balloon.lock().unwrap();
    assert_eq!((balloon.target(), balloon.actual(), balloon.statistics()), (77, 0, None));
}

#[test]
fn what_is_offered() {
    let mut bench = Bench::new(0);
    let own = bench.driver.offered() & !(ring::RING_EVENT_IDX | ring::RING_INDIRECT_DESC | ring::VERSION_1);
    assert_eq!(own, 0b11_0110);
}
