use viv_engine::time::ManualClock;

use super::*;
use crate::testing::{Alarm, Places, Requests, inb, outb, reset_gives_power_on_state};

const RELOAD: u16 = layout::TCO.start;
const STATUS_1: u16 = RELOAD + 4;
const STATUS_2: u16 = RELOAD + 6;
const CONTROL: u16 = RELOAD + 8;
const INITIAL: u16 = RELOAD + 0x12;
const TIMEOUT: u16 = 1 << 3;
const SECOND_TIMEOUT: u16 = 1 << 1;

struct Bench {
    clock: Arc<ManualClock>,
    alarm: Arc<Alarm>,
    requests: Arc<Requests>,
    tco: Tco,
}

impl Bench {
    fn new() -> Self {
        let (clock, alarm) = (Arc::<ManualClock>::default(), Arc::new(Alarm::default()));
        let requests = Arc::new(Requests::default());
        let tco = Tco::new(clock.clone(), alarm.clone(), requests.clone());
        Self { clock, alarm, requests, tco }
    }

    /// One whose timer runs for so many ticks.
    fn running(ticks: u16) -> Self {
        let mut bench = Self::new();
        bench.outw(INITIAL, ticks);
        bench.outw(RELOAD, 1);
        bench.outw(CONTROL, 0);
        bench
    }

    fn inw(&mut self, port: u16) -> u16 {
        let mut data = [0; 2];
        self.tco.read(port, &mut data);
        u16::from_le_bytes(data)
    }

    fn outw(&mut self, port: u16, value: u16) {
        self.tco.write(port, &value.to_le_bytes());
    }

    /// Lets time pass, with the alarm that rings.
    fn pass(&mut self, ticks: u64) {
        self.clock.advance(ticks * TICK);
        if self.alarm.deadline().is_some_and(|deadline| deadline <= self.clock.now()) {
            self.tco.on_timer(self.clock.now());
        }
    }

    fn has_expired(&self) -> bool {
        let requests = self.requests.take();
        assert!(requests.is_empty() || requests == [SystemRequest::WatchdogExpired]);
        !requests.is_empty()
    }
}

#[test]
fn it_expires_when_the_timer_has_come_to_zero_twice() {
    let mut bench = Bench::running(10);
    assert_eq!((bench.inw(RELOAD), bench.inw(CONTROL)), (10, 0));
    bench.pass(9);
    assert_eq!((bench.inw(RELOAD), bench.inw(STATUS_1)), (1, 0));
    bench.pass(1);
    assert_eq!((bench.inw(RELOAD), bench.inw(STATUS_1), bench.has_expired()), (10, TIMEOUT, false));
    bench.pass(9);
    assert!(!bench.has_expired());
    bench.pass(1);
    assert!(bench.has_expired());
    assert_eq!((bench.inw(STATUS_2), bench.inw(CONTROL)), (SECOND_TIMEOUT, HALT));
    bench.pass(100);
    assert!(!bench.has_expired(), "once");
}

#[test]
fn it_does_not_expire_while_the_guest_starts_the_timer_anew() {
    let mut bench = Bench::running(10);
    for _ in 0..5 {
        bench.pass(19);
        bench.outw(RELOAD, 1);
    }
    assert!(!bench.has_expired());
    bench.pass(20);
    assert!(bench.has_expired());
}

#[test]
fn a_host_that_was_late_finds_both_ends_of_the_timer() {
    let mut bench = Bench::running(2);
    bench.pass(1000);
    assert!(bench.has_expired());
    assert_eq!(bench.alarm.deadline(), None);
}

#[test]
fn it_stands_still_until_it_is_let_run_and_when_it_is_halted() {
    let mut bench = Bench::new();
    assert_eq!((bench.inw(CONTROL), bench.inw(RELOAD), bench.inw(INITIAL)), (HALT, 4, 4));
    bench.pass(100);
    assert!(!bench.has_expired());
    let mut bench = Bench::running(10);
    bench.pass(3);
    outb(&mut bench.tco, CONTROL + 1, (HALT >> 8) as u8);
    bench.pass(100);
    assert_eq!((bench.inw(RELOAD), bench.alarm.deadline()), (7, None));
    outb(&mut bench.tco, CONTROL + 1, 0);
    bench.pass(6);
    assert_eq!((bench.inw(RELOAD), bench.inw(STATUS_1)), (1, 0));
}

#[test]
fn too_short_a_time_is_ignored() {
    let mut bench = Bench::new();
    for (value, kept) in [(0, 4), (1, 4), (2, 2), (0x7ff, 0x3ff), (0x400, 0x3ff)] {
        bench.outw(INITIAL, value);
        assert_eq!(bench.inw(INITIAL), kept, "{value:#x}");
    }
    assert_eq!(inb(&mut bench.tco, INITIAL + 1), 3);
    outb(&mut bench.tco, INITIAL + 1, 1);
    assert_eq!(bench.inw(INITIAL), 0x1ff, "a byte of it");
}

#[test]
fn that_it_has_expired_outlasts_a_reset_until_it_is_cleared() {
    let mut bench = Bench::running(2);
    bench.pass(4);
    bench.tco.reset();
    assert_eq!((bench.inw(STATUS_1), bench.inw(STATUS_2), bench.inw(CONTROL)), (0, SECOND_TIMEOUT, HALT));
    bench.outw(STATUS_2, SECOND_TIMEOUT);
    bench.tco.reset();
    assert_eq!(bench.inw(STATUS_2), 0);
}

#[test]
fn a_reset_gives_the_state_after_power_on() {
    let places = Places { ports: &Tco::PORTS, memory: 0 };
    reset_gives_power_on_state(|| Bench::new().tco, &places);
}

#[test]
fn it_goes_on_after_a_restore() {
    let mut before = Bench::running(10);
    before.pass(12);
    let saved = before.tco.save().unwrap();
    let mut after = Bench::new();
    after.clock.advance(before.clock.now());
    after.tco.restore(&saved).unwrap();
    assert_eq!(after.tco.save().unwrap(), saved);
    after.pass(7);
    assert!(!after.has_expired());
    after.pass(1);
    assert!(after.has_expired());
    for damaged in [
        TcoState { initial: 1, ..after.tco.state.clone() },
        TcoState { timer: TimerState::Halted(0x400), ..after.tco.state.clone() },
    ] {
        let state = SavedState::encode(NAME, TcoState::VERSION, &damaged).unwrap();
        assert!(after.tco.restore(&state).is_err());
    }
}
