use viv_engine::time::ManualClock;

use super::*;
use crate::irq::InterruptController;
use crate::testing::{Alarm, Lines, Places, reset_gives_power_on_state};

struct Bench {
    clock: Arc<ManualClock>,
    alarm: Arc<Alarm>,
    lines: Arc<Lines>,
    /// What PIT and RTC have.
    legacy: [IrqLine; 2],
    hpet: Hpet,
}

fn bench() -> Bench {
    bench_at(Arc::default())
}

fn bench_at(clock: Arc<ManualClock>) -> Bench {
    let (alarm, lines) = (Arc::new(Alarm::default()), Arc::new(Lines::default()));
    let gate = Gate::new(Arc::clone(&lines) as Arc<dyn InterruptController>);
    let legacy = [0, 8].map(|gsi| gate.line(gsi));
    let hpet = Hpet::new(clock.clone(), alarm.clone(), |gsi| lines.line(gsi), gate);
    Bench { clock, alarm, lines, legacy, hpet }
}

const CONFIGURATION: u64 = 0x10;
const STATUS: u64 = 0x20;
const COUNTER: u64 = 0xf0;

const ENABLE: u64 = 1;
const LEGACY: u64 = 2;

const LEVEL: u64 = 1 << 1;
const INTERRUPT: u64 = 1 << 2;
const PERIODIC: u64 = 1 << 3;
const SET_VALUE: u64 = 1 << 6;
const MODE_32: u64 = 1 << 8;

fn conf(timer: u64) -> u64 {
    0x100 + 0x20 * timer
}

fn comp(timer: u64) -> u64 {
    0x108 + 0x20 * timer
}

fn route(line: u64) -> u64 {
    line << 9
}

impl Bench {
    fn get(&mut self, offset: u64) -> u64 {
        let mut data = [0; 8];
        self.hpet.read(offset, &mut data);
        u64::from_le_bytes(data)
    }

    fn set(&mut self, offset: u64, value: u64) {
        self.hpet.write(offset, &value.to_le_bytes());
    }

    fn set_low(&mut self, offset: u64, value: u32) {
        self.hpet.write(offset, &value.to_le_bytes());
    }

    /// Lets `ticks` pass, with the alarm ringing when it is due; returns how often.
    fn run(&mut self, ticks: u64) -> u32 {
        let (end, mut rings) = (self.clock.now() + ticks * 10, 0);
        while let Some(deadline) = self.alarm.deadline().filter(|&deadline| deadline <= end) {
            self.clock.advance(deadline.saturating_sub(self.clock.now()));
            self.alarm.disarm();
            self.hpet.on_timer(self.clock.now());
            rings += 1;
        }
        self.clock.advance(end - self.clock.now());
        rings
    }
}

#[test]
fn it_tells_what_it_is() {
    let mut b = bench();
    assert_eq!(b.get(0), 0x0098_9680_8086_a201, "10 ns, Intel, legacy, 64 bits, 3 comparators");
    assert_eq!(u64::from(Hpet::BLOCK_ID), b.get(0) & 0xffff_ffff);
    for timer in 0..3 {
        assert_eq!(b.get(conf(timer)), 0x00f0_0000_0000_0030, "periodic, 64 bits, lines 20 to 23");
        assert_eq!((b.get(comp(timer)), b.get(conf(timer) + 0x10)), (u64::MAX, 0));
    }
    let mut half = [0; 4];
    b.hpet.read(4, &mut half);
    assert_eq!(u32::from_le_bytes(half), 10_000_000);
    b.set(0, 0);
    assert_eq!(b.get(0) >> 32, 10_000_000);
}

#[test]
fn the_counter_counts_while_it_is_enabled() {
    let mut b = bench();
    b.clock.advance(1000);
    assert_eq!(b.get(COUNTER), 0);
    b.set(COUNTER, 0xffff_ffff);
    b.set(CONFIGURATION, ENABLE);
    b.clock.advance(1_000_005);
    assert_eq!(b.get(COUNTER), 0x1_0000_0000 + 99_999);
    b.set_low(CONFIGURATION, 0);
    b.clock.advance(1000);
    assert_eq!(b.get(COUNTER), 0x1_0000_0000 + 99_999);
    b.set_low(COUNTER, 5);
    assert_eq!(b.get(COUNTER), 0x1_0000_0005, "half of it");
    assert_eq!(b.get(COUNTER + 4), 1);
}

