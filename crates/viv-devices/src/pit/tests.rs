use viv_engine::time::ManualClock;

use super::state::Phase;
use super::*;
use crate::testing::{Alarm, Lines, Places, inb, outb, reset_gives_power_on_state};

struct Bench {
    clock: Arc<ManualClock>,
    alarm: Arc<Alarm>,
    lines: Arc<Lines>,
    pit: Pit,
}

fn bench_at(clock: Arc<ManualClock>) -> Bench {
    let (alarm, lines) = (Arc::new(Alarm::default()), Arc::new(Lines::default()));
    let pit = Pit::new(clock.clone(), alarm.clone(), lines.line(layout::PIT_IRQ));
    Bench { clock, alarm, lines, pit }
}

fn bench() -> Bench {
    bench_at(Arc::default())
}

impl Bench {
    /// Lets time pass until tick `tick`.
    fn to(&mut self, tick: u64) {
        self.clock.advance(CLOCK.nanos(tick) - self.clock.now());
    }

    /// Sets counter `channel` up in binary `mode`; it holds its full count at the next tick.
    fn start(&mut self, channel: u8, mode: u8, count: u16) {
        outb(&mut self.pit, CONTROL, (channel << 6) | 0x30 | (mode << 1));
        self.write_count(channel, count);
    }

    fn write_count(&mut self, channel: u8, count: u16) {
        let [low, high] = count.to_le_bytes();
        let port = layout::PIT + u16::from(channel);
        outb(&mut self.pit, port, low);
        outb(&mut self.pit, port, high);
    }

    fn count(&mut self, channel: u8) -> u16 {
        outb(&mut self.pit, CONTROL, channel << 6);
        let port = layout::PIT + u16::from(channel);
        u16::from_le_bytes([inb(&mut self.pit, port), inb(&mut self.pit, port)])
    }

    fn status(&mut self, channel: u8) -> u8 {
        outb(&mut self.pit, CONTROL, 0xe0 | (2 << channel));
        inb(&mut self.pit, layout::PIT + u16::from(channel))
    }

    fn out2(&mut self) -> bool {
        inb(&mut self.pit, layout::PORT_B) & 0x20 != 0
    }

    /// OUT and count of counter 2 at successive ticks from 1 on.
    fn trace(&mut self, ticks: u64) -> Vec<(bool, u16)> {
        (1..=ticks)
            .map(|tick| {
                self.to(tick);
                (self.out2(), self.count(2))
            })
            .collect()
    }

    /// Lets time pass to the alarm's deadline and rings it, up to tick `until`; returns how often.
    fn ring_until(&mut self, until: u64) -> u32 {
        let mut rings = 0;
        let end = CLOCK.nanos(until);
        while let Some(deadline) = self.alarm.deadline().filter(|&deadline| deadline <= end) {
            self.clock.advance(deadline.saturating_sub(self.clock.now()));
            self.alarm.disarm();
            self.pit.on_timer(self.clock.now());
            rings += 1;
        }
        self.clock.advance(end - self.clock.now());
        rings
    }

    fn edges(&self) -> u32 {
        self.lines.edges(layout::PIT_IRQ)
    }
}

fn gate2(b: &mut Bench, gate: bool) {
    outb(&mut b.pit, layout::PORT_B, gate.into());
}

#[test]
fn mode_0_rises_when_the_count_has_run_out_and_counts_on() {
    let mut b = bench();
    gate2(&mut b, true);
    b.start(2, 0, 3);
    assert_eq!(b.trace(5), [(false, 3), (false, 2), (false, 1), (true, 0), (true, 0xffff)]);
    b.start(2, 0, 3);
    assert!(!b.out2());
}

#[test]
fn mode_0_stands_still_while_its_gate_is_low() {
    let mut b = bench();
    gate2(&mut b, true);
    b.start(2, 0, 10);
    b.to(4);
    gate2(&mut b, false);
    b.to(100);
    assert_eq!((b.out2(), b.count(2)), (false, 7));
    gate2(&mut b, true);
    b.to(107);
    assert_eq!((b.out2(), b.count(2)), (true, 0));
}

#[test]
fn mode_1_pulses_low_when_its_gate_rises() {
    let mut b = bench();
    b.start(2, 1, 3);
    assert!(b.out2());
    gate2(&mut b, true);
    assert_eq!(b.trace(4), [(false, 3), (false, 2), (false, 1), (true, 0)]);
    gate2(&mut b, false);
    gate2(&mut b, true);
    b.to(6);
    assert!(!b.out2(), "triggered again");
}

