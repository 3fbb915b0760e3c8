use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::*;
use crate::testing::{Alarm, Lines, inb, outb};

const SECOND: u64 = 1_000_000_000;
/// Saturday, 29 February 2020, 23:59:58.25.
const START: u64 = 1_583_020_798 * SECOND + SECOND / 4;

/// A clock whose time of day began at [`START`].
#[derive(Default)]
struct Time(AtomicU64);

impl Time {
    fn advance(&self, nanos: u64) {
        self.0.fetch_add(nanos, Ordering::SeqCst);
    }
}

impl Clock for Time {
    fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn wall(&self) -> Duration {
        Duration::from_nanos(START + self.now())
    }
}

struct Bench {
    clock: Arc<Time>,
    alarm: Arc<Alarm>,
    lines: Arc<Lines>,
    rtc: Rtc,
}

const MEMORY: MemorySize = MemorySize { below_4_gib: 3 << 30, above_4_gib: 5 << 30 };

fn bench() -> Bench {
    bench_at(Arc::default())
}

fn bench_at(clock: Arc<Time>) -> Bench {
    let (alarm, lines) = (Arc::new(Alarm::default()), Arc::new(Lines::default()));
    let rtc = Rtc::new(clock.clone(), alarm.clone(), lines.line(layout::RTC_IRQ), MEMORY);
    Bench { clock, alarm, lines, rtc }
}

impl Bench {
    fn get(&mut self, index: u8) -> u8 {
        outb(&mut self.rtc, layout::RTC_INDEX, index);
        inb(&mut self.rtc, layout::RTC_DATA)
    }

    fn set(&mut self, index: u8, value: u8) {
        outb(&mut self.rtc, layout::RTC_INDEX, index);
        outb(&mut self.rtc, layout::RTC_DATA, value);
    }

    /// Century, year, month, day, hour, minute, second.
    fn time(&mut self) -> [u8; 7] {
        [0x32, 9, 8, 7, 4, 2, 0].map(|index| self.get(index))
    }

    fn irq(&self) -> bool {
        self.lines.is_asserted(layout::RTC_IRQ)
    }

    /// Lets time pass to the alarm's deadline and rings it; returns how long that took.
    fn ring(&mut self) -> u64 {
        let wait = self.alarm.deadline().expect("an alarm") - self.clock.now();
        self.clock.advance(wait);
        self.rtc.on_timer(self.clock.now());
        wait
    }
}

#[test]
fn it_shows_the_time_of_day() {
    let mut b = bench();
    assert_eq!(b.time(), [0x20, 0x20, 2, 0x29, 0x23, 0x59, 0x58]);
    assert_eq!(b.get(6), 7, "Saturday");
    b.clock.advance(2 * SECOND);
    assert_eq!(b.time(), [0x20, 0x20, 3, 1, 0, 0, 0]);
    assert_eq!(b.get(6), 1);
    assert_eq!(b.get(0x0d), 0x80);
}

#[test]
fn formats_are_as_register_b_says() {
    let mut b = bench();
    b.set(0x0b, 0x06);
    assert_eq!(b.time(), [20, 20, 2, 29, 23, 59, 58]);
    b.set(0x0b, 0x00);
    assert_eq!(b.get(4), 0x91, "11 in the afternoon");
    b.clock.advance(2 * SECOND);
    assert_eq!(b.get(4), 0x12, "midnight");
    b.set(0x0b, 0x04);
    b.set(4, 0x80 | 12);
    b.set(0x0b, 0x02);
    assert_eq!(b.get(4), 0x12, "noon");
}

#[test]
fn linux_sets_the_time() {
    let mut b = bench();
    b.set(0x0b, 0x82);
    b.set(0x0a, 0x76);
    for (index, value) in [(9, 0x99), (8, 0x12), (7, 0x31), (4, 0x23), (2, 0x59), (0, 0x59), (0x32, 0x19)] {
        b.set(index, value);
    }
    b.clock.advance(10 * SECOND);
    assert_eq!(b.time(), [0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59], "time stands still");
    b.set(0x0b, 0x02);
    b.clock.advance(10 * SECOND);
    b.set(0x0a, 0x26);
    assert_eq!(b.time(), [0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59]);
    b.clock.advance(SECOND / 2 - 1);
    assert_eq!(b.get(0), 0x59);
    b.clock.advance(1);
    assert_eq!(b.time(), [0x20, 0, 1, 1, 0, 0, 0], "half a second after the divider was let go");
}

#[test]
fn a_single_register_can_be_set_while_time_runs() {
    let mut b = bench();
    b.set(4, 0x11);
    assert_eq!(b.time(), [0x20, 0x20, 2, 0x29, 0x11, 0x59, 0x58]);
    b.clock.advance(SECOND * 3 / 4);
    assert_eq!(b.get(0), 0x59, "the fraction of the second stayed");
}

#[test]
fn an_update_is_announced() {
    let mut b = bench();
    assert_eq!(b.get(0x0a), 0x26);
    b.clock.advance(SECOND * 3 / 4 - 200_000);
    assert_eq!(b.get(0x0a), 0xa6);
    b.clock.advance(200_000);
    assert_eq!(b.get(0x0a), 0x26);
    assert_eq!(b.get(0), 0x59);
}

