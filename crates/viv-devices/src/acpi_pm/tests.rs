use viv_engine::time::ManualClock;

use super::state::AcpiPmStateV1;
use super::*;
use crate::testing::{Alarm, Lines, Places, Requests, inb, outb, reset_gives_power_on_state};

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

fn legacy_bench() -> Bench {
    let Bench { clock, alarm, lines, requests, pm } = bench();
    Bench { clock, alarm, lines, requests, pm: pm.with_legacy_mode() }
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
fn firmware_switches_off_by_sleep_type_0() {
    let mut b = bench();
    b.outw(layout::PM1_CONTROL, 0x2000);
    assert_eq!(b.requests.take(), [SystemRequest::PowerOff]);
}

#[test]
fn without_a_legacy_mode_acpi_mode_is_for_ever() {
    let mut b = bench();
    outb(&mut b.pm, layout::APM_CONTROL, layout::ACPI_DISABLE);
    b.outw(layout::PM1_CONTROL, 0);
    assert_eq!(b.inw(layout::PM1_CONTROL), 1);
}

#[test]
fn a_legacy_mode_is_left_and_entered_by_the_apm_port() {
    let mut b = legacy_bench();
    assert_eq!(b.inw(layout::PM1_CONTROL), 0);
    b.outw(ENABLE, 0x0100);
    b.pm.press_power_button();
    assert!(!b.sci(), "not in legacy mode");
    outb(&mut b.pm, layout::APM_CONTROL, layout::ACPI_ENABLE);
    assert_eq!((b.inw(layout::PM1_CONTROL), b.sci()), (1, true));
    outb(&mut b.pm, layout::APM_CONTROL + 1, layout::ACPI_DISABLE);
    assert_eq!(b.inw(layout::APM_CONTROL), 0x0302, "both read back");
    assert!(b.sci(), "the status port says nothing");
    outb(&mut b.pm, layout::APM_CONTROL, layout::ACPI_DISABLE);
    assert_eq!((b.inw(layout::PM1_CONTROL), b.sci()), (0, false));
    b.outw(layout::PM1_CONTROL, 1);
    assert!(b.sci(), "SCI_EN can be set directly");
    b.pm.reset();
    assert_eq!(b.inw(layout::PM1_CONTROL), 0);
}

#[test]
fn seabios_finds_smis_set_up() {
    let mut b = bench();
    for value in [0, u16::MAX] {
        b.outw(layout::SMI_ENABLE, value);
        assert_eq!((b.inw(layout::SMI_ENABLE), b.inw(layout::SMI_ENABLE + 2)), (0x21, 0));
    }
    assert_eq!(b.inw(layout::ACPI_PM.end - 2), 0);
}

#[test]
fn a_state_of_version_1_is_in_acpi_mode() {
    let old = AcpiPmStateV1 {
        status: 0x0100,
        enable: 0x0100,
        control: 0x1400,
        gpe_status: 1,
        gpe_enable: 2,
        timer_turns: 0,
    };
    let saved = SavedState::encode(NAME, 1, &old).unwrap();
    for mut b in [bench(), legacy_bench()] {
        b.pm.restore(&saved).unwrap();
        assert_eq!((b.inw(layout::PM1_CONTROL), b.sci()), (0x1401, true));
    }
}

#[test]
fn the_mode_is_saved() {
    let mut old = legacy_bench();
    for value in [layout::ACPI_ENABLE, layout::ACPI_DISABLE] {
        outb(&mut old.pm, layout::APM_CONTROL, value);
        let mut new = legacy_bench();
        new.pm.restore(&old.pm.save().unwrap()).unwrap();
        assert_eq!(new.inw(layout::PM1_CONTROL), u16::from(value == layout::ACPI_ENABLE));
        assert_eq!(inb(&mut new.pm, layout::APM_CONTROL), value);
    }
}

#[test]
fn a_reset_gives_the_state_after_power_on() {
    let clock = Arc::new(ManualClock::default());
    let ports = [AcpiPm::PORTS, AcpiPm::APM_PORTS].concat();
    let pm = || bench_at(Arc::clone(&clock)).pm;
    let places = Places { ports: &AcpiPm::PORTS, memory: 0 };
    reset_gives_power_on_state(pm, &places);
    let places = Places { ports: &ports, memory: 0 };
    reset_gives_power_on_state(|| pm().with_legacy_mode(), &places);
}