#[test]
fn mode_2_is_low_for_one_clock_of_each_period() {
    let mut b = bench();
    gate2(&mut b, true);
    b.start(2, 2, 3);
    let period = [(true, 3), (true, 2), (false, 1)];
    assert_eq!(b.trace(6), [period, period].concat());
    gate2(&mut b, false);
    assert!(b.out2());
}

#[test]
fn mode_2_takes_a_new_count_at_the_end_of_its_period() {
    let mut b = bench();
    gate2(&mut b, true);
    b.start(2, 2, 4);
    b.to(2);
    b.write_count(2, 2);
    assert_eq!(b.status(2) & STATUS_NULL, STATUS_NULL);
    b.to(4);
    assert_eq!(b.count(2), 1);
    b.to(5);
    assert_eq!((b.count(2), b.status(2) & STATUS_NULL), (2, 0));
    b.to(6);
    assert_eq!((b.out2(), b.count(2)), (false, 1));
    b.to(7);
    assert_eq!(b.count(2), 2);
}

const STATUS_NULL: u8 = regs::STATUS_NULL_COUNT;

#[test]
fn mode_3_counts_down_by_two_in_each_half() {
    let mut b = bench();
    gate2(&mut b, true);
    b.start(2, 3, 4);
    assert_eq!(b.trace(5), [(true, 4), (true, 2), (false, 4), (false, 2), (true, 4)]);
    let mut b = bench();
    gate2(&mut b, true);
    b.start(2, 3, 5);
    assert_eq!(b.trace(6), [(true, 4), (true, 2), (true, 0), (false, 4), (false, 2), (true, 4)]);
}

#[test]
fn mode_3_takes_a_new_count_at_the_end_of_a_half() {
    let mut b = bench();
    gate2(&mut b, true);
    b.start(2, 3, 8);
    b.to(2);
    b.write_count(2, 4);
    let expected = [(true, 4), (true, 2), (false, 4), (false, 2), (true, 4), (true, 2), (false, 4)];
    let traced: Vec<_> = (3..=9)
        .map(|tick| {
            b.to(tick);
            (b.out2(), b.count(2))
        })
        .collect();
    assert_eq!(traced, expected);
}

#[test]
fn mode_4_strobes_once() {
    let mut b = bench();
    gate2(&mut b, true);
    b.start(2, 4, 2);
    assert_eq!(b.trace(4), [(true, 2), (true, 1), (false, 0), (true, 0xffff)]);
}

#[test]
fn mode_5_strobes_after_its_gate_rises() {
    let mut b = bench();
    b.start(2, 5, 2);
    b.to(10);
    gate2(&mut b, true);
    b.to(13);
    assert!(!b.out2());
    b.to(14);
    assert!(b.out2());
}

#[test]
fn counts_can_be_decimal() {
    let mut b = bench();
    gate2(&mut b, true);
    outb(&mut b.pit, CONTROL, 0xb1);
    b.write_count(2, 0x1000);
    b.to(2);
    assert_eq!(b.count(2), 0x0999);
    b.to(1002);
    assert_eq!(b.count(2), 0x9999);
}

#[test]
fn latches_hold_until_they_are_read() {
    let mut b = bench();
    b.start(0, 2, 1000);
    b.to(101);
    outb(&mut b.pit, CONTROL, 0xc2);
    b.to(201);
    outb(&mut b.pit, CONTROL, 0x00);
    assert_eq!(inb(&mut b.pit, layout::PIT), 0xb4, "OUT, both bytes, mode 2");
    let latched = u16::from_le_bytes([inb(&mut b.pit, layout::PIT), inb(&mut b.pit, layout::PIT)]);
    assert_eq!(latched, 900);
    assert_eq!(b.count(0), 800);
}

#[test]
fn one_byte_access_reads_and_writes_one_byte() {
    let mut b = bench();
    outb(&mut b.pit, CONTROL, 0x14);
    outb(&mut b.pit, layout::PIT, 100);
    b.to(11);
    assert_eq!(inb(&mut b.pit, layout::PIT), 90);
    outb(&mut b.pit, CONTROL, 0x24);
    outb(&mut b.pit, layout::PIT, 1);
    b.to(12);
    assert_eq!(inb(&mut b.pit, layout::PIT), 1);
}

#[test]
fn counter_0_interrupts_at_its_rate() {
    let mut b = bench();
    b.start(0, 2, 11932);
    let before = b.edges();
    assert_eq!(b.ring_until(1_193_182), 99);
    assert_eq!(b.edges() - before, 99, "at 100 Hz, the first after a whole period");
    b.start(0, 3, 11932);
    let before = b.edges();
    b.ring_until(2 * 1_193_182);
    assert_eq!(b.edges() - before, 99);
}