#[test]
fn one_shot_interrupts_once() {
    let mut b = bench();
    b.set(conf(2), INTERRUPT | route(21));
    b.set(comp(2), 5000);
    assert_eq!(b.alarm.deadline(), None, "the counter stands still");
    b.set(CONFIGURATION, ENABLE);
    assert_eq!(b.alarm.deadline(), Some(50_000));
    assert_eq!((b.run(4999), b.lines.edges(21)), (0, 0));
    assert_eq!((b.run(1), b.lines.edges(21)), (1, 1));
    assert_eq!(b.alarm.deadline(), None, "a turn of 64 bits never ends");
    assert!(!b.lines.is_asserted(21));
    assert_eq!(b.get(STATUS), 0, "by edge");
}

#[test]
fn linux_makes_a_tick_of_comparator_0() {
    let mut b = bench();
    b.set_low(CONFIGURATION, (ENABLE | LEGACY) as u32);
    let counter = b.get(COUNTER) as u32;
    b.set_low(conf(0), (INTERRUPT | PERIODIC | SET_VALUE | MODE_32) as u32);
    b.set_low(comp(0), counter + 400_000);
    b.set_low(comp(0), 400_000);
    assert_eq!(b.run(399_999), 0);
    assert_eq!(b.run(1), 1);
    assert_eq!((b.run(4_000_000), b.lines.edges(0)), (10, 11), "250 Hz");
    assert_eq!(b.get(comp(0)), 400_000 * 12);
    b.set_low(conf(0), (INTERRUPT | MODE_32) as u32);
    let counter = b.get(COUNTER) as u32;
    b.set_low(comp(0), counter + 10_000);
    assert_eq!((b.run(1_000_000), b.lines.edges(0)), (1, 12), "one-shot from then on");
}

#[test]
fn one_write_sets_value_and_period() {
    let mut b = bench();
    b.set(conf(1), INTERRUPT | PERIODIC | SET_VALUE | route(23));
    b.set(comp(1), 20_000);
    assert_eq!(b.get(conf(1)) & SET_VALUE, 0, "it holds for one write");
    b.set(CONFIGURATION, ENABLE);
    assert_eq!((b.run(100_000), b.lines.edges(23)), (5, 5));
    b.set(comp(1), 50_000);
    assert_eq!(b.get(comp(1)), 120_000, "the period alone");
    assert_eq!(b.run(120_000), 3, "at 120000, 170000 and 220000");
}

#[test]
fn a_level_holds_until_it_is_acknowledged() {
    let mut b = bench();
    b.set(conf(0), INTERRUPT | LEVEL | PERIODIC | SET_VALUE | route(20));
    b.set(comp(0), 30_000);
    b.set(CONFIGURATION, ENABLE);
    assert_eq!(b.run(100_000), 1, "no more while it is pending");
    assert!(b.lines.is_asserted(20));
    assert_eq!(b.get(STATUS), 1);
    b.set(STATUS, 6);
    assert!(b.lines.is_asserted(20));
    b.set(CONFIGURATION, 0);
    assert!(!b.lines.is_asserted(20), "nothing interrupts while it is disabled");
    b.set(CONFIGURATION, ENABLE);
    b.set(STATUS, 1);
    assert!(!b.lines.is_asserted(20));
    assert_eq!((b.get(STATUS), b.get(comp(0))), (0, 120_000));
    assert_eq!((b.run(20_000), b.lines.is_asserted(20)), (1, true));
    b.set(conf(0), INTERRUPT | route(20));
    assert_eq!((b.get(STATUS), b.lines.is_asserted(20)), (0, false));
}

#[test]
fn without_its_interrupt_a_level_is_status_alone() {
    let mut b = bench();
    b.set(conf(1), LEVEL | route(22));
    b.set(comp(1), 10);
    b.set(CONFIGURATION, ENABLE);
    assert_eq!((b.run(20), b.get(STATUS)), (0, 2));
    assert!(!b.lines.is_asserted(22));
    b.set(conf(1), INTERRUPT | LEVEL | route(22));
    assert!(b.lines.is_asserted(22));
}

#[test]
fn legacy_replacement_silences_pit_and_rtc() {
    let mut b = bench();
    b.legacy[0].set(true);
    b.set(CONFIGURATION, LEGACY);
    assert!(b.lines.is_asserted(0), "not before it is enabled");
    b.set(CONFIGURATION, LEGACY | ENABLE);
    assert!(!b.lines.is_asserted(0));
    b.legacy[1].pulse();
    assert_eq!(b.lines.edges(8), 0);
    b.set(conf(1), INTERRUPT | route(20));
    b.set(comp(1), 100);
    assert_eq!(b.run(100), 1);
    assert_eq!((b.lines.edges(8), b.lines.edges(20)), (1, 0), "comparator 1 is the clock's");
    b.set(CONFIGURATION, ENABLE);
    assert!(b.lines.is_asserted(0));
    b.set(CONFIGURATION, LEGACY | ENABLE);
    b.hpet.reset();
    assert!(b.lines.is_asserted(0));
}