#[test]
fn updates_interrupt_each_second() {
    let mut b = bench();
    b.set(0x0b, 0x12);
    assert_eq!(b.ring(), SECOND * 3 / 4);
    assert!(b.irq());
    assert_eq!(b.alarm.deadline(), None, "no new alarm was set before the guest has read");
    assert_eq!(b.get(0x0c) & 0x90, 0x90);
    assert!(!b.irq());
    assert_eq!(b.get(0x0c), 0);
    assert_eq!(b.ring(), SECOND);
    assert!(b.irq());
}

#[test]
fn flags_rise_without_interrupts() {
    let mut b = bench();
    b.clock.advance(SECOND);
    assert_eq!(b.get(0x0c) & 0x90, 0x10);
    assert!(!b.irq());
    assert_eq!(b.alarm.deadline(), None);
}

#[test]
fn the_alarm_comes_at_its_time() {
    let mut b = bench();
    for (index, value) in [(5, 0x00), (3, 0x10), (1, 0x05)] {
        b.set(index, value);
    }
    b.set(0x0b, 0x22);
    assert_eq!(b.ring(), (2 + 10 * 60 + 5) * SECOND - SECOND / 4);
    assert!(b.irq());
    assert_eq!(b.get(0x0c) & 0xa0, 0xa0);
    assert_eq!(b.ring(), 86_400 * SECOND, "and the next day");
}

#[test]
fn alarm_fields_can_match_always() {
    let mut b = bench();
    for (index, value) in [(5, 0xc0), (3, 0xff), (1, 0x30)] {
        b.set(index, value);
    }
    b.set(0x0b, 0x22);
    assert_eq!(b.ring(), 32 * SECOND - SECOND / 4);
    b.get(0x0c);
    assert_eq!(b.ring(), 60 * SECOND);
    b.set(1, 0xff);
    b.get(0x0c);
    assert_eq!(b.ring(), SECOND);
    b.get(0x0c);
    b.set(1, 0x61);
    assert_eq!(b.alarm.deadline(), None, "a second that never comes");
}

#[test]
fn an_alarm_that_was_slept_through_has_still_come() {
    let mut b = bench();
    for (index, value) in [(5, 0x03), (3, 0x00), (1, 0x00)] {
        b.set(index, value);
    }
    b.clock.advance(2 * 3600 * SECOND);
    assert_eq!(b.get(0x0c) & 0x20, 0);
    b.clock.advance(3 * 86_400 * SECOND);
    assert_eq!(b.get(0x0c) & 0x20, 0x20);
}

#[test]
fn periodic_interrupts_come_at_their_rate() {
    let mut b = bench();
    b.set(0x0a, 0x26);
    b.set(0x0b, 0x42);
    for _ in 0..1024 {
        b.ring();
        assert!(b.irq());
        assert_eq!(b.get(0x0c) & 0xc0, 0xc0);
    }
    assert_eq!(b.clock.now(), SECOND);
    b.set(0x0a, 0x21);
    b.ring();
    assert_eq!(b.clock.now(), SECOND + SECOND / 256);
    b.set(0x0a, 0x20);
    b.get(0x0c);
    assert_eq!(b.alarm.deadline(), None);
    b.clock.advance(10 * SECOND);
    assert_eq!(b.get(0x0c) & 0xc0, 0);
}

#[test]
fn the_bytes_for_firmware_tell_the_memory() {
    let mut b = bench();
    let mut word = |index| u16::from_le_bytes([b.get(index), b.get(index + 1)]);
    assert_eq!(word(0x15), 640);
    assert_eq!((word(0x17), word(0x30)), (0xffff, 0xffff));
    assert_eq!(word(0x34), ((3_u32 << 14) - 256) as u16);
    assert_eq!((word(0x5b), b.get(0x5d)), ((5_u32 << 14) as u16, ((5_u32 << 14) >> 16) as u8));
}

#[test]
fn reset_keeps_time_and_ram_and_stops_interrupts() {
    let mut b = bench();
    b.set(0x0f, 0x0a);
    b.set(9, 0x31);
    b.set(0x0b, 0x72);
    b.ring();
    assert!(b.irq());
    b.rtc.reset();
    assert!(!b.irq());
    assert_eq!(b.alarm.deadline(), None);
    assert_eq!((b.get(0x0b), b.get(0x0c), b.get(0x0f), b.get(9)), (0x02, 0, 0x0a, 0x31));
}

#[test]
fn a_restored_clock_goes_on() {
    let mut old = bench();
    old.set(9, 0x31);
    old.set(0x0b, 0x12);
    old.ring();
    let mut new = bench_at(Arc::clone(&old.clock));
    new.rtc.restore(&old.rtc.save().unwrap()).unwrap();
    assert!(new.irq());
    assert_eq!(new.get(9), 0x31);
    assert_eq!(new.get(0x0c), old.get(0x0c));
    assert_eq!(new.ring(), SECOND);
}