#[test]
fn counter_0_can_interrupt_once() {
    let mut b = bench();
    b.start(0, 0, 1193);
    assert_eq!((b.edges(), b.alarm.deadline()), (0, Some(CLOCK.nanos(1194))));
    assert_eq!(b.ring_until(100_000), 1);
    assert_eq!(b.edges(), 1);
    assert_eq!(b.alarm.deadline(), None);
    b.start(0, 0, 1193);
    b.ring_until(200_000);
    assert_eq!(b.edges(), 2);
}

#[test]
fn missed_interrupts_become_one() {
    let mut b = bench();
    b.start(0, 2, 1000);
    let before = b.edges();
    b.to(1_000_500);
    b.pit.on_timer(b.clock.now());
    assert_eq!(b.edges() - before, 1);
    assert_eq!(b.alarm.deadline(), Some(CLOCK.nanos(1_001_001)));
}

#[test]
fn the_host_is_not_called_back_too_often() {
    let mut b = bench();
    b.start(0, 2, 2);
    assert!(b.ring_until(119_318) <= 1000, "in a tenth of a second");
    b.start(0, 2, 1);
    assert_eq!(b.alarm.deadline(), None, "a period of one clock has no edges");
}

#[test]
fn a_new_rate_takes_over_without_a_gap() {
    let mut b = bench();
    b.start(0, 2, 5000);
    let before = b.edges();
    b.to(1000);
    b.write_count(0, 1000);
    b.ring_until(8500);
    assert_eq!(b.edges() - before, 4, "at 5001, 6001, 7001 and 8001");
}

#[test]
fn port_b_keeps_its_bits_and_shows_refresh() {
    let mut b = bench();
    outb(&mut b.pit, layout::PORT_B, 0xff);
    assert_eq!(inb(&mut b.pit, layout::PORT_B) & 0xcf, 0x0f);
    let first = inb(&mut b.pit, layout::PORT_B) & 0x10;
    b.to(18);
    assert_ne!(inb(&mut b.pit, layout::PORT_B) & 0x10, first);
}

#[test]
fn linux_can_calibrate_by_counter_2() {
    let mut b = bench();
    gate2(&mut b, true);
    outb(&mut b.pit, CONTROL, 0xb0);
    b.write_count(2, 0xffff);
    let mut last = 0xff;
    for step in 1..1000 {
        b.to(step * 50);
        inb(&mut b.pit, layout::PIT + 2);
        let high = inb(&mut b.pit, layout::PIT + 2);
        assert!(high == last || high == last - 1, "the high byte falls step by step");
        last = high;
    }
    assert!(last < 0x40);
}

#[test]
fn a_restored_timer_goes_on() {
    let mut old = bench();
    old.start(0, 2, 10_000);
    old.to(15_000);
    let saved = old.pit.save().unwrap();
    let mut new = bench_at(Arc::clone(&old.clock));
    new.pit.restore(&saved).unwrap();
    assert_eq!(new.count(0), 10_000 - 4_999);
    let before = new.edges();
    new.ring_until(20_001);
    assert_eq!(new.edges() - before, 1);
}

#[test]
fn a_state_with_no_count_is_refused() {
    let mut state = PitState { channels: power_on(), port_b: 0, seen: 0 };
    let [first, ..] = &mut state.channels;
    first.count = 0;
    let saved = SavedState::encode(NAME, PitState::VERSION, &state).unwrap();
    assert!(matches!(bench().pit.restore(&saved), Err(DeviceError::Invalid { .. })));
}

#[test]
fn a_reset_gives_the_state_after_power_on() {
    let places = Places { ports: &Pit::PORTS, memory: 0 };
    let clock = Arc::new(ManualClock::default());
    let fresh = || bench_at(Arc::clone(&clock)).pit;
    reset_gives_power_on_state(fresh, &places);
}

#[test]
fn states_at_the_ends_of_time_do_no_harm() {
    for since in [i64::MIN, -1, 0, i64::MAX - 1, i64::MAX] {
        for mode in 0..6 {
            let mut b = bench();
            b.start(0, mode, 7);
            let mut state: PitState = b.pit.save().unwrap().decode(1).unwrap();
            for channel in &mut state.channels {
                channel.phase = Phase::Counting { since };
            }
            b.pit.restore(&SavedState::encode(NAME, 1, &state).unwrap()).unwrap();
            b.write_count(0, 9);
            b.count(0);
            b.status(0);
            b.pit.on_timer(0);
        }
    }
}