#[test]
fn in_32_bits_the_counter_matches_at_every_turn() {
    let mut b = bench();
    b.set(comp(0), 0xffff_ffff_0000_0064);
    b.set(conf(0), INTERRUPT | MODE_32 | route(20));
    assert_eq!(b.get(comp(0)), 100);
    b.set(COUNTER, 0x7_0000_0000 + 200);
    b.set(CONFIGURATION, ENABLE);
    let turn = 1 << 32;
    assert_eq!(b.run(turn - 101), 0);
    assert_eq!(b.run(1), 1);
    assert_eq!((b.run(2 * turn), b.lines.edges(20)), (2, 3));
}

#[test]
fn missed_periods_become_one_interrupt() {
    let mut b = bench();
    b.set(conf(0), INTERRUPT | PERIODIC | SET_VALUE | MODE_32 | route(20));
    b.set(comp(0), 1000);
    b.set(CONFIGURATION, ENABLE);
    b.clock.advance(10 * 5_000_500);
    assert_eq!(b.get(comp(0)), 5_001_000);
    assert_eq!(b.lines.edges(20), 1);
}

#[test]
fn the_host_is_not_called_back_too_often() {
    for period in [0, 1, 2, 100] {
        let mut b = bench();
        b.set(conf(0), INTERRUPT | PERIODIC | SET_VALUE | route(20));
        b.set(comp(0), period);
        b.set(CONFIGURATION, ENABLE);
        assert!(b.run(10_000_000) <= 1000, "in a tenth of a second, period {period}");
    }
}

#[test]
fn a_route_that_there_is_not_does_not_read_back() {
    let mut b = bench();
    for (written, read) in [(21, 21), (2, 21), (31, 21), (23, 23), (19, 23), (24, 23), (0, 0), (11, 0)] {
        b.set(conf(0), route(written));
        assert_eq!(b.get(conf(0)) & route(31), route(read));
    }
    b.set(conf(0), u64::MAX);
    assert_eq!(b.get(conf(0)), 0x00f0_0000_0000_017e, "what does not exist reads as zero");
}

#[test]
fn a_restored_timer_goes_on() {
    let mut old = bench();
    old.set(conf(0), INTERRUPT | LEVEL | PERIODIC | SET_VALUE | route(20));
    old.set(comp(0), 30_000);
    old.set(CONFIGURATION, ENABLE | LEGACY);
    old.run(70_000);
    let saved = old.hpet.save().unwrap();
    let mut new = bench_at(Arc::clone(&old.clock));
    new.legacy[0].set(true);
    new.hpet.restore(&saved).unwrap();
    assert_eq!(new.lines.edges(0), 2, "PIT's until it is silenced, then its own");
    new.set(STATUS, 1);
    assert!(!new.lines.is_asserted(0));
    assert_eq!(new.get(COUNTER), 70_000);
    assert_eq!((new.run(20_000), new.lines.is_asserted(0)), (1, true));
}

#[test]
fn states_at_the_ends_of_time_do_no_harm() {
    for value in [0, 1, u64::from(u32::MAX), u64::MAX] {
        let mut b = bench();
        let timer = state::TimerState { configuration: value, comparator: value, period: value };
        let state = HpetState {
            configuration: 3,
            status: value,
            counter: value,
            seen: value,
            timers: [timer.clone(), timer.clone(), timer],
        };
        b.hpet.restore(&SavedState::encode(NAME, 1, &state).unwrap()).unwrap();
        b.clock.advance(u64::MAX / 2);
        b.hpet.on_timer(0);
        b.get(COUNTER);
        b.set(comp(0), value);
        b.clock.advance(u64::MAX / 2);
        b.get(STATUS);
    }
}

#[test]
fn a_reset_gives_the_state_after_power_on() {
    let places = Places { ports: &[], memory: layout::HPET_SIZE };
    let clock = Arc::new(ManualClock::default());
    let fresh = || bench_at(Arc::clone(&clock)).hpet;
    reset_gives_power_on_state(fresh, &places);
}
