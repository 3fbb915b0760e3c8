use viv_engine::time::ManualClock;

use super::*;
use crate::testing::{Alarm, Lines, Places, Requests, hostile_accesses, inb, reset_gives_power_on_state};

struct Bench {
    clock: Arc<ManualClock>,
    alarm: Arc<Alarm>,
    lines: Arc<Lines>,
    requests: Arc<Requests>,
    pm: AcpiPm,
}

fn bench() -> Bench {
    bench_at(Arc::default())
}

fn bench_at(clock: Arc<ManualClock>) -> Bench {
    let (alarm, lines) = (Arc::new(Alarm::default()), Arc::new(Lines::default()));
    let requests = Arc::new(Requests::default());
    let pm = AcpiPm::new(clock.clone(), alarm.clone(), lines.line(layout::SCI_IRQ), requests.clone());
    Bench { clock, alarm, lines, requests, pm }
}

impl Bench {
    fn inw(&mut self, port: u16) -> u16 {
        let mut data = [0; 2];
        self.pm.port_io().unwrap().read(port, &mut data);
        u16::from_le_bytes(data)
    }

    fn outw(&mut self, port: u16, value: u16) {
        self.pm.port_io().unwrap().write(port, &value.to_le_bytes());
    }

    fn timer(&mut self) -> u32 {
        let mut data = [0; 4];
        self.pm.port_io().unwrap().read(layout::PM_TIMER, &mut data);
        u32::from_le_bytes(data)
    }

    fn sci(&self) -> bool {
        self.lines.is_asserted(layout::SCI_IRQ)
    }
}

const STATUS: u16 = layout::PM1_EVENT;
const ENABLE: u16 = layout::PM1_EVENT + 2;

#[test]
fn the_timer_counts_3_579_545_ticks_a_second() {
    let mut b = bench();
    assert_eq!(b.timer(), 0);
    b.clock.advance(1_000_000_000);
    assert_eq!(b.timer(), 3_579_545);
    b.clock.advance(3_600_000_000_000);
    assert_eq!(b.timer(), (3601 * 3_579_545_u64) as u32, "modulo 2^32");
}

#[test]
fn the_power_button_interrupts_until_it_is_acknowledged() {
    let mut b = bench();
    b.pm.press_power_button();
    assert!(!b.sci());
    b.outw(ENABLE, 0x0100);
    assert!(b.sci());
    assert_eq!(b.inw(STATUS), 0x0100);
    b.outw(STATUS, 0x0001);
    assert!(b.sci());
    b.outw(STATUS, 0x0100);
    assert!(!b.sci());
    assert_eq!((b.inw(STATUS), b.inw(ENABLE)), (0, 0x0100));
}

#[test]
fn soft_off_asks_for_power_off() {
    let mut b = bench();
    assert_eq!(b.inw(layout::PM1_CONTROL), 1, "always in ACPI mode");
    let s5 = u16::from(layout::SLEEP_TYPE_S5) << 10;
    b.outw(layout::PM1_CONTROL, s5 | 1);
    assert_eq!(b.requests.take(), []);
    b.outw(layout::PM1_CONTROL, s5 | 1 << 13 | 1);
    assert_eq!(b.requests.take(), [SystemRequest::PowerOff]);
    assert_eq!(b.inw(layout::PM1_CONTROL), s5 | 1, "SLP_EN reads as zero");
    b.outw(layout::PM1_CONTROL, 1 << 10 | 1 << 13);
    assert_eq!(b.requests.take(), [], "another sleep type");
}

#[test]
fn bytes_of_registers_can_be_written() {
    let mut b = bench();
    b.pm.port_io().unwrap().write(ENABLE + 1, &[0x01]);
    assert_eq!(b.inw(ENABLE), 0x0100);
    b.pm.port_io().unwrap().write(layout::PM1_CONTROL + 1, &[layout::SLEEP_TYPE_S5 << 2 | 0x20]);
    assert_eq!(b.requests.take(), [SystemRequest::PowerOff]);
    b.pm.port_io().unwrap().write(STATUS, &[0, 0, 0x21, 0x05]);
    assert_eq!(b.inw(ENABLE), 0x0521);
}

#[test]
fn general_purpose_events_share_the_sci() {
    let mut b = bench();
    b.pm.raise_gpe(1);
    b.pm.raise_gpe(17);
    b.pm.raise_gpe(200);
    assert!(!b.sci());
    assert_eq!((inb(&mut b.pm, layout::GPE0), inb(&mut b.pm, layout::GPE0 + 2)), (2, 2));
    b.pm.port_io().unwrap().write(layout::GPE0 + 6, &[2]);
    assert!(b.sci());
    b.pm.port_io().unwrap().write(layout::GPE0, &[0xff, 0xff, 0xff, 0xff]);
    assert!(!b.sci());
    assert_eq!(inb(&mut b.pm, layout::GPE0), 0);
}

#[test]
fn the_timers_highest_bit_interrupts_when_it_changes() {
    let mut b = bench();
    b.outw(ENABLE, 1);
    let deadline = b.alarm.deadline().unwrap();
    b.clock.advance(deadline);
    b.pm.on_timer(deadline);
    assert_eq!(b.timer(), 1 << 31);
    assert!(b.sci());
    b.outw(STATUS, 1);
    assert!(!b.sci());
    assert_eq!(b.alarm.deadline(), Some(PM_CLOCK.nanos(1 << 32)));
}

#[test]
fn a_restored_event_asserts_the_sci() {
    let mut old = bench();
    old.outw(ENABLE, 0x0100);
    old.pm.press_power_button();
    let mut new = bench();
    new.pm.restore(&old.pm.save().unwrap()).unwrap();
    assert!(new.sci());
}

#[test]
fn conformance() {
    let clock = Arc::new(ManualClock::default());
    let places = Places { ports: &AcpiPm::PORTS, memory: 0 };
    let fresh = || bench_at(Arc::clone(&clock)).pm;
    hostile_accesses(fresh, &places, |nanos| {
        clock.advance(nanos);
        clock.now()
    });
    reset_gives_power_on_state(fresh, &places);
}
